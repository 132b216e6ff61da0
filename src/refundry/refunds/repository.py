"""The statements on refund requests. Every change is a compare-and-set on the version that it changes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.charges.model import Expected
from refundry.gateways.base import RefundBody
from refundry.infra.db import Hot, Unit, among, insert_of_rows, rows_as_text, rows_given
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Answer
from refundry.refunds.model import Attempt, Break, Content, HeldReason, Hold, Planned, RefundRequest, Send, State
from refundry.refunds.tables import breaks, refund_attempts, refund_requests

t = refund_requests.c
WORKABLE = (State.RECEIVED, State.APPROVED, State.SUBMITTING)
ON_THE_WAY = (State.SUBMITTING, State.OUTCOME_UNKNOWN)
UNDECIDED = (State.RECEIVED, State.AWAITING_APPROVAL)
CHARGES_MAX = 1000
# In one statement: Postgres takes 65,535 parameters, and SQLite as it comes 32,766.
IDS_MAX = 30_000
# And of those that are only read, each with as many statements as it takes: one with more is slow on Postgres.
PAGE = 1_000
# As most requests have it: neither read nor written as JSON each time.
NOTHING_ALLOWED = "[]"
OVER_UNPAID = (State.REJECTED, State.DECLINED, State.WITHDRAWN, State.FAILED, State.CANCELED)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request that a worker holds.

    Args:
        request: The request, in the version that the claim made.
        lease: The token that every later write has to repeat.
    """

    request: RefundRequest
    lease: str


def insert(unit: Unit, requests: Sequence[RefundRequest]) -> set[str]:
    """Add requests; those whose id is there already are left as they are. Tells the ids that are new."""
    if not requests:
        return set()
    values = [
        _values(request) | {"created_at": unit.now, "changed_at": unit.now, "leased_until": 0.0} for request in requests
    ]
    if unit.postgres:
        return set(unit.connection.execute(_insert(tuple(values[0])), rows_as_text(values)).scalars())
    # Whoever writes on SQLite is alone: what is not there now is not there when it is written. One statement that writes and tells costs
    # SQLAlchemy three times as much.
    there = set(unit.connection.execute(_THERE, {"ids": [request.id for request in requests]}).scalars())
    new = [value for value in values if value["id"] not in there]
    if new:
        _insert_on_sqlite(tuple(values[0])).many(unit.connection, new)
    return {value["id"] for value in new}


_THERE = sa.select(t.id).where(among(t.id, "ids"))


@cache
def _insert(names: tuple[str, ...]) -> sa.Executable:
    insert = insert_of_rows(refund_requests, names, postgres=True)
    statement: sa.Executable = insert.on_conflict_do_nothing(index_elements=["id"]).returning(t.id)
    return statement


@cache
def _insert_on_sqlite(names: tuple[str, ...]) -> Hot:
    return Hot(sa.insert(refund_requests).values({name: _b(name) for name in names}))


def _values(request: RefundRequest) -> dict[str, Any]:
    content = request.content
    return _changing(request) | {
        "id": request.id,
        "account": request.account,
        "request_key": request.request_key,
        "charge": content.charge,
        "asked_minor": content.asked_minor,
        "currency": content.currency,
        "reason": content.reason,
        "ticket_id": content.ticket_id,
        "metadata": json.dumps(dict(content.metadata), sort_keys=True),
        "refund_application_fee": content.refund_application_fee,
        "reverse_transfer": content.reverse_transfer,
        "fingerprint": content.fingerprint,
        "replaces": request.replaces,
    }


def _changing(request: RefundRequest) -> dict[str, Any]:
    """Write what may change of a request."""
    hold = request.hold
    return {
        "state": request.state.value,
        "amount_minor": request.amount_minor,
        "reserved_minor": request.reserved_minor,
        "held_reason": hold.reason.value if hold else None,
        "held_until": hold.until if hold else None,
        "reason_code": request.reason_code,
        "reason_text": request.reason_text,
        "attempt": request.attempt,
        "refund": request.refund,
        "version": request.version,
        "lane": request.lane.value,
        "due_at": request.due_at,
        "allowed": json.dumps(sorted(request.allowed)) if request.allowed else NOTHING_ALLOWED,
        "allow_inquiry": request.allow_inquiry,
        "planned": orjson.dumps(request.planned).decode() if request.planned else None,
    }


CHANGING = (
    "state", "amount_minor", "reserved_minor", "held_reason", "held_until", "reason_code", "reason_text", "attempt",
    "refund", "version", "lane", "due_at", "allowed", "allow_inquiry", "planned",
)  # fmt: skip
_b = sa.bindparam


def _literals(states: Iterable[State]) -> list[sa.ColumnElement[str]]:
    return [sa.literal_column(f"'{state.value}'", sa.Text) for state in states]


_SET = (*CHANGING, "changed_at", "lease", "leased_until")
_WRITE = Hot(
    sa.update(refund_requests)
    .where(t.id == _b("the_id"), t.version == _b("the_version"))
    .values({name: _b("new_" + name) for name in _SET})
)


@cache
def _write_together() -> Hot:
    kinds = {"the_id": t.id.type, "the_version": t.version.type} | {"new_" + name: t[name].type for name in _SET}
    given = rows_given(kinds).c
    as_read = t.id == given.the_id, t.version == given.the_version
    return Hot(sa.update(refund_requests).where(*as_read).values({name: given["new_" + name] for name in _SET}))


@dataclass(slots=True)
class OnShelf:
    """A request as it stands on the shelf, held by the unit.

    Args:
        request: As it is by now.
        sequence: When it came.
        lease: Under which token a worker holds it.
        leased_until: Until when.
        version: The version that is in the table.
    """

    request: RefundRequest
    sequence: int
    lease: str | None
    leased_until: float
    version: int


class Sibling(NamedTuple):
    """What other requests of its charge need to know of a request."""

    sequence: int
    ticket_id: str | None
    state: State
    reserved_minor: int


class Desk:
    """The requests that a unit has read and holds, and what it has changed and not written yet.

    Args:
        requests: By id.
        siblings: By charge, its requests by id, but for those that are over without a refund.
        unsaved: When each was changed that is not written yet, the latest last.
        leased: Those of them of which nothing has changed but who holds them.
        attempts: By request and number, those that are not written yet.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.requests: dict[str, OnShelf] = {}
        self.siblings: dict[str, dict[str, Sibling]] = {}
        self.unsaved: dict[str, float] = {}
        self.leased: set[str] = set()
        self.attempts: dict[tuple[str, int], Attempt] = {}

    @property
    def changed(self) -> bool:
        """Tell whether something is not written yet that other reads would show; none of those shows who holds a request."""
        return bool(len(self.unsaved) > len(self.leased) or self.attempts)

    def write(self, connection: sa.Connection) -> None:
        """Write what was changed.

        Raises:
            InvariantViolated: A request was changed by somebody else while it was held.
        """
        if self.unsaved:
            # In the order in which they were changed: one of a charge that is on its way makes room before the next begins.
            values = [self._values(id_, at) for id_, at in self.unsaved.items()]
            if self._writing(connection).many(connection, values) != len(values):
                raise InvariantViolated(f"of {len(values)} requests some changed inside a unit that holds them")
        if self.attempts:
            postgres = connection.dialect.name == "postgresql"
            _save_attempt(postgres=postgres).many(connection, [_of_attempt(one) for one in self.attempts.values()])

    def _writing(self, connection: sa.Connection) -> Hot:
        charges = {self.requests[id_].request.content.charge for id_ in self.unsaved}
        # Postgres updates the rows of one statement in an order of its own.
        together = connection.dialect.name == "postgresql" and len(charges) == len(self.unsaved)
        return _write_together() if together else _WRITE

    def _values(self, id_: str, at: float) -> dict[str, Any]:
        kept = self.requests[id_]
        new = _changing(kept.request)
        values = {"new_" + name: new[name] for name in CHANGING}
        return values | {
            "new_changed_at": at,
            "new_lease": kept.lease,
            "new_leased_until": kept.leased_until,
            "the_id": id_,
            "the_version": kept.version,
        }

    def change(self, kept: OnShelf, after: RefundRequest, at: float) -> None:
        """Put a changed request in the place of the one that it was made from."""
        kept.request = after
        self.leased.discard(after.id)
        self.unsaved.pop(after.id, None)
        self.unsaved[after.id] = at
        siblings = self.siblings.get(after.content.charge)
        if siblings is not None:
            siblings.pop(after.id, None)
            if after.state not in OVER_UNPAID:
                siblings[after.id] = _sibling(kept.sequence, after)


def _sibling(sequence: int, request: RefundRequest) -> Sibling:
    content = request.content
    return Sibling(sequence, content.ticket_id, request.state, request.reserved_minor)


def fetch(unit: Unit, ids: Iterable[str]) -> Desk:
    """Put requests on the shelf, and hold them until the unit is over."""
    shelf = unit.shelf(Desk)
    wanted = [id_ for id_ in dict.fromkeys(ids) if id_ not in shelf.requests]
    for at in range(0, len(wanted), IDS_MAX):
        for row in unit.direct.execute(_MANY_HELD, {"ids": wanted[at : at + IDS_MAX]}).all():
            shelf.requests[row.id] = OnShelf(_request(row), row.sequence, row.lease, row.leased_until, row.version)
    return shelf


_SIBLINGS = sa.select(
    t.id, t.charge, t.sequence, t.ticket_id, t.state, t.reserved_minor
).where(among(t.charge, "charges"), t.state.not_in(_literals(OVER_UNPAID)))  # fmt: skip


def fetch_siblings(unit: Unit, charges: Iterable[str]) -> Desk:
    """Put what is known of the requests of charges on the shelf. Whoever decides by it holds the charges."""
    shelf = unit.shelf(Desk)
    wanted = [charge for charge in dict.fromkeys(charges) if charge not in shelf.siblings]
    if wanted:
        if shelf.changed:
            unit.settle()
            return fetch_siblings(unit, charges)
        shelf.siblings |= {charge: {} for charge in wanted}
        for id_, charge, sequence, ticket_id, state, reserved_minor in unit.direct.execute(
            _SIBLINGS, {"charges": wanted}
        ).all():
            shelf.siblings[charge][id_] = Sibling(sequence, ticket_id, State(state), reserved_minor)
    return shelf


def update(unit: Unit, before: RefundRequest, after: RefundRequest, lease: str | None, *, keep_lease: bool) -> bool:
    """Write a changed request over the version it was made from; false, if somebody else was faster.

    Args:
        unit: The open unit.
        before: As it was read.
        after: As it is to be.
        lease: With a token, only while that lease still holds.
        keep_lease: Whether the worker goes on with it; else it is free for the next.
    """
    shelf = fetch(unit, [before.id])
    kept = shelf.requests.get(before.id)
    if kept is None or not _ours(kept, before, lease, unit.now):
        return False
    if not keep_lease:
        kept.lease, kept.leased_until = None, 0.0
    if after.content.charge != before.content.charge:
        _lead_to(unit, kept, after.content)
    shelf.change(kept, after, unit.now)
    return True


def _lead_to(unit: Unit, kept: OnShelf, content: Content) -> None:
    """Have a request ask for another charge, which is the one thing of what it asks for that may change.

    Raises:
        InvariantViolated: It had an attempt.
    """
    sent = sa.exists().where(refund_attempts.c.request == t.id)
    unsent = t.id == kept.request.id, t.version == kept.version, t.attempt == 0, t.refund.is_(None), ~sent
    values = {"charge": content.charge, "fingerprint": content.fingerprint}
    # At once, and with a look at the attempts themselves: that none was ever made is what keeps it from being paid twice.
    if unit.direct.execute(sa.update(refund_requests).where(*unsent).values(values)).rowcount != 1:
        raise InvariantViolated(f"request {kept.request.id} was sent, and never asks for another charge")


def _ours(kept: OnShelf, before: RefundRequest, lease: str | None, now: float) -> bool:
    """Tell whether a request is still as it was read, and still under the lease: what compares before it sets."""
    return kept.request.version == before.version and (
        lease is None or (kept.lease == lease and kept.leased_until > now)
    )


def free(unit: Unit, request: str, lease: str) -> None:
    """Give a request back, if it is still held under this lease."""
    shelf = fetch(unit, [request])
    kept = shelf.requests.get(request)
    if kept is not None and kept.lease == lease:
        kept.lease, kept.leased_until = None, 0.0
        shelf.change(kept, kept.request, unit.now)


def pull_forward(unit: Unit, account: str, beyond: float) -> int:
    """Make due at once what is due later than `beyond`, but for what is held until somebody lets it go; tells how many there were."""
    statement = sa.update(refund_requests).where(
        t.account == account,
        t.state.in_(WORKABLE),
        t.due_at > beyond,
        sa.or_(t.held_reason.is_(None), t.held_until.is_not(None)),
    )
    return unit.connection.execute(statement.values(due_at=unit.now)).rowcount


def free_all(unit: Unit, account: str) -> int:
    """End all leases on an account's requests; tells how many there were."""
    statement = sa.update(refund_requests).where(t.account == account, t.lease.is_not(None))
    return unit.connection.execute(statement.values(lease=None, leased_until=0.0)).rowcount


def on_the_way(unit: Unit, charge: str, but: str) -> bool:
    """Tell whether another request of this charge may be making a refund at the moment."""
    siblings = fetch_siblings(unit, [charge]).siblings[charge]
    return any(one.state in ON_THE_WAY for id_, one in siblings.items() if id_ != but)


def on_its_way(unit: Unit, charge: str) -> str | None:
    """Tell the request of a charge that is on its way, or of which nobody knows whether it was paid; there is one at most."""
    statement = sa.select(t.id).where(t.charge == charge, t.state.in_(_literals(ON_THE_WAY)))
    found: str | None = unit.connection.execute(statement).scalar_one_or_none()
    return found


def reserved(unit: Unit, charge: str, but: str) -> int:
    """Sum what other requests claim of a charge, in minor units."""
    siblings = fetch_siblings(unit, [charge]).siblings[charge]
    return sum(one.reserved_minor for id_, one in siblings.items() if id_ != but)


def reserved_of(unit: Unit, charges: Iterable[str]) -> dict[str, int]:
    """Sum what requests claim of each of the charges, in minor units; those of which nothing is claimed are left out."""
    statement = sa.select(t.charge, sa.func.sum(t.reserved_minor)).where(t.charge.in_(list(charges)))
    return {row[0]: int(row[1]) for row in unit.connection.execute(statement.group_by(t.charge))}


def twins(unit: Unit, request: RefundRequest, *, waiting: bool = False) -> tuple[str, ...]:
    """Find the other requests, not over unpaid, for the same ticket and charge, in the order in which they came; tells their ids.

    Whatever their amount: they name the charge in another way, and else would have the same key, which a second amount is refused for.

    Args:
        unit: The open unit.
        request: The request.
        waiting: Also those that nobody has decided about yet, of which else the later one is the repeat.
    """
    content = request.content
    if content.ticket_id is None:
        return ()
    siblings = fetch_siblings(unit, [content.charge]).siblings[content.charge]
    mine = siblings.get(request.id)
    return tuple(
        id_
        for id_, one in sorted(siblings.items(), key=lambda pair: pair[1].sequence)
        if id_ != request.id
        and one.ticket_id == content.ticket_id
        # Of two that wait, the later one is the repeat.
        and (waiting or one.state not in UNDECIDED or (mine is not None and one.sequence < mine.sequence))
    )


# What a worker may take. The states stand as they do in the partial indexes, so that both databases can use those.
_other = refund_requests.alias("other")
_THE_NOW = _b("the_now", type_=sa.Double)
_FREE = sa.and_(
    t.state.in_(_literals(WORKABLE)),
    t.due_at <= _THE_NOW,
    t.leased_until <= _THE_NOW,
    sa.or_(t.held_reason.is_(None), t.held_until <= _THE_NOW),
)
# Of the same charge another is on its way, or came earlier and may go on; a person waits for no row of a file, which may be days from its turn.
_SIBLING_ON_THE_WAY = sa.exists(
    sa.select(_other.c.id).where(
        _other.c.charge == t.charge, _other.c.id != t.id, _other.c.state.in_(_literals(ON_THE_WAY))
    )
)
_SOONER = sa.or_(
    _SIBLING_ON_THE_WAY,
    sa.exists(
        sa.select(_other.c.id).where(
            _other.c.charge == t.charge,
            _other.c.sequence < t.sequence,
            _other.c.state.in_(_literals((State.RECEIVED, State.APPROVED))),
            sa.or_(_other.c.held_reason.is_(None), _other.c.held_until <= _THE_NOW),
            sa.or_(t.lane != Lane.DESK.value, _other.c.lane == Lane.DESK.value),
        )
    ),
)
_READY = sa.and_(
    _FREE,
    t.account == _b("the_account"),
    t.lane == _b("the_lane"),
    sa.or_(t.state == State.SUBMITTING, ~_SOONER),
)
_DUE = sa.select(refund_requests).where(_READY).order_by(t.due_at, t.sequence).limit(_b("most"))
# SQLite, where whoever writes is alone, leaves the rest out.
_DUE_HELD = _DUE.with_for_update(skip_locked=True)


def claim(unit: Unit, account: str, lane: Lane, lease: str, *, until: float, most: int) -> list[Claimed]:
    """Take due requests that nobody works on, of each charge the one that came first, and a person's before a file's.

    That they are taken is written with what is decided about them, if that is in the same unit, and with its end otherwise.

    Args:
        unit: The open unit.
        account: Whose.
        lane: Which lane.
        lease: The token to take them under.
        until: When the lease ends, by the database's clock.
        most: How many.
    """
    values = {"the_account": account, "the_lane": lane.value, "the_now": unit.now, "most": most}
    found = sorted(unit.connection.execute(_DUE_HELD, values).all(), key=lambda row: row.sequence)
    shelf = unit.shelf(Desk)
    for row in found:
        # A hold that has ended is over with it.
        request = replace(_request(row), version=row.version + 1, hold=None)
        shelf.requests[row.id] = OnShelf(request, row.sequence, lease, until, row.version)
        shelf.unsaved[row.id] = row.changed_at
        shelf.leased.add(row.id)
    return [Claimed(shelf.requests[row.id].request, lease) for row in found]


@cache
def _renew(*, postgres: bool) -> sa.Executable:
    held = (among(t.id, "ids"), among(t.lease, "leases"))
    mine = sa.select(t.sequence).where(*held, t.leased_until > _THE_NOW).order_by(t.sequence)
    # What another unit changes at this moment is renewed the next time: whoever waited here would hold requests before charges.
    mine = mine.with_for_update(skip_locked=True) if postgres else mine
    return (
        sa.update(refund_requests)
        .where(t.sequence.in_(mine.scalar_subquery()))
        .values(leased_until=_b("the_until", type_=sa.Double))
    )


def renew(unit: Unit, requests: Collection[str], leases: Collection[str], until: float) -> None:
    """Hold those of some requests for longer that are still held under one of the leases, but for what another unit holds.

    The next time comes before the lease ends.
    """
    values = {"ids": sorted(requests), "leases": sorted(leases), "the_now": unit.now, "the_until": until}
    unit.connection.execute(_renew(postgres=unit.postgres), values)


_LANES = sa.select(t.account, t.lane).where(_FREE).distinct()
_ANY_READY = _DUE.with_only_columns(t.sequence).order_by(None)


def due_lanes(unit: Unit, now: float) -> list[tuple[str, Lane]]:
    """Tell the accounts and lanes in which something can be claimed."""
    found = unit.connection.execute(_LANES, {"the_now": now}).all()
    return [(row.account, Lane(row.lane)) for row in found if _any_ready(unit, row.account, row.lane, now)]


def _any_ready(unit: Unit, account: str, lane: str, now: float) -> bool:
    values = {"the_account": account, "the_lane": lane, "the_now": now, "most": 1}
    return unit.connection.execute(_ANY_READY, values).first() is not None


def next_due(unit: Unit, account: str) -> float | None:
    """Tell when the next request of an account falls due; `None`, if none will by itself.

    One that cannot be claimed while another of its charge is on its way does not count: that one has a time of its own.
    """
    moment = sa.case((t.due_at > t.leased_until, t.due_at), else_=t.leased_until)
    statement = sa.select(sa.func.min(moment)).where(
        t.account == account,
        t.state.in_(WORKABLE),
        sa.or_(t.held_reason.is_(None), t.held_until.is_not(None)),
        sa.or_(t.state == State.SUBMITTING, ~_SIBLING_ON_THE_WAY),
    )
    found = unit.connection.execute(statement).scalar_one()
    return None if found is None else float(found)


_MANY = sa.select(refund_requests).where(among(t.id, "ids")).order_by(t.sequence)
_MANY_HELD = _MANY.with_for_update()


def find(unit: Unit, request: str, *, hold: bool = False) -> RefundRequest | None:
    """Read a request; `hold` keeps others from changing it until the unit is over, for who is about to."""
    return many(unit, [request], hold=hold).get(request)


def many(unit: Unit, ids: Iterable[str], *, hold: bool = False) -> dict[str, RefundRequest]:
    """Read requests by id, in the order they came; `hold` as in `find`."""
    wanted = list(ids)
    shelf = fetch(unit, wanted) if hold else unit.shelf(Desk)
    found = [kept for id_ in dict.fromkeys(wanted) if (kept := shelf.requests.get(id_)) is not None]
    if hold or len(found) == len(wanted):
        return {kept.request.id: kept.request for kept in sorted(found, key=lambda kept: kept.sequence)}
    return _read(unit, _MANY, wanted)


def _read(unit: Unit, statement: sa.Select[Any], ids: Sequence[str]) -> dict[str, RefundRequest]:
    read: list[tuple[int, RefundRequest]] = []
    for at in range(0, len(ids), PAGE):
        some = unit.connection.execute(statement, {"ids": ids[at : at + PAGE]})
        read += [(row.sequence, _request(row)) for row in some]
    return {request.id: request for _, request in sorted(read, key=itemgetter(0))}


def but_for_waiting(unit: Unit, ids: Sequence[str], line: Iterable[HeldReason]) -> dict[str, RefundRequest]:
    """Read those requests that wait for nobody, as for a person or a dispute: what waits so may be most of a large batch.

    Args:
        unit: The open unit.
        ids: Of all of them.
        line: What is waited for in line, which is read too.
    """
    goes_on = sa.or_(t.held_reason.is_(None), t.held_until.is_not(None), t.held_reason.in_([one.value for one in line]))
    return _read(unit, _MANY.where(goes_on), ids)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests stand alike, and their money: the decided amounts, or where nothing is decided what was asked for.

    `in_doubt` of them were sent and are still looked for, the first of these at `next_look_at`, which may be past.
    """

    state: State
    held: HeldReason | None
    reason_code: str
    currency: str
    count: int
    amount_minor: int
    in_doubt: int
    next_look_at: float | None


def tally(unit: Unit, ids: sa.Select[tuple[str]]) -> list[Tally]:
    """Count those requests by where they stand, in the database, whose ids a statement selects: a thousand or so, so that no table is read whole."""
    alike = (t.state, t.held_reason, t.reason_code, t.currency)
    amount = sa.case((t.amount_minor > 0, t.amount_minor), else_=sa.func.coalesce(t.asked_minor, 0))
    look = sa.case((_doubtful(unit), t.due_at))
    counted = (sa.func.count(), sa.func.sum(amount), sa.func.count(look), sa.func.min(look))
    statement = sa.select(*alike, *counted).where(t.id.in_(ids)).group_by(*alike)
    found = unit.connection.execute(statement)
    return [
        Tally(State(state), HeldReason(held) if held else None, code, currency, count, int(total), in_doubt, next_look)
        for state, held, code, currency, count, total, in_doubt, next_look in found
    ]


def failed(unit: Unit, account: str) -> list[str]:
    """Tell the requests of an account whose refund has failed or was canceled."""
    states = [State.FAILED.value, State.CANCELED.value]
    return list(unit.connection.execute(sa.select(t.id).where(t.account == account, t.state.in_(states))).scalars())


def all_on_the_way(unit: Unit, account: str) -> list[str]:
    """Tell the requests of an account that are on their way, or of which nobody knows whether they were paid."""
    statement = sa.select(t.id).where(t.account == account, t.state.in_(ON_THE_WAY))
    return list(unit.connection.execute(statement).scalars())


def unknown(unit: Unit, account: str) -> dict[str, str]:
    """Tell the requests of an account of which nobody knows whether they were paid, by their charge, which has one of them at most."""
    statement = sa.select(t.charge, t.id).where(t.account == account, t.state == State.OUTCOME_UNKNOWN.value)
    return {row.charge: row.id for row in unit.connection.execute(statement)}


def counts(unit: Unit, account: str) -> dict[State, int]:
    """Count the requests of an account by state."""
    statement = sa.select(t.state, sa.func.count()).where(t.account == account).group_by(t.state)
    return {State(state): count for state, count in unit.connection.execute(statement)}


def flying(unit: Unit, account: str) -> dict[str, int]:
    """Sum what is on its way on an account, in minor units by currency; after an outage many thousand requests may be."""
    statement = sa.select(t.currency, sa.func.sum(t.amount_minor)).where(
        t.account == account, t.state == State.SUBMITTING
    )
    return {row[0]: int(row[1]) for row in unit.connection.execute(statement.group_by(t.currency))}


def _doubtful(unit: Unit) -> sa.ColumnElement[bool]:
    """Tell what was sent, has no answer, and is on nobody's hands: it is looked for later, or by now, if somebody executes."""
    idle = sa.or_(t.lease.is_(None), t.leased_until <= unit.now)
    return sa.and_(t.state == State.SUBMITTING, sa.or_(t.due_at > unit.now, idle))


def in_doubt(unit: Unit, account: str) -> tuple[int, float | None]:
    """Count what was sent and is still looked for, and tell when the next of it is; all of it, since after an outage many thousand may be."""
    statement = sa.select(sa.func.count(), sa.func.min(t.due_at)).where(t.account == account, _doubtful(unit))
    count, soonest = unit.connection.execute(statement).one()
    return int(count), None if soonest is None else float(soonest)


def leased(unit: Unit, account: str) -> int:
    """Count the requests of an account that somebody works on at this moment."""
    statement = sa.select(sa.func.count()).where(
        t.account == account, t.state.in_(WORKABLE), t.lease.is_not(None), t.leased_until > unit.now
    )
    return int(unit.connection.execute(statement).scalar_one())


_OF_CHARGE = sa.select(refund_requests).where(t.charge == _b("the_charge")).order_by(t.sequence)
_OF_CHARGE_HELD = _OF_CHARGE.with_for_update()


def of_charge(unit: Unit, charge: str, *, hold: bool = False) -> list[RefundRequest]:
    """Read the requests of a charge, in the order they came; `hold` as in `find`."""
    found = unit.connection.execute(_OF_CHARGE_HELD if hold else _OF_CHARGE, {"the_charge": charge})
    return [_request(row) for row in found]


def held_as_repeats(unit: Unit, charges: Sequence[str]) -> Iterator[RefundRequest]:
    """Read and hold the requests of charges that are held as possible repeats."""
    statement = sa.select(t.id).where(t.held_reason == HeldReason.POSSIBLE_REPEAT.value).order_by(t.sequence)
    for at in range(0, len(charges), CHARGES_MAX):
        some = statement.where(t.charge.in_(charges[at : at + CHARGES_MAX]))
        ids = list(unit.connection.execute(some).scalars())
        if ids:
            yield from many(unit, ids, hold=True).values()


def received_at(unit: Unit, ids: Iterable[str]) -> dict[str, float]:
    """Tell when requests were handed in, by the database's clock."""
    statement = sa.select(t.id, t.created_at).where(t.id.in_(list(ids)))
    return {row.id: float(row.created_at) for row in unit.connection.execute(statement)}


_GOING_ON = _literals(
    (State.RECEIVED, State.APPROVED, State.SUBMITTING, State.PENDING, State.REQUIRES_ACTION, State.OUTCOME_UNKNOWN)
)


def any_going_on(unit: Unit, account: str) -> bool:
    """Tell whether any request of an account is on its way: to be paid, or at Stripe and not settled."""
    statement = sa.select(t.id).where(t.account == account, t.state.in_(_GOING_ON)).limit(1)
    return unit.connection.execute(statement).first() is not None


def replaced_by(unit: Unit, request: str) -> str | None:
    """Tell which request replaces another."""
    found: str | None = unit.connection.execute(sa.select(t.id).where(t.replaces == request)).scalar_one_or_none()
    return found


def page(
    unit: Unit, account: str, states: Sequence[State], *, after: int, most: int
) -> list[tuple[int, RefundRequest]]:
    """Read requests of an account, newest first, with the place to go on from (`after` zero begins)."""
    statement = sa.select(refund_requests).where(t.account == account)
    if states:
        statement = statement.where(t.state.in_([s.value for s in states]))
    if after:
        statement = statement.where(t.sequence < after)
    found = unit.connection.execute(statement.order_by(t.sequence.desc()).limit(most))
    return [(row.sequence, _request(row)) for row in found]


def _request(row: Any) -> RefundRequest:  # noqa: ANN401  # a row
    return RefundRequest(
        id=row.id,
        account=row.account,
        request_key=row.request_key,
        content=Content(
            charge=row.charge,
            asked_minor=row.asked_minor,
            currency=row.currency,
            reason=row.reason,
            ticket_id=row.ticket_id,
            metadata=json.loads(row.metadata),
            refund_application_fee=row.refund_application_fee,
            reverse_transfer=row.reverse_transfer,
        ),
        state=State(row.state),
        amount_minor=row.amount_minor,
        reserved_minor=row.reserved_minor,
        hold=Hold(HeldReason(row.held_reason), row.held_until) if row.held_reason else None,
        reason_code=row.reason_code,
        reason_text=row.reason_text,
        attempt=row.attempt,
        refund=row.refund,
        version=row.version,
        lane=Lane(row.lane),
        due_at=row.due_at,
        allowed=frozenset(json.loads(row.allowed)) if row.allowed != NOTHING_ALLOWED else frozenset(),
        allow_inquiry=bool(row.allow_inquiry),
        replaces=row.replaces,
        planned=_planned(row.planned) if row.planned else None,
    )


def _planned(text: str) -> Planned:
    kept = json.loads(text)
    expected = kept["expected"]
    disputes = tuple((dispute, status) for dispute, status in expected.pop("disputes"))
    return Planned(Expected(**expected, disputes=disputes), kept["look_max_age"], kept.get("amount_minor"))


# Attempts


@cache
def _save_attempt(*, postgres: bool) -> Hot:
    insert = insert_of_rows(refund_attempts, [column.name for column in refund_attempts.c], postgres=postgres)
    change = {name: insert.excluded[name] for name in ("sends", "absent", "looks")}
    return Hot(insert.on_conflict_do_update(index_elements=["request", "number"], set_=change))


def save_attempt(unit: Unit, attempt: Attempt) -> None:
    """Write an attempt as it is now."""
    unit.shelf(Desk).attempts[attempt.request, attempt.number] = attempt


def _of_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "request": attempt.request,
        "number": attempt.number,
        "idempotency_key": attempt.key,
        "body": orjson.dumps(attempt.body, option=orjson.OPT_SORT_KEYS).decode(),
        "sends": orjson.dumps(attempt.sends).decode(),
        "absent": attempt.absent,
        "looks": json.dumps(attempt.looks),
    }


def attempts(unit: Unit, request: str) -> list[Attempt]:
    """Read a request's attempts, in order."""
    statement = sa.select(refund_attempts).where(refund_attempts.c.request == request)
    return [_attempt(row) for row in unit.connection.execute(statement.order_by(refund_attempts.c.number))]


def sent_at(unit: Unit, requests: Sequence[str]) -> dict[str, float]:
    """Tell when requests were sent last, by the database's clock; those that never were are left out."""
    statement = sa.select(refund_attempts).where(refund_attempts.c.request.in_(requests))
    moments: dict[str, float] = {}
    for row in unit.connection.execute(statement.order_by(refund_attempts.c.number)):
        for send in _attempt(row).sends:
            moments[row.request] = max(send.database_at, moments.get(row.request, 0.0))
    return moments


_ATTEMPT = sa.select(refund_attempts).where(
    refund_attempts.c.request == _b("the_request"), refund_attempts.c.number == _b("the_number")
)


def attempt(unit: Unit, request: str, number: int) -> Attempt | None:
    """Read one attempt."""
    unwritten = unit.shelf(Desk).attempts.get((request, number))
    if unwritten is not None:
        return unwritten
    row = unit.direct.execute(_ATTEMPT, {"the_request": request, "the_number": number}).one_or_none()
    return _attempt(row) if row else None


def _attempt(row: Any) -> Attempt:  # noqa: ANN401  # a row
    sends = tuple(Send(**(send | {"answer": Answer(**send["answer"])})) for send in json.loads(row.sends))
    return Attempt(
        row.request,
        row.number,
        RefundBody(**json.loads(row.body)),
        sends,
        bool(row.absent),
        tuple(json.loads(row.looks)),
    )


# Breaks


def open_break(unit: Unit, request: str, opened: Break) -> None:
    """Open a break, once."""
    insert: Any = postgresql.insert(breaks) if unit.postgres else sqlite.insert(breaks)
    values = {
        "code": opened.code,
        "request": request,
        "refund": opened.refund,
        "text": opened.text,
        "opened_at": unit.now,
    }
    unit.connection.execute(insert.values(values).on_conflict_do_nothing())


def broken(unit: Unit, refunds: Iterable[str]) -> set[str]:
    """Tell of which of Stripe's refunds a break was opened."""
    statement = sa.select(breaks.c.refund).where(breaks.c.refund.in_(list(refunds)))
    return {row.refund for row in unit.connection.execute(statement)}


def open_breaks(unit: Unit) -> list[tuple[str, Break]]:
    """Read all breaks: the request's id, and what is broken."""
    found = unit.connection.execute(sa.select(breaks).order_by(breaks.c.opened_at))
    return [(row.request, Break(row.code, row.refund, row.text)) for row in found]
