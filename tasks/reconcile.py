"""Repairs: what was committed is made to happen. Each repair is one named action, safe to repeat."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError
from tasks.dispatch import announce, retry_interrupted, ring, ring_if_silent
from tasks.engine import Engine

log = structlog.get_logger(__name__)

#: A publish normally takes milliseconds; what is unpublished for longer has been forgotten.
UNPUBLISHED_S = 2.0
#: A doorbell is normally answered at once; an idle instance with a queue that was rung this long ago may not have
#: heard it. The broker knows: only where it holds no message is there anything to repair.
SILENT_S = 1.0


@dataclass(frozen=True, slots=True)
class Repair:
    """One action of the reconciler."""

    name: str
    why: str
    act: Callable[[Engine], int]  #: returns how many things it repaired


def publish_forgotten(engine: Engine) -> int:
    """Ring for tasks that were committed while the broker was away, or whose publisher was killed."""
    with engine.store.reading() as tx:
        found = tx.unpublished(older_than_s=UNPUBLISHED_S)
    return sum(ring(engine, task, instance) for task, instance in found)


def ring_again(engine: Engine) -> int:
    """Ring for the head of a queue whose worker is idle: a message was lost, or came while it could not be served."""
    with engine.store.reading() as tx:
        found = tx.silent_queues(rung_before_s=SILENT_S)
    return sum(ring_if_silent(engine, task, instance) for task, instance in found)


def interrupt_dead_runs(engine: Engine) -> int:
    """Mark runs whose worker stopped renewing the lease as interrupted, and queue them again."""
    with engine.store.writing() as tx:
        dead = tx.expire_runs(by="reconcile")
        again = [retry_interrupted(engine, tx, task, by="reconcile") for task in dead]
    for task in dead:
        log.warning("run interrupted", task=task, why="its worker stopped renewing the lease")
    announce(engine, [one for one in again if one is not None])
    return len(dead)


REPAIRS = (
    Repair("interrupt-dead-runs", "a worker died while its agent ran", interrupt_dead_runs),
    Repair("publish-forgotten", "a task was committed but its message was not sent", publish_forgotten),
    Repair("ring-again", "a message was lost", ring_again),
)


def run_once(engine: Engine) -> dict[str, int]:
    """Make every repair once; return how often each had something to do.

    A repair that fails is logged and does not keep the others from running.
    """
    counts: dict[str, int] = {}
    for repair in REPAIRS:
        try:
            counts[repair.name] = repair.act(engine)
        except (ForgepoolError, SQLAlchemyError) as error:
            log.error("repair failed", repair=repair.name, why=str(error))
            continue
        if counts[repair.name]:
            log.warning("repaired", repair=repair.name, count=counts[repair.name], why=repair.why)
    return counts
