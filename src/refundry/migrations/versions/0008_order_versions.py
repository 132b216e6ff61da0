"""The versions of what was told of an order are times in milliseconds, which Postgres needs eight bytes for."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    # SQLite's integers are as long as they have to be.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(
            "outbox_keys", "version", type_=sa.BigInteger(), existing_server_default="0", existing_nullable=False
        )
