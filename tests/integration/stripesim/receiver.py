"""A receiver of webhooks: in the process, as the pump's `send`, or behind a real socket of loopback."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web

from stripesim.webhooks import Pump
from tests.support.sim import Sim


@dataclass(frozen=True)
class Delivery:
    """One try: the address, headers by lower-case name, body, and the sender's patience in seconds."""

    url: str
    headers: dict[str, str]
    body: bytes
    patience: float

    @property
    def event(self) -> Any:
        """Read the body."""
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """Takes deliveries, and answers each as `answer` says."""

    answer: Callable[[Delivery], int] = lambda _: 200
    got: list[Delivery] = field(default_factory=list)

    async def send(self, url: str, headers: dict[str, str], body: bytes, patience: float) -> int:
        """Take a delivery from the pump."""
        taken = Delivery(url, {name.lower(): value for name, value in headers.items()}, body, patience)
        self.got.append(taken)
        return self.answer(taken)

    async def drain(self, sim: Sim) -> list[Delivery]:
        """Let all that is due be delivered; tells what came."""
        before = len(self.got)
        pump = Pump(sim.world)
        while await pump.deliver_due(self.send):
            pass
        return self.got[before:]

    @property
    def types(self) -> list[str]:
        """Tell the types of the events, in the order in which they came."""
        return [delivery.event["type"] for delivery in self.got]


def genuine(delivery: Delivery, secret: str) -> bool:
    """Check a signature by hand: the time, and at least one `v1` over it and the raw body."""
    parts = [part.split("=", 1) for part in delivery.headers["stripe-signature"].split(",")]
    moment = next(value for name, value in parts if name == "t")
    expected = hmac.new(secret.encode(), f"{moment}.".encode() + delivery.body, sha256).hexdigest()
    return any(name == "v1" and hmac.compare_digest(value, expected) for name, value in parts)


@asynccontextmanager
async def listening(receiver: Receiver, path: str = "/hook") -> AsyncIterator[str]:
    """Put a receiver behind a real socket; tells its address."""

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        taken = Delivery(str(request.url), headers, await request.read(), 0)
        receiver.got.append(taken)
        return web.Response(status=receiver.answer(taken))

    application = web.Application()
    application.router.add_post(path, take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
    finally:
        await runner.cleanup()
