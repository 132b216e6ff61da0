"""What a person has allowed as no repeat is kept by the ids that were there; that something was allowed, without them, is forgotten.

And rows that Stripe had declined stand as those that are counted as failed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    # Nobody knows any more what was seen then: it is named and asked for anew, rather than everything let past.
    op.drop_column("refund_requests", "allow_repeat")
    op.add_column("refund_requests", sa.Column("allowed", sa.Text(), server_default="[]", nullable=False))
    # The flag of a plan's row stays, since it is in the plan's hash.
    op.add_column("plan_rows", sa.Column("allowed", sa.Text(), server_default="[]", nullable=False))
    # Those that Stripe had declined are told from others that are over, since they are counted as failed: 3 is `Turn.FAILED`, 2 `Turn.OVER`.
    op.execute(
        "UPDATE batch_rows SET released = 3 WHERE released = 2 AND EXISTS "
        "(SELECT 1 FROM refund_requests WHERE refund_requests.id = batch_rows.request AND refund_requests.state = 'declined')"
    )
