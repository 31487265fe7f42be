"""What a repair of the reconciler is, and what it works with."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks.engine import Engine
from tasks.lease_watch import LeaseWatch

#: How the names of the hosts' leases begin.
HOST_LEASE = "host "
#: In the history of a task, and in what is logged.
BY = "reconcile"
#: A worker or a host that was silent for this many lengths of its lease is gone for good.
GONE_LEASES = 10
#: Rows that one transaction deletes, so that no other writer waits for long.
BATCH = 200
#: At most so much is found in one round; what is left waits for the next.
MOST = 2000


class Who(StrEnum):
    """Who makes a repair."""

    LEADER = "leader"  # the one reconciler of the deployment that leads
    HOST = "host"  # every reconciler, for the processes and files of its own host


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is to be repaired."""

    what: str  #: for people: names and ids
    key: Any = None  #: for the repair


@dataclass(frozen=True, slots=True)
class Scene:
    """What a repair works with in one round."""

    engine: Engine
    runs: LeaseWatch[tuple[int, int]]  #: by task and fence
    workers: LeaseWatch[str]  #: by instance
    leases: LeaseWatch[str]  #: by name
    is_leader: bool

    @property
    def host(self) -> str:
        """The name of this machine."""
        return self.engine.settings.service.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One action of the reconciler. Safe to repeat, and safe to be made by two at once.

    find: looks, and changes nothing; a dry run does no more than that.
    act: repairs what was found, as far as it is still so; returns how many things it repaired.
    """

    name: str
    why: str
    find: Callable[[Scene], Sequence[Found]]
    act: Callable[[Scene, Sequence[Found]], int]
    who: Who = Who.LEADER
    every_s: float = 0.0  #: pause between two looks; 0: in each round
    is_routine: bool = False  #: needed in a deployment where nothing ever fails, too


def host_lease(host: str) -> str:
    """Return the name of the lease that says that somebody looks after the runs of a host."""
    name = HOST_LEASE + host
    # The column has room for 63 characters.
    return name if len(name) <= 63 else HOST_LEASE + hashlib.sha256(host.encode()).hexdigest()[:32]  # noqa: PLR2004
