"""One run of an agent: start, watch, stop. Touches processes, by way of the launcher, and nothing else.

Whatever ends the worker - SystemExit at any bytecode, kill -9 - closes the control pipe, and the launcher answers
that by ending the whole process tree of the agent. See tasks/launcher.py for how, and for what it cannot reach.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from pool.errors import AgentError

LAUNCHER = Path(__file__).with_name("launcher.py")

START_S = 30.0  #: for the launcher to start the agent, on a machine under load
MARGIN_S = 10.0  #: beyond the grace, for SIGKILL to do its work, before the launcher itself is killed
ORPHANS_S, ORPHANS_PAUSE_S = 5.0, 0.02  #: for killing what a killed launcher has left, round after round
ORPHANS_LOOKS = 5  #: in a row that must find nothing
SAME_START_S = 2.0  #: start times differ by rounding, and by corrections of the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCommand:
    """What to run, where, and with what."""

    argv: tuple[str, ...]  #: no secrets and no prompt: every user of the machine can read it
    cwd: Path
    env: Mapping[str, str]  #: all of it; see tasks/environment.py
    log_path: Path  #: output is appended; its folder must exist
    stdin_path: Path | None = None  #: the prompt, for agents that read it there; None: /dev/null


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how loud an agent may be."""

    wall_s: float  #: from start to end
    silence_s: float | None  #: without any output; None: no such limit
    grace_s: float  #: from SIGTERM to SIGKILL
    linger_s: float = 1.0  #: for other processes once the agent's main one has ended
    log_bytes: int  #: kept of the beginning; the very end is kept beside that


class Ending(StrEnum):
    """Why a run ended. Not whether it was a success."""

    EXITED = "exited"  # by itself, or killed by somebody else
    TIMED_OUT = "timed-out"  # stopped at the wall limit
    SILENT = "silent"  # stopped at the silence limit
    STOPPED = "stopped"  # stopped because tick said so


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What tick returns to have the agent stopped. Callers derive their own kinds."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    ending: Ending
    exit_code: int | None  #: None: a signal ended it; with `signal` None too: unknown, its launcher was killed
    signal: int | None
    duration_s: float
    output_bytes: int  #: all of it, kept in the log or not
    truncated: bool  #: the log does not hold everything
    leftover: int  #: processes that had to be ended after the main one had ended
    survivors: int = 0  #: processes that SIGKILL did not end in time
    launcher_died: bool = False  #: without its last report: how the agent ended is not known
    stop: Stop | None = None  #: what tick returned, if it did; also if the agent ended before it could be stopped


class Agent:
    """A running agent. A context manager: it never survives its block."""

    def __init__(self, launcher: subprocess.Popen[bytes], limits: Limits, clock: Callable[[], float]) -> None:
        self.pid = 0  #: of the main process, also its process group and session
        self.started = 0.0  #: start time of `pid`, seconds since the epoch: tells it from a reused number
        self.output_bytes = 0
        self._launcher = launcher
        self._limits = limits
        self._clock = clock
        self._begin = self._heard = clock()
        self._unread = b""
        self._last: dict[str, Any] | None = None  #: the launcher's last report; {} when it died without one
        self._ending: Ending | None = None  #: why it is being stopped
        self._stop: Stop | None = None
        self._give_up = float("inf")
        self._ended: Ended | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reports, selectors.EVENT_READ)

    @classmethod
    def start(cls, command: AgentCommand, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> Self:
        """Start the agent and return once it runs. Raises AgentError with a sentence if that is not possible."""
        _check(command)
        # Of the service's own environment the launcher sees as little as the agent: both are the agent's to read.
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=dict(command.env),
            start_new_session=True,
        )
        agent = cls(launcher, limits, clock)
        try:
            agent._begin_with(_orders(command, limits))
        except BaseException:
            agent.stop()
            raise
        return agent

    def watch(self, tick: Callable[[], Stop | None], *, every_s: float = 0.5) -> Ended:
        """Return when the agent has ended, by itself or because a limit or `tick` had it stopped.

        tick: called at once and then every `every_s` seconds, also while the agent is being stopped, so that a
        lease can be renewed; of its answers the first that is not None counts. What it raises ends the watch.
        Returns at most grace_s plus a few seconds after the first reason, whatever the agent does.
        """
        tick_at = self._clock()
        while self._ended is None:
            now = self._clock()
            if now >= tick_at:
                tick_at = now + every_s
                self._answer(tick())
            self._check_limits()
            self._step(tick_at)
        return self._ended

    def stop(self) -> None:
        """End the agent and everything it started; return when it is gone. Does nothing the second time."""
        if self._last is None:
            self._ask(None)
        while self._ended is None:
            self._step(self._give_up)
        for pipe in (self._launcher.stdin, self._launcher.stdout):
            if pipe:
                pipe.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the agent, whatever ended the block: SystemExit from a terminated Celery child among others."""
        self.stop()

    @property
    def _reports(self) -> int:
        assert self._launcher.stdout  # noqa: S101 - it was opened with a pipe
        return self._launcher.stdout.fileno()

    def _begin_with(self, orders: bytes) -> None:
        os.set_blocking(self._reports, False)
        self._send(orders)
        give_up = time.monotonic() + START_S
        while not self.pid and self._last is None and time.monotonic() < give_up:
            self._receive(give_up - time.monotonic())
        if not self.pid:
            why = (self._last or {}).get("error", "its launcher did not answer")
            raise AgentError(f"the agent could not be started: {why}")

    def _answer(self, stop: Stop | None) -> None:
        if stop is not None and self._stop is None:
            self._stop = stop
            self._ask(Ending.STOPPED)

    def _check_limits(self) -> None:
        now = self._clock()
        if now - self._begin >= self._limits.wall_s:
            self._ask(Ending.TIMED_OUT)
        elif self._limits.silence_s is not None and now - self._heard >= self._limits.silence_s:
            self._ask(Ending.SILENT)

    def _ask(self, ending: Ending | None) -> None:
        """Have the launcher stop the agent, once: a second reason neither replaces the first nor restarts the grace."""
        if self._give_up == float("inf"):
            self._ending = ending
            self._give_up = self._clock() + self._limits.grace_s + MARGIN_S
            self._send(b"stop\n")

    def _send(self, data: bytes) -> None:
        assert self._launcher.stdin  # noqa: S101 - it was opened with a pipe
        with suppress(BrokenPipeError):  # the launcher is gone; its report pipe says so too
            while data:
                data = data[os.write(self._launcher.stdin.fileno(), data) :]

    def _step(self, until: float) -> None:
        """Wait for news until the next limit, but not longer than `until`; note the end of the run."""
        now = self._clock()
        if self._last is None and now < self._give_up:
            limits = [self._give_up, self._begin + self._limits.wall_s]
            if self._limits.silence_s is not None:
                limits.append(self._heard + self._limits.silence_s)
            due = min([until, *(limit for limit in limits if limit > now)])
            self._receive(max(0.0, due - now))
        if self._last is not None or self._clock() >= self._give_up:
            self._finish()

    def _receive(self, timeout_s: float) -> None:
        """Read what the launcher has reported, waiting at most `timeout_s` for something to come."""
        if not self._selector.select(timeout_s):
            return
        with suppress(BlockingIOError):
            while data := os.read(self._reports, 65536):
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._note(json.loads(line))
            self._last = self._last or {}

    def _note(self, report: dict[str, Any]) -> None:
        if report.get("bytes", self.output_bytes) != self.output_bytes:
            self.output_bytes = report["bytes"]
            self._heard = self._clock()
        if "pid" in report:
            self.pid, self.started = report["pid"], report["started"]
        if "exit" in report or "error" in report:
            self._last = report

    def _finish(self) -> None:
        last = self._last or {}
        if "exit" not in last:
            # Killed, or stuck in the kernel. Its death ends the main process too (PR_SET_PDEATHSIG).
            self._launcher.kill()
            if self.pid:
                end_orphans(self.pid, self.started)
        self._launcher.wait()
        self._ended = Ended(
            ending=(self._ending or Ending.EXITED) if last.get("stopped", self._ending) else Ending.EXITED,
            exit_code=last.get("exit"),
            signal=last.get("signal"),
            duration_s=self._clock() - self._begin,
            output_bytes=self.output_bytes,
            truncated=last.get("truncated", False),
            leftover=last.get("leftover", 0),
            survivors=last.get("survivors", 0),
            launcher_died="exit" not in last,
            stop=self._stop,
        )


def end_orphans(pid: int, started: float) -> int:
    """Kill what is left of a run whose launcher was killed too; return how many processes that were.

    `pid` and `started` as Agent gave them, perhaps long ago. Reaches the session of the agent: what left that session
    is found only by a live launcher.
    """
    with suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - started) > SAME_START_S:
            return 0  # the number belongs to somebody else now, so nothing of the old session is left
    killed: set[int] = set()
    give_up = time.monotonic() + ORPHANS_S
    # Again and again, and whole groups: what forks meanwhile is not in the list, and may be gone before its turn. The
    # list may even be empty, while the only one that there is becomes another.
    empty = 0
    while empty < ORPHANS_LOOKS and time.monotonic() < give_up:
        found = _session(pid)
        empty = 0 if found else empty + 1
        for group in set(found.values()):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        killed |= found.keys()
        time.sleep(ORPHANS_PAUSE_S)
    return len(killed)


def _session(leader: int) -> dict[int, int]:
    """Return {process: its group} of the living processes of a session."""
    found = {}
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found[pid] = os.getpgid(pid)
    return found


def _check(command: AgentCommand) -> None:
    """Refuse what cannot be started, in words a person can act on."""
    if not command.argv:
        raise AgentError("the agent's command is empty")
    if not command.cwd.is_dir():
        raise AgentError(f"the agent's working directory {command.cwd} does not exist")
    program = command.argv[0]
    path = command.env.get("PATH", os.defpath)
    # A name with a slash counts from the working directory, as it will for exec.
    found = shutil.which(str(command.cwd / program)) if "/" in program else shutil.which(program, path=path)
    if not found:
        where = "is not an executable file" if "/" in program else f"is not on the agent's PATH ({path})"
        raise AgentError(f"the agent's program {program!r} {where}")
    if command.stdin_path and not command.stdin_path.is_file():
        raise AgentError(f"the agent's input {command.stdin_path} does not exist")


def _orders(command: AgentCommand, limits: Limits) -> bytes:
    orders = {
        "argv": command.argv,
        "cwd": str(command.cwd),
        "env": dict(command.env),
        "stdin": str(command.stdin_path) if command.stdin_path else None,
        "log": str(command.log_path.absolute()),
        "log_bytes": limits.log_bytes,
        "grace_s": limits.grace_s,
        "linger_s": limits.linger_s,
    }
    return json.dumps(orders).encode() + b"\n"
