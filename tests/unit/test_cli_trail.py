"""`forgepool trail`: the story of an issue, in the order in which it happened."""

from pathlib import Path

import pytest

from pool.lanes import MergeState, Refusal
from pool.model import Evidence, Kind, Request
from pool.states import Move, Verdict
from pool.store import Claim, Store, Tx
from tests.helpers.clock import Clock
from tests.helpers.config import Deployment
from tests.helpers.stores import open_fast
from webapp.cli import trail
from webapp.cli.trail import Line, lines

REPO = "acme/shop"
HEAD, MERGED = "c0ffee" + "0" * 34, "5eed" + "0" * 36


def delivery(tx: Tx, number: int, event: str, verdict: Verdict = Verdict.ACCEPTED, reason: str = "it was") -> int:
    """Note a delivery about an issue or pull request."""
    return tx.add_delivery(
        source="forgejo",
        signed=True,
        repo=REPO,
        number=number,
        sender="ana",
        event_type=event,
        action="assigned",
        verdict=verdict,
        status=200,
        reason=reason,
        rule="issue-assigned" if verdict is Verdict.ACCEPTED else None,
    )


def work(store: Store, clock: Clock, number: int, kind: Kind, receipt: int | None = None) -> None:
    """Let dev-alpha do a task."""
    with store.writing() as tx:
        request = Request(kind=kind, repo=REPO, number=number)
        rule = "issue-assigned" if receipt else None
        tx.submit("dev", request, by="webhook", rule=rule, delivery=receipt)
    clock.advance(1)
    with store.writing() as tx:
        claim = tx.claim("dev-alpha", lease_s=60)
        assert isinstance(claim, Claim)
    clock.advance(300)
    with store.writing() as tx:
        evidence = Evidence(exit_code=0, head_before="0" * 40, head_after=HEAD)
        tx.finish(claim.task.id, Move.SUCCEED, fence=claim.fence, evidence=evidence, why="pushed\nand opened #8")


def story(store: Store, clock: Clock) -> None:
    """Let issue 7 be done by pull request 8, with everything that can happen on the way."""
    with store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        receipt = delivery(tx, 7, "issue_assign")
        delivery(tx, 9, "issue_assign", reason="another story")
    work(store, clock, 7, Kind.IMPLEMENT, receipt)
    clock.advance(1)
    with store.writing() as tx:
        tx.note_work(REPO, 8, issue=7)
        delivery(tx, 8, "pull_request", Verdict.IGNORED, "no rule asks for it")
        tx.tell(REPO, 8, source="look", what="ask-review", why="nobody has approved the head")
        tx.tell(REPO, 7, source="look", what="busy", why="task 1 runs")
        tx.owe("request-review:8", "request-review", repo=REPO, number=8, type_name="boss")
    clock.advance(5)
    with store.writing() as tx:
        (owed,) = tx.owed_effects()
        tx.note_effect(owed)
        order = tx.take_order(
            repo=REPO, number=7, comment=3, line=0, verb="to", argument="dev", by="bea", delivery=None
        )
        assert order is not None
        tx.end_order(order, answer="handed to dev")
    clock.advance(5)
    with store.writing() as tx:
        merge = tx.enter_lane(REPO, "main", 8, head_sha=HEAD, approved_at=tx.now)
        tx.next_in_lane(REPO, "main")
    clock.advance(5)
    with store.writing() as tx:
        tx.end_merge(merge.id, MergeState.MERGED, reason=f"merged as {MERGED[:10]}", merge_sha=MERGED)


@pytest.fixture
def told(store: Store, clock: Clock) -> list[Line]:
    """Return the story."""
    story(store, clock)
    return lines(store, REPO, 7)


def texts(told: list[Line]) -> list[str]:
    """Return what was told, in short."""
    return [f"{line.source} #{line.number} {line.text}" for line in told]


def test_everything_that_happened_is_told_in_its_order(told: list[Line]) -> None:
    assert texts(told) == [
        "delivery #7 issue_assign assigned by ana: accepted by rule issue-assigned: it was",
        "task #7 implement on dev-alpha (the only candidate), rule issue-assigned",
        "task #7 started on dev-alpha",
        "task #7 succeeded, head now c0ffee0000: pushed and opened #8",
        "delivery #8 pull_request assigned by ana: ignored: no rule asks for it",
        "look #8 ask-review: nobody has approved the head",
        "look #7 busy: task 1 runs",
        "order #7 bea says /forgepool to dev",
        "order #7 /forgepool to dev done: handed to dev",
        "effect #8 request-review as boss written",
        "merge #8 enters the lane of main, approved at c0ffee0000",
        "merge #8 merged as 5eed000000",
    ]


def test_the_pull_request_tells_the_same_story_as_its_issue(store: Store, told: list[Line]) -> None:
    assert lines(store, REPO, 8) == told


def test_what_the_trail_repeats_of_a_row_is_told_once(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        merge = tx.enter_lane(REPO, "main", 7, head_sha=HEAD, approved_at=tx.now)
        tx.tell(REPO, 7, source="merge", what="queued", why="look: approved")
        tx.tell(REPO, 7, source="merge", what="check", why="open, approved, green")
    clock.advance(1)
    with store.writing() as tx:
        tx.owe("labels:7", "labels", repo=REPO, number=7, type_name="boss")
        tx.fail_effect(tx.owed_effects()[0], error="no", after_s=None)
        tx.tell(REPO, 7, source="effect", what="labels given up", why="no")
        tx.end_merge(merge.id, MergeState.MERGED, reason="done")
        tx.tell(REPO, 7, source="merge", what="merged", why="done")

    assert texts(lines(store, REPO, 7)) == [
        "merge #7 enters the lane of main, approved at c0ffee0000",
        "merge #7 check: open, approved, green",
        "merge #7 merged: done",
        "effect #7 labels as boss given up: no",
    ]


def test_of_one_moment_the_cause_is_told_before_what_it_caused(store: Store) -> None:
    with store.writing() as tx:
        tx.note_work(REPO, 8, issue=7)
        tx.owe("report:7", "report", repo=REPO, number=7, type_name="boss")
        tx.submit("dev", Request(kind=Kind.REBASE, repo=REPO, number=7), by="look")
        tx.tell(REPO, 8, source="look", what="rebase", why="it conflicts")
        delivery(tx, 8, "pull_request")

    assert [line.source for line in lines(store, REPO, 7)] == ["delivery", "look", "task", "effect"]


def test_the_short_form_leaves_out_what_went_without_saying(store: Store, told: list[Line]) -> None:
    short = lines(store, REPO, 7, short=True)

    assert [line for line in told if line not in short] == [
        line for line in told if line.text == "started on dev-alpha" or "ignored" in line.text or "busy" in line.text
    ]
    assert len(told) - len(short) == 3


def test_what_is_owed_given_up_or_in_a_lane_is_told_as_it_stands(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        for kind in ("report", "labels"):
            tx.owe(f"{kind}:7", kind, repo=REPO, number=7, type_name="boss")
        report, labels = tx.owed_effects()
        tx.fail_effect(report, error="the forge is away", after_s=60)
        tx.fail_effect(labels, error="no such label", after_s=None)
        refused = tx.enter_lane(REPO, "main", 7, head_sha=HEAD, approved_at=tx.now)
        tx.end_merge(refused.id, MergeState.REFUSED, code=Refusal.RED, reason="check build failed")
        tx.enter_lane(REPO, "main", 7, head_sha=HEAD, approved_at=tx.now)

    said = {line.text: line.outcome for line in lines(store, REPO, 7)}

    assert said["report as boss owed after 1 try: the forge is away"] == "queued"
    assert said["labels as boss given up: no such label"] == "failed"
    assert said["refused (red): check build failed"] == "failed"
    assert said["waiting"] == "queued"


def test_a_failed_try_tells_why(store: Store) -> None:
    with store.writing() as tx:
        tx.submit("dev", Request(kind=Kind.IMPLEMENT, repo=REPO, number=7), by="test")

    (line,) = lines(store, REPO, 7)

    assert line.outcome == "failed"
    assert line.text.startswith("refused: no instance of type 'dev'")


def test_the_command_prints_it_for_people_and_for_programs(cli: Deployment, clock: Clock, tmp_path: Path) -> None:
    fast = open_fast(cli.settings.state_dir / "forgepool.db", clock)
    story(fast, clock)
    fast.close()

    shown, document = cli.run("trail", f"{REPO}#7").stdout, cli.json("trail", f"{REPO}#8")

    assert shown.startswith("2026-01-05, times in UTC\n09:00:00  #7    delivery   issue_assign assigned by ana")
    assert "09:05:01  #7    task 1     succeeded, head now c0ffee0000" in shown
    assert len(shown.splitlines()) == 1 + len(document)
    assert document[1]["task"] == 1
    assert document[0]["at"] == "2026-01-05T09:00:00.000Z"
    assert set(document[0]) == {"at", "number", "source", "task", "text", "outcome"}


def test_text_of_strangers_cannot_steer_a_terminal(cli: Deployment) -> None:
    with cli.store.writing() as tx:
        delivery(tx, 7, "issue_assign", reason="\x1b[31mred")

    assert "\\x1b[31mred" in cli.run("trail", f"{REPO}#7").stdout


def test_what_is_not_known_is_said(cli: Deployment) -> None:
    assert "nothing is known of acme/shop#99" in cli.run("trail", "acme/shop#99", status=1).stderr
    assert cli.json("trail", "acme/shop#99") == []


@pytest.mark.parametrize("wrong", ["acme/shop", "shop#1", "acme/shop#0", "acme/shop#x", "#7"])
def test_a_subject_that_cannot_be_read_is_refused(cli: Deployment, wrong: str) -> None:
    assert "subject" in cli.run("trail", wrong, status=2).stderr


def test_a_subject_is_a_repository_and_a_number() -> None:
    assert trail.parse("acme/shop#7") == ("acme/shop", 7)
