"""The Celery app. `celery -A tasks worker -Q dev-alpha -n dev-alpha@%h -c 1` is a whole worker of dev-alpha."""

import functools
from typing import Any

import structlog
from celery import Celery, signals

from tasks import logs
from tasks.doorbell import RUN
from tasks.worker import InstanceLease, deployment

log = structlog.get_logger(__name__)

app = Celery("forgepool")
app.config_from_object("celeryconfig")
app.steps["worker"].add(InstanceLease)


@app.task(name=RUN)  # type: ignore[untyped-decorator] # celery has no annotations
def run(task: int) -> dict[str, Any]:
    """Answer a doorbell: run the head of this worker's queue. `task` is the one that rang; it need not be the head."""
    from tasks.run import answer  # noqa: PLC0415 - publishers and Flower do without the runner

    identity = InstanceLease.identity
    if identity is None or InstanceLease.engine is None:
        raise RuntimeError("this worker holds no lease")
    return answer(InstanceLease.engine, identity.instance, worker_token=identity.token, bell=task)


@functools.cache
def _configure_logs() -> None:
    """Set up the log, once: a pool child inherits it from its worker, and that from its host."""
    logs.configure(deployment().service.log_format)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: object) -> None:
    _configure_logs()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _forget_inherited_connections(**_: object) -> None:
    if InstanceLease.engine is not None:
        InstanceLease.engine.store.after_fork()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _say_ready(**_: object) -> None:
    if InstanceLease.identity is not None:
        log.info("worker ready", instance=InstanceLease.identity.instance)
