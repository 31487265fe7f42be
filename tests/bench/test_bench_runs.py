"""The measurement itself works; what it measures is for people to read."""

import pytest

from tests.bench import bench_selection


def test_the_measurement_runs_and_shows_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--finished", "500", "--instances", "10", "100", "--repeats", "5"]

    assert bench_selection.main(arguments) == 0

    shown = capsys.readouterr().out
    for case in bench_selection.cases([10, 100], 500):
        assert f"{case.name}: filled in" in shown
    assert "x one update" in shown
