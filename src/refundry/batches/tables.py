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
    sa.Column("plan", sa.Text),
    # When its rows may be paid, if not at once; and how far that has come.
    sa.Column("schedule", sa.Text),
    sa.Column("course", sa.Text),
    # Who looks its rows up, and until when nobody else does.
    sa.Column("planning_lease", sa.Text),
    sa.Column("planning_until", sa.Double, nullable=False, server_default="0"),
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
    # In a batch with a schedule: whether its turn has come, see `Turn`.
    sa.Column("released", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_batch_rows_planned", "batch", "planned", "number"),
    sa.Index("ix_batch_rows_request", "request"),
    # Those that a schedule has let go and that are not over: few, however large the batch.
    sa.Index(
        "ix_batch_rows_released",
        "batch",
        "number",
        sqlite_where=sa.text("released = 1"),
        postgresql_where=sa.text("released = 1"),
    ),
)
# What a batch with a schedule has spent, by currency. Whoever is about to send for it holds its row, so that they take turns.
batch_budgets = sa.Table(
    "batch_budgets",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("currency", sa.Text, primary_key=True),
    # The day that `sent_minor` is of, by the schedule's calendar.
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("sent_minor", sa.BigInteger, nullable=False),
    # All that was ever sent less what came back unsent; and where it must stop, by the balance that was read last.
    sa.Column("spent_minor", sa.BigInteger, nullable=False),
    sa.Column("ceiling_minor", sa.BigInteger),
    sa.Column("read_at", sa.Double, nullable=False),
)
