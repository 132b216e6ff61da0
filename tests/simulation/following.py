"""What a process of the simulation does beside paying: takes webhooks in, follows them, catches up, tells the order system.

The parts are the product's own, and so is what each of them does in a turn. Only the loops around them are the simulation's: instead of
asking several times a second they wait for what is due next, since days pass here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from refundry.follow import service as follow
from refundry.follow.model import Feed
from refundry.inbox import service as inbox
from refundry.inbox.model import Door
from refundry.infra.settings import FollowSettings
from refundry.outbox import service as outbox
from refundry.web.webhooks import Intake
from refundry.worker.catch_up import CatchUp
from refundry.worker.follower import IDLE_SECONDS, Follower
from refundry.worker.teller import POLL_SECONDS, Teller
from tests.simulation.order_system import Way

if TYPE_CHECKING:
    from tests.simulation.process import Process

# A turn of catching up is looked for when the run has lasted that much longer, so that a week costs about as much as its first hour.
COARSER = 1.0
# Of each ordering key only the first that is not over can go next.
NEXT_MESSAGE = """
SELECT min(CASE WHEN due_at > leased_until THEN due_at ELSE leased_until END) FROM outbox_deliveries d WHERE state = 'waiting'
AND NOT EXISTS (SELECT 1 FROM outbox_deliveries e WHERE e.ordering_key = d.ordering_key AND e.number < d.number
AND e.state IN ('waiting', 'parked'))
"""


class Following:
    """All of it in one process.

    Args:
        process: Whose life it shares.
        account: `acct_…|test`.
        secret: What its webhooks are signed with.
        ids: Makes lease tokens.
        parts: Gateway, database, writer, clock, and the order key.
    """

    def __init__(self, process: Process, account: str, secret: str, ids: Any, parts: Mapping[str, Any]) -> None:
        """Put the parts together, as `worker.following` and `worker.teller` do."""
        how = process.world.scenario.follow
        self._process, self._account = process, account
        self._heard, self.written, self.asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.working = 0
        self.follower = Follower(account, process.life.name, **parts)
        self.catch_up = CatchUp(account, settings=FollowSettings(poll_seconds=how.poll_seconds), **parts)
        self.catch_up.stored = self._heard.set
        door = Door(account, (secret,), frozenset(), "STRIPE_WEBHOOK_SECRET")
        self._intake = Intake({"": door}, parts["writer"], parts["clock"], woken=lambda _: self._heard.set())
        place = process.place
        way = Way(place.orders, parts["clock"], process.life.step)
        self._teller = Teller(
            [way], database=parts["database"], writer=parts["writer"], clock=parts["clock"], ids=ids, at_once=4, tries_max=40
        )  # fmt: skip

    def wake(self) -> None:
        """Look at once: another process may have left something behind."""
        self._heard.set()
        self.written.set()

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Tell what runs side by side."""
        return {"follows": self._follows, "asks": self._asks, "tells": self._tells}

    async def take(self, headers: Mapping[str, str], body: bytes) -> int:
        """Take a webhook in; tells the status of the answer."""
        sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/webhooks/stripe", "headers": sent, "path_params": {}}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        return (await self._intake.take(scope, receive)).status_code

    async def _follows(self) -> None:
        while True:
            self._heard.clear()
            if await self._turn(self.follower.turn()):
                # What a dispute had held may be due now.
                self._process.woken.set()
                continue
            due = self._process.read(lambda unit: inbox.next_due(unit, self._account))
            # What is due and was not taken is another's for the moment.
            seconds = None if due is None else max(due - self._process.clock.now(), IDLE_SECONDS)
            await self._rest(seconds, self._heard)

    async def _asks(self) -> None:
        while True:
            self.asked.clear()
            began = self._process.now()
            if await self._turn(self.catch_up.turn()):
                self._process.woken.set()
            self._process.place.follows_since(began, self._begun())
            poll = self._process.world.scenario.follow.poll_seconds
            await self._rest(max(poll, self._process.now() / COARSER), self.asked)

    def _begun(self) -> bool:
        feeds = (Feed.EVENTS, Feed.REFUNDS)
        marks = self._process.read(lambda unit: [follow.mark(unit, self._account, feed).mark for feed in feeds])
        return None not in marks

    async def _tells(self) -> None:
        (line,) = self._teller.lines
        await self._process.writer.put(lambda unit: outbox.begin(unit, line.target.name, alone=False))
        while True:
            self.written.clear()
            await self._turn(self._teller.drain(line))
            due = self._process.read(lambda unit: unit.connection.exec_driver_sql(NEXT_MESSAGE).scalar())
            rest = max(line.rests_until - self._process.clock.boot_seconds(), POLL_SECONDS)
            await self._rest(None if due is None else max(due - self._process.clock.now(), rest), self.written)
            # As in the product, what was just written is seen at its next look.
            await self._process.clock.sleep(POLL_SECONDS)

    async def _turn(self, turn: Awaitable[Any]) -> Any:
        self.working += 1
        try:
            return await turn
        finally:
            self.working -= 1

    async def _rest(self, seconds: float | None, woken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            pass
        await self._process.life.step()
