"""Each answer of the forge to a merge or a push, and what the chain makes of it."""

from pathlib import Path

import pytest

from pool.errors import (
    BaseMoved,
    ForgeError,
    ForgeUnavailable,
    MergeConflict,
    MergeProtected,
    NotAccepted,
    NotAllowed,
    NotThere,
    StaleHead,
    StillChecking,
)
from pool.lanes import MergeState, Refusal
from pool.store import Store
from tasks.forge_values import Pull
from tasks.lease import StopRun, Why
from tasks.merge_record import HURRIED_LINKS
from tests.helpers.clock import Clock
from tests.helpers.merging import REPO, Chain, a_review, a_status, an_issue, make_chain, sha_of

OLD = "c" * 40


@pytest.fixture
def chain(tmp_path: Path, store: Store, clock: Clock) -> Chain:
    """Return a lane with one pull request in it, whose turn it is."""
    chain = make_chain(tmp_path, store, clock)
    chain.updater.is_green = True
    chain.forge.open()
    chain.enter()
    return chain


def fail(chain: Chain, call: str, *errors: ForgeError) -> None:
    """Have the forge answer the next calls with errors."""
    chain.forge.failures[call] = list(errors)


# --- the merge call ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "steps"),
    [
        (StaleHead("head out of date"), ["check", "merge", "check", "merge", "confirm", "care"]),
        (BaseMoved("merge push out of date"), ["check", "merge", "check", "merge", "confirm", "care"]),
        (StillChecking("Please try again later"), ["check", "merge", "settle", "merge", "confirm", "care"]),
        (ForgeUnavailable("read timed out"), ["check", "merge", "confirm", "check", "merge", "confirm", "care"]),
    ],
)
def test_what_time_or_fresh_facts_may_mend_is_tried_again(chain: Chain, error: ForgeError, steps: list[str]) -> None:
    fail(chain, "merge", error)

    assert chain.steps() == steps
    assert len(chain.forge.merged) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MergeConflict("the same line"), Refusal.CONFLICT),
        (MergeProtected("Not all required status checks are successful"), Refusal.PROTECTED),
        (NotAccepted("no such style"), Refusal.PROTECTED),
        (NotAllowed("no write access"), Refusal.NOT_ALLOWED),
        (NotThere("not found"), Refusal.NOT_ALLOWED),
    ],
)
def test_a_no_is_passed_on_in_the_words_of_the_forge(chain: Chain, error: ForgeError, code: Refusal) -> None:
    fail(chain, "merge", error)

    assert chain.steps() == ["check", "merge"]
    assert (chain.of().state, chain.of().code) == (MergeState.REFUSED, code)
    assert str(error) in chain.of().reason


@pytest.mark.parametrize("error", [MergeProtected(""), NotAllowed("branch not deleted"), MergeConflict("merged since")])
def test_a_no_to_what_is_merged_already_is_a_success(chain: Chain, error: ForgeError) -> None:
    chain.link()
    chain.forge.lost = [error]

    assert chain.steps() == ["merge", "care"]
    assert chain.of().state is MergeState.MERGED


def test_an_answer_that_was_lost_after_the_merge_does_not_merge_twice(chain: Chain) -> None:
    chain.forge.lost = [ForgeUnavailable("read timed out")]

    assert chain.steps() == ["check", "merge", "confirm", "care"]
    assert chain.forge.calls.count("merge") == 1


def test_an_answer_that_was_lost_and_a_forge_that_is_away_leave_it_parked(chain: Chain) -> None:
    chain.link()
    chain.forge.lost = [ForgeUnavailable("read timed out")]
    chain.link()
    fail(chain, "pull", ForgeUnavailable("no route"))

    assert chain.steps() == ["confirm"]
    chain.wait(10)
    assert chain.steps() == ["check", "care"]
    assert len(chain.forge.merged) == 1


def test_a_no_that_cannot_be_looked_into_is_confirmed(chain: Chain) -> None:
    chain.link()
    fail(chain, "merge", MergeProtected(""))
    fail(chain, "pull")
    chain.forge.before_merge = lambda: fail(chain, "pull", ForgeUnavailable("away"))
    chain.link()
    chain.forge.before_merge = lambda: None

    assert chain.steps()[0] == "confirm"


def test_what_depends_on_an_open_issue_is_refused_by_name(chain: Chain) -> None:
    """The forge's answer to that is an internal error, which looks like an answer that was lost."""
    chain.forge.issues[5] = an_issue(5)
    chain.forge.depends[1] = [5]
    fail(chain, "merge", ForgeUnavailable("500"))

    assert chain.steps() == ["check", "merge", "confirm"]
    assert (chain.of().code, chain.of().reason) == (Refusal.PROTECTED, "it depends on #5, which must be closed first")


def test_the_head_that_is_merged_is_the_one_that_was_judged(chain: Chain) -> None:
    chain.link()
    pushed = sha_of("pushed")
    chain.forge.before_merge = lambda: chain.forge.change(head_sha=pushed)
    chain.run()

    assert chain.forge.merged == []
    assert chain.of().code is Refusal.NOT_APPROVED


def test_a_head_that_was_pushed_and_approved_meanwhile_is_merged(chain: Chain) -> None:
    chain.link()
    pushed = sha_of("pushed")
    chain.forge.change(head_sha=pushed)
    chain.forge.reviews[1] = [a_review(commit_id=pushed)]
    chain.forge.statuses[pushed] = [a_status("success")]
    chain.run()

    assert chain.forge.merged == [(1, pushed)]
    assert (chain.of().head_sha, chain.of().approved_sha) == (pushed, pushed)


def test_a_pull_request_that_is_gone_is_closed(chain: Chain) -> None:
    del chain.forge.pulls[1]
    chain.run()

    assert chain.of().code is Refusal.CLOSED


# --- the update ----------------------------------------------------------------------------------


def behind(chain: Chain, base: str = OLD) -> str:
    """Let the base move; return the approved head."""
    head = chain.forge.pulls[1].head_sha
    chain.forge.change(merge_base=base)
    return head


def test_an_update_is_remembered_before_it_is_pushed(chain: Chain) -> None:
    approved = behind(chain)
    chain.link()
    chain.link()

    assert chain.updater.pushed == []
    assert chain.of().head_sha != approved
    assert (chain.of().approved_sha, chain.of().base_sha) == (approved, chain.forge.pulls[1].base_sha)

    chain.link()
    assert chain.updater.pushed == [chain.of().head_sha]


def test_one_update_after_another_keeps_the_approval(chain: Chain) -> None:
    approved = behind(chain)
    chain.updater.is_green = False
    chain.run()
    first = chain.forge.pulls[1].head_sha
    chain.forge.statuses[first] = [a_status("success")]
    chain.forge.move_base(sha_of("another"))
    chain.updater.is_green = True
    chain.wait(60)
    chain.run()

    assert len(chain.updater.pushed) == 2
    assert chain.of().approved_sha == approved
    assert chain.forge.merged == [(1, chain.updater.pushed[1])]


def test_an_approval_of_our_update_itself_holds_for_the_next_one(chain: Chain) -> None:
    """A forge that dismisses stale approvals has the reviewer approve the update, and then the base moves again."""
    behind(chain)
    for _ in range(3):
        chain.link()
    updated = chain.forge.pulls[1].head_sha
    chain.forge.reviews[1] = [a_review(commit_id=updated)]
    chain.forge.move_base(sha_of("another"))
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.of().approved_sha == updated


def test_an_update_that_the_base_has_overtaken_is_not_pushed_but_made_anew(chain: Chain) -> None:
    behind(chain)
    chain.link()
    chain.link()
    overtaken = chain.of().head_sha
    chain.forge.move_base(sha_of("another"))
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert len(chain.updater.pushed) == 1
    assert overtaken not in chain.updater.pushed


def test_a_second_update_that_the_base_has_overtaken_is_made_anew_from_the_first(chain: Chain) -> None:
    behind(chain)
    for _ in range(3):
        chain.link()
    chain.forge.move_base(sha_of("another"))
    chain.link()
    chain.link()
    chain.forge.move_base(sha_of("yet another"))
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert len(chain.updater.pushed) == 2


def test_a_push_that_somebody_overtook_is_not_made(chain: Chain) -> None:
    behind(chain)
    pushed = sha_of("pushed")
    chain.updater.before_push = lambda: chain.forge.change(head_sha=pushed)
    chain.run()

    assert chain.updater.pushed == []
    assert chain.of().code is Refusal.NOT_APPROVED
    assert chain.forge.pulls[1].head_sha == pushed


def test_an_approval_that_is_taken_back_before_the_push_stops_it(chain: Chain) -> None:
    behind(chain)
    chain.link()
    chain.link()
    chain.forge.reviews[1] = []
    chain.run()

    assert chain.updater.pushed == []
    assert chain.of().code is Refusal.NOT_APPROVED


@pytest.mark.parametrize("was_made", [False, True])
def test_a_push_whose_answer_was_lost_is_found_out_about(chain: Chain, was_made: bool) -> None:  # noqa: FBT001 - a case
    approved = behind(chain)
    (chain.updater.lost if was_made else chain.updater.failures).append(ForgeUnavailable("hung up"))
    chain.run()
    assert chain.of().state is MergeState.PARKED
    chain.wait(10)
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.updater.pushed == [chain.of().head_sha]
    assert chain.of().approved_sha == approved


@pytest.mark.parametrize("was_made", [False, True])
def test_the_push_of_a_second_update_whose_answer_was_lost_keeps_the_approval(chain: Chain, was_made: bool) -> None:  # noqa: FBT001 - a case
    """What the row remembers is then the second update, while the forge may still be at the first."""
    behind(chain)
    for _ in range(3):
        chain.link()
    chain.forge.move_base(sha_of("another"))
    (chain.updater.lost if was_made else chain.updater.failures).append(ForgeUnavailable("hung up"))
    chain.run()
    chain.wait(10)
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert len(chain.updater.pushed) == 2


def test_a_merge_that_is_cancelled_while_its_update_is_checked_is_not_pushed(chain: Chain) -> None:
    behind(chain)
    chain.link()
    chain.link()
    read = chain.forge.pull

    def reads(repo: str, number: int) -> Pull:
        chain.orders.given = StopRun(reason="cancelled by ann", why=Why.CANCEL)
        return read(repo, number)

    chain.forge.pull = reads  # type: ignore[method-assign]
    chain.link()

    assert chain.updater.pushed == []
    assert chain.of().state is MergeState.WITHDRAWN


def test_a_head_branch_that_takes_no_push_cannot_be_updated(chain: Chain) -> None:
    behind(chain)
    chain.updater.failures.append(NotAllowed("failed to push some refs"))
    chain.run()

    assert chain.of().code is Refusal.CANNOT_UPDATE
    assert "failed to push some refs" in chain.of().reason


def test_a_forge_that_does_not_notice_a_push_is_not_pushed_to_in_a_hurry_for_ever(chain: Chain) -> None:
    """After a reopening the forge may show an old head, while the branch has had our update for long."""
    head = behind(chain)
    push = chain.updater.push

    def unnoticed(pull: Pull, sha: str) -> bool:
        done = push(pull, sha)
        chain.forge.change(head_sha=head, merge_base=OLD)
        return done

    chain.updater.push = unnoticed  # type: ignore[method-assign]

    assert len(chain.run()) <= HURRIED_LINKS + 3
    assert chain.of().state is MergeState.PARKED


def test_a_fork_is_not_ours_to_update(chain: Chain) -> None:
    behind(chain)
    chain.forge.change(is_fork=True)
    chain.run()

    assert (chain.of().code, chain.updater.pushed) == (Refusal.CANNOT_UPDATE, [])
    assert "fork" in chain.of().reason


def test_a_conflict_that_git_finds_is_one_at_once(chain: Chain) -> None:
    behind(chain)
    chain.forge.change(mergeable=False)
    chain.updater.conflicts = True

    assert chain.steps() == ["check", "update"]
    assert chain.of().code is Refusal.CONFLICT


def test_an_update_that_turns_the_checks_red_is_not_merged(chain: Chain) -> None:
    behind(chain)
    chain.updater.is_green = False
    chain.run()
    chain.forge.statuses[chain.forge.pulls[1].head_sha] = [a_status("failure")]
    chain.wait(60)
    chain.run()

    assert (chain.of().code, chain.forge.merged) == (Refusal.RED, [])


# --- after the merge -----------------------------------------------------------------------------


def test_an_issue_that_cannot_be_read_is_no_reason_to_stop(chain: Chain) -> None:
    chain.forge.change(body="closes #404")
    chain.run()

    assert chain.of().state is MergeState.MERGED


def test_the_account_may_not_read(chain: Chain) -> None:
    fail(chain, "pull", NotAllowed("token not accepted"))
    chain.run()

    assert (chain.of().code, chain.of().reason) == (Refusal.NOT_ALLOWED, "token not accepted")


def test_an_answer_of_no_use_is_asked_for_again(chain: Chain) -> None:
    fail(chain, "pull", ForgeError("not JSON"))
    chain.run()

    assert chain.of().state is MergeState.PARKED
    assert "not JSON" in chain.of().reason


def test_its_trail_tells_the_whole_story(chain: Chain) -> None:
    behind(chain)
    chain.run()

    with chain.engine.store.reading() as tx:
        trail = [step.what for step in tx.list_trail(REPO, [1])]
    assert trail == ["queued", "check", "update", "update", "check", "merge", "confirm", "merged"]
