"""What the workflow watches: work on an issue and its pull requests, looks, holds, orders, the trail, polls."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from pool.lanes import MergeState
from pool.model import Evidence, Kind
from pool.schema_work import orders
from pool.states import Move, State
from pool.store import Store, Tx, watch
from pool.work import Look, Poll, Work
from tests.helpers.clock import Clock
from tests.helpers.factory import make_request
from tests.pool import drive

REPO = "acme/shop"
ISSUE, PULL, OTHER = 7, 8, 9


@pytest.fixture(autouse=True)
def _somebody_works(store: Store) -> None:
    drive.add(store, "dev-alpha")


def _work(store: Store, number: int = ISSUE, repo: str = REPO) -> Work:
    with store.reading() as tx:
        return tx.work(repo, number)


def _link(store: Store, *pulls: int, issue: int = ISSUE) -> None:
    with store.writing() as tx:
        for pull in pulls:
            tx.note_work(REPO, pull, issue=issue)


def _run(store: Store, number: int = ISSUE, *, ran: bool = True, move: Move = Move.SUCCEED, **options: Any) -> int:
    """Run a task from queue to end."""
    drive.dispatch(store, number=number, **{"kind": Kind.CUSTOM, **options})
    run = drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        if ran:
            tx.note_agent(run.task.id, fence=run.fence, pid=1, started=0.5)
        tx.finish(run.task.id, move, fence=run.fence, evidence=Evidence(head_before="a", head_after="b"), why="as said")
    return run.task.id


def _wish(store: Store, why: str, after_s: float = 0.0, number: int = ISSUE) -> None:
    with store.writing() as tx:
        tx.look_later(REPO, number, why=why, after_s=after_s)


def _due(store: Store, **options: Any) -> list[tuple[int, str]]:
    with store.reading() as tx:
        return [(look.number, look.why) for look in tx.due_looks(**options)]


@contextmanager
def _looking(store: Store, number: int = ISSUE) -> Iterator[None]:
    """Make a look: what happens meanwhile happens within."""
    with store.writing() as tx:
        tx.begin_look(REPO, number)
    yield
    with store.writing() as tx:
        tx.end_look(REPO, number)


# --- what is known -------------------------------------------------------------------------------


def test_nothing_is_known_of_what_was_never_seen(store: Store) -> None:
    assert _work(store) == Work(repo=REPO, number=ISSUE)
    assert _work(store, repo="acme/other", number=1) == Work(repo="acme/other", number=1)


def test_what_is_noted_is_added_to_what_is_known(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        tx.note_work(REPO, PULL, issue=ISSUE, head_sha="f00", head_since=clock.now)
        tx.note_work(REPO, PULL, unmergeable_since=clock.now, unmergeable_at="f00 ba5e")
        tx.note_work(REPO, PULL, head_sha="f01")

    found = _work(store, PULL)
    assert (found.issue, found.head_sha, found.head_since) == (ISSUE, "f01", clock.now)
    assert (found.unmergeable_since, found.unmergeable_at, found.looked_at) == (clock.now, "f00 ba5e", None)


def test_work_of_the_same_number_in_two_repositories_is_not_mixed_up(store: Store) -> None:
    _run(store)
    with store.writing() as tx:
        tx.note_work("acme/other", PULL, issue=ISSUE)
        tx.hold("acme/other", ISSUE, by="ada")

    assert _work(store, repo="acme/other").chain == 0
    assert (_work(store).held_by, _work(store).chain) == (None, 1)
    with store.reading() as tx:
        assert (tx.family(REPO, ISSUE), tx.family("acme/other", PULL)) == ([ISSUE], [ISSUE, PULL])


def test_an_issue_and_its_pull_requests_are_one_family_whichever_is_named(store: Store) -> None:
    _link(store, PULL, OTHER)
    _link(store, 20, issue=19)

    with store.reading() as tx:
        assert [tx.family(REPO, number) for number in (ISSUE, PULL, OTHER, 20, 3)] == [
            *([[ISSUE, PULL, OTHER]] * 3),
            [19, 20],
            [3],
        ]


def test_past_tells_every_task_of_the_number_oldest_first(store: Store, clock: Clock) -> None:
    _link(store, PULL)
    began = clock.now
    first = _run(store, PULL, head_sha="abcdef0", rule="fix-ci")
    _run(store, ISSUE)
    clock.advance(5)
    second = drive.dispatch(store, number=PULL, kind=Kind.REVIEW).task

    past = _work(store, PULL).past

    assert [task.id for task in past] == [first, second]
    assert [(task.kind, task.type, task.number, task.state) for task in past] == [
        (Kind.CUSTOM, "dev", PULL, State.SUCCEEDED),
        (Kind.REVIEW, "dev", PULL, State.QUEUED),
    ]
    assert (past[0].head_sha, past[0].head_before, past[0].head_after) == ("abcdef0", "a", "b")
    assert (past[1].head_sha, past[1].head_before, past[1].head_after) == (None, None, None)
    assert [(task.agent_ran, task.by_hand, task.is_live) for task in past] == [
        (True, False, False),
        (False, True, True),
    ]
    assert (past[0].reason, past[0].created_at, past[0].started_at, past[0].finished_at) == ("as said", *[began] * 3)
    assert _work(store, PULL).live == (past[1],)


def test_thousands_of_links_of_merges_push_no_task_out_of_the_past(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MOST", 3)
    monkeypatch.setattr(watch, "_MOST_LINKS", 2)
    fixes = [_run(store, PULL, kind=Kind.FIX_CI) for _ in range(4)]
    links = [_run(store, PULL, kind=Kind.MERGE, ran=False) for _ in range(5)]

    assert [task.id for task in _work(store, PULL).past] == [*fixes[1:], *links[3:]]


def test_only_what_had_an_agent_counts_and_counts_for_the_whole_family(store: Store, clock: Clock) -> None:
    _link(store, PULL, OTHER)
    for number in (ISSUE, PULL, PULL, OTHER):
        _run(store, number)
    _run(store, PULL, ran=False, move=Move.FAIL)
    _run(store, 20)
    clock.advance(watch.DAY.total_seconds() + 1)
    _run(store, PULL)

    assert [(_work(store, number).chain, _work(store, number).today) for number in (ISSUE, PULL, OTHER)] == [(5, 1)] * 3
    assert (_work(store, 20).chain, _work(store, 20).today) == (1, 0)


def test_a_task_of_exactly_a_day_ago_is_of_today(store: Store, clock: Clock) -> None:
    _run(store)
    clock.advance(watch.DAY.total_seconds())
    assert _work(store).today == 1

    clock.advance(1e-6)

    assert _work(store).today == 0


def test_the_entries_in_lanes_are_told_oldest_first_with_the_open_one(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        first = tx.enter_lane(REPO, "main", PULL, head_sha="a", approved_at=clock.now)
        tx.end_merge(first.id, MergeState.REFUSED, reason="red")
        second = tx.enter_lane(REPO, "main", PULL, head_sha="b", approved_at=clock.now)
        tx.enter_lane(REPO, "main", OTHER, head_sha="c", approved_at=clock.now)

    found = _work(store, PULL)
    assert [merge.id for merge in found.merges] == [first.id, second.id]
    assert found.open_merge == second


# --- what people want ----------------------------------------------------------------------------


def test_a_hold_of_an_issue_holds_its_pull_requests_but_not_the_other_way_round(store: Store) -> None:
    _link(store, PULL, OTHER)
    with store.writing() as tx:
        tx.hold(REPO, ISSUE, by="ada")
        tx.hold(REPO, OTHER, by="bob")
        tx.unhold(REPO, PULL)
        asked = [tx.held_by(REPO, number) for number in (ISSUE, PULL, OTHER, 20)]

    assert [_work(store, number).held_by for number in (ISSUE, PULL, OTHER, 20)] == ["ada", "ada", "bob", None]
    assert asked == ["ada", "ada", "bob", None]
    with store.writing() as tx:
        assert [tx.unhold(REPO, number) for number in (ISSUE, ISSUE, PULL, 20)] == [True, False, False, False]
    assert [_work(store, number).held_by for number in (ISSUE, PULL, OTHER)] == [None, None, "bob"]


def test_from_a_reset_on_the_whole_family_is_counted_anew(store: Store, clock: Clock) -> None:
    _link(store, PULL, OTHER)
    for number in (ISSUE, PULL, 20):
        _run(store, number)
    clock.advance(10)
    with store.writing() as tx:
        tx.reset_caps(REPO, PULL)
        at_once = make_request(number=OTHER)
        tx.submit("dev", at_once, by="test")
    clock.advance(10)
    _run_what_waits(store)

    found = {number: _work(store, number) for number in (ISSUE, PULL, OTHER)}
    assert [(work.chain, work.today) for work in found.values()] == [(1, 1)] * 3
    assert [len(work.past) for work in found.values()] == [0, 0, 1]
    assert {work.reset_at for work in found.values()} == {clock.now - timedelta(seconds=10)}
    assert (_work(store, 20).chain, _work(store, 20).reset_at) == (1, None)


def _run_what_waits(store: Store) -> None:
    run = drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        tx.note_agent(run.task.id, fence=run.fence, pid=1, started=0.5)
    drive.finish(store, run)


def test_a_reset_counts_for_a_pull_request_that_is_opened_after_it(store: Store, clock: Clock) -> None:
    """One that was opened after a person had acted was over its caps at once, by all that had been before."""
    for _ in range(3):
        _run(store)
    clock.advance(10)
    with store.writing() as tx:
        tx.reset_caps(REPO, ISSUE)
    reset = clock.now
    clock.advance(10)
    _run(store)

    _link(store, PULL)

    assert [(_work(store, number).chain, _work(store, number).reset_at) for number in (ISSUE, PULL)] == [(1, reset)] * 2


def test_a_reset_stays_with_a_pull_request_that_turns_out_to_be_for_another_issue(store: Store, clock: Clock) -> None:
    _link(store, PULL)
    _run(store, PULL)
    clock.advance(1)
    with store.writing() as tx:
        tx.reset_caps(REPO, ISSUE)

    _link(store, PULL, issue=19)

    assert (_work(store, PULL).chain, _work(store, PULL).reset_at) == (0, clock.now)


def test_what_waits_is_in_the_past_although_it_is_older_than_the_reset(store: Store, clock: Clock) -> None:
    _run(store)
    waits = drive.dispatch(store, number=ISSUE).task
    clock.advance(1)

    with store.writing() as tx:
        tx.reset_caps(REPO, ISSUE)

    assert [task.id for task in _work(store).past] == [waits]


def test_a_person_was_asked_for_the_family_until_somebody_acts(store: Store, clock: Clock) -> None:
    _link(store, PULL)
    _ask(store, "chain", ISSUE)
    _ask(store, "tries", PULL)
    with store.writing() as tx:
        tx.owe("reply:1", "reply", repo=REPO, number=ISSUE, type_name="dev")
        tx.owe("ask:other:x", "ask", repo=REPO, number=20, type_name="dev")
    assert [_work(store, number).asked for number in (ISSUE, PULL)] == [{"chain", "tries"}] * 2

    clock.advance(1)
    with store.writing() as tx:
        tx.reset_caps(REPO, PULL)
    assert [_work(store, number).asked for number in (ISSUE, PULL)] == [frozenset()] * 2

    clock.advance(1)
    _ask(store, "chain", ISSUE, reset=1)
    assert [_work(store, number).asked for number in (ISSUE, PULL)] == [{"chain"}] * 2
    assert _work(store, 20).asked == {"other"}


def _ask(store: Store, cause: str, number: int, *, reset: int = 0) -> None:
    with store.writing() as tx:
        key = f"ask:{cause}:{REPO}#{number}:{reset}"
        assert tx.owe(key, "ask", repo=REPO, number=number, type_name="dev")


# --- looks ---------------------------------------------------------------------------------------


def test_looks_are_due_when_their_time_comes_longest_first(store: Store, clock: Clock) -> None:
    for number, after_s in ((ISSUE, 10), (PULL, 5), (OTHER, 5), (20, 11)):
        _wish(store, "poll", after_s, number)
    assert _due(store) == []

    clock.advance(10)

    assert _due(store) == [(PULL, "poll"), (OTHER, "poll"), (ISSUE, "poll")]
    assert _due(store, limit=2) == [(PULL, "poll"), (OTHER, "poll")]
    with store.reading() as tx:
        assert tx.due_looks(limit=1) == [Look(repo=REPO, number=PULL, why="poll", tries=0)]
        assert tx.watched(REPO) == [ISSUE, PULL, OTHER, 20]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("task", 5), ("order", 9), (5, "task")),
        (("task", 9), ("order", 5), (5, "order")),
        (("task", 5), ("order", 5), (5, "task")),
        # Found is only what nobody told.
        (("webhook", 9), ("poll", 5), (5, "webhook")),
        (("poll", 5), ("webhook", 9), (5, "webhook")),
        (("poll", 9), ("webhook", 5), (5, "webhook")),
        # That it was to be looked at again anyway tells nothing.
        (("again", 9), ("poll", 5), (5, "poll")),
        (("poll", 5), ("again", 9), (5, "poll")),
        (("again", 5), ("poll", 9), (5, "again")),
    ],
)
def test_of_two_wishes_the_earlier_time_counts(
    store: Store, clock: Clock, first: tuple[str, float], second: tuple[str, float], expected: tuple[float, str]
) -> None:
    _wish(store, *first)
    _wish(store, *second)
    due_after_s, why = expected

    clock.advance(due_after_s - 1)
    assert _due(store) == []
    clock.advance(1)
    assert _due(store) == [(ISSUE, why)]


def test_a_look_that_is_made_is_off_the_list(store: Store, clock: Clock) -> None:
    _wish(store, "webhook")

    with _looking(store):
        assert _due(store) == []

    clock.advance(1e6)
    assert _due(store) == []
    assert _work(store).looked_at == clock.now - timedelta(seconds=1e6)


@pytest.mark.parametrize("after_s", [0.0, watch.SAFETY_S + 1])
def test_what_is_wished_while_it_is_looked_at_is_another_look(store: Store, clock: Clock, after_s: float) -> None:
    _wish(store, "poll")

    with _looking(store):
        _wish(store, "webhook", after_s)

    clock.advance(after_s)
    assert _due(store) == [(ISSUE, "webhook")]


def test_a_look_whose_process_was_killed_is_made_again(store: Store, clock: Clock) -> None:
    _wish(store, "webhook")
    with store.writing() as tx:
        tx.begin_look(REPO, ISSUE)

    clock.advance(watch.SAFETY_S - 1)
    assert _due(store) == []
    clock.advance(1)
    assert _due(store) == [(ISSUE, "again")]


def test_a_wish_for_the_reason_of_a_killed_look_outlives_the_end_of_the_next(store: Store, clock: Clock) -> None:
    """Its reason was once the mark that the end of a look takes away, and the wish with it."""
    with store.writing() as tx:
        tx.begin_look(REPO, ISSUE)
    clock.advance(watch.SAFETY_S)
    (killed,) = _due(store)

    with _looking(store):
        _wish(store, killed[1], 1.0)

    clock.advance(1)
    assert _due(store) == [killed]


def test_a_look_that_failed_is_made_again_for_the_same_reason_and_counted_until_one_does_not(
    store: Store, clock: Clock
) -> None:
    _wish(store, "webhook")
    for tries in range(3):
        with store.writing() as tx:
            assert tx.due_looks() == [Look(repo=REPO, number=ISSUE, why="webhook", tries=tries)]
            tx.begin_look(REPO, ISSUE)
            tx.fail_look(REPO, ISSUE, why="webhook", after_s=5)
            assert tx.due_looks() == []
        clock.advance(5)

    with _looking(store):
        _wish(store, "poll")

    with store.reading() as tx:
        assert tx.due_looks() == [Look(repo=REPO, number=ISSUE, why="poll", tries=0)]


# --- orders --------------------------------------------------------------------------------------


def _order(tx: Tx, **values: Any) -> int | None:
    about = {"repo": REPO, "number": ISSUE, "comment": 1, "line": 0, "verb": "retry", "argument": "", "by": "ada"}
    return tx.take_order(**{**about, "delivery": None, **values})


def test_a_line_of_a_comment_is_one_order_however_often_it_is_told(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        taken = [_order(tx, comment=1), _order(tx, comment=1, line=2), _order(tx, comment=2), _order(tx, repo="a/b")]
        assert None not in taken
        assert [_order(tx, comment=1), _order(tx, comment=1, line=2, verb="hold")] == [None, None]
        assert tx.end_order(taken[0] or 0, answer="done")
        assert _order(tx, comment=1) is None
        first, *_ = tx.list_orders(REPO, ISSUE)

    assert (first.id, first.verb, first.by, first.created_at) == (taken[0], "retry", "ada", clock.now)
    assert (first.done_at, first.answer) == (clock.now, "done")


def test_orders_are_due_oldest_first_until_they_are_carried_out(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        one = _order(tx, line=1, number=PULL) or 0
        two, three = (_order(tx, line=line) or 0 for line in (2, 3))
        tx.postpone_order(one, after_s=5)
        assert [order.id for order in tx.due_orders()] == [two, three]
        assert [order.id for order in tx.due_orders(limit=1)] == [two]
        assert [tx.end_order(two, answer="yes"), tx.end_order(two, answer="no")] == [True, False]
        tx.answer_order(two, answer="yes, indeed")
    clock.advance(5)

    with store.reading() as tx:
        assert [order.id for order in tx.due_orders()] == [one, three]
        assert [order.answer for order in tx.list_orders(REPO, ISSUE)] == ["yes, indeed", ""]


def test_orders_about_one_thing_wait_for_the_first_of_them(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        hold = _order(tx, line=1, verb="hold") or 0
        go, elsewhere = _order(tx, line=2, verb="go"), _order(tx, line=3, verb="go", number=PULL)
        tx.postpone_order(hold, after_s=5)
        assert [order.id for order in tx.due_orders()] == [elsewhere]
        assert tx.end_order(hold, answer="given up")
        assert [order.id for order in tx.due_orders()] == [go, elsewhere]


def test_an_order_that_was_carried_out_is_not_put_off(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        order = _order(tx) or 0
        tx.end_order(order, answer="done")
    clock.advance(1)

    with store.writing() as tx:
        tx.postpone_order(order, after_s=60)

        assert tx.due_orders() == []
        due = tx.connection.scalar(select(orders.c.due_at))
    assert due == clock.now - timedelta(seconds=1)


# --- the trail -----------------------------------------------------------------------------------


def _tell(store: Store, why: str, *, what: str = "wait", source: str = "look", number: int = ISSUE) -> bool:
    with store.writing() as tx:
        return tx.tell(REPO, number, source=source, what=what, why=why)


def test_the_trail_tells_what_changed_and_nothing_twice_in_a_row(store: Store) -> None:
    said = [
        *(_tell(store, "a"), _tell(store, "a"), _tell(store, "b"), _tell(store, "a")),
        # Of each source and each number for itself.
        *(_tell(store, "a", source="merge"), _tell(store, "a"), _tell(store, "a", number=PULL), _tell(store, "a")),
        _tell(store, "a", what="start"),
    ]

    assert said == [True, False, True, True, True, False, True, False, True]


def test_the_newest_lines_about_some_numbers_are_told_oldest_first(store: Store) -> None:
    for i in range(4):
        _tell(store, str(i), number=ISSUE if i % 2 else PULL)
    _tell(store, "of another", number=OTHER)

    with store.reading() as tx:
        assert [line.why for line in tx.list_trail(REPO, [ISSUE, PULL, PULL])] == ["0", "1", "2", "3"]
        assert [line.why for line in tx.list_trail(REPO, [ISSUE, PULL], limit=2)] == ["2", "3"]
        assert tx.list_trail(REPO, []) == []


def test_a_line_that_is_too_long_is_cut_and_still_not_told_twice(store: Store) -> None:
    long = "x" * (watch.MAX_WHY + 1)

    assert (_tell(store, long), _tell(store, long)) == (True, False)
    with store.reading() as tx:
        assert [len(line.why) for line in tx.list_trail(REPO, [ISSUE])] == [watch.MAX_WHY]


# --- polls ---------------------------------------------------------------------------------------


def test_how_far_a_repository_was_asked_is_known_by_repository(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        assert tx.poll(REPO) == Poll(repo=REPO)
        tx.note_poll(REPO, error="away")
        tx.note_poll("acme/other", polled_at=clock.now)
        tx.note_poll(REPO, polled_at=clock.now, comments_since=clock.now, error="")

    with store.reading() as tx:
        assert tx.poll(REPO) == Poll(repo=REPO, polled_at=clock.now, comments_since=clock.now)
        assert [poll.repo for poll in tx.list_polls()] == ["acme/other", REPO]
