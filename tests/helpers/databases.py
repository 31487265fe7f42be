"""Databases for whole deployments. TEST_DATABASE=sqlite (default) or postgresql, which TEST_POSTGRES_URL names.

Each deployment gets an empty database of its own, which is gone after the test.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from tests.helpers.brokers import missing
from tests.helpers.ports import free_port

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "")
KIND = os.environ.get("TEST_DATABASE") or "sqlite"
KINDS = ("sqlite", "postgresql")
assert KIND in KINDS, f"TEST_DATABASE = {KIND!r}: use one of {', '.join(KINDS)}"
#: Where Debian and others keep the server's programs.
PROGRAMS = ("/usr/lib/postgresql/*/bin/pg_ctl", "/usr/pgsql-*/bin/pg_ctl")


class Database:
    """One deployment's database; url: what service.database_url says, "" for the SQLite file in the state folder."""

    def __init__(self, kind: str = KIND) -> None:
        self.url = ""
        self._name = f"forgepool_{uuid.uuid4().hex[:16]}"
        if kind == "postgresql":
            assert POSTGRES, "TEST_DATABASE=postgresql needs TEST_POSTGRES_URL"
            administrate(POSTGRES, f'CREATE DATABASE "{self._name}"')
            self.url = make_url(POSTGRES).set(database=self._name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop it, whoever is still connected."""
        if self.url:
            administrate(POSTGRES, f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')
            self.url = ""


@functools.cache
def of_this_process() -> str:
    """Return the URL of a database that ends with this process."""
    database = Database("postgresql")
    atexit.register(database.close)
    return database.url


def administrate(url: str, statement: str) -> None:
    """Run one statement that no transaction may hold."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


class PostgresServer:
    """A PostgreSQL that a test may stop and start."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", f"{self._folder}/data", "-w", "-s", "-l", f"{self._folder}/log", "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-s", "-m", "immediate", "stop")

    def is_running(self) -> bool:
        """Tell whether it has been started."""
        return (self._folder / "data" / "postmaster.pid").exists()

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root.
        user = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups") if os.getuid() == 0 else ()
        argv = [*user, str(self._programs / program), *arguments]
        # Not a pipe: the server would inherit it, and nobody would see its end.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", check=False, timeout=60
            )
            said.seek(0)
            assert done.returncode == 0, (argv, said.read())


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL of the test's own."""
    found = sorted(path for pattern in PROGRAMS for path in Path("/").glob(pattern.lstrip("/")))
    if not found:
        missing("postgresql")
    folder = Path(tempfile.mkdtemp(prefix="forgepool-postgres-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = PostgresServer(found[-1].parent, folder)
        server.start()
        try:
            yield server
        finally:
            if server.is_running():
                server.stop()
    finally:
        shutil.rmtree(folder)
