"""Eight processes that do things to one database at the same moment."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier, Event
from typing import Any

from pool import migrate
from pool.errors import LeaseHeld
from pool.states import LIVE, Move
from pool.store import Absorbed, Claim, Queued, Store
from tests.pool import drive

PROCESSES = 8

#: Seconds that a round may take in all; a test that needs them has failed.
LIMIT_S = 120

Job = Callable[..., list[Any]]


class Crew:
    """Processes that wait for each other before they begin."""

    def __init__(self, executor: ProcessPoolExecutor, done: Event) -> None:
        self._executor = executor
        self._done = done

    def together(self, store: Store, jobs: list[tuple[Any, ...]], background: list[Job] | None = None) -> list[Any]:
        """Run each job, a function and its arguments, in a process of its own; return all results in one list.

        background: run beside them until they have ended. There are as many of both as processes.
        """
        background = background or []
        assert len(jobs) + len(background) == PROCESSES
        url = store.engine.url.render_as_string(hide_password=False)
        store.close()
        self._done.clear()
        first = [self._executor.submit(_run, url, job, *args) for job, *args in jobs]
        beside = [self._executor.submit(_run, url, job) for job in background]
        try:
            return _results(first)
        finally:
            self._done.set()
            _results(beside)


@contextmanager
def open_crew() -> Iterator[Crew]:
    """Start the processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", __name__])
    start, done = context.Barrier(PROCESSES), context.Event()
    with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_enter, initargs=(start, done)) as executor:
        yield Crew(executor, done)


def _results(futures: list[Future[list[Any]]]) -> list[Any]:
    return [one for future in futures for one in future.result(LIMIT_S)]


_shared: dict[str, Any] = {}


def _enter(start: Barrier, done: Event) -> None:
    _shared.update(start=start, done=done)


def _run(url: str, job: Job, *args: Any) -> list[Any]:
    store = Store.open(url)
    _shared["start"].wait(LIMIT_S)
    try:
        return job(store, *args)
    finally:
        store.close()


# --- the jobs ------------------------------------------------------------------------------------


def dispatch_many(store: Store, first_number: int, count: int) -> list[int]:
    """Dispatch tasks about issues of consecutive numbers."""
    return [drive.dispatch(store, number=first_number + i).task for i in range(count)]


def serve_all(store: Store) -> list[int]:
    """Claim and end whatever is queued anywhere, until the dispatching is done."""
    served = []
    while not _shared["done"].is_set():
        with store.reading() as tx:
            names = [instance.name for instance in tx.list_instances()]
        for name in names:
            run = drive.try_claim(store, name)
            if isinstance(run, Claim):
                drive.finish(store, run, Move.SUCCEED)
                served.append(run.task.id)
    return served


def claim_once(store: Store, name: str) -> list[str]:
    """Try to claim the head of a queue."""
    return [type(drive.try_claim(store, name)).__name__]


def lease_once(store: Store, name: str, holder: str) -> list[str]:
    """Try to become the worker of an instance."""
    try:
        with store.writing() as tx:
            tx.take_worker_lease(name, holder=holder, token=holder, lease_s=60)
    except LeaseHeld as held:
        return [held.holder]
    return [holder]


def submit_once(store: Store, number: int) -> list[tuple[bool, int]]:
    """Ask for something that others ask for too; return whether it was queued, and the task that does it."""
    got = drive.submit(store, number=number, absorb=LIVE)
    assert isinstance(got, Queued | Absorbed)
    return [(isinstance(got, Queued), got.task)]


def follow_once(store: Store, number: int) -> list[str]:
    """Queue a task of a session."""
    return [drive.dispatch(store, number=number).instance]


def upgrade_once(store: Store) -> list[tuple[str | None, str]]:
    """Bring the schema up to date."""
    return [migrate.upgrade(store.engine)]
