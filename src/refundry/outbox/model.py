"""A message to the systems that care, what its payload holds, and how its delivery stands.

Amounts are integer minor units with their currency, times epoch seconds UTC; in what is sent, times are written after ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from refundry.kernel.errors import RefundryError, UsageError

# The version of the payloads. It grows when a field changes its meaning or goes; a field that is added changes nothing.
VERSION = 1


class MessageUnknown(UsageError):  # noqa: N818
    """There is no such message."""

    code = "message_unknown"


class MessageForbids(RefundryError):  # noqa: N818
    """How the delivery stands does not allow what was asked."""

    code = "message_forbids"


class KindUnknown(UsageError):  # noqa: N818
    """A setting or an option names a kind of message that is none."""

    code = "message_kind_unknown"


class Kind(StrEnum):
    """What a message says. All but the last tell what a refund request has become; `held` that it waits, and why."""

    RECEIVED = "refund_request.received"
    AWAITING_APPROVAL = "refund_request.awaiting_approval"
    APPROVED = "refund_request.approved"
    HELD = "refund_request.held"
    REJECTED = "refund_request.rejected"
    SUBMITTING = "refund_request.submitting"
    OUTCOME_UNKNOWN = "refund_request.outcome_unknown"
    PENDING = "refund_request.pending"
    REQUIRES_ACTION = "refund_request.requires_action"
    SETTLED = "refund_request.settled"
    FAILED = "refund_request.failed"
    CANCELED = "refund_request.canceled"
    DECLINED = "refund_request.declined"
    WITHDRAWN = "refund_request.withdrawn"
    ORDER_CHANGED = "order.refunded_changed"


class DeliveryState(StrEnum):
    """How the delivery of a message to one target stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    PARKED = "parked"
    DROPPED = "dropped"


# Until one of these is over, later messages with its ordering key wait.
OPEN = (DeliveryState.WAITING, DeliveryState.PARKED)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a payload.

    Args:
        types: As JSON schema names them.
        text: What it says, for the reference page.
        words: The only values that it may have; empty, if any.
    """

    types: tuple[str, ...]
    text: str
    words: tuple[str, ...] = ()


ORDER_STATUSES = ("none", "partial", "full")
STATES = tuple(kind.value.partition(".")[2] for kind in Kind if kind not in {Kind.HELD, Kind.ORDER_CHANGED})
_TEXT, _TEXT_OR_NULL, _AMOUNT, _AMOUNT_OR_NULL = ("string",), ("string", "null"), ("integer",), ("integer", "null")
REQUEST_FIELDS: Mapping[str, Field] = {
    "request_id": Field(_TEXT, "the refund request"),
    "request_key": Field(_TEXT, "the name of the obligation: two requests never share one"),
    "request_version": Field(
        _AMOUNT, "grows with every change of the request; of two messages the higher one is newer"
    ),
    "state": Field(_TEXT, "where the request stands", STATES),
    "order_id": Field(_TEXT_OR_NULL, "your order, as it stands in the charge's metadata"),
    "ticket_id": Field(_TEXT_OR_NULL, "your ticket"),
    "charge": Field(_TEXT, "Stripe's charge"),
    "payment_intent": Field(_TEXT_OR_NULL, "its payment intent"),
    "asked_minor": Field(_AMOUNT_OR_NULL, "what was asked for; null where it was the word `full`"),
    "amount_minor": Field(
        _AMOUNT, "what was decided, and once Stripe has it what is given back; 0 before the decision"
    ),
    "currency": Field(_TEXT, "of all amounts, lower case"),
    "reason": Field(_TEXT, "one of Stripe's three"),
    "captured_minor": Field(_AMOUNT_OR_NULL, "what the customer paid; null while the charge was not looked at"),
    "refunded_minor": Field(_AMOUNT_OR_NULL, "what has been given back of the charge, by whomever"),
    "left_minor": Field(_AMOUNT_OR_NULL, "what is left of it: neither given back nor claimed by an approved request"),
    "code": Field(_TEXT, "why it stands there, stable; empty, if there is nothing to say"),
    "text": Field(_TEXT, "the same in a sentence, for people"),
    "held": Field(_TEXT_OR_NULL, "why it waits, if it is held"),
    "held_until": Field(_TEXT_OR_NULL, "when that ends by itself; null for never"),
    "refund": Field(_TEXT_OR_NULL, "Stripe's refund, once there is one"),
    "replaces": Field(_TEXT_OR_NULL, "the failed request that this one replaces"),
}
ORDER_FIELDS: Mapping[str, Field] = {
    "order_id": Field(_TEXT, "your order, as it stands in the charges' metadata"),
    "order_version": Field(
        _AMOUNT,
        "the time in milliseconds, and higher with every such message of the order; of two the higher one is newer",
    ),
    "refunded": Field(_TEXT, "how much of the order was given back", ORDER_STATUSES),
    "currency": Field(_TEXT_OR_NULL, "of the two amounts; null where the order's charges have several"),
    "captured_minor": Field(_AMOUNT_OR_NULL, "what the customer paid in all; null with several currencies"),
    "refunded_minor": Field(_AMOUNT_OR_NULL, "what was given back of it in all; null with several currencies"),
    "charges": Field(("array",), "each captured charge: `charge`, `currency`, `captured_minor`, `refunded_minor`"),
}
# Around every payload. A statement for SQL may name all of these too, but for `data`.
ENVELOPE_FIELDS: Mapping[str, Field] = {
    "id": Field(_TEXT, "the message: the same whenever it is sent again"),
    "kind": Field(_TEXT, "what it says"),
    "version": Field(_AMOUNT, "of the payload"),
    "created_at": Field(_TEXT, "when its cause was committed, UTC"),
    "account": Field(_TEXT, "Stripe's account"),
    "mode": Field(_TEXT, "whose money", ("test", "live")),
    "data": Field(("object",), "the payload"),
}


def fields_of(kind: Kind) -> Mapping[str, Field]:
    """Tell the fields of a kind's payload."""
    return ORDER_FIELDS if kind is Kind.ORDER_CHANGED else REQUEST_FIELDS


@dataclass(frozen=True, slots=True)
class Cause:
    """A change that is to be told of, noted when it happens and written as a message just before its commit.

    Args:
        charge: The charge that it concerns.
        kind: What the message says.
        request: The changed refund request, as its feature knows it; `None` where only the order may have changed.
    """

    charge: str
    kind: Kind
    request: Any = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message.

    Args:
        id: Derived from its cause: the same cause written twice is one message.
        account: `acct_…|test`.
        ordering_key: Messages with the same one are delivered in the order in which they were written.
        payload: Plain JSON, with the fields of its kind.
        version: Of the payload.
    """

    id: str
    account: str
    kind: Kind
    order_id: str | None
    ordering_key: str
    payload: Mapping[str, Any]
    created_at: float
    version: int = VERSION


# Where a delivery stands in a list: its message's number, and its target.
Place = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to one target.

    Args:
        number: Grows with every message; the order of delivery within an ordering key.
        target: `http`, `sql` or `file`.
        tries: How often it was tried since it was written or re-sent.
        due_at: When it is tried next.
        told: What came of the last try, or why it was dropped.
        delivered_at: When the target took it, the last time.
    """

    number: int
    target: str
    message: Message
    state: DeliveryState = DeliveryState.WAITING
    tries: int = 0
    due_at: float = 0.0
    told: str = ""
    delivered_at: float | None = None

    @property
    def place(self) -> Place:
        """Tell where it stands in a list."""
        return self.number, self.target


@dataclass(frozen=True, slots=True)
class Queue:
    """What one target was not told yet.

    Args:
        waiting: Messages that are to be delivered.
        parked: Messages that were tried often enough.
        waits_since: When the oldest of those that wait was written.
        told: What came of its last try; empty before the first.
    """

    waiting: int = 0
    parked: int = 0
    waits_since: float | None = None
    told: str = ""


@dataclass(frozen=True, slots=True)
class OrderTold:
    """What the world was last told of an order.

    Args:
        version: Grows with every message; zero, if there was none.
        told: The status and the amounts, in one canonical form; empty, if nothing was told.
    """

    version: int = 0
    told: str = ""


Wanted = Mapping[str, frozenset[Kind]]


@dataclass(frozen=True, slots=True)
class Wants:
    """Who wants which kinds: by target."""

    by_target: Wanted = field(default_factory=dict)

    def any_wants(self, kind: Kind) -> bool:
        """Tell whether any target wants a kind."""
        return any(kind in kinds for kinds in self.by_target.values())
