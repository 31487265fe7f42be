"""How long a choice takes, and a whole dispatch, as pools and histories grow.

Run by `make bench`, or: python -m tests.bench.bench_selection --finished 10000

Each number stands beside two floors of the same run: the smallest database, and a transaction that changes one row
by its key and does nothing else. CPU time is told too: it does not depend on what else the machine does.
"""

import argparse
import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import bindparam, update

from pool import migrate
from pool.model import Kind, Request
from pool.schema import tasks
from pool.store import Store
from tests.bench.fill import fill_history, fill_pool

POOLS = (10, 1_000, 100_000)
FINISHED = 1_000_000
REPEATS = 400

ONE_UPDATE = update(tasks).where(tasks.c.id == bindparam("task"))


@dataclass(frozen=True, slots=True)
class Case:
    """One database, and what is asked of it."""

    instances: int
    finished: int
    own_labels: bool = False  #: every instance has a label that no other has
    labels: tuple[str, ...] = ()  #: of the requests

    @property
    def name(self) -> str:
        words = f"{self.instances:,} instances, {self.finished:,} finished"
        words += ", each with a label of its own" if self.own_labels else ""
        return words + (", request with a label" if self.labels else "")


@dataclass(frozen=True, slots=True)
class Times:
    """What was measured, in milliseconds."""

    median: float
    p99: float
    cpu: float  #: mean time on a processor, of ours and of the system on our behalf


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table."""

    case: Case
    fill_s: float  #: seconds that filling took
    floor: Times  #: begin, one update by primary key, commit
    select: Times  #: select_instance alone, inside a transaction that is open already
    submit: Times  #: begin, submit, commit


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--finished", type=int, default=FINISHED, help="finished tasks in the larger databases")
    parser.add_argument(
        "--instances", type=int, nargs="+", default=POOLS, help="sizes of the pool; the first is the floor"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS, help="measurements of each kind")
    options = parser.parse_args(arguments)
    console = Console(width=170)
    results = []
    for case in cases(options.instances, options.finished):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), case, options.repeats))
        last = results[-1]
        console.print(
            f"{case.name}: filled in {last.fill_s:.1f} s, submit {last.submit.median:.2f} ms", highlight=False
        )
    console.print(table(results))
    return 0


def cases(pools: Sequence[int], finished: int) -> list[Case]:
    """Return the floor first: the smallest pool, and no history."""
    plain = [Case(count, history) for history, count in itertools.product((0, finished), pools)]
    largest = pools[-1]
    return [*plain, Case(largest, 0, labels=(f"label-{largest - 1}",)), Case(largest, 0, own_labels=True)]


def measure(folder: Path, case: Case, repeats: int) -> Result:
    """Build the database of a case and time what is asked of it."""
    store = Store.open(f"sqlite:///{folder}/bench.db")
    began = time.perf_counter()
    migrate.upgrade(store.engine)
    with store.writing() as tx:
        fill_pool(tx.connection, "dev", case.instances, label_sets=case.instances if case.own_labels else 1)
        fill_history(tx.connection, "dev", case.finished, instances=case.instances)
    store.engine.dispose()
    fill_s = time.perf_counter() - began

    numbers = itertools.count(1_000_000)
    floor_task = _submit(store, case, next(numbers))

    def floor() -> None:
        with store.writing() as tx:
            # Another value each time: SQLite does not write what has not changed.
            tx.connection.execute(ONE_UPDATE, {"task": floor_task, "agent_pid": next(numbers)})

    def submit() -> None:
        _submit(store, case, next(numbers))

    try:
        # In turns, so that whatever else the machine does slows both.
        one_update, whole = timed(repeats, floor, submit)
        return Result(case, fill_s, one_update, _select(store, case, repeats), whole)
    finally:
        store.close()


def timed(repeats: int, *acts: Callable[[], object]) -> list[Times]:
    """Time acts many times, in turns, after a few that warm them up."""
    for act in acts * min(10, repeats):
        act()
    spent: list[list[tuple[float, float]]] = [[] for _ in acts]
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for act, found in zip(acts, spent, strict=True):
                began, began_cpu = time.perf_counter(), time.process_time()
                act()
                found.append((time.perf_counter() - began, time.process_time() - began_cpu))
    finally:
        gc.enable()
    return [_times(found) for found in spent]


def _times(spent: list[tuple[float, float]]) -> Times:
    walls = sorted(wall * 1000 for wall, _ in spent)
    cpu = sum(cpu for _, cpu in spent) * 1000 / len(spent)
    return Times(walls[len(walls) // 2], walls[min(len(walls) - 1, len(walls) * 99 // 100)], cpu)


def _select(store: Store, case: Case, repeats: int) -> Times:
    with store.writing() as tx:
        (times,) = timed(
            repeats,
            lambda: tx.select_instance("dev", labels=case.labels, default_labels=(), session_key="dev:acme/shop:1"),
        )
        return times


def _submit(store: Store, case: Case, number: int) -> int:
    request = Request(kind=Kind.IMPLEMENT, repo="acme/shop", number=number, labels=case.labels, body="x" * 300)
    with store.writing() as tx:
        return tx.submit("dev", request, by="bench").task


def table(results: Sequence[Result]) -> Table:
    """Lay out the results; the ratios compare medians with the first line."""
    first = results[0]
    shown = Table(title="milliseconds: median / p99 / CPU; ratios of CPU time")
    shown.add_column("database")
    for name in ("one update", "select_instance", "x first", "submit", "x first", "x one update"):
        shown.add_column(name, justify="right")
    for r in results:
        shown.add_row(
            r.case.name,
            _words(r.floor),
            _words(r.select),
            f"{r.select.cpu / first.select.cpu:.2f}",
            _words(r.submit),
            f"{r.submit.cpu / first.submit.cpu:.2f}",
            f"{r.submit.cpu / r.floor.cpu:.2f}",
        )
    return shown


def _words(times: Times) -> str:
    return f"{times.median:.2f} / {times.p99:.2f} / {times.cpu:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
