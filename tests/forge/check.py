"""What a check is: a function of a world, and the behaviours of the model that it would miss."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.forge.driver import World

Function = Callable[[World], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check and what it is good for."""

    function: Function
    behaviours: tuple[str, ...]
    why_not_real: str  #: why it cannot be made on a real forge; "": it can

    @property
    def name(self) -> str:
        """Its promise."""
        return self.function.__name__


CHECKS: list[Check] = []


def check(*behaviours: str, why_not_real: str = "") -> Callable[[Function], Function]:
    """Let a function be a check of these behaviours."""

    def add(function: Function) -> Function:
        CHECKS.append(Check(function=function, behaviours=behaviours, why_not_real=why_not_real))
        return function

    return add
