"""The port to a payment processor, in our own types. Reads raise `GatewayError`; sending a refund answers an `Outcome`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from refundry.kernel.errors import RefundryError
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome, SeenRefund

# Stripe's code where `Stripe-Account` names an account that the key is not connected to, or not any more (stripe-facts 3.2).
NOT_CONNECTED = "account_invalid"


class Trouble(StrEnum):
    """What kept a read from answering."""

    NOT_FOUND = "not_found"
    KEY_REFUSED = "key_refused"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class GatewayError(RefundryError):
    """A read that got no answer, or a no.

    Args:
        trouble: Which kind.
        message: For a person.
        stripe_code: Stripe's own code, if it gave one.
        permission: The permission that is missing, as Stripe names it; empty, if it named none.
    """

    code = "stripe_read_failed"

    def __init__(self, trouble: Trouble, message: str, *, stripe_code: str | None = None, permission: str = "") -> None:
        """Keep the parts; the code is `stripe_` and the trouble."""
        super().__init__(message, code=f"stripe_{trouble}")
        self.trouble = trouble
        self.stripe_code = stripe_code
        self.permission = permission

    @property
    def passing(self) -> bool:
        """Tell whether asking again later may help without a person."""
        return self.trouble in {Trouble.RATE_LIMITED, Trouble.UNREACHABLE}

    @property
    def shut_out(self) -> bool:
        """Tell whether nothing of the account can be read, whatever is asked for: its key is refused, or not connected to it."""
        return self.trouble is Trouble.KEY_REFUSED or self.stripe_code == NOT_CONNECTED


@dataclass(frozen=True, slots=True)
class SeenAccount:
    """The account that a key opens."""

    id: str
    livemode: bool
    country: str | None = None
    default_currency: str | None = None


class Right(StrEnum):
    """What a restricted key may be allowed to do, as far as we need it; the values are stable."""

    ACCOUNT_READ = "account_read"
    CHARGE_READ = "charge_read"
    REFUND_READ = "refund_read"
    REFUND_WRITE = "refund_write"
    DISPUTE_READ = "dispute_read"
    PAYMENT_INTENT_READ = "payment_intent_read"
    PAYMENT_INTENT_WRITE = "payment_intent_write"
    BALANCE_READ = "balance_read"
    BALANCE_TRANSACTION_READ = "balance_transaction_source_read"
    EVENT_READ = "event_read"
    RADAR_READ = "radar_read"
    WEBHOOK_READ = "webhook_read"


@dataclass(frozen=True, slots=True)
class SeenEndpoint:
    """A webhook endpoint of the account: where Stripe sends which events.

    Args:
        events: Their types; `*` stands for all.
        api_version: The version that its events are written in; `None` for the account's default.
    """

    id: str
    url: str
    enabled: bool
    api_version: str | None
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """A webhook endpoint that was just made, and its secret, which Stripe's API tells this once."""

    endpoint: SeenEndpoint
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event as Stripe told it, by webhook or in its list of events (stripe-facts 5.1).

    Args:
        id: `evt_…`.
        type: `refund.updated`, ….
        account: The connected account that it tells of; `None` for the endpoint's own.
        livemode: Whether it tells of real money.
        created_at: When it was made, in epoch seconds UTC; whole seconds, and no order to trust.
        object_id: What it is about: a refund, a charge, a dispute, ….
        charge: The charge that it is about.
        refund: The refund that it is about.
        payment_intent: The payment intent that it is about.
        request: What its metadata name as our refund request.
        status: The object's status, at that time.
        amount_minor: Of a refund or a dispute its amount, of a charge what was refunded of it, at that time.
        idempotency_key: The key of the call that caused it.
        trouble: Why what it is about cannot be read; empty, if it can.
        raw: Its body.
    """

    id: str
    type: str
    account: str | None
    livemode: bool
    created_at: float
    object_id: str | None
    charge: str | None
    refund: str | None
    payment_intent: str | None
    request: str | None
    status: str | None
    amount_minor: int | None
    idempotency_key: str | None
    trouble: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class SeenDispute:
    """A dispute as Stripe showed it (stripe-facts 6). What follows `refundable` is for people, and tells no two apart.

    Args:
        status: Stripe's.
        amount_minor: What the bank asks back, in minor units of `currency`; it may be more or less than the charge.
        refundable: Its `is_charge_refundable`.
        reason: Stripe's.
        created_at: When it was opened, in epoch seconds UTC.
        due_at: Until when evidence is taken; `None` once it is not.
    """

    id: str
    status: str
    amount_minor: int
    refundable: bool
    currency: str = field(default="", compare=False)
    reason: str = field(default="", compare=False)
    created_at: float = field(default=0.0, compare=False)
    due_at: float | None = field(default=None, compare=False)

    @property
    def inquiry(self) -> bool:
        """Tell whether it is an open inquiry: not yet a chargeback."""
        return self.status in {"warning_needs_response", "warning_under_review"}

    @property
    def over(self) -> bool:
        """Tell whether it has ended, whichever way."""
        return self.status in {"won", "lost", "warning_closed", "prevented"}


@dataclass(frozen=True, slots=True)
class SeenWarning:
    """An early fraud warning as Stripe showed it; `actionable` while there is no dispute and something is left to refund (stripe-facts 6)."""

    id: str
    charge: str
    fraud_type: str
    actionable: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class SeenCharge:
    """A charge as Stripe showed it; amounts in minor units of `currency`, times in epoch seconds UTC.

    Args:
        fee_minor: What Stripe kept for processing it, in minor units of `fee_currency`, where its balance transaction was asked for.
    """

    id: str
    payment_intent: str | None
    currency: str
    amount_minor: int
    captured_minor: int
    refunded_minor: int
    status: str
    captured: bool
    disputed: bool
    livemode: bool
    created_at: float
    destination: str | None = None
    application_fee: bool = False
    fee_minor: int | None = None
    fee_currency: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """A charge with all its refunds (every page) and its disputes.

    Args:
        began_at: When the first of its reads was sent, by our clock, in epoch seconds: what changed later may be missing.
    """

    charge: SeenCharge
    refunds: tuple[SeenRefund, ...]
    disputes: tuple[SeenDispute, ...]
    began_at: float

    @property
    def explained(self) -> bool:
        """Tell whether the listed refunds add up to what the charge says was refunded."""
        alive = sum(refund.amount_minor for refund in self.refunds if not refund.over)
        everything = sum(refund.amount_minor for refund in self.refunds)
        # What a failed refund does to `amount_refunded` is not documented (stripe-facts 14): either sum explains it.
        return self.charge.refunded_minor in {alive, everything}


@dataclass(frozen=True, slots=True)
class RefundBody:
    """The exact parameters of `POST /v1/refunds`.

    They are a pure function of the request's content, so that two installations send the same bytes.
    """

    charge: str
    amount_minor: int
    reason: str
    metadata: dict[str, str]
    refund_application_fee: bool | None = None
    reverse_transfer: bool | None = None


class PaymentGateway(Protocol):
    """What Refundry needs from a payment processor. One gateway speaks for one account in one mode.

    Every method raises `GatewayError`, but for `send`, whose every ending is an `Outcome`.
    """

    async def account(self) -> SeenAccount:
        """Tell whose key this is."""
        ...

    async def look(self, charge: str, lane: Lane, *, fees: bool = False) -> Look:
        """Read a charge, all its refunds and its disputes, and with `fees` what Stripe kept for it."""
        ...

    async def charge_of(self, payment_intent: str, lane: Lane) -> str | None:
        """Tell the latest charge of a payment intent; `None`, if it has none."""
        ...

    def charges(self, since: float, until: float, *, fees: bool = False) -> AsyncIterator[Sequence[Look]]:
        """List the charges that were created in a time window (epoch seconds, both ends included), page by page, newest first."""
        ...

    async def charges_of_order(self, order_id: str, lane: Lane) -> Sequence[SeenCharge]:
        """Search for charges whose metadata name an order; up to a minute behind."""
        ...

    async def refund(self, refund: str, lane: Lane) -> SeenRefund:
        """Read one refund."""
        ...

    def events(
        self, since: float, until: float, *, types: Sequence[str], only_failed: bool = False
    ) -> AsyncIterator[Sequence[SeenEvent]]:
        """List the events of some types that were made in a time window (epoch seconds, both ends included), page by page, newest first.

        With `only_failed` those that some webhook endpoint was not told of, or not yet. The processor keeps them for 30 days.
        """
        ...

    def refunds(self, since: float, until: float, lane: Lane) -> AsyncIterator[Sequence[SeenRefund]]:
        """List the refunds that were created in a time window (epoch seconds, both ends included), page by page, newest first.

        Those that give back no charge are left out.
        """
        ...

    async def fraud_warnings(self, charge: str, lane: Lane) -> Sequence[SeenWarning]:
        """List the early fraud warnings of a charge."""
        ...

    async def balance(self) -> dict[str, int]:
        """Tell what is available, in minor units per currency; what was refunded lately may still be in it, see `leaving_since`."""
        ...

    async def leaving_since(self) -> float:
        """Tell since when refunds were made whose money is still shown as available, though it cannot be spent any more; epoch seconds UTC."""
        ...

    async def ask(self, right: Right) -> None:
        """Ask for a right of the key by a call that has no effect; `FORBIDDEN` says that it is missing."""
        ...

    async def endpoints(self) -> Sequence[SeenEndpoint]:
        """List the account's webhook endpoints."""
        ...

    async def register_endpoint(self, url: str, events: Sequence[str], *, connect: bool, key: str) -> NewEndpoint:
        """Make a webhook endpoint for some types of events, in the version that is spoken here.

        Args:
            url: Where to.
            events: Their types.
            connect: Whether it tells of the accounts that are connected to this one, instead of this one.
            key: Makes one endpoint of it, however often it is sent.
        """
        ...

    async def delete_endpoint(self, endpoint: str) -> None:
        """Delete a webhook endpoint: nothing is sent to it any more."""
        ...

    async def send(self, body: RefundBody, key: str) -> Outcome:
        """Send a refund attempt under its idempotency key. The caller has taken a slot for it, and has written its intent."""
        ...

    async def cancel_refund(self, refund: str) -> SeenRefund:
        """Cancel a refund that waits for its customer (`requires_action`)."""
        ...

    async def cancel_payment_intent(self, payment_intent: str, key: str) -> None:
        """Release an authorised, uncaptured payment."""
        ...

    @property
    def api_version(self) -> str:
        """Tell the version of the processor's interface that is spoken."""
        ...

    def stripe_now(self) -> float | None:
        """Tell Stripe's time, in epoch seconds: its last `Date`, and what has passed since; `None` before the first answer."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


class Slots(Protocol):
    """Where a gateway takes its pace from; `infra/pace.py` in earnest.

    Operations are named by Stripe's own templates, as in `GET /v1/charges/{charge}`: all ids share one limit.
    """

    async def take(self, operation: str, lane: Lane) -> float:
        """Wait for a slot; tell when it was reserved, by the boot clock, for `limited`."""
        ...

    def took(self, operation: str, seconds: float) -> None:
        """Hear how long a call took on its way to Stripe and back, answered or not; the wait for its slot is not in it."""
        ...

    async def limited(self, operation: str, reason: str | None, taken_at: float) -> None:
        """Hear of a 429 for a call that had a slot.

        Args:
            operation: The operation that was called.
            reason: The value of `Stripe-Rate-Limited-Reason`, if there was one; or `lock_timeout`, which says that an
                object was busy and nothing about the pace.
            taken_at: What `take` told: a slot from before the last cut is no reason to cut again.
        """
        ...
