"""Bringing a database to the schema of this version, or refusing to touch it."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from pool.errors import SchemaError
from pool.store import current_revision
from pool.store.engine import WRITE

if TYPE_CHECKING:
    from alembic.config import Config

#: Every schema revision, oldest first; tests/pool/test_migrations.py holds it against the files.
REVISIONS = ("0001", "0002", "0003", "0004")


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Run what migrations are missing; return the revisions before and after.

    Safe to call from several processes at once: the first does it, the others wait and find it done.
    Raises SchemaError when the database is newer than this version.
    """
    with engine.connect() as plain:
        connection = plain.execution_options(**{WRITE: True})
        with connection.begin():
            if connection.dialect.name == "postgresql":
                # SQLite's BEGIN IMMEDIATE keeps the others waiting. Any number will do, as long as it stays the same.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7041776)")
            before = current_revision(connection)
            _refuse_newer(before)
            if before != head():
                _run_migrations(connection)
            return before, head()


def check(engine: Engine) -> None:
    """Raise SchemaError unless the database has exactly the schema of this version."""
    with engine.connect() as connection:
        found = current_revision(connection)
    _refuse_newer(found)
    if found != head():
        state = "is empty" if found is None else f"has schema {found}"
        raise SchemaError(f"the database {state}, this version needs {head()}; run `forgepool db upgrade`")


def head() -> str:
    """Return the newest revision that this version knows."""
    return REVISIONS[-1]


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise SchemaError(
            f"the database has schema {found}, which this version of forgepool does not know: it was made by a newer "
            "one. Install that version again, or restore the backup from before the upgrade"
        )


def _run_migrations(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - every command asks for the head; only this one needs Alembic

    command.upgrade(config(connection), "head")


def config(connection: Connection | None = None) -> "Config":
    """Return Alembic's view of the migrations."""
    from alembic.config import Config  # noqa: PLC0415

    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    found.attributes["connection"] = connection
    return found
