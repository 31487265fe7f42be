"""What the forge has to show for a run to be a success."""

from dataclasses import replace
from typing import Any

import pytest

from pool.model import Kind
from tasks.forge_values import ReviewState
from tasks.proof import Proof, prove
from tasks.situation import Facts
from tests.helpers.situations import (
    BASE,
    HEAD,
    OLD,
    ago,
    approval,
    conflicting,
    issue_facts,
    make_pull,
    make_review,
    pull_facts,
    rejection,
    request,
)

STARTED = ago(100)
MOVERS = [Kind.ADDRESS_REVIEW, Kind.FIX_CI, Kind.REBASE, Kind.RESOLVE]


def proof(kind: Kind, before: Facts, after: Facts) -> Proof:
    """Prove a run of the usual account."""
    return prove(
        kind, login="reviewer" if kind is Kind.REVIEW else "dev", before=before, after=after, started_at=STARTED
    )


# --- implement -----------------------------------------------------------------------------------

NONE = issue_facts()
OPEN = issue_facts(pulls=(pull_facts(),))
MERGED = make_pull(state="closed", merged=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NONE, OPEN),
        (issue_facts(pulls=(pull_facts(head_sha=OLD),)), OPEN),
        (NONE, issue_facts(state="closed", ended=(MERGED,))),
        (issue_facts(pulls=(pull_facts(head_sha=OLD),)), issue_facts(ended=(MERGED,))),
        (NONE, issue_facts(pulls=(pull_facts(author="Dev"),))),
    ],
)
def test_implement_needs_a_new_or_moved_pull_request_of_the_account(before: Facts, after: Facts) -> None:
    found = proof(Kind.IMPLEMENT, before, after)

    assert found.ok
    assert "#21" in found.why


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (NONE, NONE, "dev has no pull request for #7"),
        (OPEN, OPEN, "no new commit was pushed to #21"),
        (NONE, issue_facts(pulls=(pull_facts(author="ada"),)), "dev has no pull request for #7"),
        (NONE, issue_facts(ended=(replace(MERGED, merged=False),)), "dev has no pull request for #7"),
        (issue_facts(ended=(MERGED,)), issue_facts(ended=(MERGED,)), "no new commit was pushed to #21"),
    ],
)
def test_implement_is_not_proven_by_anything_less(before: Facts, after: Facts, why: str) -> None:
    assert proof(Kind.IMPLEMENT, before, after) == Proof(ok=False, why=why)


# --- review --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [approval(), rejection(), approval("Reviewer"), approval(submitted_at=None)])
def test_a_review_needs_a_new_verdict_at_the_head(word: Any) -> None:
    assert proof(Kind.REVIEW, pull_facts(request()), pull_facts(word)).ok


def test_a_verdict_at_the_head_that_was_reviewed_counts_although_somebody_pushed_meanwhile() -> None:
    assert proof(Kind.REVIEW, pull_facts(), pull_facts(approval(), head_sha=OLD)).ok
    assert proof(Kind.REVIEW, pull_facts(head_sha=OLD), pull_facts(approval(), head_sha=HEAD)).ok


@pytest.mark.parametrize(
    "word",
    [
        approval("ada"),
        approval(commit_id="c" * 40),
        approval(submitted_at=ago(1000)),
        make_review("reviewer", ReviewState.COMMENT),
        make_review("reviewer", ReviewState.PENDING),
        request(),
    ],
)
def test_a_review_is_not_proven_by_anything_less(word: Any) -> None:
    found = proof(Kind.REVIEW, pull_facts(), pull_facts(word))

    assert not found.ok
    assert found.why


def test_a_verdict_that_was_there_before_proves_nothing() -> None:
    word = approval()

    assert not proof(Kind.REVIEW, pull_facts(word), pull_facts(word)).ok


# --- the head moved ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MOVERS)
def test_repairs_need_a_head_that_moved(kind: Kind) -> None:
    assert proof(kind, pull_facts(head_sha=OLD), pull_facts(head_sha=HEAD)).ok
    assert not proof(kind, pull_facts(), pull_facts()).ok


@pytest.mark.parametrize(("for_s", "ok"), [(1.0, True), (600.0, False)])
@pytest.mark.parametrize("kind", [Kind.REBASE, Kind.RESOLVE])
def test_a_rebase_needs_a_head_that_can_be_merged_or_is_still_checked(kind: Kind, for_s: float, *, ok: bool) -> None:
    assert proof(kind, pull_facts(head_sha=OLD), conflicting(for_s=for_s)).ok is ok


def test_a_rebase_that_was_merged_meanwhile_is_proven() -> None:
    after = conflicting(state="closed", merged=True)

    assert proof(Kind.REBASE, pull_facts(head_sha=OLD), after).ok


def test_that_the_old_head_could_not_be_merged_says_nothing_of_the_new_one() -> None:
    after = pull_facts(mergeable=False, unmergeable_at=f"{OLD} {BASE}", unmergeable_since=ago(600))

    assert proof(Kind.REBASE, pull_facts(head_sha=OLD), after).ok


# --- the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.CUSTOM, Kind.MERGE])
def test_what_goes_by_its_own_words_needs_no_proof(kind: Kind) -> None:
    assert proof(kind, pull_facts(), pull_facts()).ok


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.CUSTOM, Kind.MERGE}])
def test_facts_of_the_wrong_sort_prove_nothing(kind: Kind) -> None:
    wrong = pull_facts() if kind is Kind.IMPLEMENT else issue_facts()

    assert not proof(kind, wrong, wrong).ok
