"""Filling a SQLite database with a long history and a large pool, by a few statements."""

import json

from sqlalchemy import Connection

from pool import policy
from pool.model import Candidate, Kind, Request

#: Counts from 0; SQLite and PostgreSQL read it the same.
_COUNT = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"


def fill_pool(connection: Connection, type_name: str, count: int, *, label_sets: int = 0) -> None:
    """Add active, idle instances of a type; the last `label_sets` of them have a label of their own each."""
    if not count:
        return
    key = f"CASE WHEN i < {count - label_sets} THEN '*' ELSE '[\"label-' || i || '\"]' END"
    connection.exec_driver_sql(
        f"""INSERT INTO instances (name, type, label_key, state, created_at, updated_at)
        {_COUNT.format(count=count)}
        SELECT '{type_name}-' || substr('000000' || i, -6), '{type_name}', {key}, 'active', 0, 0 FROM n"""  # noqa: S608 - our own numbers
    )


def fill_history(connection: Connection, type_name: str, count: int, *, instances: int) -> None:
    """Add tasks that have ended, each with its decision and the events of its life, spread over a pool."""
    if not count:
        return
    six = [Candidate(name=f"{type_name}-{i:06}") for i in range(6)]
    decision = json.dumps(policy.choose(six, type_name=type_name, labels=(), cursor=None).to_json())
    request = json.dumps(Request(kind=Kind.IMPLEMENT, repo="acme/shop", number=1, body="x" * 300).to_json())
    connection.exec_driver_sql(
        f"""INSERT INTO tasks (position, type, instance, state, kind, repo, number, session_key, request, decision,
          interruptions, created_at, published_at, started_at, finished_at, fence)
        {_COUNT.format(count=count)}
        SELECT i, '{type_name}', '{type_name}-' || substr('000000' || (i % {instances}), -6), 'succeeded', 'implement',
          'acme/shop', i % 5000 + 1, '{type_name}:acme/shop:' || (i % 5000 + 1), '{request}', '{decision}',
          0, i, i, i, i, i FROM n"""  # noqa: S608 - our own numbers
    )
    for event in ("queued", "claim", "succeed"):
        connection.exec_driver_sql(
            f"""INSERT INTO task_events (task, at, event, "by", why)
            SELECT id, id, '{event}', 'bench', '' FROM tasks WHERE state = 'succeeded'"""  # noqa: S608 - our own words
        )


def fill_deliveries(connection: Connection, count: int) -> None:
    """Add accepted deliveries, and as many that were only looked at."""
    if not count:
        return
    connection.exec_driver_sql(
        f"""INSERT INTO deliveries (delivery_id, fingerprint, received_at, source, signed, verdict, status, reason)
        {_COUNT.format(count=2 * count)}
        SELECT 'old-' || i, 'old-' || i, i, 'forgejo', 1, CASE i % 2 WHEN 0 THEN 'accepted' ELSE 'ignored' END, 202, ''
        FROM n"""  # noqa: S608 - our own numbers
    )
