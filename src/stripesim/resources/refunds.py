"""Refunds: made, settled, failed, canceled, and what each does to the charge and to the balance.

The states and their reasons follow docs.stripe.com/refunds. A refund's document holds what differs from `TEMPLATE`;
`behaviour` keeps how it goes on, `low` the currency whose balance it waits for, and `booked` whether its money has left.
"""

from typing import Any

from stripesim import cards, ids
from stripesim.call import Call
from stripesim.cards import ACTION, BANK, FAILS, PENDS, REVERSES, STAYS, SUCCEEDS, UNREFERENCED, Means
from stripesim.clock import midnight_after
from stripesim.errors import StripeError, missing, refused
from stripesim.money import shown
from stripesim.params import merged
from stripesim.registry import View, job, kind, route
from stripesim.resources import charges, connect, disputes, reviews
from stripesim.store import Doc
from stripesim.world import Scope, World

FAILURES = (
    "lost_or_stolen_card",
    "expired_or_canceled_card",
    "charge_for_pending_refund_disputed",
    "insufficient_funds",
    "declined",
    "merchant_request",
    "unknown",
)
REASONS = ("duplicate", "fraudulent", "requested_by_customer")
OVER = {"failed", "canceled"}
# Stripe documents these two without telling when they come; a test chooses them for a charge (docs.stripe.com/error-codes).
CLOSED = {
    "refund_disputed_payment": "You cannot refund a disputed payment.",
    "charge_not_refundable": "The charge is no longer refundable.",
}
TEMPLATE: Doc = {
    "object": "refund",
    "balance_transaction": None,
    "charge": None,
    "customer": None,
    "customer_account": None,
    "metadata": {},
    "payment_intent": None,
    "payment_method": None,
    "reason": None,
    "receipt_number": None,
    "source_transfer_reversal": None,
    "transfer_reversal": None,
}
PRIVATE = ("behaviour", "low", "booked", "means", "arn")
# What stands in `arn` once it is sure that no reference number will come.
NO_ARN = "unavailable"
# How soon after the payment a refund may still go out as its reversal (docs.stripe.com/refunds: "usually within ~2 h").
REVERSAL_SECONDS = 7200
AMOUNT = {"is": "int", "min": 1}
# Endive adds these to refunds of some methods; dahlia shows the bare hash.
REFERENCED = {"afterpay_clearpay", "klarna", "paypal"}
# Refunds of these methods have a hash of their own in `destination_details`; of the others, only the type is told.
DETAILED = REFERENCED | {"alipay", "cashapp", "eps", "p24"}
# Methods without a native refund: the money goes to a bank account that the customer names.
TRANSFERS = {
    "konbini": "jp_bank_transfer",
    "promptpay": "th_bank_transfer",
    "boleto": "br_bank_transfer",
    **{
        f"customer_balance/{currency}": f"{place}_bank_transfer"
        for currency, place in (("usd", "us"), ("eur", "eu"), ("gbp", "gb"), ("jpy", "jp"), ("mxn", "mx"))
    },
}


@kind("refund", "re_", "charge", "payment_intent", "low")
def render(view: View, doc: Doc) -> Doc:
    """Show a refund; what has no value yet is absent, not null."""
    answer = TEMPLATE | {name: value for name, value in doc.items() if name not in PRIVATE}
    answer["destination_details"] = _destination(view, doc)
    return answer


def _destination(view: View, doc: Doc) -> Doc:
    means = cards.BY_NAME[doc["means"]]
    if means.type != "card":
        details: Doc = {}
        if means.type in REFERENCED and view.version.endswith("endive"):
            details = _reference(doc)
        if means.type not in DETAILED:
            way = TRANSFERS.get(means.type) or TRANSFERS.get(f"{means.type}/{doc['currency']}", means.type)
            return {way: {"reference": None}, "type": way} if way.endswith("_bank_transfer") else {"type": way}
        return {means.type: details, "type": means.type}
    if doc["status"] == "pending":
        return {"card": {"type": "pending"}, "type": "card"}
    if doc["behaviour"] == REVERSES:
        # The payment vanishes from the statement: there is nothing that a reference could name.
        return {"card": {"type": "reversal"}, "type": "card"}
    card: Doc = {"reference_type": "acquirer_reference_number", "type": "refund"}
    return {"card": card | _reference(doc), "type": "card"}


def _reference(doc: Doc) -> Doc:
    match doc.get("arn"):
        case None:
            return {"reference_status": "pending"}
        case arn if arn == NO_ARN:
            return {"reference_status": NO_ARN}
        case arn:
            return {"reference": arn, "reference_status": "available"}


def _locks(call: Call) -> tuple[str, ...]:
    """Hold the charge, by whatever name the call goes: its own, its payment intent's, or that of a refund of it."""
    if refund := call.world.find("refund", call.path.get("refund", ""), call.scope):
        return (refund["charge"],)
    if "charge" in call.path:
        return (call.path["charge"],)
    if charge := call.params.get("charge"):
        return (charge,)
    intent = call.world.find("payment_intent", call.params.get("payment_intent", ""), call.scope)
    return (intent["latest_charge"],) if intent and intent.get("latest_charge") else ()


@route("POST /v1/refunds", "refund", parameters={"amount": AMOUNT, "reason": "str"}, locks=_locks)
def create_refund(call: Call) -> Doc:
    """Refund a charge, named by itself or by its payment intent."""
    return call.show("refund", _create(call, _charge(call)))


@route("POST /v1/charges/{charge}/refunds", "refund", parameters={"amount": AMOUNT, "reason": "str"}, locks=_locks)
def create_scoped(call: Call) -> Doc:
    """Refund a charge, the older way; answers with the refund."""
    return call.show("refund", _create(call, call.need("charge", call.path["charge"])))


@route("POST /v1/charges/{charge}/refund", "refund", parameters={"amount": AMOUNT, "reason": "str"}, locks=_locks)
def create_oldest(call: Call) -> Doc:
    """Refund a charge, the oldest way; answers with the charge."""
    charge = call.need("charge", call.path["charge"])
    _create(call, charge)
    return call.show("charge", charge)


def _charge(call: Call) -> Doc:
    """Find the charge that a refund names."""
    params = call.params
    if params.get("origin") == "customer_balance":
        text = "The customer's cash balance is too low for this refund."
        raise StripeError(400, text, param="amount")
    if "charge" in params and "payment_intent" in params and not call.world.settings.refund_both_references:
        raise refused("payment_intent", "You may only specify one of these parameters: payment_intent, charge.")
    if "charge" in params:
        return call.need("charge", params["charge"])
    if "payment_intent" not in params:
        text = "One of the following params should be provided for this request: payment_intent or charge."
        raise refused(None, text)
    intent = call.need("payment_intent", params["payment_intent"], param="payment_intent")
    found = call.world.find("charge", intent.get("latest_charge") or "", call.scope)
    if found is None:
        raise _unsuccessful(intent["id"])
    return found


def _unsuccessful(intent: str) -> StripeError:
    return StripeError(400, f"This PaymentIntent ({intent}) does not have a successful charge to refund.")


def _check(world: World, charge: Doc, params: Doc) -> int:
    """Tell the amount to refund, or refuse, in the order in which Stripe's checks bite."""
    if charge.get("status", "succeeded") == "failed" or charge.get("released"):
        raise _unsuccessful(charge.get("payment_intent") or charge["id"])
    if not charge.get("captured", True):
        raise _uncaptured(charge)
    if disputes.blocks(world, charge):
        text = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise StripeError(400, text, code="charge_disputed")
    if (reason := params.get("reason")) and reason not in REASONS:
        raise refused("reason", "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer")
    if (closed := charge.get("refund_behaviour")) in CLOSED:
        raise StripeError(400, CLOSED[closed], code=closed)
    oldest = world.settings.refund_age_max
    if oldest and world.clock.now() - charge["created"] > oldest:
        text = f"Charge {charge['id']} is too old to be refunded."
        raise StripeError(400, text, code="charge_not_refundable")
    rest = charges.rest(charge)
    if rest <= 0:
        text = f"Charge {charge['id']} has already been refunded."
        raise StripeError(400, text, code="charge_already_refunded")
    amount: int = params.get("amount", rest)
    _check_amount(charge, amount, rest)
    return amount


def _uncaptured(charge: Doc) -> StripeError:
    if intent := charge.get("payment_intent"):
        text = (
            f"This uncaptured Charge was created by a PaymentIntent ({intent}). You must cancel the PaymentIntent to "
            "reverse the authorization instead of refunding the Charge directly. For more information, see "
            "https://stripe.com/docs/payments/place-a-hold-on-a-payment-method"
        )
        return StripeError(400, text)
    return StripeError(400, f"Charge {charge['id']} has not been captured.", code="charge_not_refundable")


def _check_amount(charge: Doc, amount: int, rest: int) -> None:
    currency = charge["currency"]
    if amount > rest:
        untouched = not charge.get("amount_refunded")
        what = "charge amount" if untouched else "unrefunded amount on charge"
        text = f"Refund amount ({shown(amount, currency)}) is greater than {what} ({shown(rest, currency)})"
        raise StripeError(400, text, param="amount")
    charges.check_unit(amount, currency)


def _create(call: Call, charge: Doc) -> Doc:
    amount = _check(call.world, charge, call.params)
    connect.check_refund(call, charge)
    refund = _begun(call.world, call.scope, charge, amount, call.params)
    connect.refunded(call, charge, refund)
    finish(call.world, call.scope, charge, refund)
    return refund


def by_hand(world: World, scope: Scope, charge: Doc, params: Doc) -> Doc:
    """Refund a charge as a person in Stripe's Dashboard would.

    Args:
        world: The state.
        scope: The account of the charge.
        charge: The charge.
        params: `amount` (all of the rest, if left out), `reason`, `metadata`.

    Raises:
        StripeError: As `POST /v1/refunds` would refuse it.
    """
    amount = _check(world, charge, params)
    refund = _begun(world, scope, charge, amount, params)
    finish(world, scope, charge, refund)
    return refund


def _begun(world: World, scope: Scope, charge: Doc, amount: int, params: Doc) -> Doc:
    refund = start(world, scope, charge, amount, cards.BY_NAME[charge.get("means", "visa")])
    for name in ("reason", "instructions_email"):
        if params.get(name):
            refund[name] = params[name]
    if (action := refund.get("next_action")) and (email := params.get("instructions_email")):
        action["display_details"]["email_sent"]["email_sent_to"] = email
    refund["metadata"] = merged({}, params.get("metadata"))
    return refund


def start(world: World, scope: Scope, charge: Doc, amount: int, means: Means) -> Doc:
    """Begin a refund, whoever asks: its id, its way, and whether the balance bears it. Nothing is kept yet.

    Raises:
        StripeError: 400 with `message_code: insufficient_balance_for_refund`, far below the balance.
    """
    seq = world.store.number("refund")
    prefix = "re_" if means.type == "card" else "pyr_"
    refund: Doc = {
        "id": f"{prefix}{ids.stem_of(charge['id'])}0{ids.token(world.seed, 'refund', seq, length=7)}",
        "seq": seq,
        "amount": amount,
        "charge": charge["id"],
        "created": world.clock.seconds(),
        "currency": charge["currency"],
        "customer": charge.get("customer"),
        "payment_intent": charge.get("payment_intent"),
        "payment_method": charge.get("payment_method"),
        "means": means.name,
        "behaviour": _behaviour(world, charge, means),
    }
    _settle_balance(world, scope, charge, refund, means)
    return refund


def _behaviour(world: World, charge: Doc, means: Means) -> str:
    """Tell how a refund goes; only a card payment can be reversed, and only soon after it was made."""
    way: str = charge.get("refund_behaviour") or means.refund
    late = world.clock.now() - charge["created"] > REVERSAL_SECONDS
    return means.refund if way == REVERSES and (late or means.type != "card") else way


def _settle_balance(world: World, scope: Scope, charge: Doc, refund: Doc, means: Means) -> None:
    need, currency, _ = world.settled(scope, refund["amount"], refund["currency"])
    waiting = sum(
        world.settled(scope, other["amount"], other["currency"])[0]
        for other in world.store.every("refund", scope.number, low=currency)
    )
    left = world.available(scope, currency) - waiting - need
    if means.type == "card" and left < -world.settings.overdraft:
        text = "Insufficient funds in your Stripe balance to refund this amount."
        raise StripeError(400, text, extra={"message_code": "insufficient_balance_for_refund"})
    behaviour = refund["behaviour"]
    if left < 0:
        refund |= {"status": "pending", "pending_reason": "insufficient_funds"}
        if means.type == "card":
            refund["low"] = currency
    elif behaviour == ACTION:
        email = refund.get("instructions_email")
        expires = int(world.clock.now() + world.settings.action_expiry)
        sent = {"email_sent_at": world.clock.seconds(), "email_sent_to": email or "customer@example.com"}
        refund |= {
            "status": "requires_action",
            "next_action": {"type": "display_details", "display_details": {"email_sent": sent, "expires_at": expires}},
        }
    elif charge.get("status") == "pending":
        refund |= {"status": "pending", "pending_reason": "charge_pending"}
    elif behaviour in {PENDS, BANK, STAYS}:
        refund |= {"status": "pending", "pending_reason": "processing"}
    else:
        refund["status"] = "succeeded"


def finish(world: World, scope: Scope, charge: Doc, refund: Doc) -> None:
    """Keep a new refund: on the charge, in the balance, in the events, and what will become of it."""
    seq = refund.pop("seq")
    if refund.get("pending_reason") != "insufficient_funds":
        # Also while the customer is asked where to: a canceled refund has a `failure_balance_transaction` (stripe-facts 3.4).
        _book(world, scope, charge, refund)
    world.insert("refund", scope, seq, refund)
    before = {"amount_refunded": charge.get("amount_refunded", 0)}
    charge["amount_refunded"] = before["amount_refunded"] + refund["amount"]
    if charge["amount_refunded"] >= charge["amount_captured"]:
        before["refunded"] = False
    world.save("charge", charge)
    world.emit(scope, "refund.created", "refund", refund)
    if refund["status"] == "succeeded" or not world.settings.charge_refunded_at_success:
        world.emit(scope, "charge.refunded", "charge", charge, before)
    disputes.refunded(world, scope, charge)
    if charges.rest(charge) <= 0:
        fraud = refund.get("reason") == "fraudulent"
        reviews.end(world, scope, charge, "refunded_as_fraud" if fraud else "refunded")
    _plan(world, scope, refund)


def _book(world: World, scope: Scope, charge: Doc, refund: Doc) -> None:
    means = cards.BY_NAME[refund["means"]]
    row = world.book(
        scope,
        type="refund" if means.type == "card" else "payment_refund",
        reporting_category="refund",
        amount=-refund["amount"],
        currency=refund["currency"],
        source=refund["id"],
        description="REFUND FOR " + ("CHARGE" if means.type == "card" else "PAYMENT") + _described(charge),
        available_on=world.funds_at(),
    )
    refund |= {"balance_transaction": row["id"], "booked": -row["net"]}


def _described(charge: Doc) -> str:
    return f" ({charge['description']})" if charge.get("description") else ""


def _plan(world: World, scope: Scope, refund: Doc) -> None:
    settings, place = world.settings, {"scope": scope.number, "refund": refund["id"]}
    behaviour = refund["behaviour"]
    if refund["status"] == "requires_action":
        world.schedule(settings.action_expiry, "refund_expires", **place)
    elif refund.get("pending_reason") == "insufficient_funds":
        if refund.get("low"):
            world.schedule(settings.low_balance_expiry, "refund_starves", **place)
            _watch_balance(world, scope)
        else:
            world.schedule(settings.bank_failure_delay, "refund_fails", reason="insufficient_funds", **place)
    elif refund["status"] == "pending" and behaviour != STAYS:
        delay = settings.bank_delay if behaviour in {BANK, ACTION} else settings.pending_delay
        if refund.get("pending_reason") == "charge_pending":
            # First the payment has to arrive.
            delay += settings.bank_charge_delay
        world.schedule(delay, "refund_succeeds", **place)
    elif refund["status"] == "succeeded":
        world.schedule(settings.arn_delay, "refund_referenced", **place)
        if behaviour == FAILS:
            world.schedule(settings.fail_delay, "refund_fails", reason="expired_or_canceled_card", **place)


def _watch_balance(world: World, scope: Scope) -> None:
    """Look again when more money becomes available, and at the next midnight if none is on its way yet."""
    sql = "SELECT min(available_on) FROM maturing WHERE scope=? AND available_on>?"
    row = world.store.db.execute(sql, (scope.number, world.clock.now())).fetchone()
    due = row[0] if row[0] is not None else midnight_after(world.clock.now(), 0)
    world.schedule(due - world.clock.now(), "balance_grew", scope=scope.number)


@job("balance_grew")
def balance_grew(world: World, scope: int) -> None:
    """Let refunds that wait for the balance go out, oldest first, as far as it bears them."""
    owner = world.numbered[scope]
    waiting = sorted(
        (r for r in world.store.every("refund", scope) if r.get("low")), key=lambda r: (r["created"], r["id"])
    )
    for refund in waiting:
        need, currency, _ = world.settled(owner, refund["amount"], refund["currency"])
        if world.available(owner, currency) < need:
            continue
        charge = world.find("charge", refund["charge"])
        if charge is not None:
            _book(world, owner, charge, refund)
        refund["low"] = None
        if refund["behaviour"] == STAYS:
            change(world, owner, refund, pending_reason="processing")
        else:
            succeed(world, owner, refund)
    if any(refund.get("low") for refund in waiting):
        _watch_balance(world, owner)


def change(world: World, scope: Scope, refund: Doc, **to: Any) -> None:  # noqa: ANN401  # a refund's members
    """Change a refund and tell of it; `None` takes a member away."""
    before: Doc = {}
    shown_before = world.show("refund", refund, scope)
    for name, value in to.items():
        if value is None:
            refund.pop(name, None)
        else:
            refund[name] = value
    world.save("refund", refund)
    shown_after = world.show("refund", refund, scope)
    for name in shown_before | shown_after:
        if shown_before.get(name) != shown_after.get(name):
            before[name] = shown_before.get(name)
    if to.get("status") == "failed":
        world.emit(scope, "refund.failed", "refund", refund)
    for event in ("refund.updated", "charge.refund.updated"):
        world.emit(scope, event, "refund", refund, before)


def succeed(world: World, scope: Scope, refund: Doc) -> None:
    """A pending refund has gone through."""
    change(world, scope, refund, status="succeeded", pending_reason=None, next_action=None)
    charge = world.find("charge", refund["charge"])
    if charge is not None and world.settings.charge_refunded_at_success:
        world.emit(scope, "charge.refunded", "charge", charge)
    place = {"scope": scope.number, "refund": refund["id"]}
    world.schedule(world.settings.arn_delay, "refund_referenced", **place)
    if refund["behaviour"] == FAILS:
        world.schedule(world.settings.fail_delay, "refund_fails", reason="expired_or_canceled_card", **place)


def undo(world: World, scope: Scope, refund: Doc, status: str, reason: str) -> None:
    """A refund failed or was canceled: the money is back on the merchant's balance, and must be given another way."""
    charge = world.find("charge", refund["charge"])
    to: Doc = {"status": status, "failure_reason": reason, "pending_reason": None, "next_action": None, "low": None}
    # A small amount in a strong currency may be booked as nothing: that is a row too.
    if refund.get("booked") is not None and charge is not None:
        # In the currency in which it left, whatever the account settles in by now.
        taken = world.store.get("balance_transaction", refund["balance_transaction"])
        row = world.book(
            scope,
            type="refund_failure",
            reporting_category="refund_failure",
            amount=refund["booked"],
            currency=taken[1]["currency"] if taken else refund["currency"],
            exact=True,
            source=refund["id"],
            description="REFUND FAILURE" + _described(charge),
        )
        to["failure_balance_transaction"] = row["id"]
    if charge is not None and world.settings.failed_refund_frees_charge:
        charge["amount_refunded"] -= refund["amount"]
        world.save("charge", charge)
    change(world, scope, refund, **to)


def _due(world: World, refund: str, *states: str) -> Doc | None:
    doc = world.find("refund", refund)
    return doc if doc is not None and doc["status"] in states else None


@job("refund_succeeds")
def succeeds(world: World, scope: int, refund: str) -> None:
    """Settle a pending refund."""
    if (doc := _due(world, refund, "pending")) and not doc.get("low"):
        succeed(world, world.numbered[scope], doc)


@job("refund_fails")
def fails(world: World, scope: int, refund: str, reason: str) -> None:
    """Let a refund fail, also one that had succeeded; for want of money only one that still waits for it."""
    states = ("pending",) if reason == "insufficient_funds" else ("pending", "succeeded")
    if doc := _due(world, refund, *states):
        undo(world, world.numbered[scope], doc, "failed", reason)


@job("refund_starves")
def starves(world: World, scope: int, refund: str) -> None:
    """Let a refund fail for which the balance never sufficed."""
    if (doc := _due(world, refund, "pending")) and doc.get("low"):
        undo(world, world.numbered[scope], doc, "failed", "insufficient_funds")


@job("refund_expires")
def expires(world: World, scope: int, refund: str) -> None:
    """Let a refund fail whose customer never said where to."""
    doc = _due(world, refund, "requires_action")
    # After a bank's return the customer was asked anew, and has as long again.
    if doc and doc["next_action"]["display_details"]["expires_at"] <= world.clock.now():
        undo(world, world.numbered[scope], doc, "failed", "unknown")


@job("refund_referenced")
def referenced(world: World, scope: int, refund: str) -> None:
    """Fill in the acquirer's reference number."""
    doc = _due(world, refund, "succeeded")
    if doc and not doc.get("arn") and doc["behaviour"] != REVERSES:
        number = int(ids.token(world.seed, "arn", refund).encode().hex(), 16) % 10**16
        arn = NO_ARN if doc["behaviour"] == UNREFERENCED else f"{number:016d}"
        change(world, world.numbered[scope], doc, arn=arn)


def settle(world: World, scope: Scope, refund: Doc) -> None:
    """Let a pending refund go through now, also one that waited for the balance."""
    charge = world.find("charge", refund["charge"])
    if charge is not None and refund.get("booked") is None:
        _book(world, scope, charge, refund)
    refund["low"] = None
    succeed(world, scope, refund)


def returned(world: World, scope: Scope, refund: Doc) -> None:
    """The customer's bank sent the money back: the customer is asked again where it should go."""
    sent = {"email_sent_at": world.clock.seconds(), "email_sent_to": "customer@example.com"}
    expires_at = int(world.clock.now() + world.settings.action_expiry)
    details = {"email_sent": sent, "expires_at": expires_at}
    action = {"type": "display_details", "display_details": details}
    # It no longer waits for the balance: `low` would let it be booked a second time when the balance grows.
    change(world, scope, refund, status="requires_action", pending_reason=None, next_action=action, low=None)
    world.schedule(world.settings.action_expiry, "refund_expires", scope=scope.number, refund=refund["id"])


def customer_acts(world: World, scope: Scope, refund: Doc) -> None:
    """The customer said where the money should go: the transfer begins."""
    charge = world.find("charge", refund["charge"])
    if charge is not None and refund.get("booked") is None:
        _book(world, scope, charge, refund)
    change(world, scope, refund, status="pending", pending_reason="processing", next_action=None)
    if refund["behaviour"] == STAYS:
        return
    world.schedule(world.settings.bank_delay, "refund_succeeds", scope=scope.number, refund=refund["id"])


@job("authorization_expires")
def authorization_expires(world: World, scope: int, charge: str) -> None:
    """Release an authorised charge that nobody captured in time, and cancel its payment intent."""
    owner, doc = world.numbered[scope], world.find("charge", charge)
    if doc is None or doc.get("captured", True) or doc.get("released"):
        return
    release(world, owner, doc, reason="expired_uncaptured_charge")
    world.emit(owner, "charge.expired", "charge", doc)
    intent = world.find("payment_intent", doc.get("payment_intent") or "")
    if intent is not None:
        canceled = {"status": "canceled", "canceled_at": world.clock.seconds(), "cancellation_reason": "automatic"}
        intent |= canceled | {"amount_capturable": 0}
        world.save("payment_intent", intent)
        world.emit(owner, "payment_intent.canceled", "payment_intent", intent)


def release(world: World, scope: Scope, charge: Doc, reason: str | None = None) -> None:
    """Release an authorised charge: Stripe shows that as a refund of its own making."""
    seq = world.store.number("refund")
    refund = {
        "id": f"re_{ids.stem_of(charge['id'])}0{ids.token(world.seed, 'refund', seq, length=7)}",
        "amount": charge["amount"],
        "charge": charge["id"],
        "created": world.clock.seconds(),
        "currency": charge["currency"],
        "customer": charge.get("customer"),
        "payment_intent": charge.get("payment_intent"),
        "payment_method": charge.get("payment_method"),
        "means": charge.get("means", "visa"),
        "behaviour": SUCCEEDS,
        "status": "succeeded",
        "reason": reason,
    }
    world.insert("refund", scope, seq, refund)
    charge |= {"amount_refunded": charge["amount"], "released": True}
    world.save("charge", charge)
    world.emit(scope, "refund.created", "refund", refund)
    world.emit(scope, "charge.refunded", "charge", charge, {"amount_refunded": 0, "refunded": False})


@route("GET /v1/refunds", "refund")
def list_refunds(call: Call) -> Doc:
    """List refunds. A list of one charge or payment intent carries a `count` that the documentation does not mention."""
    call.given("charge", "charge")
    call.given("payment_intent", "payment_intent")
    answer = call.page("refund", "/v1/refunds", "charge", "payment_intent")
    equal = {name: call.params[name] for name in ("charge", "payment_intent") if call.params.get(name)}
    if equal:
        there = call.world.existing("refund")
        answer["count"] = call.world.store.count("refund", call.scope.number, equal, there)
    return answer


@route("GET /v1/refunds/{refund}", "refund")
def retrieve_refund(call: Call) -> Doc:
    """Retrieve a refund."""
    return call.show("refund", _need(call))


@route("POST /v1/refunds/{refund}", "refund")
def update_refund(call: Call) -> Doc:
    """Change a refund's metadata."""
    return _update(call, _need(call))


def _update(call: Call, refund: Doc) -> Doc:
    if "metadata" in call.params:
        change(call.world, call.scope, refund, metadata=merged(refund.get("metadata", {}), call.params["metadata"]))
    return call.show("refund", refund)


@route("POST /v1/refunds/{refund}/cancel", "refund", locks=_locks)
def cancel_refund(call: Call) -> Doc:
    """Cancel a refund that waits for its customer."""
    refund = _need(call)
    if refund["status"] != "requires_action":
        raise StripeError(400, "Canceling this refund is unsupported.")
    undo(call.world, call.scope, refund, "canceled", "merchant_request")
    return call.show("refund", refund)


@route("POST /v1/test_helpers/refunds/{refund}/expire", "refund", locks=_locks)
def expire_refund(call: Call) -> Doc:
    """Expire a refund that waits for its customer (test mode)."""
    refund = _need(call)
    if refund["status"] != "requires_action":
        raise StripeError(400, "This refund cannot be expired because it does not require action.")
    undo(call.world, call.scope, refund, "failed", "unknown")
    return call.show("refund", refund)


def _need(call: Call) -> Doc:
    refund = call.need("refund", call.path["refund"], param="refund" if "charge" in call.path else "id")
    if "charge" in call.path and refund["charge"] != call.path["charge"]:
        raise missing("refund", refund["id"], param="refund")
    return refund


@route("GET /v1/charges/{charge}/refunds", "refund")
def list_scoped(call: Call) -> Doc:
    """List the refunds of a charge."""
    charge = call.need("charge", call.path["charge"])
    return call.page("refund", f"/v1/charges/{charge['id']}/refunds", equal={"charge": charge["id"]})


@route("GET /v1/charges/{charge}/refunds/{refund}", "refund")
def retrieve_scoped(call: Call) -> Doc:
    """Retrieve a refund of a charge."""
    call.need("charge", call.path["charge"])
    return call.show("refund", _need(call))


@route("POST /v1/charges/{charge}/refunds/{refund}", "refund")
def update_scoped(call: Call) -> Doc:
    """Change the metadata of a refund of a charge."""
    call.need("charge", call.path["charge"])
    return _update(call, _need(call))
