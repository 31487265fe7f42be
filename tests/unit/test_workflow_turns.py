"""What becomes of a task at its turn, on facts that are read anew."""

from typing import Any

import pytest

from pool.lanes import Refusal
from pool.model import Kind
from pool.states import State
from tasks.forge_values import ReviewState
from tasks.situation import Facts, IssueFacts, PullFacts
from tasks.workflow import Go, Withdraw, revise
from tests.helpers.situations import (
    CANCELLED,
    GREEN,
    HEAD,
    OLD,
    PENDING,
    POLICY,
    RED,
    approval,
    conflicting,
    issue_facts,
    make_merge,
    make_past,
    make_review,
    pull_facts,
    rejection,
    request,
)

_TYPES = {Kind.REVIEW: "reviewer", Kind.RESOLVE: "boss", Kind.MERGE: "boss"}


def turn(kind: Kind, facts: Facts, **changes: Any) -> Go | Withdraw:
    """Revise a task of the usual type about the head."""
    usual = {"type_name": _TYPES.get(kind, "dev"), "head_sha": HEAD, "by_hand": False}
    return revise(kind=kind, facts=facts, policy=POLICY, **{**usual, **changes})


def is_go(kind: Kind, facts: Facts, **changes: Any) -> bool:
    """Tell whether the task goes on."""
    return isinstance(turn(kind, facts, **changes), Go)


#: For each kind a situation in which it is wanted.
WANTED: dict[Kind, Facts] = {
    Kind.IMPLEMENT: issue_facts(),
    Kind.REVIEW: pull_facts(request()),
    Kind.ADDRESS_REVIEW: pull_facts(rejection()),
    Kind.FIX_CI: pull_facts(statuses=RED),
    Kind.REBASE: conflicting(),
    Kind.RESOLVE: conflicting(),
    Kind.MERGE: pull_facts(),
    Kind.CUSTOM: pull_facts(),
}
AGENTS = [kind for kind in Kind if kind not in {Kind.MERGE, Kind.CUSTOM}]
ON_PULLS = [kind for kind in AGENTS if kind is not Kind.IMPLEMENT]


def changed(kind: Kind, **changes: Any) -> Facts:
    """Return the situation in which it is wanted, with changes."""
    if kind is Kind.IMPLEMENT:
        return issue_facts(**changes)
    reviews = {Kind.REVIEW: (request(),), Kind.ADDRESS_REVIEW: (rejection(),)}.get(kind, ())
    if kind in {Kind.REBASE, Kind.RESOLVE}:
        return conflicting(**changes)
    return pull_facts(*reviews, **{"statuses": RED if kind is Kind.FIX_CI else GREEN, **changes})


@pytest.mark.parametrize("kind", list(Kind))
def test_what_the_facts_ask_for_goes_on_at_the_head_of_now(kind: Kind) -> None:
    facts = WANTED[kind]

    found = turn(kind, facts)

    assert isinstance(found, Go)
    assert found.head_sha == (facts.pull.head_sha if isinstance(facts, PullFacts) else None)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("changes", [{"state": "closed"}, {"held_by": "ada"}, {"chain": 30}, {"today": 40}])
def test_nothing_goes_on_that_is_closed_or_held_or_spent(kind: Kind, changes: dict[str, Any]) -> None:
    assert not is_go(kind, changed(kind, **changes))


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("changes", [{"chain": 29}, {"today": 39}])
def test_the_last_task_that_is_allowed_goes_on(kind: Kind, changes: dict[str, Any]) -> None:
    assert is_go(kind, changed(kind, **changes))


@pytest.mark.parametrize("kind", AGENTS)
def test_what_a_person_dispatched_goes_on_whatever_the_facts_say(kind: Kind) -> None:
    assert is_go(kind, changed(kind, state="closed", held_by="ada", chain=99), by_hand=True)


def test_what_is_about_pull_requests_is_not_done_to_an_issue_and_the_other_way_round() -> None:
    assert not any(is_go(kind, issue_facts()) for kind in ON_PULLS)
    assert not is_go(Kind.IMPLEMENT, pull_facts())


# --- implement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("assignees", [(), ("ada",), ("boss",)])
def test_implement_is_withdrawn_when_the_issue_is_not_assigned_to_the_type_any_more(
    assignees: tuple[str, ...],
) -> None:
    assert not is_go(Kind.IMPLEMENT, issue_facts(assignees=assignees))


def test_implement_is_withdrawn_when_something_has_to_come_first() -> None:
    assert not is_go(Kind.IMPLEMENT, issue_facts(blockers=(3,)))


def with_pull(*reviews: Any, **changes: Any) -> IssueFacts:
    """Return an issue for which there is a pull request."""
    return issue_facts(pulls=(pull_facts(*reviews, **changes),))


CONFLICT = issue_facts(pulls=(conflicting(),))


def test_implement_is_withdrawn_when_there_is_a_pull_request_already() -> None:
    found = turn(Kind.IMPLEMENT, with_pull())

    assert isinstance(found, Withdraw)
    assert found.instead is None


def test_implement_becomes_address_review_when_changes_are_outstanding_at_the_head() -> None:
    found = turn(Kind.IMPLEMENT, with_pull(rejection()))

    assert isinstance(found, Withdraw)
    assert found.instead is not None
    assert (found.instead.kind, found.instead.number, found.instead.head_sha) == (Kind.ADDRESS_REVIEW, 21, HEAD)


@pytest.mark.parametrize(
    "facts",
    [
        with_pull(rejection(), held_by="ada"),
        with_pull(*(rejection() for _ in range(3))),
        with_pull(statuses=RED),
        CONFLICT,
    ],
)
def test_implement_becomes_nothing_else_when_that_is_not_wanted_either(facts: IssueFacts) -> None:
    found = turn(Kind.IMPLEMENT, facts)

    assert isinstance(found, Withdraw)
    assert found.instead is None


def test_implement_goes_on_beside_the_pull_request_of_somebody_else() -> None:
    assert is_go(Kind.IMPLEMENT, with_pull(author="ada"))


# --- review --------------------------------------------------------------------------------------


def test_a_review_goes_on_at_a_head_that_moved_since_it_was_asked_for() -> None:
    assert turn(Kind.REVIEW, pull_facts(request()), head_sha=OLD) == Go(head_sha=HEAD, why="the facts still ask for it")


@pytest.mark.parametrize("word", [approval(), rejection(), approval("Reviewer")])
def test_a_review_is_withdrawn_when_there_is_a_verdict_at_the_head(word: Any) -> None:
    assert not is_go(Kind.REVIEW, pull_facts(word, request()))


@pytest.mark.parametrize(
    "word",
    [approval("ada"), approval(commit_id=OLD), approval(dismissed=True), make_review("reviewer", ReviewState.COMMENT)],
)
def test_a_review_goes_on_when_what_was_said_is_no_verdict_of_ours_at_the_head(word: Any) -> None:
    assert is_go(Kind.REVIEW, pull_facts(word, request()))


def test_nobody_reviews_their_own_work_although_they_were_asked() -> None:
    assert not is_go(Kind.REVIEW, pull_facts(request(), author="Reviewer"))


@pytest.mark.parametrize(("count", "goes"), [(2, True), (3, False)])
def test_a_review_is_withdrawn_when_its_rounds_are_spent(count: int, *, goes: bool) -> None:
    rounds = [rejection(commit_id=OLD) for _ in range(count)]

    assert is_go(Kind.REVIEW, pull_facts(*rounds, request())) is goes


# --- address-review ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), (rejection(), approval()), (rejection(commit_id=OLD),)])
def test_address_review_is_withdrawn_when_nothing_is_outstanding(words: tuple[Any, ...]) -> None:
    assert not is_go(Kind.ADDRESS_REVIEW, pull_facts(*words))


def test_address_review_becomes_a_rebase_when_it_conflicts() -> None:
    found = turn(Kind.ADDRESS_REVIEW, conflicting(rejection()))

    assert isinstance(found, Withdraw)
    assert found.instead is not None
    assert (found.instead.kind, found.instead.type) == (Kind.REBASE, "dev")


@pytest.mark.parametrize(("count", "goes"), [(2, True), (3, False)])
def test_address_review_is_withdrawn_when_the_rounds_are_spent(count: int, *, goes: bool) -> None:
    assert is_go(Kind.ADDRESS_REVIEW, pull_facts(*(rejection() for _ in range(count)))) is goes


# --- fix-ci --------------------------------------------------------------------------------------


def test_fix_ci_is_withdrawn_when_what_failed_is_not_the_head_any_more() -> None:
    assert not is_go(Kind.FIX_CI, pull_facts(statuses=RED), head_sha=OLD)


@pytest.mark.parametrize(
    ("statuses", "goes"), [(RED, True), ((), True), (GREEN, False), (CANCELLED, False), (PENDING, False)]
)
def test_fix_ci_goes_on_only_at_a_red_head_or_on_the_word_of_the_event(statuses: Any, *, goes: bool) -> None:
    assert is_go(Kind.FIX_CI, pull_facts(statuses=statuses)) is goes


@pytest.mark.parametrize(("count", "goes"), [(2, True), (3, False)])
def test_fix_ci_is_withdrawn_when_the_repairs_are_spent(count: int, *, goes: bool) -> None:
    past = tuple(make_past(Kind.FIX_CI, head_sha=OLD) for _ in range(count))

    assert is_go(Kind.FIX_CI, pull_facts(statuses=RED, past=past)) is goes


def test_the_task_whose_turn_it_is_does_not_count_against_itself() -> None:
    past = (*(make_past(Kind.FIX_CI, head_sha=OLD) for _ in range(2)), make_past(Kind.FIX_CI, state=State.RUNNING))

    assert is_go(Kind.FIX_CI, pull_facts(statuses=RED, past=past))


# --- rebase --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.REBASE, Kind.RESOLVE])
def test_a_rebase_is_withdrawn_when_it_can_be_merged_as_it_is(kind: Kind) -> None:
    assert not is_go(kind, pull_facts())


@pytest.mark.parametrize("kind", [Kind.REBASE, Kind.RESOLVE])
def test_a_rebase_goes_on_while_the_forge_still_checks(kind: Kind) -> None:
    assert is_go(kind, conflicting(for_s=1))


def test_a_rebase_goes_on_when_the_merge_met_a_conflict_that_the_forge_does_not_see() -> None:
    assert is_go(Kind.REBASE, pull_facts(merges=(make_merge(code=Refusal.CONFLICT),)))


@pytest.mark.parametrize("kind", [Kind.REBASE, Kind.RESOLVE])
@pytest.mark.parametrize(("count", "goes"), [(2, True), (3, False)])
def test_a_rebase_is_withdrawn_when_they_are_spent(kind: Kind, count: int, *, goes: bool) -> None:
    past = tuple(make_past(Kind.REBASE, head_sha=OLD) for _ in range(count))

    assert is_go(kind, conflicting(past=past)) is goes
