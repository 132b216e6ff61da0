"""Schedules of batches: when rows may be paid, how far they are let go, and what was spent of a day and of a balance."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("batches", sa.Column("schedule", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("course", sa.Text(), nullable=True))
    op.add_column("batch_rows", sa.Column("released", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_batch_rows_released",
        "batch_rows",
        ["batch", "number"],
        unique=False,
        sqlite_where=sa.text("released = 1"),
        postgresql_where=sa.text("released = 1"),
    )
    op.create_table(
        "batch_budgets",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("sent_minor", sa.BigInteger(), nullable=False),
        sa.Column("spent_minor", sa.BigInteger(), nullable=False),
        sa.Column("ceiling_minor", sa.BigInteger(), nullable=True),
        sa.Column("read_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("batch", "currency", name=op.f("pk_batch_budgets")),
    )
