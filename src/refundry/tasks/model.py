"""An open task for a person. Amounts are minor units of its currency, times epoch seconds UTC."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum

from refundry.kernel.errors import RefundryError, UsageError

# Drawn once, for ever: the same cause is the same task.
TASKS = uuid.UUID("2b0d8f5e-7a53-5c1e-9d55-6a2f3c4e8b07")
DAY = 86_400.0


class TaskUnknown(UsageError):  # noqa: N818  # read in a sentence
    """There is no such task."""

    code = "task_unknown"


class TaskForbids(RefundryError):  # noqa: N818
    """The task does not allow what was chosen: `task_resolved`, `refund_not_over`, `too_early`, `refunds_not_shown`, `second_person_needed`, `look_overtaken`."""

    code = "task_resolved"


class TaskChoiceWrong(UsageError):  # noqa: N818  # read in a sentence
    """What was chosen is not for such a task, or lacks its note or its refund (`task_note_missing`, `task_refund_missing`)."""

    code = "task_option_wrong"


class Kind(StrEnum):
    """What it is about."""

    REFUND_FAILED = "refund_failed"
    REFUND_CANCELED = "refund_canceled"
    REQUIRES_ACTION = "requires_action"
    DOUBLE_LOSS = "double_loss"
    UNKNOWN_REFUNDRY = "unknown_refundry"
    PAID_TWICE = "paid_twice"
    PAID_AFTER_ALL = "paid_after_all"
    OUTCOME_UNKNOWN = "outcome_unknown"


class How(StrEnum):
    """How it was resolved; all but `over` are a person's choice, and `over` says that its cause has gone."""

    PAID_OTHERWISE = "paid_otherwise"
    REPLACE = "replace"
    GIVE_UP = "give_up"
    CANCEL = "cancel"
    NOTED = "noted"
    PAID_BY = "paid_by"
    NOT_PAID = "not_paid"
    OVER = "over"


OPTIONS: dict[Kind, tuple[How, ...]] = {
    Kind.REFUND_FAILED: (How.PAID_OTHERWISE, How.REPLACE, How.GIVE_UP),
    Kind.REFUND_CANCELED: (How.PAID_OTHERWISE, How.REPLACE, How.GIVE_UP),
    # Not paid otherwise: until it is canceled its customer may still take it, and would be paid twice.
    Kind.REQUIRES_ACTION: (How.CANCEL, How.GIVE_UP),
    Kind.DOUBLE_LOSS: (How.NOTED,),
    Kind.UNKNOWN_REFUNDRY: (How.NOTED,),
    Kind.PAID_TWICE: (How.NOTED,),
    Kind.PAID_AFTER_ALL: (How.NOTED,),
    Kind.OUTCOME_UNKNOWN: (How.PAID_BY, How.NOT_PAID),
}
# What nobody could understand later without a word.
NOTE_NEEDED = frozenset({How.PAID_OTHERWISE, How.NOTED, How.NOT_PAID})
# After so long a task is overdue: a customer waits for the money, or a loss can still be told to somebody.
PATIENCE: dict[Kind, float] = {
    Kind.REFUND_FAILED: 2 * DAY,
    Kind.REFUND_CANCELED: 2 * DAY,
    Kind.REQUIRES_ACTION: 30 * DAY,
    Kind.DOUBLE_LOSS: 7 * DAY,
    Kind.UNKNOWN_REFUNDRY: DAY,
    Kind.PAID_TWICE: DAY,
    Kind.PAID_AFTER_ALL: DAY,
    Kind.OUTCOME_UNKNOWN: 2 * DAY,
}
# Longer than banks take to decide a dispute. Until then nothing can be done about a refund that failed because of one.
DISPUTE_PATIENCE = 90 * DAY


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    Args:
        id: Derived from its kind, account and subject.
        account: `acct_…|test`.
        request: The refund request that it is about, if it is about one.
        refund: Stripe's refund.
        text: What happened and what to do, for a support agent.
        opened_at: By the database's clock.
        due_at: When it is overdue.
        resolved_by: `person:ada`, or `system:refundry`.
        note: What that person wrote.
        replacement: The request that replaces the failed one.
        first_by: Who has chosen first what a second person has to confirm, as `person:ada`; `first_at` is when.
    """

    id: str
    account: str
    kind: Kind
    request: str | None
    refund: str | None
    charge: str
    amount_minor: int
    currency: str
    text: str
    opened_at: float
    due_at: float
    resolved_at: float | None = None
    resolved_by: str | None = None
    how: How | None = None
    note: str = ""
    replacement: str | None = None
    first_by: str | None = None
    first_at: float | None = None

    @property
    def options(self) -> tuple[How, ...]:
        """Tell what a person may choose; nothing, once it is resolved."""
        return OPTIONS[self.kind] if self.resolved_at is None else ()


def task_id(kind: Kind, account: str, subject: str) -> str:
    """Derive a task's id from what it is about."""
    return str(uuid.uuid5(TASKS, f"{kind}|{account}|{subject}"))
