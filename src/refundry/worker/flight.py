"""How many rows of an account are on their way at once: just enough that no slot is ever left unused.

More would only wait, under a lease, for slots that do not come faster. A row's time is what it takes without its waits for slots:
a Stripe that becomes slow gets more rows at once, one that is quick gets fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from refundry.infra.pace import Pacer
from refundry.kernel.clock import Clock
from refundry.worker.executor import REFUND

# Before the first row is over. Too many at the beginning is what a fixed number would be all the time.
SECONDS_FIRST = 1.0
# A tenth of each new row: some twenty rows, about a second of work at Stripe's usual limits, and the old is forgotten.
WEIGHT = 0.1
# Half of the rows wait for slots: times differ, and rows come to their slots in groups, as they are claimed and committed.
MARGIN = 2.0
# A low rate and a quick Stripe still need some that wait while another is saved.
FEW = 4
# Where too many were on their way at once, so many of them are left, and then one more a second: as careful as the budgets.
CUT = 0.75
GROWTH = 1.0
# What was on its way when it was cut may be turned away too, and says nothing new.
CUT_PAUSE = 1.0


def rows_wanted(rate: float, seconds: float, most: int) -> int:
    """Tell how many rows keep every slot used (Little's law).

    Args:
        rate: Slots a second; zero means any number.
        seconds: What a row takes without its waits for slots, on average.
        most: Never more than this, which is at least 1.

    Returns:
        From 1 to `most`.
    """
    if not rate:
        return most
    wanted = rate * seconds * MARGIN
    return most if wanted >= most else min(max(math.ceil(wanted), FEW), most)


@dataclass(frozen=True, slots=True)
class Crowding:
    """What is left of the rows at once since Stripe has said that they were too many.

    Args:
        rows: How many there may be at `at`; `None`, if it never said so, or that is over.
        at: When it last said so, by the boot clock.
        heard: How often it has said so by then.
    """

    rows: float | None = None
    at: float = -math.inf
    heard: int = 0

    def allowed(self, now: float, most: int) -> int:
        """Tell how many rows there may be at once, from 1 to `most`."""
        if self.rows is None:
            return most
        grown = self.rows + GROWTH * max(now - self.at - CUT_PAUSE, 0.0)
        return most if grown >= most else max(int(grown), 1)

    def after(self, heard: int, now: float, rows: int) -> Crowding:
        """Take in how often Stripe has said it by now, when so many rows were allowed at once."""
        if heard == self.heard:
            return self
        if now - self.at < CUT_PAUSE:
            return replace(self, heard=heard)
        return Crowding(max(rows * CUT, 1.0), now, heard)


class Flight:
    """Watches one account of this process.

    Args:
        pacer: Knows the account's rate, and hears Stripe's 429s.
        clock: Time.
        most: The setting.
    """

    def __init__(self, pacer: Pacer, clock: Clock, most: int) -> None:
        """Begin with nothing known."""
        self._pacer = pacer
        self._clock = clock
        self._most = most
        self._crowding = Crowding()
        self.seconds = SECONDS_FIRST

    def took(self, seconds: float) -> None:
        """Hear how long the work on a row took, without its waits for slots."""
        self.seconds += WEIGHT * (seconds - self.seconds)

    def rows(self) -> int:
        """Tell how many rows may be on their way at once."""
        now = self._clock.boot_seconds()
        wanted = rows_wanted(self._pacer.rate_of(REFUND), self.seconds, self._most)
        allowed = min(wanted, self._crowding.allowed(now, self._most))
        self._crowding = self._crowding.after(self._pacer.crowded_count, now, allowed)
        return min(wanted, self._crowding.allowed(now, self._most))
