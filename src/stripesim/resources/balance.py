"""The balance and its transactions."""

from stripesim.call import Call
from stripesim.errors import missing
from stripesim.registry import View, kind, route
from stripesim.store import Doc

TEMPLATE: Doc = {
    "object": "balance_transaction",
    "balance_type": "payments",
    "description": None,
    "exchange_rate": None,
    "fee": 0,
    "fee_details": [],
    "source": None,
}


@kind("balance_transaction", "txn_", "source", "type")
def render(view: View, doc: Doc) -> Doc:
    """Show a balance transaction: pending until its money is available."""
    shown = TEMPLATE | doc
    rate = shown.pop("rate", None)
    shown["exchange_rate"] = None if rate is None else rate / 1_000_000
    shown["status"] = "available" if doc["available_on"] <= view.world.moment() else "pending"
    return shown


@route("GET /v1/balance", "balance")
def retrieve_balance(call: Call) -> Doc:
    """Tell the balance: what is available, what is pending, per settlement currency."""
    sums = call.world.balance(call.scope) or {"usd": (0, 0)}

    def part(at: int) -> list[Doc]:
        return [{"amount": sums[c][at], "currency": c, "source_types": {"card": sums[c][at]}} for c in sums]

    return {
        "object": "balance",
        "available": part(0),
        "connect_reserved": [{"amount": 0, "currency": currency} for currency in sums],
        "livemode": call.scope.livemode,
        "pending": part(1),
        "refund_and_dispute_prefunding": {
            "available": [{"amount": 0, "currency": currency} for currency in sums],
            "pending": [{"amount": 0, "currency": currency} for currency in sums],
        },
    }


@route("GET /v1/balance_transactions", "balance_transaction_source")
def list_transactions(call: Call) -> Doc:
    """List balance transactions; `source` matches charges and refunds by id, and no dispute."""
    if call.params.get("source", "").startswith(("du_", "dp_")):
        return {"object": "list", "data": [], "has_more": False, "url": "/v1/balance_transactions"}
    if "payout" in call.params:
        # No payouts are simulated, so no transaction belongs to one.
        raise missing("payout", call.params["payout"], param="payout")
    currency = call.params.get("currency")
    where = ("json_extract(CAST(doc AS TEXT), '$.currency')=?", [currency.lower()]) if currency else ("", [])
    return call.page("balance_transaction", "/v1/balance_transactions", "source", "type", where=where)


@route("GET /v1/balance_transactions/{id}", "balance_transaction_source")
def retrieve_transaction(call: Call) -> Doc:
    """Retrieve a balance transaction."""
    return call.show("balance_transaction", call.need("balance_transaction", call.path["id"]))
