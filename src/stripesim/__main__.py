"""`python -m stripesim`. Who interrupts it while its code is read, or its charges, sees no traceback."""

import os
import signal
import sys
from types import FrameType

# As a shell tells of what Ctrl-C has ended.
INTERRUPTED = 130


def _leave(_: int, __: FrameType | None) -> None:
    """Leave at once: nobody was answered yet, and a state file keeps no half of a load."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)

    from stripesim.command import main

    sys.exit(main())
