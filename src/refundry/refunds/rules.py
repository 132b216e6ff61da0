"""What to do about an attempt whose outcome nobody knows: the same key again, another look, the next attempt, or a person.

Pure. The rule behind it: the same key while in doubt, a new key only after proof of absence (stripe-facts 2: Stripe may
forget a key once it is 24 hours old, and then the same key pays again).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from refundry.refunds.model import Attempt, Send

HOUR = 3600.0
# Below the 24 h after which Stripe may forget a key, with an hour for clocks that are wrong.
RESEND_WITHIN = 23 * HOUR
# Above the same 24 h: whatever the key would have done has been done.
ABSENT_AFTER = 25 * HOUR
# Clocks that differ by more are not believed: the attempt counts as too old to be sent again.
CLOCKS_APART = 300.0
# An intent that was written is sent within this time or not at all.
SEND_WITHIN = 10.0
BACK_OFF_MAX = 300.0
LOOKS_NEEDED = 2
# After so many complete looks whose refunds do not add up, a person has to look.
UNEXPLAINED_MAX = 5


@dataclass(frozen=True, slots=True)
class Clocks:
    """The present, by three clocks, in epoch seconds; `stripe` is `None` before Stripe's first answer."""

    ours: float
    database: float
    stripe: float | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long proof takes, in seconds: see `PaySettings`."""

    absence_wait: float
    absence_gap: float


class Step(StrEnum):
    """What to do next."""

    RESEND = "resend"
    WAIT = "wait"
    NEXT_ATTEMPT = "next_attempt"
    CLOSE = "close"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about an attempt in doubt.

    Args:
        step: What.
        attempt: The attempt, with the look counted; `absent`, if that proves it.
        wait_seconds: For how long, where it waits.
        text: Why, for a person.
    """

    step: Step
    attempt: Attempt
    wait_seconds: float = 0.0
    text: str = ""


def ages(send: Send, clocks: Clocks) -> list[float]:
    """Tell how long ago a send was, by each clock that knows."""
    told = [clocks.ours - send.at, clocks.database - send.database_at]
    if send.stripe_at is not None and clocks.stripe is not None:
        told.append(clocks.stripe - send.stripe_at)
    return told


def agree(told: list[float]) -> bool:
    """Tell whether the clocks can be believed."""
    return max(told) - min(told) <= CLOCKS_APART and min(told) > -CLOCKS_APART


def back_off(sends: int) -> float:
    """Tell how long to wait before the next send: 1, 2, 4, … up to 300 s."""
    return min(2.0 ** max(sends - 1, 0), BACK_OFF_MAX)


def plan(attempt: Attempt, clocks: Clocks, *, looked_at: float, explained: bool, patience: Patience) -> Plan:
    """Decide, after a complete look that has not shown our refund.

    Args:
        attempt: In doubt, or refused and not yet looked for.
        clocks: The present.
        looked_at: When the look began, by Stripe's clock.
        explained: Whether the refunds that it showed add up to what the charge says was refunded.
        patience: How long proof takes.
    """
    last = attempt.sends[-1]
    if any(send.code == "idempotency_mismatch" for send in attempt.sends):
        return Plan(
            Step.GIVE_UP, attempt, text="Stripe knows this key with other parameters, and no refund of ours is there"
        )
    if attempt.refusal is not None and not attempt.in_doubt and explained:
        return _proven(attempt)
    youngest = min(ages(last, clocks))
    if attempt.spent or attempt.stored_error or youngest >= ABSENT_AFTER:
        # What counts is how old the send was when the look began, not when it ended.
        present = clocks.ours if clocks.stripe is None else clocks.stripe
        return _proving(attempt, youngest - max(present - looked_at, 0.0), looked_at, explained, patience)
    first = ages(attempt.sends[0], clocks)
    if agree(first) and max(first) < RESEND_WITHIN:
        return Plan(Step.RESEND, attempt, text="the same key again")
    return Plan(
        Step.WAIT, attempt, min(max(ABSENT_AFTER - youngest, 1.0), HOUR), "too old to be sent again under its key"
    )


def _proving(attempt: Attempt, age: float, looked_at: float, explained: bool, patience: Patience) -> Plan:  # noqa: FBT001
    """Collect two looks, a while apart, the first of them a while after the last byte was sent."""
    ripe = patience.absence_wait + (SEND_WITHIN if patience.absence_wait else 0.0)
    if age < ripe:
        return Plan(Step.WAIT, attempt, ripe - age, "waiting before the first look counts")
    if not explained:
        if age >= ABSENT_AFTER + UNEXPLAINED_MAX * HOUR:
            return Plan(
                Step.GIVE_UP, attempt, text="the refunds that Stripe lists do not add up to what it says was refunded"
            )
        return Plan(Step.WAIT, attempt, max(patience.absence_gap, 1.0), "the refunds at Stripe do not add up yet")
    counted = replace(attempt, looks=(*attempt.looks, looked_at))
    since = looked_at - counted.looks[0]
    if len(counted.looks) >= LOOKS_NEEDED and since >= patience.absence_gap:
        return _proven(counted)
    return Plan(Step.WAIT, counted, max(patience.absence_gap - since, 0.1), "one more look is needed")


def _proven(attempt: Attempt) -> Plan:
    gone = replace(attempt, absent=True)
    return Plan(Step.CLOSE if attempt.refusal is not None else Step.NEXT_ATTEMPT, gone)
