"""An order system that follows our documentation, behind a real socket of loopback, and can misbehave as networks and programs do.

It verifies with an independent library, applies each message once by its id, and commits before it says yes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
from aiohttp import web
from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # opens only this receiver


class Mood(StrEnum):
    """How a try goes."""

    FINE = "fine"
    ERROR = "error"
    # It waits longer than anybody listens, then applies all the same.
    TIMEOUT = "timeout"
    # It dies before it has committed, and after.
    DIES_BEFORE = "dies_before"
    DIES_AFTER = "dies_after"
    BUSY = "busy"
    GONE = "gone"
    MOVED = "moved"
    CHATTY = "chatty"


ANSWERS = {Mood.ERROR: 500, Mood.BUSY: 503, Mood.GONE: 410, Mood.MOVED: 302}


@dataclass
class Receiver:
    """An order system.

    Args:
        mood: How a try goes, given the message and how many tries of it came before.
        timeout_seconds: Longer than the sender waits.
    """

    mood: Callable[[Any, int], Mood] = lambda _message, _tries: Mood.FINE
    timeout_seconds: float = 0.4
    secret: str = SECRET
    url: str = ""
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    applied: dict[str, Any] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    at_once: int = 0
    at_once_max: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def by_order(self) -> dict[str, list[Any]]:
        """Tell what was applied, for each order in the order of applying."""
        found: dict[str, list[Any]] = defaultdict(list)
        for message in self.applied.values():
            found[message["data"]["order_id"]].append(message)
        return found

    async def until(self, count: int) -> None:
        """Wait until so many messages were applied."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.applied) >= count)

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Take one try."""
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            return await self._taken(request)
        finally:
            self.at_once -= 1

    async def _taken(self, request: web.Request) -> web.StreamResponse:
        body, told = await request.read(), {name.lower(): value for name, value in request.headers.items()}
        self.headers.append(told)
        if not self._genuine(told, body):
            self.refused += 1
            return web.Response(status=401)
        message = orjson.loads(body)
        before = self.tries[message["id"]]
        self.tries[message["id"]] += 1
        mood = self.mood(message, before)
        if mood is Mood.DIES_BEFORE:
            return _cut(request)
        if mood in ANSWERS:
            more = {"retry-after": "120", "location": "http://169.254.169.254/"}
            return web.Response(status=ANSWERS[mood], headers=more, text="no\x1b[31m" + "!" * 9000)
        if mood is Mood.TIMEOUT:
            await asyncio.sleep(self.timeout_seconds)
        # The commit of a program that follows the documentation: once by the id, and before the answer.
        self.applied.setdefault(message["id"], message)
        async with self.changed:
            self.changed.notify_all()
        if mood is Mood.DIES_AFTER:
            return _cut(request)
        return web.Response(text="x" * 10**6 if mood is Mood.CHATTY else "")

    def _genuine(self, told: dict[str, str], body: bytes) -> bool:
        """Verify as the specification says; how old a message may be is left out, since tests move the clock."""
        moment = datetime.fromtimestamp(int(told["webhook-timestamp"]), UTC)
        mine = Webhook(self.secret).sign(told["webhook-id"], moment, body.decode())
        return mine in told["webhook-signature"].split(" ")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_post("/refunds", self.take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/refunds"
        try:
            yield
        finally:
            await runner.cleanup()


def _cut(request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
