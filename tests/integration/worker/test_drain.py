"""A lane that is drained for as long as anything is due: what is lost on the way falls due again, and what has waited is decided again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from refundry.infra.db import DatabaseUnusable, Unit
from refundry.infra.pace import Limits, Pacer
from refundry.infra.writer import InlineWriter
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.worker.executor import LEASE_SECONDS, REFUND
from tests.integration.worker.test_executor import ACCOUNT, Bench, bench
from tests.support.clock import HandClock

__all__ = ["bench"]
pytestmark = pytest.mark.integration


def paced(bench: Bench, clock: HandClock, rate: float) -> Pacer:
    """Let it send so many a second, and no more."""
    pacer = Pacer(Limits(rate, rate), 0.0, InlineWriter(bench.database), clock)
    pacer.serve(ACCOUNT)
    bench.executor._pacer = pacer
    return pacer


def draining(bench: Bench) -> asyncio.Task[int]:
    """Drain as a worker does: until the process is asked to end."""
    return asyncio.create_task(bench.executor.drain(Lane.DESK, until=lambda: False))


async def second(bench: Bench, clock: HandClock) -> None:
    """Let a second pass; the sweeper stirs once in each."""
    await clock.run(1.0)
    bench.sim.clock.move(by=1.0)
    bench.executor.stir(Lane.DESK)


async def ended(task: asyncio.Task[int], pacer: Pacer, clock: HandClock) -> None:
    """Cancel it, once nobody who is on its way waits for a slot any more."""
    await pacer.close()
    task.cancel()
    while not task.done():
        await clock.run(1.0)


@pytest.mark.parametrize("how", ["paused and resumed", "slept longer than its lease"])
async def test_what_is_claimed_again_while_it_waits_for_its_slot_is_paid(
    bench: Bench, clock: HandClock, how: str
) -> None:
    slept = how.startswith("slept")
    rate = 0.05 if slept else 0.5
    some = [await bench.requested(100, f"key:{n}", looked=True) for n in range(2)]
    pacer = paced(bench, clock, rate)
    bench.executor.flight_max = lambda: 4
    await pacer.take(REFUND, Lane.DESK)
    task = draining(bench)
    await clock.run(0.5)
    if slept:
        await clock.run(4.0)
        clock.move(LEASE_SECONDS + 0.1)
        bench.sim.clock.move(by=LEASE_SECONDS + 4.1)
    else:
        named = [one.id for one in some]
        with bench.database.unit() as unit:
            assert refunds.stop(unit, named, SYSTEM) == 2
        with bench.database.unit() as unit:
            assert refunds.go_on(unit, named, SYSTEM) == 2
    bench.executor.stir(Lane.DESK)
    for _ in range(int(20 / rate)):
        await second(bench, clock)
    states = [bench.now(one).state for one in some]
    await ended(task, pacer, clock)
    assert states == [State.SETTLED] * 2
    assert await bench.made() == 2


def never_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch, request: RefundRequest) -> asyncio.Event:
    """Let one send have no answer until the event is set: its lane is worked on for so long."""
    send, answered = bench.executor._gateway.send, asyncio.Event()

    async def late(body: Any, key: str) -> Any:
        if body.charge == request.content.charge:
            await answered.wait()
        return await send(body, key)

    monkeypatch.setattr(bench.executor._gateway, "send", late)
    return answered


async def test_what_could_not_be_written_once_falls_due_again_though_its_lane_is_never_empty(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, first, other = [await bench.requested(1200, f"key:{number}", looked=True) for number in range(3)]
    answered = never_answered(bench, monkeypatch, late)
    record, lost = refunds.record, list[str]()

    def cut_off(unit: Unit, intent: Any, *more: Any) -> Any:
        if intent.attempt.request == first.id and not lost:
            lost.append(intent.attempt.request)
            raise DatabaseUnusable("locked for longer than it should", code="database_busy")
        return record(unit, intent, *more)

    monkeypatch.setattr(refunds, "record", cut_off)
    task = draining(bench)
    for _ in range(90):
        await second(bench, clock)
    assert lost
    assert [bench.now(one).state for one in (late, first, other)] == [State.SUBMITTING, State.SETTLED, State.SETTLED]
    answered.set()
    await task


async def test_a_slot_that_could_not_be_reserved_once_keeps_nobody_waiting(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, *old = [await bench.requested(100, f"key:{number}", looked=True) for number in range(10)]
    answered = never_answered(bench, monkeypatch, late)
    pacer, begun, lost = paced(bench, clock, 1.0), clock.boot_seconds(), list[float]()
    reserve = pacer._reserve

    def cut_off(*args: Any, **more: Any) -> Any:
        if clock.boot_seconds() > begun + 3 and not lost:
            lost.append(clock.boot_seconds())
            raise DatabaseUnusable("two processes waited for each other", code="database_busy")
        return reserve(*args, **more)

    pacer._reserve = cut_off  # type: ignore[method-assign]
    task = draining(bench)
    for _ in range(60):
        await second(bench, clock)
    assert lost
    assert [bench.now(one).state for one in (late, *old)] == [State.SUBMITTING] + [State.SETTLED] * 9
    answered.set()
    await task
    await pacer.close()


async def test_a_claim_that_fails_once_keeps_nobody_waiting_for_an_answer_to_somebody_else(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bench.requested(100, "key:1", looked=True)
    answered = never_answered(bench, monkeypatch, first)
    task = draining(bench)
    await second(bench, clock)
    claim, lost = refunds.claim, list[bool]()

    def cut_off(*args: Any, **more: Any) -> Any:
        if not lost:
            lost.append(True)
            raise DatabaseUnusable("locked for longer than it should", code="database_busy")
        return claim(*args, **more)

    monkeypatch.setattr(refunds, "claim", cut_off)
    other = await bench.requested(100, "key:2", looked=True)
    for _ in range(3):
        await second(bench, clock)
    assert lost
    assert [bench.now(one).state for one in (first, other)] == [State.SUBMITTING, State.SETTLED]
    answered.set()
    while not task.done():
        await clock.run(1.0)
    assert bench.now(first).state is State.SETTLED


async def test_a_claim_that_fails_while_nothing_is_on_its_way_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any, **__: Any) -> Any:
        raise DatabaseUnusable("the disk is full", code="database_full")

    monkeypatch.setattr(refunds, "claim", cut_off)
    with pytest.raises(DatabaseUnusable):
        await bench.drain()


async def absent(bench: Bench, clock: HandClock) -> tuple[RefundRequest, Pacer, asyncio.Task[None]]:
    """Bring a request to where its attempt is proven absent, and the next one waits nine seconds for its slot."""
    request = await bench.requested(1200)
    fault = {"kind": "error_stored", "operation": REFUND, "times": 1}
    await bench.sim.control("POST /_sim/faults", {"rules": [fault]})

    def attempt() -> Any:
        with bench.database.reading() as unit:
            (only,) = refunds.attempts(unit, request.id)
        return only

    # The next look proves it.
    await bench.drain()
    while not attempt().looks:
        clock.move(120)
        bench.sim.clock.move(by=120)
        await bench.drain()
    clock.move(120)
    bench.sim.clock.move(by=120)
    pacer = paced(bench, clock, 0.1)
    await pacer.take(REFUND, Lane.DESK)
    task = asyncio.create_task(bench.drain())
    await clock.run(1.0)
    assert attempt().absent
    return request, pacer, task


async def test_a_next_attempt_is_decided_again_after_it_has_waited_for_its_slot(bench: Bench, clock: HandClock) -> None:
    request, pacer, task = await absent(bench, clock)
    # Somebody pays it in Stripe's dashboard meanwhile, and its event is taken in.
    made = await bench.sim.call("POST /v1/refunds", charge=request.content.charge, amount=1200)
    look = await bench.executor._gateway.look(request.content.charge, Lane.DESK)
    (by_hand,) = (one for one in look.refunds if one.id == made["id"])
    with bench.database.unit() as unit:
        assert refunds.heard(unit, ACCOUNT, by_hand, unit.now)
    while not task.done():
        await clock.run(1.0)
    await pacer.close()
    after = bench.now(request)
    assert (after.state, after.reason_code) == (State.DECLINED, "possible_repeat")
    assert await bench.made() == 1


async def test_a_next_attempt_looks_again_after_a_long_wait(bench: Bench, clock: HandClock) -> None:
    request, pacer, task = await absent(bench, clock)
    bench.executor._pay = bench.executor._pay.model_copy(update={"look_max_age": 2.0})
    # Somebody pays it in Stripe's dashboard meanwhile, and nobody has heard of it.
    await bench.sim.call("POST /v1/refunds", charge=request.content.charge, amount=1200)
    while not task.done():
        await clock.run(1.0)
        bench.sim.clock.move(by=1.0)
    await pacer.close()
    assert (bench.now(request).state, bench.now(request).reason_code) == (State.DECLINED, "possible_repeat")
    assert await bench.made() == 1


async def test_a_next_attempt_is_not_sent_once_its_batch_was_taken_back_while_it_waited(
    bench: Bench, clock: HandClock
) -> None:
    request, pacer, task = await absent(bench, clock)
    bench.executor.taken_back = lambda _unit, request_id: request_id == request.id
    while not task.done():
        await clock.run(1.0)
    await pacer.close()
    assert (bench.now(request).state, bench.now(request).reason_code) == (State.DECLINED, "withdrawn")
    assert await bench.made() == 0
