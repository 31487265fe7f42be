"""How long the forge waits for the answer to a delivery: the real server, broker and database.

Run by: python -m tests.bench.bench_door --count 500

Each number stands beside two floors of the same run: a GET that only reads, and an unsigned POST that only writes its
receipt. The forge gives up after five seconds.
"""

import argparse
import http.client
import itertools
import queue
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.door.house import URL, assigned
from tests.door.server import Server, served, signed

THREADS = 8
COUNT = 300

#: Method, path, body and headers.
Request = tuple[str, str, bytes, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One case: the answer times of its requests."""

    name: str
    threads: int
    times_ms: list[float]  #: sorted
    wall_s: float
    statuses: Counter[int]

    def at(self, share: float) -> float:
        """Return the time that this share of the requests stayed below."""
        return self.times_ms[min(len(self.times_ms) - 1, int(len(self.times_ms) * share))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table; 1 when an accepted delivery has no task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="requests of each case")
    parser.add_argument("--folder", type=Path, help="where the database is; default: a temporary folder")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, served(chosen.folder or Path(folder)) as server:
        measured = list(_cases(server, chosen.count))
        show(measured)
        return _verdict(server, measured)


def _cases(server: Server, count: int) -> Iterator[Measured]:
    numbers = itertools.count(1)

    def delivery() -> Request:
        sent = assigned("dev", number=next(numbers))
        return "POST", URL, sent.body, signed(sent)

    def unsigned() -> Request:
        sent = assigned("dev", number=next(numbers))
        return "POST", URL, sent.body, sent.headers

    yield measure(server, "signed, warm-up", delivery, count=20, threads=THREADS)
    for threads in (1, THREADS):
        yield measure(server, "GET /healthz", lambda: ("GET", "/healthz", b"", {}), count=count, threads=threads)
        yield measure(server, "unsigned", unsigned, count=count, threads=threads)
        yield measure(server, "signed", delivery, count=count, threads=threads)
    server.house.kill_broker()
    for threads in (1, THREADS):
        yield measure(server, "signed, broker killed", delivery, count=count, threads=threads)


def measure(server: Server, name: str, make: Callable[[], Request], *, count: int, threads: int) -> Measured:
    """Send `count` requests, `threads` at a time, each on a connection that stays open."""
    requests = [make() for _ in range(count)]
    free: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()

    def send(request: Request) -> tuple[float, int]:
        method, path, body, headers = request
        connection = free.get()
        began = time.perf_counter()
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        response.read()
        took_ms = (time.perf_counter() - began) * 1000
        free.put(connection)
        return took_ms, response.status

    with ExitStack() as stack:
        for _ in range(threads):
            free.put(stack.enter_context(closing(server.connect())))
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(send, requests))
        wall_s = time.perf_counter() - began
    return Measured(
        name=name,
        threads=threads,
        times_ms=sorted(ms for ms, _ in answers),
        wall_s=wall_s,
        statuses=Counter(status for _, status in answers),
    )


def show(measured: list[Measured]) -> None:
    """Print a table."""
    table = Table("case", "threads", "p50 ms", "p99 ms", "max ms", "x GET", "x unsigned", "per second", "status")
    for one in measured:
        floors = {floor.name: floor.at(0.5) for floor in measured if floor.threads == one.threads}
        table.add_row(
            one.name,
            str(one.threads),
            *(f"{value:.1f}" for value in (one.at(0.5), one.at(0.99), one.times_ms[-1])),
            *(f"{one.at(0.5) / floors[floor]:.1f}" for floor in ("GET /healthz", "unsigned")),
            f"{len(one.times_ms) / one.wall_s:.0f}",
            ", ".join(f"{times} x {status}" for status, times in sorted(one.statuses.items())),
        )
    Console(width=120).print(table)


def _verdict(server: Server, measured: list[Measured]) -> int:
    accepted = sum(one.statuses[202] for one in measured)
    with server.house.store.reading() as tx:
        tasks = len(tx.list_tasks(limit=accepted + 1))
    if tasks != accepted:
        Console().print(f"{accepted} deliveries were accepted and there are {tasks} tasks")
        return 1
    Console().print(f"every accepted delivery has its task: {tasks}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
