"""Named places at which a process may be stopped dead: for `forgepool chaos` and the tests, never in a deployment.

$FORGEPOOL_CRASH_AT names a folder. A file `POINT.die` there kills the next process that comes to that point, with
SIGKILL; `POINT.hold` makes it write its id into `POINT.reached` and wait until somebody makes `POINT.go`. Either
counts once in the whole deployment: a file is taken by renaming it, which only one process can do.
Without the variable a point costs one look into the environment.
"""

import os
import signal
import time
from enum import StrEnum
from pathlib import Path

#: Names the folder; `tasks.settings` lets it pass.
CRASH_AT = "FORGEPOOL_CRASH_AT"

HOLD_S = 30.0  #: a point is not held for longer, whatever became of whoever should let it go
PAUSE_S = 0.005


class Point(StrEnum):
    """Where the life of a task can be cut, in the order in which a task comes by."""

    BEFORE_COMMIT = "before-commit"  # the delivery is decided, its transaction is open
    COMMITTED = "committed-not-published"  # the task is in the database, its doorbell has not been rung
    PUBLISHED = "published-not-marked"  # the broker has the message, the database does not know
    CLAIMED = "claimed-not-started"  # the worker holds the run, nothing has been started
    RUNNING = "running"  # the agent is alive
    ENDED = "ended-not-recorded"  # the agent has ended, its result is in the worker's memory only
    RECORDED = "recorded-not-followed"  # the result is in, what comes next has not been asked
    WRITTEN = "written-not-noted"  # the forge has an effect, the ledger does not know


def reach(point: Point) -> None:
    """Come by a point: go on, unless somebody has armed it."""
    if folder := os.environ.get(CRASH_AT):
        _reached(Path(folder), point)


def _reached(folder: Path, point: Point) -> None:
    if _take(folder / f"{point}.die", folder / f"{point}.died"):
        os.kill(os.getpid(), signal.SIGKILL)
    if _take(folder / f"{point}.hold", folder / f"{point}.held"):
        written = folder / f"{point}.pid"
        written.write_text(f"{os.getpid()}\n", encoding="ascii")
        written.rename(folder / f"{point}.reached")
        _wait_for(folder / f"{point}.go")


def _take(armed: Path, taken: Path) -> bool:
    try:
        armed.rename(taken)
    except FileNotFoundError:
        return False
    return True


def _wait_for(go: Path) -> None:
    deadline = time.monotonic() + HOLD_S
    while not go.exists() and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
