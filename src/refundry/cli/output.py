"""How commands speak: results on stdout, the rest on stderr; amounts for people through `kernel.money`, as integers in `--json`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from refundry.kernel.errors import RefundryError
from refundry.kernel.money import shown

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

# Longer lines are hard to read, however wide the terminal is.
WIDTH_MAX = 110

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of words.")]


def line(text: str = "") -> None:
    """Write a line of the result."""
    sys.stdout.write(text + "\n")


def say(text: str = "") -> None:
    """Write a line beside the result: progress, advice."""
    # Both may lead to one terminal or one log, where the order matters.
    sys.stdout.flush()
    sys.stderr.write(_filled(text, sys.stderr, "", "") + "\n")
    sys.stderr.flush()


def wrapped(text: str, *, indent: int = 0, hanging: int | None = None) -> str:
    """Break a long text between words where a person reads it in a terminal; files and pipes get it as one line.

    Args:
        text: One paragraph.
        indent: Spaces before its first line.
        hanging: Spaces before the others; as the first without.
    """
    return _filled(text, sys.stdout, " " * indent, " " * (indent if hanging is None else hanging))


def _filled(text: str, to: TextIO, first: str, rest: str) -> str:
    if not to.isatty():
        return first + text
    width = min(shutil.get_terminal_size().columns, WIDTH_MAX)
    lines = text.split("\n") if "\n" in text else [text]
    filled = (
        textwrap.fill(
            line, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    )
    return "\n".join(filled)


def as_json(result: Mapping[str, Any]) -> None:
    """Write the result as one JSON object."""
    line(json.dumps(result, ensure_ascii=False))


def fail(error: RefundryError, *, as_json: bool) -> None:
    """Tell an error: its sentence and its code; with `--json` as one object on stdout too."""
    say(f"error: {error.message} [{error.code}]")
    if as_json:
        line(json.dumps({"error": error.told()}, ensure_ascii=False))


@contextmanager
def whole(to: Path) -> Iterator[TextIO]:
    """Open a file that is written as a whole or not at all: it takes its place once all of it is on the disk.

    Where a link leads is written, and the link stays. A pipe or a device is written to: a file that took its place would be nobody's.

    Raises:
        OSError: It cannot be written.
    """
    if to.exists() and not to.is_file():
        with to.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    place = Path(os.path.realpath(to))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def number(count: int) -> str:
    """Write a count: `1,719`."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: `1 row`, `1,719 rows`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def money(minor_units: int, currency: str) -> str:
    """Write an amount: `172,336.09 GBP`, `-0.50 GBP`."""
    # Without its sign, which the whole units of a small one have not: there is no minus zero.
    amount, _, currency_told = shown(abs(minor_units), currency).partition(" ")
    whole, point, decimals = amount.partition(".")
    return f"{'-' * (minor_units < 0)}{int(whole):,}{point}{decimals} {currency_told}"


def amounts(by_currency: Mapping[str, int]) -> str:
    """Write sums of several currencies: `12.00 EUR and 172,336.09 GBP`; `nothing`, if there are none."""
    told = [money(minor, currency) for currency, minor in sorted(by_currency.items())]
    return " and ".join(told) if told else "nothing"


def span(seconds: float) -> str:
    """Write a time span: `0:41`, `9:40`, `1:02:03`."""
    whole = max(int(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def lasting(seconds: float) -> str:
    """Write how long something lasts, to one unit: `3 d`, `5 h`, `2 min`."""
    if seconds >= 86_400:  # noqa: PLR2004  # a day
        return f"{int(seconds // 86_400)} d"
    return f"{int(seconds // 3600)} h" if seconds >= 3600 else f"{max(int(seconds // 60), 0)} min"  # noqa: PLR2004  # an hour


def moment(at: float) -> str:
    """Write a time: `2026-11-24 10:43:17 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Write a plain table; columns in `right` are right-aligned (amounts, counts)."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(cells[at]) for cells in lines) for at in range(len(head))]
    for cells in lines:
        padded = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        line("  ".join(padded).rstrip())
