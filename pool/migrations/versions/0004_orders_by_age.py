"""Orders that wait are found oldest first: SQLite went through every order that ever was."""

import sqlalchemy as sa
from alembic import op


revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _index(*columns: str) -> None:
    where = sa.text("done_at IS NULL")
    op.create_index("ix_orders_due", "orders", list(columns), sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.drop_index("ix_orders_due", table_name="orders")
    _index("id", "due_at")


def downgrade() -> None:
    op.drop_index("ix_orders_due", table_name="orders")
    _index("due_at", "id")
