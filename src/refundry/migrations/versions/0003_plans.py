"""Plans, what a request's charge was like when it was planned, Stripe's fees, and the witness of the clock."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_table(
        "clock_witnesses",
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("ahead", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("machine", name=op.f("pk_clock_witnesses")),
    )
    op.add_column("batches", sa.Column("plan", sa.Text(), nullable=True))
    op.add_column("charges", sa.Column("fee_minor", sa.BigInteger(), nullable=True))
    op.add_column("charges", sa.Column("fee_currency", sa.Text(), nullable=True))
    op.add_column("refund_requests", sa.Column("planned", sa.Text(), nullable=True))
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("look_max_age", sa.Double(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("forecast", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index("ix_plans_batch", "plans", ["batch"], unique=False)
    op.create_table(
        "plan_rows",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("charge", sa.Text(), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("expected", sa.Text(), nullable=True),
        sa.Column("allow_repeat", sa.Boolean(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=True),
        sa.Column("fee_currency", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("plan", "number", name=op.f("pk_plan_rows")),
    )
    op.create_index("ix_plan_rows_charge", "plan_rows", ["plan", "charge"], unique=False)
    op.create_index("ix_plan_rows_request", "plan_rows", ["plan", "request"], unique=False)
