"""The statements on disputes and early fraud warnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.disputes.model import OPEN, UNANSWERED, Dispute, FraudWarning, Phase
from refundry.disputes.tables import disputes, fraud_warnings
from refundry.infra.db import Unit

d = disputes.c
w = fraud_warnings.c


@cache
def _upsert(table: sa.Table, *, postgres: bool) -> sa.Executable:
    insert: Any = postgresql.insert(table) if postgres else sqlite.insert(table)
    change = {column.name: insert.excluded[column.name] for column in table.c if column.name != "id"}
    statement: sa.Executable = insert.on_conflict_do_update(index_elements=["id"], set_=change)
    return statement


def save(unit: Unit, found: Sequence[Dispute]) -> None:
    """Write disputes as they are now."""
    values = [asdict(dispute) | {"phase": dispute.phase.value} for dispute in sorted(found, key=lambda one: one.id)]
    if values:
        unit.connection.execute(_upsert(disputes, postgres=unit.postgres), values)


def of_charge(unit: Unit, charge: str) -> list[Dispute]:
    """Read the disputes of a charge, the first opened first."""
    found = unit.connection.execute(sa.select(disputes).where(d.charge == charge).order_by(d.opened_at, d.id))
    return [_dispute(row) for row in found]


def of_charges(unit: Unit, charges: Iterable[str]) -> list[Dispute]:
    """Read the disputes of several charges."""
    return [_dispute(row) for row in unit.connection.execute(sa.select(disputes).where(d.charge.in_(list(charges))))]


def of_ids(unit: Unit, ids: Iterable[str]) -> list[Dispute]:
    """Read disputes by id."""
    return [_dispute(row) for row in unit.connection.execute(sa.select(disputes).where(d.id.in_(list(ids))))]


def unseen(unit: Unit, account: str, before: float, most: int) -> list[Dispute]:
    """Read open disputes that were not looked at since, those of longest ago first."""
    statement = sa.select(disputes).where(
        d.account == account, d.phase.in_([p.value for p in OPEN]), d.seen_at < before
    )
    return [_dispute(row) for row in unit.connection.execute(statement.order_by(d.seen_at, d.id).limit(most))]


def count_open(unit: Unit, account: str) -> int:
    """Count the open disputes of an account."""
    statement = sa.select(sa.func.count()).where(d.account == account, d.phase.in_([phase.value for phase in OPEN]))
    return int(unit.connection.execute(statement).scalar_one())


def due(unit: Unit, account: str, until: float) -> list[Dispute]:
    """Read the open disputes of an account that nobody has answered and whose evidence is due by then, the first due first."""
    # What was due before now can be answered no more.
    statement = sa.select(disputes).where(
        d.account == account, d.phase.in_([phase.value for phase in OPEN]), d.status.in_(sorted(UNANSWERED)), d.due_at > unit.now,
        d.due_at <= until,
    )  # fmt: skip
    return [_dispute(row) for row in unit.connection.execute(statement.order_by(d.due_at, d.id))]


def page(unit: Unit, account: str, phases: Sequence[Phase], most: int, after: Dispute | None) -> list[Dispute]:
    """Read the disputes of an account, the last opened first; those that stand behind a dispute, if one is named."""
    statement = sa.select(disputes).where(d.account == account, d.phase.in_([phase.value for phase in phases]))
    if after is not None:
        statement = statement.where(_behind(d.opened_at, after.opened_at, d.id, after.id))
    found = unit.connection.execute(statement.order_by(d.opened_at.desc(), d.id).limit(most))
    return [_dispute(row) for row in found]


def _behind(column: Any, moment: float, id_column: Any, id_: str) -> sa.ColumnElement[bool]:  # noqa: ANN401  # columns
    """Tell what stands behind a place, the newest first; many may have come in the same second."""
    return sa.or_(column < moment, sa.and_(column == moment, id_column > id_))


def _dispute(row: Any) -> Dispute:  # noqa: ANN401  # a row
    return Dispute(**dict(row._mapping) | {"phase": Phase(row.phase)})  # noqa: SLF001  # SQLAlchemy's public name for it


def save_warnings(unit: Unit, found: Sequence[FraudWarning]) -> None:
    """Write warnings as they are now."""
    values = [asdict(warning) for warning in sorted(found, key=lambda one: one.id)]
    if values:
        unit.connection.execute(_upsert(fraud_warnings, postgres=unit.postgres), values)


def warnings_known(unit: Unit, ids: Iterable[str]) -> dict[str, FraudWarning]:
    """Read warnings by id."""
    found = unit.connection.execute(sa.select(fraud_warnings).where(w.id.in_(list(ids))))
    return {row.id: _warning(row) for row in found}


def warnings(unit: Unit, account: str, most: int, after: FraudWarning | None = None) -> list[FraudWarning]:
    """Read the warnings of an account, the newest first; those that stand behind a warning, if one is named."""
    statement = sa.select(fraud_warnings).where(w.account == account)
    if after is not None:
        statement = statement.where(_behind(w.created_at, after.created_at, w.id, after.id))
    found = unit.connection.execute(statement.order_by(w.created_at.desc(), w.id).limit(most))
    return [_warning(row) for row in found]


def _warning(row: Any) -> FraudWarning:  # noqa: ANN401  # a row
    return FraudWarning(**dict(row._mapping) | {"actionable": bool(row.actionable)})  # noqa: SLF001  # the same
