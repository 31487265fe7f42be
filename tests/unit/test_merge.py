"""Lanes and links on a real store: what follows what, what is written of it, and what is mended."""

from pathlib import Path

import pytest

from pool.errors import ForgeUnavailable
from pool.lanes import MergeState, Refusal
from pool.model import Kind, Request
from pool.states import State
from pool.store import Rejected, Store
from tasks import merge
from tasks.merge_record import HURRIED_LINKS
from tests.helpers.clock import Clock
from tests.helpers.merging import (
    BASE,
    REPO,
    Chain,
    a_status,
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


def test_a_link_does_not_queue_behind_another_task_about_the_same_pull_request(chain: Chain) -> None:
    chain.forge.open()
    with chain.engine.store.writing() as tx:
        tx.submit("boss", Request(kind=Kind.RESOLVE, repo=REPO, number=1), by="test")
    chain.enter()

    with chain.engine.store.reading() as tx:
        assert [task.instance for task in tx.list_tasks(newest_first=False)] == ["boss-a", "boss-b"]


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


def test_an_update_is_not_begun_when_the_time_is_up(chain: Chain) -> None:
    chain.forge.open(merge_base=SECOND)
    chain.enter()
    chain.clock.advance(7200)
    chain.run()

    assert (chain.of().code, chain.updater.pushed) == (Refusal.TOO_LONG, [])


# --- refusals ------------------------------------------------------------------------------------


def test_a_refusal_is_told_and_looked_at(chain: Chain) -> None:
    chain.forge.open(draft=True)
    chain.enter()
    chain.run()
    chain.clock.advance(60)

    assert (chain.of().state, chain.of().code, chain.of().reason) == (
        MergeState.REFUSED,
        Refusal.DRAFT,
        "it is a draft",
    )
    with chain.engine.store.reading() as tx:
        assert [(look.repo, look.number) for look in tx.due_looks()] == [(REPO, 1)]
        assert [(step.what, step.why) for step in tx.list_trail(REPO, [1])][-1] == ("refused", "it is a draft")
        report = tx.effect(f"report:{REPO}#1")
    assert report is not None
    assert report.done_at is None


def test_a_refusal_lets_the_next_go(chain: Chain) -> None:
    chain.forge.open(1, draft=True)
    chain.forge.open(2)
    chain.enter(1)
    chain.enter(2)
    chain.run()

    assert [chain.of(number).state for number in (1, 2)] == [MergeState.REFUSED, MergeState.MERGED]


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
