"""Databases for tests: migrated once, then copied, and fast because a test may lose them in a power cut.

TEST_POSTGRES_URL runs the same tests on that PostgreSQL server; each test process makes a database of its own there,
whose tables are emptied before each test.
"""

import functools
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, event

from pool import migrate
from pool.schema import metadata
from pool.store import Store
from pool.store.engine import WRITE
from tests.helpers import databases
from tests.helpers.clock import Clock
from tests.helpers.databases import POSTGRES

__all__ = ["POSTGRES", "SOAK", "new_store", "open_fast", "template", "throwaway_store"]

#: Whether properties with a database of their own take all the time they want.
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


def new_store(folder: Path, clock: Clock) -> Store:
    """Return a store with the newest schema and nothing in it."""
    if POSTGRES:
        store = Store.open(databases.of_this_process(), clock=clock)
        migrate.upgrade(store.engine)
        _empty(store.engine)
        return store
    path = folder / "forgepool.db"
    path.write_bytes(template())
    return open_fast(path, clock)


def open_fast(path: Path, clock: Clock, *, busy_s: float = 15.0) -> Store:
    """Open a SQLite file without waiting for the disk."""
    store = Store.open(f"sqlite:///{path}", clock=clock, busy_s=busy_s)

    @event.listens_for(store.engine, "connect")
    def do_not_wait(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    return store


@contextmanager
def throwaway_store() -> Iterator[tuple[Store, Clock]]:
    """Give a store to one example of a property."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), clock)
        try:
            yield store, clock
        finally:
            store.close()


@functools.cache
def template() -> bytes:
    """Return a migrated, empty SQLite database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        store = Store.open(f"sqlite:///{path}")
        migrate.upgrade(store.engine)
        store.close()
        return path.read_bytes()


def _empty(engine: Engine) -> None:
    with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        names = ", ".join(metadata.tables)
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
