"""Child processes that are kept running: start, restart with back-off, stop in time. Touches processes only."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger(__name__)

TETHER = Path(__file__).with_name("tether.py")

BACKOFF_S = (0.5, 1, 2, 5, 10, 30)  #: pauses between starts that fail; the last one repeats
STABLE_S = 60.0  #: a child that ran this long starts its next failure series anew


@dataclass(slots=True)
class Child:
    """One program that should be running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path | None = None  #: where its output goes; None: with ours
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0
    is_wanted: bool = True  #: False: it is being stopped and is not started again

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None


@dataclass(slots=True)
class Supervisor:
    """Keeps a set of children running. Single-threaded: call `tend` often."""

    clock: Callable[[], float] = time.monotonic
    children: dict[str, Child] = field(default_factory=dict)

    def add(self, child: Child) -> None:
        """Take a child into care and start it."""
        self.children[child.name] = child
        self._start(child)

    def tend(self) -> None:
        """Note which children have ended unasked and start them again when their pause is over."""
        now = self.clock()
        for child in [child for child in self.children.values() if child.is_wanted]:
            if child.process is not None and (code := child.process.poll()) is not None:
                child.failures = 0 if now - child.started_at >= STABLE_S else child.failures + 1
                pause = BACKOFF_S[min(child.failures, len(BACKOFF_S)) - 1] if child.failures else 0
                child.process, child.start_after = None, now + pause
                log.warning("process ended", process=child.name, status=code, restart_in_s=pause)
            if child.process is None and now >= child.start_after:
                self._start(child)

    def ask_to_end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal one child, and do not start it again. Only itself: what it started is its own affair."""
        child = self.children[name]
        child.is_wanted = False
        if child.process is not None:
            with suppress(ProcessLookupError):
                child.process.send_signal(number)

    def forget(self, name: str) -> None:
        """Let go of a child that has ended."""
        child = self.children.pop(name)
        if child.process is not None:
            child.process.wait()

    def stop(self, names: Sequence[str], *, within_s: float) -> list[str]:
        """Ask children to end, wait, and kill what is left with everything it started; return the killed."""
        for name in names:
            self.ask_to_end(name)
        deadline = self.clock() + within_s
        while any(self.children[n].is_running for n in names) and self.clock() < deadline:
            time.sleep(0.02)
        killed = [name for name in names if self.children[name].is_running]
        for name in killed:
            process = self.children[name].process
            assert process is not None  # noqa: S101 - it is running
            log.error("process killed", process=name, why=f"it did not end within {within_s:.0f} s")
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for name in names:
            self.forget(name)
        return killed

    def _start(self, child: Child) -> None:
        out: IO[bytes] | None = None
        if child.log_path is not None:
            child.log_path.parent.mkdir(parents=True, exist_ok=True)
            out = child.log_path.open("ab")
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *child.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if out else None,
                env=dict(child.env),
                pass_fds=child.pass_fds,
                # Ctrl-C in the terminal reaches the supervisor alone, which then stops the others in order.
                start_new_session=True,
            )
        finally:
            if out is not None:
                out.close()
        child.started_at = self.clock()
        log.info("process started", process=child.name, pid=child.process.pid)
