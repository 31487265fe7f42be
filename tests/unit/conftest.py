"""What the tests of the command line stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.settings import CONFIG_ENV
from tests.helpers.config import Deployment


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Return a deployment with an empty database."""
    # The command line sets the variable for its children; this puts it back.
    monkeypatch.setenv(CONFIG_ENV, str(tmp_path / "forgepool.toml"))
    deployment = Deployment.make(tmp_path)
    yield deployment
    deployment.store.close()
