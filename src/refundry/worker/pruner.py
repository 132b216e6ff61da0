"""The pruner: forgets events and messages that have been over for long, a few at a time, so that nobody waits for it.

What waits or is parked is kept, and so are the rows that everything is decided by: requests, charges, disputes, tasks, the audit log, and
what was last told of each order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from refundry.audit import service as audit
from refundry.inbox import service as inbox
from refundry.infra.db import DatabaseUnusable, Unit
from refundry.infra.logs import logger
from refundry.infra.settings import KeepSettings
from refundry.infra.writer import Writer
from refundry.kernel.actor import SYSTEM
from refundry.outbox import service as outbox

DAY = 86_400.0
# What is kept for months need not go by the hour.
EVERY_SECONDS = DAY
# Deleted together, in the time of a few payments; with the pauses a million rows take an hour and a half.
SLICE = 200
PAUSE_SECONDS = 1.0
# After a database that was lost, or a fault of ours, it is tried again this much later.
LOST_SECONDS = 60.0


@dataclass(slots=True)
class Pruned:
    """What a run has forgotten."""

    events: int = 0
    messages: int = 0


class Pruner:
    """Forgets what is over.

    Args:
        writer: For what is deleted.
        keep: For how long what is kept.
    """

    def __init__(self, writer: Writer, keep: KeepSettings) -> None:
        """Keep the parts."""
        self._writer = writer
        self._keep = keep
        self._log = logger()

    async def run(self, until: asyncio.Event) -> None:
        """Prune now and then, until told to stop; what goes wrong is told, and tried again."""
        log = self._log
        while not until.is_set():
            rest = EVERY_SECONDS
            try:
                await self.turn(until, PAUSE_SECONDS)
            except DatabaseUnusable as error:
                log.warning("prune.interrupted", code=error.code, why=error.message)
                rest = LOST_SECONDS
            except Exception:
                log.exception("prune.interrupted")
                rest = LOST_SECONDS
            await _wait(until, rest)

    async def turn(self, until: asyncio.Event, pause_seconds: float = 0.0) -> Pruned:
        """Forget all that is old enough, or as much of it as there is time for; what was forgotten is written to the audit log, once."""
        done = Pruned()
        try:
            if self._keep.events_days:
                await self._events(done, until, pause_seconds)
            if self._keep.messages_days:
                await self._messages(done, until, pause_seconds)
        finally:
            if done.events or done.messages:
                facts = {
                    "events": done.events, "events_days": self._keep.events_days, "messages": done.messages,
                    "messages_days": self._keep.messages_days,
                }  # fmt: skip
                await self._writer.put(lambda unit: audit.record(unit, SYSTEM, "records.pruned", "records", facts))
                self._log.info("records.pruned", **facts)
        return done

    async def _events(self, done: Pruned, until: asyncio.Event, pause_seconds: float) -> None:
        days = self._keep.events_days
        while not until.is_set():
            count = await self._writer.put(lambda unit: inbox.forget(unit, unit.now - days * DAY, SLICE))
            done.events += count
            if count < SLICE:
                return
            await _wait(until, pause_seconds)

    async def _messages(self, done: Pruned, until: asyncio.Event, pause_seconds: float) -> None:
        days, after = self._keep.messages_days, 0

        def forget(unit: Unit, from_: int) -> tuple[int, int | None]:
            return outbox.forget(unit, unit.now - days * DAY, from_, SLICE)

        while not until.is_set():
            count, on = await self._writer.put(lambda unit, from_=after: forget(unit, from_))  # type: ignore[misc]
            done.messages += count
            if on is None:
                return
            after = on
            await _wait(until, pause_seconds)


async def _wait(until: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return
