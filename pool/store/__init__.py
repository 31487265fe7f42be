"""The store: the only code that runs statements. Every write is one transaction of verbs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from pool.errors import StoreBusy
from pool.store.base import Clock
from pool.store.deliveries import DeliveryVerbs, Receipt
from pool.store.engine import WRITE, open_engine
from pool.store.faults import LOCKED, fault
from pool.store.forks import Gate
from pool.store.retries import DeadLettered
from pool.store.runs import Claim, NoClaim, RunningLease, Wishes
from pool.store.tasks import Absorbed, Queued, Rejected, Submitted, check_task_id
from pool.store.upkeep import Lease, LeftAgent, Miscount, RepairCount, UpkeepVerbs, WorkerLease

__all__ = [
    "Absorbed",
    "Claim",
    "DeadLettered",
    "Lease",
    "LeftAgent",
    "Miscount",
    "NoClaim",
    "Queued",
    "Receipt",
    "Rejected",
    "RepairCount",
    "RunningLease",
    "Store",
    "Submitted",
    "Tx",
    "Wishes",
    "WorkerLease",
    "check_task_id",
    "utc_now",
]


#: Seconds that a writer waits for another.
BUSY_S = 15.0


def utc_now() -> datetime:
    """Return the time, aware and in UTC."""
    return datetime.now(UTC)


class Tx(UpkeepVerbs, DeliveryVerbs):
    """One transaction: everything in it happens, or nothing does."""


class Store:
    """The database of one deployment."""

    def __init__(self, engine: Engine, *, busy_s: float = BUSY_S, clock: Clock = utc_now) -> None:
        """`clock` returns aware UTC time."""
        self.engine = engine
        self.clock = clock
        self._busy_s = busy_s
        self._writer = threading.Lock()
        self._gate = Gate(engine.dispose)

    @classmethod
    def open(cls, url: str, *, busy_s: float = BUSY_S, clock: Clock = utc_now) -> "Store":
        """Open the database at `url`. busy_s: seconds to wait for another writer."""
        return cls(open_engine(url, busy_s=busy_s), busy_s=busy_s, clock=clock)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Read from one consistent snapshot."""
        with self._gate.passing(), self._translated(), self.engine.connect() as connection, connection.begin():
            yield Tx(connection, self.clock)

    @contextmanager
    def writing(self) -> Iterator[Tx]:
        """Write: all of it at the end of the block, or nothing if it raises. Raises StoreUnavailable."""
        with self._gate.passing(), self._one_at_a_time(), self._translated(), self.engine.connect() as connection:
            writer = connection.execution_options(**{WRITE: True})
            with writer.begin():
                yield Tx(writer, self.clock)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Let the threads of this process queue up here: SQLite's waiters sleep longer and longer instead."""
        if not self._writer.acquire(timeout=self._busy_s):
            raise StoreBusy(LOCKED)
        try:
            yield
        finally:
            self._writer.release()

    def close(self) -> None:
        """Close every connection of this process."""
        self.engine.dispose()

    def after_fork(self) -> None:
        """Forget the parent's connections without closing them: they are the parent's (SQLAlchemy, "fork")."""
        self.engine.dispose(close=False)
        # A thread of the parent may have held it at that moment; here there is no such thread.
        self._writer = threading.Lock()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if (unavailable := fault(error)) is not None:
                raise unavailable from error
            raise


def current_revision(connection: Connection) -> str | None:
    """Return the schema revision that the database is stamped with; None: an empty database."""
    # Not by SQLAlchemy's inspector: each worker asks at its start, and all that it touches is memory of its own.
    catalogue = {
        "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
        "postgresql": "SELECT to_regclass('alembic_version')::oid",
    }[connection.dialect.name]
    if connection.exec_driver_sql(catalogue).scalar() is None:
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found
