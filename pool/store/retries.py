"""Work that has to be placed again: lost runs, dead letters, the queue of an instance that goes away."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select

from pool.errors import NoInstance, StaleTask, UnknownTask
from pool.model import Decision, Task
from pool.schema import is_dead, is_queued, tasks
from pool.states import InstanceState, Move, State
from pool.store.base import TASK_COLUMNS, readable, to_task
from pool.store.tasks import INSERTED_AGAIN, Queued, TaskVerbs

#: Returns the match_labels that instances of a type have when they have none of their own.
LabelsOf = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The task waits for a person, who may release or cancel it."""

    task: int
    why: str


class RetryVerbs(TaskVerbs):
    """Statements that place work again."""

    def retry_interrupted(
        self,
        task_id: int,
        *,
        cap: int,
        by: str,
        default_labels: tuple[str, ...] = (),
        one_conversation: bool = True,
    ) -> Queued | DeadLettered:
        """Queue an interrupted task again, as a new row in front of what came after it.

        Once `cap` retries were lost too, or when nobody can take it, the new row is a dead letter.
        It stays on its instance (the queue keeps its order), unless that is gone: then it is dispatched anew, with
        default_labels and one_conversation as in `submit`.
        Raises UnknownTask, or StaleTask when the task was not interrupted.
        """
        row = self.connection.execute(select(tasks).where(tasks.c.id == task_id)).one_or_none()
        if row is None:
            raise UnknownTask(task_id)
        if row.state != State.INTERRUPTED:
            raise StaleTask(task_id, "be retried", row.state)
        values = {name: getattr(row, name) for name in INSERTED_AGAIN}
        values |= {"retry_of": task_id, "interruptions": row.interruptions + 1}
        if row.interruptions >= cap:
            often = "once" if row.interruptions == 0 else f"{row.interruptions + 1} times"
            return self._insert_dead(values, by, f"its run was lost {often}")
        place: dict[str, Any] = {"instance": row.instance, "decision": row.decision}
        if not self._may_keep(row.instance, row.type):
            try:
                place = self._place_anew(row, default_labels, one_conversation)
            except NoInstance as error:
                return self._insert_dead(values, by, str(error))
        task = self._insert({**values, **place, "state": State.QUEUED})
        self._count(place["instance"], queued=1)
        where = "in its old place" if place["instance"] == row.instance else f"since {row.instance} takes it no more"
        self._note(task, "queued", by, f"again on {place['instance']}, {where}, after task {task_id} was interrupted")
        return Queued(task, place["instance"], Decision.from_json(place["decision"]))

    def release(
        self, task_id: int, *, by: str, default_labels: tuple[str, ...] = (), one_conversation: bool = True
    ) -> Queued:
        """Queue a dead letter again, in its old place and with its retries given back.

        It goes to its old instance, unless that is gone or its conversation has gone on elsewhere meanwhile.
        Raises UnknownTask, StaleTask when it is no dead letter, NoInstance when nobody can take it.
        """
        row = self.connection.execute(select(tasks).where(tasks.c.id == task_id)).one_or_none()
        if row is None:
            raise UnknownTask(task_id)
        if row.state != State.DEAD_LETTERED:
            raise StaleTask(task_id, Move.RELEASE, row.state)
        goes_on_elsewhere = one_conversation and self._live_home(row.session_key) is not None
        if self._may_keep(row.instance, row.type) and not goes_on_elsewhere:
            place: dict[str, Any] = {"instance": row.instance, "decision": row.decision}
        else:
            place = self._place_anew(row, default_labels, one_conversation)
        self._put(task_id, place)
        self._move(task_id, Move.RELEASE, by=by, why=f"to {place['instance']}", values={"interruptions": 0})
        return Queued(task_id, place["instance"], Decision.from_json(place["decision"]))

    def clear_queue(
        self, instance: str, *, by: str, why: str, labels_of: LabelsOf, one_conversation: bool = True
    ) -> list[Queued | DeadLettered]:
        """Dispatch what waits on an instance anew by type, oldest first, keeping each task's age.

        Call it when the instance takes nothing new any more. What nobody else can take becomes a dead letter.
        """
        waiting = select(tasks).where(tasks.c.instance == instance, is_queued).order_by(tasks.c.position, tasks.c.id)
        placed: list[Queued | DeadLettered] = []
        for row in self.connection.execute(waiting).all():
            try:
                place = self._place_anew(row, labels_of(row.type), one_conversation)
            except NoInstance as error:
                self.move(row.id, Move.BURY, by=by, why=f"{why}; {error}")
                placed.append(DeadLettered(row.id, str(error)))
                continue
            self._count(instance, queued=-1)
            self._put(row.id, {**place, "published_at": None})
            self._count(place["instance"], queued=1)
            self._note(row.id, "re-dispatched", by, f"from {instance} to {place['instance']}: {why}")
            placed.append(Queued(row.id, place["instance"], Decision.from_json(place["decision"])))
        self.sweep_removed(instance)
        return placed

    # --- reading ------------------------------------------------------------------------------

    def count_dead(self) -> int:
        """Return how many dead letters wait for a person."""
        return self.connection.scalar(select(func.count()).select_from(tasks).where(is_dead)) or 0

    def lineage(self, task_id: int) -> list[Task]:
        """Return a task and, before it, those that it repeats, oldest first; a deleted one ends the chain.

        Raises UnknownTask.
        """
        chain = [self.task(task_id)]
        while (earlier := chain[0].retry_of) is not None:
            row = self.connection.execute(select(*TASK_COLUMNS).where(tasks.c.id == earlier)).one_or_none()
            if row is None:
                break
            chain.insert(0, to_task(row))
        return chain

    def retried_as(self, task_id: int) -> int | None:
        """Return the task that repeats a task; None: none does."""
        old = tasks.alias("old")
        same = (tasks.c.repo == old.c.repo, tasks.c.number == old.c.number, tasks.c.id > old.c.id)
        query = select(tasks.c.id).join(old, and_(*same)).where(old.c.id == task_id, tasks.c.retry_of == task_id)
        return self.connection.scalar(query.limit(1))

    # --- parts --------------------------------------------------------------------------------

    def _may_keep(self, instance: str | None, type_name: str) -> bool:
        """Tell whether an instance still serves a type."""
        home = self.find_instance(instance) if instance else None
        return home is not None and home.state is not InstanceState.REMOVED and home.type == type_name

    def _place_anew(self, row: Any, default_labels: tuple[str, ...], one_conversation: bool) -> dict[str, Any]:  # noqa: FBT001 - passed on
        """Choose an instance for a row. Raises NoInstance."""
        decision = self.select_instance(
            row.type,
            labels=readable(row.request).labels,
            default_labels=default_labels,
            session_key=row.session_key if one_conversation else None,
        )
        return {"instance": decision.chosen, "decision": decision.to_json()}

    def _insert_dead(self, values: dict[str, Any], by: str, why: str) -> DeadLettered:
        held = {"state": State.DEAD_LETTERED, "reason": why, "finished_at": self.now}
        task = self._insert({**values, **held})
        self._note(task, Move.BURY, by, why)
        return DeadLettered(task, why)
