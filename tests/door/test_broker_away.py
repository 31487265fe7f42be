"""What is committed is made to happen, whatever befalls the broker or the process after the commit."""

import sqlite3
from pathlib import Path

import pytest

from tasks import reconcile
from tasks.doorbell import BellError
from tests.door.house import Door, assigned

LONG_S = 60.0


def test_with_the_broker_away_a_delivery_is_taken_and_the_reconciler_rings(door: Door) -> None:
    door.bell.break_down()

    reply = door.post("issue-assigned.json")

    assert (reply.status, reply.tasks) == (202, (1,))
    assert (door.task(1).published_at, door.bell.rung) == (None, [])

    door.clock.advance(LONG_S)
    assert reconcile.run_once(door.engine)["publish-forgotten"] == 0
    assert door.task(1).published_at is None

    door.bell.repair()
    assert reconcile.run_once(door.engine)["publish-forgotten"] == 1
    assert door.bell.rung == [("dev-alpha", 1)]
    assert door.task(1).published_at == door.clock.now
    assert reconcile.run_once(door.engine)["publish-forgotten"] == 0


def test_of_two_tasks_the_one_that_could_not_be_rung_for_is_rung_for_later(door: Door) -> None:
    door.bell.failures = [BellError("a hiccup")]

    reply = door.post(assigned("dev", "reviewer"))

    assert (reply.status, reply.tasks, door.bell.rung) == (202, (1, 2), [("reviewer-one", 2)])
    door.clock.advance(LONG_S)
    reconcile.run_once(door.engine)["publish-forgotten"]
    assert door.bell.rung == [("reviewer-one", 2), ("dev-alpha", 1)]


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), KeyError("x"), MemoryError()], ids=repr)
def test_an_error_that_nobody_foresaw_after_the_commit_does_not_deny_the_delivery(door: Door, error: Exception) -> None:
    """The answer was 500 for a delivery that was taken and whose task ran."""
    door.bell.failures = [error]

    reply = door.post("issue-assigned.json")

    assert (reply.status, reply.verdict, reply.tasks) == (202, "accepted", (1,))
    door.clock.advance(LONG_S)
    assert reconcile.run_once(door.engine)["publish-forgotten"] == 1
    assert door.post("issue-assigned.json").verdict == "duplicate"


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_a_process_that_ends_between_commit_and_publish_loses_nothing(door: Door, end: BaseException) -> None:
    door.bell.failures = [end]

    with pytest.raises(type(end)):
        door.post("issue-assigned.json")

    assert door.work() == [("dev", "implement", 7, "queued")]
    assert (door.task(1).published_at, door.receipts()[0].status) == (None, 202)
    door.clock.advance(LONG_S)
    assert reconcile.run_once(door.engine)["publish-forgotten"] == 1
    assert door.bell.rung == [("dev-alpha", 1)]
    assert door.post("issue-assigned.json").verdict == "duplicate"


def test_a_database_that_is_locked_after_the_commit_does_not_deny_the_delivery(door: Door, database: Path) -> None:
    """The answer was 503, "nothing was written, try again", for a delivery that was taken."""
    with door.reopened(busy_s=0.05) as hasty:
        other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        hasty.bell.on_ring = lambda: other.execute("BEGIN IMMEDIATE")

        reply = hasty.post("issue-assigned.json")

        other.rollback()
        other.close()
        hasty.bell.on_ring = lambda: None
        assert (reply.status, reply.tasks) == (202, (1,))
        assert hasty.bell.rung == [("dev-alpha", 1)]
        assert hasty.task(1).published_at is None
        hasty.clock.advance(LONG_S)
        assert reconcile.run_once(hasty.engine)["publish-forgotten"] == 1
    # Twice for one task: a doorbell that rings for nothing is harmless.
    assert door.bell.rung == [("dev-alpha", 1)] * 2


def test_nobody_rings_before_the_commit(door: Door, database: Path) -> None:
    seen: list[tuple[int, str]] = []

    def look() -> None:
        other = sqlite3.connect(database)
        seen.extend(other.execute("SELECT t.id, d.verdict FROM tasks t JOIN deliveries d ON d.id = t.delivery"))
        other.close()

    door.bell.on_ring = look

    door.post("issue-assigned.json")

    assert seen == [(1, "accepted")]


def test_nobody_rings_for_what_was_absorbed_ignored_or_could_not_be_queued(empty_door: Door) -> None:
    empty_door.add("dev-alpha")
    for name in ("issue-assigned.json", "issue-assigned.json", "push-test.json", "pull-approved.json"):
        empty_door.post(name)

    assert empty_door.bell.rung == [("dev-alpha", 1)]
