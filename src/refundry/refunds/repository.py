"""The statements on refund requests. Every change is a compare-and-set on the version that it changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.charges.model import Expected
from refundry.gateways.base import RefundBody
from refundry.infra.db import Unit
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Answer
from refundry.refunds.model import Attempt, Break, Content, HeldReason, Hold, Planned, RefundRequest, Send, State
from refundry.refunds.tables import breaks, refund_attempts, refund_requests

t = refund_requests.c
WORKABLE = (State.RECEIVED, State.APPROVED, State.SUBMITTING)
ON_THE_WAY = (State.SUBMITTING, State.OUTCOME_UNKNOWN)


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
    make: Any = postgresql.insert(refund_requests) if unit.postgres else sqlite.insert(refund_requests)
    statement = make.on_conflict_do_nothing(index_elements=["id"]).returning(t.id)
    return {row.id for row in unit.connection.execute(statement, values)}


def _values(request: RefundRequest) -> dict[str, Any]:
    content, hold = request.content, request.hold
    return {
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
        "lane": request.lane.value,
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
        "due_at": request.due_at,
        "allow_repeat": request.allow_repeat,
        "allow_inquiry": request.allow_inquiry,
        "planned": orjson.dumps(request.planned).decode() if request.planned else None,
    }


CHANGING = (
    "state", "amount_minor", "reserved_minor", "held_reason", "held_until", "reason_code", "reason_text", "attempt",
    "refund", "version", "due_at", "allow_repeat", "allow_inquiry", "planned",
)  # fmt: skip
_b = sa.bindparam


def _literals(states: Iterable[State]) -> list[sa.ColumnElement[str]]:
    return [sa.literal_column(f"'{state.value}'", sa.Text) for state in states]


_SET: dict[str, Any] = {name: _b("new_" + name) for name in CHANGING} | {"changed_at": _b("new_changed_at")}
_CAS = sa.update(refund_requests).where(t.id == _b("the_id"), t.version == _b("the_version")).values(_SET)
_CAS_LEASED = _CAS.where(t.lease == _b("the_lease"), t.leased_until > _b("the_now"))
_FREED: dict[str, Any] = {"lease": None, "leased_until": 0.0}
_CAS_FREE, _CAS_LEASED_FREE = _CAS.values(_FREED), _CAS_LEASED.values(_FREED)
_LET_GO = sa.update(refund_requests).where(t.id == _b("the_id"), t.lease == _b("the_lease")).values(_FREED)


def update(unit: Unit, before: RefundRequest, after: RefundRequest, lease: str | None, *, keep_lease: bool) -> bool:
    """Write a changed request over the version it was made from; false, if somebody else was faster.

    Args:
        unit: The open unit.
        before: As it was read.
        after: As it is to be.
        lease: With a token, only while that lease still holds.
        keep_lease: Whether the worker goes on with it; else it is free for the next.
    """
    new = _values(after)
    values = {"new_" + name: new[name] for name in CHANGING} | {"new_changed_at": unit.now}
    values |= {"the_id": before.id, "the_version": before.version}
    if lease is None:
        return unit.connection.execute(_CAS if keep_lease else _CAS_FREE, values).rowcount == 1
    values |= {"the_lease": lease, "the_now": unit.now}
    return unit.connection.execute(_CAS_LEASED if keep_lease else _CAS_LEASED_FREE, values).rowcount == 1


def free(unit: Unit, request: str, lease: str) -> None:
    """Give a request back, if it is still held under this lease."""
    unit.connection.execute(_LET_GO, {"the_id": request, "the_lease": lease})


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


_ON_THE_WAY = (
    sa.select(t.id).where(t.charge == _b("the_charge"), t.id != _b("but"), t.state.in_(_literals(ON_THE_WAY))).limit(1)
)


def on_the_way(unit: Unit, charge: str, but: str) -> bool:
    """Tell whether another request of this charge may be making a refund at the moment."""
    return unit.connection.execute(_ON_THE_WAY, {"the_charge": charge, "but": but}).first() is not None


_RESERVED = sa.select(sa.func.coalesce(sa.func.sum(t.reserved_minor), 0)).where(
    t.charge == _b("the_charge"), t.id != _b("but")
)


def reserved(unit: Unit, charge: str, but: str) -> int:
    """Sum what other requests claim of a charge, in minor units."""
    return int(unit.connection.execute(_RESERVED, {"the_charge": charge, "but": but}).scalar_one())


_mine = refund_requests.alias("mine")
_ASKED = _b("the_asked", type_=sa.BigInteger)
_TWIN = (
    sa.select(t.id)
    .where(
        t.charge == _b("the_charge"),
        t.id != _b("but"),
        t.ticket_id == _b("the_ticket"),
        sa.or_(t.asked_minor == _ASKED, sa.and_(t.asked_minor.is_(None), _ASKED.is_(None))),
        t.state.not_in(_literals((State.REJECTED, State.DECLINED, State.WITHDRAWN, State.FAILED, State.CANCELED))),
        # Of two that wait, the later one is the repeat.
        sa.or_(
            t.state.not_in(_literals((State.RECEIVED, State.AWAITING_APPROVAL))),
            t.sequence < sa.select(_mine.c.sequence).where(_mine.c.id == _b("but")).scalar_subquery(),
        ),
    )
    .limit(1)
)


def twin(unit: Unit, request: RefundRequest) -> str | None:
    """Find another request, not over unpaid, for the same ticket, charge and asked amount; tells its id."""
    content = request.content
    if content.ticket_id is None:
        return None
    values = {
        "the_charge": content.charge, "but": request.id, "the_ticket": content.ticket_id,
        "the_asked": content.asked_minor,
    }  # fmt: skip
    return unit.connection.execute(_TWIN, values).scalar_one_or_none()


# What a worker may take. The states stand as they do in the partial indexes, so that both databases can use those.
_other = refund_requests.alias("other")
_THE_NOW = _b("the_now", type_=sa.Double)
_FREE = sa.and_(
    t.state.in_(_literals(WORKABLE)),
    t.due_at <= _THE_NOW,
    t.leased_until <= _THE_NOW,
    sa.or_(t.held_reason.is_(None), t.held_until <= _THE_NOW),
)
# Of the same charge another is on its way, or came earlier and may go on.
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
        )
    ),
)
_READY = sa.and_(
    _FREE,
    t.account == _b("the_account"),
    t.lane == _b("the_lane"),
    sa.or_(t.state == State.SUBMITTING, ~_SOONER),
)
_DUE = sa.select(t.sequence).where(_READY).order_by(t.due_at, t.sequence).limit(_b("most"))


@cache
def _claim(*, postgres: bool) -> sa.Executable:
    due = _DUE.with_for_update(skip_locked=True) if postgres else _DUE
    return (
        sa.update(refund_requests)
        .where(t.sequence.in_(due.scalar_subquery()))
        .values(
            lease=_b("the_lease"),
            leased_until=_b("the_until"),
            version=t.version + 1,
            held_reason=None,
            held_until=None,
        )
        .returning(refund_requests)
    )


def claim(unit: Unit, account: str, lane: Lane, lease: str, *, until: float, most: int) -> list[Claimed]:
    """Take due requests that nobody works on, one of each charge, in the order they came.

    Args:
        unit: The open unit.
        account: Whose.
        lane: Which lane.
        lease: The token to take them under.
        until: When the lease ends, by the database's clock.
        most: How many.
    """
    values = {
        "the_account": account, "the_lane": lane.value, "the_lease": lease, "the_until": until, "the_now": unit.now,
        "most": most,
    }  # fmt: skip
    found = sorted(unit.connection.execute(_claim(postgres=unit.postgres), values).all(), key=lambda row: row.sequence)
    return [Claimed(_request(row), lease) for row in found]


def renew(unit: Unit, lease: str, until: float) -> None:
    """Hold what is still held under a lease for longer."""
    statement = sa.update(refund_requests).where(t.lease == lease, t.leased_until > unit.now).values(leased_until=until)
    unit.connection.execute(statement)


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


_FIND = sa.select(refund_requests).where(t.id == _b("the_id"))
_FIND_HELD = _FIND.with_for_update()


def find(unit: Unit, request: str, *, hold: bool = False) -> RefundRequest | None:
    """Read a request; `hold` keeps others from changing it until the unit is over, for who is about to."""
    row = unit.connection.execute(_FIND_HELD if hold else _FIND, {"the_id": request}).one_or_none()
    return _request(row) if row else None


_MANY = sa.select(refund_requests).where(t.id.in_(sa.bindparam("ids", expanding=True))).order_by(t.sequence)
_MANY_HELD = _MANY.with_for_update()


def many(unit: Unit, ids: Iterable[str], *, hold: bool = False) -> dict[str, RefundRequest]:
    """Read requests by id, in the order they came; `hold` as in `find`."""
    found = unit.connection.execute(_MANY_HELD if hold else _MANY, {"ids": list(ids)})
    return {row.id: _request(row) for row in found}


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests stand alike, and their money: the decided amounts, or where nothing is decided what was asked for."""

    state: State
    held: HeldReason | None
    reason_code: str
    currency: str
    count: int
    amount_minor: int


def tally(unit: Unit, ids: Iterable[str]) -> list[Tally]:
    """Count requests by where they stand, in the database."""
    alike = (t.state, t.held_reason, t.reason_code, t.currency)
    amount = sa.case((t.amount_minor > 0, t.amount_minor), else_=sa.func.coalesce(t.asked_minor, 0))
    statement = sa.select(*alike, sa.func.count(), sa.func.sum(amount)).where(t.id.in_(list(ids))).group_by(*alike)
    return [
        Tally(State(state), HeldReason(held) if held else None, code, currency, count, int(total))
        for state, held, code, currency, count, total in unit.connection.execute(statement)
    ]


def counts(unit: Unit, account: str) -> dict[State, int]:
    """Count the requests of an account by state."""
    statement = sa.select(t.state, sa.func.count()).where(t.account == account).group_by(t.state)
    return {State(state): count for state, count in unit.connection.execute(statement)}


def leased(unit: Unit, account: str) -> int:
    """Count the requests of an account that somebody works on at this moment."""
    statement = sa.select(sa.func.count()).where(
        t.account == account, t.state.in_(WORKABLE), t.lease.is_not(None), t.leased_until > unit.now
    )
    return int(unit.connection.execute(statement).scalar_one())


def of_charge(unit: Unit, charge: str) -> list[RefundRequest]:
    """Read the requests of a charge, in the order they came."""
    statement = sa.select(refund_requests).where(t.charge == charge).order_by(t.sequence)
    return [_request(row) for row in unit.connection.execute(statement)]


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
        allow_repeat=bool(row.allow_repeat),
        allow_inquiry=bool(row.allow_inquiry),
        replaces=row.replaces,
        planned=_planned(row.planned) if row.planned else None,
    )


def _planned(text: str) -> Planned:
    kept = json.loads(text)
    expected = kept["expected"]
    disputes = tuple((dispute, status) for dispute, status in expected.pop("disputes"))
    return Planned(Expected(**expected, disputes=disputes), kept["look_max_age"])


# Attempts


@cache
def _save_attempt(*, postgres: bool) -> sa.Executable:
    insert: Any = postgresql.insert(refund_attempts) if postgres else sqlite.insert(refund_attempts)
    change = {name: insert.excluded[name] for name in ("sends", "absent", "looks")}
    statement: sa.Executable = insert.on_conflict_do_update(index_elements=["request", "number"], set_=change)
    return statement


def save_attempt(unit: Unit, attempt: Attempt) -> None:
    """Write an attempt as it is now."""
    values = {
        "request": attempt.request,
        "number": attempt.number,
        "idempotency_key": attempt.key,
        "body": orjson.dumps(attempt.body, option=orjson.OPT_SORT_KEYS).decode(),
        "sends": orjson.dumps(attempt.sends).decode(),
        "absent": attempt.absent,
        "looks": json.dumps(attempt.looks),
    }
    unit.connection.execute(_save_attempt(postgres=unit.postgres), values)


def attempts(unit: Unit, request: str) -> list[Attempt]:
    """Read a request's attempts, in order."""
    statement = sa.select(refund_attempts).where(refund_attempts.c.request == request)
    return [_attempt(row) for row in unit.connection.execute(statement.order_by(refund_attempts.c.number))]


_ATTEMPT = sa.select(refund_attempts).where(
    refund_attempts.c.request == _b("the_request"), refund_attempts.c.number == _b("the_number")
)


def attempt(unit: Unit, request: str, number: int) -> Attempt | None:
    """Read one attempt."""
    row = unit.connection.execute(_ATTEMPT, {"the_request": request, "the_number": number}).one_or_none()
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


def open_breaks(unit: Unit) -> list[tuple[str, Break]]:
    """Read all breaks: the request's id, and what is broken."""
    found = unit.connection.execute(sa.select(breaks).order_by(breaks.c.opened_at))
    return [(row.request, Break(row.code, row.refund, row.text)) for row in found]
