"""Upkeep: what the reconciler asks and mends beside the moves of tasks. Old rows: see `retention`."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Integer, bindparam, delete, func, insert, or_, select, update

from pool.schema import has_left_an_agent, instances, is_queued, is_running, leases, repairs, tasks
from pool.states import InstanceState, State
from pool.store.retention import RetentionVerbs
from pool.store.watch import WatchVerbs

#: A lease that ends further ahead than this many lengths was written before the clock was put back.
IMPLAUSIBLE = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """What one process of the whole deployment does, and who that is."""

    name: str
    holder: str
    until: datetime


@dataclass(frozen=True, slots=True)
class WorkerLease:
    """What a worker holds."""

    instance: str
    worker: str
    until: datetime


@dataclass(frozen=True, slots=True)
class LeftAgent:
    """An agent of a run that has ended; whether it has ended too is not known."""

    task: int
    pid: int
    started: float  #: start time of `pid`, seconds since the epoch


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a task is, in short."""

    state: State
    instance: str | None
    host: str | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Miscount:
    """An instance whose counters disagree with its tasks."""

    instance: str
    counted: tuple[int, int]  #: queued and running, as its row says
    true: tuple[int, int]  #: as the tasks say


@dataclass(frozen=True, slots=True)
class RepairCount:
    """How often a repair had something to do."""

    name: str
    count: int  #: in all
    last_at: datetime
    last_count: int  #: at that time


class UpkeepVerbs(WatchVerbs, RetentionVerbs):
    """Statements of the reconciler."""

    # --- leases of the deployment -------------------------------------------------------------

    def may_lease(self, name: str, *, token: str, lease_s: float) -> bool:
        """Tell whether `take_lease` would succeed, without writing."""
        found = select(leases.c.name).where(leases.c.name == name)
        if self.connection.scalar(found) is None:
            return True
        return self.connection.scalar(found.where(self._is_free(token, lease_s))) is not None

    def take_lease(self, name: str, *, holder: str, token: str, lease_s: float) -> bool:
        """Take or keep a lease; False while another live process has it."""
        values = {"holder": holder, "token": token, "until": self.after(lease_s)}
        ours = update(leases).where(leases.c.name == name, self._is_free(token, lease_s)).values(**values)
        if self.connection.execute(ours).rowcount:
            return True
        if self.connection.scalar(select(leases.c.name).where(leases.c.name == name)) is not None:
            return False
        self.connection.execute(insert(leases).values(name=name, **values))
        return True

    def release_lease(self, name: str, *, token: str) -> None:
        """Let the next one take it at once."""
        self.connection.execute(delete(leases).where(leases.c.name == name, leases.c.token == token))

    def list_leases(self) -> list[Lease]:
        """Return the leases of the deployment, those that have ended too."""
        query = select(leases.c.name, leases.c.holder, leases.c.until).order_by(leases.c.name)
        return [Lease(row.name, row.holder, row.until) for row in self.connection.execute(query)]

    def forget_lease(self, name: str, *, until: datetime) -> bool:
        """Delete a lease that was not renewed since it was seen; tell whether that was so."""
        gone = delete(leases).where(leases.c.name == name, leases.c.until == until)
        return self.connection.execute(gone).rowcount > 0

    def _is_free(self, token: str, lease_s: float) -> ColumnElement[bool]:
        return or_(
            leases.c.token == token, leases.c.until <= self.now, leases.c.until > self.after(IMPLAUSIBLE * lease_s)
        )

    # --- counters of repairs ------------------------------------------------------------------

    def count_repair(self, name: str, count: int) -> None:
        """Remember that a repair had something to do."""
        values = {"last_at": self.now, "last_count": count}
        known = update(repairs).where(repairs.c.name == name).values(count=repairs.c.count + count, **values)
        if not self.connection.execute(known).rowcount:
            self.connection.execute(insert(repairs).values(name=name, count=count, **values))

    def repair_counts(self) -> dict[str, RepairCount]:
        """Return what every repair has done so far, by name."""
        return {
            row.name: RepairCount(*row)
            for row in self.connection.execute(
                select(repairs.c.name, repairs.c.count, repairs.c.last_at, repairs.c.last_count)
            )
        }

    # --- runs and their agents ----------------------------------------------------------------

    def seize_run(self, task_id: int, *, fence: int, until: datetime, lease_s: float) -> int | None:
        """Take a run away from its worker, so that it can write nothing any more; return the new fence.

        fence and until: the lease as it was seen. None: it was renewed, or has ended, since then.
        The task stays in its state, so that its instance starts nothing else meanwhile.
        """
        instance = self.connection.scalar(select(tasks.c.instance).where(tasks.c.id == task_id))
        highest: int | None = self.connection.scalar(select(instances.c.fence).where(instances.c.name == instance))
        if highest is None:
            return None
        seized: CursorResult[Any] = self.connection.execute(
            update(tasks)
            .where(tasks.c.id == task_id, is_running, tasks.c.fence == fence, tasks.c.lease_until == until)
            .values(fence=highest + 1, lease_until=self.after(lease_s))
        )
        if not seized.rowcount:
            return None
        self.connection.execute(update(instances).where(instances.c.name == instance).values(fence=highest + 1))
        return highest + 1

    def agent_of(self, task_id: int) -> LeftAgent | None:
        """Return the agent's process that a run has noted, if it has and is not known to be gone."""
        query = select(tasks.c.id, tasks.c.agent_pid, tasks.c.agent_started).where(tasks.c.id == task_id)
        row = self.connection.execute(query).one_or_none()
        return None if row is None or row.agent_pid is None else LeftAgent(row.id, row.agent_pid, row.agent_started)

    def left_agents(self, host: str, *, limit: int) -> list[LeftAgent]:
        """Return the agents on a host that are not known to have ended with their runs, oldest task first."""
        query = select(tasks.c.id, tasks.c.agent_pid, tasks.c.agent_started).where(has_left_an_agent)
        rows = self.connection.execute(query.where(tasks.c.host == host).order_by(tasks.c.id).limit(limit))
        return [LeftAgent(row.id, row.agent_pid, row.agent_started) for row in rows]

    def forget_agent(self, task_id: int, *, pid: int) -> bool:
        """Note that the agent of a run is gone; tell whether that is news."""
        gone = update(tasks).where(tasks.c.id == task_id, tasks.c.agent_pid == pid)
        return self.connection.execute(gone.values(agent_pid=None, agent_started=None)).rowcount > 0

    def standings(self, task_ids: Collection[int]) -> dict[int, Standing]:
        """Return where tasks are, by id; those that do not exist are left out. At most some hundred at once."""
        query = select(tasks.c.id, tasks.c.state, tasks.c.instance, tasks.c.host, tasks.c.finished_at)
        rows = self.connection.execute(query.where(tasks.c.id.in_(sorted(task_ids))))
        return {row.id: Standing(State(row.state), row.instance, row.host, row.finished_at) for row in rows}

    # --- instance rows ------------------------------------------------------------------------

    def worker_leases(self) -> list[WorkerLease]:
        """Return what every worker holds, or held until it went away without a word."""
        columns = (instances.c.name, instances.c.worker, instances.c.worker_until)
        query = select(*columns).where(instances.c.worker_until.is_not(None)).order_by(instances.c.name)
        return [WorkerLease(r.name, r.worker or "unknown", r.worker_until) for r in self.connection.execute(query)]

    def forget_worker(self, instance: str, *, until: datetime) -> bool:
        """Take the lease from a worker that did not renew it since it was seen; tell whether that was so."""
        gone = update(instances).where(instances.c.name == instance, instances.c.worker_until == until)
        nobody = {"worker": None, "worker_host": None, "worker_token": None, "worker_until": None}
        return self.connection.execute(gone.values(**nobody)).rowcount > 0

    def empty_removed(self) -> list[str]:
        """Return removed instances that hold nothing any more, neither by their counters nor by their tasks."""
        held = select(tasks.c.instance).where(is_queued).union_all(select(tasks.c.instance).where(is_running))
        query = select(instances.c.name).where(
            instances.c.state == InstanceState.REMOVED, instances.c.queued == 0, instances.c.running == 0
        )
        return list(self.connection.scalars(query.where(instances.c.name.not_in(held)).order_by(instances.c.name)))

    def miscounts(self) -> list[Miscount]:
        """Return the instances whose counters disagree with their tasks. Reads every live task."""
        queued, running = self._load(is_queued), self._load(is_running)
        rows = self.connection.execute(
            select(instances.c.name, instances.c.queued, instances.c.running).order_by(instances.c.name)
        )
        both = (
            (row.name, (row.queued, row.running), (queued.get(row.name, 0), running.get(row.name, 0))) for row in rows
        )
        return [Miscount(name, counted, true) for name, counted, true in both if counted != true]

    def recount(self, instance: str) -> Miscount | None:
        """Set the counters of an instance to what its tasks say; return what was wrong, if anything."""
        wrong = next((one for one in self.miscounts() if one.instance == instance), None)
        if wrong is not None:
            self.connection.execute(
                SET_LOAD, {"miscounted": instance, "new_queued": wrong.true[0], "new_running": wrong.true[1]}
            )
        return wrong

    def _load(self, condition: ColumnElement[bool]) -> dict[str, int]:
        query = select(tasks.c.instance, func.count()).where(condition).group_by(tasks.c.instance)
        return {row[0]: row[1] for row in self.connection.execute(query)}

    def live_instances(self) -> set[str]:
        """Return every name that an instance has, or under which a task still waits or runs."""
        rows = select(instances.c.name).union(
            select(tasks.c.instance).where(is_queued), select(tasks.c.instance).where(is_running)
        )
        return set(self.connection.scalars(rows))

    def busy_instances(self) -> set[str]:
        """Return the instances on which something runs."""
        return set(self.connection.scalars(select(tasks.c.instance).where(is_running)))

    def before(self, days: float) -> datetime:
        """Return the moment so many days ago."""
        return self.now - timedelta(days=days)


SET_LOAD = (
    update(instances)
    .where(instances.c.name == bindparam("miscounted"))
    .values(queued=bindparam("new_queued", type_=Integer), running=bindparam("new_running", type_=Integer))
)
