"""Who came and who went, of the people assigned to an issue. Pure: no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from pool.subject import Subject
from webapp.event_values import IssueEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Who came and who went: the payload only tells who is assigned now (modules/structs/hook.go)."""

    added: tuple[str, ...]
    gone: tuple[str, ...]
    now: tuple[str, ...]

    @classmethod
    def of(cls, event: IssueEvent, known: Subject | None) -> Self:
        """Compare with what is stored; when nothing is, everybody came."""
        before = (known.assignees if known else None) or ()
        gone = without(before, event.assignees)
        # Times are whole seconds and several senders run at once (services/webhook/deliver.go). Of two `assigned` in
        # one second the older, with the shorter list, may come last: it is believed only in what it adds.
        if known and known.updated_at == event.updated_at and event.action != "unassigned":
            gone = ()
        now = (*without(before, (*gone, *event.assignees)), *event.assignees)
        return cls(added=without(event.assignees, before), gone=gone, now=now)


def without(logins: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the logins that are not among the others; the forge does not tell them apart by case."""
    left_out = {login.lower() for login in others}
    return tuple(login for login in logins if login.lower() not in left_out)
