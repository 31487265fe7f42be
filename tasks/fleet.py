"""The fleet: one worker process per instance row, following the table while everything runs."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError
from pool.model import Instance
from tasks import reconcile
from tasks.engine import Engine
from tasks.processes import Child, Supervisor

log = structlog.get_logger(__name__)

#: Seconds between two looks at the table: the longest that a new instance waits for its worker.
FOLLOW_S = 1.0
#: Seconds a worker gets beyond its agent's grace time to write its last record.
RECORD_S = 15.0


def worker_command(instance: str) -> list[str]:
    """Return the command line of one instance's worker."""
    return [
        *(sys.executable, "-m", "celery", "-A", "tasks", "worker"),
        *("-Q", instance, "-n", f"{instance}@%h", "-c", "1"),
        # Gossip and mingle make every worker listen to every other: half a core with fifty idle workers.
        *("--without-gossip", "--without-mingle"),
        # Flower calls a worker offline that is silent for twice this time.
        *("--heartbeat-interval", "15"),
        *("-l", "INFO"),
    ]


class Fleet:
    """Supervises the workers of one host."""

    def __init__(self, engine: Engine, *, environ: Mapping[str, str]) -> None:
        """`environ`: what the workers inherit; it must name the configuration."""
        self._engine = engine
        self._environ = environ
        self._supervisor = Supervisor()
        self._refused: set[str] = set()
        self._signals = 0

    def run(self) -> None:
        """Follow the table until SIGTERM or SIGINT, then drain. A second signal hurries."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        reconcile_at = 0.0
        while not self._signals:
            self._edge("follow", self.follow)
            if time.monotonic() >= reconcile_at:
                reconcile.run_once(self._engine)
                reconcile_at = time.monotonic() + self._engine.settings.service.reconcile_s
            self._wait(FOLLOW_S)
        self.drain()

    def follow(self) -> None:
        """Start workers of new rows, restart crashed ones, stop those whose row is gone."""
        with self._engine.store.reading() as tx:
            rows = {row.name: row for row in tx.list_instances()}
        for row in rows.values():
            if row.name not in self._supervisor.children and self._may_serve(row):
                self._supervisor.add(self._child(row.name))
        for name in [n for n in self._supervisor.children if n not in rows]:
            self._retire(name)
        self._supervisor.tend()

    def drain(self) -> None:
        """Let running tasks end, up to drain_s; then have their agents stopped; then end every worker."""
        service = self._engine.settings.service
        for name in self._supervisor.children:
            self._supervisor.ask_to_end(name)
        log.info("draining", workers=len(self._supervisor.children), at_most_s=service.drain_s)
        deadline = time.monotonic() + service.drain_s
        while self._running() and time.monotonic() < deadline and self._signals < 2:  # noqa: PLR2004 - the second signal
            self._wait(0.1)
        left = self._running()
        if left:
            self._edge("interrupt", lambda: self._interrupt(left))
        grace_s = max((t.grace_s for t in self._engine.settings.types.values()), default=0.0)
        self._supervisor.stop(left, within_s=grace_s + RECORD_S)
        log.info("drained")

    def _interrupt(self, names: list[str]) -> None:
        with self._engine.store.writing() as tx:
            asked = [task for name in names for task in tx.ask_to_stop(name, by="fleet")]
        log.warning("agents are stopped", tasks=asked, why="the fleet shuts down")

    def _running(self) -> list[str]:
        return [name for name, child in self._supervisor.children.items() if child.is_running]

    def _retire(self, name: str) -> None:
        child = self._supervisor.children[name]
        if child.is_wanted:
            log.info("worker retires", instance=name, why="its instance was removed")
            self._supervisor.ask_to_end(name)
        if not child.is_running:
            self._supervisor.forget(name)

    def _may_serve(self, row: Instance) -> bool:
        if row.type in self._engine.settings.types:
            return True
        if row.name not in self._refused:
            self._refused.add(row.name)
            log.error("instance has no type", instance=row.name, type=row.type, remedy="describe the type or remove it")
        return False

    def _child(self, name: str) -> Child:
        logs = self._engine.settings.state_dir / "logs" / "workers"
        return Child(name, worker_command(name), self._environ, log_path=logs / f"{name}.log")

    def _edge(self, what: str, act: Callable[[], object]) -> None:
        """Run one step of the loop; a database that is away for a moment must not end the fleet."""
        try:
            act()
        except (ForgepoolError, SQLAlchemyError) as error:
            log.error("fleet step failed", step=what, why=str(error))

    def _wait(self, seconds: float) -> None:
        """Sleep, but wake at a signal."""
        end = time.monotonic() + seconds
        seen = self._signals
        while self._signals == seen and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals += 1
        log.info("signal", signal=signal.Signals(number).name, pid=os.getpid())
