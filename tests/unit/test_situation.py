"""What is derived from the facts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.lanes import MergeState
from pool.model import Kind
from pool.states import State
from tasks.forge_values import Ci, ReviewState
from tasks.settings import Settings
from tasks.situation import HOLD_LABEL, Policy
from tests.helpers.config import type_table, write_config
from tests.helpers.situations import (
    BASE,
    GREEN,
    HEAD,
    OLD,
    PENDING,
    POLICY,
    ago,
    approval,
    conflicting,
    issue_facts,
    make_issue,
    make_merge,
    make_past,
    make_review,
    pull_facts,
    rejection,
    request,
)

MIDDLE = "c" * 40


# --- approval ------------------------------------------------------------------------------------


def test_an_approval_of_the_head_counts() -> None:
    assert pull_facts(approval()).is_approved


@pytest.mark.parametrize("changes", [{"commit_id": OLD}, {"official": False}, {"dismissed": True}, {"author": "Dev"}])
def test_an_approval_of_another_head_or_without_weight_or_of_oneself_does_not_count(changes: dict[str, Any]) -> None:
    assert not pull_facts(replace(approval(), **changes)).is_approved


def test_the_last_word_of_each_reviewer_counts() -> None:
    assert pull_facts(rejection(), approval()).is_approved
    assert not pull_facts(approval(), rejection()).is_approved
    assert not pull_facts(rejection("ada"), approval()).is_approved


def test_a_comment_or_a_request_takes_no_word_back() -> None:
    assert pull_facts(approval(), make_review("reviewer", ReviewState.COMMENT), request()).is_approved


def test_an_approval_goes_on_when_the_chain_took_the_base_in_and_with_nobody_elses_update() -> None:
    ours = make_merge(MergeState.PARKED, head_sha=HEAD, approved_sha=OLD, base_sha=BASE)
    twice = make_merge(MergeState.PARKED, head_sha=OLD, approved_sha=MIDDLE, base_sha=BASE)

    assert pull_facts(approval(commit_id=OLD), merges=(ours,)).is_approved
    assert pull_facts(approval(commit_id=MIDDLE), merges=(twice, ours)).is_approved
    assert not pull_facts(approval(commit_id=OLD), merges=(replace(ours, base_sha=None),)).is_approved


# --- changes that are wanted ---------------------------------------------------------------------


def test_changes_are_outstanding_until_somebody_worked_on_the_head() -> None:
    assert pull_facts(rejection()).outstanding
    assert not pull_facts(rejection(commit_id=OLD)).outstanding
    assert pull_facts(rejection(commit_id=OLD)).requests_for_changes


@pytest.mark.parametrize(("kind", "count"), [(Kind.REBASE, 1), (Kind.RESOLVE, 1), (Kind.ADDRESS_REVIEW, 0)])
def test_a_rebase_works_on_no_review(kind: Kind, count: int) -> None:
    done = make_past(kind, state=State.SUCCEEDED, head_before=OLD, head_after=HEAD)

    assert len(pull_facts(rejection(commit_id=OLD), past=(done,)).outstanding) == count


def test_rebases_that_lead_in_a_circle_are_walked_once() -> None:
    there = make_past(Kind.REBASE, head_before=OLD, head_after=HEAD)
    back = make_past(Kind.REBASE, head_before=HEAD, head_after=OLD)

    assert not pull_facts(rejection(commit_id=MIDDLE), past=(there, back)).outstanding


# --- who was asked, and who has spoken -----------------------------------------------------------


def test_who_was_asked_is_asked_until_they_say_something() -> None:
    assert pull_facts(request(), request("ada")).asked == ("reviewer", "ada")
    assert pull_facts(request(), approval()).asked == ()
    assert pull_facts(approval(), request("Reviewer")).asked == ("Reviewer",)


def test_what_is_written_and_not_submitted_is_no_answer() -> None:
    assert pull_facts(request(), make_review("reviewer", ReviewState.PENDING)).asked == ("reviewer",)


@pytest.mark.parametrize(
    ("word", "has"),
    [
        (approval("Reviewer"), True),
        (rejection(), True),
        (rejection(commit_id=OLD), False),
        (approval(dismissed=True), False),
        (make_review("reviewer", ReviewState.COMMENT), False),
    ],
)
def test_a_verdict_says_yes_or_no_to_the_head(word: Any, *, has: bool) -> None:
    assert pull_facts(word).has_verdict("reviewer") is has


def test_rounds_are_counted_for_each_reviewer_since_a_person_acted() -> None:
    words = (rejection(submitted_at=ago(90)), rejection("Reviewer", submitted_at=ago(30)), rejection("ada"))

    assert pull_facts(*words).rounds("reviewer") == 2
    assert pull_facts(*words, reset_at=ago(60)).rounds("reviewer") == 1


# --- checks and conflicts ------------------------------------------------------------------------


@pytest.mark.parametrize(("for_s", "is_conflict"), [(29.0, False), (30.0, True)])
def test_what_cannot_be_merged_for_long_enough_conflicts(for_s: float, *, is_conflict: bool) -> None:
    assert conflicting(for_s=for_s).conflicts(POLICY) is is_conflict


@pytest.mark.parametrize("changes", [{"mergeable": True}, {"base_sha": OLD}, {"unmergeable_since": None}])
def test_what_can_be_merged_or_was_said_of_another_base_is_no_conflict(changes: dict[str, Any]) -> None:
    assert not conflicting(**changes).conflicts(POLICY)


@pytest.mark.parametrize(("since", "awaits"), [(59.0, True), (60.0, False), (None, True)])
def test_a_head_without_checks_is_given_some_time(since: float | None, *, awaits: bool) -> None:
    facts = pull_facts(statuses=(), head_since=None if since is None else ago(since))

    assert facts.awaits_ci(POLICY) is awaits


def test_checks_that_run_are_awaited_and_those_that_ended_are_not() -> None:
    assert pull_facts(statuses=PENDING).awaits_ci(POLICY)
    assert not pull_facts(statuses=GREEN, head_since=None).awaits_ci(POLICY)
    assert not pull_facts(statuses=(), head_since=None).awaits_ci(replace(POLICY, ci_grace_s=0))


def test_our_own_reports_are_no_checks() -> None:
    assert pull_facts(statuses=(replace(GREEN[0], context="forgepool/review", state="failure"),)).ci is Ci.NONE


# --- holds ---------------------------------------------------------------------------------------


def test_a_person_holds_by_order_or_by_label() -> None:
    held = (HOLD_LABEL,)

    assert pull_facts(held_by="ada").hold == "held by ada"
    assert pull_facts(labels=held).hold
    assert pull_facts(issue=make_issue(labels=held)).hold
    assert issue_facts(held_by="ada").hold
    assert issue_facts(labels=held).hold
    assert pull_facts().hold is None
    assert issue_facts().hold is None


# --- the policy ----------------------------------------------------------------------------------


def test_the_policy_is_read_from_the_settings(tmp_path: Path) -> None:
    types = {"dev": type_table("dev", forge_user="Dev-Bot"), "reviewer": type_table("reviewer")}
    settings = Settings.load(write_config(tmp_path, types=types, max_fix_ci=7, ci_grace_s=5))

    policy = Policy.of(settings)

    assert (policy.max_fix_ci, policy.ci_grace_s, policy.max_tries) == (7, 5, 3)
    assert policy.type_of("dev-BOT") == "dev"
    assert policy.type_of("ada") is None
    assert policy.logins["dev"] == "Dev-Bot"
    assert (policy.review_type, policy.merge_type) == ("reviewer", None)


def test_the_head_is_what_the_builders_take_it_for() -> None:
    assert pull_facts().pull.head_sha == HEAD
