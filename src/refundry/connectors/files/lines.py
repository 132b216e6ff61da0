"""The lines of a file of text, in UTF-8 or Windows-1252, with any line ending. It knows neither cells nor columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from refundry.connectors.base import FileRefused
from refundry.connectors.files.source import CHUNK_BYTES

UTF_8 = "utf-8"
WINDOWS_1252 = "windows-1252"
# The csv module's own bound on a cell, so that ours always speaks first. All that Stripe takes of one row is a quarter of it.
RECORD_BYTES_MAX = 131_072
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class NotUtf8(FileRefused):
    """The file has a byte that is no UTF-8, and no mark that it is; whoever assumed UTF-8 may try the other encoding."""


class Lines:
    """A file's physical lines as text, each with its line ending. Never holds more than a line and a chunk.

    Args:
        read: Gives up to that many of the file's next bytes; none at its end.
        name: The file's, for errors.
        encoding: `utf-8` or `windows-1252`.
        said: Somebody has said so. If not, a file that is UTF-8 in one line and not in another is refused, instead of read wrongly.

    Raises:
        FileRefused: While it is read: `file_not_utf8`, `file_not_windows_1252`, `encoding_mixed`, `file_binary`, `record_too_long`.

    Attributes:
        line: The number of the last line given.
    """

    def __init__(self, read: Callable[[int], bytes], name: str, encoding: str = UTF_8, *, said: bool = True) -> None:
        self.line = 0
        self._record_line = 1
        self._record_bytes = 0
        self._read = read
        self._name = name
        self._encoding = encoding
        self._offset = 0
        self._marked = False
        self._texts = self._utf_8() if encoding == UTF_8 else self._windows_1252(said=said)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def begin_record(self) -> int:
        """Count the record's length anew; tells the line on which it begins.

        Blank lines are no records, and are counted to the one that follows: a file of nothing else ends soon.
        """
        self._record_line, self._record_bytes = self.line + 1, 0
        return self._record_line

    def _utf_8(self) -> Iterator[str]:
        for raw in self._counted():
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                # With a mark it is UTF-8 by its own word, and broken.
                kind = FileRefused if self._marked else NotUtf8
                raise kind(
                    f"{self._name}, line {self.line}: the byte 0x{raw[error.start]:02X} at position {self._offset + error.start} is not "
                    "UTF-8: save it as 'CSV UTF-8', or say --encoding windows-1252 if it is that",
                    code="file_not_utf8",
                    file=self._name,
                    line=self.line,
                ) from error
            self._offset += len(raw)

    def _windows_1252(self, *, said: bool) -> Iterator[str]:
        for raw in self._counted():
            if not (said or raw.isascii()):
                self._check_not_utf8(raw)
            try:
                yield raw.decode(WINDOWS_1252)
            except UnicodeDecodeError as error:
                raise FileRefused(
                    f"{self._name}, line {self.line}: the byte 0x{raw[error.start]:02X} at position {self._offset + error.start} is "
                    "neither UTF-8 nor Windows-1252: save it as 'CSV UTF-8'",
                    code="file_not_windows_1252",
                    file=self._name,
                    line=self.line,
                ) from error
            self._offset += len(raw)

    def _check_not_utf8(self, raw: bytes) -> None:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return
        raise FileRefused(
            f"{self._name}, line {self.line}: this line is UTF-8, and another one is not: save it as 'CSV UTF-8', or say --encoding "
            "windows-1252 if all of it is that",
            code="encoding_mixed",
            file=self._name,
            line=self.line,
        )

    def _counted(self) -> Iterator[bytes]:
        for raw in self._raw():
            self.line += 1
            self._record_bytes += len(raw)
            self._check_length(self._record_bytes)
            yield raw

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
        if start.startswith(UTF_16_MARKS):
            raise FileRefused(f"{self._name} is UTF-16: save it as 'CSV UTF-8'", code="file_not_utf8", file=self._name)
        self._marked = start.startswith(BYTE_ORDER_MARK)
        if self._marked and self._encoding != UTF_8:
            message = f"{self._name} begins with the mark of UTF-8: leave --encoding out"
            raise FileRefused(message, code="file_not_windows_1252", file=self._name)
        self._offset = len(BYTE_ORDER_MARK) * self._marked
        return start.removeprefix(BYTE_ORDER_MARK)

    def _sound(self, some: bytes) -> bytes:
        at = some.find(b"\0")
        if at < 0:
            return some
        line = self.line + len(some[: at + 1].splitlines())
        raise FileRefused(
            f"{self._name}, line {line}: there is a NUL byte, the file is binary, or text in UTF-16: save it as 'CSV UTF-8'",
            code="file_binary",
            file=self._name,
            line=line,
        )

    def _check_length(self, length_bytes: int) -> None:
        if length_bytes > RECORD_BYTES_MAX:
            raise FileRefused(
                f"{self._name}, line {self._record_line}: the row that begins here is longer than {RECORD_BYTES_MAX} bytes, perhaps since "
                "a quote in it is not closed, or there are that many blank lines",
                code="record_too_long",
                file=self._name,
                line=self._record_line,
            )
