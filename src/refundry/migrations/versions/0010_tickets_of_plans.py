"""A plan tells two rows for one ticket and charge apart, also where they name the charge in two ways."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("plan_rows", sa.Column("ticket_id", sa.Text(), nullable=True))
