"""Each behaviour of the model is missed by a check when it is switched off: nothing is modelled for nothing."""

from pathlib import Path

import pytest

from tests.forge.check import CHECKS
from tests.forge.driver import Town
from tests.forge.test_conformance import MODULES
from webapp.standin.model import BEHAVIOURS, Model


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_behaviour_that_is_switched_off_is_missed(behaviour: str, tmp_path: Path) -> None:
    meant = [check for check in CHECKS if behaviour in check.behaviours]
    town = Town.of_standin(tmp_path / "forge")
    assert town.standin is not None
    town.standin.model.switch_off(behaviour)
    try:
        with town.world() as world:
            assert any(_is_red(check.function, world) for check in meant), f"{len(meant)} checks miss nothing"
    finally:
        town.close()


def _is_red(function: object, world: object) -> bool:
    assert callable(function)
    try:
        function(world)
    except AssertionError:
        return True
    return False


def test_checks_name_behaviours_that_there_are() -> None:
    assert MODULES
    assert {name for check in CHECKS for name in check.behaviours} == set(BEHAVIOURS)


def test_a_mistyped_behaviour_is_refused() -> None:
    model = Model()

    with pytest.raises(KeyError):
        model.switch_off("checking-after-psuh")
    with pytest.raises(KeyError):
        assert "checking-after-psuh" in model
    model.switch_off("go-encoding")
    assert "go-encoding" not in model
    model.switch_on("go-encoding")
    assert "go-encoding" in model
