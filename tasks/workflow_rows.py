"""One row of a table of the workflow, and the outcomes that both tables have. Pure: no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tasks.situation import Facts, Policy
from tasks.workflow_steps import Outcome, ask, wait

HOUR_S = 3600.0

_F = TypeVar("_F", bound=Facts)


@dataclass(frozen=True, slots=True)
class Row(Generic[_F]):
    """One row: when it fits, what is to be done then, and why it is there."""

    name: str
    fits: Callable[[_F, Policy], bool]
    decide: Callable[[_F, Policy], Outcome]
    why: str  #: one sentence for people


def chain_is_spent(facts: Facts, policy: Policy) -> bool:
    """Tell whether as many tasks ran as are allowed before a person has to look."""
    return facts.work.chain >= policy.max_chain


def day_is_spent(facts: Facts, policy: Policy) -> bool:
    """Tell whether as many tasks ran within a day as are allowed."""
    return facts.work.today >= policy.max_tasks_per_day


def held(facts: Facts, policy: Policy) -> Outcome:
    """Wait, since a person wants it."""
    del policy
    return wait(f"nothing is begun: {facts.hold}")


def busy(facts: Facts, policy: Policy) -> Outcome:
    """Wait for what is queued or runs."""
    del policy
    task = facts.work.live[0]
    return wait(f"task {task.id} ({task.kind} for {task.type}) is {task.state}")


def chain_spent(facts: Facts, policy: Policy) -> Outcome:
    """Ask a person, since agents could feed each other without end."""
    del facts
    return ask("chain", f"{policy.max_chain} tasks have not brought this to an end, so nothing more is begun")


def day_spent(facts: Facts, policy: Policy) -> Outcome:
    """Ask a person, and go on when the day is over."""
    del facts
    return ask("day", f"{policy.max_tasks_per_day} tasks ran for this within a day, so the rest waits", HOUR_S)
