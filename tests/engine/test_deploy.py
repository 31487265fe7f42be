"""A new version is deployed while everything runs: no delivery is refused, no task lost, none run twice."""

import itertools
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from alembic import command as alembic
from sqlalchemy import text

from pool import migrate
from pool.errors import SchemaError
from pool.states import State
from pool.store.engine import WRITE
from tests.door.house import assigned
from tests.door.server import Server, answers, request_of
from tests.engine.conftest import Build
from tests.helpers import deliveries
from tests.helpers.house import PYTHON, SECRET, TRACE, House, processes_with
from tests.helpers.ports import free_port
from tests.helpers.up import FORGEPOOL, Up
from tests.helpers.waiting import wait_until
from webapp.up import web_command

pytestmark = pytest.mark.engine

FORGE_S = 5.0  #: how long Forgejo waits for an answer, [webhook] DELIVER_TIMEOUT
READY = "Ctrl-C drains"


class Forge(threading.Thread):
    """Posts one signed delivery after the other, each about an issue of its own, and never tries again."""

    def __init__(self, url: str, *, login: str, pause_s: float, keeps_connections: bool) -> None:
        """login: who gets the issues; only agents get tasks."""
        super().__init__(name=f"forge of {login}")
        self.url, self.login, self.pause_s = url, login, pause_s
        self.keeps_connections = keeps_connections
        self.over = threading.Event()
        self.answers: list[tuple[int | str, float]] = []  #: status or error, and seconds
        self.tasks: list[int] = []

    def run(self) -> None:
        with httpx.Client(timeout=FORGE_S) as client:
            for number in itertools.count(1):
                if self.over.wait(self.pause_s):
                    return
                sent = assigned(self.login, number=number)
                headers = {**sent.headers, **deliveries.sign(sent.body, SECRET.encode())}
                if not self.keeps_connections:
                    headers["Connection"] = "close"
                began = time.monotonic()
                try:
                    answer = client.post(self.url, content=sent.body, headers=headers)
                except httpx.HTTPError as error:
                    self.answers.append((repr(error), time.monotonic() - began))
                else:
                    self.answers.append((answer.status_code, time.monotonic() - began))
                    self.tasks += answer.json().get("tasks", ())

    def end(self) -> None:
        """Stop posting."""
        self.over.set()
        self.join()


@pytest.fixture
def up(build: Build, tmp_path: Path) -> Up:
    """Start everything."""
    return Up(build(command=_agent(tmp_path), flower="127.0.0.1:0"))


def _hang_up(up: Up, *, times: int = 1) -> None:
    for _ in range(times):
        up.process.send_signal(signal.SIGHUP)


def _starts(up: Up) -> int:
    return up.house.read("up.log").count(READY)


def _wait_for_start(up: Up, number: int) -> None:
    wait_until(lambda: _starts(up) == number or up.process.poll() is not None, 60)
    assert up.process.poll() is None, up.house.read("up.log")


def _end(up: Up) -> None:
    family = up.family()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=60) == 0, up.house.read("up.log")
    assert [process for process in family if process.is_running()] == []


def test_two_deployments_under_load_refuse_no_delivery_and_run_every_task_once_and_in_order(
    up: Up, tmp_path: Path
) -> None:
    hold, house = tmp_path / "hold", up.house
    hold.touch()
    house.add("dev-alpha", "dev-bravo")
    before = up.family()
    # The second one asks for nothing: it is there for the connections, and costs no runs.
    forges = [
        Forge(up.url("Webhooks"), login="dev", pause_s=0.4, keeps_connections=False),
        Forge(up.url("Webhooks"), login="somebody", pause_s=0.1, keeps_connections=True),
    ]
    for forge in forges:
        forge.start()
    wait_until(lambda: house.lines("trace"), 60)

    _hang_up(up)
    wait_until(lambda: "Reloading" in house.read("up.log"), 30)
    hold.unlink()
    _wait_for_start(up, 2)
    _hang_up(up, times=2)
    _wait_for_start(up, 3)
    for forge in forges:
        forge.end()
    accepted = [task for forge in forges for task in forge.tasks]
    ended = [house.wait_for(task, timeout_s=120) for task in accepted]

    assert {status for status, _ in forges[0].answers} == {202}, forges[0].answers
    assert {status for status, _ in forges[1].answers} == {200}, forges[1].answers
    assert len(set(accepted)) == len(forges[0].answers)
    assert {task.state for task in ended} == {State.SUCCEEDED}
    events = [line.split() for line in house.lines("trace")]
    for word in ("begin", "end"):
        seen = [(instance, int(task)) for what, instance, task in events if what == word]
        assert sorted(task for _, task in seen) == sorted(accepted)
        for name in {instance for instance, _ in seen}:
            order = [task for instance, task in seen if instance == name]
            assert order == sorted(order), f"{name}: {word}"
    assert not [process for process in before if process.is_running()], "a part of the version before still runs"
    _end(up)


def test_an_agent_that_outlives_the_drain_is_interrupted_and_its_task_runs_again_in_its_old_place(
    build: Build, tmp_path: Path
) -> None:
    up = Up(build(command=_agent(tmp_path), drain_s=0.5))
    (tmp_path / "hold").touch()
    tasks = [_post(up, number).json()["tasks"][0] for number in (1, 2)]
    wait_until(lambda: up.house.lines("trace"), 60)

    _hang_up(up)
    _wait_for_start(up, 2)
    (tmp_path / "hold").unlink()
    last = up.house.wait_for(tasks[1], timeout_s=60)
    with up.house.store.reading() as tx:
        again = next(task for task in tx.list_tasks() if task.retry_of == tasks[0])

    assert up.house.task(tasks[0]).state is State.INTERRUPTED
    assert (again.state, last.state) == (State.SUCCEEDED, State.SUCCEEDED)
    assert [int(line.split()[2]) for line in up.house.lines("trace")] == [
        *(tasks[0], again.id, again.id),
        *(tasks[1], tasks[1]),
    ]
    _end(up)


def test_the_end_asked_for_during_a_deployment_is_the_end_and_the_running_agent_still_gets_its_time(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    task = _post(up, 1).json()["tasks"][0]
    wait_until(lambda: up.house.lines("trace"), 60)
    family = up.family()

    _hang_up(up)
    wait_until(lambda: "Reloading" in up.house.read("up.log"), 30)
    up.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Draining" in up.house.read("up.log"), 30)
    _hang_up(up)  # too late to matter
    (tmp_path / "hold").unlink()

    assert up.process.wait(timeout=60) == 0, up.house.read("up.log")
    assert up.house.task(task).state is State.SUCCEEDED
    assert _starts(up) == 1
    fleet = (up.house.settings.state_dir / "logs" / "fleet.log").read_text(encoding="utf-8")
    assert fleet.count("signal=SIGTERM") == 1, "a second one would have stopped the agent"
    assert [process for process in family if process.is_running()] == []


#: What `up` does to itself: signals that come while it is no program yet wait until it is one.
BECOME = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP])
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_end_asked_for_between_two_versions_is_heard_by_the_second(house: House) -> None:
    house.kill_broker()

    process = house.start([PYTHON, "-c", BECOME, *FORGEPOOL, "up"], log="up.log")

    assert process.wait(timeout=60) == 0, house.read("up.log")
    assert house.read("up.log").endswith("Stopped.\n")
    assert not processes_with(str(house.folder))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unknown key", "service.reposs"),
        ("newer database", "schema 9999"),
        ("broken package", "only half of it is installed"),
    ],
)
def test_a_deployment_that_could_not_start_is_refused_with_a_sentence_and_everything_runs_on(
    up: Up, tmp_path: Path, fault: str, words: str
) -> None:
    # Whatever starts later reads the configuration that is there then.
    up.house.wait_for(_post(up, 1).json()["tasks"][0], timeout_s=60)
    family = [process for process in up.family() if "launcher.py" not in " ".join(process.cmdline())]
    before = up.house.config.read_text(encoding="utf-8")
    if fault == "unknown key":
        up.house.config.write_text(before.replace("repos =", "reposs ="), encoding="utf-8")
    elif fault == "newer database":
        _set_revision(up.house, "9999")
    else:
        # What is installed cannot be changed here; the working directory stands before it in the search path.
        (tmp_path / "flower.py").write_text("raise ImportError('only half of it is installed')", encoding="utf-8")

    _hang_up(up)
    wait_until(lambda: "reload refused" in up.house.read("up.log"), 60)
    said = up.house.read("up.log")
    if fault == "newer database":
        _set_revision(up.house, migrate.head())
    answer = _post(up, 2)

    assert words in said
    assert "Reloading" not in said
    assert answer.status_code == 202
    assert up.house.wait_for(answer.json()["tasks"][0], timeout_s=60).state is State.SUCCEEDED
    assert all(process.is_running() for process in family)
    _end(up)


def test_a_database_of_the_version_before_is_upgraded_at_the_start_and_what_was_queued_in_it_runs(
    build: Build, tmp_path: Path
) -> None:
    house = build(command=_agent(tmp_path))
    house.add("dev-alpha")
    queued = [house.dispatch(number) for number in (1, 2, 3)]
    with house.store.engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        alembic.downgrade(migrate.config(connection), migrate.REVISIONS[0])
    with pytest.raises(SchemaError, match=r"has schema 0001, .* run `forgepool db upgrade`"):
        migrate.check(house.store.engine)

    up = Up(house)
    ended = [house.wait_for(task, timeout_s=60) for task in queued]

    migrate.check(house.store.engine)
    assert {task.state for task in ended} == {State.SUCCEEDED}
    assert [int(line.split()[2]) for line in house.lines("trace")[::2]] == queued
    assert "database upgraded" in house.read("up.log")
    _end(up)


def test_the_web_app_that_is_asked_to_end_answers_what_it_has_begun_to_read(build: Build) -> None:
    house = build()
    house.add("dev-alpha")
    port = free_port()
    web = house.start(web_command(f"127.0.0.1:{port}"), log="web.log")
    wait_until(lambda: answers(Server(house, port)) or web.poll() is not None, 60)
    sent = assigned("dev", number=1)
    request = request_of(sent.body, {**sent.headers, **deliveries.sign(sent.body, SECRET.encode())})
    with socket.create_connection(("127.0.0.1", port), timeout=FORGE_S) as connection:
        connection.sendall(request[:-100])
        wait_until(lambda: _accepted(port), 30)
        web.send_signal(signal.SIGTERM)
        wait_until(lambda: "Handling signal: term" in house.read("web.log"), 30)
        connection.sendall(request[-100:])
        answer = connection.recv(65536)

        assert answer.startswith(b"HTTP/1.1 202 "), answer
    assert web.wait(timeout=20) == 0, house.read("web.log")
    with house.store.reading() as tx:
        assert [task.request.number for task in tx.list_tasks()] == [1]


def _accepted(port: int) -> bool:
    """Tell whether a worker of the web app has the connection, not only the kernel."""
    return any(
        one.status == psutil.CONN_ESTABLISHED and one.pid is not None and one.laddr and one.laddr.port == port
        for one in psutil.net_connections("tcp4")
    )


def _agent(folder: Path) -> list[str]:
    """Return an agent that writes down when it begins and ends, and waits while there is a file `hold`."""
    script = folder / "trace.py"
    script.write_text(TRACE, encoding="utf-8")
    trace = f"{PYTHON} -S {script} {folder}/trace"
    wait = f"while [ -e {folder}/hold ]; do sleep 0.05; done"
    return ["/bin/sh", "-c", f"{trace} begin; {wait}; echo work; {trace} end"]


def _post(up: Up, number: int) -> httpx.Response:
    sent = assigned("dev", number=number)
    headers = {**sent.headers, **deliveries.sign(sent.body, SECRET.encode())}
    return httpx.post(up.url("Webhooks"), content=sent.body, headers=headers, timeout=FORGE_S)


def _set_revision(house: House, revision: str) -> None:
    with house.store.engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
