"""Opening a database so that writers queue up instead of failing. Touches SQLAlchemy only."""

import random
import sqlite3
import time
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from pool.errors import ConfigError

_WAL_PAUSE_S = 0.01
_TRY_AGAIN_S = (0.0005, 0.0025)  #: between two looks for the write lock
#: Execution option that marks a transaction as a writing one.
WRITE = "forgepool_write"
#: Names the writers' lock of a PostgreSQL database: any number, as long as every forgepool uses the same one.
_WRITERS = 7041776


def open_engine(url: str, *, busy_s: float = 15.0) -> Engine:
    """Open the database at `url` (sqlite or postgresql+psycopg).

    busy_s: seconds that a statement waits for another writer before it gives up.
    Raises ConfigError for a URL that is neither.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(["service.database_url: not a database URL; try sqlite:////path/to/forgepool.db"]) from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database not in (None, "", ":memory:"):
            return _open_sqlite(url, Path(str(parsed.database)), busy_s)
        case "postgresql":
            return _open_postgresql(parsed, busy_s)
        case other:
            raise ConfigError([f"service.database_url: {other!r} will not do; use a SQLite file or PostgreSQL"])


def _open_postgresql(url: URL, busy_s: float) -> Engine:
    options = {"options": f"-c lock_timeout={int(busy_s * 1000)}", "connect_timeout": max(2, int(busy_s))}
    engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=options)

    def on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITE, False):
            # One writer at a time, as on SQLite: what a verb has read stays true until it has written, and no two
            # transactions can wait for each other. They take milliseconds, agents run for minutes.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    event.listen(engine, "begin", on_begin)
    return engine


def _open_sqlite(url: str, path: Path, busy_s: float) -> Engine:
    # Prompts, logs and deliveries lie beside it: nobody else needs to read them.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": busy_s})

    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN is a deferred one, issued at a moment of its choosing; ours is below.
        connection.isolation_level = None
        _use_wal(connection, busy_s)
        for pragma in (
            "synchronous = FULL",  # an accepted delivery survives a power cut; NORMAL may lose the last commits
            f"busy_timeout = {int(busy_s * 1000)}",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once, whatever the busy time-out, when another
        # has written in between (sqlite.org/rescode.html#busy_snapshot). Writers take the lock at BEGIN.
        if connection.get_execution_options().get(WRITE, False):
            _begin_to_write(connection, busy_s)
        else:
            connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Let readers never wait for the writer.

    Two processes that change the mode of a new file at the same moment would wait for each other, so SQLite refuses
    one of them at once, whatever the busy time-out.
    """
    give_up = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= give_up:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return


def _begin_to_write(connection: Connection, busy_s: float) -> None:
    """Take the write lock, looking for it every millisecond or so.

    SQLite's own waiters sleep longer and longer, up to 100 ms, so that a busy neighbour starves them: the slowest of a
    hundred deliveries took a second. Chance keeps the waiters from meeting each time.
    """
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    give_up = time.monotonic() + busy_s
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() >= give_up:
                    raise
                time.sleep(random.uniform(*_TRY_AGAIN_S))  # noqa: S311 - nobody has to be kept from guessing it
            else:
                return
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
