"""The laws of money, for every currency. `decimal.Decimal` is the second opinion; the product does not use it."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refundry.kernel import money
from refundry.kernel.errors import AmountInvalid, InvariantViolated
from refundry.kernel.money import Money, decimal, exponent, from_major, from_minor, step

pytestmark = pytest.mark.property

currencies = st.sampled_from(sorted(money.CURRENCIES))
whole = st.integers(min_value=-(10**14), max_value=10**14)


@st.composite
def payable(draw: st.DrawFn) -> Money:
    currency = draw(currencies)
    steps = draw(st.integers(min_value=1, max_value=(10**money.DIGITS_MAX - 1) // step(currency)))
    return Money(steps * step(currency), currency)


@given(payable())
def test_what_is_written_is_read_back(amount: Money) -> None:
    assert from_major(decimal(amount.minor_units, amount.currency), amount.currency) == amount
    assert from_minor(str(amount.minor_units), amount.currency) == amount


@pytest.mark.parametrize("currency", sorted(money.CURRENCIES))
def test_every_currencys_smallest_amount_comes_back(currency: str) -> None:
    smallest = step(currency)
    assert from_major(decimal(smallest, currency), currency) == Money(smallest, currency)
    assert from_minor(str(smallest), currency) == Money(smallest, currency)


@given(whole, currencies)
def test_writing_means_the_number_that_it_shows(minor_units: int, currency: str) -> None:
    assert Decimal(decimal(minor_units, currency)).scaleb(exponent(currency)) == minor_units


@given(st.from_regex(r"[0-9]{1,16}(\.[0-9]{1,6})?", fullmatch=True) | st.text(max_size=12), currencies)
def test_reading_means_the_number_that_is_written_or_nothing(text: str, currency: str) -> None:
    for read, scale in ((from_major, exponent(currency)), (from_minor, 0)):
        try:
            amount = read(text, currency)
        except AmountInvalid:
            continue
        assert amount.minor_units == Decimal(text.strip()).scaleb(scale)
        assert 0 < amount.minor_units < 10**12
        assert amount.minor_units % step(currency) == 0


@given(payable(), st.from_regex(r"[0-9]{0,3}[1-9]", fullmatch=True))
def test_no_decimal_is_ever_rounded_away(amount: Money, surplus: str) -> None:
    places = exponent(amount.currency)
    text = decimal(amount.minor_units, amount.currency) + ("" if places else ".") + surplus
    with pytest.raises(AmountInvalid) as refused:
        from_major(text, amount.currency)
    assert refused.value.code == "amount_too_precise"


@given(currencies, whole, whole, whole)
def test_sums_are_those_of_integers(currency: str, one: int, two: int, three: int) -> None:
    a, b, c = (Money(units, currency) for units in (one, two, three))
    assert a + b == b + a == Money(one + two, currency)
    assert (a + b) + c == a + (b + c)
    assert (a + b) - b == a
    assert a - a == Money(0, currency)
    assert (a < b, a <= b, a > b, a >= b) == (one < two, one <= two, one > two, one >= two)


@given(st.floats() | st.booleans() | st.decimals() | st.text(), currencies)
def test_no_float_becomes_money(units: object, currency: str) -> None:
    with pytest.raises(InvariantViolated):
        Money(units, currency)  # type: ignore[arg-type]


@given(whole, whole, currencies, currencies)
def test_two_currencies_never_meet(one: int, two: int, here: str, there: str) -> None:
    assume(here != there)
    with pytest.raises(InvariantViolated):
        _ = Money(one, here) + Money(two, there)
