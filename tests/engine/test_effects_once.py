"""A process that is killed between "the forge has it" and "the ledger knows" does not write it twice."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pool.crashpoints import CRASH_AT, Point
from pool.work import Effect
from tests.engine.conftest import Build
from tests.helpers.fake_port import serve
from tests.helpers.fake_writer import HEAD, REPO, TYPES, Failure, FakeWriter
from tests.helpers.house import PYTHON, House
from tests.helpers.up import FORGEPOOL
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.engine

#: One round of writing what is owed, as a process of its own.
SETTLE = """
from tasks.doorbell import CeleryBell
from tasks.celery import app
from tasks.engine import Engine
from tasks.forges import Forges
from tasks.ledger import owed, settle
from tasks.settings import Settings

settings = Settings.load()
engine = Engine.open(settings, CeleryBell(app))
with Forges(settings) as forges:
    settle(engine, forges, owed(engine))
"""


@pytest.fixture
def forge() -> FakeWriter:
    """Return a forge with an issue and a pull request."""
    forge = FakeWriter()
    forge.issue(7, assignees=["grace"])
    forge.pull(8, user="grace")
    return forge


@pytest.fixture
def house(build: Build, forge: FakeWriter) -> Iterator[House]:
    """Return a deployment whose accounts have tokens for that forge."""
    house = build()
    with serve(forge) as url:
        text = house.config.read_text().replace('forge_url = "http://127.0.0.1:1"', f'forge_url = "{url}"')
        text = text.replace('repos = ["acme/widgets"]', f'repos = ["{REPO}"]\nforge_poll_s = 0\nforge_rate = 1000')
        for name in TYPES:
            (house.folder / f"token-{name}").write_text(f"token-of-{name}")
            (house.folder / f"token-{name}").chmod(0o600)
            text = text.replace(f"[types.{name}]\n", f'[types.{name}]\ntoken_file = "token-{name}"\n')
        house.config.write_text(text)
        yield house


def owe(house: House, kind: str, number: int, **body: Any) -> str:
    key = f"{kind}:{REPO}#{number}"
    with house.store.writing() as tx:
        tx.owe(key, kind, repo=REPO, number=number, type_name="boss", body=body)
    return key


def effect(house: House, key: str) -> Effect:
    with house.store.reading() as tx:
        found = tx.effect(key)
    assert found is not None
    return found


def arm(folder: Path) -> dict[str, str]:
    """Let the next process that has written something die before it notes that."""
    folder.mkdir()
    (folder / f"{Point.WRITTEN}.die").touch()
    return {CRASH_AT: str(folder)}


@dataclass(frozen=True)
class Case:
    """One kind of effect, and the one call that writes it."""

    kind: str
    number: int
    call: str
    body: dict[str, Any] = field(default_factory=dict)


STATUS = {"sha": HEAD, "context": "forgepool/review", "state": "success", "description": "done"}
CASES = (
    Case("report", 7, "POST comments"),
    Case("ask", 7, "POST comments", {"cause": "tries", "sentence": "it was tried 3 times", "pull": None}),
    Case("reply", 7, "POST comments", {"text": "so it is"}),
    Case("request-review", 8, "POST requested_reviewers", {"login": "reviewer", "head_sha": HEAD}),
    Case("status", 8, f"POST {HEAD}", STATUS),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_an_effect_is_written_once_although_its_writer_is_killed_before_it_notes_it(
    house: House, forge: FakeWriter, tmp_path: Path, case: Case
) -> None:
    key = owe(house, case.kind, case.number, **case.body)
    crash = arm(tmp_path / "crash")

    killed = house.start([PYTHON, "-c", SETTLE], log="killed.log", **crash)
    assert killed.wait(timeout=60) == -signal.SIGKILL, house.read("killed.log")
    after_the_kill = (forge.writes()[case.call], effect(house, key).done_at)
    again = house.start([PYTHON, "-c", SETTLE], log="again.log", **crash)

    assert again.wait(timeout=60) == 0, house.read("again.log")
    assert after_the_kill == (1, None)
    assert forge.writes()[case.call] == 1
    assert effect(house, key).done_at is not None


def test_a_fleet_that_is_killed_as_it_writes_leaves_one_comment(
    house: House, forge: FakeWriter, tmp_path: Path
) -> None:
    key = owe(house, "report", 7)
    crash = arm(tmp_path / "crash")

    killed = house.start([*FORGEPOOL, "fleet"], log="fleet.log", **crash)
    assert killed.wait(timeout=60) == -signal.SIGKILL, house.read("fleet.log")
    assert effect(house, key).done_at is None
    house.start([*FORGEPOOL, "fleet"], log="fleet.log", **crash)
    # Its lease has to end first: nobody could tell the dead one from one that stands still.
    wait_until(lambda: effect(house, key).done_at, 60)

    assert len(forge.bodies(7)) == 1
    assert effect(house, key).ref == str(forge.comments[0]["id"])


def test_an_answer_that_is_lost_and_then_a_kill_leave_one_comment(
    house: House, forge: FakeWriter, tmp_path: Path
) -> None:
    """The forge has the comment, the writer does not know; the next one dies as it has found it."""
    key = owe(house, "reply", 7, text="so it is")
    forge.fail("POST comments", Failure(502, acts=True))
    for log, status in (("first.log", 0), ("second.log", -signal.SIGKILL), ("third.log", 0)):
        with house.store.writing() as tx:
            tx.connection.exec_driver_sql("UPDATE effects SET due_at = created_at")
        crash = arm(tmp_path / "crash") if log == "second.log" else {}
        assert house.start([PYTHON, "-c", SETTLE], log=log, **crash).wait(timeout=60) == status, house.read(log)

    assert len(forge.bodies(7)) == 1
    assert effect(house, key).done_at is not None
