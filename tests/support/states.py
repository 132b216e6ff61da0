"""Refund requests in each state, and one fact of each kind, so that tests can hold every fact against every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from refundry.kernel.outcome import NotTakenWhy
from refundry.policies.model import Verdict
from refundry.refunds import model
from refundry.refunds.model import AT_STRIPE, IN_FLIGHT, Fact, HeldReason, Hold, RefundRequest, State
from tests.support.builders import accepted, attempt, declined, not_taken, refund_request, seen_refund, sent, unknown
from tests.support.clock import START

LATER = START + 60
REFUND = "re_1"
STATUSES = ("pending", "requires_action", "succeeded", "failed", "canceled")
Make = Callable[[RefundRequest], Fact]


def standing(state: State) -> RefundRequest:
    """Make a request over 10.00 GBP as it stands in a state: reserved while nobody knows its refund, with an attempt once sent."""
    new = state in {State.RECEIVED, State.AWAITING_APPROVAL}
    sent_before = state in IN_FLIGHT | AT_STRIPE | {State.DECLINED}
    return refund_request(
        state=state,
        amount_minor=0 if state is State.RECEIVED else 1000,
        reserved_minor=0 if new or state not in IN_FLIGHT | {State.APPROVED} else 1000,
        attempt=1 if sent_before else 0,
        refund=REFUND if state in AT_STRIPE else None,
        version=7,
    )


def _judged(verdict: Verdict, hold: Hold | None = None) -> Make:
    amount = 1000 if verdict in {Verdict.APPROVE, Verdict.ASK} else 0
    return lambda _: model.Judged(verdict, "code", "text", amount, hold)


def _found(status: str, refund_id: str = REFUND) -> Make:
    return lambda request: model.Found(seen_refund(refund_id, of=request, status=status, amount_minor=1000))


def _accepted(status: str) -> Make:
    def make(request: RefundRequest) -> Fact:
        outcome = accepted(request, status=status, amount_minor=1000)
        return model.Sent(attempt(request, sent("accepted")), outcome, LATER)

    return make


def _submitted(number: int | None = None) -> Make:
    def make(request: RefundRequest) -> Fact:
        decided = replace(request, amount_minor=1000)
        return model.Submitted(attempt(decided, sent(None), number=number or request.attempt or 1))

    return make


# One fact of each kind and ending, by name.
FACTS: dict[str, Make] = {
    "approved": _judged(Verdict.APPROVE),
    "asked": _judged(Verdict.ASK),
    "refused": _judged(Verdict.REFUSE),
    "held": _judged(Verdict.HOLD, Hold(HeldReason.POSSIBLE_REPEAT)),
    "held_for_siblings": _judged(Verdict.HOLD, Hold(HeldReason.SIBLING, LATER)),
    "submitted": _submitted(),
    "declined_by_stripe": lambda r: model.Sent(attempt(r, sent("declined")), declined(), LATER),
    "not_taken": lambda r: model.Sent(attempt(r, sent("not_taken")), not_taken(), LATER),
    "low_balance": lambda r: model.Sent(attempt(r, sent("not_taken")), not_taken(NotTakenWhy.LOW_BALANCE), LATER),
    "not_taken_in_doubt": lambda r: model.Sent(attempt(r, sent("unknown"), sent("not_taken")), not_taken(), LATER),
    "unknown": lambda r: model.Sent(attempt(r, sent("unknown")), unknown(), LATER),
    "looked": lambda r: model.Looked(attempt(r, sent("unknown"), looks=(START,)), LATER),
    "closed": lambda r: model.Closed(attempt(r, sent("declined"), absent=True), "charge_disputed", "text"),
    "came_back": lambda r: model.CameBack(attempt(r, sent("unknown"), absent=True), Hold(HeldReason.STOPPED), LATER),
    "gave_up": lambda _: model.GaveUp("text"),
    "postponed": lambda _: model.Postponed(LATER),
    "postponed_with_hold": lambda _: model.Postponed(LATER, Hold(HeldReason.KEY_REFUSED, LATER)),
    "withdrawn": lambda _: model.Withdrawn("text"),
    "reopened": lambda _: model.Reopened(),
    **{f"found_{status}": _found(status) for status in STATUSES},
    **{f"accepted_{status}": _accepted(status) for status in STATUSES},
}
