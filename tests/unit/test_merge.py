"""Lanes and links on a real store: what follows what, what is written of it, and what is mended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import ForgeUnavailable, NotAllowed
from pool.lanes import MergeState, MergeStep, Refusal
from pool.model import Kind, Request
from pool.states import Move, State
from pool.store import Rejected, Store
from tasks import merge
from tasks.forge_values import ReviewState
from tasks.lease import StopRun, Why
from tasks.merge_record import HURRIED_LINKS, MAX_LOST
from tests.helpers.clock import Clock
from tests.helpers.merging import (
    BASE,
    REPO,
    Chain,
    a_review,
    a_status,
    an_issue,
    make_chain,
    sha_of,
)

SECOND = "c" * 40


@pytest.fixture
def chain(tmp_path: Path, store: Store, clock: Clock) -> Chain:
    """Return two instances that merge, and a forge without pull requests."""
    return make_chain(tmp_path, store, clock)


# --- the way through -----------------------------------------------------------------------------


def test_an_approved_pull_request_is_merged_link_by_link(chain: Chain) -> None:
    head = chain.forge.open().head_sha
    chain.enter()

    assert chain.steps() == ["check", "merge", "confirm", "care"]
    assert chain.forge.merged == [(1, head)]
    assert (chain.of().state, chain.of().merge_sha) == (MergeState.MERGED, chain.forge.pulls[1].merge_commit_sha)


def test_every_link_chooses_its_instance_anew(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.run()

    with chain.engine.store.reading() as tx:
        tasks = tx.list_tasks(newest_first=False)
    assert [task.instance for task in tasks] == ["boss-a", "boss-b", "boss-a", "boss-b"]
    assert [task.rule for task in tasks] == ["merge-check", "merge-merge", "merge-confirm", "merge-care"]
    assert {task.state for task in tasks} == {State.SUCCEEDED}


def test_a_lane_goes_in_the_order_of_approval(chain: Chain) -> None:
    for number in (1, 2, 3):
        chain.forge.open(number)
    chain.updater.is_green = True
    early = chain.clock()
    chain.clock.advance(10)
    chain.enter(1)
    chain.enter(2)
    chain.enter(3, approved_at=early)
    chain.run()

    # The first had begun before the third was heard of.
    assert [number for number, _ in chain.forge.merged] == [1, 3, 2]


def test_the_second_of_a_lane_takes_in_what_the_first_made_of_the_base(chain: Chain) -> None:
    chain.forge.open(1)
    approved = chain.forge.open(2).head_sha
    chain.enter(1)
    chain.enter(2)
    chain.run()
    updated = chain.forge.pulls[2].head_sha

    assert updated != approved
    assert chain.updater.pushed == [updated]
    assert chain.of(2).state is MergeState.PARKED
    assert "may still begin" in chain.of(2).reason

    chain.forge.statuses[updated] = [a_status("success")]
    chain.wait(60)
    chain.run()

    assert chain.forge.merged[-1] == (2, updated)
    assert chain.of(2).approved_sha == approved


def test_lanes_of_other_branches_go_at_the_same_time(chain: Chain) -> None:
    chain.forge.open(1)
    chain.forge.open(2, base_ref="next")
    chain.enter(1)
    chain.enter(2, "next")

    with chain.engine.store.reading() as tx:
        assert [m.state for m in tx.list_merges(only_open=True)] == [MergeState.ACTIVE, MergeState.ACTIVE]


def test_who_is_in_the_lane_stays_where_it_is(chain: Chain) -> None:
    chain.forge.open(1)
    chain.enter(1)
    before = chain.of()
    chain.enter(1)

    assert chain.of() == before
    assert len(chain.run()) == 4


def test_one_that_waits_and_goes_into_another_branch_changes_its_lane(chain: Chain) -> None:
    chain.forge.open(1)
    chain.forge.open(2, base_ref="next")
    chain.enter(1)
    chain.enter(2)
    chain.enter(2, "next")

    assert (chain.of(2).base, chain.of(2).state) == ("next", MergeState.ACTIVE)


def test_one_whose_turn_it_is_and_that_goes_into_another_branch_leaves_its_lane(chain: Chain) -> None:
    chain.forge.open(1)
    chain.forge.open(2)
    chain.enter(1)
    chain.enter(2)
    chain.forge.change(1, base_ref="next")
    chain.run()

    assert (chain.of(1).state, chain.of(1).reason) == (MergeState.WITHDRAWN, "it goes into next now, not into main")
    assert [number for number, _ in chain.forge.merged] == [2]


# --- waiting -------------------------------------------------------------------------------------


def test_one_that_waits_for_checks_keeps_its_lane(chain: Chain) -> None:
    head = chain.forge.open(1).head_sha
    chain.forge.open(2)
    chain.forge.statuses[head] = [a_status("pending")]
    chain.enter(1)
    chain.enter(2)

    assert chain.steps() == ["check"]
    assert [chain.of(n).state for n in (1, 2)] == [MergeState.PARKED, MergeState.WAITING]

    chain.forge.statuses[head] = [a_status("success")]
    chain.wait(4)
    assert chain.steps() == []
    chain.wait(1)
    assert chain.steps()[:4] == ["check", "merge", "confirm", "care"]


def test_a_webhook_hurries_one_that_waits(chain: Chain) -> None:
    head = chain.forge.open().head_sha
    chain.forge.statuses[head] = [a_status("pending")]
    chain.enter()
    chain.run()
    chain.forge.statuses[head] = [a_status("success")]
    with chain.engine.store.writing() as tx:
        tx.hurry_merge(REPO, 1)
    chain.wait(0)
    chain.run()

    assert chain.of().state is MergeState.MERGED


def test_what_waits_for_too_long_is_refused_and_the_next_goes(chain: Chain) -> None:
    head = chain.forge.open(1).head_sha
    chain.forge.open(2)
    chain.forge.statuses[head] = [a_status("pending")]
    chain.enter(1)
    chain.enter(2)
    chain.run()
    chain.wait(7200)
    chain.run()

    assert (chain.of(1).state, chain.of(1).code) == (MergeState.REFUSED, Refusal.TOO_LONG)
    assert "have not ended" in chain.of(1).reason
    assert [number for number, _ in chain.forge.merged] == [2]


def test_waiting_for_others_is_not_held_against_it(chain: Chain) -> None:
    first, second = chain.forge.open(1).head_sha, chain.forge.open(2).head_sha
    chain.forge.statuses[first] = chain.forge.statuses[second] = [a_status("pending")]
    chain.enter(1)
    chain.enter(2)
    chain.run()
    chain.wait(7200)
    chain.run()

    assert chain.of(2).state is MergeState.PARKED


def test_a_forge_that_makes_up_its_mind_within_seconds_is_waited_for_on_the_spot(chain: Chain) -> None:
    chain.forge.open(mergeable=False)
    chain.enter()
    chain.link()
    begun = chain.clock()
    sleep = chain.clock.advance

    def settles(seconds: float) -> None:
        sleep(seconds)
        chain.forge.change(mergeable=(chain.clock() - begun).total_seconds() >= 2)

    chain.clock.advance = settles  # type: ignore[method-assign]

    assert chain.steps() == ["settle", "merge", "confirm", "care"]


def test_one_of_which_the_forge_says_no_for_long_enough_conflicts(chain: Chain) -> None:
    chain.forge.open(mergeable=False)
    chain.enter()

    assert chain.steps() == ["check", "settle"]
    assert chain.of().state is MergeState.PARKED
    chain.wait(30)
    assert chain.steps() == ["check"]
    assert (chain.of().state, chain.of().code) == (MergeState.REFUSED, Refusal.CONFLICT)


def test_a_forge_that_is_away_is_asked_again_ever_more_rarely(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    waits = []
    for _ in range(8):
        chain.forge.failures["pull"] = [ForgeUnavailable("no route")]
        chain.run()
        look_at = chain.of().look_at
        assert look_at is not None
        waits.append((look_at - chain.clock()).total_seconds())
        chain.wait(waits[-1])

    assert waits == sorted(waits)
    assert waits[0] == 5
    chain.run()
    assert chain.of().state is MergeState.MERGED


def test_what_fails_again_and_again_is_not_tried_in_a_hurry_for_ever(chain: Chain) -> None:
    """A forge whose answers contradict each other would otherwise keep two instances busy day and night."""
    chain.forge.open()
    chain.forge.failures["merge"] = [ForgeUnavailable("internal error") for _ in range(100)]
    chain.enter()

    assert len(chain.run()) <= HURRIED_LINKS + 3
    assert chain.of().state is MergeState.PARKED


def test_one_whose_base_never_rests_is_refused_in_the_end(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for round_ in range(60):
        chain.forge.move_base(sha_of("base", str(round_)))
        chain.clock.advance(200)
        chain.link()
        merge.due(chain.engine)

    assert chain.of().code is Refusal.TOO_LONG


# --- refusals ------------------------------------------------------------------------------------


def test_a_refusal_is_told_and_looked_at_and_lets_the_next_go(chain: Chain) -> None:
    chain.forge.open(1, draft=True)
    chain.forge.open(2)
    chain.enter(1)
    chain.enter(2)
    chain.run()

    assert (chain.of(1).state, chain.of(1).code, chain.of(1).reason) == (
        MergeState.REFUSED,
        Refusal.DRAFT,
        "it is a draft",
    )
    assert chain.of(2).state is MergeState.MERGED
    chain.clock.advance(60)
    with chain.engine.store.reading() as tx:
        assert (REPO, 1) in [(look.repo, look.number) for look in tx.due_looks()]
        assert [(step.what, step.why) for step in tx.list_trail(REPO, [1])][-1] == ("refused", "it is a draft")
        report = tx.effect(f"report:{REPO}#1")
    assert report is not None
    assert report.done_at is None


def test_one_refused_may_enter_again(chain: Chain) -> None:
    chain.forge.open(draft=True)
    chain.enter()
    chain.run()
    chain.forge.change(draft=False)
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED


def test_without_a_token_nothing_is_merged_and_a_person_is_told_what_is_missing(chain: Chain) -> None:
    chain.forge.open()
    chain.has_token = False
    chain.enter()
    chain.run()

    assert (chain.of().code, chain.forge.calls) == (Refusal.NOT_CONFIGURED, [])
    assert "token_file" in chain.of().reason


def test_without_anybody_who_merges_everybody_in_the_lane_is_told(chain: Chain) -> None:
    chain.forge.open()
    with chain.engine.store.writing() as tx:
        for name in ("boss-a", "boss-b"):
            tx.set_instance_state(name, "removed")  # type: ignore[arg-type]
        submitted = merge.enter(chain.engine, tx, REPO, BASE, 1, head_sha=SECOND, approved_at=chain.clock(), by="test")

    assert [type(one) for one in submitted] == [Rejected]
    assert chain.of().code is Refusal.NOT_CONFIGURED
    assert "no instance of type 'boss'" in chain.of().reason


def test_a_chain_that_runs_out_of_instances_waits_for_new_ones(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()
    chain.link()
    assert chain.forge.merged
    with chain.engine.store.writing() as tx:
        tx.set_instance_state("boss-a", "removed")  # type: ignore[arg-type]
    chain.link()
    with chain.engine.store.writing() as tx:
        tx.set_instance_state("boss-b", "removed")  # type: ignore[arg-type]
    chain.run()
    chain.wait(600)
    with chain.engine.store.writing() as tx:
        tx.add_instance("boss-c", "boss")
    chain.wait(600)
    chain.run()

    assert chain.of().state is MergeState.MERGED


# --- crashes and other people --------------------------------------------------------------------


@pytest.mark.parametrize("step", ["check", "update", "settle", "merge", "confirm", "care"])
def test_a_link_whose_worker_dies_before_it_is_recorded_is_done_again(chain: Chain, step: str) -> None:
    chain.updater.is_green = True
    chain.forge.open(merge_base=SECOND)
    chain.enter()
    while (claimed := chain.claim()) is not None:
        task = claimed.task
        done = merge.run_link(chain.engine, claimed, chain.orders, opened=chain.opened)
        if step == "settle" and task.request.step is MergeStep.CHECK:
            chain.forge.change(mergeable=False)
        if task.request.step is MergeStep.SETTLE:
            chain.forge.change(mergeable=True)
        if task.request.step == step and not task.interruptions:
            done = replace(done, move=Move.INTERRUPT)
        chain.record(claimed, done)
        chain.wait(0)

    assert [number for number, _ in chain.forge.merged] == [1]
    assert len(chain.updater.pushed) == 1
    assert chain.of().state is MergeState.MERGED


def test_a_link_that_others_have_overtaken_does_nothing(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    claimed = chain.claim()
    assert claimed is not None
    with chain.engine.store.writing() as tx:
        tx.begin_link(1, MergeStep.CHECK)
    done = merge.run_link(chain.engine, claimed, chain.orders, opened=chain.opened)
    chain.record(claimed, done)

    assert (done.move, chain.forge.calls) == (Move.SUCCEED, [])
    assert chain.of().link == 2


def test_what_a_link_found_does_not_count_once_others_have_gone_on(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    claimed = chain.claim()
    assert claimed is not None
    done = merge.run_link(chain.engine, claimed, chain.orders, opened=chain.opened)
    with chain.engine.store.writing() as tx:
        merge.leave(chain.engine, tx, REPO, 1, state=MergeState.WITHDRAWN, reason="closed")
    chain.record(claimed, done)

    assert (chain.of().state, chain.run()) == (MergeState.WITHDRAWN, [])


def test_a_cancelled_link_takes_its_merge_out_of_the_lane(chain: Chain) -> None:
    chain.forge.open(1)
    chain.forge.open(2)
    chain.enter(1)
    chain.enter(2)
    with chain.engine.store.writing() as tx:
        tx.cancel(1, by="ann")
    merge.due(chain.engine)
    chain.run()

    assert (chain.of(1).state, chain.of(1).reason) == (MergeState.WITHDRAWN, "cancelled by ann")
    assert [number for number, _ in chain.forge.merged] == [2]


def test_a_cancelled_link_after_the_merge_leaves_it_merged(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for _ in range(3):
        chain.link()
    with chain.engine.store.writing() as tx:
        tx.cancel(4, by="ann")
    merge.due(chain.engine)

    assert (chain.of().state, chain.of().reason) == (MergeState.MERGED, "cancelled by ann")
    assert chain.of().merge_sha == chain.forge.pulls[1].merge_commit_sha


def test_what_fails_after_the_merge_is_no_refusal(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for _ in range(3):
        chain.link()
    chain.forge.failures["pull"] = [NotAllowed("token not accepted")]
    chain.run()

    assert (chain.of().state, chain.of().code) == (MergeState.MERGED, None)
    assert "token not accepted" in chain.of().reason


def test_a_running_link_that_is_cancelled_takes_its_merge_out_of_the_lane(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.orders.given = StopRun(reason="cancelled by ann", why=Why.CANCEL)
    chain.link()

    assert (chain.of().state, chain.of().reason) == (MergeState.WITHDRAWN, "cancelled by ann")
    with chain.engine.store.reading() as tx:
        assert tx.task(1).state is State.CANCELLED


def test_what_is_cancelled_while_the_forge_merges_it_is_followed_up_all_the_same(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()

    def cancels() -> None:
        chain.orders.given = StopRun(reason="cancelled by ann", why=Why.CANCEL)

    chain.forge.before_merge = cancels
    chain.link()
    chain.orders.given = None

    assert chain.steps() == ["confirm", "care"]
    assert chain.of().state is MergeState.MERGED


def test_a_shutdown_before_the_forge_is_asked_to_merge_puts_it_off(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()
    chain.orders.given = StopRun(reason="the worker shuts down", why=Why.SHUTDOWN)
    chain.link()
    chain.orders.given = None

    assert chain.forge.merged == []
    assert chain.steps() == ["merge", "confirm", "care"]


def test_a_superseded_link_is_begun_anew(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    with chain.engine.store.writing() as tx:
        tx.supersede(REPO, 1, by="webhook", why="#1 was closed")
    assert chain.run() == []
    chain.wait(0)
    chain.run()

    assert chain.of().state is MergeState.MERGED


def test_a_chain_whose_links_fail_too_often_is_given_up_and_the_next_goes(chain: Chain) -> None:
    chain.forge.open(1)
    chain.forge.open(2)
    chain.enter(1)
    chain.enter(2)
    for _ in range(MAX_LOST):
        claimed = chain.claim()
        assert claimed is not None
        broken = merge.LinkOutcome(move=Move.FAIL, why="an error in forgepool", then=lambda _tx: [])
        chain.record(claimed, broken)
        chain.wait(0)
    chain.run()

    assert (chain.of(1).state, chain.of(1).code) == (MergeState.REFUSED, Refusal.LOST)
    assert "an error in forgepool" in chain.of(1).reason
    assert [number for number, _ in chain.forge.merged] == [2]


def test_a_chain_whose_link_is_a_dead_letter_is_given_up(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for _ in range(4):
        claimed = chain.claim()
        assert claimed is not None
        chain.record(claimed, merge.LinkOutcome(move=Move.INTERRUPT, why="killed", then=lambda _tx: []))
    assert chain.claim() is None
    chain.wait(0)

    assert chain.of().code is Refusal.LOST


def test_a_lane_that_stands_still_is_begun_again(chain: Chain) -> None:
    chain.forge.open()
    with chain.engine.store.writing() as tx:
        tx.enter_lane(REPO, BASE, 1, head_sha=SECOND, approved_at=tx.now)
    assert merge.due(chain.engine) == 1
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert merge.due(chain.engine) == 0


def test_what_a_person_dispatches_by_hand_goes_into_its_lane(chain: Chain) -> None:
    chain.forge.open()
    with chain.engine.store.writing() as tx:
        tx.submit("boss", Request(kind=Kind.MERGE, repo=REPO, number=1), by="ann")
    chain.run()

    assert chain.of().state is MergeState.MERGED


# --- after-care ----------------------------------------------------------------------------------


def test_issues_that_the_forge_left_open_are_closed_and_the_branch_is_deleted(chain: Chain) -> None:
    head = chain.forge.open(1, body="Closes #7. Fixes #8 and resolves #9").head_sha
    chain.forge.issues = {7: an_issue(7), 8: an_issue(8, state="closed"), 9: an_issue(9, is_pull=True)}
    chain.enter()
    chain.run()

    assert chain.effects() == {
        "close 7": {"why": "#1 was merged"},
        "delete-branch 1": {"branch": "dev/1", "sha": head},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"is_fork": True},
        {"head_ref": "release"},  # the base of another one
        {"head_ref": "dev/2"},  # the head of another one
        {"head_ref": "develop"},  # the default branch
        {"head_ref": "refs/pull/1/head"},  # gone already
    ],
)
def test_a_branch_that_others_need_stays(chain: Chain, changes: dict[str, Any]) -> None:
    chain.forge.default_branch = "develop"
    chain.forge.open(2, base_ref="release")
    chain.forge.open(1, **changes)
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.effects() == {}


def test_branches_stay_where_they_are_to_be_kept(tmp_path: Path, store: Store, clock: Clock) -> None:
    chain = make_chain(tmp_path, store, clock, delete_branches=False)
    chain.forge.open()
    chain.enter()
    chain.run()

    assert chain.of().state is MergeState.MERGED
    assert chain.effects() == {}


def test_what_looks_different_now_is_looked_at(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.open(2, approved=False)
    chain.forge.open(3, base_ref="next")
    chain.forge.issues = {7: an_issue(7), 8: an_issue(8), 9: an_issue(9, state="closed"), 1: an_issue(1, is_pull=True)}
    chain.forge.depends = {8: [7], 9: [7]}
    chain.enter()
    chain.run()
    chain.clock.advance(60)

    with chain.engine.store.reading() as tx:
        assert sorted(look.number for look in tx.due_looks()) == [2, 7, 8]


def test_what_waits_for_a_merged_pull_request_or_its_issue_is_taken_back(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.issues = {7: an_issue(7)}
    chain.enter()
    with chain.engine.store.writing() as tx:
        tx.add_instance("dev-a", "dev")
        tx.set_instance_state("dev-a", "paused")  # type: ignore[arg-type]
        for number, kind in ((1, Kind.REBASE), (7, Kind.IMPLEMENT), (8, Kind.IMPLEMENT)):
            tx.submit("dev", Request(kind=kind, repo=REPO, number=number), by="test")
            tx.keep_session(f"dev:{REPO}:{number}", "talk", instance="dev-a", task=1)
    chain.run()

    with chain.engine.store.reading() as tx:
        left = tx.list_tasks(states=[State.QUEUED])
        assert [task.request.number for task in left] == [8]
        assert [n for n in (1, 7, 8) if tx.session(f"dev:{REPO}:{n}")] == [8]


def test_a_forge_that_goes_away_after_the_merge_is_waited_for_without_end(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    for _ in range(3):
        chain.link()
    for _ in range(5):
        chain.forge.failures["pull"] = [ForgeUnavailable("away")]
        chain.run()
        chain.wait(7200)

    assert chain.of().state is MergeState.ACTIVE
    chain.run()
    assert chain.of().state is MergeState.MERGED


def test_one_merged_by_a_person_gets_the_same_care(chain: Chain) -> None:
    chain.forge.open(1, body="closes #7")
    chain.forge.issues = {7: an_issue(7)}
    chain.forge.change(1, state="closed", merged=True, merge_commit_sha=SECOND)
    chain.enter()

    assert chain.steps() == ["check", "care"]
    assert "close 7" in chain.effects()
    assert chain.forge.merged == []


def test_an_issue_that_an_agent_worked_on_is_done_with_it_though_the_text_does_not_say_so(chain: Chain) -> None:
    """Otherwise the agent, still assigned to an open issue without a pull request, would begin again."""
    chain.forge.open()
    chain.forge.issues = {7: an_issue(7)}
    chain.forge.linked[1] = 7
    chain.enter()
    chain.run()

    assert "close 7" in chain.effects()


def test_nobody_is_merged_whose_reviewer_changed_their_mind_at_the_last_moment(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()
    chain.forge.reviews[1].append(a_review(ReviewState.REQUEST_CHANGES, id=2))
    chain.run()

    assert (chain.of().code, chain.forge.merged) == (Refusal.CHANGES_REQUESTED, [])
