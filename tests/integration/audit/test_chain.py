"""The audit log is whole: whatever is changed, taken out or cut off is found."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from refundry.audit import repository
from refundry.audit import service as audit
from refundry.audit.tables import audit_entries, audit_head
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import SYSTEM
from tests.support.clock import HandClock
from tests.support.hand import ADA

pytestmark = pytest.mark.integration

COUNT = 12


def write(database: Database, count: int = COUNT) -> None:
    for unit_of_three in range(count // 3):
        with database.unit() as unit:
            for n in range(3):
                facts = {"n": n, "text": "für 5 €", "amount_minor": 10**12, "at": 0.1 + 0.2, "none": None}
                audit.record(unit, ADA, "refund_request.approved", f"r-{unit_of_three}", facts)


def fault(database: Database) -> str | None:
    with database.reading() as unit:
        return audit.first_fault(unit)


def tamper(database: Database, statement: sa.Executable) -> None:
    with database.engine.begin() as connection:
        connection.execute(statement)


def test_a_log_that_nobody_touched_verifies(database: Database, clock: HandClock) -> None:
    assert fault(database) is None
    write(database)
    clock.move(0.123456789)
    write(database)
    assert fault(database) is None
    with database.reading() as unit:
        assert [number for number, *_ in repository.chain(unit)] == list(range(1, 2 * COUNT + 1))


def test_the_chain_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setattr(repository, "PAGE", 5)
    write(database)
    assert fault(database) is None
    tamper(database, sa.delete(audit_entries).where(audit_entries.c.number == 6))
    assert fault(database) == "entry 6 is missing"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", 1.0), ("actor", "person:bob"), ("event", "refund_request.rejected"), ("subject", "r-9"),
        ("facts", '{"n":2}'), ("facts", "{}"), ("facts", "no JSON"), ("facts", ""), ("before", "1" * 64), ("hash", "0" * 64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [1, 5, COUNT])
def test_an_entry_that_was_changed_is_found(database: Database, number: int, column: str, value: Any) -> None:
    write(database)
    tamper(database, sa.update(audit_entries).where(audit_entries.c.number == number).values({column: value}))
    assert fault(database) == f"entry {number} was changed"


@pytest.mark.parametrize("number", [1, 5])
def test_an_entry_that_was_taken_out_is_found(database: Database, number: int) -> None:
    write(database)
    tamper(database, sa.delete(audit_entries).where(audit_entries.c.number == number))
    assert fault(database) == f"entry {number} is missing"


def test_entries_that_were_cut_off_are_found(database: Database) -> None:
    write(database)
    tamper(database, sa.delete(audit_entries).where(audit_entries.c.number > 4))
    assert fault(database) == "entries after 4 were cut off"
    tamper(database, sa.delete(audit_entries))
    assert fault(database) == "entries after 0 were cut off"


def test_a_head_that_was_changed_or_taken_away_is_found(database: Database) -> None:
    write(database)
    tamper(database, sa.update(audit_head).values(hash="0" * 64))
    assert fault(database) == f"entries after {COUNT} were cut off"
    tamper(database, sa.delete(audit_head))
    assert fault(database) == f"entries after {COUNT} were cut off"


def test_an_entry_put_in_between_is_found(database: Database) -> None:
    write(database)
    for number in range(COUNT, 4, -1):
        tamper(database, sa.update(audit_entries).where(audit_entries.c.number == number).values(number=number + 1))
    with database.reading() as unit:
        _, entry, before, own = list(repository.chain(unit))[3]
    assert entry is not None
    values = {
        "number": 5, "at": entry.at, "actor": "person:eve", "event": entry.event, "subject": entry.subject,
        "facts": "{}", "before": before, "hash": own,
    }  # fmt: skip
    tamper(database, sa.insert(audit_entries).values(values))
    assert fault(database) == "entry 5 was changed"


def test_two_entries_that_changed_places_are_found(database: Database) -> None:
    write(database)
    for old, new in ((3, -1), (4, 3), (-1, 4)):
        tamper(database, sa.update(audit_entries).where(audit_entries.c.number == old).values(number=new))
    assert fault(database) == "entry 3 was changed"


def test_what_is_not_committed_leaves_no_entry(database: Database) -> None:
    write(database)

    def broken() -> None:
        with database.unit() as unit:
            audit.record(unit, ADA, "refund_request.approved", "r-1", {})
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it is ours
        broken()
    assert fault(database) is None
    with database.reading() as unit:
        assert repository.head(unit)[0] == COUNT


def test_entries_of_one_unit_are_written_together_in_their_order(database: Database) -> None:
    with database.unit() as unit:
        for n in range(50):
            audit.record(unit, SYSTEM, "batch.accepted", "b-1", {"n": n})
    with database.reading() as unit:
        told = audit.timeline(unit, "b-1")
    assert [entry.facts["n"] for entry in told] == list(range(50))
    assert {entry.actor for entry in told} == {"system:refundry"}


def test_writers_at_the_same_time_make_one_chain_without_branches(database: Database) -> None:
    together = threading.Barrier(6)

    def one(writer: int) -> None:
        together.wait(30)
        for n in range(5):
            with database.unit() as unit:
                audit.record(unit, ADA, "x.happened", f"w-{writer}", {"n": n})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert fault(database) is None
    with database.reading() as unit:
        assert repository.head(unit)[0] == 30
        assert [entry.facts["n"] for entry in audit.timeline(unit, "w-3")] == list(range(5))


def test_a_unit_without_entries_writes_none(database: Database) -> None:
    def nothing(_: Unit) -> None:
        return

    with database.unit() as unit:
        nothing(unit)
    assert fault(database) is None


def test_an_entry_put_in_before_the_first_is_found(database: Database) -> None:
    """It would be told as something that was done, and no chain leads to it."""
    write(database)
    values = {
        "number": 0, "at": 1.0, "actor": str(ADA), "event": "refund_request.approved", "subject": "r-1",
        "facts": "{}", "before": "0" * 64, "hash": "0" * 64,
    }  # fmt: skip
    tamper(database, sa.insert(audit_entries).values(values))
    assert fault(database) == "entry 0 was put in before the first"


def test_what_is_written_while_the_chain_is_verified_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """On Postgres each statement sees what was committed by then."""
    monkeypatch.setattr(repository, "PAGE", 5)
    write(database)
    busy, written = False, 0

    def beside(_: object, __: object, text: str, *___: object) -> None:
        nonlocal busy, written
        # Before the end is read, and twice while the entries are.
        if not busy and ("FROM audit_head" in text or ("FROM audit_entries" in text and written < 3)):
            busy, written = True, written + 1
            write(database, 3)
            busy = False

    sa.event.listen(database.engine, "before_cursor_execute", beside)
    try:
        assert fault(database) is None
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", beside)
    assert written > 2
    assert fault(database) is None
