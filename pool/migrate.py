"""Bringing a database to the schema of this version, or refusing to touch it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from pool.errors import SchemaError
from pool.store import current_revision
from pool.store.engine import WRITE


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Run what migrations are missing; return the revisions before and after.

    Safe to call from several processes at once: the first does it, the others wait and find it done.
    Raises SchemaError when the database is newer than this version.
    """
    with engine.connect() as plain:
        connection = plain.execution_options(**{WRITE: True})
        with connection.begin():
            before = current_revision(connection)
            _refuse_newer(before)
            if before != head():
                command.upgrade(_config(connection), "head")
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
    return str(_scripts().get_current_head())


def _refuse_newer(found: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in known:
        raise SchemaError(
            f"the database has schema {found}, which this version of forgepool does not know: it was made by a newer "
            "one. Install that version again, or restore the backup from before the upgrade"
        )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
