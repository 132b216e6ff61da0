"""Early fraud warnings: a bank's report of fraud, most often ahead of a dispute."""

from stripesim.call import Call
from stripesim.registry import View, job, kind, route
from stripesim.store import Doc
from stripesim.world import Scope, World

NAME = "radar.early_fraud_warning"
URL = "/v1/radar/early_fraud_warnings"


@kind(NAME, "issfr_", "charge", "payment_intent", noun="early_fraud_warning")
def render(view: View, doc: Doc) -> Doc:
    """Show a warning."""
    return {"object": NAME, "livemode": view.livemode, "fraud_type": "made_with_stolen_card"} | doc


def warn(world: World, scope: Scope, charge: Doc) -> Doc:
    """Let a warning arrive; it is actionable unless the charge is disputed or fully refunded by now."""
    over = bool(charge.get("disputed")) or charge.get("amount_refunded", 0) >= charge.get("amount_captured", 0)
    doc: Doc = {"charge": charge["id"], "payment_intent": charge.get("payment_intent"), "actionable": not over}
    world.add(NAME, scope, doc)
    world.emit(scope, "radar.early_fraud_warning.created", NAME, doc)
    return doc


def settled(world: World, scope: Scope, charge: Doc) -> None:
    """The charge was disputed or fully refunded: nothing can be done about its warnings any more."""
    for doc in list(world.store.every(NAME, charge=charge["id"])):
        if doc["actionable"]:
            doc["actionable"] = False
            world.save(NAME, doc)
            world.emit(scope, "radar.early_fraud_warning.updated", NAME, doc, {"actionable": True})


@job("warning_by_card")
def by_card(world: World, scope: int, charge: str) -> None:
    """Let the warning arrive that a test card brings about."""
    doc = world.find("charge", charge)
    if doc is not None:
        warn(world, world.numbered[scope], doc)


@route("GET /v1/radar/early_fraud_warnings", "radar")
def list_warnings(call: Call) -> Doc:
    """List warnings."""
    call.given("charge", "charge")
    call.given("payment_intent", "payment_intent")
    return call.page(NAME, URL, "charge", "payment_intent")


@route("GET /v1/radar/early_fraud_warnings/{early_fraud_warning}", "radar")
def retrieve_warning(call: Call) -> Doc:
    """Retrieve a warning."""
    return call.show(NAME, call.need(NAME, call.path["early_fraud_warning"], param="early_fraud_warning"))
