"""The statements on the mirror."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.charges.model import REQUEST_ID, Charge, KnownRefund, LastLook, Origin
from refundry.charges.tables import charge_windows, charges, stripe_refunds
from refundry.gateways.base import SeenDispute
from refundry.infra.db import Hot, Unit, among, insert_of_rows, rows_given
from refundry.kernel.outcome import SeenRefund

_b = sa.bindparam
# What once was known, and most reads do not tell: the fee does not change, nor whose request a refund belongs to.
KEPT = {"fee_minor", "fee_currency", "request"}


@cache
def _upsert(table: sa.Table, *, postgres: bool) -> Hot:
    insert = insert_of_rows(table, [column.name for column in table.c], postgres=postgres)
    kept = {"id", "touched_at", "origin"}
    change = {column.name: insert.excluded[column.name] for column in table.c if column.name not in kept}
    for name in KEPT & change.keys():
        change[name] = sa.func.coalesce(change[name], table.c[name])
    return Hot(insert.on_conflict_do_update(index_elements=["id"], set_=change))


@dataclass(slots=True)
class OnShelf:
    """A charge as it stands on the shelf.

    Args:
        charge: `None`, if it is not mirrored.
        refunds: Its refunds, also where the charge itself is not mirrored.
        touched_at: When it changed at Stripe, as far as we know.
        held: Whether nobody else can change it until the unit is over.
    """

    charge: Charge | None
    refunds: tuple[SeenRefund, ...]
    touched_at: float
    held: bool


class Mirror:
    """The charges that a unit has read, and what it has changed of them and not written yet."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.charges: dict[str, OnShelf] = {}
        self.unsaved: dict[str, dict[str, Any]] = {}
        self.unsaved_refunds: dict[str, dict[str, Any]] = {}
        self.touched: dict[str, float] = {}
        # By the name of a column and its value: the ids of the charges that have it.
        self.named: dict[tuple[str, str], list[str]] = {}

    @property
    def changed(self) -> bool:
        """Tell whether something is not written yet."""
        return bool(self.unsaved or self.unsaved_refunds or self.touched)

    def write(self, connection: sa.Connection) -> None:
        """Write what was changed; in the order of their ids, so that two units never wait for each other."""
        postgres = connection.dialect.name == "postgresql"
        if self.unsaved:
            _upsert(charges, postgres=postgres).many(connection, [self.unsaved[id_] for id_ in sorted(self.unsaved)])
        if self.touched:
            times = [{"the_charge": c, "the_time": self.touched[c]} for c in sorted(self.touched)]
            _touch(postgres=postgres).many(connection, times)
        if self.unsaved_refunds:
            values = [self.unsaved_refunds[id_] for id_ in sorted(self.unsaved_refunds)]
            _upsert(stripe_refunds, postgres=postgres).many(connection, values)


_FIND = sa.select(charges).where(among(charges.c.id, "ids")).order_by(charges.c.id)
_FIND_HELD = _FIND.with_for_update()
_RESERVE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(id, 0)) FROM unnest(CAST(:ids AS text[])) AS id")
_FIND_FREE = _FIND.with_for_update(skip_locked=True)
_REFUNDS = (
    sa.select(stripe_refunds)
    .where(among(stripe_refunds.c.charge, "ids"))
    .order_by(stripe_refunds.c.created_at, stripe_refunds.c.id)
)


def fetch(unit: Unit, ids: Iterable[str], *, hold: bool, free: bool = False) -> Mirror:
    """Put charges on the shelf, and `hold` them until the unit is over; in the order of their ids, so that two units never wait for each other.

    With `free` as well, those that are not mirrored, or that another unit holds, are left out.
    """
    shelf = unit.shelf(Mirror)
    # On SQLite a unit that may write is alone.
    held = unit.writes and (hold or not unit.postgres)
    wanted = sorted({id_ for id_ in ids if (kept := shelf.charges.get(id_)) is None or (held and not kept.held)})
    if not wanted:
        return shelf
    if any(id_ in shelf.charges for id_ in wanted) and shelf.changed:
        unit.settle()
        return fetch(unit, ids, hold=hold, free=free)
    statement = _FIND_FREE if free else _FIND_HELD if held else _FIND
    rows = {row[0]: row for row in unit.direct.execute(statement, {"ids": wanted}).all()}
    if free:
        wanted = [id_ for id_ in wanted if id_ in rows]
    elif held and unit.postgres and (new := [id_ for id_ in wanted if id_ not in rows]):
        # There is no row to hold yet: of two units that see a charge first, one would write over what the other has seen later.
        unit.direct.execute(_RESERVE, {"ids": new})
        rows |= {row[0]: row for row in unit.direct.execute(_FIND_HELD, {"ids": new}).all()}
    refunds: dict[str, list[SeenRefund]] = {id_: [] for id_ in wanted}
    for row in unit.direct.execute(_REFUNDS, {"ids": wanted}).all():
        refunds[row.charge].append(_refund(row))
    for id_ in wanted:
        known, all_ = rows.get(id_), tuple(refunds[id_])
        if known is None:
            shelf.charges[id_] = OnShelf(None, all_, 0.0, held)
        else:
            shelf.charges[id_] = OnShelf(_charge_with(known, all_), all_, known.touched_at, held)
    return shelf


def hold_free(unit: Unit, ids: Iterable[str]) -> set[str]:
    """Put those charges on the shelf, and hold them, that are mirrored and that no other unit holds; tells which."""
    wanted = set(ids)
    shelf = fetch(unit, wanted, hold=True, free=True)
    return {id_ for id_ in wanted if (kept := shelf.charges.get(id_)) is not None and kept.charge is not None}


def held(unit: Unit, ids: Iterable[str]) -> dict[str, tuple[float, float | None]]:
    """Hold charges' rows until the unit is over; tells of those that are mirrored when they were touched and looked at."""
    shelf, told = fetch(unit, ids, hold=True), {}
    for id_ in ids:
        kept = shelf.charges[id_]
        if kept.charge is not None:
            told[id_] = (kept.touched_at, kept.charge.looked_at)
    return told


def save(unit: Unit, seen: Sequence[Charge]) -> None:
    """Write charges as they were seen; when they were touched stays."""
    shelf = fetch(unit, [charge.id for charge in seen], hold=True)
    for seen_now in seen:
        kept = shelf.charges[seen_now.id]
        c = seen_now
        if kept.charge is not None and c.fee_minor is None:
            # Most looks do not ask for the fee, and it does not change.
            c = replace(c, fee_minor=kept.charge.fee_minor, fee_currency=kept.charge.fee_currency)
        shelf.named.pop(("order_id", c.order_id or ""), None)
        shelf.named.pop(("payment_intent", c.payment_intent or ""), None)
        shelf.unsaved[c.id] = {
            "id": c.id, "account": c.account, "payment_intent": c.payment_intent, "order_id": c.order_id,
            "currency": c.currency, "amount_minor": c.amount_minor, "captured_minor": c.captured_minor,
            "refunded_minor": c.refunded_minor, "status": c.status, "captured": c.captured, "disputed": c.disputed,
            "disputes": json.dumps([_written(dispute) for dispute in c.disputes]) if c.disputes else "[]",
            "destination": c.destination, "application_fee": c.application_fee, "created_at": c.created_at,
            "looked_at": c.looked_at, "touched_at": 0.0,
            "fee_minor": c.fee_minor, "fee_currency": c.fee_currency,
        }  # fmt: skip
        stale = c.looked_at is None or kept.touched_at >= c.looked_at
        kept.charge = replace(c, stale=stale, refunds=kept.refunds)


def _written(dispute: SeenDispute) -> list[object]:
    return [
        dispute.id, dispute.status, dispute.amount_minor, dispute.refundable, dispute.currency, dispute.reason, dispute.created_at,
    ]  # fmt: skip


def save_refunds(unit: Unit, account: str, refunds: Sequence[SeenRefund], seen_at: float) -> list[SeenRefund]:
    """Write Stripe's refunds as they were seen; tells them as they are kept: with the mark of a request that was taken away at Stripe."""
    shelf = fetch(unit, {refund.charge for refund in refunds}, hold=True)
    out = [_marked(refund, shelf.charges[refund.charge].refunds) for refund in refunds]
    for r in out:
        shelf.unsaved_refunds[r.id] = {
            "id": r.id, "account": account, "charge": r.charge, "request": r.metadata.get(REQUEST_ID),
            "amount_minor": r.amount_minor, "currency": r.currency, "status": r.status, "reason": r.reason,
            "failure_reason": r.failure_reason, "pending_reason": r.pending_reason,
            "metadata": json.dumps(r.metadata, sort_keys=True), "created_at": r.created_at, "seen_at": seen_at,
            "origin": (Origin.OURS if REQUEST_ID in r.metadata else Origin.EXTERNAL).value, "action_until": r.action_until,
        }  # fmt: skip
        kept = shelf.charges[r.charge]
        # As it will be read again: the payment intent stands with the charge.
        known = [one for one in kept.refunds if one.id != r.id] + [replace(r, payment_intent=None)]
        kept.refunds = tuple(sorted(known, key=lambda one: (one.created_at, one.id)))
        if kept.charge is not None:
            kept.charge = replace(kept.charge, refunds=kept.refunds)
    return out


def _marked(refund: SeenRefund, known: Sequence[SeenRefund]) -> SeenRefund:
    if REQUEST_ID in refund.metadata:
        return refund
    mark = next((one.metadata.get(REQUEST_ID) for one in known if one.id == refund.id), None)
    return refund if mark is None else replace(refund, metadata=refund.metadata | {REQUEST_ID: mark})


@cache
def _touch(*, postgres: bool) -> Hot:
    if postgres:
        given = rows_given({"the_charge": sa.Text(), "the_time": sa.Double()}).c
        the_charge, the_time = given.the_charge, given.the_time
    else:
        the_charge, the_time = _b("the_charge"), _b("the_time", type_=sa.Double)
    older = charges.c.id == the_charge, charges.c.touched_at < the_time
    return Hot(sa.update(charges).where(*older).values(touched_at=the_time))


def touch(unit: Unit, charge: str, at: float) -> None:
    """Note that a charge changed at Stripe: looks that began before are out of date."""
    shelf = fetch(unit, [charge], hold=True)
    kept = shelf.charges[charge]
    if kept.charge is None or kept.touched_at >= at:
        return
    kept.touched_at = shelf.touched[charge] = at
    looked_at = kept.charge.looked_at
    kept.charge = replace(kept.charge, stale=looked_at is None or at >= looked_at)


def untouch(unit: Unit, charge: str) -> None:
    """Forget when a charge was touched: that time is of a clock that was set back since."""
    unit.connection.execute(sa.update(charges).where(charges.c.id == charge).values(touched_at=0.0))


def forget_future_looks(unit: Unit, account: str) -> int:
    """Forget when charges were looked at, where that time is yet to come; tells how many there were."""
    statement = sa.update(charges).where(charges.c.account == account, charges.c.looked_at > unit.now)
    return unit.connection.execute(statement.values(looked_at=None)).rowcount


def find(unit: Unit, charge: str) -> Charge | None:
    """Read a charge with its refunds and disputes."""
    return fetch(unit, [charge], hold=False).charges[charge].charge


_LOOKED_AT = sa.select(charges.c.id, charges.c.looked_at, charges.c.touched_at).where(among(charges.c.id, "ids"))


def looked_at(unit: Unit, ids: Iterable[str]) -> dict[str, float]:
    """Tell when charges were looked at; those that are not mirrored, or changed since, are left out."""
    if unit.shelf(Mirror).changed:
        unit.settle()
    found = unit.direct.execute(_LOOKED_AT, {"ids": list(ids)})
    return {row.id: row.looked_at for row in found if row.looked_at is not None and row.touched_at < row.looked_at}


def _last_looks(column: Any, *of_account: sa.ColumnElement[bool]) -> sa.Select[Any]:  # noqa: ANN401  # a column
    c = charges.c
    told = (c.id, column.label("name"), c.status, c.created_at, c.looked_at, c.touched_at)
    return sa.select(*told).where(*of_account, among(column, "names")).order_by(c.id)


_OF_ACCOUNT = charges.c.account == _b("the_account")
_LAST_LOOKS = {
    # A charge is named by its id whoever has it: of one of another account somebody is to hear just that.
    "id": _last_looks(charges.c.id),
    "order_id": _last_looks(charges.c.order_id, _OF_ACCOUNT),
    "payment_intent": _last_looks(charges.c.payment_intent, _OF_ACCOUNT),
}


def last_looks(unit: Unit, account: str, column: str, names: Iterable[str]) -> dict[str, list[LastLook]]:
    """Tell how charges were last seen, by their value in a column, each of these values having its list: without their refunds, and so cheap.

    Args:
        unit: The open unit.
        account: Whose charges; not asked for by `id`.
        column: `id`, `order_id` or `payment_intent`.
        names: The values.
    """
    told: dict[str, list[LastLook]] = {name: [] for name in names}
    if not told:
        return told
    if unit.shelf(Mirror).changed:
        unit.settle()
    found = unit.direct.execute(_LAST_LOOKS[column], {"the_account": account, "names": list(told)}).all()
    for id_, name, status, created_at, looked_at, touched_at in found:
        stale = looked_at is None or touched_at >= looked_at
        told[name].append(LastLook(id_, status, created_at, looked_at, stale))
    return told


_NAMED = {
    column.name: sa.select(charges.c.id, column.label("name"))
    .where(charges.c.account == _b("the_account"), among(column, "names"))
    .order_by(charges.c.id)
    for column in (charges.c.order_id, charges.c.payment_intent)
}


def fetch_named(unit: Unit, account: str, column: str, names: Iterable[str]) -> Mirror:
    """Put the charges of an account on the shelf that have one of these values in a column."""
    shelf = unit.shelf(Mirror)
    wanted = [name for name in dict.fromkeys(names) if (column, name) not in shelf.named]
    if not wanted:
        return shelf
    if shelf.changed:
        unit.settle()
        return fetch_named(unit, account, column, names)
    shelf.named |= {(column, name): [] for name in wanted}
    rows = unit.direct.execute(_NAMED[column], {"the_account": account, "names": wanted}).all()
    for row in rows:
        shelf.named[column, row.name].append(row.id)
    return fetch(unit, [row.id for row in rows], hold=False)


def by_order(unit: Unit, account: str, order: str) -> list[Charge]:
    """Read the charges of an order."""
    return _named(unit, account, "order_id", order)


def orders_of(unit: Unit, ids: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Tell the account and the order of those charges that are mirrored."""
    statement = sa.select(charges.c.id, charges.c.account, charges.c.order_id).where(charges.c.id.in_(list(ids)))
    return {row.id: (row.account, row.order_id) for row in unit.connection.execute(statement)}


def families(unit: Unit, orders: Mapping[str, tuple[str, str | None]]) -> list[Charge]:
    """Read charges, and all others of their orders, with their refunds: two statements however many they are.

    Args:
        unit: The open unit.
        orders: What `orders_of` told of the charges.
    """
    meant = set(orders.values())
    of_order = sa.and_(
        charges.c.account.in_({account for account, _ in meant}), charges.c.order_id.in_({o for _, o in meant if o})
    )
    statement = sa.select(charges).where(sa.or_(charges.c.id.in_(list(orders)), of_order))
    found = [
        row
        for row in unit.connection.execute(statement.order_by(charges.c.id))
        # Two accounts may each have an order of one name, and only one of them is meant.
        if row.id in orders or (row.account, row.order_id) in meant
    ]
    theirs: dict[str, list[SeenRefund]] = {row.id: [] for row in found}
    refunds = sa.select(stripe_refunds).where(stripe_refunds.c.charge.in_(list(theirs)))
    for row in unit.connection.execute(refunds.order_by(stripe_refunds.c.created_at, stripe_refunds.c.id)):
        theirs[row.charge].append(_refund(row))
    return [_charge_with(row, theirs[row.id]) for row in found]


def by_payment_intent(unit: Unit, account: str, payment_intent: str) -> list[Charge]:
    """Read the charges of a payment intent."""
    return _named(unit, account, "payment_intent", payment_intent)


def _named(unit: Unit, account: str, column: str, name: str) -> list[Charge]:
    shelf = fetch_named(unit, account, column, [name])
    found = [find(unit, id_) for id_ in shelf.named[column, name]]
    return [charge for charge in found if charge is not None and charge.account == account]


def refund_of(unit: Unit, refund: str) -> SeenRefund | None:
    """Read one of Stripe's refunds."""
    row = unit.connection.execute(sa.select(stripe_refunds).where(stripe_refunds.c.id == refund)).one_or_none()
    return _refund(row) if row else None


def many(unit: Unit, ids: Iterable[str]) -> dict[str, Charge]:
    """Read charges with their refunds: two statements however many they are."""
    found = unit.connection.execute(_MANY, {"ids": list(ids)}).all()
    theirs: dict[str, list[SeenRefund]] = {row.id: [] for row in found}
    for row in unit.connection.execute(_REFUNDS_OF_MANY, {"ids": list(theirs)}):
        theirs[row.charge].append(_refund(row))
    return {row.id: _charge_with(row, theirs[row.id]) for row in found}


_MANY = sa.select(charges).where(among(charges.c.id, "ids"))
_REFUNDS_OF_MANY = (
    sa.select(stripe_refunds)
    .where(among(stripe_refunds.c.charge, "ids"))
    .order_by(stripe_refunds.c.created_at, stripe_refunds.c.id)
)
_KNOWN = sa.select(stripe_refunds).where(among(stripe_refunds.c.id, "ids"))


def refunds_known(unit: Unit, ids: Iterable[str]) -> dict[str, KnownRefund]:
    """Read some of Stripe's refunds, with who made them and when they were seen."""
    found = unit.connection.execute(_KNOWN, {"ids": list(ids)})
    return {row.id: KnownRefund(_refund(row), Origin(row.origin), row.seen_at) for row in found}


def set_origin(unit: Unit, refund: str, origin: Origin) -> bool:
    """Note who made a refund, where that was not known or is another by now; tells whether it was."""
    statement = sa.update(stripe_refunds).where(stripe_refunds.c.id == refund, stripe_refunds.c.origin != origin.value)
    return unit.connection.execute(statement.values(origin=origin.value)).rowcount == 1


# Why a refund waits for the balance, or has failed for want of it (stripe-facts 3.3).
INSUFFICIENT = "insufficient_funds"
KNOWN_AT_ONCE = 500
_OPEN = [sa.literal_column(f"'{status}'", sa.Text) for status in ("pending", "requires_action")]


def refunds_open(unit: Unit, account: str, before: float, most: int) -> list[KnownRefund]:
    """Read the refunds that may still change by themselves and were not seen since, those seen longest ago first."""
    r = stripe_refunds.c
    statement = sa.select(stripe_refunds).where(r.account == account, r.status.in_(_OPEN), r.seen_at < before)
    found = unit.connection.execute(statement.order_by(r.seen_at, r.id).limit(most))
    return [KnownRefund(_refund(row), Origin(row.origin), row.seen_at) for row in found]


def refunds_unknown(unit: Unit, listed: Sequence[SeenRefund]) -> list[SeenRefund]:
    """Tell those of Stripe's refunds that are not known here."""
    known: set[str] = set()
    # A few hundred at once: no database takes any number of values in one statement.
    for at in range(0, len(listed), KNOWN_AT_ONCE):
        known |= refunds_known(unit, [refund.id for refund in listed[at : at + KNOWN_AT_ONCE]]).keys()
    return [refund for refund in listed if refund.id not in known]


def leaving(unit: Unit, account: str, since: float, listed: Sequence[SeenRefund] = ()) -> dict[str, int]:
    """Sum up the refunds that were made since a time, and those that wait for the balance, in minor units by currency.

    One that has failed since counts too: what it gave back is available at once, and what it took is not gone yet. One that failed
    for want of balance has taken nothing. Of those that Stripe has `listed`, which were made since, the ones that are not known here count too.
    """
    r = stripe_refunds.c
    lately = r.created_at >= since, sa.func.coalesce(r.failure_reason, "") != INSUFFICIENT
    waits = r.created_at < since, r.status.in_(_OPEN), r.pending_reason == INSUFFICIENT
    sums: Counter[str] = Counter()
    # First: one that becomes known in this moment may count twice, and is not missed.
    for refund in refunds_unknown(unit, listed):
        if refund.failure_reason != INSUFFICIENT:
            sums[refund.currency] += refund.amount_minor
    # One after the other: each has an index of its own.
    for some in (lately, waits):
        statement = sa.select(r.currency, sa.func.sum(r.amount_minor)).where(r.account == account, *some)
        for currency, amount in unit.connection.execute(statement.group_by(r.currency)):
            sums[currency] += int(amount)
    return sums


def any_refund(unit: Unit, account: str) -> bool:
    """Tell whether any refund of an account is known, whoever made it."""
    statement = sa.select(stripe_refunds.c.id).where(stripe_refunds.c.account == account).limit(1)
    return unit.connection.execute(statement).first() is not None


def first_of_ours(unit: Unit, account: str) -> float | None:
    """Tell when the first refund of an account was made that carries the id of a request; `None`, if none is known."""
    r = stripe_refunds.c
    statement = sa.select(sa.func.min(r.created_at)).where(r.account == account, r.request.is_not(None))
    moment: float | None = unit.connection.execute(statement).scalar()
    return moment


def window(unit: Unit, account: str, order_key: str) -> tuple[float, float] | None:
    """Tell the time of creation from when to when all charges are mirrored, with the order that they have under a key of their metadata."""
    c = charge_windows.c
    statement = sa.select(charge_windows).where(c.account == _window_name(account, order_key))
    row = unit.connection.execute(statement).one_or_none()
    return (row.since, row.until) if row else None


def save_window(unit: Unit, account: str, order_key: str, since: float, until: float) -> None:
    """Write how far the list of charges has been read. What was read under another key is mirrored with other orders, and read anew."""
    insert: Any = postgresql.insert(charge_windows) if unit.postgres else sqlite.insert(charge_windows)
    c, name = charge_windows.c, _window_name(account, order_key)
    of_account = sa.or_(c.account == account, c.account.startswith(f"{account}|", autoescape=True))
    unit.connection.execute(sa.delete(charge_windows).where(of_account, c.account != name))
    values = {"account": name, "since": since, "until": until}
    change = {"since": since, "until": until}
    unit.connection.execute(insert.values(values).on_conflict_do_update(index_elements=["account"], set_=change))


def _window_name(account: str, order_key: str) -> str:
    return f"{account}|{order_key}"


def _charge_with(row: Any, refunds: Sequence[SeenRefund]) -> Charge:  # noqa: ANN401  # a row
    # A whole row, taken apart at once: by name each value costs several times as much, and every refund needs its charge several times.
    (
        id_, account, payment_intent, order_id, currency, amount_minor, captured_minor, refunded_minor, status, captured, disputed,
        disputes, destination, application_fee, created_at, fee_minor, fee_currency, looked_at, touched_at,
    ) = row  # fmt: skip
    return Charge(
        id=id_,
        account=account,
        payment_intent=payment_intent,
        order_id=order_id,
        currency=currency,
        amount_minor=amount_minor,
        captured_minor=captured_minor,
        refunded_minor=refunded_minor,
        status=status,
        captured=bool(captured),
        disputed=bool(disputed),
        created_at=created_at,
        looked_at=looked_at,
        stale=looked_at is None or touched_at >= looked_at,
        destination=destination,
        application_fee=bool(application_fee),
        refunds=tuple(refunds),
        disputes=tuple(SeenDispute(*parts) for parts in json.loads(disputes)) if disputes != "[]" else (),
        fee_minor=fee_minor,
        fee_currency=fee_currency,
    )


def _refund(row: Any) -> SeenRefund:  # noqa: ANN401  # a row
    return SeenRefund(
        id=row.id,
        charge=row.charge,
        amount_minor=row.amount_minor,
        currency=row.currency,
        status=row.status,
        created_at=row.created_at,
        reason=row.reason,
        failure_reason=row.failure_reason,
        pending_reason=row.pending_reason,
        # One whose mark was taken away at Stripe is ours all the same.
        metadata=json.loads(row.metadata) | ({REQUEST_ID: row.request} if row.request else {}),
        action_until=row.action_until,
    )
