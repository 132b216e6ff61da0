"""Messages as JSON lines, appended to a file, or written to standard output (`-`)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered, Outgoing
from refundry.infra.settings import OrderSettings, SettingsError

FILE = "REFUNDRY_ORDERS__FILE"
STDOUT = "-"


class FileTarget:
    """Appends each message as one line. After a crash the last lines may stand there twice: a reader tells by `id`.

    Args:
        path: The file, or `-`.
    """

    name = "file"
    # A disk that is slower is broken.
    patience_seconds = 10.0

    def __init__(self, path: str) -> None:
        """Keep the path."""
        self._path = path

    async def open(self) -> None:
        """See that it can be written.

        Raises:
            SettingsError: `orders_file_unusable`.
        """
        try:
            await asyncio.to_thread(self._append, b"")
        except OSError as error:
            raise SettingsError(
                f"{FILE} cannot be written ({self._path}: {error.strerror}): name a file in a folder that exists and is yours, or -",
                code="orders_file_unusable",
                setting=FILE,
            ) from error

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        """Append one line, and see it on the disk."""
        try:
            await asyncio.to_thread(self._append, orjson.dumps(message.envelope) + b"\n")
        except OSError as error:
            return NotDelivered(f"{self._path}: {error.strerror}")
        return Delivered()

    async def close(self) -> None:
        """Nothing is kept open."""

    def _append(self, line: bytes) -> None:
        if self._path == STDOUT:
            sys.stdout.write(line.decode())
            sys.stdout.flush()
            return
        # One write for a whole line: several processes may append to one file.
        with Path(self._path).open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())


def targets_of(orders: OrderSettings) -> Sequence[FileTarget]:
    """Make the target from the settings: none, if none is set."""
    return () if orders.file is None else (FileTarget(orders.file),)
