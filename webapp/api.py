"""The door for operators: health, and cancel. Answers JSON only."""

import hmac
from dataclasses import dataclass
from typing import Any, Self

import structlog
from flask import Blueprint, Response, current_app, jsonify, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge

from pool.errors import (
    Ambiguous,
    BadInput,
    ConfigError,
    ForgepoolError,
    Malformed,
    StaleTask,
    StoreBusy,
    StoreUnavailable,
    UnknownInstance,
    UnknownTask,
)
from pool.model import Task
from pool.states import State
from pool.store import check_task_id
from tasks import dispatch
from tasks.engine import Engine
from tasks.payload import Node, load_object

log = structlog.get_logger(__name__)

api = Blueprint("api", __name__)

MAX_WHY = 1000  #: characters
_SHOWN = 100  #: characters of an unknown field's name


class NothingRuns(ForgepoolError):
    """Nothing is running, so there is nothing to cancel."""


_STATUS: dict[type[ForgepoolError], int] = {
    UnknownTask: 404,
    UnknownInstance: 404,
    NothingRuns: 404,
    Ambiguous: 409,
    StaleTask: 409,
    BadInput: 400,
    Malformed: 400,
    StoreBusy: 503,
    StoreUnavailable: 503,
}


@api.get("/healthz")
def health() -> tuple[Response, int]:
    """Say that the process answers and that its database does."""
    with _engine().store.reading() as tx:
        instances = tx.count_instances()
    return jsonify(status="ok", instances=instances), 200


@api.post("/cancel")
def cancel() -> tuple[Response, int]:
    """Cancel one task: {"task_id": 41}, {"instance": "dev-alpha"}, or {} when only one is running.

    `agent` is another word for `instance`. Needs the header "Authorization: Bearer TOKEN".
    """
    if not is_operator():
        return jsonify(error="give the operator token as `Authorization: Bearer TOKEN`"), 401
    wish = _Wish.read()
    task = _target(_engine(), wish)
    state = dispatch.cancel(_engine(), task.id, by="operator", why=wish.why)
    answer = {
        "task_id": task.id,
        "instance": task.instance,
        "agent": task.instance,
        "issue_number": task.request.number,
        "repo": task.request.repo,
        "state": state,
    }
    # 202: its agent has been asked to stop, and has its grace time to do so.
    return jsonify(answer), 202 if state is State.RUNNING else 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be cancelled. A task id wins over a name."""

    task_id: int | None
    instance: str | None
    why: str

    @classmethod
    def read(cls) -> Self:
        """Read the body of the request; a field that is there must be right, null is not "any"."""
        body = _json_object()
        known = ("task_id", "instance", "agent", "why")
        if unknown := sorted(set(body) - set(known)):
            raise BadInput(unknown[0][:_SHOWN], body[unknown[0]], f"unknown field; known: {', '.join(known)}")
        names = [Node(body[word], word).name() for word in ("instance", "agent") if word in body]
        if len(set(names)) > 1:
            raise BadInput("agent", names[1], f"instance = {names[0]!r} is another one; name one of them")
        return cls(
            task_id=check_task_id(body["task_id"]) if "task_id" in body else None,
            instance=names[0] if names else None,
            why=Node(body)["why"].text()[:MAX_WHY],
        )


def _json_object() -> dict[str, Any]:
    try:
        if request.is_json:
            return load_object(request.get_data().decode())
    except ValueError:
        pass
    raise Malformed("send a JSON object, with the content type application/json")


def _target(engine: Engine, wish: _Wish) -> Task:
    """Find exactly one task, or say why not."""
    name = wish.instance
    with engine.store.reading() as tx:
        if wish.task_id is not None:
            return tx.task(wish.task_id)
        if name is not None:
            tx.instance(name)
        running = tx.running(name)
    if not running:
        raise NothingRuns(f"{name} runs nothing" if name else "nothing is running")
    if len(running) > 1:
        held = ", ".join(f"{task.instance} runs task {task.id}" for task in running)
        raise Ambiguous(f"more than one task is running; give task_id or instance ({held})")
    return running[0]


@api.errorhandler(ForgepoolError)
def _refused(error: ForgepoolError) -> tuple[Response, int]:
    if type(error) in _STATUS:
        return jsonify(error=str(error)), _STATUS[type(error)]
    log.error("request failed", path=request.path, why=str(error))
    hidden = "the service is not configured" if isinstance(error, ConfigError) else "this failed; the log says why"
    return jsonify(error=hidden), 503


@api.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> tuple[Response, int]:
    return jsonify(error="the body is larger than service.max_body_bytes"), 413


@api.errorhandler(SQLAlchemyError)
def _no_database(error: SQLAlchemyError) -> tuple[Response, int]:
    # Not str(error): that has the values of the statement in it.
    log.error("request failed", path=request.path, why=f"{type(error).__name__}: {getattr(error, 'orig', None)}")
    return jsonify(error="the database does not serve"), 503


def is_operator() -> bool:
    """Tell whether the request carries the operator's token."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = _engine().settings.operator_token().encode()
    return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), expected)


def _engine() -> Engine:
    engine: Engine = current_app.extensions["forgepool"]
    return engine
