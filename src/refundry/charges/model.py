"""A charge as we last saw it. All amounts are minor units of its currency, all times epoch seconds UTC."""

from __future__ import annotations

from dataclasses import dataclass, field

from refundry.gateways.base import SeenDispute
from refundry.kernel.outcome import SeenRefund

REQUEST_ID = "refundry_request_id"
TICKET_ID = "ticket_id"


@dataclass(frozen=True, slots=True)
class Charge:
    """Our mirror.

    Args:
        account: `acct_…|test` or `acct_…|live`.
        captured_minor: What the customer paid; zero while it is only authorised.
        refunded_minor: What Stripe's own sum says was refunded.
        looked_at: When the read of this state began; `None` if it was only seen in a list without its refunds.
        stale: Whether an event or one of our own writes came since: the next payment looks again.
        refunds: All refunds that Stripe has shown us, whoever made them.
    """

    id: str
    account: str
    payment_intent: str | None
    order_id: str | None
    currency: str
    amount_minor: int
    captured_minor: int
    refunded_minor: int
    status: str
    captured: bool
    disputed: bool
    created_at: float
    looked_at: float | None
    stale: bool = False
    destination: str | None = None
    application_fee: bool = False
    refunds: tuple[SeenRefund, ...] = ()
    disputes: tuple[SeenDispute, ...] = field(default=())

    @property
    def given_back_minor(self) -> int:
        """Tell what has been given back, by the refunds that we know: those that failed or were canceled came back."""
        return sum(refund.amount_minor for refund in self.refunds if not refund.over)

    @property
    def unrefunded_minor(self) -> int:
        """Tell what Stripe would still refund: captured less the larger of its own sum and ours."""
        return self.captured_minor - max(self.given_back_minor, self._stripes_sum)

    @property
    def _stripes_sum(self) -> int:
        # Stripe's sum may still count failed refunds (stripe-facts 14); then our own list knows better.
        everything = sum(refund.amount_minor for refund in self.refunds)
        return self.given_back_minor if self.refunded_minor == everything else self.refunded_minor
