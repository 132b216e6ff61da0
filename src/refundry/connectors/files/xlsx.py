"""A sheet of an Excel workbook as records of cells, row by row as it is unpacked; memory does not grow with the sheet.

Our own reader, since what matters for money is what the usual ones do not tell: whether a number is typed in or the result of a formula,
and whether a row is hidden. A workbook is a ZIP archive of XML files (ECMA-376, parts 1 and 2).
"""

from __future__ import annotations

import os
import posixpath
import re
import struct
import unicodedata
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

from refundry.connectors.base import SHOWN_MAX, FileRefused
from refundry.connectors.files.cells import Dressed, Number, Odd
from refundry.connectors.files.columns import COLUMNS_MAX
from refundry.connectors.files.lines import RECORD_BYTES_MAX
from refundry.connectors.files.source import CHUNK_BYTES, Bound
from refundry.infra.spool import Spool

ZIP_START = b"PK\x03\x04"
# A password-protected workbook, or one of Excel 97.
OLD_START = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
WORKBOOK = "xl/workbook.xml"
RELATIONS = "xl/_rels/workbook.xml.rels"
STYLES = "xl/styles.xml"
# Excel takes 64,000 formats (its published limits), and has 1,048,576 rows.
STYLES_MAX = 65_536
# No name or attribute is longer than a cell's text, 32,767 characters; a tag that never ends would be held as a whole.
QUIET_BYTES_MAX = 1_048_576
# Beyond them Excel itself has rounded (it keeps 15 digits).
EXACT_BELOW = 10**15
# ECMA-376 part 1, 18.8.30: the built-in formats that show a date or a time.
DATES_BUILT_IN = frozenset((*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)))
# ECMA-376 part 1, 18.8.30: the codes of the built-in formats that show a number as less, or as more, than it is.
BUILT_IN = {
    "1": "0", "2": "0.00", "3": "#,##0", "4": "#,##0.00", "5": "#,##0", "6": "#,##0", "7": "#,##0.00", "8": "#,##0.00", "9": "0%", "10": "0.00%",
    "11": "0.00E+00", "12": "# ?/?", "13": "# ??/??", "37": "#,##0", "38": "#,##0", "39": "#,##0.00", "40": "#,##0.00", "41": "#,##0", "42": "#,##0",
    "43": "#,##0.00", "44": "#,##0.00", "48": "##0.0E+0",
}  # fmt: skip
# In a format's code, text in quotes, behind a backslash, or in brackets (a colour, a currency), and what only fills space.
FORMAT_TEXT = re.compile(r'"([^"]*)"|\\(.)|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', re.IGNORECASE)
# In place of text that is more than a space or a currency's sign; no letter of a code.
DRESSING = "\0"
CONDITION = re.compile(r"\[[<>=]")
ANY_NUMBER = re.compile("General|@", re.IGNORECASE)
PLACES = re.compile("[0#?.,]|General|@", re.IGNORECASE)
# A percentage, a fraction, a power of ten; and a comma behind a format's last digit, or before its point, which takes thousands off.
ALTERING_CODE = re.compile(r"[%/]|E[+-]|[?0#],+(?![0#?,])", re.IGNORECASE)
# More digits than a number has: what a format shows is never the number itself; or always, where it is about decimals.
ALTERED = ANY = 1_000
# Where the text of a cell needs a letter that XML cannot hold (ECMA-376 part 1, 22.9.2.19).
ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
COLUMN = re.compile(r"([A-Z]{1,3})[0-9]*")
MERGED = re.compile(r"[A-Z]{1,3}([0-9]{1,7}):[A-Z]{1,3}([0-9]{1,7})")

FORMULA = (
    "cell_formula",
    "holds a formula, whose result may be out of date: put its value in its place ('Paste special', 'Values')",
)
ERROR = ("cell_error", "holds an error of Excel: mend it, or type what was meant")
DATE = ("cell_date", "holds a date or a time: type what was meant, with the cell's format set to text")
ALTERING = (
    "cell_shown_otherwise",
    "is shown by its format as another number than it holds (zeros in front, decimals left out, a percentage): type what was meant, with the format set to text",
)
HIDDEN = ("row_hidden", "is in a row that is hidden, by a filter or by hand: show the row, or delete it")
ROUNDED = (
    "number_too_long",
    "is a number of more than 15 digits, which Excel has rounded: type it anew, with the cell's format set to text",
)


# What a damaged archive, or a damaged part of one, makes the libraries and the readers below raise.
BROKEN = (
    expat.ExpatError, zipfile.BadZipFile, zlib.error, struct.error, LookupError, ValueError, OverflowError, EOFError, OSError,
    RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet: its name, its file in the archive, and whether it is hidden."""

    name: str
    part: str
    hidden: bool


@dataclass(frozen=True, slots=True)
class Format:
    """How a style shows a number.

    Args:
        date: As a date or a time.
        digits: How many before the point at least.
        decimals: How many behind it at most.
        dressed: Among letters or dashes that are no part of it.
    """

    date: bool = False
    digits: int = 0
    decimals: int = ANY
    dressed: bool = False


PLAIN = Format()


class Workbook:
    """An open workbook.

    Args:
        stream: The archive, which can be moved about in.
        name: The file's name, for errors.

    Raises:
        FileRefused: `workbook_unreadable`, `unpacked_too_large`.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        try:
            self._archive = zipfile.ZipFile(stream)
        except BROKEN as error:
            raise self._unreadable(str(error)) from error
        names = self._archive.namelist()
        if len(set(names)) < len(names):
            raise self._unreadable("one of its parts is there twice")
        packed = stream.seek(0, os.SEEK_END)
        self._bound = Bound(name, packed)
        self.sheets = self._sheets()

    def sheet(self, wanted: str | None) -> Sheet:
        """Choose a sheet.

        Raises:
            FileRefused: `sheet_unknown`, `sheet_unclear`.
        """
        told = ", ".join(f"'{sheet.name}'" for sheet in self.sheets[:10])
        if wanted is not None:
            found = [sheet for sheet in self.sheets if sheet.name == wanted]
            if not found:
                message = f"{self.name} has no sheet '{wanted}': it has {told}"
                raise FileRefused(message, code="sheet_unknown", file=self.name)
            return found[0]
        shown = [sheet for sheet in self.sheets if not sheet.hidden]
        if len(shown) != 1:
            message = f"{self.name} has {len(shown)} sheets that are not hidden ({told}): say which, as in --sheet NAME"
            raise FileRefused(message, code="sheet_unclear", file=self.name)
        return shown[0]

    def records(self, sheet: Sheet) -> Iterator[tuple[int, list[str]]]:
        """Read a sheet's rows; those without any content are none.

        Yields:
            The row's number in the sheet, and its cells from column A on.

        Raises:
            FileRefused: `workbook_unreadable`, `unpacked_too_large`, `record_too_long`, `columns_too_many`, `cells_merged`.
        """
        rows = Rows(self.name, self._formats(), self._texts())
        for _ in self._parsed(sheet.part, rows.began, rows.ended, rows.text):
            yield from rows.taken()

    def _sheets(self) -> tuple[Sheet, ...]:
        targets: dict[str, str] = {}
        found: list[Sheet] = []

        def relation(tag: str, with_: dict[str, str]) -> None:
            if tag == "Relationship" and with_.get("Type", "").endswith("/worksheet"):
                targets[with_.get("Id", "")] = posixpath.normpath(posixpath.join("/xl", with_.get("Target", "")))[1:]

        def sheet(tag: str, with_: dict[str, str]) -> None:
            if tag == "sheet" and with_.get("id") in targets:
                found.append(
                    Sheet(with_.get("name", ""), targets[with_["id"]], with_.get("state", "visible") != "visible")
                )

        self._whole(RELATIONS, relation)
        self._whole(WORKBOOK, sheet)
        return tuple(found)

    def _formats(self) -> dict[int, Format]:
        """Tell how the styles show a number, of those that do not show each as it is."""
        formats = {number: _format(code) for number, code in BUILT_IN.items()}
        formats |= {str(number): Format(date=True) for number in DATES_BUILT_IN}
        styles: list[str] = []
        inside = [False]

        def begin(tag: str, with_: dict[str, str]) -> None:
            if tag == "numFmt" and len(formats) < STYLES_MAX:
                formats[with_.get("numFmtId", "")] = _format(with_.get("formatCode", ""))
            if tag in {"cellXfs", "cellStyleXfs", "dxfs"}:
                inside[0] = tag == "cellXfs"
            if tag == "xf" and inside[0] and len(styles) < STYLES_MAX:
                styles.append(with_.get("numFmtId", "0"))

        if STYLES in self._archive.namelist():
            self._whole(STYLES, begin)
        return {at: formats[number] for at, number in enumerate(styles) if number in formats}

    def _texts(self) -> Texts:
        """Read the texts that cells share, which may be most of the workbook."""
        texts = Texts(self.name)
        part = next((name for name in self._archive.namelist() if name.lower() == "xl/sharedstrings.xml"), None)
        if part is not None:
            for _ in self._parsed(part, texts.began, texts.ended, texts.text):
                texts.keep()
        return texts

    def _whole(self, part: str, begin: Callable[[str, dict[str, str]], None]) -> None:
        for _ in self._parsed(part, begin, lambda _: None, lambda _: None):
            pass

    def _parsed(
        self,
        part: str,
        begin: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None],
        text: Callable[[str], None],
    ) -> Iterator[None]:
        """Parse a part of the archive, a chunk at a time; yields after each chunk."""
        quiet = 0

        def began(tag: str, with_: dict[str, str]) -> None:
            nonlocal quiet
            quiet = 0
            begin(
                tag.rpartition("}")[2],
                {key.rpartition("}")[2]: value for key, value in with_.items()} if with_ else with_,
            )

        def said(some: str) -> None:
            nonlocal quiet
            quiet = 0
            text(some)

        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = began
        parser.EndElementHandler = lambda tag: end(tag.rpartition("}")[2])
        parser.CharacterDataHandler = said
        # No workbook has one, and entities that are made of entities could fill any memory.
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            if self._archive.getinfo(part).compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise self._unreadable(f"{part} is packed in a way that Excel does not use")
            with self._archive.open(part) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    self._bound.more(len(chunk))
                    quiet += len(chunk)
                    parser.Parse(chunk)
                    if quiet > QUIET_BYTES_MAX:
                        raise self._unreadable(f"{part} has a tag that does not end")
                    yield
                parser.Parse(b"", True)  # noqa: FBT003  # expat's own
                yield
        except BROKEN as error:
            raise self._unreadable(f"{part}: {error}") from error

    def _doctype(self, *_: object) -> None:
        raise self._unreadable("it declares entities")

    def _unreadable(self, why: str) -> FileRefused:
        message = f"{self.name} is no workbook that can be read ({why[:200]}): open it in Excel and save it anew, or as 'CSV UTF-8'"
        return FileRefused(message, code="workbook_unreadable", file=self.name)


class Texts:
    """The texts that cells share, on the disk, by their number. Phonetic readings are left out.

    Args:
        name: The file's name, for errors.
    """

    def __init__(self, name: str) -> None:
        self._kept = Spool()
        self._name = name
        # Read but not written yet: a write for each would take longer than all the rest.
        self._new: list[bytes] = []
        # Where each begins; eight bytes a text are all that stays in memory.
        self._starts = array("Q", [0])
        self._parts: list[str] = []
        self._length = 0
        self._aside = 0
        self._inside = False

    def began(self, tag: str, _: dict[str, str]) -> None:
        """A tag begins."""
        if tag == "si":
            self._parts, self._length = [], 0
        elif tag == "rPh":
            self._aside += 1
        elif tag == "t":
            self._inside = not self._aside

    def text(self, some: str) -> None:
        """Text between tags."""
        if self._inside:
            self._length += len(some)
            if self._length > RECORD_BYTES_MAX:
                message = f"{self._name}: a cell's text is longer than {RECORD_BYTES_MAX} characters: shorten it"
                raise FileRefused(message, code="record_too_long", file=self._name)
            self._parts.append(some)

    def ended(self, tag: str) -> None:
        """A tag ends."""
        if tag == "t":
            self._inside = False
        elif tag == "rPh":
            self._aside -= 1
        elif tag == "si":
            # Half of a pair of UTF-16, which an escape may name, has no form in UTF-8.
            text = "".join(self._parts).encode("utf-8", "replace")
            self._new.append(text)
            self._starts.append(self._starts[-1] + len(text))

    def keep(self) -> None:
        """Write down what was read."""
        self._kept.append(b"".join(self._new))
        self._new = []

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self._starts) - 1:
            raise KeyError(f"no shared text {number}")
        start, end = self._starts[number], self._starts[number + 1]
        return self._kept.part(start, end - start).decode()


@dataclass(slots=True)
class Cell:
    """A cell as its tags come in."""

    column: int
    kind: str
    style: str
    formula: bool = False
    value: str = ""
    parts: list[str] = field(default_factory=list)


class Rows:
    """Puts rows together from the tags of a sheet.

    Args:
        name: The file's name, for errors.
        formats: How the styles show a number, of those that do not show each as it is.
        texts: The shared texts.
    """

    def __init__(self, name: str, formats: dict[int, Format], texts: Texts) -> None:
        self._name = name
        self._formats = formats
        self._texts = texts
        self._done: list[tuple[int, list[str]]] = []
        self._number = 0
        self._hidden = False
        self._cells: list[str] = []
        self._cell: Cell | None = None
        self._into: str | None = None
        self._aside = False
        self._length = 0

    def taken(self) -> list[tuple[int, list[str]]]:
        """Give the rows that are complete."""
        done, self._done = self._done, []
        return done

    def began(self, tag: str, with_: dict[str, str]) -> None:
        """A tag begins."""
        if tag == "c":
            self._cell = Cell(self._column(with_.get("r")), with_.get("t", "n"), with_.get("s", ""))
        elif tag == "row":
            given = with_.get("r", "")
            self._number = int(given) if given.isdecimal() else self._number + 1
            self._hidden = with_.get("hidden") in {"1", "true"}
            self._cells, self._length = [], 0
        elif tag == "rPh":
            self._aside = True
        elif tag == "mergeCell":
            self._check_merged(with_.get("ref", ""))
        elif self._cell is not None and tag in {"v", "t", "f"} and not self._aside:
            self._into = tag
            self._cell.formula = self._cell.formula or tag == "f"

    def text(self, some: str) -> None:
        """Text between tags."""
        if self._into in {"v", "t"} and self._cell is not None:
            self._count(len(some))
            self._cell.parts.append(some)

    def ended(self, tag: str) -> None:
        """A tag ends."""
        if tag == "c" and self._cell is not None:
            self._cells.extend([""] * (self._cell.column - len(self._cells)))
            self._cells.append(self._content(self._cell))
            self._cell = None
        elif tag == "row":
            if any(self._cells):
                hidden = self._hidden
                self._done.append((self._number, [Odd(c, *HIDDEN) for c in self._cells] if hidden else self._cells))
        elif tag == "rPh":
            self._aside = False
        elif tag in {"v", "t", "f"}:
            self._into = None

    def _check_merged(self, range_: str) -> None:
        """Refuse cells that are merged over rows: who sees one ticket or amount beside two rows means it for both, and the second has none."""
        match = MERGED.fullmatch(range_)
        if match is None or match[1] == match[2]:
            return
        message = (
            f"{self._name}, line {match[1]}: the cells {range_} are merged, so that all rows but the first have nothing there: unmerge them, "
            "and fill in each row"
        )
        raise FileRefused(message, code="cells_merged", file=self._name, line=int(match[1]))

    def _count(self, characters: int) -> None:
        self._length += characters
        if self._length > RECORD_BYTES_MAX:
            message = (
                f"{self._name}, line {self._number}: the row is longer than {RECORD_BYTES_MAX} characters: shorten it"
            )
            raise FileRefused(message, code="record_too_long", file=self._name, line=self._number)

    def _column(self, reference: str | None) -> int:
        """Tell a cell's column, from 0: by its reference, else the next one."""
        column = len(self._cells)
        match = COLUMN.fullmatch(reference or "")
        if match is not None:
            column = 0
            for letter in match[1]:
                column = column * 26 + ord(letter) - ord("A") + 1
            column -= 1
        if column >= COLUMNS_MAX:
            message = f"{self._name}, line {self._number}: the row has more than {COLUMNS_MAX} cells: remove those to the right of the table"
            raise FileRefused(message, code="columns_too_many", file=self._name, line=self._number)
        if column < len(self._cells):
            raise KeyError(f"cell {reference} stands in the wrong place")
        return column

    def _content(self, cell: Cell) -> str:
        text = "".join(cell.parts)
        if cell.formula:
            return Odd(self._shown(cell, text) or "=", *FORMULA)
        if cell.kind == "e":
            return Odd(text or "#ERROR", *ERROR)
        return self._shown(cell, text)

    def _shown(self, cell: Cell, text: str) -> str:
        match cell.kind:
            case "s":
                return ESCAPED.sub(_unescaped, self._shared(text)) if text else ""
            case "inlineStr" | "str":
                return ESCAPED.sub(_unescaped, text)
            case "b":
                return {"1": "true", "0": "false"}.get(text, text)
            case "d":
                return Odd(text, *DATE)
            case "e":
                return text
            case _:
                return self._number_of(text, cell.style)

    def _shared(self, text: str) -> str:
        """Read a shared text, which counts wherever it stands: one that is long may stand in every cell of a row."""
        shared = self._texts[_whole(text)]
        self._count(len(shared))
        return shared

    def _number_of(self, text: str, style: str) -> str:
        """Tell a number by the shortest decimal that is the same one: Excel writes 1.1 as 1.1000000000000001."""
        if not text:
            return ""
        try:
            value = float(text)
        except ValueError as error:
            raise KeyError(f"'{text[:SHOWN_MAX]}' is no number") from error
        format_ = self._formats.get(int(style), PLAIN) if style.isdecimal() else PLAIN
        if format_.date:
            return Odd(text, *DATE)
        shown = repr(value).removesuffix(".0")
        if not abs(value) < EXACT_BELOW:
            return Odd(repr(value), *ROUNDED)
        whole, _, decimals = shown.lstrip("-").partition(".")
        # `00123` on the screen is the number 123: as an order it is another one, which may be there too.
        if len(whole) < format_.digits or len(decimals) > format_.decimals:
            return Odd(shown, *ALTERING)
        return Dressed(shown) if format_.dressed else Number(shown)


def _format(code: str) -> Format:
    """Read a format's code: of its sections the one for numbers above zero counts, or each, where they have conditions."""
    if not code:
        return PLAIN
    bare = FORMAT_TEXT.sub(_dressing, code)
    if re.search("[ymdhs]", bare, re.IGNORECASE):
        return Format(date=True)
    sections = bare.split(";")
    shown = [_section(section) for section in (sections if CONDITION.search(code) else sections[:1])]
    return Format(
        digits=max(one.digits for one in shown),
        decimals=min(one.decimals for one in shown),
        dressed=any(one.dressed for one in shown),
    )


def _section(code: str) -> Format:
    dressed = _is_dressing(PLACES.sub("", code))
    if ANY_NUMBER.search(code):
        return Format(dressed=dressed)
    if ALTERING_CODE.search(code) or not re.search("[0#?]", code):
        return Format(digits=ALTERED)
    whole, _, decimals = code.partition(".")
    return Format(digits=whole.count("0"), decimals=len(re.findall("[0#?]", decimals)), dressed=dressed)


def _dressing(match: re.Match[str]) -> str:
    return DRESSING if _is_dressing(match[1] or match[2] or "") else ""


def _is_dressing(text: str) -> bool:
    """Tell whether it is more than space and the sign of a currency."""
    return any(not letter.isspace() and unicodedata.category(letter) != "Sc" for letter in text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise KeyError(f"'{text[:SHOWN_MAX]}' is no number of a shared text")
    return int(text)


def _unescaped(match: re.Match[str]) -> str:
    letter = chr(int(match[1], 16))
    # Half of a pair of UTF-16 can be written to no file.
    return "\ufffd" if "\ud800" <= letter <= "\udfff" else letter
