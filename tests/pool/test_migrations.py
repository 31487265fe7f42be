"""Bringing a database to the schema of this version, or refusing to touch it."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import OperationalError

from pool import migrate
from pool.errors import SchemaError
from pool.schema import metadata
from pool.store import Store
from pool.store.engine import WRITE
from tests.pool import drive
from tests.pool.processes import PROCESSES, Crew, upgrade_once


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    """Return a store on a SQLite database without any table."""
    store = Store.open(f"sqlite:///{tmp_path}/empty.db")
    yield store
    store.close()


def test_an_empty_database_gets_the_newest_schema(empty: Store) -> None:
    before, after = migrate.upgrade(empty.engine)

    migrate.check(empty.engine)
    assert (before, after) == (None, migrate.head())
    assert _tables(empty.engine) == {*metadata.tables, "alembic_version"}


def test_upgrading_again_changes_nothing(empty: Store) -> None:
    migrate.upgrade(empty.engine)
    drive.add(empty, "dev-alpha")

    before, after = migrate.upgrade(empty.engine)

    assert before == after == migrate.head()
    assert drive.instance(empty, "dev-alpha").name == "dev-alpha"


def test_of_processes_that_upgrade_at_once_one_does_it_and_the_others_find_it_done(empty: Store, crew: Crew) -> None:
    found = crew.together(empty, [(upgrade_once,)] * PROCESSES)

    migrate.check(empty.engine)
    assert sorted(found, key=str) == [(migrate.head(), migrate.head())] * (PROCESSES - 1) + [(None, migrate.head())]


def test_an_upgrade_that_fails_half_way_leaves_nothing_behind(empty: Store) -> None:
    _run(empty.engine, "CREATE TABLE tasks (stranger INTEGER)")

    with pytest.raises(OperationalError):
        migrate.upgrade(empty.engine)

    assert _tables(empty.engine) == {"tasks"}


def test_an_empty_database_is_refused_with_the_command_that_helps(empty: Store) -> None:
    with pytest.raises(SchemaError, match=r"is empty.*run `forgepool db upgrade`"):
        migrate.check(empty.engine)


def test_an_older_database_is_refused_with_the_command_that_helps(
    empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(empty.engine)
    monkeypatch.setattr(migrate, "head", lambda: "9998")

    with pytest.raises(
        SchemaError, match=rf"has schema {migrate.REVISIONS[-1]}, this version needs 9998; run `forgepool db upgrade`"
    ):
        migrate.check(empty.engine)


@pytest.mark.parametrize("act", [migrate.check, migrate.upgrade])
def test_a_newer_database_is_refused_and_left_as_it_is(empty: Store, act: Any) -> None:
    migrate.upgrade(empty.engine)
    _run(empty.engine, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaError, match=r"has schema 9999.*does not know.*newer one.*backup"):
        act(empty.engine)

    with empty.reading() as tx:
        assert tx.connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"


def test_the_migrations_make_the_schema_that_the_code_declares(store: Store) -> None:
    with store.reading() as tx:
        context = MigrationContext.configure(tx.connection)

        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_very_tables_and_indexes_that_the_code_declares(empty: Store, tmp_path: Path) -> None:
    migrate.upgrade(empty.engine)
    declared = Store.open(f"sqlite:///{tmp_path}/declared.db")
    metadata.create_all(declared.engine)

    found, expected = _shape(empty.engine), _shape(declared.engine)

    declared.close()
    assert found == expected


def test_the_first_schema_can_be_taken_down_again(empty: Store) -> None:
    migrate.upgrade(empty.engine)

    with empty.engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        command.downgrade(migrate.config(connection), "base")

    assert _tables(empty.engine) == {"alembic_version"}


def _run(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        connection.exec_driver_sql(statement)


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def _shape(engine: Engine) -> dict[str, Any]:
    """Return columns, keys and indexes, conditions included, as SQLite has them."""
    with engine.connect() as connection:

        def rows(statement: str) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

        columns = {name: sorted(row[1:] for row in rows(f"PRAGMA table_xinfo({name})")) for name in metadata.tables}
        keys = {name: rows(f"PRAGMA foreign_key_list({name})") for name in metadata.tables}
        indexes = rows("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        never_reuse_an_id = rows("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")
    return {
        "columns": columns,
        "keys": keys,
        "indexes": {name: " ".join(sql.split()) for name, sql in indexes},
        "never reuse an id": sorted(never_reuse_an_id),
    }


def test_the_revisions_that_are_named_are_the_files_that_are_there() -> None:
    scripts = ScriptDirectory.from_config(migrate.config())

    assert list(migrate.REVISIONS) == [script.revision for script in scripts.walk_revisions()][::-1]


def test_a_new_file_that_another_process_is_about_to_write_is_waited_for(tmp_path: Path) -> None:
    """Eight processes once began on one new file, and SQLite refused one of them without waiting."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE something (x)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)

    release.start()
    opened = Store.open(f"sqlite:///{path}")
    with opened.reading() as tx:
        mode = tx.connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    opened.close()
    release.join()
    other.close()

    assert mode == "wal"
