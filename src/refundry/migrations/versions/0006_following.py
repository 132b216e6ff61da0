"""Following the money: tasks, disputes, watermarks, and who made a refund."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("stripe_refunds", sa.Column("origin", sa.Text(), nullable=False, server_default="external"))
    op.add_column("stripe_refunds", sa.Column("action_until", sa.Double(), nullable=True))
    known = "SELECT 1 FROM refund_requests WHERE refund_requests.id = stripe_refunds.request"
    op.execute("UPDATE stripe_refunds SET origin = 'unknown_refundry' WHERE request IS NOT NULL")
    op.execute(f"UPDATE stripe_refunds SET origin = 'ours' WHERE EXISTS ({known})")  # noqa: S608  # constants
    still_open = sa.text("status IN ('pending', 'requires_action')")
    op.create_index(
        "ix_stripe_refunds_open",
        "stripe_refunds",
        ["account", "seen_at"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_table(
        "disputes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disputes")),
    )
    op.create_index("ix_disputes_charge", "disputes", ["charge"])
    op.create_index("ix_disputes_account_phase", "disputes", ["account", "phase", "seen_at"])
    op.create_table(
        "fraud_warnings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.Column("fraud_type", sa.Text(), nullable=False),
        sa.Column("actionable", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fraud_warnings")),
    )
    op.create_index("ix_fraud_warnings_charge", "fraud_warnings", ["charge"])
    op.create_index("ix_fraud_warnings_account", "fraud_warnings", ["account", "created_at"])
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("refund", sa.Text(), nullable=True),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("resolved_at", sa.Double(), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("how", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("replacement", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    unresolved = sa.text("resolved_at IS NULL")
    op.create_index(
        "ix_tasks_open", "tasks", ["account", "opened_at"], sqlite_where=unresolved, postgresql_where=unresolved
    )
    op.create_index("ix_tasks_account", "tasks", ["account", "opened_at"])
    op.create_table(
        "follow_marks",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("mark", sa.Double(), nullable=True),
        sa.Column("tried_at", sa.Double(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("reads", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("held_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("account", "feed", name=op.f("pk_follow_marks")),
    )
