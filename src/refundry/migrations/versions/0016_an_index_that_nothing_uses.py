"""One index less: no statement looks for charges by the time of their creation.

Each look at a charge, and each refund, wrote an entry of it on Postgres.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    # Whoever runs the database may have dropped it already.
    op.drop_index("ix_charges_created", "charges", if_exists=True)
