"""Hints, what has to be read for them, and watermarks. Times are epoch seconds UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from refundry.inbox.model import HANDLED, Event, Key
from refundry.kernel.outcome import SeenRefund

# Stripe's events go back so far (stripe-facts 5.3).
EVENTS_KEPT = 30 * 86_400.0
# The types that are asked for by polling. Those left out say nothing that one of these does not say too, and every payment of the shop
# makes some of them.
POLLED = tuple(
    sorted(
        HANDLED
        - {"charge.succeeded", "charge.failed", "charge.updated", "charge.refunded", "charge.refund.updated", "credit_note.created"}
    )
)  # fmt: skip


class Feed(StrEnum):
    """What is read on and on; each has a watermark."""

    EVENTS = "events"
    REFUNDS = "refunds"
    CHARGES = "charges"
    # The events that came in: who applies them has no watermark, and counts its reads here.
    INBOX = "inbox"


class About(StrEnum):
    """What is read for a hint."""

    REFUND = "refund"
    CHARGE = "charge"
    WARNINGS = "warnings"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One thing to read: a refund, a charge with all its refunds and disputes, or a charge's early fraud warnings."""

    about: About
    id: str


@dataclass(frozen=True, slots=True)
class Needed:
    """What some events need.

    Args:
        settled: Events that say what stands here already, or what changes nothing: applied without a read.
        reads: What is to be read, and for which events.
        created: When the refunds among them were created, as far as that is known.
        claims: Refunds without a mark that were made under an idempotency key of ours: the request of that key.
        external: Refunds by others that stand here already, and may repeat what waits.
        disputed: Charges with a dispute, on which something has happened.
    """

    settled: tuple[Key, ...]
    reads: Mapping[Target, tuple[Event, ...]]
    created: Mapping[str, float]
    claims: Mapping[str, str]
    external: tuple[SeenRefund, ...]
    disputed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Run:
    """Refunds that were created close together: one list may show them all.

    Args:
        since: The first one's creation.
        until: The last one's.
    """

    since: float
    until: float
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a feed was read.

    Args:
        mark: Everything before has been seen; `None` before the first time.
        tried_at: When it was last begun.
        reads_today: How many calls it has cost since midnight UTC.
    """

    account: str
    feed: Feed
    mark: float | None
    tried_at: float
    reads_today: int
