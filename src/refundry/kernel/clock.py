"""The ports of time. Whoever needs the time is handed a clock, so that a run can be repeated and a test can move it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Tells the time in three ways."""

    def now(self) -> float:
        """Tell the wall-clock time in epoch seconds, UTC. It may jump; a person can set it."""
        ...

    def boot_seconds(self) -> float:
        """Tell seconds that only grow, also while the machine sleeps or the process is stopped."""
        ...

    def machine(self) -> str:
        """Name this boot of this machine: as long as the name is the same, so is the boot clock. Empty where it has none."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, letting others run."""
        ...


class SystemClock:
    """This machine's clocks."""

    def now(self) -> float:
        """Tell the wall-clock time in epoch seconds, UTC."""
        return time.time()  # noqa: TID251  # the one place where the machine's time comes in

    def boot_seconds(self) -> float:
        """Tell the boot clock; where the system has none, the monotonic one, which stands while the machine sleeps."""
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boot is None else time.clock_gettime(boot)

    def machine(self) -> str:
        """Read the name that Linux gives to each boot; other systems have none that can be trusted."""
        try:
            return BOOT_ID.read_text().strip()
        except OSError:
            return ""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
