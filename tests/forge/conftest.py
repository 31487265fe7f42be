"""The forges that the checks are made on: the stand-in, and a real one if the environment names one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge.driver import Town, World

_NAMES = ("URL", "TOKEN", "TOKEN_FILE")
#: Read here and now: before a test our variables are taken out of the environment.
_GIVEN = {name: os.environ.get(f"FORGEPOOL_TEST_FORGE_{name}", "") for name in _NAMES}
_HOOK_HOST = os.environ.get("FORGEPOOL_TEST_HOOK_HOST", "127.0.0.1")
_MISSING = (
    "no real forge: set FORGEPOOL_TEST_FORGE_URL, and FORGEPOOL_TEST_FORGE_TOKEN or FORGEPOOL_TEST_FORGE_TOKEN_FILE "
    "of one of its administrators; FORGEPOOL_TEST_HOOK_HOST says where it reaches this machine, 127.0.0.1 if not given"
)


URL, HOOK_HOST = _GIVEN["URL"], _HOOK_HOST


def token() -> str:
    """Return the token of the real forge; empty when none is given."""
    file = _GIVEN["TOKEN_FILE"]
    return _GIVEN["TOKEN"] or (Path(file).read_text(encoding="ascii").strip() if file else "")


def need_real() -> None:
    """Skip, with the reason, where no real forge is given."""
    if not _GIVEN["URL"] or not token():
        pytest.skip(_MISSING)


@pytest.fixture(scope="session")
def real_town() -> Iterator[Town]:
    """Give a town on the real forge."""
    need_real()
    town = Town.of_real(URL, token(), HOOK_HOST)
    yield town
    town.close()


@pytest.fixture(params=["standin", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Give a repository on each forge."""
    if request.param == "real":
        town: Town = request.getfixturevalue("real_town")
        with town.world() as found:
            yield found
        return
    town = Town.of_standin(tmp_path / "forge")
    with town.world() as found:
        yield found
    town.close()
