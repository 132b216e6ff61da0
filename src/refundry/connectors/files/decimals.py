"""Amounts as text in the ways of other countries, `1.234,56` and `1,234.56`, where somebody has said which; else only `1234.56` is one."""

from __future__ import annotations

import re

# Between thousands: the mark that is not the decimal one, or one of the spaces and apostrophes of other countries, the same throughout.
_SPACES = " \u00a0\u202f'\u2019"
# Thousands begin with no zero: `0.500` is a half with the other decimal sign, and five hundred to nobody.
_FORMS = {
    ".": re.compile(rf"([1-9]\d{{0,2}}([,{_SPACES}])\d{{3}}(?:\2\d{{3}})*|\d+)(?:\.(\d+))?", re.ASCII),
    ",": re.compile(rf"([1-9]\d{{0,2}}([.{_SPACES}])\d{{3}}(?:\2\d{{3}})*|\d+)(?:,(\d+))?", re.ASCII),
}
# As many digits stand between two marks. What ends in a zero is a sound amount either way: `1.500`.
GROUP = 3
THOUSANDS = re.compile(r"[1-9]\d{0,2}\.\d{2}0", re.ASCII)
EXAMPLES = {".": "1,234.56", ",": "1.234,56"}


def plain(text: str, decimal: str) -> str | None:
    """Write an amount with a point and nothing between thousands.

    Args:
        text: As it stands in the file, without the space around it.
        decimal: `.` or `,`.

    Returns:
        `None`, if it is no amount in that form. A minus sign stays, to be refused by whoever reads on.
    """
    sign = "-" * text.startswith("-")
    match = _FORMS[decimal].fullmatch(text.removeprefix("-").lstrip())
    if match is None:
        return None
    whole = match[1].replace(match[2], "") if match[2] else match[1]
    return sign + whole + (f".{match[3]}" if match[3] else "")
