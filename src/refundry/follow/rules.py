"""Which hints need a read, how few reads do for many, and how often Stripe is asked without a hint. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate

from refundry.charges.model import Charge
from refundry.follow.model import About, Run, Target
from refundry.inbox.model import Event

DAY = 86_400.0
# An idempotency key of ours: `{request_id}.{n}`.
OUR_KEY = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.[1-9][0-9]{0,8}", re.ASCII
)
# Refunds further apart than this are not looked for in one list: what lies between may fill pages.
APART_SECONDS = 600.0
# So many single reads cost as much as the page or two that would show them all.
LIST_FROM = 4
BACK_OFF_MAX = 3600.0
# Without anything on its way, and where webhooks come, Stripe is asked so many times less often.
CALM = 15
# What a day's first minutes may cost beyond an even share: a night's catching up.
READS_AHEAD = 200
# So often the watermark moves while a long time is read.
WINDOWS_MAX = 10
# A webhook within this time says that they come.
HEALTHY_SECONDS = 3600.0


def target_of(event: Event) -> Target | None:
    """Tell what an event asks to be read; `None`, if nothing that is there would say more."""
    if event.type.startswith("radar."):
        return Target(About.WARNINGS, event.charge) if event.charge else None
    if event.type.startswith("refund.") and event.charge is None:
        # Of a cash balance: it gives nothing of a charge back.
        return None
    if event.refund is not None and not event.type.startswith("charge.dispute."):
        return Target(About.REFUND, event.refund)
    # A credit note without its refund tells what the refund's own event tells.
    if event.charge is not None and event.type.startswith("charge."):
        return Target(About.CHARGE, event.charge)
    return None


def claim_of(event: Event) -> str | None:
    """Tell the request under whose idempotency key a refund was made; only the event of its making knows."""
    if event.type != "refund.created" or event.idempotency_key is None:
        return None
    found = OUR_KEY.fullmatch(event.idempotency_key)
    return found[1] if found else None


def charge_stands(event: Event, charge: Charge | None) -> bool:
    """Tell whether an event about a charge itself says nothing new.

    Args:
        event: Of one of the types `charge.succeeded|failed|updated|refunded`.
        charge: Our mirror; a charge that nobody here has asked for is of interest only once it is refunded.
    """
    if charge is None:
        return event.type != "charge.refunded"
    if event.status != charge.status:
        return False
    # Each refund of a charge sends its own event with the sum at that time: any of the sums on the way is known.
    return event.amount_minor is None or event.amount_minor in sums(charge)


def sums(charge: Charge) -> set[int]:
    """Tell what `amount_refunded` may have been after each refund that we know, whether or not failed ones count (stripe-facts 14)."""
    alive = [refund.amount_minor for refund in charge.refunds if not refund.over]
    every = [refund.amount_minor for refund in charge.refunds]
    return {0, *accumulate(alive), *accumulate(every)}


def runs(created: Mapping[str, float]) -> list[Run]:
    """Tell which refunds are looked for in one list: those that were created close together, where they are enough."""
    out: list[Run] = []
    ids: list[str] = []
    begin = last = 0.0
    for refund, at in [*sorted(created.items(), key=lambda pair: (pair[1], pair[0])), ("", float("inf"))]:
        if ids and at - last > APART_SECONDS:
            if len(ids) >= LIST_FROM:
                out.append(Run(begin, last, frozenset(ids)))
            ids = []
        if not ids:
            begin = at
        ids.append(refund)
        last = at
    return out


def back_off(tries: int) -> float:
    """Tell how long an event waits that could not be applied: 2, 4, 8, … up to 3,600 s."""
    return min(2.0 ** (tries + 1), BACK_OFF_MAX)


def every(poll_seconds: float, *, going_on: bool) -> float:
    """Tell how often events are asked for, in seconds: less often while nothing is on its way."""
    return poll_seconds if going_on else poll_seconds * CALM


def failed_will_do(now: float, mark: float | None, told_at: float | None, poll_seconds: float) -> bool:
    """Tell whether it is enough to ask for the events that no webhook brought, which costs one call.

    Args:
        now: By the database's clock.
        mark: How far all events were read.
        told_at: When the last webhook came.
        poll_seconds: How often events are asked for.
    """
    if mark is None or told_at is None:
        return False
    # A time that is yet to come is of a clock that was set back since, and tells nothing.
    return 0 <= now - told_at < HEALTHY_SECONDS and 0 <= now - mark < poll_seconds * CALM


def affordable(reads_today: int, reads_per_day: int, now: float) -> bool:
    """Tell whether polling may go on: its calls are spread over the day, since Stripe allows so many reads for each payment (stripe-facts 1).

    Args:
        reads_today: What it has cost since midnight UTC.
        reads_per_day: What it may cost; zero for any number.
        now: Epoch seconds.
    """
    return not reads_per_day or reads_today < reads_per_day * (now % DAY) / DAY + READS_AHEAD


def windows(since: float, until: float, width: float) -> list[tuple[float, float]]:
    """Cut a time into windows, the oldest first: each that is done moves the watermark.

    Args:
        since: Its begin.
        until: Its end.
        width: How wide a window is at least; each costs a call, also where nothing happened, so that there are few.
    """
    out, at, step = [], since, max(width, (until - since) / WINDOWS_MAX)
    while at < until:
        # A sliver at the end would cost a call of its own.
        end = until if until - at < step * 1.5 else at + step
        out.append((at, end))
        at = end
    return out
