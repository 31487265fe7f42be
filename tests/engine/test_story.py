"""The whole story on the stand-in forge, in bad weather; in calm weather `make demo` plays it, in CI too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

#: Alone it takes one to two minutes; beside other tests longer.
PATIENCE_S = 560


@pytest.mark.parametrize("weather", ["silent", "stormy"])
def test_ten_issues_become_ten_merged_pull_requests_in_any_weather(tmp_path: Path, weather: str) -> None:
    """Silent: no webhook arrives. Stormy: they come repeated and shuffled, and one call in five fails."""
    argv = [sys.executable, "-m", "webapp.cli", "demo", "--weather", weather, "--state-dir", str(tmp_path / "demo")]

    played = subprocess.run(
        argv,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "160"},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )

    assert played.returncode == 0, played.stdout[-8000:] + played.stderr[-2000:]
    assert "promises were kept" in played.stdout
