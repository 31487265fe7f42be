"""The two commands of the engine: submit and cancel. Every door calls these."""

import structlog

from pool import explain
from pool.model import Request
from pool.states import InstanceState, State
from pool.store import Queued, Rejected, Submitted, Tx
from tasks import workflow
from tasks.doorbell import BellError
from tasks.engine import Engine

log = structlog.get_logger(__name__)


def dispatch_by_type(engine: Engine, type_name: str, request: Request, *, by: str) -> int:
    """Queue a request on an instance of a type and return the task id.

    Raises BadInput for a type that is not configured, NoInstance (with the id of the failed task) when no
    instance can take it.
    """
    settings = engine.settings.type(type_name)
    with engine.store.writing() as tx:
        submitted = tx.submit(
            type_name,
            request,
            by=by,
            default_labels=settings.match_labels,
            one_conversation=engine.settings.service.one_conversation,
        )
    if isinstance(submitted, Rejected):
        announce(engine, [submitted])
        raise submitted.error
    announce(engine, [submitted])
    return submitted.task


def announce(engine: Engine, submitted: list[Submitted]) -> None:
    """After the commit: ring for what was queued, log what was not."""
    for one in submitted:
        match one:
            case Queued(task, instance, decision):
                log.info("task queued", task=task, instance=instance, why=explain.short(decision))
                ring(engine, task, instance)
            case Rejected(task, error):
                log.error("task rejected", task=task, why=str(error))
            case absorbed:
                log.info("task absorbed", task=absorbed.task)


def ring(engine: Engine, task: int, instance: str) -> bool:
    """Ring for a committed task and remember it; False when the broker is away: the reconciler tries again."""
    try:
        engine.bell.ring(instance, task)
    except BellError as error:
        log.warning("doorbell failed", task=task, instance=instance, why=str(error))
        return False
    with engine.store.writing() as tx:
        tx.mark_published(task)
    return True


def ring_if_silent(engine: Engine, task: int, instance: str) -> bool:
    """Ring for the head of a queue if the broker holds no message for it; tell whether that was needed and done."""
    try:
        if engine.bell.waiting(instance):
            return False
    except BellError as error:
        log.warning("doorbell failed", task=task, instance=instance, why=str(error))
        return False
    return ring(engine, task, instance)


def retry_interrupted(engine: Engine, tx: Tx, task_id: int, *, by: str) -> Queued | None:
    """Queue an interrupted task again, in its old place; None when it was lost too often or nobody can take it.

    Call `announce` with what comes back after the commit.
    """
    kind = engine.settings.types.get(tx.task(task_id).type)
    labels = kind.match_labels if kind else ()
    return tx.retry_interrupted(task_id, cap=workflow.MAX_INTERRUPTIONS, by=by, default_labels=labels)


def cancel(engine: Engine, task_id: int, *, by: str, why: str = "") -> State:
    """Cancel a queued task, or ask the worker of a running one to stop its agent. Needs no broker.

    Returns CANCELLED or RUNNING. Raises UnknownTask, or StaleTask when it has ended.
    """
    with engine.store.writing() as tx:
        state = tx.cancel(task_id, by=by, why=why)
    log.info("task cancelled" if state is State.CANCELLED else "cancel requested", task=task_id, by=by)
    return state


def set_state(engine: Engine, name: str, state: InstanceState) -> None:
    """Pause, resume, drain or remove an instance; a resumed one is rung for what waits."""
    with engine.store.writing() as tx:
        tx.set_instance_state(name, state)
        head = tx.head_of_queue(name) if state is InstanceState.ACTIVE else None
    log.info("instance changed", instance=name, state=state)
    if head is not None:
        ring(engine, head, name)
