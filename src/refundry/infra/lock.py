"""One process executes on an SQLite file: it holds an exclusive lock on a file beside the database.

The lock is the operating system's, so it ends with the process, however that ends.
"""

from __future__ import annotations

import os
from pathlib import Path


class FileLock:
    """An exclusive lock between processes.

    Args:
        path: The lock's own file; it holds the number of the process that has it, for people.
    """

    def __init__(self, path: Path) -> None:
        """Hold nothing yet."""
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Tell whether this process holds it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Try to take it; never waits."""
        import fcntl  # not there on Windows, where Postgres is to be used

        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return True

    def taken(self) -> bool:
        """Tell whether a process has it, without taking it or writing its file.

        For a moment the lock is shared, so a process that begins in that very moment watches for a second before it executes.
        """
        import fcntl  # not there on Windows, where Postgres is to be used

        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def holder(self) -> int | None:
        """Tell which process has it, as far as its file says."""
        try:
            return int(self._path.read_text().strip())
        except (OSError, ValueError):
            return None

    def free(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
