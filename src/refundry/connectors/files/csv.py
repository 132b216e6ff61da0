"""CSV as records of cells: double quotes, any one character between cells. It knows no columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator

from refundry.connectors.base import FileRefused
from refundry.connectors.files.columns import DELIMITERS
from refundry.connectors.files.lines import Lines

COMMA = ","
# The line with which a file tells Excel its delimiter; Excel itself reads it and does not show it.
EXCEL = re.compile(r"(?:\ufeff)?sep=(.)\r?\n?", re.IGNORECASE)


def records(lines: Lines, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Read a file's records; blank lines, with space or without, are none, nor is a first line `sep=;`. Never holds more than a record and a chunk.

    Args:
        lines: The file's.
        name: The file's, for errors.
        delimiter: One character.

    Yields:
        The physical line on which the record begins (from 1), and its cells.

    Raises:
        FileRefused: `quote_unclosed`, `quote_misplaced`, and those of `Lines`.
    """
    reader = csv.reader(_without_excel(lines), delimiter=delimiter, strict=True)
    began = lines.begin_record()
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _misquoted(error, name, began) from error
        if cells is None:
            return
        if not _blank(cells):
            yield began, cells
            lines.begin_record()
        began = lines.line + 1


def _blank(cells: list[str]) -> bool:
    """Tell whether a line holds nothing, or space alone; of more cells, empty ones too are a row."""
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _without_excel(lines: Lines) -> Iterator[str]:
    first = next(lines, "")
    # A blank line, so that lines and records are counted as ever.
    yield "\n" if EXCEL.fullmatch(first) else first
    yield from lines


def delimiter_of(start: str, name: str, is_known: Callable[[str], bool]) -> str:
    """Find what separates cells: that by which most of the header's names are known ones, and never a guess between two.

    Args:
        start: How the file begins, as long as a header can be.
        name: The file's, for errors.
        is_known: Tells whether a column of this name, or of one much like it, means something.

    Raises:
        FileRefused: `delimiter_unclear`.
    """
    if told := EXCEL.match(start):
        return told[1]
    headers = {delimiter: _header(start, delimiter) for delimiter in DELIMITERS}
    known = {delimiter: sum(map(is_known, cells)) for delimiter, cells in headers.items()}
    most = max(known.values())
    best = [delimiter for delimiter in DELIMITERS if known[delimiter] == most]
    if not most or all(headers[delimiter] == headers[best[0]] for delimiter in best):
        # Nothing is known, or nothing separates anything: the header itself will be told what is wrong with it.
        return best[0]
    words = " or ".join(DELIMITERS[delimiter] for delimiter in best)
    message = f"{name}: the header can be read with {words} between its cells: say which, as in --delimiter ';'"
    raise FileRefused(message, code="delimiter_unclear", file=name)


def _header(start: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
    try:
        return next((cells for cells in reader if not _blank(cells)), [])
    except csv.Error:
        return []


def _misquoted(error: csv.Error, name: str, line: int) -> FileRefused:
    # The module has no codes; only a file that ends inside quotes is told by this text.
    if "unexpected end" in str(error):
        code, what = "quote_unclosed", 'a cell that begins with a " in this row never ends'
    else:
        code, what = "quote_misplaced", f'a " stands where none may ({error}): write it twice inside of a quoted cell'
    return FileRefused(f"{name}, line {line}: {what}", code=code, file=name, line=line)
