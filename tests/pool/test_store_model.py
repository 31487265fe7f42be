"""The store against a model of it: every verb in any order, compared after each step.

The model is plain Python: lists for queues, a name for a cursor. It shares no code with what it checks.
"""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import func, select

from pool.errors import BadInput, InstanceExists, LeaseLost, StaleTask
from pool.model import Evidence, Rule
from pool.schema import instances, tasks
from pool.states import InstanceState, Move, State
from pool.store import Claim, NoClaim, Queued, Rejected, selection
from tests.helpers.clock import Clock
from tests.helpers.factory import make_request
from tests.helpers.stores import SOAK, new_store

LEASE_S = 60.0
CAP = 2
NAMES = ["dev-a", "dev-b", "dev-c", "rev-a"]
TYPE_LABELS = {"dev": ("x",), "rev": ()}
ENDINGS = {
    Move.SUCCEED: State.SUCCEEDED,
    Move.FAIL: State.FAILED,
    Move.TIME_OUT: State.TIMED_OUT,
    Move.INTERRUPT: State.INTERRUPTED,
    Move.CANCEL: State.CANCELLED,
}
FORWARD = {State.QUEUED: set(State), State.RUNNING: set(State) - {State.QUEUED}}


@dataclass
class Member:
    """An instance, as the model has it."""

    type: str
    labels: tuple[str, ...] | None
    state: InstanceState = InstanceState.ACTIVE
    queue: list[int] = field(default_factory=list)
    running: int | None = None


@dataclass
class Job:
    """A task, as the model has it."""

    type: str
    number: int
    labels: tuple[str, ...]
    instance: str | None
    state: State
    lease_until: datetime | None = None
    interruptions: int = 0


class Model:
    """What the store should hold."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.jobs: dict[int, Job] = {}
        self.cursor: dict[str, str] = {}

    def pick(self, job: Job, *, follow: bool) -> str | None:
        """Return the instance that a new task belongs on, and move the cursor."""
        for other in [self.jobs[i] for i in sorted(self.jobs, reverse=True)] if follow else []:
            same = (other.type, other.number) == (job.type, job.number) and other.state in ("queued", "running")
            if same and self.members[other.instance or ""].state != "removed":
                return other.instance
        names = [n for n, m in self.members.items() if m.type == job.type and m.state == "active"]
        names = names or [n for n, m in self.members.items() if m.type == job.type and m.state == "paused"]
        if not names:
            return None
        has = {n: self._labels(n) for n in names}
        best = max(len(has[n] & set(job.labels)) for n in names)
        if best:
            names = [n for n in names if len(has[n] & set(job.labels)) == best]
        elif job.labels:
            names = [n for n in names if not has[n]] or names
        least = min(self._burden(n) for n in names)
        tied = sorted(n for n in names if self._burden(n) == least)
        name = next((n for n in tied if n > self.cursor.get(job.type, "")), tied[0])
        self.cursor[job.type] = name
        return name

    def put(self, task: int, job: Job) -> None:
        """Queue a task behind the others, or record that nobody could take it."""
        self.jobs[task] = job
        if job.instance is not None:
            self.members[job.instance].queue.append(task)

    def end(self, task: int, state: State) -> None:
        """Take a task off its instance, which goes too if that was all it was waiting for."""
        job = self.jobs[task]
        job.state = state
        home = self.members[job.instance or ""]
        if home.running == task:
            home.running = None
        else:
            home.queue.remove(task)
        self.sweep(job.instance or "")

    def sweep(self, name: str) -> None:
        """Forget a removed instance that holds nothing."""
        member = self.members[name]
        if member.state == "removed" and not member.queue and member.running is None:
            del self.members[name]

    def _labels(self, name: str) -> set[str]:
        member = self.members[name]
        return set(TYPE_LABELS[member.type] if member.labels is None else member.labels)

    def _burden(self, name: str) -> tuple[bool, int]:
        member = self.members[name]
        return bool(member.queue) or member.running is not None, len(member.queue)


_asked = st.sampled_from([(), (), ("x",), ("y",), ("x", "y"), ("z",)])
_own = st.sampled_from([None, None, (), (), ("x",), ("x", "y")])
_numbers = st.integers(1, 4)
_types = st.sampled_from(["dev", "dev", "dev", "rev"])
_names = st.sampled_from(NAMES)


class StoreMachine(RuleBasedStateMachine):
    """Verbs in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.store = new_store(Path(self.folder.name), self.clock)
        self.model = Model()
        self.claims: list[Claim] = []
        self.last: dict[int, State] = {}
        self.patch = pytest.MonkeyPatch()

    def teardown(self) -> None:
        self.patch.undo()
        self.store.close()
        self.folder.cleanup()

    @initialize(whole=st.sampled_from([1, 32]), members=st.dictionaries(_names, _own, min_size=2))
    def begin(self, whole: int, members: dict[str, tuple[str, ...] | None]) -> None:
        """Begin with some instances. whole: a small number makes every pool a large one."""
        self.patch.setattr(selection, "WHOLE", whole)
        for name, labels in members.items():
            self.add(name, labels)

    # --- instances --------------------------------------------------------------------------------

    @rule(name=_names, labels=_own)
    def add(self, name: str, labels: tuple[str, ...] | None) -> None:
        type_name = name.partition("-")[0]
        with self.store.writing() as tx:
            if name in self.model.members:
                with pytest.raises(InstanceExists):
                    tx.add_instance(name, type_name)
                return
            tx.add_instance(name, type_name, match_labels=labels)
        self.model.members[name] = Member(type_name, labels)

    @precondition(lambda self: self.model.members)
    @rule(data=st.data(), state=st.sampled_from([InstanceState.ACTIVE, *InstanceState]))
    def set_state(self, data: st.DataObject, state: InstanceState) -> None:
        name, member = self._draw_member(data)
        with self.store.writing() as tx:
            if member.state == "removed" != state:
                with pytest.raises(BadInput):
                    tx.set_instance_state(name, state)
                return
            tx.set_instance_state(name, state)
        member.state = state
        self.model.sweep(name)

    # --- tasks ------------------------------------------------------------------------------------

    @rule(wanted=st.lists(st.tuples(_types, _asked, _numbers, st.booleans()), min_size=1, max_size=4))
    def dispatch(self, wanted: list[tuple[str, tuple[str, ...], int, bool]]) -> None:
        for type_name, labels, number, follow in wanted:
            self._dispatch(type_name, labels, number, follow=follow)

    def _dispatch(self, type_name: str, labels: tuple[str, ...], number: int, *, follow: bool) -> None:
        job = Job(type_name, number, labels, None, State.FAILED)
        if (name := self.model.pick(job, follow=follow)) is not None:
            job.instance, job.state = name, State.QUEUED
        with self.store.writing() as tx:
            got = tx.submit(
                type_name,
                make_request(number=number, labels=labels),
                by="model",
                default_labels=TYPE_LABELS[type_name],
                one_conversation=follow,
            )
        if name is None:
            assert isinstance(got, Rejected)
        else:
            assert isinstance(got, Queued)
            assert got.instance == name
            assert follow or got.decision.rule is not Rule.SAME_SESSION
        self.model.put(got.task, job)

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        name, member = self._draw_member(data)
        with self.store.writing() as tx:
            got = tx.claim(name, lease_s=LEASE_S)
        if member.state == "paused" or member.running is not None or not member.queue:
            assert isinstance(got, NoClaim)
            return
        assert isinstance(got, Claim)
        assert got.task.id == member.queue.pop(0)
        member.running = got.task.id
        job = self.model.jobs[got.task.id]
        job.state, job.lease_until = State.RUNNING, self.clock() + timedelta(seconds=LEASE_S)
        self.claims.append(got)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), move=st.sampled_from(list(ENDINGS)))
    def finish(self, data: st.DataObject, move: Move) -> None:
        run = self._draw_run(data)
        holds = self.model.jobs[run.task.id].state is State.RUNNING
        with self.store.writing() as tx:
            if not holds:
                with pytest.raises(StaleTask):
                    tx.finish(run.task.id, move, fence=run.fence, evidence=Evidence(), why="")
                return
            with pytest.raises(StaleTask):
                tx.finish(run.task.id, move, fence=run.fence - 1, evidence=Evidence(), why="a run before it")
            tx.finish(run.task.id, move, fence=run.fence, evidence=Evidence(), why="")
        self.model.end(run.task.id, ENDINGS[move])

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        run = self._draw_run(data)
        job = self.model.jobs[run.task.id]
        with self.store.writing() as tx:
            with pytest.raises(LeaseLost):
                tx.renew(run.task.id, fence=run.fence + 1, lease_s=LEASE_S)
            if job.state is not State.RUNNING:
                with pytest.raises(LeaseLost):
                    tx.renew(run.task.id, fence=run.fence, lease_s=LEASE_S)
                return
            tx.renew(run.task.id, fence=run.fence, lease_s=LEASE_S)
        job.lease_until = self.clock() + timedelta(seconds=LEASE_S)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = [task for task, job in self.model.jobs.items() if job.state in FORWARD]
        task = data.draw(st.sampled_from(live + sorted(self.model.jobs)[:3]))
        job = self.model.jobs[task]
        with self.store.writing() as tx:
            if job.state not in FORWARD:
                with pytest.raises(StaleTask):
                    tx.cancel(task, by="model")
                return
            got = tx.cancel(task, by="model")
        if job.state is State.RUNNING and job.lease_until is not None and job.lease_until > self.clock():
            assert got is State.RUNNING
        else:
            assert got is State.CANCELLED
            self.model.end(task, State.CANCELLED)

    @rule(number=_numbers, types=st.sampled_from([None, ["dev"]]))
    def supersede(self, number: int, types: list[str] | None) -> None:
        with self.store.writing() as tx:
            got = tx.supersede("acme/shop", number, by="model", why="newer", types=types)
        jobs = self.model.jobs.items()
        waiting = [task for task, job in jobs if job.number == number and job.state is State.QUEUED]
        assert got == [task for task in waiting if types is None or self.model.jobs[task].type in types]
        for task in got:
            self.model.end(task, State.SUPERSEDED)

    @rule(seconds=st.sampled_from([LEASE_S / 2, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([0, LEASE_S, LEASE_S]))
    def expire(self, seconds: float) -> None:
        self.clock.advance(seconds)
        with self.store.writing() as tx:
            dead = tx.expire_runs(by="model")
            again = [
                tx.retry_interrupted(task, cap=CAP, by="model", default_labels=TYPE_LABELS[self.model.jobs[task].type])
                for task in dead
            ]
        running = [(task, job) for task, job in self.model.jobs.items() if job.state is State.RUNNING]
        assert sorted(dead) == [task for task, job in running if job.lease_until and job.lease_until <= self.clock()]
        for task in dead:
            self.model.end(task, State.INTERRUPTED)
        for task, got in zip(dead, again, strict=True):
            self._retry(task, None if got is None else got.task)

    def _retry(self, task: int, again: int | None) -> None:
        old = self.model.jobs[task]
        if old.interruptions >= CAP:
            assert again is None
            return
        job = Job(old.type, old.number, old.labels, old.instance, State.QUEUED, interruptions=old.interruptions + 1)
        home = self.model.members.get(old.instance or "")
        if home is not None and home.state != "removed":
            assert again is not None
            self.model.jobs[again] = job
            home.queue.insert(0, again)
        elif (name := self.model.pick(job, follow=True)) is not None:
            assert again is not None
            job.instance = name
            self.model.put(again, job)
        else:
            assert again is None
            job.instance, job.state = None, State.FAILED
            self.model.put(max(self.model.jobs) + 1, job)

    def _draw_member(self, data: st.DataObject) -> tuple[str, Member]:
        name = data.draw(st.sampled_from(sorted(self.model.members)))
        return name, self.model.members[name]

    def _draw_run(self, data: st.DataObject) -> Claim:
        return data.draw(st.sampled_from(self.claims[-5:]))

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        model, held = self.model, self._held()
        assert held["cursors"] == model.cursor
        assert held["tasks"] == {task: (job.state, job.instance) for task, job in model.jobs.items()}
        assert held["queues"] == {name: m.queue for name, m in model.members.items() if m.queue}
        assert held["members"] == {
            name: (m.state, len(m.queue), int(m.running is not None)) for name, m in model.members.items()
        }

    @invariant()
    def the_counters_of_an_instance_equal_the_tasks(self) -> None:
        counts = {
            state: select(func.count())
            .where(tasks.c.instance == instances.c.name, tasks.c.state == state)
            .correlate(instances)
            .scalar_subquery()
            for state in (State.QUEUED, State.RUNNING)
        }
        query = select(instances.c.name).where(
            (instances.c.queued != counts[State.QUEUED]) | (instances.c.running != counts[State.RUNNING])
        )
        with self.store.reading() as tx:
            assert tx.connection.scalars(query).all() == []

    @invariant()
    def states_only_move_forward(self) -> None:
        now = {task: state for task, (state, _) in self._held()["tasks"].items()}
        assert set(self.last) <= set(now)
        for task, was in self.last.items():
            assert now[task] is was or now[task] in FORWARD.get(was, set())
        self.last = now

    def _held(self) -> dict[str, Any]:
        queues = defaultdict(list)
        with self.store.reading() as tx:
            rows = tx.connection.execute(select(tasks.c.id, tasks.c.state, tasks.c.instance)).all()
            waiting = select(tasks.c.id, tasks.c.instance).where(tasks.c.state == State.QUEUED)
            for row in tx.connection.execute(waiting.order_by(tasks.c.position, tasks.c.id)):
                queues[row.instance].append(row.id)
            members = {i.name: (i.state, i.queued, i.running) for i in tx.list_instances()}
            cursors = {name: tx.cursor(name) for name in TYPE_LABELS}
        return {
            "tasks": {row.id: (State(row.state), row.instance) for row in rows},
            "queues": dict(queues),
            "members": members,
            "cursors": {type_name: name for type_name, name in cursors.items() if name is not None},
        }


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=1000 if SOAK else 80, stateful_step_count=50)
