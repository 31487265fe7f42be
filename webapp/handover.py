"""What `forgepool up` keeps when it becomes another version of itself: socket, lock, and the web app that still ends.

The process stays, the program in it is replaced (execve(2)): what is open and inheritable stays open, children stay
children, blocked signals stay blocked. The new program reads in one environment variable what it has got, and takes
nothing at its word.
"""

import fcntl
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import structlog

from pool.errors import ForgepoolError

log = structlog.get_logger(__name__)

#: Not FORGEPOOL_*: it is no setting.
KEPT_ENV = "_FORGEPOOL_KEPT"

#: Blocked from the last look at them until the new program has its handlers: without one they would end it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Leaving:
    """The web app of the version before: serves until it is asked to end, then answers what it has taken."""

    pid: int
    is_gone: bool = False

    def ask(self) -> None:
        """Ask it to end."""
        if not self.look():
            os.kill(self.pid, signal.SIGTERM)

    def look(self) -> bool:
        """Tell whether it has ended."""
        if not self.is_gone:
            try:
                self.is_gone = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:
                self.is_gone = True
        return self.is_gone

    def see_off(self, *, within_s: float) -> None:
        """Wait for its end; kill it with everything it started when that takes too long."""
        deadline = time.monotonic() + within_s
        while not self.look() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.look():
            log.warning("process killed", process="web of the version before", why="it did not end in time")
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.is_gone = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What this process has got from the version before; nothing in an ordinary start."""

    listen: str | None = None  #: the setting that `web` was opened for
    web: socket.socket | None = None
    lock: int | None = None  #: an open file
    leaving: Leaving | None = None

    def socket_for(self, listen: str) -> socket.socket | None:
        """Return the listening socket, if it is for this address. Otherwise close it: nobody would answer there."""
        if self.web is not None and self.listen != listen:
            log.warning("address changed", before=self.listen, now=listen)
            self.web.close()
            return None
        return self.web

    def lock_for(self, path: Path) -> int | None:
        """Return the open lock file, if it is this one. Otherwise close it, which unlocks the other."""
        if self.lock is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.lock), path.stat()):
                return self.lock
        os.close(self.lock)
        return None


class OnlyOne(AbstractContextManager["OnlyOne"]):
    """A lock on the state folder: two engines on one folder would fight over its broker and its workers."""

    NAME = "up.lock"

    def __init__(self, path: Path, *, kept: int | None = None) -> None:
        """`kept`: the file, opened and locked by the version before."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file: IO[str] = (
            path.open("a+", encoding="ascii") if kept is None else os.fdopen(kept, "a+", encoding="ascii")
        )
        os.set_inheritable(self.file.fileno(), False)  # noqa: FBT003 - it has no other form

    def __enter__(self) -> Self:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            holder = self.file.read().strip() or "unknown"
            self.file.close()
            raise ForgepoolError(
                f"another `forgepool up` (pid {holder}) uses this state folder; stop it first"
            ) from None
        self.file.truncate(0)
        self.file.write(f"{os.getpid()}\n")
        self.file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def take(environ: MutableMapping[str, str]) -> Kept:
    """Return what the version before has left to this process, and take the note of it out of the environment."""
    note = environ.pop(KEPT_ENV, None)
    if note is None:
        return Kept()
    try:
        told: dict[str, Any] = json.loads(note)
        if told["pid"] != os.getpid():
            return Kept()  # inherited from a forgepool that started something which started us
        return Kept(
            listen=str(told["listen"]),
            web=_listening(int(told["web"])),
            lock=_regular(int(told["lock"])),
            leaving=Leaving(int(told["leaving"])) if told["leaving"] else None,
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        log.warning("nothing taken over", variable=KEPT_ENV, why=f"{type(error).__name__}: {error}")
        return Kept()


def become_anew(*, listen: str, web: socket.socket, lock: IO[str], leaving: int | None) -> NoReturn:
    """Start this command anew in this process. SIGNALS are blocked already. Raises OSError."""
    for file in (web.fileno(), lock.fileno()):
        os.set_inheritable(file, True)  # noqa: FBT003 - it has no other form
    note = {"pid": os.getpid(), "listen": listen, "web": web.fileno(), "lock": lock.fileno(), "leaving": leaving}
    sys.stdout.flush()
    sys.stderr.flush()
    environ = {**os.environ, KEPT_ENV: json.dumps(note)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - no shell is wanted


def has_terminal() -> bool:
    """Tell whether this process has a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _listening(file: int) -> socket.socket:
    """Return the socket with this number. Raises ValueError unless it is one that listens for TCP."""
    if not stat.S_ISSOCK(os.fstat(file).st_mode):
        raise ValueError(f"file {file} is no socket")
    found = socket.socket(fileno=file)
    is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not (is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        found.detach()  # somebody else's
        raise ValueError(f"file {file} is no socket that listens")
    return found


def _regular(file: int) -> int:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise ValueError(f"file {file} is no regular file")
    return file
