"""What holds for the workflow in every situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from pool.lanes import MergeState, Refusal
from pool.model import Kind
from pool.states import State
from tasks.forge_values import Ci, ReviewState
from tasks.situation import HOLD_LABEL, Facts, IssueFacts, Policy, PullFacts
from tasks.workflow import AskPerson, AskReview, Enqueue, Go, Start, Wait, Withdraw, decide, revise
from tests.helpers.situations import (
    BASE,
    CANCELLED,
    GREEN,
    HEAD,
    OLD,
    PENDING,
    POLICY,
    RED,
    ago,
    issue_facts,
    make_merge,
    make_past,
    make_pull,
    make_review,
    pull_facts,
)

OTHER = "c" * 40
commits = st.sampled_from([HEAD, HEAD, OLD, OTHER])
logins = st.sampled_from(["dev", "Reviewer", "reviewer", "boss", "ada", "bob"])
moments = st.integers(0, 900).map(lambda seconds: ago(float(seconds)))
maybe_moments = st.none() | moments
reviews = st.builds(
    make_review,
    logins,
    st.sampled_from(ReviewState),
    commit_id=commits,
    official=st.sampled_from([True, True, False]),
    dismissed=st.sampled_from([False, False, True]),
    submitted_at=maybe_moments,
)
tasks = st.builds(
    make_past,
    st.sampled_from(Kind),
    type=st.sampled_from(["dev", "reviewer", "boss"]),
    state=st.sampled_from([state for state in State if state not in {State.QUEUED, State.RUNNING}] * 3 + list(State)),
    head_sha=st.none() | commits,
    head_before=st.none() | commits,
    head_after=st.none() | commits,
    agent_ran=st.booleans(),
    finished_at=maybe_moments,
)
entries = st.builds(
    make_merge,
    st.sampled_from([MergeState.REFUSED] * 5 + [MergeState.WITHDRAWN, MergeState.PARKED]),
    code=st.sampled_from(Refusal),
    head_sha=commits,
    approved_sha=commits,
    base_sha=st.sampled_from([None, BASE]),
    ended_at=maybe_moments,
)
policies = st.builds(
    lambda **changes: replace(POLICY, **changes),
    merge_type=st.sampled_from(["boss", None]),
    review_type=st.sampled_from(["reviewer", "reviewer", None]),
    max_review_rounds=st.integers(1, 4),
    max_fix_ci=st.integers(1, 4),
    max_rebases=st.integers(1, 4),
    max_tries=st.integers(1, 4),
    max_chain=st.sampled_from([1, 30]),
    ci_grace_s=st.sampled_from([0.0, 60.0]),
    settle_s=st.sampled_from([0.1, 30.0]),
)
rarely = st.sampled_from([False] * 7 + [True])
works = {
    "past": st.lists(tasks, max_size=6).map(tuple),
    "chain": st.sampled_from([0, 0, 0, 1, 30]),
    "today": st.sampled_from([0, 0, 0, 40]),
    "held_by": st.sampled_from([None] * 7 + ["ada"]),
    "reset_at": st.none() | moments,
}
pulls = st.builds(
    lambda reviews, head, labels, **changes: pull_facts(
        *reviews, head_sha=head, labels=labels, unmergeable_at=f"{head} {BASE}", **changes
    ),
    st.lists(reviews, max_size=5),
    commits,
    st.sampled_from([()] * 7 + [(HOLD_LABEL,)]),
    author=logins,
    state=st.sampled_from(["open"] * 7 + ["closed"]),
    draft=rarely,
    mergeable=st.sampled_from([True, True, False]),
    statuses=st.sampled_from([GREEN, GREEN, (), RED, PENDING, CANCELLED]),
    head_since=maybe_moments,
    unmergeable_since=maybe_moments,
    merges=st.lists(entries, max_size=4).map(tuple),
    **works,
)
issues = st.builds(
    issue_facts,
    assignees=st.lists(logins, max_size=3, unique=True).map(tuple),
    state=st.sampled_from(["open"] * 7 + ["closed"]),
    blockers=st.sampled_from([(), (), (3,)]),
    pulls=st.lists(pulls, max_size=2).map(tuple),
    ended=st.lists(st.builds(make_pull, author=logins, state=st.just("closed"), merged=st.booleans()), max_size=1).map(
        tuple
    ),
    **works,
)
situations: st.SearchStrategy[Facts] = st.one_of(pulls, pulls, issues)


def steps_of(kind: type, facts: Facts, policy: Policy) -> list[Any]:
    """Return the steps of one kind that a situation asks for."""
    return [step for step in decide(facts, policy).steps if isinstance(step, kind)]


@given(situations, policies)
def test_every_situation_has_one_decision_with_something_to_say(facts: Facts, policy: Policy) -> None:
    decision = decide(facts, policy)

    event(decision.rule)
    assert decision == decide(facts, policy)
    assert decision.why
    assert decision.steps


@given(pulls, policies)
def test_nothing_enters_a_lane_that_must_not_be_merged(facts: PullFacts, policy: Policy) -> None:
    for step in steps_of(Enqueue, facts, policy):
        event("enqueued")
        assert step.head_sha == facts.pull.head_sha
        assert facts.is_approved
        assert all(facts.speaks_of_head(review.commit_id) and review.official for review in facts.approvals)
        assert all(review.author.lower() != facts.pull.author.lower() for review in facts.approvals)
        assert facts.ci is Ci.GREEN or (facts.ci is Ci.NONE and not facts.awaits_ci(policy))
        assert facts.pull.mergeable
        assert facts.pull.is_open
        assert not facts.pull.draft
        assert facts.hold is None
        assert policy.merge_type is not None


@given(pulls, policies)
def test_nobody_reviews_their_own_work(facts: PullFacts, policy: Policy) -> None:
    author = facts.pull.author.lower()

    reviewers = [policy.logins[step.type] for step in steps_of(Start, facts, policy) if step.kind is Kind.REVIEW]
    asked = [step.login for step in steps_of(AskReview, facts, policy)]

    assert all(login.lower() != author for login in (*reviewers, *asked))


@given(pulls, policies)
def test_only_failed_checks_of_the_head_are_repaired(facts: PullFacts, policy: Policy) -> None:
    for step in steps_of(Start, facts, policy):
        if step.kind is Kind.FIX_CI:
            event("repaired")
            assert facts.ci is Ci.RED
            assert step.head_sha == facts.pull.head_sha


@given(situations, policies)
def test_every_task_is_of_a_type_that_exists_and_of_the_head(facts: Facts, policy: Policy) -> None:
    head = facts.pull.head_sha if isinstance(facts, PullFacts) else None
    number = facts.pull.number if isinstance(facts, PullFacts) else facts.issue.number

    for step in steps_of(Start, facts, policy):
        assert step.type in policy.logins
        assert (step.head_sha, step.number) == (head, number)


@given(situations, policies)
def test_what_is_begun_is_still_wanted_at_its_turn_if_nothing_changed(facts: Facts, policy: Policy) -> None:
    # Else the two would begin and withdraw it for ever.
    for step in steps_of(Start, facts, policy):
        event(step.kind)
        found = revise(
            kind=step.kind, type_name=step.type, head_sha=step.head_sha, by_hand=False, facts=facts, policy=policy
        )
        assert isinstance(found, Go), found


@given(situations, policies, st.sampled_from(Kind), st.sampled_from(["dev", "reviewer", "boss"]), st.none() | commits)
def test_every_turn_has_an_answer_and_nothing_wanted_in_its_place_is_unwanted(
    facts: Facts, policy: Policy, kind: Kind, type_name: str, head_sha: str | None
) -> None:
    found = revise(kind=kind, type_name=type_name, head_sha=head_sha, by_hand=False, facts=facts, policy=policy)

    if isinstance(found, Withdraw) and found.instead is not None:
        event(f"{found.instead.kind} in place of {kind}")
        about = facts.pulls if isinstance(facts, IssueFacts) else (facts,)
        assert any(found.instead in decide(pull, policy).steps for pull in about)


@given(situations, policies)
def test_nothing_is_begun_while_something_is_under_way_or_held_or_over(facts: Facts, policy: Policy) -> None:
    is_open = facts.pull.is_open if isinstance(facts, PullFacts) else facts.issue.is_open
    if facts.work.live or facts.work.open_merge or facts.hold or not is_open:
        assert all(isinstance(step, Wait) for step in decide(facts, policy).steps)


@given(situations, policies)
def test_no_agent_is_started_beyond_a_cap(facts: Facts, policy: Policy) -> None:
    if facts.work.chain >= policy.max_chain or facts.work.today >= policy.max_tasks_per_day:
        assert not steps_of(Start, facts, policy)
        assert not steps_of(AskReview, facts, policy)


@given(situations, policies)
def test_what_a_person_is_asked_has_a_cause_that_fits_into_a_key(facts: Facts, policy: Policy) -> None:
    for step in steps_of(AskPerson, facts, policy):
        event(step.cause)
        assert step.cause
        assert ":" not in step.cause
        assert step.sentence


@given(situations, policies, st.integers(1, 10_000))
def test_time_alone_never_begins_what_a_person_stopped(facts: Facts, policy: Policy, seconds: int) -> None:
    later = replace(facts, now=facts.now + timedelta(seconds=seconds))

    for step in steps_of(Start, later, policy):
        same = [t for t in facts.work.past if (t.kind, t.type) == (step.kind, step.type)]
        same = [t for t in same if step.head_sha is None or step.head_sha in {t.head_sha, t.head_before}]
        assert not same or same[-1].state is not State.CANCELLED
