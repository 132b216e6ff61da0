"""The statements on batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.batches.model import (
    OF_ANOTHER,
    Anchor,
    Batch,
    BatchRow,
    BatchState,
    Budget,
    Course,
    Schedule,
    Turn,
    Verdict,
    Window,
    packed,
    unpacked,
)
from refundry.batches.tables import batch_budgets, batch_rows, batches
from refundry.connectors.base import ParsedRow, Row
from refundry.infra.db import Hot, Unit, among, rows_given

r = batch_rows.c
PAGE = 1000
# What stands as the code of a row that a person had looked up anew, until it was.
ANEW = "anew"
# A row as it is accepted: number, line, cells, what it asks for, code, text.
PackedRow = tuple[int, int, str, str | None, str, str]
_ADD_ROWS_SQLITE = (
    "INSERT INTO batch_rows (batch, number, line, raw, wanted, planned, code, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_ROWS_POSTGRES = _ADD_ROWS_SQLITE.replace("?", "%s")


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


def packed_row(row: Row) -> PackedRow:
    """Pack a row of a file as it is accepted: its cells and what it asks for as JSON; one that is refused asks for nothing."""
    raw = orjson.dumps(row.raw).decode()
    if isinstance(row, ParsedRow):
        return row.number, row.line, raw, orjson.dumps(packed(row)).decode(), "", ""
    return row.number, row.line, raw, None, row.code, row.message


def add_rows(unit: Unit, batch: str, rows: Sequence[PackedRow]) -> None:
    """Write rows of a new batch; one that was refused needs no look."""
    # As the driver takes them: a million dictionaries cost more than writing them.
    unit.connection.exec_driver_sql(
        _ADD_ROWS_POSTGRES if unit.postgres else _ADD_ROWS_SQLITE,
        [(batch, number, line, raw, wanted, bool(code), code, text) for number, line, raw, wanted, code, text in rows],
    )


def packed_rows(unit: Unit, batch: str) -> Iterator[list[PackedRow]]:
    """Read the rows of a batch as they were accepted, page by page; why one was refused is left out, as it may have changed."""
    after = 0
    columns = (r.number, r.line, r.raw, r.wanted)
    while True:
        statement = sa.select(*columns).where(r.batch == batch, r.number > after).order_by(r.number).limit(PAGE)
        found = unit.connection.execute(statement).all()
        if not found:
            return
        yield [(row.number, row.line, row.raw, row.wanted, "", "") for row in found]
        after = found[-1].number


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


def accounts_to_plan(unit: Unit) -> list[str]:
    """Tell the accounts that have accepted batches whose rows are still to be looked up."""
    statement = sa.select(batches.c.account).where(batches.c.state == BatchState.ACCEPTED.value).distinct()
    return list(unit.connection.execute(statement.order_by(batches.c.account)).scalars())


def set_state(unit: Unit, batch: str, state: BatchState) -> None:
    """Move a batch."""
    unit.connection.execute(sa.update(batches).where(batches.c.id == batch).values(state=state.value))


def apply(unit: Unit, batch: str, plan: str) -> bool:
    """Let a batch that waits for its plan be paid by it; false, if it does not wait."""
    waits = sa.update(batches).where(batches.c.id == batch, batches.c.state == BatchState.PLANNED.value)
    return unit.connection.execute(waits.values(state=BatchState.ACCEPTED.value, plan=plan)).rowcount == 1


def lock(unit: Unit, batch: str) -> None:
    """Hold a batch until the unit is over, so that two planners take turns."""
    unit.connection.execute(sa.select(batches.c.id).where(batches.c.id == batch).with_for_update())


def hold_planning(unit: Unit, batch: str, lease: str, until: float, latest: float) -> bool:
    """Take the turn to look up a batch's rows, or keep it; false while another has it.

    Args:
        unit: The open unit.
        batch: Whose rows.
        lease: The token of whoever asks.
        until: When the turn ends by itself.
        latest: No turn ends later than this: one that does was taken by a clock that was set back since.
    """
    b = batches.c
    free = sa.or_(b.planning_lease == lease, b.planning_until <= unit.now, b.planning_until > latest)
    statement = sa.update(batches).where(b.id == batch, free)
    return unit.connection.execute(statement.values(planning_lease=lease, planning_until=until)).rowcount == 1


def release_planning(unit: Unit, batch: str, lease: str) -> None:
    """Give the turn back, if it is still held."""
    mine = sa.update(batches).where(batches.c.id == batch, batches.c.planning_lease == lease)
    unit.connection.execute(mine.values(planning_lease=None, planning_until=0.0))


def end_planning(unit: Unit, account: str) -> None:
    """Give back all turns that are held on an account."""
    held = sa.update(batches).where(batches.c.account == account, batches.c.planning_lease.is_not(None))
    unit.connection.execute(held.values(planning_lease=None, planning_until=0.0))


def unplanned(unit: Unit, batch: str, most: int, after: int = 0) -> list[BatchRow]:
    """Read the next rows, after one with this number, whose charge was not looked up yet."""
    statement = sa.select(batch_rows).where(r.batch == batch, r.planned.is_(False), r.number > after)
    statement = statement.order_by(r.number).limit(most)
    return [_row(row) for row in unit.connection.execute(statement).all()]


def still_unplanned(unit: Unit, batch: str, read: Sequence[BatchRow]) -> list[BatchRow]:
    """Tell those of some neighbouring rows that were not planned since they were read, as they stand now; what a row asks for never changes."""
    if not read:
        return []
    known = {row.number: row for row in read}
    mine = r.batch == batch, r.planned.is_(False), r.number.between(min(known), max(known))
    statement = sa.select(r.number, r.code, r.request).where(*mine).order_by(r.number)
    return [
        replace(known[number], anew=code == ANEW, became=request if code == ANEW else None)
        for number, code, request in unit.connection.execute(statement).all()
        if number in known
    ]


def rows(unit: Unit, batch: str, *, after: int = 0, most: int = PAGE) -> list[BatchRow]:
    """Read rows in order."""
    statement = sa.select(batch_rows).where(r.batch == batch, r.number > after).order_by(r.number).limit(most)
    return [_row(row) for row in unit.connection.execute(statement)]


def some_rows(unit: Unit, batch: str, numbers: Iterable[int]) -> list[BatchRow]:
    """Read rows by number."""
    statement = sa.select(batch_rows).where(r.batch == batch, r.number.in_(list(numbers))).order_by(r.number)
    return [_row(row) for row in unit.connection.execute(statement)]


def of_codes(unit: Unit, batch: str, codes: Sequence[str], *, after: int, most: int) -> list[BatchRow]:
    """Read rows that became no request of their own, with one of these codes, in order."""
    mine = r.batch == batch, r.planned.is_(True), r.code.in_(codes), r.number > after
    statement = sa.select(batch_rows).where(*mine).order_by(r.number).limit(most)
    return [_row(row) for row in unit.connection.execute(statement)]


@cache
def _plan(*, postgres: bool) -> Hot:
    verdict = {
        "code": r.code,
        "text": r.text,
        "request": r.request,
        "currency": r.currency,
        "asked_minor": r.asked_minor,
    }
    kinds = {"the_batch": r.batch.type, "the_number": r.number.type} | {f"new_{n}": c.type for n, c in verdict.items()}
    given = rows_given(kinds).c if postgres else {name: sa.bindparam(name, type_=kind) for name, kind in kinds.items()}
    row = r.batch == given["the_batch"], r.number == given["the_number"]
    new = {name: given[f"new_{name}"] for name in verdict}
    return Hot(sa.update(batch_rows).where(*row).values(planned=sa.true(), **new))


def plan(unit: Unit, batch: str, verdicts: dict[int, Verdict]) -> None:
    """Write what became of rows."""
    values = [
        {
            "the_batch": batch, "the_number": number, "new_code": v.code, "new_text": v.text, "new_request": v.request,
            "new_currency": v.currency, "new_asked_minor": v.asked_minor,
        }
        for number, v in verdicts.items()
    ]  # fmt: skip
    if values:
        _plan(postgres=unit.postgres).many(unit.connection, values)


def unplan(unit: Unit, batch: str) -> int:
    """Put those readable rows back that led to no charge, or to more than one, to be looked up without a plan; tells how many.

    One that had become a request before keeps it.
    """
    of_no_other = sa.or_(r.request.is_(None), r.code.not_in(OF_ANOTHER))
    led_nowhere = (r.planned.is_(True), r.wanted.is_not(None), r.code.not_in(["", "withdrawn"]), of_no_other)
    statement = sa.update(batch_rows).where(r.batch == batch, *led_nowhere)
    return unit.connection.execute(statement.values(planned=False, code=ANEW, text="")).rowcount


def unplan_rows(unit: Unit, batch: str, numbers: Sequence[int]) -> int:
    """Put rows back that became a request of their own, to be looked up without a plan; each keeps that request until it is. Tells how many."""
    if not numbers:
        return 0
    statement = sa.update(batch_rows).where(r.batch == batch, r.number.in_(numbers), r.code == "")
    return unit.connection.execute(statement.values(planned=False, code=ANEW, text="")).rowcount


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


def requests_selected(batch: str, row_count: int) -> Iterator[sa.Select[tuple[str]]]:
    """Select the ids of the requests that a batch's rows became, page by page, for a statement that needs no more of them than which they are."""
    own = r.batch == batch, r.request.is_not(None), r.code == ""
    for after in range(0, row_count, PAGE):
        yield sa.select(r.request).where(*own, r.number > after, r.number <= after + PAGE)


def request_of_row(unit: Unit, batch: str, number: int) -> str | None:
    """Tell the request that a row became; that of another row, which it repeats, is none of its own."""
    statement = sa.select(r.request).where(r.batch == batch, r.number == number, r.code == "")
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


def withdrawn(unit: Unit, request: str) -> str | None:
    """Tell the batch that a request came from, if that was withdrawn."""
    statement = (
        sa.select(batches.c.id)
        .join(batch_rows, r.batch == batches.c.id)
        .where(r.request == request, r.code == "", batches.c.state == BatchState.WITHDRAWN.value)
    )
    found: str | None = unit.connection.execute(statement.limit(1)).scalar_one_or_none()
    return found


def refused_counts(unit: Unit, batch: str) -> dict[str, int]:
    """Count the rows that became no request of their own, by code."""
    statement = sa.select(r.code, sa.func.count()).where(r.batch == batch, r.planned.is_(True), r.code != "")
    return {row[0]: row[1] for row in unit.connection.execute(statement.group_by(r.code))}


def unplanned_count(unit: Unit, batch: str) -> int:
    """Count the rows whose charge was not looked up yet."""
    statement = sa.select(sa.func.count()).where(r.batch == batch, r.planned.is_(False))
    return int(unit.connection.execute(statement).scalar_one())


def any_unplanned(unit: Unit, batch: str) -> bool:
    """Tell whether the charge of any row was not looked up yet; asked after each slice, so it must not count a million rows."""
    statement = sa.select(r.number).where(r.batch == batch, r.planned.is_(False)).limit(1)
    return unit.connection.execute(statement).first() is not None


# Schedules


def set_schedule(unit: Unit, batch: str, schedule: Schedule) -> None:
    """Write when a batch's rows may be sent."""
    kept = json.dumps(asdict(schedule))
    unit.connection.execute(sa.update(batches).where(batches.c.id == batch).values(schedule=kept))


def set_course(unit: Unit, batch: str, course: Course) -> None:
    """Write how far a batch has come on its schedule."""
    kept = json.dumps(asdict(course))
    unit.connection.execute(sa.update(batches).where(batches.c.id == batch).values(course=kept))


def scheduled(unit: Unit) -> list[Batch]:
    """Read the batches with a schedule that are to be paid, and on which something is left to do, oldest first."""
    states = [BatchState.ACCEPTED.value, BatchState.RUNNING.value]
    statement = sa.select(batches).where(batches.c.schedule.is_not(None), batches.c.state.in_(states))
    found = [_batch(row) for row in unit.connection.execute(statement.order_by(batches.c.created_at, batches.c.id))]
    return [batch for batch in found if not batch.course.resting]


_HAVING_TURN = (
    # As the partial index has it, so that both databases use that.
    sa.select(r.number, r.request)
    .where(r.batch == sa.bindparam("the_batch"), sa.text("released = 1"))
    .order_by(r.number)
)


def having_turn(unit: Unit, batch: str) -> list[tuple[int, str]]:
    """Tell the rows whose turn has come and that are not over: their numbers and requests."""
    return [(row.number, row.request) for row in unit.connection.execute(_HAVING_TURN, {"the_batch": batch})]


def in_line(unit: Unit, batch: str, since: int, most: int) -> list[tuple[int, str]]:
    """Tell the next rows that wait for their turn, from a number on: their numbers and requests."""
    statement = sa.select(r.number, r.request).where(
        r.batch == batch, r.number >= since, r.released == int(Turn.WAITS), r.request.is_not(None), r.code == ""
    )
    found = unit.connection.execute(statement.order_by(r.number).limit(most))
    return [(row.number, row.request) for row in found]


def of_turn(unit: Unit, batch: str, requests: Sequence[str], turn: Turn) -> list[int]:
    """Tell the numbers of those rows that stand so in line, of some requests."""
    found: list[int] = []
    for start in range(0, len(requests), PAGE):
        statement = sa.select(r.number).where(
            r.request.in_(requests[start : start + PAGE]), r.batch == batch, r.released == int(turn), r.code == ""
        )
        found += unit.connection.execute(statement).scalars()
    return found


def of_requests(unit: Unit, batch: str, requests: Sequence[str]) -> list[tuple[int, str]]:
    """Tell those rows that became one of some requests: their numbers and requests."""
    found: list[tuple[int, str]] = []
    for start in range(0, len(requests), PAGE):
        mine = r.request.in_(requests[start : start + PAGE]), r.batch == batch, r.code == ""
        found += [
            (row.number, row.request) for row in unit.connection.execute(sa.select(r.number, r.request).where(*mine))
        ]
    return found


def set_turn(unit: Unit, batch: str, numbers: Sequence[int], turn: Turn) -> None:
    """Write where rows stand in line."""
    if numbers:
        statement = sa.update(batch_rows).where(r.batch == batch, r.number == sa.bindparam("the_number"))
        unit.connection.execute(statement.values(released=int(turn)), [{"the_number": number} for number in numbers])


def request_count(unit: Unit, batch: str) -> int:
    """Count the rows that became a request of their own."""
    statement = sa.select(sa.func.count()).where(r.batch == batch, r.request.is_not(None), r.code == "")
    return int(unit.connection.execute(statement).scalar_one())


_SCHEDULES = (
    sa.select(batches, r.request, r.number, r.released)
    .join(batch_rows, r.batch == batches.c.id)
    .where(
        among(r.request, "requests"),
        r.code == "",
        sa.or_(batches.c.schedule.is_not(None), batches.c.state == sa.literal_column("'paused'")),
    )
    .order_by(batches.c.created_at, batches.c.id, r.number)
)
InLine = tuple[Batch, int, Turn]


class Schedules:
    """Where requests stand in line, as far as a unit has read it; nothing is changed on this shelf.

    Args:
        known: What is read, by request.
        expected: The requests that somebody may ask for: all are read when the first is asked for.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.known: dict[str, InLine | None] = {}
        self.expected: set[str] = set()
        self.changed = False

    def write(self, connection: sa.Connection) -> None:
        """Write nothing."""


def expect_schedules(unit: Unit, requests: Iterable[str]) -> None:
    """Have it read together where requests stand in line, once it is asked for one of them: of most that were paid, nobody asks."""
    unit.shelf(Schedules).expected.update(requests)


def schedule_of(unit: Unit, request: str) -> InLine | None:
    """Tell the batch with a schedule that a request came from, the number of its row and where that stands in line."""
    shelf = unit.shelf(Schedules)
    if request not in shelf.known:
        wanted = sorted({request} | shelf.expected - shelf.known.keys())
        shelf.known |= dict.fromkeys(wanted)
        for row in unit.direct.execute(_SCHEDULES, {"requests": wanted}):
            if shelf.known[row.request] is None:
                shelf.known[row.request] = (_batch(row), row.number, Turn(row.released))
    return shelf.known[request]


_b = batch_budgets.c


def budget(unit: Unit, batch: str, currency: str) -> Budget:
    """Read what a batch has spent in a currency, made at its first use, and hold it until the unit is over."""
    statement = sa.select(batch_budgets).where(_b.batch == batch, _b.currency == currency).with_for_update()
    row = unit.connection.execute(statement).one_or_none()
    if row is None:
        values = {"batch": batch, "currency": currency, "day": "", "sent_minor": 0, "spent_minor": 0, "read_at": 0.0}
        make: Any = postgresql.insert(batch_budgets) if unit.postgres else sqlite.insert(batch_budgets)
        unit.connection.execute(make.values(values).on_conflict_do_nothing())
        row = unit.connection.execute(statement).one()
    return _budget(row)


def budgets(unit: Unit, batch: str) -> dict[str, Budget]:
    """Read what a batch has spent, by currency."""
    found = unit.connection.execute(sa.select(batch_budgets).where(_b.batch == batch).order_by(_b.currency))
    return {row.currency: _budget(row) for row in found}


def save_budget(unit: Unit, batch: str, budget: Budget) -> None:
    """Write what a batch has spent in a currency."""
    values = {name: value for name, value in asdict(budget).items() if name != "currency"}
    statement = sa.update(batch_budgets).where(_b.batch == batch, _b.currency == budget.currency)
    unit.connection.execute(statement.values(values))


def _budget(row: Any) -> Budget:  # noqa: ANN401  # a row
    return Budget(row.currency, row.day, row.sent_minor, row.spent_minor, row.ceiling_minor, row.read_at)


def _schedule(text: str | None) -> Schedule | None:
    if text is None:
        return None
    kept = json.loads(text)
    window = kept.pop("window")
    return Schedule(**kept | {"canary": tuple(kept["canary"]), "window": Window(**window) if window else None})


def _course(text: str | None) -> Course:
    if text is None:
        return Course()
    kept = json.loads(text)
    anchor = kept.pop("anchor")
    return Course(**kept, anchor=Anchor(**anchor) if anchor else None)


def _batch(row: Any) -> Batch:  # noqa: ANN401  # a row
    return Batch(
        row.id, row.account, row.name, row.sha256, BatchState(row.state), tuple(json.loads(row.columns)), row.row_count,
        row.created_at, schedule=_schedule(row.schedule), course=_course(row.course), plan=row.plan,
    )  # fmt: skip


def _row(row: Any) -> BatchRow:  # noqa: ANN401  # a row
    wanted = unpacked(json.loads(row.wanted)) if row.wanted else None
    verdict = Verdict(row.code, row.text, row.request, row.currency, row.asked_minor) if row.planned else None
    anew = not row.planned and row.code == ANEW
    return BatchRow(row.number, row.line, json.loads(row.raw), wanted, verdict, anew, row.request if anew else None)
