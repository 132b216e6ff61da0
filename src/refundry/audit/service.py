"""Writing to the audit log, and proving that nobody changed it."""

from __future__ import annotations

from typing import Any

from refundry.audit import repository
from refundry.audit.model import ROOT, Entry, chained
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import Actor

NAME = "audit"


def attach(database: Database) -> None:
    """Let the entries of a unit be written together, just before its commit."""
    database.at_commit(NAME, repository.append)


def record(unit: Unit, actor: Actor, event: str, subject: str, facts: dict[str, Any]) -> None:
    """Write down something that was done; it is kept with the unit, or not at all."""
    unit.collect(NAME, Entry(unit.now, str(actor), event, subject, facts))


def timeline(unit: Unit, subject: str) -> list[Entry]:
    """Tell what was done to one thing, oldest first."""
    return [entry for _, entry in repository.of_subject(unit, subject)]


def of_event(unit: Unit, event: str) -> list[Entry]:
    """Tell all that was done of one kind, oldest first."""
    return repository.of_event(unit, event)


def first_fault(unit: Unit) -> str | None:
    """Verify the chain: `None` when every entry hangs on the one before it, else what is wrong with which entry."""
    # The end as it stands before the entries are read: on Postgres, what others write meanwhile is seen here and there, and is no fault.
    end = repository.head(unit)
    expected, before, ended = 1, ROOT, end == (0, ROOT)
    for number, entry, hangs_on, own in repository.chain(unit):
        if number < 1:
            return f"entry {number} was put in before the first"
        if number != expected:
            return f"entry {expected} is missing"
        if entry is None or hangs_on != before or chained(entry.line(number, hangs_on)) != own:
            return f"entry {number} was changed"
        expected, before = number + 1, own
        ended = ended or (number, own) == end
    last, now = (expected - 1, before), repository.head(unit)
    if not ended or (now != last and now[0] <= last[0]):
        return f"entries after {last[0]} were cut off"
    return None
