"""How a refund request is told: as `--json` has it, and honestly in one sentence."""

from __future__ import annotations

from typing import Any, assert_never

from refundry.batches.model import Standing, standing_of
from refundry.cli import output
from refundry.infra.db import Unit
from refundry.refunds import service as refunds
from refundry.refunds.model import FULL, HeldReason, RefundRequest, State
from refundry.refunds.service import NOT_PAID
from refundry.tasks import service as tasks
from refundry.tasks.model import Kind

# The tasks whose subject is what became of one request.
TOLD = frozenset({Kind.REFUND_FAILED, Kind.REFUND_CANCELED, Kind.OUTCOME_UNKNOWN})
# And those of which whoever looks at the request has to hear first.
TWICE = frozenset({Kind.PAID_TWICE, Kind.PAID_AFTER_ALL})
HELD = {
    HeldReason.DISPUTE: "the charge is disputed",
    HeldReason.POSSIBLE_REPEAT: "it may be a repeat of another refund",
    HeldReason.POLICY_DELAY: "the policy wants a delay",
    HeldReason.LOW_BALANCE: "the balance at Stripe is too low; it is tried again by itself",
    HeldReason.SCHEDULE: "its time has not come",
    HeldReason.STOPPED: "its batch is paused",
    HeldReason.KEY_REFUSED: "Stripe refuses the key",
    HeldReason.SIBLING: "another refund of the charge has to end first",
}


def facts(request: RefundRequest) -> dict[str, Any]:
    """Write one for `--json`; amounts in minor units, 0 before the decision."""
    content = request.content
    return {
        "request_id": request.id,
        "account": request.account,
        "request_key": request.request_key,
        "charge": content.charge,
        "asked": FULL if content.asked_minor is None else content.asked_minor,
        "amount": request.amount_minor,
        "currency": content.currency,
        "reason": content.reason,
        "ticket_id": content.ticket_id,
        "state": request.state.value,
        "outcome": standing_of(request.state).value,
        "held": request.hold.reason.value if request.hold else None,
        "code": request.reason_code,
        "why": request.reason_text,
        "refund": request.refund,
        "attempts": request.attempt,
        "replaces": request.replaces,
    }


def amount(request: RefundRequest) -> str:
    """Write the decided amount, or what is asked for."""
    minor = request.amount_minor or request.content.asked_minor
    return "all that is left" if minor is None else output.money(minor, request.content.currency)


def sentence(request: RefundRequest) -> str:  # noqa: PLR0911  # one for each state
    """Say where one stands. "Pending" is said only of what Stripe has."""
    what = f"{amount(request)} of {request.content.charge}"
    why = request.reason_text
    if request.hold is not None:
        return f"waiting: {what}: {HELD[request.hold.reason]}" + (f" ({why})" if why else "")
    match request.state:
        case State.SETTLED:
            return f"paid: {what}; Stripe says succeeded ({request.refund})"
        case State.PENDING:
            return f"paid: {what}; Stripe has it, and it is pending there ({request.refund})"
        case State.REQUIRES_ACTION:
            return f"waiting: {what}: Stripe waits for the customer to act ({request.refund})"
        case State.FAILED | State.CANCELED:
            how = "failed" if request.state is State.FAILED else "was canceled"
            return f"failed: {what} {how} at Stripe, and did not arrive ({request.refund})"
        case State.REJECTED:
            return f"refused: {why or request.reason_code}"
        case State.DECLINED:
            how = "not paid" if request.reason_code == NOT_PAID else "refused by Stripe"
            return f"{how}: {what}: {why or request.reason_code}"
        case State.WITHDRAWN:
            return f"withdrawn: {what}" + (f": {why}" if why else "")
        case State.OUTCOME_UNKNOWN:
            return f"unknown: {what} was sent, and nobody can say whether it was paid: {why or 'look at the charge in Stripe'}"
        case State.SUBMITTING:
            return f"in doubt: {what} was sent, and there is no answer yet that can be trusted; it is looked for, not sent blindly again"
        case State.RECEIVED | State.APPROVED | State.AWAITING_APPROVAL:
            return f"waiting: {what} was not sent yet"
        case _:
            assert_never(request.state)


def afterwards(unit: Unit, request: RefundRequest) -> str:
    """Say what a person did about a failed one, or one of unknown outcome, or that may have been paid twice, or can do, and for which other one it waits; else nothing.

    Who hears only of the failure may pay it in another way, too.
    """
    if (other := refunds.waits_for(unit, request)) is not None:
        unknown = other.state is State.OUTCOME_UNKNOWN
        why = (
            f"of which nobody knows whether it was paid: `refundry refund show {other.id}` says what can be done"
            if unknown
            else "which was sent and has no answer yet that can be trusted"
        )
        return f"it waits for refund request {other.id} of the same charge, {why}"
    known = [task for task in tasks.of_charge(unit, request.content.charge) if task.request == request.id]
    for task in known:
        if task.kind in TWICE and task.resolved_at is None:
            return f"it may have been paid twice: `refundry task show {task.id}` says what can be done"
    if request.state not in {State.FAILED, State.CANCELED, State.OUTCOME_UNKNOWN}:
        return ""
    for task in known:
        if task.kind not in TOLD:
            continue
        if task.kind is Kind.OUTCOME_UNKNOWN and task.resolved_at is not None:
            # What people have said of it stands in what became of it since.
            continue
        if task.replacement:
            new = task.replacement
            return f"it was replaced by refund request {new}: `refundry refund show {new}` says what became of that"
        if task.resolved_at is None:
            return f"`refundry task show {task.id}` says what can be done"
        return f"its task was resolved by {task.how}" + (f": {task.note}" if task.note else "")
    return ""


def exit_code(request: RefundRequest) -> int:
    """Tell the exit code: paid, or not."""
    return output.DONE if standing_of(request.state) is Standing.PAID else output.PARTLY
