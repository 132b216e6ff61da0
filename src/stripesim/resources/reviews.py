"""Reviews: payments that wait for a person's look. They have no routes here, but a refund closes one and an event says so.

(docs.stripe.com/api/radar/reviews)
"""

from stripesim.registry import View, kind
from stripesim.store import Doc
from stripesim.world import Scope, World

TEMPLATE: Doc = {
    "object": "review",
    "billing_zip": None,
    "closed_reason": None,
    "ip_address": None,
    "ip_address_location": None,
    "session": None,
}


@kind("review", "prv_", "charge")
def render(view: View, doc: Doc) -> Doc:
    """Show a review."""
    return TEMPLATE | {"livemode": view.livemode} | doc


def begin(world: World, scope: Scope, charge: Doc) -> Doc:
    """Put a charge under review, as a rule of the fraud filter does."""
    doc: Doc = {"charge": charge["id"], "payment_intent": charge.get("payment_intent")}
    doc |= {"open": True, "opened_reason": "rule", "reason": "rule"}
    world.add("review", scope, doc)
    charge["review"] = doc["id"]
    world.save("charge", charge)
    world.emit(scope, "review.opened", "review", doc)
    return doc


def end(world: World, scope: Scope, charge: Doc, reason: str) -> None:
    """Close the open review of a charge, if there is one: approved, refunded, refunded_as_fraud, disputed."""
    doc = world.find("review", charge.get("review") or "")
    if doc is not None and doc["open"]:
        doc |= {"open": False, "closed_reason": reason, "reason": reason}
        world.save("review", doc)
        world.emit(scope, "review.closed", "review", doc)
