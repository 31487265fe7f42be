"""The doorbell: what goes over the broker, on kombu's in-memory transport with pytest-celery's app."""

import socket
from typing import Any

import pytest
from celery import Celery

from tasks.doorbell import RUN, BellError, CeleryBell


@pytest.fixture
def bell(celery_app: Celery) -> CeleryBell:
    """Build a doorbell on the app that pytest-celery provides; its broker is memory://."""
    return CeleryBell(celery_app)


def _take(celery_app: Celery, queue: str) -> tuple[dict[str, Any], Any]:
    with celery_app.connection_for_read() as connection, connection.SimpleQueue(queue) as box:
        message = box.get(block=False)
        message.ack()
        return dict(message.headers), message.payload


def test_a_ring_names_our_task_and_goes_to_the_queue_of_the_instance(celery_app: Celery, bell: CeleryBell) -> None:
    bell.ring("dev-alpha", 41)

    headers, payload = _take(celery_app, "dev-alpha")

    assert headers["id"] == "41"
    assert headers["task"] == RUN
    assert payload[0] == [41]


def test_a_ring_for_one_instance_is_not_heard_by_another(bell: CeleryBell) -> None:
    bell.ring("dev-bravo", 1)

    assert bell.waiting("dev-brav") == 0
    assert bell.waiting("dev-bravo") == 1


def test_waiting_counts_what_nobody_has_answered(celery_app: Celery, bell: CeleryBell) -> None:
    for task in (1, 2, 3):
        bell.ring("dev-charlie", task)
    _take(celery_app, "dev-charlie")

    assert bell.waiting("dev-charlie") == 2


def test_a_broker_that_is_away_is_an_error_that_says_so_after_one_more_try() -> None:
    app = Celery("nobody", broker="redis://127.0.0.1:1/0")
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    bell = CeleryBell(app)

    with pytest.raises(BellError, match="did not take the message for dev-alpha"):
        bell.ring("dev-alpha", 1)
    with pytest.raises(BellError, match="does not tell what waits for dev-alpha"):
        bell.waiting("dev-alpha")


def test_a_broker_that_hangs_is_given_up_in_time_and_then_left_alone_for_a_while() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        app = Celery("nobody", broker=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        bell = CeleryBell(app)

        with pytest.raises(BellError, match="did not answer within 2 s"):
            bell.ring("dev-alpha", 1)
        # The sender of two tasks must not wait twice.
        with pytest.raises(BellError, match="did not take the message for dev-bravo: it hangs"):
            bell.ring("dev-bravo", 2)


def test_the_settings_are_those_that_were_there_when_the_bell_was_made() -> None:
    """A web process that first rang after the file had been spoiled queued everything and told nobody."""
    app = Celery("lazy")
    app.config_from_object({"broker_url": "memory://"})
    assert not app.configured
    CeleryBell(app)

    assert app.configured
