"""What the one comment says, and that nothing in it is more than words."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.model import Kind
from pool.states import Move
from tasks.order_words import VERBS, parse
from tasks.report import MAX_WORDS, Count, Row, View, mark, plain, question, render
from tasks.report_view import MOST_ROWS, view_of
from tests.helpers.desk import Desk
from tests.helpers.fake_writer import REPO
from tests.pool import drive

AT = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ROW = Row(task=41, what="review", who="rev-alpha", state="succeeded", since=AT, took_s=75.0, why="approved")


def view(**changes: Any) -> View:
    return View(**{"repo": REPO, "number": 7, "now": "", "rows": (), **changes})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.close()


def seen(desk: Desk, number: int = 7) -> View:
    with desk.store.reading() as tx:
        return view_of(tx, desk.settings, REPO, number)


# --- words ---------------------------------------------------------------------------------------


@given(st.text())
def test_whatever_an_agent_says_is_one_line_of_bounded_length(text: str) -> None:
    said = plain(text)

    assert said.isprintable() or "\N{WORD JOINER}" in said
    assert "\n" not in said
    assert len(said.replace("\\", "").replace("\N{WORD JOINER}", "")) <= MAX_WORDS


def test_long_words_are_cut_and_it_shows() -> None:
    assert plain("x" * 1000) == "x" * (MAX_WORDS - 1) + "…"


@pytest.mark.parametrize(
    "text",
    [
        "@ada please look",
        "see #12",
        "see !12",
        "acme/other#3",
        "https://evil.example/x",
        "WWW.evil.example",
        "fixes #4 and closes #5",
    ],
)
def test_nobody_is_called_and_nothing_is_linked_by_words_of_others(text: str) -> None:
    said = plain(text).replace("\\", "")

    for mark_ in ("@a", "#1", "#3", "#4", "#5", "!1", "://", "www.", "WWW."):
        assert mark_ not in said
    assert said.replace("\N{WORD JOINER}", "") == text


@pytest.mark.parametrize("char", "\\`*_{}[]<>()+!|~$^&-")
def test_markup_is_shown_and_not_obeyed(char: str) -> None:
    assert plain(f"a{char}b") == f"a\\{char}b"


def test_a_summary_cannot_leave_its_cell_nor_end_the_comment() -> None:
    words = f"x | y\n\n# Big\n{mark('report:acme/shop#7')} </details> | z"
    table = render(view(rows=(Row(**{**_fields(ROW), "why": words}),))).splitlines()

    [line] = [line for line in table if "Big" in line]
    assert line.replace("\\|", "").count("|") == 7
    assert "<" not in line.replace("\\<", "")


def test_a_summary_gives_no_orders() -> None:
    assert parse(render(view(now="/forgepool cancel", rows=(ROW,), held_by="x\n/forgepool go"))) == ()


def _fields(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


# --- what it says --------------------------------------------------------------------------------


def test_a_report_says_how_things_stand_and_what_a_person_can_do() -> None:
    text = render(
        view(
            now="task 41 (review) runs on rev-alpha",
            rows=(ROW,),
            more=3,
            merge="waits in the lane of main",
            ahead=(8, 9),
            held_by="ada",
            others=(12,),
            asked="it was tried 3 times",
            counts=(Count(what="tasks", used=3, cap=30), Count(what="rebases", used=0, cap=3)),
        )
    )

    for words in (
        r"task 41 \(review\) runs on rev\-alpha",
        "| 41 | review | rev-alpha | succeeded | 1 min | approved |",
        "3 earlier",
        "Merge: waits in the lane of main, after #8, #9.",
        "Held by ada",
        "See also #12.",
        "it was tried 3 times",
        "3 of 30 tasks.",
    ):
        assert words in text
    assert all(f"`/forgepool {verb}" in text for verb in VERBS)
    assert "rebases" not in text


def test_what_runs_began_at_a_time_so_that_the_same_is_said_later() -> None:
    row = Row(**{**_fields(ROW), "state": "running", "took_s": None})

    assert "since 2026-01-05 09:00 UTC" in render(view(rows=(row,)))


def test_a_question_names_the_person_and_the_pull_request() -> None:
    text = question(person="ada", sentence="it was tried 3 times.", pull=8)

    assert text.startswith("@ada ")
    assert "#8" in text
    assert "times.\n" in text
    assert "/forgepool retry" in text


# --- what is read --------------------------------------------------------------------------------


def test_the_report_tells_first_what_runs_and_what_waits(desk: Desk) -> None:
    drive.dispatch(desk.store, repo=REPO, number=7)
    drive.dispatch(desk.store, repo=REPO, number=7, kind=Kind.CUSTOM)
    drive.claim(desk.store, "dev-alpha")

    now = seen(desk).now
    assert "(implement) runs on dev-alpha since 2026-01-05 09:00 UTC" in now
    assert "(custom) waits for dev-alpha" in now


def test_when_nothing_is_under_way_the_report_tells_the_last_decision(desk: Desk) -> None:
    with desk.store.writing() as tx:
        tx.tell(REPO, 7, source="look", what="blocked", why="it depends on #3")
        tx.tell(REPO, 7, source="effect", what="close given up", why="no")

    assert seen(desk).now == "it depends on #3"


def test_the_newest_tasks_are_shown_and_the_others_counted(desk: Desk) -> None:
    for _ in range(MOST_ROWS + 2):
        drive.dispatch(desk.store, repo=REPO, number=7)
        drive.serve(desk.store, "dev-alpha")

    shown = seen(desk)
    assert (len(shown.rows), shown.more) == (MOST_ROWS, 2)
    assert [row.task for row in shown.rows] == sorted(row.task for row in shown.rows)
    assert shown.rows[-1].why == "as the test says"


def test_links_of_a_merge_are_told_by_their_lane(desk: Desk) -> None:
    drive.dispatch(desk.store, "boss", repo=REPO, number=8, kind=Kind.MERGE)
    desk.enter(9)
    desk.enter(10, base="other")
    desk.enter(8)

    shown = seen(desk, 8)
    assert shown.rows == ()
    assert (shown.merge, shown.ahead) == ("waits in the lane of main", (9,))
    assert seen(desk, 9).merge == "is being merged into main"


def test_an_issue_and_its_pull_requests_name_each_other(desk: Desk) -> None:
    desk.link(8, 7)

    assert (seen(desk, 7).others, seen(desk, 8).others) == ((8,), (7,))


def test_the_report_tells_what_is_counted_and_what_a_person_was_asked(desk: Desk) -> None:
    drive.dispatch(desk.store, repo=REPO, number=7)
    run = drive.claim(desk.store, "dev-alpha")
    with desk.store.writing() as tx:
        tx.note_agent(run.task.id, fence=run.fence, pid=1, started=1.0)
    drive.finish(desk.store, run, Move.FAIL)
    desk.owe("ask", key=f"ask:tries:{REPO}#7:0", cause="tries", sentence="it was tried 3 times", pull=None)

    shown = seen(desk)
    assert [(count.what, count.used) for count in shown.counts][:2] == [("tasks", 1), ("tasks within a day", 1)]
    assert shown.asked == "it was tried 3 times"


def test_a_question_that_a_person_has_acted_upon_is_not_repeated(desk: Desk) -> None:
    desk.owe("ask", key=f"ask:tries:{REPO}#7:0", cause="tries", sentence="it was tried 3 times", pull=None)
    desk.wait(10)
    with desk.store.writing() as tx:
        tx.reset_caps(REPO, 7)

    assert seen(desk).asked is None
    desk.owe("ask", 8, key=f"ask:fix-ci:{REPO}#8:1", cause="fix-ci", sentence="checks still fail", pull=None)
    desk.link(8, 7)
    assert seen(desk).asked == "checks still fail"
