"""One worker per queue, and what happens when it dies."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from pool.states import State
from tasks import orphans, reconcile
from tests.engine.conftest import Build
from tests.helpers.house import PYTHON, House, processes_with
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

CELERY = f"{PYTHON} -m celery -A tasks worker"


def agents(house: House) -> dict[int, list[psutil.Process]]:
    """Return the processes of this deployment's agents by task; other tests run theirs at the same time."""
    return orphans.marked(house.settings.state_dir)


def _refusal(house: House, arguments: str) -> tuple[int, str]:
    worker = house.start([*CELERY.split(), *arguments.split()], log="refused.log")
    return worker.wait(timeout=30), house.read("refused.log")


def test_a_second_worker_of_a_queue_is_refused_and_told_who_holds_it(house: House) -> None:
    house.add("dev-alpha")
    first = house.start_worker("dev-alpha")

    status, words = _refusal(house, "-Q dev-alpha -n second@%h -c 1")

    assert status == 75
    assert "dev-alpha is already served by worker dev-alpha@" in words
    assert f"(pid {first.pid} on" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-Q dev-alpha -n a@%h -c 2", "an instance runs one task at a time; got a concurrency of 2. Use -c 1"),
        ("-Q dev-alpha,dev-bravo -n a@%h -c 1", "a worker serves one instance, so one queue; got dev-alpha, dev-bravo"),
        ("-Q dev-alpha -n a@%h -c 1 -P solo", "only the prefork pool answers while a task runs"),
        ("-Q dev-zulu -n a@%h -c 1", "there is no instance 'dev-zulu'"),
    ],
    ids=["concurrency", "queues", "pool", "unknown"],
)
def test_a_worker_that_could_break_the_order_refuses_to_start(house: House, arguments: str, sentence: str) -> None:
    house.add("dev-alpha", "dev-bravo")

    status, words = _refusal(house, arguments)

    assert status != 0
    assert sentence in words


def test_a_worker_that_ends_lets_the_next_one_start_at_once(house: House) -> None:
    house.add("dev-alpha")
    first = house.start_worker("dev-alpha")

    first.send_signal(signal.SIGTERM)

    assert first.wait(timeout=30) == 0
    assert not house.serves("dev-alpha")
    assert house.wait_for(_dispatched_with_a_new_worker(house)).state is State.SUCCEEDED


def _dispatched_with_a_new_worker(house: House) -> int:
    house.start_worker("dev-alpha")
    return house.dispatch(1, "say:done")


def test_a_killed_worker_takes_its_agent_along_and_the_task_runs_again_in_its_old_place(
    build: Build, tmp_path: Path
) -> None:
    house = build(worker_lease_s=2, run_lease_s=2)
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    marker = f"{tmp_path}/only-the-first-time"
    lost = house.dispatch(1, f"touch:{marker}", f"wait-for:{tmp_path}/release", "say:done")
    behind = house.dispatch(2, "say:done")
    wait_until(Path(marker).exists, 20)

    for process in [*psutil.Process(worker.pid).children(), psutil.Process(worker.pid)]:
        if "launcher.py" not in " ".join(process.cmdline()):
            process.kill()
    wait_until(lambda: not processes_with(marker) and not agents(house), 10)
    wait_until(lambda: reconcile.run_once(house.engine)["interrupt-dead-runs"], 10)
    (tmp_path / "release").touch()
    wait_until(lambda: not house.serves("dev-alpha"), 10)
    house.start_worker("dev-alpha")
    ended = house.wait_for(behind, timeout_s=40)
    with house.store.reading() as tx:
        again = next(task for task in tx.list_tasks() if task.retry_of == lost)

    assert house.task(lost).state is State.INTERRUPTED
    assert again.state is State.SUCCEEDED
    assert again.interruptions == 1
    assert again.finished_at is not None
    assert ended.started_at is not None
    assert again.finished_at <= ended.started_at


def test_a_worker_that_lost_its_lease_cannot_write_a_result(build: Build, tmp_path: Path) -> None:
    house = build(run_lease_s=2)
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "result")
    wait_until((tmp_path / "up").exists, 20)
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children()]

    for process in family:
        process.suspend()
    wait_until(lambda: reconcile.run_once(house.engine)["interrupt-dead-runs"], 10)
    (tmp_path / "release").touch()
    for process in family:
        process.resume()
    wait_until(lambda: "result does not count" in house.read("worker-dev-alpha.log"), 20)

    assert house.task(task).state is State.INTERRUPTED
    assert house.task(task).evidence is None


def test_a_cold_stop_of_the_worker_stops_the_agent_and_says_so(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", "hang")
    wait_until((tmp_path / "up").exists, 20)

    worker.send_signal(signal.SIGQUIT)
    interrupted = house.wait_for(task, timeout_s=20)

    assert interrupted.state is State.INTERRUPTED
    assert worker.wait(timeout=30) is not None
    assert not agents(house)


def _log(house: House) -> str:
    return house.read("worker-dev-alpha.log")


def test_a_worker_that_is_asked_to_end_stops_its_agent_when_drain_s_is_over(build: Build, tmp_path: Path) -> None:
    """Celery's warm stop waited for the run without end, and its lease was not renewed meanwhile."""
    house = build(worker_lease_s=1, drain_s=3)
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", "hang")
    behind = house.dispatch(2, "say:done")
    wait_until((tmp_path / "up").exists, 20)

    worker.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    # Looked at in this order: while the run goes on, nobody else may serve its instance.
    unserved = wait_until(lambda: _stopped_serving(house, task), 30)
    status = worker.wait(timeout=30)
    took_s = time.monotonic() - asked_at
    with house.store.reading() as tx:
        again = next(found for found in tx.list_tasks() if found.retry_of == task)

    assert unserved == "only when the run had ended"
    assert status == 0, _log(house)
    assert 3 <= took_s < 30
    assert house.task(task).state is State.INTERRUPTED
    assert (again.state, house.task(behind).state) == (State.QUEUED, State.QUEUED)
    assert not agents(house)


def _stopped_serving(house: House, task: int) -> str:
    if house.serves("dev-alpha"):
        return ""
    return "while it ran" if house.task(task).state is State.RUNNING else "only when the run had ended"


def test_a_run_that_ends_within_drain_s_is_not_stopped(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "say:done")
    wait_until((tmp_path / "up").exists, 20)

    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in _log(house))
    (tmp_path / "release").touch()

    assert worker.wait(timeout=30) == 0
    assert house.task(task).state is State.SUCCEEDED
    assert not house.serves("dev-alpha")


def test_a_second_sigterm_hurries_a_worker(build: Build, tmp_path: Path) -> None:
    house = build(drain_s=300)
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    task = house.dispatch(1, f"touch:{tmp_path}/up", "hang")
    wait_until((tmp_path / "up").exists, 20)

    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in _log(house))
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=40) == 0
    assert house.task(task).state is State.INTERRUPTED
    assert "agent is stopped" in _log(house)


def test_a_terminated_child_of_a_worker_leaves_its_run_interrupted(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    marker = tmp_path / "once"
    task = house.dispatch(1, f"touch:{marker}", f"wait-for:{tmp_path}/release", "say:done")
    wait_until(marker.exists, 20)

    [child] = psutil.Process(worker.pid).children()
    child.terminate()
    interrupted = house.wait_for(task)
    (tmp_path / "release").touch()
    with house.store.reading() as tx:
        again = next(found for found in tx.list_tasks() if found.retry_of == task)

    assert interrupted.state is State.INTERRUPTED
    assert house.wait_for(again.id).state is State.SUCCEEDED
