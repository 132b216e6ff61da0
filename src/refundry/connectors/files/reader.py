"""Opens a file of refunds: sees first that it is sound as a whole, then gives its rows, and sees that it stayed the same meanwhile.

It reads the file twice, so that no row is given of a file whose last line is broken, and holds one record at a time. Every format gives
records: the line, and its cells; the first one is the header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from refundry.connectors.base import FileOpened, FileRefused, ReadOptions, Row, visible
from refundry.connectors.files import csv, jsonl, xlsx
from refundry.connectors.files.columns import DELIMITERS, Header, header_of, is_known
from refundry.connectors.files.lines import (
    BYTE_ORDER_MARK,
    RECORD_BYTES_MAX,
    UTF_8,
    WINDOWS_1252,
    Lines,
    NotUtf8,
)
from refundry.connectors.files.rows import row_of
from refundry.connectors.files.source import CHUNK_BYTES, GZIP_START, UNREADABLE, Origin, Print, opened, origin_of

CSV = "csv"
JSON_LINES = "jsonl"
XLSX = "xlsx"
FORMATS = (CSV, JSON_LINES, XLSX)
ENCODINGS = (UTF_8, WINDOWS_1252)

Records = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a file is read.

    Args:
        form: One of `FORMATS`.
        encoding: Of text, one of `ENCODINGS`.
        sure: The encoding was said, or proves itself.
        delimiter: Of CSV.
        sheet: Of a workbook.
        columns: Of JSON lines, which have no header: each with the line on which it first stands.
    """

    form: str
    encoding: str = UTF_8
    sure: bool = True
    delimiter: str = csv.COMMA
    sheet: str = ""
    columns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was read once: where it is, what it was then, and how it is read.

    Args:
        origin: Where it comes from.
        before: By what it is known again.
        manner: How it is read.
        options: What was said about it.
        header: Its header.
        sha256: Of its bytes, unpacked.
    """

    origin: Origin
    before: Print
    manner: Manner
    options: ReadOptions
    header: Header
    sha256: str


def read(path: Path, *, options: ReadOptions) -> FileOpened:
    """Open a file, or standard input (`-`), and see that it is sound as a whole.

    Raises:
        FileRefused: `file_empty`, `file_without_rows`, `cells_missing`, `cells_surplus`, `file_changed`, `file_format_unsupported`, and
            the codes of `source`, `lines`, `csv`, `jsonl`, `xlsx` and `columns.header_of`.
    """
    origin = origin_of(path)
    before = origin.print()
    try:
        file, row_count = _checked(origin, before, _manner(origin, options), options)
    except NotUtf8:
        if options.encoding is not None:
            raise
        manner = _manner(origin, replace(options, encoding=WINDOWS_1252))
        file, row_count = _checked(origin, before, replace(manner, sure=False), options)
    if not row_count:
        raise FileRefused(f"{origin.name} has a header and no row under it", code="file_without_rows", file=origin.name)
    if origin.print() != before:
        raise _changed(origin.name)

    def stream() -> Iterator[Row]:
        return _rows(file)

    return FileOpened(
        origin.name, file.sha256, before.size_bytes, file.header.columns, tuple(map(visible, file.header.unknown)), row_count, stream,
        _meaning(file.manner, options), tuple(_assumed(file.manner, options)),
    )  # fmt: skip


def _manner(origin: Origin, options: ReadOptions) -> Manner:
    """Tell how a file is to be read, by what was said and by how it begins."""
    encoding = options.encoding or UTF_8
    start = _start(origin)
    form = options.format or _form(start, origin.name)
    if form == XLSX:
        with origin.open() as stream:
            if stream.read(len(GZIP_START)) == GZIP_START:
                # A workbook is not read in order, as gzip has to be.
                message = f"{origin.name} is a workbook packed by gzip: unpack it first, as with gunzip"
                raise FileRefused(message, code="file_format_unsupported", file=origin.name)
            return Manner(XLSX, sheet=xlsx.Workbook(stream, origin.name).sheet(options.sheet).name)
    if options.sheet is not None:
        message = f"{origin.name} is no workbook, and has no sheets: leave --sheet out"
        raise FileRefused(message, code="sheet_unknown", file=origin.name)
    if form == JSON_LINES:
        manner = Manner(JSON_LINES, encoding)
        with opened(origin) as source:
            lines = Lines(source.read, origin.name, encoding, said=options.encoding is not None)
            return replace(manner, columns=jsonl.names(jsonl.objects(lines, origin.name), origin.name))
    delimiter = options.delimiter
    if delimiter is None:
        mapping = dict(options.mapping)
        text = start.removeprefix(BYTE_ORDER_MARK).decode(encoding, "replace")
        delimiter = csv.delimiter_of(text, origin.name, lambda column: is_known(column, mapping))
    return Manner(CSV, encoding, delimiter=delimiter)


def _start(origin: Origin) -> bytes:
    """Read how a file begins, as long as a header can be."""
    start = b""
    with opened(origin) as source:
        while len(start) < RECORD_BYTES_MAX and (chunk := source.read(CHUNK_BYTES)):
            start += chunk
    return start


def _form(start: bytes, name: str) -> str:
    if start.startswith(xlsx.ZIP_START):
        return XLSX
    if start.startswith(xlsx.OLD_START):
        message = (
            f"{name} is a workbook with a password, or of an Excel before 2007: save it as .xlsx, or as 'CSV UTF-8'"
        )
        raise FileRefused(message, code="file_format_unsupported", file=name)
    if start.startswith(GZIP_START):
        message = f"{name} is packed twice: unpack it once, as with gunzip"
        raise FileRefused(message, code="file_format_unsupported", file=name)
    text = start.removeprefix(BYTE_ORDER_MARK).lstrip()
    if text.startswith(b"["):
        message = f"{name} looks like a JSON array: write JSON lines, one object a line, without brackets around and commas between"
        raise FileRefused(message, code="file_format_unsupported", file=name)
    return JSON_LINES if text.startswith(b"{") else CSV


def _checked(origin: Origin, before: Print, manner: Manner, options: ReadOptions) -> tuple[Opened, int]:
    """Read a file from end to end; tells how many rows it has."""
    name, row_count = origin.name, 0
    with _records(origin, manner) as (records, digest):
        line, columns = next(records, (0, []))
        if not columns:
            raise FileRefused(f"{name} is empty: nothing was asked for", code="file_empty", file=name)
        header = header_of(columns, file=name, line=line, mapping=dict(options.mapping), lines=manner.columns)
        width = len(columns)
        for line, cells in records:
            if len(cells) != width:
                raise _ragged(cells, header, name, line)
            row_count += 1
        sha256 = digest()
    return Opened(origin, before, manner, options, header, sha256), row_count


@contextmanager
def _records(origin: Origin, manner: Manner) -> Iterator[tuple[Records, Callable[[], str]]]:
    """Open a file's records, and tell the digest of what was read once they have been read to their end."""
    name = origin.name
    if manner.form == XLSX:
        # A workbook is not read in order: its digest is of what it was just before.
        with opened(origin) as source:
            while source.read(CHUNK_BYTES):
                pass
        with origin.open() as stream:
            book = xlsx.Workbook(stream, name)
            yield _table(book.records(book.sheet(manner.sheet))), source.digest
        return
    with opened(origin) as source:
        lines = Lines(source.read, name, manner.encoding, said=manner.sure)
        if manner.form == JSON_LINES:
            yield jsonl.records(lines, name, manner.columns), source.digest
        else:
            yield csv.records(lines, name, manner.delimiter), source.digest


def _table(records: Records) -> Records:
    """Give all rows of a sheet, in which empty cells at the end are left out, as many cells as its header has."""
    line, columns = next(records, (0, []))
    width = len(_trimmed(columns))
    yield line, [str(column) for column in columns[:width]]
    for line, cells in records:
        kept = cells if len(cells) <= width else _trimmed(cells)
        yield line, kept + [""] * (width - len(kept))


def _trimmed(cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def _rows(file: Opened) -> Iterator[Row]:
    name, header = file.origin.name, file.header
    if file.origin.print() != file.before:
        raise _changed(name)
    try:
        with _records(file.origin, file.manner) as (records, digest):
            if next(records, (0, []))[1] != list(header.columns):
                raise _changed(name)
            for number, (line, cells) in enumerate(records, start=1):
                if len(cells) != len(header.columns):
                    raise _changed(name)
                yield row_of(header, cells, number=number, line=line, options=file.options, sure=file.manner.sure)
            sha256 = digest()
    except FileRefused as refused:
        if refused.code == UNREADABLE:
            raise
        # It was sound a moment ago.
        raise _changed(name) from refused
    if sha256 != file.sha256 or file.origin.print() != file.before:
        raise _changed(name)


def _meaning(manner: Manner, options: ReadOptions) -> str:
    """Say in one canonical form what the bytes were taken to mean, where that is not the usual."""
    said = (
        ("allow-fraudulent", options.allow_fraudulent),
        ("blank-amount-full", options.blank_amount_full),
        (f"decimal={options.decimal}", options.decimal is not None),
        (f"delimiter={manner.delimiter}", manner.delimiter != csv.COMMA),
        # Assumed is not the same as said: names that depend on it are refused.
        (f"encoding={manner.encoding}{'' if manner.sure else '?'}", manner.encoding != UTF_8),
        (f"format={manner.form}", manner.form != CSV),
        (f"map={json.dumps(dict(sorted(options.mapping)))}", bool(options.mapping)),
        (f"sheet={json.dumps(manner.sheet)}", bool(manner.sheet)),
    )
    return ",".join(text for text, on in said if on)


def _assumed(manner: Manner, options: ReadOptions) -> Iterator[str]:
    if options.format is None and manner.form != CSV:
        yield "it is JSON lines" if manner.form == JSON_LINES else "it is an Excel workbook"
    if options.sheet is None and manner.sheet:
        yield f"its sheet '{visible(manner.sheet)}' is meant"
    if options.delimiter is None and manner.delimiter != csv.COMMA:
        yield f"cells are separated by {DELIMITERS.get(manner.delimiter, repr(manner.delimiter))}"
    if not manner.sure:
        yield "letters beyond ASCII are Windows-1252, since it is not UTF-8; say --encoding windows-1252 if that is right"


def _ragged(cells: list[str], header: Header, file: str, line: int) -> FileRefused:
    count, width = len(cells), len(header.columns)
    ids: dict[str, str | int] = {"file": file, "line": line}
    if count < width:
        code, hint = "cells_missing", f"from '{header.columns[count]}' on they are missing"
        ids["column"] = header.columns[count]
    else:
        code, hint = "cells_surplus", "perhaps a delimiter stands unquoted in one"
    message = (
        f"{file}, line {line}: the row has {count} cells, the header {width}: {hint}. Amounts could stand in the wrong "
        "column, so that nothing of the file was taken"
    )
    return FileRefused(message, code=code, **ids)


def _changed(name: str) -> FileRefused:
    message = f"{name} was changed while it was read: nothing of it was taken, run it again once nobody writes to it"
    return FileRefused(message, code="file_changed", file=name)
