"""What the workers of many instances cost: memory, time to start, and idle CPU.

Run by: python -m tests.bench.bench_fleet --workers 50

The floor is as many plain `celery worker -c 1` processes of the same app in the same run. Memory is the proportional
set size: a page that n processes share counts 1/n for each. Each case has a broker and a database of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pool.store import utc_now
from tests.helpers.house import PYTHON, House
from tests.helpers.waiting import wait_until

WORKERS = 50
IDLE_S = 20.0
#: From the last worker's start to the measurement: what a worker does once is over.
SETTLE_S = 5.0
READY_S = 600.0
PAGES = Path("/proc")

Processes = list["subprocess.Popen[bytes]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One way to start the workers."""

    name: str
    processes: int
    pss_mb: float
    ready_s: float  #: from the start of the first process until every worker consumes
    idle_cpu: float  #: share of one core, all processes together


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=WORKERS, help="instances, each with one worker")
    parser.add_argument("--idle-s", type=float, default=IDLE_S, help="how long the CPU of idle workers is watched")
    chosen = parser.parse_args(arguments)
    measured = [_measure(name, start, workers=chosen.workers, idle_s=chosen.idle_s) for name, start in WAYS.items()]
    show(measured, workers=chosen.workers)
    return 0


def _plain(house: House, names: list[str]) -> Processes:
    return [_worker(house, name) for name in names]


def _quiet(house: House, names: list[str]) -> Processes:
    return [_worker(house, name, "--without-gossip", "--without-mingle") for name in names]


def _fleet(house: House, names: list[str]) -> Processes:
    del names
    return [house.start([PYTHON, "-m", "webapp.cli", "fleet"], log="fleet.log")]


def _worker(house: House, name: str, *options: str) -> "subprocess.Popen[bytes]":
    argv = [PYTHON, "-m", "celery", "-A", "tasks", "worker", "-Q", name, "-n", f"{name}@%h", "-c", "1", *options]
    return house.start(argv, log=f"worker-{name}.log")


#: The first is the floor.
WAYS: dict[str, Callable[[House, list[str]], Processes]] = {
    "celery worker": _plain,
    "celery worker, without gossip and mingle": _quiet,
    "forgepool fleet": _fleet,
}


def _measure(name: str, start: Callable[[House, list[str]], Processes], *, workers: int, idle_s: float) -> Measured:
    names = [f"dev-{number:03}" for number in range(workers)]
    with tempfile.TemporaryDirectory() as folder, House(Path(folder), worker_lease_s=120) as house:
        house.add(*names)
        began = time.monotonic()
        started = start(house, names)
        wait_until(lambda: all(_is_ready(house, name) for name in names) and _all_serve(house), READY_S)
        ready_s = time.monotonic() - began
        time.sleep(SETTLE_S)
        family = _family(started)
        before = _cpu_s(family)
        time.sleep(idle_s)
        idle_cpu = (_cpu_s(family) - before) / idle_s
        pss_mb = sum(_pss_mb(process.pid) for process in family)
    return Measured(name=name, processes=len(family), pss_mb=pss_mb, ready_s=ready_s, idle_cpu=idle_cpu)


def _is_ready(house: House, name: str) -> bool:
    logs = (house.folder / f"worker-{name}.log", house.settings.state_dir / "logs" / "workers" / f"{name}.log")
    return any(log.exists() and "worker ready" in log.read_text(errors="replace") for log in logs)


def _all_serve(house: House) -> bool:
    now = utc_now()
    with house.store.reading() as tx:
        return all(row.worker_until is not None and row.worker_until > now for row in tx.list_instances())


def _family(started: Processes) -> list[psutil.Process]:
    parents = [psutil.Process(process.pid) for process in started]
    return parents + [child for parent in parents for child in parent.children(recursive=True)]


def _cpu_s(family: list[psutil.Process]) -> float:
    used = 0.0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _pss_mb(pid: int) -> float:
    for line in (PAGES / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no proportional set size")


def show(measured: list[Measured], *, workers: int) -> None:
    """Print a table."""
    floor = measured[0]
    table = Table(f"{workers} workers", "processes", "PSS MB", "x floor", "ready s", "x floor", "idle CPU %", "x floor")
    for one in measured:
        table.add_row(
            one.name,
            str(one.processes),
            f"{one.pss_mb:.0f}",
            f"{one.pss_mb / floor.pss_mb:.2f}",
            f"{one.ready_s:.1f}",
            f"{one.ready_s / floor.ready_s:.2f}",
            f"{one.idle_cpu * 100:.1f}",
            f"{one.idle_cpu / floor.idle_cpu:.2f}" if floor.idle_cpu else "-",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
