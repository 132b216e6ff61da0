"""The judgement after a run: what Stripe's books say, what ours say, and whether they say the same.

The first half trusts only the simulator and the files that were handed in; the second holds the product's rows against it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from refundry.audit import service as audit
from refundry.batches import service as batches
from refundry.batches.model import Standing
from refundry.infra.db import Unit
from refundry.refunds import service as refunds
from refundry.refunds.model import AT_STRIPE, OF_STRIPE, TRANSITIONS, HeldReason, RefundRequest, State
from refundry.refunds.service import NOT_PAID
from stripesim import invariants
from stripesim.invariants import Obligation
from tests.simulation.judge_followed import Followed

if TYPE_CHECKING:
    from tests.simulation.world_run import Installation, WorldRun

REQUEST_ID = "refundry_request_id"
PAID = {State.PENDING, State.SETTLED, State.REQUIRES_ACTION}
Doc = dict[str, Any]


def faults(world: WorldRun) -> list[str]:
    """Tell everything that is wrong; nothing, if all is well."""
    books = Books(world)
    found = [*books.faults()]
    for place in world.installations.values():
        with world.unit(place) as unit:
            desk = Desk(world, books, place, unit)
            found += desk.faults()
            if place.orders is not None:
                found += Followed(world, books, place, unit, desk.requests).faults()
    return found


class Books:
    """Stripe's books after the run."""

    def __init__(self, world: WorldRun) -> None:
        """Read them."""
        self._world = world
        store = world.simulator.world.store
        self.charges: dict[str, Doc] = {doc["id"]: doc for doc in store.every("charge")}
        self.refunds: dict[str, list[Doc]] = defaultdict(list)
        for doc in store.every("refund"):
            self.refunds[doc["charge"]].append(doc)
        self.disputed = {doc["charge"] for doc in store.every("dispute")}
        self.by_request: dict[str, list[Doc]] = defaultdict(list)
        for docs in self.refunds.values():
            for doc in docs:
                if request := doc.get("metadata", {}).get(REQUEST_ID):
                    self.by_request[request].append(doc)

    def left(self, charge: str) -> int:
        """Tell what could still be refunded."""
        alive: int = sum(doc["amount"] for doc in self.refunds[charge] if invariants.alive(doc))
        return int(self.charges[charge]["amount_captured"] - alive)

    def plain(self, charge: str) -> bool:
        """Tell whether nobody but us touched a charge, and nothing came back: then what fits at the end has always fitted."""
        ours = all(REQUEST_ID in doc.get("metadata", {}) for doc in self.refunds[charge])
        stayed = all(invariants.alive(doc) for doc in self.refunds[charge])
        return ours and stayed and charge not in self.disputed and bool(self.charges[charge].get("captured", True))

    def faults(self) -> Iterator[str]:
        """Tell what is wrong with the money, whatever the product's books say."""
        for problem in invariants.audit(self._world.simulator.world)["problems"]:
            yield f"audit: {problem}"
        asked: dict[int, set[str]] = defaultdict(set)
        desk = [one.how["row"] for one in self._world.scenario.happenings if one.what == "desk"]
        for rows in (*self._world.scenario.files, desk):
            for row in rows:
                if row.charge is not None:
                    name = row.key or (row.ticket and f"{row.ticket}/{row.by}") or f"{row.amount}"
                    asked[row.charge].add(name)
        for number, charge in enumerate(self._world.charges):
            paid = [
                doc["id"]
                for doc in self.refunds[charge]
                if REQUEST_ID in doc.get("metadata", {}) and invariants.alive(doc)
            ]
            if len(paid) > len(asked[number]):
                yield f"{charge} was asked for {sorted(asked[number])}, and {paid} were paid"


class Desk:
    """One installation's books, held against Stripe's."""

    def __init__(self, world: WorldRun, books: Books, place: Installation, unit: Unit) -> None:
        """Read its requests."""
        self._world, self._books, self._place, self._unit = world, books, place, unit
        self.requests = [request for _, request in refunds.page(unit, world.name, [], after=0, most=10_000)]
        self.alone = len(world.installations) == 1 and place.generation == 1

    def faults(self) -> Iterator[str]:
        """Tell what is wrong, with the installation's name before it."""
        for fault in self._faults():
            yield f"installation {self._place.number}: {fault}"

    def _faults(self) -> Iterator[str]:
        for request in self.requests:
            yield from self._request(request)
            yield from self._history(request)
        yield from self._words()
        yield from self._audit()
        yield from self._batches()
        yield from self._breaks()
        # What a person has named carries no mark, so that only its amount tells it.
        named = self._world.people.named
        told = [
            Obligation(r.content.charge, r.amount_minor, None if (self._place.url, r.id) in named else r.id)
            for r in self.requests
            if r.state in PAID
        ]
        answer = invariants.audit(self._world.simulator.world, told)
        if answer["not_paid"]:
            yield f"said to be paid, and not paid at Stripe: {answer['not_paid']}"
        if answer["paid_double"] and self.alone:
            for line in answer["paid_double"]:
                doc = next(d for d in self._books.refunds[line["charge"]] if d["id"] == line["id"])
                if REQUEST_ID in doc.get("metadata", {}):
                    yield f"paid double: {line}"

    def _waits_for_a_sibling(self, request: RefundRequest) -> bool:
        """Tell whether an approved request has given its claim up to another of its charge, which nobody can end by now."""
        others = [r for r in self.requests if r.content.charge == request.content.charge and r.id != request.id]
        unended = any(r.reserved_minor and r.state in {State.SUBMITTING, State.OUTCOME_UNKNOWN} for r in others)
        return request.state is State.APPROVED and request.reason_code == "sibling" and unended

    def _request(self, request: RefundRequest) -> Iterator[str]:
        who = f"request {request.id} ({request.state}, {request.reason_code})"
        seen = self._refunds(request)
        alive = [doc for doc in seen if invariants.alive(doc)]
        if request.reserved_minor and request.state not in {State.APPROVED, State.SUBMITTING, State.OUTCOME_UNKNOWN}:
            yield f"{who} still reserves {request.reserved_minor}"
        claims = request.state in {State.APPROVED, State.SUBMITTING, State.OUTCOME_UNKNOWN}
        waits = request.hold is not None and request.hold.until is None
        if claims and request.reserved_minor <= 0 and not waits and not self._waits_for_a_sibling(request):
            yield f"{who} reserves nothing"
        if waits and request.reserved_minor:
            yield f"{who} waits for somebody, and reserves {request.reserved_minor} meanwhile"
        if request.state in AT_STRIPE:
            doc = next((doc for doc in seen if doc["id"] == request.refund), None)
            if doc is None:
                yield f"{who} names {request.refund}, which is not its refund at Stripe"
            elif OF_STRIPE[doc["status"]] is not request.state:
                yield f"{who}: its refund {doc['id']} is {doc['status']} at Stripe"
            elif doc["amount"] != request.amount_minor:
                yield f"{who}: {request.amount_minor} decided, {doc['amount']} refunded"
            yield from self._full(request, who)
            return
        if request.state is State.SUBMITTING:
            yield f"{who} is left in submitting: {request.reason_text}"
        if alive and self.alone:
            yield f"{who} was paid at Stripe by {[doc['id'] for doc in alive]}"
        if request.state is State.OUTCOME_UNKNOWN:
            if "unknown" in self._world.scenario.traits:
                yield f"{who}: people cannot end it: {request.reason_text}"
            elif self.alone:
                yield f"{who}: no person should be needed: {request.reason_text}"
            return
        if request.state is State.WITHDRAWN:
            return
        if request.state is State.DECLINED and request.reason_code == "withdrawn":
            # On its way when its batch was withdrawn, and proven to have given nothing back.
            if not self._place.withdrawn:
                yield f"{who} was taken back by nobody"
            return
        if request.state is State.DECLINED and request.reason_code == NOT_PAID:
            # Two people have said so, which `_words` holds against the audit log; whoever wants it all the same asks again.
            return
        yield from self._missing(request, who)

    def _refunds(self, request: RefundRequest) -> list[Doc]:
        """Tell the refunds of a request: those that carry its id, and the one that a person has named."""
        named = self._world.people.named.get((self._place.url, request.id))
        marked = self._books.by_request[request.id]
        docs = [doc for doc in self._books.refunds[request.content.charge] if doc["id"] == named]
        return [*marked, *(doc for doc in docs if doc not in marked)]

    def _words(self) -> Iterator[str]:
        """See that the audit log tells who has said what of unknown outcomes, and that nobody else has moved one."""
        said: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for word in self._world.people.words:
            if word.url == self._place.url:
                said[word.request].append((word.event, f"person:{word.who}", word.what))
        for request in self.requests:
            told, unknown = [], False
            for entry in audit.timeline(self._unit, request.id):
                facts = entry.facts
                if entry.event in {"task.not_paid_said", "task.resolved", "refund_request.refund_named"}:
                    told.append((entry.event, entry.actor, facts.get("how") or facts.get("refund") or facts["note"]))
                if (
                    unknown
                    and facts.get("to") not in {None, State.OUTCOME_UNKNOWN}
                    and not self._ended(entry.actor, facts)
                ):
                    yield f"request {request.id} of unknown outcome became {facts['to']} by {entry.actor}"
                unknown = facts.get("to", State.OUTCOME_UNKNOWN if unknown else None) == State.OUTCOME_UNKNOWN
            if told != said[request.id]:
                yield f"of request {request.id} was said {said[request.id]}, and the audit log has {told}"
            paid = [doc["id"] for doc in self._refunds(request) if invariants.alive(doc)]
            if len(paid) > 1 and self.alone:
                yield f"request {request.id} is paid by {paid}"

    @staticmethod
    def _ended(actor: str, facts: Mapping[str, Any]) -> bool:
        """Tell whether an unknown outcome may end so: by what stands at Stripe, or by people who say that it was not paid."""
        return facts["to"] in AT_STRIPE or (facts["to"] == State.DECLINED and actor.startswith("person:"))

    def _full(self, request: RefundRequest, who: str) -> Iterator[str]:
        """See that `full` left nothing, where nobody else touched the charge and what others had claimed of it was paid too."""
        charge = request.content.charge
        siblings = [r for r in self.requests if r.content.charge == charge]
        settled = all(r.state in AT_STRIPE or not r.amount_minor for r in siblings)
        whole = request.content.asked_minor is None and self.alone and settled and self._books.plain(charge)
        if whole and (left := self._books.left(charge)) > 0:
            yield f"{who} was paid in full, and {left} is left on {charge}"

    def _missing(self, request: RefundRequest, who: str) -> Iterator[str]:
        content, books = request.content, self._books
        if request.hold is not None and request.hold.reason is HeldReason.POSSIBLE_REPEAT:
            others = [doc for doc in books.refunds[content.charge] if REQUEST_ID not in doc.get("metadata", {})]
            twins = [r for r in self.requests if r.id != request.id and r.content.ticket_id == content.ticket_id]
            if not others and not (content.ticket_id and twins):
                yield f"{who} is held as a repeat of nothing"
            return
        if request.hold is not None and request.hold.reason is HeldReason.DISPUTE:
            if content.charge not in books.disputed:
                yield f"{who} is held for a dispute that is not there"
            return
        behind = any(r.content.charge == content.charge and r.state is State.OUTCOME_UNKNOWN for r in self.requests)
        if request.state in {State.RECEIVED, State.APPROVED} and not behind:
            yield f"{who} still waits: {request.hold}, {request.reason_text}"
        if not books.plain(content.charge) or behind:
            return
        left, asked = books.left(content.charge), content.asked_minor
        if (1 if asked is None else asked) <= left and not books.by_request[request.id]:
            yield f"{who} asks for {content.asked} of {content.charge}, {left} is left, and it was not paid: {request.reason_text}"

    def _history(self, request: RefundRequest) -> Iterator[str]:
        """See that every transition is in the audit log, and in `TRANSITIONS`."""
        at: str | None = None
        for entry in audit.timeline(self._unit, request.id):
            told = entry.facts
            if entry.event == "refund_request.received":
                at = State.RECEIVED
            if "from" not in told:
                continue
            if told["from"] != at:
                yield f"request {request.id}: the audit log has {at}, then {entry.event} from {told['from']}"
            if told["from"] != told["to"] and State(told["to"]) not in TRANSITIONS[State(told["from"])]:
                yield f"request {request.id}: went from {told['from']} to {told['to']}"
            at = told["to"]
        if at != request.state:
            yield f"request {request.id} is {request.state}, by the audit log {at}"

    def _audit(self) -> Iterator[str]:
        if (fault := audit.first_fault(self._unit)) is not None:
            yield f"audit log: {fault}"

    def _breaks(self) -> Iterator[str]:
        for request, opened in refunds.open_breaks(self._unit):
            # A read that was too old may show a refund as it was before it failed: the request stays, and a person is told.
            stale = opened.code == "refund_unexpected" and "stale" in self._world.scenario.traits
            if (self.alone and not stale) or opened.code == "paid_twice":
                yield f"break {opened.code} of {request}: {opened.text}"

    def _batches(self) -> Iterator[str]:
        for file, batch_id in self._place.batches.items():
            batch = batches.need(self._unit, batch_id)
            totals = batches.totals(self._unit, batch)
            rows = len(self._world.scenario.files[file])
            if sum(totals.standings.values()) != rows or totals.rows != rows:
                yield f"file {file}: {totals.standings} of {rows} rows"
            lines = list(batches.lines(self._unit, batch))
            for standing in Standing:
                count = sum(line.standing is standing for line in lines)
                if count != totals.standings[standing]:
                    yield f"file {file}: {count} rows are {standing}, the totals say {totals.standings[standing]}"
            paid: dict[str, int] = defaultdict(int)
            for line in lines:
                if line.standing is Standing.PAID and line.request is not None:
                    doc = next(d for d in self._refunds(line.request) if d["id"] == line.request.refund)
                    paid[doc["currency"]] += doc["amount"]
            if dict(paid) != {currency: sum_ for currency, sum_ in totals.paid.items() if sum_}:
                yield f"file {file}: {totals.paid} said to be paid, {dict(paid)} at Stripe"
