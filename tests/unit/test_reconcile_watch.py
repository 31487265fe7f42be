"""Telling dead leases from live ones under a clock that jumps."""

from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tasks.lease_watch import LeaseWatch
from tests.helpers.clock import Clock

LEASE_S = 60.0
RENEW_S = LEASE_S / 3
LOOK_S = 5.0
HOUR_S = 3600.0


class World:
    """Two clocks, one live run, one watcher."""

    def __init__(self) -> None:
        self.wall = Clock()
        self.monotonic = 1000.0
        self.watch: LeaseWatch[str] = LeaseWatch(LEASE_S, wall=self.wall, monotonic=lambda: self.monotonic)
        self.renewed_at = self.monotonic
        self.until = self.wall.now + timedelta(seconds=LEASE_S)
        self.is_alive = True

    def jump(self, seconds: float) -> None:
        """Put the wall clock forward or back."""
        self.wall.advance(seconds)

    def pass_(self, seconds: float) -> None:
        """Let time pass; a live run renews when it is time to."""
        end = self.monotonic + seconds
        while self.is_alive and self.renewed_at + RENEW_S <= end:
            self._move(self.renewed_at + RENEW_S)
            self.renewed_at = self.monotonic
            self.until = self.wall.now + timedelta(seconds=LEASE_S)
        self._move(end)

    def freeze(self, seconds: float) -> None:
        """Let everything stand still while both clocks go on, and look when it goes on again."""
        self._move(self.monotonic + seconds)
        self.renewed_at += seconds
        assert not self.is_dead()
        # Only what stands still again and again, with no time to renew between, is taken for dead.
        self.pass_(RENEW_S)

    def _move(self, to: float) -> None:
        self.wall.advance(to - self.monotonic)
        self.monotonic = to

    def is_dead(self, *, elsewhere: bool = False) -> bool:
        """Look."""
        return bool(self.watch.dead({"run": self.until}, elsewhere=["run"] if elsewhere else []))

    def dead_after(self, *, elsewhere: bool = False) -> float:
        """Look again and again; return the seconds until the run was called dead."""
        begun = self.monotonic
        while not self.is_dead(elsewhere=elsewhere):
            assert self.monotonic - begun < 10 * LEASE_S
            self.pass_(LOOK_S)
        return self.monotonic - begun


@pytest.fixture
def world() -> World:
    """Return a world that has been watched for a while."""
    made = World()
    for _ in range(100):
        assert not made.is_dead()
        made.pass_(LOOK_S)
    return made


def test_a_run_that_dies_is_noticed_when_its_lease_has_ended(world: World) -> None:
    world.is_alive = False

    assert LEASE_S - RENEW_S <= world.dead_after() <= LEASE_S + LOOK_S


@pytest.mark.parametrize("jump_s", [-HOUR_S, -30.0, 30.0, HOUR_S])
def test_a_run_that_died_is_noticed_after_about_one_lease_whatever_the_clock_did(world: World, jump_s: float) -> None:
    world.is_alive = False
    world.pass_(10)
    world.jump(jump_s)

    assert world.dead_after() <= LEASE_S + LOOK_S


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
def test_after_a_jump_a_live_run_is_left_alone(world: World, jump_s: float) -> None:
    world.pass_(RENEW_S - 1)
    world.jump(jump_s)

    for _ in range(200):
        assert not world.is_dead()
        world.pass_(LOOK_S)


def test_after_everything_stood_still_a_live_run_gets_the_time_to_renew(world: World) -> None:
    world.freeze(HOUR_S)

    for _ in range(200):
        assert not world.is_dead()
        world.pass_(LOOK_S)


def test_a_run_that_died_while_everything_stood_still_is_noticed_all_the_same(world: World) -> None:
    world.freeze(HOUR_S)
    world.is_alive = False

    assert world.dead_after() <= LEASE_S + LOOK_S


def test_a_watcher_that_has_just_begun_takes_the_word_of_the_clock() -> None:
    world = World()
    world.is_alive = False
    world.pass_(LEASE_S)

    assert world.is_dead()


def test_the_clock_of_another_machine_is_not_believed() -> None:
    world = World()
    world.is_alive = False
    world.pass_(HOUR_S)

    assert LEASE_S <= world.dead_after(elsewhere=True) <= LEASE_S + LOOK_S


def test_a_watcher_that_looks_more_seldom_than_a_lease_lasts_still_notices() -> None:
    world = World()
    world.jump(-HOUR_S)
    world.is_alive = False
    looks = 0

    while not world.is_dead():
        world.pass_(1.5 * LEASE_S)
        looks += 1

    assert looks == 2


def test_a_lease_that_is_gone_is_forgotten() -> None:
    world = World()
    world.is_dead()

    assert world.watch.dead({}) == []
    assert world.watch._sights == {}


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, LEASE_S / 3)),
        st.tuples(st.just("jump"), st.floats(-2 * HOUR_S, 2 * HOUR_S)),
        st.tuples(st.just("freeze"), st.floats(LEASE_S, HOUR_S)),
        st.tuples(st.just("jump"), st.floats(-8, 8)),
    ),
    max_size=60,
)


@given(steps=_STEPS)
def test_whatever_the_clock_does_a_live_run_that_was_seen_before_is_never_called_dead(
    steps: list[tuple[str, float]],
) -> None:
    world = World()
    assert not world.is_dead()

    for step, seconds in steps:
        {"pass": world.pass_, "jump": world.jump, "freeze": world.freeze}[step](seconds)
        # Time goes on a little after each, so that jumps are told apart.
        world.pass_(1.0)
        assert not world.is_dead()


@given(steps=_STEPS)
def test_whatever_the_clock_did_a_dead_run_is_noticed_within_a_lease_and_a_half(steps: list[tuple[str, float]]) -> None:
    world = World()
    world.is_dead()
    for step, seconds in steps:
        {"pass": world.pass_, "jump": world.jump, "freeze": world.freeze}[step](seconds)
        world.is_dead()
    world.is_alive = False

    assert world.dead_after() <= 1.5 * LEASE_S
