"""Making the faults: hold a point, kill, let go, go on working. One deployment over many of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from pool.crashpoints import Point
from pool.errors import ForgepoolError
from webapp.chaos import remains, victims
from webapp.chaos.deployment import Deployment
from webapp.chaos.evidence import Fault, Ill, Request, Row, Run, Wrong
from webapp.chaos.plan import Cell, Victim
from webapp.chaos.sender import Posted
from webapp.chaos.verdict import judge

#: How many kills one start of the parts has to bear. Every crash makes the pause before the next start longer, which
#: is right for a service and would be waited for here.
KILLS_PER_START = 12
MEET_S = 1.5  #: for a worker that has just started to start an agent that it must not
READY_S = 90.0  #: for every part to be back after a kill
REACH_S = 20.0  #: for a task to come to a point
FINAL_S = 60.0  #: for all work to end after a kill; what has not by then is lost
LOAD_PAUSE_S = (0.05, 0.5)  #: between two deliveries under load
KILL_PAUSE_S = (0.1, 1.5)  #: between two kills under load
MOST_WAITING = 8  #: deliveries under load that are not finished


@dataclass(slots=True)
class Campaign:
    """What was done and what came of it."""

    deployment: Deployment
    rng: Random
    say: Callable[[str], None]
    within_s: float = FINAL_S
    faults: list[Fault] = field(default_factory=list)
    wrongs: list[Wrong] = field(default_factory=list)
    skipped: set[Victim] = field(default_factory=set)  #: there is no such part here
    requests: list[Request] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    _kills: int = 0  #: since the parts were started

    def run(self, cells: Sequence[Cell], *, kills: int) -> None:
        """Make every fault of the matrix, then `kills` random ones under load, and judge."""
        with self.deployment:
            try:
                self._start()
                for cell in cells:
                    self._cell(cell)
                if kills:
                    self._load(kills)
            except ForgepoolError as error:
                self._note(Ill.NOT_DONE, f"the deployment did not recover: {error}")
            self._stop()
            self.requests, self.rows = self.deployment.requests(), self.deployment.rows()
            runs = self.deployment.runs()
            self.wrongs += judge(requests=self.requests, rows=self.rows, runs=runs, faults=self.faults)

    # --- parts --------------------------------------------------------------------------------

    def _start(self) -> None:
        self.deployment.start()
        self._kills = 0

    def _stop(self) -> None:
        """Stop the parts; nothing of them may be left."""
        self.deployment.let_go()
        self.deployment.stop()
        # The last connection to a SQLite file clears away its companions; ours is that one.
        self.deployment.store.close()
        self.wrongs += remains.processes(self.deployment.folder)
        self.wrongs += remains.files(self.deployment.folder)

    def _ready(self) -> None:
        """Have all parts serve."""
        if self._kills >= KILLS_PER_START:
            self._stop()
            self._start()
        self.deployment.wait_until(self.deployment.is_whole, READY_S, "every part to serve again")

    # --- the matrix ---------------------------------------------------------------------------

    def _cell(self, cell: Cell) -> None:
        """Make one fault at its point."""
        if not victims.exists(self.deployment, cell.victim):
            self.skipped.add(cell.victim)
            return
        self._ready()
        self.say(f"{cell}")
        posted: list[Posted] = []
        try:
            fault = self._make(cell, posted)
        except ForgepoolError as error:
            self._note(Ill.NOT_DONE, f"{cell}: {error}", posted)
            fault = None
        finally:
            self.deployment.let_go()
        posted += [self.deployment.send(type_name) for type_name in ("dev", "reviewer", "dev")]
        self._finish(posted)
        if fault is not None:
            self.faults.append(fault)

    def _make(self, cell: Cell, posted: list[Posted]) -> Fault:
        """Bring a task to the point, and kill."""
        here = self.deployment
        if cell.victim in {Victim.AGENT, Victim.LAUNCHER} and cell.point is not Point.RUNNING:
            # At the other points the task that is held has no agent; another one's is killed.
            here.stay.touch()
            posted.append(here.send("reviewer"))
            here.wait_until(lambda: self._agent_of(posted[0]), REACH_S, "an agent to begin")
        here.hold(cell.point)
        if cell.point is Point.RUNNING:
            here.stay.touch()
        posted.append(bait := here.send("dev"))
        held = here.wait_until(lambda: here.reached(cell.point), REACH_S, f"a task to come to {cell.point}")
        if cell.point is Point.RUNNING:
            here.wait_until(lambda: self._agent_of(bait), REACH_S, "the agent to begin")
        posted += [here.send("dev"), here.send("dev")]
        if cell.victim is Victim.QUEUES:
            here.empty_queues()
            return self._fault(cell.point, cell.victim, None, posted)
        pid = here.wait_until(
            lambda: victims.find(here, cell.victim, self.rng, near=held), REACH_S, f"a {cell.victim} to kill"
        )
        fault = self._fault(cell.point, cell.victim, pid, posted)
        if not victims.kill(pid):
            raise ForgepoolError(f"the {cell.victim} (pid {pid}) ended before it was killed")
        self._kills += 1
        here.wait_until(lambda: not victims.is_alive(pid), REACH_S, f"pid {pid} to die")
        if cell.point is Point.RUNNING and cell.victim in {Victim.WORKER, Victim.FORK_HOST}:
            self._outlast(bait)
        return fault

    def _agent_of(self, posted: Posted) -> Run | None:
        return next((run for run in self.deployment.runs() if run.number == posted.number), None)

    def _outlast(self, posted: Posted) -> None:
        """Let an agent go on until a new worker serves its instance, and could start another beside it."""
        here, run = self.deployment, self._agent_of(posted)
        here.go(Point.RUNNING)
        instance = run.instance if run else ""
        before = here.holders().get(instance)
        here.wait_until(lambda: here.holders().get(instance) != before, REACH_S, f"a new worker of {instance}")
        until = time.monotonic() + MEET_S
        here.wait_until(lambda: time.monotonic() > until, REACH_S, "a clock to go on")

    # --- under load ---------------------------------------------------------------------------

    def _load(self, kills: int) -> None:
        """Kill at random while deliveries come."""
        left = kills
        while left > 0:
            self._ready()
            left -= self._storm(min(left, KILLS_PER_START))
            self._kills = KILLS_PER_START  # the next storm begins with parts that have not crashed yet

    def _storm(self, kills: int) -> int:
        """Make some kills without waiting for anybody to recover, then wait; return how many."""
        posted: list[Posted] = []
        send_at = kill_at = time.monotonic()
        done = 0
        while done < kills:
            self.deployment.tend()
            now = time.monotonic()
            if now >= send_at and sum(one.accepted is None for one in posted) + self._waiting() < MOST_WAITING:
                posted.append(self.deployment.send(self.rng.choice(("dev", "dev", "reviewer"))))
                send_at = now + self.rng.uniform(*LOAD_PAUSE_S)
            if now >= kill_at and posted:
                done += self._strike()
                kill_at = now + self.rng.uniform(*KILL_PAUSE_S)
            time.sleep(0.01)
        self._finish(posted)
        return done

    def _waiting(self) -> int:
        with self.deployment.store.reading() as tx:
            return sum(row.queued + row.running for row in tx.list_instances())

    def _strike(self) -> bool:
        """Kill one victim, if there is one at this moment."""
        victim = self.rng.choice(list(Victim))
        if victim is Victim.QUEUES:
            return False
        pid = victims.find(self.deployment, victim, self.rng)
        if pid is None:
            return False
        fault = self._fault("load", victim, pid, ())
        if not victims.kill(pid):
            return False
        self.say(f"load/{victim}")
        self.faults.append(fault)
        return True

    # --- both ---------------------------------------------------------------------------------

    def _fault(self, point: str, victim: Victim, pid: int | None, posted: Sequence[Posted]) -> Fault:
        return Fault(
            point=str(point), victim=str(victim), at=time.time(), pid=pid, numbers=tuple(one.number for one in posted)
        )

    def _finish(self, posted: Sequence[Posted]) -> None:
        """Wait until all work has ended. What has not by then is found by the verdict."""
        try:
            self.deployment.wait_until(self.deployment.is_quiet, self.within_s, "all work to end")
        except ForgepoolError as error:
            self._note(Ill.NOT_DONE, f"#{', #'.join(str(one.number) for one in posted)}: {error}", posted)

    def _note(self, ill: Ill, sentence: str, posted: Sequence[Posted] = ()) -> None:
        self.say(sentence)
        self.wrongs.append(Wrong(ill=ill, sentence=sentence, numbers=tuple(one.number for one in posted)))
