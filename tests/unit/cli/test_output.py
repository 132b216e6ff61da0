"""What commands write for people."""

from __future__ import annotations

import io

import pytest

from refundry.cli import output

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("minor_units", "currency", "written"),
    [
        (17_233_609, "gbp", "172,336.09 GBP"),
        (5, "gbp", "0.05 GBP"),
        (0, "gbp", "0.00 GBP"),
        (-1, "gbp", "-0.01 GBP"),
        (-50, "gbp", "-0.50 GBP"),
        (-99, "gbp", "-0.99 GBP"),
        (-100, "gbp", "-1.00 GBP"),
        (-123_456_789, "gbp", "-1,234,567.89 GBP"),
        (-500, "kwd", "-0.500 KWD"),
        (-1_234, "jpy", "-1,234 JPY"),
        (-2_500, "xcg", "-2,500 minor units of XCG"),
    ],
)
def test_an_amount_keeps_its_sign_and_every_digit(minor_units: int, currency: str, written: str) -> None:
    assert output.money(minor_units, currency) == written


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


HEAD = ("request", "amount", "state", "why")
ROWS = (
    ("486bab8d-2651-5b24-a1a1-d7e1c3bd5162", "70.00 USD", "settled", ""),
    ("7d14af7b-5616-5846-a31a-fa1a9972a7a7", "5.00 USD", "failed", "the card has expired " * 6),
)


def written(to: io.StringIO, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sys.stdout", to)
    monkeypatch.setenv("COLUMNS", str(columns))
    output.table(HEAD, ROWS, right=(1,))
    return to.getvalue().splitlines()


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 100])
def test_a_table_fits_its_terminal_and_keeps_its_ids_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = written(Terminal(), columns, monkeypatch)
    assert max(map(len, told)) <= columns
    assert all(any(row[0] in line for line in told) for row in ROWS)
    words = " ".join(told).split()
    assert sorted(words) == sorted(" ".join(cell for row in (HEAD, *ROWS) for cell in row).split())


def test_what_does_not_fit_stands_set_in_under_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    told = written(Terminal(), 60, monkeypatch)
    assert told[:4] == [
        "request                                  amount  state",
        "  why",
        "486bab8d-2651-5b24-a1a1-d7e1c3bd5162  70.00 USD  settled",
        "7d14af7b-5616-5846-a31a-fa1a9972a7a7   5.00 USD  failed",
    ]
    assert told[4].startswith("  the card has expired")


@pytest.mark.parametrize("to", [io.StringIO, Terminal])
def test_a_table_has_one_line_a_row_where_there_is_room_or_no_terminal(
    to: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = written(to(), 60 if to is io.StringIO else 250, monkeypatch)
    assert len(told) == 3
