"""Tasks."""

import sqlalchemy as sa

from refundry.infra.db import metadata

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("request", sa.Text),
    sa.Column("refund", sa.Text),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("resolved_at", sa.Double),
    sa.Column("resolved_by", sa.Text),
    sa.Column("how", sa.Text),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("replacement", sa.Text),
    sa.Column("first_by", sa.Text),
    sa.Column("first_at", sa.Double),
    sa.Index(
        "ix_tasks_open",
        "account",
        "opened_at",
        sqlite_where=sa.text("resolved_at IS NULL"),
        postgresql_where=sa.text("resolved_at IS NULL"),
    ),
    sa.Index("ix_tasks_account", "account", "opened_at"),
)
