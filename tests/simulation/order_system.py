"""The order system of the simulation: it does what docs/features/orders.md asks of a receiver, and misbehaves as networks and programs do.

The way to it is the product's own: its HTTP target, with its signatures and its reading of answers, whose session ends in this process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random  # noqa: TID251  # drawn from the seed that was handed in
from typing import Any, Self

import aiohttp
import orjson
from standardwebhooks import Webhook

from refundry.connectors.orders_http.client import HttpTarget, Receiver
from refundry.connectors.orders_http.signing import keys_of
from refundry.kernel.clock import Clock

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # opens only this
TIMEOUT_SECONDS = 2.0
# A receiver that answers too late has applied the message that long after it came.
LATE_SECONDS = 3.0
ANSWERS = {"error": 500, "busy": 503}


class OrderSystem:
    """Takes messages in, each once by its id.

    Args:
        seed: What its moods are drawn from.
        moods: How often a try goes wrong, and how.
        log: Is told of each try.
    """

    def __init__(self, seed: str, moods: dict[str, float], log: Callable[[str], None]) -> None:
        """Begin with nothing applied."""
        self.moods = dict(moods)
        # What was applied, in the order of applying.
        self.applied: dict[str, Any] = {}
        # What was answered with yes.
        self.taken: set[str] = set()
        self.faults: list[str] = []
        self._seed, self._log = seed, log
        self._tries: Counter[str] = Counter()
        self._bodies: dict[str, bytes] = {}

    def calm(self) -> None:
        """Work well from here on."""
        self.moods.clear()

    async def take(self, headers: dict[str, str], body: bytes) -> int:
        """Take one try; tells the status of the answer.

        Raises:
            TimeoutError: No answer came.
            aiohttp.ClientError: The connection broke.
        """
        name = headers["webhook-id"]
        self._verify(headers, body)
        self._tries[name] += 1
        mood = self._mood(name)
        self._log(f"message {name} {orjson.loads(body)['kind']} {mood}")
        if mood in ANSWERS:
            return ANSWERS[mood]
        if mood == "dies_before":
            raise aiohttp.ServerDisconnectedError
        if mood in {"silent", "late"}:
            if mood == "late":
                asyncio.get_running_loop().call_later(LATE_SECONDS, self._apply, name, body)
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise TimeoutError
        self._apply(name, body)
        if mood == "dies_after":
            raise aiohttp.ServerDisconnectedError
        self.taken.add(name)
        return 204

    def _mood(self, name: str) -> str:
        chance = Random(f"{self._seed}/{name}/{self._tries[name]}").random()  # noqa: S311  # no secret
        for mood, share in sorted(self.moods.items()):
            chance -= share
            if chance < 0:
                return mood
        return "fine"

    def _verify(self, headers: dict[str, str], body: bytes) -> None:
        moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        mine = Webhook(SECRET).sign(headers["webhook-id"], moment, body.decode())
        if mine not in headers["webhook-signature"].split(" "):
            self.faults.append(f"message {headers['webhook-id']} is not signed with our secret")

    def _apply(self, name: str, body: bytes) -> None:
        if self._bodies.setdefault(name, body) != body:
            self.faults.append(f"message {name} was sent again with another content")
        self.applied.setdefault(name, orjson.loads(body))


class Way(HttpTarget):
    """The product's HTTP target, on its way to an order system in this process.

    Args:
        system: The order system.
        clock: The sender's.
        step: A step of the sender, which may be its last.
    """

    def __init__(self, system: OrderSystem, clock: Clock, step: Callable[[], Awaitable[None]]) -> None:
        """Sign as the order system expects."""
        receiver = Receiver("http://orders.invalid/", keys_of(SECRET, "the simulation"))
        super().__init__(receiver, clock=clock, timeout_seconds=TIMEOUT_SECONDS)
        self._system, self._step = system, step

    def _opened(self) -> Any:
        return self

    def post(self, _: str, *, data: bytes, headers: dict[str, str], allow_redirects: bool) -> Call:
        """Send one call, as the session of aiohttp does."""
        assert not allow_redirects
        return Call(self._system, self._step, headers, data)


class Call:
    """One call and its answer, as aiohttp gives them."""

    def __init__(
        self, system: OrderSystem, step: Callable[[], Awaitable[None]], headers: dict[str, str], body: bytes
    ) -> None:
        """Keep what is sent."""
        self._system, self._step, self._sent, self._body = system, step, headers, body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.content = self

    async def __aenter__(self) -> Self:
        """Send it; what has left is worked on, whatever becomes of the sender."""
        await self._step()
        try:
            self.status = await self._system.take(self._sent, self._body)
        finally:
            await self._step()
        if self.status == ANSWERS["busy"]:
            self.headers = {"retry-after": "30"}
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is kept open."""

    async def read(self, _: int) -> bytes:
        """Read the body of the answer."""
        return b""
