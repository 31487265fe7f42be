"""Bringing a database to the schema of this version, or refusing to touch it."""

import hashlib
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
from sqlalchemy import Engine, MetaData, inspect, select
from sqlalchemy.exc import OperationalError

from pool import migrate
from pool.errors import SchemaError
from pool.schema import metadata
from pool.states import Move
from pool.store import Store
from pool.store.engine import WRITE
from tests.helpers.databases import POSTGRES, Database
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


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Return a store of the schema before the workflow, with a task in each situation."""
    database = Database(request.param)
    opened = Store.open(database.url or f"sqlite:///{tmp_path}/older.db")
    _go_to(opened.engine, "0002")
    for statement in _OLDER:
        _run(opened.engine, statement)
    yield opened
    opened.close()
    database.close()


_TASK = """INSERT INTO tasks (position, type, instance, state, kind, repo, number, session_key, request, reason,
created_at, started_at, finished_at, evidence, agent_pid, agent_started, fence, lease_until, delivery) VALUES """
_REQUEST = '{"kind": "implement", "repo": "acme/shop", "number": 7, "labels": []}'
_EVIDENCE = '{"head_before": "a", "head_after": "b", "notes": []}'
_ABOUT = f"'implement', 'acme/shop', 7, 'dev:acme/shop:7', '{_REQUEST}', ''"
_OLDER = (
    """INSERT INTO instances (name, type, state, queued, running, created_at, updated_at)
    VALUES ('dev-alpha', 'dev', 'active', 1, 1, 1, 1)""",
    """INSERT INTO deliveries (received_at, source, signed, verdict, status, reason)
    VALUES (1, 'forgejo', TRUE, 'accepted', 202, '')""",
    f"{_TASK} (1, 'dev', 'dev-alpha', 'succeeded', {_ABOUT}, 1, 1, 2, '{_EVIDENCE}', NULL, NULL, 1, NULL, 1)",
    f"{_TASK} (2, 'dev', NULL, 'failed', {_ABOUT}, 2, NULL, 2, NULL, NULL, NULL, NULL, NULL, 1)",
    f"{_TASK} (3, 'dev', 'dev-alpha', 'dead_lettered', {_ABOUT}, 3, NULL, 3, NULL, NULL, NULL, NULL, NULL, 1)",
    f"{_TASK} (4, 'dev', 'dev-alpha', 'running', {_ABOUT}, 4, 5, NULL, NULL, 77, 0.5, 2, 99, 1)",
    f"{_TASK} (5, 'dev', 'dev-alpha', 'queued', {_ABOUT}, 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1)",
    "INSERT INTO task_events (task, at, event, \"by\", why) VALUES (1, 1, 'queued', 'webhook', '')",
    "INSERT INTO subjects (repo, number, is_pull, state) VALUES ('acme/shop', 7, FALSE, 'open')",
    """INSERT INTO sessions (key, session_id, instance, task, updated_at)
    VALUES ('dev:acme/shop:7', 's', 'dev-alpha', 1, 2)""",
)


def test_a_deployment_that_is_at_work_gets_the_workflow_and_loses_nothing(older: Store) -> None:
    before = _rows(older.engine)

    assert migrate.upgrade(older.engine) == ("0002", migrate.head())

    migrate.check(older.engine)
    after = _rows(older.engine)
    ran = {row["id"]: bool(row.pop("agent_ran")) for row in after["tasks"]}
    assert {name: after[name] for name in before if name != "alembic_version"} == {
        name: rows for name, rows in before.items() if name != "alembic_version"
    }
    assert ran == {1: True, 2: False, 3: False, 4: True, 5: False}
    with older.writing() as tx:
        assert tx.work("acme/shop", 7).chain == 2
        assert tx.interrupt_run(4, fence=2, by="x", why="") is Move.INTERRUPT
        tx.hold("acme/shop", 7, by="ada")
        assert compare_metadata(MigrationContext.configure(tx.connection), metadata) == []
    assert drive.claim(older, "dev-alpha").task.id == 5


def test_the_workflow_can_be_taken_down_again_and_leaves_the_rest_as_it_was(older: Store) -> None:
    before = _rows(older.engine)
    indexes = _indexes(older.engine)
    migrate.upgrade(older.engine)
    with older.writing() as tx:
        tx.enter_lane("acme/shop", "main", 8, head_sha="a", approved_at=tx.now)
        tx.owe("report:x", "report", repo="acme/shop", number=7, type_name="dev")

    _go_to(older.engine, "0002")

    assert (_rows(older.engine), _indexes(older.engine)) == (before, indexes)
    migrate.upgrade(older.engine)
    with older.reading() as tx:
        assert (tx.list_merges(), tx.list_effects(), tx.work("acme/shop", 7).chain) == ([], [], 2)


def _go_to(engine: Engine, revision: str) -> None:
    with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        is_new = "alembic_version" not in inspect(connection).get_table_names()
        (command.upgrade if is_new else command.downgrade)(migrate.config(connection), revision)


def _rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Return everything that is stored, by table."""
    with engine.connect() as connection:
        found = MetaData()
        found.reflect(connection)
        return {
            name: sorted((dict(row._mapping) for row in connection.execute(select(table))), key=str)
            for name, table in found.tables.items()
        }


def _indexes(engine: Engine) -> list[tuple[str, ...]]:
    """Return every index with its columns and its condition."""
    look = inspect(engine)
    found = [index for name in look.get_table_names() for index in look.get_indexes(name)]
    return sorted(
        (str(index["name"]), str(index["column_names"]), *(str(one) for one in index["dialect_options"].values()))
        for index in found
    )


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


#: SHA-256 of each migration that databases may have gone through.
_AS_THEY_WERE = {
    "0001": "2ef14348a91f9769a74b632da479ff10968707929502696da40b51ec36fd595d",
    "0002": "f1565af778131aa1045ed590ebb5c0191f961e0a86c9edd8aa36f5ec330d857b",
    "0003": "253f1054d86ec3de541f8564fbb9436a67e023dd212cc0c16b0b0ffb4a39682f",
    "0004": "dfd12f339291e3f1867202a99cc7eb07f2dbdd1686708de19b22a2f13a5c0349",
}


def test_a_migration_stays_as_it_is_and_what_changes_is_a_new_one() -> None:
    """An index that was changed in the file of its table never came to a database that had the table already."""
    scripts = ScriptDirectory.from_config(migrate.config()).walk_revisions()

    found = {one.revision: hashlib.sha256(Path(one.path).read_bytes()).hexdigest() for one in scripts}
    assert found == _AS_THEY_WERE


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
