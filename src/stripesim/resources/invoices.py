"""Invoices and the payments that settle them. Tax, discounts and proration are not computed.

An invoice names no charge and no payment intent (gone since 2025-03-31.basil): `invoice_payment` objects link them.
"""

from stripesim import ids
from stripesim.call import Call
from stripesim.errors import StripeError, missing
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources import payment_intents, payment_methods
from stripesim.resources.charges import METADATA, known_currency
from stripesim.store import Doc

CREATE = {
    "customer": {"is": "str", "required": True},
    "currency": "str",
    "description": "str",
    "metadata": METADATA,
    "auto_advance": "bool",
    "collection_method": {"enum": ["charge_automatically", "send_invoice"]},
    "days_until_due": "int",
    "default_payment_method": "str",
    "expand": {"list": "str"},
}
ITEM = {
    "customer": {"is": "str", "required": True},
    "invoice": {"is": "str", "required": True},
    "amount": {"is": "int", "required": True},
    "currency": "str",
    "description": "str",
    "metadata": METADATA,
    "expand": {"list": "str"},
}
EXPAND = {"expand": {"list": "str"}}
TEMPLATE: Doc = {
    "object": "invoice",
    "account_country": "US",
    "account_name": None,
    "account_tax_ids": None,
    "amount_overpaid": 0,
    "amount_paid": 0,
    "amount_paid_off_stripe": 0,
    "amount_shipping": 0,
    "application": None,
    "attempt_count": 0,
    "attempted": False,
    "auto_advance": False,
    "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None},
    "automatically_finalizes_at": None,
    "billing_reason": "manual",
    "collection_method": "charge_automatically",
    "custom_fields": None,
    "customer_account": None,
    "customer_address": None,
    "customer_email": None,
    "customer_name": None,
    "customer_phone": None,
    "customer_shipping": None,
    "customer_tax_exempt": "none",
    "customer_tax_ids": [],
    "default_payment_method": None,
    "default_source": None,
    "default_tax_rates": [],
    "description": None,
    "discounts": [],
    "due_date": None,
    "effective_at": None,
    "ending_balance": None,
    "footer": None,
    "from_invoice": None,
    "hosted_invoice_url": None,
    "invoice_pdf": None,
    "issuer": {"type": "self"},
    "last_finalization_error": None,
    "latest_revision": None,
    "metadata": {},
    "next_payment_attempt": None,
    "number": None,
    "on_behalf_of": None,
    "parent": None,
    "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
    "post_payment_credit_notes_amount": 0,
    "pre_payment_credit_notes_amount": 0,
    "receipt_number": None,
    "rendering": None,
    "shipping_cost": None,
    "shipping_details": None,
    "starting_balance": 0,
    "statement_descriptor": None,
    "test_clock": None,
    "total_discount_amounts": [],
    "total_pretax_credit_amounts": [],
    "total_taxes": [],
    "webhooks_delivered_at": None,
}


@kind("invoice", "in_", "customer", "subscription", "status", "collection_method")
def render(view: View, doc: Doc) -> Doc:
    """Show an invoice."""
    kept = {
        name: value
        for name, value in doc.items()
        if name not in {"subscription", "lines", "finalized_at", "paid_at", "voided_at"}
    }
    total = sum(line["amount"] for line in doc["lines"])
    answer = TEMPLATE | kept
    answer |= {
        "amount_due": due(doc),
        "amount_remaining": max(due(doc) - answer["amount_paid"], 0),
        "lines": {
            "object": "list",
            "data": [render_line(view, doc, line) for line in doc["lines"]],
            "has_more": False,
            "total_count": len(doc["lines"]),
            "url": f"/v1/invoices/{doc['id']}/lines",
        },
        "livemode": view.livemode,
        "period_end": doc.get("period_end", doc["created"]),
        "period_start": doc.get("period_start", doc["created"]),
        "status_transitions": {
            "finalized_at": doc.get("finalized_at"),
            "marked_uncollectible_at": None,
            "paid_at": doc.get("paid_at"),
            "voided_at": None,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "total": total,
        "total_excluding_tax": total,
    }
    if doc.get("subscription"):
        details = {"metadata": {}, "subscription": doc["subscription"]}
        answer["parent"] = {"quote_details": None, "subscription_details": details, "type": "subscription_details"}
    return answer


def due(invoice: Doc) -> int:
    """Tell what an invoice asks for: its lines, less the credit notes that it had before it was paid."""
    total: int = sum(line["amount"] for line in invoice["lines"])
    return total - int(invoice.get("pre_payment_credit_notes_amount", 0))


def render_line(view: View, invoice: Doc, line: Doc) -> Doc:
    """Show a line of an invoice."""
    subscription = line.get("subscription_item")
    details: Doc = {"invoice_item_details": None, "subscription_item_details": None}
    if subscription:
        inner = {
            "invoice_item": None,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": invoice.get("subscription"),
            "subscription_item": subscription,
        }
        details |= {"subscription_item_details": inner, "type": "subscription_item_details"}
    else:
        item = {
            "invoice_item": line["item"],
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": None,
        }
        details |= {"invoice_item_details": item, "type": "invoice_item_details"}
    return {
        "id": line["id"],
        "object": "line_item",
        "amount": line["amount"],
        "currency": invoice["currency"],
        "description": line.get("description"),
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": view.livemode,
        "metadata": line.get("metadata", {}),
        "parent": details,
        "period": {"end": line["end"], "start": line["start"]},
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": line.get("quantity", 1),
        "subscription": invoice.get("subscription"),
        "subtotal": line["amount"],
        "taxes": [],
    }


@kind("invoice_payment", "inpay_", "invoice", "payment_intent", "status")
def render_payment(view: View, doc: Doc) -> Doc:
    """Show the link between an invoice and its payment."""
    kept = {name: value for name, value in doc.items() if name not in {"payment_intent", "paid_at"}}
    return {
        "object": "invoice_payment",
        **kept,
        "is_default": True,
        "livemode": view.livemode,
        "payment": {"payment_intent": doc["payment_intent"], "type": "payment_intent"},
        "status_transitions": {"canceled_at": None, "paid_at": doc.get("paid_at")},
    }


def make(call: Call, customer: Doc, currency: str, lines: list[Doc], **more: object) -> Doc:
    """Make a draft. Each line has `amount`, `start`, `end`, and an `item` or a `subscription_item`."""
    number = call.world.store.number("invoice")
    invoice_id = call.world.new_id("invoice", number)
    doc: Doc = {
        "id": invoice_id,
        "created": call.world.clock.seconds(),
        "currency": currency,
        "customer": customer["id"],
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "collection_method": "charge_automatically",
        "lines": [
            {"id": "il_1" + ids.token(call.world.seed, invoice_id, at, length=23)} | line
            for at, line in enumerate(lines)
        ],
        "status": "draft",
        **more,
    }
    call.world.insert("invoice", call.scope, number, doc)
    call.world.emit(call.scope, "invoice.created", "invoice", doc)
    return doc


def finalize(call: Call, invoice: Doc) -> None:
    """Turn a draft into an open invoice."""
    if invoice["status"] != "draft":
        raise StripeError(
            400,
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
            code="invoice_not_editable",
        )
    prefix = ids.token("prefix", invoice["customer"], length=8).upper()
    count = call.world.store.count("invoice", call.scope.number, {"customer": invoice["customer"]})
    invoice |= {
        "status": "open",
        "finalized_at": call.world.clock.seconds(),
        "effective_at": call.world.clock.seconds(),
    }
    invoice["number"] = f"{prefix}-{count:04d}"
    call.world.save("invoice", invoice)
    call.world.emit(call.scope, "invoice.finalized", "invoice", invoice)


def settle(call: Call, invoice: Doc, method: str) -> None:
    """Pay an open invoice with a payment method.

    Raises:
        StripeError: 402, if the method is declined.
    """
    total = due(invoice)
    if total:
        about = f"Payment for {invoice['number']}"
        intent = payment_intents.pay(
            call, total, invoice["currency"], customer=invoice["customer"], method=method, description=about
        )
        link: Doc = {
            "amount_paid": total,
            "amount_requested": total,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "payment_intent": intent["id"],
            "status": "paid",
            "paid_at": call.world.clock.seconds(),
        }
        call.world.add("invoice_payment", call.scope, link)
    invoice |= {
        "status": "paid",
        "amount_paid": total,
        "attempted": True,
        "attempt_count": 1,
        "paid_at": call.world.clock.seconds(),
    }
    call.world.save("invoice", invoice)
    call.world.emit(call.scope, "invoice.paid", "invoice", invoice)


def method_of(call: Call, customer: Doc, named: str | None) -> str:
    """Find what a customer pays with: the named method, the default one, or the only one attached.

    Raises:
        StripeError: 400, if there is none.
    """
    chosen = named or (customer.get("invoice_settings") or {}).get("default_payment_method")
    if chosen:
        return str(payment_methods.resolve(call, chosen)["id"])
    attached = call.world.store.page("payment_method", call.scope.number, {"customer": customer["id"]}, limit=1)
    if not attached:
        text = (
            "This customer has no attached payment source or default payment method. Please consider adding a default "
            "payment method. For more information, visit "
            "https://stripe.com/docs/billing/subscriptions/payment-methods-setting#payment-method-priority."
        )
        raise StripeError(400, text, code="resource_missing")
    return str(attached[0]["id"])


# Routes


@route("POST /v1/invoices", "invoice", parameters=CREATE)
def create_invoice(call: Call) -> Doc:
    """Create a draft without lines."""
    params = call.params
    customer = call.need("customer", params["customer"], param="customer", status=400)
    currency = known_currency(params.get("currency", "usd"))
    more = {
        name: params[name]
        for name in ("description", "auto_advance", "default_payment_method", "collection_method")
        if name in params
    }
    doc = make(call, customer, currency, [], metadata=merged({}, params.get("metadata")), **more)
    return call.show("invoice", doc)


@route("POST /v1/invoiceitems", "invoice", parameters=ITEM)
def create_item(call: Call) -> Doc:
    """Add a line to a draft; answers with the invoice item."""
    params, world = call.params, call.world
    invoice = call.need("invoice", params["invoice"], param="invoice", status=400)
    if invoice["status"] != "draft":
        raise StripeError(400, "This invoice is no longer editable", code="invoice_not_editable")
    item_id = "ii_1" + ids.token(world.seed, invoice["id"], len(invoice["lines"]), "item", length=23)
    now = world.clock.seconds()
    line = {
        "amount": params["amount"],
        "description": params.get("description"),
        "item": item_id,
        "start": now,
        "end": now,
    }
    line["id"] = "il_1" + ids.token(world.seed, item_id, length=23)
    invoice["lines"].append(line)
    world.save("invoice", invoice)
    return {
        "id": item_id,
        "object": "invoiceitem",
        "amount": params["amount"],
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "date": now,
        "description": params.get("description"),
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": call.scope.livemode,
        "metadata": merged({}, params.get("metadata")),
        "parent": None,
        "period": {"end": now, "start": now},
        "pricing": None,
        "proration": False,
        "quantity": 1,
        "tax_rates": [],
        "test_clock": None,
    }


@route("GET /v1/invoices", "invoice")
def list_invoices(call: Call) -> Doc:
    """List invoices."""
    call.given("customer", "customer")
    return call.page("invoice", "/v1/invoices", "customer", "subscription", "status", "collection_method")


@route("GET /v1/invoices/{invoice}", "invoice")
def retrieve_invoice(call: Call) -> Doc:
    """Retrieve an invoice."""
    return call.show("invoice", _need(call))


@route("POST /v1/invoices/{invoice}/finalize", "invoice", parameters=EXPAND | {"auto_advance": "bool"})
def finalize_invoice(call: Call) -> Doc:
    """Finalize a draft."""
    doc = _need(call)
    finalize(call, doc)
    return call.show("invoice", doc)


@route(
    "POST /v1/invoices/{invoice}/pay",
    "invoice",
    parameters=EXPAND | {"payment_method": "str"},
    locks=lambda call: (call.path["invoice"],),
)
def pay_invoice(call: Call) -> Doc:
    """Pay an invoice."""
    doc = _need(call)
    if doc["status"] == "paid":
        raise StripeError(400, "Invoice is already paid")
    if doc["status"] == "draft":
        finalize(call, doc)
    customer = call.need("customer", doc["customer"])
    settle(call, doc, method_of(call, customer, call.params.get("payment_method") or doc.get("default_payment_method")))
    return call.show("invoice", doc)


def _need(call: Call) -> Doc:
    return call.need("invoice", call.path["invoice"], param="invoice")


@route("GET /v1/invoice_payments", "invoice")
def list_payments(call: Call) -> Doc:
    """List the payments of invoices, by invoice or by payment intent."""
    equal, payment = {}, call.params.get("payment")
    if payment:
        if payment["type"] != "payment_intent":
            return {"object": "list", "data": [], "has_more": False, "url": "/v1/invoice_payments"}
        if "payment_intent" in payment:
            equal["payment_intent"] = payment["payment_intent"]
            call.need("payment_intent", payment["payment_intent"], param="payment[payment_intent]", status=400)
    call.given("invoice", "invoice")
    return call.page("invoice_payment", "/v1/invoice_payments", "invoice", "status", equal=equal)


@route("GET /v1/invoice_payments/{invoice_payment}", "invoice")
def retrieve_payment(call: Call) -> Doc:
    """Retrieve the payment of an invoice."""
    return call.show(
        "invoice_payment", call.need("invoice_payment", call.path["invoice_payment"], param="invoice_payment")
    )


def charge_of(call: Call, invoice: Doc) -> Doc:
    """Find the charge that paid an invoice.

    Raises:
        StripeError: 400, if none did.
    """
    found = call.world.store.page("invoice_payment", call.scope.number, {"invoice": invoice["id"]}, limit=1)
    intent = call.world.find("payment_intent", found[0]["payment_intent"]) if found else None
    if intent is None:
        raise missing("charge", invoice["id"], param="invoice", status=400)
    return call.need("charge", intent["latest_charge"])
