"""The statements on plans."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from refundry.charges.model import Expected
from refundry.infra.db import Unit
from refundry.plans.model import Plan, PlanRow, PlanState
from refundry.plans.tables import plan_rows, plans

p, r = plans.c, plan_rows.c
PAGE = 1000
_b = sa.bindparam


def add(unit: Unit, plan: Plan) -> None:
    """Write a new plan."""
    values = {
        "id": plan.id, "batch": plan.batch, "account": plan.account, "sha256": plan.sha256, "state": plan.state.value,
        "made_at": plan.made_at, "look_max_age": plan.look_max_age, "hash": plan.hash,
        "forecast": json.dumps(dict(plan.forecast)),
    }  # fmt: skip
    unit.connection.execute(sa.insert(plans), values)


def save(unit: Unit, plan: Plan) -> None:
    """Write what a plan has become."""
    values = {"state": plan.state.value, "hash": plan.hash, "forecast": json.dumps(dict(plan.forecast))}
    unit.connection.execute(sa.update(plans).where(p.id == plan.id).values(values))


def starting_with(unit: Unit, prefix: str) -> list[Plan]:
    """Read the plans whose id begins so; for people, who type the first few characters."""
    statement = sa.select(plans).where(sa.func.substr(p.id, 1, len(prefix)) == prefix).limit(2)
    return [_plan(row) for row in unit.connection.execute(statement)]


def lock(unit: Unit, plan: str) -> Plan | None:
    """Read a plan and hold it until the unit is over."""
    row = unit.connection.execute(sa.select(plans).where(p.id == plan).with_for_update()).one_or_none()
    return _plan(row) if row else None


def add_rows(unit: Unit, plan: str, rows: Sequence[PlanRow]) -> None:
    """Write rows of a plan."""
    values = [
        {
            "plan": plan, "number": row.number, "code": row.code, "text": row.text, "request": row.request,
            "fingerprint": row.fingerprint, "charge": row.charge, "amount_minor": row.amount_minor,
            "currency": row.currency, "expected": _written(row.expected), "allow_repeat": row.allow_repeat,
            "allowed": json.dumps(sorted(row.allowed)),
            "fee_minor": row.fee_minor, "fee_currency": row.fee_currency, "ticket_id": row.ticket_id,
        }
        for row in rows
    ]  # fmt: skip
    if values:
        unit.connection.execute(sa.insert(plan_rows), values)


def last_number(unit: Unit, plan: str) -> int:
    """Tell the number of the last row that was checked; zero, before the first."""
    statement = sa.select(sa.func.coalesce(sa.func.max(r.number), 0)).where(r.plan == plan)
    return int(unit.connection.execute(statement).scalar_one())


def claimed(unit: Unit, plan: str, charges: Collection[str]) -> dict[str, int]:
    """Sum what the plan would pay so far of some charges."""
    statement = (
        sa.select(r.charge, sa.func.sum(r.amount_minor))
        .where(r.plan == plan, r.charge.in_(list(charges)), r.code == "")
        .group_by(r.charge)
    )
    return {row[0]: int(row[1]) for row in unit.connection.execute(statement)}


def ticketed(
    unit: Unit, plan: str, charges: Collection[str], tickets: Collection[str]
) -> dict[tuple[str, str], dict[str, int]]:
    """Tell the rows that would be paid for some charges and tickets, by both: their requests and numbers, in order."""
    if not tickets:
        return {}
    statement = (
        sa.select(r.charge, r.ticket_id, r.request, r.number)
        .where(r.plan == plan, r.charge.in_(list(charges)), r.code == "", r.ticket_id.in_(list(tickets)))
        .order_by(r.number)
    )
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in unit.connection.execute(statement):
        found.setdefault((row.charge, row.ticket_id), {})[row.request] = row.number
    return found


def first_rows(unit: Unit, plan: str, requests: Collection[str]) -> dict[str, tuple[int, str]]:
    """Tell the first rows that would become some requests, with their fingerprints."""
    statement = sa.select(r.request, r.number, r.fingerprint).where(r.plan == plan, r.request.in_(list(requests)))
    found: dict[str, tuple[int, str]] = {}
    for row in unit.connection.execute(statement.order_by(r.number)):
        found.setdefault(row.request, (row.number, row.fingerprint))
    return found


def rows(unit: Unit, plan: str) -> Iterator[PlanRow]:
    """Read all rows in order, page by page."""
    after = 0
    statement = sa.select(plan_rows).where(r.plan == plan, r.number > _b("after")).order_by(r.number).limit(PAGE)
    while found := unit.connection.execute(statement, {"after": after}).all():
        yield from (_row(row) for row in found)
        after = found[-1].number


def some(unit: Unit, plan: str, numbers: Collection[int]) -> Mapping[int, PlanRow]:
    """Read rows by number."""
    statement = sa.select(plan_rows).where(r.plan == plan, r.number.in_(list(numbers)))
    return {row.number: _row(row) for row in unit.connection.execute(statement)}


def _written(expected: Expected | None) -> str | None:
    if expected is None:
        return None
    return json.dumps([expected.status, expected.captured_minor, expected.given_back_minor, expected.disputes])


def _row(row: Any) -> PlanRow:  # noqa: ANN401  # a row
    expected = None
    if row.expected is not None:
        status, captured, given_back, disputes = json.loads(row.expected)
        expected = Expected(status, captured, given_back, tuple((one, other) for one, other in disputes))
    return PlanRow(
        row.number, row.code, row.text, row.request, row.fingerprint, row.charge, row.amount_minor, row.currency, expected,
        bool(row.allow_repeat), frozenset(json.loads(row.allowed)), row.fee_minor, row.fee_currency, row.ticket_id,
    )  # fmt: skip


def _plan(row: Any) -> Plan:  # noqa: ANN401  # a row
    return Plan(
        row.id, row.batch, row.account, row.sha256, PlanState(row.state), row.made_at, row.look_max_age, row.hash,
        json.loads(row.forecast),
    )  # fmt: skip
