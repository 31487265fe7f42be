"""A census: everything that `GET /metrics` counts, read in one transaction.

What it costs is bounded by what is live, by what ended or came within the last hour, and by the number of instances,
repositories, merges and effects, but not by the history of tasks and deliveries: those statements name their index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, select

from pool.explain import is_served
from pool.schema import deliveries, has_ended, is_dead, is_live, is_queued, tasks
from pool.schema_work import effects, is_owed, is_undone, merges, orders, work
from pool.store import Tx

#: How far back the census looks at what has ended.
WINDOW = timedelta(hours=1)

Counts = dict[tuple[str, ...], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One instance."""

    name: str
    type: str
    state: str
    queued: int
    running: int
    oldest_s: float  #: how long the longest waiting task has waited; 0: none waits
    is_served: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The tasks of one type that ended within the window."""

    type: str
    ran: int  #: how many of them had been started
    wait_s: float  #: from queued to started, of all of those together
    run_s: float  #: from started to ended, likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Something that is due, and since when."""

    count: int
    oldest_s: float  #: 0: nothing is


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The numbers of one moment."""

    places: tuple[Place, ...]
    tasks_in_all: int  #: ever queued
    deliveries_in_all: int  #: ever received
    tasks: Counts  #: by type, kind, state: live, dead-lettered, and ended within the window
    ended: tuple[Ended, ...]
    deliveries: Counts  #: by verdict, within the window
    owed: Counts  #: by kind: effects that are to be written to the forge
    owed_since: Backlog
    given_up: int
    merges: Counts  #: by state, all that ever were
    orders: Backlog  #: comments that nobody has carried out
    looks: Backlog  #: at the forge, that are due
    polls: dict[str, tuple[float | None, bool]]  #: by repository: seconds since the last poll, and whether it failed
    repairs: dict[str, int]  #: by name, ever


def take_census(tx: Tx) -> Census:
    """Read all numbers."""
    since = tx.now - WINDOW
    counts = tx.repair_counts()
    return Census(
        places=_places(tx),
        tasks_in_all=_scalar(tx, select(func.max(tasks.c.id))),
        deliveries_in_all=_scalar(tx, select(func.max(deliveries.c.id))),
        tasks=_tasks(tx, since),
        ended=_ended(tx, since),
        deliveries=_deliveries(tx, since),
        owed=_counts(tx, [effects.c.kind], is_owed),
        owed_since=_backlog(tx, effects.c.created_at, is_owed),
        given_up=tx.count_given_up(),
        merges=_counts(tx, [merges.c.state]),
        orders=undone_orders(tx),
        looks=_backlog(tx, work.c.look_at, work.c.look_at <= tx.now),
        polls={
            one.repo: (_age(tx, one.polled_at) if one.polled_at else None, bool(one.error)) for one in tx.list_polls()
        },
        repairs={name: one.count for name, one in counts.items()},
    )


def undone_orders(tx: Tx) -> Backlog:
    """Count the orders in comments that nobody has carried out."""
    return _backlog(tx, orders.c.created_at, is_undone)


def _places(tx: Tx) -> tuple[Place, ...]:
    # ix_tasks_queue: what waits.
    oldest = select(tasks.c.instance, func.min(tasks.c.created_at)).where(is_queued).group_by(tasks.c.instance)
    waits_since: dict[str, datetime] = {row[0]: row[1] for row in tx.connection.execute(oldest)}
    return tuple(
        Place(
            name=row.name,
            type=row.type,
            state=row.state,
            queued=row.queued,
            running=row.running,
            oldest_s=_age(tx, waits_since.get(row.name)),
            is_served=is_served(row, tx.now),
        )
        for row in tx.list_instances()
    )


def _tasks(tx: Tx, since: datetime) -> Counts:
    columns = [tasks.c.type, tasks.c.kind, tasks.c.state]
    # ix_tasks_live, ix_tasks_dead, ix_tasks_ended.
    found = _counts(tx, columns, is_live)
    for condition in (is_dead, _recently(since) & ~is_dead):
        for key, count in _counts(tx, columns, condition).items():
            found[key] = found.get(key, 0) + count
    return found


def _ended(tx: Tx, since: datetime) -> tuple[Ended, ...]:
    # Whole microseconds, as `Moment` stores them.
    wait = func.sum(_raw("started_at") - _raw("created_at"))
    run = func.sum(_raw("finished_at") - _raw("started_at"))
    query = select(tasks.c.type, func.count(), wait, run).where(_recently(since), tasks.c.started_at.is_not(None))
    return tuple(
        Ended(type=row[0], ran=row[1], wait_s=int(row[2]) / 1e6, run_s=int(row[3]) / 1e6)
        for row in tx.connection.execute(query.group_by(tasks.c.type).order_by(tasks.c.type))
    )


def _deliveries(tx: Tx, since: datetime) -> Counts:
    # ix_deliveries_received_at; of unsigned ones no more are kept than a thousand.
    return _counts(tx, [deliveries.c.verdict], deliveries.c.received_at > since)


def _recently(since: datetime) -> ColumnElement[bool]:
    return has_ended & (tasks.c.finished_at > since)


def _raw(column: str) -> ColumnElement[int]:
    return literal_column(f"tasks.{column}")


def _counts(tx: Tx, columns: Sequence[Any], *conditions: ColumnElement[bool]) -> Counts:
    query = select(*columns, func.count()).where(*conditions).group_by(*columns).order_by(*columns)
    return {tuple(str(part) for part in row[:-1]): row[-1] for row in tx.connection.execute(query)}


def _backlog(tx: Tx, since: Any, condition: ColumnElement[bool]) -> Backlog:
    row = tx.connection.execute(select(func.count(), func.min(since)).where(condition)).one()
    return Backlog(count=row[0], oldest_s=_age(tx, row[1]))


def _age(tx: Tx, moment: datetime | None) -> float:
    return 0.0 if moment is None else max(0.0, (tx.now - moment).total_seconds())


def _scalar(tx: Tx, query: Any) -> int:
    return tx.connection.scalar(query) or 0
