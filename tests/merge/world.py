"""A forge with its people, as the machine plays them, and its own memory of what was merged in which state.

What was right is told from the world's own books, which share no code with what is tested.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tasks.merge_tools import Tools

BASES = ("main", "next")
REVIEWERS = ("ann", "bob")
CHECKS = ("success", "failure", "pending", "cancelled", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand with one pull request, by the books of the world."""

    head: str
    base: str
    is_open: bool
    is_held: bool
    is_approved: bool  #: the head, or what our own updates made it of
    has_complaint: bool  #: somebody's last word is a request for changes
    checks: str  #: of the head: one of CHECKS
    is_behind: bool
    conflicts: bool

    @property
    def may_be_merged(self) -> bool:
        """Tell whether it may be merged now, or once it is brought up to date and its checks have ended."""
        wanted = self.is_open and not self.is_held
        return wanted and self.is_approved and not self.has_complaint and self.checks in {"success", "none"}

    @property
    def wrong(self) -> list[str]:
        """Say what speaks against merging it at this moment."""
        reasons = {
            "closed": not self.is_open,
            "held": self.is_held,
            "not approved": not self.is_approved,
            "changes requested": self.has_complaint,
            f"checks {self.checks}": self.checks not in {"success", "none"},
            "behind its base": self.is_behind,
            "in conflict": self.conflicts,
        }
        return [reason for reason, is_so in reasons.items() if is_so]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A merge that boss asked for and that was made."""

    number: int
    commit: str  #: that was merged
    before: Standing  #: when the facts had been read, before anybody interfered


@dataclass(slots=True, kw_only=True)
class Meddling:
    """What goes wrong with the next call that changes something; each once."""

    before: Callable[[], None] | None = None  #: what somebody does between the facts and the call
    fault: str | None = None  #: before: the call is lost; after: its answer; checking: "try again later"; away: no GET

    def meddle(self) -> None:
        """Let them."""
        before, self.before = self.before, None
        if before is not None:
            before()

    def fails(self, *faults: str) -> bool:
        """Tell whether one of these faults is to happen now."""
        if self.fault not in faults:
            return False
        self.fault = None
        return True


class World(Protocol):
    """What the machine can do."""

    events: list[Event]
    meddling: Meddling
    tools: Tools

    def open(self, number: int, base: str) -> None:
        """Open a pull request, approved and green."""

    def known(self) -> list[int]:
        """Return the numbers of all pull requests."""

    def standing(self, number: int) -> Standing:
        """Tell how things stand."""

    def is_merged(self, number: int) -> bool:
        """Tell whether it is merged."""

    def push(self, number: int) -> None:
        """Push a commit to the head branch, as its author."""

    def review(self, number: int, login: str, verdict: str) -> None:
        """Review the head: approve or reject."""

    def dismiss(self, number: int, login: str) -> None:
        """Dismiss the newest verdict of a reviewer."""

    def check(self, number: int, state: str) -> None:
        """End, begin or cancel the checks of the head."""

    def move_base(self, base: str) -> None:
        """Push a commit to a base branch."""

    def close(self, number: int) -> None:
        """Close a pull request."""

    def reopen(self, number: int) -> None:
        """Open it again."""

    def hold(self, number: int, *, held: bool) -> None:
        """Put the label on, or take it off."""

    def merge_by_hand(self, number: int) -> None:
        """Merge as a person, who may do what boss may not."""

    def clash(self, number: int) -> None:
        """Let it conflict with its base from now on."""

    def generations(self, number: int) -> int:
        """Count the updates of ours that follow each other up to the head."""

    def close_world(self) -> None:
        """Give back what it holds."""


@dataclass
class Books:
    """What people said and did: the part of the memory that every world needs."""

    words: dict[int, dict[str, tuple[str, str]]] = field(default_factory=dict)  #: number -> login -> (verdict, commit)
    checks: dict[str, str] = field(default_factory=dict)  #: commit -> state
    made_of: dict[str, str] = field(default_factory=dict)  #: our updates -> the head before

    def line(self, head: str) -> list[str]:
        """Return a head and what our updates made it of."""
        line = [head]
        while line[-1] in self.made_of:
            line.append(self.made_of[line[-1]])
        return line

    def is_approved(self, number: int, head: str) -> bool:
        """Tell whether anybody's last word is an approval of it."""
        return any(
            verdict == "approved" and commit in self.line(head)
            for verdict, commit in self.words.get(number, {}).values()
        )

    def has_complaint(self, number: int) -> bool:
        """Tell whether anybody's last word is a request for changes."""
        return any(verdict == "rejected" for verdict, _ in self.words.get(number, {}).values())
