"""A file without a name in the system's temporary folder: for what is too large for memory and belongs to one object only."""

from __future__ import annotations

import os
import tempfile
import weakref


class Spool:
    """Bytes on the disk that are gone with this object, or with the process, however it ends. Nobody else can open them.

    Raises:
        OSError: While it is made or written: the disk is full, or there is no temporary folder.
    """

    def __init__(self) -> None:
        self._descriptor, path = tempfile.mkstemp(prefix="refundry-")
        weakref.finalize(self, os.close, self._descriptor)
        os.unlink(path)  # noqa: PTH108  # the bytes stay for as long as the file is open
        self.size_bytes = 0

    def append(self, some: bytes) -> None:
        """Write on."""
        left = memoryview(some)
        while left:
            left = left[os.write(self._descriptor, left) :]
        self.size_bytes += len(some)

    def part(self, start: int, size_bytes: int) -> bytes:
        """Read a part; less of it at the end."""
        return os.pread(self._descriptor, size_bytes, start)
