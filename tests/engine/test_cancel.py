"""Cancel: exactly its target, always, and the slot is free at once afterwards."""

import socket
from pathlib import Path

import psutil
import pytest

from pool.states import State
from tasks import dispatch
from tests.engine.conftest import Build
from tests.helpers.house import House, processes_with
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine


def _started(house: House, name: str) -> list[psutil.Process]:
    """Return the processes that an agent said it has left behind."""
    pids = wait_until(lambda: house.lines(name))
    return [psutil.Process(int(pid)) for pid in pids]


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_running_agent_is_gone_with_all_its_children_and_the_next_task_starts(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    stubborn = house.dispatch(
        1, "ignore-term", f"fork:{tmp_path}/child", f"fork-away:{tmp_path}/away", f"touch:{tmp_path}/up", "hang"
    )
    after = house.dispatch(2, "say:done")
    wait_until((tmp_path / "up").exists, 20)
    family = [*_started(house, "child"), *_started(house, "away")]

    asked = dispatch.cancel(house.engine, stubborn, by="test")
    cancelled = house.wait_for(stubborn, timeout_s=15)

    assert asked is State.RUNNING
    assert cancelled.state is State.CANCELLED
    assert cancelled.reason == "cancelled by test"
    assert all(_gone(process) for process in family)
    assert house.wait_for(after).state is State.SUCCEEDED


def test_a_queued_task_is_cancelled_without_touching_the_running_one(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    running = house.dispatch(1, "say:begun", f"wait-for:{tmp_path}/release")
    queued, last = house.dispatch(2, "say:never"), house.dispatch(3, "say:done")
    house.wait_for(running, State.RUNNING)

    state = dispatch.cancel(house.engine, queued, by="test")
    (tmp_path / "release").touch()

    assert state is State.CANCELLED
    assert house.wait_for(running).state is State.SUCCEEDED
    assert house.wait_for(last).state is State.SUCCEEDED
    assert house.task(queued).started_at is None


def test_cancel_works_while_the_broker_is_down(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    running = house.dispatch(1, f"touch:{tmp_path}/up", "hang")
    queued = house.dispatch(2, "say:never")
    wait_until((tmp_path / "up").exists, 20)
    house.kill_broker()

    dispatch.cancel(house.engine, queued, by="test")
    dispatch.cancel(house.engine, running, by="test")

    assert house.task(queued).state is State.CANCELLED
    assert house.wait_for(running).state is State.CANCELLED


def test_a_cancel_does_not_wait_for_a_clone_that_hangs(build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        house = build(git_url=f"http://{address}/{{repo}}.git")
        house.add("dev-alpha")
        house.start_worker("dev-alpha")
        cloning = house.dispatch(1, "say:never")
        wait_until(lambda: processes_with(f"http://{address}/"), 20)

        dispatch.cancel(house.engine, cloning, by="test")
        cancelled = house.wait_for(cloning, timeout_s=10)

        assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "cancelled by test")
        assert not processes_with(f"http://{address}/")


def test_the_result_of_a_run_is_stored_although_the_broker_went_away(house: House, tmp_path: Path) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    running = house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "result")
    wait_until((tmp_path / "up").exists, 20)

    house.kill_broker()
    (tmp_path / "release").touch()

    assert house.wait_for(running).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("verbs", "state", "reason"),
    [
        (["exit:3"], State.FAILED, "the agent ended with status 3"),
        (["exit:0"], State.FAILED, "the agent ended without a trace: no output, no result, no commit"),
        (["commit"], State.SUCCEEDED, "the agent ended well"),
        (["say:hello", "hang"], State.TIMED_OUT, "it printed nothing for 1 s"),
        (["kill-self"], State.FAILED, "the agent was killed by signal 9, which nobody here sent"),
    ],
    ids=["status", "silent", "commit", "hangs", "killed"],
)
def test_an_end_is_not_a_success_without_evidence(build: Build, verbs: list[str], state: State, reason: str) -> None:
    house = build(silence_limit_s=1)
    house.add("dev-alpha")
    house.start_worker("dev-alpha")

    ended = house.wait_for(house.dispatch(1, *verbs))

    assert (ended.state, ended.reason) == (state, reason)
