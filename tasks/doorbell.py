"""The doorbell on a real broker: one Celery message per ring."""

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from pool.errors import ForgepoolError

#: Name of the Celery task that a doorbell calls.
RUN = "forgepool.run"
#: How long the broker may take for a message. The forge waits five seconds for the answer to a delivery.
ANSWER_S = 2.0
#: A broker that did not answer in time is left alone for this time.
LEAVE_ALONE_S = 5.0
#: The connection that was kept for the next message may be dead: RabbitMQ ends idle ones, every restart ends all.
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

T = TypeVar("T")


class BellError(ForgepoolError):
    """The broker did not take the message; the reconciler will ring again."""


class CeleryBell:
    """Rings by publishing to the queue that has the instance's name."""

    def __init__(self, app: Celery) -> None:
        """`app`: any app that is configured for the deployment's broker."""
        self._app = app
        # Celery reads it at the first use, and by then the file may say something that this version cannot read.
        _ = app.conf.broker_url
        self._leave_alone_until = 0.0

    def ring(self, instance: str, task: int) -> None:
        """Publish. The Celery task id is our task id, so that Flower and `forgepool` speak of the same thing."""

        def publish() -> None:
            self._app.send_task(
                RUN, args=(task,), task_id=str(task), queue=instance, retry=True, retry_policy=_ONCE_MORE
            )

        self._ask(publish, f"the broker did not take the message for {instance}")

    def waiting(self, instance: str) -> int:
        """Count the messages in the queue. What a worker has taken already is not among them."""

        def count() -> int:
            with self._app.connection_or_acquire() as connection:
                try:
                    # Not connection.channel(): that one waits two seconds between its tries.
                    return int(connection.default_channel.queue_declare(queue=instance, passive=True).message_count)
                except connection.channel_errors:
                    # Redis has no empty lists, RabbitMQ no queue that nobody has declared (404).
                    return 0

        return self._ask(count, f"the broker does not tell what waits for {instance}")

    def _ask(self, act: Callable[[], T], complaint: str) -> T:
        """Let the broker do something, in a thread: of a server that hangs no client library takes notice."""
        if time.monotonic() < self._leave_alone_until:
            raise BellError(f"{complaint}: it hangs")
        answers: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        threading.Thread(target=lambda: answers.put(_done(act)), name="doorbell", daemon=True).start()
        try:
            return answers.get(timeout=ANSWER_S)()
        except queue.Empty:
            self._leave_alone_until = time.monotonic() + LEAVE_ALONE_S
            raise BellError(f"{complaint}: it did not answer within {ANSWER_S:g} s") from None
        except self._errors() as error:
            raise BellError(f"{complaint}: {error}") from error

    def _errors(self) -> tuple[type[Exception], ...]:
        """Return what the client library of this broker raises; not all of it is wrapped by kombu."""
        connection = self._app.connection_for_write()  # connects when it is used, which it is not
        return (OperationalError, KombuError, OSError, *connection.connection_errors, *connection.channel_errors)


def _done(act: Callable[[], T]) -> Callable[[], T]:
    """Do it; return what gives the value, or raises the error, where it is waited for."""
    try:
        value = act()
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        caught = error

        def fail() -> T:
            raise caught

        return fail
    return lambda: value
