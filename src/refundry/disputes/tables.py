"""Disputes and early fraud warnings."""

import sqlalchemy as sa

from refundry.infra.db import metadata

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Index("ix_disputes_charge", "charge"),
    sa.Index("ix_disputes_account_phase", "account", "phase", "seen_at"),
)
fraud_warnings = sa.Table(
    "fraud_warnings",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("fraud_type", sa.Text, nullable=False),
    sa.Column("actionable", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("ix_fraud_warnings_charge", "charge"),
    sa.Index("ix_fraud_warnings_account", "account", "created_at"),
)
