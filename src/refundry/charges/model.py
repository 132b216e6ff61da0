"""A charge as we last saw it. All amounts are minor units of its currency, all times epoch seconds UTC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from refundry.gateways.base import SeenDispute
from refundry.kernel.money import Money
from refundry.kernel.outcome import SeenRefund

REQUEST_ID = "refundry_request_id"
TICKET_ID = "ticket_id"


class Origin(StrEnum):
    """Who made a refund of Stripe's.

    `ours` carries the id of a request of ours, or was made under its idempotency key. `unknown_refundry` does too, and there is no such
    request here: another installation made it, or a database was lost. `external` was made in Stripe's Dashboard or by another program.
    """

    OURS = "ours"
    EXTERNAL = "external"
    UNKNOWN_REFUNDRY = "unknown_refundry"


@dataclass(frozen=True, slots=True)
class KnownRefund:
    """A refund of Stripe's as we keep it.

    Args:
        refund: As it was last seen.
        origin: Who made it.
        seen_at: When the read that showed it began, or its answer was kept, by the database's clock.
    """

    refund: SeenRefund
    origin: Origin
    seen_at: float


@dataclass(frozen=True, slots=True)
class LastLook:
    """How and when a charge was last seen: what tells whether it has to be looked at again.

    Args:
        charge: Its id.
        status: Stripe's.
        created_at: When the charge was created at Stripe.
        looked_at: When the look began, by the database's clock; `None`, if it does not count any more.
        stale: Whether the charge has changed at Stripe since.
    """

    charge: str
    status: str
    created_at: float
    looked_at: float | None
    stale: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """What a charge was like when its refund was planned, as far as the plan rests on it; our own refunds are reserved, not expected.

    Args:
        status: Stripe's.
        captured_minor: What the customer paid.
        given_back_minor: What others have given back, without what came back to us.
        disputes: Each dispute's id and status.
    """

    status: str
    captured_minor: int
    given_back_minor: int
    disputes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """Our mirror.

    Args:
        account: `acct_…|test` or `acct_…|live`.
        captured_minor: What the customer paid; zero while it is only authorised.
        refunded_minor: What Stripe's own sum says was refunded.
        fee_minor: What Stripe kept for processing it, in `fee_currency`; `None` where that was not asked for or is not known yet.
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
    fee_minor: int | None = None
    fee_currency: str | None = None

    @property
    def expected(self) -> Expected:
        """Tell what a plan that is made now rests on."""
        others = sum(r.amount_minor for r in self.refunds if not r.over and REQUEST_ID not in r.metadata)
        disputes = tuple(sorted((d.id, d.status) for d in self.disputes))
        return Expected(self.status, self.captured_minor, others, disputes)

    def changes(self, since: Expected) -> Iterator[str]:
        """Tell in words what is different by now from what was expected; nothing, if all is as it was."""
        now = self.expected
        if now.status != since.status:
            yield f"its status was {since.status} and is {now.status}"
        if now.captured_minor != since.captured_minor:
            was, is_ = Money(since.captured_minor, self.currency), Money(now.captured_minor, self.currency)
            yield f"{was} was captured and {is_} is"
        if now.given_back_minor != since.given_back_minor:
            was, is_ = Money(since.given_back_minor, self.currency), Money(now.given_back_minor, self.currency)
            yield f"others had given back {was} and have given back {is_}"
        before = dict(since.disputes)
        for dispute, status in now.disputes:
            if before.get(dispute) != status:
                yield f"dispute {dispute} is {status}"

    @property
    def given_back_minor(self) -> int:
        """Tell what has been given back, by the refunds that we know: those that failed or were canceled came back."""
        return sum(refund.amount_minor for refund in self.refunds if not refund.over)

    @property
    def unrefunded_minor(self) -> int:
        """Tell what Stripe would still refund: captured less the larger of its own sum and ours."""
        return self.captured_minor - max(self.given_back_minor, self._stripes_sum)

    @property
    def not_shown_minor(self) -> int:
        """Tell what Stripe's own sum counts as given back beyond all refunds that it has shown; zero or less, if those explain it.

        What a failed refund does to that sum is not documented, nor what the part does that was never captured (stripe-facts 14): both
        may be in it.
        """
        everything = sum(refund.amount_minor for refund in self.refunds)
        never_captured = self.amount_minor - self.captured_minor if self.captured else 0
        return self.refunded_minor - everything - never_captured

    @property
    def returned_minor(self) -> int:
        """Tell what of the captured amount was given back, as far as is known by now.

        Stripe's sum is as old as the last look: once something has changed since, as when a refund has failed, only the refunds
        themselves tell.
        """
        returned = self.given_back_minor if self.stale else self.captured_minor - self.unrefunded_minor
        return min(max(returned, 0), self.captured_minor)

    @property
    def _stripes_sum(self) -> int:
        # Stripe's sum may still count failed refunds (stripe-facts 14); then our own list knows better.
        everything = sum(refund.amount_minor for refund in self.refunds)
        return self.given_back_minor if self.refunded_minor == everything else self.refunded_minor
