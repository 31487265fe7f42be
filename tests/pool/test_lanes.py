"""Lanes: one merge at a time for a repository and base branch, in the order of their approvals."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from pool.errors import StaleMerge, UnknownMerge
from pool.lanes import OPEN_MERGES, Merge, MergeState, MergeStep, Refusal
from pool.schema_work import merges
from pool.store import Store, Tx
from tests.helpers.clock import Clock
from tests.pool.drive import undone

REPO = "acme/shop"


def _enter(tx: Tx, number: int, *, base: str = "main", repo: str = REPO, approved_s: float = 0.0) -> Merge:
    return tx.enter_lane(repo, base, number, head_sha=f"{number:07}", approved_at=tx.after(approved_s))


def _begin(tx: Tx, number: int = 8) -> Merge:
    """Enter a free lane and get it."""
    _enter(tx, number)
    merge = tx.next_in_lane(REPO, "main")
    assert merge is not None
    return merge


def _number(merge: Merge | None) -> int | None:
    return merge.number if merge else None


# --- the queue -----------------------------------------------------------------------------------


def test_an_approved_pull_request_waits_in_its_lane(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        merge = _enter(tx, 8, approved_s=-5)

        assert merge == Merge(
            id=merge.id,
            repo=REPO,
            base="main",
            number=8,
            state=MergeState.WAITING,
            step=None,
            link=0,
            head_sha="0000008",
            approved_sha="0000008",
            base_sha=None,
            merge_sha=None,
            code=None,
            reason="",
            approved_at=clock.now - timedelta(seconds=5),
            entered_at=clock.now,
            changed_at=clock.now,
            look_at=None,
            ended_at=None,
        )
        assert (tx.merge(merge.id), tx.open_merge(REPO, 8), tx.open_merge(REPO, 9)) == (merge, merge, None)


@pytest.mark.parametrize("state", sorted(OPEN_MERGES))
def test_one_that_is_in_a_lane_already_stays_where_it_is(store: Store, clock: Clock, state: MergeState) -> None:
    with store.writing() as tx:
        first = _enter(tx, 8) if state is MergeState.WAITING else _begin(tx)
        if state is MergeState.PARKED:
            tx.park(first.id, link=first.link, why="red", look_after_s=5)
        there = tx.merge(first.id)
    clock.advance(60)

    with store.writing() as tx:
        again = tx.enter_lane(REPO, "other", 8, head_sha="fffffff", approved_at=clock.now)

        assert (again, again.state) == (there, state)
        assert tx.list_merges() == [there]


def test_one_that_has_ended_enters_anew(store: Store) -> None:
    with store.writing() as tx:
        old = _begin(tx)
        tx.end_merge(old.id, MergeState.REFUSED, reason="red", code=Refusal.RED, link=old.link)

        new = _enter(tx, 8)

        assert (new.id > old.id, new.state, tx.open_merge(REPO, 8)) == (True, MergeState.WAITING, new)
        assert [merge.id for merge in tx.list_merges(repo=REPO, number=8)] == [new.id, old.id]


def test_a_lane_goes_by_the_time_of_the_approval_and_then_by_that_of_entering(store: Store) -> None:
    with store.writing() as tx:
        for number, approved_s in ((8, 3), (9, 1), (10, 2), (11, 1)):
            _enter(tx, number, approved_s=approved_s)
        went = []
        while (merge := tx.next_in_lane(REPO, "main")) is not None:
            went.append(merge.number)
            tx.end_merge(merge.id, MergeState.MERGED, reason="")

    assert went == [9, 11, 10, 8]


def test_the_next_in_a_lane_begins_with_a_check(store: Store) -> None:
    with store.writing() as tx:
        _enter(tx, 8)

        merge = tx.next_in_lane(REPO, "main")

        assert merge is not None
        assert (merge.state, merge.step, merge.link) == (MergeState.ACTIVE, MergeStep.CHECK, 1)


@pytest.mark.parametrize("is_parked", [False, True])
def test_a_lane_that_is_taken_is_given_to_nobody_else(store: Store, *, is_parked: bool) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
        if is_parked:
            tx.park(merge.id, link=1, why="red", look_after_s=5)
        _enter(tx, 9, approved_s=-60)

        assert tx.next_in_lane(REPO, "main") is None
        assert [one.number for one in tx.list_merges(only_open=True)] == [8, 9]


def test_an_empty_lane_is_given_to_nobody(store: Store) -> None:
    with store.writing() as tx:
        tx.end_merge(_begin(tx).id, MergeState.WITHDRAWN, reason="closed")

        assert tx.next_in_lane(REPO, "main") is None


def test_lanes_of_other_branches_and_repositories_go_on_meanwhile(store: Store) -> None:
    with store.writing() as tx:
        _begin(tx)
        _enter(tx, 9, base="release")
        _enter(tx, 8, repo="acme/other")

        assert _number(tx.next_in_lane(REPO, "release")) == 9
        assert _number(tx.next_in_lane("acme/other", "main")) == 8


def test_the_database_itself_lets_nobody_into_a_lane_that_is_taken(store: Store) -> None:
    with store.writing() as tx:
        _begin(tx)
        second = _enter(tx, 9)

    with pytest.raises(IntegrityError), store.writing() as tx:
        tx.connection.execute(update(merges).where(merges.c.id == second.id).values(state=MergeState.ACTIVE))
    with pytest.raises(IntegrityError), store.writing() as tx:
        tx.connection.execute(update(merges).where(merges.c.id == second.id).values(number=8))


# --- the chain -----------------------------------------------------------------------------------


def test_links_count_up_and_tell_what_they_found(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
    clock.advance(1)

    with store.writing() as tx:
        second = tx.begin_link(merge.id, MergeStep.UPDATE, reason="the base moved")
        third = tx.begin_link(merge.id, MergeStep.SETTLE, head_sha="abc", base_sha="ba5e", reason="updated")

    assert (second.link, second.step, second.head_sha, second.reason) == (
        *(2, MergeStep.UPDATE),
        *("0000008", "the base moved"),
    )
    assert (third.link, third.step, third.head_sha, third.base_sha) == (3, MergeStep.SETTLE, "abc", "ba5e")
    assert (third.approved_sha, third.entered_at, third.changed_at) == ("0000008", merge.entered_at, clock.now)


def test_a_parked_merge_is_due_when_its_time_comes_longest_first(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        for number, after_s in ((8, 20), (9, 10), (10, 30)):
            base = f"base-{number}"
            _enter(tx, number, base=base)
            merge = tx.next_in_lane(REPO, base)
            assert merge is not None
            tx.park(merge.id, link=1, why="checks run", look_after_s=after_s, base_sha="ba5e")
        parked = tx.open_merge(REPO, 8)
    assert parked is not None
    assert (parked.state, parked.step, parked.link) == (MergeState.PARKED, None, 1)
    assert (parked.reason, parked.base_sha) == ("checks run", "ba5e")

    clock.advance(20)

    with store.reading() as tx:
        assert [merge.number for merge in tx.due_merges()] == [9, 8]
        assert [merge.number for merge in tx.due_merges(limit=1)] == [9]


def test_a_parked_merge_goes_on_with_its_next_link(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
        tx.park(merge.id, link=1, why="checks run", look_after_s=5)
    clock.advance(5)

    with store.writing() as tx:
        on = tx.unpark(merge.id, MergeStep.UPDATE)

        assert (on.state, on.step, on.link, on.look_at) == (MergeState.ACTIVE, MergeStep.UPDATE, 2, None)
        assert tx.due_merges() == []


def test_a_parked_merge_is_hurried_and_no_other(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
        _enter(tx, 9)
        assert [tx.hurry_merge(REPO, number) for number in (8, 9, 10)] == [False] * 3
        tx.park(merge.id, link=1, why="checks run", look_after_s=60)
        assert tx.due_merges() == []

        assert tx.hurry_merge(REPO, 8) is True

        assert [one.number for one in tx.due_merges()] == [8]
    clock.advance(1)
    with store.writing() as tx:
        assert tx.hurry_merge(REPO, 8) is True
        # It keeps its place among those that are due.
        assert tx.due_merges()[0].look_at == clock.now - timedelta(seconds=1)


@pytest.mark.parametrize("state", sorted(set(MergeState) - OPEN_MERGES))
def test_one_that_has_ended_leaves_its_lane_to_the_next_and_never_changes_again(
    store: Store, clock: Clock, state: MergeState
) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
        _enter(tx, 9)
        tx.end_merge(merge.id, state, reason="as said", code=Refusal.RED, link=1, merge_sha="abc")
        ended = tx.merge(merge.id)
    assert ended == replace(
        merge, state=state, step=None, reason="as said", code=Refusal.RED, merge_sha="abc", ended_at=clock.now
    )
    clock.advance(1)

    for change in _changes(merge.id):
        with pytest.raises(StaleMerge), undone(store) as tx:
            change(tx)
    with store.writing() as tx:
        assert tx.hurry_merge(REPO, 8) is False
        assert _number(tx.next_in_lane(REPO, "main")) == 9
        assert tx.merge(merge.id) == ended


def _changes(merge: int) -> list[Any]:
    return [
        lambda tx: tx.begin_link(merge, MergeStep.MERGE),
        lambda tx: tx.park(merge, link=1, why="", look_after_s=1),
        lambda tx: tx.unpark(merge),
        lambda tx: tx.end_merge(merge, MergeState.MERGED, reason=""),
    ]


def test_what_is_unknown_is_told_by_its_number(store: Store) -> None:
    for change in (*_changes(41), lambda tx: tx.merge(41)):
        with pytest.raises(UnknownMerge, match="there is no merge 41"), undone(store) as tx:
            change(tx)


def test_a_link_that_others_have_gone_on_from_changes_nothing(store: Store) -> None:
    with store.writing() as tx:
        merge = _begin(tx)
        now = tx.begin_link(merge.id, MergeStep.UPDATE)

    with pytest.raises(StaleMerge, match="is active, link 2"), undone(store) as tx:
        tx.park(merge.id, link=1, why="", look_after_s=1)
    with pytest.raises(StaleMerge), undone(store) as tx:
        tx.end_merge(merge.id, MergeState.MERGED, reason="", link=1)
    with store.reading() as tx:
        assert tx.merge(merge.id) == now


@pytest.mark.parametrize("is_begun", [False, True])
def test_only_what_is_under_way_is_parked_or_goes_on(store: Store, *, is_begun: bool) -> None:
    with store.writing() as tx:
        merge = _begin(tx) if is_begun else _enter(tx, 8)

    with pytest.raises(StaleMerge), undone(store) as tx:
        tx.unpark(merge.id)
    if not is_begun:
        with pytest.raises(StaleMerge), undone(store) as tx:
            tx.park(merge.id, link=0, why="", look_after_s=1)
        with pytest.raises(StaleMerge), undone(store) as tx:
            tx.begin_link(merge.id, MergeStep.CHECK)


def test_one_that_waits_is_taken_out_by_somebody_from_outside(store: Store) -> None:
    with store.writing() as tx:
        _begin(tx)
        waits = _enter(tx, 9)

        tx.end_merge(waits.id, MergeState.WITHDRAWN, reason="closed")

        assert tx.merge(waits.id).state is MergeState.WITHDRAWN
        assert [merge.number for merge in tx.list_merges(only_open=True)] == [8]


# --- lists ---------------------------------------------------------------------------------------


def test_open_merges_are_listed_lane_by_lane_in_the_order_in_which_they_go(store: Store) -> None:
    with store.writing() as tx:
        for number, approved_s, base in ((8, 5, "main"), (9, 1, "release"), (10, 3, "main"), (11, 4, "main")):
            _enter(tx, number, base=base, approved_s=approved_s)
        first = tx.next_in_lane(REPO, "main")
        assert first is not None
        tx.park(first.id, link=1, why="", look_after_s=1)
        _enter(tx, 12, approved_s=2)
        ended = _enter(tx, 13)
        tx.end_merge(ended.id, MergeState.WITHDRAWN, reason="")
        _enter(tx, 14, repo="acme/other")

        assert [merge.number for merge in tx.list_merges(only_open=True)] == [14, 10, 12, 11, 8, 9]
        assert [merge.number for merge in tx.list_merges(only_open=True, repo=REPO, number=8)] == [8]
        assert [merge.number for merge in tx.list_merges(repo=REPO, limit=2)] == [13, 12]


def test_lanes_in_which_somebody_waits_and_nobody_goes_are_free(store: Store) -> None:
    with store.writing() as tx:
        _begin(tx)
        for number, base in ((9, "main"), (10, "release"), (11, "release"), (12, "parked")):
            _enter(tx, number, base=base)
        parked = tx.next_in_lane(REPO, "parked")
        assert parked is not None
        tx.park(parked.id, link=1, why="", look_after_s=1)
        _enter(tx, 13, base="parked")
        _enter(tx, 8, repo="acme/other")
        gone = _enter(tx, 14, base="gone")
        tx.end_merge(gone.id, MergeState.WITHDRAWN, reason="")

        assert tx.free_lanes() == [("acme/other", "main"), (REPO, "release")]
        tx.next_in_lane(REPO, "release")
        assert tx.free_lanes() == [("acme/other", "main")]
