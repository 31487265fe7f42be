"""Runs: claim the head of a queue, keep the lease, record the end. One run per instance at a time."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, bindparam, select, update

from pool.errors import BadInput, LeaseLost, StaleTask, UnknownInstance, UnknownTask
from pool.model import Evidence, Kind, Request, Task
from pool.schema import instances, is_running, tasks
from pool.states import InstanceState, Move
from pool.store.tasks import TaskVerbs


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
    stop: bool  #: the service shuts down


class RunVerbs(TaskVerbs):
    """Statements about runs."""

    def claim(self, instance: str, *, lease_s: float, worker_token: str | None = None) -> Claim | NoClaim:
        """Take the head of an instance's queue, whatever task the doorbell named.

        worker_token: of the worker lease; a worker that lost it claims nothing. None: no lease is asked for.
        Raises LeaseLost, UnknownInstance.
        """
        row = self.connection.execute(QUEUE_HOLDER, {"instance": instance}).one_or_none()
        if row is None:
            raise UnknownInstance(instance)
        if worker_token is not None and row.worker_token != worker_token:
            raise LeaseLost(f"another worker serves {instance} now")
        if row.state == InstanceState.PAUSED:
            return NoClaim(f"{instance} is paused")
        if row.running:
            return NoClaim(f"{instance} runs a task already")
        head = self._first_readable(instance)
        if head is None:
            return NoClaim(f"the queue of {instance} is empty")
        fence = row.fence + 1
        self.connection.execute(NEXT_FENCE, {"instance": instance, "fence": fence})
        run = {"fence": fence, "started_at": self.now, "lease_until": self.after(lease_s)}
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
        return Wishes(asked, stop=row.stop_requested_at is not None)

    def note_agent(self, task: int, *, fence: int, pid: int, started: float) -> None:
        """Remember the agent's process, so that an orphan can be told from a stranger with the same pid."""
        self.connection.execute(RENEW, {"run": task, "held": fence, "agent_pid": pid, "agent_started": started})

    def finish(self, task_id: int, move: Move, *, fence: int, evidence: Evidence, why: str) -> None:
        """Record the end of a run, with its evidence, and keep or drop the conversation.

        Raises UnknownTask, or StaleTask when this run no longer holds the lease.
        """
        task = self.connection.execute(CONVERSATION, {"task": task_id}).one_or_none()
        if task is None:
            raise UnknownTask(task_id)
        if task.instance is None:
            raise StaleTask(task_id, move, task.state)
        self._move(task_id, move, by=task.instance, why=why, fence=fence, values={"evidence": evidence.to_json()})
        if move in {Move.SUCCEED, Move.FAIL} and evidence.session_id and not Kind(task.kind).starts_fresh:
            self.keep_session(task.session_key, evidence.session_id, instance=task.instance, task=task_id)
        elif move not in {Move.SUCCEED, Move.FAIL}:
            # A conversation that was cut off in the middle misleads whoever resumes it.
            self.drop_session(task.session_key)

    def ask_to_stop(self, instance: str, *, by: str) -> list[int]:
        """Ask the running task of an instance to stop: its worker shuts down and cannot wait longer."""
        found = [t.id for t in self.running(instance) if t.stop_requested_at is None]
        for task in found:
            self.connection.execute(update(tasks).where(tasks.c.id == task).values(stop_requested_at=self.now))
            self._note(task, "stop-requested", by, "the worker shuts down")
        return found

    def expire_runs(self, *, by: str) -> list[int]:
        """Mark runs whose lease has ended as interrupted: their worker is gone. Return their ids."""
        expired = self.connection.execute(
            select(tasks.c.id, tasks.c.fence, tasks.c.session_key)
            .where(is_running, tasks.c.lease_until <= self.now)
            .order_by(tasks.c.lease_until, tasks.c.id)
        ).all()
        for row in expired:
            self.move(row.id, Move.INTERRUPT, by=by, why="its worker stopped renewing the lease", fence=row.fence)
            self.drop_session(row.session_key)
        return [row.id for row in expired]


# --- the statements, built once ----------------------------------------------------------------------

_THIS_RUN = (tasks.c.id == bindparam("run"), is_running, tasks.c.fence == bindparam("held"))

REQUEST = select(tasks.c.request).where(tasks.c.id == bindparam("task"))
QUEUE_HOLDER = select(instances.c.state, instances.c.running, instances.c.fence, instances.c.worker_token).where(
    instances.c.name == bindparam("instance")
)
NEXT_FENCE = update(instances).where(instances.c.name == bindparam("instance"))
CONVERSATION = select(tasks.c.state, tasks.c.instance, tasks.c.kind, tasks.c.session_key).where(
    tasks.c.id == bindparam("task")
)
RENEW = update(tasks).where(*_THIS_RUN)
WISHES = select(tasks.c.cancel_requested_at, tasks.c.cancel_by, tasks.c.stop_requested_at).where(*_THIS_RUN)
