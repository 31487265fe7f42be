"""The fleet: one worker per instance row of this host, following the table while everything runs."""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import FrameType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError
from pool.model import Instance
from tasks.engine import Engine
from tasks.forked import ForkHost
from tasks.processes import Child, Supervisor
from tasks.reconcile import Reconciler
from tasks.steward import Steward
from tasks.worker import worker_arguments

log = structlog.get_logger(__name__)

#: Seconds between two looks at the table: the longest that a new instance waits for its worker.
FOLLOW_S = 1.0
#: Seconds a worker gets beyond its agent's grace time to write its last record.
RECORD_S = 15.0
#: Seconds the fork host gets to end once its workers have.
HOST_S = 5.0


def worker_command(instance: str) -> list[str]:
    """Return the command line of one instance's worker, to be run by hand."""
    return [sys.executable, "-m", "celery", *worker_arguments(instance)]


class Fleet:
    """Supervises the workers of one host."""

    def __init__(self, engine: Engine, *, environ: Mapping[str, str]) -> None:
        """`environ`: what the workers inherit; it must name the configuration."""
        self._engine = engine
        self._host = ForkHost(environ)
        self._supervisor = Supervisor(may_start=self._may_start, attend=self._wait)
        self._rows: dict[str, Instance] = {}
        self._now = datetime.min.replace(tzinfo=UTC)
        self._refused: set[str] = set()
        self._held: dict[str, str | None] = {}  # by instance: the worker that we wait for
        self._signals = 0
        self._wake, self._woken = os.pipe()

    def run(self) -> None:
        """Follow the table until SIGTERM or SIGINT, then drain. A second signal hurries."""
        self._listen_to_signals()
        reconcile_at = 0.0
        # One for all rounds: it tells the dead from the living by what it has seen of them.
        with Reconciler(self._engine) as reconciler, Steward(self._engine):
            while not self._signals:
                self._host.tend()
                self._edge("follow", self.follow)
                if time.monotonic() >= reconcile_at:
                    reconciler.run_once()
                    reconcile_at = time.monotonic() + self._engine.settings.service.reconcile_s
                self._wait(FOLLOW_S)
        self.drain()

    def follow(self) -> None:
        """Start workers of new rows, restart crashed ones, stop those whose row is gone or bound to another host."""
        with self._engine.store.reading() as tx:
            self._now = tx.now
            self._rows = {row.name: row for row in tx.list_instances() if self._is_ours(row)}
        for row in self._rows.values():
            if row.name not in self._supervisor.children and self._has_type(row):
                self._supervisor.add(self._child(row.name))
        for name in [name for name in self._supervisor.children if name not in self._rows]:
            self._retire(name)
        self._supervisor.tend()

    def drain(self) -> None:
        """Have every worker end: each waits up to drain_s for its run, then stops its agent. Then end the host."""
        service = self._engine.settings.service
        names = list(self._supervisor.children)
        for name in names:
            self._supervisor.ask_to_end(name)
        log.info("draining", workers=len(names), at_most_s=service.drain_s)
        deadline = time.monotonic() + service.drain_s
        while self._is_any_running() and time.monotonic() < deadline and self._signals < 2:  # noqa: PLR2004 - the second signal
            self._wait(0.1)
        if self._is_any_running() and time.monotonic() < deadline:
            log.warning("agents are stopped", why="a second signal")
            for name in names:
                self._supervisor.ask_to_end(name)
        grace_s = max((t.grace_s for t in self._engine.settings.types.values()), default=0.0)
        self._supervisor.finish(names, within_s=grace_s + RECORD_S)
        self._host.stop(within_s=HOST_S)
        log.info("drained")

    def _is_any_running(self) -> bool:
        return any(child.is_running for child in self._supervisor.children.values())

    def _retire(self, name: str) -> None:
        child = self._supervisor.children[name]
        if child.is_wanted:
            log.info("worker retires", instance=name, why="its instance was removed or bound to another host")
            self._supervisor.ask_to_end(name)
        if not child.is_running:
            self._supervisor.forget(name)

    def _is_ours(self, row: Instance) -> bool:
        is_ours = row.host in (None, self._engine.settings.service.host)
        if not is_ours:
            log.debug("instance of another host", instance=row.name, host=row.host)
        return is_ours

    def _has_type(self, row: Instance) -> bool:
        if row.type in self._engine.settings.types:
            return True
        if row.name not in self._refused:
            self._refused.add(row.name)
            log.error("instance has no type", instance=row.name, type=row.type, remedy="describe the type or remove it")
        return False

    def _may_start(self, name: str) -> bool:
        """Tell whether a worker has a chance. While another one holds the lease it would only refuse to serve."""
        row = self._rows[name]
        # Further ahead than any lease: the clock was put back, and the store lets the next one in.
        far = self._now + 2 * timedelta(seconds=self._engine.settings.service.worker_lease_s)
        if row.worker_until is None or not self._now < row.worker_until <= far:
            self._held.pop(name, None)
            return self._host.is_up
        if self._held.get(name) != row.worker:
            self._held[name] = row.worker
            log.info("instance is served already", instance=name, by=row.worker, until=row.worker_until.isoformat())
        return False

    def _child(self, name: str) -> Child:
        logs = self._engine.settings.state_dir / "logs" / "workers"
        return Child(name, (), {}, log_path=logs / f"{name}.log", launch=self._host.fork)

    def _edge(self, what: str, act: Callable[[], object]) -> None:
        """Run one step of the loop; a database that is away for a moment must not end the fleet."""
        try:
            act()
        except (ForgepoolError, SQLAlchemyError) as error:
            log.error("fleet step failed", step=what, why=str(error))

    def _wait(self, seconds: float) -> None:
        """Sleep, but wake at a signal; hear the fork host meanwhile."""
        end = time.monotonic() + seconds
        seen = self._signals
        while self._signals == seen and (left := end - time.monotonic()) > 0:
            control = self._host.control
            readable, _, _ = select.select([self._wake, *([control.fileno()] if control else [])], [], [], left)
            if self._wake in readable:
                os.read(self._wake, 4096)
            was_up = self._host.is_up
            self._host.listen()
            if self._host.is_up and not was_up:
                self._supervisor.tend()

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals += 1
        log.info("signal", signal=signal.Signals(number).name, pid=os.getpid())
