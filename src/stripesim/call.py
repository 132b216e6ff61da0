"""One call of the API as its handler sees it: who asks, for what, and the ways to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stripesim.errors import StripeError, missing, refused
from stripesim.registry import KINDS, SHAPES
from stripesim.store import Doc
from stripesim.world import Scope, World

PAGE_MAX, PAGE_DEFAULT = 100, 10
EXPAND_DEPTH = 4
EXPANDABLE: dict[str, dict[str, list[str]]] = SHAPES["expandable"]
# Lists inside an object that are there only when asked for (docs.stripe.com/upgrades, 2022-11-15).
LISTS: dict[tuple[str, str], str] = {("charge", "refunds"): "refund"}


class Call:
    """A call that passed the key, the limits and the check of its parameters.

    Args:
        world: The state.
        scope: The account and mode whose objects it sees; with `Stripe-Account`, the connected account's.
        caller: The account and mode of the key itself.
        version: The API version to answer in.
        params: The checked parameters.
        path: The path's own parameters.
    """

    __slots__ = ("caller", "params", "path", "scope", "version", "world")

    def __init__(  # the parts of a call
        self, world: World, scope: Scope, caller: Scope, version: str, params: dict[str, Any], path: dict[str, str]
    ) -> None:
        """Keep the parts."""
        self.world = world
        self.scope = scope
        self.caller = caller
        self.version = version
        self.params = params
        self.path = path

    def need(self, kind: str, object_id: str, *, param: str = "id", status: int = 404) -> Doc:
        """Fetch an object of the call's account, or refuse with `resource_missing`."""
        return self.world.need(kind, object_id, self.scope, param=param, status=status)

    def given(self, name: str, kind: str, *, status: int = 400) -> str | None:
        """Take a parameter that names an object, and see that it exists.

        Raises:
            StripeError: `resource_missing` with the parameter's name.
        """
        object_id: str | None = self.params.get(name) or None
        if object_id is not None:
            self.need(kind, object_id, param=name, status=status)
        return object_id

    def show(self, kind: str, doc: Doc) -> Doc:
        """Render an object for the caller."""
        return self.world.show(kind, doc, self.scope, self.version)

    def page(
        self,
        kind: str,
        url: str,
        *filters: str,
        equal: dict[str, str] | None = None,
        where: tuple[str, Sequence[Any]] = ("", ()),
        noun: str | None = None,
    ) -> Doc:
        """Answer a list: newest first, with Stripe's cursors and `created` filters.

        Args:
            kind: What is listed.
            url: The list's own address, as it appears in the answer.
            *filters: Parameters that are columns of the kind.
            equal: Further columns and their values.
            where: A further condition in SQL, with its values.
            noun: How the list calls its objects in "No such …" texts, if not by the kind's noun.
        """
        equal = {**{name: self.params[name] for name in filters if self.params.get(name)}, **(equal or {})}
        limit = self.limit()
        after, before = self._cursors(kind, noun or KINDS[kind].noun)
        there, values = self.world.existing(kind)
        where = (f"({where[0]}) AND {there}" if where[0] else there, [*where[1], *values]) if there else where
        found = self.world.store.page(
            kind,
            self.scope.number,
            equal,
            created=self._created(),
            where=where,
            after=after,
            before=before,
            limit=limit + 1,
        )
        more = len(found) > limit
        kept = (found[1:] if before else found[:-1]) if more else found
        if self.world.as_of is not None:
            kept = [past for doc in kept if (past := self.world.past(kind, doc)) is not None]
        return {"object": "list", "data": [self.show(kind, doc) for doc in kept], "has_more": more, "url": url}

    def limit(self) -> int:
        """Take the page's size, 1 to 100."""
        limit: int = self.params.get("limit", PAGE_DEFAULT)
        if limit < 1:
            text = "This value must be greater than or equal to 1."
            raise refused("limit", text, "parameter_invalid_integer")
        if limit > PAGE_MAX:
            text = f"This value must be less than or equal to {PAGE_MAX}."
            raise refused("limit", text, "parameter_invalid_integer")
        return limit

    def _created(self) -> dict[str, int] | None:
        created = self.params.get("created")
        return {"gte": created, "lte": created} if isinstance(created, int) else created

    def _cursors(self, kind: str, noun: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        given = [name for name in ("starting_after", "ending_before") if name in self.params]
        if len(given) > 1:
            text = "Received both starting_after and ending_before parameters. Please pass in only one."
            raise refused(None, text)
        places: dict[str, tuple[int, int]] = {}
        for name in given:
            place = self.world.store.place(kind, self.params[name])
            if place is None or place[0] != self.scope.number:
                raise missing(noun, self.params[name], param=name, status=400)
            places[name] = place[1:]
        return places.get("starting_after"), places.get("ending_before")

    def expand(self, answer: Doc) -> Doc:
        """Replace ids by the objects they name, and add the lists that are there only on demand.

        Raises:
            StripeError: 400, for a field that cannot be expanded, or for more than four levels.
        """
        for path in self.params.get("expand") or ():
            parts = path.split(".")
            if len(parts) > EXPAND_DEPTH:
                text = f"You cannot expand more than {EXPAND_DEPTH} levels of a property. Property: {path}"
                raise refused("expand", text)
            self._walk(answer, parts, path)
        return answer

    def _walk(self, node: Any, parts: list[str], path: str) -> None:  # noqa: ANN401  # any JSON
        if not parts or node is None:
            return
        if isinstance(node, list):
            for item in node:
                self._walk(item, parts, path)
            return
        if not isinstance(node, dict):
            raise refused("expand", f"This property cannot be expanded ({path}).")
        if node.get("object") in {"list", "search_result"}:
            if parts[0] != "data":
                raise refused("expand", f"This property cannot be expanded ({path}).")
            self._walk(node["data"], parts[1:], path)
            return
        self._widen(node, node, parts, path)

    def _widen(self, owner: Doc, node: Doc, parts: list[str], path: str) -> None:
        """Expand one name of an object, or of a hash inside it (`transfer_data.destination`)."""
        for depth in range(len(parts), 0, -1):
            dotted, rest = ".".join(parts[:depth]), parts[depth:]
            kinds = EXPANDABLE.get(str(owner.get("object")), {}).get(dotted)
            if kinds is not None:
                self._fill(node, parts[:depth], kinds)
                inner: Any = node
                for part in parts[:depth]:
                    inner = inner.get(part) if isinstance(inner, dict) else None
                self._walk(inner, rest, path)
                return
        name = parts[0]
        if (str(owner.get("object")), name) in LISTS:
            if not isinstance(node.get(name), dict):
                node[name] = self.sublist(owner, name)
            self._walk(node[name], parts[1:], path)
            return
        inner = node.get(name)
        if isinstance(inner, dict | list) and len(parts) > 1:
            self._walk(inner, parts[1:], path)
            return
        raise refused("expand", f"This property cannot be expanded ({path}).")

    def _fill(self, node: Doc, names: list[str], kinds: list[str]) -> None:
        for name in names[:-1]:
            inner = node.get(name)
            if not isinstance(inner, dict):
                return
            node = inner
        value = node.get(names[-1])
        if isinstance(value, str):
            for kind in kinds:
                if kind in KINDS and (found := self.world.store.get(kind, value)):
                    scope = self.world.numbered[found[0]]
                    doc = self.world.past(kind, found[1]) if self.world.as_of is not None else found[1]
                    if doc is not None:
                        node[names[-1]] = self.world.show(kind, doc, scope, self.version)
                    return

    def sublist(self, owner: Doc, name: str, limit: int = PAGE_DEFAULT) -> Doc:
        """Build the list that an object carries: its first ten, and how many there are."""
        kind = LISTS[str(owner["object"]), name]
        equal = {str(owner["object"]): owner["id"]}
        there = self.world.existing(kind)
        found = self.world.store.page(kind, self.scope.number, equal, where=there, limit=limit + 1)
        if self.world.as_of is not None:
            found = [past for doc in found if (past := self.world.past(kind, doc)) is not None]
        return {
            "object": "list",
            "data": [self.show(kind, doc) for doc in found[:limit]],
            "has_more": len(found) > limit,
            "total_count": self.world.store.count(kind, self.scope.number, equal, there),
            "url": f"/v1/{owner['object']}s/{owner['id']}/{name}",
        }


def only_connected(call: Call) -> None:
    """Refuse what only a platform may do.

    Raises:
        StripeError: 400, if the call is made as a connected account.
    """
    if call.scope != call.caller:
        raise StripeError(400, "This request cannot be made on behalf of a connected account.")
