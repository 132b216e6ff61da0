"""A unit is kept whole or not at all, and no network call fits inside."""

from __future__ import annotations

import asyncio
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from refundry.accounts import repository as accounts
from refundry.accounts.model import Account
from refundry.infra import db
from refundry.infra.db import Database, DatabaseUnusable, Unit, among, sqlite_url
from refundry.infra.http import refuse_inside_unit, unit_open
from refundry.infra.writer import GroupWriter
from refundry.kernel.clock import SystemClock
from refundry.kernel.errors import InvariantViolated
from tests.support.clock import HandClock

pytestmark = pytest.mark.integration

OURS = Account("acct_1", "test")


def test_what_a_unit_wrote_is_there_for_others_once_it_is_over(database: Database) -> None:
    with database.unit() as unit:
        accounts.add(unit, OURS)
    with database.reading() as unit:
        assert accounts.every(unit) == [OURS]


def test_a_unit_that_breaks_off_leaves_nothing(database: Database) -> None:
    def broken(unit: Unit) -> None:
        accounts.add(unit, OURS)
        raise ValueError

    with pytest.raises(ValueError), database.unit() as unit:  # noqa: PT011  # ours
        broken(unit)
    with database.reading() as unit:
        assert accounts.every(unit) == []


def test_what_is_collected_is_written_once_just_before_the_commit(database: Database) -> None:
    seen: list[list[str]] = []

    def flush(_: Unit, entries: list[str]) -> None:
        seen.append(list(entries))

    database.at_commit("test", flush)
    with database.unit() as unit:
        unit.collect("test", "one")
        unit.collect("test", "two")
        assert seen == []
    assert seen == [["one", "two"]]


STRANGE = ["", " ", "a,b", "{x}", '"', "'", "\\", "\\n", "\n", "null", "NULL", "é", "\u2028", "😀", "%(x)s", ":x", "?"]


def test_texts_are_compared_as_they_are_however_many_they_are(database: Database) -> None:
    table = sa.table("strange", sa.column("name", sa.Text))
    found = sa.select(table.c.name).where(among(table.c.name, "names"))
    with database.unit() as unit:
        unit.connection.exec_driver_sql("CREATE TABLE strange (name TEXT)")
        unit.connection.execute(sa.insert(table), [{"name": name} for name in STRANGE])
        for wanted in ([], ["none"], ["n"], *([name] for name in STRANGE), STRANGE, [str(at) for at in range(1000)]):
            assert sorted(unit.connection.execute(found, {"names": wanted}).scalars()) == sorted(
                set(wanted) & set(STRANGE)
            )
        unit.connection.exec_driver_sql("DROP TABLE strange")


def test_reading_waits_for_no_writer(database: Database) -> None:
    with database.unit() as unit:
        accounts.add(unit, OURS)
        with ThreadPoolExecutor(1) as pool:

            def read() -> list[Account]:
                with database.reading() as other:
                    return accounts.every(other)

            assert pool.submit(read).result(timeout=20) == [], "and sees nothing that is not committed"


def test_one_unit_of_two_waits_for_the_others_row(database: Database) -> None:
    with database.unit() as unit:
        accounts.add(unit, OURS)
    order, holding = [], threading.Event()

    def first() -> None:
        with database.unit() as unit:
            accounts.hold(unit, OURS.name, "first")
            holding.set()
            order.append("first")

    def second() -> None:
        assert holding.wait(20)
        with database.unit() as unit:
            accounts.hold(unit, OURS.name, "second")
            order.append("second")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(timeout=30)
    with database.reading() as unit:
        assert accounts.every(unit) == [Account("acct_1", "test", "second")]


# The guard


def test_no_network_call_while_a_unit_is_open(database: Database) -> None:
    refuse_inside_unit("POST /v1/refunds")
    for opened in (database.unit, database.reading):
        with opened(), pytest.raises(InvariantViolated) as refused:
            refuse_inside_unit("POST /v1/refunds")
        assert refused.value.code == "network_inside_transaction"
        assert "POST /v1/refunds" in refused.value.message
    refuse_inside_unit("POST /v1/refunds")


def test_the_guard_opens_again_though_the_unit_broke_off(database: Database) -> None:
    with pytest.raises(ValueError), database.unit():  # noqa: PT011  # ours
        raise ValueError
    assert not unit_open.get()


async def test_a_unit_in_one_task_stops_no_call_of_another(database: Database) -> None:
    inside, done = asyncio.Event(), asyncio.Event()

    async def holds() -> None:
        with database.unit():
            inside.set()
            await done.wait()

    async def calls() -> bool:
        await inside.wait()
        refuse_inside_unit("GET /v1/charges/{charge}")
        done.set()
        return True

    _, told = await asyncio.gather(holds(), calls())
    assert told


async def test_what_the_writer_runs_is_inside_a_unit(database: Database) -> None:
    writer = GroupWriter(database)
    writer.start()
    with pytest.raises(InvariantViolated):
        await writer.put(lambda _: refuse_inside_unit("POST /v1/refunds"))
    await writer.aside(lambda: refuse_inside_unit("POST /v1/refunds"))
    refuse_inside_unit("POST /v1/refunds")
    await writer.stop()


# Time


def test_postgres_tells_its_own_time_and_how_far_ours_is_off(postgres_address: str) -> None:
    system, wrong = SystemClock(), HandClock(SystemClock().now() - 3600)
    database = Database(postgres_address, wrong)
    try:
        with database.reading() as unit:
            assert abs(unit.now - system.now()) < 60
        assert database.offset == pytest.approx(3600, abs=60)
    finally:
        database.close()


def test_sqlite_has_this_machines_time(tmp_path: Path) -> None:
    clock = HandClock()
    database = Database(sqlite_url(tmp_path / "x.db"), clock)
    with database.reading() as unit:
        assert (unit.now, database.offset) == (clock.now(), 0.0)
    database.close()


# SQLite keeps what it said


def test_sqlite_flushes_every_commit_to_the_disk(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "x.db"), HandClock())
    with database.reading() as unit:
        told = {
            pragma: unit.connection.exec_driver_sql("PRAGMA " + pragma).scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.close()
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


# What is wrong with it


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("database or disk is full", "database_full"), ("disk I/O error", "database_full"),
        ("attempt to write a readonly database", "database_read_only"),
        ("unable to open database file", "database_unreachable"), ("database is locked", "database_busy"),
        ("connection refused", "database_unreachable"), ("deadlock detected", "database_busy"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_database_is_said_with_a_code(text: str, code: str) -> None:
    error = sa.exc.OperationalError("INSERT …", {}, Exception(text))
    told = db.unusable(error, "sqlite:////tmp/x.db?mode=rw")
    assert told.code == code
    assert text in told.message
    assert "?" not in told.message


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "none" / "x.db"), HandClock())
    with pytest.raises(DatabaseUnusable) as refused, database.unit():
        pass
    assert refused.value.code == "database_unreachable"
    assert not unit_open.get()


def test_no_password_is_told_when_postgres_cannot_be_reached() -> None:
    database = Database("postgresql+psycopg://ada:hunter2@127.0.0.1:1/refundry?connect_timeout=1", HandClock())
    with pytest.raises(DatabaseUnusable) as refused, database.unit():
        pass
    database.close()
    assert refused.value.code == "database_unreachable"
    # In one line, though Postgres says it in two.
    assert "\n" not in refused.value.message
    assert "hunter2" not in refused.value.message + repr(refused.value) + str(refused.value.__cause__)


def test_a_unit_that_postgres_has_cut_off_is_a_lost_database_and_the_next_one_works(postgres_address: str) -> None:
    database = Database(postgres_address, HandClock())
    mine = sa.text("SELECT pg_backend_pid()")

    def stopped_for_too_long() -> None:
        # As long as a process is stopped in the middle of a unit, it sends nothing; Postgres ends its session, and then hangs up.
        with database.unit() as unit:
            # Long enough for us to have read the answer to this: what comes together with it is read as a notice of the session.
            unit.connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
            hung_up = select.poll()
            hung_up.register(unit.connection.connection.dbapi_connection.fileno(), select.POLLRDHUP)  # type: ignore[union-attr]
            assert hung_up.poll(20_000)
            unit.connection.execute(mine)

    with pytest.raises(DatabaseUnusable) as lost:
        stopped_for_too_long()
    assert lost.value.code == "database_cut_off"
    assert "nothing of it was kept" in lost.value.message
    with database.unit() as unit:
        assert unit.connection.execute(mine).scalar_one()
    database.close()


def test_a_process_whose_connections_are_all_taken_says_so(database: Database) -> None:
    pool: Any = database.engine.pool
    pool._timeout = 0.01
    # On SQLite one is kept for what writes.
    most = pool.size() + pool._max_overflow - pool.checkedout()
    with ExitStack() as taken:
        # Each reading holds one, and waits for no writer.
        for _ in range(most):
            taken.enter_context(database.reading())
        with pytest.raises(DatabaseUnusable) as refused:
            taken.enter_context(database.reading())
    assert refused.value.code == "database_busy"
    assert "taken for too long" in refused.value.message
    with database.unit() as unit:
        assert unit.now


def test_all_that_writes_to_sqlite_takes_turns_on_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/one.db", HandClock())

    def of(unit: Unit) -> int:
        return id(unit.connection.connection.driver_connection)

    def written(_: int) -> int:
        with database.unit() as unit:
            return of(unit)

    with ThreadPoolExecutor(4) as pool:
        (only,) = set(pool.map(written, range(40)))
    with database.unit() as unit, database.reading() as beside:
        assert of(unit) == only != of(beside)
        monkeypatch.setattr(db, "BUSY_SECONDS", 0.01)
        with pytest.raises(DatabaseUnusable) as refused:
            written(0)
        assert refused.value.code == "database_busy"
        assert of(unit) == only
    database.close()
    kept: Any = database.engine.pool
    assert kept.checkedout() == 0


def test_after_a_unit_that_failed_the_next_one_on_sqlite_begins_anew(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/anew.db", HandClock())
    with database.unit() as unit:
        unit.connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
    seen: list[Any] = []

    def failing() -> None:
        with database.unit() as unit:
            unit.connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            seen.append(unit.connection.connection.driver_connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    with database.unit() as unit:
        assert unit.connection.connection.driver_connection is not seen[0]
        assert unit.connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 0
    database.close()


def test_a_process_that_is_stopped_while_it_hands_statements_over_holds_nobody_up(
    postgres_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For Postgres such a session is not idle: it waits for the rest of what was begun, with all its locks."""
    monkeypatch.setattr(db, "_NOW_SHORT", db._NOW_SHORT.replace(f"{db.UNIT_SECONDS_MAX}s", "1s"))
    database, other = Database(postgres_address, HandClock()), Database(postgres_address, HandClock())
    with database.unit() as unit:
        unit.connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS held (n INTEGER)")
        unit.connection.exec_driver_sql("INSERT INTO held VALUES (1)")
    count = sa.text("UPDATE held SET n = n + 1")

    def stopped() -> None:
        with database.unit(short=True) as unit:
            driver = unit.connection.connection.dbapi_connection.pgconn
            driver.enter_pipeline_mode()
            driver.send_query_params(b"UPDATE held SET n = 100", None)
            driver.send_flush_request()
            driver.flush()
            with other.unit() as living:
                held = sa.text(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'held'::regclass AND mode = 'RowExclusiveLock'"
                )
                while not living.connection.execute(held).scalar_one():
                    pass
                living.connection.execute(sa.text("SET LOCAL lock_timeout = '20s'"))
                living.connection.execute(count)
            driver.exit_pipeline_mode()
            unit.connection.execute(count)

    try:
        with pytest.raises((DatabaseUnusable, psycopg.Error)):
            stopped()
        with other.reading() as unit:
            assert unit.connection.exec_driver_sql("SELECT n FROM held").scalars().all() == [2]
    finally:
        with other.unit() as unit:
            unit.connection.exec_driver_sql("DROP TABLE held")
        database.close()
        other.close()


def test_a_full_disk_loses_the_unit_and_nothing_else(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "x.db"), HandClock())
    with database.unit() as unit:
        unit.connection.exec_driver_sql("CREATE TABLE t (x TEXT)")
        unit.connection.exec_driver_sql("INSERT INTO t VALUES ('kept')")

    def fill() -> None:
        with database.unit() as unit:
            unit.connection.exec_driver_sql("PRAGMA max_page_count = 5")
            for _ in range(100):
                unit.connection.exec_driver_sql("INSERT INTO t VALUES (hex(randomblob(4096)))")

    with pytest.raises(DatabaseUnusable) as refused:
        fill()
    assert refused.value.code == "database_full"
    with database.reading() as unit:
        assert unit.connection.exec_driver_sql("SELECT x FROM t").scalars().all() == ["kept"]
    database.close()


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(db.sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(DatabaseUnusable) as refused:
        Database(sqlite_url(tmp_path / "x.db"), HandClock())
    assert refused.value.code == "database_version"
