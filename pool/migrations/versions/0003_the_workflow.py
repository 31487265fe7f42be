"""The workflow: what is watched, lanes, the effect ledger, orders, the trail, and whether an agent ran for a task."""

import sqlalchemy as sa
from alembic import op


revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def _partial(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("agent_ran", sa.Boolean(), nullable=False, server_default=sa.false()))
    # Which of the old tasks had an agent is told by what it left behind.
    op.execute("UPDATE tasks SET agent_ran = TRUE WHERE evidence IS NOT NULL AND started_at IS NOT NULL")
    # One that runs now has left nothing yet.
    op.execute("UPDATE tasks SET agent_ran = TRUE WHERE agent_pid IS NOT NULL")
    op.create_index(
        "ix_tasks_ran",
        "tasks",
        ["repo", "number", "created_at"],
        sqlite_where=sa.text("agent_ran = 1"),
        postgresql_where=sa.text("agent_ran"),
    )
    op.create_table(
        "work",
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("issue", sa.BigInteger()),
        sa.Column("held_by", sa.Text()),
        sa.Column("held_at", sa.BigInteger()),
        sa.Column("reset_at", sa.BigInteger()),
        sa.Column("look_at", sa.BigInteger()),
        sa.Column("look_why", sa.String(length=16)),
        sa.Column("look_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("looked_at", sa.BigInteger()),
        sa.Column("unmergeable_since", sa.BigInteger()),
        sa.Column("unmergeable_at", sa.Text()),
        sa.Column("head_sha", sa.String(length=64)),
        sa.Column("head_since", sa.BigInteger()),
        sa.PrimaryKeyConstraint("repo", "number", name=op.f("pk_work")),
    )
    _partial("ix_work_look_at", "work", ["look_at", "repo", "number"], "look_at IS NOT NULL")
    op.create_index("ix_work_issue", "work", ["repo", "issue"])
    op.create_table(
        "merges",
        sa.Column("id", _ID, nullable=False),
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16)),
        sa.Column("link", sa.Integer(), server_default="0", nullable=False),
        sa.Column("head_sha", sa.String(length=64), nullable=False),
        sa.Column("approved_sha", sa.String(length=64), nullable=False),
        sa.Column("base_sha", sa.String(length=64)),
        sa.Column("merge_sha", sa.String(length=64)),
        sa.Column("code", sa.String(length=32)),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("approved_at", sa.BigInteger(), nullable=False),
        sa.Column("entered_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("look_at", sa.BigInteger()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merges")),
        sqlite_autoincrement=True,
    )
    is_open, holds = "state IN ('waiting', 'active', 'parked')", "state IN ('active', 'parked')"
    _partial("uq_merges_lane", "merges", ["repo", "base"], holds, unique=True)
    _partial("uq_merges_pull", "merges", ["repo", "number"], is_open, unique=True)
    _partial("ix_merges_open", "merges", ["repo", "base", "approved_at", "id"], is_open)
    op.create_index("ix_merges_pull", "merges", ["repo", "number", "id"])
    _partial("ix_merges_ended", "merges", ["ended_at", "id"], "ended_at IS NOT NULL")
    op.create_table(
        "effects",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=63), nullable=False),
        sa.Column("task", _ID),
        sa.Column("body", _JSON, nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("ref", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.BigInteger()),
        sa.Column("given_up_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_effects")),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_effects_key", "effects", ["key"], unique=True)
    _partial("ix_effects_owed", "effects", ["due_at", "id"], "done_at IS NULL AND given_up_at IS NULL")
    op.create_index("ix_effects_subject", "effects", ["repo", "number", "id"])
    _partial("ix_effects_done", "effects", ["done_at", "id"], "done_at IS NOT NULL")
    _partial("ix_effects_given_up", "effects", ["given_up_at", "id"], "given_up_at IS NOT NULL")
    op.create_table(
        "orders",
        sa.Column("id", _ID, nullable=False),
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("comment", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("verb", sa.String(length=16), nullable=False),
        sa.Column("argument", sa.String(length=255), server_default="", nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("delivery", _ID),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.BigInteger()),
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_orders_comment", "orders", ["repo", "comment", "line"], unique=True)
    _partial("ix_orders_due", "orders", ["due_at", "id"], "done_at IS NULL")
    _partial("ix_orders_done", "orders", ["done_at", "id"], "done_at IS NOT NULL")
    op.create_index("ix_orders_subject", "orders", ["repo", "number", "id"])
    op.create_table(
        "trail",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trail")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_trail_subject", "trail", ["repo", "number", "id"])
    op.create_index("ix_trail_at", "trail", ["at"])
    op.create_table(
        "polls",
        sa.Column("repo", sa.String(length=255), nullable=False),
        sa.Column("polled_at", sa.BigInteger()),
        sa.Column("comments_since", sa.BigInteger()),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("repo", name=op.f("pk_polls")),
    )


def downgrade() -> None:
    for table in ("polls", "trail", "orders", "effects", "merges", "work"):
        op.drop_table(table)
    op.drop_index("ix_tasks_ran", table_name="tasks")
    op.drop_column("tasks", "agent_ran")
