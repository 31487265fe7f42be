"""Finding and killing: which process of a deployment plays which part. Touches processes."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from random import Random

import psutil

from webapp.chaos.deployment import Deployment
from webapp.chaos.plan import Victim

#: In the command line of what `forgepool up` starts itself.
_PARTS = {Victim.WEB_MASTER: "-m gunicorn ", Victim.FLEET: "-m webapp.cli fleet", Victim.BROKER: "/valkey-server "}
_HOLDER = re.compile(r"\(pid (\d+) on ")


def find(deployment: Deployment, victim: Victim, rng: Random, *, near: int | None = None) -> int | None:
    """Return the process that plays a part now; None when nobody does.

    near: a process that is held at a point: of several candidates the one that it belongs to.
    """
    with suppress(psutil.NoSuchProcess):
        return _FINDERS[victim](deployment, near, rng)
    return None


def exists(deployment: Deployment, victim: Victim) -> bool:
    """Tell whether a deployment has such a part at all, once it is whole."""
    if victim is Victim.FORK_HOST:
        return find(deployment, victim, Random(0)) is not None  # noqa: S311 - any will do
    return victim is not Victim.BROKER or deployment.settings.is_embedded_broker


def kill(pid: int) -> bool:
    """Kill with signal 9; tell whether there was anybody."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _part(victim: Victim) -> int | None:
    """Return the child of ours that plays a part, by its command line."""
    word = _PARTS[victim]
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if word in " ".join(child.cmdline()) and is_alive(child.pid):
                return child.pid
    return None


def _children(pid: int | None) -> list[int]:
    if pid is None:
        return []
    return [child.pid for child in psutil.Process(pid).children() if is_alive(child.pid)]


def _pick(found: list[int], near: int | None, rng: Random) -> int | None:
    if near in found:
        return near
    return rng.choice(sorted(found)) if found else None


def _workers(deployment: Deployment) -> list[int]:
    holders = deployment.holders().values()
    pids = [int(told[1]) for told in map(_HOLDER.search, holders) if told]
    return [pid for pid in pids if is_alive(pid)]


def _worker(deployment: Deployment, near: int | None, rng: Random) -> int | None:
    found = _workers(deployment)
    parent = psutil.Process(near).ppid() if near is not None else None
    return _pick(found, parent, rng)


def _fork_host(deployment: Deployment, near: int | None, rng: Random) -> int | None:
    """Return the parent of the workers, unless that is the fleet itself."""
    del near
    workers = _workers(deployment)
    if not workers:
        return None
    parent = psutil.Process(rng.choice(workers)).ppid()
    return None if parent in (_part(Victim.FLEET), os.getpid(), 1) else parent


def _agent(deployment: Deployment, near: int | None, rng: Random) -> int | None:
    del near
    found = [run.pid for run in deployment.runs()[-10:] if not run.ended and is_alive(run.pid)]
    return _pick(found, None, rng)


def _launcher(deployment: Deployment, near: int | None, rng: Random) -> int | None:
    agent = _agent(deployment, near, rng)
    parent = psutil.Process(agent).parent() if agent is not None else None
    is_one = parent is not None and any(part.endswith("launcher.py") for part in parent.cmdline())
    return parent.pid if parent is not None and is_one else None


_FINDERS: dict[Victim, Callable[[Deployment, int | None, Random], int | None]] = {
    Victim.WEB: lambda _, near, rng: _pick(_children(_part(Victim.WEB_MASTER)), near, rng),
    Victim.WEB_MASTER: lambda *_: _part(Victim.WEB_MASTER),
    Victim.WORKER: _worker,
    Victim.WORKER_CHILD: lambda here, near, rng: _pick(_children(_worker(here, near, rng)), near, rng),
    Victim.FLEET: lambda *_: _part(Victim.FLEET),
    Victim.FORK_HOST: _fork_host,
    Victim.BROKER: lambda *_: _part(Victim.BROKER),
    Victim.QUEUES: lambda *_: None,
    Victim.LAUNCHER: _launcher,
    Victim.AGENT: _agent,
}
