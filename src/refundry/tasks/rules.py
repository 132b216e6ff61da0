"""Which task a happening opens, and which one it ends. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from refundry.disputes.model import Dispute, Loss
from refundry.kernel.money import shown
from refundry.kernel.outcome import SeenRefund
from refundry.refunds.model import REOPENABLE, Concern, RefundRequest, State
from refundry.tasks.model import DISPUTE_PATIENCE, PATIENCE, Kind, Task, task_id

FAILED = {State.FAILED: Kind.REFUND_FAILED, State.CANCELED: Kind.REFUND_CANCELED}
# The bank gives the customer the payment back then: whoever pays beside it pays twice.
DISPUTED = "charge_for_pending_refund_disputed"
# What Stripe's reasons say in words (stripe-facts 3.3).
WHY = {
    "lost_or_stolen_card": "the card was lost or stolen",
    "expired_or_canceled_card": "the card has expired or was canceled",
    DISPUTED: "the payment was disputed meanwhile, and the bank takes the money itself",
    "insufficient_funds": "your balance at Stripe was too low",
    "declined": "the customer's bank declined it",
    "merchant_request": "it was called back",
}


def opened_by(concern: Concern, now: float, alive: SeenRefund | None = None) -> Task | None:
    """Tell the task that a concern opens; `None`, if it opens none.

    Args:
        concern: What has happened.
        now: By the database's clock.
        alive: A refund that carries the request's id too, and whose money is out.
    """
    before, change = concern.before, concern.change
    if before is None:
        return _unknown(concern, now) if concern.refund is not None and not concern.refund.over else None
    if change is None:
        return None
    after = change.after
    if change.break_ is not None and change.break_.code == Kind.PAID_TWICE and concern.refund is not None:
        text = f"{change.break_.text}: the customer has got it twice; ask for it back, or write it off, and note what you did"
        return _task(Kind.PAID_TWICE, concern, concern.refund, text, now, subject=concern.refund.id)
    if concern.refund is not None and _over_before(before, concern.refund):
        text = _after_all(before, concern.refund)
        return _task(Kind.PAID_AFTER_ALL, concern, concern.refund, text, now, subject=concern.refund.id)
    if after.state is before.state and after.state is not State.REQUIRES_ACTION:
        return None
    if after.state in FAILED:
        task = _task(FAILED[after.state], concern, concern.refund, _failed(before, after, alive), now, subject=after.id)
        return replace(task, due_at=now + DISPUTE_PATIENCE) if after.reason_code == DISPUTED else task
    if after.state is State.REQUIRES_ACTION and concern.refund is not None:
        return _action(concern, concern.refund, now)
    return unsure(after, now) if after.state is State.OUTCOME_UNKNOWN else None


def unsure(request: RefundRequest, now: float) -> Task:
    """Write the task about a request of unknown outcome."""
    content, kind = request.content, Kind.OUTCOME_UNKNOWN
    return Task(
        task_id(kind, request.account, _attempt_of(request)), request.account, kind, request.id, None, content.charge,
        request.amount_minor, content.currency, _unsure(request), now, now + PATIENCE[kind],
    )  # fmt: skip


def ended_by(concern: Concern) -> str | None:
    """Tell the id of the task that a concern ends: the customer has acted, or it is over, or its refund was found; or the request is here by now."""
    before, change = concern.before, concern.change
    if change is None and before is not None and concern.refund is not None:
        return task_id(Kind.UNKNOWN_REFUNDRY, concern.account, concern.refund.id)
    if before is None or change is None or before.state is change.after.state:
        return None
    if before.state is State.OUTCOME_UNKNOWN:
        return task_id(Kind.OUTCOME_UNKNOWN, concern.account, _attempt_of(before))
    return task_id(Kind.REQUIRES_ACTION, concern.account, before.id) if before.state is State.REQUIRES_ACTION else None


def _attempt_of(request: RefundRequest) -> str:
    # One of which people have said that it was not paid may be sent again, and that outcome be unknown too.
    return f"{request.id}.{request.attempt}"


def _task(kind: Kind, concern: Concern, refund: SeenRefund | None, text: str, now: float, *, subject: str) -> Task:
    request = concern.change.after if concern.change is not None else None
    amount, currency = (refund.amount_minor, refund.currency) if refund else (0, "")
    if request is not None and kind not in {Kind.PAID_TWICE, Kind.PAID_AFTER_ALL}:
        amount, currency = request.amount_minor, request.content.currency
    return Task(
        task_id(kind, concern.account, subject), concern.account, kind, request.id if request else None,
        refund.id if refund else request.refund if request else None, concern.charge, amount, currency, text, now,
        now + PATIENCE[kind],
    )  # fmt: skip


def _failed(before: RefundRequest, after: RefundRequest, alive: SeenRefund | None) -> str:
    money = shown(after.amount_minor, after.content.currency)
    told = WHY.get(
        after.reason_code, f"Stripe says {after.reason_code}" if after.reason_code else "Stripe does not say why"
    )
    late = "had been told as paid, and " if before.state is State.SETTLED else ""
    now = (
        "and the customer is to have it from the bank: pay nothing while the dispute is open (`refundry dispute list`); once it is won, "
        "replace it by a new request, and once it is lost, give up"
        if after.reason_code == DISPUTED
        else "and the customer has none of it: pay in another way and note how, replace it by a new request, or give up"
    )
    if alive is not None:
        now = (
            f"and the customer gets another one: {alive.id} over {shown(alive.amount_minor, alive.currency)} carries the id of this request too, "
            f"and is {alive.status}. Pay nothing beside it, and give up"
        )
    return (
        f"{after.refund} over {money} of {after.content.charge} {late}has {_word(after.state)} at Stripe: {told}. The money is back on your "
        f"balance {now}"
    )


def _unsure(after: RefundRequest) -> str:
    return (
        f"{shown(after.amount_minor, after.content.currency)} of {after.content.charge} were sent, and nobody can say whether they were paid: "
        f"{after.reason_text}. Look at the payment in Stripe. If its refund is there, name it (paid_by, with --refund re_…). If there is none, "
        "say so (not_paid), 25 hours after the last send at the earliest, and have a second person say so too: then it may be tried again"
    )


def _over_before(before: RefundRequest, refund: SeenRefund) -> bool:
    """Tell whether a refund has paid a request that was over, and that whoever has read so may have paid in another way."""
    over = before.state in REOPENABLE or (before.state in FAILED and refund.id != before.refund)
    return over and not refund.over and refund.charge == before.content.charge


def _after_all(before: RefundRequest, refund: SeenRefund) -> str:
    money = shown(refund.amount_minor, refund.currency)
    if before.state in FAILED:
        was = f"whose refund {before.refund} has {_word(before.state)}"
        now = f"The customer gets this one: pay nothing beside it, and resolve the task about {before.refund}, if it is open, by give_up"
    elif before.attempt:
        was, now = (
            _was(before),
            "Ask for that request again, as it was asked for: it is paid by this refund then, and nothing is sent",
        )
    else:
        was, now = _was(before), "Nothing was sent from here: see that no second installation pays the same files"
    return (
        f"{refund.id} over {money} of {refund.charge} is at Stripe for refund request {before.id}, {was}. {now}. See whether it was paid in "
        "another way meanwhile; if so, ask for one of the two back, or write it off, and note what you did"
    )


def _was(before: RefundRequest) -> str:
    why = before.reason_text or before.reason_code
    return f"which was {before.state}{f' ({why})' if why else ''}"


def _word(state: State) -> str:
    return "been canceled" if state is State.CANCELED else "failed"


def _action(concern: Concern, refund: SeenRefund, now: float) -> Task:
    money = shown(refund.amount_minor, refund.currency)
    until = f" until {moment(refund.action_until)}" if refund.action_until else ""
    text = (
        f"{refund.id} over {money} of {refund.charge} waits for the customer, whom Stripe has asked by e-mail where to send the money"
        f"{until}; without an answer it fails. Remind the customer; or cancel it first, and only then pay in another way"
    )
    change = concern.change
    task = _task(Kind.REQUIRES_ACTION, concern, refund, text, now, subject=change.after.id if change else refund.id)
    return task if refund.action_until is None else replace(task, due_at=refund.action_until)


def moment(at: float) -> str:
    """Write a time for people: `2026-11-24 10:03 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _unknown(concern: Concern, now: float) -> Task | None:
    refund = concern.refund
    if refund is None:
        return None
    text = (
        f"{refund.id} over {shown(refund.amount_minor, refund.currency)} of {refund.charge} was made by a Refundry, and not by this one: by "
        "another installation on the same account, or before a database was lost. See that no second installation pays the same files, "
        "and note what it was"
    )
    return _task(Kind.UNKNOWN_REFUNDRY, concern, refund, text, now, subject=refund.id)


def double_loss(account: str, charge: str, loss: Loss, currency: str, disputes: list[Dispute], now: float) -> Task:
    """Write the task about what has left twice for a charge."""
    ids = ", ".join(
        dispute.id
        if dispute.currency == currency
        else f"{dispute.id} over {shown(dispute.amount_minor, dispute.currency)}, counted as all that was paid"
        for dispute in disputes
    )
    refunded, taken = shown(loss.refunded_minor, currency), shown(loss.taken_minor, currency)
    text = (
        f"{charge} has given back {refunded} by refunds, and chargebacks ({ids}) have taken {taken}: {shown(loss.amount_minor, currency)} "
        "more than was paid. Nothing more is refunded; contest the dispute with the refund as evidence, and note what came of it"
    )
    return Task(
        task_id(Kind.DOUBLE_LOSS, account, charge), account, Kind.DOUBLE_LOSS, None, None, charge, loss.amount_minor,
        currency, text, now, now + PATIENCE[Kind.DOUBLE_LOSS],
    )  # fmt: skip
