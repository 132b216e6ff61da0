"""Group commit: each caller gets its own result, of its own durable commit, whatever its neighbours do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from refundry.accounts import repository as accounts
from refundry.accounts.model import Account
from refundry.infra.db import TIMES_OUT_FROM, UNIT_SECONDS_MAX, Database, DatabaseUnusable, Needs, Unit
from refundry.infra.writer import BATCH_MAX, BUSY_TRIES, GroupWriter, InlineWriter
from refundry.kernel.errors import InvariantViolated
from tests.support.clock import HandClock

pytestmark = pytest.mark.integration


def add(number: int) -> Account:
    return Account(f"acct_{number}", "test")


def adding(number: int):  # noqa: ANN201  # a piece of work
    def work(unit: Unit) -> int:
        accounts.add(unit, add(number))
        return number

    return work


def poison(_: Unit) -> int:
    raise ValueError("poison")


def kept(database: Database) -> set[str]:
    with database.reading() as unit:
        return {account.id for account in accounts.every(unit)}


@pytest_asyncio.fixture
async def writer(database: Database) -> AsyncIterator[GroupWriter]:
    made = GroupWriter(database)
    made.start()
    yield made
    await made.stop()


async def test_every_caller_gets_its_own_result(writer: GroupWriter, database: Database) -> None:
    results = await asyncio.gather(*(writer.put(adding(n)) for n in range(100)))
    assert results == list(range(100))
    assert len(kept(database)) == 100


async def test_what_comes_in_together_shares_commits(writer: GroupWriter, database: Database) -> None:
    units = 0

    def counted(_: Unit, __: list[str]) -> None:
        nonlocal units
        units += 1

    database.at_commit("test", counted)

    def work(unit: Unit) -> None:
        unit.collect("test", "x")

    await asyncio.gather(*(writer.put(work) for _ in range(3 * BATCH_MAX)))
    assert units <= 4


async def test_what_takes_its_time_has_a_unit_of_its_own(writer: GroupWriter) -> None:
    seen: list[tuple[int, Unit]] = []
    await asyncio.gather(*(writer.put(lambda unit, n=n: seen.append((n, unit)), long=n == 2) for n in range(5)))  # type: ignore[misc]
    units = [unit for _, unit in seen]
    assert [number for number, _ in seen] == [0, 1, 3, 4, 2]
    assert [units.index(unit) for unit in units] == [0, 0, 0, 0, 4]


async def test_those_that_are_alone_and_the_quick_ones_take_turns(writer: GroupWriter) -> None:
    order: list[str] = []

    def noting(name: str):  # noqa: ANN202  # a piece of work
        return lambda _: order.append(name)

    async def quick(name: str) -> None:
        for at in range(3):
            await writer.put(noting(f"{name}{at}"))

    alone = [writer.put(noting(f"alone{at}"), alone=True) for at in range(3)]
    await asyncio.gather(*alone, quick("a"), quick("b"))
    assert [name for name in order if name.startswith("alone")] == ["alone0", "alone1", "alone2"]
    # However many wait for units of their own, no quick one waits for two of them.
    between = "".join("|" if name.startswith("alone") else "." for name in order)
    assert between == "..|..|..|"


@pytest.mark.parametrize("make", [GroupWriter, InlineWriter])
async def test_postgres_ends_every_unit_that_lasts_but_those_that_may(
    postgres_address: str, make: Callable[[Database], GroupWriter | InlineWriter]
) -> None:
    """Any of them may hold what all processes need, as the budget of an account, when its own is stopped."""
    database = Database(postgres_address, HandClock())
    made = make(database)
    if isinstance(made, GroupWriter):
        made.start()

    def allowed(unit: Unit) -> str:
        if unit.connection.connection.dbapi_connection.info.server_version < TIMES_OUT_FROM:  # type: ignore[union-attr]
            pytest.skip("Postgres does so from version 17 on")
        return str(unit.connection.exec_driver_sql("SHOW transaction_timeout").scalar_one())

    try:
        assert await made.put(allowed) == f"{UNIT_SECONDS_MAX}s"
        assert await made.put(allowed, long=True) == "0"
    finally:
        if isinstance(made, GroupWriter):
            await made.stop()
        database.close()


async def test_a_result_comes_after_its_commit(writer: GroupWriter, database: Database) -> None:
    await writer.put(adding(1))
    assert kept(database) == {"acct_1"}


async def test_poison_fails_only_who_brought_it(writer: GroupWriter, database: Database) -> None:
    works = [poison if n in {3, 7} else adding(n) for n in range(12)]
    results = await asyncio.gather(*(writer.put(work) for work in works), return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == [3, 7]
    assert [result for result in results if not isinstance(result, ValueError)] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert kept(database) == {f"acct_{n}" for n in range(12) if n not in {3, 7}}


async def test_poison_in_the_database_fails_only_who_brought_it(writer: GroupWriter, database: Database) -> None:
    results = await asyncio.gather(*(writer.put(adding(n)) for n in (1, 2, 1, 3)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["int", "int", "IntegrityError", "int"]
    assert kept(database) == {"acct_1", "acct_2", "acct_3"}


async def test_pieces_of_a_unit_run_in_the_order_of_their_charges(writer: GroupWriter) -> None:
    order: list[str] = []

    def noting(name: str):  # noqa: ANN202  # a piece of work
        def work(_: Unit) -> str:
            order.append(name)
            return name

        return work

    names = ["ch_3", "ch_1", "", "ch_2", "ch_1"]
    assert await asyncio.gather(*(writer.put(noting(name), needs=Needs(name)) for name in names)) == names
    assert order == sorted(names)


@pytest.mark.parametrize(("times", "kept_at_last"), [(1, True), (BUSY_TRIES - 1, True), (BUSY_TRIES, False)])
async def test_a_piece_that_another_process_kept_out_is_tried_again(
    writer: GroupWriter, database: Database, times: int, kept_at_last: bool  # noqa: FBT001  # a column of the table
) -> None:  # fmt: skip
    tries = 0

    def work(unit: Unit) -> int:
        nonlocal tries
        tries += 1
        if tries <= times:
            raise DatabaseUnusable("deadlock detected", code="database_busy")
        return adding(1)(unit)

    if kept_at_last:
        assert await writer.put(work) == 1
    else:
        with pytest.raises(DatabaseUnusable):
            await writer.put(work)
    assert kept(database) == ({"acct_1"} if kept_at_last else set())


async def test_a_failing_commit_is_heard_by_everyone(writer: GroupWriter, database: Database) -> None:
    def broken(_: Unit, __: list[str]) -> None:
        raise OSError("the disk is gone")

    database.at_commit("test", broken)

    def work(unit: Unit) -> None:
        unit.collect("test", "x")

    results = await asyncio.gather(*(writer.put(work) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 5


async def test_a_caller_that_went_away_harms_nobody(writer: GroupWriter, database: Database) -> None:
    gone = asyncio.ensure_future(writer.put(adding(1)))
    stays = asyncio.ensure_future(writer.put(adding(2)))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == 2
    assert "acct_2" in kept(database)


async def test_stopping_commits_what_waits(database: Database) -> None:
    writer = GroupWriter(database)
    writer.start()
    waiting = [asyncio.ensure_future(writer.put(adding(n))) for n in range(2 * BATCH_MAX + 5)]
    await asyncio.sleep(0)
    await writer.stop()
    assert all(future.done() for future in waiting)
    assert len(kept(database)) == len(waiting)
    await asyncio.gather(*waiting)


async def test_stopping_waits_for_what_is_being_committed(database: Database) -> None:
    writer = GroupWriter(database)
    writer.start()
    inside, go_on = threading.Event(), threading.Event()

    def slow(unit: Unit) -> int:
        inside.set()
        assert go_on.wait(20)
        return adding(1)(unit)

    caller = asyncio.ensure_future(writer.put(slow))
    await asyncio.to_thread(inside.wait, 20)
    stopping = asyncio.ensure_future(writer.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    go_on.set()
    await stopping
    assert await asyncio.wait_for(caller, 20) == 1
    assert kept(database) == {"acct_1"}


async def test_after_stopping_nothing_can_be_put_and_nobody_hangs(database: Database) -> None:
    writer = GroupWriter(database)
    writer.start()
    await writer.stop()
    with pytest.raises(InvariantViolated):
        await writer.put(adding(1))
    await writer.stop()


async def test_a_writer_that_was_never_started_can_be_stopped(database: Database) -> None:
    await GroupWriter(database).stop()


async def test_the_inline_writer_commits_each_piece_at_once(database: Database) -> None:
    writer = InlineWriter(database)
    assert await writer.put(adding(1)) == 1
    with pytest.raises(ValueError, match="poison"):
        await writer.put(poison)
    assert await writer.aside(lambda: kept(database)) == {"acct_1"}
