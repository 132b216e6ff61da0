"""The statements on the mirror."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.charges.model import REQUEST_ID, Charge
from refundry.charges.tables import charge_windows, charges, stripe_refunds
from refundry.gateways.base import SeenDispute
from refundry.infra.db import Unit
from refundry.kernel.outcome import SeenRefund

_b = sa.bindparam
FEE = {"fee_minor", "fee_currency"}


@cache
def _upsert(table: sa.Table, *, postgres: bool) -> sa.Executable:
    insert: Any = postgresql.insert(table) if postgres else sqlite.insert(table)
    kept = {"id", "touched_at"}
    change = {column.name: insert.excluded[column.name] for column in table.c if column.name not in kept}
    for name in FEE & change.keys():
        # Most looks do not ask for the fee, and it does not change.
        change[name] = sa.func.coalesce(change[name], table.c[name])
    statement: sa.Executable = insert.on_conflict_do_update(index_elements=["id"], set_=change)
    return statement


# In one order, so that two units never wait for each other.
_LOCK = (
    sa.select(charges.c.id, charges.c.touched_at, charges.c.looked_at)
    .where(charges.c.id.in_(_b("ids", expanding=True)))
    .order_by(charges.c.id)
    .with_for_update()
)


def lock(unit: Unit, ids: Iterable[str]) -> dict[str, tuple[float, float | None]]:
    """Hold charges' rows until the unit is over; tells of those that are mirrored when they were touched and looked at."""
    found = unit.connection.execute(_LOCK, {"ids": list(ids)})
    return {row.id: (row.touched_at, row.looked_at) for row in found}


def save(unit: Unit, seen: Sequence[Charge]) -> None:
    """Write charges as they were seen; when they were touched stays."""
    values = [
        {
            "id": c.id, "account": c.account, "payment_intent": c.payment_intent, "order_id": c.order_id,
            "currency": c.currency, "amount_minor": c.amount_minor, "captured_minor": c.captured_minor,
            "refunded_minor": c.refunded_minor, "status": c.status, "captured": c.captured, "disputed": c.disputed,
            "disputes": json.dumps([[d.id, d.status, d.amount_minor, d.refundable] for d in c.disputes]),
            "destination": c.destination, "application_fee": c.application_fee, "created_at": c.created_at,
            "looked_at": c.looked_at, "touched_at": 0.0,
            "fee_minor": c.fee_minor, "fee_currency": c.fee_currency,
        }
        for c in seen
    ]  # fmt: skip
    unit.connection.execute(_upsert(charges, postgres=unit.postgres), values)


def save_refunds(unit: Unit, account: str, refunds: Sequence[SeenRefund], seen_at: float) -> None:
    """Write Stripe's refunds as they were seen."""
    values = [
        {
            "id": r.id, "account": account, "charge": r.charge, "request": r.metadata.get(REQUEST_ID),
            "amount_minor": r.amount_minor, "currency": r.currency, "status": r.status, "reason": r.reason,
            "failure_reason": r.failure_reason, "pending_reason": r.pending_reason,
            "metadata": json.dumps(r.metadata, sort_keys=True), "created_at": r.created_at, "seen_at": seen_at,
        }
        for r in refunds
    ]  # fmt: skip
    if values:
        unit.connection.execute(_upsert(stripe_refunds, postgres=unit.postgres), values)


_TOUCH = (
    sa.update(charges)
    .where(charges.c.id == _b("the_charge"), charges.c.touched_at < _b("the_time"))
    .values(touched_at=_b("the_time", type_=sa.Double))
)


def touch(unit: Unit, charge: str, at: float) -> None:
    """Note that a charge changed at Stripe: looks that began before are out of date."""
    unit.connection.execute(_TOUCH, {"the_charge": charge, "the_time": at})


def untouch(unit: Unit, charge: str) -> None:
    """Forget when a charge was touched: that time is of a clock that was set back since."""
    unit.connection.execute(sa.update(charges).where(charges.c.id == charge).values(touched_at=0.0))


_FIND = sa.select(charges).where(charges.c.id == _b("the_charge"))
_REFUNDS = (
    sa.select(stripe_refunds)
    .where(stripe_refunds.c.charge == _b("the_charge"))
    .order_by(stripe_refunds.c.created_at, stripe_refunds.c.id)
)


def forget_future_looks(unit: Unit, account: str) -> int:
    """Forget when charges were looked at, where that time is yet to come; tells how many there were."""
    statement = sa.update(charges).where(charges.c.account == account, charges.c.looked_at > unit.now)
    return unit.connection.execute(statement.values(looked_at=None)).rowcount


def find(unit: Unit, charge: str) -> Charge | None:
    """Read a charge with its refunds and disputes."""
    row = unit.connection.execute(_FIND, {"the_charge": charge}).one_or_none()
    return _charge(unit, row) if row else None


def by_order(unit: Unit, account: str, order: str) -> list[Charge]:
    """Read the charges of an order."""
    statement = sa.select(charges).where(charges.c.account == account, charges.c.order_id == order)
    return [_charge(unit, row) for row in unit.connection.execute(statement.order_by(charges.c.id)).all()]


def by_payment_intent(unit: Unit, account: str, payment_intent: str) -> list[Charge]:
    """Read the charges of a payment intent."""
    statement = sa.select(charges).where(charges.c.account == account, charges.c.payment_intent == payment_intent)
    return [_charge(unit, row) for row in unit.connection.execute(statement.order_by(charges.c.id)).all()]


def refund_of(unit: Unit, refund: str) -> SeenRefund | None:
    """Read one of Stripe's refunds."""
    row = unit.connection.execute(sa.select(stripe_refunds).where(stripe_refunds.c.id == refund)).one_or_none()
    return _refund(row) if row else None


def window(unit: Unit, account: str) -> tuple[float, float] | None:
    """Tell the time of creation from when to when all charges are mirrored."""
    row = unit.connection.execute(sa.select(charge_windows).where(charge_windows.c.account == account)).one_or_none()
    return (row.since, row.until) if row else None


def save_window(unit: Unit, account: str, since: float, until: float) -> None:
    """Write how far the list of charges has been read."""
    insert: Any = postgresql.insert(charge_windows) if unit.postgres else sqlite.insert(charge_windows)
    values = {"account": account, "since": since, "until": until}
    change = {"since": since, "until": until}
    unit.connection.execute(insert.values(values).on_conflict_do_update(index_elements=["account"], set_=change))


def _charge(unit: Unit, row: Any) -> Charge:  # noqa: ANN401  # a row
    refunds = unit.connection.execute(_REFUNDS, {"the_charge": row.id})
    return Charge(
        id=row.id,
        account=row.account,
        payment_intent=row.payment_intent,
        order_id=row.order_id,
        currency=row.currency,
        amount_minor=row.amount_minor,
        captured_minor=row.captured_minor,
        refunded_minor=row.refunded_minor,
        status=row.status,
        captured=bool(row.captured),
        disputed=bool(row.disputed),
        created_at=row.created_at,
        looked_at=row.looked_at,
        stale=row.looked_at is None or row.touched_at >= row.looked_at,
        destination=row.destination,
        application_fee=bool(row.application_fee),
        refunds=tuple(_refund(r) for r in refunds),
        disputes=tuple(SeenDispute(*parts) for parts in json.loads(row.disputes)),
        fee_minor=row.fee_minor,
        fee_currency=row.fee_currency,
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
        metadata=json.loads(row.metadata),
    )
