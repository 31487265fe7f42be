"""Instances: add, change, pause, remove; the one worker of a queue; a database that is busy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool.errors import BadInput, ConfigError, InstanceExists, LeaseHeld, LeaseLost, StoreBusy, UnknownInstance
from pool.states import InstanceState, State
from pool.store import Store, Tx, check_task_id
from tests.helpers.clock import Clock
from tests.helpers.stores import POSTGRES, open_fast
from tests.pool import drive

# --- adding and changing -------------------------------------------------------------------------


def test_an_empty_database_gets_one_instance_of_each_type_and_only_then(store: Store) -> None:
    with store.writing() as tx:
        assert tx.seed(["dev", "reviewer"]) == ["dev-default", "reviewer-default"]
        assert tx.seed(["dev", "reviewer", "boss"]) == []

        assert [(i.name, i.type, i.state) for i in tx.list_instances()] == [
            ("dev-default", "dev", InstanceState.ACTIVE),
            ("reviewer-default", "reviewer", InstanceState.ACTIVE),
        ]


def test_an_instance_keeps_what_it_overrides_and_falls_back_when_that_is_taken_away(store: Store) -> None:
    overrides: dict[str, Any] = {
        "model": "large",
        "prompt_appendix": "Be brief.",
        "match_labels": ("a", "b"),
        "notes": "new",
    }
    drive.add(store, "dev-alpha", **{**overrides, "match_labels": ["b", "a ", "b"]})
    added = drive.instance(store, "dev-alpha")

    with store.writing() as tx:
        bare = tx.set_instance("dev-alpha", **dict.fromkeys(overrides))

    assert {name: getattr(added, name) for name in overrides} == overrides
    assert (bare.model, bare.prompt_appendix, bare.match_labels, bare.notes) == (None, None, None, "")


def test_a_name_that_is_taken_is_refused(store: Store) -> None:
    drive.add(store, "dev-alpha")

    with pytest.raises(InstanceExists, match="'dev-alpha'"):
        drive.add(store, "dev-alpha", type_name="reviewer")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", {"name": "Dev.Alpha"}),
        ("name", {"name": ""}),
        ("name", {"name": "x" * 64}),
        ("name", {"name": "dev\n"}),
        ("type", {"type_name": "-dev"}),
        ("model", {"model": 5}),
        ("match_labels", {"match_labels": "security"}),
        ("match_labels", {"match_labels": [""]}),
        ("state", {"state": "paused"}),
        ("queued", {"queued": 5}),
    ],
)
def test_an_argument_that_is_not_acceptable_is_named(store: Store, field: str, values: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refusal, store.writing() as tx:
        tx.add_instance(**{"name": "dev-alpha", "type_name": "dev", **values})

    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field} = ")
    with store.reading() as tx:
        assert tx.list_instances() == []


@pytest.mark.parametrize("field", ["type", "name_", "fence"])
def test_only_what_an_operator_may_change_can_be_changed(store: Store, field: str) -> None:
    drive.add(store, "dev-alpha")

    with (
        pytest.raises(BadInput, match="known: host, match_labels, model, notes, prompt_appendix"),
        store.writing() as tx,
    ):
        tx.set_instance("dev-alpha", **{field: "x"})


def test_an_instance_that_does_not_exist_is_named(store: Store) -> None:
    acts: list[Callable[[Tx], object]] = [
        lambda tx: tx.instance("dev-nobody"),
        lambda tx: tx.set_instance("dev-nobody", notes="x"),
        lambda tx: tx.set_instance_state("dev-nobody", InstanceState.PAUSED),
        lambda tx: tx.take_worker_lease("dev-nobody", holder="h", token="t", lease_s=1),
    ]
    for act in acts:
        with pytest.raises(UnknownInstance, match="dev-nobody"), store.writing() as tx:
            act(tx)


@pytest.mark.parametrize("typed", ["x", "", "-1", "1.5", "9" * 19, "9" * 400, "1_000", " 7"])
def test_what_is_no_task_id_is_refused_before_it_reaches_the_database(typed: str) -> None:
    with pytest.raises(BadInput, match="task = "):
        check_task_id(typed)


@pytest.mark.parametrize("typed", ["7", "#7", 7])
def test_a_task_id_may_be_typed_as_people_write_it(typed: object) -> None:
    assert check_task_id(typed) == 7


# --- removing ------------------------------------------------------------------------------------


def test_a_removed_instance_that_held_nothing_is_gone_at_once(store: Store) -> None:
    drive.add(store, "dev-alpha")

    with store.writing() as tx:
        assert tx.set_instance_state("dev-alpha", InstanceState.REMOVED) is None
        assert tx.find_instance("dev-alpha") is None


@pytest.mark.parametrize("last", ["serve", "cancel", "supersede"])
def test_a_removed_instance_is_gone_after_its_last_task(store: Store, last: str) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    task = drive.dispatch(store, number=7).task
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)
    drive.serve(store, "dev-alpha")
    before = drive.instance(store, "dev-alpha")

    match last:
        case "serve":
            drive.serve(store, "dev-alpha")
        case "cancel":
            with store.writing() as tx:
                tx.cancel(task, by="ada")
        case _:
            with store.writing() as tx:
                tx.supersede("acme/shop", 7, by="rules", why="")

    assert (before.state, before.queued) == (InstanceState.REMOVED, 1)
    with store.reading() as tx:
        assert tx.find_instance("dev-alpha") is None
        assert tx.task(task).instance == "dev-alpha"


def test_a_name_is_not_used_again_while_tasks_live_under_it(store: Store) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)

    with pytest.raises(InstanceExists):
        drive.add(store, "dev-alpha")

    drive.serve(store, "dev-alpha")
    drive.add(store, "dev-alpha")
    assert drive.instance(store, "dev-alpha").is_idle


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_name_is_not_used_again_even_when_its_row_is_missing(store: Store, state: State) -> None:
    drive.add(store, "dev-alpha")
    task = drive.dispatch(store).task
    if state is State.RUNNING:
        drive.claim(store, "dev-alpha")
    with store.writing() as tx:
        tx.connection.exec_driver_sql("DELETE FROM instances")

    with pytest.raises(BadInput, match=f"task {task} of an earlier instance of that name is still live"):
        drive.add(store, "dev-alpha")


@pytest.mark.parametrize("state", sorted(set(InstanceState) - {InstanceState.REMOVED}))
def test_a_removed_instance_does_not_come_back(store: Store, state: InstanceState) -> None:
    drive.add(store, "dev-alpha")
    drive.dispatch(store)
    drive.set_state(store, "dev-alpha", InstanceState.REMOVED)

    with pytest.raises(BadInput, match="being removed"):
        drive.set_state(store, "dev-alpha", state)

    assert drive.instance(store, "dev-alpha").state is InstanceState.REMOVED


# --- the one worker of a queue -------------------------------------------------------------------


def _take(store: Store, holder: str, *, lease_s: float = 30) -> None:
    with store.writing() as tx:
        tx.take_worker_lease("dev-alpha", holder=holder, token=f"token of {holder}", lease_s=lease_s)


def _renew(store: Store, holder: str) -> InstanceState:
    with store.writing() as tx:
        return tx.renew_worker_lease("dev-alpha", token=f"token of {holder}", lease_s=30)


def test_a_second_worker_is_refused_and_told_who_serves_the_queue_and_for_how_long(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    _take(store, "worker-1")
    clock.advance(10)

    with pytest.raises(LeaseHeld) as refusal:
        _take(store, "worker-2")

    assert (refusal.value.instance, refusal.value.holder, refusal.value.expires_in_s) == ("dev-alpha", "worker-1", 20)
    assert "dev-alpha is already served by worker worker-1" in str(refusal.value)
    assert drive.instance(store, "dev-alpha").worker == "worker-1"


def test_a_worker_may_take_its_own_lease_again(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    _take(store, "worker-1")
    clock.advance(10)
    _take(store, "worker-1")

    until = drive.instance(store, "dev-alpha").worker_until
    assert until is not None
    assert (until - clock()).total_seconds() == 30


def test_the_lease_of_a_dead_worker_is_taken_over_when_it_ends_and_not_before(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    _take(store, "worker-1")
    clock.advance(29)
    with pytest.raises(LeaseHeld):
        _take(store, "worker-2")
    clock.advance(1)
    _take(store, "worker-2")

    with pytest.raises(LeaseLost):
        _renew(store, "worker-1")
    assert _renew(store, "worker-2") is InstanceState.ACTIVE


def test_a_lease_that_is_renewed_is_held_and_tells_the_worker_what_is_asked_of_it(store: Store, clock: Clock) -> None:
    drive.add(store, "dev-alpha")
    _take(store, "worker-1")
    for state in (InstanceState.PAUSED, InstanceState.DRAINING):
        clock.advance(29)
        drive.set_state(store, "dev-alpha", state)
        assert _renew(store, "worker-1") is state

    clock.advance(29)
    with pytest.raises(LeaseHeld):
        _take(store, "worker-2")


def test_a_lease_that_is_released_is_free_at_once(store: Store) -> None:
    drive.add(store, "dev-alpha")
    _take(store, "worker-1")
    with store.writing() as tx:
        tx.release_worker_lease("dev-alpha", token="token of worker-2")
    with pytest.raises(LeaseHeld):
        _take(store, "worker-2")
    with store.writing() as tx:
        tx.release_worker_lease("dev-alpha", token="token of worker-1")

    _take(store, "worker-2")

    with pytest.raises(LeaseLost):
        _renew(store, "worker-1")


# --- the database itself -------------------------------------------------------------------------


@pytest.mark.skipif(bool(POSTGRES), reason="the file is SQLite's")
def test_a_database_that_stays_locked_is_called_busy_and_nothing_is_written(store: Store, clock: Clock) -> None:
    path = store.engine.url.database
    assert path is not None
    other = open_fast(Path(path), clock, busy_s=0.1)

    with store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        with pytest.raises(StoreBusy, match="locked by another writer"):
            drive.add(other, "dev-bravo")
        with other.reading() as reader:
            assert reader.list_instances() == []

    with other.reading() as reader:
        assert [i.name for i in reader.list_instances()] == ["dev-alpha"]
    other.close()


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(store: Store) -> None:
    drive.add(store, "dev-alpha")

    with store.reading() as reader:
        before = reader.list_instances()
        drive.add(store, "dev-bravo")

        assert reader.list_instances() == before


@pytest.mark.parametrize("url", ["mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "no url", ""])
def test_a_database_that_will_not_do_is_refused_by_the_name_of_its_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"service\.database_url"):
        Store.open(url)


def test_times_come_back_aware_and_to_the_microsecond(store: Store, clock: Clock) -> None:
    clock.advance(0.123457)
    drive.add(store, "dev-alpha")

    assert drive.instance(store, "dev-alpha").created_at == clock()
