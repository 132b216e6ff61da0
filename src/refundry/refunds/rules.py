"""What to do about an attempt whose outcome nobody knows: the same key again, another look, the next attempt, or a person.

Pure. The rule behind it: the same key while in doubt, a new key only after proof of absence (stripe-facts 2: Stripe may
forget a key once it is 24 hours old, and then the same key pays again). And what the order system is told of a request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from refundry.charges.model import REQUEST_ID, TICKET_ID, Charge
from refundry.kernel.money import shown
from refundry.kernel.outcome import SeenRefund
from refundry.outbox.model import Kind, Message
from refundry.outbox.rules import message_id, moment, ordering_key
from refundry.policies.model import REPEAT_FAILED
from refundry.policies.rules import DAY, REPEAT_DAYS
from refundry.refunds.model import Attempt, Content, RefundRequest, Send

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
# A charge that is not found is asked for again this much later: perhaps only that read was wrong.
CHARGE_GONE_WAIT = 60.0
# Refusals that say the same as a look that does not find the charge.
CHARGE_GONE = frozenset({"charge_unknown", "charge_of_other_mode"})
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


def back_off(attempt: Attempt) -> float:
    """Tell how long to wait after a send whose outcome is not known, in seconds: 1, 2, 4, … up to 300.

    Args:
        attempt: As it was sent. A send of which nothing was heard, because its process was killed, says nothing about Stripe: the
            wait does not grow by it.
    """
    unknown = sum(send.outcome == "unknown" for send in attempt.sends)
    return min(2.0**unknown, BACK_OFF_MAX)


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
    # What was not taken never reached Stripe's memory of keys, whose 24 h begin with the first send that may have (stripe-facts 2).
    first = ages(next((send for send in attempt.sends if send.outcome != "not_taken"), last), clocks)
    if agree(first) and max(first) < RESEND_WITHIN:
        return Plan(Step.RESEND, attempt, text="the same key again")
    return Plan(
        Step.WAIT, attempt, min(max(ABSENT_AFTER - youngest, 1.0), HOUR), "too old to be sent again under its key"
    )


def plan_without_charge(attempt: Attempt, clocks: Clocks) -> Plan:
    """Decide, after a look that did not find the charge, as once Stripe's test data were deleted: no refund of it can be seen or made.

    Args:
        attempt: As for `plan`.
        clocks: When the look began.
    """
    text = "Stripe does not know its charge any more, so what became of it cannot be seen"
    if attempt.refusal is not None and attempt.refusal.code in CHARGE_GONE and not attempt.in_doubt:
        return _proven(attempt)
    if min(ages(attempt.sends[-1], clocks)) >= ABSENT_AFTER:
        return Plan(Step.GIVE_UP, attempt, text=text)
    return Plan(Step.WAIT, attempt, CHARGE_GONE_WAIT, text)


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


def sayable_in(attempt: Attempt, clocks: Clocks) -> float:
    """Tell in how many seconds people may say that an attempt has paid nothing; zero or less, if they may at once.

    Before, its key may still pay, and what it has made may not be listed yet: nobody's word changes that.
    """
    return ABSENT_AFTER - min(ages(attempt.sends[-1], clocks))


def misfit(request: RefundRequest, first: Send, refund: SeenRefund) -> str:
    """Tell why a refund that a person names cannot be the one that paid a request of unknown outcome; an empty text, if it can.

    Args:
        request: The request.
        first: Its first send.
        refund: As it was read, with the mark under which it is known here.
    """
    content = request.content
    if refund.charge != content.charge:
        return f"it is of {refund.charge}, and {content.charge} was to be refunded"
    if (refund.amount_minor, refund.currency) != (request.amount_minor, content.currency):
        asked = shown(request.amount_minor, content.currency)
        return f"it gives back {shown(refund.amount_minor, refund.currency)}, and {asked} were sent"
    if refund.over:
        return f"it is {refund.status} at Stripe, and has paid nothing"
    if refund.metadata.get(REQUEST_ID, request.id) != request.id:
        return f"it is that of refund request {refund.metadata[REQUEST_ID]}"
    sent_at = first.at if first.stripe_at is None else min(first.at, first.stripe_at)
    if refund.created_at < sent_at - CLOCKS_APART:
        return "it was made before this request was sent for the first time"
    return ""


def kind_of(before: RefundRequest | None, after: RefundRequest) -> Kind | None:
    """Tell what the order system is told of a change: the new state, or that the request waits now; `None`, if it is neither.

    Args:
        before: The request as it was; `None`, if it is new.
        after: As it is.
    """
    if before is None:
        return Kind.RECEIVED
    held_before = before.hold.reason if before.hold is not None else None
    told_anew = after.reason_code == REPEAT_FAILED and before.reason_code != REPEAT_FAILED
    if after.hold is not None and (after.hold.reason is not held_before or told_anew):
        return Kind.HELD
    return Kind(f"refund_request.{after.state}") if after.state is not before.state else None


def request_message(
    kind: Kind, request: RefundRequest, charge: Charge | None, claimed_minor: int, at: float
) -> Message:
    """Write the message that tells what a refund request has become.

    Args:
        kind: What it says.
        request: The request.
        charge: Our mirror of its charge; `None` while that was never looked at.
        claimed_minor: What requests without a known refund claim of the charge, this one included.
        at: When, by the database's clock.
    """
    content, hold = request.content, request.hold
    order = charge.order_id if charge is not None else None
    left = None if charge is None else max(charge.captured_minor - charge.returned_minor - claimed_minor, 0)
    payload = {
        "request_id": request.id,
        "request_key": request.request_key,
        "request_version": request.version,
        "state": request.state.value,
        "order_id": order,
        "ticket_id": content.ticket_id,
        "charge": content.charge,
        "payment_intent": charge.payment_intent if charge is not None else None,
        "asked_minor": content.asked_minor,
        "amount_minor": request.amount_minor,
        "currency": content.currency,
        "reason": content.reason,
        "captured_minor": charge.captured_minor if charge is not None else None,
        "refunded_minor": charge.returned_minor if charge is not None else None,
        "left_minor": left,
        "code": request.reason_code,
        "text": request.reason_text,
        "held": hold.reason.value if hold is not None else None,
        "held_until": moment(hold.until) if hold is not None and hold.until is not None else None,
        "refund": request.refund,
        "replaces": request.replaces,
    }
    key = ordering_key(request.account, order, content.charge)
    return Message(message_id(request.id, kind, request.version), request.account, kind, order, key, payload, at)


def asks_for_same(content: Content, refund: SeenRefund, charge: Charge, now: float) -> bool:
    """Tell whether a waiting request asks for what somebody else's refund has just given back.

    Args:
        content: What is asked for.
        refund: Not ours, and not over.
        charge: Its charge, the refund taken in.
        now: In epoch seconds; a refund of long ago is no news, unless it is for the same ticket.
    """
    if content.ticket_id is not None and refund.metadata.get(TICKET_ID) == content.ticket_id:
        return True
    if now - refund.created_at > REPEAT_DAYS * DAY:
        return False
    left_before = charge.unrefunded_minor + refund.amount_minor
    wanted = left_before if content.asked_minor is None else content.asked_minor
    return refund.amount_minor in {wanted, charge.captured_minor}


def only_disputes_changed(charge: Charge, request: RefundRequest) -> bool:
    """Tell whether a planned request's charge is as it was planned, but for its disputes."""
    if request.planned is None:
        return True
    expected = request.planned.expected
    return not list(charge.changes(replace(expected, disputes=charge.expected.disputes)))
