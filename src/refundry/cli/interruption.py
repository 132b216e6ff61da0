"""How a process hears that it is to end, by Ctrl-C or a polite kill: once is a wish, and said again a while later it leaves at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from refundry.cli import output
from refundry.infra import loop
from refundry.kernel.clock import Clock, SystemClock

# `timeout` and others signal a process, and in the same moment the group that it is in: that is one wish, and not a second one.
AGAIN_SECONDS = 0.5
# Called before the process leaves at once.
last_words: list[Callable[[], None]] = []


@dataclass(slots=True)
class Wish:
    """That the process ends.

    Args:
        clock: Tells one moment from the next.
        heard_at: When it was first said, by the machine's boot clock.
    """

    clock: Clock
    heard_at: float | None = None

    def heard(self) -> bool:
        """Hear it; tells whether it is new. What was said before, and not in the same moment, is done at once: the process leaves."""
        now = self.clock.boot_seconds()
        if self.heard_at is None:
            self.heard_at = now
            return True
        if now - self.heard_at >= AGAIN_SECONDS:
            for word in last_words:
                word()
            # What is on its way stands in the database as in doubt, and the next run looks: nothing is lost.
            os._exit(output.INTERRUPTED)
        return False


# Of this process, as long as no command at work has its own.
process = Wish(SystemClock())


def catch() -> None:
    """Let a polite kill end the process like Ctrl-C: what was started is ended too, and the exit code says that it was interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_: int, __: FrameType | None) -> None:
    if process.heard():
        loop.interrupt()
