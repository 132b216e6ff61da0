"""An event: a hint that something at Stripe has changed, as it came in, and what became of it here.

Its facts are those of its own moment. Events come late, twice, out of order or not at all (stripe-facts 5.3), so nothing is
ever paid or closed by what an event says: whoever follows it reads the refund, the charge or the dispute again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from refundry.gateways.base import SeenEvent
from refundry.kernel.errors import UsageError

# The types that change what we know of a refund, a charge or a dispute (stripe-facts 5.2). Exactly these are asked for at Stripe.
HANDLED = frozenset(
    {
        "refund.created", "refund.updated", "refund.failed",
        "charge.refunded", "charge.refund.updated",
        "charge.succeeded", "charge.failed", "charge.updated",
        "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed",
        "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated",
        "radar.early_fraud_warning.created", "radar.early_fraud_warning.updated",
        "credit_note.created",
    }
)  # fmt: skip
# With waits that double from seconds to an hour, these are nine hours: whatever is wrong by then needs a person.
TRIES_MAX = 20
NOT_HANDLED = "its type changes nothing here"
SILENT = "it does not say what it is about"
# An event's key: the account's name in our tables, and Stripe's `evt_…`.
Key = tuple[str, str]


class NoSuchEvent(UsageError):  # noqa: N818  # read in a sentence
    """There is no event of that id."""

    code = "event_not_found"


class EventStays(UsageError):  # noqa: N818
    """The event cannot be replayed or ignored: `event_not_handled`, `event_of_other_account`, `event_already_applied`."""

    code = "event_not_handled"


class Source(StrEnum):
    """How an event came in."""

    WEBHOOK = "webhook"
    POLL = "poll"


class State(StrEnum):
    """What became of an event."""

    WAITING = "waiting"
    APPLIED = "applied"
    IGNORED = "ignored"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Args:
        id: Stripe's `evt_…`.
        account: The name of its account in our tables, `acct_…|test`.
        type: `refund.updated`, ….
        livemode: Whether it tells of real money.
        created_at: When Stripe made it, in epoch seconds UTC; whole seconds, and no order to trust.
        object_id: What it is about: a refund, a charge, a dispute, ….
        charge: The charge that it is about.
        refund: The refund that it is about.
        payment_intent: The payment intent that it is about.
        request: What its metadata name as our refund request.
        status: The object's status, at that time.
        amount_minor: Of a refund or a dispute its amount, of a charge what was refunded of it, at that time.
        idempotency_key: The key of the call that caused it (stripe-facts 5.1).
        received_at: When it was stored, by the database's clock.
        source: How it came.
        state: What became of it.
        tries: How often it was put off.
        due_at: When it is to be applied, by the database's clock.
        why: Why it was put off, parked or ignored.
        raw: Its body as it came; `None`, where it was not asked for.
    """

    id: str
    account: str
    type: str
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
    received_at: float
    source: Source
    state: State
    tries: int
    due_at: float
    why: str
    raw: bytes | None = None

    @property
    def key(self) -> Key:
        """Tell what it goes by in our tables."""
        return self.account, self.id

    @property
    def says_nothing(self) -> bool:
        """Tell whether it does not say what it is about: it is parked as it comes in."""
        return self.object_id is None


@dataclass(frozen=True, slots=True)
class Door:
    """A path that webhooks come to.

    Args:
        account: The name of its account in our tables, `acct_…|test`.
        secrets: What they are signed with: any of them does, and without one nothing is let in.
        connected: The names of the accounts that are reached with the same key: a Connect platform is told of them here.
        setting: The variable that holds the secrets.
    """

    account: str
    secrets: tuple[str, ...] = field(repr=False)
    connected: frozenset[str]
    setting: str


@dataclass(frozen=True, slots=True)
class Search:
    """Which events are looked for; `None` leaves a part open.

    Args:
        account: The account's name in our tables.
        type: One type, or the beginning of several with a star: `charge.dispute.*`.
        object_id: What it is about.
        charge: Whose charge.
        state: What became of it.
    """

    account: str | None = None
    type: str | None = None
    object_id: str | None = None
    charge: str | None = None
    state: State | None = None


def begun(seen: SeenEvent, stranger: str) -> tuple[State, str]:
    """Tell in what state an event is stored, and why.

    Args:
        seen: As it came.
        stranger: Why it is of no account that is served here; empty, if it is of one.
    """
    if stranger:
        return State.IGNORED, stranger
    if seen.type not in HANDLED:
        return State.IGNORED, NOT_HANDLED
    if seen.trouble:
        return State.PARKED, seen.trouble
    return State.WAITING, ""
