"""The two commands of the engine: submit and cancel. Every door calls these."""

from collections.abc import Iterable
from typing import Any

import structlog

from pool import explain
from pool.crashpoints import Point, reach
from pool.model import Request
from pool.states import InstanceState, State
from pool.store import DeadLettered, Queued, Rejected, Submitted, Tx
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


def announce(engine: Engine, submitted: Iterable[Submitted | DeadLettered]) -> None:
    """After the commit: ring for what was queued, log what was not."""
    for one in submitted:
        match one:
            case Queued(task, instance, decision):
                log.info("task queued", task=task, instance=instance, why=explain.short(decision))
                reach(Point.COMMITTED)
                ring(engine, task, instance)
            case Rejected(task, error):
                log.error("task rejected", task=task, why=str(error))
            case DeadLettered(task, why):
                log.error("task is a dead letter", task=task, why=why, remedy=f"forgepool tasks release {task}")
            case absorbed:
                log.info("task absorbed", task=absorbed.task)


def ring(engine: Engine, task: int, instance: str) -> bool:
    """Ring for a committed task and remember it; False when the broker is away: the reconciler tries again."""
    try:
        engine.bell.ring(instance, task)
    except BellError as error:
        log.warning("doorbell failed", task=task, instance=instance, why=str(error))
        return False
    reach(Point.PUBLISHED)
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


def retry_interrupted(engine: Engine, tx: Tx, task_id: int, *, by: str) -> Queued | DeadLettered:
    """Queue an interrupted task again, in its old place; a dead letter when lost too often or when nobody can take it.

    In the transaction that interrupted it, so that no crash comes between. Call `announce` with what comes back after
    the commit.
    """
    service = engine.settings.service
    return tx.retry_interrupted(
        task_id,
        cap=service.max_interruptions,
        by=by,
        default_labels=labels_of(engine, tx.task(task_id).type),
        one_conversation=service.one_conversation,
    )


def labels_of(engine: Engine, type_name: str) -> tuple[str, ...]:
    """Return the labels of a type's instances that have none of their own; none for a type that is gone."""
    kind = engine.settings.types.get(type_name)
    return kind.match_labels if kind else ()


def release(engine: Engine, task_id: int, *, by: str) -> Queued:
    """Queue a dead letter again. Raises UnknownTask, StaleTask when it is none, NoInstance."""
    with engine.store.writing() as tx:
        again = tx.release(
            task_id,
            by=by,
            default_labels=labels_of(engine, tx.task(task_id).type),
            one_conversation=engine.settings.service.one_conversation,
        )
    announce(engine, [again])
    return again


def cancel(engine: Engine, task_id: int, *, by: str, why: str = "") -> State:
    """Cancel a queued task, or ask the worker of a running one to stop its agent. Needs no broker.

    Returns CANCELLED or RUNNING. Raises UnknownTask, or StaleTask when it has ended.
    """
    with engine.store.writing() as tx:
        state = tx.cancel(task_id, by=by, why=why)
    log.info("task cancelled" if state is State.CANCELLED else "cancel requested", task=task_id, by=by)
    return state


def set_state(engine: Engine, name: str, state: InstanceState) -> None:
    """Pause, resume, drain or remove an instance; one whose pause ends is rung for what waits."""
    with engine.store.writing() as tx:
        was_paused = tx.instance(name).state is InstanceState.PAUSED
        tx.set_instance_state(name, state)
        works_again = state is InstanceState.ACTIVE or (was_paused and state is not InstanceState.PAUSED)
        head = tx.head_of_queue(name) if works_again else None
    log.info("instance changed", instance=name, state=state)
    if head is not None:
        ring(engine, head, name)


def remove_now(engine: Engine, name: str, *, by: str) -> tuple[list[Queued | DeadLettered], list[int]]:
    """Remove an instance without waiting: what waits goes to others, what runs is stopped and goes to others too.

    Returns what became of the queue, and the running tasks that were asked to stop. Raises UnknownInstance.
    """
    with engine.store.writing() as tx:
        tx.set_instance_state(name, InstanceState.REMOVED)
        placed = _clear_queue(engine, tx, name, by=by, why=f"{name} was removed")
        stopped = tx.ask_to_stop(name, by=by, why=f"{name} was removed") if tx.find_instance(name) else []
    log.info("instance removed", instance=name, redispatched=len(placed), stopped=stopped)
    announce(engine, placed)
    return placed, stopped


def set_type(engine: Engine, name: str, type_name: str, *, by: str, **overrides: Any) -> list[Queued | DeadLettered]:
    """Make an instance a member of another type's pool; what waits on it goes to others of the old type.

    A running task ends there. overrides: what else is to be changed, as in `Tx.set_instance`.
    Raises UnknownInstance, BadInput for a type that is not configured.
    """
    engine.settings.type(type_name)
    with engine.store.writing() as tx:
        before = tx.set_instance(name, **overrides)
        if before.type == type_name:
            return []
        tx.set_instance_type(name, type_name)
        placed = _clear_queue(engine, tx, name, by=by, why=f"{name} became of type {type_name}")
    log.info("instance changed", instance=name, type=type_name, redispatched=len(placed))
    announce(engine, placed)
    return placed


def _clear_queue(engine: Engine, tx: Tx, name: str, *, by: str, why: str) -> list[Queued | DeadLettered]:
    return tx.clear_queue(
        name,
        by=by,
        why=why,
        labels_of=lambda type_name: labels_of(engine, type_name),
        one_conversation=engine.settings.service.one_conversation,
    )
