"""What makes a Celery worker the one worker of its instance: the lease on the instance row."""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from dataclasses import dataclass
from types import FrameType
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state as worker_state
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError, LeaseHeld, LeaseLost, UnknownInstance
from tasks.doorbell import CeleryBell
from tasks.engine import Engine
from tasks.settings import Settings

log = structlog.get_logger(__name__)

#: From sysexits.h: what a supervisor sees when another worker holds the queue, or the call or the set-up is off.
EX_TEMPFAIL, EX_USAGE, EX_CONFIG = 75, 64, 78


@dataclass(frozen=True, slots=True)
class Identity:
    """Which instance this worker serves, and the token that proves it. Set before the pool is forked."""

    instance: str
    token: str


class Refusal(SystemExit):
    """The worker must not start; the message has been logged."""


class InstanceLease(bootsteps.StartStopStep):  # type: ignore[misc] # celery has no annotations
    """Refuses to start beside another worker, then keeps the lease until the worker ends.

    A step of the worker's blueprint, because what a signal handler raises is logged by Celery and forgotten.
    """

    name = "InstanceLease"
    label = "Instance lease"

    #: The engine of this process and, after `create`, who we are: read by the task in the forked child.
    engine: Engine | None = None
    identity: Identity | None = None

    def __init__(self, parent: Any, **options: Any) -> None:
        """Keep nothing yet: `create` decides whether there is a worker at all."""
        super().__init__(parent, **options)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def create(self, worker: Any) -> None:
        """Take the lease. Exits with a sentence when this worker may not serve."""
        instance = _instance(worker)
        try:
            engine = InstanceLease.engine = Engine.open(Settings.load(), CeleryBell(worker.app))
        except ForgepoolError as error:
            raise _refuse(str(error), EX_CONFIG) from None
        holder = f"{worker.hostname} (pid {os.getpid()} on {socket.gethostname()})"
        identity = Identity(instance, uuid.uuid4().hex)
        lease_s = engine.settings.service.worker_lease_s
        try:
            with engine.store.writing() as tx:
                row = tx.instance(instance)
                tx.take_worker_lease(instance, holder=holder, token=identity.token, lease_s=lease_s)
        except (LeaseHeld, UnknownInstance) as error:
            raise _refuse(str(error), EX_TEMPFAIL) from None
        if row.type not in engine.settings.types:
            raise _refuse(f"{instance} is of type {row.type!r}, which {engine.settings.path.name} does not describe")
        InstanceLease.identity = identity
        atexit.register(_release)
        # Until Celery installs its own handler, a moment from now: without one the lease would outlive us.
        signal.signal(signal.SIGTERM, _exit)
        log.info("lease taken", instance=instance, holder=holder)

    def start(self, worker: Any) -> None:
        """Begin to renew, in a thread: the worker's own loop may wait for the broker."""
        del worker
        self._thread = threading.Thread(target=self._keep, name="worker lease", daemon=True)
        self._thread.start()

    def stop(self, worker: Any) -> None:
        """Stop renewing. The lease is released when the process ends, after the pool."""
        del worker
        self._over.set()

    def close(self, worker: Any) -> None:
        """Keep the lease while the last run ends."""

    def terminate(self, worker: Any) -> None:
        """Do as on a warm stop."""
        self.stop(worker)

    def _keep(self) -> None:
        engine, identity = _engine(), InstanceLease.identity
        assert identity is not None  # noqa: S101 - create() came first
        lease_s = engine.settings.service.worker_lease_s
        while not self._over.wait(lease_s / 3):
            try:
                with engine.store.writing() as tx:
                    tx.renew_worker_lease(identity.instance, token=identity.token, lease_s=lease_s)
            except (LeaseLost, UnknownInstance) as error:
                log.error("worker stops", instance=identity.instance, why=str(error))
                # Warm: a run that still has its own lease may end; nothing new is taken.
                worker_state.should_stop = EX_TEMPFAIL
                return
            except (ForgepoolError, SQLAlchemyError) as error:
                log.warning("worker lease not renewed", instance=identity.instance, why=str(error))


def _release() -> None:
    """Let the next worker of this instance start at once. Runs when the pool is down; its children skip it."""
    identity = InstanceLease.identity
    if identity is None:
        return
    engine = _engine()
    try:
        with engine.store.writing() as tx:
            tx.release_worker_lease(identity.instance, token=identity.token)
    except (ForgepoolError, SQLAlchemyError) as error:
        log.warning("lease not released", instance=identity.instance, why=str(error))


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


def _engine() -> Engine:
    if InstanceLease.engine is None:
        raise RuntimeError("the worker has no engine; tasks.celery sets it")
    return InstanceLease.engine


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
