"""What commands write for people."""

from __future__ import annotations

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
