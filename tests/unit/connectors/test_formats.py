"""Every format of a file of refunds: what is found, what has to be said, and what is refused."""

import gzip
import io
import json
import os
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from refundry.connectors.base import FileOpened, FileRefused, ParsedRow, ReadOptions, RefusedRow, Row
from refundry.connectors.files import reader, source
from tests.support.workbook import formula, number, sheet, text, workbook

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[3] / "docs/features/files.md"
PLAIN = b"charge_id,amount,ticket_id\nch_1,12.34,T1\n"


def opened(folder: Path, content: bytes, **options: Any) -> FileOpened:  # of `ReadOptions`
    path = folder / "refunds"
    path.write_bytes(content)
    return reader.read(path, options=ReadOptions(**options))


def rows(folder: Path, content: bytes, **options: Any) -> list[Row]:  # the same
    return list(opened(folder, content, **options).rows())


def told(folder: Path, content: bytes, **options: Any) -> list[str]:  # the same
    """Tell of each row the amount that it asks for, or why it is refused."""
    return [row.amounts[0].text if isinstance(row, ParsedRow) else row.code for row in rows(folder, content, **options)]


def refusal(folder: Path, content: bytes, **options: Any) -> FileRefused:  # the same
    with pytest.raises(FileRefused) as refused:
        opened(folder, content, **options)
    assert f"`{refused.value.code}`" in PAGE.read_text(encoding="utf-8")
    return refused.value


# Delimiters


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_usual_delimiters_are_found_and_told(tmp_path: Path, delimiter: str) -> None:
    file = opened(tmp_path, PLAIN.replace(b",", delimiter.encode()))
    assert file.columns == ("charge_id", "amount", "ticket_id")
    assert len(file.assumed) == (delimiter != ",")


def test_a_delimiter_inside_of_quotes_is_none(tmp_path: Path) -> None:
    content = b'charge_id;"a,b,amount";amount\nch_1;"x;y\n,z";5\n'
    (row,) = rows(tmp_path, content)
    assert row.raw == {"charge_id": "ch_1", "a,b,amount": "x;y\n,z", "amount": "5"}


def test_any_other_delimiter_has_to_be_said(tmp_path: Path) -> None:
    content = PLAIN.replace(b",", b"#")
    assert refusal(tmp_path, content).code == "no_reference_column"
    assert told(tmp_path, content, delimiter="#") == ["12.34"]


def test_a_delimiter_that_is_said_wrongly_is_refused(tmp_path: Path) -> None:
    refused = refusal(tmp_path, PLAIN, delimiter=";")
    assert (refused.code, refused.ids["line"]) == ("delimiter_wrong", 1)
    assert "commas" in refused.message


def test_excels_own_line_says_the_delimiter_and_is_no_header(tmp_path: Path) -> None:
    file = opened(tmp_path, b"\xef\xbb\xbfsep=;\r\ncharge_id;amount\r\nch_1;5\r\n")
    assert [(row.line, row.raw["amount"]) for row in file.rows()] == [(3, "5")]


# Encodings

CAFE = "charge_id,amount,ticket_id,note\nch_1,1,T1,café\nch_1,2,Té,x\n"


def test_windows_1252_that_nobody_said_is_told_and_not_trusted_with_names(tmp_path: Path) -> None:
    file = opened(tmp_path, CAFE.encode("cp1252"))
    assert "Windows-1252" in file.assumed[0]
    first, second = file.rows()
    assert first.raw["note"] == "café"
    assert isinstance(second, RefusedRow)
    assert (second.code, second.column, second.line) == ("text_encoding_unsure", "ticket_id", 3)


def test_windows_1252_that_was_said_is_read_as_it_is_and_is_another_batch(tmp_path: Path) -> None:
    assumed, said = (
        opened(tmp_path, CAFE.encode("cp1252")),
        opened(tmp_path, CAFE.encode("cp1252"), encoding="windows-1252"),
    )
    assert [row.ticket_id for row in said.rows() if isinstance(row, ParsedRow)] == ["T1", "Té"]
    assert (said.sha256, said.assumed) == (assumed.sha256, ())
    assert said.options != assumed.options


def test_windows_1252_is_not_read_over_the_mark_of_utf_8(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"\xef\xbb\xbf" + PLAIN, encoding="windows-1252").code == "file_not_windows_1252"


# Amounts of other countries


@pytest.mark.parametrize(
    ("decimal", "written", "means"),
    [
        (None, "12.34", "12.34"), (None, "12,34", "amount_unreadable"), (None, "1,234.56", "amount_unreadable"), (None, "1.234", "1.234"),
        (",", "12,34", "12.34"), (",", "1.234,56", "1234.56"), (",", "1.234", "1234"), (",", "1 234 567,5", "1234567.5"), (",", "1234", "1234"),
        (",", "12.34", "amount_unreadable"), (",", "1.23,45", "amount_unreadable"), (",", "1.234.56", "amount_unreadable"), (",", "1.234 567", "amount_unreadable"),
        (",", ",5", "amount_unreadable"), (",", "-5,00", "amount_not_positive"), (",", "0,00", "amount_not_positive"), (",", "full", "full"),
        (".", "1,234.56", "1234.56"), (".", "1\u202f234.5", "1234.5"), (".", "1'234.50", "1234.50"), (".", "12,34", "amount_unreadable"),
        (".", "1,2345", "amount_unreadable"), (".", "\u0661.5", "amount_unreadable"),
        (",", "0.500", "amount_unreadable"), (".", "0,500", "amount_unreadable"), (",", "001.234", "amount_unreadable"), (",", "-0.500", "amount_unreadable"),
        (",", "0 500", "amount_unreadable"), (",", "0,500", "0.500"), (".", "0.500", "0.500"), (",", "100.000", "100000"), (".", "007", "007"),
    ],
)  # fmt: skip
def test_an_amount_has_the_form_that_was_said(tmp_path: Path, decimal: str | None, written: str, means: str) -> None:
    assert told(tmp_path, f'charge_id,amount\nch_1,"{written}"\n'.encode(), decimal=decimal) == [means]


@pytest.mark.parametrize(
    ("currency", "written", "decimal", "means"),
    [
        ("eur", "1.500", None, "amount_ambiguous"), ("jpy", "1.000", None, "amount_ambiguous"), ("", "12.340", None, "amount_ambiguous"),
        ("bhd", "1.500", None, "1.500"), ("eur", "1.500", ".", "1.500"), ("eur", "1.500", ",", "1500"), ("eur", "1.234", None, "amount_too_precise"),
        ("eur", "0.500", None, "0.500"), ("eur", "1500.000", None, "1500.000"), ("jpy", "500.00", None, "500.00"), ("eur", "1.5000", None, "1.5000"),
    ],
)  # fmt: skip
def test_an_amount_that_is_two_amounts_is_refused_until_it_is_said_which(
    tmp_path: Path, currency: str, written: str, decimal: str | None, means: str
) -> None:
    content = f'charge_id,amount,currency\nch_1,"{written}",{currency}\n'.encode()
    assert told(tmp_path, content, decimal=decimal) == [means]


def test_a_number_that_is_written_with_three_decimals_is_that_number(tmp_path: Path) -> None:
    content = b'{"charge_id": "ch_1", "amount": 1.500, "currency": "eur"}\n{"charge_id": "ch_1", "amount": "1.500", "currency": "eur"}\n'
    assert told(tmp_path, content) == ["1.500", "amount_ambiguous"]


def test_minor_units_are_not_advised_a_flag_that_is_not_about_them(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, b'charge_id,amount_cents\nch_1,"1,000"\n')
    assert isinstance(row, RefusedRow)
    assert (row.code, "--decimal" in row.message) == ("amount_unreadable", False)


def test_a_number_means_what_it_is_whatever_decimal_sign_texts_have(tmp_path: Path) -> None:
    content = b'{"charge_id": "ch_1", "amount": 1.234}\n{"charge_id": "ch_1", "amount": "1.234"}\n'
    assert told(tmp_path, content, decimal=",") == ["1.234", "1234"]


# Other names


@pytest.mark.parametrize("column", ["order_id", "ticket_id", "request_key"])
@pytest.mark.parametrize("written", ["1.23457E+15", '"1,23457E+15"', "4E+18", "1.234567890123456e+18", "1.2345678E7"])
def test_a_name_that_a_spreadsheet_has_rounded_is_no_name(tmp_path: Path, column: str, written: str) -> None:
    (row,) = rows(tmp_path, f"charge_id,amount,{column}\nch_1,1,{written}\n".encode())
    assert isinstance(row, RefusedRow)
    assert (row.code, row.column) == ("number_too_long", column)
    assert written.strip('"') in row.message


@pytest.mark.parametrize("column", ["order_id", "ticket_id", "request_key"])
def test_a_name_that_a_program_has_made_a_decimal_is_no_name(tmp_path: Path, column: str) -> None:
    for content in (
        f"charge_id,amount,{column}\nch_1,1,7.0\n",
        f'{{"charge_id": "ch_1", "amount": 1.0, "{column}": 7.0}}\n',
    ):
        (row,) = rows(tmp_path, content.encode())
        assert isinstance(row, RefusedRow)
        assert (row.code, row.column) == ("number_not_whole", column)
        assert "'7'" in row.message


@pytest.mark.parametrize("column", ["ticket_id", "request_key"])
@pytest.mark.parametrize(
    "written",
    [
        ' "T-7"',
        '\t"T-7"',
        '="T-7"',
        '"""T-7"""',
        "'T-7'",
        "\u201cT-7\u201d",
        ' "12 ""B"""',
        '""""""',
        "'+44",
        "'@ada",
        "' =1",
        "'\uff0d5",
    ],
)
def test_a_name_with_the_quotes_that_were_to_stand_around_it_is_no_name(
    tmp_path: Path, column: str, written: str
) -> None:
    (row,) = rows(tmp_path, f"charge_id,amount,{column}\nch_1,1,{written}\n".encode())
    assert isinstance(row, RefusedRow)
    assert (row.code, row.column) == ("text_quoted", column)


@pytest.mark.parametrize("written", ['T-7 "B"', "'T-7", "O'Neill's", '"""A"" and B"', "'tis", '=1+"1"'])
def test_a_name_with_quotes_inside_of_it_is_one(tmp_path: Path, written: str) -> None:
    (row,) = rows(tmp_path, f"charge_id,amount,ticket_id\nch_1,1,{written}\n".encode())
    assert isinstance(row, ParsedRow)


def test_an_order_with_quotes_is_looked_for_as_it_stands(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, b'order_id,amount\n"""A1""",1\n')
    assert isinstance(row, ParsedRow)
    assert row.reference.value == '"A1"'


@pytest.mark.parametrize(
    "written",
    [
        "1E15",
        "1.5",
        "E+15",
        "12E+15",
        "1.23457E+15-2",
        "1234567890123456789",
        "1E+1",
        "7.00",
        "7.01",
        "1.2.0",
        "v7.0",
        ".0",
    ],
)
def test_a_name_that_only_looks_a_little_like_a_number_is_one(tmp_path: Path, written: str) -> None:
    (row,) = rows(tmp_path, f"charge_id,amount,ticket_id\nch_1,1,{written}\n".encode())
    assert isinstance(row, ParsedRow)
    assert row.ticket_id == written


def test_a_column_of_another_name_means_what_was_said(tmp_path: Path) -> None:
    content = b"Order no,Betrag,Ticket\n5,1,seat 7\nx y,,z\n"
    mapping = (("Order no", "order_id"), ("Betrag", "amount"), ("Ticket", ""))
    file = opened(tmp_path, content, mapping=mapping)
    first, second = file.rows()
    assert isinstance(first, ParsedRow)
    assert (first.reference.value, first.amounts[0].text, first.ticket_id) == ("5", "1", None)
    assert first.raw == {"Order no": "5", "Betrag": "1", "Ticket": "seat 7"}
    assert (file.columns, file.unknown_columns) == (("Order no", "Betrag", "Ticket"), ("Ticket",))
    assert isinstance(second, RefusedRow)


def test_the_column_to_blame_has_the_files_own_name(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, b"charge_id,Betrag\nch_1,x\n", mapping=(("Betrag", "amount"),))
    assert isinstance(row, RefusedRow)
    assert (row.code, row.column) == ("amount_unreadable", "Betrag")


@pytest.mark.parametrize(
    ("mapping", "code", "column"),
    [
        ((("Betrog", "amount"),), "mapping_unknown", "Betrog"),
        ((("Betrag", "price"),), "mapping_unknown", "Betrag"),
        ((("Betrag", "amount"), ("Summe", "amount")), "column_repeated", "Betrag"),
        ((("Betrag", "metadata."),), "metadata_column_invalid", "Betrag"),
        ((("charge_id", ""),), "no_reference_column", None),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(
    tmp_path: Path, mapping: tuple[tuple[str, str], ...], code: str, column: str | None
) -> None:
    refused = refusal(tmp_path, b"charge_id,Betrag,Summe\nch_1,1,1\n", mapping=mapping)
    assert (refused.code, refused.ids.get("column")) == (code, column)


# JSON lines


def test_numbers_of_json_are_taken_by_their_digits(tmp_path: Path) -> None:
    lines = [
        '{"charge_id": "ch_1", "amount": 12.30}', "", '{"amount": 0.1, "order_id": 536365, "x": {"a": [1]}}',
        '{"charge_id": "ch_1", "amount": 1e308}', '{"charge_id": "ch_1", "amount": NaN}', '{"charge_id": "ch_1", "amount": -Infinity}',
        '{"charge_id": "ch_1", "amount": [5]}', '{"charge_id": "ch_1", "amount": null}', '{"charge_id": "ch_1", "amount": -5}',
        '{"charge_id": "ch_1", "amount": 99999999999999999999999, "currency": "gbp"}', '{"charge_id": "ch_1", "amount": true}',
    ]  # fmt: skip
    content = "\n".join(lines).encode()
    assert told(tmp_path, content) == [
        "12.30", "0.1", "amount_unreadable", "cell_not_a_number", "cell_not_a_number", "cell_nested", "amount_missing", "amount_not_positive",
        "amount_too_large", "amount_unreadable",
    ]  # fmt: skip
    file = opened(tmp_path, content)
    assert file.columns == ("charge_id", "amount", "order_id", "x", "currency")
    assert file.unknown_columns == ("x",)
    second = list(file.rows())[1]
    assert (second.line, second.raw["order_id"], second.raw["x"]) == (3, "536365", '{"a": ["1"]}')


JSON = b'{"charge_id": "ch_1", "amount": 1}\n'


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        (b'{"charge_id": "ch_1", "amount": 1, "amount": 2}', "column_repeated", "amount"),
        (b'{"charge_id": "ch_1", "x": {"a": 1, "a": 2}}', "column_repeated", "a"),
        (b'{"charge_id": "ch_1", "amount": 1', "json_invalid", None),
        (b"[1]", "json_invalid", None),
        (b"5", "json_invalid", None),
        (b'{"a":' + b"[" * 100_000, "json_invalid", None),
        (b'{"charge_id": "\\ud800"}', "json_invalid", None),
        (b'{"charge_id": "' + b"x" * 200_000 + b'"}', "record_too_long", None),
        (b'{"charge_id": "\0"}', "file_binary", None),
        (b"{" + b",".join(b'"k%d": 1' % at for at in range(1001)) + b"}", "columns_too_many", None),
    ],
)
def test_a_line_that_is_no_object_refuses_the_file(tmp_path: Path, line: bytes, code: str, column: str | None) -> None:
    refused = refusal(tmp_path, JSON + line + b"\n")
    assert (refused.code, refused.ids.get("line"), refused.ids.get("column")) == (code, 2, column)


@pytest.mark.parametrize(
    "column", ["charge_id", "amount", "currency", "reason", "reverse_transfer", "ticket_id", "metadata.a"]
)
def test_a_message_shows_no_letter_that_a_terminal_obeys(tmp_path: Path, column: str) -> None:
    cells = {"charge_id": "ch_1", "amount": "1", column: "x\x1b[31m\0\n"}
    (row,) = rows(tmp_path, json.dumps(cells).encode(), decimal="," if column == "amount" else None)
    assert isinstance(row, RefusedRow)
    assert "\\x1b[31m\\x00" in row.message
    assert row.message.isprintable()


def test_a_header_that_is_refused_shows_no_letter_that_a_terminal_obeys(tmp_path: Path) -> None:
    assert (
        "\\x1b" in refusal(tmp_path, b'{"charge_id": "ch_1", "Amount": 1, "\\u001b": 1}', mapping=(("x", "y"),)).message
    )
    assert refusal(tmp_path, b'{"charge_id": "ch_1", "amount\\u001b": 1}').message.isprintable()


def test_what_is_told_of_a_sound_file_shows_no_letter_that_a_terminal_obeys(tmp_path: Path) -> None:
    content = workbook({"A\x85": sheet([[*HEADER[:2], text("x\u202e")], [text("ch_1"), number("1")]])})
    file = opened(tmp_path, content)
    assert (file.columns[2], file.unknown_columns) == ("x\u202e", ("x\\u202e",))
    assert "'A\\x85'" in file.assumed[1]


@pytest.mark.parametrize(
    ("content", "code", "line", "column"),
    [
        (b"\n" + JSON + b'{"charge_id": "ch_1", "amount": 1, "Ticket": "T1"}\n', "column_misnamed", 3, "Ticket"),
        (b'\n{"charge_id": "ch_1", "price": 1}\n', "no_amount_column", 2, None),
        (b'\n{"charge_id": "ch_1", "amount": 1, "": 1}\n', "column_unnamed", 2, ""),
    ],
)
def test_the_keys_of_json_are_held_to_their_right_names(
    tmp_path: Path, content: bytes, code: str, line: int, column: str | None
) -> None:
    refused = refusal(tmp_path, content)
    assert (refused.code, refused.ids["line"], refused.ids.get("column")) == (code, line, column)
    assert f"line {line}:" in refused.message


# Workbooks

HEADER = [text("charge_id"), text("amount"), text("note")]


def book(*cells: list[str | None], **options: Any) -> bytes:  # of `sheet`
    return workbook({"Refunds": sheet([HEADER, *cells], **options)})


@pytest.mark.parametrize(
    ("cell", "means"),
    [
        (number("12.300000000000001"), "12.3"), (number("1.1000000000000001"), "1.1"), (number("1234"), "1234"), (number("5E-1"), "0.5"), (number("5", 3), "5"),
        (text("12.34"), "12.34"), (text("full"), "full"), (number("0.30000000000000004"), "0.30000000000000004"),
        (formula("B1*2", "24.68"), "cell_formula"), (formula("B1*2", ""), "cell_formula"), (number("46024", 1), "cell_date"), (number("46024", 2), "cell_date"),
        (' t="d"><v>2026-01-02</v></c>', "cell_date"), (' t="e"><v>#DIV/0!</v></c>', "cell_error"), (' t="b"><v>1</v></c>', "amount_unreadable"),
        (number("1e308"), "number_too_long"), (number("NaN"), "number_too_long"), (number("1234567890123456"), "number_too_long"), (number("-5"), "amount_not_positive"),
        (None, "amount_missing"), (text("12,34"), "amount_unreadable"), (number("12.5", 4), "cell_shown_otherwise"), (number("12345", 4), "12345"),
        (number("0.5", 5), "cell_shown_otherwise"), (number("1500", 6), "cell_shown_otherwise"), (number("12.5", 7), "12.5"),
        (number("12.5", 8), "cell_shown_otherwise"), (number("12", 8), "12"), (number("100", 9), "cell_shown_otherwise"),
        (number("12.5", 10), "cell_shown_otherwise"), (number("12.5", 11), "cell_shown_otherwise"), (number("12.5", 14), "12.5"),
        (number("12.5", 15), "12.5"), (number("-12.5", 15), "amount_not_positive"), (number("12.345", 15), "cell_shown_otherwise"),
    ],
)  # fmt: skip
def test_a_cell_of_a_workbook_is_exact_or_refused(tmp_path: Path, cell: str | None, means: str) -> None:
    content = book([text("ch_1"), cell, text("x")])
    assert told(tmp_path, content) == [means]
    assert f"`{means}`" in PAGE.read_text(encoding="utf-8") or not means.startswith(("cell", "number", "amount"))


def test_an_order_that_a_sheet_shows_with_zeros_in_front_is_not_another_order(tmp_path: Path) -> None:
    header = [text("order_id"), text("amount"), text("note")]
    cells = [
        [number("123", 4), number("1")],
        [number("53636", 4), number("2")],
        [text("00123"), number("3"), number("1", 4)],
    ]
    first, *others = rows(tmp_path, workbook({"Refunds": sheet([header, *cells])}))
    assert isinstance(first, RefusedRow)
    assert (first.code, first.column, first.raw["order_id"]) == ("cell_shown_otherwise", "order_id", "123")
    assert [row.reference.value for row in others if isinstance(row, ParsedRow)] == ["53636", "00123"]


@pytest.mark.parametrize(("style", "digits"), [(12, "7"), (13, "123456"), (9, "100")])
def test_a_ticket_that_a_sheet_shows_as_another_one_is_not_that_number(tmp_path: Path, style: int, digits: str) -> None:
    header = [text("charge_id"), text("amount"), text("ticket_id")]
    cells = [[text("ch_1"), number("1", 14), number(digits, at)] for at in (style, 0, 14)]
    first, *others = rows(tmp_path, workbook({"Refunds": sheet([header, *cells])}))
    assert isinstance(first, RefusedRow)
    assert (first.code, first.column) == ("cell_shown_otherwise", "ticket_id")
    assert [row.ticket_id for row in others if isinstance(row, ParsedRow)] == [digits, digits]


def test_a_number_is_money_whatever_stands_around_it(tmp_path: Path) -> None:
    assert told(tmp_path, book([text("ch_1"), number("7", 3)], [text("ch_1"), number("7", 12)])) == ["7", "7"]


def test_what_means_nothing_may_be_a_formula_or_a_date(tmp_path: Path) -> None:
    content = book([text("ch_1"), number("1"), formula("A1", "7")], [text("ch_1"), number("2"), number("46024", 1)])
    assert told(tmp_path, content) == ["1", "2"]


def test_a_row_that_a_filter_hides_is_not_paid(tmp_path: Path) -> None:
    content = book([text("ch_1"), number("1")], [text("ch_2"), number("2")], hidden=frozenset({2}))
    assert told(tmp_path, content) == ["row_hidden", "2"]


def merged(*ranges: str) -> bytes:
    """Write two charges with the first one's amount, some cells merged."""
    cells = [[text("ch_1"), number("10"), text("x")], [text("ch_2"), None, text("x")]]
    merges = "".join(f'<mergeCell ref="{one}"/>' for one in ranges)
    after = f"<mergeCells>{merges}</mergeCells></worksheet>"
    return workbook({"Refunds": sheet([HEADER, *cells]).replace("</worksheet>", after)})


def test_an_amount_that_is_merged_over_rows_is_no_blank_amount_of_the_second(tmp_path: Path) -> None:
    refused = refusal(tmp_path, merged("A1:B1", "B2:B3"), blank_amount_full=True)
    assert (refused.code, refused.ids["line"]) == ("cells_merged", 2)
    assert "B2:B3" in refused.message
    assert told(tmp_path, merged("B1:C1", "B2:C2", "A3"), blank_amount_full=True) == ["10", ""]


def test_rows_of_a_sheet_keep_their_numbers_and_their_places(tmp_path: Path) -> None:
    content = workbook({"Refunds": sheet([[], HEADER, [], [text("ch_1"), number("1")], [None, None, text("x")]])})
    assert [(row.line, row.raw) for row in rows(tmp_path, content)] == [
        (4, {"charge_id": "ch_1", "amount": "1", "note": ""}), (5, {"charge_id": "", "amount": "", "note": "x"}),
    ]  # fmt: skip


def test_shared_texts_are_read_without_their_phonetic_reading(tmp_path: Path) -> None:
    shared = "<si><t>ch_1</t></si><si><r><t>a</t></r><r><t xml:space='preserve'> é</t></r><rPh><t>no</t></rPh></si><si><t>x_x000D__xD800_</t></si>"
    cells = [' t="s"><v>0</v></c>', number("1"), ' t="s"><v>1</v></c>']
    content = workbook({"A": sheet([HEADER, cells, [*cells[:2], ' t="s"><v>2</v></c>']])}, shared=shared)
    assert [row.raw["note"] for row in rows(tmp_path, content)] == ["a é", "x\r\ufffd"]


def test_of_several_sheets_one_has_to_be_said(tmp_path: Path) -> None:
    one, two = sheet([HEADER, [text("ch_1"), number("1")]]), sheet([HEADER, [text("ch_1"), number("2")]])
    content = workbook({"One": one, "Two": two})
    assert "'One', 'Two'" in refusal(tmp_path, content).message
    assert told(tmp_path, content, sheet="Two") == ["2"]
    assert refusal(tmp_path, content, sheet="Three").code == "sheet_unknown"
    assert refusal(tmp_path, PLAIN, sheet="One").code == "sheet_unknown"
    assert told(tmp_path, workbook({"One": one, "Two": two}, hidden=frozenset({"One"}))) == ["2"]


def test_more_cells_than_the_header_has_are_refused_and_empty_ones_are_none(tmp_path: Path) -> None:
    assert told(tmp_path, book([text("ch_1"), number("1"), None, None, text("")])) == ["1"]
    refused = refusal(tmp_path, book([text("ch_1"), number("1"), None, None, text("x")]))
    assert (refused.code, refused.ids["line"]) == ("cells_surplus", 2)


MAIN = "xl/worksheets/sheet1.xml"
BOOK = book([text("ch_1"), number("1")])
DOCTYPE = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><worksheet>&c;</worksheet>'


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"PK\x03\x04rest", "workbook_unreadable"),
        (book([text("ch_1"), number("1")])[:-200], "workbook_unreadable"),
        (BOOK[: len(BOOK) // 8] + BOOK[len(BOOK) // 8 + 1 :], "workbook_unreadable"),
        (workbook({"A": DOCTYPE}), "workbook_unreadable"),
        (workbook({"A": "<worksheet><row><c>"}), "workbook_unreadable"),
        (workbook({"A": sheet([HEADER, [' t="s"><v>7</v></c>']])}), "workbook_unreadable"),
        (workbook({"A": sheet([HEADER, [number("five")]])}), "workbook_unreadable"),
        (workbook({"A": '<worksheet a="' + "x" * 3_000_000 + '"/>'}), "workbook_unreadable"),
        (workbook({"A": "<worksheet>" + " " * 70_000_000}), "unpacked_too_large"),
        (workbook({"A": sheet([HEADER, [text("x" * 200_000)]])}), "record_too_long"),
        (workbook({"A": sheet([[None] * 1001 + [text("x")]])}), "columns_too_many"),
        (workbook({"A": sheet([HEADER])}), "file_without_rows"),
        (workbook({"A": sheet([])}), "file_empty"),
        (workbook({}), "sheet_unclear"),
    ],
)
def test_an_unsound_workbook_is_refused_as_a_whole(tmp_path: Path, content: bytes, code: str) -> None:
    assert refusal(tmp_path, content).code == code


def test_a_damaged_sheet_is_found_by_its_checksum(tmp_path: Path) -> None:
    content = bytearray(book([text("ch_1"), number("1")]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        at = archive.getinfo(MAIN).header_offset
    content[at + 30 + len(MAIN) + 40] ^= 0xFF
    assert refusal(tmp_path, bytes(content)).code == "workbook_unreadable"


def test_a_workbook_that_changes_under_the_reader_is_found(tmp_path: Path) -> None:
    file = opened(tmp_path, book([text("ch_1"), number("1")]))
    path = tmp_path / "refunds"
    before = path.stat()
    path.write_bytes(book([text("ch_1"), number("9")]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FileRefused) as refused:
        list(file.rows())
    assert refused.value.code == "file_changed"


def test_memory_does_not_grow_with_a_sheet(tmp_path: Path) -> None:
    count = 2000
    shared = "".join(f"<si><t>ch_{at:01000}</t></si>" for at in range(count))
    cells = [[f' t="s"><v>{at}</v></c>', number("1")] for at in range(count)]
    content = workbook({"A": sheet([HEADER, *cells])}, shared=shared)
    (tmp_path / "large").write_bytes(content)
    del shared, cells, content
    tracemalloc.start()
    refused = sum(isinstance(row, RefusedRow) for row in reader.read(tmp_path / "large", options=ReadOptions()).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused == count
    assert peak < 1_500_000


# What is packed small and would be held large: a text that all cells of a row share, and a key of its own in each line.
REPEATED = workbook(
    {
        "A": sheet(
            [
                [*HEADER, *(text(f"c{at}") for at in range(900))],
                [text("ch_1"), number("1"), *[' t="s"><v>0</v></c>'] * 900],
            ]
        )
    },
    shared=f"<si><t>{'a' * 32_767}</t></si>",
)
KEYED = gzip.compress(
    b"".join(b'{"charge_id": "ch_1", "amount": 1, "k%d%s": 1}\n' % (at, b"x" * 99_999) for at in range(50))
)


@pytest.mark.parametrize(("content", "code"), [(REPEATED, "record_too_long"), (KEYED, "columns_too_many")])
def test_what_repeats_itself_is_bounded_by_what_it_becomes(tmp_path: Path, content: bytes, code: str) -> None:
    tracemalloc.start()
    refused = refusal(tmp_path, content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (refused.code, refused.ids["line"]) == (code, 2)
    assert peak < 2_500_000


# Packed


def test_what_is_packed_is_the_same_file(tmp_path: Path) -> None:
    plain, packed = opened(tmp_path, PLAIN), opened(tmp_path, gzip.compress(PLAIN))
    assert (packed.sha256, packed.options) == (plain.sha256, plain.options)
    members = gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:]) + b"\0" * 512
    assert opened(tmp_path, members).sha256 == plain.sha256
    assert told(tmp_path, gzip.compress(JSON)) == ["1"]


@pytest.mark.parametrize("cut", [-1, -9, 12])
def test_a_packed_file_that_is_damaged_is_refused(tmp_path: Path, cut: int) -> None:
    content = gzip.compress(PLAIN)[:cut]
    assert refusal(tmp_path, content).code == "gzip_damaged"
    assert refusal(tmp_path, gzip.compress(PLAIN) + b"more").code == "gzip_damaged"


@pytest.mark.parametrize(
    ("start", "unit", "code"),
    [
        (b"", b"\0", "file_binary"),
        (PLAIN, b"\n", "record_too_long"),
        (PLAIN, b"x", "record_too_long"),
        (PLAIN, b"ch_1,12.34,T1\n", "unpacked_too_large"),
    ],
)
def test_what_unpacks_to_fill_a_disk_ends_soon(
    tmp_path: Path, start: bytes, unit: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "UNPACKED_BYTES_FREE", 1_000_000)
    monkeypatch.setattr(source, "UNPACKED_RATIO_MAX", 20)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6) as stream:
        stream.write(start)
        for _ in range(20):
            stream.write(unit * (1_000_000 // len(unit)))
    tracemalloc.start()
    refused = refusal(tmp_path, packed.getvalue())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.code == code
    assert peak < 3_000_000


def test_what_is_packed_by_gzip_and_cannot_be_unpacked_as_it_is_read_is_named(tmp_path: Path) -> None:
    workbook = refusal(tmp_path, gzip.compress(book([text("ch_1"), number("12.34")])))
    assert (workbook.code, "workbook packed by gzip" in workbook.message) == ("file_format_unsupported", True)
    twice = refusal(tmp_path, gzip.compress(gzip.compress(PLAIN)))
    assert (twice.code, "packed twice" in twice.message) == ("file_format_unsupported", True)


# Standard input


class Stdin:
    """A program's standard input."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self.buffer.isatty = lambda: terminal  # type: ignore[method-assign]


def test_what_is_piped_in_is_the_same_file_and_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (PLAIN, gzip.compress(PLAIN), book([text("ch_1"), number("12.34")])):
        monkeypatch.setattr("sys.stdin", Stdin(content))
        piped = reader.read(Path("-"), options=ReadOptions())
        plain = opened(tmp_path, content)
        assert (piped.sha256, piped.options, piped.name) == (plain.sha256, plain.options, "standard input")
        assert list(piped.rows()) == list(piped.rows()) == list(plain.rows())


def test_standard_input_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIPED_BYTES_MAX", 100_000)
    for content, terminal, code in (
        (b"", False, "file_empty"),
        (b"", True, "standard_input_missing"),
        (PLAIN * 10_000, False, "standard_input_too_long"),
    ):
        monkeypatch.setattr("sys.stdin", Stdin(content, terminal=terminal))
        with pytest.raises(FileRefused) as refused:
            reader.read(Path("-"), options=ReadOptions())
        assert refused.value.code == code
        assert re.search(f"`{code}`", PAGE.read_text(encoding="utf-8"))


# What was meant


def test_the_format_can_be_said(tmp_path: Path) -> None:
    assert refusal(tmp_path, PLAIN, format="jsonl").code == "json_invalid"
    assert refusal(tmp_path, PLAIN, format="xlsx").code == "workbook_unreadable"
    assert opened(tmp_path, b'{"x"},charge_id,amount\n1,ch_1,1\n', format="csv").unknown_columns == ('{"x"}',)


def test_whatever_makes_the_same_bytes_mean_something_else_is_part_of_what_is_accepted(tmp_path: Path) -> None:
    content = b"charge_id;amount;Betrag\nch_1;1.234;5\n"
    read = [
        opened(tmp_path, content, **options)
        for options in (
            {}, {"decimal": ","}, {"decimal": "."}, {"blank_amount_full": True}, {"allow_fraudulent": True}, {"encoding": "windows-1252"},
            {"mapping": (("Betrag", "metadata.a"),)}, {"mapping": (("Betrag", ""),)},
        )
    ]  # fmt: skip
    assert len({file.options for file in read}) == len(read)
    assert opened(tmp_path, content, delimiter=";").options == read[0].options, "found or said, it is the same"
