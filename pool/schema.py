"""The tables. Only `pool.store` and the migrations use them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    and_,
    false,
    literal_column,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(TypeDecorator[datetime]):
    """An aware UTC time, stored as whole microseconds since 1970: the same order and precision on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - signature of SQLAlchemy
        """Refuse a naive time; it would be off by the machine's zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}")
        return (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - signature of SQLAlchemy
        """Return an aware UTC time."""
        return None if value is None else _EPOCH + timedelta(microseconds=int(value))


#: SQLite's own rowid on SQLite, eight bytes elsewhere.
Id = BigInteger().with_variant(Integer, "sqlite")
#: SQL NULL for None, not the JSON word null, so that "is null" works.
Json = JSON(none_as_null=True)
#: Names in the order of Python and SQLite, whatever the locale of a PostgreSQL database: the rotation follows it.
_Name = String(63).with_variant(String(63, collation="C"), "postgresql")

#: One row per type: the rotation.
pools = Table(
    "pools",
    metadata,
    Column("type", _Name, primary_key=True),
    Column("cursor", _Name),
)

instances = Table(
    "instances",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("type", _Name, nullable=False),
    Column("model", Text),
    Column("prompt_appendix", Text),
    Column("match_labels", Json),
    # '*' inherits the type's labels, else the sorted JSON list: few distinct values, so that selection can
    # skip from one to the next instead of reading every instance.
    Column("label_key", Text, nullable=False, server_default="*"),
    Column("notes", Text, nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    # The only host whose fleet may serve it; NULL: any.
    Column("host", Text),
    # The load is counted here, in the transaction that queues, claims or ends a task: one truth, no scan.
    Column("queued", Integer, nullable=False, server_default="0"),
    Column("running", Integer, nullable=False, server_default="0"),
    Column(
        "load",
        Integer,
        Computed("CASE WHEN queued = 0 AND running = 0 THEN 0 ELSE queued + 1 END", persisted=True),
        nullable=False,
    ),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("worker", Text),
    Column("worker_host", Text),
    Column("worker_token", String(64)),
    Column("worker_until", Moment),
    # 0 is 1970: never.
    Column("rung_at", Moment, nullable=False, server_default="0"),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index("ix_instances_type_name", "type", "name"),
    Index("ix_instances_pick", "type", "state", "load", "name"),
    Index("ix_instances_pick_label", "type", "state", "label_key", "load", "name"),
    Index(
        "ix_instances_waiting",
        "rung_at",
        sqlite_where=text("queued > 0 AND running = 0"),
        postgresql_where=text("queued > 0 AND running = 0"),
    ),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("delivery_id", String(255)),
    Column("received_at", Moment, nullable=False),
    Column("source", String(16), nullable=False),
    Column("event_type", String(255)),
    Column("action", String(255)),
    Column("repo", String(255)),
    Column("number", BigInteger),
    Column("sender", String(255)),
    Column("remote", String(64)),
    Column("signed", Boolean, nullable=False),
    Column("fingerprint", String(64)),
    Column("headers", Json),
    Column("body", LargeBinary),
    Column("verdict", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("rule", String(64)),
    Column("reason", Text, nullable=False),
    Column("duplicate_of", Id),
    Index("ix_deliveries_received_at", "received_at"),
    # Only what was accepted makes a later one a duplicate: what was ignored or failed may be sent again.
    Index(
        "uq_deliveries_accepted_id",
        "delivery_id",
        unique=True,
        sqlite_where=text("verdict = 'accepted'"),
        postgresql_where=text("verdict = 'accepted'"),
    ),
    Index(
        "uq_deliveries_accepted_meaning",
        "fingerprint",
        unique=True,
        sqlite_where=text("verdict = 'accepted'"),
        postgresql_where=text("verdict = 'accepted'"),
    ),
    Index(
        "ix_deliveries_unsigned",
        "id",
        sqlite_where=text("signed = 0"),
        postgresql_where=text("NOT signed"),
    ),
    sqlite_autoincrement=True,
)

_QUEUED, _RUNNING, _LIVE = text("state = 'queued'"), text("state = 'running'"), text("state IN ('queued', 'running')")
_UNPUBLISHED = text("state = 'queued' AND published_at IS NULL")
_WAITING = text("state IN ('queued', 'dead_lettered')")
_DEAD = text("state = 'dead_lettered'")
_ENDED = text("finished_at IS NOT NULL")
_LEFT = text("agent_pid IS NOT NULL AND finished_at IS NOT NULL")
_RAN_SQLITE, _RAN_POSTGRESQL = text("agent_ran = 1"), text("agent_ran")

#: Every index that selection, claim and reconcile use is partial: finished tasks are not in it.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Id, primary_key=True),
    # Place in the queue: the task's own id, or that of the task it retries.
    Column("position", BigInteger, nullable=False),
    Column("type", String(63), nullable=False),
    Column("instance", String(63)),
    Column("state", String(16), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("repo", String(255), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("head_sha", String(64)),
    Column("session_key", String(400), nullable=False),
    Column("request", Json, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("rule", String(64)),
    Column("delivery", Id, ForeignKey("deliveries.id", ondelete="SET NULL")),
    Column("retry_of", Id),
    # Runs lost to the machinery so far, this one not counted; the agent is not charged for them.
    Column("interruptions", Integer, nullable=False, server_default="0"),
    Column("decision", Json),
    Column("evidence", Json),
    Column("fence", BigInteger),
    Column("created_at", Moment, nullable=False),
    Column("published_at", Moment),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("lease_until", Moment),
    Column("cancel_requested_at", Moment),
    Column("cancel_by", Text),
    Column("stop_requested_at", Moment),
    # Where it runs, and the agent's process there, until it is known to have ended.
    Column("host", Text),
    Column("agent_pid", Integer),
    Column("agent_started", Float),
    # Whether an agent ran for it at all: only that counts towards a cap.
    Column("agent_ran", Boolean, nullable=False, server_default=false()),
    Index("ix_tasks_queue", "instance", "position", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
    Index("uq_tasks_running", "instance", unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    Index("ix_tasks_session", "session_key", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
    Index("ix_tasks_waiting_on", "repo", "number", sqlite_where=_WAITING, postgresql_where=_WAITING),
    Index("ix_tasks_live", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
    Index("ix_tasks_unpublished", "created_at", "id", sqlite_where=_UNPUBLISHED, postgresql_where=_UNPUBLISHED),
    Index("ix_tasks_leases", "lease_until", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    Index("ix_tasks_dead", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
    Index("ix_tasks_ended", "finished_at", "id", sqlite_where=_ENDED, postgresql_where=_ENDED),
    Index("ix_tasks_left", "host", "id", sqlite_where=_LEFT, postgresql_where=_LEFT),
    Index("ix_tasks_subject", "repo", "number", "id"),
    # What counts towards a cap, without the links of merges, of which there may be thousands.
    Index(
        "ix_tasks_ran",
        "repo",
        "number",
        "created_at",
        sqlite_where=_RAN_SQLITE,
        postgresql_where=_RAN_POSTGRESQL,
    ),
    Index("ix_tasks_delivery", "delivery"),
    sqlite_autoincrement=True,
)

# The conditions of the partial indexes, word for word. With bound values in their place the planner cannot know that
# an index fits, and reads the whole table.
is_queued = tasks.c.state == literal_column("'queued'")
is_running = tasks.c.state == literal_column("'running'")
waits = tasks.c.state.in_([literal_column("'queued'"), literal_column("'dead_lettered'")])
is_dead = tasks.c.state == literal_column("'dead_lettered'")
has_ended = tasks.c.finished_at.is_not(None)
has_left_an_agent = and_(tasks.c.agent_pid.is_not(None), has_ended)
agent_has_run = tasks.c.agent_ran == true()
is_live = tasks.c.state.in_([literal_column("'queued'"), literal_column("'running'")])
is_waiting = and_(instances.c.queued > literal_column("0"), instances.c.running == literal_column("0"))
is_accepted = deliveries.c.verdict == literal_column("'accepted'")
is_unsigned = deliveries.c.signed == false()

task_events = Table(
    "task_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("task", Id, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("event", String(32), nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Index("ix_task_events_task", "task", "id"),
    sqlite_autoincrement=True,
)

#: What the forge told us of each issue and pull request: the payload of a change does not name what changed.
subjects = Table(
    "subjects",
    metadata,
    Column("repo", String(255), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("is_pull", Boolean, nullable=False),
    Column("assignees", Json),
    Column("author", String(255)),
    Column("head_sha", String(64)),
    Column("head_ref", Text),
    Column("title", Text, nullable=False, server_default=""),
    Column("url", Text, nullable=False, server_default=""),
    Column("labels", Json),
    Column("state", String(16), nullable=False),
    Column("updated_at", Moment),
    Index("ix_subjects_head", "repo", "head_sha", "number"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("key", String(400), primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("instance", String(63), nullable=False),
    Column("task", Id, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

#: What only one process of the whole deployment may do at a time, and who does it.
leases = Table(
    "leases",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", String(64), nullable=False),
    Column("until", Moment, nullable=False),
)

#: How often each repair of the reconciler had something to do.
repairs = Table(
    "repairs",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("count", BigInteger, nullable=False, server_default="0"),
    Column("last_at", Moment, nullable=False),
    Column("last_count", Integer, nullable=False),
)
