"""The stand-in and a real forge keep the same promises, seen through REST and deliveries only."""

import pytest

from tests.forge import checks_hooks, checks_issues, checks_merges, checks_reviews
from tests.forge.check import CHECKS, Check
from tests.forge.driver import World

#: Importing them registers their checks.
MODULES = (checks_hooks, checks_issues, checks_merges, checks_reviews)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_forge_keeps_its_promise(world: World, check: Check) -> None:
    if world.is_real and check.why_not_real:
        pytest.skip(check.why_not_real)

    check.function(world)
