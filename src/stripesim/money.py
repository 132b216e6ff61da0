"""Stripe's currencies and how its texts print an amount. Amounts are integers in minor units everywhere."""

ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
# Written with two decimals that must be 00 (docs.stripe.com/currencies, 2026-08).
WHOLE_HUNDREDS = frozenset({"isk", "ugx"})
SUPPORTED = (
    frozenset(
        [
            "aed",
            "afn",
            "all",
            "amd",
            "ang",
            "aoa",
            "ars",
            "aud",
            "awg",
            "azn",
            "bam",
            "bbd",
            "bdt",
            "bgn",
            "bmd",
            "bnd",
            "bob",
            "brl",
            "bsd",
            "bwp",
            "byn",
            "bzd",
            "cad",
            "cdf",
            "chf",
            "cny",
            "cop",
            "crc",
            "cve",
            "czk",
            "dkk",
            "dop",
            "dzd",
            "egp",
            "etb",
            "eur",
            "fjd",
            "fkp",
            "gbp",
            "gel",
            "gip",
            "gmd",
            "gtq",
            "gyd",
            "hkd",
            "hnl",
            "htg",
            "huf",
            "idr",
            "ils",
            "inr",
            "jmd",
            "kes",
            "kgs",
            "khr",
            "kyd",
            "kzt",
            "lak",
            "lbp",
            "lkr",
            "lrd",
            "lsl",
            "mad",
            "mdl",
            "mkd",
            "mmk",
            "mnt",
            "mop",
            "mur",
            "mvr",
            "mwk",
            "mxn",
            "myr",
            "mzn",
            "nad",
            "ngn",
            "nio",
            "nok",
            "npr",
            "nzd",
            "pab",
            "pen",
            "pgk",
            "php",
            "pkr",
            "pln",
            "qar",
            "ron",
            "rsd",
            "rub",
            "sar",
            "sbd",
            "scr",
            "sek",
            "sgd",
            "shp",
            "sle",
            "sos",
            "srd",
            "std",
            "szl",
            "thb",
            "tjs",
            "top",
            "try",
            "ttd",
            "twd",
            "tzs",
            "uah",
            "usd",
            "uyu",
            "uzs",
            "wst",
            "xcd",
            "yer",
            "zar",
            "zmw",
        ]
    )
    | ZERO_DECIMAL
    | THREE_DECIMAL
    | WHOLE_HUNDREDS
)
SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "cad": "CA$", "aud": "A$", "inr": "₹"}


def exponent(currency: str) -> int:
    """Tell how many digits of an amount stand behind the point."""
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def shown(amount: int, currency: str) -> str:
    """Print an amount as Stripe's error texts do: `$30.00`, `€10.00`, `¥500`, `30.00 SEK`."""
    places = exponent(currency)
    number = f"{amount // 10**places:,}"
    if places:
        number += f".{amount % 10**places:0{places}d}"
    symbol = SYMBOLS.get(currency)
    return symbol + number if symbol else f"{number} {currency.upper()}"


def share(amount: int, part: int, whole: int) -> int:
    """Take `part / whole` of an amount, rounded half up, without leaving integers."""
    return (2 * amount * part + whole) // (2 * whole) if whole else 0
