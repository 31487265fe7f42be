"""What a command works with: configuration, store, engine. Each is opened when it is first needed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import click
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pool import migrate
from pool.errors import ConfigError, ForgepoolError, SchemaError
from pool.explain import Hindrance, hindrance, live_hosts
from pool.model import Instance
from pool.store import Store, Tx
from pool.store.faults import fault
from tasks import logs
from tasks.engine import Doorbell, Engine
from tasks.secret_files import redacted
from tasks.settings import Settings
from webapp.cli import VERBOSE


class DatabaseAway(ForgepoolError):
    """The database cannot be used."""


class LazyBell:
    """A doorbell that loads Celery when it is rung: most commands never ring."""

    def ring(self, instance: str, task: int) -> None:
        """Ring for a task. Raises BellError when the broker does not take it."""
        from tasks.celery import app  # noqa: PLC0415 - reads the configuration, and takes a while
        from tasks.doorbell import CeleryBell  # noqa: PLC0415

        CeleryBell(app).ring(instance, task)

    def waiting(self, instance: str) -> int:
        """Count unanswered rings. Raises BellError when the broker does not say."""
        from tasks.celery import app  # noqa: PLC0415 - reads the configuration, and takes a while
        from tasks.doorbell import CeleryBell  # noqa: PLC0415

        return CeleryBell(app).waiting(instance)


class Session:
    """One call of the command line."""

    def __init__(self, bell: Doorbell | None = None) -> None:
        """`bell`: in place of the one on the configured broker."""
        self._bell = bell or LazyBell()

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises ConfigError."""
        settings = Settings.load()
        is_verbose = click.get_current_context().meta.get(VERBOSE, False)
        # A command tells its outcome itself; the same again as a log line would only be in the way.
        logs.configure(settings.service.log_format, level=logging.INFO if is_verbose else logging.CRITICAL)
        return settings

    @contextmanager
    def store(self, *, check_schema: bool = True) -> Iterator[Store]:
        """Open the database. Raises SchemaError, DatabaseAway."""
        url = self.settings.database_url
        if check_schema:
            _must_exist(url)
        try:
            store = Store.open(url)
        except ModuleNotFoundError as error:
            raise ConfigError(
                [f"service.database_url: {error.name} is not installed; install forgepool[postgres]"]
            ) from None
        try:
            if check_schema:
                migrate.check(store.engine)
            yield store
        except SQLAlchemyError as error:
            known = fault(error) if isinstance(error, DBAPIError) else None
            remedy = f" ({known})" if known else ""
            raise DatabaseAway(f"the database {redacted(url)} cannot be used: {cause(error)}{remedy}") from error
        finally:
            store.close()

    def hindrance(self, tx: Tx, row: Instance) -> Hindrance | None:
        """Tell what keeps an instance from working."""
        hosts = live_hosts(tx.list_instances(), tx.now)
        return hindrance(row, types=self.settings.types, live_hosts=hosts, now=tx.now)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Open what the verbs of the engine need."""
        with self.store() as store:
            yield Engine(self.settings, store, self._bell)


pass_session = click.make_pass_decorator(Session, ensure=True)


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database; None for any other."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def cause(error: SQLAlchemyError) -> str:
    """Return the first line of what the database said, without SQLAlchemy's additions."""
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return redacted(next(iter(said.strip().splitlines()), type(error).__name__))


def _must_exist(url: str) -> None:
    """Refuse to make an empty database by looking at it."""
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise SchemaError(f"there is no database yet at {path}; `forgepool up` or `forgepool db upgrade` makes it")
