"""From nothing to a deployment that has proved itself: `init` and `doctor --smoke` on the stand-in forge."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from pool.states import Verdict
from tasks.engine import Engine
from tasks.settings import CONFIG_ENV, Settings
from tests.helpers.config import Deployment, type_table
from tests.helpers.ports import free_port
from webapp.app import create_app
from webapp.standin.forge import StandInForge

REPO = "acme/shop"
TYPES = ("dev", "reviewer", "boss")
ADMIN = "FORGEPOOL_ADMIN_TOKEN"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[StandInForge]:
    """Return a forge with an owner and a repository, on which nobody else has an account."""
    forge = StandInForge(tmp_path / "forge", secret=b"of nobody")
    forge.create_user("acme")
    forge.create_repo(REPO, everybody="none")
    with forge:
        yield forge


@pytest.fixture
def house(tmp_path: Path, forge: StandInForge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Return a deployment for that forge: a configuration, a secret and an empty database."""
    folder = tmp_path / "pool"
    folder.mkdir()
    # The command line sets the variable for its children; this puts it back.
    monkeypatch.setenv(CONFIG_ENV, str(folder / "forgepool.toml"))
    types = {name: type_table(name, token_file=f"{name}.token") for name in TYPES}
    where = {"forge_url": forge.url, "repos": [REPO], "listen": f"127.0.0.1:{free_port()}"}
    house = Deployment.make(folder, types=types, **where)
    yield house
    house.store.close()


@contextmanager
def door(house: Deployment) -> Iterator[None]:
    """Serve the web app where the configuration says."""
    host, _, port = house.settings.service.listen.partition(":")
    app = create_app(Engine(Settings.load(house.path), house.store, house.bell))
    server = make_server(host, int(port), app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def told(house: Deployment, *names: str, status: int = 0) -> dict[str, str]:
    """Let doctor look, with a trial; return the worst status of each check of these names."""
    checks: list[dict[str, Any]] = house.json("doctor", "--smoke", status=status)["checks"]
    order = ("ok", "warn", "fail")
    return {name: max((c["status"] for c in checks if c["name"] == name), key=order.index) for name in names}


NAMES = ("accounts", "rights", "webhooks", "smoke")


def test_a_deployment_is_set_up_from_nothing_and_proves_itself(
    forge: StandInForge, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = forge.create_user("root", is_admin=True)
    monkeypatch.setenv(ADMIN, admin)
    lines = house.json("init", "--yes")["lines"]

    with door(house):
        monkeypatch.setenv(ADMIN, admin)
        found = told(house, *NAMES)

    assert not [line for line in lines if line["outcome"] == "YOU"]
    assert found == dict.fromkeys(NAMES, "ok")
    assert {forge.right_of(forge.repos[REPO], name) for name in TYPES} == {"write"}
    with house.store.reading() as tx:
        (receipt,) = tx.list_deliveries()
    assert (receipt.event_type, receipt.signed, receipt.verdict) == ("push", True, Verdict.IGNORED)


def test_a_second_call_leaves_one_hook_and_the_same_tokens(
    forge: StandInForge, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = forge.create_user("root", is_admin=True)
    tokens = []
    for _ in range(2):
        monkeypatch.setenv(ADMIN, admin)
        house.json("init", "--yes")
        tokens.append([(house.path.parent / f"{name}.token").read_text() for name in TYPES])

    assert tokens[0] == tokens[1]
    assert len(forge.repos[REPO].hooks) == 1
    assert len(forge.repos[REPO].labels) == len({label.name for label in forge.repos[REPO].labels.values()})


def test_an_assigned_issue_arrives_by_the_hook_that_was_made(
    forge: StandInForge, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADMIN, forge.create_user("root", is_admin=True))
    house.json("init", "--yes")
    with house.store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")

    with door(house):
        number = forge.create_issue(REPO, title="Tidy up", author="acme", assignees=("dev",))

    with house.store.reading() as tx:
        (task,) = tx.list_tasks()
    assert (task.request.number, task.type) == (number, "dev")


def test_a_secret_that_was_changed_afterwards_is_found(
    forge: StandInForge, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = forge.create_user("root", is_admin=True)
    monkeypatch.setenv(ADMIN, admin)
    house.json("init", "--yes")
    (house.path.parent / "secret").write_text("another\n")

    with door(house):
        monkeypatch.setenv(ADMIN, admin)
        assert told(house, "smoke", status=1) == {"smoke": "fail"}


def test_an_owner_sets_up_all_but_the_accounts(
    forge: StandInForge, house: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADMIN, forge.users["acme"].token)

    lines = house.json("init", "--yes", status=1)["lines"]

    left = [line["text"] for line in lines if line["outcome"] == "YOU"]
    assert sum("there is no account" in text for text in left) == 3
    assert len(forge.repos[REPO].hooks) == 1
    assert "dev" not in forge.users
