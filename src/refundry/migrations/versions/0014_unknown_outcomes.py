"""What became of a request of unknown outcome is a task for people, and what a second one has to confirm is kept with it.

Those that are unknown already get theirs.
"""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# As `tasks.model.TASKS`, which must never change.
TASKS = uuid.UUID("2b0d8f5e-7a53-5c1e-9d55-6a2f3c4e8b07")
TWO_DAYS = 172_800.0
TEXT = (
    "It was sent, and nobody can say whether it was paid: {why}. Look at the payment in Stripe. If its refund is there, name it (paid_by, with "
    "--refund re_…). If there is none, say so (not_paid), 25 hours after the last send at the earliest, and have a second person say so too: "
    "then it may be tried again"
)


def upgrade() -> None:
    """Go to this version."""
    op.add_column("tasks", sa.Column("first_by", sa.Text()))
    op.add_column("tasks", sa.Column("first_at", sa.Double()))
    connection = op.get_bind()
    unknown = connection.execute(
        sa.text(
            "SELECT id, account, attempt, charge, amount_minor, currency, reason_text, changed_at FROM refund_requests "
            "WHERE state = 'outcome_unknown' ORDER BY sequence"
        )
    ).all()
    for request in unknown:
        connection.execute(
            sa.text(
                "INSERT INTO tasks (id, account, kind, request, charge, amount_minor, currency, text, opened_at, due_at, note) VALUES "
                "(:id, :account, 'outcome_unknown', :request, :charge, :amount, :currency, :text, :opened, :due, '')"
            ),
            {
                "id": str(uuid.uuid5(TASKS, f"outcome_unknown|{request.account}|{request.id}.{request.attempt}")),
                "account": request.account, "request": request.id, "charge": request.charge, "amount": request.amount_minor,
                "currency": request.currency, "text": TEXT.format(why=request.reason_text), "opened": request.changed_at,
                "due": request.changed_at + TWO_DAYS,
            },
        )  # fmt: skip
