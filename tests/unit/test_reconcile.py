"""The rounds of the reconciler: who leads, what is made when, what is counted."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from pool.errors import BadInput
from pool.states import State
from tasks import reconcile
from tasks.repair import MOST, Found, Repair, Who
from tests.helpers.waiting import wait_until
from tests.helpers.yard import LEASE_S, Yard
from tests.pool import drive


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    opened = Yard(tmp_path)
    yield opened
    opened.close()


def _leader(yard: Yard) -> str | None:
    with yard.store.reading() as tx:
        return next((lease.holder for lease in tx.list_leases() if lease.name == reconcile.LEADER), None)


def _lose_a_message(yard: Yard) -> None:
    drive.add(yard.store, "dev-alpha")
    drive.dispatch(yard.store)
    yard.wait(10)


# --- who leads -----------------------------------------------------------------------------------


def test_of_several_reconcilers_one_leads_and_makes_the_repairs_of_the_deployment(yard: Yard) -> None:
    _lose_a_message(yard)
    first, second = yard.reconciler(), yard.reconciler("elsewhere")
    first.round(["sweep-removed"])

    assert second.run_once()["publish-forgotten"] == 0
    assert yard.bell.rung == []
    assert first.run_once()["publish-forgotten"] == 1
    assert str(_leader(yard)).startswith("here (pid ")


def test_a_leader_that_stops_lets_another_lead_at_once(yard: Yard) -> None:
    _lose_a_message(yard)
    first, second = yard.reconciler(), yard.reconciler("elsewhere")
    first.round(["sweep-removed"])

    first.close()

    assert second.run_once()["publish-forgotten"] == 1
    assert str(_leader(yard)).startswith("elsewhere")


def test_a_leader_that_dies_is_followed_when_its_lease_has_ended(yard: Yard) -> None:
    _lose_a_message(yard)
    dead, heir = yard.reconciler(), yard.reconciler("elsewhere")
    dead.round(["sweep-removed"])

    yard.wait(29)
    before = heir.run_once()["publish-forgotten"]
    yard.wait(1)

    assert (before, heir.run_once()["publish-forgotten"]) == (0, 1)


def test_a_leader_that_lives_goes_on_leading(yard: Yard) -> None:
    first, second = yard.reconciler(), yard.reconciler("elsewhere")

    for _ in range(60):
        first.run_once()
        second.run_once()
        yard.wait(5)

    assert str(_leader(yard)).startswith("here")


def test_a_leader_that_slept_finds_out_that_another_leads(yard: Yard) -> None:
    first, second = yard.reconciler(), yard.reconciler("elsewhere")
    first.run_once()
    yard.wait(100)
    second.run_once()
    _lose_a_message(yard)

    assert first.run_once()["publish-forgotten"] == 0
    assert str(_leader(yard)).startswith("elsewhere")


def test_a_dead_leaders_lease_does_not_outlive_a_clock_that_was_put_back(yard: Yard) -> None:
    dead, heir = yard.reconciler(), yard.reconciler("elsewhere")
    dead.run_once()

    yard.clock.advance(-3600)
    heir.run_once()

    assert str(_leader(yard)).startswith("elsewhere")


def test_those_who_do_not_lead_wait_for_no_other_writer(yard: Yard) -> None:
    yard.reconciler().run_once()
    second = yard.reconciler()
    ended = threading.Event()

    def look() -> None:
        second.run_once()
        ended.set()

    with yard.store.writing():
        thread = threading.Thread(target=look)
        thread.start()
        wait_until(ended.is_set, 5)
    thread.join()


# --- rounds --------------------------------------------------------------------------------------


def _repair(name: str, *, find: int = 1, every_s: float = 0.0, who: Who = Who.LEADER) -> Repair:
    found = [Found("it")] * find
    return Repair(name=name, why="a test", find=lambda _: found, act=lambda _, f: len(f), every_s=every_s, who=who)


def test_what_is_slow_is_made_now_and_then(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "REPAIRS", (_repair("often"), _repair("seldom", every_s=60)))
    reconciler = yard.reconciler()
    made = []

    for _ in range(5):
        made.append(reconciler.run_once())
        yard.wait(20)

    assert [one["often"] for one in made] == [1, 1, 1, 1, 1]
    assert [one["seldom"] for one in made] == [1, 0, 0, 1, 0]


def test_what_was_too_much_for_one_round_goes_on_in_the_next(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "REPAIRS", (_repair("seldom", find=MOST, every_s=60),))
    reconciler = yard.reconciler()

    assert [reconciler.run_once()["seldom"] for _ in range(2)] == [MOST, MOST]


def test_a_repair_that_fails_keeps_no_other_from_being_made_and_is_tried_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [
        OSError("disk full"),
        BadInput("x", 1, "mend it"),
        OperationalError("x", {}, OSError()),
    ]

    def fail(_: object) -> list[Found]:
        raise failures[0]

    broken = Repair(name="broken", why="a test", find=fail, act=lambda *_: 0, every_s=60)
    monkeypatch.setattr(reconcile, "REPAIRS", (broken, _repair("good")))
    reconciler = yard.reconciler()

    while failures:
        done = reconciler.round()
        assert [one.repair.name for one in done] == ["broken", "good"]
        assert done[0].error == str(failures.pop(0))
        assert done[1].repaired == 1


def test_what_was_repaired_is_counted_in_the_database_and_what_was_not_is_not(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "REPAIRS", (_repair("two", find=2), _repair("none", find=0)))
    for _ in range(3):
        yard.wait(60)
        yard.reconciler().round(by_hand=True)

    with yard.store.reading() as tx:
        counts = tx.repair_counts()

    assert [(one.name, one.count, one.last_count, one.last_at) for one in counts.values()] == [
        ("two", 6, 2, yard.clock.now)
    ]


def test_a_name_that_no_repair_has_is_refused_with_those_there_are(yard: Yard) -> None:
    with pytest.raises(BadInput, match="no such repair; known: interrupt-dead-runs, "):
        yard.reconciler().round(["interrupt"])


def test_every_repair_has_a_name_of_its_own_and_a_reason() -> None:
    names = [repair.name for repair in reconcile.REPAIRS]

    assert len(set(names)) == len(names)
    assert all(repair.why for repair in reconcile.REPAIRS)


def test_the_simple_door_makes_a_round_and_leaves_no_lease(yard: Yard) -> None:
    _lose_a_message(yard)

    counts = reconcile.run_once(yard.engine)

    assert {name: count for name, count in counts.items() if count} == {"publish-forgotten": 1}
    with yard.store.reading() as tx:
        assert tx.list_leases() == []


# --- whose runs ----------------------------------------------------------------------------------


def _lose_a_run(yard: Yard, host: str) -> int:
    drive.add(yard.store, "dev-alpha")
    drive.dispatch(yard.store)
    with yard.store.writing() as tx:
        run = tx.claim("dev-alpha", lease_s=LEASE_S, host=host)
    return run.task.id  # type: ignore[union-attr] # there is one


def test_a_dead_run_of_another_host_is_left_to_the_reconciler_there(yard: Yard) -> None:
    leader, other = yard.reconciler(), yard.reconciler("elsewhere")
    leader.run_once()
    task = _lose_a_run(yard, "elsewhere")

    counts = []
    for _ in range(40):
        counts.append(leader.run_once()["interrupt-dead-runs"])
        other.round(["sweep-removed"])
        yard.wait(5)

    assert sum(counts) == 0
    assert drive.task(yard.store, task).state is State.RUNNING
    assert other.run_once()["interrupt-dead-runs"] == 1
    assert drive.task(yard.store, task).state is State.INTERRUPTED


def test_a_dead_run_of_a_host_that_is_gone_is_interrupted_by_the_leader_alone(yard: Yard) -> None:
    leader, third, gone = yard.reconciler(), yard.reconciler("third"), yard.reconciler("elsewhere")
    leader.run_once()
    gone.run_once()
    task = _lose_a_run(yard, "elsewhere")

    led, followed = 0, 0
    for _ in range(14):
        followed += third.run_once()["interrupt-dead-runs"]
        led += leader.run_once()["interrupt-dead-runs"]
        yard.wait(5)

    assert (led, followed) == (1, 0)
    assert drive.task(yard.store, task).state is State.INTERRUPTED


def test_a_run_that_is_renewed_after_it_was_found_dead_lives_on(yard: Yard) -> None:
    task = _lose_a_run(yard, "here")
    yard.wait(LEASE_S)
    repair = reconcile.chosen(["interrupt-dead-runs"])[0]
    found: list[Found] = []

    def find_and_renew(scene: object) -> list[Found]:
        found.extend(repair.find(scene))  # type: ignore[arg-type] # passed on
        with yard.store.writing() as tx:
            tx.renew(task, fence=1, lease_s=LEASE_S)
        return found

    late = Repair(name=repair.name, why="", find=find_and_renew, act=repair.act, who=Who.HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "REPAIRS", (late,))
        counts = yard.reconciler().run_once()

    assert (len(found), counts["interrupt-dead-runs"]) == (1, 0)
    assert drive.task(yard.store, task).state is State.RUNNING
    with yard.store.writing() as tx:
        tx.renew(task, fence=1, lease_s=LEASE_S)
