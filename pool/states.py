"""The states of a task and of an instance, and the only moves between them. Pure: no I/O."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a task is. States only move forward; a retry is a new task that points to the old one."""

    QUEUED = "queued"  # waits in the queue of its instance
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # ended, and there is evidence that the work was done
    FAILED = "failed"  # ended without that evidence, or could never be queued
    CANCELLED = "cancelled"  # a person stopped it
    SUPERSEDED = "superseded"  # newer facts made it pointless before it started
    INTERRUPTED = "interrupted"  # its worker went away or was shut down; the agent is not to blame
    TIMED_OUT = "timed_out"  # stopped at a time limit
    DEAD_LETTERED = "dead_lettered"  # the machinery could not get it done; waits for a person to release or cancel it

    @property
    def is_final(self) -> bool:
        """Tell whether a task in this state will never move again."""
        return self not in LIVE and self is not State.DEAD_LETTERED


#: The engine works on these by itself.
LIVE = frozenset({State.QUEUED, State.RUNNING})


@dataclass(frozen=True, slots=True)
class Step:
    """One legal move: from any of `sources` to `target`."""

    sources: frozenset[State]
    target: State


def _step(*sources: State, to: State) -> Step:
    return Step(frozenset(sources), to)


class Move(StrEnum):
    """Everything that can happen to a task. Each name has exactly one row in STEPS."""

    CLAIM = "claim"  # a worker took it from the head of its queue
    SUCCEED = "succeed"
    FAIL = "fail"
    TIME_OUT = "time_out"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"
    WITHDRAW = "withdraw"  # at its turn, facts read anew made it pointless; no agent was started
    REJECT = "reject"  # it can never run: no instance, or a request that does not validate
    BURY = "bury"  # its instance was taken away and nobody else can take it
    RELEASE = "release"  # a person wants a dead letter tried again


STEPS: dict[Move, Step] = {
    Move.CLAIM: _step(State.QUEUED, to=State.RUNNING),
    Move.SUCCEED: _step(State.RUNNING, to=State.SUCCEEDED),
    Move.FAIL: _step(State.RUNNING, to=State.FAILED),
    Move.TIME_OUT: _step(State.RUNNING, to=State.TIMED_OUT),
    Move.INTERRUPT: _step(State.RUNNING, to=State.INTERRUPTED),
    Move.CANCEL: _step(State.QUEUED, State.RUNNING, State.DEAD_LETTERED, to=State.CANCELLED),
    # Only ever a waiting task: newer facts never stop an agent in the middle of its work. WITHDRAW is made by the run
    # itself, before it has an agent.
    Move.SUPERSEDE: _step(State.QUEUED, State.DEAD_LETTERED, to=State.SUPERSEDED),
    Move.WITHDRAW: _step(State.RUNNING, to=State.SUPERSEDED),
    Move.REJECT: _step(State.QUEUED, to=State.FAILED),
    Move.BURY: _step(State.QUEUED, to=State.DEAD_LETTERED),
    Move.RELEASE: _step(State.DEAD_LETTERED, to=State.QUEUED),
}


class InstanceState(StrEnum):
    """Whether an instance takes new work and whether it works on what it has."""

    ACTIVE = "active"  # takes new tasks, runs them
    PAUSED = "paused"  # finishes the running task, keeps its queue, starts nothing
    DRAINING = "draining"  # takes nothing new, runs its queue empty
    REMOVED = "removed"  # gone for selection; its row stays until its last task has ended


class Verdict(StrEnum):
    """What became of a delivery."""

    ACCEPTED = "accepted"  # it changed something: a task queued, a task superseded, a fact learned
    DUPLICATE = "duplicate"  # the same delivery, or the same meaning, was accepted before
    IGNORED = "ignored"  # understood, and no rule asks for anything
    REFUSED = "refused"  # not let in: signature, size, form or repository
    ERROR = "error"  # let in and understood, but it could not be served; needs a person
