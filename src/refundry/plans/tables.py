"""Plans and their rows."""

import sqlalchemy as sa

from refundry.infra.db import metadata

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
    sa.Column("look_max_age", sa.Double, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("forecast", sa.Text, nullable=False),
    sa.Index("ix_plans_batch", "batch"),
)
plan_rows = sa.Table(
    "plan_rows",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("request", sa.Text),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("charge", sa.Text),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text),
    sa.Column("expected", sa.Text),
    sa.Column("allow_repeat", sa.Boolean, nullable=False),
    sa.Column("allowed", sa.Text, nullable=False, server_default="[]"),
    sa.Column("fee_minor", sa.BigInteger),
    sa.Column("fee_currency", sa.Text),
    sa.Column("ticket_id", sa.Text),
    sa.Index("ix_plan_rows_charge", "plan", "charge"),
    sa.Index("ix_plan_rows_request", "plan", "request"),
)
