"""The SDK's transport into a simulator in this process: no socket, no thread, the caller's own event loop and its time.

What it raises when an answer is cut is what `refundry.gateways.stripe.transport.Transport` raises over a socket; a test holds
the two against each other, fault by fault (`tests/contract/test_gateway.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import stripe
from multidict import CIMultiDict

from refundry.gateways.stripe.transport import READ_SECONDS, SEND_SECONDS
from refundry.kernel.lane import Lane
from stripesim.api import Answer, Request
from stripesim.app import Simulator


class InProcess(stripe.HTTPClient):
    """Hands every call of the SDK to a simulator.

    A fault of the kind `crash` needs a process that can die; here it is a dropped connection, and the simulator lives on.

    Args:
        simulator: What answers.
        read_seconds: How long a read may take in all, by the event loop's clock.
        send_seconds: The same for everything else.
    """

    name = "stripesim"

    def __init__(
        self, simulator: Simulator, *, read_seconds: float = READ_SECONDS, send_seconds: float = SEND_SECONDS
    ) -> None:
        """Keep the simulator; it is the caller's to close."""
        super().__init__()
        self._simulator = simulator
        self._read_seconds, self._send_seconds = read_seconds, send_seconds
        self._running: set[asyncio.Task[Answer]] = set()

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send one call; tells the body, the status and the headers, or raises as the network would."""
        parts = urlsplit(url)
        lower = {name.lower(): value for name, value in headers.items()}
        request = Request(method.upper(), unquote(parts.path), parts.query, lower, (post_data or "").encode())
        # A caller that gives up does not stop Stripe: what was sent is worked on, and may pay.
        running = asyncio.create_task(self._simulator.answer(request))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        async with asyncio.timeout(self._read_seconds if method == "get" else self._send_seconds):
            answer = await asyncio.shield(running)
        match answer.cut:
            case "":
                pass
            case "reset":
                raise aiohttp.ClientOSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            case "truncate":
                raise aiohttp.ClientPayloadError("Response payload is not completed")
            case _:
                raise aiohttp.ServerDisconnectedError
        told = CIMultiDict(answer.headers)
        told["Date"] = formatdate(self._simulator.world.clock.now(), usegmt=True)
        return answer.body, answer.status, told

    async def close_async(self) -> None:
        """End what the simulator still works on for callers that gave up."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class FreeSlots:
    """Slots without a wait, which remember what was asked of them."""

    def __init__(self) -> None:
        """Begin with nothing asked."""
        self.taken: list[tuple[str, Lane]] = []
        self.limits: list[tuple[str, str | None, float]] = []
        self.times: list[tuple[str, float]] = []

    async def take(self, operation: str, lane: Lane) -> float:
        """Give a slot at once; its time is its number."""
        self.taken.append((operation, lane))
        return float(len(self.taken))

    def took(self, operation: str, seconds: float) -> None:
        """Remember how long a call took."""
        self.times.append((operation, seconds))

    async def limited(self, operation: str, reason: str | None, taken_at: float) -> None:
        """Remember a 429."""
        self.limits.append((operation, reason, taken_at))


class StandingClock:
    """A clock that moves only when somebody waits on it, and then at once."""

    def __init__(self, now: float) -> None:
        """Stand at a time, in epoch seconds UTC."""
        self.at = now
        self.waits: list[float] = []

    def now(self) -> float:
        """Tell the time."""
        return self.at

    def boot_seconds(self) -> float:
        """Tell the same time: it only grows."""
        return self.at

    def machine(self) -> str:
        """Name nothing."""
        return ""

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.waits.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)
