"""Hints, what has to be read for them, and watermarks. Times are epoch seconds UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from refundry.disputes.model import Dispute
from refundry.inbox.model import HANDLED, Event, Key
from refundry.kernel.outcome import SeenRefund
from refundry.tasks.model import Kind

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
        silent: Events that do not say what they are about: there is nothing to apply, and a person should look.
    """

    settled: tuple[Key, ...]
    reads: Mapping[Target, tuple[Event, ...]]
    created: Mapping[str, float]
    claims: Mapping[str, str]
    external: tuple[SeenRefund, ...]
    disputed: frozenset[str]
    silent: tuple[Key, ...]


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


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of an account waits for a person, for evidence, or to be followed.

    Args:
        at: When this was read, by the database's clock.
        tasks: Open tasks by kind; without those that there are none of.
        tasks_overdue: How many of them are overdue.
        task_since: When the oldest of them was opened.
        disputes: How many are open.
        disputes_due: Those that wait for evidence, and not for long; the first due first.
        events_waiting: Events that are to be applied.
        events_parked: Events that a person should look at.
        event_since: When the oldest of those that wait came.
        event_at: When an event came last.
        marks: How far each feed was read; without those that never were.
    """

    at: float
    tasks: Mapping[Kind, int]
    tasks_overdue: int
    task_since: float | None
    disputes: int
    disputes_due: tuple[Dispute, ...]
    events_waiting: int
    events_parked: int
    event_since: float | None
    event_at: float | None
    marks: Mapping[Feed, float]
