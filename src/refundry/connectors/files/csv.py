"""CSV as records of cells: comma, double quote, UTF-8 with or without a byte order mark, any line ending. It knows no columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

from refundry.connectors.base import FileRefused

CHUNK_BYTES = 65_536
# The csv module's own bound on a cell, so that ours always speaks first. All that Stripe takes of one row is a quarter of it.
RECORD_BYTES_MAX = 131_072
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How files begin that are no CSV, and what to do with them.
FOREIGN_STARTS = (
    (b"\xff\xfe", "file_not_utf8", "is UTF-16: save it as 'CSV UTF-8'"),
    (b"\xfe\xff", "file_not_utf8", "is UTF-16: save it as 'CSV UTF-8'"),
    (b"PK\x03\x04", "file_format_unsupported", "is an Excel workbook or a ZIP archive: save the sheet as 'CSV UTF-8'"),
    (b"{", "file_format_unsupported", "looks like JSON: only CSV can be read"),
    (b"[{", "file_format_unsupported", "looks like JSON: only CSV can be read"),
)


def records(read: Callable[[int], bytes], name: str) -> Iterator[tuple[int, list[str]]]:
    """Read a file's records; blank lines are none. Never holds more than a record and a chunk.

    Args:
        read: Gives up to that many of the file's next bytes; none at its end.
        name: The file's, for errors.

    Yields:
        The physical line on which the record begins (from 1), and its cells.

    Raises:
        FileRefused: `file_not_utf8`, `file_binary`, `file_format_unsupported`, `record_too_long`, `quote_unclosed`, `quote_misplaced`.
    """
    lines = Lines(read, name)
    reader = csv.reader(lines, strict=True)
    while True:
        began = lines.begin_record()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _misquoted(error, name, began) from error
        if cells is None:
            return
        if cells:
            yield began, cells


class Lines:
    """A file's physical lines as text, each with its line ending.

    Args:
        read: As for `records`.
        name: The file's, for errors.

    Attributes:
        line: The number of the last line given.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self.line = 0
        self._record_line = 1
        self._record_bytes = 0
        self._read = read
        self._name = name
        self._offset = 0
        self._texts = self._decoded()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def begin_record(self) -> int:
        """Count the record's length anew; tells the line on which it begins."""
        self._record_line, self._record_bytes = self.line + 1, 0
        return self._record_line

    def _decoded(self) -> Iterator[str]:
        for raw in self._raw():
            self.line += 1
            self._record_bytes += len(raw)
            self._check_length(self._record_bytes)
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                at = self._offset + error.start
                raise FileRefused(
                    f"{self._name}, line {self.line}: the byte 0x{raw[error.start]:02X} at position {at} is not UTF-8, the file is "
                    "perhaps Windows-1252 or Latin-1: save it as 'CSV UTF-8'",
                    code="file_not_utf8",
                    file=self._name,
                    line=self.line,
                ) from error
            self._offset += len(raw)

    def _raw(self) -> Iterator[bytes]:
        pending = self._first()
        while chunk := self._read(CHUNK_BYTES):
            # The last line waits for the next chunk: its end may lie there, also the second half of a \r\n.
            *whole, pending = self._sound(pending + chunk).splitlines(keepends=True)
            yield from whole
            self._check_length(len(pending))
        yield from self._sound(pending).splitlines(keepends=True)

    def _first(self) -> bytes:
        start = self._read(CHUNK_BYTES)
        for mark, code, what in FOREIGN_STARTS:
            if start.startswith(mark):
                raise FileRefused(f"{self._name} {what}", code=code, file=self._name)
        if start.startswith(BYTE_ORDER_MARK):
            self._offset = len(BYTE_ORDER_MARK)
        return start.removeprefix(BYTE_ORDER_MARK)

    def _sound(self, some: bytes) -> bytes:
        if b"\0" in some:
            raise FileRefused(
                f"{self._name} is binary, or text in UTF-16: save it as 'CSV UTF-8'",
                code="file_binary",
                file=self._name,
            )
        return some

    def _check_length(self, length_bytes: int) -> None:
        if length_bytes > RECORD_BYTES_MAX:
            raise FileRefused(
                f"{self._name}, line {self._record_line}: the row that begins here is longer than {RECORD_BYTES_MAX} bytes, perhaps since "
                "a quote in it is not closed",
                code="record_too_long",
                file=self._name,
                line=self._record_line,
            )


def _misquoted(error: csv.Error, name: str, line: int) -> FileRefused:
    # The module has no codes; only a file that ends inside quotes is told by this text.
    if "unexpected end" in str(error):
        code, what = "quote_unclosed", 'a cell that begins with a " in this row never ends'
    else:
        code, what = "quote_misplaced", f'a " stands where none may ({error}): write it twice inside of a quoted cell'
    return FileRefused(f"{name}, line {line}: {what}", code=code, file=name, line=line)
