"""A running `forgepool up`, as a user starts it."""

import sys

import httpx
import psutil

from tests.helpers import deliveries
from tests.helpers.house import SECRET, House
from tests.helpers.waiting import wait_until

FORGEPOOL = [sys.executable, "-m", "webapp.cli"]


class Up:
    """A running `forgepool up`."""

    def __init__(self, house: House) -> None:
        self.house = house
        if house.settings.is_embedded_broker:
            house.kill_broker()  # up brings its own
        self.process = house.start([*FORGEPOOL, "up"], log="up.log")
        wait_until(lambda: "Ctrl-C" in house.read("up.log") or self.process.poll() is not None, 60)
        assert self.process.poll() is None, house.read("up.log")

    def url(self, word: str) -> str:
        """Return the URL that a line of the summary gives."""
        line = next(line for line in self.house.lines("up.log") if line.startswith(word))
        return next(part for part in line.split() if part.startswith("http"))

    def post(self, sample: str) -> httpx.Response:
        """Post a signed delivery as the forge does."""
        found = deliveries.load(sample)
        headers = {**found.headers, **deliveries.sign(found.body, SECRET.encode())}
        return httpx.post(self.url("Webhooks"), content=found.body, headers=headers, timeout=5)

    def family(self) -> list[psutil.Process]:
        """Return every process that `up` has started."""
        family: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return family
