"""How commands speak: results on stdout, the rest on stderr; amounts for people through `kernel.money`, as integers in `--json`."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from refundry.connectors.base import visible
from refundry.kernel.errors import RefundryError
from refundry.kernel.money import shown

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

# Longer lines are hard to read, however wide the terminal is.
WIDTH_MAX = 110

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of words.")]


class Unheard:
    """Standard error of which is left out what cannot be written: progress and logs on a full disk, or that nobody reads, stop no refund.

    Args:
        stream: Standard error itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write out what can be written out."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever else a stream has
        return getattr(self._stream, name)


def prepare() -> None:
    """Let standard output and error take every character, whatever encoding they are set to, and also where they are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Whoever closes it wants to hear nothing; without one, a file that is opened later could take its number.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  # open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            # A character that the encoding does not have is escaped: what was paid is not to end in an error for a file's name.
            stream.reconfigure(errors="backslashreplace")
    setattr(sys, "stderr", Unheard(sys.stderr))  # noqa: B010  # as a text stream, of which it has all that is asked for


def as_file() -> TextIO:
    """Tell standard output, to write a file to it: in UTF-8, as into a file, whatever it is set to."""
    sys.stdout.flush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout


class OutputUnwritable(RefundryError):  # noqa: N818  # read in a sentence
    """Standard output takes no more."""

    code = "output_unwritable"


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Nothing more goes there: what is still held back would fail again, at the latest at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Whoever has gone while reading our output, as `head` does, needs to be told nothing.
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputUnwritable(
            f"standard output cannot be written ({error.strerror}): lead it to a place that can be written, with room, and run the "
            "same command again; what was done or accepted is kept"
        ) from error


def flush() -> None:
    """Write out what standard output holds back.

    Raises:
        OutputUnwritable: It cannot be written.
        BrokenPipeError: Its reader has gone.
    """
    with _to_stdout():
        sys.stdout.flush()


def lost() -> OutputUnwritable | None:
    """Tell what keeps standard output from taking what it holds back, if anybody reads it; nothing more is written there then."""
    try:
        flush()
    except OutputUnwritable as error:
        return error
    except BrokenPipeError:
        return None
    return None


def line(text: str = "") -> None:
    """Write a line of the result."""
    with _to_stdout():
        sys.stdout.write(text + "\n")


def said(text: str) -> str:
    """Take in what a person says for others to read, as a note: it neither steers their terminal nor looks like a line of ours."""
    # Bytes that are no UTF-8 are refused, as in any argument, and not escaped.
    return visible(text.encode().decode())


def say(text: str = "") -> None:
    """Write a line beside the result: progress, advice."""
    # Both may lead to one terminal or one log, where the order matters.
    flush()
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
    """Write the result as one JSON object; where standard output is not UTF-8, in ASCII, since JSON knows no other encoding."""
    line(_json(result))


def _json(told: Mapping[str, Any]) -> str:
    utf_8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    return json.dumps(told, ensure_ascii=not utf_8)


def fail(error: RefundryError, *, as_json: bool) -> None:
    """Tell an error: its sentence and its code; with `--json` as one object on stdout too."""
    # An error is told also where the result could not be.
    lost()
    # It may quote what was typed, or what another system has written.
    say(f"error: {visible(error.message)} [{error.code}]")
    if as_json:
        with suppress(OutputUnwritable, BrokenPipeError):
            line(_json({"error": error.told()}))
            flush()


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
    """Write a plain table; columns in `right` are right-aligned (amounts, counts).

    Where a terminal is too narrow for it a row goes over several lines, each column under its head; ids stay whole, to be copied.
    """
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(cells[at]) for cells in lines) for at in range(len(head))]
    folds = _folds(widths) if sys.stdout.isatty() else [list(range(len(widths)))]
    for cells in lines:
        for fold, columns in enumerate(folds):
            padded = [cells[at].rjust(widths[at]) if at in right else cells[at].ljust(widths[at]) for at in columns]
            text = "  ".join(padded).rstrip()
            if not fold:
                line(text)
            elif text:
                # Only a text that is longer than a whole line is broken.
                line(f"  {text}" if len(columns) > 1 else wrapped(text, indent=2, hanging=4))


def _folds(widths: Sequence[int]) -> list[list[int]]:
    """Share columns out to lines that a terminal can show; all after the first are set in by two."""
    folds, used, room = [[0]], widths[0], shutil.get_terminal_size().columns
    for at, width in enumerate(widths[1:], 1):
        used += 2 + width
        if used > room:
            folds.append([])
            used = 2 + width
        folds[-1].append(at)
    return folds
