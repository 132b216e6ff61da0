"""Application fees: what a platform keeps of its connected accounts' charges, and gives back."""

from stripesim.call import Call
from stripesim.errors import StripeError, missing
from stripesim.money import shown
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.store import Doc
from stripesim.world import Scope, World

LIST_MAX = 10
AMOUNT = {"is": "int", "min": 1}


@kind("application_fee", "fee_", "charge")
def render(view: View, doc: Doc) -> Doc:
    """Show a fee with its first refunds."""
    back = view.world.seen("fee_refund", fee=doc["id"])
    kept = {name: value for name, value in doc.items() if name not in {"payer", "owner"}}
    return {
        "object": "application_fee",
        **kept,
        "fee_source": {"charge": doc["charge"], "type": "charge"},
        "livemode": view.livemode,
        "refunded": doc["amount_refunded"] >= doc["amount"],
        "refunds": {
            "object": "list",
            "data": [render_refund(view, one) for one in back[:LIST_MAX]],
            "has_more": len(back) > LIST_MAX,
            "total_count": len(back),
            "url": f"/v1/application_fees/{doc['id']}/refunds",
        },
    }


@kind("fee_refund", "fr_", "fee")
def render_refund(_: View, doc: Doc) -> Doc:
    """Show a refund of a fee."""
    return {"object": "fee_refund", "metadata": {}, **doc}


def make(world: World, platform: Scope, payer: Scope, charge: Doc, amount: int) -> Doc:
    """Give the platform its fee on a charge.

    Args:
        world: The state.
        platform: Who gets it.
        payer: The connected account that pays it, out of its own charge or of the payment that a transfer made.
        charge: The charge.
        amount: Minor units of the charge's currency.
    """
    from stripesim.resources import connect  # it makes fees

    number = world.store.number("application_fee")
    fee_id = world.new_id("application_fee", number)
    row = world.book(
        platform,
        type="application_fee",
        reporting_category="platform_earning",
        amount=amount,
        currency=charge["currency"],
        source=fee_id,
    )
    doc: Doc = {
        "id": fee_id,
        "created": world.clock.seconds(),
        "account": payer.account,
        "amount": amount,
        "amount_refunded": 0,
        "application": connect.application_of(world, platform.account),
        "balance_transaction": row["id"],
        "charge": charge["id"],
        "currency": charge["currency"],
        "originating_transaction": charge["id"]
        if payer.account != platform.account and charge.get("transfer")
        else None,
        "payer": payer.number,
        "owner": platform.number,
    }
    world.insert("application_fee", platform, number, doc)
    world.emit(platform, "application_fee.created", "application_fee", doc)
    return doc


def give_back(world: World, fee: Doc, amount: int, **more: object) -> Doc:
    """Return an amount of a fee to the connected account."""
    platform, payer = world.numbered[fee["owner"]], world.numbered[fee["payer"]]
    number = world.store.number("fee_refund")
    refund_id = world.new_id("fee_refund", number)
    common = {
        "type": "application_fee_refund",
        "reporting_category": "platform_earning_refund",
        "currency": fee["currency"],
        "source": refund_id,
    }
    row = world.book(platform, amount=-amount, **common)
    world.book(payer, amount=amount, **common)
    doc: Doc = {
        "id": refund_id,
        "created": world.clock.seconds(),
        "amount": amount,
        "balance_transaction": row["id"],
        "currency": fee["currency"],
        "fee": fee["id"],
        **more,
    }
    world.insert("fee_refund", platform, number, doc)
    before = {"amount_refunded": fee["amount_refunded"]}
    fee["amount_refunded"] += amount
    world.save("application_fee", fee)
    world.emit(platform, "application_fee.refunded", "application_fee", fee, before)
    return doc


@route("GET /v1/application_fees", "application_fee")
def list_fees(call: Call) -> Doc:
    """List the platform's fees."""
    return call.page("application_fee", "/v1/application_fees", "charge")


@route("GET /v1/application_fees/{id}", "application_fee")
def retrieve_fee(call: Call) -> Doc:
    """Retrieve a fee."""
    return call.show("application_fee", call.need("application_fee", call.path["id"]))


def _amount(call: Call, fee: Doc) -> int:
    rest: int = fee["amount"] - fee["amount_refunded"]
    amount: int = call.params.get("amount") or rest
    if not rest:
        raise StripeError(400, f"Application fee {fee['id']} has already been refunded.")  # text unverified
    if amount > rest:
        text = f"Refund amount ({shown(amount, fee['currency'])}) is greater than unrefunded amount on fee ({shown(rest, fee['currency'])})"
        raise StripeError(400, text, param="amount")  # text unverified
    return amount


@route(
    "POST /v1/application_fees/{id}/refund",
    "application_fee",
    parameters={"amount": AMOUNT},
    locks=lambda call: (call.path["id"],),
)
def refund_fee_oldest(call: Call) -> Doc:
    """Refund a fee, the oldest way; answers with the fee."""
    fee = call.need("application_fee", call.path["id"])
    give_back(call.world, fee, _amount(call, fee))
    return call.show("application_fee", fee)


@route("GET /v1/application_fees/{id}/refunds", "application_fee")
def list_refunds(call: Call) -> Doc:
    """List the refunds of a fee."""
    fee = call.need("application_fee", call.path["id"])
    return call.page("fee_refund", f"/v1/application_fees/{fee['id']}/refunds", equal={"fee": fee["id"]})


@route(
    "POST /v1/application_fees/{id}/refunds",
    "application_fee",
    parameters={"amount": AMOUNT},
    locks=lambda call: (call.path["id"],),
)
def refund_fee(call: Call) -> Doc:
    """Refund a fee, in full or in part."""
    fee = call.need("application_fee", call.path["id"])
    metadata = merged({}, call.params.get("metadata"))
    return call.show("fee_refund", give_back(call.world, fee, _amount(call, fee), metadata=metadata))


def _need(call: Call) -> Doc:
    call.need("application_fee", call.path["fee"], param="fee")
    doc = call.need("fee_refund", call.path["id"])
    if doc["fee"] != call.path["fee"]:
        raise missing("fee_refund", doc["id"], param="id")
    return doc


@route("GET /v1/application_fees/{fee}/refunds/{id}", "application_fee")
def retrieve_refund(call: Call) -> Doc:
    """Retrieve a refund of a fee."""
    return call.show("fee_refund", _need(call))


@route("POST /v1/application_fees/{fee}/refunds/{id}", "application_fee")
def update_refund(call: Call) -> Doc:
    """Change the metadata of a refund of a fee."""
    doc = _need(call)
    doc["metadata"] = merged(doc.get("metadata", {}), call.params.get("metadata"))
    call.world.save("fee_refund", doc)
    call.world.emit(call.scope, "application_fee.refund.updated", "fee_refund", doc, {})
    return call.show("fee_refund", doc)
