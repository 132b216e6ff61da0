"""The rows that are let go at once keep every slot used, with few of them waiting; in virtual time, with the real budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from refundry.infra.db import Database
from refundry.infra.pace import Limits, Pacer, note_waits
from refundry.infra.writer import InlineWriter
from refundry.kernel.lane import Lane
from refundry.worker.executor import REFUND
from refundry.worker.flight import Flight
from tests.support import virtual_time
from tests.support.database import sqlite_copy
from tests.support.virtual_time import MachineClock, VirtualLoop

pytestmark = pytest.mark.integration
LOOK = "GET /v1/charges/{charge}"
# What a row takes beside its calls: claiming, deciding, recording.
OWN_SECONDS = 0.03
Paid = Callable[..., tuple["Run", list[float]]]
HEADROOM = 0.1


class Run:
    """Rows that are worked on as the executor does, as many at once as `Flight` says."""

    def __init__(self, loop: VirtualLoop, database: Database, limits: Limits, most: int) -> None:
        self.clock = MachineClock(loop)
        self.pacer = Pacer(limits, HEADROOM, InlineWriter(database), self.clock)
        self.pacer.serve("acct_1|test")
        self.flight = Flight(self.pacer, self.clock, most)
        self.sent: list[float] = []
        self.most_at_once = 0

    async def rows(self, count: int, read_seconds: float, write_seconds: float) -> float:
        """Work on so many; tells refunds per second from the first to the last."""
        running, left, first = set[asyncio.Task[None]](), count, len(self.sent)
        while left or running:
            while left and len(running) < self.flight.rows():
                running.add(asyncio.create_task(self._row(read_seconds, write_seconds)))
                left -= 1
            self.most_at_once = max(self.most_at_once, len(running))
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        sent = self.sent[first:]
        return (len(sent) - 1) / (sent[-1] - sent[0])

    async def _row(self, read_seconds: float, write_seconds: float) -> None:
        began, waited = self.clock.boot_seconds(), note_waits()
        await asyncio.sleep(OWN_SECONDS)
        await self.pacer.take(LOOK, Lane.BULK)
        await asyncio.sleep(read_seconds)
        await self.pacer.take(REFUND, Lane.BULK)
        self.sent.append(self.clock.boot_seconds())
        await asyncio.sleep(write_seconds)
        self.flight.took(self.clock.boot_seconds() - began - waited.seconds)


@pytest.fixture
def paid(sqlite_file: Path, tmp_path: Path) -> Paid:
    """Work on stretches of rows, each with its times of reads and writes; tells the rate of each."""

    def work(limits: Limits, *stretches: tuple[int, float, float], most: int = 50) -> tuple[Run, list[float]]:
        async def main(loop: VirtualLoop) -> tuple[Run, list[float]]:
            with sqlite_copy(sqlite_file, tmp_path, MachineClock(loop)) as database:  # type: ignore[arg-type]  # a clock too
                run = Run(loop, database, limits, most)
                rates = [await run.rows(*stretch) for stretch in stretches]
                await run.pacer.close()
                return run, rates

        return virtual_time.run(main)

    return work


@pytest.mark.parametrize(("limits", "rate"), [(Limits(100, 25), 22.5), (Limits(25, 25), 11.25)])
def test_every_slot_is_used_with_far_fewer_rows_than_the_setting(paid: Paid, limits: Limits, rate: float) -> None:
    run, (reached,) = paid(limits, (200, 0.08, 0.25))
    assert reached >= 0.97 * rate
    assert run.flight.rows() <= 20


def test_a_stripe_that_becomes_slow_is_kept_as_busy(paid: Paid) -> None:
    run, (quick, slow) = paid(Limits(100, 25), (60, 0.08, 0.25), (200, 0.16, 0.75))
    assert (quick, slow) == (pytest.approx(22.5, rel=0.03), pytest.approx(22.5, rel=0.06))
    assert 30 <= run.flight.rows() <= 50


def test_no_more_than_the_setting_are_on_their_way(paid: Paid) -> None:
    run, (reached,) = paid(Limits(100, 25), (60, 0.08, 0.25), most=4)
    assert run.most_at_once == 4
    assert reached < 15
