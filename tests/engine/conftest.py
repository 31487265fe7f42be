"""What the engine's tests share: a deployment in a temporary folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.house import House
from tests.helpers.up import Up

Build = Callable[..., House]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Build a deployment with its broker running; everything is ended after the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> House:
            return stack.enter_context(House(tmp_path, **settings))

        yield make


@pytest.fixture
def house(build: Build) -> House:
    """Build a deployment whose agents do what the prompt says."""
    return build()


@pytest.fixture
def up(build: Build, tmp_path: Path) -> Up:
    """Start the whole engine as a user starts it."""
    words = [
        "/bin/sh",
        "-c",
        f"touch {tmp_path}/up; echo begun; while [ ! -e {tmp_path}/release ]; do sleep 0.05; done",
    ]
    return Up(build(command=words, flower="127.0.0.1:0"))
