"""Watermarks."""

import sqlalchemy as sa

from refundry.infra.db import metadata

follow_marks = sa.Table(
    "follow_marks",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("feed", sa.Text, primary_key=True),
    sa.Column("mark", sa.Double),
    sa.Column("tried_at", sa.Double, nullable=False),
    # Days since 1970, and the calls of that day.
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("reads", sa.Integer, nullable=False),
    # Which process applies the events of an account, and until when: two would read everything twice.
    sa.Column("holder", sa.Text),
    sa.Column("held_until", sa.Double, nullable=False),
)
