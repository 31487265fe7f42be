"""What comes after a run. Pure: no I/O.

Most of what follows a run comes back from the forge as a webhook. What is decided here is only what the forge cannot
know: whether a run that the machinery lost is tried again.
"""

from enum import StrEnum

from pool.states import Move


class Next(StrEnum):
    """What follows a run."""

    NOTHING = "nothing"  # the forge will tell
    RETRY = "retry"  # the same work again, in its old place in the queue


def after(move: Move) -> Next:
    """Tell what follows a run that ended with this move."""
    return Next.RETRY if move is Move.INTERRUPT else Next.NOTHING
