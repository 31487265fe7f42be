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
from typing import IO, Protocol, Self

import structlog

log = structlog.get_logger(__name__)

TETHER = Path(__file__).with_name("tether.py")

BACKOFF_S = (0.5, 1, 2, 5, 10, 30)  #: pauses between starts that fail; the last one repeats
STABLE_S = 60.0  #: a child that ran this long starts its next failure series anew


class Process(Protocol):
    """What runs for a child, whoever its parent is."""

    @property
    def pid(self) -> int | None:
        """Its number; None: not known yet."""

    def poll(self) -> int | None:
        """Return the status it ended with, a signal as a negative number; None: it runs."""

    def send_signal(self, number: int) -> None:
        """Signal the process alone. One that has ended is no error."""

    def kill_group(self) -> None:
        """Kill the process with everything in its group."""


class Program:
    """A process of our own: a program that is asked to end when we die."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        """`popen`: the leader of its own session, and so of its process group."""
        self._popen = popen

    @classmethod
    def launch(cls, child: "Child") -> Self:
        """Start the program of a child."""
        out: IO[bytes] | None = None
        if child.log_path is not None:
            child.log_path.parent.mkdir(parents=True, exist_ok=True)
            out = child.log_path.open("ab")
        try:
            popen = subprocess.Popen(
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
        log.info("process started", process=child.name, pid=popen.pid)
        return cls(popen)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the status it ended with; None: it runs."""
        return self._popen.poll()

    def send_signal(self, number: int) -> None:
        """Signal the program alone."""
        with suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def kill_group(self) -> None:
        """Kill the program with everything in its group, and wait for its end."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


@dataclass(slots=True)
class Child:
    """One program that should be running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path | None = None  #: where its output goes; None: with ours
    pass_fds: tuple[int, ...] = ()
    launch: Callable[["Child"], Process] = Program.launch
    process: Process | None = None
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
    may_start: Callable[[str], bool] = lambda _: True  #: asked with the name before each start
    attend: Callable[[float], None] = time.sleep  #: how to wait, in seconds, while children end
    children: dict[str, Child] = field(default_factory=dict)

    def add(self, child: Child) -> None:
        """Take a child into care and start it, if it may."""
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
            child.process.send_signal(number)

    def forget(self, name: str) -> None:
        """Let go of a child that has ended."""
        del self.children[name]

    def stop(self, names: Sequence[str], *, within_s: float) -> list[str]:
        """Ask children to end, wait, and kill what is left with everything it started; return the killed."""
        for name in names:
            self.ask_to_end(name)
        return self.finish(names, within_s=within_s)

    def finish(self, names: Sequence[str], *, within_s: float) -> list[str]:
        """Wait for children that were asked to end, kill what is left, and forget them; return the killed."""
        deadline = self.clock() + within_s
        while any(self.children[n].is_running for n in names) and self.clock() < deadline:
            self.attend(0.02)
        killed = [name for name in names if self.children[name].is_running]
        for name in killed:
            process = self.children[name].process
            assert process is not None  # noqa: S101 - it is running
            log.error("process killed", process=name, why=f"it did not end within {within_s:.0f} s")
            process.kill_group()
        for name in names:
            self.forget(name)
        return killed

    def _start(self, child: Child) -> None:
        if not self.may_start(child.name):
            return
        child.process = child.launch(child)
        child.started_at = self.clock()
