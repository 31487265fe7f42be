"""An instance or a type goes away while its work runs and waits, with real workers: the work goes on elsewhere."""

import signal

import psutil
import pytest

from pool.model import Kind, Request, Task
from pool.states import State
from pool.store import DeadLettered, Queued
from tasks import dispatch
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.house import House
from tests.helpers.up import FORGEPOOL
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine


def _is_gone(house: House, name: str) -> bool:
    with house.store.reading() as tx:
        return tx.find_instance(name) is None


def _retry_of(house: House, task: int) -> Task:
    with house.store.reading() as tx:
        again = tx.retried_as(task)
        assert again is not None
        return tx.task(again)


def _start_fleet(house: House, name: str) -> psutil.Process:
    fleet = house.start([*FORGEPOOL, "fleet"], log="fleet.log")
    wait_until(lambda: house.serves(name), 60)
    return psutil.Process(fleet.pid)


def test_what_ran_and_what_waited_on_a_removed_instance_goes_on_elsewhere_in_order(house: House) -> None:
    house.add("dev-alpha")
    family = _start_fleet(house, "dev-alpha").children(recursive=True)
    release = house.folder / "release"
    running = house.dispatch(1, "say:begun", f"wait-for:{release}")
    house.wait_for(running, State.RUNNING, timeout_s=60)
    waiting = [house.dispatch(number, "say:done") for number in (2, 3, 4)]
    wait_until((house.settings.state_dir / "logs" / "tasks" / f"{running}.log").exists, 30)
    house.add("dev-bravo")

    placed, stopped = dispatch.remove_now(house.engine, "dev-alpha", by="test")
    lost = house.wait_for(running, timeout_s=60)
    release.touch()
    ended = [house.wait_for(task, timeout_s=60) for task in waiting]
    again = house.wait_for(_retry_of(house, running).id, timeout_s=60)

    assert stopped == [running]
    assert [(one.task, isinstance(one, Queued) and one.instance) for one in placed] == [
        (task, "dev-bravo") for task in waiting
    ]
    assert (lost.state, lost.reason) == (State.INTERRUPTED, "dev-alpha was removed")
    assert [(task.state, task.instance) for task in (*ended, again)] == [(State.SUCCEEDED, "dev-bravo")] * 4
    starts = [task.started_at for task in ended if task.started_at]
    assert starts == sorted(starts)
    for task in ended:
        (record,) = [event for event in task.history if event.event == "re-dispatched"]
        assert record.why == "from dev-alpha to dev-bravo: dev-alpha was removed"
    # Its row went with its last task, and its worker with its row.
    wait_until(lambda: _is_gone(house, "dev-alpha"), 30)
    wait_until(lambda: not all(process.is_running() for process in family), 60)


def test_the_only_one_of_its_type_leaves_dead_letters_that_another_can_take(house: House) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    running = house.dispatch(1, "say:begun", "hang")
    house.wait_for(running, State.RUNNING)
    waiting = house.dispatch(2, "say:done")

    placed, _ = dispatch.remove_now(house.engine, "dev-alpha", by="test")
    house.wait_for(running)
    dead = _retry_of(house, running)
    house.add("dev-bravo")
    house.start_worker("dev-bravo")
    released = dispatch.release(house.engine, waiting, by="test")

    assert [type(one) for one in placed] == [DeadLettered]
    assert (dead.state, dead.retry_of) == (State.DEAD_LETTERED, running)
    assert "no instance of type 'dev' is registered" in dead.reason
    assert released.instance == "dev-bravo"
    assert house.wait_for(waiting).state is State.SUCCEEDED
    assert house.task(dead.id).state is State.DEAD_LETTERED


def test_a_retyped_instance_ends_its_run_as_it_began_and_then_serves_the_new_type(house: House) -> None:
    house.add("dev-alpha")
    house.start_worker("dev-alpha")
    release = house.folder / "release"
    running = house.dispatch(1, "env:FORGEPOOL_TYPE", f"wait-for:{release}")
    house.wait_for(running, State.RUNNING)
    waiting = house.dispatch(2, "say:done")
    house.add("dev-bravo")
    house.start_worker("dev-bravo")

    dispatch.set_type(house.engine, "dev-alpha", "reviewer", by="test")
    reviewed = house.dispatch(3, "env:FORGEPOOL_TYPE", type_name="reviewer")
    moved = house.wait_for(waiting)
    before = (house.task(running).state, house.task(reviewed).state)
    release.touch()

    assert (moved.state, moved.instance) == (State.SUCCEEDED, "dev-bravo")
    assert before == (State.RUNNING, State.QUEUED)
    for task, type_name in ((running, "dev"), (reviewed, "reviewer")):
        ended = house.wait_for(task)
        log = (house.settings.state_dir / "logs" / "tasks" / f"{task}.log").read_text(encoding="utf-8")
        assert (ended.state, ended.instance, ended.type) == (State.SUCCEEDED, "dev-alpha", type_name)
        assert log.strip() == type_name


def test_a_run_that_is_lost_on_a_retyped_instance_is_tried_again_by_its_own_type(house: House) -> None:
    """Its worker went away between the change and the end of the run, and came back."""
    house.add("dev-alpha", "dev-bravo")
    worker = house.start_worker("dev-alpha")
    release = house.folder / "release"
    running = house.dispatch(1, "say:begun", f"wait-for:{release}")
    house.wait_for(running, State.RUNNING)
    dispatch.set_type(house.engine, "dev-alpha", "reviewer", by="test")

    with house.store.writing() as tx:
        tx.ask_to_stop("dev-alpha", by="test")
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    lost = house.wait_for(running)
    release.touch()
    again = _retry_of(house, running)
    house.start_worker("dev-alpha", ready=False)
    house.start_worker("dev-bravo")
    reviewed = house.dispatch(2, "say:done", type_name="reviewer")

    assert lost.state is State.INTERRUPTED
    assert (again.instance, again.type) == ("dev-bravo", "dev")
    assert house.wait_for(again.id).state is State.SUCCEEDED
    assert house.wait_for(reviewed).instance == "dev-alpha"


def test_a_type_that_was_described_after_the_worker_started_waits_for_its_restart(house: House) -> None:
    """The worker took the task, did not know its type, and the task failed."""
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    whole = house.config.read_text(encoding="utf-8")
    table = whole[whole.index("[types.dev]") : whole.index("[types.reviewer]")]
    house.config.write_text(whole + table.replace('"dev"', '"ops"').replace("types.dev", "types.ops"), encoding="utf-8")
    engine = Engine(Settings.load(house.config), house.store, house.engine.bell)
    request = Request(kind=Kind.CUSTOM, repo="acme/widgets", number=1, body="testagent: say:done")

    dispatch.set_type(engine, "dev-alpha", "ops", by="test")
    task = dispatch.dispatch_by_type(engine, "ops", request, by="test")
    wait_until(lambda: "is of type ops, which this worker does not know" in house.read("worker-dev-alpha.log"), 30)
    before = house.task(task).state
    worker.terminate()
    worker.wait(60)
    house.start_worker("dev-alpha")
    dispatch.ring(engine, task, "dev-alpha")

    assert before is State.QUEUED
    assert house.wait_for(task).state is State.SUCCEEDED


def test_tasks_of_a_type_that_left_the_configuration_wait_until_it_is_back(house: House) -> None:
    house.add("dev-alpha")
    house.add("reviewer-alpha", type_name="reviewer")
    waiting = [house.dispatch(number, "say:done") for number in (1, 2)]
    whole = house.config.read_text(encoding="utf-8")
    begin, end = whole.index("[types.dev]"), whole.index("[types.reviewer]")

    house.config.write_text(whole[:begin] + whole[end:], encoding="utf-8")
    first = house.start([*FORGEPOOL, "fleet"], log="fleet.log")
    other = house.dispatch(3, "say:done", type_name="reviewer")
    # The fleet has looked at every row when one type's work is done.
    others = house.wait_for(other, timeout_s=60)
    meanwhile = [house.task(task) for task in waiting]
    served = house.serves("dev-alpha")
    first.terminate()
    first.wait(60)
    house.config.write_text(whole, encoding="utf-8")
    _start_fleet(house, "dev-alpha")
    ended = [house.wait_for(task, timeout_s=60) for task in waiting]

    assert others.state is State.SUCCEEDED
    assert [(task.state, task.instance) for task in meanwhile] == [(State.QUEUED, "dev-alpha")] * 2
    assert not served
    assert [task.state for task in ended] == [State.SUCCEEDED, State.SUCCEEDED]
    assert ended[0].finished_at is not None
    assert ended[1].started_at is not None
    assert ended[0].finished_at <= ended[1].started_at
