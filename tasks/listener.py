"""How a worker listens to its queue on RabbitMQ. Loaded by `worker_consumer` in celeryconfig.py."""

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.consumer.tasks import Tasks

#: What stands in for the steps of these names.
OURS = {"Tasks": "tasks.listener:Listen", "Control": "tasks.listener:RemoteControl"}


class Listener(Consumer):  # type: ignore[misc] # celery has no annotations
    """Leaves no message unacknowledged, whatever runs.

    Celery takes one message more than it runs, and acknowledges it when that one starts: hours later, behind a long
    run. RabbitMQ closes the channel of a consumer that holds a message for half an hour ("consumer_timeout"), and
    before version 3.12 no client can ask it for more patience. A doorbell may be lost, the reconciler rings again, so
    nothing is won by holding it: it counts as answered when it is delivered.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc] # celery has no annotations
        """The steps of Celery's own consumer, with another way to begin to consume."""

        default_steps = tuple(
            OURS.get(step.rpartition(":")[2], step)
            for step in Consumer.Blueprint.default_steps
            # For messages with a countdown, which a doorbell never has. It would bring Celery's own Tasks back, too.
            if not step.endswith(":DelayedDelivery")
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for queue in self.app.amqp.queues.consume_from.values():
            queue.no_ack = True


class Listen(Tasks):  # type: ignore[misc] # celery has no annotations
    """Consumes from classic and from quorum queues alike."""

    def qos_global(self, c: Any) -> bool:
        """Refuse: it is for messages that wait for their acknowledgement, and quorum queues do not know it."""
        del c
        return False


class RemoteControl(Control):  # type: ignore[misc] # celery has no annotations
    """Celery's own. What a step requires is started with it: that one would start Celery's Tasks beside ours."""

    requires = (Listen,)
