"""A file is accepted whole or not at all, and once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refundry.batches import repository
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.connectors.base import FileOpened, FileRefused
from refundry.infra.db import Unit
from refundry.kernel.actor import SYSTEM
from tests.integration.batches.conftest import Clerk
from tests.support.builders import ACCOUNT

pytestmark = pytest.mark.integration

TWO = "charge_id,amount,note\nch_1,10.00,first\nch_2,5.00,second\n"


def counted(clerk: Clerk) -> int:
    with clerk.database.reading() as unit:
        return len(batches.every(unit, ACCOUNT, list(BatchState)))


def test_a_file_is_taken_in_with_every_row_as_it_stands(clerk: Clerk) -> None:
    batch = clerk.accept(TWO)
    assert (batch.state, batch.row_count, batch.name) == (BatchState.ACCEPTED, 2, "refunds.csv")
    assert batch.columns == ("charge_id", "amount", "note")
    with clerk.database.reading() as unit:
        rows = repository.rows(unit, batch.id)
        assert batches.find(unit, batch.id) == batch
    assert [row.raw["note"] for row in rows] == ["first", "second"]
    assert [row.verdict for row in rows] == [None, None]
    assert clerk.told(batch) == [("waiting", "not_looked_up")] * 2
    (entry,) = clerk.timeline(batch.id)
    assert (entry.event, entry.facts["rows"], entry.facts["sha256"]) == ("batch.accepted", 2, batch.sha256)


@pytest.mark.parametrize("column", ["amount", "currency", "reason", "reverse_transfer", "ticket_id", "note"])
def test_a_letter_that_no_database_keeps_refuses_at_most_its_row(clerk: Clerk, column: str) -> None:
    good = {"charge_id": "ch_1", "amount": "1.00"}
    batch = clerk.planned(f"{json.dumps(good | {column: '1' + chr(0)})}\n{json.dumps(good | {'ticket_id': 'T'})}\n")
    first, second = clerk.told(batch)
    assert (first[0], second[0]) == ("waiting" if column == "note" else "refused", "waiting")
    assert "\0" not in clerk.lines(batch)[0].text
    with clerk.database.reading() as unit:
        assert next(iter(repository.rows(unit, batch.id))).raw[column] == "1\0"


def test_the_audit_entry_of_a_file_holds_all_its_rows(clerk: Clerk) -> None:
    batch = clerk.planned(TWO)
    clerk.accept("charge_id,amount\n" + "ch_1,abc\nch_3,1.00\n" * 700, "other.csv")
    (entry,) = [entry for entry in clerk.timeline(batch.id) if entry.event == "batch.accepted"]
    assert re.fullmatch("[0-9a-f]{64}", entry.facts["rows_sha256"])
    with clerk.database.reading() as unit:
        assert batches.first_fault(unit) is None


@pytest.mark.parametrize(
    "change",
    ["raw = replace(raw, '5.00', '6.00')", "wanted = replace(wanted, '5.00', '6.00')", "line = 9", "number = 7"],
)
def test_a_row_that_somebody_changes_after_it_was_accepted_is_found(clerk: Clerk, change: str) -> None:
    batch = clerk.planned(TWO)
    with clerk.database.unit() as unit:
        unit.connection.exec_driver_sql(f"UPDATE batch_rows SET {change} WHERE number = 2")  # noqa: S608  # the test's own
    with clerk.database.reading() as unit:
        fault = batches.first_fault(unit)
    assert fault is not None
    assert batch.id[:8] in fault


def test_a_file_that_was_read_before_the_unit_is_taken_in_as_it_was_read(clerk: Clerk, tmp_path: Path) -> None:
    ready = batches.ready(clerk.file("charge_id,amount\n" + "ch_1,1.00\n" * 1001))
    (tmp_path / "refunds.csv").write_text("charge_id,amount\nch_1,9.00\n")
    batch, new = clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, ready, "", SYSTEM))
    assert new
    assert {line.row.raw["amount"] for line in clerk.lines(batch)} == {"1.00"}
    assert [line.row.number for line in clerk.lines(batch)] == list(range(1, 1002))


def test_the_same_file_again_is_the_batch_that_is_there(clerk: Clerk) -> None:
    first = clerk.planned(TWO)
    file = clerk.file(TWO, "renamed.csv")
    again, new = clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM))
    assert (again, new) == (first, False)
    assert counted(clerk) == 1


def test_the_same_file_with_other_options_is_another_batch(clerk: Clerk) -> None:
    clerk.accept(TWO)
    file = clerk.file(TWO)
    _, new = clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "blank_amount_full", SYSTEM))
    assert new
    assert counted(clerk) == 2


def test_a_file_that_changes_while_it_is_read_is_not_taken_in(clerk: Clerk, tmp_path: Path) -> None:
    rows = "".join(f"ch_1,{n}.00,x\n" for n in range(1, 1200))
    file = clerk.file("charge_id,amount,note\n" + rows)
    path = tmp_path / "refunds.csv"
    path.write_text(path.read_text() + "ch_1,1.00,late\n")
    with pytest.raises(FileRefused) as refused:
        clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM))
    assert refused.value.code == "file_changed"
    assert counted(clerk) == 0
    with clerk.database.reading() as unit:
        assert repository.rows(unit, batches.batch_id(ACCOUNT, file.sha256, "")) == []


def test_a_file_whose_last_line_changes_while_it_is_read_is_not_taken_in(clerk: Clerk, tmp_path: Path) -> None:
    rows = "".join(f"ch_1,{n}.00,x\n" for n in range(1, 1200))
    file = clerk.file("charge_id,amount,note\n" + rows)
    path, given = tmp_path / "refunds.csv", file.stream()
    first = next(given)

    def stream():  # noqa: ANN202  # rows
        yield first
        path.write_text(path.read_text().replace("1199.00", "9199.00"))
        yield from given

    changing = batches.FileOpened(
        file.name, file.sha256, file.size_bytes, file.columns, file.unknown_columns, file.row_count, stream
    )
    with pytest.raises(FileRefused):
        clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, changing, "", SYSTEM))
    assert counted(clerk) == 0


def test_two_processes_with_the_same_file_make_one_batch(clerk: Clerk) -> None:
    file = clerk.file("charge_id,amount\n" + "ch_1,1.00\n" * 300)

    def one(_: int) -> tuple[str, bool]:
        with clerk.database.unit() as unit:
            batch, new = batches.accept(unit, ACCOUNT, file, "", SYSTEM)
            return batch.id, new

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(one, range(4)))
    assert len({batch for batch, _ in told}) == 1
    assert [new for _, new in told].count(True) == 1
    assert counted(clerk) == 1


def run_while(clerk: Clerk, file: FileOpened, work: Callable[[Unit], object]) -> tuple[Batch, bool]:
    """Run a file while a unit that has done something else is still open; on Postgres the run has come to wait for it."""
    held = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool:
        with clerk.database.unit() as other:
            work(other)
            running = pool.submit(clerk.unit, lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM))
            while other.postgres and not other.connection.exec_driver_sql(held).scalar_one():
                other.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        return running.result(20)


def test_a_file_that_is_run_in_the_moment_in_which_it_is_planned_is_run(clerk: Clerk) -> None:
    file = clerk.file("charge_id,amount\nch_1,1.00\n")
    told, new = run_while(clerk, file, lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM, planned=True))
    assert (told.state, new) == (BatchState.ACCEPTED, False)
    assert clerk.batch(told).state is BatchState.ACCEPTED
    assert counted(clerk) == 1


def test_a_planned_file_that_is_run_in_the_moment_in_which_it_is_withdrawn_stays_withdrawn(clerk: Clerk) -> None:
    file = clerk.file("charge_id,amount\nch_1,1.00\n")
    batch, _ = clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM, planned=True))
    told, new = run_while(clerk, file, lambda unit: batches.withdraw(unit, batch, SYSTEM, "wrong file"))
    assert (told.state, new) == (BatchState.WITHDRAWN, False)
    assert clerk.batch(batch).state is BatchState.WITHDRAWN


def test_a_file_of_unreadable_rows_has_nothing_left_to_be_looked_up(clerk: Clerk) -> None:
    batch = clerk.accept("charge_id,amount\nch_1,abc\n,1.00\n")
    assert batch.state is BatchState.RUNNING, "else a worker would be woken for it for ever"
    assert [standing for standing, _ in clerk.told(batch)] == ["refused", "refused"]
    assert clerk.totals(batch).moving == 0


def test_a_batch_is_found_by_the_beginning_of_its_id(clerk: Clerk) -> None:
    batch = clerk.accept(TWO)
    with clerk.database.reading() as unit:
        assert batches.need(unit, batch.id[:6]) == batch
        for prefix in ("", "zzz", batch.id + "0"):
            with pytest.raises(batches.BatchUnknown):
                batches.need(unit, prefix)


def test_an_ambiguous_beginning_is_refused(clerk: Clerk) -> None:
    for n in range(17):
        clerk.accept(f"charge_id,amount\nch_1,{n + 1}.00\n", f"{n}.csv")
    with clerk.database.reading() as unit:
        ids = [batch.id for batch in batches.every(unit, ACCOUNT, list(BatchState))]
        shared = next(one[0] for one in ids if sum(other.startswith(one[0]) for other in ids) > 1)
        with pytest.raises(batches.BatchUnknown, match="more than one"):
            batches.need(unit, shared)
