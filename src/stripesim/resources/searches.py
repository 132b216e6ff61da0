"""The search routes of charges, payment intents and customers.

What was written is found only `search_delay` seconds later, as at Stripe: never read your own writes from a search.
"""

from collections.abc import Callable

from stripesim import search
from stripesim.call import Call
from stripesim.registry import route
from stripesim.store import Doc
from stripesim.world import World

PARAMETERS = {
    "query": {"is": "str", "required": True},
    "page": "str",
    "limit": "int",
    "expand": {"list": "str"},
}


def _seen(world: World, kind: str, doc: Doc) -> Doc | None:
    return doc if world.as_of is None else world.past(kind, doc)


def _searcher(kind: str) -> Callable[[Call], Doc]:
    def answer(call: Call) -> Doc:
        """Search."""
        world, params, url = call.world, call.params, f"/v1/{kind}s/search"
        wanted = search.condition(kind, call.scope.number, params["query"], world.moment())
        before = int(world.moment() - world.settings.search_delay)
        after = search.place_of(params["page"]) if "page" in params else None
        limit, scope = call.limit(), call.scope.number
        rows = search.found(world.store, kind, scope, wanted, before=before, after=after, limit=limit + 1)
        shown: Doc = {
            "object": "search_result",
            "data": [call.show(kind, doc) for row in rows[:limit] if (doc := _seen(world, kind, row[2])) is not None],
            "has_more": len(rows) > limit,
            "next_page": search.page_of(rows[limit - 1][:2]) if len(rows) > limit else None,
            "url": url,
        }
        if "total_count" in params.get("expand", ()):
            params["expand"] = [path for path in params["expand"] if path != "total_count"]
            # Stripe counts up to 10,000 precisely.
            everything = search.found(world.store, kind, scope, wanted, before=before, after=None, limit=10_000)
            shown["total_count"] = len(everything)
        return shown

    return answer


for _kind, _path in (("charge", "charges"), ("payment_intent", "payment_intents"), ("customer", "customers")):
    route(f"GET /v1/{_path}/search", _kind, parameters=PARAMETERS)(_searcher(_kind))
