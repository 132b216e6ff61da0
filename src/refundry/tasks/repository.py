"""The statements on tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.infra.db import Unit
from refundry.tasks.model import How, Kind, Task
from refundry.tasks.tables import tasks

t = tasks.c


@cache
def _open(*, postgres: bool) -> sa.Executable:
    insert: Any = postgresql.insert(tasks) if postgres else sqlite.insert(tasks)
    new = insert.excluded
    # One whose cause had gone begins anew; one that a person has resolved stays resolved, unless more has been lost since.
    more = sa.and_(t.resolved_at.is_not(None), t.kind == Kind.DOUBLE_LOSS.value, new.amount_minor > t.amount_minor)
    again = sa.or_(t.how == How.OVER.value, more)
    change = {"text": new.text, "due_at": new.due_at, "amount_minor": new.amount_minor, "refund": new.refund}
    change |= {"opened_at": sa.case((again, new.opened_at), else_=t.opened_at)}
    for name in ("resolved_at", "resolved_by", "how"):
        change[name] = sa.case((again, sa.null()), else_=t[name])
    where = sa.or_(again, t.resolved_at.is_(None))
    statement: sa.Executable = insert.on_conflict_do_update(index_elements=["id"], set_=change, where=where)
    return statement


def open_all(unit: Unit, found: Iterable[Task]) -> None:
    """Open tasks; those that are open already are told anew."""
    values = [asdict(task) | {"kind": task.kind.value, "how": None} for task in sorted(found, key=lambda one: one.id)]
    if values:
        unit.connection.execute(_open(postgres=unit.postgres), values)


def end_all(unit: Unit, ids: Sequence[str], actor: str) -> None:
    """End open tasks whose cause has gone."""
    statement = sa.update(tasks).where(t.id.in_(sorted(ids)), t.resolved_at.is_(None))
    values = {"resolved_at": unit.now, "resolved_by": actor, "how": How.OVER.value}
    unit.connection.execute(statement.values(values))


def hasten(unit: Unit, charge: str, kinds: Iterable[Kind], due_at: float) -> None:
    """Have open tasks about a charge be due no later than this."""
    mine = (t.charge == charge, t.kind.in_([kind.value for kind in kinds]), t.resolved_at.is_(None), t.due_at > due_at)
    unit.connection.execute(sa.update(tasks).where(*mine).values(due_at=due_at))


def resolve(unit: Unit, task: str, how: How, actor: str, note: str, replacement: str | None) -> None:
    """Write what a person has chosen."""
    values = {
        "resolved_at": unit.now, "resolved_by": actor, "how": how.value, "note": note, "replacement": replacement,
    }  # fmt: skip
    unit.connection.execute(sa.update(tasks).where(t.id == task).values(values))


def note_first(unit: Unit, task: str, actor: str, note: str) -> None:
    """Write what a person has chosen that a second one has to confirm."""
    values = {"first_by": actor, "first_at": unit.now, "note": note}
    unit.connection.execute(sa.update(tasks).where(t.id == task).values(values))


def find(unit: Unit, task: str, *, hold: bool = False) -> Task | None:
    """Read a task; `hold` keeps others from resolving it until the unit is over."""
    statement = sa.select(tasks).where(t.id == task)
    row = unit.connection.execute(statement.with_for_update() if hold else statement).one_or_none()
    return _task(row) if row else None


def page(
    unit: Unit, account: str, kinds: Sequence[Kind], most: int, *, resolved: bool, after: Task | None
) -> list[Task]:
    """Read the open tasks of an account, those that are overdue first; with `resolved` all, the newest first.

    Those that stand behind a task, if one is named.
    """
    statement = sa.select(tasks).where(t.account == account)
    if kinds:
        statement = statement.where(t.kind.in_([kind.value for kind in kinds]))
    if resolved:
        statement = statement.order_by(t.opened_at.desc(), t.id)
    else:
        statement = statement.where(t.resolved_at.is_(None)).order_by(t.due_at, t.id)
    if after is not None:
        # Many may have been opened by one event, in the same moment.
        later, same = (
            (t.opened_at < after.opened_at, t.opened_at == after.opened_at)
            if resolved
            else (t.due_at > after.due_at, t.due_at == after.due_at)
        )
        statement = statement.where(sa.or_(later, sa.and_(same, t.id > after.id)))
    return [_task(row) for row in unit.connection.execute(statement.limit(most))]


def open_of(unit: Unit, account: str, kind: Kind) -> list[Task]:
    """Read all open tasks of an account that are of a kind."""
    mine = t.account == account, t.kind == kind.value, t.resolved_at.is_(None)
    return [_task(row) for row in unit.connection.execute(sa.select(tasks).where(*mine))]


def of_charge(unit: Unit, charge: str) -> list[Task]:
    """Read the tasks about a charge, the first opened first."""
    return [
        _task(row)
        for row in unit.connection.execute(sa.select(tasks).where(t.charge == charge).order_by(t.opened_at, t.id))
    ]


def counts(unit: Unit, account: str) -> dict[Kind, int]:
    """Count the open tasks of an account by kind."""
    statement = sa.select(t.kind, sa.func.count()).where(t.account == account, t.resolved_at.is_(None)).group_by(t.kind)
    return {Kind(kind): count for kind, count in unit.connection.execute(statement)}


def oldest_open(unit: Unit, account: str) -> float | None:
    """Tell when the open task of an account was opened that waits the longest; `None`, if none is open."""
    statement = sa.select(sa.func.min(t.opened_at)).where(t.account == account, t.resolved_at.is_(None))
    moment: float | None = unit.connection.execute(statement).scalar()
    return moment


def overdue(unit: Unit, account: str) -> int:
    """Count the open tasks of an account that are overdue."""
    statement = sa.select(sa.func.count()).where(t.account == account, t.resolved_at.is_(None), t.due_at < unit.now)
    return int(unit.connection.execute(statement).scalar_one())


def _task(row: Any) -> Task:  # noqa: ANN401  # a row
    return Task(**dict(row._mapping) | {"kind": Kind(row.kind), "how": How(row.how) if row.how else None})  # noqa: SLF001  # SQLAlchemy's public name for it
