"""Run one agent so that nothing of it outlives its worker. A program of its own, standard library only.

`tasks.runner` starts it as `python -I -S launcher.py`, in a session of its own, and speaks to it over two pipes:

- stdin, the control pipe: first one line of JSON (`Orders`), later the lines `stop` (SIGTERM, grace, SIGKILL) and
  `kill` (SIGKILL at once). Its end means that the worker is gone, and is obeyed like `stop`. So is SIGTERM.
- stdout, the report pipe, lines of JSON: {"pid", "started"}, then {"bytes"} while output grows, and last
  {"exit", "signal", "bytes", "truncated", "leftover", "survivors", "stopped"}; or {"error"} when nothing was started.

On Linux every orphan below this process becomes its child (PR_SET_CHILD_SUBREAPER), so a process that left the
agent's group is found too, and "no children" means that the whole tree is gone. Elsewhere only the group is reached.

Limits. A launcher that is itself killed with -9 takes the agent's main process along (PR_SET_PDEATHSIG), not what
that process started. Work handed to another daemon (docker, systemd-run, at) is not below us and stays.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

IS_LINUX = sys.platform == "linux"
CHUNK = 65536  #: bytes read at a time
PROGRESS_S = 0.25  #: at most one progress line in this time
CLEARING_S = 0.5  #: from SIGTERM to SIGKILL for what the agent left behind
KILL_AGAIN_S = 0.05  #: between two rounds of SIGKILL; a tree that forks meanwhile needs several
GIVE_UP_S = 5.0  #: after this long in SIGKILL, report what could not be killed and end
TAIL_BYTES = 256 * 1024  #: kept of the very end when the log is cut: agents print their result last
CUT_LINE = b"\n[forgepool: the log is full; of what follows only the end is kept]\n"

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


class Orders:
    """What to run and within which bounds: the first line on the control pipe."""

    def __init__(self, line: bytes) -> None:
        orders = json.loads(line)
        self.argv: list[str] = orders["argv"]
        self.cwd: str = orders["cwd"]
        self.env: dict[str, str] = orders["env"]  #: all of it; nothing is inherited
        self.stdin: str = orders["stdin"] or os.devnull
        self.log: str = orders["log"]
        self.log_bytes: int = orders["log_bytes"]  #: cap for the log, its tail not counted
        self.grace_s: float = orders["grace_s"]  #: from SIGTERM to SIGKILL
        self.linger_s: float = orders["linger_s"]  #: what other processes get once the agent's main one has ended


class Phase(Enum):
    """How far the end of the agent has come; only forward."""

    RUNNING = "running"
    STOPPING = "stopping"  # SIGTERM sent, grace runs
    LINGERING = "lingering"  # the main process has ended, others have not
    CLEARING = "clearing"  # SIGTERM sent to those others
    KILLING = "killing"  # SIGKILL to all, again and again


class Log:
    """The agent's output on disk: its beginning up to the cap, and its end."""

    def __init__(self, path: str, cap: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._room = cap
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._gap = False
        self.bytes = 0  #: all output, kept or not
        self.truncated = False

    def add(self, data: bytes) -> None:
        """Keep `data` as far as there is room, count all of it."""
        self.bytes += len(data)
        kept, rest = data[: self._room], data[self._room :]
        self._room -= len(kept)
        self._write(kept)
        if not rest:
            return
        if not self.truncated:
            self.truncated = True
            self._write(CUT_LINE)
        self._tail.append(rest)
        self._tail_bytes += len(rest)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self._gap = True

    def close(self) -> None:
        """Write the end of the output, from the beginning of a line if something is missing before it."""
        tail = b"".join(self._tail)
        if self._gap:
            tail = tail[-TAIL_BYTES:]
            tail = tail.partition(b"\n")[2] or tail
        self._write(tail)
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            # A full disk must not stop the agent: what cannot be kept counts as cut off.
            self._room, self.truncated = 0, True


class Launcher:
    """One agent, from its start to the end of its last process."""

    def __init__(self, orders: Orders, control: bytes) -> None:
        self.orders = orders
        self.control = control  #: read from the control pipe, not yet a whole line
        self.is_asked = False  #: a signal asked for the end
        self.log = Log(orders.log, orders.log_bytes)
        self.wakeup = wake_on_signals(self._on_signal)
        self.pid, self.output = start(orders)
        self.started = start_time(self.pid)
        self.status: int | None = None  #: wait status of the main process
        self.childless = False
        self.phase = Phase.RUNNING
        self.deadline = float("inf")  #: when the phase is over
        self.give_up = float("inf")
        self.stopped = False  #: the stop came before the main process had ended
        self.leftover: set[int] = set()  #: signalled after the main process had ended
        self.doomed: set[int] = set()  #: signalled while it was alive
        self.reported, self.report_at = 0, 0.0  #: bytes, and when to report the next
        self.poll = select.poll()
        for file in (0, self.output, self.wakeup):
            os.set_blocking(file, False)
            self.poll.register(file, select.POLLIN)

    def run(self) -> None:
        """Copy output and obey until nothing of the agent is left, then report."""
        report({"pid": self.pid, "started": self.started})
        self._obey(b"")
        while not self._is_gone() and time.monotonic() < self.give_up:
            for file, _ in self.poll.poll(self._wait_ms()):
                self._serve(file)
            if self.is_asked:
                self.stop()
            self._reap()
            self._advance(time.monotonic())
            self._report_progress(time.monotonic())
        self._drain()
        self.log.close()
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        ended = {"exit": code, "signal": None} if code is None or code >= 0 else {"exit": None, "signal": -code}
        output = {"bytes": self.log.bytes, "truncated": self.log.truncated}
        survivors = 0 if self._is_gone() else len(living(descendants()))
        report({**ended, **output, "leftover": len(self.leftover), "survivors": survivors, "stopped": self.stopped})

    def _wait_ms(self) -> float | None:
        until = self.deadline
        if self.log.bytes != self.reported:
            until = min(until, self.report_at)
        return None if until == float("inf") else max(0.0, until - time.monotonic()) * 1000 + 1  # rounded up

    def _serve(self, file: int) -> None:
        try:
            data = os.read(file, CHUNK)
        except BlockingIOError:
            return
        if file == self.output:
            self.log.add(data)
        elif file == 0:
            self._obey(data or b"stop\n")
        if not data:
            self.poll.unregister(file)

    def _obey(self, data: bytes) -> None:
        *lines, self.control = (self.control + data).split(b"\n")
        if b"kill" in lines:
            self.kill()
        elif b"stop" in lines:
            self.stop()

    def _report_progress(self, now: float) -> None:
        if self.log.bytes != self.reported and now >= self.report_at:
            self.reported, self.report_at = self.log.bytes, now + PROGRESS_S
            report({"bytes": self.log.bytes}, may_be_lost=True)

    def _drain(self) -> None:
        chunks = iter(lambda: os.read(self.output, CHUNK), b"")
        try:
            # Bounded: whoever got hold of the pipe from outside the tree may write for ever.
            for _, data in zip(range(1024), chunks, strict=False):
                self.log.add(data)
        except BlockingIOError:
            return

    def _on_signal(self, number: int, _frame: object) -> None:
        # A handler runs between any two lines of the others: it only leaves a note.
        self.is_asked = self.is_asked or number != signal.SIGCHLD

    def stop(self) -> None:
        """Begin the end, if it has not begun yet: a second reason does not restart the grace."""
        self.is_asked = False
        self._reap()
        if self.status is not None and self.phase in (Phase.RUNNING, Phase.LINGERING):
            self.phase, self.deadline = Phase.LINGERING, time.monotonic()
        elif self.phase is Phase.RUNNING:
            self.stopped = True
            self.phase, self.deadline = Phase.STOPPING, time.monotonic() + self.orders.grace_s
            self._signal(signal.SIGTERM, group_only=True)

    def kill(self) -> None:
        """End everything at once."""
        self._reap()
        self.stopped = self.stopped or self.status is None
        if self.phase is not Phase.KILLING:
            self.phase, self.deadline = Phase.KILLING, time.monotonic()
            self.give_up = self.deadline + GIVE_UP_S

    def _advance(self, now: float) -> None:
        if self.status is not None and self.phase in (Phase.RUNNING, Phase.STOPPING):
            self.phase, self.deadline = Phase.LINGERING, min(self.deadline, now + self.orders.linger_s)
        if now < self.deadline or self._is_gone():
            return
        if self.phase is Phase.LINGERING:
            self._signal(signal.SIGTERM)
            self.phase, self.deadline = Phase.CLEARING, now + CLEARING_S
        elif self.phase is Phase.KILLING:
            self._signal(signal.SIGKILL)
            self.deadline = now + KILL_AGAIN_S
        else:
            self.kill()

    def _signal(self, number: int, *, group_only: bool = False) -> None:
        tree = descendants()
        # Once reaped, the number of the main process is safe as a group only while a member of ours is in it.
        if self.status is None or not IS_LINUX or any(group == self.pid for group, _ in tree.values()):
            send(os.killpg, self.pid, number)
        if group_only:
            return
        for pid in tree:
            send(os.kill, pid, number)
        (self.doomed if self.status is None else self.leftover).update(living(tree) - self.doomed)

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.status = status
        except ChildProcessError:
            self.childless = True

    def _is_gone(self) -> bool:
        return self.childless and (IS_LINUX or not send(os.killpg, self.pid, 0))


def start(orders: Orders) -> tuple[int, int]:
    """Start the agent as leader of a new session; return its id and the reading end of its output.

    Returns after the exec, so that no signal of ours can meet the Python of the child. Raises OSError.
    """
    prctl = ctypes.CDLL(None).prctl if IS_LINUX else lambda *_: 0
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    source = os.open(orders.stdin, os.O_RDONLY)
    output, sink = os.pipe()
    trouble, alarm = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == me:  # else the launcher died before the line above
                become(orders, source, sink)
        except BaseException as error:  # noqa: BLE001 - nothing may return into the parent's code
            os.write(alarm, str(error).encode())
        finally:
            os._exit(127)
    for file in (source, sink, alarm):
        os.close(file)
    message = os.read(trouble, CHUNK)
    os.close(trouble)
    if message:
        raise OSError(message.decode())
    return pid, output


def become(orders: Orders, source: int, sink: int) -> None:
    """Turn this process into the agent."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps what is ignored
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(source, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.chdir(orders.cwd)
    os.execvpe(orders.argv[0], orders.argv, orders.env)  # noqa: S606 - a shell is what must not be here


def wake_on_signals(handler: Callable[[int, object], None]) -> int:
    """Have `handler` called for the signals that matter; return a file that becomes readable with each."""
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)
    return wakeup


def descendants() -> dict[int, tuple[int, bool]]:
    """Return {pid: (process group, is alive)} of everything below this process; empty where there is no /proc."""
    below: dict[int, list[int]] = {}
    facts: dict[int, tuple[int, bool]] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib costs start-up time
    except OSError:
        return {}
    for pid in pids:
        try:
            state, parent, group = stat(pid)[:3]
        except (OSError, ValueError):
            continue  # it has just ended
        below.setdefault(int(parent), []).append(pid)
        facts[pid] = (int(group), state not in (b"Z", b"X"))
    found: dict[int, tuple[int, bool]] = {}
    unseen = list(below.get(os.getpid(), ()))
    while unseen:
        pid = unseen.pop()
        found[pid] = facts[pid]
        unseen.extend(below.get(pid, ()))
    return found


def stat(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) that follow the name: state, parent, group, ..."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return file.read().rpartition(b")")[2].split()


def living(tree: dict[int, tuple[int, bool]]) -> set[int]:
    """Return the processes of `tree` that are not mere zombies."""
    return {pid for pid, (_, is_alive) in tree.items() if is_alive}


def start_time(pid: int) -> float:
    """Return when `pid` started, in seconds since the epoch: with it a recorded id can be told from a reused one."""
    try:
        ticks = int(stat(pid)[19])
        with open("/proc/stat", "rb") as file:  # noqa: PTH123
            booted = next(int(line.split()[1]) for line in file if line.startswith(b"btime"))
    except OSError:
        return time.time()
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def send(how: Callable[[int, int], None], target: int, number: int) -> bool:
    """Signal `target`; tell whether it was there."""
    try:
        how(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return IS_LINUX  # a set-user-id child on Linux; on macOS also a group of zombies only
    return True


def report(message: dict[str, object], *, may_be_lost: bool = False) -> None:
    """Write one line to the report pipe; lose it rather than wait for a reader, if it may be lost."""
    os.set_blocking(1, not may_be_lost)
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except (BlockingIOError, BrokenPipeError):
        return


def main() -> int:
    """Read the orders, run the agent; leave nothing behind whatever goes wrong."""
    read = b""
    while b"\n" not in read:
        data = os.read(0, CHUNK)
        if not data:
            return 0  # the worker was gone before it had said what to run
        read += data
    line, _, control = read.partition(b"\n")
    try:
        Launcher(Orders(line), control).run()
    except Exception as error:  # noqa: BLE001 - the edge of this process
        report({"error": f"{type(error).__name__}: {error}"})
        for pid in descendants():
            send(os.kill, pid, signal.SIGKILL)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
