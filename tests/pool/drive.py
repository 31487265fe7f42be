"""One transaction each: the verbs as tests use them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pool.model import Decision, Evidence, Instance, Task
from pool.states import InstanceState, Move
from pool.store import Claim, NoClaim, Queued, Rejected, Store, Submitted, Tx
from tests.helpers.factory import make_request

LEASE_S = 60.0


class _Undo(Exception): ...


@contextmanager
def undone(store: Store) -> Iterator[Tx]:
    """Open a writing transaction that leaves nothing behind."""
    with suppress(_Undo), store.writing() as tx:
        yield tx
        raise _Undo


def add(store: Store, *names: str, type_name: str = "dev", **overrides: Any) -> None:
    """Add active instances of a type."""
    with store.writing() as tx:
        for name in names:
            tx.add_instance(name, type_name, **overrides)


def set_state(store: Store, name: str, state: InstanceState) -> None:
    """Pause, resume, drain or remove an instance."""
    with store.writing() as tx:
        tx.set_instance_state(name, state)


def submit(store: Store, type_name: str = "dev", *, by: str = "test", **options: Any) -> Submitted:
    """Submit a request; options that `Tx.submit` does not know describe the request."""
    known = ("default_labels", "absorb", "one_conversation", "rule", "delivery")
    ours = {name: options.pop(name) for name in known if name in options}
    with store.writing() as tx:
        return tx.submit(type_name, make_request(**options), by=by, **ours)


def dispatch(store: Store, type_name: str = "dev", **options: Any) -> Queued:
    """Submit a request that is sure to be queued."""
    submitted = submit(store, type_name, **options)
    assert isinstance(submitted, Queued)
    return submitted


def refused(store: Store, type_name: str = "dev", **options: Any) -> Rejected:
    """Submit a request that is sure to find no instance."""
    submitted = submit(store, type_name, **options)
    assert isinstance(submitted, Rejected)
    return submitted


def chosen(store: Store, count: int, type_name: str = "dev", **options: Any) -> list[str]:
    """Dispatch several times and return the instances chosen."""
    return [dispatch(store, type_name, **options).instance for _ in range(count)]


def decided(store: Store, **options: Any) -> Decision:
    """Dispatch once and return the decision."""
    return dispatch(store, **options).decision


def claim(store: Store, instance: str, *, lease_s: float = LEASE_S) -> Claim:
    """Claim the head of a queue that is sure to have one."""
    found = try_claim(store, instance, lease_s=lease_s)
    assert isinstance(found, Claim)
    return found


def try_claim(store: Store, instance: str, *, lease_s: float = LEASE_S) -> Claim | NoClaim:
    """Claim the head of a queue, if there is one."""
    with store.writing() as tx:
        return tx.claim(instance, lease_s=lease_s)


def finish(store: Store, run: Claim, move: Move = Move.SUCCEED, **evidence: Any) -> None:
    """End a run."""
    with store.writing() as tx:
        tx.finish(run.task.id, move, fence=run.fence, evidence=Evidence(**evidence), why="as the test says")


def serve(store: Store, instance: str) -> int:
    """Run the head of a queue from claim to success; return the task."""
    run = claim(store, instance)
    finish(store, run)
    return run.task.id


def task(store: Store, task_id: int) -> Task:
    """Return a task with its history."""
    with store.reading() as tx:
        return tx.task(task_id)


def instance(store: Store, name: str) -> Instance:
    """Return an instance."""
    with store.reading() as tx:
        return tx.instance(name)


def cursor(store: Store, type_name: str = "dev") -> str | None:
    """Return the name picked last."""
    with store.reading() as tx:
        return tx.cursor(type_name)


def expire_runs(tx: Tx, *, by: str = "test") -> list[int]:
    """End the runs whose lease has ended by the clock, as the reconciler does; return those that are to be retried."""
    expired = [lease for lease in tx.running_leases() if lease.until <= tx.now]
    moves = {one.task: tx.interrupt_run(one.task, fence=one.fence, by=by, why="it stopped renewing") for one in expired}
    return [task for task, move in moves.items() if move is Move.INTERRUPT]
