"""A database that is full, read-only, damaged or away: a clear error, nothing half written, and no restart afterwards.

A disk that is full or read-only is a real one where a test may mount one (root). SQLite's own limits show the same
everywhere: PRAGMA max_page_count ("database or disk is full") and PRAGMA query_only ("readonly database"), since
file permissions do not stop root.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from pool import migrate
from pool.errors import StoreBusy
from pool.schema import metadata
from pool.store import Store
from pool.store import faults as told
from pool.store.faults import fault
from tests.door.house import Door, edited, make_settings
from tests.helpers import databases
from tests.helpers.clock import Clock
from tests.helpers.config import Deployment
from tests.helpers.databases import PostgresServer
from tests.helpers.disks import Disk, small_disk
from tests.helpers.stores import template

#: Larger than what SQLite keeps of room in its files.
LARGE = 900_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a small disk for the database."""
    with small_disk(tmp_path / "disk", "6m") as mounted:
        yield mounted


@contextmanager
def door_on(folder: Path, url: str) -> Iterator[Door]:
    """Build a web app on a database of any kind."""
    clock = Clock()
    store = Store.open(url, clock=clock)
    try:
        migrate.upgrade(store.engine)
        door = Door(folder, store, clock, make_settings(folder))
        door.add_usual()
        yield door
    finally:
        store.close()


@pytest.fixture
def small(disk: Disk, tmp_path: Path) -> Iterator[Door]:
    """Build a web app whose database is on the small disk."""
    with door_on(tmp_path, f"sqlite:///{disk.folder}/forgepool.db") as door:
        yield door


def rows(door: Door) -> dict[str, int]:
    """Count the rows of every table."""
    with door.store.reading() as tx:
        counts = {name: tx.connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"') for name in metadata.tables}  # noqa: S608 - our own names
        return {name: found.scalar_one() for name, found in counts.items()}


def assert_refused(door: Door, reason: str, *, sample: str = "issue-assigned.json") -> None:
    """Post a delivery that must be answered with 503, in JSON."""
    reply = door.post(edited(sample, {"issue.body": "x" * LARGE}))

    assert (reply.status, reply.verdict, reply.reason, reply.tasks) == (503, "error", reason, ())
    assert door.bell.rung == []


def assert_serves(door: Door) -> None:
    """Post the same delivery, which must be taken now."""
    reply = door.post(edited("issue-assigned.json", {"issue.body": "x" * LARGE}))

    assert (reply.status, reply.tasks) == (202, (1,))
    assert door.bell.rung == [("dev-alpha", 1)]


# --- the disk ------------------------------------------------------------------------------------


def test_on_a_full_disk_a_delivery_is_503_and_nothing_is_half_written(small: Door, disk: Disk) -> None:
    before = rows(small)
    disk.fill()

    assert_refused(small, told.FULL)

    assert rows(small) == before
    disk.make_room()
    assert_serves(small)


def test_at_the_limit_of_the_file_a_delivery_is_503_and_nothing_is_half_written(door: Door, database: Path) -> None:
    before = rows(door)
    limits: list[sqlite3.Connection] = []

    @event.listens_for(door.store.engine, "checkout")
    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as small as its content allows
        limits.append(connection)

    assert_refused(door, told.FULL)

    assert rows(door) == before
    event.remove(door.store.engine, "checkout", limit)
    for connection in limits:
        connection.execute("PRAGMA max_page_count = 1073741823")
    assert_serves(door)


def test_on_a_read_only_disk_a_delivery_is_503_and_works_once_it_can_be_written(small: Door, disk: Disk) -> None:
    before = rows(small)
    small.store.close()  # what is open for writing keeps the disk from becoming read-only
    disk.remount("ro")

    assert_refused(small, told.CLOSED)
    health = small.client.get("/healthz")

    assert (health.status_code, health.get_json()) == (503, {"error": told.CLOSED})
    disk.remount("rw")
    assert rows(small) == before
    assert_serves(small)


def test_a_database_that_became_read_only_is_503_for_writers_and_still_read(door: Door, database: Path) -> None:
    before = rows(door)

    @event.listens_for(door.store.engine, "checkout")
    def protect(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    assert_refused(door, told.READ_ONLY)

    assert door.client.get("/healthz").status_code == 200
    event.remove(door.store.engine, "checkout", protect)
    door.store.close()
    assert rows(door) == before
    assert_serves(door)


def test_a_damaged_database_is_503_and_says_so(door: Door, database: Path) -> None:
    door.store.close()
    for left in database.parent.glob(f"{database.name}-*"):
        left.unlink()
    whole = database.read_bytes()
    database.write_bytes(b"not a database at all" + whole[21:])

    assert_refused(door, told.DAMAGED)

    database.write_bytes(whole)
    assert_serves(door)


def test_a_stranger_is_turned_away_although_the_disk_is_full(small: Door, disk: Disk) -> None:
    disk.fill()

    reply = small.post(edited("issue-assigned.json", {"issue.body": "x" * LARGE}), secret=b"wrong")

    assert (reply.status, reply.verdict) == (403, "refused")


def _cli_on(disk: Disk, tmp_path: Path) -> Deployment:
    (disk.folder / "forgepool.db").write_bytes(template())
    return Deployment.make(tmp_path, database_url=f"sqlite:///{disk.folder}/forgepool.db")


def test_the_command_line_tells_of_a_full_disk_in_one_sentence(disk: Disk, tmp_path: Path) -> None:
    cli = _cli_on(disk, tmp_path)
    cli.run("instances", "add", "dev-alpha", "--type", "dev")
    disk.fill()

    said = cli.run("instances", "set", "dev-alpha", "--notes", "x" * LARGE, status=1)

    assert said.stderr.startswith(f"Error: the database {cli.settings.database_url} cannot be used: ")
    assert said.stderr.endswith(f"({told.FULL})\n")
    assert len(said.stderr.splitlines()) == 1
    disk.make_room()
    cli.run("instances", "set", "dev-alpha", "--notes", "x" * LARGE)
    cli.store.close()


def test_the_command_line_tells_of_a_read_only_disk_in_one_sentence(disk: Disk, tmp_path: Path) -> None:
    cli = _cli_on(disk, tmp_path)
    disk.remount("ro")

    said = cli.run("instances", "add", "dev-alpha", "--type", "dev", status=1)

    url = cli.settings.database_url
    assert said.stderr == f"Error: the database {url} cannot be used: unable to open database file ({told.CLOSED})\n"
    disk.remount("rw")
    cli.run("instances", "add", "dev-alpha", "--type", "dev")


# --- the server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL of our own."""
    with databases.postgres_server() as running:
        yield running


@pytest.fixture
def remote(server: PostgresServer, tmp_path: Path) -> Iterator[Door]:
    """Build a web app whose database is on that server."""
    if not server.is_running():
        server.start()
    databases.administrate(server.url, "DROP SCHEMA public CASCADE")
    databases.administrate(server.url, "CREATE SCHEMA public")
    with door_on(tmp_path, server.url) as door:
        yield door


def test_without_the_database_server_every_door_is_503_and_works_when_it_is_back(
    remote: Door, server: PostgresServer
) -> None:
    before = rows(remote)
    server.stop()

    assert_refused(remote, told.AWAY)
    others = [remote.client.get("/healthz"), remote.cancel({"instance": "dev-alpha"})]

    assert [(one.status_code, one.get_json()) for one in others] == [(503, {"error": told.AWAY})] * 2
    server.start()
    assert rows(remote) == before
    assert_serves(remote)


def test_a_database_server_that_may_not_be_written_is_503(remote: Door, server: PostgresServer) -> None:
    """As a standby that nobody has promoted."""
    before = rows(remote)
    databases.administrate(server.url, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    remote.store.close()

    assert_refused(remote, told.READ_ONLY)

    other = server.url.rpartition("/")[0] + "/template1"
    databases.administrate(other, "ALTER DATABASE postgres RESET default_transaction_read_only")
    remote.store.close()
    assert rows(remote) == before
    assert_serves(remote)


def test_the_command_line_tells_of_an_absent_server_in_one_sentence(
    server: PostgresServer, remote: Door, tmp_path: Path
) -> None:
    folder = tmp_path / "cli"
    folder.mkdir()
    cli = Deployment.make(folder, database_url=server.url)
    server.stop()

    said = cli.run("instances", "list", status=1).stderr

    assert said.startswith(f"Error: the database {server.url} cannot be used: connection failed: ")
    assert said.endswith(f" ({told.AWAY})\n")
    assert len(said.splitlines()) == 1
    server.start()
    assert [one["name"] for one in cli.json("instances", "list")] == sorted(
        ["boss-one", "dev-alpha", "dev-bravo", "reviewer-one"]
    )
    cli.store.close()


# --- the sentences -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("55P03", told.LOCKED),
        ("53100", told.FULL),
        ("53300", told.AWAY),
        ("25006", told.READ_ONLY),
        ("57P01", told.AWAY),
        ("08006", told.AWAY),
        ("28P01", told.REFUSED),
        ("XX001", told.DAMAGED),
        ("58030", told.BROKEN),
        ("42P01", None),  # undefined_table: not the server's fault
        ("23505", None),  # unique_violation
    ],
)
def test_what_postgresql_says_is_told_in_a_sentence_with_a_remedy(state: str, sentence: str | None) -> None:
    said = Exception("what it said")
    said.sqlstate = state  # type: ignore[attr-defined] # as psycopg's errors have it

    found = fault(DBAPIError("SELECT 1", {}, said))

    assert (found and str(found)) == sentence
    assert isinstance(found, StoreBusy) == (state == "55P03")


def test_an_error_of_a_statement_is_no_fault_of_the_database() -> None:
    with pytest.raises(sqlite3.OperationalError) as raised:
        sqlite3.connect(":memory:").execute("SELECT * FROM nowhere")

    assert fault(DBAPIError("SELECT", {}, raised.value)) is None
