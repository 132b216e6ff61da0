"""Subscriptions: made, paid once by an invoice, cancelled. They do not renew, and proration is not computed."""

from datetime import UTC, datetime
from typing import Any

from stripesim import ids
from stripesim.call import Call
from stripesim.errors import StripeError, refused
from stripesim.params import merged
from stripesim.registry import KINDS, View, kind, route
from stripesim.resources import invoices
from stripesim.resources.charges import METADATA
from stripesim.store import Doc

DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "year": 12}
CREATE = {
    "customer": {"is": "str", "required": True},
    "items": {
        "list": {
            "hash": {
                "price": {"is": "str", "required": True},
                "quantity": {"is": "int", "min": 0},
                "metadata": METADATA,
            }
        },
        "required": True,
    },
    "default_payment_method": "str",
    "description": "str",
    "metadata": METADATA,
    "cancel_at_period_end": "bool",
    "collection_method": {"enum": ["charge_automatically", "send_invoice"]},
    "off_session": "bool",
    "payment_behavior": {
        "enum": ["allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"]
    },
    "expand": {"list": "str"},
}
CHANGE = {
    "cancel_at_period_end": "bool",
    "default_payment_method": "str",
    "description": {"is": "str", "unset": True},
    "metadata": METADATA,
    "expand": {"list": "str"},
}
TEMPLATE: Doc = {
    "object": "subscription",
    "application": None,
    "application_fee_percent": None,
    "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
    "billing_cycle_anchor_config": None,
    "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "itemized"}},
    "billing_schedules": [],
    "billing_thresholds": None,
    "cancel_at": None,
    "cancel_at_period_end": False,
    "canceled_at": None,
    "cancellation_details": {"comment": None, "feedback": None, "reason": None},
    "collection_method": "charge_automatically",
    "customer_account": None,
    "days_until_due": None,
    "default_payment_method": None,
    "default_source": None,
    "default_tax_rates": [],
    "description": None,
    "discounts": [],
    "ended_at": None,
    "invoice_settings": {
        "account_tax_ids": None,
        "custom_fields": None,
        "description": None,
        "footer": None,
        "issuer": {"type": "self"},
    },
    "latest_invoice": None,
    "metadata": {},
    "next_pending_invoice_item_invoice": None,
    "on_behalf_of": None,
    "pause_collection": None,
    "payment_settings": {
        "payment_method_options": None,
        "payment_method_types": None,
        "save_default_payment_method": "off",
    },
    "pending_invoice_item_interval": None,
    "pending_setup_intent": None,
    "pending_update": None,
    "schedule": None,
    "test_clock": None,
    "transfer_data": None,
    "trial_end": None,
    "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    "trial_start": None,
}


@kind("subscription", "sub_", "customer", "status", "collection_method")
def render(view: View, doc: Doc) -> Doc:
    """Show a subscription; its periods are those of its items."""
    answer = TEMPLATE | {name: value for name, value in doc.items() if name != "items"}
    answer |= {
        "billing_cycle_anchor": doc["created"],
        "items": {
            "object": "list",
            "data": [_item(view, doc, item) for item in doc["items"]],
            "has_more": False,
            "total_count": len(doc["items"]),
            "url": f"/v1/subscription_items?subscription={doc['id']}",
        },
        "livemode": view.livemode,
        "start_date": doc["created"],
    }
    return answer


def _item(view: View, doc: Doc, item: Doc) -> Doc:
    found = view.world.store.get("price", item["price"])
    return {
        "id": item["id"],
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": doc["created"],
        "current_period_end": item["end"],
        "current_period_start": item["start"],
        "discounts": [],
        "metadata": item.get("metadata", {}),
        "price": KINDS["price"].render(view, found[1]) if found else item["price"],
        "quantity": item["quantity"],
        "subscription": doc["id"],
        "tax_rates": [],
    }


def period_end(start: int, interval: str, count: int) -> int:
    """Tell when a period ends: months keep the day of the month, or take the last one there is."""
    if interval in DAYS:
        return start + DAYS[interval] * count * 86_400
    begin = datetime.fromtimestamp(start, UTC)
    month = begin.month - 1 + MONTHS[interval] * count
    year, month = begin.year + month // 12, month % 12 + 1
    last = (datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC) - datetime(year, month, 1, tzinfo=UTC)).days
    return int(begin.replace(year=year, month=month, day=min(begin.day, last)).timestamp())


@route("POST /v1/subscriptions", "subscription", parameters=CREATE)
def create_subscription(call: Call) -> Doc:
    """Create a subscription and charge its first period."""
    params, world = call.params, call.world
    customer = call.need("customer", params["customer"], param="customer", status=400)
    number = world.store.number("subscription")
    doc: Doc = {
        "id": world.new_id("subscription", number),
        "created": world.clock.seconds(),
        "customer": customer["id"],
        "metadata": merged({}, params.get("metadata")),
        "collection_method": params.get("collection_method", "charge_automatically"),
        "status": "active",
        **{name: params[name] for name in ("description", "cancel_at_period_end") if name in params},
    }
    doc["items"] = [_begun(call, doc, at, item) for at, item in enumerate(params["items"])]
    prices = [call.need("price", item["price"]) for item in doc["items"]]
    if len({price["currency"] for price in prices}) != 1:
        raise refused("items", "All prices on a subscription must have the same currency.")
    doc["currency"] = prices[0]["currency"]
    method = invoices.method_of(call, customer, params.get("default_payment_method"))
    if "default_payment_method" in params:
        doc["default_payment_method"] = method
    lines = [
        {
            "amount": price["unit_amount"] * item["quantity"],
            "description": f"{item['quantity']} x {price['product']}",
            "start": item["start"],
            "end": item["end"],
            "quantity": item["quantity"],
            "subscription_item": item["id"],
        }
        for item, price in zip(doc["items"], prices, strict=True)
    ]
    invoice = invoices.make(
        call, customer, doc["currency"], lines, subscription=doc["id"], billing_reason="subscription_create"
    )
    invoices.finalize(call, invoice)
    invoices.settle(call, invoice, method)
    doc["latest_invoice"] = invoice["id"]
    world.insert("subscription", call.scope, number, doc)
    world.emit(call.scope, "customer.subscription.created", "subscription", doc)
    return call.show("subscription", doc)


def _begun(call: Call, doc: Doc, at: int, given: Doc) -> Doc:
    price = call.need("price", given["price"], param=f"items[{at}][price]", status=400)
    recurring = price.get("recurring")
    if recurring is None:
        text = "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
        raise refused(f"items[{at}][price]", text)
    start = doc["created"]
    return {
        "id": "si_" + ids.token(call.world.seed, doc["id"], at, length=14),
        "price": price["id"],
        "quantity": given.get("quantity", 1),
        "metadata": merged({}, given.get("metadata")),
        "start": start,
        "end": period_end(start, recurring["interval"], recurring.get("interval_count", 1)),
    }


@route("GET /v1/subscriptions", "subscription")
def list_subscriptions(call: Call) -> Doc:
    """List subscriptions; without a status, all that are not canceled."""
    params = call.params
    call.given("customer", "customer")
    clauses, values = [], []
    if "price" in params:
        clauses.append(
            "EXISTS (SELECT 1 FROM json_each(CAST(doc AS TEXT), '$.items') WHERE json_extract(value, '$.price')=?)"
        )
        values.append(params["price"])
    for name in ("current_period_start", "current_period_end"):
        clauses_of, values_of = _period(params.get(name), name.rsplit("_", 1)[1])
        clauses += clauses_of
        values += values_of
    status = params.get("status")
    if status in {None, "all", "ended"}:
        wanted = {None: "status<>'canceled'", "all": "1", "ended": "status IN ('canceled', 'incomplete_expired')"}[
            status
        ]
        where = (" AND ".join([*clauses, wanted]), values)
        return call.page("subscription", "/v1/subscriptions", "customer", "collection_method", where=where)
    where = (" AND ".join(clauses), values)
    return call.page("subscription", "/v1/subscriptions", "customer", "collection_method", "status", where=where)


def _period(bounds: object, member: str) -> tuple[list[str], list[int]]:
    """Filter by the period of the first item."""
    if bounds is None:
        return [], []
    signs = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
    given: dict[str, Any] = bounds if isinstance(bounds, dict) else {"gte": bounds, "lte": bounds}
    column = f"json_extract(CAST(doc AS TEXT), '$.items[0].{member}')"
    return [f"{column}{signs[name]}?" for name in given], list(given.values())


def _need(call: Call) -> Doc:
    return call.need("subscription", call.path["subscription_exposed_id"])


@route("GET /v1/subscriptions/{subscription_exposed_id}", "subscription")
def retrieve_subscription(call: Call) -> Doc:
    """Retrieve a subscription."""
    return call.show("subscription", _need(call))


@route("POST /v1/subscriptions/{subscription_exposed_id}", "subscription", parameters=CHANGE)
def update_subscription(call: Call) -> Doc:
    """Change a subscription's metadata, or let it end with its period."""
    doc = _need(call)
    doc["metadata"] = merged(doc["metadata"], call.params.get("metadata"))
    for name in ("description", "default_payment_method"):
        if name in call.params:
            doc[name] = call.params[name] or None
    if "cancel_at_period_end" in call.params:
        ends = call.params["cancel_at_period_end"]
        doc |= {"cancel_at_period_end": ends, "cancel_at": max(i["end"] for i in doc["items"]) if ends else None}
    call.world.save("subscription", doc)
    call.world.emit(call.scope, "customer.subscription.updated", "subscription", doc, {})
    return call.show("subscription", doc)


@route(
    "DELETE /v1/subscriptions/{subscription_exposed_id}",
    "subscription",
    locks=lambda call: (call.path["subscription_exposed_id"],),
)
def cancel_subscription(call: Call) -> Doc:
    """Cancel a subscription at once; nothing is refunded, and no proration is computed."""
    doc = _need(call)
    if doc["status"] == "canceled":
        text = f"No such subscription: '{doc['id']}'"
        raise StripeError(404, text, code="resource_missing", param="id")
    now = call.world.clock.seconds()
    details = {"comment": None, "feedback": None, "reason": "cancellation_requested"}
    details |= {k: v or None for k, v in call.params.get("cancellation_details", {}).items() if k in details}
    doc |= {"status": "canceled", "canceled_at": now, "ended_at": now, "cancellation_details": details}
    call.world.save("subscription", doc)
    call.world.emit(call.scope, "customer.subscription.deleted", "subscription", doc)
    return call.show("subscription", doc)
