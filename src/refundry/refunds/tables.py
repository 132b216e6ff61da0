"""Refund requests, their attempts, and breaks."""

import sqlalchemy as sa

from refundry.infra.db import metadata

refund_requests = sa.Table(
    "refund_requests",
    metadata,
    # The order in which requests came: requests of one charge are paid in it, but a person's before a file's.
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("request_key", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("asked_minor", sa.BigInteger),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("ticket_id", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("refund_application_fee", sa.Boolean),
    sa.Column("reverse_transfer", sa.Boolean),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("reserved_minor", sa.BigInteger, nullable=False),
    sa.Column("held_reason", sa.Text),
    sa.Column("held_until", sa.Double),
    sa.Column("reason_code", sa.Text, nullable=False),
    sa.Column("reason_text", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("refund", sa.Text),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("allowed", sa.Text, nullable=False, server_default="[]"),
    sa.Column("allow_inquiry", sa.Boolean, nullable=False),
    sa.Column("replaces", sa.Text, unique=True),
    sa.Column("planned", sa.Text),
    sa.Column("lease", sa.Text),
    sa.Column("leased_until", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.CheckConstraint("amount_minor >= 0 AND reserved_minor >= 0", name="amounts"),
    sa.CheckConstraint("(held_reason IS NULL) OR state IN ('received', 'awaiting_approval', 'approved')", name="held"),
    sa.Index("ix_refund_requests_charge", "charge", "sequence"),
    sa.Index("ix_refund_requests_account_state", "account", "state", "sequence"),
    # What a worker looks for: due, unheld, not over.
    sa.Index(
        "ix_refund_requests_due",
        "account",
        "lane",
        "due_at",
        "sequence",
        sqlite_where=sa.text("state IN ('received', 'approved', 'submitting')"),
        postgresql_where=sa.text("state IN ('received', 'approved', 'submitting')"),
    ),
    # At most one request of a charge may be on its way: the last line of defence, whatever the code above does.
    sa.Index(
        "uq_refund_requests_in_flight",
        "charge",
        unique=True,
        sqlite_where=sa.text("state IN ('submitting', 'outcome_unknown')"),
        postgresql_where=sa.text("state IN ('submitting', 'outcome_unknown')"),
    ),
    sqlite_autoincrement=True,
)
refund_attempts = sa.Table(
    "refund_attempts",
    metadata,
    sa.Column("request", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # Unique as the primary key is, since it is written from it: an index of its own would say the same in other words.
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("sends", sa.Text, nullable=False),
    sa.Column("absent", sa.Boolean, nullable=False),
    sa.Column("looks", sa.Text, nullable=False),
    sa.CheckConstraint("idempotency_key = request || '.' || number", name="key"),
)
breaks = sa.Table(
    "breaks",
    metadata,
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, primary_key=True),
    sa.Column("refund", sa.Text, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
)
