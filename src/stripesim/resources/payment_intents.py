"""Payment intents: create, confirm, capture, cancel. Each success makes a charge that shares its id's stem."""

from typing import Any

from stripesim import cards, ids
from stripesim.call import Call
from stripesim.errors import StripeError, refused
from stripesim.money import shown
from stripesim.params import merged
from stripesim.registry import DAHLIA, View, kind, route
from stripesim.resources import charges, connect, payment_methods
from stripesim.resources.charges import METADATA
from stripesim.store import Doc

TEMPLATE: Doc = {
    "object": "payment_intent",
    "amount_capturable": 0,
    "amount_details": {"tip": {}},
    "amount_received": 0,
    "application": None,
    "application_fee_amount": None,
    "automatic_payment_methods": None,
    "canceled_at": None,
    "cancellation_reason": None,
    "capture_method": "automatic_async",
    "confirmation_method": "automatic",
    "customer": None,
    "customer_account": None,
    "description": None,
    "excluded_payment_method_types": None,
    "last_payment_error": None,
    "latest_charge": None,
    "metadata": {},
    "next_action": None,
    "on_behalf_of": None,
    "payment_method": None,
    "payment_method_configuration_details": None,
    "payment_method_options": {},
    "processing": None,
    "receipt_email": None,
    "review": None,
    "setup_future_usage": None,
    "shipping": None,
    "source": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "requires_payment_method",
    "transfer_data": None,
    "transfer_group": None,
}
ADDRESS = {"hash": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), "str")}
SHIPPING = {
    "hash": {"address": ADDRESS, "carrier": "str", "name": "str", "phone": "str", "tracking_number": "str"},
    "unset": True,
}
CONFIRM: dict[str, Any] = {
    "payment_method": "str",
    "payment_method_data": {"hash": payment_methods.SPEC},
    "payment_method_types": {"list": "str"},
    "payment_method_options": {"map": "str"},
    "return_url": "str",
    "off_session": "bool",
    "receipt_email": "str",
    "setup_future_usage": {"enum": ["off_session", "on_session"]},
    "capture_method": {"enum": ["automatic", "automatic_async", "manual"]},
    "error_on_requires_action": "bool",
    "shipping": SHIPPING,
}
CREATE: dict[str, Any] = CONFIRM | {
    "amount": {"is": "int", "required": True, "min": 1},
    "currency": {"is": "str", "required": True},
    "confirm": "bool",
    "confirmation_method": {"enum": ["automatic", "manual"]},
    "customer": "str",
    "description": "str",
    "metadata": METADATA,
    "automatic_payment_methods": {"hash": {"enabled": "bool", "allow_redirects": {"enum": ["always", "never"]}}},
    "application_fee_amount": {"is": "int", "min": 0},
    "on_behalf_of": "str",
    "transfer_data": {"hash": {"destination": "str", "amount": {"is": "int", "min": 0}}},
    "transfer_group": "str",
    "statement_descriptor": {"is": "str", "max": 22},
    "statement_descriptor_suffix": {"is": "str", "max": 22},
}
EXPAND = {"expand": {"list": "str"}}
CANCELABLE = {"requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing"}
# Twelve digits, the most that any card takes (docs.stripe.com/currencies, 2026-08).
MOST = 999_999_999_999
# Smallest charge per currency, in minor units (docs.stripe.com/currencies, 2026-08).
LEAST = {
    "usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "chf": 50, "cad": 50, "aud": 50, "sek": 300, "nok": 300, "dkk": 250,
    "pln": 200, "czk": 1500, "huf": 17500, "ron": 200, "mxn": 1000, "brl": 50, "inr": 50, "sgd": 50, "hkd": 400,
    "nzd": 50, "thb": 1000, "myr": 200, "aed": 200, "krw": 50,
}  # fmt: skip


@kind("payment_intent", "pi_", "customer", searchable=True)
def render(view: View, doc: Doc) -> Doc:
    """Show a payment intent."""
    answer = TEMPLATE | doc
    answer["livemode"] = view.livemode
    answer["client_secret"] = f"{doc['id']}_secret_{ids.token('secret', doc['id'], length=25)}"
    answer.setdefault("payment_method_types", ["card"])
    return answer


@route("POST /v1/payment_intents", "payment_intent", parameters=CREATE | EXPAND)
def create_intent(call: Call) -> Doc:
    """Create a payment intent, and with `confirm` charge at once."""
    params = call.params
    currency = charges.known_currency(params["currency"])
    if params["amount"] > MOST:
        text = f"Amount must be no more than {shown(MOST, currency)}"
        raise StripeError(400, text, code="amount_too_large", param="amount")
    if params["amount"] < LEAST.get(currency, 1):
        text = f"Amount must be at least {shown(LEAST[currency], currency)}"
        raise StripeError(400, text, code="amount_too_small", param="amount")
    intent = charges.charge_of(params, currency) | {
        "customer": call.given("customer", "customer"),
    }
    for name in ("capture_method", "confirmation_method", "setup_future_usage", "payment_method_types"):
        if name in params:
            intent[name] = params[name]
    if "automatic_payment_methods" in params:
        intent["automatic_payment_methods"] = {"allow_redirects": "always"} | params["automatic_payment_methods"]
    connect.prepare_charge(call, intent)
    _take_method(call, intent)
    _keep_new(call, intent)
    if params.get("confirm"):
        _confirm(call, intent)
    return call.show("payment_intent", intent)


def _keep_new(call: Call, intent: Doc) -> None:
    world = call.world
    seq = world.store.number("payment_intent")
    stem = "3" + ids.token(world.seed, "stem", seq, "pi", length=15)
    intent |= {"id": f"pi_{stem}{ids.token(world.seed, 'pi', seq, length=8)}", "created": world.clock.seconds()}
    world.insert("payment_intent", call.scope, seq, intent)
    world.emit(call.scope, "payment_intent.created", "payment_intent", intent)


def pay(call: Call, amount: int, currency: str, *, customer: str, method: str, description: str) -> Doc:
    """Charge a customer's payment method, as an invoice does; tells the payment intent.

    Raises:
        StripeError: 402, if the method is declined.
    """
    intent: Doc = {
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "description": description,
        "metadata": {},
        "payment_method": method,
        "status": "requires_confirmation",
    }
    _keep_new(call, intent)
    _confirm(call, intent)
    return intent


def _take_method(call: Call, intent: Doc) -> None:
    if "payment_method_types" in call.params and call.version != DAHLIA:
        # No longer accepted from 2026-09-30.endive on.
        text = "Received unknown parameter: payment_method_types"
        raise refused("payment_method_types", text, "parameter_unknown")
    method: Doc | None = None
    if name := call.params.get("payment_method"):
        method = payment_methods.resolve(call, name)
    elif given := call.params.get("payment_method_data"):
        method = payment_methods.make(call, payment_methods.means_of(given, "payment_method_data"), given)
    if method is not None:
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
        if method["type"] != "card" and "payment_method_types" not in intent:
            intent["payment_method_types"] = [method["type"]]


def _locks(call: Call) -> tuple[str, ...]:
    """Hold the intent and its charge: a refund of the charge at the same moment is another write to it."""
    intent = call.world.find("payment_intent", call.path["intent"], call.scope)
    charge = intent.get("latest_charge") if intent else None
    return (call.path["intent"], charge) if charge else (call.path["intent"],)


@route(
    "POST /v1/payment_intents/{intent}/confirm",
    "payment_intent",
    parameters=CONFIRM,
    locks=_locks,
)
def confirm_intent(call: Call) -> Doc:
    """Confirm a payment intent: charge its payment method."""
    intent = _need(call)
    if intent.get("status", "requires_payment_method") not in {"requires_payment_method", "requires_confirmation"}:
        raise _unexpected(intent, "confirm", "requires_payment_method, requires_confirmation, or requires_action")
    _take_method(call, intent)
    _confirm(call, intent)
    return call.show("payment_intent", intent)


def _confirm(call: Call, intent: Doc) -> None:
    world, scope = call.world, call.scope
    if not intent.get("payment_method"):
        text = (
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment "
            "method or ConfirmationToken."
        )
        raise StripeError(400, text, code="payment_intent_unexpected_state")
    means = cards.BY_NAME[call.need("payment_method", intent["payment_method"])["means"]]
    manual = intent.get("capture_method") == "manual"
    carried = ("amount", "currency", "customer", "description", "metadata", "receipt_email", "statement_descriptor",
               "statement_descriptor_suffix", "transfer_group", "shipping", "transfer_data", "application_fee_amount",
               "on_behalf_of", "application", "payment_method")  # fmt: skip
    doc = {name: intent[name] for name in carried if name in intent} | {
        "captured": not manual,
        "payment_intent": intent["id"],
    }
    if means.decline:
        _decline(call, intent, doc, means)
    charge = charges.make(world, scope, means, doc, ids.stem_of(intent["id"]))
    intent |= {"latest_charge": charge["id"], "last_payment_error": None}
    if charge.get("status") == "pending":
        intent["status"] = "processing"
        world.save("payment_intent", intent)
        world.emit(scope, "charge.pending", "charge", charge)
        world.emit(scope, "payment_intent.processing", "payment_intent", intent)
        return
    if manual:
        intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
        world.save("payment_intent", intent)
        world.emit(scope, "charge.succeeded", "charge", charge)
        world.emit(scope, "payment_intent.amount_capturable_updated", "payment_intent", intent)
        return
    intent |= {"status": "succeeded", "amount_received": intent["amount"]}
    world.save("payment_intent", intent)
    world.emit(scope, "charge.succeeded", "charge", charge)
    world.emit(scope, "payment_intent.succeeded", "payment_intent", intent)


def _decline(call: Call, intent: Doc, doc: Doc, means: cards.Means) -> None:
    charge, error = charges.failed_charge(call.world, call.scope, means, doc, ids.stem_of(intent["id"]))
    last = {name: value for name, value in error.error.items() if name != "charge"} | {"charge": charge["id"]}
    intent |= {
        "latest_charge": charge["id"],
        "status": "requires_payment_method",
        "payment_method": None,
        "last_payment_error": last,
    }
    call.world.save("payment_intent", intent)
    call.world.emit(call.scope, "payment_intent.payment_failed", "payment_intent", intent)
    error.error["payment_intent"] = call.show("payment_intent", intent)
    raise error


@route("GET /v1/payment_intents", "payment_intent")
def list_intents(call: Call) -> Doc:
    """List payment intents."""
    call.given("customer", "customer")
    return call.page("payment_intent", "/v1/payment_intents", "customer")


@route("GET /v1/payment_intents/{intent}", "payment_intent")
def retrieve_intent(call: Call) -> Doc:
    """Retrieve a payment intent."""
    return call.show("payment_intent", _need(call))


@route(
    "POST /v1/payment_intents/{intent}",
    "payment_intent",
    parameters={
        "metadata": METADATA,
        "description": {"is": "str", "unset": True},
        "receipt_email": {"is": "str", "unset": True},
        "customer": "str",
    },
)
def update_intent(call: Call) -> Doc:
    """Change a payment intent's description, metadata, customer or receipt address."""
    intent = _need(call)
    intent["metadata"] = merged(intent.get("metadata", {}), call.params.get("metadata"))
    for name in ("description", "receipt_email"):
        if name in call.params:
            intent[name] = call.params[name] or None
    if call.given("customer", "customer"):
        intent["customer"] = call.params["customer"]
    call.world.save("payment_intent", intent)
    return call.show("payment_intent", intent)


@route(
    "POST /v1/payment_intents/{intent}/capture",
    "payment_intent",
    parameters={"amount_to_capture": {"is": "int", "min": 1}, "metadata": METADATA},
    locks=_locks,
)
def capture_intent(call: Call) -> Doc:
    """Capture an authorised payment, in full or in part."""
    intent = _need(call)
    if intent.get("status") != "requires_capture":
        raise _unexpected(intent, "capture", "requires_capture")
    amount: int = call.params["amount_to_capture"] if "amount_to_capture" in call.params else intent["amount"]
    charge = call.need("charge", intent["latest_charge"])
    charges.capture(call.world, call.scope, charge, amount)
    intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
    intent["metadata"] = merged(intent.get("metadata", {}), call.params.get("metadata"))
    call.world.save("payment_intent", intent)
    call.world.emit(call.scope, "payment_intent.succeeded", "payment_intent", intent)
    return call.show("payment_intent", intent)


@route("POST /v1/payment_intents/{intent}/cancel", "payment_intent", locks=_locks)
def cancel_intent(call: Call) -> Doc:
    """Cancel a payment intent; an authorised charge is released, which shows as a refund that Stripe made."""
    intent = _need(call)
    # A debit that is on its way cannot be stopped here.
    under_way = intent.get("status") == "processing"
    if under_way or intent.get("status", "requires_payment_method") not in CANCELABLE:
        raise _unexpected(
            intent,
            "cancel",
            "requires_payment_method, requires_capture, requires_confirmation, requires_action, processing",
        )
    if intent.get("status") == "requires_capture":
        from stripesim.resources import refunds  # refunds know charges and intents

        refunds.release(call.world, call.scope, call.need("charge", intent["latest_charge"]))
    intent |= {
        "status": "canceled",
        "amount_capturable": 0,
        "canceled_at": call.world.clock.seconds(),
        "cancellation_reason": call.params.get("cancellation_reason"),
    }
    call.world.save("payment_intent", intent)
    call.world.emit(call.scope, "payment_intent.canceled", "payment_intent", intent)
    return call.show("payment_intent", intent)


def _need(call: Call) -> Doc:
    return call.need("payment_intent", call.path["intent"], param="intent")


def _unexpected(intent: Doc, verb: str, allowed: str) -> StripeError:
    status = intent.get("status", "requires_payment_method")
    text = f"You cannot {verb} this PaymentIntent because it has a status of {status}. Only a PaymentIntent with one of the following statuses may be {verb}ed: {allowed}."
    return StripeError(400, text, code="payment_intent_unexpected_state")
