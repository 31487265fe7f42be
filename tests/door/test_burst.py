"""A burst of deliveries through the real server: each becomes exactly one task, in the order of the commits."""

import http.client
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from pool.schema import tasks
from tests.door.house import URL, Reply, assigned
from tests.door.server import Server, served, signed
from tests.helpers.stores import POSTGRES, SOAK

pytestmark = pytest.mark.engine

COUNT = 10_000 if SOAK else 500
SENDERS = 8
MIB = 1 << 20
PAUSE_S = 0.2  #: before a delivery that was not taken is sent again, as a person would press the button


class Sender(threading.Thread):
    """Sends its share of the deliveries over one connection, each until it has been taken."""

    def __init__(self, server: Server, numbers: range) -> None:
        super().__init__()
        self.server, self.numbers = server, numbers
        self.taken: dict[int, tuple[int, ...]] = {}  #: issue -> tasks
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        connection = self.server.connect()
        for number in self.numbers:
            sent = assigned("dev", number=number)
            headers = signed(sent)
            while number not in self.taken:
                began = time.monotonic()
                try:
                    connection.request("POST", URL, body=sent.body, headers=headers)
                    answer = connection.getresponse()
                    text = answer.read().decode()
                except (http.client.RemoteDisconnected, ConnectionResetError):
                    connection.close()  # it was kept open for longer than the server keeps it
                    self.statuses[0] += 1
                    continue
                self.seconds.append(time.monotonic() - began)
                self.statuses[answer.status] += 1
                if answer.status == 503:
                    time.sleep(PAUSE_S)
                    continue
                self.taken[number] = Reply.read(answer.status, text).tasks
        connection.close()


def _memory() -> float:
    """Return the MiB of all processes of the web app."""
    family = psutil.Process(os.getpid()).children(recursive=True)
    web = [one for one in family if "webapp.app:create_app()" in one.cmdline()]
    assert len(web) > 1
    return float(sum(one.memory_full_info().uss for one in web) / MIB)


def test_of_a_burst_each_delivery_becomes_one_task_in_the_order_of_the_commits(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        share = COUNT // SENDERS
        senders = [Sender(server, range(1 + i * share, 1 + (i + 1) * share)) for i in range(SENDERS)]
        before, began = _memory(), time.monotonic()
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        took, grown = time.monotonic() - began, _memory() - before
        taken = {number: ids for sender in senders for number, ids in sender.taken.items()}
        statuses = sum((sender.statuses for sender in senders), Counter[int]())
        seconds = sorted(second for sender in senders for second in sender.seconds)
        queues = {name: _run_empty(server, name) for name in ("dev-alpha", "dev-bravo")}
        with server.house.store.reading() as tx:
            stored = tx.connection.execute(select(tasks.c.id, tasks.c.number)).all()
        files = {path.name: path.stat().st_size / MIB for path in tmp_path.glob("state/forgepool.db*")}

    total = share * SENDERS
    p99 = seconds[int(len(seconds) * 0.99)]
    sys.stdout.write(  # shown by `pytest -rP`
        f"{total} deliveries, {total / took:.0f}/s, p50 {seconds[len(seconds) // 2] * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms, most {seconds[-1] * 1000:.0f} ms, {dict(statuses)}, "
        f"web app grew {grown:.1f} MiB, {files}\n"
    )
    assert set(statuses) <= {202, 503}, statuses
    assert statuses[202] == total
    assert sorted(number for _, number in stored) == list(range(1, total + 1))
    assert {number: (task,) for task, number in stored} == taken
    assert abs(len(queues["dev-alpha"]) - len(queues["dev-bravo"])) <= 1
    for sender in senders:
        # What was answered before something else was sent had been committed before it.
        sent = [task for ids in sender.taken.values() for task in ids]
        assert sent == sorted(sent)
    for queue in queues.values():
        assert queue == sorted(queue)
    assert grown < 64
    if not POSTGRES:
        assert files["forgepool.db"] < 1 + 0.03 * total
        assert files.get("forgepool.db-wal", 0) < 32


def _run_empty(server: Server, name: str) -> list[int]:
    """Return the tasks of an instance in the order in which its worker would get them."""
    order: list[int] = []
    with server.house.store.writing() as tx:
        while (head := tx.head_of_queue(name)) is not None:
            order.append(head)
            tx.cancel(head, by="test")
    return order
