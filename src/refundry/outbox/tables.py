"""The outbox's tables."""

import sqlalchemy as sa

from refundry.infra.db import metadata
from refundry.outbox.model import OPEN, DeliveryState

_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_waiting = sa.text(f"state = '{DeliveryState.WAITING.value}'")
_open = sa.text("state IN ({})".format(", ".join(f"'{state.value}'" for state in OPEN)))
outbox_messages = sa.Table(
    "outbox_messages",
    metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("order_id", sa.Text),
    sa.Column("ordering_key", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("uq_outbox_messages_id", "id", unique=True),
    sa.Index("ix_outbox_messages_order", "account", "order_id"),
)
outbox_deliveries = sa.Table(
    "outbox_deliveries",
    metadata,
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("number", _number, primary_key=True, autoincrement=False),
    sa.Column("ordering_key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("told", sa.Text, nullable=False),
    sa.Column("delivered_at", sa.Double),
    sa.Column("lease", sa.Text),
    sa.Column("leased_until", sa.Double, nullable=False),
    # What is due, and what keeps later ones of its key waiting: small, since what is delivered is in neither.
    sa.Index(
        "ix_outbox_deliveries_due", "target", "due_at", "number", sqlite_where=_waiting, postgresql_where=_waiting
    ),
    sa.Index(
        "ix_outbox_deliveries_open", "target", "ordering_key", "number", sqlite_where=_open, postgresql_where=_open
    ),
    # Deleting goes by number, over all targets.
    sa.Index("ix_outbox_deliveries_number", "number"),
)
# A row for each ordering key: writers take turns on it, so that the numbers of its messages are in the order of their commits.
outbox_keys = sa.Table(
    "outbox_keys",
    metadata,
    sa.Column("ordering_key", sa.Text, primary_key=True),
    # What was last told of the order: its status and amounts, and the version of the message that said so.
    sa.Column("told", sa.Text, nullable=False, server_default=""),
    sa.Column("version", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, server_default="0"),
)
