"""The web app: one Flask app on one engine."""

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from tasks import logs
from tasks.engine import Engine
from tasks.settings import Settings
from webapp.api import api
from webapp.hooks import hooks
from webapp.metrics import metrics

#: Seconds that a delivery waits for another writer. Forgejo gives up after five and never tries again.
BUSY_S = 3.0


def create_app(engine: Engine | None = None) -> Flask:
    """Build the web app. Without an engine: the one of $FORGEPOOL_CONFIG, for gunicorn's "webapp.app:create_app()"."""
    app = Flask(__name__)
    if engine is None:
        engine = _engine_of_the_environment()
    app.extensions["forgepool"] = engine
    app.config["MAX_CONTENT_LENGTH"] = engine.settings.service.max_body_bytes
    app.register_error_handler(HTTPException, _in_json)
    app.register_blueprint(hooks)
    app.register_blueprint(api)
    app.register_blueprint(metrics)
    return app


def _in_json(error: HTTPException) -> tuple[Response, int]:
    """Answer a wrong address or method as everything else is answered."""
    return jsonify(error=error.description), error.code or 500


def _engine_of_the_environment() -> Engine:
    from tasks.celery import app as celery_app  # noqa: PLC0415 - reads the configuration
    from tasks.doorbell import CeleryBell  # noqa: PLC0415

    settings = Settings.load()
    logs.configure(settings.service.log_format)
    settings.webhook_secret()  # better no door than one that can let nobody in
    settings.operator_token()  # made now, if it has to be: an operator looks for its file before the first use
    return Engine.open(settings, CeleryBell(celery_app), busy_s=BUSY_S)
