"""The statements on batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.batches.model import Batch, BatchRow, BatchState, Verdict, packed, unpacked
from refundry.batches.tables import batch_rows, batches
from refundry.infra.db import Unit

r = batch_rows.c
PAGE = 1000


def add(unit: Unit, batch: Batch) -> bool:
    """Write a new batch; false, if another process has just written it."""
    values = {
        "id": batch.id, "account": batch.account, "name": batch.name, "sha256": batch.sha256,
        "state": batch.state.value, "columns": json.dumps(batch.columns), "row_count": batch.row_count,
        "created_at": batch.created_at,
    }  # fmt: skip
    make: Any = postgresql.insert(batches) if unit.postgres else sqlite.insert(batches)
    # Told by what comes back: for an INSERT the count of rows is not known on Postgres.
    statement = make.values(values).on_conflict_do_nothing().returning(batches.c.id)
    return unit.connection.execute(statement).first() is not None


def add_rows(unit: Unit, batch: str, rows: Sequence[BatchRow]) -> None:
    """Write rows of a new batch."""
    values = [
        {
            "batch": batch, "number": row.number, "line": row.line, "raw": json.dumps(dict(row.raw)),
            "wanted": json.dumps(packed(row.wanted)) if row.wanted else None, "planned": row.verdict is not None,
            "code": row.verdict.code if row.verdict else "", "text": row.verdict.text if row.verdict else "",
        }
        for row in rows
    ]  # fmt: skip
    unit.connection.execute(sa.insert(batch_rows), values)


def find(unit: Unit, batch: str) -> Batch | None:
    """Read a batch."""
    row = unit.connection.execute(sa.select(batches).where(batches.c.id == batch)).one_or_none()
    return _batch(row) if row else None


def starting_with(unit: Unit, prefix: str) -> list[Batch]:
    """Read the batches whose id begins so; for people, who type the first few characters."""
    statement = sa.select(batches).where(sa.func.substr(batches.c.id, 1, len(prefix)) == prefix).limit(2)
    return [_batch(row) for row in unit.connection.execute(statement)]


def every(unit: Unit, account: str, states: Iterable[BatchState]) -> list[Batch]:
    """Read an account's batches in some states, newest first."""
    wanted = [state.value for state in states]
    statement = sa.select(batches).where(batches.c.account == account, batches.c.state.in_(wanted))
    return [_batch(row) for row in unit.connection.execute(statement.order_by(batches.c.created_at.desc()))]


def set_state(unit: Unit, batch: str, state: BatchState) -> None:
    """Move a batch."""
    unit.connection.execute(sa.update(batches).where(batches.c.id == batch).values(state=state.value))


def lock(unit: Unit, batch: str) -> None:
    """Hold a batch until the unit is over, so that two planners take turns."""
    unit.connection.execute(sa.select(batches.c.id).where(batches.c.id == batch).with_for_update())


def unplanned(unit: Unit, batch: str, most: int) -> list[BatchRow]:
    """Read the next rows whose charge was not looked up yet."""
    statement = sa.select(batch_rows).where(r.batch == batch, r.planned.is_(False)).order_by(r.number).limit(most)
    return [_row(row) for row in unit.connection.execute(statement)]


def rows(unit: Unit, batch: str, *, after: int = 0, most: int = PAGE) -> list[BatchRow]:
    """Read rows in order."""
    statement = sa.select(batch_rows).where(r.batch == batch, r.number > after).order_by(r.number).limit(most)
    return [_row(row) for row in unit.connection.execute(statement)]


def plan(unit: Unit, batch: str, verdicts: dict[int, Verdict]) -> None:
    """Write what became of rows."""
    b = sa.bindparam
    statement = (
        sa.update(batch_rows)
        .where(r.batch == batch, r.number == b("the_number"))
        .values(
            planned=True, code=b("new_code"), text=b("new_text"), request=b("new_request"), currency=b("new_currency"),
            asked_minor=b("new_asked"),
        )
    )  # fmt: skip
    values = [
        {
            "the_number": number, "new_code": v.code, "new_text": v.text, "new_request": v.request,
            "new_currency": v.currency, "new_asked": v.asked_minor,
        }
        for number, v in verdicts.items()
    ]  # fmt: skip
    unit.connection.execute(statement, values)


def first_row_of(unit: Unit, request: str) -> tuple[str, str, int] | None:
    """Tell which row a request came from first: the batch's id, its file's name, the row's number."""
    statement = (
        sa.select(batches.c.id, batches.c.name, r.number)
        .join(batch_rows, r.batch == batches.c.id)
        .where(r.request == request, r.code == "")
        .order_by(batches.c.created_at, r.number)
        .limit(1)
    )
    row = unit.connection.execute(statement).one_or_none()
    return (row.id, row.name, row.number) if row else None


def requests(unit: Unit, batch: str) -> Iterator[list[str]]:
    """Read the ids of the requests that a batch's rows became, page by page."""
    after = 0
    while True:
        statement = sa.select(r.number, r.request).where(
            r.batch == batch, r.number > after, r.request.is_not(None), r.code == ""
        )
        found = unit.connection.execute(statement.order_by(r.number).limit(PAGE)).all()
        if not found:
            return
        yield [row.request for row in found]
        after = found[-1].number


def request_of_row(unit: Unit, batch: str, number: int) -> str | None:
    """Tell the request of a row."""
    statement = sa.select(r.request).where(r.batch == batch, r.number == number)
    row = unit.connection.execute(statement).one_or_none()
    return row.request if row else None


def paused(unit: Unit, request: str) -> bool:
    """Tell whether a request came from a row of a batch that is paused."""
    statement = (
        sa.select(batches.c.id)
        .join(batch_rows, r.batch == batches.c.id)
        .where(r.request == request, r.code == "", batches.c.state == BatchState.PAUSED.value)
    )
    return unit.connection.execute(statement.limit(1)).first() is not None


def refused_counts(unit: Unit, batch: str) -> dict[str, int]:
    """Count the rows that became no request of their own, by code."""
    statement = sa.select(r.code, sa.func.count()).where(r.batch == batch, r.planned.is_(True), r.code != "")
    return {row[0]: row[1] for row in unit.connection.execute(statement.group_by(r.code))}


def unplanned_count(unit: Unit, batch: str) -> int:
    """Count the rows whose charge was not looked up yet."""
    statement = sa.select(sa.func.count()).where(r.batch == batch, r.planned.is_(False))
    return int(unit.connection.execute(statement).scalar_one())


def _batch(row: Any) -> Batch:  # noqa: ANN401  # a row
    return Batch(
        row.id, row.account, row.name, row.sha256, BatchState(row.state), tuple(json.loads(row.columns)), row.row_count,
        row.created_at,
    )  # fmt: skip


def _row(row: Any) -> BatchRow:  # noqa: ANN401  # a row
    wanted = unpacked(json.loads(row.wanted)) if row.wanted else None
    verdict = Verdict(row.code, row.text, row.request, row.currency, row.asked_minor) if row.planned else None
    return BatchRow(row.number, row.line, json.loads(row.raw), wanted, verdict)
