"""Opens a file of refunds: sees first that it is sound as a whole, then gives its rows, and sees that it stayed the same meanwhile.

It reads the file twice, so that no row is given of a file whose last line is broken, and holds one record at a time. A further format
gives records as `csv.records` does.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from refundry.connectors.base import FileOpened, FileRefused, ReadOptions, Row
from refundry.connectors.files import csv
from refundry.connectors.files.columns import Header, header_of
from refundry.connectors.files.rows import row_of

UNREADABLE = "file_unreadable"


@dataclass(frozen=True, slots=True)
class Print:
    """By what a file is known again without reading it."""

    size_bytes: int
    modified_ns: int


class Source:
    """The bytes of an open file, hashed as they are read, so that the digest is of what was really used.

    Args:
        stream: The open file.
        name: Its name, for errors.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._hash = hashlib.sha256()

    def read(self, size_bytes: int) -> bytes:
        """Read on."""
        try:
            chunk = self._stream.read(size_bytes)
        except OSError as error:
            raise _unreadable(self._name, error) from error
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """Tell the SHA-256 of all that was read."""
        return self._hash.hexdigest()


def read(path: Path, *, options: ReadOptions) -> FileOpened:
    """Open a file and see that it is sound as a whole.

    Raises:
        FileRefused: `file_missing`, `file_is_directory`, `file_not_regular`, `file_unreadable`, `file_empty`, `file_without_rows`,
            `cells_missing`, `cells_surplus`, `file_changed`, and the codes of `csv.records` and `columns.header_of`.
    """
    before = _print(path)
    row_count = 0
    with _opened(path) as source:
        records = csv.records(source.read, path.name)
        line, names = next(records, (0, None))
        if names is None:
            raise FileRefused(f"{path.name} is empty: nothing was asked for", code="file_empty", file=path.name)
        header = header_of(names, file=path.name, line=line)
        for line, cells in records:
            _check_cells(cells, header, path.name, line)
            row_count += 1
        sha256 = source.digest()
    if not row_count:
        raise FileRefused(f"{path.name} has a header and no row under it", code="file_without_rows", file=path.name)
    if _print(path) != before:
        raise _changed(path)

    def stream() -> Iterator[Row]:
        return _rows(path, header, before, sha256, options)

    return FileOpened(path.name, sha256, before.size_bytes, header.names, header.unknown, row_count, stream)


def digest(path: Path) -> str:
    """Tell the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        FileRefused: `file_missing`, `file_is_directory`, `file_not_regular`, `file_unreadable`.
    """
    _print(path)
    with _opened(path) as source:
        while source.read(csv.CHUNK_BYTES):
            pass
        return source.digest()


def _rows(path: Path, header: Header, before: Print, sha256: str, options: ReadOptions) -> Iterator[Row]:
    if _print(path) != before:
        raise _changed(path)
    with _opened(path) as source:
        records = csv.records(source.read, path.name)
        try:
            if next(records, (0, None))[1] != list(header.names):
                raise _changed(path)
            for number, (line, cells) in enumerate(records, start=1):
                _check_cells(cells, header, path.name, line)
                raw = dict(zip(header.names, cells, strict=True))
                yield row_of(header, raw, number=number, line=line, options=options)
        except FileRefused as refused:
            if refused.code == UNREADABLE:
                raise
            # It was sound a moment ago.
            raise _changed(path) from refused
        if source.digest() != sha256 or _print(path) != before:
            raise _changed(path)


def _check_cells(cells: list[str], header: Header, file: str, line: int) -> None:
    difference = len(cells) - len(header.names)
    if not difference:
        return
    code, hint = (
        ("cells_missing", "some are missing")
        if difference < 0
        else ("cells_surplus", "perhaps a comma stands unquoted in one")
    )
    raise FileRefused(
        f"{file}, line {line}: the row has {len(cells)} cells, the header {len(header.names)}: {hint}. Amounts could stand in the wrong "
        "column, so that nothing of the file was taken",
        code=code,
        file=file,
        line=line,
    )


def _print(path: Path) -> Print:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileRefused(
            f"there is no file {path}: check its name and folder", code="file_missing", file=path.name
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path.name, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise FileRefused(f"{path} is a directory: name a file in it", code="file_is_directory", file=path.name)
    if not stat.S_ISREG(found.st_mode):
        message = f"{path} is a pipe or a device, and has to be read twice: save it as a file"
        raise FileRefused(message, code="file_not_regular", file=path.name)
    return Print(found.st_size, found.st_mtime_ns)


@contextmanager
def _opened(path: Path) -> Iterator[Source]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _unreadable(path.name, error) from error
    with stream:
        yield Source(stream, path.name)


def _unreadable(name: str, error: OSError | ValueError) -> FileRefused:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return FileRefused(f"{name} cannot be read ({why}): check its rights and its disk", code=UNREADABLE, file=name)


def _changed(path: Path) -> FileRefused:
    message = (
        f"{path.name} was changed while it was read: nothing of it was taken, run it again once nobody writes to it"
    )
    return FileRefused(message, code="file_changed", file=path.name)
