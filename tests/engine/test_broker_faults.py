"""A broker that is killed, frozen or emptied: nothing accepted is lost, nothing runs twice, nobody has to restart."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pool.model import Task
from pool.states import State
from tasks import reconcile
from tests.door.house import assigned
from tests.door.server import Server, served, signed
from tests.engine.conftest import Build
from tests.helpers import brokers
from tests.helpers.house import PYTHON, TRACE, House
from tests.helpers.waiting import wait_until
from webapp.cli import checkup_machine
from webapp.cli.checkup import Status

pytestmark = pytest.mark.engine

#: After this time Forgejo gives up a delivery, and it never tries again.
FORGE_S = 5.0


def _tracing(folder: Path, *, wait_for: Path | None = None) -> list[str]:
    """Return an agent that writes down its begin and its end; and waits in between for a file, if there is one."""
    script = folder / "trace.py"
    script.write_text(TRACE, encoding="utf-8")
    trace = f"{PYTHON} -S {script} {folder}/trace"
    waiting = f"while [ ! -e {wait_for} ]; do sleep 0.05; done; " if wait_for else ""
    return ["/bin/sh", "-c", f"{trace} begin; echo work; {waiting}{trace} end"]


def _began(house: House) -> list[int]:
    return [int(line.split()[2]) for line in house.lines("trace") if line.startswith("begin")]


def _ended_with_reconciler(house: House, tasks: list[int], timeout_s: float = 90) -> list[Task]:
    """Wait until tasks have ended while the reconciler goes its rounds, as it does in the fleet."""

    def all_ended() -> bool:
        reconcile.run_once(house.engine)
        return all(house.task(task).state.is_final for task in tasks)

    wait_until(all_ended, timeout_s)
    return [house.task(task) for task in tasks]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Name the file for which the agents wait."""
    return tmp_path / "release"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Start a whole deployment with its web app and one worker."""
    (tmp_path / "agent").mkdir()
    with served(tmp_path, command=_tracing(tmp_path)) as running:
        running.house.start_worker("dev-alpha")
        yield running


def _assign(server: Server, number: int) -> httpx.Response:
    delivery = assigned("dev", number=number)
    url = f"http://127.0.0.1:{server.port}/webhooks/forgejo"
    return httpx.post(url, content=delivery.body, headers=signed(delivery), timeout=FORGE_S)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_with_the_broker_away_a_webhook_is_taken_and_its_task_runs_when_the_broker_is_back(
    server: Server, fault: str
) -> None:
    house = server.house
    _assign(server, 1)  # so that the web app has a connection, which breaks
    _ended_with_reconciler(house, [1])
    house.kill_broker() if fault == "killed" else house.broker.freeze()

    answer = _assign(server, 2)
    [task] = answer.json()["tasks"]
    stored = house.task(task)
    house.start_broker() if fault == "killed" else house.broker.thaw()
    house.start_worker("dev-bravo")
    [ended] = _ended_with_reconciler(house, [task])

    assert answer.status_code == 202
    assert (stored.state, stored.published_at) == (State.QUEUED, None)
    assert ended.state is State.SUCCEEDED
    assert ended.published_at is not None
    assert _began(house) == [1, task]


def test_a_run_goes_on_without_the_broker_and_the_worker_takes_the_next_task_when_it_is_back(
    build: Build, tmp_path: Path, release: Path
) -> None:
    """Workers that answered pings and consumed nothing after a reconnect were a bug of Celery's (#8030, #10205)."""
    house = build(command=_tracing(tmp_path, wait_for=release))
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    running = house.dispatch(1)
    behind = [house.dispatch(number) for number in (2, 3)]
    wait_until(lambda: _began(house))

    house.kill_broker()
    release.touch()
    stored = house.wait_for(running)
    house.start_broker()
    ended = _ended_with_reconciler(house, behind)
    # Without the reconciler: it is the worker that consumes again, on its new connection.
    last = house.wait_for(house.dispatch(4))

    assert [task.state for task in (stored, *ended, last)] == [State.SUCCEEDED] * 4
    assert _began(house) == [running, *behind, last.id]
    assert worker.poll() is None


def test_a_broker_that_lost_everything_changes_neither_what_runs_nor_the_order(
    build: Build, tmp_path: Path, release: Path
) -> None:
    house = build(command=_tracing(tmp_path, wait_for=release))
    house.add("dev-alpha", "dev-bravo")
    worker = house.start_worker("dev-alpha")
    tasks = [house.dispatch(number) for number in range(1, 9)]
    wait_until(lambda: _began(house))

    house.empty_broker()
    release.touch()
    house.start_worker("dev-bravo")
    ended = _ended_with_reconciler(house, tasks)

    assert {task.state for task in ended} == {State.SUCCEEDED}
    for name in ("dev-alpha", "dev-bravo"):
        mine = [task.id for task in ended if task.instance == name]
        assert len(mine) == 4
        assert [task for task in _began(house) if task in mine] == mine
    assert worker.poll() is None


def test_the_first_message_after_the_broker_came_back_gets_through(house: House) -> None:
    """The connection that is kept for the next message is dead by then, and nobody waits for a second webhook."""
    house.add("dev-alpha")
    house.dispatch(1, "say:done")
    house.kill_broker()
    house.start_broker()

    second = house.dispatch(2, "say:done")

    assert house.task(second).published_at is not None
    assert house.engine.bell.waiting("dev-alpha") == 2


def test_a_run_longer_than_the_broker_waits_for_an_acknowledgement_is_neither_lost_nor_doubled(
    build: Build, tmp_path: Path, release: Path
) -> None:
    """RabbitMQ closes the channel of a worker that holds a message too long, and Celery ended the worker for it."""
    house = build(command=_tracing(tmp_path, wait_for=release))
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")
    tasks = [house.dispatch(number) for number in (1, 2, 3)]
    started = house.wait_for(tasks[0], State.RUNNING)
    wait_until(lambda: _began(house))
    children = psutil.Process(worker.pid).children()

    # The tests' RabbitMQ looks every second whether a message is held for longer than three.
    limit_s = brokers.RABBITMQ_CONSUMER_TIMEOUT_S + 3 * brokers.RABBITMQ_TICK_S
    wait_until(lambda: (house.store.clock() - started.started_at).total_seconds() > limit_s, 3 * limit_s)  # type: ignore[operator] # it has started
    alive = [child for child in children if child.is_running()]
    release.touch()
    ended = [house.wait_for(task) for task in tasks]

    assert alive == children
    assert worker.poll() is None
    assert "PRECONDITION_FAILED" not in house.read("worker-dev-alpha.log")
    assert [task.state for task in ended] == [State.SUCCEEDED] * 3
    assert _began(house) == tasks


def _consumers(house: House) -> list[bool]:
    assert isinstance(house.broker, brokers.RabbitMqHost)
    return house.broker.consumers("dev-alpha")


@brokers.only("rabbitmq", why="other brokers have one kind of queue")
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_queues_are_of_the_kind_that_the_virtual_host_prescribes(tmp_path: Path, kind: str) -> None:
    house = House(tmp_path)
    assert isinstance(house.broker, brokers.RabbitMqHost)
    house.broker.queue_type = kind
    with house:
        house.add("dev-alpha")
        worker = house.start_worker("dev-alpha")
        ended = [house.wait_for(house.dispatch(number, "say:done")) for number in (1, 2)]
        queues = house.broker.queues()
        # The node's statistics follow some seconds later.
        consumers = wait_until(lambda: _consumers(house), 30)

        assert [task.state for task in ended] == [State.SUCCEEDED] * 2
        assert worker.poll() is None
        assert queues == {"dev-alpha": kind}
        assert consumers == [False]


def test_a_message_that_is_none_of_ours_does_not_stop_the_worker(house: House) -> None:
    house.add("dev-alpha")
    worker = house.start_worker("dev-alpha")

    with house.app.connection_for_write() as connection, connection.Producer() as producer:
        queue = house.app.amqp.queues["dev-alpha"]
        for junk in ({"some": "thing"}, "words", 7):
            producer.publish(junk, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue])
    house.app.send_task("no.such.task", queue="dev-alpha")
    [ended] = _ended_with_reconciler(house, [house.dispatch(1, "say:done")])

    assert ended.state is State.SUCCEEDED
    assert worker.poll() is None


def test_the_doctor_says_which_server_the_broker_is(house: House) -> None:
    found = list(checkup_machine.broker(house.settings))

    assert [check.status for check in found] == [Status.OK, Status.OK]
    assert found[1].message.startswith(f"it is {brokers.KIND} " if brokers.KIND != "rabbitmq" else "it is RabbitMQ ")


@brokers.only("valkey", "redis", why="RabbitMQ throws no message away")
def test_the_doctor_warns_of_a_broker_that_may_throw_queues_away(house: House) -> None:
    with house.app.connection_for_write() as connection:
        connection.default_channel.client.config_set("maxmemory", "100mb")
        connection.default_channel.client.config_set("maxmemory-policy", "allkeys-lru")

    *_, last = checkup_machine.broker(house.settings)

    assert (last.status, last.remedy) == (Status.WARN, "set maxmemory-policy to noeviction")
