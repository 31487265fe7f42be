"""What makes a Celery worker the one worker of its instance: its lease, kept to the end, and a stop that is bounded."""

import atexit
import functools
import logging
import math
import multiprocessing
import os
import queue
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import billiard.pool
import structlog
from celery import bootsteps, signals
from celery.worker import state as worker_state
from sqlalchemy.exc import SQLAlchemyError

from pool import migrate
from pool.errors import ForgepoolError, LeaseHeld, LeaseLost, StoreUnavailable, UnknownInstance
from pool.store import Store
from tasks.doorbell import CeleryBell
from tasks.engine import Engine
from tasks.settings import Settings

log = structlog.get_logger(__name__)

#: From sysexits.h: what a supervisor sees when another worker holds the queue, or the call or the set-up is off.
EX_TEMPFAIL, EX_USAGE, EX_CONFIG = 75, 64, 78

#: Seconds between two signs of life. Flower calls a worker offline that is silent for twice this time.
HEARTBEAT_S = 15
#: Seconds between two requests to the agent of a worker that ends: it may claim a last task after the first one.
ASK_AGAIN_S = 1.0


# A pool process that ends waits for its worker to have read its results, for half a minute; one that was forked in the
# moment of the stop waits in vain. A second will do: the end of a run is in the database by then. No setting does that.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10


@functools.cache
def deployment() -> Settings:
    """Return the configuration of this process; forked workers share what their host has read."""
    return Settings.load()


@functools.cache
def unconnected_store() -> Store:
    """Return the store of this process. It connects at its first use, so a fork host may build it for its workers."""
    return Store.open(deployment().database_url)


def worker_arguments(instance: str) -> list[str]:
    """Return the arguments of the `celery` command for one instance's worker."""
    return [
        *("-A", "tasks", "worker", "-Q", instance, "-n", f"{instance}@%h", "-c", "1"),
        # Gossip and mingle make every worker listen to every other: half a core with fifty idle workers.
        *("--without-gossip", "--without-mingle"),
        *("--heartbeat-interval", str(HEARTBEAT_S)),
        # The pool process is forked when a task comes, and ends when none has come for a while: most are idle.
        *("--autoscale", "1,0"),
        *("-l", "INFO"),
    ]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which instance this worker serves, and the token that proves it. Set before the pool is forked."""

    instance: str
    token: str


class Refusal(SystemExit):
    """The worker must not start; the message has been logged."""


class _Order(Enum):
    """What the thread of the lease is told."""

    STOP = "the worker ends; its run has drain_s"
    SIGNAL = "the worker ends, because it was signalled; the second time its run has no time at all"
    END = "the worker has ended"


class InstanceLease(bootsteps.StartStopStep):  # type: ignore[misc] # celery has no annotations
    """Refuses to start beside another worker, then keeps the lease until the worker ends, which it does in time.

    A step of the worker's blueprint, because what a signal handler raises is logged by Celery and forgotten.
    """

    name = "InstanceLease"
    label = "Instance lease"
    #: Before the consumer, which comes last; what it refuses has taken no message.
    requires = ("celery.worker.components:Pool",)

    #: The engine of this process and, after `create`, who we are: read by the task in the forked child.
    engine: Engine | None = None
    identity: Identity | None = None

    def __init__(self, parent: Any, **options: Any) -> None:
        """Keep nothing yet: `create` decides whether there is a worker at all."""
        super().__init__(parent, **options)
        # Signal handlers write to it; of all queues and events this one alone may be interrupted by itself.
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def create(self, worker: Any) -> None:
        """Become somebody, without a look at the database: the pool is forked next, and inherits what is here.

        Its child shares the pages that this process has not written to yet, so the less the better.
        """
        instance = _instance(worker)
        InstanceLease.engine = Engine(deployment(), unconnected_store(), CeleryBell(worker.app))
        InstanceLease.identity = Identity(instance, uuid.uuid4().hex)
        _keep_one_folder(InstanceLease.engine.settings.state_dir / "tmp" / instance)

    def start(self, worker: Any) -> None:
        """Take the lease and begin to renew it. Exits with a sentence when this worker may not serve."""
        self._take(f"{worker.hostname} (pid {os.getpid()} on {socket.gethostname()})")
        atexit.register(self._release)
        # Celery's handlers for SIGTERM and SIGINT send this, each time. It then waits for the run without end.
        signals.worker_shutting_down.connect(self._on_signal)
        # A thread: the worker's own loop may wait for the broker.
        self._thread = threading.Thread(target=self._keep, name="worker lease", daemon=True)
        self._thread.start()

    def _take(self, holder: str) -> None:
        engine, identity = _engine(), _identity()
        service = engine.settings.service
        try:
            migrate.check(engine.store.engine)
            with engine.store.writing() as tx:
                row = tx.instance(identity.instance)
                if row.type not in engine.settings.types:
                    raise _refuse(
                        f"{row.name} is of type {row.type!r}, which {engine.settings.path.name} does not describe"
                    )
                tx.take_worker_lease(
                    row.name, holder=holder, token=identity.token, lease_s=service.worker_lease_s, host=service.host
                )
        except (LeaseHeld, UnknownInstance, StoreUnavailable) as error:
            raise _refuse(str(error), EX_TEMPFAIL) from None
        except ForgepoolError as error:
            raise _refuse(str(error), EX_CONFIG) from None
        log.info("lease taken", instance=row.name, holder=holder)

    def close(self, worker: Any) -> None:
        """Bound the stop that had no signal: Celery's remote control, a lost lease."""
        del worker
        self._orders.put(_Order.STOP)

    def stop(self, worker: Any) -> None:
        """Keep the lease: Celery stops its parts in any order, and the last run may still go on."""

    def terminate(self, worker: Any) -> None:
        """Do as on a warm stop."""

    def _on_signal(self, **_: Any) -> None:
        self._orders.put(_Order.SIGNAL)

    def _keep(self) -> None:
        """Renew the lease until the process ends; ask the agent to stop when the worker has no more time for it."""
        service = _engine().settings.service
        renew_at = time.monotonic() + service.worker_lease_s / 3
        ask_at = math.inf
        signalled = 0
        while True:
            match self._order(before=min(renew_at, ask_at)):
                case _Order.END:
                    return
                case _Order.STOP:
                    ask_at = min(ask_at, time.monotonic() + service.drain_s)
                case _Order.SIGNAL:
                    signalled += 1
                    ask_at = min(ask_at, time.monotonic() + (service.drain_s if signalled == 1 else 0))
                case None:
                    pass
            now = time.monotonic()
            if now >= min(renew_at, ask_at):
                renew_at = now + service.worker_lease_s / 3
                if not self._renew(asks=now >= ask_at):
                    renew_at = ask_at = math.inf
                elif now >= ask_at:
                    ask_at = now + ASK_AGAIN_S

    def _order(self, *, before: float) -> _Order | None:
        """Wait for an order; None: there was none `before` that time."""
        # A lock cannot wait for ever and a day, so not longer than a day.
        try:
            return self._orders.get(timeout=min(max(0.0, before - time.monotonic()), 86400.0))
        except queue.Empty:
            return None

    def _renew(self, *, asks: bool) -> bool:
        """Keep the lease; False when it is lost. asks: have the running agent stopped, too."""
        engine, identity = _engine(), _identity()
        lease_s = engine.settings.service.worker_lease_s
        try:
            with engine.store.writing() as tx:
                tx.renew_worker_lease(identity.instance, token=identity.token, lease_s=lease_s)
                # In one transaction: without the lease, what runs there may be the work of another worker.
                asked = tx.ask_to_stop(identity.instance, by=f"worker {identity.instance}") if asks else []
        except (LeaseLost, UnknownInstance) as error:
            log.error("worker stops", instance=identity.instance, why=str(error))
            # Warm: a run that still has its own lease may end; nothing new is taken.
            worker_state.should_stop = EX_TEMPFAIL
            return False
        except (ForgepoolError, SQLAlchemyError) as error:
            log.warning("worker lease not renewed", instance=identity.instance, why=str(error))
        else:
            if asked:
                log.warning("agent is stopped", tasks=asked, why="its worker ends and cannot wait longer")
        return True

    def _release(self) -> None:
        """Let the next worker of this instance start at once. Runs when the pool is down; its children skip it."""
        if self._thread is not None:
            self._orders.put(_Order.END)
            self._thread.join()
        identity = _identity()
        try:
            with _engine().store.writing() as tx:
                tx.release_worker_lease(identity.instance, token=identity.token)
        except (ForgepoolError, SQLAlchemyError) as error:
            log.warning("lease not released", instance=identity.instance, why=str(error))


def _keep_one_folder(folder: Path) -> None:
    """Have the pool make its temporary files in the same folder each time.

    By itself it makes a new one, which only an orderly end removes: each killed worker would leave one behind.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # What multiprocessing.util.get_temp_dir looks for first; there is no public way to tell it.
    multiprocessing.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]  # noqa: SLF001


def _engine() -> Engine:
    if InstanceLease.engine is None:
        raise RuntimeError("the worker has no engine; tasks.celery sets it")
    return InstanceLease.engine


def _identity() -> Identity:
    if InstanceLease.identity is None:
        raise RuntimeError("the worker has no identity; create() gives it one")
    return InstanceLease.identity


def _instance(worker: Any) -> str:
    """Return the one queue of this worker, which is the name of its instance."""
    queues = list(worker.app.amqp.queues.consume_from)
    if len(queues) != 1:
        raise _refuse(f"a worker serves one instance, so one queue; got {', '.join(sorted(queues))}. Use -Q NAME")
    if worker.concurrency != 1:
        raise _refuse(f"an instance runs one task at a time; got a concurrency of {worker.concurrency}. Use -c 1")
    if "prefork" not in worker.pool_cls.__module__:
        raise _refuse(
            f"only the prefork pool answers while a task runs; got {worker.pool_cls.__module__}. Leave out -P"
        )
    return str(queues[0])


def _refuse(sentence: str, code: int = EX_USAGE) -> Refusal:
    logging.getLogger(__name__).error(sentence)
    return Refusal(code)
