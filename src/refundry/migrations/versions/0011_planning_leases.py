"""Of several processes one looks up the rows of a batch, and the others leave them to it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("batches", sa.Column("planning_lease", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("planning_until", sa.Double(), server_default="0", nullable=False))
