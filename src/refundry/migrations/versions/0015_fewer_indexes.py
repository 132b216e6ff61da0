"""Two indexes less: nothing was ever looked for by one, and the other said again what the primary key says.

Their entries stand in random order, so that each refund read and wrote two more pages of a large file.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    # Whoever runs the database may have dropped it already, as one that nothing ever uses.
    op.drop_index("ix_stripe_refunds_request", "stripe_refunds", if_exists=True)
    with op.batch_alter_table("refund_attempts") as batch_op:
        batch_op.drop_constraint("uq_refund_attempts_idempotency_key", type_="unique")
        # What made it unique, said by the database itself: one key for each request and number.
        batch_op.create_check_constraint("key", "idempotency_key = request || '.' || number")
