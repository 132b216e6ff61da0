"""Charges: what was paid, and how much of it was given back.

A charge's document holds what differs from `TEMPLATE`. `means` names its card or method (`stripesim.cards`).
"""

from typing import Any

from stripesim import cards, ids
from stripesim.call import Call
from stripesim.cards import Means
from stripesim.errors import StripeError, refused
from stripesim.money import SUPPORTED, THREE_DECIMAL, WHOLE_HUNDREDS
from stripesim.params import merged
from stripesim.registry import View, job, kind, route
from stripesim.resources import connect
from stripesim.store import Doc
from stripesim.world import Scope, World

NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
BILLING = {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}
PASSED = {
    "advice_code": None,
    "network_advice_code": None,
    "network_decline_code": None,
    "network_status": "approved_by_network",
    "reason": None,
    "risk_level": "normal",
    "risk_score": 41,
    "seller_message": "Payment complete.",
    "type": "authorized",
}
TEMPLATE: Doc = {
    "object": "charge",
    "amount_captured": 0,
    "amount_refunded": 0,
    "application": None,
    "application_fee": None,
    "application_fee_amount": None,
    "balance_transaction": None,
    "billing_details": BILLING,
    "calculated_statement_descriptor": "Stripe",
    "captured": True,
    "customer": None,
    "description": None,
    "destination": None,
    "dispute": None,
    "disputed": False,
    "failure_balance_transaction": None,
    "failure_code": None,
    "failure_message": None,
    "fraud_details": {},
    "metadata": {},
    "on_behalf_of": None,
    "order": None,
    "outcome": PASSED,
    "paid": True,
    "payment_intent": None,
    "payment_method": None,
    "radar_options": {},
    "receipt_email": None,
    "receipt_number": None,
    "receipt_url": None,
    "review": None,
    "shipping": None,
    "source": None,
    "source_transfer": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "succeeded",
    "transfer_data": None,
    "transfer_group": None,
}
CARD_REST: Doc = {
    "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
    "electronic_commerce_indicator": "07",
    "exp_month": 9,
    "extended_authorization": {"status": "disabled"},
    "incremental_authorization": {"status": "unavailable"},
    "installments": None,
    "mandate": None,
    "multicapture": {"status": "unavailable"},
    "network_token": {"used": False},
    "regulated_status": "unregulated",
    "three_d_secure": None,
    "transaction_link_id": None,
    "wallet": None,
}
# Boleto shows its payer's tax number; this one belongs to nobody.
NO_TAX_ID = "000.000.000-00"
# How refunds of it go if not as its card says; whether its authorisation was released.
PRIVATE = ("refund_behaviour", "released")
METADATA = {"map": "str", "unset": True}


@kind("charge", "ch_", "customer", "payment_intent", "transfer_group", searchable=True)
def render(view: View, doc: Doc) -> Doc:
    """Show a charge."""
    shown = TEMPLATE | doc
    means = cards.BY_NAME[shown.pop("means", "visa")]
    for name in PRIVATE:
        shown.pop(name, None)
    shown["livemode"] = view.livemode
    if shown["paid"]:
        shown["receipt_url"] = f"https://pay.stripe.com/receipts/payment/{shown['id']}"
    if shown["transfer_data"]:
        shown["transfer_data"] = {"amount": None} | shown["transfer_data"]
    shown["refunded"] = shown["captured"] and shown["amount_refunded"] >= shown["amount_captured"] > 0
    shown["payment_method_details"] = _details(shown, means)
    return shown


def _details(shown: Doc, means: Means) -> Doc:
    if means.type != "card":
        rest = {"last4": means.last4} if means.last4 else {"tax_id": NO_TAX_ID} if means.type == "boleto" else {}
        return {means.type: rest, "type": means.type}
    fingerprint = ids.token("fingerprint", means.name, shown["customer"], length=16)
    number = int.from_bytes(shown["id"].encode()[-7:])
    card = CARD_REST | {
        "amount_authorized": shown["amount"],
        "authorization_code": f"{number % 1_000_000:06d}",
        "brand": means.brand,
        "country": means.country,
        "exp_year": 2030,
        "fingerprint": fingerprint,
        "funding": means.funding,
        "last4": means.last4,
        "network": means.brand,
        "network_transaction_id": f"{number % 10**15:015d}",
        "overcapture": {"maximum_amount_capturable": shown["amount"], "status": "unavailable"},
    }
    return {"card": card, "type": "card"}


def make(world: World, scope: Scope, means: Means, doc: Doc, stem: str | None = None) -> Doc:
    """Make a charge that went through, or that waits for its capture, and book its money.

    Args:
        world: The state.
        scope: The account that is paid.
        means: Card or method.
        doc: At least `amount`, `currency`, `captured`.
        stem: What its id shares with its payment intent's.
    """
    seq = world.store.number("charge")
    stem = stem or "3" + ids.token(world.seed, "stem", seq, length=15)
    prefix = "ch_" if means.type == "card" else "py_"
    charge = {
        "id": f"{prefix}{stem}0{ids.token(world.seed, 'charge', seq, length=7)}",
        "created": world.clock.seconds(),
        "means": means.name,
        "amount_captured": doc["amount"] if doc["captured"] else 0,
        **doc,
    }
    if means.refund == cards.BANK and charge["captured"] and world.settings.bank_charge_delay:
        # A bank debit takes days to arrive.
        charge |= {"status": "pending", "paid": False}
        world.schedule(world.settings.bank_charge_delay, "charge_arrives", scope=scope.number, charge=charge["id"])
    world.insert("charge", scope, seq, charge)
    if charge["captured"] and charge.get("status") != "pending":
        captured(world, scope, charge)
    elif not charge["captured"]:
        later = {"scope": scope.number, "charge": charge["id"]}
        world.schedule(world.settings.authorization_expiry, "authorization_expires", **later)
    return charge


def captured(world: World, scope: Scope, charge: Doc) -> None:
    """Do what follows the capture: the money is booked, now or a little later, and what the card brings about begins."""
    connect.charge_captured(world, scope, charge)
    if delay := world.settings.balance_transaction_delay:
        world.schedule(delay, "charge_booked", scope=scope.number, charge=charge["id"])
    else:
        _book(world, scope, charge)
    means = cards.BY_NAME[charge.get("means", "visa")]
    if means.dispute:
        world.schedule(world.settings.dispute_delay, "dispute_by_card", scope=scope.number, charge=charge["id"])
    if means.warning:
        world.schedule(world.settings.dispute_delay, "warning_by_card", scope=scope.number, charge=charge["id"])


@job("charge_arrives")
def arrives(world: World, scope: int, charge: str) -> None:
    """Let a bank debit that was pending go through, and its payment intent with it."""
    owner, doc = world.numbered[scope], world.find("charge", charge)
    if doc is None or doc.get("status") != "pending":
        return
    doc |= {"status": "succeeded", "paid": True}
    world.save("charge", doc)
    captured(world, owner, doc)
    world.emit(owner, "charge.succeeded", "charge", doc)
    intent = world.find("payment_intent", doc.get("payment_intent") or "")
    if intent is not None:
        intent |= {"status": "succeeded", "amount_received": doc["amount"]}
        world.save("payment_intent", intent)
        world.emit(owner, "payment_intent.succeeded", "payment_intent", intent)


def _book(world: World, scope: Scope, charge: Doc) -> None:
    means = cards.BY_NAME[charge.get("means", "visa")]
    row = book_charge(world, scope, charge, means)
    charge["balance_transaction"] = row["id"]
    world.save("charge", charge)


def book_charge(world: World, scope: Scope, charge: Doc, means: Means) -> Doc:
    """Write the balance transaction of a charge, with Stripe's fee and, on a direct charge, the platform's."""
    amount, currency, _ = world.settled(scope, charge["amount_captured"], charge["currency"])
    fee = fee_of(world, amount)
    details = [
        {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]
    if charge.get("application_fee_amount") and charge.get("application_fee"):
        taken = world.settled(scope, charge["application_fee_amount"], charge["currency"])[0]
        fee += taken
        details.append(
            {
                "amount": taken,
                "application": charge.get("application"),
                "currency": currency,
                "description": "Application fee",
                "type": "application_fee",
            }
        )
    return world.book(
        scope,
        type="charge" if means.type == "card" else "payment",
        reporting_category="charge",
        amount=charge["amount_captured"],
        currency=charge["currency"],
        fee=fee,
        fee_details=details,
        source=charge["id"],
        description=charge.get("description"),
        available_on=world.clock.seconds() if means.bypass else world.funds_at(),
    )


def fee_of(world: World, amount: int) -> int:
    """Compute Stripe's fee on a charge, in minor units, rounded half up."""
    return (amount * world.settings.fee_permille + 500) // 1000 + world.settings.fee_fixed


@job("charge_booked")
def booked(world: World, scope: int, charge: str) -> None:
    """Fill in the balance transaction that was null right after the charge."""
    owner = world.numbered[scope]
    doc = world.find("charge", charge)
    if doc is not None:
        _book(world, owner, doc)
        world.emit(owner, "charge.updated", "charge", doc, {"balance_transaction": None})


def rest(charge: Doc) -> int:
    """Tell what may still be refunded, in minor units."""
    return int(charge.get("amount_captured", 0)) - int(charge.get("amount_refunded", 0))


@route("GET /v1/charges", "charge")
def list_charges(call: Call) -> Doc:
    """List charges."""
    call.given("customer", "customer")
    call.given("payment_intent", "payment_intent")
    return call.page("charge", "/v1/charges", "customer", "payment_intent", "transfer_group")


@route("GET /v1/charges/{charge}", "charge")
def retrieve_charge(call: Call) -> Doc:
    """Retrieve a charge."""
    return call.show("charge", call.need("charge", call.path["charge"]))


@route("POST /v1/charges", "charge", parameters={"amount": {"is": "int", "min": 1}})
def create_charge(call: Call) -> Doc:
    """Charge a test token directly, the way before payment intents."""
    params = call.params
    for name in ("amount", "currency"):
        if name not in params:
            raise refused(name, f"Missing required param: {name}.", "parameter_missing")
    currency = known_currency(params["currency"])
    source = params.get("source") or params.get("card")
    if not isinstance(source, str):
        text = "Must provide source or customer."
        raise refused("source" if source else None, text, "parameter_missing")
    means = cards.by_token(source)
    if means is None:
        raise StripeError(400, f"No such token: '{source}'", code="resource_missing", param="source")
    doc = charge_of(params, currency) | {
        "captured": params.get("capture", True),
        "customer": call.given("customer", "customer"),
    }
    connect.prepare_charge(call, doc)
    if means.decline:
        return declined(call, means, doc)
    charge = make(call.world, call.scope, means, doc)
    call.world.emit(call.scope, "charge.succeeded", "charge", charge)
    return call.show("charge", charge)


def charge_of(params: dict[str, Any], currency: str) -> Doc:
    """Take from a charge's or payment intent's parameters what the charge carries."""
    check_unit(params["amount"], currency)
    doc: Doc = {"amount": params["amount"], "currency": currency, "metadata": merged({}, params.get("metadata"))}
    for name in (
        "description",
        "receipt_email",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_group",
        "shipping",
    ):
        if params.get(name):
            doc[name] = params[name]
    return doc


def check_unit(amount: int, currency: str) -> None:
    """See that an amount can be paid: some currencies are written with more digits than there are coins for.

    Raises:
        StripeError: 400 (text unverified).
    """
    unit = 100 if currency in WHOLE_HUNDREDS else 10 if currency in THREE_DECIMAL else 1
    if amount % unit:
        text = f"Invalid amount: amounts in {currency.upper()} must be a multiple of {unit}."
        raise refused("amount", text, "parameter_invalid_integer")


def known_currency(currency: str) -> str:
    """Take a currency.

    Raises:
        StripeError: 400, if Stripe does not support it.
    """
    if currency.lower() not in SUPPORTED:
        text = (
            f"Invalid currency: {currency}. Stripe currently supports these currencies: {', '.join(sorted(SUPPORTED))}"
        )
        raise refused("currency", text)
    return currency.lower()


DECLINES = {
    "card_declined": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}


def failed_charge(
    world: World, scope: Scope, means: Means, doc: Doc, stem: str | None = None
) -> tuple[Doc, StripeError]:
    """Keep a charge that the bank declined, and build the 402 that tells of it."""
    code, _, reason = means.decline.partition("/")
    text = DECLINES.get(reason) or DECLINES[code]
    outcome = PASSED | {
        "network_status": "declined_by_network",
        "reason": reason or code,
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    }
    seq = world.store.number("charge")
    stem = stem or "3" + ids.token(world.seed, "stem", seq, length=15)
    charge = doc | {
        "id": f"ch_{stem}0{ids.token(world.seed, 'charge', seq, length=7)}",
        "created": world.clock.seconds(),
        "means": means.name,
        "captured": False,
        "paid": False,
        "status": "failed",
        "failure_code": code,
        "failure_message": text,
        "outcome": outcome,
    }
    world.insert("charge", scope, seq, charge)
    world.emit(scope, "charge.failed", "charge", charge)
    extra = {"charge": charge["id"], **({"decline_code": reason} if reason else {})}
    return charge, StripeError(402, text, code=code, kind="card_error", extra=extra, effects=True)


def declined(call: Call, means: Means, doc: Doc) -> Doc:
    """Refuse a direct charge.

    Raises:
        StripeError: 402, always; the failed charge stays.
    """
    raise failed_charge(call.world, call.scope, means, doc)[1]


@route("POST /v1/charges/{charge}", "charge")
def update_charge(call: Call) -> Doc:
    """Change a charge's description, metadata and the like."""
    charge = call.need("charge", call.path["charge"])
    before: Doc = {}
    for name in ("customer", "description", "receipt_email", "transfer_group", "shipping", "fraud_details"):
        if name in call.params:
            before[name] = charge.get(name, TEMPLATE[name])
            charge[name] = call.params[name] or None
    if isinstance(report := charge.get("fraud_details"), dict):
        charge["fraud_details"] = {key: value for key, value in report.items() if value != ""}
    if "metadata" in call.params:
        before["metadata"] = charge.get("metadata", {})
        charge["metadata"] = merged(before["metadata"], call.params["metadata"])
    call.world.save("charge", charge)
    call.world.emit(call.scope, "charge.updated", "charge", charge, before)
    return call.show("charge", charge)


@route(
    "POST /v1/charges/{charge}/capture",
    "charge",
    parameters={"amount": {"is": "int", "min": 1}},
    locks=lambda call: (call.path["charge"],),
)
def capture_charge(call: Call) -> Doc:
    """Capture a charge that was only authorised, in full or in part."""
    charge = call.need("charge", call.path["charge"])
    if charge.get("captured", True):
        raise StripeError(400, f"Charge {charge['id']} has already been captured.", code="charge_already_captured")
    if charge.get("payment_intent"):
        text = (
            "This Charge was created by a PaymentIntent. You must capture the PaymentIntent instead of capturing the Charge "
            "directly."
        )
        raise StripeError(400, text)
    capture(call.world, call.scope, charge, call.params["amount"] if "amount" in call.params else charge["amount"])
    return call.show("charge", charge)


def capture(world: World, scope: Scope, charge: Doc, amount: int) -> None:
    """Capture an amount of an authorised charge; what is not captured is released.

    Raises:
        StripeError: 400, if it is more than was authorised, or the charge does not wait for a capture.
    """
    if charge.get("status", "succeeded") != "succeeded":
        raise StripeError(400, f"Charge {charge['id']} could not be captured.", code="charge_not_refundable")
    if amount > charge["amount"]:
        text = f"You cannot capture a charge with an amount greater than the authorized amount ({charge['amount']})."
        raise StripeError(400, text, code="amount_too_large", param="amount")
    charge |= {"captured": True, "amount_captured": amount}
    world.save("charge", charge)
    captured(world, scope, charge)
    world.emit(scope, "charge.captured", "charge", charge, {"captured": False})
