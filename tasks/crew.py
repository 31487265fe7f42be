"""A crew: a few threads that do jobs side by side, so that a slow one holds up few others. Knows nothing of the jobs.

Of jobs about the same thing one at a time is done. Jobs are given by one thread, and are daemons: whoever ends does not
wait for a call that hangs.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["ALONE", "Crew", "Job"]

#: What it is about, and the job itself, which tells whether more may be due now. A job never raises.
Job = tuple[Hashable, Callable[[], bool]]
#: Nobody: each job is done at once, by whoever gives it.
ALONE: Mapping[str, int] = {}


@dataclass(slots=True)
class Crew:
    """The threads at work."""

    hands: Mapping[str, int] = field(default_factory=lambda: ALONE)  #: jobs at once, by kind
    on_end: Callable[[], object] = lambda: None  #: called after a job that says that more may be due
    _busy: dict[Hashable, str] = field(default_factory=dict)  #: what a job is about -> its kind
    _change: threading.Condition = field(default_factory=threading.Condition)

    @property
    def is_alone(self) -> bool:
        """Tell whether jobs are done by whoever gives them."""
        return not self.hands

    def give(self, kind: str, read: Callable[[], Iterable[Job]]) -> int:
        """Have the jobs done that `read` finds, each about another thing, as far as there are hands.

        What is left is not kept: `read` finds it again next time. It is not even asked when all hands are busy.
        Returns how many were begun.
        """
        with self._change:
            # Before the reading: about what is idle now, nothing has changed since it was read.
            busy = set(self._busy)
            if not self._has_hand(kind):
                return 0
        begun = 0
        for about, act in read():
            if about in busy:
                continue
            if not self._begin(kind, about, act):
                break
            begun += 1
        return begun

    def wait(self, within_s: float | None = None) -> bool:
        """Wait until nothing is done any more; tell whether that came about."""
        with self._change:
            return self._change.wait_for(lambda: not self._busy, timeout=within_s)

    def _has_hand(self, kind: str) -> bool:
        return self.is_alone or sum(one == kind for one in self._busy.values()) < self.hands[kind]

    def _begin(self, kind: str, about: Hashable, act: Callable[[], bool]) -> bool:
        """Begin with a job; tell whether there was a hand for it."""
        if self.is_alone:
            act()
            return True
        with self._change:
            if not self._has_hand(kind):
                return False
            self._busy[about] = kind
        try:
            threading.Thread(target=self._do, args=(about, act), name=f"steward-{kind}", daemon=True).start()
        except RuntimeError:  # no more threads on this machine
            self._end(about)
            raise
        return True

    def _do(self, about: Hashable, act: Callable[[], bool]) -> None:
        is_more = False
        try:
            is_more = act()
        finally:
            self._end(about)
            if is_more:
                self.on_end()

    def _end(self, about: Hashable) -> None:
        with self._change:
            del self._busy[about]
            self._change.notify_all()
