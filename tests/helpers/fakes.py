"""Fakes of what the engine talks to, with failures on request."""

from collections.abc import Callable

from tasks.doorbell import BellError


class FakeBell:
    """A doorbell that writes down who was rung. Fulfils tasks.engine.Doorbell."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, int]] = []  #: (instance, task), oldest first
        self.failures: list[BaseException] = []  #: raised by the next rings, one each, before they ring
        self.failure: BaseException | None = None  #: raised by every ring
        self.on_ring: Callable[[], object] = lambda: None  #: called in the moment between commit and publish

    def ring(self, instance: str, task: int) -> None:
        """Ring, or fail as asked for."""
        self.on_ring()
        if failure := self.failures.pop(0) if self.failures else self.failure:
            raise failure
        self.rung.append((instance, task))

    def waiting(self, instance: str) -> int:
        """Count the rings that nobody has answered."""
        if self.failure:
            raise self.failure
        return sum(rung == instance for rung, _ in self.rung)

    def answered(self, instance: str) -> None:
        """Let the worker of an instance answer everything."""
        self.rung = [(rung, task) for rung, task in self.rung if rung != instance]

    def break_down(self) -> None:
        """Let the broker be away until `repair`."""
        self.failure = BellError("the broker is away")

    def repair(self) -> None:
        """Let the broker be back."""
        self.failure = None
