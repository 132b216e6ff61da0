"""Where the bytes of a file of refunds come from: a path or standard input, unpacked if it is gzip, never more than is bearable, and hashed."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from refundry.connectors.base import FileRefused, visible
from refundry.infra.spool import Spool

CHUNK_BYTES = 65_536
STANDARD_INPUT = Path("-")
GZIP_START = b"\x1f\x8b"
UNREADABLE = "file_unreadable"
# A file of a million rows unpacks to 100 MB, a workbook of all the rows that Excel can hold to under 1 GB.
UNPACKED_BYTES_MAX = 4 * 1024**3
# Tables shrink to a tenth, the most regular ones to a hundredth; what is made to fill a disk shrinks to a thousandth.
UNPACKED_RATIO_MAX = 200
# Below this the ratio does not matter.
UNPACKED_BYTES_FREE = 64 * 1024**2
# What is piped in is kept on the disk while it is read; an endless pipe must not fill it.
PIPED_BYTES_MAX = UNPACKED_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Print:
    """By what a file is known again without reading it."""

    size_bytes: int
    modified_ns: int


class Origin(Protocol):
    """Something whose bytes can be read more than once."""

    @property
    def name(self) -> str:
        """Tell its name, for people, without a folder."""
        ...

    def print(self) -> Print:
        """Tell by what it is known again.

        Raises:
            FileRefused: `file_missing`, `file_is_directory`, `file_not_regular`, `file_unreadable`.
        """
        ...

    def open(self) -> BinaryIO:
        """Open it anew, at its beginning.

        Raises:
            FileRefused: `file_unreadable`.
        """
        ...


def origin_of(path: Path) -> Origin:
    """Tell where a file comes from; what `-` stands for is kept aside first, since it can be read only once.

    Raises:
        FileRefused: `standard_input_missing`, `standard_input_too_long`, `file_unreadable`.
    """
    return _piped(sys.stdin.buffer) if path == STANDARD_INPUT else OnDisk(path)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file by its path."""

    path: Path

    @property
    def name(self) -> str:
        """Tell its name: bytes that are no letters, and what cannot be seen, are escaped, or it could be neither kept nor shown."""
        return visible(os.fsencode(self.path.name).decode("utf-8", "backslashreplace"))

    def print(self) -> Print:
        """Tell its size and when it was written."""
        path, name = self.path, self.name
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            message = f"there is no file {path}: check its name and folder"
            raise FileRefused(message, code="file_missing", file=name) from error
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error
        if stat.S_ISDIR(found.st_mode):
            raise FileRefused(f"{path} is a directory: name a file in it", code="file_is_directory", file=name)
        if not stat.S_ISREG(found.st_mode):
            message = f"{path} is a pipe or a device, and has to be read twice: save it as a file, or pipe it in and name it -"
            raise FileRefused(message, code="file_not_regular", file=name)
        return Print(found.st_size, found.st_mtime_ns)

    def open(self) -> BinaryIO:
        """Open it."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise _unreadable(self.name, error) from error


@dataclass(frozen=True, slots=True)
class Piped:
    """What came by standard input, in a file without a name that ends with the process."""

    kept: Spool
    name: str = "standard input"

    def print(self) -> Print:
        """Tell its size; nobody else can write to it."""
        return Print(self.kept.size_bytes, 0)

    def open(self) -> BinaryIO:
        """Open it."""
        return io.BufferedReader(Reread(self.kept), CHUNK_BYTES)


class Reread(io.RawIOBase):
    """What is kept, with a position of its own, so that it can be read several times at once.

    Args:
        kept: The bytes.
    """

    def __init__(self, kept: Spool) -> None:
        super().__init__()
        self._kept = kept
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._kept.size_bytes}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Tell where it is."""
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands in
        """Read on."""
        some = self._kept.part(self._at, len(buffer))
        buffer[: len(some)] = some
        self._at += len(some)
        return len(some)


def _piped(stream: BinaryIO) -> Piped:
    if stream.isatty():
        message = "standard input is a terminal: pipe a file in, as in `zcat refunds.csv.gz | refundry batch run -`"
        raise FileRefused(message, code="standard_input_missing", file="standard input")
    try:
        kept = Spool()
        while chunk := stream.read(CHUNK_BYTES):
            kept.append(chunk)
            if kept.size_bytes > PIPED_BYTES_MAX:
                message = f"standard input is longer than {PIPED_BYTES_MAX} bytes: split it into several files"
                raise FileRefused(message, code="standard_input_too_long", file="standard input")
    except OSError as error:
        raise _unreadable("standard input", error) from error
    return Piped(kept)


class Source:
    """The bytes of a file, hashed as they are given, so that the digest is of what was really used.

    Args:
        read: Gives up to that many of the next bytes; none at the end.
        name: The file's, for errors.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read = read
        self._name = name
        self._hash = hashlib.sha256()

    def read(self, size_bytes: int) -> bytes:
        """Read on.

        Raises:
            FileRefused: `file_unreadable`, `gzip_damaged`, `unpacked_too_large`.
        """
        try:
            chunk = self._read(size_bytes)
        except OSError as error:
            raise _unreadable(self._name, error) from error
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """Tell the SHA-256 of all that was read."""
        return self._hash.hexdigest()


@contextmanager
def opened(origin: Origin) -> Iterator[Source]:
    """Open a file, and unpack it as it is read if it is gzip."""
    with origin.open() as stream:
        try:
            packed = stream.read(len(GZIP_START)) == GZIP_START
            stream.seek(0)
        except OSError as error:
            raise _unreadable(origin.name, error) from error
        yield Source(Unpacked(stream, origin.name).read if packed else stream.read, origin.name)


class Unpacked:
    """A gzip file as it is unpacked, a chunk at a time, of one or several members.

    Args:
        stream: The packed file.
        name: Its name, for errors.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._waiting = b""
        self._inflater = _inflater()
        self._bound = Bound(name)
        self._inside = False

    def read(self, size_bytes: int) -> bytes:
        """Unpack on; up to that many bytes, none at the end."""
        while True:
            if not self._waiting:
                self._waiting = self._stream.read(CHUNK_BYTES)
                self._bound.packed += len(self._waiting)
                if not self._waiting:
                    return self._at_end()
            try:
                some = self._unpacked(size_bytes)
            except zlib.error as error:
                raise self._damaged(str(error)) from error
            if some:
                self._bound.more(len(some))
                return some

    def _unpacked(self, size_bytes: int) -> bytes:
        if self._inflater.eof:
            # Another member follows, or the zeros that tapes and some tools fill up with.
            self._waiting = self._waiting.lstrip(b"\0")
            if not self._waiting:
                return b""
            self._inflater = _inflater()
        some = self._inflater.decompress(self._waiting, size_bytes)
        self._inside = not self._inflater.eof
        self._waiting = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        return some

    def _at_end(self) -> bytes:
        if self._inside:
            raise self._damaged("it ends too early")
        return b""

    def _damaged(self, why: str) -> FileRefused:
        message = f"{self._name} is a damaged gzip file ({why}): copy it anew, or hand it in unpacked"
        return FileRefused(message, code="gzip_damaged", file=self._name)


class Bound:
    """How much may be unpacked from a file that is packed.

    Args:
        name: The file's, for errors.
        packed: How many packed bytes were taken so far.
    """

    def __init__(self, name: str, packed: int = 0) -> None:
        self.packed = packed
        self._name = name
        self._unpacked = 0

    def more(self, size_bytes: int) -> None:
        """Count what was unpacked.

        Raises:
            FileRefused: `unpacked_too_large`.
        """
        self._unpacked += size_bytes
        allowed = min(UNPACKED_BYTES_MAX, max(UNPACKED_BYTES_FREE, self.packed * UNPACKED_RATIO_MAX))
        if self._unpacked > allowed:
            raise FileRefused(
                f"{self._name} unpacks to more than {allowed} bytes, {self._unpacked // max(self.packed, 1)} times what it is packed, as no "
                "file of refunds does: check where it comes from, or hand it in unpacked and in parts",
                code="unpacked_too_large",
                file=self._name,
            )


def _inflater() -> zlib._Decompress:
    # 16 more than the window's size says that the bytes are gzip.
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _unreadable(name: str, error: OSError | ValueError) -> FileRefused:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return FileRefused(f"{name} cannot be read ({why}): check its rights and its disk", code=UNREADABLE, file=name)
