"""A database and fork(2). Touches no database: only who may be in a transaction while this process forks.

SQLite remembers in the memory of a process which locks that process holds. A fork copies this memory but not the locks:
a child that is born while a thread of its parent writes finds the database locked for ever, and one that is born while
a connection is merely open reads without the lock that keeps others from overwriting what it reads
(sqlite.org/howtocorrupt.html, section 2.6). So no connection may be open at that moment.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

#: A fork waits for the transactions of other threads; they take milliseconds, or their busy time-out.
WAIT_S = 60.0


class Gate:
    """Transactions pass; while this process forks, none does, and no connection is open."""

    def __init__(self, disconnect: Callable[[], None]) -> None:
        """`disconnect` closes every connection that is not in use."""
        self._disconnect = disconnect
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()
        _GATES.add(self)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold up a fork until the end of the block."""
        thread = threading.get_ident()
        with self._changed:
            self._inside[thread] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # drops the zeros
                self._changed.notify_all()

    def shut(self) -> None:
        """Wait until no other thread is in a transaction, and keep it so."""
        self._changed.acquire()
        # Bounded, so that a worker whose database hangs can still replace a dead child.
        self._changed.wait_for(lambda: not self._inside.keys() - {threading.get_ident()}, WAIT_S)
        self._disconnect()

    def open(self) -> None:
        """Let transactions pass again."""
        self._changed.release()

    def renew(self) -> None:
        """Begin anew in the child, where the parent's other threads do not exist."""
        self._changed = threading.Condition()
        self._inside = Counter()


_GATES: WeakSet[Gate] = WeakSet()
_shut: list[Gate] = []


def _before() -> None:
    _shut.extend(_GATES)
    for gate in _shut:
        gate.shut()


def _in_parent() -> None:
    while _shut:
        _shut.pop().open()


def _in_child() -> None:
    while _shut:
        _shut.pop().renew()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
