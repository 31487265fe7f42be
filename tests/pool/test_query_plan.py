"""What the database does for each verb: it looks up, it never reads through.

SQLite says how it will run a statement (EXPLAIN QUERY PLAN) and counts the steps that it took (a progress handler).
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from pool.lanes import Merge, MergeState
from pool.model import Evidence, Kind
from pool.states import LIVE, InstanceState, Move, State
from pool.store import Claim, Store, Tx
from pool.subject import Subject
from tests.bench.fill import fill_deliveries, fill_history, fill_pool
from tests.helpers.clock import Clock
from tests.helpers.factory import make_request
from tests.helpers.stores import POSTGRES, new_store
from tests.pool import drive

pytestmark = pytest.mark.skipif(bool(POSTGRES), reason="these are SQLite's own words")

SHA = "a" * 40
SESSION = "dev:acme/shop:7"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

#: What a plan may say: a look-up by an index, a step that reads no table, or a sort-free walk through the label keys.
_FINE = re.compile(
    r"SEARCH \w+ USING (COVERING |AUTOMATIC )?(INDEX \w+|INTEGER PRIMARY KEY) \(.*\)"
    r"|(SCALAR|CORRELATED SCALAR|LIST) SUBQUERY \d+|CO-ROUTINE keys|SETUP|RECURSIVE STEP|SCAN CONSTANT ROW|SCAN keys"
    # Through the whole of a partial index: it holds what waits or runs, never the history.
    r"|SCAN tasks USING INDEX (ix_tasks_leases|ix_tasks_unpublished|ix_tasks_dead)"
    r"|SCAN instances USING INDEX ix_instances_waiting"
    r"|COMPOUND QUERY|LEFT-MOST SUBQUERY|UNION ALL"
    r"|SCAN merges USING (COVERING )?INDEX (ix_merges_open|uq_merges_lane)|SCAN orders USING INDEX ix_orders_due"
    # Of what was found by an index: what is open, due, or about one issue.
    r"|USE TEMP B-TREE FOR .*ORDER BY"
)

Act = Callable[[Tx], Any]


def _submit(labels: tuple[str, ...] = (), number: int = 1000, absorb: frozenset[State] = LIVE) -> Act:
    return lambda tx: tx.submit("dev", make_request(number=number, labels=labels), by="x", absorb=absorb)


def _run_of(tx: Tx) -> dict[str, int]:
    (task,) = tx.running("dev-000000")
    assert task.fence is not None
    return {"task": task.id, "fence": task.fence}


def _finish(tx: Tx) -> None:
    run = _run_of(tx)
    tx.finish(run["task"], Move.SUCCEED, fence=run["fence"], evidence=Evidence(session_id="s"), why="")


#: Every verb that a delivery, a worker or the reconciler waits for, and the indexes of its own that it goes by.
ACTS: dict[str, tuple[Act, set[str]]] = {
    "submit, twin and same session": (_submit(number=7, absorb=frozenset({State.QUEUED})), {"ix_tasks_session"}),
    "submit, no labels": (
        _submit(),
        {"ix_tasks_session", "ix_instances_type_name", "ix_instances_pick", "ix_tasks_waiting_on"},
    ),
    "submit, labels": (
        _submit(labels=("label-39",)),
        {"ix_tasks_session", "ix_instances_type_name", "ix_instances_pick_label", "ix_tasks_waiting_on"},
    ),
    "submit, no instance": (
        lambda tx: tx.submit("none", make_request(), by="x"),
        {"ix_tasks_session", "ix_instances_type_name", "ix_instances_pick"},
    ),
    "claim": (lambda tx: tx.claim("dev-000001", lease_s=60), {"ix_tasks_queue"}),
    "renew": (lambda tx: tx.renew(**_run_of(tx), lease_s=60), {"uq_tasks_running"}),
    "finish": (_finish, {"uq_tasks_running"}),
    "note the agent": (lambda tx: tx.note_agent(**_run_of(tx), pid=1, started=0.5), {"uq_tasks_running"}),
    "ask to stop": (lambda tx: tx.ask_to_stop("dev-000000", by="x"), {"uq_tasks_running"}),
    "cancel": (lambda tx: tx.cancel(tx.head_of_queue("dev-000001") or 0, by="x"), {"ix_tasks_queue"}),
    "supersede": (lambda tx: tx.supersede("acme/shop", 7, by="x", why=""), {"ix_tasks_waiting_on"}),
    "mark published": (lambda tx: tx.mark_published(tx.head_of_queue("dev-000001") or 0), {"ix_tasks_queue"}),
    "expire runs": (lambda tx: drive.expire_runs(tx, by="x"), {"ix_tasks_leases"}),
    "unpublished": (lambda tx: tx.unpublished(older_than_s=-1), {"ix_tasks_unpublished"}),
    "silent queues": (lambda tx: tx.silent_queues(rung_before_s=-1), {"ix_instances_waiting", "ix_tasks_queue"}),
    "add an instance": (lambda tx: tx.add_instance("dev-new", "dev"), {"ix_tasks_queue", "uq_tasks_running"}),
    "remove an instance": (lambda tx: tx.set_instance_state("dev-000001", InstanceState.REMOVED), set()),
    "take a worker lease": (
        lambda tx: tx.take_worker_lease("dev-000001", holder="h", token="t", lease_s=1),
        set(),
    ),
    "accepted twin": (
        lambda tx: tx.accepted_twin(delivery_id="d", fingerprint="f"),
        {"uq_deliveries_accepted_id", "uq_deliveries_accepted_meaning"},
    ),
    "accepted twin by meaning": (
        lambda tx: tx.accepted_twin(delivery_id=None, fingerprint="f"),
        {"uq_deliveries_accepted_meaning"},
    ),
    "pull request at a commit": (lambda tx: tx.pull_at("acme/shop", SHA), {"ix_subjects_head"}),
    "remember a subject": (
        lambda tx: tx.remember(Subject(repo="acme/shop", number=7, is_pull=True, head_sha=SHA)),
        set(),
    ),
    "dead letters": (lambda tx: (tx.list_tasks(states={State.DEAD_LETTERED}), tx.count_dead()), {"ix_tasks_dead"}),
    "what repeats a task": (
        lambda tx: tx.retried_as(tx.head_of_queue("dev-000001") or 0),
        {"ix_tasks_queue", "ix_tasks_subject"},
    ),
    "seize a run": (
        lambda tx: tx.seize_run(_run_of(tx)["task"], fence=1, until=tx.after(60), lease_s=1),
        {"uq_tasks_running"},
    ),
    "agents that are left": (lambda tx: tx.left_agents("here", limit=10), {"ix_tasks_left"}),
    "an agent is gone": (lambda tx: tx.forget_agent(1, pid=1), set()),
    "where tasks are": (lambda tx: tx.standings([1, 2]), set()),
    "take a lease": (lambda tx: tx.take_lease("x", holder="h", token="t", lease_s=1), set()),
    "count a repair": (lambda tx: tx.count_repair("x", 1), set()),
    "tasks of an issue": (lambda tx: tx.list_tasks(repo="acme/shop", number=100_000), {"ix_tasks_subject"}),
}
#: What finds and deletes old rows, with the index of its own that it goes by.
OLD: dict[str, tuple[Act, set[str]]] = {
    "tasks": (lambda tx: tx.old_tasks(LONG_AGO, limit=200), {"ix_tasks_ended", "ix_tasks_subject"}),
    "delete tasks": (lambda tx: tx.delete_tasks([1, 2], LONG_AGO), {"ix_tasks_subject"}),
    "deliveries": (lambda tx: tx.old_deliveries(LONG_AGO, limit=200), {"ix_deliveries_received_at"}),
    "delete deliveries": (lambda tx: tx.delete_deliveries([1, 2], LONG_AGO), set()),
    "work": (
        lambda tx: tx.old_work(LONG_AGO, limit=200),
        {"ix_merges_ended", "ix_effects_done", "ix_effects_given_up", "ix_orders_done", "ix_trail_at"},
    ),
}
PULL = 100_000
_ABOUT: dict[str, Any] = {"repo": "acme/shop", "number": PULL}


def _parked(tx: Tx) -> Merge:
    return next(merge for merge in tx.list_merges(only_open=True) if merge.state is MergeState.PARKED)


def _work_since_a_reset(tx: Tx) -> None:
    tx.reset_caps(**_ABOUT)
    tx.work(**_ABOUT)


def _look(tx: Tx) -> None:
    tx.begin_look(**_ABOUT)
    tx.end_look(**_ABOUT)


#: What the loop of the workflow asks and writes, each second or for each issue, and the indexes that it goes by.
LOOP: dict[str, tuple[Act, set[str]]] = {
    "looks that are due": (lambda tx: tx.due_looks(), {"ix_work_look_at"}),
    "orders that are due": (lambda tx: tx.due_orders(), {"ix_orders_due", "ix_orders_subject"}),
    "merges that are due": (lambda tx: tx.due_merges(), {"ix_merges_open"}),
    "effects that are owed": (lambda tx: tx.owed_effects(), {"ix_effects_owed"}),
    "merges that are open": (lambda tx: tx.list_merges(only_open=True), {"ix_merges_open"}),
    "lanes that are free": (lambda tx: tx.free_lanes(), {"ix_merges_open", "uq_merges_lane"}),
    "work": (
        lambda tx: tx.work(**_ABOUT),
        {"ix_work_issue", "ix_tasks_subject", "ix_tasks_ran", "ix_effects_subject", "ix_merges_pull"},
    ),
    "work, since a reset": (
        _work_since_a_reset,
        {"ix_work_issue", "ix_tasks_subject", "ix_tasks_ran", "ix_effects_subject", "ix_merges_pull"},
    ),
    "family": (lambda tx: tx.family(**_ABOUT), {"ix_work_issue"}),
    "who holds it": (lambda tx: tx.held_by(**_ABOUT), set()),
    "the trail": (lambda tx: tx.list_trail("acme/shop", [PULL, PULL + 1]), {"ix_trail_subject"}),
    "tell": (lambda tx: tx.tell(**_ABOUT, source="look", what="wait", why="now"), {"ix_trail_subject"}),
    "wish for a look": (lambda tx: tx.look_later(**_ABOUT, why="poll"), set()),
    "a look": (_look, set()),
    "take an order": (
        lambda tx: tx.take_order(**_ABOUT, comment=PULL, line=0, verb="retry", argument="", by="x", delivery=None),
        {"uq_orders_comment"},
    ),
    "orders of an issue": (lambda tx: tx.list_orders(**_ABOUT), {"ix_orders_subject"}),
    "enter a lane": (
        lambda tx: tx.enter_lane("acme/shop", "main", PULL + 9, head_sha="a", approved_at=tx.now),
        {"uq_merges_pull"},
    ),
    "the next in a lane": (
        lambda tx: tx.next_in_lane("acme/shop", "free"),
        {"uq_merges_lane", "ix_merges_open"},
    ),
    "hurry a merge": (lambda tx: tx.hurry_merge(**_ABOUT), {"uq_merges_pull"}),
    "go on with a merge": (lambda tx: tx.unpark(_parked(tx).id), {"ix_merges_open"}),
    "owe anew": (lambda tx: tx.owe("report:live", "report", **_ABOUT, type_name="dev", again=True), {"uq_effects_key"}),
    "note an effect": (lambda tx: tx.note_effect(tx.owed_effects()[0], ref="1"), {"ix_effects_owed"}),
    "effects of an issue": (lambda tx: tx.list_effects(**_ABOUT), {"ix_effects_subject"}),
    "merges of a pull request": (lambda tx: tx.list_merges(**_ABOUT), {"ix_merges_pull"}),
}
#: The foreign keys' own look-ups.
_KEYS = {"ix_task_events_task", "ix_tasks_delivery"}


@pytest.mark.parametrize("history", [0, 20_000], ids=["no history", "a long history"])
@pytest.mark.parametrize("act", ACTS)
def test_a_verb_looks_up_by_its_indexes_and_reads_no_table_through(
    stores: dict[tuple[int, int], Store], act: str, history: int
) -> None:
    do, expected = ACTS[act]

    with drive.undone(stores[40, history]) as tx, _plans(tx.connection.engine) as plans:
        do(tx)

    lines = [line for plan in plans.values() for line in plan]
    found = {name for line in lines for name in re.findall(r"(?:ix|uq)_\w+", line)}
    assert [line for line in lines if not _FINE.fullmatch(line)] == []
    assert found - _KEYS == expected


@pytest.mark.parametrize("act", LOOP)
def test_the_loop_of_the_workflow_looks_up_by_its_indexes_however_much_has_ended(
    stores: dict[tuple[int, int], Store], act: str
) -> None:
    do, expected = LOOP[act]

    with drive.undone(stores[40, 100_000]) as tx, _plans(tx.connection.engine) as plans:
        do(tx)

    lines = [line for plan in plans.values() for line in plan]
    assert [line for line in lines if not _FINE.fullmatch(line)] == []
    assert {name for line in lines for name in re.findall(r"(?:ix|uq)_\w+", line)} - _KEYS == expected
    assert _steps(stores[40, 100_000], do) == _steps(stores[40, 0], do)


@pytest.mark.parametrize("states", [LIVE, {State.QUEUED}, {State.RUNNING}])
def test_a_list_of_live_tasks_reads_live_tasks_only(
    stores: dict[tuple[int, int], Store], states: frozenset[State]
) -> None:
    with stores[40, 20_000].reading() as tx, _plans(tx.connection.engine) as plans:
        tx.list_tasks(states=states)

    assert list(plans.values()) == [["SCAN tasks USING INDEX ix_tasks_live"]]


@pytest.mark.parametrize("act", ACTS)
def test_a_long_history_costs_a_verb_not_one_step(stores: dict[tuple[int, int], Store], act: str) -> None:
    do, _ = ACTS[act]

    assert _steps(stores[40, 20_000], do) == _steps(stores[40, 0], do)


@pytest.mark.parametrize("labels", [(), ("label-39",), ("nobody has this",)], ids=["none", "match", "no match"])
def test_a_pool_of_thousands_costs_a_dispatch_hardly_more_than_one_of_forty(
    stores: dict[tuple[int, int], Store], labels: tuple[str, ...]
) -> None:
    do = _submit(labels=labels)

    assert _steps(stores[4000, 0], do) <= 1.05 * _steps(stores[40, 0], do)


@pytest.mark.parametrize("act", OLD)
def test_what_is_too_young_to_be_deleted_is_not_read(stores: dict[tuple[int, int], Store], act: str) -> None:
    do, expected = OLD[act]

    with drive.undone(stores[40, 20_000]) as tx, _plans(tx.connection.engine) as plans:
        do(tx)

    lines = [line for plan in plans.values() for line in plan]
    found = {name for line in lines for name in re.findall(r"(?:ix|uq)_\w+", line)}
    assert [line for line in lines if not _FINE.fullmatch(line)] == []
    assert found - _KEYS == expected
    # One look at the first key of an index, which without a history is empty.
    assert _steps(stores[40, 20_000], do) <= _steps(stores[40, 0], do) + 6


@pytest.mark.parametrize("word", ["miscounts", "empty_removed", "live_instances", "busy_instances"])
def test_what_the_reconciler_counts_is_read_from_what_is_live(stores: dict[tuple[int, int], Store], word: str) -> None:
    """Instances are read through, as there are few, and of the tasks only those that wait or run."""

    def ask(tx: Tx) -> None:
        getattr(tx, word)()

    assert _steps(stores[40, 20_000], ask) == _steps(stores[40, 0], ask)


# --- the databases -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[int, int], Store]]:
    """Return databases by the size of the pool and of the history. Tests leave nothing in them."""
    made = {
        size: _build(tmp_path_factory.mktemp("sizes"), *size)
        for size in ((40, 0), (40, 20_000), (40, 100_000), (4000, 0))
    }
    yield made
    for store in made.values():
        store.close()


def _build(folder: Path, pool: int, history: int) -> Store:
    store = new_store(folder, Clock())
    with store.writing() as tx:
        # SQLite looks through these for the next id: in the same order, whatever is filled first.
        tx.connection.exec_driver_sql(
            "INSERT INTO sqlite_sequence (name, seq) SELECT name, 0 FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
        )
        fill_pool(tx.connection, "dev", pool)
        for i in (38, 39):
            tx.set_instance(f"dev-{i:06}", match_labels=[f"label-{i}"])
        fill_history(tx.connection, "dev", history, instances=pool)
        fill_deliveries(tx.connection, history)
        _fill_work(tx.connection, history)
        _live_work(tx)
        tx.connection.exec_driver_sql("UPDATE pools SET cursor = NULL")
    # One runs, one waits in the session that is asked for, others wait.
    drive.dispatch(store, number=100_000)
    drive.dispatch(store, number=7)
    run = drive.claim(store, "dev-000000")
    assert isinstance(run, Claim)
    for i in range(5):
        drive.dispatch(store, number=100_001 + i, kind=Kind.FIX_CI)
    with store.writing() as tx:
        tx.keep_session(SESSION, "s", instance="dev-000001", task=run.task.id)
    return store


#: What the workflow has ended, and what it knows of issues and pull requests: columns and values of row number i.
_ENDED = {
    "merges (state, base, head_sha, approved_sha, approved_at, entered_at, changed_at, ended_at, ": (
        "'merged', 'main', 'a', 'a', i, i, i, i, "
    ),
    "effects (key, kind, type, body, due_at, created_at, done_at, given_up_at, ": (
        "'old-' || i, 'report', 'dev', '{}', i, i, CASE i % 2 WHEN 0 THEN i END, CASE i % 2 WHEN 1 THEN i END, "
    ),
    'orders (comment, line, verb, "by", created_at, due_at, done_at, ': "i, 0, 'retry', 'x', i, i, i, ",
    "trail (at, source, what, why, ": "i, 'look', 'wait', i, ",
}
_COUNT = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
_OF_5000 = "'acme/shop', i % 5000 + 1 FROM n"


def _fill_work(connection: Connection, count: int) -> None:
    """Add what the workflow has ended: at least one row of each kind, beside which others are found."""
    counted = _COUNT.format(count=max(1, count))
    for table, values in _ENDED.items():
        connection.exec_driver_sql(f"INSERT INTO {table}repo, number) {counted} SELECT {values}{_OF_5000}")
    connection.exec_driver_sql(f"INSERT INTO work (issue, repo, number) {counted} SELECT i, {_OF_5000} WHERE i < 5000")


def _live_work(tx: Tx) -> None:
    """Add what is still to be done: a lane that is taken, one that is free, and one of each of the rest."""
    for number, base in ((PULL, "main"), (PULL + 1, "main"), (PULL + 2, "free")):
        tx.note_work("acme/shop", number, issue=PULL - 1)
        tx.enter_lane("acme/shop", base, number, head_sha="a", approved_at=tx.now)
        tx.look_later("acme/shop", number, why="webhook")
        tx.tell("acme/shop", number, source="look", what="wait", why="")
    merge = tx.next_in_lane("acme/shop", "main")
    assert merge is not None
    tx.park(merge.id, link=1, why="", look_after_s=0)
    tx.take_order(**_ABOUT, comment=0, line=1, verb="retry", argument="", by="x", delivery=None)
    for kind in ("report", "ask"):
        tx.owe(f"{kind}:live", kind, **_ABOUT, type_name="dev")


@contextmanager
def _plans(engine: Engine) -> Iterator[dict[str, list[str]]]:
    """Collect the plan of each statement that is run meanwhile."""
    found: dict[str, list[str]] = {}

    def explain(_c: Any, cursor: sqlite3.Cursor, statement: str, parameters: Any, _context: Any, _many: bool) -> None:  # noqa: FBT001 - signature of SQLAlchemy
        if not statement.startswith("BEGIN"):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found[statement] = [row[3] for row in rows]

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def _steps(store: Store, do: Act) -> int:
    """Count the steps of SQLite's virtual machine."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with drive.undone(store) as tx:
        connection = tx.connection.connection.driver_connection
        assert isinstance(connection, sqlite3.Connection)
        connection.set_progress_handler(count, 1)
        try:
            do(tx)
        finally:
            connection.set_progress_handler(None, 1)
    return steps
