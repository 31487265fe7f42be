"""What people order, hold and begin anew; and what is looked up because no event tells it."""

from dataclasses import replace
from typing import Any

import pytest

from pool.model import Kind
from pool.states import Verdict
from tests.unit.test_rules import FACTS, PULL, issue, of, only, sample
from webapp.commands import Dispatch, EnterLane, LookAgain, Outcome, ResetCaps, Supersede, TakeOrders
from webapp.rules import decide


def ordered(text: str, **changes: Any) -> Outcome:
    """Decide a comment of alice on issue 7."""
    fields = {"text": text, "author": "alice", "sender": "alice", **changes}
    return decide(replace(sample("issue-comment.json"), **fields), replace(FACTS, talks_back=True))


def test_an_order_in_a_comment_is_taken_for_the_person_who_wrote_it() -> None:
    orders = only(TakeOrders, ordered("Please.\n/forgepool retry\n/forgepool to reviewer"))

    assert orders.wishes == ((1, "retry", ""), (2, "to", "reviewer"))
    assert (orders.by, orders.number) == ("alice", sample("issue-comment.json").number)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"author": "dev", "sender": "dev"}, "no orders"),
        ({"sender": "bob"}, "no orders"),
        ({"action": "edited"}, "only new ones"),
        ({"text": "see /forgepool retry"}, "without an order"),
    ],
    ids=["an agent's", "changed by another", "edited", "not a line of its own"],
)
def test_a_comment_that_orders_nothing_is_passed_over(changes: dict[str, Any], said: str) -> None:
    outcome = ordered(changes.pop("text", "/forgepool cancel"), **changes)

    assert (outcome.verdict, of(TakeOrders, outcome)) == (Verdict.IGNORED, [])
    assert said in outcome.reason


def test_without_an_account_that_reads_the_forge_orders_are_not_taken_and_nothing_is_looked_at() -> None:
    outcome = decide(
        replace(sample("issue-comment.json"), text="/forgepool retry", sender="alice", author="alice"), FACTS
    )

    assert (outcome.verdict, outcome.commands) == (Verdict.IGNORED, ())
    assert "token" in outcome.reason


@pytest.mark.parametrize(
    "name", ["issue-assigned.json", "pull-opened.json", "action-run-success.json", "pull-rejected.json"]
)
def test_whatever_an_event_is_about_is_looked_at_on_the_forge(name: str) -> None:
    event = sample(name)

    outcome = decide(event, replace(FACTS, talks_back=True, known=PULL))

    assert only(LookAgain, outcome) == LookAgain(repo="acme/widgets", number=event.number)


@pytest.mark.parametrize(("sender", "resets"), [("alice", True), ("boss", False)])
def test_a_person_who_assigns_an_agent_begins_the_counting_anew(sender: str, resets: object) -> None:
    assert bool(of(ResetCaps, decide(issue("dev", sender=sender), FACTS))) is resets


@pytest.mark.parametrize(
    "held", [{"facts": {"held_by": "alice"}}, {"event": {"labels": ("forgepool/hold",)}}], ids=["by order", "by label"]
)
@pytest.mark.parametrize(
    "name", ["issue-assigned.json", "pull-review-requested.json", "pull-rejected.json", "pull-approved.json"]
)
def test_nothing_begins_for_what_is_held(name: str, held: dict[str, Any]) -> None:
    event = replace(sample(name), **held.get("event", {}))

    outcome = decide(event, replace(FACTS, **held.get("facts", {})))

    assert (of(Dispatch, outcome), of(EnterLane, outcome)) == ([], [])
    assert "held by" in outcome.reason


def test_the_end_of_a_pull_request_leaves_its_merge_alone() -> None:
    """What comes after a merge is a link of the same chain; it was dropped with the rest."""
    dropped = only(Supersede, decide(sample("pull-merged.json"), FACTS))

    assert Kind.MERGE not in dropped.kinds
    assert set(Kind) - set(dropped.kinds) == {Kind.MERGE}
