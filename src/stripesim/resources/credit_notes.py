"""Credit notes on invoices: before payment they lower what is due, after it they refund, credit, or note a payment elsewhere.

(docs.stripe.com/invoicing/integration/programmatic-credit-notes)
"""

from contextlib import suppress

from stripesim import ids
from stripesim.call import Call
from stripesim.errors import StripeError, missing, refused
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources import customers, invoices, refunds
from stripesim.store import Doc

PARTS = ("refund_amount", "credit_amount", "out_of_band_amount")


@kind("credit_note", "cn_", "customer", "invoice", noun="credit note")
def render(view: View, doc: Doc) -> Doc:
    """Show a credit note."""
    amount = doc["amount"]
    kept = {name: value for name, value in doc.items() if name != "lines"}
    empty = dict.fromkeys(
        ("customer_account", "customer_balance_transaction", "memo", "out_of_band_amount", "reason", "voided_at")
    )
    return {
        "object": "credit_note",
        "amount_shipping": 0,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": doc["created"],
        "metadata": {},
        "pdf": f"https://pay.stripe.com/credit_notes/{doc['id']}/pdf",
        "pretax_credit_amounts": [],
        "refunds": [],
        "shipping_cost": None,
        **empty,
        **kept,
        "lines": {
            "object": "list",
            "data": [_line(view, line) for line in doc["lines"]],
            "has_more": False,
            "url": f"/v1/credit_notes/{doc['id']}/lines",
        },
        "livemode": view.livemode,
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "post_payment" if doc["post_payment_amount"] else "pre_payment",
    }


def _line(view: View, line: Doc) -> Doc:
    invoice_line = {"invoice_line_item": line["invoice_line_item"]} if line.get("invoice_line_item") else {}
    return {
        "id": line["id"],
        "object": "credit_note_line_item",
        "amount": line["amount"],
        "description": line.get("description"),
        "discount_amount": 0,
        "discount_amounts": [],
        **invoice_line,
        "livemode": view.livemode,
        "metadata": line.get("metadata", {}),
        "pretax_credit_amounts": [],
        "quantity": line.get("quantity", 1),
        "tax_rates": [],
        "taxes": [],
        "type": line["type"],
        "unit_amount": line.get("unit_amount"),
        "unit_amount_decimal": str(line["unit_amount"]) if line.get("unit_amount") is not None else None,
    }


def _drafted(call: Call) -> tuple[Doc, Doc]:
    """Work out a credit note from its parameters, without keeping it; tells it and its invoice.

    Raises:
        StripeError: 400, if the invoice is not finalized, or the amounts do not add up.
    """
    params = call.params
    invoice = call.need("invoice", params["invoice"], param="invoice", status=400)
    if invoice["status"] not in {"open", "paid"}:
        raise StripeError(400, "You cannot create a credit note for an invoice that is not finalized.", param="invoice")
    count = call.world.store.count("credit_note", call.scope.number, {"invoice": invoice["id"]})
    lines = [_lined(call, invoice, f"{count}.{at}", line) for at, line in enumerate(params.get("lines") or [])]
    amount = params.get("amount", sum(line["amount"] for line in lines))
    if amount <= 0 or (lines and amount != sum(line["amount"] for line in lines)):
        raise refused("amount", "The credit note's amount must be greater than 0 and equal the sum of its lines.")
    if not lines:
        lines = [
            {
                "id": "cnli_1" + ids.token(call.world.seed, invoice["id"], f"{count}.whole", length=23),
                "amount": amount,
                "type": "custom_line_item",
            }
        ]
    total = sum(line["amount"] for line in invoice["lines"])
    before = invoice.get("pre_payment_credit_notes_amount", 0) + invoice.get("post_payment_credit_notes_amount", 0)
    if amount > total - before:
        text = f"The sum of credit amount, refund amount and out of band amount ({amount}) must not exceed what is left of the invoice ({total - before})."
        raise StripeError(400, text, param="amount")
    paid = invoice["status"] == "paid"
    _check_parts(call, amount if paid else 0)
    doc: Doc = {
        "amount": amount,
        "created": call.world.clock.seconds(),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "invoice": invoice["id"],
        "lines": lines,
        "number": f"{invoice['number']}-CN-{count + 1:02d}",
        "post_payment_amount": amount if paid else 0,
        "pre_payment_amount": 0 if paid else amount,
        "status": "issued",
        "metadata": merged({}, params.get("metadata")),
        **{name: params[name] for name in ("memo", "reason", "out_of_band_amount") if name in params},
    }
    return doc, invoice


def _lined(call: Call, invoice: Doc, place: str, given: Doc) -> Doc:
    at = place.partition(".")[2]
    line: Doc = {
        "id": "cnli_1" + ids.token(call.world.seed, invoice["id"], place, length=23),
        "type": given["type"],
    }
    if given["type"] == "invoice_line_item":
        found = next((one for one in invoice["lines"] if one["id"] == given.get("invoice_line_item")), None)
        if found is None:
            text = f"No such invoice line item: '{given.get('invoice_line_item')}'"
            raise StripeError(400, text, code="resource_missing", param=f"lines[{at}][invoice_line_item]")
        amount = given.get(
            "amount",
            found["amount"] * given["quantity"] // found.get("quantity", 1) if "quantity" in given else found["amount"],
        )
        line |= {"invoice_line_item": found["id"], "description": found.get("description"), "amount": amount}
    else:
        unit = given.get("unit_amount", given.get("amount"))
        if unit is None:
            raise refused(
                f"lines[{at}][unit_amount]", f"Missing required param: lines[{at}][unit_amount].", "parameter_missing"
            )
        amount = unit * given.get("quantity", 1) if "unit_amount" in given else unit
        line |= {"amount": amount, "unit_amount": given.get("unit_amount"), "description": given.get("description")}
    return line | {"quantity": given.get("quantity", 1)}


def _check_parts(call: Call, after_payment: int) -> None:
    """See that refund, credit, elsewhere and linked refunds make up what is credited after payment."""
    linked = sum(_linked(call, at, one)[1] for at, one in enumerate(call.params.get("refunds") or []))
    parts = sum(call.params.get(name, 0) for name in PARTS) + linked
    if parts != after_payment:
        text = (
            f"The sum of refund_amount, credit_amount, out_of_band_amount and refunds ({parts}) must equal the credit note's "
            f"post payment amount ({after_payment})."
        )
        raise StripeError(400, text)


def _linked(call: Call, at: int, given: Doc) -> tuple[Doc, int]:
    refund = call.need("refund", given.get("refund", ""), param=f"refunds[{at}][refund]", status=400)
    return refund, given["amount_refunded"] if "amount_refunded" in given else refund["amount"]


def _locks(call: Call) -> tuple[str, ...]:
    """Hold the invoice, and where the note refunds, the charge that paid it."""
    invoice = call.world.find("invoice", call.params["invoice"], call.scope)
    if invoice is not None and call.params.get("refund_amount"):
        # Without a charge the call is refused, and that with the words of its own check.
        with suppress(StripeError):
            return (invoice["id"], invoices.charge_of(call, invoice)["id"])
    return (call.params["invoice"],)


@route("POST /v1/credit_notes", "credit_note", locks=_locks)
def create_note(call: Call) -> Doc:
    """Issue a credit note; `refund_amount` makes a refund of the invoice's charge."""
    doc, invoice = _drafted(call)
    world, params = call.world, call.params
    doc["refunds"] = [
        {"amount_refunded": amount, "payment_record_refund": None, "refund": refund["id"], "type": "refund"}
        for refund, amount in (_linked(call, at, one) for at, one in enumerate(params.get("refunds") or []))
    ]
    if amount := params.get("refund_amount"):
        refund = refunds.by_hand(world, call.scope, invoices.charge_of(call, invoice), {"amount": amount})
        doc["refunds"].append(
            {"amount_refunded": amount, "payment_record_refund": None, "refund": refund["id"], "type": "refund"}
        )
    world.add("credit_note", call.scope, doc)
    if amount := params.get("credit_amount"):
        customer = call.need("customer", invoice["customer"])
        row = customers.credit(
            world,
            call.scope,
            customer,
            -amount,
            invoice["currency"],
            type="credit_note",
            credit_note=doc["id"],
            invoice=invoice["id"],
        )
        doc["customer_balance_transaction"] = row["id"]
        world.save("credit_note", doc)
    for name in ("pre_payment", "post_payment"):
        member = f"{name}_credit_notes_amount"
        invoice[member] = invoice.get(member, 0) + doc[f"{name}_amount"]
    world.save("invoice", invoice)
    world.emit(call.scope, "credit_note.created", "credit_note", doc)
    return call.show("credit_note", doc)


@route("GET /v1/credit_notes/preview", "credit_note")
def preview_note(call: Call) -> Doc:
    """Show what a credit note would be."""
    doc, invoice = _drafted(call)
    return call.show("credit_note", doc | {"id": "cn_tmp_" + ids.token(call.world.seed, invoice["id"], length=16)})


@route("GET /v1/credit_notes/preview/lines", "credit_note")
def preview_lines(call: Call) -> Doc:
    """Show the lines that a credit note would have."""
    return _paged(call, preview_note(call)["lines"]) | {"url": "/v1/credit_notes/preview/lines"}


def _paged(call: Call, lines: Doc) -> Doc:
    """Cut a note's lines, which are in the order that they were given, into pages.

    Raises:
        StripeError: 400, for both cursors, or one that is not of this note.
    """
    data: list[Doc] = lines["data"]
    places = {line["id"]: at for at, line in enumerate(data)}
    given = [name for name in ("starting_after", "ending_before") if name in call.params]
    if len(given) > 1:
        text = "Received both starting_after and ending_before parameters. Please pass in only one."
        raise refused(None, text)
    start, end = 0, len(data)
    for name in given:
        at = places.get(call.params[name])
        if at is None:
            raise missing("credit note line item", call.params[name], param=name, status=400)
        start, end = (at + 1, end) if name == "starting_after" else (start, at)
    limit = call.limit()
    kept = data[max(start, end - limit) : end] if "ending_before" in given else data[start : start + limit]
    return lines | {"data": kept, "has_more": end - start > limit}


@route("GET /v1/credit_notes", "credit_note")
def list_notes(call: Call) -> Doc:
    """List credit notes."""
    call.given("customer", "customer")
    call.given("invoice", "invoice")
    return call.page("credit_note", "/v1/credit_notes", "customer", "invoice")


def _need(call: Call, name: str = "id") -> Doc:
    return call.need("credit_note", call.path[name], param=name)


@route("GET /v1/credit_notes/{id}", "credit_note")
def retrieve_note(call: Call) -> Doc:
    """Retrieve a credit note."""
    return call.show("credit_note", _need(call))


@route("POST /v1/credit_notes/{id}", "credit_note")
def update_note(call: Call) -> Doc:
    """Change a credit note's memo or metadata."""
    doc = _need(call)
    if "memo" in call.params:
        doc["memo"] = call.params["memo"]
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    call.world.save("credit_note", doc)
    call.world.emit(call.scope, "credit_note.updated", "credit_note", doc, {})
    return call.show("credit_note", doc)


@route("POST /v1/credit_notes/{id}/void", "credit_note")
def void_note(call: Call) -> Doc:
    """Void a credit note of an invoice that is still open."""
    doc = _need(call)
    invoice = call.need("invoice", doc["invoice"])
    if doc["status"] == "void" or invoice["status"] != "open":
        raise StripeError(400, "You can only void a credit note that is issued on an open invoice.")  # text unverified
    doc |= {"status": "void", "voided_at": call.world.clock.seconds()}
    call.world.save("credit_note", doc)
    invoice["pre_payment_credit_notes_amount"] -= doc["pre_payment_amount"]
    call.world.save("invoice", invoice)
    call.world.emit(call.scope, "credit_note.voided", "credit_note", doc)
    return call.show("credit_note", doc)


@route("GET /v1/credit_notes/{credit_note}/lines", "credit_note")
def list_lines(call: Call) -> Doc:
    """List the lines of a credit note."""
    return _paged(call, call.show("credit_note", _need(call, "credit_note"))["lines"])
