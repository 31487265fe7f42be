"""What a rule can ask for, and what becomes of an event. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime

from pool.model import Kind, Request
from pool.states import State, Verdict
from pool.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Queue a task for a type."""

    type: str
    request: Request
    #: A task of the same type, repo, number, kind and commit in one of these states does the work already.
    absorb: frozenset[State]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supersede:
    """Drop the tasks that wait for one issue or pull request. A running one is never touched."""

    repo: str
    number: int
    types: tuple[str, ...] | None  #: None: of every type
    kinds: tuple[Kind, ...] | None  #: None: of every kind
    why: str  #: for the history of the dropped task


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Store what the forge told, in place of what is stored."""

    subject: Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSessions:
    """End the conversations about one issue or pull request."""

    repo: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterLane:
    """Queue an approved pull request for its merge."""

    repo: str
    base: str
    number: int
    head_sha: str  #: what was approved, as far as the event tells; the merge asks the forge
    approved_at: datetime | None  #: its place in the lane; None: now


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAgain:
    """Have the workflow look at an issue or pull request on the forge, and a merge that waits for it go on."""

    repo: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetCaps:
    """Count anew: a person acted."""

    repo: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOrders:
    """Note what a person asks for in a comment; whether they may is asked of the forge later."""

    repo: str
    number: int
    comment: int
    by: str
    wishes: tuple[tuple[int, str, str], ...]  #: (line, verb, argument)


Command = Dispatch | Supersede | Remember | ForgetSessions | EnterLane | LookAgain | ResetCaps | TakeOrders


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of an event."""

    verdict: Verdict  #: ACCEPTED, or IGNORED, which may still carry a Remember
    rule: str | None = None  #: name of the rule that decided
    reason: str  #: one line for a person
    commands: tuple[Command, ...] = ()
