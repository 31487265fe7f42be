"""Runs: claim the head of a queue, keep the lease, record the end."""

from typing import Any

import pytest

from pool.errors import LeaseLost, StaleTask, UnknownInstance, UnknownTask
from pool.model import Evidence, Kind
from pool.states import InstanceState, Move, State
from pool.store import DeadLettered, NoClaim, Queued, Store, Wishes
from tests.helpers.clock import Clock
from tests.pool import drive
from tests.pool.drive import LEASE_S

KEY = "dev:acme/shop:7"


def _session(store: Store, key: str = KEY) -> str | None:
    with store.reading() as tx:
        return tx.session(key)


def _expire(store: Store) -> list[int]:
    with store.writing() as tx:
        return drive.expire_runs(tx, by="reconcile")


def _try_again(store: Store, task: int, *, cap: int = 3, **options: Any) -> Queued | DeadLettered:
    with store.writing() as tx:
        return tx.retry_interrupted(task, cap=cap, by="reconcile", **options)


def _retry(store: Store, task: int, **options: Any) -> Queued:
    again = _try_again(store, task, **options)
    assert isinstance(again, Queued)
    return again


# --- claiming ------------------------------------------------------------------------------------


def test_tasks_of_an_instance_are_claimed_in_the_order_in_which_they_were_queued(store: Store) -> None:
    drive.add(store, "dev-alpha")
    queued = [drive.dispatch(store).task for _ in range(5)]

    assert [drive.serve(store, "dev-alpha") for _ in range(5)] == queued


def test_a_claim_carries_the_task_its_lease_and_a_new_fence_each_time(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    drive.dispatch(store)

    first = drive.claim(store, "dev-alpha", lease_s=30)
    drive.finish(store, first)
    second = drive.claim(store, "dev-alpha")

    assert first.task.state is State.RUNNING
    assert first.task.started_at == store.clock()
    assert first.task.lease_until is not None
    assert (first.task.lease_until - store.clock()).total_seconds() == 30
    assert (first.task.fence, second.task.fence) == (first.fence, second.fence)
    assert second.fence > first.fence


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "the queue of dev-alpha is empty"),
        (lambda s: drive.dispatch(s) and drive.claim(s, "dev-alpha"), "dev-alpha runs a task already"),
        (lambda s: drive.set_state(s, "dev-alpha", InstanceState.PAUSED), "dev-alpha is paused"),
    ],
    ids=["empty", "running", "paused"],
)
def test_a_doorbell_that_rings_for_nothing_hears_why(store: Store, make: Any, why: str) -> None:
    drive.add(store, "dev-alpha")
    make(store)

    assert drive.try_claim(store, "dev-alpha") == NoClaim(why)


@pytest.mark.parametrize("state", [InstanceState.DRAINING, InstanceState.REMOVED])
def test_an_instance_that_takes_nothing_new_still_works_off_its_queue(store: Store, state: InstanceState) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store)
    drive.set_state(store, "dev-alpha", state)

    assert drive.serve(store, "dev-alpha") == queued.task


def test_nobody_claims_for_an_instance_that_does_not_exist(store: Store) -> None:
    with pytest.raises(UnknownInstance, match="dev-nobody"):
        drive.try_claim(store, "dev-nobody")


def test_a_worker_that_lost_its_queue_claims_nothing(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store)
    with store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="old", token="1", lease_s=10)
    clock.advance(10)
    with store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder="new", token="2", lease_s=10)

    with pytest.raises(LeaseLost), store.writing() as tx:
        tx.claim("dev-alpha", lease_s=60, worker_token="1")

    assert drive.task(store, queued.task).state is State.QUEUED
    with store.writing() as tx:
        assert not isinstance(tx.claim("dev-alpha", lease_s=60, worker_token="2"), NoClaim)


# --- the lease -----------------------------------------------------------------------------------


def test_a_run_that_is_renewed_in_time_lives_on(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")

    for _ in range(3):
        clock.advance(LEASE_S - 1)
        with store.writing() as tx:
            assert tx.renew(run.task.id, fence=run.fence, lease_s=LEASE_S) == Wishes(None, stop=False)

        assert _expire(store) == []


def test_a_run_that_is_not_renewed_is_interrupted_at_the_end_of_its_lease(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store)
    drive.claim(store, "dev-alpha")
    clock.advance(LEASE_S - 1)
    too_early = _expire(store)
    clock.advance(1)

    assert too_early == []
    assert _expire(store) == [queued.task]
    assert _expire(store) == []
    ended = drive.task(store, queued.task)
    assert ended.state is State.INTERRUPTED
    assert "stopped renewing" in ended.reason


def _renew(tx: Any, task: int, fence: int) -> None:
    tx.renew(task, fence=fence, lease_s=LEASE_S)


def _wishes(tx: Any, task: int, fence: int) -> None:
    tx.wishes(task, fence=fence)


def _finish(tx: Any, task: int, fence: int) -> None:
    tx.finish(task, Move.SUCCEED, fence=fence, evidence=Evidence(session_id="late"), why="late")


@pytest.mark.parametrize("act", [_renew, _wishes, _finish])
def test_a_worker_that_comes_back_after_its_lease_has_ended_changes_nothing(
    store: Store, clock: Clock, act: Any
) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    run = drive.claim(store, "dev-alpha")
    clock.advance(LEASE_S)
    _expire(store)
    before = drive.task(store, run.task.id)

    with pytest.raises((LeaseLost, StaleTask)), store.writing() as tx:
        act(tx, run.task.id, run.fence)

    assert drive.task(store, run.task.id) == before
    assert _session(store) is None


@pytest.mark.parametrize("act", [_renew, _wishes, _finish])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_run_with_another_fence_is_another_run(store: Store, act: Any, step: int) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")

    with pytest.raises((LeaseLost, StaleTask)), store.writing() as tx:
        act(tx, run.task.id, run.fence + step)

    assert drive.task(store, run.task.id) == run.task


def test_the_process_of_an_agent_is_noted_only_by_the_run_that_holds_the_lease(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        tx.note_agent(run.task.id, fence=run.fence, pid=41, started=0.5)
        tx.note_agent(run.task.id, fence=run.fence + 1, pid=42, started=0.5)

    with store.reading() as tx:
        assert tx.connection.exec_driver_sql("SELECT agent_pid FROM tasks").scalar() == 41


# --- ends ----------------------------------------------------------------------------------------


def test_the_end_of_a_run_keeps_its_evidence_and_frees_the_instance(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")

    drive.finish(store, run, exit_code=0, duration_s=1.5, cost_usd=0.25, notes=("log cut",))

    ended = drive.task(store, run.task.id)
    assert ended.evidence == Evidence(exit_code=0, duration_s=1.5, cost_usd=0.25, notes=("log cut",))
    assert (ended.finished_at, ended.lease_until) == (store.clock(), None)
    assert drive.instance(store, "dev-alpha").is_idle


@pytest.mark.parametrize("move", [Move.CLAIM, Move.SUPERSEDE, Move.REJECT])
def test_a_run_ends_only_by_a_move_that_ends_runs(store: Store, move: Move) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")

    with pytest.raises(StaleTask):
        drive.finish(store, run, move)

    assert drive.task(store, run.task.id) == run.task


def test_a_task_that_does_not_exist_cannot_end(store: Store) -> None:
    with pytest.raises(UnknownTask, match="41"), store.writing() as tx:
        tx.finish(41, Move.SUCCEED, fence=1, evidence=Evidence(), why="")


@pytest.mark.parametrize("move", [Move.SUCCEED, Move.FAIL])
def test_a_conversation_is_continued_after_success_and_after_failure(store: Store, move: Move) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    drive.finish(store, drive.claim(store, "dev-alpha"), move, session_id="s-1")
    drive.dispatch(store, number=7)

    assert drive.claim(store, "dev-alpha").session_id == "s-1"


def test_the_newest_conversation_replaces_the_one_before(store: Store) -> None:
    drive.add(store, "dev-alpha")
    for session_id in ("s-1", "s-2", None):
        drive.dispatch(store, number=7)
        drive.finish(store, drive.claim(store, "dev-alpha"), session_id=session_id)

    assert _session(store) == "s-2"


@pytest.mark.parametrize("move", [Move.INTERRUPT, Move.CANCEL, Move.TIME_OUT])
def test_a_conversation_that_was_cut_off_is_forgotten(store: Store, move: Move) -> None:
    drive.add(store, "dev-alpha")
    for ending in (Move.SUCCEED, move):
        drive.dispatch(store, number=7)
        drive.finish(store, drive.claim(store, "dev-alpha"), ending, session_id="s-1")

    assert _session(store) is None


def test_a_conversation_whose_worker_went_away_is_forgotten(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    drive.finish(store, drive.claim(store, "dev-alpha"), session_id="s-1")
    drive.dispatch(store, number=7)
    drive.claim(store, "dev-alpha")
    clock.advance(LEASE_S)
    _expire(store)

    assert _session(store) is None


def test_a_review_neither_continues_a_conversation_nor_leaves_one(store: Store) -> None:
    drive.add(store, "reviewer-alpha", type_name="reviewer")
    with store.writing() as tx:
        tx.keep_session("reviewer:acme/shop:7", "s-1", instance="reviewer-alpha", task=1)
    drive.dispatch(store, "reviewer", number=7, kind=Kind.REVIEW)
    run = drive.claim(store, "reviewer-alpha")

    drive.finish(store, run, session_id="s-2")

    assert run.session_id is None
    assert _session(store, "reviewer:acme/shop:7") == "s-1"


def test_all_conversations_about_one_issue_can_be_forgotten_and_no_others(store: Store) -> None:
    keys = ["dev:acme/shop:7", "boss:acme/shop:7", "dev:acme/shop:17", "dev:acme/shop_:7", "dev:acme/sho%:7"]
    with store.writing() as tx:
        for key in keys:
            tx.keep_session(key, "s", instance="dev-alpha", task=1)
        tx.drop_sessions_of("acme/shop", 7)

    assert [key for key in keys if _session(store, key)] == keys[2:]


# --- cancelling ----------------------------------------------------------------------------------


def test_a_queued_task_is_cancelled_at_once_and_the_queue_closes_up(store: Store) -> None:
    drive.add(store, "dev-alpha")
    first, second, third = (drive.dispatch(store).task for _ in range(3))
    with store.writing() as tx:
        assert tx.cancel(second, by="ada", why="not needed") is State.CANCELLED

    cancelled = drive.task(store, second)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "not needed")
    assert drive.instance(store, "dev-alpha").queued == 2
    assert [drive.serve(store, "dev-alpha") for _ in range(2)] == [first, third]


def test_a_running_task_is_asked_to_stop_and_its_worker_hears_who_asked(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    for who in ("ada", "grace"):
        with store.writing() as tx:
            assert tx.cancel(run.task.id, by=who) is State.RUNNING

    with store.reading() as tx:
        assert tx.wishes(run.task.id, fence=run.fence) == Wishes("ada", stop=False)
    asked = drive.task(store, run.task.id)
    assert asked.state is State.RUNNING
    assert [e.by for e in asked.history if e.event == "cancel-requested"] == ["ada"]


def test_a_running_task_whose_worker_is_gone_is_cancelled_at_once(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store, number=7)
    with store.writing() as tx:
        tx.keep_session(KEY, "s", instance="dev-alpha", task=1)
    run = drive.claim(store, "dev-alpha")
    clock.advance(LEASE_S)

    with store.writing() as tx:
        assert tx.cancel(run.task.id, by="ada") is State.CANCELLED

    assert drive.instance(store, "dev-alpha").is_idle
    assert _session(store) is None
    assert _expire(store) == []


def test_a_task_that_has_ended_cannot_be_cancelled(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    task = drive.serve(store, "dev-alpha")

    with pytest.raises(StaleTask, match="it is succeeded"), store.writing() as tx:
        tx.cancel(task, by="ada")


def test_a_task_that_does_not_exist_cannot_be_cancelled(store: Store) -> None:
    with pytest.raises(UnknownTask, match="41"), store.writing() as tx:
        tx.cancel(41, by="ada")


def test_cancelling_hits_one_task_and_leaves_its_neighbours(store: Store) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    found = [drive.dispatch(store, number=7, one_conversation=False).task for _ in range(4)]
    with store.writing() as tx:
        tx.cancel(found[1], by="ada")

    states = [drive.task(store, task).state for task in found]
    assert states == [State.QUEUED, State.CANCELLED, State.QUEUED, State.QUEUED]


def test_a_worker_that_shuts_down_asks_its_agent_to_stop_once(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        assert tx.ask_to_stop("dev-alpha", by="worker") == [run.task.id]
        assert tx.ask_to_stop("dev-alpha", by="worker") == []

    with store.writing() as tx:
        wishes = tx.renew(run.task.id, fence=run.fence, lease_s=LEASE_S)
    assert wishes == Wishes(None, stop=True, stop_why="the worker shuts down")


# --- superseding ---------------------------------------------------------------------------------


def test_newer_facts_take_back_what_waits_and_leave_what_runs(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.add(store, "boss-alpha", type_name="boss")
    running = drive.dispatch(store, number=7)
    drive.claim(store, "dev-alpha")
    waiting = [drive.dispatch(store, number=7).task, drive.dispatch(store, "boss", number=7, kind=Kind.MERGE).task]
    others = [drive.dispatch(store, number=8).task, drive.dispatch(store, number=7, repo="acme/other").task]

    with store.writing() as tx:
        found = tx.supersede("acme/shop", 7, by="rules", why="the issue was closed")

    assert found == waiting
    assert {drive.task(store, task).state for task in waiting} == {State.SUPERSEDED}
    assert {drive.task(store, task).reason for task in waiting} == {"the issue was closed"}
    assert drive.task(store, running.task).state is State.RUNNING
    assert {drive.task(store, task).state for task in others} == {State.QUEUED}


@pytest.mark.parametrize("only", [{"types": ["boss"]}, {"kinds": [Kind.MERGE]}])
def test_superseding_can_be_limited_to_types_and_kinds(store: Store, only: dict[str, Any]) -> None:
    drive.add(store, "dev-alpha")
    drive.add(store, "boss-alpha", type_name="boss")
    drive.dispatch(store, number=7)
    merge = drive.dispatch(store, "boss", number=7, kind=Kind.MERGE)

    with store.writing() as tx:
        assert tx.supersede("acme/shop", 7, by="rules", why="", **only) == [merge.task]


# --- trying again --------------------------------------------------------------------------------


def _interrupted(store: Store, clock: Clock) -> int:
    run = drive.claim(store, "dev-alpha")
    clock.advance(LEASE_S)
    assert _expire(store) == [run.task.id]
    return run.task.id


def test_an_interrupted_task_is_tried_again_before_what_came_after_it(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha", "dev-bravo")
    first = drive.dispatch(store, number=7, labels=("security",))
    drive.dispatch(store)
    drive.dispatch(store)
    task = _interrupted(store, clock)

    again = _retry(store, task)

    assert again.instance == "dev-alpha"
    retried = drive.task(store, again.task)
    assert (retried.retry_of, retried.interruptions) == (first.task, 1)
    assert retried.request == drive.task(store, task).request
    assert drive.serve(store, "dev-alpha") == again.task
    assert drive.cursor(store) == "dev-alpha"


def test_a_task_that_is_lost_too_often_becomes_a_dead_letter_that_says_so(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    for _ in range(2):
        _retry(store, _interrupted(store, clock), cap=2)
    lost = _interrupted(store, clock)

    dead = _try_again(store, lost, cap=2)

    assert isinstance(dead, DeadLettered)
    letter = drive.task(store, dead.task)
    assert (letter.state, letter.retry_of, letter.interruptions) == (State.DEAD_LETTERED, lost, 3)
    assert letter.reason == letter.history[-1].why == "its run was lost 3 times"
    with store.reading() as tx:
        assert tx.head_of_queue("dev-alpha") is None


@pytest.mark.parametrize("waiting", [0, 3], ids=["gone", "going"])
def test_an_interrupted_task_of_a_removed_instance_is_given_to_another_and_keeps_its_count(
    store: Store, clock: Clock, waiting: int
) -> None:
    drive.add(store, "dev-alpha", "dev-bravo", "dev-charlie")
    first = drive.dispatch(store, number=7)
    for _ in range(waiting):
        drive.dispatch(store)
    drive.claim(store, "dev-alpha")
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)
    clock.advance(LEASE_S)
    _expire(store)

    again = _retry(store, first.task)

    assert again.instance == "dev-bravo"
    retried = drive.task(store, again.task)
    assert (retried.retry_of, retried.interruptions) == (first.task, 1)


def test_an_interrupted_task_never_goes_to_an_instance_of_another_type_that_took_over_the_name(
    store: Store, clock: Clock
) -> None:
    drive.add(store, "dev-alpha")
    first = drive.dispatch(store)
    drive.claim(store, "dev-alpha")
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)
    clock.advance(LEASE_S)
    _expire(store)
    drive.add(store, "dev-alpha", type_name="reviewer")
    drive.add(store, "dev-bravo")

    again = _retry(store, first.task)

    assert again.instance == "dev-bravo"


def test_an_interrupted_task_that_is_given_to_another_still_sees_its_types_labels(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha", match_labels=["security"])
    drive.add(store, "dev-bravo", match_labels=["docs"])
    drive.add(store, "dev-charlie")
    first = drive.dispatch(store, labels=("security",), default_labels=("docs",))
    drive.claim(store, "dev-alpha")
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)
    with store.writing() as tx:
        tx.set_instance("dev-charlie", match_labels=None)
    clock.advance(LEASE_S)
    _expire(store)

    again = _retry(store, first.task, default_labels=("security",))

    assert again.instance == "dev-charlie"


def test_an_interrupted_task_that_nobody_can_take_is_kept_as_a_dead_letter(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    first = drive.dispatch(store)
    drive.claim(store, "dev-alpha")
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)
    clock.advance(LEASE_S)
    _expire(store)

    dead = _try_again(store, first.task)

    assert isinstance(dead, DeadLettered)
    letter = drive.task(store, dead.task)
    assert (letter.state, letter.retry_of, letter.instance) == (State.DEAD_LETTERED, first.task, "dev-alpha")
    assert "no instance of type 'dev' is registered" in letter.reason


def test_a_run_that_was_to_be_cancelled_and_whose_worker_died_is_cancelled_and_not_tried_again(
    store: Store, clock: Clock
) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    run = drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        tx.cancel(run.task.id, by="alice")
    clock.advance(LEASE_S)

    assert _expire(store) == []
    task = drive.task(store, run.task.id)
    assert (task.state, task.reason) == (
        State.CANCELLED,
        "cancelled by alice; it stopped renewing",
    )


def test_doorbells_are_rung_again_although_the_clock_was_put_back(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    with store.writing() as tx:
        tx.mark_published(task)
    clock.advance(-3600)
    unheard = drive.dispatch(store).task
    clock.advance(-3600)

    with store.reading() as tx:
        assert tx.silent_queues(rung_before_s=1) == [(task, "dev-alpha")]
        assert tx.unpublished(older_than_s=2) == [(unheard, "dev-alpha")]


def test_only_what_was_interrupted_is_tried_again(store: Store) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store)

    with pytest.raises(StaleTask, match=f"task {queued.task} cannot be retried: it is queued"):
        _retry(store, queued.task)
    with pytest.raises(UnknownTask, match="41"):
        _retry(store, 41)


# --- doorbells -----------------------------------------------------------------------------------


def test_a_task_whose_doorbell_was_forgotten_is_found_until_it_has_rung(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    first, second = drive.dispatch(store), drive.dispatch(store)
    clock.advance(5)

    with store.writing() as tx:
        assert tx.unpublished(older_than_s=6) == []
        assert tx.unpublished(older_than_s=5) == [(first.task, "dev-alpha"), (second.task, "dev-alpha")]
        assert tx.unpublished(older_than_s=5, limit=1) == [(first.task, "dev-alpha")]
        tx.mark_published(first.task)
        assert tx.unpublished(older_than_s=5) == [(second.task, "dev-alpha")]


def test_an_idle_instance_with_a_queue_is_rung_for_again_after_a_while(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    queued = drive.dispatch(store)

    with store.writing() as tx:
        assert tx.silent_queues(rung_before_s=10) == [(queued.task, "dev-alpha")]
        tx.mark_published(queued.task)
        assert tx.silent_queues(rung_before_s=10) == []
    clock.advance(10)
    with store.writing() as tx:
        assert tx.silent_queues(rung_before_s=10) == [(queued.task, "dev-alpha")]


@pytest.mark.parametrize(
    "make",
    [
        lambda s: drive.claim(s, "dev-alpha"),
        lambda s: drive.set_state(s, "dev-alpha", InstanceState.PAUSED),
        lambda s: [drive.serve(s, "dev-alpha") for _ in range(2)],
    ],
    ids=["busy", "paused", "empty"],
)
def test_nobody_rings_for_an_instance_that_could_not_start_anything(store: Store, make: Any) -> None:
    drive.add(store, "dev-alpha")
    for _ in range(2):
        drive.dispatch(store)
    make(store)

    with store.reading() as tx:
        assert tx.silent_queues(rung_before_s=0) == []
