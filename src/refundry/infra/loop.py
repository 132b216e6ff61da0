"""The event loop of every command."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run until it ends, on the loop that costs the least.

    Python's own, where there is no uvloop: on Windows.
    """
    # What has been imported stays. To look through all of it for garbage, again and again, holds everything up for tens of milliseconds.
    gc.freeze()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
