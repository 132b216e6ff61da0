"""The simulator's clock: the machine's time plus an offset, or a time that only tests move."""

import time
from collections.abc import Callable

DAY = 86_400
# The last day that a `Date` header can tell, a year before the calendar of Python ends.
LATEST = 253_370_764_800


class Clock:
    """Tells the world's time, in epoch seconds UTC.

    Args:
        start: A fixed time to start from; the clock then stands still until it is moved. `None` follows the machine.
        machine: Where the machine's time comes from.
    """

    def __init__(self, start: float | None = None, machine: Callable[[], float] = time.time) -> None:  # noqa: TID251
        """Set the clock."""
        self._machine = machine
        self._fixed = start
        self._offset = 0.0
        self._held: float | None = None

    @property
    def frozen(self) -> bool:
        """Tell whether the clock stands still between moves."""
        return self._fixed is not None

    def now(self) -> float:
        """Tell the time; while a past moment is being played, that moment."""
        if self._held is not None:
            return self._held
        return self._fixed if self._fixed is not None else self._machine() + self._offset

    def seconds(self) -> int:
        """Tell the time in whole seconds, as Stripe stamps objects."""
        return int(self.now())

    def hold(self, moment: float | None) -> None:
        """Play a moment: work that was due then is stamped with then. `None` goes back to the present."""
        self._held = moment

    def move(self, *, to: float | None = None, by: float = 0.0) -> None:
        """Move the clock. Backwards is allowed: the machines of the world do it too."""
        shift = by if to is None else to - self.now()
        if self._fixed is not None:
            self._fixed += shift
        else:
            self._offset += shift

    def freeze(self, *, frozen: bool) -> None:
        """Stop the clock at its present time, or let it run on from there."""
        present = self.now()
        if frozen:
            self._fixed = present
        elif self._fixed is not None:
            self._offset = present - self._machine()
            self._fixed = None

    def state(self) -> list[float | None]:
        """Tell what a restart needs to go on with the same clock."""
        return [self._fixed, self._offset]

    def restore(self, state: list[float | None]) -> None:
        """Go on with the clock of an earlier run."""
        self._fixed, self._offset = state[0], state[1] or 0.0


def midnight_after(moment: float, days: int) -> int:
    """Tell the midnight UTC that ends a waiting time of whole days (payout schedules count so)."""
    return (int(moment) // DAY + days + 1) * DAY
