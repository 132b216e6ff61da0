"""Builders of the core's values, each with small defaults: a test names only what it is about."""

from __future__ import annotations

from typing import Any

from refundry.charges.model import REQUEST_ID, Charge
from refundry.disputes.model import Dispute, Phase
from refundry.gateways.base import Look, RefundBody, SeenCharge, SeenDispute
from refundry.kernel import ids
from refundry.kernel.outcome import Accepted, Answer, Declined, NotTaken, NotTakenWhy, SeenRefund, Unknown
from refundry.policies.model import Facts
from refundry.refunds.model import Attempt, Content, RefundRequest, Send, body_of
from tests.support.clock import START

ACCOUNT = "acct_1|test"
CHARGE = "ch_1"
CAPTURED = 10_000


def charge(charge_id: str = CHARGE, **changes: Any) -> Charge:
    """Make our mirror of a charge over 100.00 GBP, captured a day ago, without refunds, looked at just now."""
    captured = changes.get("captured_minor", CAPTURED)
    values: dict[str, Any] = {
        "id": charge_id, "account": ACCOUNT, "payment_intent": "pi_" + charge_id, "order_id": None, "currency": "gbp",
        "amount_minor": captured, "captured_minor": captured, "refunded_minor": 0, "status": "succeeded",
        "captured": True, "disputed": False, "created_at": START - 86_400, "looked_at": START,
    }  # fmt: skip
    return Charge(**(values | changes))


def seen_refund(refund_id: str = "re_1", *, of: RefundRequest | None = None, **changes: Any) -> SeenRefund:
    """Make a refund of Stripe's over 10.00 GBP; `of` makes it the one that paid a request of ours."""
    values: dict[str, Any] = {
        "id": refund_id, "charge": CHARGE, "amount_minor": 1000, "currency": "gbp", "status": "succeeded",
        "created_at": START,
    }  # fmt: skip
    if of is not None:
        values |= {
            "charge": of.content.charge, "currency": of.content.currency, "metadata": {REQUEST_ID: of.id},
            "amount_minor": of.amount_minor or of.content.asked_minor or CAPTURED,
        }  # fmt: skip
    return SeenRefund(**(values | changes))


def dispute(dispute_id: str = "du_1", **changes: Any) -> Dispute:
    """Make a chargeback over 100.00 GBP that nobody has answered, opened and seen just now."""
    values: dict[str, Any] = {
        "id": dispute_id, "account": ACCOUNT, "charge": CHARGE, "status": "needs_response", "phase": Phase.CHARGEBACK,
        "amount_minor": CAPTURED, "currency": "gbp", "reason": "fraudulent", "opened_at": START, "due_at": START + 7 * 86_400,
        "seen_at": START,
    }  # fmt: skip
    made = values | changes
    return Dispute(**made | {"phase": Phase(made["phase"])})


def look(
    charge_id: str = CHARGE,
    *,
    refunds: tuple[SeenRefund, ...] = (),
    disputes: tuple[SeenDispute, ...] = (),
    began_at: float = START,
    **changes: Any,
) -> Look:
    """Make a look at a charge over 100.00 GBP, whose sum of refunds is that of the listed ones."""
    captured = changes.get("captured_minor", CAPTURED)
    values: dict[str, Any] = {
        "id": charge_id, "payment_intent": "pi_" + charge_id, "currency": "gbp", "amount_minor": captured,
        "captured_minor": captured, "refunded_minor": sum(r.amount_minor for r in refunds if not r.over),
        "status": "succeeded", "captured": True, "disputed": bool(disputes), "livemode": False,
        "created_at": START - 86_400,
    }  # fmt: skip
    return Look(SeenCharge(**(values | changes)), refunds, disputes, began_at)


def content(**changes: Any) -> Content:
    """Make the content of a request for 10.00 GBP."""
    values: dict[str, Any] = {
        "charge": CHARGE, "asked_minor": 1000, "currency": "gbp", "reason": "requested_by_customer",
    }  # fmt: skip
    return Content(**(values | changes))


def refund_request(key: str = "key:1", *, asked: Content | None = None, **changes: Any) -> RefundRequest:
    """Make a request as it is handed in; its id comes from its key."""
    return RefundRequest(ids.request_id("acct_1", "test", key), ACCOUNT, key, asked or content(), **changes)


def body(**changes: Any) -> RefundBody:
    """Make the parameters of a call for 10.00 GBP."""
    values: dict[str, Any] = {
        "charge": CHARGE, "amount_minor": 1000, "reason": "requested_by_customer", "metadata": {},
    }  # fmt: skip
    return RefundBody(**(values | changes))


def sent(outcome: str | None = None, at: float = START, **changes: Any) -> Send:
    """Make a send; all three clocks agreed."""
    values: dict[str, Any] = {"at": at, "database_at": at, "stripe_at": at, "outcome": outcome}
    return Send(**(values | changes))


def attempt(request: RefundRequest, *sends: Send, number: int = 1, **changes: Any) -> Attempt:
    """Make an attempt at a request with its sends, one of unknown outcome if none is named."""
    return Attempt(request.id, number, body_of(request), sends or (sent(),), **changes)


def accepted(request: RefundRequest, **changes: Any) -> Accepted:
    """Make the outcome in which Stripe made the refund."""
    return Accepted(seen_refund(of=request, **changes), Answer(status=200, request="req_1"))


def declined(code: str = "charge_disputed") -> Declined:
    """Make the outcome in which Stripe refused."""
    return Declined(code, Answer(status=400, code=code, message="Stripe says no", request="req_1"))


def not_taken(why: NotTakenWhy = NotTakenWhy.RATE_LIMITED) -> NotTaken:
    """Make the outcome in which Stripe surely did nothing."""
    return NotTaken(why, Answer(status=429, message=f"not taken: {why}"))


def unknown(code: str = "timeout") -> Unknown:
    """Make the outcome that nobody knows."""
    return Unknown(code, Answer(message="no answer"))


def facts(**changes: Any) -> Facts:
    """Make the facts of a request for 10.00 GBP of an untouched charge."""
    values: dict[str, Any] = {
        "charge": charge(), "request": "request-1", "asked_minor": 1000, "currency": "gbp", "ticket_id": None,
        "reserved_minor": 0, "allow_inquiry": False, "now": START,
    }  # fmt: skip
    return Facts(**(values | changes))
