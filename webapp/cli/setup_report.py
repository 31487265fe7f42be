"""What set-up has to say: one line per thing. Pure: no I/O."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one thing that must be there."""

    CREATED = "created"
    THERE = "was there"
    YOU = "YOU"  # a person has to do it
    NOTE = "note"  # nothing is missing, but somebody should know


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing."""

    outcome: Outcome
    text: str
    step: str = ""  #: exactly what the person has to do


def created(text: str) -> Line:
    """Return that something was made."""
    return Line(outcome=Outcome.CREATED, text=text)


def there(text: str) -> Line:
    """Return that something was there already."""
    return Line(outcome=Outcome.THERE, text=text)


def you(text: str, step: str) -> Line:
    """Return what is left to a person."""
    return Line(outcome=Outcome.YOU, text=text, step=step)


def note(text: str, step: str = "") -> Line:
    """Return what somebody should know."""
    return Line(outcome=Outcome.NOTE, text=text, step=step)
