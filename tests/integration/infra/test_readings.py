"""What one process has seen of Stripe's calls, another reads; nothing is written twice, and nothing is kept for long."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from refundry.infra.readings import KEEP_SECONDS, SLICE_SECONDS, Meter, Reading, Recorder, read, table
from refundry.infra.writer import InlineWriter
from tests.support.clock import HandClock
from tests.support.database import HandDatabase

pytestmark = pytest.mark.integration
ACCOUNT, SEND, LOOK = "acct_1|test", "POST /v1/refunds", "GET /v1/charges/{charge}"


class Process:
    """A process that makes calls, and writes once a second what it has seen."""

    def __init__(self, database: HandDatabase, clock: HandClock, name: str = "one:1", account: str = ACCOUNT) -> None:
        self.meter = Meter()
        self.recorder = Recorder(account, name, self.meter, clock)
        self.writer, self.clock = InlineWriter(database), clock

    async def calls(self, seconds: int, per_second: int, took: float = 0.25, operation: str = SEND) -> None:
        for _ in range(seconds):
            for _ in range(per_second):
                self.meter.took(operation, took)
            self.clock.move(1.0)
            await self.recorder.turn(self.writer)


def seen(database: HandDatabase, account: str = ACCOUNT) -> Reading:
    with database.reading() as unit:
        return read(unit, account, times_seconds=60.0, rate_seconds=15.0)


def rows(database: HandDatabase) -> int:
    with database.reading() as unit:
        return int(unit.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


async def test_another_process_reads_rates_times_and_429s(database: HandDatabase, clock: HandClock) -> None:
    one = Process(database, clock)
    for _ in range(30):
        one.meter.took(LOOK, 0.08)
        await one.calls(1, 11)
    one.meter.turned_away("endpoint-rate")
    await one.calls(1, 11)
    reading = seen(database)
    assert reading.rates[SEND] == pytest.approx(11.0, rel=0.05)
    assert reading.rates[LOOK] == pytest.approx(1.0, rel=0.1)
    assert reading.times[SEND].count == 31 * 11
    assert 0.2 < (reading.times[SEND].at(0.95) or 0) <= 0.25
    assert reading.limited == {"endpoint-rate": 1}


async def test_rates_of_several_processes_add_up_and_accounts_stay_apart(
    database: HandDatabase, clock: HandClock
) -> None:
    one, two = Process(database, clock), Process(database, clock, "two:2")
    other = Process(database, clock, account="acct_2|test")
    for _ in range(12):
        for process, count in ((one, 5), (two, 7), (other, 3)):
            for _ in range(count):
                process.meter.took(SEND, 0.1)
        clock.move(1.0)
        for process in (one, two, other):
            await process.recorder.turn(process.writer)
    assert seen(database).rates[SEND] == pytest.approx(12.0, rel=0.05)
    assert seen(database, "acct_2|test").rates[SEND] == pytest.approx(3.0, rel=0.05)


async def test_who_makes_no_calls_writes_nothing_and_has_no_rate(database: HandDatabase, clock: HandClock) -> None:
    one = Process(database, clock)
    await one.calls(3, 10)
    assert rows(database) == 1
    with database.reading() as unit:
        before = unit.connection.execute(sa.select(table)).all()
    await one.calls(7, 0)
    with database.reading() as unit:
        assert unit.connection.execute(sa.select(table)).all() == before
    assert seen(database).rates == {}
    assert seen(database).times[SEND].count == 30


async def test_a_pause_between_two_runs_is_not_taken_for_slowness(database: HandDatabase, clock: HandClock) -> None:
    one = Process(database, clock)
    await one.calls(3, 10)
    clock.move(600.0)
    await one.recorder.turn(one.writer)
    await one.calls(3, 10)
    assert seen(database).rates[SEND] == pytest.approx(10.0, rel=0.05)
    assert seen(database).times[SEND].count == 30


async def test_a_row_lasts_ten_seconds_and_is_forgotten_after_an_hour(database: HandDatabase, clock: HandClock) -> None:
    one = Process(database, clock)
    await one.calls(60, 1)
    assert 60 / SLICE_SECONDS <= rows(database) <= 60 / SLICE_SECONDS + 1
    one.meter.turned_away("global-rate")
    clock.move(KEEP_SECONDS + 60.0)
    assert seen(database) == Reading({}, {}, {})
    await one.calls(2, 1)
    assert rows(database) == 1


async def test_rows_of_a_time_that_has_not_come_are_dropped(database: HandDatabase, clock: HandClock) -> None:
    one = Process(database, clock)
    await one.calls(3, 10)
    clock.jump(-3600.0)
    two = Process(database, clock, "two:2")
    await two.calls(3, 10)
    assert rows(database) == 1
