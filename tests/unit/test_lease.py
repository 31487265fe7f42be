"""The thread that keeps the lease of a run and hears what others ask of it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pool.errors import LeaseLost, StoreBusy
from pool.states import State
from pool.store import Claim, Store, Tx
from tasks.lease import RunLease, StopRun, Why
from tests.helpers.clock import Clock
from tests.helpers.factory import make_request
from tests.helpers.stores import new_store
from tests.helpers.waiting import wait_until
from tests.pool import drive

LEASE_S = 0.6


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Store]:
    """Return a store on the real clock: the thread under test sleeps by it."""
    opened = Store(new_store(tmp_path, Clock()).engine)
    yield opened
    opened.close()


def _claim(store: Store) -> Claim:
    with store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.submit("dev", make_request(), by="test")
        claimed = tx.claim("dev-alpha", lease_s=LEASE_S)
    assert isinstance(claimed, Claim)
    return claimed


def _ordered(lease: RunLease) -> StopRun:
    order = wait_until(lease.order)
    assert order is not None
    return order


def _lease_until(store: Store, task: int) -> float:
    with store.reading() as tx:
        until = tx.task(task).lease_until
    return until.timestamp() if until else 0.0


def test_the_lease_outlives_its_length_while_the_thread_runs(live: Store) -> None:
    claimed = _claim(live)
    first = _lease_until(live, claimed.task.id)

    with RunLease(live, claimed, lease_s=LEASE_S, listen_s=0.02) as lease:
        wait_until(lambda: _lease_until(live, claimed.task.id) > first + LEASE_S, 10)

        assert lease.order() is None


def test_a_cancel_is_heard_and_the_lease_is_kept_while_the_agent_has_its_grace(live: Store) -> None:
    claimed = _claim(live)

    with RunLease(live, claimed, lease_s=LEASE_S, listen_s=0.02) as lease:
        with live.writing() as tx:
            asked = tx.cancel(claimed.task.id, by="maya")
        order = _ordered(lease)
        first = _lease_until(live, claimed.task.id)
        wait_until(lambda: _lease_until(live, claimed.task.id) > first + LEASE_S, 10)

    assert asked is State.RUNNING
    assert (order.why, order.reason) == (Why.CANCEL, "cancelled by maya")


def test_a_lease_that_was_taken_away_is_an_order_to_stop(live: Store) -> None:
    claimed = _claim(live)

    with RunLease(live, claimed, lease_s=600, listen_s=0.02) as lease:
        with live.writing() as tx:
            tx.now = tx.after(3600)
            interrupted = drive.expire_runs(tx)
        order = _ordered(lease)

    assert interrupted == [claimed.task.id]
    assert order.why is Why.LEASE_LOST
    with pytest.raises(LeaseLost), live.writing() as tx:
        tx.renew(claimed.task.id, fence=claimed.fence, lease_s=60)


def test_the_first_order_counts(live: Store) -> None:
    claimed = _claim(live)

    with RunLease(live, claimed, lease_s=LEASE_S, listen_s=0.02) as lease:
        with live.writing() as tx:
            tx.ask_to_stop("dev-alpha", by="fleet")
        first = _ordered(lease)
        with live.writing() as tx:
            tx.cancel(claimed.task.id, by="maya")
        before = _lease_until(live, claimed.task.id)
        wait_until(lambda: _lease_until(live, claimed.task.id) > before, 10)

        assert lease.order() is first

    assert first.why is Why.SHUTDOWN


def test_the_lease_is_renewed_by_the_time_that_has_passed_not_by_the_number_of_looks(live: Store) -> None:
    """Each look was counted as if it took no time, so a slow database cost a live run its lease."""
    claimed = _claim(live)
    before = _lease_until(live, claimed.task.id)
    seconds = itertools.count(0, 250)

    with RunLease(live, claimed, lease_s=600, listen_s=0.02, monotonic=lambda: next(seconds)) as lease:
        wait_until(lambda: _lease_until(live, claimed.task.id) > before + 500, 10)

        assert lease.order() is None


def test_a_run_gives_up_when_the_database_was_away_since_its_last_renewal_for_as_long_as_the_lease(
    live: Store,
) -> None:
    claimed = _claim(live)
    seconds = itertools.count(0, 100)

    with RunLease(_Away(live.engine), claimed, lease_s=600, listen_s=0.02, monotonic=lambda: next(seconds)) as lease:
        order = _ordered(lease)

    assert order.why is Why.LEASE_LOST
    assert order.reason == "the database was away for longer than the lease"
    assert next(seconds) == 700


class _Away(Store):
    """A database that is away."""

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Fail."""
        yield self._fail()

    writing = reading

    def _fail(self) -> Tx:
        raise StoreBusy("away")
