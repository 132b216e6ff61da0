"""One call for each route of the simulator, and the world in which it succeeds.

`@name` in a parameter, or in `PLACES` for a path, is an id of that world (`furnish`).
"""

from __future__ import annotations

from typing import Any

from tests.support.recorder import Recorder

Params = dict[str, Any]

SUCCESSES: dict[str, Params] = {
    "GET /v1/account": {},
    "GET /v1/accounts": {"limit": 3},
    "POST /v1/accounts": {"type": "express", "country": "DE", "email": "shop@example.com", "metadata": {"shop": "7"}},
    "GET /v1/accounts/{account}": {},
    "POST /v1/accounts/{account}": {"business_profile": {"name": "Seven Seas"}, "metadata": {"shop": "8"}},
    "GET /v1/application_fees": {"charge": "@destination_charge", "created": {"gte": 1}},
    "GET /v1/application_fees/{fee}/refunds/{id}": {},
    "POST /v1/application_fees/{fee}/refunds/{id}": {"metadata": {"why": "goodwill"}},
    "GET /v1/application_fees/{id}": {},
    "POST /v1/application_fees/{id}/refund": {"amount": 10},
    "GET /v1/application_fees/{id}/refunds": {"limit": 1},
    "POST /v1/application_fees/{id}/refunds": {"amount": 10, "metadata": {"why": "goodwill"}},
    "GET /v1/balance": {},
    "GET /v1/balance_transactions": {"type": "charge", "source": "@charge", "currency": "usd"},
    "GET /v1/balance_transactions/{id}": {},
    "GET /v1/charges": {"customer": "@customer", "limit": 2},
    "POST /v1/charges": {"amount": 700, "currency": "usd", "source": "tok_visa", "description": "Over the counter"},
    "GET /v1/charges/search": {"query": "metadata['order_id']:'536365' AND status:'succeeded'"},
    "GET /v1/charges/{charge}": {},
    "POST /v1/charges/{charge}": {"description": "Order 536365", "metadata": {"order_id": "536365"}},
    "POST /v1/charges/{charge}/capture": {"amount": 800},
    "GET /v1/charges/{charge}/dispute": {},
    "POST /v1/charges/{charge}/dispute": {"evidence": {"customer_name": "Ada"}, "submit": False},
    "POST /v1/charges/{charge}/dispute/close": {},
    "POST /v1/charges/{charge}/refund": {"amount": 200, "reason": "duplicate"},
    "GET /v1/charges/{charge}/refunds": {"limit": 1},
    "POST /v1/charges/{charge}/refunds": {"amount": 200, "metadata": {"ticket": "9"}},
    "GET /v1/charges/{charge}/refunds/{refund}": {},
    "POST /v1/charges/{charge}/refunds/{refund}": {"metadata": {"ticket": "9"}},
    "GET /v1/credit_notes": {"invoice": "@invoice"},
    "POST /v1/credit_notes": {"invoice": "@invoice", "amount": 300, "refund_amount": 300, "reason": "duplicate"},
    "GET /v1/credit_notes/preview": {"invoice": "@invoice", "amount": 300, "refund_amount": 300},
    "GET /v1/credit_notes/preview/lines": {"invoice": "@invoice", "amount": 300, "credit_amount": 300},
    "GET /v1/credit_notes/{credit_note}/lines": {"limit": 5},
    "GET /v1/credit_notes/{id}": {},
    "POST /v1/credit_notes/{id}": {"memo": "As agreed", "metadata": {"ticket": "9"}},
    "POST /v1/credit_notes/{id}/void": {},
    "GET /v1/customers": {"email": "ada@example.com"},
    "POST /v1/customers": {"email": "bo@example.com", "name": "Bo", "payment_method": "pm_card_visa"},
    "GET /v1/customers/search": {"query": "email:'ada@example.com'"},
    "DELETE /v1/customers/{customer}": {},
    "GET /v1/customers/{customer}": {},
    "POST /v1/customers/{customer}": {"phone": "+4930123", "metadata": {"tier": "gold"}},
    "GET /v1/customers/{customer}/balance_transactions": {"limit": 1},
    "POST /v1/customers/{customer}/balance_transactions": {"amount": -150, "currency": "usd", "description": "Credit"},
    "GET /v1/customers/{customer}/balance_transactions/{transaction}": {},
    "POST /v1/customers/{customer}/balance_transactions/{transaction}": {"metadata": {"ticket": "9"}},
    "GET /v1/disputes": {"charge": "@disputed_charge"},
    "GET /v1/disputes/{dispute}": {},
    "POST /v1/disputes/{dispute}": {"evidence": {"uncategorized_text": "It was delivered"}, "submit": True},
    "POST /v1/disputes/{dispute}/close": {},
    "GET /v1/events": {"type": "charge.*", "limit": 3},
    "GET /v1/events/{id}": {},
    "GET /v1/invoice_payments": {"invoice": "@invoice"},
    "GET /v1/invoice_payments/{invoice_payment}": {},
    "POST /v1/invoiceitems": {"customer": "@customer", "invoice": "@draft", "amount": 250, "description": "Postage"},
    "GET /v1/invoices": {"customer": "@customer", "status": "paid"},
    "POST /v1/invoices": {"customer": "@customer", "currency": "usd"},
    "GET /v1/invoices/{invoice}": {},
    "POST /v1/invoices/{invoice}/finalize": {},
    "POST /v1/invoices/{invoice}/pay": {},
    "GET /v1/payment_intents": {"customer": "@customer"},
    "POST /v1/payment_intents": {"amount": 900, "currency": "eur", "payment_method": "pm_card_visa", "confirm": True},
    "GET /v1/payment_intents/search": {"query": "status:'succeeded' AND amount>100"},
    "GET /v1/payment_intents/{intent}": {},
    "POST /v1/payment_intents/{intent}": {"description": "Order 536366", "metadata": {"order_id": "536366"}},
    "POST /v1/payment_intents/{intent}/cancel": {"cancellation_reason": "requested_by_customer"},
    "POST /v1/payment_intents/{intent}/capture": {"amount_to_capture": 600},
    "POST /v1/payment_intents/{intent}/confirm": {"payment_method": "pm_card_mastercard"},
    "GET /v1/payment_methods": {"customer": "@customer", "type": "card"},
    "POST /v1/payment_methods": {
        "type": "card",
        "card": {"number": "4242424242424242", "exp_month": 9, "exp_year": 2030, "cvc": "123"},
    },
    "GET /v1/payment_methods/{payment_method}": {},
    "POST /v1/payment_methods/{payment_method}": {"billing_details": {"name": "Ada"}, "metadata": {"tier": "gold"}},
    "POST /v1/payment_methods/{payment_method}/attach": {"customer": "@customer"},
    "POST /v1/payment_methods/{payment_method}/detach": {},
    "GET /v1/prices": {"product": "@product"},
    "POST /v1/prices": {"currency": "usd", "unit_amount": 900, "product": "@product"},
    "GET /v1/prices/{price}": {},
    "POST /v1/prices/{price}": {"nickname": "Monthly"},
    "GET /v1/products": {"limit": 1},
    "POST /v1/products": {"name": "Tea"},
    "GET /v1/products/{id}": {},
    "POST /v1/products/{id}": {"description": "Loose leaves"},
    "GET /v1/radar/early_fraud_warnings": {"charge": "@warned_charge"},
    "GET /v1/radar/early_fraud_warnings/{early_fraud_warning}": {},
    "GET /v1/refunds": {"charge": "@charge", "limit": 1},
    "POST /v1/refunds": {"charge": "@charge", "amount": 100, "reason": "requested_by_customer"},
    "GET /v1/refunds/{refund}": {},
    "POST /v1/refunds/{refund}": {"metadata": {"ticket": "9"}},
    "POST /v1/refunds/{refund}/cancel": {},
    "GET /v1/subscriptions": {"customer": "@customer", "status": "all"},
    "POST /v1/subscriptions": {"customer": "@customer", "items": [{"price": "@price", "quantity": 2}]},
    "DELETE /v1/subscriptions/{subscription_exposed_id}": {"cancellation_details": {"comment": "Moved away"}},
    "GET /v1/subscriptions/{subscription_exposed_id}": {},
    "POST /v1/subscriptions/{subscription_exposed_id}": {"cancel_at_period_end": True},
    "POST /v1/test_helpers/refunds/{refund}/expire": {},
    "GET /v1/transfers": {"destination": "@account"},
    "POST /v1/transfers": {"amount": 400, "currency": "usd", "destination": "@account", "transfer_group": "week_7"},
    "GET /v1/transfers/{id}/reversals": {"limit": 1},
    "POST /v1/transfers/{id}/reversals": {"amount": 50, "metadata": {"ticket": "9"}},
    "GET /v1/transfers/{transfer}": {},
    "POST /v1/transfers/{transfer}": {"metadata": {"ticket": "9"}},
    "GET /v1/transfers/{transfer}/reversals/{id}": {},
    "POST /v1/transfers/{transfer}/reversals/{id}": {"metadata": {"ticket": "9"}},
    "GET /v1/webhook_endpoints": {"limit": 1},
    "POST /v1/webhook_endpoints": {
        "url": "https://example.com/hook",
        "enabled_events": ["refund.failed", "charge.refunded"],
    },
    "DELETE /v1/webhook_endpoints/{webhook_endpoint}": {},
    "GET /v1/webhook_endpoints/{webhook_endpoint}": {},
    "POST /v1/webhook_endpoints/{webhook_endpoint}": {"disabled": True, "description": "Paused"},
}
# What stands in a path, where it is not the object that bears the parameter's own name.
PLACES: dict[str, dict[str, str]] = {
    "GET /v1/application_fees/{fee}/refunds/{id}": {"id": "fee_refund"},
    "POST /v1/application_fees/{fee}/refunds/{id}": {"id": "fee_refund"},
    "GET /v1/application_fees/{id}": {"id": "fee"},
    "POST /v1/application_fees/{id}/refund": {"id": "fee"},
    "GET /v1/application_fees/{id}/refunds": {"id": "fee"},
    "POST /v1/application_fees/{id}/refunds": {"id": "fee"},
    "GET /v1/balance_transactions/{id}": {"id": "transaction_of_charge"},
    "POST /v1/charges/{charge}/capture": {"charge": "held_charge"},
    "GET /v1/charges/{charge}/dispute": {"charge": "disputed_charge"},
    "POST /v1/charges/{charge}/dispute": {"charge": "disputed_charge"},
    "POST /v1/charges/{charge}/dispute/close": {"charge": "disputed_charge"},
    "GET /v1/credit_notes/{id}": {"id": "credit_note"},
    "POST /v1/credit_notes/{id}": {"id": "credit_note"},
    "POST /v1/credit_notes/{id}/void": {"id": "open_note"},
    "GET /v1/events/{id}": {"id": "event"},
    "POST /v1/invoices/{invoice}/finalize": {"invoice": "draft"},
    "POST /v1/invoices/{invoice}/pay": {"invoice": "open_invoice"},
    "POST /v1/payment_intents/{intent}/cancel": {"intent": "held_intent"},
    "POST /v1/payment_intents/{intent}/capture": {"intent": "held_intent"},
    "POST /v1/payment_intents/{intent}/confirm": {"intent": "bare_intent"},
    "GET /v1/products/{id}": {"id": "product"},
    "POST /v1/products/{id}": {"id": "product"},
    "POST /v1/refunds/{refund}/cancel": {"refund": "waiting_refund"},
    "POST /v1/test_helpers/refunds/{refund}/expire": {"refund": "waiting_refund"},
    "GET /v1/transfers/{id}/reversals": {"id": "transfer"},
    "POST /v1/transfers/{id}/reversals": {"id": "transfer"},
    "GET /v1/transfers/{transfer}/reversals/{id}": {"id": "reversal"},
    "POST /v1/transfers/{transfer}/reversals/{id}": {"id": "reversal"},
}
# Status, code and parameter of a refusal of each route that its object or its state brings about, and what is sent for it.
# A route with an id in its path is also asked for an id that does not exist.
REFUSALS: dict[str, tuple[int, str | None, str | None, Params]] = {
    "GET /v1/accounts": (400, "parameter_invalid_integer", "limit", {"limit": 0}),
    "POST /v1/accounts": (400, None, "type", {"type": "sultan"}),
    "GET /v1/application_fees": (400, "resource_missing", "starting_after", {"starting_after": "fee_0"}),
    "POST /v1/application_fees/{id}/refund": (400, None, "amount", {"amount": 100_000}),
    "POST /v1/application_fees/{id}/refunds": (400, None, "amount", {"amount": 100_000}),
    "GET /v1/balance_transactions": (400, "resource_missing", "ending_before", {"ending_before": "txn_0"}),
    "GET /v1/charges": (400, "resource_missing", "customer", {"customer": "cus_0"}),
    "POST /v1/charges": (402, "card_declined", None, {"amount": 700, "currency": "usd", "source": "tok_chargeDeclined"}),
    "GET /v1/charges/search": (400, None, "query", {"query": "colour:'red'"}),
    "POST /v1/charges/{charge}/refund": (400, None, "amount", {"amount": 100_000}),
    "POST /v1/charges/{charge}/refunds": (400, None, "amount", {"amount": 100_000}),
    "GET /v1/credit_notes": (400, "resource_missing", "invoice", {"invoice": "in_0"}),
    "POST /v1/credit_notes": (400, None, "amount", {"invoice": "@invoice", "amount": 900_000}),
    "GET /v1/credit_notes/preview": (400, None, "amount", {"invoice": "@invoice", "amount": 900_000}),
    "GET /v1/credit_notes/preview/lines": (400, "resource_missing", "invoice", {"invoice": "in_0", "amount": 1}),
    "GET /v1/customers": (400, "resource_missing", "starting_after", {"starting_after": "cus_0"}),
    "POST /v1/customers": (400, None, "tax_exempt", {"tax_exempt": "maybe"}),
    "GET /v1/customers/search": (400, None, "query", {"query": "email>'a'"}),
    "GET /v1/disputes": (400, "resource_missing", "payment_intent", {"payment_intent": "pi_0"}),
    "GET /v1/events": (400, None, "types", {"types": [f"type_{at}" for at in range(21)]}),
    "GET /v1/invoice_payments": (400, "resource_missing", "invoice", {"invoice": "in_0"}),
    "POST /v1/invoiceitems": (400, "invoice_not_editable", None, {"customer": "@customer", "invoice": "@invoice", "amount": 1}),
    "GET /v1/invoices": (400, "resource_missing", "customer", {"customer": "cus_0"}),
    "POST /v1/invoices": (400, "parameter_missing", "customer", {}),
    "GET /v1/payment_intents": (400, "resource_missing", "customer", {"customer": "cus_0"}),
    "POST /v1/payment_intents": (400, "amount_too_small", "amount", {"amount": 1, "currency": "usd"}),
    "GET /v1/payment_intents/search": (400, "parameter_missing", "query", {}),
    "GET /v1/payment_methods": (400, "resource_missing", "customer", {"customer": "cus_0"}),
    "POST /v1/payment_methods": (402, "incorrect_number", "number", {"type": "card", "card": {"number": "4242424242424241"}}),
    "GET /v1/prices": (400, "parameter_invalid_integer", "limit", {"limit": 101}),
    "POST /v1/prices": (400, "parameter_missing", "product", {"currency": "usd", "unit_amount": 1}),
    "GET /v1/products": (400, "parameter_invalid_integer", "limit", {"limit": "ten"}),
    "POST /v1/products": (400, "parameter_missing", "name", {}),
    "GET /v1/radar/early_fraud_warnings": (400, "resource_missing", "charge", {"charge": "ch_0"}),
    "GET /v1/refunds": (400, "resource_missing", "charge", {"charge": "ch_0"}),
    "POST /v1/refunds": (404, "resource_missing", "id", {"charge": "ch_0"}),
    "GET /v1/subscriptions": (400, "resource_missing", "customer", {"customer": "cus_0"}),
    "POST /v1/subscriptions": (400, "resource_missing", "items[0][price]", {"customer": "@customer", "items": [{"price": "price_0"}]}),
    "GET /v1/transfers": (400, "resource_missing", "starting_after", {"starting_after": "tr_0"}),
    "POST /v1/transfers": (400, "resource_missing", "destination", {"amount": 1, "currency": "usd", "destination": "acct_0"}),
    "POST /v1/transfers/{id}/reversals": (400, None, "amount", {"amount": 100_000}),
    "GET /v1/webhook_endpoints": (400, "parameter_invalid_integer", "limit", {"limit": 0}),
    "POST /v1/webhook_endpoints": (400, "url_invalid", "url", {"url": "nowhere", "enabled_events": ["*"]}),
}  # fmt: skip


async def furnish(sim: Recorder) -> dict[str, str]:
    """Fill a world with one object of each kind, in the states that the examples need; tells ids by name."""
    ids: dict[str, str] = {}

    async def make(name: str, operation: str, /, **params: Any) -> Any:
        reply = await sim.ok(operation, **params)
        ids[name] = str(reply["id"])
        return reply

    await make("webhook_endpoint", "POST /v1/webhook_endpoints", url="https://example.com/a", enabled_events=["*"])
    await make("customer", "POST /v1/customers", email="ada@example.com", name="Ada", payment_method="pm_card_visa")
    customer = ids["customer"]
    ids["payment_method"] = (await sim.ok("GET /v1/payment_methods", customer=customer))["data"][0]["id"]
    await make(
        "transaction",
        f"POST /v1/customers/{customer}/balance_transactions",
        amount=-100,
        currency="usd",
    )
    await _furnish_payments(sim, ids, make)
    await _furnish_connect(sim, ids, make)
    await _furnish_billing(sim, ids, make)
    ids["event"] = (await sim.ok("GET /v1/events", limit=1))["data"][0]["id"]
    await sim.move(120)
    return ids


async def _furnish_payments(sim: Recorder, ids: dict[str, str], make: Any) -> None:
    order = {"customer": ids["customer"], "metadata": {"order_id": "536365"}}
    ids["charge"] = await sim.charge(5000, **order)
    await sim.booked()
    paid = await sim.ok(f"GET /v1/charges/{ids['charge']}")
    ids |= {"intent": paid["payment_intent"], "transaction_of_charge": paid["balance_transaction"]}
    await make("refund", "POST /v1/refunds", charge=ids["charge"], amount=100)
    konbini = {"type": "konbini", "billing_details": {"email": "ada@example.com"}}
    waiting = await sim.ok(
        "POST /v1/payment_intents", amount=3000, currency="jpy", payment_method_data=konbini, confirm=True
    )
    await make("waiting_refund", "POST /v1/refunds", payment_intent=waiting["id"])
    await make("held_charge", "POST /v1/charges", amount=900, currency="usd", source="tok_visa", capture=False)
    held = {"amount": 900, "currency": "usd", "payment_method": "pm_card_visa", "capture_method": "manual"}
    await make("held_intent", "POST /v1/payment_intents", confirm=True, **held)
    await make("bare_intent", "POST /v1/payment_intents", amount=900, currency="usd")
    ids["disputed_charge"] = await sim.charge(4000, card="pm_card_createDispute")
    ids["warned_charge"] = await sim.charge(4000, card="pm_card_createIssuerFraudRecord")
    await sim.move(1)
    ids["dispute"] = (await sim.ok("GET /v1/disputes"))["data"][0]["id"]
    ids["early_fraud_warning"] = (await sim.ok("GET /v1/radar/early_fraud_warnings"))["data"][0]["id"]


async def _furnish_connect(sim: Recorder, ids: dict[str, str], make: Any) -> None:
    await make("account", "POST /v1/accounts", type="express", country="US")
    share = {"transfer_data": {"destination": ids["account"]}, "application_fee_amount": 200}
    ids["destination_charge"] = await sim.charge(2000, **share)
    paid = await sim.ok(f"GET /v1/charges/{ids['destination_charge']}")
    ids |= {"transfer": paid["transfer"], "fee": paid["application_fee"]}
    await make("reversal", f"POST /v1/transfers/{ids['transfer']}/reversals", amount=20)
    await make("fee_refund", f"POST /v1/application_fees/{ids['fee']}/refunds", amount=2)


async def _furnish_billing(sim: Recorder, ids: dict[str, str], make: Any) -> None:
    customer = ids["customer"]
    await make("product", "POST /v1/products", name="Coffee")
    monthly = {"interval": "month"}
    await make("price", "POST /v1/prices", product=ids["product"], currency="usd", unit_amount=1500, recurring=monthly)
    made = await make(
        "subscription_exposed_id", "POST /v1/subscriptions", customer=customer, items=[{"price": ids["price"]}]
    )
    ids["invoice"] = made["latest_invoice"]
    ids["invoice_payment"] = (await sim.ok("GET /v1/invoice_payments", invoice=ids["invoice"]))["data"][0]["id"]
    await make("credit_note", "POST /v1/credit_notes", invoice=ids["invoice"], amount=100, credit_amount=100)
    for name in ("open_invoice", "draft"):
        await make(name, "POST /v1/invoices", customer=customer, currency="usd")
        await sim.ok("POST /v1/invoiceitems", customer=customer, invoice=ids[name], amount=2500)
    await sim.ok(f"POST /v1/invoices/{ids['open_invoice']}/finalize")
    await make("open_note", "POST /v1/credit_notes", invoice=ids["open_invoice"], amount=100)
