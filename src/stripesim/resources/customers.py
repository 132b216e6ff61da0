"""Customers and their credit balance."""

from stripesim import ids
from stripesim.call import Call
from stripesim.errors import missing
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.resources import payment_methods
from stripesim.resources.charges import METADATA, known_currency
from stripesim.resources.payment_methods import ADDRESS
from stripesim.store import Doc
from stripesim.world import Scope, World

TEMPLATE: Doc = {
    "object": "customer",
    "address": None,
    "balance": 0,
    "currency": None,
    "customer_account": None,
    "default_source": None,
    "delinquent": False,
    "description": None,
    "discount": None,
    "email": None,
    "invoice_settings": {
        "custom_fields": None,
        "default_payment_method": None,
        "footer": None,
        "rendering_options": None,
    },
    "metadata": {},
    "name": None,
    "next_invoice_sequence": 1,
    "phone": None,
    "preferred_locales": [],
    "shipping": None,
    "tax_exempt": "none",
    "test_clock": None,
}
OPTIONAL = {"is": "str", "unset": True}
SETTINGS = {"hash": {"default_payment_method": OPTIONAL, "footer": OPTIONAL}}
CHANGE = {
    "address": ADDRESS,
    "description": OPTIONAL,
    "email": {"is": "str", "max": 512, "unset": True},
    "invoice_settings": SETTINGS,
    "metadata": METADATA,
    "name": OPTIONAL,
    "phone": OPTIONAL,
    "preferred_locales": {"list": "str"},
    "shipping": {"hash": {"address": ADDRESS, "name": "str", "phone": "str"}, "unset": True},
    "tax_exempt": {"enum": ["none", "exempt", "reverse"]},
    "balance": "int",
    "payment_method": "str",
    "expand": {"list": "str"},
}
PLAIN = ("address", "description", "email", "name", "phone", "preferred_locales", "shipping", "tax_exempt", "balance")


@kind("customer", "cus_", "email", searchable=True)
def render(view: View, doc: Doc) -> Doc:
    """Show a customer, or that there was one."""
    if doc.get("deleted"):
        return {"id": doc["id"], "object": "customer", "deleted": True}
    answer = TEMPLATE | doc
    answer["invoice_prefix"] = ids.token("prefix", doc["id"], length=8).upper()
    answer["livemode"] = view.livemode
    return answer


def _change(call: Call, doc: Doc) -> None:
    for name in PLAIN:
        if name in call.params:
            doc[name] = None if call.params[name] == "" else call.params[name]
    if "metadata" in call.params:
        doc["metadata"] = merged(doc.get("metadata", {}), call.params["metadata"])
    if given := call.params.get("invoice_settings"):
        kept = {name: value or None for name, value in given.items()}
        doc["invoice_settings"] = TEMPLATE["invoice_settings"] | doc.get("invoice_settings", {}) | kept


@route("POST /v1/customers", "customer", parameters=CHANGE)
def create_customer(call: Call) -> Doc:
    """Create a customer."""
    doc: Doc = {}
    _change(call, doc)
    call.world.add("customer", call.scope, doc)
    if method := call.params.get("payment_method"):
        attached = payment_methods.resolve(call, method) | {"customer": doc["id"]}
        call.world.save("payment_method", attached)
    call.world.emit(call.scope, "customer.created", "customer", doc)
    return call.show("customer", doc)


@route("GET /v1/customers", "customer")
def list_customers(call: Call) -> Doc:
    """List customers."""
    return call.page(
        "customer", "/v1/customers", "email", where=("json_extract(CAST(doc AS TEXT), '$.deleted') IS NULL", ())
    )


@route("GET /v1/customers/{customer}", "customer")
def retrieve_customer(call: Call) -> Doc:
    """Retrieve a customer; a deleted one says so."""
    return call.show("customer", call.need("customer", call.path["customer"]))


@route("POST /v1/customers/{customer}", "customer", parameters=CHANGE)
def update_customer(call: Call) -> Doc:
    """Change a customer."""
    doc = _living(call)
    _change(call, doc)
    call.world.save("customer", doc)
    call.world.emit(call.scope, "customer.updated", "customer", doc, {})
    return call.show("customer", doc)


@route("DELETE /v1/customers/{customer}", "customer", parameters={})
def delete_customer(call: Call) -> Doc:
    """Delete a customer; its charges stay."""
    doc = _living(call)
    gone = {"id": doc["id"], "created": doc["created"], "deleted": True}
    call.world.save("customer", gone)
    call.world.emit(call.scope, "customer.deleted", "customer", doc)
    return call.show("customer", gone)


def _living(call: Call) -> Doc:
    doc = call.need("customer", call.path["customer"])
    if doc.get("deleted"):
        raise missing("customer", doc["id"], param="id")
    return doc


# The credit balance


@kind("customer_balance_transaction", "cbtxn_", "customer", noun="customer balance transaction")
def render_transaction(view: View, doc: Doc) -> Doc:
    """Show a movement of a customer's credit balance."""
    empty = dict.fromkeys(("checkout_session", "credit_note", "customer_account", "description", "invoice"))
    return {"object": "customer_balance_transaction", "livemode": view.livemode, "metadata": {}, **empty, **doc}


def credit(world: World, scope: Scope, customer: Doc, amount: int, currency: str, **more: object) -> Doc:
    """Move a customer's credit balance: negative amounts are in the customer's favour."""
    ending = customer.get("balance", 0) + amount
    doc: Doc = {
        "amount": amount,
        "currency": currency,
        "customer": customer["id"],
        "ending_balance": ending,
        "type": "adjustment",
        **more,
    }
    world.add("customer_balance_transaction", scope, doc)
    customer |= {"balance": ending, "currency": currency}
    world.save("customer", customer)
    return doc


@route("GET /v1/customers/{customer}/balance_transactions", "customer")
def list_credit(call: Call) -> Doc:
    """List the movements of a customer's credit balance."""
    customer = call.need("customer", call.path["customer"])
    url = f"/v1/customers/{customer['id']}/balance_transactions"
    equal = {"customer": customer["id"]}
    where: tuple[str, list[str]] = ("", [])
    if "invoice" in call.params:
        where = ("json_extract(CAST(doc AS TEXT), '$.invoice')=?", [call.params["invoice"]])
    return call.page("customer_balance_transaction", url, equal=equal, where=where)


@route("POST /v1/customers/{customer}/balance_transactions", "customer", locks=lambda call: (call.path["customer"],))
def create_credit(call: Call) -> Doc:
    """Move a customer's credit balance by hand."""
    params = call.params
    more = {"description": params.get("description"), "metadata": merged({}, params.get("metadata"))}
    doc = credit(call.world, call.scope, _living(call), params["amount"], known_currency(params["currency"]), **more)
    return call.show("customer_balance_transaction", doc)


def _credit_of(call: Call) -> Doc:
    customer = call.need("customer", call.path["customer"])
    doc = call.need("customer_balance_transaction", call.path["transaction"], param="transaction")
    if doc["customer"] != customer["id"]:
        raise missing("customer balance transaction", doc["id"], param="transaction")
    return doc


@route("GET /v1/customers/{customer}/balance_transactions/{transaction}", "customer")
def retrieve_credit(call: Call) -> Doc:
    """Retrieve a movement of a customer's credit balance."""
    return call.show("customer_balance_transaction", _credit_of(call))


@route("POST /v1/customers/{customer}/balance_transactions/{transaction}", "customer")
def update_credit(call: Call) -> Doc:
    """Change the description or metadata of a movement."""
    doc = _credit_of(call)
    if "description" in call.params:
        doc["description"] = call.params["description"] or None
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    call.world.save("customer_balance_transaction", doc)
    return call.show("customer_balance_transaction", doc)
