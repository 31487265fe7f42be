"""Tasks: every state change is a guarded move, counted on the instance and written to the history."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Integer, bindparam, insert, literal_column, select, update

from pool.errors import BadInput, NoInstance, StaleTask, UnknownTask
from pool.model import MAX_ID, Decision, Request, Task, TaskEvent, session_key
from pool.schema import instances, is_dead, is_live, is_queued, is_running, is_waiting, task_events, tasks, waits
from pool.states import LIVE, STEPS, InstanceState, Move, State
from pool.store.base import TASK_COLUMNS, to_task
from pool.store.instances import InstanceVerbs
from pool.store.selection import SelectionVerbs
from pool.store.sessions import SessionVerbs

#: A moment that lies further ahead was written before the clock was put back, and says nothing any more.
AHEAD_S = 5.0
TICK_S = 1e-6  #: the smallest difference of two moments


@dataclass(frozen=True, slots=True)
class Queued:
    """The task was queued on an instance; ring its doorbell after the commit."""

    task: int
    instance: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A live task asks for the same thing already."""

    task: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """No instance could take it; the failed task keeps that visible."""

    task: int
    error: NoInstance


Submitted = Queued | Absorbed | Rejected


class TaskVerbs(InstanceVerbs, SelectionVerbs, SessionVerbs):
    """Statements about tasks."""

    def submit(
        self,
        type_name: str,
        request: Request,
        *,
        by: str,
        default_labels: tuple[str, ...] = (),
        absorb: Collection[State] = (),
        one_conversation: bool = True,
        rule: str | None = None,
        delivery: int | None = None,
    ) -> Submitted:
        """Choose an instance and queue the task there, or store why that was not possible.

        absorb: states in which a task for the same thing makes this one needless; with any, dead letters of the same
        thing become needless in their turn.
        one_conversation: follow a live task of the same session to its instance.
        """
        key = session_key(type_name, request.repo, request.number)
        if absorb and (twin := self._twin(key, request, absorb)) is not None:
            return Absorbed(twin)
        values = {
            "type": type_name,
            "kind": request.kind,
            "repo": request.repo,
            "number": request.number,
            "head_sha": request.head_sha,
            "session_key": key,
            "request": request.to_json(),
            "rule": rule,
            "delivery": delivery,
        }
        follow = key if one_conversation else None
        try:
            decision = self.select_instance(
                type_name, labels=request.labels, default_labels=default_labels, session_key=follow
            )
        except NoInstance as error:
            return self._reject(values, error, by)
        chosen = decision.chosen
        task = self._insert({**values, "state": State.QUEUED, "instance": chosen, "decision": decision.to_json()})
        self._count(chosen, queued=1)
        self._note(task, "queued", by, f"on {chosen}")
        if absorb:
            self._supersede_dead(key, request, task, by)
        return Queued(task, chosen, decision)

    def _supersede_dead(self, key: str, request: Request, task: int, by: str) -> None:
        """Take back the dead letters of what a new task asks for: released later, they would do it twice."""
        here = {"repo": request.repo, "number": request.number, "session_key": key, "kind": request.kind}
        for letter in self.connection.scalars(DEAD_TWINS, here).all():
            self.move(letter, Move.SUPERSEDE, by=by, why=f"task {task} asks for the same")

    def _insert(self, values: dict[str, Any]) -> int:
        """Insert a task; its place in the queue is its own id unless the values name another."""
        position = values.get("position", 0)
        task: int = self.connection.execute(
            INSERT_TASK, {**values, "position": position, "created_at": self.now}
        ).scalar_one()
        if not position:
            self._put(task, {"position": task})
        return task

    def _reject(self, values: dict[str, Any], error: NoInstance, by: str) -> Rejected:
        final = {"state": State.FAILED, "instance": None, "reason": str(error), "finished_at": self.now}
        task = self._insert({**values, **final})
        self._note(task, Move.REJECT, by, str(error))
        return Rejected(task, NoInstance(error.type_name, task_id=task, why=str(error)))

    def _twin(self, key: str, request: Request, absorb: Collection[State]) -> int | None:
        query = (
            select(tasks.c.id)
            .where(
                tasks.c.session_key == key,
                tasks.c.state.in_(sorted(absorb)),
                tasks.c.kind == request.kind,
                tasks.c.head_sha.is_not_distinct_from(request.head_sha),
            )
            .order_by(tasks.c.id.desc())
            .limit(1)
        )
        return self.connection.scalar(query.where(is_live) if LIVE.issuperset(absorb) else query)

    # --- the one way in which a state changes -------------------------------------------------

    def move(self, task: int, move: Move, *, by: str, why: str = "", fence: int | None = None, **values: Any) -> None:
        """Make one move, keep the instance's counters true, and write it down.

        fence: the run that makes the move; a run that lost its lease moves nothing.
        Raises StaleTask when the task is in no state from which the move is allowed.
        """
        self._move(task, move, by=by, why=why, fence=fence, values=values)

    def _move(
        self, task: int, move: Move, *, by: str, values: dict[str, Any], why: str = "", fence: int | None = None
    ) -> None:
        """As `move`; values: further columns to write with it."""
        step = STEPS[move]
        before = self.connection.execute(PLACE, {"task": task}).one_or_none()
        changes = {"state": step.target, **values}
        if step.target not in LIVE:
            changes |= {"finished_at": self.now, "reason": why, "lease_until": None}
        elif step.target is State.QUEUED:
            changes |= {"finished_at": None, "published_at": None, "reason": ""}
        if fence is None:
            result = self.connection.execute(MOVES[move], {"changed": task, **changes})
        else:
            result = self.connection.execute(FENCED_MOVES[move], {"changed": task, "held": fence, **changes})
        if before is None or result.rowcount == 0:
            same = before is not None and before.state in step.sources
            raise StaleTask(task, move, None if before is None or same else before.state)
        self._count(
            before.instance,
            queued=(step.target is State.QUEUED) - (before.state == State.QUEUED),
            running=(step.target is State.RUNNING) - (before.state == State.RUNNING),
        )
        if step.target not in LIVE:
            self.sweep_removed(before.instance)
        self._note(task, move, by, why)

    def _put(self, task: int, place: dict[str, Any]) -> None:
        """Write columns that are no move: where a task waits, and on what grounds."""
        self.connection.execute(UPDATE_TASK, {"changed": task, **place})

    def _count(self, instance: str, *, queued: int = 0, running: int = 0) -> None:
        """Add to the counters of an instance."""
        self.connection.execute(COUNT, {"instance": instance, "more_queued": queued, "more_running": running})

    def _note(self, task: int, event: str, by: str, why: str = "") -> None:
        self.connection.execute(INSERT_EVENT, {"task": task, "at": self.now, "event": event, "by": by, "why": why})

    # --- requests from outside ----------------------------------------------------------------

    def cancel(self, task_id: int, *, by: str, why: str = "") -> State:
        """Cancel a task; return CANCELLED, or RUNNING when its worker has been asked to stop the agent.

        Raises UnknownTask, or StaleTask when it has ended already.
        """
        task = self.task(task_id)
        reason = why or f"cancelled by {by}"
        alive = task.lease_until is not None and task.lease_until > self.now
        if task.state is not State.RUNNING or not alive:
            self.move(task_id, Move.CANCEL, by=by, why=reason)
            if task.state is State.RUNNING:
                self.drop_session(task.session_key)
            return State.CANCELLED
        if task.cancel_requested_at is None:
            self.connection.execute(
                update(tasks).where(tasks.c.id == task_id).values(cancel_requested_at=self.now, cancel_by=by)
            )
            self._note(task_id, "cancel-requested", by, reason)
        return State.RUNNING

    def supersede(
        self,
        repo: str,
        number: int,
        *,
        by: str,
        why: str,
        types: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[int]:
        """Take back what still waits for an issue or pull request; return the ids. None: all types, all kinds.

        Dead letters wait too: for a person, who need not look at them any more.
        """
        query = select(tasks.c.id).where(tasks.c.repo == repo, tasks.c.number == number, waits)
        query = query.order_by(tasks.c.id)
        if types is not None:
            query = query.where(tasks.c.type.in_(sorted(types)))
        if kinds is not None:
            query = query.where(tasks.c.kind.in_(sorted(kinds)))
        found = list(self.connection.scalars(query))
        for task in found:
            self.move(task, Move.SUPERSEDE, by=by, why=why)
        return found

    def mark_published(self, task: int) -> None:
        """Remember that the broker took the doorbell of a task. Harmless when it has moved on."""
        self.connection.execute(MARK_PUBLISHED, {"rung": task, "published_at": self.now})
        self.connection.execute(MARK_RUNG, {"rung": task, "rung_at": self.now})

    # --- reading ------------------------------------------------------------------------------

    def task(self, task_id: int) -> Task:
        """Return one task with its history. Raises UnknownTask."""
        row = self.connection.execute(select(*TASK_COLUMNS).where(tasks.c.id == task_id)).one_or_none()
        if row is None:
            raise UnknownTask(task_id)
        events = self.connection.execute(
            select(task_events.c.at, task_events.c.event, task_events.c.by, task_events.c.why)
            .where(task_events.c.task == task_id)
            .order_by(task_events.c.id)
        )
        return replace(to_task(row), history=tuple(TaskEvent(**e._mapping) for e in events))  # noqa: SLF001 - SQLAlchemy's public name

    def list_tasks(
        self,
        *,
        states: Collection[State] = (),
        instance: str | None = None,
        type_name: str | None = None,
        repo: str | None = None,
        number: int | None = None,
        delivery: int | None = None,
        limit: int = 50,
        newest_first: bool = True,
    ) -> list[Task]:
        """Return tasks that fit every given filter, without their histories."""
        query = select(*TASK_COLUMNS).order_by(tasks.c.id.desc() if newest_first else tasks.c.id).limit(limit)
        if states:
            query = query.where(tasks.c.state.in_(sorted(states)))
            query = query.where(is_live) if LIVE.issuperset(states) else query
            query = query.where(is_dead) if set(states) == {State.DEAD_LETTERED} else query
        filters = {"instance": instance, "type": type_name, "repo": repo, "number": number, "delivery": delivery}
        for name, value in filters.items():
            if value is not None:
                query = query.where(tasks.c[name] == value)
        return [to_task(row) for row in self.connection.execute(query)]

    def events_after(self, last: int, *, limit: int = 200) -> list[tuple[int, int, TaskEvent]]:
        """Return (event id, task id, event) of what happened after an event id, oldest first."""
        query = select(task_events).where(task_events.c.id > last).order_by(task_events.c.id).limit(limit)
        return [
            (row.id, row.task, TaskEvent(at=row.at, event=row.event, by=row.by, why=row.why))
            for row in self.connection.execute(query)
        ]

    def running(self, instance: str | None = None) -> list[Task]:
        """Return what runs now, on one instance or on all."""
        query = select(*TASK_COLUMNS).where(is_running)
        if instance is not None:
            query = query.where(tasks.c.instance == instance)
        return sorted((to_task(row) for row in self.connection.execute(query)), key=lambda task: task.id)

    # --- what the reconciler asks -------------------------------------------------------------

    def unpublished(self, *, older_than_s: float, limit: int = 100) -> list[tuple[int, str]]:
        """Return (task, instance) of queued tasks whose doorbell never reached the broker, oldest first."""
        query = (
            select(tasks.c.id, tasks.c.instance)
            .where(is_queued, tasks.c.published_at.is_(None))
            .where(~tasks.c.created_at.between(self.after(-older_than_s + TICK_S), self.after(AHEAD_S)))
            .order_by(tasks.c.created_at, tasks.c.id)
            .limit(limit)
        )
        return [(row.id, row.instance) for row in self.connection.execute(query)]

    def silent_queues(self, *, rung_before_s: float, limit: int = 100) -> list[tuple[int, str]]:
        """Return (head task, instance) of idle instances with a queue that nobody rang for lately, longest first.

        Not of paused ones: their workers would start nothing.
        """
        names = self.connection.scalars(
            select(instances.c.name)
            .where(is_waiting)
            .where(~instances.c.rung_at.between(self.after(-rung_before_s + TICK_S), self.after(AHEAD_S)))
            .where(instances.c.state != InstanceState.PAUSED)
            .order_by(instances.c.rung_at)
            .limit(limit)
        ).all()
        heads = ((self.head_of_queue(name), name) for name in names)
        return [(head, name) for head, name in heads if head is not None]

    def head_of_queue(self, instance: str) -> int | None:
        """Return the task that is next on an instance."""
        return self.connection.scalar(HEAD, {"instance": instance})


def check_task_id(value: object) -> int:
    """Return a task id from what a person typed. Raises BadInput."""
    digits = str(value).removeprefix("#")
    if digits.isdecimal() and len(digits) <= len(str(MAX_ID)) and (task := int(digits)) <= MAX_ID:
        return task
    raise BadInput("task", value, "use the number that `forgepool tasks list` shows")


# --- the statements, built once ----------------------------------------------------------------------

#: What a retry takes over from the row that it points to.
INSERTED_AGAIN = (
    *("type", "kind", "repo", "number", "head_sha", "session_key", "request", "rule", "delivery"),
    *("instance", "position", "decision"),
)

INSERT_TASK = insert(tasks).returning(tasks.c.id)
INSERT_EVENT = insert(task_events)
UPDATE_TASK = update(tasks).where(tasks.c.id == bindparam("changed"))

#: Each is guarded by the states that its move may come from.
MOVES = {
    move: UPDATE_TASK.where(tasks.c.state.in_([literal_column(f"'{state}'") for state in sorted(step.sources)]))
    for move, step in STEPS.items()
}
FENCED_MOVES = {move: guarded.where(tasks.c.fence == bindparam("held")) for move, guarded in MOVES.items()}

#: `waits` is what the index is about.
DEAD_TWINS = select(tasks.c.id).where(
    *(tasks.c[name] == bindparam(name) for name in ("repo", "number", "session_key", "kind")), waits, is_dead
)
PLACE = select(tasks.c.state, tasks.c.instance).where(tasks.c.id == bindparam("task"))
COUNT = (
    update(instances)
    .where(instances.c.name == bindparam("instance"))
    .values(
        queued=instances.c.queued + bindparam("more_queued", type_=Integer),
        running=instances.c.running + bindparam("more_running", type_=Integer),
    )
)
HEAD = (
    select(tasks.c.id)
    .where(tasks.c.instance == bindparam("instance"), is_queued)
    .order_by(tasks.c.position, tasks.c.id)
    .limit(1)
)
MARK_PUBLISHED = update(tasks).where(tasks.c.id == bindparam("rung"), tasks.c.published_at.is_(None))
MARK_RUNG = update(instances).where(
    instances.c.name == select(tasks.c.instance).where(tasks.c.id == bindparam("rung")).scalar_subquery()
)
