"""Webhook endpoints: where events are sent to; `stripesim.webhooks` sends them."""

from urllib.parse import urlsplit

from stripesim import ids
from stripesim.call import Call
from stripesim.errors import StripeError, refused
from stripesim.params import merged
from stripesim.registry import VERSIONS, View, kind, route
from stripesim.store import Doc

ENDPOINTS_MAX = 16
TEMPLATE: Doc = {
    "object": "webhook_endpoint",
    "api_version": None,
    "application": None,
    "description": None,
    "metadata": {},
}
PRIVATE = ("secret", "old_secrets", "connect")


@kind("webhook_endpoint", "we_")
def render(view: View, doc: Doc) -> Doc:
    """Show an endpoint, without its secret."""
    answer = TEMPLATE | {name: value for name, value in doc.items() if name not in PRIVATE}
    return answer | {"livemode": view.livemode}


@route("POST /v1/webhook_endpoints", "webhook", parameters={"api_version": "str"})
def create_endpoint(call: Call) -> Doc:
    """Create an endpoint; only this answer has its secret."""
    params, world = call.params, call.world
    if world.store.count("webhook_endpoint", call.scope.number, {}) >= ENDPOINTS_MAX:
        text = f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints."
        raise StripeError(400, text.replace("test", "live") if call.scope.livemode else text)
    version = params.get("api_version")
    if version and version not in VERSIONS:
        raise refused("api_version", f"Invalid API version: {version}")
    doc = {
        "url": _url(call),
        "enabled_events": _events(params["enabled_events"]),
        "status": "enabled",
        "api_version": version,
        "description": params.get("description") or None,
        "metadata": merged({}, params.get("metadata")),
        "connect": params.get("connect", False),
    }
    world.add("webhook_endpoint", call.scope, doc)
    doc["secret"] = "whsec_" + ids.token(world.seed, "whsec", doc["id"], world.clock.now(), length=32)
    world.save("webhook_endpoint", doc)
    world.forget_endpoints()
    return call.show("webhook_endpoint", doc) | {"secret": doc["secret"]}


def _url(call: Call) -> str:
    url: str = call.params["url"]
    try:
        parts = urlsplit(url)
        well = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well:
        raise refused("url", f"Invalid URL: {url}", "url_invalid")
    return url


def _events(wanted: list[str]) -> list[str]:
    if not wanted:
        raise refused("enabled_events", "Invalid array: enabled_events needs at least one event.")
    return wanted


def _need(call: Call) -> Doc:
    return call.need("webhook_endpoint", call.path["webhook_endpoint"], param="webhook_endpoint")


@route("GET /v1/webhook_endpoints", "webhook")
def list_endpoints(call: Call) -> Doc:
    """List endpoints."""
    return call.page("webhook_endpoint", "/v1/webhook_endpoints")


@route("GET /v1/webhook_endpoints/{webhook_endpoint}", "webhook")
def retrieve_endpoint(call: Call) -> Doc:
    """Retrieve an endpoint."""
    return call.show("webhook_endpoint", _need(call))


@route("POST /v1/webhook_endpoints/{webhook_endpoint}", "webhook")
def update_endpoint(call: Call) -> Doc:
    """Change an endpoint's address, events, description, metadata, or switch it off."""
    doc, params = _need(call), call.params
    if "url" in params:
        doc["url"] = _url(call)
    if "enabled_events" in params:
        doc["enabled_events"] = _events(params["enabled_events"])
    if "description" in params:
        doc["description"] = params["description"] or None
    if "disabled" in params:
        doc["status"] = "disabled" if params["disabled"] else "enabled"
        if not params["disabled"]:
            # Deliveries that waited for this go out now.
            sql = "UPDATE delivery SET due=? WHERE endpoint=? AND due IS NOT NULL"
            call.world.store.db.execute(sql, (call.world.clock.now(), doc["id"]))
    doc["metadata"] = merged(doc["metadata"], params.get("metadata"))
    call.world.save("webhook_endpoint", doc)
    call.world.forget_endpoints()
    return call.show("webhook_endpoint", doc)


@route("DELETE /v1/webhook_endpoints/{webhook_endpoint}", "webhook")
def delete_endpoint(call: Call) -> Doc:
    """Delete an endpoint; nothing is sent to it any more."""
    doc = _need(call)
    call.world.store.remove("webhook_endpoint", doc["id"])
    call.world.forget_endpoints()
    return {"deleted": True, "id": doc["id"], "object": "webhook_endpoint"}
