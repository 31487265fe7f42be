"""Work that is placed again: dead letters and their release, the queue of an instance that goes away, a new type."""

import pytest
from sqlalchemy import update

from pool.errors import BadInput, NoInstance, StaleTask, UnknownTask
from pool.model import Evidence, Kind
from pool.schema import tasks
from pool.states import LIVE, InstanceState, Move, State
from pool.store import DeadLettered, NoClaim, Queued, Store
from tests.helpers.clock import Clock
from tests.pool import drive


def lose(store: Store, instance: str, *, cap: int = 0) -> Queued | DeadLettered:
    """Lose the run of the head of a queue to the machinery, and have it retried."""
    run = drive.claim(store, instance)
    with store.writing() as tx:
        tx.finish(run.task.id, Move.INTERRUPT, fence=run.fence, evidence=Evidence(), why="its worker went away")
        return tx.retry_interrupted(run.task.id, cap=cap, by="test")


def release(store: Store, task: int, *, one_conversation: bool = True) -> Queued:
    """Release a dead letter."""
    with store.writing() as tx:
        return tx.release(task, by="ada", one_conversation=one_conversation)


def clear(store: Store, name: str) -> list[Queued | DeadLettered]:
    """Remove an instance and place its queue elsewhere."""
    with store.writing() as tx:
        tx.set_instance_state(name, InstanceState.REMOVED)
        return tx.clear_queue(name, by="ada", why=f"{name} was removed", labels_of=lambda _: ())


def retype(store: Store, name: str, type_name: str) -> list[Queued | DeadLettered]:
    """Make an instance one of another type, and place its queue elsewhere."""
    with store.writing() as tx:
        tx.set_instance_type(name, type_name)
        return tx.clear_queue(name, by="ada", why=f"{name} became of type {type_name}", labels_of=lambda _: ())


def loads(store: Store) -> dict[str, tuple[int, int]]:
    """Return (queued, running) of every instance."""
    with store.reading() as tx:
        return {row.name: (row.queued, row.running) for row in tx.list_instances()}


def garble(store: Store, task: int) -> None:
    """Make the request of a task unreadable."""
    with store.writing() as tx:
        tx.connection.execute(update(tasks).where(tasks.c.id == task).values(request={"kind": "teleport"}))


# --- dead letters --------------------------------------------------------------------------------


def test_a_dead_letter_holds_no_place_and_is_neither_live_nor_over(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    dead = lose(store, "dev-alpha")

    row = drive.task(store, dead.task)

    assert isinstance(dead, DeadLettered)
    assert (row.state, row.reason, row.retry_of) == (State.DEAD_LETTERED, "its run was lost once", 1)
    assert not row.state.is_final
    assert loads(store) == {"dev-alpha": (0, 0)}
    assert isinstance(drive.try_claim(store, "dev-alpha"), NoClaim)


def test_a_new_event_for_the_same_thing_takes_a_dead_letter_back(store: Store) -> None:
    """Both would be done, the second one when somebody releases the first."""
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    dead = lose(store, "dev-alpha").task

    by_hand = drive.dispatch(store, number=7)
    assert drive.task(store, dead).state is State.DEAD_LETTERED
    drive.serve(store, "dev-alpha")
    other = drive.dispatch(store, number=7, kind=Kind.FIX_CI, absorb=LIVE)
    assert drive.task(store, dead).state is State.DEAD_LETTERED
    same = drive.dispatch(store, number=7, head_sha="b" * 40, absorb={State.RUNNING})

    letter = drive.task(store, dead)
    assert (letter.state, letter.reason) == (State.SUPERSEDED, f"task {same.task} asks for the same")
    assert len({by_hand.task, other.task, same.task}) == 3


def test_a_released_task_is_as_if_it_had_never_ended(store: Store, clock: Clock) -> None:
    """It kept the time and the reason of its end, so that retention could have deleted it while it waited."""
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    later = drive.dispatch(store)
    dead = lose(store, "dev-alpha")
    clock.advance(3600)

    again = release(store, dead.task)
    row = drive.task(store, dead.task)

    assert (row.state, row.reason, row.finished_at, row.published_at, row.interruptions) == (
        *(State.QUEUED, "", None, None),
        0,
    )
    assert again.instance == "dev-alpha"
    assert loads(store) == {"dev-alpha": (2, 0)}
    # Its old place: before what came after it.
    assert [drive.serve(store, "dev-alpha"), drive.serve(store, "dev-alpha")] == [dead.task, later.task]
    assert [(event.event, event.by) for event in row.history] == [("bury", "test"), ("release", "ada")]


def test_what_was_rung_for_before_it_died_is_rung_for_again_after_its_release(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    with store.writing() as tx:
        tx.mark_published(task)
    clear(store, "dev-alpha")
    drive.add(store, "dev-bravo")

    again = release(store, task)
    clock.advance(10)

    assert again.instance == "dev-bravo"
    with store.reading() as tx:
        assert tx.unpublished(older_than_s=1) == [(task, "dev-bravo")]


def test_a_released_task_has_all_its_retries(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    assert isinstance(lose(store, "dev-alpha", cap=1), Queued)
    dead = lose(store, "dev-alpha", cap=1)
    assert isinstance(dead, DeadLettered)

    release(store, dead.task)

    assert isinstance(lose(store, "dev-alpha", cap=1), Queued)
    assert isinstance(lose(store, "dev-alpha", cap=1), DeadLettered)


def test_only_a_dead_letter_is_released(store: Store) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store).task

    with pytest.raises(StaleTask, match="task 1 cannot release: it is queued"):
        release(store, queued)
    with pytest.raises(UnknownTask):
        release(store, 99)


def test_a_release_that_nobody_can_take_changes_nothing(store: Store) -> None:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    clear(store, "dev-alpha")
    before = drive.task(store, task)

    with pytest.raises(NoInstance, match="no instance of type 'dev' is registered"):
        release(store, task)

    assert drive.task(store, task) == before


@pytest.mark.parametrize("one_conversation", [True, False])
def test_a_released_task_follows_its_conversation(store: Store, *, one_conversation: bool) -> None:
    """It went back to its old instance while another task of the conversation ran elsewhere: two runs at once."""
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    dead = lose(store, "dev-alpha")
    drive.add(store, "dev-bravo")
    drive.set_state(store, "dev-alpha", InstanceState.DRAINING)
    assert drive.dispatch(store, number=7).instance == "dev-bravo"
    drive.set_state(store, "dev-alpha", InstanceState.ACTIVE)

    again = release(store, dead.task, one_conversation=one_conversation)

    assert again.instance == ("dev-bravo" if one_conversation else "dev-alpha")


def test_a_cancelled_dead_letter_is_over(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    dead = lose(store, "dev-alpha")

    with store.writing() as tx:
        assert tx.cancel(dead.task, by="ada") is State.CANCELLED

    assert drive.task(store, dead.task).reason == "cancelled by ada"
    assert loads(store) == {"dev-alpha": (0, 0)}
    with pytest.raises(StaleTask):
        release(store, dead.task)


def test_dead_letters_are_counted_and_listed(store: Store) -> None:
    drive.add(store, "dev-alpha")
    for _ in range(3):
        drive.dispatch(store)
    dead = [lose(store, "dev-alpha").task for _ in range(2)]

    with store.reading() as tx:
        assert tx.count_dead() == 2
        assert [row.id for row in tx.list_tasks(states=[State.DEAD_LETTERED])] == dead[::-1]


def test_a_chain_of_lost_runs_is_followed_both_ways(store: Store) -> None:
    drive.add(store, "dev-alpha")
    first = drive.dispatch(store, number=7).task
    drive.dispatch(store, number=7)
    second = lose(store, "dev-alpha", cap=1).task
    third = lose(store, "dev-alpha", cap=1).task

    with store.reading() as tx:
        assert [row.id for row in tx.lineage(third)] == [first, second, third]
        assert [tx.retried_as(task) for task in (first, second, third)] == [second, third, None]
    with store.writing() as tx:
        tx.connection.execute(tasks.delete().where(tasks.c.id == first))
    with store.reading() as tx:
        assert [row.id for row in tx.lineage(third)] == [second, third]
        with pytest.raises(UnknownTask):
            tx.lineage(first)


# --- an instance goes away -----------------------------------------------------------------------


def test_the_queue_of_a_removed_instance_goes_to_others_in_order_each_with_a_record(store: Store) -> None:
    drive.add(store, "dev-alpha")
    moved = [drive.dispatch(store).task for _ in range(3)]
    drive.add(store, "dev-bravo")
    newer = drive.dispatch(store).task

    placed = clear(store, "dev-alpha")

    assert [(one.task, isinstance(one, Queued)) for one in placed] == [(task, True) for task in moved]
    assert loads(store) == {"dev-bravo": (4, 0)}
    # By age, not by arrival.
    assert [drive.serve(store, "dev-bravo") for _ in range(4)] == [*moved, newer]
    for task in moved:
        record = drive.task(store, task).history[1]
        assert (record.event, record.by) == ("re-dispatched", "ada")
        assert record.why == "from dev-alpha to dev-bravo: dev-alpha was removed"
        decision = drive.task(store, task).decision
        assert decision is not None
        assert decision.chosen == "dev-bravo"


def test_a_moved_task_is_rung_for_anew(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    with store.writing() as tx:
        tx.mark_published(task)
    drive.add(store, "dev-bravo")

    clear(store, "dev-alpha")
    clock.advance(10)

    with store.reading() as tx:
        assert tx.unpublished(older_than_s=1) == [(task, "dev-bravo")]


def test_a_conversation_moves_as_one(store: Store) -> None:
    drive.add(store, "dev-alpha")
    for number in (7, 8, 7):
        drive.dispatch(store, number=number)
    drive.add(store, "dev-bravo", "dev-charlie")

    together = [one.instance for one in clear(store, "dev-alpha") if isinstance(one, Queued)]

    assert together == ["dev-bravo", "dev-charlie", "dev-bravo"]


def test_what_nobody_else_can_take_becomes_a_dead_letter_that_says_why(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    drive.set_state(store, "dev-bravo", InstanceState.DRAINING)
    task = drive.dispatch(store).task

    (dead,) = clear(store, "dev-alpha")
    row = drive.task(store, task)

    assert isinstance(dead, DeadLettered)
    assert row.state is State.DEAD_LETTERED
    assert row.reason.startswith("dev-alpha was removed; every instance of type 'dev' is draining or being removed")
    assert row.reason.endswith("or resume dev-bravo")
    assert loads(store) == {"dev-bravo": (0, 0)}


def test_a_queue_is_not_left_behind_the_run_of_a_removed_instance(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    waiting = drive.dispatch(store).task
    drive.add(store, "dev-bravo")

    clear(store, "dev-alpha")
    while_it_runs = loads(store)
    with store.writing() as tx:
        assert tx.ask_to_stop("dev-alpha", by="ada", why="dev-alpha was removed") == [run.task.id]
        wishes = tx.wishes(run.task.id, fence=run.fence)
        tx.finish(run.task.id, Move.INTERRUPT, fence=run.fence, evidence=Evidence(), why=wishes.stop_why)
        again = tx.retry_interrupted(run.task.id, cap=3, by="dev-alpha")

    assert while_it_runs == {"dev-alpha": (0, 1), "dev-bravo": (1, 0)}
    assert loads(store) == {"dev-bravo": (2, 0)}
    assert drive.task(store, run.task.id).reason == "dev-alpha was removed"
    # It began first, so it goes first.
    assert [drive.serve(store, "dev-bravo") for _ in range(2)] == [again.task, waiting]


# --- an instance of another type -----------------------------------------------------------------


def test_the_queue_of_a_retyped_instance_goes_to_others_of_the_old_type(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    task = drive.dispatch(store).task

    (placed,) = retype(store, "dev-alpha", "reviewer")

    assert isinstance(placed, Queued)
    assert (placed.task, placed.instance) == (task, "dev-bravo")
    assert drive.chosen(store, 1, "reviewer", kind=Kind.REVIEW) == ["dev-alpha"]
    assert loads(store) == {"dev-alpha": (1, 0), "dev-bravo": (1, 0)}


def test_a_conversation_does_not_stay_on_an_instance_of_another_type(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    drive.claim(store, "dev-alpha")
    drive.add(store, "dev-bravo")
    retype(store, "dev-alpha", "reviewer")

    assert drive.dispatch(store, number=7).instance == "dev-bravo"


@pytest.mark.parametrize("has_other", [True, False])
def test_a_run_that_is_lost_on_a_retyped_instance_is_not_retried_there(store: Store, *, has_other: bool) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    if has_other:
        drive.add(store, "dev-bravo")
    run = drive.claim(store, "dev-alpha")
    retype(store, "dev-alpha", "reviewer")

    with store.writing() as tx:
        tx.finish(run.task.id, Move.INTERRUPT, fence=run.fence, evidence=Evidence(), why="its worker went away")
        again = tx.retry_interrupted(run.task.id, cap=3, by="test")

    if has_other:
        assert isinstance(again, Queued)
        assert again.instance == "dev-bravo"
        assert "since dev-alpha takes it no more" in drive.task(store, again.task).history[0].why
    else:
        assert isinstance(again, DeadLettered)
        # Nor is it released there.
        with pytest.raises(NoInstance):
            release(store, again.task)


def test_an_instance_that_is_going_gets_no_other_type(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)

    with pytest.raises(BadInput, match="it is being removed"):
        retype(store, "dev-alpha", "reviewer")


# --- a request that no longer validates ----------------------------------------------------------


def test_an_unreadable_task_moves_with_its_queue_and_fails_at_the_head_of_the_new_one(store: Store) -> None:
    drive.add(store, "dev-alpha")
    bad, good = drive.dispatch(store).task, drive.dispatch(store).task
    garble(store, bad)
    drive.add(store, "dev-bravo")

    placed = clear(store, "dev-alpha")

    assert [one.task for one in placed] == [bad, good]
    assert drive.serve(store, "dev-bravo") == good
    assert drive.task(store, bad).state is State.FAILED
    assert "request.kind = 'teleport'" in drive.task(store, bad).reason
    assert loads(store) == {"dev-bravo": (0, 0)}


def test_an_unreadable_task_is_retried_buried_and_released_as_any_other(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    garble(store, run.task.id)
    with store.writing() as tx:
        tx.finish(run.task.id, Move.INTERRUPT, fence=run.fence, evidence=Evidence(), why="its worker went away")
        dead = tx.retry_interrupted(run.task.id, cap=0, by="test")

    again = release(store, dead.task)
    nothing = drive.try_claim(store, "dev-alpha")

    assert again.instance == "dev-alpha"
    assert isinstance(nothing, NoClaim)
    assert drive.task(store, dead.task).state is State.FAILED
    assert loads(store) == {"dev-alpha": (0, 0)}
