"""Summing up what was refunded in the last days, without reading all refunds."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_index("ix_stripe_refunds_created", "stripe_refunds", ["account", "created_at"], unique=False)
