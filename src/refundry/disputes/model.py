"""A dispute as we keep it. Amounts are minor units of its currency, times epoch seconds UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a dispute stands, as far as refunds are concerned (stripe-facts 6).

    An inquiry has taken nothing yet; a chargeback has taken its amount at once. What is won came back, what is lost did not; what is
    closed never took anything.
    """

    INQUIRY = "inquiry"
    CHARGEBACK = "chargeback"
    WON = "won"
    LOST = "lost"
    CLOSED = "closed"


OPEN = frozenset({Phase.INQUIRY, Phase.CHARGEBACK})
# With these statuses of Stripe's nobody has answered the bank yet (stripe-facts 6).
UNANSWERED = frozenset({"warning_needs_response", "needs_response", "appeal_needs_response"})
# A dispute whose evidence is due within this time, in seconds, is due soon: a weekend, and a day to find the papers.
DUE_SOON = 3 * 86_400.0
# With these the bank has the money.
TAKEN = frozenset({Phase.CHARGEBACK, Phase.LOST})


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute.

    Args:
        id: `du_…`, older ones `dp_…`.
        account: `acct_…|test`.
        status: Stripe's.
        phase: What that means here.
        amount_minor: What the bank asks back; it may be more or less than the charge.
        reason: Stripe's.
        opened_at: By Stripe's clock.
        due_at: Until when evidence is taken.
        seen_at: When the look that showed it began, by the database's clock.
    """

    id: str
    account: str
    charge: str
    status: str
    phase: Phase
    amount_minor: int
    currency: str
    reason: str
    opened_at: float
    due_at: float | None
    seen_at: float


@dataclass(frozen=True, slots=True)
class FraudWarning:
    """An early fraud warning: a bank's report, most often ahead of a dispute. It is shown, and decides nothing.

    Args:
        id: `issfr_…`.
        account: `acct_…|test`.
        actionable: Whether there was no dispute yet and something left to refund, when it was seen.
        created_at: By Stripe's clock.
    """

    id: str
    account: str
    charge: str
    fraud_type: str
    actionable: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class Loss:
    """What has left the account twice for one charge: refunds and chargebacks together beyond what was captured.

    Args:
        amount_minor: How much beyond; zero, if nothing.
        refunded_minor: What refunds have given back and did not come back.
        taken_minor: What chargebacks have taken.
    """

    amount_minor: int
    refunded_minor: int
    taken_minor: int
