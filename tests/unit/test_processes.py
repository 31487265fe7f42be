"""The supervisor's rules, on processes that are played: when a child is started, again, or not at all."""

import pytest

from tasks.processes import BACKOFF_S, Child, Supervisor


class Played:
    """A process that ends when the test says so."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.signals: list[int] = []
        self.is_killed = False

    @property
    def pid(self) -> int | None:
        return None

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def kill_group(self) -> None:
        self.is_killed = True
        self.status = -9


class Stage:
    """A supervisor with a clock that stands still, and what it has started."""

    def __init__(self) -> None:
        self.now = 0.0
        self.may = True
        self.started: list[Played] = []
        self.supervisor = Supervisor(clock=lambda: self.now, may_start=lambda _: self.may, attend=self._attend)
        self.child = Child("it", (), {}, launch=self._launch)

    def _attend(self, seconds: float) -> None:
        self.now += seconds

    def _launch(self, child: Child) -> Played:
        assert child is self.child
        self.started.append(Played())
        return self.started[-1]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_child_that_ends_unasked_is_started_again_after_a_growing_pause(stage: Stage) -> None:
    stage.supervisor.add(stage.child)
    pauses = []
    for _ in range(len(BACKOFF_S) + 1):
        stage.started[-1].status = 1
        stage.supervisor.tend()
        ended_at, count = stage.now, len(stage.started)
        while len(stage.started) == count:
            stage.now += 0.5
            stage.supervisor.tend()
        pauses.append(stage.now - ended_at)

    assert pauses == [*BACKOFF_S, BACKOFF_S[-1]]


def test_a_child_that_may_not_start_is_asked_about_again_and_costs_no_pause(stage: Stage) -> None:
    stage.may = False
    stage.supervisor.add(stage.child)
    stage.supervisor.tend()
    before = len(stage.started)
    stage.may = True
    stage.supervisor.tend()

    assert (before, len(stage.started)) == (0, 1)
    assert stage.child.failures == 0


def test_a_child_that_was_asked_to_end_is_not_started_again(stage: Stage) -> None:
    stage.supervisor.add(stage.child)
    stage.supervisor.ask_to_end("it")
    stage.started[0].status = 0
    stage.now += 1000
    stage.supervisor.tend()

    assert len(stage.started) == 1


def test_a_child_that_does_not_end_in_time_is_killed_with_its_group(stage: Stage) -> None:
    stage.supervisor.add(stage.child)

    killed = stage.supervisor.stop(["it"], within_s=5)

    assert killed == ["it"]
    assert stage.started[0].signals == [15]
    assert stage.started[0].is_killed
    assert stage.now >= 5
    assert stage.supervisor.children == {}


def test_finishing_asks_nobody_a_second_time(stage: Stage) -> None:
    """A second SIGTERM hurries a worker, so waiting for one must not send it."""
    stage.supervisor.add(stage.child)
    stage.supervisor.ask_to_end("it")
    stage.supervisor.finish(["it"], within_s=1)

    assert stage.started[0].signals == [15]
