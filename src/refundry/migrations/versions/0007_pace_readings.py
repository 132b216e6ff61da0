"""What processes have seen of Stripe's calls, for others to read."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_table(
        "pace_readings",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("began_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.Column("calls", sa.Text(), nullable=False),
        sa.Column("limited", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", "process", "began_at", name=op.f("pk_pace_readings")),
    )
