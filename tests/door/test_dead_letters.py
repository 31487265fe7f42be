"""POST /cancel gives up a dead letter, and only the one that is named."""

from pool.model import Evidence
from pool.states import Move, State
from tests.door.house import Door, assigned


def _dead(door: Door, number: int) -> int:
    """Lose a run once too often; return the dead letter."""
    door.post(assigned("dev", number=number))
    instance = door.tasks()[-1].instance
    assert instance is not None
    run = door.claim(instance)
    with door.store.writing() as tx:
        tx.finish(run.id, Move.INTERRUPT, fence=run.fence or 0, evidence=Evidence(), why="its worker went away")
        return tx.retry_interrupted(run.id, cap=0, by="reconcile").task


def test_a_dead_letter_is_cancelled_at_once_by_its_number(door: Door) -> None:
    first, second = _dead(door, 11), _dead(door, 12)

    answer = door.cancel({"task_id": first, "why": "not worth it"})

    assert answer.status_code == 200
    assert (answer.get_json()["state"], answer.get_json()["issue_number"]) == ("cancelled", 11)
    assert (door.task(first).state, door.task(first).reason) == (State.CANCELLED, "not worth it")
    assert door.task(second).state is State.DEAD_LETTERED
    assert door.cancel({"task_id": first}).status_code == 409


def test_a_dead_letter_is_nothing_that_runs(door: Door) -> None:
    dead = _dead(door, 11)
    name = door.task(dead).instance

    answers = [door.cancel({}), door.cancel({"instance": name})]

    assert [(answer.status_code, answer.get_json()) for answer in answers] == [
        (404, {"error": "nothing is running"}),
        (404, {"error": f"{name} runs nothing"}),
    ]
    assert door.task(dead).state is State.DEAD_LETTERED
