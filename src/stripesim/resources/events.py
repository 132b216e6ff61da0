"""Events: what happened, each with the object as it was then."""

import re

from stripesim.call import Call
from stripesim.errors import missing, refused
from stripesim.registry import KINDS, View, kind, route
from stripesim.store import Doc

TYPES_MAX = 20
KEPT_SECONDS = 30 * 86_400


@kind("event", "evt_", "type")
def render(view: View, doc: Doc) -> Doc:
    """Show an event in the version that it was made in, whichever the caller's: its shape never changes."""
    return render_in(View(view.world, view.livemode, doc["api_version"]), doc)


def render_in(view: View, doc: Doc) -> Doc:
    """Show an event in a version, as an endpoint that has one of its own is told it; the object has the state of then."""
    answer: Doc = {
        "object": "event",
        "api_version": view.version,
        "created": doc["created"],
        "data": {"object": KINDS[doc["kind"]].render(view, doc["state"])},
        "id": doc["id"],
        "livemode": view.livemode,
        "pending_webhooks": pending(view, doc),
        "request": doc["request"],
        "type": doc["type"],
    }
    if "previous" in doc:
        answer["data"]["previous_attributes"] = doc["previous"]
    if "account" in doc:
        answer["account"] = doc["account"]
    return answer


def pending(view: View, doc: Doc) -> int:
    """Count the deliveries of an event that have not succeeded yet."""
    sql = "SELECT count(*) FROM delivery WHERE event=? AND status='pending'"
    return int(view.world.store.db.execute(sql, (doc["id"],)).fetchone()[0])


@route("GET /v1/events", "event")
def list_events(call: Call) -> Doc:
    """List the events of the last 30 days, by type (`*` stands for anything), and by whether webhooks got them."""
    types: list[str] = call.params.get("types") or []
    if len(types) > TYPES_MAX:
        raise refused("types", f"You may specify up to {TYPES_MAX} types.")
    if types and "type" in call.params:
        raise refused("types", "You may only specify one of these parameters: type, types.")
    clauses, values = ["created>=?"], [call.world.clock.now() - KEPT_SECONDS]
    wanted = types or [call.params["type"]] if types or "type" in call.params else []
    # One type that is written out is found by its index, at any depth.
    exact = {"type": wanted[0]} if len(wanted) == 1 and "*" not in wanted[0] else {}
    if wanted and not exact:
        clauses.append("(" + " OR ".join(["type GLOB ?"] * len(wanted)) + ")")
        # GLOB has more wildcards than Stripe, which knows the star only.
        values += [re.sub(r"[\[?]", r"[\g<0>]", pattern) for pattern in wanted]  # type: ignore[misc]
    if "delivery_success" in call.params:
        some = "EXISTS (SELECT 1 FROM delivery WHERE delivery.event=\"event\".id AND status<>'delivered')"
        clauses.append("NOT " + some if call.params["delivery_success"] else some)
    return call.page("event", "/v1/events", equal=exact, where=(" AND ".join(clauses), values))


@route("GET /v1/events/{id}", "event")
def retrieve_event(call: Call) -> Doc:
    """Retrieve an event of the last 30 days."""
    event = call.need("event", call.path["id"])
    if event["created"] < call.world.clock.now() - KEPT_SECONDS:
        raise missing("event", event["id"], param="id")
    return call.show("event", event)
