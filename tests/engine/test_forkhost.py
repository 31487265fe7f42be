"""The workers of a fleet are forked from one host and share its pages; whichever of them is killed, work goes on."""

import os
import signal
import subprocess
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from pool.model import Task
from pool.states import State
from tests.engine.conftest import Build
from tests.helpers.house import PYTHON, House, processes_with
from tests.helpers.tree import alive, fork_host, kill, workers
from tests.helpers.up import FORGEPOOL
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

NAMES = ("dev-alpha", "dev-bravo", "dev-charlie")


def _fleet(house: House, *names: str, log: str = "fleet.log") -> "subprocess.Popen[bytes]":
    fleet = house.start([*FORGEPOOL, "fleet"], log=log)
    wait_until(lambda: len(workers(fleet)) == len(names) and all(house.serves(name) for name in names), 60)
    return fleet


def _tasks(house: House) -> list[Task]:
    with house.store.reading() as tx:
        return tx.list_tasks()


def _runs_of(house: House, name: str) -> list[tuple[datetime, datetime]]:
    runs = [(t.started_at, t.finished_at) for t in _tasks(house) if t.instance == name]
    return sorted((begun, ended) for begun, ended in runs if begun and ended)


def test_the_workers_are_children_of_one_host_each_in_a_session_and_with_a_log_of_its_own(house: House) -> None:
    house.add(*NAMES)

    fleet = _fleet(house, *NAMES)
    host = fork_host(fleet)
    forked = workers(fleet)
    ended = [house.wait_for(house.dispatch(number, "say:done")) for number in (1, 2, 3)]

    assert host is not None
    assert {worker.ppid() for worker in forked} == {host.pid}
    assert {worker.name() for worker in forked} == set(NAMES)
    assert {os.getsid(worker.pid) for worker in forked} == {worker.pid for worker in forked}
    assert {(task.state, task.instance) for task in ended} == {(State.SUCCEEDED, name) for name in NAMES}
    for name in NAMES:
        assert "worker ready" in house.read(f"state/logs/workers/{name}.log")


def test_the_host_has_no_connection_and_its_workers_hold_nothing_of_it(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    fleet = _fleet(house, "dev-alpha")
    host = fork_host(fleet)
    assert host is not None
    [worker] = workers(fleet)
    # While something runs: an idle worker has no pool process.
    task = house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release")
    wait_until((tmp_path / "up").exists, 20)
    pool = [child.pid for child in worker.children()]

    files = [open_file.path for open_file in host.open_files()]
    named = [connection.raddr for connection in host.net_connections("unix") if connection.raddr]
    theirs = {socket for pid in (worker.pid, *pool) for socket in _sockets(pid)}
    inherited = theirs.intersection(_sockets(host.pid))
    (tmp_path / "release").touch()
    house.wait_for(task)

    assert [path for path in files if path.endswith((".db", ".db-wal", ".db-shm"))] == []
    assert len(pool) == 1
    assert (named, inherited) == ([], set())
    assert host.num_threads() == 1


def _sockets(pid: int) -> list[str]:
    return [target for fd in Path(f"/proc/{pid}/fd").iterdir() if (target := str(fd.readlink())).startswith("socket:")]


def test_sigterm_ends_the_fleet_and_everything_it_started(house: House) -> None:
    house.add(*NAMES)
    fleet = _fleet(house, *NAMES)
    family = psutil.Process(fleet.pid).children(recursive=True)

    fleet.send_signal(signal.SIGTERM)

    assert fleet.wait(timeout=60) == 0, house.read("fleet.log")
    assert alive(family) == []
    assert not any(house.serves(name) for name in NAMES)
    assert "process killed" not in house.read("fleet.log")


def test_a_killed_host_is_replaced_and_no_run_of_it_is_lost_or_doubled(build: Build, tmp_path: Path) -> None:
    house = build(worker_lease_s=5, run_lease_s=5)
    house.add("dev-alpha", "dev-bravo")
    fleet = _fleet(house, "dev-alpha", "dev-bravo")
    marker = f"{tmp_path}/up"
    running = house.dispatch(1, f"touch:{marker}", f"wait-for:{tmp_path}/release", "say:done")
    wait_until(Path(marker).exists, 20)
    busy = str(house.task(running).instance)
    behind = [house.dispatch(number, "say:done") for number in (2, 3, 4)]
    host = fork_host(fleet)
    assert host is not None
    old = workers(fleet)

    host.kill()
    idle = next(name for name in ("dev-alpha", "dev-bravo") if name != busy)
    wait_until(lambda: (new := fork_host(fleet)) is not None and new.pid != host.pid, 30)
    wait_until(lambda: [w.name() for w in workers(fleet)] == [idle], 30)
    while_it_ran = house.task(running).state
    (tmp_path / "release").touch()
    ended = [house.wait_for(task, timeout_s=60).state for task in [running, *behind]]
    wait_until(lambda: {w.name() for w in workers(fleet)} == {busy, idle} and not alive(old), 60)

    # Its worker was asked to end, and let the run end first; nobody else served the instance meanwhile.
    assert while_it_ran is State.RUNNING
    assert ended == [State.SUCCEEDED] * 4
    assert len(_tasks(house)) == 4
    for name in (busy, idle):
        assert all(before[1] <= after[0] for before, after in pairwise(_runs_of(house, name)))


def test_a_new_fleet_waits_for_what_a_killed_one_has_left_and_then_serves_all(build: Build, tmp_path: Path) -> None:
    house = build(worker_lease_s=5, run_lease_s=5)
    house.add("dev-alpha", "dev-bravo")
    first = _fleet(house, "dev-alpha", "dev-bravo")
    marker = f"{tmp_path}/up"
    running = house.dispatch(1, f"touch:{marker}", f"wait-for:{tmp_path}/release", "say:done")
    wait_until(Path(marker).exists, 20)
    busy = str(house.task(running).instance)
    behind = [house.dispatch(number, "say:done") for number in (2, 3)]
    family = psutil.Process(first.pid).children(recursive=True)

    first.kill()
    second = house.start([*FORGEPOOL, "fleet"], log="second.log")
    wait_until(lambda: len(workers(second)) == 1, 60)
    wait_until(lambda: "instance is served already" in house.read("second.log"), 30)
    served_by_the_old = [worker.name() for worker in workers(second)] != [busy]
    (tmp_path / "release").touch()
    ended = [house.wait_for(task, timeout_s=60).state for task in [running, *behind]]
    wait_until(lambda: len(workers(second)) == 2, 60)

    assert served_by_the_old
    assert ended == [State.SUCCEEDED] * 3
    assert len(_tasks(house)) == 3
    wait_until(lambda: not alive(family), 30)
    # It looked again each second, but said it once and did not start a worker in vain.
    assert house.read("second.log").count(f"instance={busy}") == 1
    assert "process ended" not in house.read("second.log")


def test_killing_a_fleet_with_its_host_and_workers_leaves_nothing_and_the_next_one_retries(
    build: Build, tmp_path: Path
) -> None:
    house = build(worker_lease_s=2, run_lease_s=2)
    house.add("dev-alpha")
    first = _fleet(house, "dev-alpha")
    marker = f"{tmp_path}/up"
    lost = house.dispatch(1, f"touch:{marker}", f"wait-for:{tmp_path}/release", "say:done")
    wait_until(Path(marker).exists, 20)

    family = [p for p in psutil.Process(first.pid).children(recursive=True) if "launcher.py" not in str(p.cmdline())]
    first.kill()
    kill(family)
    wait_until(lambda: not processes_with(marker) and not alive(family), 20)
    (tmp_path / "release").touch()
    house.start([*FORGEPOOL, "fleet"], log="second.log")
    house.wait_for(lost, State.INTERRUPTED, timeout_s=60)
    [again] = wait_until(lambda: [task.id for task in _tasks(house) if task.retry_of == lost], 30)

    assert house.wait_for(again, timeout_s=60).state is State.SUCCEEDED


def test_a_worker_of_a_fleet_and_a_plain_one_keep_each_other_out(house: House) -> None:
    house.add("dev-alpha")
    plain = house.start_worker("dev-alpha")

    fleet = house.start([*FORGEPOOL, "fleet"], log="fleet.log")
    wait_until(lambda: "instance is served already" in house.read("fleet.log"), 30)
    assert workers(fleet) == []
    plain.send_signal(signal.SIGTERM)
    wait_until(lambda: len(workers(fleet)) == 1 and house.serves("dev-alpha"), 60)
    late = house.start(
        [PYTHON, *["-m", "celery", "-A", "tasks", "worker", "-Q", "dev-alpha", "-n", "late@%h", "-c", "1"]],
        log="late.log",
    )

    assert plain.wait(timeout=30) == 0
    assert late.wait(timeout=60) == 75
    assert "dev-alpha is already served by worker dev-alpha@" in house.read("late.log")
