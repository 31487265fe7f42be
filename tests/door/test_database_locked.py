"""A database that does not serve: the sender is told, nothing is half written, and the same delivery works later."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.door.house import URL, Door, assigned
from tests.helpers.deliveries import load

TABLES = ("deliveries", "tasks", "task_events", "subjects", "pools")


@pytest.fixture
def hasty(door: Door, database: Path) -> Iterator[Door]:
    """Build a web app that waits for another writer for a moment only."""
    with door.reopened(busy_s=0.05) as opened:
        yield opened


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the writers' lock."""
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def rows(database: Path) -> list[int]:
    """Count the rows of every table that a delivery writes to."""
    other = sqlite3.connect(database)
    counts = [other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]  # noqa: S608 - our own names
    other.close()
    return counts


def test_a_locked_database_is_503_and_nothing_is_written(hasty: Door, database: Path) -> None:
    with locked(database):
        reply = hasty.post("issue-assigned.json")

    assert (reply.status, reply.verdict) == (503, "error")
    assert reply.reason == "the database is locked by another writer; nothing was written, try again"
    assert (rows(database), hasty.bell.rung) == ([0] * len(TABLES), [])


def test_the_same_delivery_works_once_the_lock_is_gone(hasty: Door, database: Path) -> None:
    with locked(database):
        hasty.post("issue-assigned.json")

    reply = hasty.post("issue-assigned.json")

    assert (reply.status, reply.tasks, reply.receipt) == (202, (1,), 1)
    assert hasty.bell.rung == [("dev-alpha", 1)]


@pytest.mark.parametrize(("secret", "status"), [(b"", 401), (b"wrong", 403)])
def test_a_stranger_is_turned_away_whether_or_not_it_can_be_written_down(
    hasty: Door, database: Path, secret: bytes, status: int
) -> None:
    with locked(database):
        reply = hasty.post("issue-assigned.json", secret=secret)

    assert (reply.status, reply.verdict, reply.receipt) == (status, "refused", None)


def test_a_body_that_is_too_large_is_413_whether_or_not_it_can_be_written_down(hasty: Door, database: Path) -> None:
    """Storing the refusal failed inside the handler of another error, and that was answered with 500."""
    with locked(database):
        response = hasty.client.post(URL, data=b" " * (2 << 20))

    assert (response.status_code, response.get_json()["receipt"]) == (413, None)


def test_a_signed_delivery_that_is_refused_waits_for_the_database(hasty: Door, database: Path) -> None:
    """Its body is wanted for a replay."""
    sample = load("issue-assigned.json")
    hasty.settings = hasty.settings.model_copy(
        update={"service": hasty.settings.service.model_copy(update={"repos": ("acme/gadgets",)})}
    )
    hasty.__post_init__()

    with locked(database):
        busy = hasty.post(sample)

    assert (busy.status, hasty.post(sample).status) == (503, 403)


@pytest.mark.parametrize("table", TABLES)
def test_a_database_that_fails_in_the_middle_keeps_nothing_of_the_delivery(
    door: Door, database: Path, table: str
) -> None:
    before = rows(database)
    other = sqlite3.connect(database)
    event = "BEFORE UPDATE ON" if table == "deliveries" else "BEFORE INSERT ON"
    other.execute(f"CREATE TRIGGER t {event} {table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")

    reply = door.post(assigned("dev", "reviewer"))

    other.execute("DROP TRIGGER t")
    other.close()
    assert (reply.status, reply.reason) == (503, "the database does not serve; send the delivery again later")
    assert (rows(database), door.bell.rung) == (before, [])
    assert door.post(assigned("dev", "reviewer")).tasks == (1, 2)


def test_a_failing_database_does_not_put_the_delivery_into_the_log(
    door: Door, database: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    other = sqlite3.connect(database)
    other.execute("CREATE TRIGGER t BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    other.close()

    door.post("issue-assigned.json")

    said = "".join(capsys.readouterr()) + caplog.text
    assert "the disk is full" in said
    assert "Sort widgets" not in said


def test_health_and_cancel_tell_of_a_database_that_does_not_serve(door: Door, database: Path) -> None:
    other = sqlite3.connect(database)
    other.execute("ALTER TABLE instances RENAME TO gone")
    other.close()

    answers = [door.client.get("/healthz"), door.cancel({"instance": "dev-alpha"})]

    assert [(answer.status_code, answer.get_json()) for answer in answers] == [
        (503, {"error": "the database does not serve"})
    ] * 2


def test_cancel_in_a_locked_database_is_503_and_cancels_nothing(hasty: Door, database: Path) -> None:
    hasty.post("issue-assigned.json")

    with locked(database):
        answer = hasty.cancel({"task_id": 1})

    assert (answer.status_code, hasty.task(1).state) == (503, "queued")
