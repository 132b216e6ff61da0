"""Money, by examples."""

import pytest

from refundry.kernel import money
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown, InvariantViolated
from refundry.kernel.money import Money, checked, decimal, exponent, from_major, from_minor, step

pytestmark = pytest.mark.unit


def test_no_currency_is_of_two_kinds() -> None:
    kinds = (money.ZERO_DECIMAL, money.THREE_DECIMAL, money.WHOLE_HUNDREDS, money.TWO_DECIMAL)
    assert sum(map(len, kinds)) == len(money.CURRENCIES)
    assert all(len(currency) == 3 and currency.isascii() and currency.islower() for currency in money.CURRENCIES)


@pytest.mark.parametrize(
    ("currency", "places", "smallest"),
    [
        ("gbp", 2, 1), ("usd", 2, 1), ("jpy", 0, 1), ("krw", 0, 1), ("clp", 0, 1), ("kwd", 3, 10), ("tnd", 3, 10), ("isk", 2, 100),
        ("ugx", 2, 100), ("huf", 2, 1), ("twd", 2, 1),
    ],
)  # fmt: skip
def test_a_currency_has_stripes_decimals_and_not_isos(currency: str, places: int, smallest: int) -> None:
    assert (exponent(currency), step(currency)) == (places, smallest)


@pytest.mark.parametrize("currency", ["", "GBP", "gb", "xyz", "btc", "gbp "])
def test_an_unknown_currency_is_refused(currency: str) -> None:
    for attempt in (
        exponent,
        step,
        lambda code: Money(1, code),
        lambda code: from_major("1", code),
        lambda code: from_minor("1", code),
    ):
        with pytest.raises(CurrencyUnknown) as refused:
            attempt(currency)
        assert refused.value.code == "currency_unknown"


@pytest.mark.parametrize(
    ("text", "currency", "minor_units"),
    [
        ("12.34", "gbp", 1234), ("12.3", "gbp", 1230), ("12", "gbp", 1200), ("0.05", "gbp", 5), (" 12.340 ", "gbp", 1234), ("0012.34", "gbp", 1234),
        ("500", "jpy", 500), ("500.00", "jpy", 500), ("1.230", "kwd", 1230), ("1.23", "kwd", 1230), ("5", "isk", 500), ("5.00", "ugx", 500),
        ("9999999999.99", "usd", 999_999_999_999), ("999999999999", "jpy", 999_999_999_999), ("0" * 5000 + "5", "gbp", 500),
    ],
)  # fmt: skip
def test_a_decimal_is_read_in_major_units(text: str, currency: str, minor_units: int) -> None:
    assert from_major(text, currency) == Money(minor_units, currency)


@pytest.mark.parametrize(
    ("text", "currency", "minor_units"),
    [
        ("1234", "gbp", 1234),
        (" 1234 ", "gbp", 1234),
        ("500", "jpy", 500),
        ("1230", "kwd", 1230),
        ("500", "isk", 500),
        ("007", "usd", 7),
    ],
)
def test_an_integer_is_read_in_minor_units(text: str, currency: str, minor_units: int) -> None:
    assert from_minor(text, currency) == Money(minor_units, currency)


@pytest.mark.parametrize(
    ("text", "currency", "code"),
    [
        ("", "gbp", "amount_unreadable"), ("12,34", "gbp", "amount_unreadable"), ("1,234.00", "gbp", "amount_unreadable"),
        ("£12", "gbp", "amount_unreadable"), ("1e3", "gbp", "amount_unreadable"), ("-5", "gbp", "amount_unreadable"),
        ("+5", "gbp", "amount_unreadable"), (".5", "gbp", "amount_unreadable"), ("5.", "gbp", "amount_unreadable"),
        ("nan", "gbp", "amount_unreadable"), ("inf", "gbp", "amount_unreadable"), ("1_000", "gbp", "amount_unreadable"),
        ("١٢", "gbp", "amount_unreadable"), ("full", "gbp", "amount_unreadable"), ("0x10", "gbp", "amount_unreadable"),
        ("12.345", "gbp", "amount_too_precise"), ("500.5", "jpy", "amount_too_precise"), ("1.2345", "kwd", "amount_too_precise"),
        ("1.234", "kwd", "amount_too_precise"), ("5.01", "isk", "amount_too_precise"), ("5.50", "ugx", "amount_too_precise"),
        ("0", "gbp", "amount_not_positive"), ("0.00", "gbp", "amount_not_positive"), ("0", "jpy", "amount_not_positive"),
        ("10000000000.00", "gbp", "amount_too_large"), ("1000000000000", "jpy", "amount_too_large"), ("9" * 5000, "gbp", "amount_too_large"),
    ],
)  # fmt: skip
def test_a_decimal_that_cannot_be_paid_is_refused(text: str, currency: str, code: str) -> None:
    with pytest.raises(AmountInvalid) as refused:
        from_major(text, currency)
    assert refused.value.code == code
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("text", "currency", "code"),
    [
        ("", "gbp", "amount_unreadable"), ("12.34", "gbp", "amount_unreadable"), ("-5", "gbp", "amount_unreadable"), ("1 234", "gbp", "amount_unreadable"),
        ("0", "gbp", "amount_not_positive"), ("1234", "kwd", "amount_too_precise"), ("550", "isk", "amount_too_precise"),
        ("1000000000000", "gbp", "amount_too_large"), ("9" * 5000, "gbp", "amount_too_large"),
    ],
)  # fmt: skip
def test_an_integer_that_cannot_be_paid_is_refused(text: str, currency: str, code: str) -> None:
    with pytest.raises(AmountInvalid) as refused:
        from_minor(text, currency)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("minor_units", "code"), [(0, "amount_not_positive"), (-1, "amount_not_positive"), (10**12, "amount_too_large")]
)
def test_an_amount_out_of_range_is_refused_however_it_came(minor_units: int, code: str) -> None:
    with pytest.raises(AmountInvalid) as refused:
        checked(minor_units, "gbp")
    assert refused.value.code == code


@pytest.mark.parametrize("minor_units", [1.0, 0.1, float("nan"), True, False, "5", None])
def test_money_is_never_made_of_anything_but_an_integer(minor_units: object) -> None:
    with pytest.raises(InvariantViolated):
        Money(minor_units, "gbp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("minor_units", "currency", "text"),
    [(1234, "gbp", "12.34"), (5, "gbp", "0.05"), (0, "gbp", "0.00"), (-5, "gbp", "-0.05"), (500, "jpy", "500"), (-500, "jpy", "-500"), (10, "kwd", "0.010"),
     (500, "isk", "5.00")],
)  # fmt: skip
def test_an_amount_is_written_with_its_currencys_decimals(minor_units: int, currency: str, text: str) -> None:
    assert decimal(minor_units, currency) == text
    assert str(Money(minor_units, currency)) == f"{text} {currency.upper()}"


def test_two_currencies_are_never_added_or_compared() -> None:
    pounds, yen = Money(100, "gbp"), Money(100, "jpy")
    assert pounds != yen
    for mix in (
        lambda: pounds + yen,
        lambda: pounds - yen,
        lambda: pounds < yen,
        lambda: pounds <= yen,
        lambda: pounds > yen,
        lambda: pounds >= yen,
    ):
        with pytest.raises(InvariantViolated):
            mix()
