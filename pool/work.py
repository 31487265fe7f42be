"""What we remember of the work on one issue or pull request. Pure: no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from pool.lanes import Merge
from pool.model import Kind
from pool.states import LIVE, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One task, in short."""

    id: int
    kind: Kind
    type: str
    number: int
    state: State
    head_sha: str | None  #: commit that its event spoke of
    head_before: str | None  #: of its checkout; None: it had none
    head_after: str | None
    agent_ran: bool  #: only such a task counts towards a cap
    by_hand: bool  #: a person dispatched it
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_live(self) -> bool:
        """Tell whether it waits or runs."""
        return self.state in LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything that the store knows of one issue or pull request, and of what belongs to it."""

    repo: str
    number: int
    issue: int | None = None  #: of a pull request: the issue that it is for, as far as known
    past: tuple[Past, ...] = ()  #: tasks of this number since the reset, oldest first; live ones in any case
    chain: int = (
        0  #: tasks, merge links apart, of this number and of its issue or pulls since the reset, whose agent ran
    )
    today: int = 0  #: the same within the last 24 hours
    held_by: str | None = None
    reset_at: datetime | None = None
    asked: frozenset[str] = frozenset()  #: causes for which a person was asked since the reset
    merges: tuple[Merge, ...] = ()  #: its entries in lanes, oldest first
    looked_at: datetime | None = None
    unmergeable_since: datetime | None = None
    unmergeable_at: str | None = None  #: "head base" of which that is said
    head_sha: str | None = None
    head_since: datetime | None = None

    @property
    def live(self) -> tuple[Past, ...]:
        """What waits or runs for this number."""
        return tuple(task for task in self.past if task.is_live)

    @property
    def open_merge(self) -> Merge | None:
        """Its entry in a lane that has not ended."""
        return next((merge for merge in self.merges if merge.is_open), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at the forge that is due."""

    repo: str
    number: int
    why: str  #: webhook, task, poll, start, order, again, merge
    tries: int  #: looks that failed since the last one that did not


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something that is to be written to the forge, once."""

    id: int
    key: str  #: what makes it the same effect
    kind: str
    repo: str
    number: int
    type: str  #: whose account writes it
    task: int | None
    body: dict[str, Any]
    version: int
    tries: int
    due_at: datetime
    error: str
    ref: str | None  #: what the forge calls it, for instance the id of a comment
    created_at: datetime
    done_at: datetime | None
    given_up_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a person asked for in a comment."""

    id: int
    repo: str
    number: int
    comment: int  #: id of the comment
    line: int  #: which line of it, counted from 0
    verb: str
    argument: str
    by: str  #: login
    delivery: int | None
    created_at: datetime
    done_at: datetime | None
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the trail: what the workflow did or did not do, and why."""

    id: int
    at: datetime
    repo: str
    number: int
    source: str  #: look, merge, effect, order, poll, run
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """How far a repository has been asked."""

    repo: str
    polled_at: datetime | None = None
    comments_since: datetime | None = None
    error: str = ""


class About(Protocol):
    """Something about one issue or pull request."""

    @property
    def repo(self) -> str: ...  # noqa: D102
    @property
    def number(self) -> int: ...  # noqa: D102


A = TypeVar("A", bound=About)


def by_subject(items: Iterable[A]) -> list[tuple[tuple[str, int], list[A]]]:
    """Return what is about the same issue or pull request together, each in the order in which it came."""
    found: dict[tuple[str, int], list[A]] = {}
    for item in items:
        found.setdefault((item.repo, item.number), []).append(item)
    return list(found.items())
