"""The event loop of every command."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
# The command's own task, as long as there is one.
_running: list[asyncio.Task[Any]] = []


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run until it ends, on the loop that costs the least.

    Python's own, where there is no uvloop: on Windows.

    Raises:
        KeyboardInterrupt: It was interrupted, and has cleared up.
    """
    # What has been imported stays. To look through all of it for garbage, again and again, holds everything up for tens of milliseconds.
    gc.freeze()
    try:
        import uvloop
    except ImportError:
        run_in_loop: Callable[[Coroutine[Any, Any, Result]], Result] = asyncio.run
    else:
        run_in_loop = uvloop.run
    try:
        return run_in_loop(_interruptible(main))
    finally:
        _running.clear()


async def _interruptible(main: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.current_task()
    if task is not None:
        _running.append(task)
    try:
        return await main
    except asyncio.CancelledError:
        # Nobody else has this task, to cancel it.
        raise KeyboardInterrupt from None


def interrupt() -> None:
    """Interrupt what runs, from a signal's handler.

    In a loop an error that comes from anywhere would end some task, or the loop's own clearing up, in the middle: so the command's task is cancelled.

    Raises:
        KeyboardInterrupt: No loop runs.
    """
    if not _running:
        raise KeyboardInterrupt
    _running[0].get_loop().call_soon_threadsafe(_running[0].cancel)
