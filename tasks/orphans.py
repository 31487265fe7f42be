"""Processes of agents whose run has ended. Reads /proc, sends SIGKILL.

They are found by the process on record, and by what every agent has in its environment. The latter on Linux only:
elsewhere only the recorded process and its session are reached. What emptied its environment and left its session
while worker and launcher were killed at once is not found.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from pool.store import LeftAgent
from tasks.runner import end_orphans

PROC = Path("/proc")
GIVE_UP_S = 5.0  #: after this long of SIGKILL, what is left cannot be killed
PAUSE_S = 0.02  #: between two rounds; a tree that forks meanwhile needs several


def marked(state_dir: Path) -> dict[int, list[psutil.Process]]:
    """Return the living processes of agents of this state folder, by the task that they were started for.

    Told by the variables that an agent gets: the task, and its result file, whose place no other deployment shares.
    """
    found: dict[int, list[psutil.Process]] = {}
    own = _task_of(os.getpid(), state_dir)
    for pid in _own_pids():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)  # remembers when it started: its number may be another's when it is killed
            task = _task_of(pid, state_dir)
            # An agent may have started this very service; then we and the workers are marked too.
            if task is not None and task != own:
                found.setdefault(task, []).append(process)
    return found


def end(state_dir: Path, task: int, agent: LeftAgent | None) -> tuple[int, int]:
    """Kill what is left of a run on this host; return how many processes that were, and how many would not die."""
    ended: set[int] = set()
    count = 0 if agent is None else end_orphans(agent.pid, agent.started)
    give_up = time.monotonic() + GIVE_UP_S
    while left := marked(state_dir).get(task, []):
        if time.monotonic() >= give_up:
            break
        for process in left:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
                ended.add(process.pid)
        time.sleep(PAUSE_S)
    # Most of them were counted by their session already.
    return max(count, len(ended)), len(left)


def _own_pids() -> Iterator[int]:
    """Yield the processes of this user, itself apart."""
    if sys.platform != "linux":
        return
    me, user = os.getpid(), os.getuid()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == me:
            continue
        with suppress(OSError):
            if entry.stat().st_uid == user:
                yield int(entry.name)


def _task_of(pid: int, state_dir: Path) -> int | None:
    """Return the task that a process was started for; None for everything else. A zombie has no environment."""
    try:
        data = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    if b"FORGEPOOL_TASK_ID=" not in data:
        return None
    variables = dict(line.partition(b"=")[::2] for line in data.split(b"\0"))
    task, result = variables.get(b"FORGEPOOL_TASK_ID", b""), variables.get(b"FORGEPOOL_RESULT_FILE", b"")
    if not task.isdigit() or result != os.fsencode(state_dir / "runs" / task.decode() / "result.json"):
        return None
    return int(task)
