"""The audit: what the simulator's own books say about the money, whatever its caller's books say.

It reads the tables and trusts no sum that is kept beside them. Tests judge a refund program by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stripesim.money import share
from stripesim.store import Doc
from stripesim.world import RATE_UNIT, World

DEAD = {"failed", "canceled"}
# What obligations find: any of it makes the audit fail, like a problem of the books.
BLAMED = ("paid_double", "not_paid", "never_asked")
REQUEST_ID, TICKET = "refundry_request_id", "ticket_id"
ROUNDING = 1


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something that ought to be paid once.

    Args:
        charge: The charge, by id, payment intent or order id (as given in `name`).
        amount: Minor units.
        request: The value of `metadata.refundry_request_id`, if refunds are told apart by it.
        ticket: The value of `metadata.ticket_id`, if there is one.
        name: What the caller calls it.
    """

    charge: str
    amount: int
    request: str | None = None
    ticket: str | None = None
    name: str = ""


@dataclass(slots=True)
class Ledger:
    """Refunds by charge, as the tables have them."""

    refunds: dict[str, list[Doc]] = field(default_factory=lambda: defaultdict(list))
    problems: list[Doc] = field(default_factory=list)

    def blame(self, code: str, **facts: Any) -> None:  # noqa: ANN401  # whatever shows it
        """Write down a problem."""
        self.problems.append({"code": code, **facts})


def audit(world: World, obligations: Iterable[Obligation] | None = None) -> Doc:
    """Check everything.

    Args:
        world: The state; it is only read.
        obligations: What ought to have been paid, each once.

    Returns:
        `ok`, the `problems` of the books (each with a stable `code` and the ids concerned), totals, a line for each refunded
        charge under `charges`, and with obligations what was `paid`, `paid_double`, `not_paid`, `never_asked`. It is `ok` if
        the books have no problems and these last three lists are empty.
    """
    ledger = Ledger()
    for refund in world.store.every("refund"):
        ledger.refunds[refund["charge"]].append(refund)
    charges = _charges(world, ledger)
    _repeats(ledger)
    _balances(world, ledger)
    _acknowledged(world, ledger)
    answer: Doc = {
        "object": "audit",
        "charges": charges,
        "totals": _totals(charges),
        "refunds": sum(len(refunds) for refunds in ledger.refunds.values()),
    }
    if obligations is not None:
        answer |= _obligations(world, ledger, list(obligations))
    answer["problems"] = ledger.problems
    answer["ok"] = not ledger.problems and not any(answer.get(name) for name in BLAMED)
    return answer


def alive(refund: Doc) -> bool:
    """Tell whether a refund's money left, or will leave."""
    return refund["status"] not in DEAD


def _charges(world: World, ledger: Ledger) -> list[Doc]:
    lines = []
    for charge_id, refunds in ledger.refunds.items():
        charge = world.find("charge", charge_id)
        if charge is None:
            ledger.blame("refund_without_charge", charge=charge_id, refunds=[r["id"] for r in refunds])
            continue
        lines.append(_line(world, ledger, charge, refunds))
    # A charge that says it was refunded, and has no refund.
    for charge in world.store.every("charge"):
        if charge.get("amount_refunded") and charge["id"] not in ledger.refunds:
            ledger.blame(
                "amount_refunded_wrong", charge=charge["id"], amount_refunded=charge["amount_refunded"], refunds=0
            )
    return lines


def _line(world: World, ledger: Ledger, charge: Doc, refunds: list[Doc]) -> Doc:
    captured, said = charge.get("amount_captured", 0), charge.get("amount_refunded", 0)
    live = sum(r["amount"] for r in refunds if alive(r))
    counted = live if world.settings.failed_refund_frees_charge else sum(r["amount"] for r in refunds)
    if not charge.get("released"):
        if live > captured:
            ledger.blame("refunded_beyond_charge", charge=charge["id"], captured=captured, refunded=live)
        if counted != said:
            ledger.blame("amount_refunded_wrong", charge=charge["id"], amount_refunded=said, refunds=counted)
    if any(r["currency"] != charge["currency"] or r["amount"] < 1 for r in refunds):
        ledger.blame("refund_malformed", charge=charge["id"])
    return {
        "charge": charge["id"],
        "payment_intent": charge.get("payment_intent"),
        "order_id": charge.get("metadata", {}).get("order_id"),
        "currency": charge["currency"],
        "captured": captured,
        "refunded": live,
        "amount_refunded": said,
        "refunds": [
            {name: r.get(name) for name in ("id", "amount", "status", "reason", "failure_reason", "created")}
            | {"metadata": r.get("metadata", {})}
            for r in refunds
        ],
    }


def _totals(charges: list[Doc]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for line in charges:
        totals[line["currency"]] += line["refunded"]
    return dict(sorted(totals.items()))


def _repeats(ledger: Ledger) -> None:
    """Find refunds that stand for the same request, or that give the same amount of a charge back for one ticket."""
    requests: dict[str, list[str]] = defaultdict(list)
    tickets: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for refund in (r for refunds in ledger.refunds.values() for r in refunds if alive(r)):
        metadata = refund.get("metadata", {})
        if request := metadata.get(REQUEST_ID):
            requests[request].append(refund["id"])
        if ticket := metadata.get(TICKET):
            tickets[refund["charge"], refund["amount"], ticket].append(refund["id"])
    for request, ids in requests.items():
        if len(ids) > 1:
            ledger.blame("request_paid_twice", refundry_request_id=request, refunds=ids)
    for (charge, amount, ticket), ids in tickets.items():
        if len(ids) > 1:
            ledger.blame("ticket_paid_twice", charge=charge, amount=amount, ticket_id=ticket, refunds=ids)


def _balances(world: World, ledger: Ledger) -> None:
    """Add the balance transactions up, and hold them against the balances, and refunds against theirs."""
    sql = (
        "SELECT scope, json_extract(CAST(doc AS TEXT), '$.currency'), sum(json_extract(CAST(doc AS TEXT), '$.net')) "
        "FROM balance_transaction GROUP BY 1, 2"
    )
    sums = {(scope, currency): net for scope, currency, net in world.store.db.execute(sql)}
    for scope in world.numbered.values():
        for currency, (available, pending) in world.balance(scope).items():
            booked = sums.pop((scope.number, currency), 0)
            if available + pending != booked:
                ledger.blame(
                    "balance_wrong",
                    account=scope.account,
                    currency=currency,
                    balance=available + pending,
                    transactions=booked,
                )
    for (number, currency), booked in sums.items():
        ledger.blame("balance_missing", account=world.numbered[number].account, currency=currency, transactions=booked)
    for refund in (r for refunds in ledger.refunds.values() for r in refunds):
        _booking(world, ledger, refund)
    _rows(world, ledger)


def _booking(world: World, ledger: Ledger, refund: Doc) -> None:
    """Hold one refund against its balance transaction: the same amount, through the rate of that moment."""
    row_id = refund.get("balance_transaction")
    if row_id is None:
        if refund["status"] == "succeeded" and "booked" in refund:
            ledger.blame("refund_not_booked", refund=refund["id"])
        return
    found = world.store.get("balance_transaction", row_id)
    if found is None:
        ledger.blame("refund_not_booked", refund=refund["id"])
        return
    row = found[1]
    expected = refund["amount"] if row.get("rate") is None else share(refund["amount"], row["rate"], RATE_UNIT)
    if abs(-row["amount"] - expected) > ROUNDING * (row.get("rate") is not None) or row["source"] != refund["id"]:
        ledger.blame("refund_booked_wrong", refund=refund["id"], amount=refund["amount"], transaction=row["amount"])


def _rows(world: World, ledger: Ledger) -> None:
    """Count each refund's rows in the balance: its money leaves once, and comes back once if it failed after it left."""
    sql = (
        "SELECT source, type, count(*), sum(json_extract(CAST(doc AS TEXT), '$.amount')) FROM balance_transaction "
        "WHERE type IN ('refund','payment_refund','refund_failure') GROUP BY 1, 2"
    )
    rows: dict[str, list[tuple[bool, int, int]]] = defaultdict(list)
    for source, type_, count, amount in world.store.db.execute(sql):
        rows[source].append((type_ == "refund_failure", count, amount))
    for refund in (r for refunds in ledger.refunds.values() for r in refunds):
        found = rows.pop(refund["id"], [])
        out = sum(count for back, count, _ in found if not back)
        back = sum(count for back, count, _ in found if back)
        left = sum(amount for _, _, amount in found)
        booked = bool(refund.get("balance_transaction"))
        if out != booked or back != (booked and not alive(refund)) or (back and left):
            ledger.blame("refund_booked_wrong", refund=refund["id"], rows_out=out, rows_back=back, left=left)
    for source in rows:
        ledger.blame("booked_without_refund", refund=source)


def _acknowledged(world: World, ledger: Ledger) -> None:
    """See that every refund that was ever answered with 200 is there, and that replays answered the same request."""
    originals: dict[str, tuple[bytes, str]] = {}
    sql = "SELECT request, original, parameters, object FROM acknowledged ORDER BY rowid"
    for request, original, parameters, object_id in world.store.db.execute(sql):
        if world.store.place("refund", object_id) is None:
            ledger.blame("acknowledged_refund_lost", refund=object_id, request=request)
        if request == original:
            originals[request] = (parameters, object_id)
        elif originals.get(original) != (parameters, object_id):
            ledger.blame("replay_of_other_request", refund=object_id, request=request, original=original)


def _resolved(world: World, names: set[str]) -> dict[str, str]:
    """Find the charges that obligations name: by id, by payment intent, or by order id where just one charge has it."""
    out: dict[str, str] = {}
    orders: dict[str, list[str]] = defaultdict(list)
    sql = (
        "SELECT metadata.value, charge.id FROM metadata JOIN charge USING (seq) WHERE kind='charge' AND key='order_id'"
    )
    for value, charge_id in world.store.db.execute(sql):
        if value in names:
            orders[value].append(charge_id)
    for name in names:
        if world.store.place("charge", name):
            out[name] = name
        elif found := world.store.get("payment_intent", name):
            out[name] = found[1].get("latest_charge", "")
        elif len(orders[name]) == 1:
            out[name] = orders[name][0]
    return out


def _obligations(world: World, ledger: Ledger, obligations: list[Obligation]) -> Doc:
    """Match refunds to obligations: first those that carry the request's id or the ticket, then by amount alone."""
    resolved = _resolved(world, {o.charge for o in obligations})
    left = {
        charge: [r for r in refunds if alive(r)]
        for charge, refunds in ledger.refunds.items()
        if not _of_stripes_making(world.find("charge", charge))
    }
    paid: list[Doc] = []
    not_paid: list[Doc] = []
    unmatched = list(obligations)
    for fits in (_by_request, _by_ticket, _by_amount):
        rest = []
        for obligation in unmatched:
            pool = left.get(resolved.get(obligation.charge, ""), [])
            match = next((r for r in pool if fits(obligation, r)), None)
            if match is None:
                rest.append(obligation)
                continue
            pool.remove(match)
            paid.append(_told(obligation) | {"refund": match["id"], "status": match["status"]})
        unmatched = rest
    not_paid = [_told(o) | ({} if o.charge in resolved else {"why": "no such charge"}) for o in unmatched]
    double, never = _leftovers(left, obligations, resolved)
    return {
        "paid": len(paid),
        "not_paid": not_paid,
        "paid_double": double,
        "never_asked": never,
        "obligations": len(obligations),
    }


def _of_stripes_making(charge: Doc | None) -> bool:
    """Tell whether a charge's refunds are none of a program: of a released authorisation, or of a transfer's payment."""
    return charge is not None and bool(charge.get("released") or charge.get("source_transfer"))


def _by_request(obligation: Obligation, refund: Doc) -> bool:
    same = obligation.request is not None and refund.get("metadata", {}).get(REQUEST_ID) == obligation.request
    return same and refund["amount"] == obligation.amount


def _by_ticket(obligation: Obligation, refund: Doc) -> bool:
    same = obligation.ticket is not None and refund.get("metadata", {}).get(TICKET) == obligation.ticket
    return same and obligation.request is None and refund["amount"] == obligation.amount


def _by_amount(obligation: Obligation, refund: Doc) -> bool:
    return obligation.request is None and obligation.ticket is None and refund["amount"] == obligation.amount


def _leftovers(
    left: dict[str, list[Doc]], obligations: list[Obligation], resolved: dict[str, str]
) -> tuple[list[Doc], list[Doc]]:
    """Tell refunds that repeat an obligation from those that nobody asked for."""
    asked = {(resolved.get(o.charge), o.amount) for o in obligations}
    requests = {o.request for o in obligations if o.request}
    double: list[Doc] = []
    never: list[Doc] = []
    for charge, refunds in left.items():
        for refund in refunds:
            line = {name: refund[name] for name in ("id", "charge", "amount", "currency", "status")}
            again = refund.get("metadata", {}).get(REQUEST_ID) in requests or (charge, refund["amount"]) in asked
            (double if again else never).append(line)
    return double, never


def _told(obligation: Obligation) -> Doc:
    told = {"charge": obligation.charge, "amount": obligation.amount, "name": obligation.name or None}
    return told | {"request": obligation.request, "ticket": obligation.ticket}


def sample_obligations(rows: Iterable[dict[str, str]]) -> Iterator[Obligation]:
    """Read the Online Retail refund requests as obligations."""
    for row in rows:
        yield Obligation(row["order_id"], int(row["amount_minor"]), ticket=row["ticket_id"], name=row["ticket_id"])
