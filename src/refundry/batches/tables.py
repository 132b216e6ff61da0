"""Batches and their rows."""

import sqlalchemy as sa

from refundry.infra.db import metadata

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("row_count", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("ix_batches_account", "account", "created_at"),
)
batch_rows = sa.Table(
    "batch_rows",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("wanted", sa.Text),
    # Whether its charge was looked up: a row is planned once.
    sa.Column("planned", sa.Boolean, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("request", sa.Text),
    sa.Column("currency", sa.Text),
    sa.Column("asked_minor", sa.BigInteger),
    sa.Index("ix_batch_rows_planned", "batch", "planned", "number"),
    sa.Index("ix_batch_rows_request", "request"),
)
