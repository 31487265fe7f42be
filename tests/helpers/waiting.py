"""Waiting for what other processes and threads do: a condition and a deadline, never a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

PAUSE_S = 0.01

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, *, pause_s: float = PAUSE_S) -> T:
    """Return the first true value of `condition`; fail when there is none within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s} s: {getattr(condition, '__name__', condition)}")
        time.sleep(pause_s)
    return value
