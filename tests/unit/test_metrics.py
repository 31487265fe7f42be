"""`GET /metrics`: what Prometheus is told, whom it is told, and that the history does not make it dear."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from pool.lanes import MergeState, Refusal
from pool.model import Evidence, Kind, Request
from pool.states import Move, Verdict
from pool.store import Claim, Store
from pool.store.census import take_census
from tasks.engine import Engine
from tasks.settings import Settings
from tests.helpers.clock import Clock
from tests.helpers.config import write_config
from tests.helpers.fakes import FakeBell
from tests.helpers.stores import POSTGRES
from webapp.metrics import metrics

TOKEN = "token-of-the-operator"
REPO = "acme/shop"


@pytest.fixture
def client(tmp_path: Path, store: Store) -> FlaskClient:
    """Return a client of an app that has nothing but the metrics."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "operator").write_text(TOKEN)
    settings = Settings.load(write_config(folder, operator_token_file="operator"))
    app = Flask(__name__)
    app.extensions["forgepool"] = Engine(settings, store, FakeBell())
    app.register_blueprint(metrics)
    return app.test_client()


def numbers(client: FlaskClient) -> dict[str, float]:
    """Scrape; return each sample as name{label=value,...} -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def submit(store: Store, number: int, kind: Kind = Kind.IMPLEMENT) -> None:
    """Queue a task of type dev."""
    with store.writing() as tx:
        tx.submit("dev", Request(kind=kind, repo=REPO, number=number), by="test")


def run(store: Store, clock: Clock, *, run_s: float) -> None:
    """Let dev-alpha run the head of its queue."""
    with store.writing() as tx:
        claimed = tx.claim("dev-alpha", lease_s=60)
    assert isinstance(claimed, Claim)
    clock.advance(run_s)
    with store.writing() as tx:
        tx.finish(claimed.task.id, Move.SUCCEED, fence=claimed.fence, evidence=Evidence(exit_code=0), why="done")


@pytest.fixture
def busy(store: Store, clock: Clock) -> Store:
    """Fill a store with a little of everything."""
    with store.writing() as tx:
        tx.add_instance("dev-alpha", "dev")
        tx.take_worker_lease("dev-alpha", holder="me", token="t", lease_s=86400)
        tx.add_instance("boss-alpha", "boss")
    submit(store, 1)
    clock.advance(20)
    run(store, clock, run_s=40)
    submit(store, 2)
    submit(store, 3, Kind.FIX_CI)
    clock.advance(90)
    with store.writing() as tx:
        for verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.DUPLICATE):
            tx.add_delivery(source="forgejo", signed=True, verdict=verdict, status=200, reason="")
        tx.count_repair("untold", 2)
        tx.count_repair("ring", 3)
        tx.owe("report:1", "report", repo=REPO, number=1, type_name="dev")
        tx.owe("ask:x", "ask", repo=REPO, number=1, type_name="dev")
        tx.fail_effect(tx.owed_effects()[0], error="no", after_s=None)
        merge = tx.enter_lane(REPO, "main", 7, head_sha="a" * 40, approved_at=tx.now)
        tx.end_merge(merge.id, MergeState.REFUSED, reason="red", code=Refusal.RED)
        tx.enter_lane(REPO, "main", 8, head_sha="b" * 40, approved_at=tx.now)
        tx.take_order(repo=REPO, number=1, comment=5, line=0, verb="go", argument="", by="ana", delivery=None)
        tx.look_later(REPO, 1, why="poll")
        tx.note_poll(REPO, polled_at=tx.now, error="refused")
    clock.advance(10)
    return store


def test_every_number_that_people_look_for_is_there(busy: Store, client: FlaskClient) -> None:
    told = numbers(client)

    expected = {
        "forgepool_queue_depth{instance=dev-alpha,type=dev}": 2,
        "forgepool_queue_oldest_seconds{instance=dev-alpha,type=dev}": 100,
        "forgepool_running{instance=dev-alpha,type=dev}": 0,
        "forgepool_worker_up{instance=dev-alpha,type=dev}": 1,
        "forgepool_worker_up{instance=boss-alpha,type=boss}": 0,
        "forgepool_instance_state{instance=dev-alpha,state=active,type=dev}": 1,
        "forgepool_tasks_queued_total{}": 3,
        "forgepool_tasks{kind=implement,state=queued,type=dev}": 1,
        "forgepool_tasks{kind=fix-ci,state=queued,type=dev}": 1,
        "forgepool_tasks_ended_last_hour{kind=implement,state=succeeded,type=dev}": 1,
        "forgepool_ran_last_hour{type=dev}": 1,
        "forgepool_wait_seconds_last_hour{type=dev}": 20,
        "forgepool_run_seconds_last_hour{type=dev}": 40,
        "forgepool_dead_letters{}": 0,
        "forgepool_repairs_total{repair=ring}": 3,
        "forgepool_untold_total{}": 2,
        "forgepool_deliveries_total{}": 3,
        "forgepool_deliveries_last_hour{verdict=duplicate}": 2,
        "forgepool_deliveries_last_hour{verdict=refused}": 0,
        "forgepool_effects_owed{kind=ask}": 1,
        "forgepool_effects_given_up{}": 1,
        "forgepool_effects_owed_oldest_seconds{}": 10,
        "forgepool_orders_undone{}": 1,
        "forgepool_looks_due{}": 1,
        "forgepool_looks_due_oldest_seconds{}": 10,
        "forgepool_merges{state=refused}": 1,
        "forgepool_merges{state=waiting}": 1,
        "forgepool_merges{state=merged}": 0,
        "forgepool_poll_age_seconds{repo=acme/shop}": 10,
        "forgepool_poll_failed{repo=acme/shop}": 1,
    }
    assert {key: told.get(key) for key in expected} == expected
    assert "forgepool_repairs_total{repair=untold}" not in told


def test_an_empty_deployment_can_be_scraped(client: FlaskClient) -> None:
    told = numbers(client)

    assert told["forgepool_tasks_queued_total{}"] == 0
    assert told["forgepool_effects_owed_oldest_seconds{}"] == 0


def test_what_ended_long_ago_is_not_counted_but_dead_letters_are(
    busy: Store, client: FlaskClient, clock: Clock
) -> None:
    with busy.writing() as tx:
        tx.move(2, Move.BURY, by="test", why="gone")
    clock.advance(2 * 3600)

    told = numbers(client)

    assert not [key for key in told if "ended_last_hour" in key or "ran_last_hour" in key]
    assert told["forgepool_deliveries_last_hour{verdict=duplicate}"] == 0
    assert told["forgepool_dead_letters{}"] == 1
    assert told["forgepool_tasks{kind=implement,state=dead_lettered,type=dev}"] == 1
    assert told["forgepool_tasks_queued_total{}"] == 3


def test_another_machine_needs_the_token(client: FlaskClient) -> None:
    far = {"REMOTE_ADDR": "203.0.113.7"}
    right = {"Authorization": f"Bearer {TOKEN}"}

    without = client.get("/metrics", environ_overrides=far)
    wrong = client.get("/metrics", environ_overrides=far, headers={"Authorization": "Bearer x"})
    good = client.get("/metrics", environ_overrides=far, headers=right)

    assert [without.status_code, wrong.status_code, good.status_code] == [401, 401, 200]
    assert "forgepool_" not in without.text


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP"])
def test_whoever_comes_through_a_proxy_on_this_machine_needs_the_token(client: FlaskClient, header: str) -> None:
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={header: "127.0.0.1"}).status_code == 401


def test_a_database_that_does_not_serve_is_no_page_of_errors(client: FlaskClient, store: Store) -> None:
    with store.writing() as tx:
        tx.connection.exec_driver_sql("DROP TABLE polls")

    answer = client.get("/metrics")

    assert answer.status_code == 503
    assert "polls" not in answer.text


@pytest.mark.skipif(bool(POSTGRES), reason="reads the plans of SQLite")
def test_no_statement_reads_the_history_of_tasks_or_deliveries(busy: Store) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cur: object, statement: str, parameters: Any, _x: object, _many: bool) -> None:  # noqa: FBT001 - signature of SQLAlchemy
        asked.append((statement, parameters))

    with busy.reading() as tx:
        event.listen(busy.engine, "before_cursor_execute", note)
        take_census(tx)
        event.remove(busy.engine, "before_cursor_execute", note)
        plans = [
            (statement, [row[3] for row in tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)])
            for statement, given in asked
        ]

    whole = [
        step for _, steps in plans for step in steps if step in {"SCAN tasks", "SCAN deliveries", "SCAN task_events"}
    ]
    assert len(plans) > 10
    assert whole == []
