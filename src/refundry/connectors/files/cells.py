"""What a cell can be beside text: a number that was written as one, or something that no column of ours can hold."""

from __future__ import annotations

from typing import Self


class Number(str):
    """A number of a workbook or of JSON, in the plain form that has a point, whatever decimal sign the file's texts have."""

    __slots__ = ()


class Dressed(Number):
    """A number of a workbook that stands among letters or dashes of its format, `7` as `T-7`: an amount all the same, and no name."""

    __slots__ = ()


class Odd(str):  # noqa: SLOT000  # a text may have slots of its own only if they are empty
    """A cell that is refused wherever its column means something, and kept as text elsewhere.

    Args:
        shown: What is kept of it for the report.
        code: Stable.
        why: What is wrong and what to do, after the name of its column.
    """

    code: str
    why: str

    def __new__(cls, shown: str, code: str, why: str) -> Self:
        """Make the text, and keep why it is refused."""
        made = super().__new__(cls, shown)
        made.code, made.why = code, why
        return made
