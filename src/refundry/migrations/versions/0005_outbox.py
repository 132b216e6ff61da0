"""The outbox: messages, their deliveries to each target, and what was last told of each order."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "outbox_messages",
        sa.Column("number", number, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_outbox_messages")),
    )
    op.create_index("uq_outbox_messages_id", "outbox_messages", ["id"], unique=True)
    op.create_index("ix_outbox_messages_order", "outbox_messages", ["account", "order_id"], unique=False)
    op.create_table(
        "outbox_deliveries",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("number", number, autoincrement=False, nullable=False),
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("delivered_at", sa.Double(), nullable=True),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("target", "number", name=op.f("pk_outbox_deliveries")),
    )
    for name, columns, where in (
        ("ix_outbox_deliveries_due", ["target", "due_at", "number"], "state = 'waiting'"),
        ("ix_outbox_deliveries_open", ["target", "ordering_key", "number"], "state IN ('waiting', 'parked')"),
    ):
        op.create_index(
            name,
            "outbox_deliveries",
            columns,
            unique=False,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_table(
        "outbox_keys",
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("told", sa.Text(), server_default="", nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("ordering_key", name=op.f("pk_outbox_keys")),
    )
