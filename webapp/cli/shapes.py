"""Instances, tasks and deliveries as JSON values: the keys that programs may rely on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

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


def instance(row: Instance, types: Mapping[str, TypeSettings], *, running: int | None, now: datetime) -> dict[str, Any]:
    """Return an instance. running: the task it runs now."""
    return {
        "name": row.name,
        "type": row.type,
        "type_is_configured": row.type in types,
        "state": row.state,
        "running_task": running,
        "queued": row.queued,
        "worker": {"alive": is_alive(row, now), "holder": row.worker, "until": iso(row.worker_until)},
        **asdict(effective(row, types)),
        "prompt_appendix": row.prompt_appendix,
        "notes": row.notes,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def is_alive(row: Instance, now: datetime) -> bool:
    """Tell whether a worker holds the lease of an instance."""
    return row.worker_until is not None and row.worker_until > now


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
        "created_at": iso(row.created_at),
        "published_at": iso(row.published_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }


def whole_task(row: Task, *, log_path: str | None) -> dict[str, Any]:
    """Return everything that is known of a task."""
    return {
        **task(row),
        "interruptions": row.interruptions,
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
