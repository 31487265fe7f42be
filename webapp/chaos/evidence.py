"""What the verdict rests on: the agents' own trace, the tasks' rows, what was sent, what was killed. Pure: no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pool.model import Task
from pool.states import State

#: Fields of a line that an agent writes.
FIELDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as the agent itself saw it, in seconds since the epoch."""

    instance: str
    task: int
    pid: int
    number: int  #: of the issue
    begin: float
    last: float  #: last sign of life
    ended: bool  #: it came to its end by itself

    def __str__(self) -> str:
        """Return it as its lines in the trace would be read."""
        how = "ended" if self.ended else "cut off"
        return f"task {self.task} on {self.instance}, pid {self.pid}, {self.begin:.3f}-{self.last:.3f} ({how})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task as the database has it."""

    task: int
    number: int
    instance: str | None
    state: State
    retry_of: int | None
    position: int  #: place in its queue
    created: float
    finished: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One delivery that was sent, again and again under the same id until there was an answer."""

    number: int  #: of the issue; no two requests have the same
    delivery: str  #: id
    sent: float
    accepted: float | None  #: when the answer said so; None: it never did
    answers: tuple[str, ...] = ()  #: one for each attempt
    receipts: int = 0  #: how many in the database say that it was accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kill."""

    point: str  #: where; "load": anywhere, while deliveries came
    victim: str
    at: float
    pid: int | None  #: None: no process was killed, but something was emptied
    numbers: tuple[int, ...]  #: issues that were sent for it

    @property
    def name(self) -> str:
        """Return it as `--only` takes it."""
        return f"{self.point}/{self.victim}"


class Ill(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    DOUBLED = "doubled"
    AT_ONCE = "two at once"
    OUT_OF_ORDER = "out of order"
    WRONG_END = "wrong end"
    RAN_ON = "ran on"
    LEFT_OVER = "left over"
    NOT_DONE = "not done"  # the fault could not be made, so nothing was shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """One thing that is wrong."""

    ill: Ill
    sentence: str
    numbers: tuple[int, ...] = ()  #: issues that it is about


class Trace:
    """What the agents wrote, read as it grows. Two runs of one task are two processes."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, int], Run] = {}

    def add(self, lines: Iterable[str]) -> None:
        """Read further lines. Raises ValueError for what no agent of ours writes."""
        for line in lines:
            parts = line.split()
            if len(parts) != FIELDS:
                raise ValueError(f"not a line of an agent: {line!r}")
            at, word, instance, task, pid, number = parts
            before = self._runs.get(key := (int(task), int(pid)))
            self._runs[key] = Run(
                instance=instance,
                task=int(task),
                pid=int(pid),
                number=int(number),
                begin=before.begin if before else float(at),
                last=float(at),
                ended=word == "end",
            )

    @property
    def runs(self) -> list[Run]:
        """All runs, ordered by begin."""
        return sorted(self._runs.values(), key=lambda run: run.begin)


def read_tasks(tasks: Sequence[Task]) -> list[Row]:
    """Read the rows, ordered by id. A retry stands where the first of its line stood."""
    place: dict[int, int] = {}
    rows = []
    for task in sorted(tasks, key=lambda task: task.id):
        place[task.id] = task.id if task.retry_of is None else place.get(task.retry_of, task.retry_of)
        rows.append(
            Row(
                task=task.id,
                number=task.request.number,
                instance=task.instance,
                state=task.state,
                retry_of=task.retry_of,
                position=place[task.id],
                created=task.created_at.timestamp(),
                finished=task.finished_at.timestamp() if task.finished_at else None,
                reason=task.reason,
            )
        )
    return rows
