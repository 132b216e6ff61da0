"""The judgement of what was followed and told: our mirror and the order system's books, held against Stripe's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from refundry.audit import service as audit
from refundry.infra.db import Unit
from refundry.outbox.model import Kind
from refundry.outbox.rules import kinds_of, message_id
from refundry.refunds.model import RefundRequest, State
from refundry.tasks import service as tasks
from stripesim import invariants
from tests.support.clock import START

if TYPE_CHECKING:
    from tests.simulation.judge import Books
    from tests.simulation.world_run import Installation, WorldRun

REQUEST_ID = "refundry_request_id"
Doc = dict[str, Any]


class Followed:
    """One installation's mirror, inbox and outbox.

    Args:
        world: The run.
        books: Stripe's.
        place: The installation.
        unit: Its database.
        requests: All of its refund requests.
    """

    def __init__(
        self, world: WorldRun, books: Books, place: Installation, unit: Unit, requests: Sequence[RefundRequest]
    ) -> None:
        """Read what it has mirrored."""
        self._world, self._books, self._place, self._unit, self._requests = world, books, place, unit, requests
        assert place.orders is not None
        assert world.scenario.follow is not None
        self._orders = place.orders
        self._wanted = kinds_of(world.scenario.follow.kinds, "the simulation")
        self._mirrored = {row["id"] for row in self._rows("SELECT id FROM charges")}
        self._refunds = {row["id"]: row for row in self._rows("SELECT * FROM stripe_refunds")}

    def _rows(self, statement: str) -> list[Doc]:
        return [dict(row._mapping) for row in self._unit.connection.exec_driver_sql(statement)]  # its public name

    def faults(self) -> Iterator[str]:
        """Tell what is wrong, with the installation's name before it."""
        for find in (self._events, self._seen, self._disputes, self._order, self._messages, self._told, self._tasks):
            for fault in find():
                yield f"installation {self._place.number}: {fault}"

    def _concerns(self, charge: str, created: int) -> bool:
        """Tell whether an installation has to know of something: its charge is mirrored here, or it came since this one follows."""
        since = self._place.since
        return charge in self._mirrored or (since is not None and created > START + since)

    def _events(self) -> Iterator[str]:
        kept = {row["id"]: row for row in self._rows("SELECT id, state, type, why FROM inbox_events")}
        for event, row in sorted(kept.items()):
            if row["state"] in {"waiting", "parked"}:
                yield f"{event} ({row['type']}) is {row['state']}: {row['why']}"
        for event in sorted(self._place.acknowledged - kept.keys()):
            yield f"{event} was acknowledged, and is not in the inbox"

    def _seen(self) -> Iterator[str]:
        here = {request.id for request in self._requests}
        named = {refund: one for (url, one), refund in self._world.people.named.items() if url == self._place.url}
        for doc in self._each_refund():
            kept, mark = self._refunds.get(doc["id"]), doc.get("metadata", {}).get(REQUEST_ID) or named.get(doc["id"])
            if kept is None:
                if self._concerns(doc["charge"], doc["created"]):
                    yield f"refund {doc['id']} of {doc['charge']} is not on record"
                continue
            origin = "external" if mark is None else "ours" if mark in here else "unknown_refundry"
            if kept["origin"] != origin:
                yield f"refund {doc['id']} is {origin}, and on record as {kept['origin']}"
            if (kept["status"], kept["amount_minor"]) != (doc["status"], doc["amount"]):
                yield f"refund {doc['id']} is {doc['status']}, and on record as {kept['status']}"

    def _each_refund(self) -> Iterator[Doc]:
        for charge in sorted(self._books.refunds):
            yield from self._books.refunds[charge]

    def _disputes(self) -> Iterator[str]:
        kept = {row["id"]: row["status"] for row in self._rows("SELECT id, status FROM disputes")}
        for doc in self._world.simulator.world.store.every("dispute"):
            since = self._place.since
            if doc["id"] not in kept and (since is None or doc["created"] <= START + since):
                continue
            if kept.get(doc["id"]) != doc["status"]:
                yield f"dispute {doc['id']} is {doc['status']}, and on record as {kept.get(doc['id'])}"

    def _order(self) -> Iterator[str]:
        """Hold what the order system was told of each order against what its charge has really given back."""
        if Kind.ORDER_CHANGED not in self._wanted:
            return
        told: dict[str, Doc] = {}
        for message in self._orders.applied.values():
            if message["kind"] == Kind.ORDER_CHANGED:
                data = message["data"]
                told[data["order_id"]] = max(
                    told.get(data["order_id"], data), data, key=lambda one: one["order_version"]
                )
        for shop, charge in zip(self._world.scenario.charges, self._world.charges, strict=True):
            refunds = self._books.refunds.get(charge, [])
            if not any(self._concerns(charge, doc["created"]) for doc in refunds):
                continue
            captured = self._books.charges[charge]["amount_captured"]
            given_back = sum(doc["amount"] for doc in refunds if invariants.alive(doc))
            status = "none" if not given_back else "full" if given_back == captured else "partial"
            last = told.get(shop.order)
            if last is None:
                if status != "none":
                    yield f"{shop.order} has given back {given_back}, and nobody was told"
            elif (last["refunded"], last["refunded_minor"]) != (status, given_back):
                yield (
                    f"{shop.order} has given back {given_back} of {captured} ({status}), and told was {last['refunded_minor']} "
                    f"({last['refunded']})"
                )

    def _messages(self) -> Iterator[str]:
        """See that what is written was told, once and in order, and that nothing else was."""
        yield from self._orders.faults
        rows = self._rows(
            "SELECT m.id, m.number, m.ordering_key, m.kind, m.payload, d.state FROM outbox_messages m "
            "JOIN outbox_deliveries d ON d.number = m.number ORDER BY m.number"
        )
        applied = self._orders.applied
        for row in rows:
            if row["state"] != "delivered":
                yield f"message {row['id']} ({row['kind']}) is {row['state']}"
            elif row["id"] not in self._orders.taken:
                yield f"message {row['id']} ({row['kind']}) is said to be delivered, and was not"
            elif applied[row["id"]]["data"] != json.loads(row["payload"]):
                yield f"message {row['id']} ({row['kind']}) was delivered with another content"
        known = {row["id"]: row for row in rows}
        last: dict[str, int] = defaultdict(int)
        for name in applied:
            if name not in known:
                yield f"message {name} was told, and is not on record"
                continue
            key, number = known[name]["ordering_key"], known[name]["number"]
            if number < last[key]:
                yield f"message {name} of {key} was applied after a later one"
            last[key] = max(last[key], number)

    def _told(self) -> Iterator[str]:
        """See that each change of state that the audit log has was told, as that or as a hold."""
        applied = self._orders.applied
        for request in self._requests:
            for entry in audit.timeline(self._unit, request.id):
                facts = entry.facts
                kind = Kind.RECEIVED if entry.event == Kind.RECEIVED else None
                if "from" in facts and facts["from"] != facts["to"]:
                    kind = Kind(f"refund_request.{facts['to']}")
                if kind is None or kind not in self._wanted:
                    continue
                names = {message_id(request.id, one, facts["version"]) for one in (kind, Kind.HELD)}
                if not names & applied.keys():
                    yield f"request {request.id} became {kind} at version {facts['version']}, and nobody was told"

    def _tasks(self) -> Iterator[str]:
        for request in self._requests:
            if request.state not in {State.FAILED, State.CANCELED, State.OUTCOME_UNKNOWN}:
                continue
            wanted = "outcome_unknown" if request.state is State.OUTCOME_UNKNOWN else f"refund_{request.state}"
            kinds = {
                task.kind.value
                for task in tasks.of_charge(self._unit, request.content.charge)
                if task.request == request.id
            }
            if wanted not in kinds:
                yield f"request {request.id} is {request.state}, and no task says so"
