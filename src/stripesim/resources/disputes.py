"""Disputes: inquiries and chargebacks, what they do to the charge, to its refunds and to the balance.

(docs.stripe.com/disputes/how-disputes-work; shapes and rows as recorded at 2026-08-26.dahlia)
"""

from stripesim import cards
from stripesim.call import Call
from stripesim.errors import StripeError
from stripesim.params import merged
from stripesim.registry import View, job, kind, route
from stripesim.resources import early_fraud_warnings, reviews
from stripesim.store import Doc
from stripesim.world import Scope, World

INQUIRY = {"warning_needs_response", "warning_under_review"}
OPEN = INQUIRY | {"needs_response", "under_review"}
CLOSED = {"won", "lost", "warning_closed"}
# docs.stripe.com/api/disputes/object#dispute_object-reason
REASONS = ("bank_cannot_process", "check_returned", "credit_not_processed", "customer_initiated", "debit_not_authorized", "duplicate", "fraudulent", "general", "incorrect_account_details", "insufficient_funds", "noncompliant", "product_not_received", "product_unacceptable", "subscription_canceled", "unrecognized")  # fmt: skip
DUE_DAYS = 7
DAY = 86_400
REASON_CODES = {"fraudulent": "10.4", "product_not_received": "13.1", "general": "12.1"}
EVIDENCE = ["access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication", "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id", "product_description", "receipt", "refund_policy", "refund_policy_disclosure", "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address", "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number", "uncategorized_file", "uncategorized_text"]  # fmt: skip


@kind("dispute", "du_", "charge", "payment_intent")
def render(view: View, doc: Doc) -> Doc:
    """Show a dispute with the balance transactions that it caused."""
    rows = [view.world.store.get("balance_transaction", row) for row in doc["rows"]]
    scope = view.world.numbered[doc["scope"]]
    shown_rows = [view.world.show("balance_transaction", row[1], scope, view.version) for row in rows if row]
    given = doc.get("evidence", {})
    endive = view.version.endswith("endive")
    answer: Doc = {
        "amount": doc["amount"],
        "balance_transaction": shown_rows[0]["id"] if shown_rows else None,
        "balance_transactions": shown_rows,
        "charge": doc["charge"],
        "created": doc["created"],
        "currency": doc["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {name: given.get(name) for name in EVIDENCE} | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": doc["due_by"],
            "enhanced_eligibility": {},
            "has_evidence": bool(given),
            "past_due": doc["status"] in OPEN and view.world.clock.now() > doc["due_by"],
            "submission_count": doc.get("submissions", 0),
        },
        "id": doc["id"],
        "is_charge_refundable": refundable(doc),
        "livemode": view.livemode,
        "metadata": doc.get("metadata", {}),
        "object": "dispute",
        "payment_intent": doc["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": doc["brand"],
                "case_type": "inquiry" if doc["inquiry"] else "chargeback",
                "network": doc["brand"],
                "network_reason_code": REASON_CODES.get(doc["reason"], "10.4"),
            },
            "type": "card",
        },
        "reason": doc["reason"],
        "status": doc["status"],
    }
    if endive:
        answer["evidence_details"]["submission_method"] = None
        answer["intended_submission_method"] = None
    return answer


def refundable(dispute: Doc) -> bool:
    """Tell whether the charge may be refunded: not while a chargeback is open, nor after it is lost."""
    return dispute["status"] in INQUIRY | {"warning_closed", "won"}


def blocks(world: World, charge: Doc) -> bool:
    """Tell whether a dispute of the charge, open or lost, forbids refunds (`is_charge_refundable: false`)."""
    return bool(charge.get("disputed")) and any(
        not refundable(d) for d in world.store.every("dispute", charge=charge["id"])
    )


def open_dispute(
    world: World,
    scope: Scope,
    charge: Doc,
    *,
    amount: int | None = None,
    reason: str = "fraudulent",
    inquiry: bool = False,
) -> Doc:
    """Open a dispute: an inquiry, or a chargeback that takes the money at once.

    Args:
        world: The state.
        scope: The account of the charge.
        charge: The charge.
        amount: Minor units; by default all that was captured. It may be more than the charge.
        reason: Stripe's reason.
        inquiry: Whether the bank only asks for now.
    """
    means = cards.BY_NAME[charge.get("means", "visa")]
    doc: Doc = {
        "scope": scope.number,
        "amount": amount if amount is not None else charge.get("amount_captured", charge["amount"]),
        "charge": charge["id"],
        "payment_intent": charge.get("payment_intent"),
        "currency": charge["currency"],
        "reason": reason,
        "brand": means.brand,
        "inquiry": inquiry,
        "status": "warning_needs_response" if inquiry else "needs_response",
        "due_by": (world.clock.seconds() // DAY + DUE_DAYS + 1) * DAY - 1,
        "rows": [],
    }
    world.add("dispute", scope, doc)
    charge |= {"disputed": True, "dispute": doc["id"]}
    world.save("charge", charge)
    world.emit(scope, "charge.dispute.created", "dispute", doc)
    world.emit(scope, "charge.updated", "charge", charge, {"disputed": False})
    if not inquiry:
        _withdraw(world, scope, doc)
        _fail_refunds(world, scope, charge, since=None)
    early_fraud_warnings.settled(world, scope, charge)
    reviews.end(world, scope, charge, "disputed")
    return doc


def _withdraw(world: World, scope: Scope, dispute: Doc) -> None:
    # As recorded: converted, and yet without an `exchange_rate`.
    amount, currency, _ = world.settled(scope, -dispute["amount"], dispute["currency"])
    fee = world.settings.dispute_fee
    row = world.book(
        scope,
        type="adjustment",
        reporting_category="dispute",
        amount=amount,
        currency=currency,
        exact=True,
        fee=fee,
        fee_details=[
            {
                "amount": fee,
                "application": None,
                "currency": currency,
                "description": "Dispute fee",
                "type": "stripe_fee",
            }
        ],
        source=dispute["id"],
        description=f"Chargeback withdrawal for {dispute['charge']}",
    )
    dispute["rows"].append(row["id"])
    world.save("dispute", dispute)
    world.emit(scope, "charge.dispute.funds_withdrawn", "dispute", dispute)


def _fail_refunds(world: World, scope: Scope, charge: Doc, since: float | None) -> None:
    """Fail the refunds that a chargeback overtakes: those still pending, and succeeded ones made after `since`."""
    # Refunds know disputes: they ask `blocks`.
    from stripesim.resources import refunds

    for refund in list(world.store.every("refund", charge=charge["id"])):
        young = since is not None and refund["status"] == "succeeded" and refund["created"] > since
        if refund["status"] in {"pending", "requires_action"} or young:
            refunds.undo(world, scope, refund, "failed", "charge_for_pending_refund_disputed")


def _refuse_closed(dispute: Doc) -> None:
    if dispute["status"] in CLOSED:
        raise StripeError(400, "This dispute is already closed")


def escalate(world: World, scope: Scope, dispute: Doc) -> None:
    """Turn an inquiry into a chargeback: the full amount is taken, whatever was refunded in between.

    A refund of the last minutes fails; an older one stays, and the money is out twice (measured, see the docs).
    """
    _refuse_closed(dispute)
    if dispute["status"] not in INQUIRY:
        raise StripeError(400, "This dispute is not an inquiry")
    dispute |= {"status": "needs_response", "inquiry": False}
    world.save("dispute", dispute)
    world.emit(scope, "charge.dispute.updated", "dispute", dispute, {"status": "warning_needs_response"})
    _withdraw(world, scope, dispute)
    charge = world.find("charge", dispute["charge"])
    if charge is not None:
        _fail_refunds(world, scope, charge, since=world.clock.now() - world.settings.inquiry_refund_grace)


def win(world: World, scope: Scope, dispute: Doc) -> None:
    """The merchant wins: the amount comes back, the fee does not."""
    _refuse_closed(dispute)
    if not dispute["rows"]:
        close_inquiry(world, scope, dispute)
        return
    taken = world.store.get("balance_transaction", dispute["rows"][0])
    if taken is None:
        return
    row = world.book(
        scope,
        type="adjustment",
        reporting_category="dispute_reversal",
        amount=-taken[1]["amount"],
        currency=taken[1]["currency"],
        exact=True,
        source=dispute["id"],
        description=f"Chargeback reversal for {dispute['charge']}",
        available_on=world.funds_at(),
    )
    dispute["rows"].append(row["id"])
    _close(world, scope, dispute, "won")


def lose(world: World, scope: Scope, dispute: Doc) -> None:
    """The customer wins: the money stays away."""
    _refuse_closed(dispute)
    _close(world, scope, dispute, "lost")


def close_inquiry(world: World, scope: Scope, dispute: Doc) -> None:
    """An inquiry ends without a chargeback."""
    _refuse_closed(dispute)
    if dispute["status"] not in INQUIRY:
        raise StripeError(400, "This dispute is not an inquiry")
    _close(world, scope, dispute, "warning_closed")


def _close(world: World, scope: Scope, dispute: Doc, status: str) -> None:
    before = dispute["status"]
    dispute["status"] = status
    world.save("dispute", dispute)
    world.emit(scope, "charge.dispute.updated", "dispute", dispute, {"status": before})
    if status == "won":
        world.emit(scope, "charge.dispute.funds_reinstated", "dispute", dispute)
    world.emit(scope, "charge.dispute.closed", "dispute", dispute)


def refunded(world: World, scope: Scope, charge: Doc) -> None:
    """A charge was refunded: an inquiry ends if all of it was, and fraud warnings are no longer actionable."""
    if charge["amount_refunded"] < charge["amount_captured"]:
        return
    if charge.get("disputed"):
        for dispute in list(world.store.every("dispute", charge=charge["id"])):
            if dispute["status"] in INQUIRY:
                close_inquiry(world, scope, dispute)
    early_fraud_warnings.settled(world, scope, charge)


@job("dispute_by_card")
def by_card(world: World, scope: int, charge: str) -> None:
    """Open the dispute that a test card brings about."""
    owner, doc = world.numbered[scope], world.find("charge", charge)
    if doc is None:
        return
    what = cards.BY_NAME[doc.get("means", "visa")].dispute
    way, _, rest = what.rpartition(":")
    open_dispute(world, owner, doc, reason=rest, inquiry=way == "inquiry")
    if way == "multiple":
        open_dispute(world, owner, doc, reason=rest, amount=doc["amount_captured"] // 2)


@job("dispute_verdict")
def verdict(world: World, dispute: str, text: str) -> None:
    """Let the bank answer the evidence of a test."""
    found = world.store.get("dispute", dispute)
    if found is None or found[1]["status"] in CLOSED:
        return
    scope, doc = world.numbered[found[0]], found[1]
    if "winning_evidence" in text:
        win(world, scope, doc)
    elif "losing_evidence" in text:
        lose(world, scope, doc)
    elif doc["status"] in INQUIRY:
        escalate(world, scope, doc)


# Routes


@route("GET /v1/disputes", "dispute")
def list_disputes(call: Call) -> Doc:
    """List disputes."""
    call.given("charge", "charge")
    call.given("payment_intent", "payment_intent")
    return call.page("dispute", "/v1/disputes", "charge", "payment_intent")


@route("GET /v1/disputes/{dispute}", "dispute")
def retrieve_dispute(call: Call) -> Doc:
    """Retrieve a dispute."""
    return call.show("dispute", _need(call))


@route("POST /v1/disputes/{dispute}", "dispute")
def update_dispute(call: Call) -> Doc:
    """Send evidence, or change metadata."""
    return _update(call, _need(call))


@route("POST /v1/disputes/{dispute}/close", "dispute")
def close_dispute(call: Call) -> Doc:
    """Accept a dispute as lost, an inquiry too; that cannot be undone."""
    return _accept(call, _need(call))


@route("GET /v1/charges/{charge}/dispute", "dispute")
def retrieve_of_charge(call: Call) -> Doc:
    """Retrieve the dispute of a charge."""
    return call.show("dispute", _of_charge(call))


@route("POST /v1/charges/{charge}/dispute", "dispute")
def update_of_charge(call: Call) -> Doc:
    """Send evidence to the dispute of a charge."""
    return _update(call, _of_charge(call))


@route("POST /v1/charges/{charge}/dispute/close", "dispute")
def close_of_charge(call: Call) -> Doc:
    """Accept the dispute of a charge as lost."""
    return _accept(call, _of_charge(call))


def _need(call: Call) -> Doc:
    return call.need("dispute", call.path["dispute"], param="dispute")


def _of_charge(call: Call) -> Doc:
    charge = call.need("charge", call.path["charge"])
    found = charge.get("dispute")
    if found is None:
        raise StripeError(404, f"No dispute for charge: {charge['id']}")
    return call.need("dispute", found, param="dispute")


def _update(call: Call, dispute: Doc) -> Doc:
    _refuse_closed(dispute)
    world, before = call.world, dispute["status"]
    if "metadata" in call.params:
        dispute["metadata"] = merged(dispute.get("metadata", {}), call.params["metadata"])
    given = call.params.get("evidence")
    if isinstance(given, dict):
        flat = {name: value for name, value in given.items() if name in EVIDENCE}
        dispute["evidence"] = {k: v for k, v in (dispute.get("evidence", {}) | flat).items() if v != ""}
    if call.params.get("submit", given is not None) and given:
        dispute["submissions"] = dispute.get("submissions", 0) + 1
        dispute["status"] = "warning_under_review" if dispute["inquiry"] else "under_review"
        text = str(given.get("uncategorized_text", ""))
        if any(word in text for word in ("winning_evidence", "losing_evidence", "escalate_inquiry_evidence")):
            world.schedule(world.settings.dispute_verdict_delay, "dispute_verdict", dispute=dispute["id"], text=text)
    world.save("dispute", dispute)
    world.emit(call.scope, "charge.dispute.updated", "dispute", dispute, {"status": before})
    return call.show("dispute", dispute)


def _accept(call: Call, dispute: Doc) -> Doc:
    # Nobody says what closing an inquiry does: the harsher is that its charge can never be refunded again.
    lose(call.world, call.scope, dispute)
    return call.show("dispute", dispute)
