"""Which faults are made, and in which order. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from pool.crashpoints import Point
from pool.errors import BadInput


class Victim(StrEnum):
    """What can be taken away."""

    WEB = "web"  # one worker of gunicorn
    WEB_MASTER = "web-master"  # gunicorn itself; its workers notice and end
    WORKER = "worker"  # the Celery worker of an instance
    WORKER_CHILD = "worker-child"  # the pool process in which it runs a task
    FLEET = "fleet"
    FORK_HOST = "fork-host"  # the process from which workers are forked
    BROKER = "broker"
    QUEUES = "queues"  # every message in the broker, not a process
    LAUNCHER = "launcher"  # what watches an agent
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault: while somebody waits at `point`, `victim` is killed."""

    point: Point
    victim: Victim

    def __str__(self) -> str:
        return f"{self.point}/{self.victim}"


#: A deployment of chaos has no forge to write to; what dies there is shown by tests/engine/test_effects_once.py.
POINTS = tuple(point for point in Point if point is not Point.WRITTEN)

#: The whole matrix.
CELLS = tuple(Cell(point, victim) for point in POINTS for victim in Victim)

#: Every point and every victim at least once, and each where it hurts most.
SHORT = (
    Cell(Point.BEFORE_COMMIT, Victim.WEB),
    Cell(Point.COMMITTED, Victim.WEB),
    Cell(Point.COMMITTED, Victim.BROKER),
    Cell(Point.PUBLISHED, Victim.WEB_MASTER),
    Cell(Point.PUBLISHED, Victim.QUEUES),
    Cell(Point.CLAIMED, Victim.WORKER_CHILD),
    Cell(Point.CLAIMED, Victim.FORK_HOST),
    Cell(Point.RUNNING, Victim.WORKER),
    Cell(Point.RUNNING, Victim.LAUNCHER),
    Cell(Point.RUNNING, Victim.AGENT),
    Cell(Point.ENDED, Victim.WORKER_CHILD),
    Cell(Point.RECORDED, Victim.FLEET),
)


def cells(*, rounds: int, long: bool, only: Sequence[str], rng: Random) -> list[Cell]:
    """Return the faults of a run: the matrix `rounds` times, each round in another order.

    only: POINT/VICTIM, or one of the two, to be run alone. Raises BadInput for names that there are not.
    """
    chosen = [cell for cell in CELLS if _fits(cell, only)] if only else list(CELLS if long else SHORT)
    found: list[Cell] = []
    for _ in range(rounds):
        rng.shuffle(chosen)
        found += chosen
    return found


def _fits(cell: Cell, only: Sequence[str]) -> bool:
    return any(word in (cell.point, cell.victim, str(cell)) for word in only)


def check_only(only: Sequence[str]) -> tuple[str, ...]:
    """Return the names if there are such cells. Raises BadInput."""
    for word in only:
        if not any(_fits(cell, [word]) for cell in CELLS):
            known = f"points: {', '.join(POINTS)}; victims: {', '.join(Victim)}"
            raise BadInput("--only", word, f"write POINT, VICTIM or POINT/VICTIM; {known}")
    return tuple(only)
