"""Transfers from the platform to connected accounts, and their reversals."""

from stripesim import ids
from stripesim.call import Call, only_connected
from stripesim.errors import StripeError, missing
from stripesim.money import shown
from stripesim.params import merged
from stripesim.registry import View, kind, route
from stripesim.store import Doc
from stripesim.world import Scope, World

METADATA = {"map": "str", "unset": True}
CREATE = {
    "amount": {"is": "int", "required": True, "min": 1},
    "currency": {"is": "str", "required": True},
    "destination": {"is": "str", "required": True},
    "description": "str",
    "metadata": METADATA,
    "source_transaction": "str",
    "source_type": {"enum": ["bank_account", "card", "fpx"]},
    "transfer_group": "str",
    "expand": {"list": "str"},
}
LIST_MAX = 10


@kind("transfer", "tr_", "destination", "transfer_group")
def render(view: View, doc: Doc) -> Doc:
    """Show a transfer with its first reversals."""
    reversals = view.world.seen("transfer_reversal", transfer=doc["id"])
    return {
        "object": "transfer",
        "description": None,
        "metadata": {},
        "source_transaction": None,
        "source_type": "card",
        "transfer_group": None,
        **doc,
        "livemode": view.livemode,
        "reversals": {
            "object": "list",
            "data": [render_reversal(view, reversal) for reversal in reversals[:LIST_MAX]],
            "has_more": len(reversals) > LIST_MAX,
            "total_count": len(reversals),
            "url": f"/v1/transfers/{doc['id']}/reversals",
        },
        "reversed": doc["amount_reversed"] >= doc["amount"],
    }


@kind("transfer_reversal", "trr_", "transfer")
def render_reversal(_: View, doc: Doc) -> Doc:
    """Show a reversal."""
    return {
        "object": "transfer_reversal",
        "metadata": {},
        "source_refund": None,
        "destination_payment_refund": None,
        **doc,
    }


def make(
    world: World,
    scope: Scope,
    to: Scope,
    amount: int,
    currency: str,
    *,
    source: Doc | None = None,
    fee: int = 0,
    **more: object,
) -> Doc:
    """Move money to a connected account, where it arrives as a payment.

    Args:
        world: The state.
        scope: The platform.
        to: The connected account.
        amount: Minor units.
        currency: Of the amount.
        source: The charge that it comes from, if it is one.
        fee: An application fee that is taken out of the payment.
        **more: Further members of the transfer.
    """
    number = world.store.number("transfer")
    transfer_id = (
        f"tr_{ids.stem_of(source['id'])}0{ids.token(world.seed, 'tr', number, length=7)}"
        if source
        else world.new_id("transfer", number)
    )
    row = world.book(scope, type="transfer", amount=-amount, currency=currency, source=transfer_id)
    payment = _payment(world, to, amount, currency, transfer_id, fee)
    doc: Doc = {
        "id": transfer_id,
        "created": world.clock.seconds(),
        "amount": amount,
        "amount_reversed": 0,
        "balance_transaction": row["id"],
        "currency": currency,
        "destination": to.account,
        "destination_payment": payment["id"],
        "source_transaction": source["id"] if source else None,
        **({"transfer_group": source.get("transfer_group")} if source else {}),
        **more,
    }
    world.insert("transfer", scope, number, doc)
    world.emit(scope, "transfer.created", "transfer", doc)
    return doc


def _payment(world: World, to: Scope, amount: int, currency: str, transfer: str, fee: int) -> Doc:
    """Make the charge that a transfer is on the connected account."""
    number = world.store.number("charge")
    payment: Doc = {
        "id": f"py_1{ids.token(world.seed, 'payment', number, length=23)}",
        "created": world.clock.seconds(),
        "amount": amount,
        "amount_captured": amount,
        "captured": True,
        "currency": currency,
        "means": "stripe_account",
        "metadata": {},
        "source_transfer": transfer,
    }
    taken, into, _ = world.settled(to, fee, currency)
    detail = {
        "amount": taken,
        "application": None,
        "currency": into,
        "description": "Application fee",
        "type": "application_fee",
    }
    row = world.book(
        to,
        type="payment",
        reporting_category="charge",
        amount=amount,
        currency=currency,
        fee=taken,
        fee_details=[detail] if taken else [],
        source=payment["id"],
    )
    payment["balance_transaction"] = row["id"]
    world.insert("charge", to, number, payment)
    return payment


def reverse(
    world: World, scope: Scope, transfer: Doc, amount: int, *, refund: str | None = None, **more: object
) -> Doc:
    """Take money of a transfer back; the connected account's balance may become negative."""
    to = world.scopes[transfer["destination"], scope.livemode]
    number = world.store.number("transfer_reversal")
    reversal_id = world.new_id("transfer_reversal", number)
    row = world.book(
        scope,
        type="transfer_refund",
        reporting_category="transfer_reversal",
        amount=amount,
        currency=transfer["currency"],
        source=reversal_id,
    )
    payment = world.find("charge", transfer["destination_payment"])
    back = _payment_refund(world, to, payment, amount, reversal_id) if payment else None
    doc: Doc = {
        "id": reversal_id,
        "created": world.clock.seconds(),
        "amount": amount,
        "balance_transaction": row["id"],
        "currency": transfer["currency"],
        "destination_payment_refund": back,
        "source_refund": refund,
        "transfer": transfer["id"],
        **more,
    }
    world.insert("transfer_reversal", scope, number, doc)
    before = {"amount_reversed": transfer["amount_reversed"]}
    transfer["amount_reversed"] += amount
    world.save("transfer", transfer)
    world.emit(scope, "transfer.reversed", "transfer", transfer, before)
    return doc


def _payment_refund(world: World, to: Scope, payment: Doc, amount: int, reversal: str) -> str:
    """Refund the connected account's payment, which is what a reversal is to it."""
    number = world.store.number("refund")
    refund: Doc = {
        "id": f"pyr_1{ids.token(world.seed, 'pyr', number, length=23)}",
        "created": world.clock.seconds(),
        "amount": amount,
        "charge": payment["id"],
        "currency": payment["currency"],
        "means": "stripe_account",
        "behaviour": "succeeds",
        "status": "succeeded",
        "source_transfer_reversal": reversal,
    }
    row = world.book(
        to,
        type="payment_refund",
        reporting_category="refund",
        amount=-amount,
        currency=payment["currency"],
        source=refund["id"],
    )
    refund |= {"balance_transaction": row["id"], "booked": -row["net"]}
    world.insert("refund", to, number, refund)
    payment["amount_refunded"] = payment.get("amount_refunded", 0) + amount
    world.save("charge", payment)
    world.emit(to, "refund.created", "refund", refund)
    return str(refund["id"])


@route("GET /v1/transfers", "transfer")
def list_transfers(call: Call) -> Doc:
    """List transfers."""
    return call.page("transfer", "/v1/transfers", "destination", "transfer_group")


@route("POST /v1/transfers", "transfer", parameters=CREATE)
def create_transfer(call: Call) -> Doc:
    """Send money to a connected account, apart from any charge."""
    only_connected(call)
    params, world = call.params, call.world
    account = world.find("account", params["destination"])
    if account is None or account.get("platform") != call.caller.account or account["livemode"] != call.caller.livemode:
        raise missing("destination", params["destination"], param="destination", status=400)
    source = (
        call.need("charge", params["source_transaction"], param="source_transaction")
        if "source_transaction" in params
        else None
    )
    if source is None and world.available(call.scope, params["currency"]) < params["amount"]:
        text = "You have insufficient available funds in your Stripe account."
        raise StripeError(400, text, code="balance_insufficient")
    more: Doc = {name: params[name] for name in ("description", "transfer_group") if name in params}
    more["metadata"] = merged({}, params.get("metadata"))
    to = world.scopes[account["id"], call.caller.livemode]
    made = make(world, call.scope, to, params["amount"], params["currency"].lower(), source=source, **more)
    return call.show("transfer", made)


@route("GET /v1/transfers/{transfer}", "transfer")
def retrieve_transfer(call: Call) -> Doc:
    """Retrieve a transfer."""
    return call.show("transfer", call.need("transfer", call.path["transfer"], param="transfer"))


@route("POST /v1/transfers/{transfer}", "transfer", parameters={"description": "str", "metadata": METADATA})
def update_transfer(call: Call) -> Doc:
    """Change a transfer's description or metadata."""
    doc = call.need("transfer", call.path["transfer"], param="transfer")
    doc["metadata"] = merged(doc.get("metadata", {}), call.params.get("metadata"))
    doc |= {name: call.params[name] for name in ("description",) if name in call.params}
    call.world.save("transfer", doc)
    return call.show("transfer", doc)


@route("GET /v1/transfers/{id}/reversals", "transfer")
def list_reversals(call: Call) -> Doc:
    """List the reversals of a transfer."""
    doc = call.need("transfer", call.path["id"])
    return call.page("transfer_reversal", f"/v1/transfers/{doc['id']}/reversals", equal={"transfer": doc["id"]})


@route(
    "POST /v1/transfers/{id}/reversals",
    "transfer",
    parameters={"amount": {"is": "int", "min": 1}},
    locks=lambda call: (call.path["id"],),
)
def create_reversal(call: Call) -> Doc:
    """Reverse a transfer, in full or in part."""
    transfer, params = call.need("transfer", call.path["id"]), call.params
    rest = transfer["amount"] - transfer["amount_reversed"]
    amount = params.get("amount", rest)
    if amount > rest or not rest:
        text = f"Reversal amount ({shown(amount, transfer['currency'])}) is greater than unreversed amount on transfer ({shown(rest, transfer['currency'])})"
        raise StripeError(400, text, param="amount")  # text unverified
    reversal = reverse(call.world, call.scope, transfer, amount, metadata=merged({}, params.get("metadata")))
    if params.get("refund_application_fee") and transfer["source_transaction"]:
        from stripesim.resources import application_fees  # they know transfers' charges

        charge = call.world.find("charge", transfer["source_transaction"])
        fee = call.world.find("application_fee", (charge or {}).get("application_fee") or "")
        if fee is not None:
            application_fees.give_back(
                call.world,
                fee,
                min(fee["amount"] * amount // transfer["amount"], fee["amount"] - fee["amount_refunded"]),
            )
    return call.show("transfer_reversal", reversal)


def _reversal(call: Call) -> Doc:
    call.need("transfer", call.path["transfer"], param="transfer")
    doc = call.need("transfer_reversal", call.path["id"])
    if doc["transfer"] != call.path["transfer"]:
        raise missing("transfer_reversal", doc["id"], param="id")
    return doc


@route("GET /v1/transfers/{transfer}/reversals/{id}", "transfer")
def retrieve_reversal(call: Call) -> Doc:
    """Retrieve a reversal."""
    return call.show("transfer_reversal", _reversal(call))


@route("POST /v1/transfers/{transfer}/reversals/{id}", "transfer")
def update_reversal(call: Call) -> Doc:
    """Change a reversal's metadata."""
    doc = _reversal(call)
    doc["metadata"] = merged(doc.get("metadata", {}), call.params.get("metadata"))
    call.world.save("transfer_reversal", doc)
    return call.show("transfer_reversal", doc)
