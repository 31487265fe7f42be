"""What the tests of the web app share."""

from pathlib import Path

import pytest

from pool.store import Store
from tests.door.house import Door, make_settings
from tests.helpers.clock import Clock
from tests.helpers.stores import POSTGRES


@pytest.fixture
def empty_door(tmp_path: Path, store: Store, clock: Clock) -> Door:
    """Build a web app that serves acme/widgets and has no instances."""
    return Door(tmp_path, store, clock, make_settings(tmp_path))


@pytest.fixture
def door(empty_door: Door) -> Door:
    """Build a web app with two instances of dev, and one each of reviewer and boss."""
    empty_door.add_usual()
    return empty_door


@pytest.fixture
def database(door: Door) -> Path:
    """Name the database file of `door`; only SQLite has one."""
    if POSTGRES:
        pytest.skip("needs a SQLite file")
    return door.folder / "forgepool.db"
