"""`refundry`, also as `python -m refundry`. To read its code takes a while, and who interrupts that sees no traceback."""

import os
import signal
from types import FrameType
from typing import NoReturn

# `cli/output.py` has it too, and would be read too late.
INTERRUPTED = 130


def run() -> NoReturn:
    """Run the program and end the process with its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)

    from refundry.cli import main

    main.run()


def _leave(_: int, __: FrameType | None) -> None:
    """Leave at once: nothing was begun. As soon as something is, `cli/interruption.py` listens."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
