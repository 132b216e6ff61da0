"""Runs the real command line with a wall clock that a test moves: `python -m tests.support.jumping_clock FILE batch run …`.

FILE holds the seconds by which this process's wall clock is wrong; it is read at every look at the clock, so the clock
jumps while the process runs. The boot clock stays right, as on a machine whose time is set.
"""

from __future__ import annotations

import sys
from pathlib import Path

from refundry.kernel.clock import SystemClock


def main(arguments: list[str]) -> None:
    """Bend the clock, then run the command."""
    path, true = Path(arguments[0]), SystemClock.now

    def now(self: SystemClock) -> float:
        return true(self) + float(path.read_text() or "0")

    SystemClock.now = now  # type: ignore[method-assign]  # the whole point
    sys.argv = ["refundry", *arguments[1:]]
    from refundry.cli.main import run

    run()


if __name__ == "__main__":
    main(sys.argv[1:])
