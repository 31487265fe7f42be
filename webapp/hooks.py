"""The door for the forge: read a delivery, hand it to the intake, answer. Decides nothing."""

from contextlib import suppress

import structlog
from flask import Blueprint, Response, current_app, jsonify, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge

from pool.errors import ConfigError, Malformed, Refused, StoreUnavailable, TooLarge
from tasks.engine import Engine
from webapp import intake

log = structlog.get_logger(__name__)

hooks = Blueprint("hooks", __name__)

_CHUNK = 1 << 16


@hooks.post("/webhooks/forgejo")
@hooks.post("/webhooks")
def receive() -> tuple[Response, int]:
    """Take one delivery of Forgejo or Gitea."""
    engine: Engine = current_app.extensions["forgepool"]
    headers = dict(request.headers.items())
    try:
        body = _body(limit=engine.settings.service.max_body_bytes)
    except Refused as refusal:
        answer = intake.refuse(engine, refusal, headers, remote=request.remote_addr)
    else:
        answer = intake.receive(engine, body, headers, remote=request.remote_addr)
    return jsonify(answer.to_json()), answer.status


def _body(*, limit: int) -> bytes:
    too_large = TooLarge(f"the body is larger than service.max_body_bytes = {limit}")
    # One more than is wanted: without a length werkzeug cuts at its limit and says nothing (LimitedStream.readall).
    request.max_content_length = limit + 1
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        _read_on(min(request.content_length or 0, 2 * limit))
        raise too_large from None
    except Exception as error:
        # Each server has errors of its own for a broken transfer; gunicorn's for a bad chunk is no OSError.
        raise Malformed(f"the body did not arrive whole ({type(error).__name__})") from error
    if len(body) > limit:
        _read_on(limit)
        raise too_large
    return body


def _read_on(at_most: int) -> None:
    """Read what still comes and forget it: whoever meets a closed connection while he sends never sees the answer."""
    stream = request.environ["wsgi.input"]
    with suppress(OSError):
        while at_most > 0 and (data := stream.read(min(at_most, _CHUNK))):
            at_most -= len(data)


@hooks.errorhandler(StoreUnavailable)
def _unavailable(error: StoreUnavailable) -> tuple[Response, int]:
    said = getattr(error.__cause__, "orig", None)
    log.error("delivery not taken", why=str(error), database=said and str(said))
    return _not_taken(str(error))


@hooks.errorhandler(SQLAlchemyError)
def _no_database(error: SQLAlchemyError) -> tuple[Response, int]:
    # Not str(error): that has the values of the statement in it.
    log.error("delivery not taken", why=f"{type(error).__name__}: {getattr(error, 'orig', None)}")
    return _not_taken("the database does not serve; send the delivery again later")


@hooks.errorhandler(ConfigError)
def _not_configured(error: ConfigError) -> tuple[Response, int]:
    # Our fault, not the sender's; without a secret nobody can be let in.
    log.error("delivery not taken", why=str(error))
    return _not_taken("the receiver is not configured")


def _not_taken(reason: str) -> tuple[Response, int]:
    return jsonify(verdict="error", reason=reason), 503
