"""The teller: takes due messages by lease, sends each to its target, and notes what came of it.

Of one ordering key one message is on its way at a time, and the next only when it is over; different keys do not wait for each other.
A message is sent at least once, and again whenever nobody can say that it was taken: receivers tell by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refundry.bootstrap import Desk
from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered, OrderTarget
from refundry.infra.db import Database, DatabaseUnusable, Unit
from refundry.infra.logs import logger
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.ids import Ids
from refundry.outbox import rules
from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery

# A message is held for so much longer than its delivery may take: for what comes before and after it.
LEASE_MARGIN = 10.0
# A message waits so long at most before it is seen: a fifth of the second in which an order system is to hear of it.
POLL_SECONDS = 0.2
# After a database that was lost, or a fault of ours, it is tried again this much later.
LOST_SECONDS = 1.0
# A target that has failed so often in a row is taken for down: it gets one message at a time, and longer and longer rests, so that an
# outage does not use up the tries of everything that waits. It is found to be back within the longest rest.
DOWN_AFTER = 5
REST_MAX = 60.0
# Of what nobody has foreseen, so much is kept for people: a sentence or two.
TOLD_MAX = 200


@dataclass(slots=True)
class Line:
    """The way to one target.

    Args:
        target: Where to.
        fails: How many tries in a row have failed.
        rests_until: Nothing is sent before, by the boot clock.
    """

    target: OrderTarget
    fails: int = 0
    rests_until: float = 0.0

    @property
    def down(self) -> bool:
        """Tell whether the target is taken for down."""
        return self.fails >= DOWN_AFTER


class Teller:
    """Delivers what the outbox holds, to all targets side by side.

    Args:
        targets: Where to.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
        ids: Makes lease tokens.
        at_once: How many messages are on their way to one target.
        tries_max: After how many tries a message is parked.
    """

    def __init__(
        self,
        targets: Sequence[OrderTarget],
        *,
        database: Database,
        writer: Writer,
        clock: Clock,
        ids: Ids,
        at_once: int,
        tries_max: int,
    ) -> None:
        """Prepare; nothing is sent before `run`."""
        self.lines = [Line(target) for target in targets]
        self._database = database
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._at_once = at_once
        self._tries_max = tries_max
        self._log = logger()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Get the targets ready.

        Raises:
            UsageError: One of them refuses its settings.
        """
        for line in self.lines:
            await line.target.open()

    def start(self, *, alone: bool) -> None:
        """Begin to deliver, in the running loop.

        Args:
            alone: Whether no other process delivers from this database.
        """
        self._tasks = [
            asyncio.create_task(self._serve(line, alone=alone), name=f"teller/{line.target.name}")
            for line in self.lines
        ]

    async def stop(self) -> None:
        """Begin nothing more, and finish what is on its way."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, line: Line, *, alone: bool) -> None:
        until, begun, log, told = self._stopping, False, self._log.bind(target=line.target.name), ""
        while not until.is_set():
            pause = POLL_SECONDS
            try:
                if not begun:
                    await self._writer.put(lambda unit: outbox.begin(unit, line.target.name, alone=alone))
                    begun = True
                await self.drain(line, until=until.is_set)
                told = ""
            except DatabaseUnusable as error:
                # Once: for as long as it lasts, the sweeper says so, and what stays broken ends that, and so the process, with one sentence.
                if error.code != told:
                    log.warning("teller.interrupted", code=error.code, why=error.message)
                told = error.code
                pause = LOST_SECONDS
            except Exception:
                log.exception("teller.interrupted")
                pause = LOST_SECONDS
            await _wait(until, pause)

    async def drain(self, line: Line, *, until: Callable[[], bool] = lambda: False) -> int:
        """Send what is due, until nothing is, the target rests, or `until` says to stop; tells how many were sent."""
        lease, running, total = self._ids.new(), set[asyncio.Task[None]](), 0
        try:
            while not until():
                claimed = await self._claim(line, lease, self._room(line) - len(running))
                total += len(claimed)
                running |= {asyncio.create_task(self._delivered(line, one, lease)) for one in claimed}
                if not running:
                    return total
                # Not until one of them is over: others may become due meanwhile, and a slow one keeps nobody waiting.
                done, running = await asyncio.wait(running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            return total
        finally:
            if running:
                await asyncio.wait(running)

    def _room(self, line: Line) -> int:
        if self._clock.boot_seconds() < line.rests_until:
            return 0
        return 1 if line.down else self._at_once

    async def _claim(self, line: Line, lease: str, most: int) -> list[Delivery]:
        name = line.target.name

        def due() -> bool:
            with self._database.reading() as unit:
                return outbox.due(unit, name)

        # Looked for without writing first: on SQLite a reader waits for no writer, and nobody for it.
        if most <= 0 or not await self._writer.aside(due):
            return []
        seconds = line.target.patience_seconds + LEASE_MARGIN
        # A target that refuses many orders again and again looks as if it were down: what it does take must not queue behind those.
        return await self._writer.put(
            lambda unit: outbox.claim(unit, name, lease, seconds=seconds, most=most, untried_first=line.down)
        )

    async def _delivered(self, line: Line, delivery: Delivery, lease: str) -> None:
        """Send one message, and note what came of it."""
        name, message, began = line.target.name, delivery.message, self._clock.boot_seconds()
        outcome = await self._sent(line, delivery)
        if isinstance(outcome, Delivered):
            line.fails = 0
            await self._writer.put(lambda unit: outbox.delivered(unit, name, delivery.number, outcome.told))
            return
        # What was on its way already when it was taken for down tells nothing new: only a try after the rest makes the next one longer.
        if not line.down or began >= line.rests_until:
            line.fails += 1
        wait = min(outcome.retry_after_seconds or 0.0, rules.LEFT_ALONE_MAX)
        self._rest(line, rules.LEFT_ALONE_MAX if outcome.gone else wait)

        def work(unit: Unit) -> bool:
            return outbox.failed(
                unit, delivery, lease, outcome.told, tries_max=self._tries_max, wait_seconds=wait, gone=outcome.gone
            )

        parked = await self._writer.put(work)
        told = {"target": name, "message_id": message.id, "kind": message.kind.value, "why": outcome.told}
        if parked:
            self._log.error("message.parked", **told)
        else:
            self._log.warning("message.not_delivered", **told)

    async def _sent(self, line: Line, delivery: Delivery) -> DeliveryOutcome:
        try:
            return await line.target.deliver(rules.outgoing(delivery.message))
        except DatabaseUnusable:
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours, whichever it is
            # It counts as a try, so that the message is parked in the end: else it would be sent for ever, and its order wait out of sight.
            self._log.exception("message.broken", target=line.target.name, message_id=delivery.message.id)
            return NotDelivered(repr(error)[:TOLD_MAX])

    def _rest(self, line: Line, asked: float) -> None:
        """Leave a target alone for as long as it asks, or while it is down."""
        down = line.fails - DOWN_AFTER
        # Of a target that is down for a day no power could be written as a number.
        rest = max(asked, min(2.0 ** min(down, 32), REST_MAX) if down >= 0 else 0.0)
        line.rests_until = max(line.rests_until, self._clock.boot_seconds() + rest)


def teller_of(desk: Desk) -> Teller:
    """Make the teller of a desk."""
    orders = desk.settings.orders
    return Teller(
        desk.targets,
        database=desk.database,
        writer=desk.writer,
        clock=desk.clock,
        ids=desk.ids,
        at_once=orders.at_once,
        tries_max=orders.tries_max,
    )


async def _wait(until: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return
