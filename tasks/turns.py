"""A lock between processes of one host that is given in the order of asking. Touches only the folder it is given.

Each who waits holds a numbered file, locked; the lowest number has its turn. The kernel lets go of the locks of a
process that is killed, so nobody ever waits for the dead.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pool.errors import CheckoutError

ASK_S = 0.05  #: between two looks at who is first

#: Never through a link, and never waiting for the other end of a pipe that somebody put in the way.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def turn(folder: Path, *, deadline: float, is_unwanted: Callable[[], bool], what: str) -> Iterator[None]:
    """Wait for one's turn and hold it.

    deadline: as time.monotonic() counts. what: what it is about, for messages.
    Raises CheckoutError when the turn does not come in time, or is not wanted any more.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ticket, handle = _draw(folder)
    try:
        while not _is_first(folder, ticket):
            if is_unwanted():
                raise CheckoutError(f"{what}: the wait for others was stopped on request")
            if time.monotonic() >= deadline:
                raise CheckoutError(f"{what}: others used the shared objects for too long")
            time.sleep(ASK_S)
        yield
    finally:
        ticket.unlink(missing_ok=True)
        os.close(handle)


def _draw(folder: Path) -> tuple[Path, int]:
    """Return a ticket with the next number, locked by us."""
    # The door is held for an instant, so that nobody sees a ticket that is not locked yet.
    door = _open(folder / "door", os.O_CREAT)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        number = max((int(name) for name in _tickets(folder)), default=0) + 1
        path = folder / f"{number:012}"
        handle = _open(path, os.O_CREAT | os.O_EXCL)
        fcntl.flock(handle, fcntl.LOCK_EX)
    finally:
        os.close(door)
    return path, handle


def _is_first(folder: Path, ticket: Path) -> bool:
    """Tell whether nobody alive drew before; sweep up the tickets of the dead."""
    for name in sorted(_tickets(folder)):
        if name == ticket.name:
            return True
        if not _is_dead(folder / name):
            return False
        (folder / name).unlink(missing_ok=True)
    # Somebody has deleted our own ticket: the order is lost, and an error is better than two at once.
    raise CheckoutError(f"the lock {ticket} was taken away")


def _is_dead(path: Path) -> bool:
    try:
        handle = _open(path, 0)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _tickets(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.isascii() and name.isdigit()]  # noqa: PTH208 - names only


def _open(path: Path, flags: int) -> int:
    """Open a file of ours; what was put in its place, and is no file, is taken away."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    try:
        return os.open(path, _FLAGS | flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckoutError(f"the lock {path} cannot be used: {error}") from error
