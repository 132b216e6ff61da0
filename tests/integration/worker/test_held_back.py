"""A row whose attempt is proven to have paid nothing keeps to what a person has said of its batch before there is a next attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from refundry.batches import service as batches
from refundry.batches.model import Batch, Schedule, Window
from refundry.charges import service as charges
from refundry.connectors.base import ReadOptions
from refundry.connectors.files import reader
from refundry.infra.db import Unit
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, RefundRequest, State
from refundry.worker.executor import REFUND
from tests.integration.worker.test_executor import ACCOUNT, Bench, bench
from tests.support.builders import look
from tests.support.clock import HandClock

__all__ = ["bench"]
pytestmark = pytest.mark.integration
# The clock stands at 14:13:20 UTC, and proof takes eleven minutes.
HOURS = Window(14 * 3600, 14 * 3600 + 20 * 60, "UTC")


class Rows:
    """A batch of one row, which the bench pays as a worker does.

    Args:
        bench: The executor.
        clock: Its clock.
        batch: The batch.
    """

    def __init__(self, bench: Bench, clock: HandClock, batch: Batch) -> None:
        """Wire the executor."""
        self.bench, self.clock, self.batch = bench, clock, batch
        executor = bench.executor
        executor.came_back, executor.taken_back = batches.came_back, batches.taken_back
        executor.may_send, executor.not_sent = batches.may_send, batches.not_sent
        executor.held_back = batches.held_back

    async def goes_on(self, seconds: float) -> None:
        """Work for so long."""
        for _ in range(int(seconds // 60)):
            with self.bench.database.unit() as unit:
                batches.release(unit, self.batch.id, 50)
            await self.bench.executor.drain(Lane.BULK, until=lambda: False)
            self.clock.move(60)
            self.bench.sim.clock.move(by=60)

    def request(self) -> RefundRequest:
        with self.bench.database.reading() as unit:
            (line,) = batches.lines(unit, batches.need(unit, self.batch.id))
        assert line.request is not None
        return line.request

    def attempts(self) -> int:
        with self.bench.database.reading() as unit:
            return len(refunds.attempts(unit, self.request().id))

    def steer(self, verb: str) -> None:
        def steered(unit: Unit) -> None:
            batch = batches.need(unit, self.batch.id)
            match verb:
                case "pause":
                    batches.hold_up(unit, batch, SYSTEM)
                    batches.pause(unit, batches.need(unit, batch.id), SYSTEM)
                case "resume":
                    batches.resume(unit, batch, SYSTEM)
                case _:
                    batches.withdraw(unit, batch, SYSTEM, "not wanted")

        with self.bench.database.unit() as unit:
            steered(unit)


async def accepted(bench: Bench, clock: HandClock, folder: Path, schedule: Schedule | None) -> Rows:
    """Take a file of one row in whose first attempt comes to nothing."""
    charge, path = await bench.sim.charge(5000), folder / "refunds.csv"
    path.write_text(f"charge_id,amount_minor,ticket_id\n{charge},1200,T1\n")
    await bench.sim.control("POST /_sim/faults", {"rules": [{"kind": "error_stored", "operation": REFUND, "times": 1}]})
    with bench.database.unit() as unit:
        batch, _ = batches.accept(unit, ACCOUNT, reader.read(path, options=ReadOptions()), "", SYSTEM)
        if schedule is not None:
            batches.set_schedule(unit, batch, schedule, SYSTEM)
        seen = look(charge, captured_minor=5000, currency="usd", began_at=unit.now)
        charges.mirror(unit, ACCOUNT, [seen], "order_id")
    with bench.database.unit() as unit:
        batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM)
    return Rows(bench, clock, batch)


@pytest.mark.parametrize("schedule", [None, Schedule(max_per_day="12.00"), Schedule(canary=(1,))])
@pytest.mark.parametrize("then", ["resume", "withdraw"])
async def test_a_paused_batch_makes_no_next_attempt(
    bench: Bench, clock: HandClock, tmp_path: Path, schedule: Schedule | None, then: str
) -> None:
    rows = await accepted(bench, clock, tmp_path, schedule)
    await rows.goes_on(120)
    assert rows.request().state is State.SUBMITTING
    rows.steer("pause")
    await rows.goes_on(3600)
    request = rows.request()
    assert (request.state, request.hold and request.hold.reason) == (State.APPROVED, HeldReason.STOPPED)
    assert (rows.attempts(), await bench.made()) == (1, 0)
    rows.steer(then)
    await rows.goes_on(600)
    assert rows.request().state is (State.SETTLED if then == "resume" else State.WITHDRAWN)
    assert await bench.made() == (then == "resume")


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_withdrawn_batch_makes_no_next_attempt_of_what_was_sent_again_in_between(
    bench: Bench, clock: HandClock, tmp_path: Path, *, wanted: bool
) -> None:
    rows = await accepted(bench, clock, tmp_path, None)
    await rows.goes_on(60)
    rows.steer("withdraw")
    # In doubt, it is sent again under its key a while later, and only then gets the error that Stripe keeps.
    clock.move(1)
    await rows.goes_on(3600)
    request = rows.request()
    assert (request.state, request.reason_code) == (State.DECLINED, "withdrawn")
    assert (rows.attempts(), await bench.made()) == (1, 0)
    if wanted:
        with bench.database.unit() as unit:
            refunds.reopen(unit, request.id, SYSTEM)
        await rows.goes_on(120)
    assert await bench.made() == wanted


async def test_no_next_attempt_is_made_outside_the_hours(bench: Bench, clock: HandClock, tmp_path: Path) -> None:
    rows = await accepted(bench, clock, tmp_path, Schedule(window=HOURS, max_per_day="12.00"))
    await rows.goes_on(3600)
    request = rows.request()
    assert (request.state, request.hold and request.hold.reason) == (State.APPROVED, HeldReason.SCHEDULE)
    assert (rows.attempts(), await bench.made()) == (1, 0)
    # The next day, in its hours.
    clock.move(86_400 - 3600)
    bench.sim.clock.move(by=86_400 - 3600)
    await rows.goes_on(120)
    assert (rows.request().state, rows.attempts(), await bench.made()) == (State.SETTLED, 2, 1)
