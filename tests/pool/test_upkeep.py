"""Upkeep: leases of the deployment, counters of repairs, runs taken away, rows that are too old."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from pool.errors import LeaseLost, StaleTask
from pool.lanes import MergeState
from pool.model import Evidence
from pool.schema import instances, tasks
from pool.states import InstanceState, Move, State, Verdict
from pool.store import LeftAgent, Miscount, NoClaim, Store, Tx, WorkerLease
from pool.store.retention import Record
from pool.subject import Subject
from tests.helpers.clock import Clock
from tests.pool import drive
from tests.pool.processes import PROCESSES, Crew


def _take(store: Store, token: str, *, name: str = "lead", lease_s: float = 30.0) -> bool:
    with store.writing() as tx:
        may = tx.may_lease(name, token=token, lease_s=lease_s)
        taken = tx.take_lease(name, holder=f"holder of {token}", token=token, lease_s=lease_s)
    assert may == taken
    return taken


def _sql(store: Store, statement: Any) -> None:
    with store.writing() as tx:
        tx.connection.execute(statement)


# --- leases --------------------------------------------------------------------------------------


def test_a_lease_is_held_by_one_until_it_ends(store: Store, clock: Clock) -> None:
    assert (_take(store, "a"), _take(store, "b"), _take(store, "b", name="other")) == (True, False, True)

    clock.advance(29)
    assert (_take(store, "b"), _take(store, "a")) == (False, True)
    clock.advance(29)
    assert _take(store, "b") is False
    clock.advance(1)
    assert (_take(store, "b"), _take(store, "a")) == (True, False)
    with store.reading() as tx:
        assert [(one.name, one.holder, one.until) for one in tx.list_leases()] == [
            ("lead", "holder of b", clock.now + timedelta(seconds=30)),
            ("other", "holder of b", clock.now - timedelta(seconds=29)),
        ]


def test_a_lease_that_ends_implausibly_far_ahead_was_written_before_the_clock_was_put_back(
    store: Store, clock: Clock
) -> None:
    _take(store, "a")
    clock.advance(-30)
    assert _take(store, "b") is False

    clock.advance(-1)

    assert _take(store, "b") is True


def test_a_lease_is_released_by_its_holder_alone(store: Store) -> None:
    _take(store, "a")
    with store.writing() as tx:
        tx.release_lease("lead", token="b")
    assert _take(store, "b") is False

    with store.writing() as tx:
        tx.release_lease("lead", token="a")
    assert _take(store, "b") is True


def test_a_lease_that_was_renewed_since_it_was_seen_is_not_forgotten(store: Store, clock: Clock) -> None:
    _take(store, "a")
    with store.reading() as tx:
        (seen,) = tx.list_leases()
    clock.advance(1)
    _take(store, "a")

    with store.writing() as tx:
        assert tx.forget_lease("lead", until=seen.until) is False
        assert tx.forget_lease("lead", until=tx.list_leases()[0].until) is True
        assert tx.list_leases() == []


def _take_once(store: Store, token: str) -> list[bool]:
    return [_take(store, token)]


def test_of_many_processes_that_want_to_lead_one_does(store: Store, crew: Crew) -> None:
    taken = crew.together(store, [(_take_once, f"token {i}") for i in range(PROCESSES)])

    assert sorted(taken) == [False] * (PROCESSES - 1) + [True]


def test_repairs_are_added_up(store: Store, clock: Clock) -> None:
    for count in (2, 3):
        clock.advance(10)
        with store.writing() as tx:
            tx.count_repair("x", count)

    with store.reading() as tx:
        (one,) = tx.repair_counts().values()
    assert (one.name, one.count, one.last_count, one.last_at) == ("x", 5, 3, clock.now)


# --- runs ----------------------------------------------------------------------------------------


def _begin(store: Store, host: str = "here") -> tuple[int, int, datetime]:
    """Begin a run; return its task, fence and the end of its lease."""
    with store.writing() as tx:
        if tx.find_instance("dev-alpha") is None:
            tx.add_instance("dev-alpha", "dev")
    drive.dispatch(store)
    with store.writing() as tx:
        claimed = tx.claim("dev-alpha", lease_s=60, host=host)
        assert not isinstance(claimed, NoClaim)
        (lease,) = tx.running_leases()
    return claimed.task.id, claimed.fence, lease.until


def test_a_run_that_is_taken_away_can_write_nothing_and_its_instance_starts_nothing(store: Store) -> None:
    task, fence, until = _begin(store)
    drive.dispatch(store)

    with store.writing() as tx:
        new = tx.seize_run(task, fence=fence, until=until, lease_s=60)

    assert new == fence + 1
    with pytest.raises(LeaseLost), store.writing() as tx:
        tx.renew(task, fence=fence, lease_s=60)
    with pytest.raises(StaleTask), store.writing() as tx:
        tx.finish(task, Move.SUCCEED, fence=fence, evidence=Evidence(), why="")
    assert isinstance(drive.try_claim(store, "dev-alpha"), NoClaim)
    with store.writing() as tx:
        assert tx.interrupt_run(task, fence=new, by="x", why="") is Move.INTERRUPT
    assert drive.claim(store, "dev-alpha").fence == new + 1


def test_a_run_that_was_renewed_or_has_ended_since_it_was_seen_is_not_taken_away(store: Store, clock: Clock) -> None:
    task, fence, until = _begin(store)
    clock.advance(1)
    with store.writing() as tx:
        tx.renew(task, fence=fence, lease_s=60)
        renewed = tx.running_leases()[0].until

    with store.writing() as tx:
        assert tx.seize_run(task, fence=fence, until=until, lease_s=60) is None
        assert tx.seize_run(task, fence=fence + 1, until=renewed, lease_s=60) is None
        assert tx.seize_run(task + 1, fence=fence, until=renewed, lease_s=60) is None
        tx.finish(task, Move.SUCCEED, fence=fence, evidence=Evidence(), why="")
        assert tx.seize_run(task, fence=fence, until=renewed, lease_s=60) is None


def test_the_agents_of_a_host_are_known_until_they_are_gone(store: Store) -> None:
    left: list[LeftAgent] = []
    for host, is_gone in (("here", False), ("elsewhere", False), ("here", True), ("here", False)):
        task, fence, _ = _begin(store, host)
        with store.writing() as tx:
            tx.note_agent(task, fence=fence, pid=task + 100, started=0.5)
            assert tx.left_agents("here", limit=10) == left
            tx.finish(task, Move.FAIL, fence=fence, evidence=Evidence(), why="", agent_is_gone=is_gone)
        left += [LeftAgent(task, task + 100, 0.5)] if host == "here" and not is_gone else []

    with store.writing() as tx:
        assert tx.left_agents("here", limit=10) == left
        assert tx.left_agents("here", limit=1) == left[:1]
        assert tx.agent_of(left[0].task) == left[0]
        assert tx.forget_agent(left[0].task, pid=1) is False
        assert tx.forget_agent(left[0].task, pid=left[0].pid) is True
        assert tx.agent_of(left[0].task) is None
        assert tx.left_agents("here", limit=10) == left[1:]


# --- instances -----------------------------------------------------------------------------------


def test_counters_that_disagree_with_the_tasks_are_told_and_set(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    for _ in range(4):
        drive.dispatch(store)
    drive.claim(store, "dev-bravo")
    _sql(store, update(instances).where(instances.c.name == "dev-alpha").values(queued=0))
    _sql(store, update(instances).where(instances.c.name == "dev-bravo").values(running=0, queued=5))

    with store.writing() as tx:
        wrong = tx.miscounts()
        mended = [tx.recount(name) for name in ("dev-alpha", "dev-bravo", "dev-charlie")]
        left = tx.miscounts()

    assert wrong == [Miscount("dev-alpha", (0, 0), (2, 0)), Miscount("dev-bravo", (5, 0), (0, 1))]
    assert (mended, left) == ([*wrong, None], [])


def test_only_a_removed_instance_that_holds_nothing_is_empty(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie", "dev-delta")
    for _ in range(3):
        drive.dispatch(store)
    drive.claim(store, "dev-bravo")
    removed = update(instances).values(state=InstanceState.REMOVED)
    _sql(store, removed.where(instances.c.name != "dev-delta"))
    _sql(store, update(instances).values(queued=0, running=0))

    with store.writing() as tx:
        assert tx.empty_removed() == []
        tx.connection.execute(update(tasks).where(tasks.c.instance == "dev-charlie").values(state=State.SUCCEEDED))
        assert tx.empty_removed() == ["dev-charlie"]
        assert tx.busy_instances() == {"dev-bravo"}
        tx.sweep_removed("dev-alpha")
        assert tx.live_instances() == {"dev-alpha", "dev-bravo", "dev-charlie", "dev-delta"}


def test_a_worker_is_forgotten_only_as_it_was_seen(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    with store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="w", token="t", lease_s=30, host="here")
        (seen,) = tx.worker_leases()
    clock.advance(10)
    with store.writing() as tx:
        tx.renew_worker_lease("dev-alpha", token="t", lease_s=30)
        assert tx.forget_worker("dev-alpha", until=seen.until) is False
        (again,) = tx.worker_leases()
        assert tx.forget_worker("dev-alpha", until=again.until) is True
        row = tx.instance("dev-alpha")

    assert seen == WorkerLease("dev-alpha", "w", clock.now + timedelta(seconds=20))
    assert (row.worker, row.worker_host, row.worker_until) == (None, None, None)
    with pytest.raises(LeaseLost), store.writing() as tx:
        tx.renew_worker_lease("dev-alpha", token="t", lease_s=30)


# --- retention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
def test_only_a_task_that_has_ended_for_good_grows_old(store: Store, clock: Clock, state: State) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    ended = None if state in {State.QUEUED, State.RUNNING} else clock.now
    _sql(store, update(tasks).values(state=state, finished_at=ended))
    clock.advance(1)

    with store.writing() as tx:
        found = tx.old_tasks(tx.now, limit=10)
        deleted = tx.delete_tasks([1], tx.now)

    assert (found, deleted) == (([1], 1) if state.is_final else ([], 0))


def test_what_is_old_is_found_oldest_first_and_asked_again_before_it_goes(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    done = []
    for _ in range(4):
        drive.dispatch(store)
        done.append(drive.serve(store, "dev-alpha"))
        clock.advance(10)

    with store.writing() as tx:
        assert tx.old_tasks(tx.after(-20), limit=10) == done[:2]
        assert tx.old_tasks(tx.after(-20), limit=1) == done[:1]
        assert tx.delete_tasks(done, tx.after(-20)) == 2
        assert [task.id for task in tx.list_tasks(newest_first=False)] == done[2:]


def test_a_receipt_is_needed_while_a_task_that_came_of_it_may_still_run(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    with store.writing() as tx:
        receipts = [
            tx.add_delivery(
                source="f", signed=True, verdict=Verdict.ACCEPTED, status=202, reason="", fingerprint=str(i)
            )
            for i in range(3)
        ]
    drive.dispatch(store, delivery=receipts[0])
    drive.serve(store, "dev-alpha")
    drive.dispatch(store, delivery=receipts[1])
    clock.advance(1)

    with store.writing() as tx:
        assert tx.old_deliveries(tx.now, limit=10) == [receipts[0], receipts[2]]
        assert tx.delete_deliveries(receipts, tx.now) == 2
        # What was accepted is forgotten with it, so the same may be accepted again.
        assert tx.accepted_twin(delivery_id=None, fingerprint="2") is None
        assert tx.accepted_twin(delivery_id=None, fingerprint="1") == receipts[1]


def test_an_issue_is_forgotten_when_it_is_closed_and_nobody_works_on_it(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    with store.writing() as tx:
        for number in (1, 2):
            tx.note_work("acme/shop", number, issue=3)
            tx.tell("acme/shop", number, source="look", what="wait", why="")
            tx.owe(f"ask:{number}", "ask", repo="acme/shop", number=number, type_name="dev")
            tx.note_effect(tx.owed_effects()[0])
            merge = tx.enter_lane("acme/shop", "main", number, head_sha="a", approved_at=tx.now)
            tx.end_merge(merge.id, MergeState.MERGED, reason="")
        for number, state, updated in (
            (1, "closed", tx.now),
            (2, "open", tx.now),
            (3, "closed", tx.now),
            (4, "closed", None),
        ):
            tx.remember(Subject(repo="acme/shop", number=number, is_pull=False, state=state, updated_at=updated))
            tx.keep_session(f"dev:acme/shop:{number}", "s", instance="dev-alpha", task=1)
    drive.dispatch(store, number=3)
    clock.advance(1)

    with store.writing() as tx:
        assert tx.old_subjects(tx.now, limit=10) == [("acme/shop", 1)]
        assert [tx.delete_subject("acme/shop", number, tx.now) for number in (1, 1, 2, 3, 4)] == [
            *(True, False, False, False, False)
        ]
        assert [tx.session(f"dev:acme/shop:{number}") for number in (1, 2)] == [None, "s"]
        # With all that is known of it.
        assert tx.watched("acme/shop") == [2]
        assert [line.number for line in tx.list_trail("acme/shop", [1, 2])] == [2]
        assert [effect.number for effect in tx.list_effects()] == [2]
        assert [merge.number for merge in tx.list_merges()] == [2]
        assert sorted(tx.old_sessions(tx.now, limit=10)) == ["dev:acme/shop:2", "dev:acme/shop:4"]
        assert tx.delete_sessions([f"dev:acme/shop:{number}" for number in (2, 3)], tx.now) == 1


def _order(tx: Tx, comment: int) -> int:
    about = {"repo": "acme/shop", "number": 7, "comment": comment, "line": 0, "verb": "retry", "argument": ""}
    return tx.take_order(**about, by="ada", delivery=None) or 0


def test_what_the_workflow_has_kept_grows_old_only_when_it_has_ended(store: Store, clock: Clock) -> None:
    with store.writing() as tx:
        ended = tx.enter_lane("acme/shop", "main", 7, head_sha="a", approved_at=tx.now)
        tx.end_merge(ended.id, MergeState.REFUSED, reason="")
        tx.enter_lane("acme/shop", "main", 8, head_sha="a", approved_at=tx.now)
        tx.end_order(_order(tx, 1), answer="")
        _order(tx, 2)
        for key in ("a:done", "b:given up", "c:owed"):
            tx.owe(key, key[0], repo="acme/shop", number=7, type_name="dev")
        tx.note_effect(tx.owed_effects()[0])
        tx.fail_effect(tx.owed_effects()[0], error="", after_s=None)
        tx.tell("acme/shop", 7, source="look", what="wait", why="")
    with store.reading() as tx:
        assert tx.old_work(tx.now, limit=10) == []
    clock.advance(1)

    with store.writing() as tx:
        old = tx.old_work(tx.now, limit=10)
        assert tx.old_work(tx.now, limit=2) == old[:2]
        deleted = tx.delete_work([*old, Record("merge", 2), Record("effect", 3), Record("order", 2)], tx.now)

        assert (tx.old_work(tx.now, limit=10), len(tx.list_merges()), len(tx.due_orders())) == ([], 1, 1)
        assert [effect.key for effect in tx.list_effects()] == ["c:owed"]
    assert [str(one) for one in old] == ["merge 1", "effect 1", "effect 2", "order 1", "trail 1"]
    assert deleted == len(old)


@pytest.mark.parametrize(
    ("subject", "kind", "goes"),
    [
        *(("closed", "ask", True), ("closed", "report", True)),
        *(("open", "ask", False), ("open", "report", False)),
        # Not every issue that a pull request is for is known: it may be open.
        *((None, "ask", False), (None, "report", True)),
    ],
)
def test_what_was_written_about_an_issue_is_known_while_the_issue_may_be_open(
    store: Store, clock: Clock, subject: str | None, kind: str, *, goes: bool
) -> None:
    with store.writing() as tx:
        tx.owe(f"{kind}:x", kind, repo="acme/shop", number=7, type_name="dev")
        tx.note_effect(tx.owed_effects()[0])
        if subject is not None:
            tx.remember(Subject(repo="acme/shop", number=7, is_pull=False, state=subject))
    clock.advance(1)

    with store.writing() as tx:
        assert tx.delete_work([Record("effect", 1)], tx.now) == int(goes)
        assert tx.owe(f"{kind}:x", kind, repo="acme/shop", number=7, type_name="dev") is goes
