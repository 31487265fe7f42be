"""Hosts, dead letters, left-over agents, the reconciler's lease and counters, and what retention looks for."""

import sqlalchemy as sa
from alembic import op


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.add_column("instances", sa.Column("host", sa.Text(), nullable=True))
    op.add_column("instances", sa.Column("worker_host", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("host", sa.Text(), nullable=True))
    op.create_index("ix_deliveries_received_at", "deliveries", ["received_at"])
    op.drop_index("ix_tasks_waiting_on", table_name="tasks")
    _index(
        "ix_tasks_waiting_on", "tasks", ["repo", "number"], "state IN ('queued', 'dead_lettered')"
    )
    _index("ix_tasks_dead", "tasks", ["id"], "state = 'dead_lettered'")
    _index("ix_tasks_ended", "tasks", ["finished_at", "id"], "finished_at IS NOT NULL")
    _index(
        "ix_tasks_left", "tasks", ["host", "id"], "agent_pid IS NOT NULL AND finished_at IS NOT NULL"
    )
    # Until now the agents of ended tasks were not forgotten; they are long gone.
    op.execute("UPDATE tasks SET agent_pid = NULL, agent_started = NULL WHERE finished_at IS NOT NULL")
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "repairs",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("last_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_repairs")),
    )


def downgrade() -> None:
    op.drop_table("repairs")
    op.drop_table("leases")
    op.drop_index("ix_tasks_waiting_on", table_name="tasks")
    _index("ix_tasks_waiting_on", "tasks", ["repo", "number"], "state = 'queued'")
    for name, table in (
        ("ix_tasks_left", "tasks"),
        ("ix_tasks_ended", "tasks"),
        ("ix_tasks_dead", "tasks"),
        ("ix_deliveries_received_at", "deliveries"),
    ):
        op.drop_index(name, table_name=table)
    op.drop_column("tasks", "host")
    op.drop_column("instances", "worker_host")
    op.drop_column("instances", "host")
