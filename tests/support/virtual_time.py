"""An event loop whose time jumps to the next timer when nothing is ready: days pass in milliseconds, and nothing really waits.

Nothing may run in a thread here: work that blocks runs inline (`refundry.infra.writer.InlineWriter`).
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from tests.support.clock import START

Result = TypeVar("Result")
# Coarser than what floats lose after a year of seconds, so that a timer which is due by a hair is due.
RESOLUTION_SECONDS = 1e-6
# A run takes some ten thousand turns; one that takes so many goes round in a circle, and would never end.
TURNS_MAX = 60_000


class Standstill(Exception):  # noqa: N818  # the word
    """Nothing is ready and nothing is planned: whoever still waits would wait for ever."""


class Circling(Exception):  # noqa: N818  # the word
    """The loop has turned too often: something asks again and again instead of waiting."""


class _Jump(selectors.SelectSelector):
    """Lets the time pass instead of waiting for sockets; there are none."""

    def __init__(self, passes: Callable[[float], None]) -> None:
        super().__init__()
        self._passes = passes

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill
        self._passes(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its time begins at zero."""

    def __init__(self) -> None:
        """Begin."""
        self._moment, self.turns = 0.0, 0
        super().__init__(_Jump(self._pass))
        self._clock_resolution = RESOLUTION_SECONDS

    def _pass(self, seconds: float) -> None:
        self.turns += 1
        if self.turns > TURNS_MAX:
            self.turns = 0
            raise Circling(f"{TURNS_MAX} turns, {self._moment:.3f} s have passed")
        self._moment += max(seconds, 0.0)

    def time(self) -> float:
        """Tell the virtual time, in seconds."""
        return self._moment


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in a virtual loop of its own, and end what it left running.

    Raises:
        Standstill: It waited for what never comes.
        Circling: It never came to an end.
    """
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        _bury(loop)
        loop.close()


def _bury(loop: VirtualLoop) -> None:
    while left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left))


class MachineClock:
    """A machine's clocks over a loop: a wall clock that can be set, and a boot clock that cannot.

    Args:
        loop: Whose time passes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with the right time."""
        self._loop = loop
        self._off = 0.0

    def now(self) -> float:
        """Tell the wall-clock time, as far as this machine knows it."""
        return START + self._loop.time() + self._off

    def boot_seconds(self) -> float:
        """Tell the boot clock: a hundred ahead of the loop, so that it is never taken for the wall clock."""
        return 100.0 + self._loop.time()

    def machine(self) -> str:
        """Name the one boot of this machine."""
        return "boot-1"

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(max(seconds, 0.0))

    def jump(self, seconds: float) -> None:
        """Set the wall clock wrong, or right again."""
        self._off += seconds

    def mend(self) -> None:
        """Set the wall clock right."""
        self._off = 0.0
