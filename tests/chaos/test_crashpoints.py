"""Crash points: nothing without the variable, once when they are armed."""

import subprocess
import sys
from pathlib import Path

import pytest

from pool.crashpoints import CRASH_AT, Point, reach
from tests.helpers.waiting import wait_until

REACH = "import sys; from pool.crashpoints import Point, reach; reach(Point(sys.argv[1])); print('went on')"


def come_by(point: Point, folder: Path) -> "subprocess.Popen[str]":
    """Let a process of its own come by a point."""
    return subprocess.Popen(
        [sys.executable, "-c", REACH, point], env={CRASH_AT: str(folder)}, stdout=subprocess.PIPE, encoding="utf-8"
    )


def test_a_point_that_nobody_armed_lets_everybody_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "running.die").touch()
    reach(Point.RUNNING)

    monkeypatch.setenv(CRASH_AT, str(tmp_path))
    reach(Point.CLAIMED)

    assert [path.name for path in tmp_path.iterdir()] == ["running.die"]


def test_of_many_who_come_to_a_deadly_point_one_dies(tmp_path: Path) -> None:
    (tmp_path / f"{Point.COMMITTED}.die").touch()

    crowd = [come_by(Point.COMMITTED, tmp_path) for _ in range(4)]
    told = [one.communicate(timeout=60)[0] for one in crowd]

    assert sorted(one.returncode for one in crowd) == [-9, 0, 0, 0]
    assert sorted(told) == ["", *["went on\n"] * 3]


def test_who_is_held_waits_until_somebody_lets_him_go(tmp_path: Path) -> None:
    (tmp_path / f"{Point.ENDED}.hold").touch()
    held = come_by(Point.ENDED, tmp_path)
    reached = tmp_path / f"{Point.ENDED}.reached"
    wait_until(reached.exists, 60)

    assert int(reached.read_text()) == held.pid
    passer_by = come_by(Point.ENDED, tmp_path)
    assert passer_by.communicate(timeout=60)[0] == "went on\n"
    assert held.poll() is None

    (tmp_path / f"{Point.ENDED}.go").touch()
    assert held.communicate(timeout=60)[0] == "went on\n"
