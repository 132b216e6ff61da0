"""A clock that stands until a test moves it: no test waits for real time."""

from __future__ import annotations

import asyncio
import heapq
import itertools

START = 1_790_000_000.0
# Turns of the event loop after which whatever could go on without time passing has done so.
TURNS = 25


class HandClock:
    """A `refundry.kernel.clock.Clock` moved by hand.

    Args:
        now: The wall-clock time that it begins with, in epoch seconds.
    """

    def __init__(self, now: float = START) -> None:
        """Begin; the boot clock begins at a hundred, so that it is never taken for the wall clock."""
        self._now = now
        self._boot = 100.0
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Tell the wall-clock time."""
        return self._now

    def boot_seconds(self) -> float:
        """Tell the boot clock."""
        return self._boot

    def machine(self) -> str:
        """Name nothing."""
        return ""

    async def sleep(self, seconds: float) -> None:
        """Wait until a test has moved the clock so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._boot + seconds, next(self._numbers), woken))
        await woken

    def jump(self, seconds: float) -> None:
        """Set the wall clock to another time, as a person or a time server does; the boot clock goes on as before."""
        self._now += seconds

    def move(self, seconds: float) -> None:
        """Let time pass, and wake who slept for less; they go on in the event loop's next turn."""
        self._now += seconds
        self._boot += seconds
        while self._sleepers and self._sleepers[0][0] <= self._boot:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)

    async def run(self, seconds: float) -> None:
        """Let time pass from one sleeper to the next, each with all the turns that it can take before the clock moves on."""
        end = self._boot + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.move(self._sleepers[0][0] - self._boot)
            await self.settle()
        self.move(end - self._boot)
        await self.settle()

    async def settle(self) -> None:
        """Let others run until nobody can go on without time passing. Only for what needs no thread."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
