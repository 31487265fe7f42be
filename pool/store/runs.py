"""Runs: claim the head of a queue, keep the lease, record the end. One run per instance at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, bindparam, select, update

from pool.errors import BadInput, LeaseLost, StaleTask, UnknownInstance, UnknownTask
from pool.model import Evidence, Kind, Request, Task
from pool.schema import instances, is_running, task_events, tasks
from pool.states import InstanceState, Move
from pool.store.retries import RetryVerbs

#: In the history of a task.
STOP_REQUESTED = "stop-requested"


@dataclass(frozen=True, slots=True)
class Claim:
    """A run: this worker, and nobody else, may work on the task until the lease ends."""

    task: Task
    fence: int
    session_id: str | None  #: the conversation to continue, if any


@dataclass(frozen=True, slots=True)
class NoClaim:
    """There is nothing to do; a doorbell that rings for nothing is normal."""

    why: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """What others ask of a running task."""

    cancel_by: str | None  #: who asked; None: nobody
    stop: bool  #: the service shuts down, or the instance is taken away
    stop_why: str = ""  #: in the words of whoever asked


@dataclass(frozen=True, slots=True)
class RunningLease:
    """What a run holds."""

    task: int
    fence: int
    until: datetime
    host: str | None  #: where it runs


class RunVerbs(RetryVerbs):
    """Statements about runs."""

    def claim(
        self,
        instance: str,
        *,
        lease_s: float,
        worker_token: str | None = None,
        host: str | None = None,
        types: Collection[str] | None = None,
    ) -> Claim | NoClaim:
        """Take the head of an instance's queue, whatever task the doorbell named.

        worker_token: of the worker lease; a worker that lost it claims nothing. None: no lease is asked for.
        host: where it will run, so that its agent can be looked for there.
        types: those that the worker can run; None: any. One that started before a type was described knows it not.
        Raises LeaseLost, UnknownInstance.
        """
        row = self.connection.execute(QUEUE_HOLDER, {"instance": instance}).one_or_none()
        if row is None:
            raise UnknownInstance(instance)
        if worker_token is not None and row.worker_token != worker_token:
            raise LeaseLost(f"another worker serves {instance} now")
        if row.state == InstanceState.PAUSED:
            return NoClaim(f"{instance} is paused")
        if types is not None and row.type not in types:
            return NoClaim(f"{instance} is of type {row.type}, which this worker does not know; start it again")
        if row.running:
            return NoClaim(f"{instance} runs a task already")
        head = self._first_readable(instance)
        if head is None:
            return NoClaim(f"the queue of {instance} is empty")
        fence = row.fence + 1
        self.connection.execute(NEXT_FENCE, {"instance": instance, "fence": fence})
        run = {"fence": fence, "host": host, "started_at": self.now, "lease_until": self.after(lease_s)}
        self._move(head, Move.CLAIM, by=instance, why=f"run {fence} of {instance}", values=run)
        task = self.task(head)
        session = None if task.request.kind.starts_fresh else self.session(task.session_key)
        return Claim(task, fence, session)

    def _first_readable(self, instance: str) -> int | None:
        """Return the head of the queue; tasks whose request no longer validates fail here and hold up nobody."""
        while (head := self.head_of_queue(instance)) is not None:
            try:
                Request.from_json(self.connection.execute(REQUEST, {"task": head}).scalar_one())
            except BadInput as error:
                self.move(head, Move.REJECT, by=instance, why=f"its request cannot be read: {error}")
            else:
                return head
        return None

    def renew(self, task: int, *, fence: int, lease_s: float) -> Wishes:
        """Keep the lease of a run and read what others ask of it. Raises LeaseLost."""
        result: CursorResult[Any] = self.connection.execute(
            RENEW, {"run": task, "held": fence, "lease_until": self.after(lease_s)}
        )
        if result.rowcount == 0:
            raise LeaseLost(f"the run of task {task} has been taken away")
        return self.wishes(task, fence=fence)

    def wishes(self, task: int, *, fence: int) -> Wishes:
        """Read what others ask of a run, without writing. Raises LeaseLost."""
        row = self.connection.execute(WISHES, {"run": task, "held": fence}).one_or_none()
        if row is None:
            raise LeaseLost(f"the run of task {task} has been taken away")
        asked = row.cancel_by or "somebody" if row.cancel_requested_at else None
        if row.stop_requested_at is None:
            return Wishes(asked, stop=False)
        return Wishes(asked, stop=True, stop_why=self.connection.scalar(STOP_WHY, {"run": task}) or "")

    def note_agent(self, task: int, *, fence: int, pid: int, started: float) -> None:
        """Remember the agent's process, so that an orphan can be told from a stranger with the same pid."""
        self.connection.execute(
            RENEW, {**_AGENT_RAN, "run": task, "held": fence, "agent_pid": pid, "agent_started": started}
        )

    def finish(
        self, task_id: int, move: Move, *, fence: int, evidence: Evidence, why: str, agent_is_gone: bool = True
    ) -> None:
        """Record the end of a run, with its evidence, and keep or drop the conversation.

        agent_is_gone: False keeps the agent's process on record, so that the reconciler looks for it.
        Raises UnknownTask, or StaleTask when this run no longer holds the lease.
        """
        task = self.connection.execute(CONVERSATION, {"task": task_id}).one_or_none()
        if task is None:
            raise UnknownTask(task_id)
        if task.instance is None:
            raise StaleTask(task_id, move, task.state)
        values: dict[str, Any] = {"evidence": evidence.to_json()}
        if agent_is_gone:
            values |= {"agent_pid": None, "agent_started": None}
        self._move(task_id, move, by=task.instance, why=why, fence=fence, values=values)
        if move in {Move.SUCCEED, Move.FAIL} and evidence.session_id and not Kind(task.kind).starts_fresh:
            self.keep_session(task.session_key, evidence.session_id, instance=task.instance, task=task_id)
        elif move not in {Move.SUCCEED, Move.FAIL, Move.WITHDRAW}:
            # A conversation that was cut off in the middle misleads whoever resumes it.
            self.drop_session(task.session_key)

    def ask_to_stop(self, instance: str, *, by: str, why: str = "the worker shuts down") -> list[int]:
        """Ask the running task of an instance to stop; it ends as interrupted. Return the ids of those asked now."""
        found = [t.id for t in self.running(instance) if t.stop_requested_at is None]
        for task in found:
            self.connection.execute(update(tasks).where(tasks.c.id == task).values(stop_requested_at=self.now))
            self._note(task, STOP_REQUESTED, by, why)
        return found

    def running_leases(self) -> list[RunningLease]:
        """Return the lease of every run."""
        rows = self.connection.execute(
            select(tasks.c.id, tasks.c.fence, tasks.c.lease_until, tasks.c.host)
            .where(is_running)
            .order_by(tasks.c.lease_until, tasks.c.id)
        )
        return [RunningLease(row.id, row.fence, row.lease_until, row.host) for row in rows]

    def interrupt_run(self, task_id: int, *, fence: int, by: str, why: str) -> Move:
        """End a run whose worker is gone; return INTERRUPT, or CANCEL when a person had asked for that before.

        Raises StaleTask when the run has ended or another one has begun meanwhile.
        """
        row = self.connection.execute(CANCELLED_BY, {"task": task_id}).one_or_none()
        if row is None:
            raise UnknownTask(task_id)
        move = Move.INTERRUPT if row.cancel_requested_at is None else Move.CANCEL
        asked = "" if row.cancel_requested_at is None else f"cancelled by {row.cancel_by or 'somebody'}; "
        self.move(task_id, move, by=by, why=asked + why, fence=fence)
        self.drop_session(row.session_key)
        return move


# --- the statements, built once ----------------------------------------------------------------------

_AGENT_RAN = {"agent_ran": True}
_THIS_RUN = (tasks.c.id == bindparam("run"), is_running, tasks.c.fence == bindparam("held"))

CANCELLED_BY = select(tasks.c.cancel_requested_at, tasks.c.cancel_by, tasks.c.session_key).where(
    tasks.c.id == bindparam("task")
)
REQUEST = select(tasks.c.request).where(tasks.c.id == bindparam("task"))
QUEUE_HOLDER = select(
    *(instances.c[name] for name in ("type", "state", "running", "fence", "worker_token")),
).where(instances.c.name == bindparam("instance"))
NEXT_FENCE = update(instances).where(instances.c.name == bindparam("instance"))
CONVERSATION = select(tasks.c.state, tasks.c.instance, tasks.c.kind, tasks.c.session_key).where(
    tasks.c.id == bindparam("task")
)
RENEW = update(tasks).where(*_THIS_RUN)
STOP_WHY = (
    select(task_events.c.why)
    .where(task_events.c.task == bindparam("run"), task_events.c.event == STOP_REQUESTED)
    .order_by(task_events.c.id.desc())
    .limit(1)
)
WISHES = select(tasks.c.cancel_requested_at, tasks.c.cancel_by, tasks.c.stop_requested_at).where(*_THIS_RUN)
