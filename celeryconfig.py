"""Celery's settings, each with its reason. Read by `tasks.celery`; the values come from forgepool.toml."""

from tasks.settings import Settings

_settings = Settings.load()
_is_redis = _settings.broker_url.startswith(("redis", "rediss"))

# --- where ---------------------------------------------------------------------------------------
broker_url = _settings.broker_url
# The database is the record of every task; a second one, in a result backend, could only disagree.
result_backend = None
task_ignore_result = True

# --- one at a time, in order ---------------------------------------------------------------------
# One worker serves one instance, and an instance runs one task at a time.
worker_concurrency = 1
# prefork: the only pool that answers remote control while a task runs, so Flower and `inspect` stay alive.
worker_pool = "prefork"
worker_prefetch_multiplier = 1
# Take nothing from the queue while a task runs: what waits in a dead worker's memory is lost for an hour.
# Redis and Valkey only; on RabbitMQ the listener below does its part.
worker_disable_prefetch = _is_redis

# --- a doorbell, not a parcel --------------------------------------------------------------------
# Acknowledge at the start. A run of hours must not stay unacknowledged: Redis would deliver it again after its
# visibility time-out, RabbitMQ would close the channel after its consumer time-out. A dead run is noticed by
# its lease in the database, not by the broker.
task_acks_late = False
# True would put the message at the end of a Redis queue; the lease decides what happens to a lost run.
task_reject_on_worker_lost = False
# Never stop an agent because the broker went away: its result goes to the database.
worker_cancel_long_running_tasks_on_connection_loss = False
# Names a queue that exists only when its worker started once; a doorbell must not be refused before that.
task_create_missing_queues = True
task_default_queue = "forgepool-unrouted"
if not _is_redis:
    # Acknowledges what it is given at once; why: see there.
    worker_consumer = "tasks.listener:Listener"
    # A channel that the server closes, for a message that is none of ours, is opened again.
    broker_channel_error_retry = True

# --- the broker comes and goes -------------------------------------------------------------------
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# A webhook's answer waits for the publish at most this long; the reconciler publishes what failed.
broker_connection_timeout = 1.0
task_publish_retry = False
broker_transport_options = (
    {
        # Longer than any run: were a message ever left unacknowledged, nobody may see it twice.
        "visibility_timeout": 7 * 86400,
        "socket_keepalive": True,
        "socket_connect_timeout": 1.0,
        # Of a server that hangs nobody else would ever let go. Longer than kombu's own BRPOP, which takes a second.
        "socket_timeout": 5.0,
        "health_check_interval": 25,
        # Without these kombu would try for ever to connect before a publish fails.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.1,
        "interval_max": 0.1,
    }
    if _is_redis
    # RabbitMQ without confirms is fire and forget; a lost doorbell would wait for the reconciler.
    else {"confirm_publish": True, "max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
)
# Mailboxes of workers that were killed vanish by themselves.
control_queue_ttl = 300
control_queue_expires = 300
event_queue_expires = 60

# --- seen from outside ---------------------------------------------------------------------------
# For Flower.
worker_send_task_events = True
task_send_sent_event = True
task_track_started = True

# --- content -------------------------------------------------------------------------------------
task_serializer = "json"
# A message is a number; nothing else is ever unpickled or parsed.
accept_content = ["json"]
enable_utc = True
timezone = "UTC"
# Our own log set-up (tasks/logs.py) serves the whole process.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
