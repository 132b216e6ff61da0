"""The mirror of charges and of Stripe's refunds."""

import sqlalchemy as sa

from refundry.infra.db import metadata

charges = sa.Table(
    "charges",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("payment_intent", sa.Text),
    sa.Column("order_id", sa.Text),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("captured_minor", sa.BigInteger, nullable=False),
    sa.Column("refunded_minor", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("captured", sa.Boolean, nullable=False),
    sa.Column("disputed", sa.Boolean, nullable=False),
    sa.Column("disputes", sa.Text, nullable=False),
    sa.Column("destination", sa.Text),
    sa.Column("application_fee", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("fee_minor", sa.BigInteger),
    sa.Column("fee_currency", sa.Text),
    sa.Column("looked_at", sa.Double),
    # When we last wrote to the charge at Stripe, or an event came: a look that began earlier is dropped, one is needed anew.
    sa.Column("touched_at", sa.Double, nullable=False, server_default="0"),
    sa.Index("ix_charges_order", "account", "order_id"),
    sa.Index("ix_charges_payment_intent", "account", "payment_intent"),
)
stripe_refunds = sa.Table(
    "stripe_refunds",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    # The refund request whose id it carries, whether or not we have that request.
    sa.Column("request", sa.Text),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("failure_reason", sa.Text),
    sa.Column("pending_reason", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    # Who made it, see `model.Origin`.
    sa.Column("origin", sa.Text, nullable=False, server_default="external"),
    sa.Column("action_until", sa.Double),
    sa.Index("ix_stripe_refunds_charge", "charge"),
    sa.Index("ix_stripe_refunds_created", "account", "created_at"),
    # The few that may still change are looked for again and again.
    sa.Index(
        "ix_stripe_refunds_open",
        "account",
        "seen_at",
        sqlite_where=sa.text("status IN ('pending', 'requires_action')"),
        postgresql_where=sa.text("status IN ('pending', 'requires_action')"),
    ),
)
# How far the list of charges has been read: what was created in this window is mirrored. `account` is `acct_…|test|order_id`, with the key of
# the metadata that names the order: under another key the same charges have other orders.
charge_windows = sa.Table(
    "charge_windows",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
