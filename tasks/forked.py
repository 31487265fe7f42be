"""The fleet's side of the fork host: keeps one running and has its workers started and stopped. Touches processes."""

import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil
import structlog

from tasks.processes import Child, Process, Program, Supervisor

log = structlog.get_logger(__name__)

HOST = "fork-host"
#: How a worker ended that the host, killed before it, could not reap.
UNKNOWN = 255


class Forked:
    """A worker process, by way of the host; by its number once the host is gone."""

    def __init__(self, name: str, send: Callable[..., None], ticket: int) -> None:
        """name: of its instance. send: gives the host an order."""
        self._name, self._send, self._ticket = name, send, ticket
        self._process: psutil.Process | None = None
        self._status: int | None = None
        self._is_orphan = False
        self._spared = False

    @property
    def pid(self) -> int | None:
        """Its number; None: the host has not told it yet."""
        return None if self._process is None else self._process.pid

    def poll(self) -> int | None:
        """Return the status it ended with; None: it runs, or is about to."""
        if self._is_orphan and self._status is None and not self._is_alive:
            self._status = UNKNOWN
        return self._status

    def send_signal(self, number: int) -> None:
        """Signal the process alone."""
        if not self._is_orphan:
            self._send(signal=self._ticket, number=int(number), group=False)
        elif number == signal.SIGTERM and self._spared:
            # The death of the host has asked it to end; a second request would mean: hurry.
            self._spared = False
        elif self._process is not None:
            with suppress(psutil.NoSuchProcess):
                self._process.send_signal(number)

    def kill_group(self) -> None:
        """Kill the process with everything in its group."""
        if not self._is_orphan:
            self._send(signal=self._ticket, number=int(signal.SIGKILL), group=True)
        elif self._process is not None and self._is_alive:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def started(self, pid: int) -> None:
        """Note the process. A number may be used again, so its start time is noted with it."""
        with suppress(psutil.NoSuchProcess):
            self._process = psutil.Process(pid)
        log.info("process started", process=self._name, pid=pid)

    def ended(self, status: int) -> None:
        """Note the end."""
        self._status = status

    def orphaned(self) -> None:
        """Note that the host has died. The worker has been asked to end by that, where the system can."""
        self._is_orphan = True
        self._spared = sys.platform == "linux"
        if not self._spared:
            self.send_signal(signal.SIGTERM)

    @property
    def _is_alive(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return (
                self._process is not None
                and self._process.is_running()
                and self._process.status() != psutil.STATUS_ZOMBIE
            )
        return False


class ForkHost:
    """Keeps one fork host running. Single-threaded: call `tend` often, and when `fileno` has something to read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ`: what the host and its workers inherit; it must name the configuration."""
        self._environ = environ
        self._supervisor = Supervisor()
        self._control: socket.socket | None = None
        self._unread = b""
        self._is_ready = False
        self._tickets = itertools.count(1)
        self._forked: dict[int, Forked] = {}

    @property
    def is_up(self) -> bool:
        """Whether workers can be started."""
        return self._is_ready

    @property
    def control(self) -> socket.socket | None:
        """What becomes readable when there is news; None: there is no host."""
        return self._control

    def tend(self) -> None:
        """Read the reports; start the host, or another one in the place of one that has died."""
        self.listen()
        if HOST not in self._supervisor.children:
            self._supervisor.add(Child(HOST, (), self._environ, launch=self._launch))
        self._supervisor.tend()

    def fork(self, child: Child) -> Process:
        """Have a worker started; the name of the child is that of its instance."""
        ticket = next(self._tickets)
        forked = self._forked[ticket] = Forked(child.name, self._send, ticket)
        self._send(start=ticket, instance=child.name, log=str(child.log_path))
        return forked

    def listen(self) -> None:
        """Read what the host reports, without waiting."""
        while self._control is not None:
            try:
                data = self._control.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._lose()
                return
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line))

    def stop(self, *, within_s: float) -> None:
        """End the host; kill it when it does not end in time."""
        if HOST in self._supervisor.children:
            self._supervisor.stop([HOST], within_s=within_s)
        self.listen()

    def _launch(self, child: Child) -> Process:
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            child.argv, child.pass_fds = [sys.executable, "-m", "tasks.forkhost", str(fd)], (fd,)
            program = Program.launch(child)
        self._control, self._unread = ours, b""
        return program

    def _send(self, **order: object) -> None:
        if self._control is None:
            self._lose()
            return
        try:
            self._control.sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            self._lose()

    def _note(self, report: dict[str, int]) -> None:
        match report:
            case {"ready": _}:
                self._is_ready = True
            case {"started": ticket, "pid": pid}:
                self._forked[ticket].started(pid)
            case {"ended": ticket, "status": status}:
                self._forked.pop(ticket).ended(status)

    def _lose(self) -> None:
        self._is_ready = False
        if self._control is not None:
            self._control.close()
            self._control = None
        for forked in self._forked.values():
            forked.orphaned()
        self._forked.clear()
