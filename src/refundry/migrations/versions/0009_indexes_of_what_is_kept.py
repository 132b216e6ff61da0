"""Telling when an event came last, and deleting old messages, without reading all of them."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_index("ix_inbox_events_last", "inbox_events", ["account", "source", "received_at"], unique=False)
    op.create_index("ix_outbox_deliveries_number", "outbox_deliveries", ["number"], unique=False)
