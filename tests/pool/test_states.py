"""The states of a task: what may follow what, and nothing else."""

import itertools

import pytest

from pool.errors import StaleTask
from pool.states import LIVE, STEPS, Move, State
from pool.store import Store
from tests.pool import drive

#: Every move that there is, written out a second time.
LEGAL = {
    (Move.CLAIM, State.QUEUED): State.RUNNING,
    (Move.SUCCEED, State.RUNNING): State.SUCCEEDED,
    (Move.FAIL, State.RUNNING): State.FAILED,
    (Move.TIME_OUT, State.RUNNING): State.TIMED_OUT,
    (Move.INTERRUPT, State.RUNNING): State.INTERRUPTED,
    (Move.CANCEL, State.QUEUED): State.CANCELLED,
    (Move.CANCEL, State.RUNNING): State.CANCELLED,
    (Move.CANCEL, State.DEAD_LETTERED): State.CANCELLED,
    (Move.SUPERSEDE, State.QUEUED): State.SUPERSEDED,
    (Move.SUPERSEDE, State.DEAD_LETTERED): State.SUPERSEDED,
    (Move.WITHDRAW, State.RUNNING): State.SUPERSEDED,
    (Move.REJECT, State.QUEUED): State.FAILED,
    (Move.BURY, State.QUEUED): State.DEAD_LETTERED,
    (Move.RELEASE, State.DEAD_LETTERED): State.QUEUED,
}
ILLEGAL = sorted(set(itertools.product(Move, State)) - set(LEGAL))

#: How to bring a task into a state.
WAYS: dict[State, list[Move]] = {
    State.QUEUED: [],
    State.RUNNING: [Move.CLAIM],
    State.SUCCEEDED: [Move.CLAIM, Move.SUCCEED],
    State.FAILED: [Move.CLAIM, Move.FAIL],
    State.CANCELLED: [Move.CANCEL],
    State.SUPERSEDED: [Move.SUPERSEDE],
    State.INTERRUPTED: [Move.CLAIM, Move.INTERRUPT],
    State.TIMED_OUT: [Move.CLAIM, Move.TIME_OUT],
    State.DEAD_LETTERED: [Move.BURY],
}


def _task_in(store: Store, state: State) -> int:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    with store.writing() as tx:
        for move in WAYS[state]:
            tx.move(task, move, by="test")
    return task


@pytest.mark.parametrize(("move", "state"), sorted(LEGAL))
def test_a_legal_move_leads_to_its_state_is_counted_and_is_written_down(store: Store, move: Move, state: State) -> None:
    task = _task_in(store, state)

    with store.writing() as tx:
        tx.move(task, move, by="somebody", why="for a reason")

    moved, home = drive.task(store, task), drive.instance(store, "dev-alpha")
    assert moved.state is LEGAL[move, state]
    assert (moved.finished_at is not None) == (moved.state not in LIVE)
    assert (home.queued, home.running) == (moved.state is State.QUEUED, moved.state is State.RUNNING)
    last = moved.history[-1]
    assert (last.event, last.by, last.why, last.at) == (move, "somebody", "for a reason", store.clock())


@pytest.mark.parametrize(("move", "state"), ILLEGAL)
def test_an_illegal_move_is_refused_and_changes_nothing(store: Store, move: Move, state: State) -> None:
    task = _task_in(store, state)
    before, home = drive.task(store, task), drive.instance(store, "dev-alpha")

    with pytest.raises(StaleTask) as refusal, store.writing() as tx:
        tx.move(task, move, by="somebody")

    assert (refusal.value.task_id, refusal.value.move, refusal.value.state) == (task, move, state)
    assert drive.task(store, task) == before
    assert drive.instance(store, "dev-alpha") == home


def test_the_table_of_moves_is_complete_and_says_the_same() -> None:
    table = {(move, source): step.target for move, step in STEPS.items() for source in step.sources}

    assert set(STEPS) == set(Move)
    assert table == LEGAL


def test_no_move_leads_out_of_a_final_state_and_only_a_release_leads_back_into_the_queue() -> None:
    assert {state for _, state in LEGAL} == {state for state in State if not state.is_final}
    assert {move for (move, _), state in LEGAL.items() if state is State.QUEUED} == {Move.RELEASE}
    assert {state for state in State if not state.is_final} == {*LIVE, State.DEAD_LETTERED}


def test_a_task_that_does_not_exist_cannot_move(store: Store) -> None:
    with pytest.raises(StaleTask) as refusal, store.writing() as tx:
        tx.move(41, Move.CANCEL, by="somebody")

    assert refusal.value.state is None
