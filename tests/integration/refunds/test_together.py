"""Three processes' writers, webhooks and a person at the same time: nobody waits for ever, nothing is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID
from refundry.gateways.base import Lane
from refundry.infra.db import Needs, Unit
from refundry.infra.writer import NOTHING, GroupWriter
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from refundry.refunds.service import Claimed, Intent
from tests.support.builders import ACCOUNT, accepted, content, look, refund_request
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ADA, LEASE_SECONDS, ORDER_KEY, TICK, Hand

pytestmark = pytest.mark.integration

Result = TypeVar("Result")
CHARGES, OF_EACH, PROCESSES = 12, 3, 3
STOPS = 4
# Twice what it takes on a slow machine; in rounds, each of which commits at least once.
ROUNDS_MAX = 3000


class Stripe:
    """Makes each refund once by its key, and remembers what webhooks have to tell."""

    def __init__(self) -> None:
        self.refunds: dict[str, SeenRefund] = {}
        self.events: list[SeenRefund] = []

    def send(self, intent: Intent) -> SeenRefund:
        if intent.attempt.key not in self.refunds:
            made = accepted(intent.claimed.request, refund_id=f"re_{intent.attempt.key}").refund
            self.refunds[intent.attempt.key] = made
            self.events.append(made)
        return self.refunds[intent.attempt.key]

    def of(self, charge: str) -> tuple[SeenRefund, ...]:
        return tuple(refund for refund in self.refunds.values() if refund.charge == charge)


class Process:
    """A process with its own writer. `told` is what it tells the writer about the charge of each piece."""

    def __init__(self, number: int, database: HandDatabase, clock: HandClock, stripe: Stripe) -> None:
        self.writer = GroupWriter(database)
        self.lease = f"lease-{number}"
        self.clock = clock
        self.stripe = stripe
        self.done = False

    async def put(self, work: Callable[[Unit], Result], needs: Needs = NOTHING) -> Result:
        self.clock.move(TICK)
        return await self.writer.put(work, needs=needs)

    async def work(self) -> None:
        """Claim and pay, every request of a slice on its own."""
        for _ in range(ROUNDS_MAX):
            if self.done:
                return
            claimed = await self.put(
                lambda unit: refunds.claim(unit, ACCOUNT, Lane.BULK, self.lease, seconds=LEASE_SECONDS, most=5)
            )
            await asyncio.gather(*(self.pay(one) for one in claimed))

    async def pay(self, claimed: Claimed) -> None:
        charge = claimed.request.content.charge
        needs = Needs(charge, claimed.request.id)
        seen = look(charge, refunds=self.stripe.of(charge), began_at=self.clock.now())
        await self.put(lambda unit: charges.mirror(unit, ACCOUNT, [seen], ORDER_KEY), needs)
        approved = await self.put(lambda unit: refunds.judge(unit, claimed, known=True, age_max_days=0), needs)
        if approved is not None:
            at = self.clock.now()
            intent = await self.put(
                lambda unit: refunds.submit(unit, approved, at=at, stripe_at=at, look_max_age=600, age_max_days=0),
                needs,
            )
            if intent is not None:
                outcome = accepted(intent.claimed.request, refund_id=self.stripe.send(intent).id)
                await self.put(lambda unit: refunds.record(unit, intent, outcome, unit.now), needs)
        await self.put(lambda unit: refunds.release(unit, claimed), needs)

    async def hear(self) -> None:
        """Take events in at the very moment when answers come, the latest first."""
        for _ in range(ROUNDS_MAX):
            if self.done and not self.stripe.events:
                return
            some, self.stripe.events = self.stripe.events[::-1], []
            if not some:
                await self.put(lambda _: None)
            await asyncio.gather(*(self.heard(refund) for refund in some))

    async def heard(self, refund: SeenRefund) -> None:
        assert await self.put(lambda unit: refunds.found(unit, ACCOUNT, refund), Needs(refund.charge))

    async def steer(self, ids: list[str]) -> None:
        """Stop everything and let it go on, a few times; then see that all of it comes to its end."""
        for _ in range(STOPS):
            await self.put(lambda unit: refunds.stop(unit, ids, ADA))
            await self.put(lambda unit: refunds.go_on(unit, ids, ADA))
        for _ in range(ROUNDS_MAX):
            kept = await self.put(lambda unit: refunds.many(unit, ids))
            if all(request.state is State.SETTLED for request in kept.values()):
                return


async def test_everybody_at_once_pays_each_request_once(database: HandDatabase, clock: HandClock) -> None:
    stripe, hand = Stripe(), Hand(database, clock)
    wanted = [
        refund_request(f"key:{charge}:{n}", asked=content(charge=f"ch_{charge}", asked_minor=1000 + n))
        for n in range(OF_EACH)
        for charge in range(CHARGES)
    ]
    for charge in range(CHARGES):
        hand.looked(f"ch_{charge}")
    hand.receive(*wanted)
    processes = [Process(number, database, clock, stripe) for number in range(PROCESSES + 2)]
    *workers, listener, person = processes
    for process in processes:
        process.writer.start()
    try:
        running = [asyncio.ensure_future(worker.work()) for worker in workers]
        running.append(asyncio.ensure_future(listener.hear()))
        await person.steer([request.id for request in wanted])
        for process in processes:
            process.done = True
        await asyncio.gather(*running)
    finally:
        for process in processes:
            await process.writer.stop()
    assert [hand.find(request).state for request in wanted] == [State.SETTLED] * len(wanted)
    paid = [refund.metadata[REQUEST_ID] for refund in stripe.refunds.values()]
    assert sorted(paid) == sorted(request.id for request in wanted)
    assert hand.breaks() == []
    assert all(hand.find(request).reserved_minor == 0 for request in wanted)
    assert hand.audit_is_sound()
