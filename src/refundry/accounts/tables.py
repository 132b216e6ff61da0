"""The accounts that this database belongs to."""

import sqlalchemy as sa

from refundry.infra.db import metadata

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("stripe_id", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("held_text", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", sa.Double, nullable=False),
)
