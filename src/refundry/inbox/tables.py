"""The events."""

import sqlalchemy as sa

from refundry.infra.db import metadata

inbox_events = sa.Table(
    "inbox_events",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("livemode", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("object_id", sa.Text),
    sa.Column("charge", sa.Text),
    sa.Column("refund", sa.Text),
    sa.Column("payment_intent", sa.Text),
    sa.Column("request", sa.Text),
    sa.Column("status", sa.Text),
    sa.Column("amount_minor", sa.BigInteger),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    # Last, so that SQLite reads a row without the pages that this overflows to.
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Index("ix_inbox_events_received", "received_at", "id"),
    # When an event came last, in each way.
    sa.Index("ix_inbox_events_last", "account", "source", "received_at"),
    sa.Index("ix_inbox_events_object", "object_id"),
    sa.Index("ix_inbox_events_charge", "charge"),
    # Every look for work reads these alone; a million applied events are not in the way.
    sa.Index(
        "ix_inbox_events_due",
        "account",
        "due_at",
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    ),
    # Counts a million events without reading one.
    sa.Index("ix_inbox_events_state", "state", "account"),
)
