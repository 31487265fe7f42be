"""What each row of the two tables asks for."""

from dataclasses import replace
from typing import Any

import pytest

from pool.lanes import MergeState, Refusal
from pool.model import Kind
from pool.states import Move, State
from tasks.forge_values import Ci, ReviewState
from tasks.situation import HOLD_LABEL, IssueFacts, Policy, PullFacts
from tasks.workflow import (
    ISSUE_ROWS,
    PULL_ROWS,
    AskPerson,
    AskReview,
    Decision,
    Enqueue,
    Next,
    Start,
    Wait,
    after,
    decide,
    decide_issue,
    decide_pull,
)
from tests.helpers.situations import (
    BASE,
    CANCELLED,
    HEAD,
    OLD,
    PENDING,
    POLICY,
    RED,
    ago,
    approval,
    conflicting,
    issue_facts,
    make_issue,
    make_merge,
    make_past,
    make_pull,
    make_review,
    pull_facts,
    rejection,
    request,
)

ACTIVE = MergeState.ACTIVE


def past(kind: Kind, count: int, **changes: Any) -> tuple[Any, ...]:
    """Return some runs of a kind, each at a head of its own unless one is given."""
    return tuple(make_past(kind, **{"head_sha": f"{number:040x}", **changes}) for number in range(count))


#: Every row of the table for pull requests, with a situation that it is the first to fit.
PULLS: dict[str, PullFacts] = {
    "ended": pull_facts(approval(), state="closed", merged=True),
    "held": pull_facts(approval(), held_by="ada"),
    "draft": pull_facts(approval(), draft=True),
    "in-lane": pull_facts(approval(), merges=(make_merge(ACTIVE),)),
    "busy": pull_facts(rejection(), past=(make_past(Kind.ADDRESS_REVIEW, state=State.RUNNING),)),
    "ready": pull_facts(approval()),
    "chain-spent": pull_facts(rejection(), chain=30),
    "day-spent": pull_facts(rejection(), today=40),
    "conflict-first": conflicting(rejection()),
    "address-review": pull_facts(rejection(body="Spell it right.")),
    "fix-ci": pull_facts(approval(), statuses=RED),
    "conflict": conflicting(approval()),
    "checking": conflicting(approval(), for_s=10),
    "awaits-ci": pull_facts(approval(), statuses=PENDING),
    "ci-cancelled": pull_facts(approval(), statuses=CANCELLED),
    "review": pull_facts(request()),
    "no-weight": pull_facts(approval(official=False)),
    "quiet": pull_facts(author="ada"),
}
ISSUES: dict[str, IssueFacts] = {
    "closed": issue_facts(state="closed"),
    "held": issue_facts(labels=(HOLD_LABEL,)),
    "no-agent": issue_facts(assignees=("ada",)),
    "busy": issue_facts(past=(make_past(Kind.IMPLEMENT, state=State.QUEUED),)),
    "blocked": issue_facts(blockers=(3,)),
    "has-pull": issue_facts(pulls=(pull_facts(),)),
    "had-pull": issue_facts(ended=(make_pull(state="closed", merged=True),)),
    "chain-spent": issue_facts(chain=30),
    "day-spent": issue_facts(today=40),
    "implement": issue_facts(),
}


@pytest.mark.parametrize("rule", [pytest.param(name, id=f"pull-{name}") for name in (row.name for row in PULL_ROWS)])
def test_each_row_for_pull_requests_decides_its_situation(rule: str) -> None:
    assert decide_pull(PULLS[rule], POLICY).rule == rule


@pytest.mark.parametrize("rule", [pytest.param(name, id=f"issue-{name}") for name in (row.name for row in ISSUE_ROWS)])
def test_each_row_for_issues_decides_its_situation(rule: str) -> None:
    assert decide_issue(ISSUES[rule], POLICY).rule == rule


@pytest.mark.parametrize("rule", ["ended", "held", "draft", "in-lane", "busy", "ci-cancelled", "quiet"])
def test_these_rows_only_wait_for_something_to_happen(rule: str) -> None:
    assert decide_pull(PULLS[rule], POLICY).steps == (Wait(),)


@pytest.mark.parametrize("rule", ["closed", "held", "no-agent", "busy", "blocked", "has-pull", "had-pull"])
def test_these_rows_for_issues_only_wait_for_something_to_happen(rule: str) -> None:
    assert decide_issue(ISSUES[rule], POLICY).steps == (Wait(),)


def only(decision: Decision) -> Any:
    """Return the one step of a decision."""
    (step,) = decision.steps
    return step


def pull_step(facts: PullFacts, policy: Policy = POLICY) -> Any:
    """Return the one step that a pull request asks for."""
    return only(decide_pull(facts, policy))


def cause(facts: PullFacts | IssueFacts, policy: Policy = POLICY) -> str | None:
    """Return the cause for which a person is asked, if one is."""
    asked = [step.cause for step in decide(facts, policy).steps if isinstance(step, AskPerson)]
    return asked[0] if asked else None


# --- pull requests: what the rows ask for --------------------------------------------------------


def test_what_is_approved_and_green_goes_into_the_lane_of_its_base_at_the_time_of_its_first_approval() -> None:
    facts = pull_facts(approval(submitted_at=ago(90)), approval("ada", submitted_at=ago(10)), base_ref="stable")

    step = pull_step(facts)

    assert step == Enqueue(head_sha=HEAD, base="stable", approved_at=ago(90), why="approved by reviewer, ada")


@pytest.mark.parametrize(("grace_s", "rule"), [(0.0, "ready"), (600.0, "ready"), (601.0, "awaits-ci")])
def test_what_has_no_checks_is_ready_after_the_grace(grace_s: float, rule: str) -> None:
    facts = pull_facts(approval(), statuses=(), head_since=ago(600))

    assert decide_pull(facts, replace(POLICY, ci_grace_s=grace_s)).rule == rule


def test_within_the_grace_it_is_looked_at_again_when_it_ends() -> None:
    facts = pull_facts(approval(), statuses=(), head_since=ago(20))

    assert pull_step(facts) == Wait(look_after_s=40.0)


def test_checks_that_run_are_asked_about_again_since_no_webhook_may_tell() -> None:
    assert pull_step(PULLS["awaits-ci"]) == Wait(look_after_s=60.0)


def test_what_may_still_be_checked_is_looked_at_again_when_it_would_be_a_conflict() -> None:
    assert pull_step(PULLS["checking"]) == Wait(look_after_s=20.0)


def test_without_a_type_that_merges_nothing_enters_a_lane() -> None:
    decision = decide_pull(pull_facts(approval()), replace(POLICY, merge_type=None))

    assert (decision.rule, decision.steps) == ("ready", (Wait(),))


def test_what_is_ready_is_merged_although_its_tasks_are_spent() -> None:
    assert isinstance(pull_step(pull_facts(approval(), chain=30, today=40)), Enqueue)


def test_an_approval_does_not_outweigh_what_somebody_else_wants_changed() -> None:
    assert decide_pull(pull_facts(rejection("ada"), approval()), POLICY).rule == "address-review"


def test_the_author_addresses_a_review_with_its_words() -> None:
    step = pull_step(pull_facts(rejection(body="Spell it right."), rejection("ada", body="")))

    assert step == Start(
        kind=Kind.ADDRESS_REVIEW,
        type="dev",
        number=21,
        head_sha=HEAD,
        why="changes are requested by reviewer, ada",
        detail="reviewer: Spell it right.",
    )


def test_a_rebase_leaves_what_was_wanted_outstanding() -> None:
    rebased = make_past(Kind.REBASE, state=State.SUCCEEDED, head_before=OLD, head_after=HEAD, head_sha=OLD)

    assert decide_pull(pull_facts(rejection(commit_id=OLD), past=(rebased,)), POLICY).rule == "address-review"


@pytest.mark.parametrize("rule", ["conflict-first", "conflict"])
def test_a_conflict_is_rebased_by_the_author(rule: str) -> None:
    step = pull_step(PULLS[rule])

    assert (step.kind, step.type, step.head_sha) == (Kind.REBASE, "dev", HEAD)


def test_what_met_a_conflict_when_it_was_to_be_merged_is_rebased_although_the_forge_saw_none() -> None:
    refused = make_merge(code=Refusal.CONFLICT)

    assert decide_pull(pull_facts(approval(), merges=(refused,)), POLICY).rule == "conflict"


def test_a_conflict_of_an_older_head_is_no_conflict_of_this_one() -> None:
    refused = make_merge(code=Refusal.CONFLICT, head_sha=OLD, approved_sha=OLD)

    assert decide_pull(pull_facts(approval(), merges=(refused,)), POLICY).rule == "ready"


def test_the_author_repairs_checks_that_failed_at_the_head() -> None:
    step = pull_step(PULLS["fix-ci"])

    assert (step.kind, step.type, step.head_sha) == (Kind.FIX_CI, "dev", HEAD)


@pytest.mark.parametrize("facts", [pull_facts(author="ada", statuses=RED), conflicting(author="ada")])
def test_what_a_person_wrote_is_repaired_by_that_person(facts: PullFacts) -> None:
    assert decide_pull(facts, POLICY).rule == "quiet"


def test_a_red_pull_request_of_a_person_is_not_merged_although_it_is_approved() -> None:
    assert pull_step(pull_facts(approval(), author="ada", statuses=RED)) == Wait()


# --- who reviews ---------------------------------------------------------------------------------


def test_the_reviewer_is_asked_once_the_checks_are_green() -> None:
    assert pull_step(pull_facts()) == AskReview(login="reviewer", why="reviewer has not reviewed the head")


def test_a_reviewer_who_was_asked_reviews() -> None:
    step = pull_step(pull_facts(request()))

    assert (step.kind, step.type, step.head_sha) == (Kind.REVIEW, "reviewer", HEAD)


def test_a_review_of_an_older_head_does_not_count_for_this_one() -> None:
    assert pull_step(pull_facts(approval(commit_id=OLD))) == AskReview(
        login="reviewer", why="reviewer has not reviewed the head"
    )


def test_a_comment_that_used_up_the_request_is_followed_by_another_try() -> None:
    facts = pull_facts(request(), make_review("reviewer", ReviewState.COMMENT), past=(make_past(Kind.REVIEW),))

    assert pull_step(facts).kind is Kind.REVIEW


def test_every_agent_that_was_asked_reviews() -> None:
    steps = decide_pull(pull_facts(request(), request("boss")), POLICY).steps

    assert [(step.kind, step.type) for step in steps if isinstance(step, Start)] == [
        (Kind.REVIEW, "reviewer"),
        (Kind.REVIEW, "boss"),
    ]


def test_nobody_reviews_their_own_work() -> None:
    assert pull_step(pull_facts(request("dev"), author="dev")) == AskReview(
        login="reviewer", why="reviewer has not reviewed the head"
    )
    assert decide_pull(pull_facts(author="reviewer"), POLICY).rule == "quiet"


def test_a_person_who_asks_an_agent_gets_a_review_although_the_checks_failed() -> None:
    assert pull_step(pull_facts(request(), author="ada", statuses=RED)).kind is Kind.REVIEW


def test_a_person_whose_wishes_were_addressed_is_asked_to_look_again() -> None:
    facts = pull_facts(rejection("ada", commit_id=OLD), approval())

    assert pull_step(facts) == AskReview(login="ada", why="what ada wanted is done")


def test_a_person_who_was_asked_to_look_again_is_given_time() -> None:
    facts = pull_facts(rejection("ada", commit_id=OLD), approval(), request("ada"))

    assert decide_pull(facts, POLICY).rule == "quiet"


def test_without_a_type_that_reviews_nobody_is_asked() -> None:
    assert decide_pull(pull_facts(), replace(POLICY, review_type=None)).rule == "quiet"


def test_an_approval_that_the_forge_does_not_count_needs_a_person() -> None:
    assert cause(PULLS["no-weight"]) == "no-weight"


# --- caps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "asks"), [(29, None), (30, "chain")])
def test_the_chain_of_tasks_is_bounded(count: int, asks: str | None) -> None:
    assert cause(pull_facts(rejection(), chain=count)) == asks
    assert cause(issue_facts(chain=count)) == asks


@pytest.mark.parametrize(("count", "asks"), [(39, None), (40, "day")])
def test_the_tasks_of_a_day_are_bounded(count: int, asks: str | None) -> None:
    assert cause(pull_facts(rejection(), today=count)) == asks
    assert cause(issue_facts(today=count)) == asks


def test_the_bound_of_a_day_is_looked_at_again() -> None:
    assert Wait(look_after_s=3600.0) in decide_issue(ISSUES["day-spent"], POLICY).steps


@pytest.mark.parametrize(("count", "asks"), [(2, None), (3, "review-rounds")])
def test_the_rounds_of_review_are_bounded(count: int, asks: str | None) -> None:
    rounds = [rejection(commit_id=OLD) for _ in range(count - 1)]

    assert cause(pull_facts(*rounds, rejection())) == asks
    assert cause(pull_facts(*rounds, rejection(commit_id=OLD), request())) == asks


def test_rounds_before_a_person_acted_do_not_count() -> None:
    rounds = [rejection(commit_id=OLD, submitted_at=ago(500)) for _ in range(3)]

    assert cause(pull_facts(*rounds, rejection(), reset_at=ago(100))) is None


def test_a_person_may_have_an_agent_review_their_work_as_often_as_they_want() -> None:
    rounds = [rejection(commit_id=OLD) for _ in range(5)]

    assert pull_step(pull_facts(*rounds, request(), author="ada")).kind is Kind.REVIEW


@pytest.mark.parametrize(("count", "asks"), [(2, None), (3, "fix-ci")])
def test_the_repairs_of_checks_are_bounded(count: int, asks: str | None) -> None:
    assert cause(pull_facts(statuses=RED, past=past(Kind.FIX_CI, count))) == asks


def test_tasks_without_an_agent_use_up_no_cap() -> None:
    assert cause(pull_facts(statuses=RED, past=past(Kind.FIX_CI, 3, agent_ran=False))) is None
    assert cause(conflicting(past=past(Kind.REBASE, 3, agent_ran=False))) is None


@pytest.mark.parametrize(
    ("count", "kind", "type_name"), [(0, Kind.REBASE, "dev"), (1, Kind.REBASE, "dev"), (2, Kind.RESOLVE, "boss")]
)
def test_the_last_try_at_a_conflict_is_for_the_type_that_merges(count: int, kind: Kind, type_name: str) -> None:
    step = pull_step(conflicting(past=past(Kind.REBASE, count)))

    assert (step.kind, step.type) == (kind, type_name)


def test_without_a_type_that_merges_the_last_try_is_a_rebase() -> None:
    facts = conflicting(past=past(Kind.REBASE, 2))

    assert pull_step(facts, replace(POLICY, merge_type=None)).kind is Kind.REBASE


@pytest.mark.parametrize("facts", [conflicting, lambda **changes: conflicting(rejection(), **changes)])
def test_the_rebases_are_bounded(facts: Any) -> None:
    tries = (*past(Kind.REBASE, 2), *past(Kind.RESOLVE, 1))

    assert cause(facts(past=tries[:2])) is None
    assert cause(facts(past=tries)) == "rebase"


@pytest.mark.parametrize(("count", "asks"), [(2, None), (3, "tries")])
def test_tries_at_the_same_thing_are_bounded(count: int, asks: str | None) -> None:
    address = past(Kind.ADDRESS_REVIEW, count, head_sha=HEAD, state=State.TIMED_OUT)
    review = past(Kind.REVIEW, count, head_sha=OLD, head_before=HEAD)

    assert cause(pull_facts(rejection(), past=address)) == asks
    assert cause(pull_facts(request(), past=review)) == asks
    assert cause(issue_facts(past=past(Kind.IMPLEMENT, count, head_sha=None))) == asks


def test_tries_at_another_head_and_interrupted_ones_do_not_count() -> None:
    others = past(Kind.REVIEW, 3, head_sha=OLD)
    lost = past(Kind.REVIEW, 3, head_sha=HEAD, state=State.INTERRUPTED)

    assert cause(pull_facts(request(), past=(*others, *lost))) is None


@pytest.mark.parametrize(("count", "asks"), [(2, None), (3, "refused")])
def test_refusals_that_the_facts_do_not_explain_are_bounded(count: int, asks: str | None) -> None:
    assert cause(pull_facts(approval(), merges=tuple(make_merge() for _ in range(count)))) == asks


def test_a_person_reads_the_sentence_of_the_last_refusal() -> None:
    refused = (make_merge(), make_merge(), make_merge(reason="boss may not push"))

    assert pull_step(pull_facts(approval(), merges=refused)) == AskPerson(cause="refused", sentence="boss may not push")


@pytest.mark.parametrize(
    "changes",
    [
        {"code": Refusal.RED},
        {"head_sha": OLD, "approved_sha": OLD},
        {"ended_at": ago(61)},
        {"state": MergeState.WITHDRAWN, "code": None},
    ],
)
def test_refusals_that_are_explained_or_were_of_another_head_or_before_the_approval_do_not_count(
    changes: dict[str, Any],
) -> None:
    refused = tuple(make_merge(**changes) for _ in range(3))

    assert isinstance(pull_step(pull_facts(approval(submitted_at=ago(60)), merges=refused)), Enqueue)


# --- what is not begun again ---------------------------------------------------------------------


def test_what_a_person_cancelled_is_not_begun_again() -> None:
    cancelled = make_past(Kind.IMPLEMENT, state=State.CANCELLED)

    assert only(decide_issue(issue_facts(past=(cancelled,)), POLICY)) == Wait()


def test_a_new_head_may_be_worked_on_after_a_person_cancelled_work_on_the_old_one() -> None:
    cancelled = make_past(Kind.REVIEW, state=State.CANCELLED, head_sha=OLD)

    assert pull_step(pull_facts(request(), past=(cancelled,))).kind is Kind.REVIEW


def test_a_dead_letter_needs_a_person() -> None:
    dead = make_past(Kind.IMPLEMENT, state=State.DEAD_LETTERED, agent_ran=False)

    assert cause(issue_facts(past=(dead,))) == "dead-letter"


@pytest.mark.parametrize(
    ("failures", "ended", "step"),
    [(1, 29, Wait(look_after_s=1.0)), (1, 30, None), (2, 31, Wait(look_after_s=29.0)), (2, 60, None)],
)
def test_what_could_not_be_begun_is_tried_again_after_a_pause_that_doubles(
    failures: int, ended: float, step: Wait | None
) -> None:
    tries = past(Kind.IMPLEMENT, failures, head_sha=None, agent_ran=False, finished_at=ago(ended))

    found = only(decide_issue(issue_facts(past=tries), POLICY))

    assert found == step or (step is None and isinstance(found, Start))


def test_a_person_is_told_of_what_could_not_be_begun_three_times_and_it_is_tried_again_all_the_same() -> None:
    tries = past(Kind.IMPLEMENT, 3, head_sha=None, agent_ran=False, finished_at=ago(0))

    steps = decide_issue(issue_facts(past=tries), POLICY).steps

    assert [type(step) for step in steps] == [AskPerson, Wait]


# --- issues --------------------------------------------------------------------------------------


def test_every_agent_that_is_assigned_implements() -> None:
    steps = decide_issue(issue_facts(assignees=("Dev", "ada", "boss")), POLICY).steps

    assert [(step.kind, step.type, step.head_sha) for step in steps if isinstance(step, Start)] == [
        (Kind.IMPLEMENT, "dev", None),
        (Kind.IMPLEMENT, "boss", None),
    ]


def test_who_has_a_pull_request_already_does_not_implement_it_again() -> None:
    facts = issue_facts(assignees=("dev", "boss"), pulls=(pull_facts(),))

    assert only(decide_issue(facts, POLICY)).type == "boss"


def test_the_pull_request_of_somebody_else_does_not_count() -> None:
    assert decide_issue(issue_facts(pulls=(pull_facts(author="ada"),)), POLICY).rule == "implement"


def test_what_was_turned_down_is_begun_anew_once_a_person_wants_it() -> None:
    closed = make_pull(state="closed", updated_at=ago(500))

    assert decide_issue(issue_facts(ended=(closed,)), POLICY).rule == "had-pull"
    assert decide_issue(issue_facts(ended=(closed,), reset_at=ago(400)), POLICY).rule == "implement"


# --- the tables themselves -----------------------------------------------------------------------


def test_the_situations_above_name_every_row() -> None:
    assert list(PULLS) == [row.name for row in PULL_ROWS]
    assert list(ISSUES) == [row.name for row in ISSUE_ROWS]


def test_every_row_says_why_it_is_there() -> None:
    assert all(row.why.endswith(".") for row in PULL_ROWS)
    assert all(row.why.endswith(".") for row in ISSUE_ROWS)


def test_only_a_run_that_the_machinery_lost_is_tried_again_at_once() -> None:
    assert [move for move in Move if after(move) is Next.RETRY] == [Move.INTERRUPT]


def test_the_usual_pull_request_is_what_the_other_tests_take_it_for() -> None:
    facts = pull_facts()

    assert (facts.ci, facts.pull.base_sha, facts.issue) == (Ci.GREEN, BASE, make_issue())
