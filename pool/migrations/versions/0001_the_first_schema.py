"""The first schema."""

import sqlalchemy as sa
from alembic import op


revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_name = sa.String(length=63).with_variant(sa.String(length=63, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("delivery_id", sa.String(length=255), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=True),
        sa.Column("action", sa.String(length=255), nullable=True),
        sa.Column("repo", sa.String(length=255), nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("sender", sa.String(length=255), nullable=True),
        sa.Column("remote", sa.String(length=64), nullable=True),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("duplicate_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index(
            "ix_deliveries_unsigned",
            ["id"],
            unique=False,
            sqlite_where=sa.text("signed = 0"),
            postgresql_where=sa.text("NOT signed"),
        )
        batch_op.create_index(
            "uq_deliveries_accepted_id",
            ["delivery_id"],
            unique=True,
            sqlite_where=sa.text("verdict = 'accepted'"),
            postgresql_where=sa.text("verdict = 'accepted'"),
        )
        batch_op.create_index(
            "uq_deliveries_accepted_meaning",
            ["fingerprint"],
            unique=True,
            sqlite_where=sa.text("verdict = 'accepted'"),
            postgresql_where=sa.text("verdict = 'accepted'"),
        )

    op.create_table(
        "instances",
        sa.Column("name", _name, nullable=False),
        sa.Column("type", _name, nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("prompt_appendix", sa.Text(), nullable=True),
        sa.Column("match_labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("label_key", sa.Text(), server_default="*", nullable=False),
        sa.Column("notes", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("queued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("running", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "load",
            sa.Integer(),
            sa.Computed("CASE WHEN queued = 0 AND running = 0 THEN 0 ELSE queued + 1 END", persisted=True),
            nullable=False,
        ),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("worker_token", sa.String(length=64), nullable=True),
        sa.Column("worker_until", sa.BigInteger(), nullable=True),
        sa.Column("rung_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_instances")),
    )
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.create_index("ix_instances_pick", ["type", "state", "load", "name"], unique=False)
        batch_op.create_index(
            "ix_instances_pick_label", ["type", "state", "label_key", "load", "name"], unique=False
        )
        batch_op.create_index("ix_instances_type_name", ["type", "name"], unique=False)
        batch_op.create_index(
            "ix_instances_waiting",
            ["rung_at"],
            unique=False,
            sqlite_where=sa.text("queued > 0 AND running = 0"),
            postgresql_where=sa.text("queued > 0 AND running = 0"),
        )

    op.create_table(
        "pools",
        sa.Column("type", _name, nullable=False),
        sa.Column("cursor", _name, nullable=True),
        sa.PrimaryKeyConstraint("type", name=op.f("pk_pools")),
    )
    op.create_table(
        "sessions",
        sa.Column("key", sa.String(length=400), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("instance", sa.String(length=63), nullable=False),
        sa.Column("task", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sessions")),
    )
    op.create_table(
        "subjects",
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("is_pull", sa.Boolean(), nullable=False),
        sa.Column("assignees", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("author", sa.String(length=255), nullable=True),
        sa.Column("head_sha", sa.String(length=64), nullable=True),
        sa.Column("head_ref", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("url", sa.Text(), server_default="", nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("repo", "number", name=op.f("pk_subjects")),
    )
    with op.batch_alter_table("subjects", schema=None) as batch_op:
        batch_op.create_index("ix_subjects_head", ["repo", "head_sha", "number"], unique=False)

    op.create_table(
        "tasks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=63), nullable=False),
        sa.Column("instance", sa.String(length=63), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("head_sha", sa.String(length=64), nullable=True),
        sa.Column("session_key", sa.String(length=400), nullable=False),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=True),
        sa.Column("delivery", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("retry_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decision", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("evidence", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_by", sa.Text(), nullable=True),
        sa.Column("stop_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("agent_pid", sa.Integer(), nullable=True),
        sa.Column("agent_started", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.id"], name=op.f("fk_tasks_delivery"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.create_index("ix_tasks_delivery", ["delivery"], unique=False)
        batch_op.create_index(
            "ix_tasks_leases",
            ["lease_until"],
            unique=False,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )
        batch_op.create_index(
            "ix_tasks_live",
            ["id"],
            unique=False,
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )
        batch_op.create_index(
            "ix_tasks_queue",
            ["instance", "position", "id"],
            unique=False,
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )
        batch_op.create_index(
            "ix_tasks_session",
            ["session_key", "id"],
            unique=False,
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )
        batch_op.create_index("ix_tasks_subject", ["repo", "number", "id"], unique=False)
        batch_op.create_index(
            "ix_tasks_unpublished",
            ["created_at", "id"],
            unique=False,
            sqlite_where=sa.text("state = 'queued' AND published_at IS NULL"),
            postgresql_where=sa.text("state = 'queued' AND published_at IS NULL"),
        )
        batch_op.create_index(
            "ix_tasks_waiting_on",
            ["repo", "number"],
            unique=False,
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )
        batch_op.create_index(
            "uq_tasks_running",
            ["instance"],
            unique=True,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )

    op.create_table(
        "task_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("task", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_task_events_task"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_events")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("task_events", schema=None) as batch_op:
        batch_op.create_index("ix_task_events_task", ["task", "id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("task_events", schema=None) as batch_op:
        batch_op.drop_index("ix_task_events_task")

    op.drop_table("task_events")
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_tasks_running", sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'")
        )
        batch_op.drop_index(
            "ix_tasks_waiting_on",
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )
        batch_op.drop_index(
            "ix_tasks_unpublished",
            sqlite_where=sa.text("state = 'queued' AND published_at IS NULL"),
            postgresql_where=sa.text("state = 'queued' AND published_at IS NULL"),
        )
        batch_op.drop_index("ix_tasks_subject")
        batch_op.drop_index(
            "ix_tasks_session",
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )
        batch_op.drop_index(
            "ix_tasks_queue", sqlite_where=sa.text("state = 'queued'"), postgresql_where=sa.text("state = 'queued'")
        )
        batch_op.drop_index(
            "ix_tasks_live",
            sqlite_where=sa.text("state IN ('queued', 'running')"),
            postgresql_where=sa.text("state IN ('queued', 'running')"),
        )
        batch_op.drop_index(
            "ix_tasks_leases", sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'")
        )
        batch_op.drop_index("ix_tasks_delivery")

    op.drop_table("tasks")
    with op.batch_alter_table("subjects", schema=None) as batch_op:
        batch_op.drop_index("ix_subjects_head")

    op.drop_table("subjects")
    op.drop_table("sessions")
    op.drop_table("pools")
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_instances_waiting",
            sqlite_where=sa.text("queued > 0 AND running = 0"),
            postgresql_where=sa.text("queued > 0 AND running = 0"),
        )
        batch_op.drop_index("ix_instances_type_name")
        batch_op.drop_index("ix_instances_pick_label")
        batch_op.drop_index("ix_instances_pick")

    op.drop_table("instances")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_deliveries_accepted_meaning",
            sqlite_where=sa.text("verdict = 'accepted'"),
            postgresql_where=sa.text("verdict = 'accepted'"),
        )
        batch_op.drop_index(
            "uq_deliveries_accepted_id",
            sqlite_where=sa.text("verdict = 'accepted'"),
            postgresql_where=sa.text("verdict = 'accepted'"),
        )
        batch_op.drop_index(
            "ix_deliveries_unsigned", sqlite_where=sa.text("signed = 0"), postgresql_where=sa.text("NOT signed")
        )

    op.drop_table("deliveries")
