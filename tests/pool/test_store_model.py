"""The store against a model of it: every verb in any order, compared after each step.

The model is plain Python: lists for queues, a name for a cursor. It shares no code with what it checks.
"""

import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import func, select

from pool.errors import BadInput, InstanceExists, LeaseHeld, LeaseLost, NoInstance, StaleTask, WrongHost
from pool.model import Evidence, Rule
from pool.schema import instances, tasks
from pool.states import InstanceState, Move, State
from pool.store import Claim, DeadLettered, NoClaim, Queued, Rejected, Tx, selection
from tests.helpers.clock import Clock
from tests.helpers.factory import make_request
from tests.helpers.stores import SOAK, new_store
from tests.pool import drive

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
FORWARD = {
    State.QUEUED: set(State),
    State.RUNNING: set(State) - {State.QUEUED, State.DEAD_LETTERED},
    State.DEAD_LETTERED: {State.QUEUED, State.CANCELLED, State.SUPERSEDED},
}
LIVE = ("queued", "running")


@dataclass
class Member:
    """An instance, as the model has it."""

    type: str
    labels: tuple[str, ...] | None
    state: InstanceState = InstanceState.ACTIVE
    queue: list[int] = field(default_factory=list)
    running: int | None = None
    host: str | None = None
    worker: tuple[str, datetime] | None = None  #: its token, and the end of its lease


@dataclass
class Job:
    """A task, as the model has it."""

    type: str
    number: int
    labels: tuple[str, ...]
    instance: str | None
    state: State
    position: int = 0  #: place in the queue: its id, or that of the task that it repeats
    lease_until: datetime | None = None
    is_cancelled: bool = False  #: somebody asked for that while it ran
    interruptions: int = 0


class Model:
    """What the store should hold."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.jobs: dict[int, Job] = {}
        self.cursor: dict[str, str] = {}

    def pick(self, job: Job, *, follow: bool) -> str | None:
        """Return the instance that a new task belongs on, and move the cursor."""
        if follow and (home := self.home_of_conversation(job)) is not None:
            return home
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

    def home_of_conversation(self, job: Job) -> str | None:
        """Return where the newest live task of the same conversation is, if it may stay there."""
        for other in [self.jobs[i] for i in sorted(self.jobs, reverse=True)]:
            if (other.type, other.number) == (job.type, job.number) and other.state in LIVE and self.may_keep(other):
                return other.instance
        return None

    def may_keep(self, job: Job) -> bool:
        """Tell whether the instance of a task still serves its type."""
        home = self.members.get(job.instance or "")
        return home is not None and home.state != "removed" and home.type == job.type

    def put(self, task: int, job: Job) -> None:
        """Queue a task by its place, or record that nobody could take it."""
        self.jobs[task] = job
        job.position = job.position or task
        if job.state is State.QUEUED:
            queue = self.members[job.instance or ""].queue
            queue.append(task)
            queue.sort(key=lambda one: (self.jobs[one].position, one))

    def clear(self, name: str) -> dict[int, str | None]:
        """Give what waits on an instance to others; return to whom, None: it is a dead letter."""
        placed: dict[int, str | None] = {}
        member = self.members[name]
        for task in list(member.queue):
            job = self.jobs[task]
            placed[task] = to = self.pick(job, follow=True)
            member.queue.remove(task)
            if to is None:
                job.state = State.DEAD_LETTERED
            else:
                job.instance = to
                self.put(task, job)
        self.sweep(name)
        return placed

    def end(self, task: int, state: State) -> None:
        """Take a task off its instance, which goes too if that was all it was waiting for."""
        job = self.jobs[task]
        was, job.state = job.state, state
        if was is State.DEAD_LETTERED:
            return
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
_wanted = st.tuples(_types, _asked, _numbers, st.booleans())
_hosts = st.sampled_from(["build-1", "build-2"])
_tokens = st.sampled_from(["token-1", "token-2"])


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

    @initialize(
        whole=st.sampled_from([1, 32]),
        members=st.dictionaries(_names, _own, min_size=2),
        wanted=st.lists(_wanted, min_size=2, max_size=6),
        begun=st.booleans(),
    )
    def begin(
        self,
        whole: int,
        members: dict[str, tuple[str, ...] | None],
        wanted: list[tuple[str, tuple[str, ...], int, bool]],
        *,
        begun: bool,
    ) -> None:
        """Begin with some instances at work: left to chance, few examples ever get that far.

        whole: a small number makes every pool a large one.
        """
        self.patch.setattr(selection, "WHOLE", whole)
        for name, labels in members.items():
            self.add(name, labels)
        for one in wanted:
            self._dispatch(*one[:3], follow=one[3])
        for name in members if begun else ():
            self._claim(name)

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

    @precondition(lambda self: self.model.members)
    @rule(data=st.data())
    def remove_now(self, data: st.DataObject) -> None:
        name, member = self._draw_member(data)
        running = member.running
        with self.store.writing() as tx:
            tx.set_instance_state(name, InstanceState.REMOVED)
            placed = tx.clear_queue(name, by="model", why="it goes", labels_of=TYPE_LABELS.__getitem__)
            stopped = tx.ask_to_stop(name, by="model") if tx.find_instance(name) else []
        member.state = InstanceState.REMOVED
        self._placed(name, placed)
        assert set(stopped) <= {running}

    @precondition(lambda self: self.model.members)
    @rule(data=st.data(), type_name=_types)
    def retype(self, data: st.DataObject, type_name: str) -> None:
        name, member = self._draw_member(data)
        if type_name == member.type:
            return
        with self.store.writing() as tx:
            if member.state == "removed":
                with pytest.raises(BadInput):
                    tx.set_instance_type(name, type_name)
                return
            tx.set_instance_type(name, type_name)
            placed = tx.clear_queue(name, by="model", why="it changed", labels_of=TYPE_LABELS.__getitem__)
        member.type = type_name
        self._placed(name, placed)

    def _placed(self, name: str, placed: list[Queued | DeadLettered]) -> None:
        got = {one.task: one.instance if isinstance(one, Queued) else None for one in placed}
        assert list(got.items()) == list(self.model.clear(name).items())

    @precondition(lambda self: self.model.members)
    @rule(data=st.data(), host=st.one_of(st.none(), _hosts))
    def bind(self, data: st.DataObject, host: str | None) -> None:
        name, member = self._draw_member(data)
        with self.store.writing() as tx:
            assert tx.set_instance(name, host=host).host == host
        member.host = host

    @precondition(lambda self: self.model.members)
    @rule(data=st.data(), token=_tokens, host=_hosts)
    def serve(self, data: st.DataObject, token: str, host: str) -> None:
        name, member = self._draw_member(data)
        worker = member.worker
        refusal: type[Exception] | None = None
        if member.host not in (None, host):
            refusal = WrongHost
        elif worker is not None and worker[1] > self.clock() and worker[0] != token:
            refusal = LeaseHeld
        with self.store.writing() as tx:
            if refusal is not None:
                with pytest.raises(refusal):
                    tx.take_worker_lease(name, holder="w", token=token, lease_s=LEASE_S, host=host)
                return
            tx.take_worker_lease(name, holder="w", token=token, lease_s=LEASE_S, host=host)
        member.worker = (token, self.clock() + timedelta(seconds=LEASE_S))

    # --- tasks ------------------------------------------------------------------------------------

    @rule(wanted=st.lists(_wanted, min_size=1, max_size=4))
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
    @rule(data=st.data(), token=st.one_of(st.none(), st.none(), _tokens))
    def claim(self, data: st.DataObject, token: str | None) -> None:
        self._claim(self._draw_member(data)[0], token)

    def _claim(self, name: str, token: str | None = None) -> None:
        member = self.model.members[name]
        with self.store.writing() as tx:
            if token is not None and (member.worker is None or member.worker[0] != token):
                with pytest.raises(LeaseLost):
                    tx.claim(name, lease_s=LEASE_S, worker_token=token)
                return
            got = tx.claim(name, lease_s=LEASE_S, worker_token=token)
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
            again = self._try_again(tx, run.task.id) if move is Move.INTERRUPT else None
        self.model.end(run.task.id, ENDINGS[move])
        if again is not None:
            self._retry(run.task.id, again)

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
            job.is_cancelled = True
        else:
            assert got is State.CANCELLED
            self.model.end(task, State.CANCELLED)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        dead = [task for task, job in self.model.jobs.items() if job.state is State.DEAD_LETTERED]
        task = data.draw(st.sampled_from(dead or sorted(self.model.jobs)[:3]))
        job, labels = self.model.jobs[task], TYPE_LABELS[self.model.jobs[task].type]
        stays = self.model.may_keep(job) and self.model.home_of_conversation(job) is None
        to = job.instance if stays else self.model.pick(job, follow=True) if dead else None
        with self.store.writing() as tx:
            if not dead or to is None:
                with pytest.raises(NoInstance if dead else StaleTask):
                    tx.release(task, by="model", default_labels=labels)
                return
            assert tx.release(task, by="model", default_labels=labels).instance == to
        job.instance, job.state, job.interruptions = to, State.QUEUED, 0
        self.model.put(task, job)

    @rule(number=_numbers, types=st.sampled_from([None, ["dev"]]))
    def supersede(self, number: int, types: list[str] | None) -> None:
        with self.store.writing() as tx:
            got = tx.supersede("acme/shop", number, by="model", why="newer", types=types)
        jobs = self.model.jobs.items()
        waits = (State.QUEUED, State.DEAD_LETTERED)
        waiting = [task for task, job in jobs if job.number == number and job.state in waits]
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
            dead = drive.expire_runs(tx, by="model")
            again = [self._try_again(tx, task) for task in dead]
        running = [(task, job) for task, job in self.model.jobs.items() if job.state is State.RUNNING]
        expired = [(task, job) for task, job in running if job.lease_until and job.lease_until <= self.clock()]
        assert sorted(dead) == [task for task, job in expired if not job.is_cancelled]
        for task, job in expired:
            self.model.end(task, State.CANCELLED if job.is_cancelled else State.INTERRUPTED)
        for task, got in zip(dead, again, strict=True):
            self._retry(task, got)

    def _try_again(self, tx: Tx, task: int) -> Queued | DeadLettered:
        labels = TYPE_LABELS[self.model.jobs[task].type]
        return tx.retry_interrupted(task, cap=CAP, by="model", default_labels=labels)

    def _retry(self, task: int, again: Queued | DeadLettered) -> None:
        old = self.model.jobs[task]
        job = Job(old.type, old.number, old.labels, old.instance, State.QUEUED, old.position)
        job.interruptions = old.interruptions + 1
        to = None
        if old.interruptions < CAP:
            to = old.instance if self.model.may_keep(job) else self.model.pick(job, follow=True)
        if to is None:
            assert isinstance(again, DeadLettered)
            job.state = State.DEAD_LETTERED
        else:
            assert isinstance(again, Queued)
            assert again.instance == to
            job.instance = to
        self.model.put(again.task, job)

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
    def nothing_is_lost_and_nothing_is_repeated_twice(self) -> None:
        with self.store.reading() as tx:
            rows = tx.connection.execute(select(tasks.c.id, tasks.c.state, tasks.c.retry_of)).all()
            dead = tx.count_dead()
        repeated = Counter(row.retry_of for row in rows if row.retry_of is not None)
        assert repeated == Counter(row.id for row in rows if row.state == State.INTERRUPTED)
        assert dead == sum(row.state == State.DEAD_LETTERED for row in rows)

    @invariant()
    def an_instance_runs_one_task_at_most(self) -> None:
        with self.store.reading() as tx:
            running = Counter(
                tx.connection.scalars(select(tasks.c.instance).where(tasks.c.state == State.RUNNING)).all()
            )
        assert max(running.values(), default=0) <= 1

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
