"""The doorbell on a real broker: one Celery message per ring."""

from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from pool.errors import ForgepoolError

#: Name of the Celery task that a doorbell calls.
RUN = "forgepool.run"


class BellError(ForgepoolError):
    """The broker did not take the message; the reconciler will ring again."""


class CeleryBell:
    """Rings by publishing to the queue that has the instance's name."""

    def __init__(self, app: Celery) -> None:
        """`app`: any app that is configured for the deployment's broker."""
        self._app = app

    def ring(self, instance: str, task: int) -> None:
        """Publish. The Celery task id is our task id, so that Flower and `forgepool` speak of the same thing."""
        try:
            self._app.send_task(RUN, args=(task,), task_id=str(task), queue=instance, retry=False)
        except (OperationalError, KombuError, OSError) as error:
            raise BellError(f"the broker did not take the message for {instance}: {error}") from error

    def waiting(self, instance: str) -> int:
        """Count the messages in the queue. What a worker has taken already is not among them."""
        with self._app.connection_or_acquire() as connection:
            try:
                # Not connection.channel(): that one waits two seconds between its tries.
                return int(connection.default_channel.queue_declare(queue=instance, passive=True).message_count)
            except connection.channel_errors:
                # Redis has no empty lists: a queue that holds nothing does not exist (404).
                return 0
            except (*connection.connection_errors, KombuError, OSError) as error:
                raise BellError(f"the broker does not tell what waits for {instance}: {error}") from error
