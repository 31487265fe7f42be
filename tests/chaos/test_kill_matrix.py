"""`forgepool chaos` itself: its verdict on the engine as it is, and on engines that are broken on purpose.

The long form: HYPOTHESIS_PROFILE=soak.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webapp.chaos.remains import processes

pytestmark = pytest.mark.engine

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
LIMIT_S = 3 * 3600 if IS_LONG else 600

#: At which the one or the other must show.
ONE_FAULT = ("--only", "running/worker-child", "--random", "0", "--within", "30")

#: Python imports it first in every part of the engine: a queue goes on although its last run has not ended.
WITHOUT_GUARD = """
from pool.store import runs

claim = runs.RunVerbs.claim

class Blind:
    \"\"\"The row of an instance on which nothing seems to run.\"\"\"

    def __init__(self, row):
        self._row = row

    def __getattr__(self, name):
        return 0 if name == "running" else getattr(self._row, name)

class Result:
    def __init__(self, result):
        self._result = result

    def one_or_none(self):
        row = self._result.one_or_none()
        return row and Blind(row)

class Connection:
    def __init__(self, connection):
        self._connection = connection

    def execute(self, statement, *args, **kwargs):
        result = self._connection.execute(statement, *args, **kwargs)
        return Result(result) if statement is runs.QUEUE_HOLDER else result

    def __getattr__(self, name):
        return getattr(self._connection, name)

def blind_claim(self, *args, **kwargs):
    self.connection.exec_driver_sql("DROP INDEX IF EXISTS uq_tasks_running")
    seeing, self.connection = self.connection, Connection(self.connection)
    try:
        return claim(self, *args, **kwargs)
    finally:
        self.connection = seeing

runs.RunVerbs.claim = blind_claim
"""

WITHOUT_RECONCILER = """
from tasks import reconcile

reconcile.Reconciler.run_once = lambda *args, **kwargs: {}
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a new folder with a short name: a socket has to fit below it."""
    made = tmp_path_factory.mktemp("k")
    yield made
    assert processes(made) == []


def chaos(folder: Path, *words: str, broken_by: str = "") -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit status and what it printed.

    broken_by: Python that every part of the engine runs before anything else.
    """
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if broken_by:
        patches = folder / "patches"
        patches.mkdir()
        (patches / "sitecustomize.py").write_text(broken_by, encoding="utf-8")
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(patches), environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-m", "webapp.cli", "chaos", "--json", "--state-dir", str(folder / "s"), *words],
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.engine
def test_a_kill_at_any_point_loses_doubles_and_disorders_nothing(folder: Path) -> None:
    status, report = chaos(folder, *(("--long", "--rounds", "3") if IS_LONG else ("--seed", "1")), "--random", "0")

    assert (status, report["wrong"]) == (0, [])
    assert len({fault["point"] for fault in report["faults"]}) == 7
    assert len({fault["victim"] for fault in report["faults"]}) == 10
    assert not (folder / "s").exists()


@pytest.mark.engine
def test_random_kills_while_deliveries_come_lose_nothing_either(folder: Path) -> None:
    many = ("--random", "100") if IS_LONG else ("--random", "6", "--seed", "1")

    status, report = chaos(folder, "--rounds", "0", *many)

    assert (status, report["wrong"]) == (0, [])
    assert report["table"][-1]["count"] == len(report["faults"]) >= 6


@pytest.mark.engine
def test_without_the_guard_of_the_claim_the_matrix_is_red(folder: Path) -> None:
    status, report = chaos(folder, *ONE_FAULT, "--run-lease", "12", broken_by=WITHOUT_GUARD)

    assert status == 1
    assert {"two at once", "out of order"} & {wrong["ill"] for wrong in report["wrong"]}


@pytest.mark.engine
def test_without_the_reconciler_the_matrix_is_red(folder: Path) -> None:
    status, report = chaos(folder, *ONE_FAULT, broken_by=WITHOUT_RECONCILER)

    assert status == 1
    assert any(wrong["ill"] == "lost" and "is still running" in wrong["sentence"] for wrong in report["wrong"])
