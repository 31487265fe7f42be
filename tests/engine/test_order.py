"""Strict order on one instance, on a real broker, whatever happens to the messages."""

import random
from pathlib import Path

import pytest
from celery import Celery

from pool.states import State
from tasks import reconcile
from tasks.doorbell import CeleryBell
from tests.engine.conftest import Build
from tests.helpers.house import PYTHON, TRACE, House
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

PUBLISHERS = 4
EACH = 50

#: One of several processes that dispatch at the same time: argv is the first number, how many, and a seed.
PUBLISH = """
import sys
from celery import Celery
from pool.model import Kind, Request
from tasks.dispatch import dispatch_by_type
from tasks.engine import Engine
from tasks.settings import Settings
from tests.engine.test_order import bell

first, count, mischief = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = Settings.load()
engine = Engine.open(settings, bell(mischief))
for number in range(first, first + count):
    dispatch_by_type(engine, "dev", Request(kind=Kind.CUSTOM, repo="acme/widgets", number=number), by="test")
"""


class MischievousBell(CeleryBell):
    """A broker that loses, repeats and reorders messages: it says that it took every one."""

    def __init__(self, app: object, seed: str) -> None:
        super().__init__(app)
        self._random = random.Random(seed)  # noqa: S311 - chance for a test
        self._held: list[tuple[str, int]] = []

    def ring(self, instance: str, task: int) -> None:
        """Lose three of ten, repeat three of ten, hold the rest back for a while and let them out shuffled."""
        fate = self._random.random()
        if fate < 0.3:
            return
        self._held += [(instance, task)] * (2 if fate < 0.6 else 1)
        if len(self._held) > 8:
            self._random.shuffle(self._held)
            while self._held:
                super().ring(*self._held.pop())


def bell(mischief: str) -> CeleryBell:
    """Return an honest bell, or a mischievous one with a seed. Called in the publishing processes."""
    app = Celery("publisher")
    app.config_from_object("celeryconfig")
    return MischievousBell(app, mischief) if mischief else CeleryBell(app)


def _publish(house: House, mischief: str) -> None:
    publishers = [
        house.start(
            [PYTHON, "-c", PUBLISH, str(1 + i * EACH), str(EACH), mischief and f"{mischief}{i}"],
            log=f"publisher-{i}.log",
            PYTHONPATH=str(Path(__file__).parents[2]),
        )
        for i in range(PUBLISHERS)
    ]
    for i, publisher in enumerate(publishers):
        assert publisher.wait(timeout=120) == 0, house.read(f"publisher-{i}.log")


def _tracing_command(folder: Path) -> list[str]:
    """Return an agent that writes down its begin and its end, so that order and overlap can be seen afterwards."""
    script = folder / "trace.py"
    script.write_text(TRACE, encoding="utf-8")
    trace = f"{PYTHON} -S {script} {folder}/trace"
    return ["/bin/sh", "-c", f"{trace} begin; echo work; {trace} end"]


def _assert_in_order_and_never_two(house: House, expected: list[int]) -> None:
    events = [line.split() for line in house.lines("trace")]
    assert [int(task) for word, _, task in events if word == "begin"] == expected
    for begin, end in zip(events[::2], events[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1:] == end[1:]


@pytest.mark.parametrize("mischief", ["", "seed"], ids=["honest-broker", "lost-repeated-and-shuffled-messages"])
def test_two_hundred_tasks_from_four_processes_run_in_the_order_of_their_commit(
    build: Build, tmp_path: Path, mischief: str
) -> None:
    house = build(command=_tracing_command(tmp_path))
    house.add("dev-alpha")
    house.start_worker("dev-alpha")

    _publish(house, mischief)
    total = PUBLISHERS * EACH

    def all_ended() -> bool:
        # What the fleet does beside the workers: here by hand, so that the test needs no other process.
        reconcile.run_once(house.engine)
        with house.store.reading() as tx:
            return len(tx.list_tasks(states=[State.SUCCEEDED], limit=total)) == total

    wait_until(all_ended, 300)
    _assert_in_order_and_never_two(house, list(range(1, total + 1)))


class DeafBell(CeleryBell):
    """A broker that says yes and keeps nothing."""

    def ring(self, instance: str, task: int) -> None:
        """Lose it."""


def test_a_message_is_answered_with_the_head_of_the_queue_and_the_run_rings_for_the_next(
    build: Build, tmp_path: Path
) -> None:
    house = build(command=_tracing_command(tmp_path))
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    lost = [house.dispatch(number, bell=DeafBell(house.app)) for number in (1, 2)]
    heard = house.dispatch(3)

    # No reconciler runs here: one message for three tasks.
    for task in (*lost, heard):
        house.wait_for(task)

    _assert_in_order_and_never_two(house, [*lost, heard])


def test_without_any_message_a_task_waits_until_the_reconciler_rings(build: Build, tmp_path: Path) -> None:
    house = build(command=_tracing_command(tmp_path))
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    lost = house.dispatch(1, bell=DeafBell(house.app))

    with house.store.reading() as tx:
        silent = tx.silent_queues(rung_before_s=0)
    repaired = wait_until(lambda: reconcile.run_once(house.engine)["ring-again"], 10)

    assert silent == [(lost, "dev-alpha")]
    assert repaired == 1
    assert house.wait_for(lost).state is State.SUCCEEDED
