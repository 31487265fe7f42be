"""What a stopped deployment may leave behind, and what it may not."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from pool.crashpoints import Point
from pool.errors import BadInput
from tests.helpers.waiting import wait_until
from webapp.chaos import plan, remains
from webapp.chaos.plan import Cell, Victim

BELONGS = [
    "forgepool.toml",
    "trace",
    "state/forgepool.db",
    "state/logs/workers/chaos-alpha.log",
    "state/logs/tasks/12.log",
    "state/valkey/appendonlydir/appendonly.aof.1.incr.aof",
    "state/runs/12/prompt.md",
    "state/checkouts/chaos-alpha/acme/widgets/README.md",
    "state/checkouts/chaos-alpha/acme/widgets/.git/refs/heads/main",
    "forge/acme/widgets.git/HEAD",
]
LEAKS = [
    "state/forgepool.db-wal",
    "state/valkey/valkey.sock",
    "state/valkey/appendonlydir/temp-rewriteaof-77.aof",
    "state/checkouts/chaos-alpha/.cloning/widgets/HEAD",
    "state/checkouts/chaos-alpha/acme/widgets/.git/index.lock",
    "state/checkouts/chaos-alpha/acme/widgets/.git/objects/pack/tmp_pack_x1",
    "state/checkouts/chaos-alpha/acme/widgets/.git/forgepool-unready",
    "state/runs/12/tmpabc",
    "tmp/pymp-x1",
]


@pytest.mark.parametrize("name", BELONGS)
def test_what_belongs_to_a_deployment_has_not_leaked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()

    assert remains.files(tmp_path) == []


@pytest.mark.parametrize("name", LEAKS)
def test_what_a_killed_process_forgot_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()

    assert [wrong.sentence for wrong in remains.files(tmp_path)] == [f"file {name} is left over"]


def test_an_empty_temporary_folder_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "pymp-1").mkdir(parents=True)

    assert [wrong.sentence for wrong in remains.files(tmp_path)] == ["file tmp/pymp-1 is left over"]


@pytest.mark.parametrize("how", ["by its command line", "by its environment"])
def test_a_process_of_a_deployment_is_found(tmp_path: Path, how: str) -> None:
    sleep = "import time; time.sleep(60)"
    words = [str(tmp_path)] if how == "by its command line" else []
    environ = {**os.environ, **({} if words else {"SOME_FILE": str(tmp_path / "state" / "x")})}
    process = subprocess.Popen([sys.executable, "-c", sleep, *words], env=environ)
    try:
        told = wait_until(lambda: remains.processes(tmp_path))
    finally:
        process.kill()
        process.wait()

    assert [wrong.sentence.partition(" is left over")[0] for wrong in told] == [f"process {process.pid}"]
    assert remains.processes(tmp_path) == []


def test_the_short_form_has_every_point_and_every_victim() -> None:
    assert {cell.point for cell in plan.SHORT} == set(plan.POINTS)
    assert {cell.victim for cell in plan.SHORT} == set(Victim)
    assert len(plan.CELLS) == len(plan.POINTS) * len(Victim)


def test_a_fault_can_be_chosen_by_point_by_victim_or_by_both() -> None:
    rng = Random(1)  # noqa: S311 - chosen for its seed

    def chosen(word: str) -> list[Cell]:
        return plan.cells(rounds=2, long=False, only=plan.check_only([word]), rng=rng)

    assert chosen("running/agent") == [Cell(Point.RUNNING, Victim.AGENT)] * 2
    assert len(chosen("running")) == 2 * len(Victim)
    assert len(chosen("agent")) == 2 * len(plan.POINTS)


def test_a_fault_that_there_is_not_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(BadInput, match=r"--only = 'runing'.*points: before-commit.*victims: web, "):
        plan.check_only(["runing"])


def test_the_same_seed_gives_the_same_order() -> None:
    def order(seed: int) -> list[Cell]:
        return plan.cells(rounds=1, long=True, only=(), rng=Random(seed))  # noqa: S311 - chosen for its seed

    assert order(7) == order(7) != order(8)
