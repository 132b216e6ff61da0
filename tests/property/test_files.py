"""The reader of files, for every file: nothing lost, nothing invented, and no error but its own."""

import csv
import gzip
import io
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.connectors.base import (
    AmountKind,
    FileRefused,
    ParsedRow,
    ReadOptions,
    RefusedRow,
    Row,
    amount_of,
    report_cell,
    visible,
)
from refundry.connectors.files import reader
from refundry.connectors.files.columns import AMOUNTS, KNOWN
from refundry.kernel.errors import AmountInvalid
from refundry.kernel.money import exponent
from tests.support.workbook import sheet, text, workbook

pytestmark = pytest.mark.property

HEADERS = st.sampled_from([
    ("charge_id", "amount"),
    ("order_id", "amount_minor", "ticket_id", "note"),
    ("payment_intent", "order_id", "amount", "amount_minor", "amount_cents", "currency", "reason", "metadata.agent", "request_key"),
])  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
likely = st.sampled_from([
    "ch_1", "pi_1", "536365", "1", "12.34", "0", "-5", "1,5", "full", "FULL ", "", " ", "gbp", "JPY", "isk", "duplicate", "fraudulent", '"', "a\r\nb", "=1",
])  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = draw(HEADERS)
    return header, draw(st.lists(st.tuples(*[cells] * len(header)), min_size=1, max_size=6))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "refunds.csv"


def written(
    header: tuple[str, ...], rows: list[tuple[str, ...]], quoting: int = csv.QUOTE_MINIMAL, delimiter: str = ","
) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=quoting, delimiter=delimiter)
    writer.writerows([header, *rows])
    return stream.getvalue().encode()


def read(path: Path, content: bytes, **options: Any) -> list[Row]:
    path.write_bytes(content)
    file = reader.read(path, options=ReadOptions(**options))
    rows = list(file.rows())
    assert len(rows) == file.row_count
    return rows


def refused_with(path: Path, content: bytes) -> str | None:
    """Read a file; tells the code with which it was refused, if it was. Any other error is the test's."""
    try:
        read(path, content)
    except FileRefused as refused:
        return refused.code
    return None


@given(
    table=tables(texts),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_is_written_comes_back_equal_and_in_order(
    path: Path, table: tuple[tuple[str, ...], list[tuple[str, ...]]], quoting: int, mark: bytes
) -> None:
    header, rows = table
    back = read(path, mark + written(header, rows, quoting))
    assert [tuple(row.raw[name] for name in header) for row in back] == rows
    assert [row.number for row in back] == list(range(1, len(rows) + 1))


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(path: Path, content: bytes) -> None:
    for start in (
        b"",
        b"charge_id,amount\n",
        b"charge_id,amount\nch_1,1\n",
        b'{"charge_id":"ch_1","amount":',
        b"PK\x03\x04",
        b"\x1f\x8b\x08\0",
    ):
        assert refused_with(path, start + content) != "file_refused"


@given(table=tables(likely), at=st.floats(0, 1), change=st.binary(max_size=4), length=st.integers(0, 4))
def test_a_damaged_file_is_read_or_refused(
    path: Path, table: tuple[tuple[str, ...], list[tuple[str, ...]]], at: float, change: bytes, length: int
) -> None:
    content = written(*table)
    start = int(at * len(content))
    assert refused_with(path, content[:start] + change + content[start + length :]) != "file_refused"


plain = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="_"), max_size=20)
FORMS = st.sampled_from(["csv", "jsonl", "xlsx"])


def encoded(form: str, header: tuple[str, ...], rows: list[tuple[str, ...]], delimiter: str) -> bytes:
    if form == "jsonl":
        return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()
    if form == "xlsx":
        return workbook({"A": sheet([[text(cell) for cell in row] for row in (header, *rows)])})
    return written(header, rows, csv.QUOTE_ALL, delimiter)


@given(
    table=tables(plain | likely.filter(str.isprintable)),
    form=FORMS,
    delimiter=st.sampled_from(",;\t|"),
    packed=st.booleans(),
)
def test_a_table_means_the_same_in_every_format(
    path: Path, table: tuple[tuple[str, ...], list[tuple[str, ...]]], form: str, delimiter: str, *, packed: bool
) -> None:
    header, rows = table
    rows = [row for row in rows if any(row)] or [("x",) * len(header)]
    content = encoded(form, header, rows, delimiter)
    expected = read(path, written(header, rows, csv.QUOTE_ALL))
    back = read(path, gzip.compress(content, mtime=0) if packed and form != "xlsx" else content)
    assert [replace(row, line=0) for row in back] == [replace(row, line=0) for row in expected]


@given(
    table=tables(likely),
    form=FORMS,
    at=st.floats(0, 1),
    change=st.binary(max_size=4),
    length=st.integers(0, 4),
    packed=st.booleans(),
)
def test_a_damaged_file_of_any_format_is_read_or_refused(
    path: Path,
    table: tuple[tuple[str, ...], list[tuple[str, ...]]],
    form: str,
    at: float,
    change: bytes,
    length: int,
    *,
    packed: bool,
) -> None:
    content = encoded(form, *table, ",")
    content = gzip.compress(content, mtime=0) if packed else content
    start = int(at * len(content))
    assert refused_with(path, content[:start] + change + content[start + length :]) != "file_refused"


@given(
    minor=st.integers(1, 10**11), decimal=st.sampled_from([",", "."]), between=st.sampled_from(["", " ", "'", "\u00a0"])
)
def test_an_amount_of_another_country_is_the_same_amount(path: Path, minor: int, decimal: str, between: str) -> None:
    whole, fraction = f"{minor // 100:,}".replace(",", between), f"{minor % 100:02}"
    (row,) = read(
        path,
        written(("charge_id", "amount", "currency"), [("ch_1", f"{whole}{decimal}{fraction}", "gbp")]),
        decimal=decimal,
    )
    assert isinstance(row, ParsedRow)
    money = amount_of(row.amounts[0], "gbp")
    assert money is not None
    assert money.minor_units == minor


@given(
    names=st.lists(
        texts | st.sampled_from(KNOWN) | st.sampled_from(["metadata.a", "Amount", "order id"]), min_size=1, max_size=6
    )
)
def test_any_header_is_read_or_refused_and_nothing_known_is_overlooked(path: Path, names: list[str]) -> None:
    try:
        path.write_bytes(written(tuple(names), [("x",) * len(names)]))
        file = reader.read(path, options=ReadOptions())
    except FileRefused:
        return
    assert set(file.unknown_columns) == {
        visible(name) for name in names if name not in KNOWN and not name.startswith("metadata.")
    }
    assert not {name.strip().lower() for name in file.unknown_columns} & set(KNOWN)


@given(table=tables(likely), blank=st.booleans())
def test_no_row_is_lost_and_no_amount_is_invented(
    path: Path, table: tuple[tuple[str, ...], list[tuple[str, ...]]], *, blank: bool
) -> None:
    header, rows = table
    back = read(path, written(header, rows), blank_amount_full=blank)
    assert len(back) == len(rows)
    for row in back:
        cells = {column: text for column in AMOUNTS if (text := row.raw.get(column, "").strip())}
        if isinstance(row, RefusedRow):
            continue
        asked = [amount.text for amount in row.amounts]
        assert asked == (list(cells.values()) or [""] * blank)
        for amount in row.amounts:
            is_full = amount.text.lower() == "full" or (blank and not cells)
            assert (amount.kind is AmountKind.FULL) == is_full
            check_money(row, amount.text, amount.kind)


def check_money(row: ParsedRow, text: str, kind: AmountKind) -> None:
    currency = row.currency or "gbp"
    try:
        money = amount_of(
            next(amount for amount in row.amounts if (amount.text, amount.kind) == (text, kind)), currency
        )
    except AmountInvalid:
        assert row.currency is None
        return
    if money is None:
        assert kind is AmountKind.FULL
    else:
        assert money.minor_units == Decimal(text).scaleb(exponent(currency) if kind is AmountKind.MAJOR else 0)
        assert money.currency == currency


@given(written_text=texts)
def test_a_report_cell_never_begins_like_a_formula_and_keeps_the_text(written_text: str) -> None:
    cell = report_cell(written_text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert cell in {written_text, f"'{written_text}"}
