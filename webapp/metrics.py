"""`GET /metrics`: the numbers of the deployment, for Prometheus. Read from the database at each scrape.

Nothing is counted in this process: every web process gives the same answer, and none forgets at a restart. What grows
for ever is a counter; what is asked of the last hour only, to bound the cost of a scrape, is a gauge and says so. What
is read, and by which index: pool/store/census.py.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from flask import Blueprint, Response, current_app, jsonify, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import ForgepoolError
from pool.lanes import MergeState
from pool.states import State, Verdict
from pool.store import Store
from pool.store.census import Backlog, Census, Place, take_census
from tasks.engine import Engine
from webapp.api import is_operator

log = structlog.get_logger(__name__)

metrics = Blueprint("metrics", __name__)

#: Set by every proxy: the address that we see is then that of the proxy, not of whoever asks.
PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


@metrics.get("/metrics")
def scrape() -> Response | tuple[Response, int]:
    """Tell all numbers: to this machine, or to whoever has the operator's token."""
    if not (is_local() or is_operator()):
        return jsonify(error="from another machine: give the operator token as `Authorization: Bearer TOKEN`"), 401
    engine: Engine = current_app.extensions["forgepool"]
    # A registry of its own, made anew: the library's global one is shared by the whole process.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(engine.store))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


def is_local() -> bool:
    """Tell whether the question comes from this machine, and from no proxy on it."""
    if any(header in request.headers for header in PROXIED):
        return False
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False


@metrics.errorhandler(ForgepoolError)
@metrics.errorhandler(SQLAlchemyError)
def _unavailable(error: Exception) -> tuple[Response, int]:
    # Not str(error) of a database error: that has the values of the statement in it.
    why = str(error) if isinstance(error, ForgepoolError) else f"{type(error).__name__}: {getattr(error, 'orig', None)}"
    log.error("metrics not told", why=why)
    return jsonify(error="the numbers cannot be read; the log says why"), 503


class StoreCollector(Collector):
    """Reads the store when it is asked."""

    def __init__(self, store: Store) -> None:
        """Read nothing yet."""
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Take a census in one transaction, and tell it."""
        with self._store.reading() as tx:
            census = take_census(tx)
        yield from _of_places(census.places)
        yield from _of_tasks(census)
        yield from _of_deliveries(census)
        yield from _of_the_forge(census)


def _of_places(places: Sequence[Place]) -> Iterator[Metric]:
    labels = ("instance", "type")
    for name, text, field in (
        ("queue_depth", "Tasks that wait in the queue of an instance.", "queued"),
        ("queue_oldest_seconds", "How long the longest waiting task has waited; 0: none waits.", "oldest_s"),
        ("running", "Tasks that an instance runs now.", "running"),
        ("worker_up", "Whether a live worker serves an instance.", "is_served"),
    ):
        yield _gauge(name, text, labels, {(p.name, p.type): float(getattr(p, field)) for p in places})
    states = {(p.name, p.type, str(p.state)): 1 for p in places}
    yield _gauge("instance_state", "The state of an instance, as a label.", (*labels, "state"), states)


def _of_tasks(census: Census) -> Iterator[Metric]:
    yield _counter("tasks_queued", "Tasks that were ever queued or refused a place.", (), {(): census.tasks_in_all})
    waiting = {key: n for key, n in census.tasks.items() if not State(key[2]).is_final}
    ended = {key: n for key, n in census.tasks.items() if State(key[2]).is_final}
    labels = ("type", "kind", "state")
    yield _gauge("tasks", "Tasks that have not ended.", labels, waiting)
    yield _gauge("tasks_ended_last_hour", "Tasks that ended within the last hour.", labels, ended)
    for name, text, field in (
        ("ran_last_hour", "Tasks that ended within the last hour and had been started.", "ran"),
        ("wait_seconds_last_hour", "What those waited before they started, together.", "wait_s"),
        ("run_seconds_last_hour", "What those ran, together.", "run_s"),
    ):
        yield _gauge(name, text, ("type",), {(one.type,): getattr(one, field) for one in census.ended})
    dead = sum(n for key, n in census.tasks.items() if key[2] == State.DEAD_LETTERED)
    yield _gauge("dead_letters", "Tasks that wait for a person.", (), {(): dead})
    others = {(name,): count for name, count in census.repairs.items() if name != "untold"}
    yield _counter("repairs", "How often each repair had something to do.", ("repair",), others)


def _of_deliveries(census: Census) -> Iterator[Metric]:
    yield _counter("deliveries", "Deliveries that ever came.", (), {(): census.deliveries_in_all})
    verdicts = {(str(verdict),): census.deliveries.get((str(verdict),), 0) for verdict in Verdict}
    yield _gauge("deliveries_last_hour", "Deliveries of the last hour by what became of them.", ("verdict",), verdicts)
    untold = {(): census.repairs.get("untold", 0)}
    yield _counter("untold", "Things that asking the forge found and that no webhook had told.", (), untold)


def _of_the_forge(census: Census) -> Iterator[Metric]:
    yield _gauge("effects_owed", "What is to be written to the forge.", ("kind",), census.owed)
    yield _gauge("effects_given_up", "What could not be written and is not tried again.", (), {(): census.given_up})
    yield from _backlog("effects_owed", "How long the oldest of it has been owed.", census.owed_since, with_count=False)
    yield from _backlog("orders_undone", "Orders in comments that nobody has carried out.", census.orders)
    yield from _backlog("looks_due", "Looks at the forge that are due.", census.looks)
    states = {(str(state),): census.merges.get((str(state),), 0) for state in MergeState}
    yield _gauge("merges", "Pull requests in their lanes, and those that left them.", ("state",), states)
    ages = {(repo,): age for repo, (age, _) in census.polls.items() if age is not None}
    failed = {(repo,): int(is_failed) for repo, (_, is_failed) in census.polls.items()}
    yield _gauge("poll_age_seconds", "Since when the forge has not been asked about a repository.", ("repo",), ages)
    yield _gauge("poll_failed", "Whether the last time of asking failed.", ("repo",), failed)


def _backlog(name: str, text: str, backlog: Backlog, *, with_count: bool = True) -> Iterator[Metric]:
    if with_count:
        yield _gauge(name, text, (), {(): backlog.count})
        text = "How long the oldest of those has waited."
    yield _gauge(f"{name}_oldest_seconds", text, (), {(): backlog.oldest_s})


#: Values of the labels -> value. Mapping's keys do not vary, and tuples of every length are some.
Samples = Mapping[Any, float]


def _gauge(name: str, text: str, labels: Iterable[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(f"forgepool_{name}", text, labels=tuple(labels)), samples)


def _counter(name: str, text: str, labels: Iterable[str], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(f"forgepool_{name}", text, labels=tuple(labels)), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for key, value in sorted(samples.items()):
        family.add_metric(key, value)
    return family
