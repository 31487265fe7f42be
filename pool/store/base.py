"""What every group of verbs stands on: the open transaction, its time, and rows turned into values."""

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from pool.errors import BadInput
from pool.model import Decision, Evidence, Instance, Kind, Request, Task
from pool.schema import instances, tasks
from pool.states import InstanceState, State

Clock = Callable[[], datetime]

#: label_key of an instance that inherits its type's match_labels.
INHERIT = "*"


class Verbs:
    """One open transaction."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        """`clock`: returns aware UTC time; injected so that tests own it."""
        self.connection = connection
        self.now = clock()

    def after(self, seconds: float) -> datetime:
        """Return the moment `seconds` from now."""
        return self.now + timedelta(seconds=seconds)


def label_key(labels: Iterable[str] | None) -> str:
    """Return the index key of an instance's own labels."""
    return INHERIT if labels is None else json.dumps(sorted(labels))


def key_labels(key: str, default_labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the effective labels that a key stands for."""
    return default_labels if key == INHERIT else tuple(json.loads(key))


INSTANCE_COLUMNS = tuple(
    c for c in instances.c if c.name not in {"label_key", "load", "fence", "worker_token", "rung_at"}
)


def to_instance(row: Row[Any]) -> Instance:
    """Turn a row of INSTANCE_COLUMNS into a value."""
    value = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    labels = value["match_labels"]
    return Instance(
        **{
            **value,
            "state": InstanceState(value["state"]),
            "match_labels": None if labels is None else tuple(labels),
        }
    )


_NOT_IN_TASK = {
    "position",
    "kind",
    "repo",
    "number",
    "head_sha",
    "cancel_by",
    "agent_pid",
    "agent_started",
    "agent_ran",
}
TASK_COLUMNS = tuple(c for c in tasks.c if c.name not in _NOT_IN_TASK)


def readable(value: dict[str, Any]) -> Request:
    """Read a request; what does not validate any more becomes one that says so, so that its task can still be shown."""
    try:
        return Request.from_json(value)
    except BadInput as error:
        return Request(
            kind=Kind.CUSTOM, repo="unreadable/request", number=1, title=str(error), detail=json.dumps(value)
        )


def to_task(row: Row[Any]) -> Task:
    """Turn a row of TASK_COLUMNS into a value."""
    value = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return Task(
        **{
            **value,
            "state": State(value["state"]),
            "request": readable(value["request"]),
            "decision": value["decision"] and Decision.from_json(value["decision"]),
            "evidence": value["evidence"] and Evidence.from_json(value["evidence"]),
        }
    )
