"""What `forgepool up` asks of the installed version before it gives way to it: `python -m webapp.preflight`.

A process of its own, so that it is the installed code that answers, not the code that has been running. Reads the
configuration and the database, loads every part; changes nothing. Ends with 0, or with 1 and a sentence.
"""

import importlib
import sys

from sqlalchemy.exc import SQLAlchemyError

from pool import migrate
from pool.errors import ConfigError, ForgepoolError, SchemaError
from pool.store import Store, current_revision
from tasks.settings import Settings

#: What the parts are; a broken one must be found while the old one still runs.
PARTS = ("webapp.up", "webapp.app", "tasks.celery", "tasks.fleet", "tasks.run", "flower")


def examine() -> None:
    """Raise ForgepoolError with a sentence when this version could not start here."""
    settings = Settings.load()
    if problems := settings.missing_files():
        raise ConfigError(problems)
    settings.webhook_secret()
    for part in PARTS:
        importlib.import_module(part)
    store = Store.open(settings.database_url)
    try:
        with store.engine.connect() as connection:
            found = current_revision(connection)
    finally:
        store.close()
    if found is not None and found not in migrate.REVISIONS:
        raise SchemaError(f"the database has schema {found}; this version knows none after {migrate.head()}")


def main() -> int:
    """Examine, and tell what is in the way."""
    try:
        examine()
    except (ForgepoolError, SQLAlchemyError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
