"""Money: integer minor units with a currency, after Stripe's own table of decimals (stripe-facts 7), which is not ISO's.

Never a float, never a division by a hundred.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from refundry.kernel.errors import AmountInvalid, CurrencyUnknown, InvariantViolated

ZERO_DECIMAL = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split())
THREE_DECIMAL = frozenset("bhd jod kwd omr tnd".split())
# Written with two decimals that must be 00 (stripe-facts 7).
WHOLE_HUNDREDS = frozenset({"isk", "ugx"})
TWO_DECIMAL = frozenset(
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc cve "
    "czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr jmd kes kgs khr kyd kzt lak "
    "lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln qar "
    "ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah usd uyu uzs wst xcd yer zar "
    "zmw".split()
)
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | WHOLE_HUNDREDS | TWO_DECIMAL
# Stripe takes at most twelve digits (stripe-facts 7); more in a file is a slip of the pen.
DIGITS_MAX = 12
DECIMAL = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
INTEGER = re.compile(r"\d+", re.ASCII)


def exponent(currency: str) -> int:
    """Tell how many of an amount's digits stand behind the point.

    Raises:
        CurrencyUnknown: Code `currency_unknown`.
    """
    if currency in ZERO_DECIMAL:
        return 0
    if currency in THREE_DECIMAL:
        return 3
    if currency not in CURRENCIES:
        raise CurrencyUnknown(f"'{currency}' is not a currency that Stripe knows: write its three letters, as in gbp")
    return 2


def step(currency: str) -> int:
    """Tell the smallest amount in minor units that can be paid: 100 for ISK and UGX, 10 for three-decimal currencies."""
    if currency in WHOLE_HUNDREDS:
        return 100
    return 10 if exponent(currency) == 3 else 1  # noqa: PLR2004  # three-decimal


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount.

    Args:
        minor_units: Pence, cents, whole yen; may be negative in sums.
        currency: Lower-case code, one of Stripe's.
    """

    minor_units: int
    currency: str

    def __post_init__(self) -> None:
        """Refuse what is not an integer, above all a float or a boolean."""
        if type(self.minor_units) is not int:
            raise InvariantViolated(f"money in minor units is an integer, not {self.minor_units!r}")
        exponent(self.currency)

    def __add__(self, other: Money) -> Money:
        return Money(self.minor_units + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor_units - self._same(other), self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor_units < self._same(other)

    def __le__(self, other: Money) -> bool:
        return self.minor_units <= self._same(other)

    def _same(self, other: Money) -> int:
        if other.currency != self.currency:
            raise InvariantViolated(f"{self} and {other} are of two currencies")
        return other.minor_units

    def __str__(self) -> str:
        """Write it for people: `25.00 GBP`, `500 JPY`."""
        return f"{decimal(self.minor_units, self.currency)} {self.currency.upper()}"


def decimal(minor_units: int, currency: str) -> str:
    """Write an amount in major units, without its currency: `25.00`, `-0.05`, `500`."""
    places = exponent(currency)
    sign, digits = "-" * (minor_units < 0), str(abs(minor_units)).rjust(places + 1, "0")
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def shown(minor_units: int, currency: str) -> str:
    """Write an amount that Stripe tells, for people: as `Money` does, and for a currency newer than our table `2500 minor units of XCG`."""
    if currency in CURRENCIES:
        return str(Money(minor_units, currency))
    return f"{minor_units} minor units of {currency.upper()}"


def from_major(text: str, currency: str) -> Money:
    """Read a decimal in major units: `12.34`, `500`.

    Raises:
        AmountInvalid: `amount_unreadable`, `amount_too_precise` (more decimals than the currency has, or than may be
            paid), `amount_not_positive`, `amount_too_large`.
        CurrencyUnknown: The currency is not Stripe's.
    """
    places = exponent(currency)
    match = DECIMAL.fullmatch(text.strip())
    if match is None:
        raise AmountInvalid(
            f"'{text.strip()[:40]}' is not an amount: write it in major units with a point, as in 12.34",
            code="amount_unreadable",
        )
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > places:
        raise AmountInvalid(
            f"{text.strip()[:40]} {currency.upper()} is too precise: {currency.upper()} has {places} decimals",
            code="amount_too_precise",
        )
    return checked(_integer(whole + fraction.ljust(places, "0")), currency)


def cut(text: str, currency: str, *, up: bool = False) -> int:
    """Tell a limit in minor units that was written without a currency: `600000.00`.

    Args:
        text: A decimal in major units, as `DECIMAL` has it.
        currency: Which currency it limits.
        up: Where the currency cannot express it, take the next amount above; else the next below.
    """
    whole, _, fraction = text.partition(".")
    places = exponent(currency)
    minor_units = int(whole + fraction[:places].ljust(places, "0"))
    return minor_units + (up and fraction[places:].strip("0") != "")


def from_minor(text: str, currency: str) -> Money:
    """Read an integer in minor units: `1234`.

    Raises:
        AmountInvalid: As `from_major`.
        CurrencyUnknown: The currency is not Stripe's.
    """
    exponent(currency)
    if not INTEGER.fullmatch(text.strip()):
        raise AmountInvalid(
            f"'{text.strip()[:40]}' is not a whole number of minor units: write 1234 for 12.34",
            code="amount_unreadable",
        )
    return checked(_integer(text.strip()), currency)


def _integer(digits: str) -> int:
    """Read digits; far more of them than Stripe can hold are refused here, since Python itself reads at most 4,300."""
    significant = digits.lstrip("0")
    if len(significant) > DIGITS_MAX:
        raise AmountInvalid(
            f"an amount of {len(significant)} digits is more than Stripe can hold: check the amount",
            code="amount_too_large",
        )
    return int(significant or "0")


def checked(minor_units: int, currency: str) -> Money:
    """See that an amount can be paid back.

    Raises:
        AmountInvalid: `amount_not_positive`, `amount_too_large`, `amount_too_precise`.
    """
    if minor_units <= 0:
        raise AmountInvalid("the amount is zero or less: a refund gives something back", code="amount_not_positive")
    if len(str(minor_units)) > DIGITS_MAX:
        raise AmountInvalid(f"{minor_units} is more than Stripe can hold: check the amount", code="amount_too_large")
    smallest = step(currency)
    if minor_units % smallest:
        raise AmountInvalid(
            f"{Money(minor_units, currency)} cannot be paid: amounts in {currency.upper()} are multiples of "
            f"{Money(smallest, currency)}",
            code="amount_too_precise",
        )
    return Money(minor_units, currency)
