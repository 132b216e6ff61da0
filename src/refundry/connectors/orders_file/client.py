"""Messages as JSON lines, appended to a file, or written to standard output (`-`)."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import orjson

from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered, Outgoing
from refundry.infra.settings import OrderSettings, SettingsError

FILE = "REFUNDRY_ORDERS__FILE"
STDOUT = "-"
# The file may grow piece by piece under the line of another process: one that is written takes less than a millisecond, and this is a
# hundred of them, waited once after a crash.
LOOKS, LOOK_SECONDS = 10, 0.01
# Lines that are seen on the disk at once.
WRITERS = 4


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
        # Messages of several orders are written at once. Other processes are not kept out: one that is stopped would hold up everybody.
        self._alone = threading.Lock()
        # Of its own: whoever reads standard output and stops would take those away by which refunds are written down.
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="orders-file")

    async def open(self) -> None:
        """See that it can be written.

        Raises:
            SettingsError: `orders_file_unusable`.
        """
        try:
            await self._appended(b"")
        except OSError as error:
            raise SettingsError(
                f"{FILE} cannot be written ({self._path}: {error.strerror}): name a file in a folder that exists and is yours, or -",
                code="orders_file_unusable",
                setting=FILE,
            ) from error

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        """Append one line, and see it on the disk."""
        try:
            await self._appended(orjson.dumps(message.envelope) + b"\n")
        except OSError as error:
            return NotDelivered(f"{self._path}: {error.strerror}")
        return Delivered()

    async def close(self) -> None:
        """Let its threads go; no file is kept open."""
        self._threads.shutdown(wait=False)

    async def _appended(self, line: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._append, line)

    def _append(self, line: bytes) -> None:
        if self._path == STDOUT:
            # Messages are UTF-8, whatever standard output is set to; what was written as text before stands before them.
            sys.stdout.flush()
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        with Path(self._path).open("a+b", buffering=0) as file:
            with self._alone:
                _write(file, line)
            os.fsync(file.fileno())


def _write(file: FileIO, line: bytes) -> None:
    """Append a line, or nothing.

    Raises:
        OSError: There was no room for all of it.
    """
    # A process that was killed, or a machine that went down, may have left half a line: nothing is glued to that.
    if line and _torn(file):
        line = b"\n" + line
    # One write for a whole line: several processes may append to one file.
    written = file.write(line)
    if written < len(line):
        end = file.tell()
        # What another process has written behind it meanwhile is not taken away.
        if os.fstat(file.fileno()).st_size == end:
            file.truncate(end - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _torn(file: FileIO) -> bool:
    """Tell whether the file ends in the middle of a line, and nobody is going on with that."""
    for _ in range(LOOKS):
        size = file.seek(0, os.SEEK_END)
        if not size:
            return False
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return False
        threading.Event().wait(LOOK_SECONDS)
    return True


def targets_of(orders: OrderSettings) -> Sequence[FileTarget]:
    """Make the target from the settings: none, if none is set."""
    return () if orders.file is None else (FileTarget(orders.file),)
