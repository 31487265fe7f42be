"""The table that judges a merge: a test for each row, and for what comes before what."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pool.lanes import Refusal
from pool.work import Work
from tasks.forge_values import ReviewState
from tasks.merge_rules import (
    CannotMerge,
    Elsewhere,
    Merged,
    NeedsUpdate,
    NotYet,
    Ready,
    Verdict,
    closing_numbers,
    judge,
    pause_s,
)
from tests.helpers.merging import BASE, HEAD, POLICY, REPO, TIP, a_merge, a_review, a_status, facts_of

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
CHANGES = ReviewState.REQUEST_CHANGES


def verdict_of(**changes: Any) -> Verdict:
    """Judge a pull request that differs in something from one that may be merged."""
    merge = changes.pop("merge", a_merge(NOW))
    policy = changes.pop("policy", POLICY)
    return judge(facts_of(NOW, **changes), policy, merge)


def work(**changes: Any) -> Work:
    """Return what is known of it."""
    return Work(repo=REPO, number=1, **changes)


def test_what_is_approved_green_and_up_to_date_may_be_merged_at_its_head() -> None:
    assert verdict_of() == Ready(head_sha=HEAD)


def test_what_is_merged_is_merged_whatever_else_is_said_of_it() -> None:
    assert verdict_of(merged=True, state="closed", merge_commit_sha=TIP, reviews=(), draft=True) == Merged(sha=TIP)


def test_what_goes_into_another_branch_belongs_into_another_lane() -> None:
    assert verdict_of(base_ref="next") == Elsewhere(base="next")


@pytest.mark.parametrize(
    ("code", "changes", "words"),
    [
        (Refusal.CLOSED, {"state": "closed"}, "closed"),
        (Refusal.NOT_CONFIGURED, {"policy": replace(POLICY, merge_type=None)}, "merge_type"),
        (Refusal.DRAFT, {"draft": True}, "draft"),
        (Refusal.HELD, {"labels": ("forgepool/hold",)}, "label forgepool/hold"),
        (Refusal.HELD, {"work": work(held_by="ann")}, "held by ann"),
        (Refusal.CHANGES_REQUESTED, {"reviews": (a_review(), a_review(CHANGES, author="bob", id=2))}, "bob asked"),
        (Refusal.CHANGES_REQUESTED, {"reviews": (a_review(CHANGES, commit_id=TIP),)}, "ann asked"),
        (Refusal.NOT_APPROVED, {"reviews": ()}, HEAD[:10]),
        (Refusal.NOT_APPROVED, {"reviews": (a_review(dismissed=True),)}, "nobody"),
        (Refusal.NOT_APPROVED, {"reviews": (a_review(official=False),)}, "nobody whose word counts"),
        (Refusal.NOT_APPROVED, {"reviews": (a_review(author="dev"),)}, "nobody"),
        (Refusal.NOT_APPROVED, {"reviews": (a_review(commit_id=TIP),)}, "nobody"),
        (Refusal.NOT_APPROVED, {"reviews": (a_review(ReviewState.COMMENT),)}, "nobody"),
        (Refusal.RED, {"statuses": (a_status("failure"), a_status("pending", context="b"))}, "ci failed"),
        (Refusal.CANCELLED_CI, {"statuses": (a_status("failure", description="Has been cancelled"),)}, "cancelled"),
        (
            Refusal.CONFLICT,
            {
                "mergeable": False,
                "work": work(unmergeable_since=NOW - timedelta(seconds=30), unmergeable_at=f"{HEAD} {TIP}"),
            },
            f"conflicts with {BASE}",
        ),
    ],
)
def test_each_refusal_has_its_code_and_says_what_is_in_the_way(
    code: Refusal, changes: dict[str, Any], words: str
) -> None:
    verdict = verdict_of(**changes)

    assert isinstance(verdict, CannotMerge)
    assert verdict.code is code
    assert words in verdict.sentence


def test_checks_that_run_are_waited_for_without_a_guess_how_long() -> None:
    verdict = verdict_of(statuses=(a_status("success"), a_status("pending", context="slow")))

    assert verdict == NotYet(why=f"checks of its head {HEAD[:10]} have not ended", look_after_s=None)


def test_a_word_of_a_later_forge_for_a_check_is_no_success() -> None:
    assert isinstance(verdict_of(statuses=(a_status("on-fire"),)), NotYet)


def test_a_head_without_checks_gets_the_rest_of_its_grace() -> None:
    seen = work(head_sha=HEAD, head_since=NOW - timedelta(seconds=20))

    verdict = verdict_of(statuses=(), work=seen)

    assert isinstance(verdict, NotYet)
    assert verdict.look_after_s == 40


def test_a_head_that_got_no_checks_within_its_grace_has_none() -> None:
    seen = work(head_sha=HEAD, head_since=NOW - timedelta(seconds=60))

    assert verdict_of(statuses=(), work=seen) == Ready(head_sha=HEAD)


def test_our_own_report_is_no_check() -> None:
    assert isinstance(verdict_of(statuses=(a_status("success", context="forgepool/review"),)), NotYet)


def test_one_that_is_behind_takes_the_base_in_before_it_is_asked_whether_it_can_be_merged() -> None:
    assert isinstance(verdict_of(merge_base="c" * 40, mergeable=False), NeedsUpdate)


def test_checks_are_waited_for_before_an_update() -> None:
    assert isinstance(verdict_of(merge_base="c" * 40, statuses=(a_status("pending"),)), NotYet)


def test_a_forge_that_still_checks_gets_the_rest_of_its_time() -> None:
    seen = work(unmergeable_since=NOW - timedelta(seconds=10), unmergeable_at=f"{HEAD} {TIP}")

    verdict = verdict_of(mergeable=False, work=seen)

    assert isinstance(verdict, NotYet)
    assert (verdict.look_after_s, verdict.may_settle) == (20, True)


def test_that_another_head_conflicted_says_nothing_of_this_one() -> None:
    old = work(unmergeable_since=NOW - timedelta(days=1), unmergeable_at=f"{TIP} {TIP}")

    verdict = verdict_of(mergeable=False, work=old)

    assert isinstance(verdict, NotYet)
    assert verdict.look_after_s == POLICY.settle_s


def test_an_approval_holds_for_what_our_updates_made_of_the_approved_commit() -> None:
    older = a_merge(NOW, id=1, head_sha="d" * 40, approved_sha="c" * 40, base_sha=TIP)
    newer = a_merge(NOW, id=2, head_sha=HEAD, approved_sha="d" * 40, base_sha=TIP)

    for commit in ("c" * 40, "d" * 40, HEAD):
        assert verdict_of(reviews=(a_review(commit_id=commit),), work=work(merges=(older, newer))) == Ready(
            head_sha=HEAD
        )


def test_an_approval_does_not_hold_for_what_somebody_pushed_on_top() -> None:
    entered = a_merge(NOW, head_sha=HEAD, approved_sha=TIP, base_sha=None)

    verdict = verdict_of(reviews=(a_review(commit_id=TIP),), work=work(merges=(entered,)))

    assert isinstance(verdict, CannotMerge)


def test_pauses_grow_with_the_time_that_it_takes() -> None:
    pauses = [pause_s(begun_at=NOW, now=NOW + timedelta(seconds=s)) for s in (0, 40, 100_000)]

    assert pauses == [5, 10, 120]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Closes #7", (7,)),
        ("Closes #7.", (7,)),
        ("This fixes: #7, resolved #8; CLOSE #9)", (7, 8, 9)),
        ("closes #7, closes #7", (7,)),
        ("(fix #7)", (7,)),
        ("see #7", ()),
        ("discloses #7", ()),
        ("closes #7a", ()),
        ("closes acme/other#7", ()),
        ("closes #7-8", ()),
        ("closes #0", ()),
        ("closes\n#7", (7,)),
    ],
)
def test_a_text_names_what_it_closes_in_the_words_of_the_forge(text: str, numbers: tuple[int, ...]) -> None:
    assert closing_numbers(text) == numbers
