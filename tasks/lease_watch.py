"""Which leases are dead, as told by somebody who looks at them now and then. Pure: both clocks are injected."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class _Look:
    """One moment at which the leases were looked at."""

    at: float  #: as the monotonic clock counts
    offset: float  #: the wall clock less the monotonic one


@dataclass(frozen=True, slots=True)
class _Sight:
    """What is known of one lease."""

    until: datetime
    watched_s: float  #: for how long it has been seen unchanged


class LeaseWatch(Generic[Key]):
    """Tells dead leases from live ones although the wall clock, by which they are written, may jump.

    A lease is dead when it was seen unchanged for its whole length. Sooner, when it has ended by the wall clock: but
    only while there is no doubt about that clock. There is doubt for the length of a lease after the clock moved
    against the monotonic one, and after nobody looked for long: then everything may have stood still, as in a container
    that was paused, and those who live must get the time to renew.
    """

    def __init__(
        self, lease_s: float, *, wall: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """lease_s: length of a lease; its holder renews it at a third of that."""
        self._lease_s = lease_s
        #: A longer pause between two looks is not known to have been a time in which anybody could renew.
        self._blind_s = lease_s / 2
        #: A renewed lease has two thirds left: a jump of less than this kills nobody.
        self._tolerance_s = lease_s / 10
        self._wall, self._monotonic = wall, monotonic
        self._looks: deque[_Look] = deque()
        self._sights: dict[Key, _Sight] = {}

    def dead(self, leases: Mapping[Key, datetime], *, elsewhere: Collection[Key] = ()) -> list[Key]:
        """Look at all leases there are, given as key and end; return the keys of the dead.

        elsewhere: keys of leases that were written by the clock of another machine, which says nothing here.
        """
        passed_s, now = self._look()
        is_sure = self._is_sure()
        self._sights = {key: self._see(key, until, passed_s) for key, until in leases.items()}
        return [
            key
            for key, sight in self._sights.items()
            if sight.watched_s >= self._lease_s or (is_sure and sight.until <= now and key not in elsewhere)
        ]

    def _see(self, key: Key, until: datetime, passed_s: float) -> _Sight:
        before = self._sights.get(key)
        if before is None or before.until != until:
            return _Sight(until, 0.0)
        return _Sight(until, before.watched_s + min(passed_s, self._blind_s))

    def _look(self) -> tuple[float, datetime]:
        """Note this look; return the seconds since the one before, and the time."""
        at, now = self._monotonic(), self._wall()
        passed_s = at - self._looks[-1].at if self._looks else 0.0
        self._looks.append(_Look(at, now.timestamp() - at))
        # The last lease_s, and the look before that: what happened between the two counts.
        while len(self._looks) > 1 and at - self._looks[1].at >= self._lease_s:
            self._looks.popleft()
        return passed_s, now

    def _is_sure(self) -> bool:
        offsets = [look.offset for look in self._looks]
        moments = [look.at for look in self._looks]
        pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
        return max(offsets) - min(offsets) <= self._tolerance_s and max(pauses, default=0.0) <= self._blind_s
