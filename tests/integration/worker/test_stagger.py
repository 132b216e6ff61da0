"""A batch that keeps a balance, with the real gateway and the simulator in this process: what Stripe shows as available is not all there to be spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from refundry.batches import service as batches
from refundry.batches.model import Batch, Schedule
from refundry.charges import service as charges
from refundry.connectors.base import ReadOptions
from refundry.connectors.files import reader
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.worker.stagger import Stagger
from tests.integration.worker.test_executor import ACCOUNT, Bench, bench
from tests.support.builders import look
from tests.support.clock import HandClock

__all__ = ["bench"]
pytestmark = pytest.mark.integration
DAY = 86_400.0
ROWS = 12


class Keeping:
    """A batch of rows of 10.00 USD that keeps 100.00, paid as a worker does."""

    def __init__(self, bench: Bench, clock: HandClock, batch: Batch) -> None:
        """Wire the executor and the stagger."""
        self.bench, self.clock, self.batch = bench, clock, batch
        executor = bench.executor
        executor.may_send, executor.not_sent = batches.may_send, batches.not_sent
        self.stagger = Stagger(executor._gateway, executor._pacer, bench.database, executor._writer, clock)

    @classmethod
    async def accepted(cls, bench: Bench, clock: HandClock, folder: Path) -> Keeping:
        path = folder / "refunds.csv"
        made = [await bench.sim.charge(5000) for _ in range(ROWS)]
        path.write_text("charge_id,amount,ticket_id\n" + "".join(f"{c},10.00,T{n}\n" for n, c in enumerate(made)))
        with bench.database.unit() as unit:
            batch, _ = batches.accept(unit, ACCOUNT, reader.read(path, options=ReadOptions()), "", SYSTEM)
            batches.set_schedule(unit, batch, Schedule(keep_balance="100.00"), SYSTEM)
            seen = [look(c, captured_minor=5000, currency="usd", began_at=unit.now) for c in made]
            charges.mirror(unit, ACCOUNT, seen, "order_id")
        with bench.database.unit() as unit:
            batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM)
        return cls(bench, clock, batch)

    async def spendable(self, minor: int) -> None:
        """Set what can be spent of the balance, with what is about to leave it taken off."""
        await self.bench.sim.control("POST /_sim/balance", {"currency": "usd", "available": minor})

    async def goes_on(self, minutes: int) -> None:
        for _ in range(minutes):
            # One turn to see that the balance is needed, one to let rows go by it.
            for _ in range(2):
                await self.stagger.turn(self.batch)
            await self.bench.executor.drain(Lane.BULK, until=lambda: False)
            await self.passes(61)

    async def passes(self, seconds: float) -> None:
        self.clock.move(seconds)
        await self.bench.sim.move(seconds)

    def waits(self) -> str:
        with self.bench.database.reading() as unit:
            outlook = batches.outlook(unit, batches.need(unit, self.batch.id))
        assert outlook is not None
        return outlook.text

    def asked(self) -> int:
        return self.bench.executor._pacer.meter.calls["GET /v1/balance"].count

    async def paid(self) -> int:
        return len((await self.bench.sim.call("GET /v1/refunds", limit=100))["data"])

    async def available(self) -> int:
        shown = (await self.bench.sim.call("GET /v1/balance"))["available"]
        return sum(one["amount"] for one in shown if one["currency"] == "usd")


async def test_what_was_refunded_is_not_spent_again_while_stripe_still_shows_it_as_available(
    bench: Bench, clock: HandClock, tmp_path: Path
) -> None:
    keeping = await Keeping.accepted(bench, clock, tmp_path)
    await keeping.spendable(15_000)
    await keeping.goes_on(5)
    assert (await keeping.available(), await keeping.paid()) == (15_000, 5)
    await keeping.spendable(12_000)
    await keeping.goes_on(3)
    assert await keeping.paid() == 7


async def test_what_has_left_the_available_balance_is_not_taken_off_it_once_more(
    bench: Bench, clock: HandClock, tmp_path: Path
) -> None:
    keeping = await Keeping.accepted(bench, clock, tmp_path)
    await keeping.spendable(15_000)
    await keeping.goes_on(2)
    assert await keeping.paid() == 5
    # It takes two days and the midnight after them; what was kept from being spent is shown as taken now.
    await keeping.passes(3 * DAY)
    await keeping.spendable(12_000)
    assert await keeping.available() == 12_000
    await keeping.goes_on(3)
    assert await keeping.paid() == 7


async def test_a_balance_that_may_not_be_read_is_asked_for_once_a_minute_and_says_why(
    bench: Bench, clock: HandClock, tmp_path: Path
) -> None:
    keeping = await Keeping.accepted(bench, clock, tmp_path)
    await keeping.spendable(15_000)
    missing = {"kind": "forbidden", "operation": "GET /v1/balance"}
    await bench.sim.control("POST /_sim/faults", {"rules": [missing]})
    for _ in range(60):
        await keeping.stagger.turn(keeping.batch)
        await keeping.passes(1)
    assert keeping.asked() == 1
    assert "the available balance in USD is not known yet: the key has no right to GET /v1/balance" in keeping.waits()
    await bench.sim.control("DELETE /_sim/faults")
    await keeping.goes_on(2)
    assert await keeping.paid() == 5
    await keeping.passes(DAY)
    assert keeping.waits() == "the available balance in USD is not known yet"


async def test_what_others_refunded_before_anybody_followed_is_not_spent_while_stripe_still_shows_it(
    bench: Bench, clock: HandClock, tmp_path: Path
) -> None:
    keeping = await Keeping.accepted(bench, clock, tmp_path)
    by_hand = await bench.sim.charge(5000)
    await bench.sim.call("POST /v1/refunds", charge=by_hand, amount=3000)
    await keeping.spendable(15_000)
    assert await keeping.available() == 18_000
    await keeping.goes_on(3)
    assert await keeping.paid() == 1 + 5
    # Nor is it taken off twice once somebody has looked at it.
    seen = await bench.executor._gateway.look(by_hand, Lane.BULK)
    with bench.database.unit() as unit:
        charges.mirror(unit, ACCOUNT, [seen], "order_id")
    await keeping.spendable(12_000)
    await keeping.goes_on(3)
    assert await keeping.paid() == 1 + 7
