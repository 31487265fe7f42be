"""What a database says when it does not serve, in sentences for people. Pure: no I/O."""

import sqlite3

from sqlalchemy.exc import DBAPIError

from pool.errors import StoreBusy, StoreUnavailable

LOCKED = "the database is locked by another writer; nothing was written, try again"
FULL = "the database's disk is full; nothing was written, make room there and try again"
READ_ONLY = "the database is read-only; nothing was written, let forgepool's user write its file, its folder and disk"
CLOSED = "the database file cannot be opened; see that it, its folder and its disk are there and can be written"
BROKEN = "the disk of the database fails; nothing was written, look at the disk and the system's log"
DAMAGED = "the database file is damaged; stop forgepool and put back a backup"
REFUSED = "the database server refuses us; check user, password and database name in service.database_url"
AWAY = "the database server does not answer; see that it runs, and check service.database_url"

#: By SQLite's result code, or the primary one in its last byte (sqlite.org/rescode.html).
_SQLITE = {
    sqlite3.SQLITE_IOERR_SHMSIZE: FULL,  # no room for the file that readers and writers share
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: CLOSED,
    sqlite3.SQLITE_IOERR: BROKEN,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}
_PRIMARY = 0xFF
#: By PostgreSQL's SQLSTATE, or the class that it begins with (postgresql.org/docs/current/errcodes-appendix.html).
_POSTGRESQL = {
    "55P03": LOCKED,  # lock_not_available
    "53100": FULL,  # disk_full
    "25006": READ_ONLY,  # read_only_sql_transaction: a standby, or default_transaction_read_only
    "58": BROKEN,  # system errors
    "XX001": DAMAGED,  # data_corrupted
    "XX002": DAMAGED,  # index_corrupted
    "28": REFUSED,  # invalid authorization
    "3D000": REFUSED,  # invalid_catalog_name
    "08": AWAY,  # connection exceptions
    "57P": AWAY,  # shut down, crashed, starting up
    "53": AWAY,  # no memory, no free connection
}


def fault(error: DBAPIError) -> StoreUnavailable | None:
    """Return what to tell about a database that does not serve; None when the statement was at fault."""
    sentence = _sentence(error)
    if sentence is None:
        return None
    return StoreBusy(sentence) if sentence is LOCKED else StoreUnavailable(sentence)


def _sentence(error: DBAPIError) -> str | None:
    said = error.orig
    if isinstance(said, sqlite3.Error):
        code = getattr(said, "sqlite_errorcode", 0)
        return _SQLITE.get(code, _SQLITE.get(code & _PRIMARY))
    state: str | None = getattr(said, "sqlstate", None)
    if state is not None:
        return next((_POSTGRESQL[state[:n]] for n in (5, 3, 2) if state[:n] in _POSTGRESQL), None)
    # No server was there to give it a state.
    return AWAY if error.connection_invalidated or "connect" in str(said) else None
