"""Two hosts on one database and one broker: each serves its own and free instances; those of a lost host are taken."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pool.states import State
from tests.engine.conftest import Build
from tests.helpers.databases import KINDS, POSTGRES, Database
from tests.helpers.house import PYTHON, House
from tests.helpers.tree import alive, kill, workers
from tests.helpers.up import FORGEPOOL
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine


def needs_postgresql(kind: str) -> None:
    """Skip what has no server. `.ci/run` names one when it runs these tests on PostgreSQL."""
    if kind == "postgresql" and not POSTGRES:
        pytest.skip("TEST_POSTGRES_URL names no PostgreSQL server")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Name a database that both hosts use."""
    needs_postgresql(request.param)
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
        return
    made = Database(request.param)
    yield made.url
    made.close()


class Hosts:
    """Two deployments that differ in the name of their host and in their state folder."""

    def __init__(self, house: House) -> None:
        self.house = house

    def environ(self, host: str) -> dict[str, str]:
        """Return what makes a program one of that host."""
        folder = self.house.folder / host
        folder.mkdir(exist_ok=True)
        return {
            "FORGEPOOL_HOST": host,
            "FORGEPOOL_STATE_DIR": str(folder),
            "FORGEPOOL_BROKER_URL": self.house.settings.broker_url,
            "FORGEPOOL_DATABASE_URL": self.house.settings.database_url,
        }

    def fleet(self, host: str) -> "subprocess.Popen[bytes]":
        """Start the fleet of a host."""
        return self.house.start([*FORGEPOOL, "fleet"], log=f"{host}.log", **self.environ(host))

    def where(self, name: str) -> str | None:
        """Return the host that serves an instance now."""
        with self.house.store.reading() as tx:
            return tx.instance(name).worker_host if self.house.serves(name) else None

    def bind(self, name: str, host: str | None) -> None:
        """Bind an instance to a host."""
        with self.house.store.writing() as tx:
            tx.set_instance(name, host=host)


@pytest.fixture
def hosts(build: Build, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Give two hosts one database and one broker."""
    with _environment(monkeypatch, FORGEPOOL_DATABASE_URL=database):
        yield Hosts(build(worker_lease_s=4, run_lease_s=4))


@contextmanager
def _environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def test_a_bound_instance_is_served_by_its_host_alone_and_follows_it(hosts: Hosts, tmp_path: Path) -> None:
    hosts.house.add("dev-alpha", host="one")
    hosts.house.add("dev-bravo", host="two")

    one, two = hosts.fleet("one"), hosts.fleet("two")
    wait_until(lambda: (hosts.where("dev-alpha"), hosts.where("dev-bravo")) == ("one", "two"), 60)
    shares = ([w.name() for w in workers(one)], [w.name() for w in workers(two)])
    hosts.house.dispatch(1, "say:done")
    running = hosts.house.dispatch(2, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "say:done")
    hosts.house.wait_for(running, State.RUNNING)
    assert (hosts.house.task(running).instance) == "dev-bravo"
    hosts.bind("dev-bravo", "one")
    wait_until(lambda: "worker retires" in hosts.house.read("two.log"), 30)
    wait_until(lambda: "instance is served already" in hosts.house.read("one.log"), 30)
    (tmp_path / "release").touch()
    wait_until(lambda: hosts.where("dev-bravo") == "one" and len(workers(one)) == 2, 60)

    # It let its run end, and nobody else began before that.
    assert shares == (["dev-alpha"], ["dev-bravo"])
    assert hosts.house.task(running).state is State.SUCCEEDED
    assert workers(two) == []
    assert "process ended" not in hosts.house.read("one.log") + hosts.house.read("two.log")


def test_a_worker_on_the_wrong_host_refuses_and_says_where_its_instance_belongs(hosts: Hosts) -> None:
    hosts.house.add("dev-alpha", host="one")

    arguments = "-m celery -A tasks worker -Q dev-alpha -n dev-alpha@%h -c 1"
    worker = hosts.house.start([PYTHON, *arguments.split()], log="refused.log", **hosts.environ("two"))

    assert worker.wait(timeout=60) == 78
    assert "dev-alpha" in hosts.house.read("refused.log")
    assert "'one'" in hosts.house.read("refused.log")
    assert hosts.where("dev-alpha") is None


def test_the_free_instances_of_a_lost_host_are_taken_over_and_its_run_is_done_again(
    hosts: Hosts, tmp_path: Path
) -> None:
    hosts.house.add("dev-alpha")
    hosts.house.add("dev-bravo", host="one")
    one = hosts.fleet("one")
    wait_until(lambda: (hosts.where("dev-alpha"), hosts.where("dev-bravo")) == ("one", "one"), 60)
    two = hosts.fleet("two")
    lost = hosts.house.dispatch(1, f"touch:{tmp_path}/up", f"wait-for:{tmp_path}/release", "say:done")
    wait_until((tmp_path / "up").exists, 60)
    wait_until(lambda: "instance is served already" in hosts.house.read("two.log"), 60)
    assert hosts.house.task(lost).instance == "dev-alpha"

    family = psutil.Process(one.pid).children(recursive=True)
    one.kill()
    kill(family)
    (tmp_path / "release").touch()
    wait_until(lambda: hosts.where("dev-alpha") == "two", 60)
    hosts.house.wait_for(lost, State.INTERRUPTED, timeout_s=60)
    with hosts.house.store.reading() as tx:
        [again] = [task.id for task in tx.list_tasks() if task.retry_of == lost]

    assert hosts.house.wait_for(again, timeout_s=60).state is State.SUCCEEDED
    assert not alive(family)
    # A bound instance waits for its host.
    assert [worker.name() for worker in workers(two)] == ["dev-alpha"]
    assert hosts.where("dev-bravo") is None
