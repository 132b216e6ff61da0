"""A worker's runs: one of each lane at a time, with planning beside it, and none that waits for an answer to somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from refundry import bootstrap
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchRow, Standing
from refundry.bootstrap import Desk
from refundry.connectors.base import ReadOptions
from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.infra.engine import Engine
from refundry.infra.writer import NOTHING
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.refunds.model import State
from refundry.refunds.tables import refund_requests
from refundry.tasks import service as tasks
from refundry.worker import main
from refundry.worker.executor import Executor
from refundry.worker.listing import LISTS
from refundry.worker.main import Worker
from refundry.worker.planner import LOOKUPS, SLICE, SLICES_AHEAD, Planner, planner_of
from tests.integration.worker.test_accounts import (
    DEADLINE_SECONDS,
    ROWS,
    World,
    asked,
    called,
    first_unanswered,
    four,
    handed_in,
    on_one,
    state,
    totals,
    two_charges,
    working,
    world,
)
from tests.integration.worker.test_accounts import until as until_true
from tests.support.database import HandDatabase

__all__ = ["four", "world"]
pytestmark = pytest.mark.integration


def on_their_way(database: Database) -> int:
    """Count the requests that are sent and not answered."""
    with database.reading() as unit:
        statement = sa.select(sa.func.count()).where(refund_requests.c.state == State.SUBMITTING.value)
        return int(unit.connection.execute(statement).scalar_one())


@on_one
async def test_a_file_does_not_wait_for_an_answer_to_a_row_of_another(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        answered = first_unanswered(desk, monkeypatch)
        first = await handed_in(desk, world.server.account, {"o0": "1.00"}, tmp_path)
        await until_true(lambda: on_their_way(desk.database) == 1)
        second = await handed_in(desk, world.server.account, {"o1": "1.00"}, tmp_path)
        await until_true(lambda: totals(desk.database, second).standings.get(Standing.PAID, 0) == 1)
        assert totals(desk.database, first).standings.get(Standing.PAID, 0) == 0
        answered.set()
        await until_true(lambda: totals(desk.database, first).standings.get(Standing.PAID, 0) == 1)


@on_one
async def test_what_is_planned_is_paid_while_the_rest_is_planned(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, go_on = world.settings(database.url, tmp_path), asyncio.Event()
    plan, accepted = Planner.plan, Worker._accepted

    def slow(self: Worker, account: str) -> list[Batch]:
        # Later than the first claim, which finds nothing.
        time.sleep(0.3)  # noqa: TID251  # as under load
        return accepted(self, account)

    async def long(self: Planner, batch: Batch, *, lease: str, until: Callable[[], bool]) -> None:
        await plan(self, batch, lease=lease, until=until)
        await go_on.wait()

    monkeypatch.setattr(Worker, "_accepted", slow)
    monkeypatch.setattr(Planner, "plan", long)
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        batch = await handed_in(desk, world.server.account, {"o0": "1.00"}, tmp_path)
        await until_true(lambda: totals(desk.database, batch).standings.get(Standing.PAID, 0) == 1)
        go_on.set()


@on_one
async def test_a_file_is_planned_in_parts_so_that_its_first_rows_need_not_wait_for_the_others(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings, asked, rows = world.settings(database.url, tmp_path), list[bool](), 3 * SLICE

    def after_one() -> bool:
        asked.append(True)
        return len(asked) > 1

    async with bootstrap.desk(settings) as desk:
        amounts = {f"o{at}": "1.00" for at in range(rows)}
        batch = await handed_in(desk, world.server.account, amounts, tmp_path)
        await planner_of(desk, desk.seats[0]).plan(batch, lease="this", until=after_one)
        with desk.database.reading() as unit:
            left = batches.next_unplanned(unit, batch.id, rows)
    assert [row.number for row in left][:1] == [SLICE + 1]


@on_one
async def test_once_charges_are_listed_rows_that_name_orders_are_planned_by_the_hundred(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings, asked, rows = world.settings(database.url, tmp_path), list[bool](), 12 * SLICE
    path = tmp_path / "refunds.csv"
    path.write_text("order_id,amount_minor,ticket_id\n" + "".join(f"o{at % ROWS},1,T{at}\n" for at in range(rows)))
    file = bootstrap.read_file(path, options=ReadOptions())

    def never() -> bool:
        asked.append(True)
        return False

    async with bootstrap.desk(settings) as desk:
        account = f"{world.server.account}|test"
        batch, _ = await desk.writer.put(lambda unit: batches.accept(unit, account, file, "", SYSTEM))
        await planner_of(desk, desk.seats[0]).plan(batch, lease="this", until=never)
        assert totals(desk.database, batch).standings[Standing.WAITING] == rows
    # Two of fifty before the list is there, one of five hundred, and the looks that find no more.
    assert len(asked) < rows // SLICE // 2 + 2


@on_one
async def test_orders_of_thousands_of_charges_are_found_by_parallel_lists_and_one_with_two_far_apart_is_not_guessed(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    minutes, first = 2400, 1_770_000_000
    rows = [{"order_id": f"b{at}", "amount_minor": 1000, "created": first + 60 * at} for at in range(minutes)]
    rows.append({"order_id": "b0", "amount_minor": 1000, "created": first + 60 * minutes})
    world.server.control("POST /_sim/load", {"charges": [{"currency": "gbp", **row} for row in rows]})
    world.server.control("DELETE /_sim/calls")
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings) as desk:
        wanted = {f"b{at}": "1.00" for at in range(0, minutes, 7)}
        batch = await handed_in(desk, world.server.account, wanted, tmp_path)
        await planner_of(desk, desk.seats[0]).plan(batch, lease="this", until=lambda: False)
        told = totals(desk.database, batch)
    assert told.standings[Standing.WAITING] == len(wanted) - 1
    assert told.reasons["ambiguous_order"] == 1
    asked = world.server.control("GET /_sim/calls")["operations"]
    [listed] = [times["calls"] for name, times in asked.items() if "charges" in name]
    pages = -(-len(rows) // 100) + 1
    assert pages <= listed <= pages + 3


@on_one
@pytest.mark.parametrize("listing", ["first", "second"])
async def test_a_stop_ends_the_listing_of_charges_whichever_slice_lists_and_the_next_run_goes_on(
    world: World, database: HandDatabase, tmp_path: Path, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes, first = 6000, 1_770_000_000
    rows = [{"order_id": f"b{at}", "amount_minor": 1000, "created": first + 60 * at} for at in range(minutes)]
    world.server.control("POST /_sim/load", {"charges": [{"currency": "gbp", **row} for row in rows]})
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings) as desk:
        wanted = {f"b{at}": "1.00" for at in range(0, minutes, 60)}
        batch = await handed_in(desk, world.server.account, wanted, tmp_path)
        pacer, planner = desk.seats[0].pacer, planner_of(desk, desk.seats[0])
        planner.slice = len(wanted) // SLICES_AHEAD
        before, few = pacer.taken_count, 3
        sliced, list_charges, begun = planner._sliced, planner._list_charges, asyncio.Event()

        async def in_order(of: Batch, rows: list[BatchRow]) -> object:
            if listing == "second" and rows[0].number == 1:
                await begun.wait()
            return await sliced(of, rows)

        async def begin(pages_max: int) -> None:
            begun.set()
            await list_charges(pages_max)

        monkeypatch.setattr(planner, "_sliced", in_order)
        monkeypatch.setattr(planner, "_list_charges", begin)
        await planner.plan(batch, lease="this", until=lambda: pacer.taken_count >= before + few)
        # So many pages are on their way at once, or wait to be mirrored; and no row's order is searched for instead.
        assert pacer.taken_count - before <= few + LISTS
        assert totals(desk.database, batch).reasons["not_looked_up"] == len(wanted)
        await planner.plan(batch, lease="other", until=lambda: False)
        assert totals(desk.database, batch).standings[Standing.WAITING] == len(wanted)


@on_one
async def test_a_charge_is_listed_that_stripe_dates_later_than_a_clock_that_is_behind(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    world.server.move(3600)
    now = world.server.control("GET /_sim/clock")["now"]
    second = {"order_id": "o0", "amount_minor": 1000, "currency": "gbp", "created": int(now) - 60}
    world.server.control("POST /_sim/load", {"charges": [second]})
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings) as desk:
        batch = await handed_in(desk, world.server.account, {"o0": "1.00", "o1": "1.00"}, tmp_path)
        await planner_of(desk, desk.seats[0]).plan(batch, lease="this", until=lambda: False)
        told = totals(desk.database, batch)
    assert told.reasons["ambiguous_order"] == 1
    assert told.standings[Standing.WAITING] == 1


@on_one
async def test_while_one_look_up_is_late_those_of_the_next_rows_are_made(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings, look = world.settings(database.url, tmp_path), "GET /v1/charges/{charge}"
    # Longer than the others may take on any machine: nobody waits for its end.
    late = {"kind": "latency", "operation": look, "milliseconds": 1000 * DEADLINE_SECONDS, "times": 1}
    world.server.control("POST /_sim/faults", {"rules": [late]})
    world.server.control("DELETE /_sim/calls")
    path = tmp_path / "refunds.csv"
    path.write_text("charge_id,amount_minor,ticket_id\n" + "".join(f"ch_{at},100,T{at}\n" for at in range(3 * SLICE)))
    file = bootstrap.read_file(path, options=ReadOptions())

    def looks() -> int:
        return int(world.server.control("GET /_sim/calls")["operations"].get(look, {"calls": 0})["calls"])

    async with bootstrap.desk(settings) as desk:
        account = f"{world.server.account}|test"
        batch, _ = await desk.writer.put(lambda unit: batches.accept(unit, account, file, "", SYSTEM))
        planning = asyncio.create_task(planner_of(desk, desk.seats[0]).plan(batch, lease="this", until=lambda: False))
        await until_true(lambda: looks() >= 2 * SLICE - 1)
        seen = looks()
        with desk.database.reading() as unit:
            first = batches.next_unplanned(unit, batch.id)[0].number
        # The late one is of the first slice, or of the second that is looked up beside it.
        assert first in {1, SLICE + 1}
        # And no third is: what is looked up too early is old when it is paid.
        assert seen <= first - 1 + 2 * SLICE
        planning.cancel()
        await asyncio.gather(planning, return_exceptions=True)
    world.server.control("POST /_sim/faults", {"rules": []})


@on_one
async def test_charges_are_looked_at_while_those_before_them_are_saved(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, look = world.settings(database.url, tmp_path), "GET /v1/charges/{charge}"
    loaded = [{"order_id": f"late{at}", "amount_minor": 1000, "currency": "gbp"} for at in range(SLICE)]
    world.server.control("POST /_sim/load", {"charges": loaded})
    page = called(world.server, f"GET /v1/charges?limit={SLICE}", world.server.account)["data"]
    ids = [charge["id"] for charge in page]
    path = tmp_path / "refunds.csv"
    path.write_text("charge_id,amount_minor,ticket_id\n" + "".join(f"{one},100,T{one}\n" for one in ids))
    world.server.control("DELETE /_sim/calls")

    def looks() -> int:
        return int(world.server.control("GET /_sim/calls")["operations"].get(look, {"calls": 0})["calls"])

    async with bootstrap.desk(settings) as desk:
        account = f"{world.server.account}|test"
        file = bootstrap.read_file(path, options=ReadOptions())
        batch, _ = await desk.writer.put(lambda unit: batches.accept(unit, account, file, "", SYSTEM))
        planner, saved = planner_of(desk, desk.seats[0]), asyncio.Event()
        put = desk.writer.put

        async def late(work: Callable[[Unit], Any], *, needs: Needs = NOTHING, alone: bool = False) -> object:
            if needs.charge:
                await saved.wait()
            return await put(work, needs=needs, alone=alone)

        monkeypatch.setattr(planner, "_writer", SimpleNamespace(put=late, aside=desk.writer.aside))
        planning = asyncio.create_task(planner.plan(batch, lease="this", until=lambda: False))
        # More than are asked for at once; and nothing of them is saved yet.
        assert LOOKUPS < SLICE
        await until_true(lambda: looks() == SLICE)
        saved.set()
        await planning
        assert totals(desk.database, batch).standings[Standing.WAITING] == SLICE


async def test_two_processes_ask_stripe_about_a_file_once(world: World, database: HandDatabase, tmp_path: Path) -> None:
    settings = world.settings(database.url, tmp_path)
    world.server.control("DELETE /_sim/calls")
    async with bootstrap.desk(settings) as one, bootstrap.desk(settings) as two:
        batch = await handed_in(one, world.server.account, {f"o{at}": "1.00" for at in range(ROWS)}, tmp_path)
        planners = {name: planner_of(desk, desk.seats[0]) for name, desk in (("one", one), ("two", two))}
        await asyncio.gather(*(it.plan(batch, lease=name, until=lambda: False) for name, it in planners.items()))
        assert totals(one.database, batch).standings[Standing.WAITING] == ROWS
    asked = world.server.control("GET /_sim/calls")["operations"]
    assert {name: times["calls"] for name, times in asked.items() if "charges" in name} == {"GET /v1/charges": 1}


@on_one
async def test_a_worker_ends_after_what_it_has_sent_though_planning_has_failed(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, failed = world.settings(database.url, tmp_path), asyncio.Event()
    plan, tries, drains = Planner.plan, list[str](), list[int]()

    async with bootstrap.desk(settings) as desk:
        answered = first_unanswered(desk, monkeypatch)

        async def failing(self: Planner, batch: Batch, *, lease: str, until: Callable[[], bool]) -> None:
            tries.append(batch.id)
            await plan(self, batch, lease=lease, until=until)
            await until_true(lambda: on_their_way(desk.database) == 1)
            failed.set()
            raise DatabaseUnusable("two processes waited for each other", code="database_busy")

        monkeypatch.setattr(Planner, "plan", failing)
        async with working(desk, settings) as worker:
            batch = await handed_in(desk, world.server.account, {"o0": "1.00"}, tmp_path)
            await asyncio.wait_for(failed.wait(), DEADLINE_SECONDS)
            # As the sweeper does, which finds that lane at work.
            worker.begin(f"{world.server.account}|test", Lane.BULK)
            drains.append(len(worker._runs))
            answered.set()
        assert totals(desk.database, batch).standings.get(Standing.PAID, 0) == 1
    assert (len(tries), drains) == (1, [1])


@on_one
async def test_what_is_begun_in_the_moment_in_which_a_run_ends_is_worked_on(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, at_end, go_on = world.settings(database.url, tmp_path), asyncio.Event(), asyncio.Event()
    account, drain = f"{world.server.account}|test", Executor.drain

    async def held(self: Executor, lane: Lane, *, until: Callable[[], bool]) -> int:
        total = await drain(self, lane, until=until)
        at_end.set()
        await go_on.wait()
        return total

    async def nobody_sweeps(self: Worker, engine: Engine) -> None:
        """Else it is found a second later."""

    monkeypatch.setattr(Executor, "drain", held)
    monkeypatch.setattr(Worker, "_swept", nobody_sweeps)
    async with bootstrap.desk(settings) as desk, working(desk, settings) as worker:
        worker.begin(account, Lane.DESK)
        await asyncio.wait_for(at_end.wait(), DEADLINE_SECONDS)
        request = await asked(desk, account, two_charges(world)[0])
        worker.begin(account, Lane.DESK)
        go_on.set()
        await until_true(lambda: state(desk, request) is State.SETTLED)


@on_one
@pytest.mark.parametrize("when", ["before it begins", "while it works"])
async def test_what_an_older_program_left_unknown_without_its_task_gets_it(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """As where one on the same Postgres gives up what it had sent while, or after, a newer one has upgraded the database."""
    monkeypatch.setattr(main, "FORGET_SECONDS", 0.0)
    settings, charge = world.settings(database.url, tmp_path), two_charges(world)[0]

    async def left(desk: Desk) -> str:
        request = await asked(desk, f"{world.server.account}|test", charge)
        unknown = {
            "state": "outcome_unknown",
            "amount_minor": 100,
            "reserved_minor": 100,
            "attempt": 1,
            "reason_text": "nobody knows",
        }
        change = sa.update(refund_requests).where(refund_requests.c.id == request).values(unknown)
        await desk.writer.put(lambda unit: unit.connection.execute(change) and None)
        return request

    async with bootstrap.desk(settings) as desk:
        request = await left(desk) if when == "before it begins" else ""
        async with working(desk, settings) as worker:
            await worker.executing.wait()
            request = request or await left(desk)
            await until_true(lambda: told_of(desk) == [request])
    assert told_of(desk) == [request]


def told_of(desk: Desk) -> list[str | None]:
    """Tell the requests that have an open task about an unknown outcome."""
    with desk.database.reading() as unit:
        return [
            task.request for one in desk.seats for task in tasks.page(unit, one.account.name, ["outcome_unknown"], 9)
        ]
