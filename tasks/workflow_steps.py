"""What the workflow can decide: steps, decisions, and what becomes of a task at its turn. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime

from pool.model import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Queue a task for a type."""

    kind: Kind
    type: str
    number: int
    head_sha: str | None  #: commit that it is about; None: an issue has none
    why: str
    detail: str = ""  #: words of the forge, for the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReview:
    """Ask an account on the forge for a review of the head."""

    login: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue:
    """Put a pull request into the lane of its base branch."""

    head_sha: str
    base: str
    approved_at: datetime  #: its place in the lane
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPerson:
    """Ask a person for help, once for each cause."""

    cause: str  #: one word, without a colon
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Do nothing."""

    look_after_s: float | None = None  #: when it is looked at again; None: when something happens


Step = Start | AskReview | Enqueue | AskPerson | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done, and which row of a table says so."""

    rule: str
    why: str  #: the same words for the same situation: a change of them is news
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """At its turn, the task is still wanted."""

    head_sha: str | None  #: the head now; None: an issue has none
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """At its turn, the task is not wanted any more."""

    why: str
    instead: Start | None = None


#: What a decision of the tables consists of, before it is known which row it is.
Outcome = tuple[str, tuple[Step, ...]]


def wait(why: str, look_after_s: float | None = None) -> Outcome:
    """Return the outcome of a row that does nothing for now."""
    return why, (Wait(look_after_s=look_after_s),)


def ask(cause: str, sentence: str, look_after_s: float | None = None) -> Outcome:
    """Return the outcome of a row that needs a person. look_after_s: when it may have healed by itself."""
    again = () if look_after_s is None else (Wait(look_after_s=look_after_s),)
    return sentence, (AskPerson(cause=cause, sentence=sentence), *again)
