"""Processes that the tests of this package share."""

from collections.abc import Iterator

import pytest

from tests.pool.processes import Crew, open_crew


@pytest.fixture(scope="package")
def crew() -> Iterator[Crew]:
    """Start eight processes."""
    with open_crew() as opened:
        yield opened
