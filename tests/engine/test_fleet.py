"""The fleet follows the table of instances, and `up` runs and drains the whole engine."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from pool.states import InstanceState, State
from tasks import dispatch
from tests.engine.conftest import Build
from tests.helpers.house import House
from tests.helpers.tree import kill, workers
from tests.helpers.up import FORGEPOOL, Up
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine


def _remove(house: House, name: str) -> None:
    dispatch.set_state(house.engine, name, InstanceState.REMOVED)


def _is_gone(house: House, name: str) -> bool:
    with house.store.reading() as tx:
        return tx.find_instance(name) is None


def test_instances_come_and_go_while_the_fleet_runs(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    fleet = house.start([*FORGEPOOL, "fleet"], log="fleet.log")
    wait_until(lambda: house.serves("dev-alpha"), 30)

    house.add("dev-bravo")
    wait_until(lambda: house.serves("dev-bravo"), 30)
    running = house.dispatch(1, "say:begun", f"wait-for:{tmp_path}/release")
    house.wait_for(running, State.RUNNING)
    _remove(house, "dev-alpha")
    moved = house.dispatch(2, "say:done")
    (tmp_path / "release").touch()

    # What runs on a removed instance ends there; nothing new comes to it; then row and worker go.
    assert house.wait_for(running).state is State.SUCCEEDED
    assert house.wait_for(moved).instance == "dev-bravo"
    wait_until(lambda: _is_gone(house, "dev-alpha"))
    wait_until(lambda: len(workers(fleet)) == 1, 30)
    # Retired by the fleet, not ended by itself because its row was gone, and then started again in vain.
    assert "worker retires" in house.read("fleet.log")
    assert "process ended" not in house.read("fleet.log")


def test_a_paused_instance_keeps_its_queue_and_a_resumed_one_goes_on(house: House) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    dispatch.set_state(house.engine, "dev-alpha", InstanceState.PAUSED)

    waiting = [house.dispatch(number, "say:done") for number in (1, 2)]
    wait_until(lambda: "is paused" in house.read("worker-dev-alpha.log"), 20)
    before = [house.task(task).state for task in waiting]
    dispatch.set_state(house.engine, "dev-alpha", InstanceState.ACTIVE)

    assert before == [State.QUEUED, State.QUEUED]
    assert [house.wait_for(task).state for task in waiting] == [State.SUCCEEDED, State.SUCCEEDED]


def test_a_crashed_worker_is_started_again(build: Build) -> None:
    house = build(worker_lease_s=2)
    house.add("dev-alpha")
    fleet = house.start([*FORGEPOOL, "fleet"], log="fleet.log")
    wait_until(lambda: house.serves("dev-alpha"), 30)

    [worker] = workers(fleet)
    kill([*worker.children(recursive=True), worker])

    assert house.wait_for(house.dispatch(1, "say:done"), timeout_s=40).state is State.SUCCEEDED


def test_a_signed_delivery_becomes_an_agent_run_and_ctrl_c_drains(up: Up, tmp_path: Path) -> None:
    answer = up.post("issue-assigned.json")
    [task] = answer.json()["tasks"]
    wait_until((tmp_path / "up").exists, 60)
    family = up.family()

    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Draining" in up.house.read("up.log"))
    (tmp_path / "release").touch()

    assert answer.status_code == 202
    assert up.process.wait(timeout=60) == 0, up.house.read("up.log")
    assert up.house.task(task).state is State.SUCCEEDED
    assert [process for process in family if process.is_running()] == []


def test_an_operator_cancels_over_http_with_the_token_in_the_state_folder(up: Up, tmp_path: Path) -> None:
    """The token's file was made by the first request that needed it, so the first one could not have it."""
    [task] = up.post("issue-assigned.json").json()["tasks"]
    wait_until((tmp_path / "up").exists, 60)
    token = (up.house.settings.state_dir / "secrets" / "operator-token").read_text(encoding="ascii").strip()

    url = up.url("Webhooks").replace("/webhooks/forgejo", "/cancel")
    answer = httpx.post(url, json={}, headers={"Authorization": f"Bearer {token}"}, timeout=5)

    assert (answer.status_code, answer.json()["task_id"]) == (202, task)
    assert up.house.wait_for(task).state is State.CANCELLED


def test_a_second_ctrl_c_stops_the_agents_and_marks_them_interrupted(up: Up, tmp_path: Path) -> None:
    [task] = up.post("issue-assigned.json").json()["tasks"]
    wait_until((tmp_path / "up").exists, 60)
    family = up.family()

    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Draining" in up.house.read("up.log"))
    up.process.send_signal(signal.SIGINT)

    assert up.process.wait(timeout=60) == 0, up.house.read("up.log")
    assert up.house.task(task).state is State.INTERRUPTED
    assert [process for process in family if process.is_running()] == []


def test_killing_up_with_9_leaves_no_process_behind(up: Up, tmp_path: Path) -> None:
    up.post("issue-assigned.json")
    wait_until((tmp_path / "up").exists, 60)
    family = up.family()

    up.process.kill()
    up.process.wait()
    (tmp_path / "release").touch()

    wait_until(lambda: not [process for process in family if process.is_running()], 60)


def test_a_second_up_on_the_same_state_folder_is_refused(up: Up) -> None:
    second = subprocess.run(
        [*FORGEPOOL, "up"], env=dict(up.house.environ()), capture_output=True, text=True, timeout=60, check=False
    )

    assert second.returncode != 0
    assert f"another `forgepool up` (pid {up.process.pid}) uses this state folder" in second.stderr
