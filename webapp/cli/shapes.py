"""Instances, tasks and deliveries as JSON values: the keys that programs may rely on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pool.explain import Hindrance, is_served
from pool.model import Instance, Task
from pool.store import Receipt
from tasks.settings import TypeSettings
from webapp.cli.output import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What an instance works with: its own values, else those of its type."""

    model: str | None
    model_from: str  #: "instance", "type", or "agent": the program's own default
    match_labels: tuple[str, ...]
    match_labels_from: str  #: "instance" or "type"


def effective(row: Instance, types: Mapping[str, TypeSettings]) -> Effective:
    """Resolve what an instance overrides and what it inherits."""
    kind = types.get(row.type)
    inherited = kind.model if kind else None
    return Effective(
        model=row.model or inherited,
        model_from="instance" if row.model else "type" if inherited else "agent",
        match_labels=row.match_labels if row.match_labels is not None else kind.match_labels if kind else (),
        match_labels_from="type" if row.match_labels is None else "instance",
    )


def instance(
    row: Instance,
    types: Mapping[str, TypeSettings],
    *,
    running: int | None,
    now: datetime,
    hindered: Hindrance | None = None,
) -> dict[str, Any]:
    """Return an instance. running: the task it runs now. hindered: what keeps it from working."""
    return {
        "name": row.name,
        "type": row.type,
        "type_is_configured": row.type in types,
        "state": row.state,
        "running_task": running,
        "queued": row.queued,
        "host": row.host,
        "worker": {
            "alive": is_served(row, now),
            "holder": row.worker,
            "host": row.worker_host,
            "until": iso(row.worker_until),
        },
        "hindrance": hindered and asdict(hindered),
        **asdict(effective(row, types)),
        "prompt_appendix": row.prompt_appendix,
        "notes": row.notes,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def task(row: Task) -> dict[str, Any]:
    """Return a task as lists show it."""
    request = row.request
    return {
        "id": row.id,
        "type": row.type,
        "instance": row.instance,
        "state": row.state,
        "reason": row.reason,
        "kind": request.kind,
        "repo": request.repo,
        "number": request.number,
        "title": request.title,
        "rule": row.rule,
        "delivery": row.delivery,
        "retry_of": row.retry_of,
        "interruptions": row.interruptions,
        "host": row.host,
        "created_at": iso(row.created_at),
        "published_at": iso(row.published_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is known of a task beside its row."""

    earlier: tuple[Task, ...]  #: those that it repeats, oldest first
    retried_as: int | None  #: the task that repeats it
    hindered: Hindrance | None  #: what keeps its instance from working


def standing(around: Around) -> dict[str, Any]:
    """Return what a task repeats and what repeats it, and what it waits for."""
    return {
        "earlier_runs": [
            {
                "id": one.id,
                "state": one.state,
                "reason": one.reason,
                "instance": one.instance,
                "host": one.host,
                "started_at": iso(one.started_at),
                "finished_at": iso(one.finished_at),
            }
            for one in around.earlier
        ],
        "retried_as": around.retried_as,
        "hindrance": around.hindered and asdict(around.hindered),
    }


def whole_task(row: Task, around: Around, *, log_path: str | None) -> dict[str, Any]:
    """Return everything that is known of a task."""
    return {
        **task(row),
        **standing(around),
        "session_key": row.session_key,
        "fence": row.fence,
        "lease_until": iso(row.lease_until),
        "cancel_requested_at": iso(row.cancel_requested_at),
        "stop_requested_at": iso(row.stop_requested_at),
        "request": row.request.to_json(),
        "decision": row.decision and row.decision.to_json(),
        "evidence": row.evidence and row.evidence.to_json(),
        "history": [{"at": iso(e.at), "event": e.event, "by": e.by, "why": e.why} for e in row.history],
        "log": log_path,
    }


def receipt(row: Receipt) -> dict[str, Any]:
    """Return a delivery."""
    return {**asdict(row), "received_at": iso(row.received_at)}
