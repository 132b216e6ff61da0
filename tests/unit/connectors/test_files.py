"""Files of refunds: what is read, what is refused, and with which code."""

import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from refundry.connectors.base import (
    AmountKind,
    AmountText,
    FileOpened,
    FileReader,
    FileRefused,
    ParsedRow,
    ReadOptions,
    Reference,
    ReferenceKind,
    RefusedRow,
    Row,
    amount_asked,
    amount_of,
    report_cell,
)
from refundry.connectors.files import reader
from refundry.connectors.files.lines import Lines
from refundry.connectors.files.source import CHUNK_BYTES, Source
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown
from refundry.kernel.money import Money

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
SHOP = ROOT / "src/stripesim/scenarios/online_retail"
PAGE = ROOT / "docs/features/files.md"
HEADER = b"charge_id,amount\n"
GOOD = HEADER + b"ch_1,1.00\n"


def opened(folder: Path, content: bytes, **options: Any) -> FileOpened:  # of `ReadOptions`
    path = folder / "refunds.csv"
    path.write_bytes(content)
    return reader.read(path, options=ReadOptions(**options))


def rows(folder: Path, content: bytes, **options: bool) -> list[Row]:
    return list(opened(folder, content, **options).rows())


def one(folder: Path, cells: dict[str, str], **options: bool) -> Row:
    """Read one row of these cells, by column."""
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells.values())
    (row,) = rows(folder, f"{','.join(cells)}\n{quoted}\n".encode(), **options)
    return row


def parsed(row: Row) -> ParsedRow:
    assert isinstance(row, ParsedRow), row
    return row


def refusal(folder: Path, content: bytes) -> FileRefused:
    with pytest.raises(FileRefused) as refused:
        opened(folder, content)
    return refused.value


# What is read


def test_the_reader_is_a_port() -> None:
    port: FileReader = reader  # a module is as good as an object
    assert port.read is reader.read


def test_a_row_is_read_with_all_its_parts(tmp_path: Path) -> None:
    row = parsed(
        one(
            tmp_path,
            {
                "order_id": " 536365 ",
                "charge_id": "ch_1AbC",
                "payment_intent": "pi_9",
                "amount": "12.34",
                "amount_minor": "1234",
                "currency": "GBP",
                "ticket_id": "T-1",
                "request_key": "k/1",
                "reason": "Duplicate",
                "metadata.agent": "ada",
                "metadata.empty": " ",
                "customer": "17897",
                "refund_application_fee": "TRUE",
                "reverse_transfer": "false",
            },
        )
    )
    assert row.references == (
        Reference(ReferenceKind.CHARGE_ID, "ch_1AbC"), Reference(ReferenceKind.PAYMENT_INTENT, "pi_9"), Reference(ReferenceKind.ORDER_ID, "536365"),
    )  # fmt: skip
    assert row.reference.kind == "charge_id"
    assert row.amounts == (AmountText(AmountKind.MAJOR, "12.34"), AmountText(AmountKind.MINOR, "1234"))
    assert (row.currency, row.ticket_id, row.request_key, row.reason) == ("gbp", "T-1", "k/1", "duplicate")
    assert row.metadata == {"agent": "ada"}
    assert (row.refund_application_fee, row.reverse_transfer) == (True, False)
    assert (row.raw["order_id"], row.raw["customer"]) == (" 536365 ", "17897")


def test_what_is_not_said_is_left_open(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, b"charge_id,amount\npy_1,1\n")
    row = parsed(row)
    assert (row.currency, row.ticket_id, row.request_key, row.reason, row.metadata) == (
        None,
        None,
        None,
        "requested_by_customer",
        {},
    )
    assert (row.refund_application_fee, row.reverse_transfer) == (None, None)


def test_unknown_columns_are_told(tmp_path: Path) -> None:
    file = opened(tmp_path, b"charge_id,amount,customer,metadata.a\nch_1,1,x,y\n")
    assert (file.columns, file.unknown_columns) == (("charge_id", "amount", "customer", "metadata.a"), ("customer",))


def test_an_opened_file_knows_its_digest_and_its_size(tmp_path: Path) -> None:
    file = opened(tmp_path, GOOD)
    assert (file.name, file.size_bytes, file.row_count) == ("refunds.csv", len(GOOD), 1)
    assert file.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert (file.options, file.assumed) == ("", ())


def test_rows_are_counted_and_know_their_line(tmp_path: Path) -> None:
    content = b'  \ncharge_id,amount,note\r\nch_1,1,"a\nb"\r\n \t\r\nch_2,,x\rch_3,3,"y"\n  '
    assert [(row.number, row.line, type(row)) for row in rows(tmp_path, content)] == [
        (1, 3, ParsedRow), (2, 6, RefusedRow), (3, 7, ParsedRow),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_line_ending_is_read_also_across_chunks(tmp_path: Path, ending: str) -> None:
    count = 2 * CHUNK_BYTES // len(f"ch_00000,1{ending}")
    content = ending.join(["charge_id,amount", *(f"ch_{number:05},1" for number in range(count)), ""]).encode()
    read = rows(tmp_path, content)
    assert [(row.line, row.raw["charge_id"]) for row in read] == [
        (number + 2, f"ch_{number:05}") for number in range(count)
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert isinstance(rows(tmp_path, b"\xef\xbb\xbf" + GOOD)[0], ParsedRow)
    assert isinstance(rows(tmp_path, b'\xef\xbb\xbf"charge_id","amount"\n"ch_1","1"\n')[0], ParsedRow)


def test_the_shops_requests_are_all_read() -> None:
    file = reader.read(SHOP / "refund_requests.csv", options=ReadOptions())
    read = [parsed(row) for row in file.rows()]
    assert len(read) == file.row_count == 1719
    asked = [amount_asked(row.amounts, "gbp") for row in read]
    assert sum(amount.minor_units for amount in asked if amount is not None) == 17_233_609
    assert {row.reference.kind for row in read} == {ReferenceKind.ORDER_ID}
    assert file.unknown_columns == ("requested_at", "customer")


def test_the_shops_unmatched_notes_are_each_refused_for_want_of_a_charge() -> None:
    file = reader.read(SHOP / "unmatched_credit_notes.csv", options=ReadOptions())
    refused = [row for row in file.rows() if isinstance(row, RefusedRow)]
    assert len(refused) == file.row_count == 1331
    assert {row.code for row in refused} == {"no_charge_named"}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_bytes(b"charge_id,amount,note\n" + (b"ch_1,1," + b"x" * 1000 + b"\n") * 4000)
    tracemalloc.start()
    count = sum(1 for _ in reader.read(path, options=ReadOptions()).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < 1_500_000


# Amounts


@pytest.mark.parametrize("column", ["amount", "amount_minor", "amount_cents"])
@pytest.mark.parametrize("word", ["full", "FULL", " Full "])
def test_full_is_a_word_in_any_amount_column(tmp_path: Path, column: str, word: str) -> None:
    row = parsed(one(tmp_path, {"charge_id": "ch_1", column: word, "currency": "gbp"}))
    assert row.amounts == (AmountText(AmountKind.FULL, word.strip()),)
    assert amount_asked(row.amounts, "gbp") is None


def test_an_empty_amount_is_full_only_where_that_was_said(tmp_path: Path) -> None:
    cells = {"charge_id": "ch_1", "amount": " ", "amount_minor": ""}
    refused = one(tmp_path, cells)
    assert isinstance(refused, RefusedRow)
    assert refused.code == "amount_missing"
    assert parsed(one(tmp_path, cells, blank_amount_full=True)).amounts == (AmountText(AmountKind.FULL, ""),)
    assert parsed(one(tmp_path, cells | {"amount_minor": "5"}, blank_amount_full=True)).amounts == (
        AmountText(AmountKind.MINOR, "5"),
    )


def test_amounts_that_only_a_currency_compares_are_kept(tmp_path: Path) -> None:
    row = parsed(one(tmp_path, {"charge_id": "ch_1", "amount": "500", "amount_minor": "500"}))
    assert amount_asked(row.amounts, "jpy") == Money(500, "jpy")
    with pytest.raises(AmountInvalid) as refused:
        amount_asked(row.amounts, "gbp")
    assert refused.value.code == "amounts_disagree"


@pytest.mark.parametrize(
    ("amount", "currency", "code"),
    [
        (AmountText(AmountKind.MAJOR, "1.005"), "gbp", "amount_too_precise"),
        (AmountText(AmountKind.MINOR, "12.34"), "gbp", "amount_unreadable"),
        (AmountText(AmountKind.MAJOR, ""), "gbp", "amount_unreadable"),
        (AmountText(AmountKind.MINOR, "-5"), "gbp", "amount_not_positive"),
        (AmountText(AmountKind.MAJOR, "9" * 5000), "gbp", "amount_too_large"),
    ],
)
def test_an_amount_becomes_money_or_an_error(amount: AmountText, currency: str, code: str) -> None:
    with pytest.raises(AmountInvalid) as refused:
        amount_of(amount, currency)
    assert refused.value.code == code


def test_an_amount_needs_one_of_stripes_currencies() -> None:
    with pytest.raises(CurrencyUnknown):
        amount_of(AmountText(AmountKind.MAJOR, "1"), "xyz")


# Rows that are refused

BASE = {"charge_id": "ch_1", "amount": "1"}
REFUSED_ROWS = [
    ({"charge_id": "", "amount": ""}, "row_empty", None),
    ({"charge_id": " ", "amount": "1"}, "no_charge_named", None),
    ({"charge_id": "pi_1", "amount": "1"}, "charge_id_invalid", "charge_id"),
    ({"charge_id": "ch_", "amount": "1"}, "charge_id_invalid", "charge_id"),
    ({"charge_id": "CH_1", "amount": "1"}, "charge_id_invalid", "charge_id"),
    ({"charge_id": "ch_1 ch_2", "amount": "1"}, "charge_id_invalid", "charge_id"),
    ({"charge_id": "ch_" + "1" * 253, "amount": "1"}, "charge_id_invalid", "charge_id"),
    ({"payment_intent": "ch_1", "amount": "1"}, "payment_intent_invalid", "payment_intent"),
    ({"payment_intent": "pi_1_secret_2", "amount": "1"}, "payment_intent_invalid", "payment_intent"),
    ({"order_id": "5" * 501, "amount": "1"}, "text_too_long", "order_id"),
    ({"order_id": "5\u200b", "amount": "1"}, "text_unprintable", "order_id"),
    (BASE | {"amount": ""}, "amount_missing", None),
    (BASE | {"amount": "12,34"}, "amount_unreadable", "amount"),
    (BASE | {"amount": "£12"}, "amount_unreadable", "amount"),
    (BASE | {"amount": "=1+1"}, "amount_unreadable", "amount"),
    (BASE | {"amount": "--5"}, "amount_unreadable", "amount"),
    (BASE | {"amount": "all"}, "amount_unreadable", "amount"),
    (BASE | {"amount": "-5.00"}, "amount_not_positive", "amount"),
    (BASE | {"amount": "0.00"}, "amount_not_positive", "amount"),
    (BASE | {"amount": "", "amount_cents": "5.5"}, "amount_unreadable", "amount_cents"),
    (BASE | {"amount": "1.005", "currency": "gbp"}, "amount_too_precise", "amount"),
    (BASE | {"amount": "1.5", "currency": "JPY"}, "amount_too_precise", "amount"),
    (BASE | {"amount": "1.50", "currency": "isk"}, "amount_too_precise", "amount"),
    (BASE | {"amount": "10000000000", "currency": "gbp"}, "amount_too_large", "amount"),
    (BASE | {"amount": "5", "amount_minor": "5", "currency": "gbp"}, "amounts_disagree", None),
    (BASE | {"amount": "full", "amount_minor": "5", "currency": "gbp"}, "amounts_disagree", None),
    (BASE | {"amount": "full", "amount_minor": "5"}, "amounts_disagree", None),
    (BASE | {"amount": "", "amount_minor": "5", "amount_cents": "6"}, "amounts_disagree", None),
    (BASE | {"currency": "xyz"}, "currency_unknown", "currency"),
    (BASE | {"currency": "pounds" * 20}, "currency_unknown", "currency"),
    (BASE | {"ticket_id": "t" * 501}, "text_too_long", "ticket_id"),
    (BASE | {"ticket_id": "a\tb"}, "text_unprintable", "ticket_id"),
    (BASE | {"request_key": "k" * 201}, "text_too_long", "request_key"),
    (BASE | {"request_key": "a\nb"}, "text_unprintable", "request_key"),
    (BASE | {"ticket_id": "Rene\u0301"}, "text_not_nfc", "ticket_id"),
    (BASE | {"request_key": "7 \u212a"}, "text_not_nfc", "request_key"),
    (BASE | {"reason": "damaged"}, "reason_unknown", "reason"),
    (BASE | {"reason": "fraudulent"}, "reason_fraudulent", "reason"),
    (BASE | {"metadata.a": "x" * 501}, "text_too_long", "metadata.a"),
    (BASE | {"metadata.a": "x\x07"}, "text_unprintable", "metadata.a"),
    (BASE | {"metadata.a": "x\x85y"}, "text_unprintable", "metadata.a"),
    (BASE | {f"metadata.{key}": "x" for key in range(49)}, "metadata_too_many", None),
    (BASE | {"reverse_transfer": "maybe"}, "flag_unreadable", "reverse_transfer"),
    (BASE | {"refund_application_fee": "1"}, "flag_unreadable", "refund_application_fee"),
]


@pytest.mark.parametrize(("cells", "code", "column"), REFUSED_ROWS)
def test_a_row_that_cannot_be_understood_is_refused(
    tmp_path: Path, cells: dict[str, str], code: str, column: str | None
) -> None:
    row = one(tmp_path, cells)
    assert isinstance(row, RefusedRow), row
    assert (row.code, row.column, row.number, row.line, row.raw) == (code, column, 1, 2, cells)
    assert len(row.message) < 300


def test_an_order_is_taken_in_either_form_of_unicode_as_stripe_may_hold_either(tmp_path: Path) -> None:
    for order in ("Ren\u00e9", "Rene\u0301"):
        row = parsed(one(tmp_path, {"order_id": order, "amount": "1", "ticket_id": "Ren\u00e9"}))
        assert (row.references[0].value, row.ticket_id) == (order, "Ren\u00e9")


def test_a_refused_row_stops_no_other(tmp_path: Path) -> None:
    assert [type(row) for row in rows(tmp_path, GOOD + b"nonsense,1\nch_2,2\n")] == [ParsedRow, RefusedRow, ParsedRow]


def test_limits_are_reached_and_not_passed(tmp_path: Path) -> None:
    cells = {
        "charge_id": "ch_" + "a" * 252, "amount": "9" * 12, "currency": "jpy", "ticket_id": "t" * 500, "request_key": "k" * 200,
        **{f"metadata.{number:040}": "ü" * 500 for number in range(48)},
    }  # fmt: skip
    assert len(parsed(one(tmp_path, cells)).metadata) == 48


def test_more_columns_of_metadata_than_stripe_takes_may_stand_if_few_are_filled(tmp_path: Path) -> None:
    row = parsed(one(tmp_path, BASE | {f"metadata.{key}": "x" * (key % 2) for key in range(90)}))
    assert len(row.metadata) == 45


def test_fraudulent_is_allowed_where_that_was_said(tmp_path: Path) -> None:
    assert parsed(one(tmp_path, BASE | {"reason": "fraudulent"}, allow_fraudulent=True)).reason == "fraudulent"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "=HYPERLINK(1)"])
def test_what_looks_like_a_formula_is_data(tmp_path: Path, text: str) -> None:
    assert parsed(one(tmp_path, BASE | {"ticket_id": text})).ticket_id == text


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@A", "\tx", "\rx", "\nx", " =1", "\u00a0=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"]
)
def test_a_report_shows_a_formula_as_text(text: str) -> None:
    assert report_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "C536506", "1=1", "a-b", "ada@example.com", "12.34", "'=1"])
def test_a_report_leaves_other_text_alone(text: str) -> None:
    assert report_cell(text) == text


# Files that are refused

CHARGES = b"charge_id,amount,note\n"
REFUSED_FILES = [
    (b"", "file_empty", None, None),
    (b"\n\r\n\n", "file_empty", None, None),
    (b"\xef\xbb\xbf", "file_empty", None, None),
    (HEADER, "file_without_rows", None, None),
    (HEADER + b"\n\n", "file_without_rows", None, None),
    (HEADER + b"ch_1,1\nch_1,\x001\n", "file_binary", 3, None),
    (bytes(range(256)) * 1000, "file_binary", 1, None),
    (b"\0" * 300_000, "file_binary", 1, None),
    ("charge_id,amount\n".encode("utf-16-le"), "file_binary", 1, None),
    ("charge_id,amount\n".encode("utf-16"), "file_not_utf8", None, None),
    (b"\xfe\xff" + "charge_id,amount\n".encode("utf-16-be"), "file_not_utf8", None, None),
    (b"\xef\xbb\xbf" + CHARGES + b"ch_1,1,a\nch_2,2,caf\xe9\n", "file_not_utf8", 3, None),
    (CHARGES + b"ch_1,1,\x81", "file_not_windows_1252", 2, None),
    (CHARGES + b"ch_1,1,\xc3\xa9\nch_1,1,\xe9\n", "encoding_mixed", 2, None),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "file_format_unsupported", None, None),
    (b'[{"charge_id": "ch_1"}]\n', "file_format_unsupported", None, None),
    (b"name,amount\nx,1\n", "no_reference_column", 1, None),
    (b"charge_id,price\nch_1,1\n", "no_amount_column", 1, None),
    (b"charge_id,amount,amount\nch_1,1,2\n", "column_repeated", 1, "amount"),
    (b"charge_id,amount,x,x\nch_1,1,2,3\n", "column_repeated", 1, "x"),
    (b"charge_id,amount,\nch_1,1,\n", "column_unnamed", 1, ""),
    (b",".join([b"c%d" % number for number in range(1001)]) + b"\n", "columns_too_many", 1, None),
    (CHARGES + b"ch_1,1\n", "cells_missing", 2, "note"),
    (CHARGES + b"ch_1,1,a,b\n", "cells_surplus", 2, None),
    (CHARGES + b"ch_1,1,a\nch_2,1,234.00,b\n", "cells_surplus", 3, None),
    (CHARGES + b"   \n\t\n", "file_without_rows", None, None),
    (b" \n\n\t\n", "file_empty", None, None),
    (CHARGES + b"ch_1\n", "cells_missing", 2, "amount"),
    (CHARGES + b'ch_1,1,a\nch_2,2,"b\nch_3,3,c\n', "quote_unclosed", 3, None),
    (CHARGES + b'ch_1,1,"a"b\n', "quote_misplaced", 2, None),
    (CHARGES + b"ch_1,1," + b"x" * 200_000 + b"\n", "record_too_long", 2, None),
    (CHARGES + b"ch_1,1,a\n" + b'ch_2,2,"b\n' + b"ch_3,3,c\n" * 20_000, "record_too_long", 3, None),
    (CHARGES + b"ch_1,1," + b"x" * 1_000_000, "record_too_long", 2, None),
    (CHARGES + b"ch_1,1,a\n" + b"\n" * 200_000, "record_too_long", 3, None),
    (b"order_id,amount;currency\n1,2;gbp\n", "delimiter_unclear", None, None),
    (
        b"charge_id,amount,metadata.refundry_request_id\nch_1,1,x\n",
        "metadata_column_invalid",
        1,
        "metadata.refundry_request_id",
    ),
    (b"charge_id,amount,metadata.ticket_id\nch_1,1,x\n", "metadata_column_invalid", 1, "metadata.ticket_id"),
    (b"charge_id,amount,metadata.\nch_1,1,x\n", "metadata_column_invalid", 1, "metadata."),
    (b"charge_id,amount,metadata. a\nch_1,1,x\n", "metadata_column_invalid", 1, "metadata. a"),
    (b"charge_id,amount,metadata.a[b]\nch_1,1,x\n", "metadata_column_invalid", 1, "metadata.a[b]"),
    (b'charge_id,amount,"metadata.a\nb"\nch_1,1,x\n', "metadata_column_invalid", 1, "metadata.a\nb"),
    (b"charge_id,amount,metadata." + b"a" * 41 + b"\nch_1,1,x\n", "metadata_column_invalid", 1, "metadata." + "a" * 41),
]


@pytest.mark.parametrize(("content", "code", "line", "column"), REFUSED_FILES)
def test_an_unsound_file_is_refused_as_a_whole(
    tmp_path: Path, content: bytes, code: str, line: int | None, column: str | None
) -> None:
    refused = refusal(tmp_path, content)
    assert (refused.code, refused.ids.get("file"), refused.ids.get("line"), refused.ids.get("column")) == (
        code,
        "refunds.csv",
        line,
        column,
    )
    assert "refunds.csv" in refused.message
    assert line is None or f"line {line}" in refused.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Order ID", "order_id"), ("ORDER_ID", "order_id"), ("order_id ", "order_id"), ("orderid", "order_id"), ("order-id", "order_id"),
        ("\ufefforder_id", "order_id"), ("oder_id", "order_id"), ("charge", "charge_id"), ("PaymentIntent ID", "payment_intent"), ("Ticket", "ticket_id"),
        ("curency", "currency"), ("Amount", "amount"), ("amount (minor)", "amount_minor"), ("request key", "request_key"), ("reverse_transfers", "reverse_transfer"),
        ("Metadata.agent", "metadata.agent"), ("metadata[agent]", "metadata.agent"), ("metadata_agent", "metadata.agent"), ("metadata", "metadata.key"),
    ],
)  # fmt: skip
def test_a_column_that_was_meant_to_be_known_is_refused_with_its_right_name(
    tmp_path: Path, name: str, meant: str
) -> None:
    present = "payment_intent" if meant == "charge_id" else "charge_id"
    refused = refusal(tmp_path, f"{present},amount,{name}\nx,1,1\n".encode())
    assert (refused.code, refused.ids["column"]) == ("column_misnamed", name)
    assert f"'{meant}' is" in refused.message


@pytest.mark.parametrize(
    "name",
    [
        "order_date",
        "charge_date",
        "customer",
        "amount_net",
        "amount1",
        "requested_at",
        "stock_code",
        "season",
        "id",
        "currency_code",
        "###",
    ],
)
def test_a_column_that_means_something_else_is_let_be(tmp_path: Path, name: str) -> None:
    file = opened(tmp_path, f"charge_id,order_id,amount,{name}\nch_1,1,1,x\n".encode())
    assert file.unknown_columns == (name,)


def test_bytes_that_are_not_utf8_are_told_with_their_position(tmp_path: Path) -> None:
    for start in (b"", b"\xef\xbb\xbf"):
        content = start + CHARGES + b"ch_1,1,a\n" * 20_000 + b"ch_2,2,caf\xe9\n"
        with pytest.raises(FileRefused) as refused:
            opened(tmp_path, content, encoding="utf-8")
        assert f"0xE9 at position {content.index(0xE9)}" in refused.value.message
        assert "windows-1252" in refused.value.message


def test_no_row_is_given_of_a_file_whose_last_line_is_broken(tmp_path: Path) -> None:
    assert refusal(tmp_path, HEADER + b"ch_1,1\n" * 50_000 + b"ch_1,1,1\n").ids["line"] == 50_002


REFUSED_PATHS = ["file_missing", "file_is_directory", "file_not_regular", "file_unreadable", "file_changed"]


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "file.csv").write_bytes(GOOD)
    for path, code in (
        (tmp_path / "none.csv", "file_missing"),
        (tmp_path / "file.csv" / "in.csv", "file_missing"),
        (tmp_path, "file_is_directory"),
        (tmp_path / "pipe.csv", "file_not_regular"),
        (tmp_path / ("x" * 300), "file_unreadable"),
        (tmp_path / "nul\0.csv", "file_unreadable"),
    ):
        with pytest.raises(FileRefused) as refused:
            reader.read(path, options=ReadOptions())
        assert (refused.value.code, refused.value.ids["file"]) == (code, path.name.replace("\0", "\\x00"))


class Forbidden(type(Path())):  # type: ignore[misc]
    """A path that may not be opened, also by root."""

    def open(self, *_: object) -> object:  # type: ignore[override]
        raise PermissionError(13, "Permission denied")


class Touched(type(Path())):  # type: ignore[misc]
    """A path that somebody writes to while it is open."""

    def open(self, *_: object) -> object:  # type: ignore[override]
        stream = super().open("rb")
        os.utime(self, ns=(0, 0))
        return stream


@pytest.mark.parametrize(("kind", "code"), [(Forbidden, "file_unreadable"), (Touched, "file_changed")])
def test_a_file_that_may_not_be_read_or_changes_at_the_first_reading_is_refused(
    tmp_path: Path, kind: type[Path], code: str
) -> None:
    (tmp_path / "refunds.csv").write_bytes(GOOD)
    with pytest.raises(FileRefused) as refused:
        reader.read(kind(tmp_path / "refunds.csv"), options=ReadOptions())
    assert refused.value.code == code


class BrokenDisk:
    """A stream whose disk fails."""

    def read(self, _: int) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_while_reading_is_told() -> None:
    with pytest.raises(FileRefused) as refused:
        list(Lines(Source(BrokenDisk().read, "refunds.csv").read, "refunds.csv"))
    assert refused.value.code == "file_unreadable"
    assert "Input/output error" in refused.value.message


# Files that change


def large(folder: Path) -> tuple[Path, FileOpened]:
    path = folder / "refunds.csv"
    path.write_bytes(HEADER + b"ch_1,1.00\n" * 16_000)  # longer than the two chunks that are read before the first row
    return path, reader.read(path, options=ReadOptions())


def changed(file: FileOpened, path: Path, change: bytes | None, at: int, *, keep_time: bool) -> int:
    """Change the file after its first row was given; tells how many rows came before the refusal."""
    before = path.stat()
    stream = file.rows()
    next(stream)
    if change is not None:
        with path.open("r+b") as writing:
            writing.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            writing.write(change)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    given = [1]
    with pytest.raises(FileRefused) as refused:
        given.extend(row.number for row in stream)
    assert (refused.value.code, refused.value.ids) == ("file_changed", {"file": "refunds.csv"})
    return given[-1]


def test_a_cell_that_changes_under_the_reader_is_found_even_with_its_time_set_back(tmp_path: Path) -> None:
    path, file = large(tmp_path)
    assert changed(file, path, b"9.00\n", -5, keep_time=True) == file.row_count


def test_rows_that_are_added_or_broken_under_the_reader_are_found(tmp_path: Path) -> None:
    for change, at in ((b"x,y,z\n", -10), (b'"', -10), (b"\xff", -10), (b"\0", -10), (b"ch_1,1.00\n", 10**6)):
        path, file = large(tmp_path)
        changed(file, path, change, at, keep_time=True)


def test_a_file_that_is_touched_is_another_one(tmp_path: Path) -> None:
    path, file = large(tmp_path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(FileRefused) as refused:
        next(file.rows())
    assert refused.value.code == "file_changed"


def test_a_file_that_is_touched_during_the_last_rows_is_another_one(tmp_path: Path) -> None:
    path, file = large(tmp_path)
    stream = file.rows()
    next(stream)
    os.utime(path, ns=(0, 0))
    with pytest.raises(FileRefused):
        list(stream)


def test_a_file_that_is_replaced_between_two_reads_is_another_one(tmp_path: Path) -> None:
    path, file = large(tmp_path)
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"charge_id", b"note_text"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FileRefused) as refused:
        next(file.rows())
    assert refused.value.code == "file_changed"


def test_a_file_that_stays_can_be_read_again(tmp_path: Path) -> None:
    _, file = large(tmp_path)
    assert sum(1 for _ in file.rows()) == sum(1 for _ in file.rows()) == file.row_count


def test_the_page_names_every_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    codes = {code for _, code, *_ in (*REFUSED_ROWS, *REFUSED_FILES)} | {*REFUSED_PATHS, "column_misnamed"}
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []
