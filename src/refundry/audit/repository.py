"""The audit log's statements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.audit.model import ROOT, Entry, canonical, chained
from refundry.audit.tables import audit_entries, audit_head
from refundry.infra.db import Hot, Unit, insert_of_rows

PAGE = 1000
_HEAD = sa.select(audit_head).where(audit_head.c.id == 1)
_HEAD_LOCKED = _HEAD.with_for_update()
_INSERT = {
    postgres: Hot(insert_of_rows(audit_entries, [column.name for column in audit_entries.c], postgres=postgres))
    for postgres in (False, True)
}
_MOVE_HEAD = (
    sa.update(audit_head)
    .where(audit_head.c.id == 1)
    .values(number=sa.bindparam("new_number"), hash=sa.bindparam("new_hash"))
)


def append(unit: Unit, entries: Sequence[Entry]) -> None:
    """Hang entries onto the chain, in order; other writers wait until this unit is over."""
    number, before = _locked_head(unit)
    values: list[dict[str, Any]] = []
    for entry in entries:
        if len(values) == PAGE:
            # A session that only computes is ended by Postgres: a million entries take longer than that to hash.
            _INSERT[unit.postgres].many(unit.direct, values)
            values = []
        number += 1
        own = chained(entry.line(number, before))
        facts = canonical(entry.facts)
        values.append(
            {
                "number": number, "at": entry.at, "actor": entry.actor, "event": entry.event, "subject": entry.subject,
                "facts": facts, "before": before, "hash": own,
            }
        )  # fmt: skip
        before = own
    _INSERT[unit.postgres].many(unit.direct, values)
    unit.connection.execute(_MOVE_HEAD, {"new_number": number, "new_hash": before})


def _locked_head(unit: Unit) -> tuple[int, str]:
    head = unit.connection.execute(_HEAD_LOCKED).one_or_none()
    if head is None:
        # Two writers may be the first at once: one of them makes the row, and both take turns on it.
        make: Any = postgresql.insert(audit_head) if unit.postgres else sqlite.insert(audit_head)
        unit.connection.execute(make.values(id=1, number=0, hash=ROOT).on_conflict_do_nothing())
        head = unit.connection.execute(_HEAD_LOCKED).one()
    return head.number, head.hash


def of_subject(unit: Unit, subject: str) -> list[tuple[int, Entry]]:
    """Read what was done to one thing, oldest first."""
    statement = sa.select(audit_entries).where(audit_entries.c.subject == subject).order_by(audit_entries.c.number)
    return [(row.number, _entry(row)) for row in unit.connection.execute(statement)]


def of_event(unit: Unit, event: str) -> list[Entry]:
    """Read all entries of one event, oldest first."""
    statement = sa.select(audit_entries).where(audit_entries.c.event == event).order_by(audit_entries.c.number)
    return [_entry(row) for row in unit.connection.execute(statement)]


def chain(unit: Unit) -> Iterator[tuple[int, Entry | None, str, str]]:
    """Read the whole chain in order: number, entry (`None` if it cannot be read any more), the hash before it, its own."""
    statement = sa.select(audit_entries).order_by(audit_entries.c.number).limit(PAGE)
    # From the lowest number that there is: what stands before the first entry is read with the others, and hangs on nothing.
    on = statement
    while True:
        page = unit.connection.execute(on).all()
        if not page:
            return
        for row in page:
            try:
                entry: Entry | None = _entry(row)
            except ValueError:
                entry = None
            yield row.number, entry, row.before, row.hash
        on = statement.where(audit_entries.c.number > page[-1].number)


def head(unit: Unit) -> tuple[int, str]:
    """Tell where the chain ends: the last number and its hash."""
    row = unit.connection.execute(_HEAD).one_or_none()
    return (row.number, row.hash) if row else (0, ROOT)


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    return Entry(row.at, row.actor, row.event, row.subject, json.loads(row.facts))
