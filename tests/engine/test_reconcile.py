"""The reconciler beside real workers: orphans of killed workers, a clock that jumps, a leader that is killed."""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from pool.model import Task
from pool.states import State
from pool.store import Store, utc_now
from tasks import orphans
from tasks.engine import Engine
from tasks.reconcile import LEADER, Reconciler
from tests.engine.conftest import Build
from tests.helpers.fakes import FakeBell
from tests.helpers.house import House
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

LEASE_S = 2.0

#: Starts a process that leaves its session, then does as it is told.
ESCAPING = "setsid sleep 600 & touch {up}; while [ ! -e {release} ]; do sleep 0.05; done; echo done"

#: Loaded by every Python of the deployment: once a file is there, the store's clock is off by what it says.
SHIFTED = """
import pathlib
from datetime import UTC, datetime, timedelta
from pool.store import Store

def shifted():
    try:
        seconds = float(pathlib.Path({path!r}).read_text() or 0)
    except FileNotFoundError:
        seconds = 0.0
    return datetime.now(UTC) + timedelta(seconds=seconds)

Store.open.__func__.__kwdefaults__["clock"] = shifted
"""

LOOP = """
import time
from tasks.doorbell import CeleryBell
from tasks.celery import app
from tasks.engine import Engine
from tasks.reconcile import Reconciler
from tasks.settings import Settings

reconciler = Reconciler(Engine.open(Settings.load(), CeleryBell(app)))
while True:
    reconciler.run_once()
    time.sleep(0.05)
"""


def _kill_worker(worker: psutil.Process, *, launcher_too: bool) -> None:
    """Kill -9 the worker, its child, and the launcher of its agent before it can clean up."""
    family = [worker, *worker.children(recursive=True)]
    launchers = [one for one in family if "launcher.py" in " ".join(one.cmdline())]
    pool = [one for one in family if "celery" in " ".join(one.cmdline())]
    for process in [*(launchers if launcher_too else []), *pool]:
        process.kill()


def _retry_of(house: House, task: int) -> Task | None:
    with house.store.reading() as tx:
        again = tx.retried_as(task)
        return tx.task(again) if again else None


def test_what_a_killed_worker_and_a_killed_launcher_left_running_is_ended_before_the_task_runs_again(
    build: Build, tmp_path: Path
) -> None:
    script = ESCAPING.format(up=tmp_path / "up", release=tmp_path / "release")
    house = build(worker_lease_s=LEASE_S, run_lease_s=LEASE_S, command=["/bin/sh", "-c", script])
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1)
    wait_until((tmp_path / "up").exists, 30)

    _kill_worker(psutil.Process(worker.pid), launcher_too=True)
    left = wait_until(lambda: orphans.marked(house.settings.state_dir).get(task), 10)
    with Reconciler(house.engine) as reconciler:
        wait_until(lambda: reconciler.run_once()["interrupt-dead-runs"], 10 * LEASE_S)
    again = _retry_of(house, task)
    beside = orphans.marked(house.settings.state_dir).get(task, [])

    assert left
    assert beside == []
    assert again is not None
    assert (house.task(task).state, again.state, again.interruptions) == (State.INTERRUPTED, State.QUEUED, 1)
    with house.store.reading() as tx:
        assert tx.agent_of(task) is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_in_the_middle_neither_ends_a_live_run_nor_hides_a_dead_one(
    build: Build, tmp_path: Path, hours: int
) -> None:
    house = build(worker_lease_s=LEASE_S, run_lease_s=LEASE_S)
    house.add("dev-alpha")
    shift = tmp_path / "shift"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SHIFTED.format(path=str(shift)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{Path.cwd()}")
        worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "say:done")
    wait_until((tmp_path / "up").exists, 30)
    here = Store(
        house.store.engine,
        clock=lambda: utc_now() + timedelta(seconds=float(shift.read_text() if shift.exists() else 0)),
    )
    reconciler = Reconciler(Engine(house.settings, here, house.engine.bell))

    def lives_on(leases: float) -> None:
        end = time.monotonic() + leases * LEASE_S
        while time.monotonic() < end:
            reconciler.run_once()
            assert house.task(task).state is State.RUNNING
            time.sleep(0.05)

    lives_on(2)
    before = house.task(task).lease_until
    shift.write_text(str(hours * 3600))
    lives_on(3)
    after = house.task(task).lease_until
    _kill_worker(psutil.Process(worker.pid), launcher_too=False)
    begun = time.monotonic()
    wait_until(lambda: reconciler.run_once()["interrupt-dead-runs"], 30)
    took_s = time.monotonic() - begun

    assert before is not None
    assert after is not None
    assert abs((after - before).total_seconds()) > 3000
    assert house.task(task).state is State.INTERRUPTED
    assert took_s < 3 * LEASE_S
    reconciler.close()


def test_a_clock_that_jumps_between_the_death_of_a_run_and_the_end_of_its_lease_hides_nothing(
    build: Build, tmp_path: Path
) -> None:
    house = build(worker_lease_s=LEASE_S, run_lease_s=LEASE_S)
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", "hang")
    wait_until((tmp_path / "up").exists, 30)
    shift = [0.0]
    here = Store(house.store.engine, clock=lambda: utc_now() + timedelta(seconds=shift[0]))
    reconciler = Reconciler(Engine(house.settings, here, house.engine.bell))
    reconciler.run_once()

    _kill_worker(psutil.Process(worker.pid), launcher_too=False)
    shift[0] = -3600.0
    wait_until(lambda: reconciler.run_once()["interrupt-dead-runs"], 10 * LEASE_S)

    assert house.task(task).state is State.INTERRUPTED
    reconciler.close()


def test_a_leader_that_is_killed_is_followed_by_another_that_goes_on_with_its_work(build: Build) -> None:
    house = build(worker_lease_s=LEASE_S)
    house.add("dev-alpha")
    silent = FakeBell()
    silent.break_down()
    processes = {
        name: house.start([sys.executable, "-c", LOOP], log=f"{name}.log", FORGEPOOL_HOST=name)
        for name in ("one", "two")
    }

    def leader() -> str | None:
        with house.store.reading() as tx:
            held = [one.holder for one in tx.list_leases() if one.name == LEADER]
        return held[0].split(" ")[0] if held else None

    def is_rung(task: int) -> bool:
        return house.task(task).published_at is not None

    first = wait_until(leader, 30)
    assert first is not None
    begun = house.dispatch(1, bell=silent)
    wait_until(lambda: is_rung(begun), 30)
    killed = time.monotonic()
    os.kill(processes[first].pid, signal.SIGKILL)
    wait_until(lambda: leader() not in (None, first), 30)
    took_s = time.monotonic() - killed
    second = house.dispatch(2, bell=silent)
    wait_until(lambda: is_rung(second), 30)

    assert leader() == ({"one", "two"} - {first}).pop()
    assert took_s < 2 * LEASE_S + 2
