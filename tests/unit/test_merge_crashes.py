"""Links that die, are cancelled, overtaken or lost, and lanes that stand still: what is mended, and how."""

from dataclasses import replace
from pathlib import Path

import pytest

from pool.errors import NotAllowed
from pool.lanes import MergeState, MergeStep, Refusal
from pool.model import Kind, Request
from pool.states import Move, State
from pool.store import Store
from tasks import merge
from tasks.forge_values import Pull
from tasks.lease import StopRun, Why
from tasks.merge_record import MAX_LOST
from tests.helpers.clock import Clock
from tests.helpers.merging import (
    BASE,
    REPO,
    Chain,
    make_chain,
)

SECOND = "c" * 40


@pytest.fixture
def chain(tmp_path: Path, store: Store, clock: Clock) -> Chain:
    """Return two instances that merge, and a forge without pull requests."""
    return make_chain(tmp_path, store, clock)


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


def test_a_shutdown_while_the_facts_are_read_keeps_the_forge_from_merging(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    chain.link()
    read = chain.forge.pull

    def reads(repo: str, number: int) -> Pull:
        chain.orders.given = StopRun(reason="the worker shuts down", why=Why.SHUTDOWN)
        return read(repo, number)

    chain.forge.pull = reads  # type: ignore[method-assign]
    chain.link()

    assert chain.forge.merged == []
    with chain.engine.store.reading() as tx:
        assert tx.task(2).state is State.INTERRUPTED


def test_who_leaves_the_lane_takes_the_queued_link_along(chain: Chain) -> None:
    chain.forge.open()
    chain.enter()
    with chain.engine.store.writing() as tx:
        merge.leave(chain.engine, tx, REPO, 1, state=MergeState.WITHDRAWN, reason="closed")
        assert tx.task(1).state is State.SUPERSEDED


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
