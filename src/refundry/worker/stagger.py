"""Keeps the batches of an account to their schedules: lets the next rows go, calls back those whose time is over, reads the balance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import DAY_SECONDS, Batch
from refundry.batches.service import Purse
from refundry.charges import service as charges
from refundry.gateways.base import GatewayError, PaymentGateway
from refundry.infra.db import Database, Unit
from refundry.infra.logs import logger
from refundry.infra.pace import Pacer
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import SeenRefund
from refundry.worker.executor import REFUND

Result = TypeVar("Result")
# Rows are let go for so many seconds of work: enough that nobody waits between two turns, few to call back when a window closes.
AHEAD_SECONDS = 20.0
# Without a limit of Stripe's, this many.
AHEAD_ROWS = 1500


class Stagger:
    """Takes the turns of one account's batches.

    Args:
        gateway: Stripe, for the balance.
        pacer: Tells how fast rows can be paid.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
    """

    def __init__(self, gateway: PaymentGateway, pacer: Pacer, database: Database, writer: Writer, clock: Clock) -> None:
        """Keep the parts."""
        self._gateway = gateway
        self._pacer = pacer
        self._database = database
        self._writer = writer
        self._clock = clock
        # Before this time, by the boot clock, the balance is not asked for again for a batch for which that has failed.
        self._again_at: dict[str, float] = {}
        # Since when refunds were made whose money has not left the balance, and the day of Stripe's for which that was asked.
        self._leaving_since, self._leaving_day = 0.0, -1
        # Those of them that were not known here then: by others, before anybody followed.
        self._unknown: list[SeenRefund] = []

    async def turn(self, batch: Batch) -> None:
        """Take a batch's turn; taken more often than needed, it does nothing."""
        await self._read_balance(batch)
        rate = self._pacer.rate_of(REFUND)
        ahead = max(math.ceil(rate * AHEAD_SECONDS), 1) if rate else AHEAD_ROWS
        # In a unit of its own: it may pause all of a large batch.
        await self._writer.put(lambda unit: batches.release(unit, batch.id, ahead), long=True)

    async def _read_balance(self, batch: Batch) -> None:
        """Read the balance, if the batch needs it; where it cannot be read, the last one is believed for a while, and then none."""
        if self._clock.boot_seconds() < self._again_at.get(batch.id, 0.0) or await self._purse(batch) is None:
            return
        try:
            await self._ask_what_leaves()
            # Again, since that may have taken a while: what is known from before the balance is read has to be of then.
            before = await self._purse(batch)
            if before is None:
                return
            available = await self._gateway.balance()
        except GatewayError as error:
            logger().warning("balance.not_read", batch=batch.id, code=error.code, why=error.message)
            # What does not pass by itself is not asked for more often than a balance that is waited for.
            again = batches.BALANCE_SECONDS if error.passing else batches.BALANCE_IDLE_SECONDS
            self._again_at[batch.id], why = self._clock.boot_seconds() + again, error.message
            await self._writer.put(lambda unit: batches.note_unread(unit, batch.id, why))
            if error.shut_out:
                # Perhaps nothing else is asked for: say so once, and stop asking.
                await self._writer.put(lambda unit: accounts.hold(unit, batch.account, why))
            return
        await self._writer.put(lambda unit: batches.note_balance(unit, batch.id, before, available))

    async def _purse(self, batch: Batch) -> Purse | None:
        since, unknown = self._leaving_since, self._unknown
        return await self._read(lambda unit: batches.purse(unit, batch.id, since, unknown))

    async def _ask_what_leaves(self) -> None:
        """Ask which refunds have not left the balance, once in a day of Stripe's: they leave it at midnight UTC."""
        now = self._gateway.stripe_now()
        day = -1 if now is None else int(now // DAY_SECONDS)
        if day < 0 or day != self._leaving_day:
            since, unknown = await self._gateway.leaving_since(), list[SeenRefund]()
            # By Stripe's clock, which dates them, and a day beyond: what is made while the list is read is not to be missed.
            until = (self._gateway.stripe_now() or self._clock.now()) + DAY_SECONDS
            async for page in self._gateway.refunds(since, until, Lane.DESK):
                unknown += await self._read(lambda unit, some=page: charges.refunds_unknown(unit, some))  # type: ignore[misc]
            self._leaving_since, self._unknown, self._leaving_day = since, unknown, day

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)
