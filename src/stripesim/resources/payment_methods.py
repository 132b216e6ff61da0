"""Payment methods: made from test tokens and test card numbers, attached to customers."""

from typing import Any

from stripesim import cards, ids
from stripesim.call import Call
from stripesim.cards import Means
from stripesim.errors import StripeError, missing, refused
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources.charges import BILLING, METADATA, NO_TAX_ID
from stripesim.store import Doc

CARD = {"hash": {"token": "str", "number": "str", "exp_month": "int", "exp_year": "int", "cvc": "str"}}
ADDRESS = {"hash": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), "str"), "unset": True}
BILLING_SPEC = {
    "hash": {
        "address": ADDRESS,
        "email": {"is": "str", "unset": True},
        "name": {"is": "str", "unset": True},
        "phone": {"is": "str", "unset": True},
    }
}
OPEN = {"map": "str"}
SPEC = {
    "type": {"enum": ["card", *cards.OTHERS]},
    "card": CARD,
    "billing_details": BILLING_SPEC,
    "metadata": METADATA,
    **dict.fromkeys(cards.OTHERS, OPEN),
}


@kind("payment_method", "pm_", "customer", "type", noun="PaymentMethod")
def render(view: View, doc: Doc) -> Doc:
    """Show a payment method."""
    means = cards.BY_NAME[doc["means"]]
    shown = {
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": BILLING,
        "customer": None,
        "customer_account": None,
        "livemode": view.livemode,
        "metadata": {},
        **{name: value for name, value in doc.items() if name != "means"},
    }
    shown[means.type] = _card(doc, means) if means.type == "card" else ({"last4": means.last4} if means.last4 else {})
    if means.type == "boleto":
        shown["boleto"] = {"tax_id": shown.pop("tax_id", NO_TAX_ID)}
    return shown


def _card(doc: Doc, means: Means) -> Doc:
    return {
        "brand": means.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": means.country,
        "display_brand": means.brand,
        "exp_month": 9,
        "exp_year": 2030,
        "fingerprint": ids.token("fingerprint", means.name, doc.get("customer"), length=16),
        "funding": means.funding,
        "generated_from": None,
        "last4": means.last4,
        "networks": {"available": [means.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def make(call: Call, means: Means, params: dict[str, Any]) -> Doc:
    """Make a payment method of a card or another method."""
    doc: Doc = {"means": means.name, "type": means.type, "metadata": merged({}, params.get("metadata"))}
    if details := params.get("billing_details"):
        doc["billing_details"] = BILLING | {name: value or None for name, value in details.items()}
    if tax_id := params.get("boleto", {}).get("tax_id"):
        doc["tax_id"] = tax_id
    return call.world.add("payment_method", call.scope, doc)


def means_of(params: dict[str, Any], prefix: str = "") -> Means:
    """Find the card or method that parameters describe.

    Raises:
        StripeError: 402 for a number that no test card has, 400 for a missing or unknown token.
    """
    named = params.get("type")
    if named is None:
        raise refused(f"{prefix}type", f"Missing required param: {prefix}type.", "parameter_missing")
    if named != "card":
        return cards.OTHERS[named]
    card = params.get("card") or {}
    if token := card.get("token"):
        means = cards.by_token(token)
        if means is None:
            raise StripeError(400, f"No such token: '{token}'", code="resource_missing", param="card[token]")
        return means
    if number := card.get("number"):
        means = cards.CARDS.get(number.replace(" ", ""))
        if means is None:
            text = "Your card number is incorrect."
            raise StripeError(402, text, code="incorrect_number", param="number", kind="card_error")
        return means
    raise refused(f"{prefix}card", f"Missing required param: {prefix}card.", "parameter_missing")


def resolve(call: Call, given: str, *, status: int = 400) -> Doc:
    """Find the payment method that a call names, by id or by test token.

    Raises:
        StripeError: `resource_missing`: 400, or 404 where the path names it.
    """
    if (means := cards.by_token(given)) and not call.scope.livemode:
        return make(call, means, {})
    if (doc := call.world.find("payment_method", given, call.scope)) is None:
        raise missing("PaymentMethod", given, param="payment_method", status=status)
    return doc


@route("POST /v1/payment_methods", "payment_method", parameters=SPEC)
def create_method(call: Call) -> Doc:
    """Create a payment method."""
    return call.show("payment_method", make(call, means_of(call.params), call.params))


@route(
    "GET /v1/payment_methods",
    "payment_method",
    parameters={"customer": "str", "type": "str", "limit": "int", "starting_after": "str", "ending_before": "str"},
)
def list_methods(call: Call) -> Doc:
    """List payment methods."""
    call.given("customer", "customer")
    return call.page("payment_method", "/v1/payment_methods", "customer", "type")


@route("GET /v1/payment_methods/{payment_method}", "payment_method")
def retrieve_method(call: Call) -> Doc:
    """Retrieve a payment method."""
    return call.show("payment_method", call.need("payment_method", call.path["payment_method"], param="payment_method"))


@route(
    "POST /v1/payment_methods/{payment_method}",
    "payment_method",
    parameters={"metadata": METADATA, "billing_details": BILLING_SPEC},
)
def update_method(call: Call) -> Doc:
    """Change a payment method's metadata or billing details."""
    doc = call.need("payment_method", call.path["payment_method"], param="payment_method")
    doc["metadata"] = merged(doc.get("metadata", {}), call.params.get("metadata"))
    if details := call.params.get("billing_details"):
        doc["billing_details"] = doc.get("billing_details", BILLING) | {
            name: value or None for name, value in details.items()
        }
    call.world.save("payment_method", doc)
    return call.show("payment_method", doc)


@route(
    "POST /v1/payment_methods/{payment_method}/attach",
    "payment_method",
    parameters={"customer": {"is": "str", "required": True}},
)
def attach_method(call: Call) -> Doc:
    """Attach a payment method to a customer."""
    doc = resolve(call, call.path["payment_method"], status=404)
    call.given("customer", "customer")
    doc["customer"] = call.params["customer"]
    call.world.save("payment_method", doc)
    return call.show("payment_method", doc)


@route("POST /v1/payment_methods/{payment_method}/detach", "payment_method")
def detach_method(call: Call) -> Doc:
    """Detach a payment method from its customer."""
    doc = call.need("payment_method", call.path["payment_method"], param="payment_method")
    doc["customer"] = None
    call.world.save("payment_method", doc)
    return call.show("payment_method", doc)
