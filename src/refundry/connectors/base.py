"""The ports to other systems, and the words they share with features: rows of a file of refunds, and messages to an order system.

Of a file, text stays text here, before any charge is looked up: an amount becomes money only together with a currency, which often only
the charge knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, assert_never

from refundry.kernel import money
from refundry.kernel.errors import AmountInvalid, RefundryError, UsageError
from refundry.kernel.money import Money

# What makes a spreadsheet read a cell as a formula, after OWASP's page on CSV injection; the last four are the full-width forms.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")  # noqa: RUF001  # they are meant
SHOWN_MAX = 40
# A ticket and an order stand in Stripe's metadata, whose values have so many characters (stripe-facts 4.3).
TICKET_CHARACTERS_MAX = 500
ORDER_CHARACTERS_MAX = 500
# With its prefix it fits any column and any log line.
REQUEST_KEY_CHARACTERS_MAX = 200
# What Excel makes of a long number in a CSV file, and Python and Java of one that was read as floating point: its other digits may be gone.
ROUNDED = re.compile(r"\d(?:[.,]\d+)?E\+\d{2,}|\d[.,]\d+E\d{1,3}", re.ASCII | re.IGNORECASE)
# What a program makes of whole numbers once one of their column is empty, as pandas does: the ticket 7 is another one then.
FLOATED = re.compile(r"(\d+)\.0", re.ASCII)
# What is left of `, "T-7"`, since quotes count only where a cell begins with them, of `="T-7"`, which keeps Excel from reading a number,
# and of quotes that a program has written twice or that are none of CSV's.
QUOTED = re.compile("=?[\"'“‘„].*[\"'”’“]")  # noqa: RUF001  # they are meant


def visible(text: str) -> str:
    """Write foreign text so that it can be shown and kept: what cannot be seen is escaped.

    A terminal would obey some of it, and Postgres keeps no NUL.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class FileRefused(UsageError):  # noqa: N818  # the design's word
    """A file is refused as a whole: nothing of it was taken in.

    Its `ids` have `file`, and where it can be told `line` (physical, from 1) and `column` (the header's name).
    """

    code = "file_refused"

    def __init__(self, message: str, *, code: str | None = None, **ids: str | int) -> None:
        """Keep the parts; the message may quote the file."""
        super().__init__(visible(message), code=code, **ids)


class NameInvalid(RefundryError):  # noqa: N818  # as `AmountInvalid`
    """A ticket, a request key or a reference that names nothing, or may be taken for another one."""

    code = "name_invalid"


class ReferenceKind(StrEnum):
    """By what a row names its charge; in the order in which the first one given names the obligation."""

    CHARGE_ID = "charge_id"
    PAYMENT_INTENT = "payment_intent"
    ORDER_ID = "order_id"


@dataclass(frozen=True, slots=True)
class Reference:
    """One name of a charge, as written, without the space around it."""

    kind: ReferenceKind
    value: str


class AmountKind(StrEnum):
    """How an amount is written: a decimal in major units, an integer in minor units, or the word `full`."""

    MAJOR = "major"
    MINOR = "minor"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AmountText:
    """An amount as written, without the space around it and in the plain form, `1234.56`, whatever decimal sign was said.

    Of `full`, the text is empty where an empty cell was said to mean it.
    """

    kind: AmountKind
    text: str


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row that can be understood; whether it can be paid is for others to say.

    Args:
        number: 1 for the first row under the header.
        line: The physical line on which it begins, the header's being 1 in most files.
        raw: Every cell as it stands in the file, by column.
        references: At least one, in the order of `ReferenceKind`, whatever the order of columns. Whoever resolves them sees whether
            they agree.
        amounts: At least one. Several agree as far as can be told without a currency; `amount_asked` tells with one.
        request_key: As written; `None` if empty.
        reason: One of Stripe's three.
        currency: Lower case, one of Stripe's; `None` if the charge's is to be taken.
        metadata: By key without `metadata.`; empty cells are left out, since at Stripe an empty value removes a key (stripe-facts 4.3).
    """

    number: int
    line: int
    raw: dict[str, str]
    references: tuple[Reference, ...]
    amounts: tuple[AmountText, ...]
    ticket_id: str | None
    request_key: str | None
    reason: str
    currency: str | None
    metadata: dict[str, str]
    refund_application_fee: bool | None
    reverse_transfer: bool | None

    @property
    def reference(self) -> Reference:
        """Tell the reference that stands in request keys: the first by kind."""
        return self.references[0]


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be understood.

    Args:
        number: 1 for the first row under the header.
        line: The physical line on which it begins.
        raw: Every cell as it stands in the file, by column.
        code: Stable.
        message: What is wrong and what to do, for a support agent.
        column: The header's name, if one column is to blame.
    """

    number: int
    line: int
    raw: dict[str, str]
    code: str
    message: str
    column: str | None = None


Row = ParsedRow | RefusedRow


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the person who hands in a file has allowed, and has said about how to read it.

    Args:
        blank_amount_full: An empty amount means `full`.
        allow_fraudulent: The reason `fraudulent` may be used, which block-lists the customer's card and address (stripe-facts 3.1).
        format: `csv`, `jsonl` or `xlsx`; `None`: told by how the file begins.
        delimiter: The one character between the cells of CSV; `None`: told by the header.
        encoding: `utf-8` or `windows-1252`; `None`: UTF-8, and where it is not that, Windows-1252 is assumed and said.
        decimal: The decimal sign of amounts as text, `.` or `,`, with the other one allowed between thousands; `None`: a point, and
            nothing between thousands.
        sheet: Which sheet of a workbook; `None`: the only one that is not hidden.
        mapping: What columns mean that have other names: pairs of the file's name and ours, where an empty one means nothing.
    """

    blank_amount_full: bool = False
    allow_fraudulent: bool = False
    format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    sheet: str | None = None
    mapping: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FileOpened:
    """A file that was read once from end to end and is sound: every row has the header's cells.

    Args:
        name: Without its folder.
        sha256: Of its bytes, in hexadecimal digits; of a gzip file, of what is packed in it.
        size_bytes: Its size as it lies on the disk.
        columns: The header.
        unknown_columns: Those that mean nothing to us, as they can be shown; their cells are kept in `raw`.
        row_count: How many rows `rows` gives.
        stream: Reads the rows anew.
        options: What its bytes were taken to mean where that is not the usual, in one canonical form; empty for plain CSV. It is part
            of what is accepted, since the same bytes mean something else with other options.
        assumed: How it was read where nobody has said so, for people, a sentence each; empty for plain CSV.
    """

    name: str
    sha256: str
    size_bytes: int
    columns: tuple[str, ...]
    unknown_columns: tuple[str, ...]
    row_count: int
    stream: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    options: str = ""
    assumed: tuple[str, ...] = ()

    def rows(self) -> Iterator[Row]:
        """Read the rows, one at a time, from the file itself; may be called again.

        Nothing may be accepted before the last row was given: only then is it known that they all belong to `sha256`.

        Raises:
            FileRefused: Code `file_changed`, at the start or at the end: the file is not the one that was opened.
        """
        return self.stream()


class FileReader(Protocol):
    """Reads files of refunds, of whatever format."""

    def read(self, path: Path, *, options: ReadOptions) -> FileOpened:
        """Open a file, or standard input (`-`), and see that it is sound as a whole.

        Raises:
            FileRefused: With a code for each reason; docs/features/files.md lists them.
        """
        ...


def check_name(text: str, called: str, characters_max: int, *, any_form: bool = False) -> None:
    """See that a text can name something, wherever it was written.

    What cannot be seen is refused, since two names that look alike must be one name, or a refund could be paid twice; so is a number
    that was rounded, which may stand for many names, and is none of them, one that a program has written as another name, and a name
    with the quotes that were to stand around it, or with the apostrophe of a report.

    Args:
        text: Without the space around it.
        called: What people call its place: a column, an option.
        characters_max: The most it may have.
        any_form: Whether `é` may also be an `e` and an accent, which look alike, and whether quotes may stand around it: of what Stripe
            compares, either may be meant.

    Raises:
        NameInvalid: `text_too_long`, `text_unprintable`, `text_not_nfc`, `text_quoted`, `number_too_long`, `number_not_whole`.
    """
    if len(text) > characters_max:
        message = f"{called} has {len(text)} characters, at most {characters_max} are possible: shorten it"
        raise NameInvalid(message, code="text_too_long")
    if not text.isprintable():
        message = f"{called} holds a character that cannot be seen: {text[:SHOWN_MAX]!a}; type it anew"
        raise NameInvalid(message, code="text_unprintable")
    if not (any_form or unicodedata.is_normalized("NFC", text)):
        message = (
            f"{called} is '{text[:SHOWN_MAX]}', with a letter that is made of several characters, or has another one that looks the same: "
            "type it anew, or write it in Unicode's form NFC"
        )
        raise NameInvalid(message, code="text_not_nfc")
    if not any_form and QUOTED.fullmatch(text):
        message = (
            f"{called} is {text[:SHOWN_MAX]}, with quotes around it that are part of it: write it without; in CSV no space and no = may "
            "stand before a cell's quotes"
        )
        raise NameInvalid(message, code="text_quoted")
    if not any_form and report_cell(text[1:]) == text:
        message = (
            f"{called} is {text[:SHOWN_MAX]}, with the apostrophe that a report has before what a spreadsheet would run as a formula: write "
            "it without"
        )
        raise NameInvalid(message, code="text_quoted")
    if ROUNDED.fullmatch(text):
        message = f"{called} is '{text[:SHOWN_MAX]}', a long number that a spreadsheet has rounded: type it anew, with the cell's format set to text"
        raise NameInvalid(message, code="number_too_long")
    if floated := FLOATED.fullmatch(text):
        message = f"{called} is '{text[:SHOWN_MAX]}', a whole number that a program has made a decimal: write '{floated[1][:SHOWN_MAX]}', as text"
        raise NameInvalid(message, code="number_not_whole")


def check_written(amount: AmountText) -> None:
    """See that an amount is one in some currency.

    Raises:
        AmountInvalid: `amount_unreadable`, `amount_not_positive`.
    """
    match amount.kind:
        case AmountKind.FULL:
            return
        case AmountKind.MAJOR:
            pattern, example = (
                money.DECIMAL,
                "write it in major units with a point and without a currency sign, as in 12.34",
            )
        case AmountKind.MINOR:
            pattern, example = money.INTEGER, "write a whole number of minor units, as in 1234 for 12.34"
        case _:
            assert_never(amount.kind)
    shown = visible(amount.text[:SHOWN_MAX])
    if not pattern.fullmatch(amount.text.removeprefix("-").lstrip()):
        raise AmountInvalid(f"'{shown}' is not an amount: {example}", code="amount_unreadable")
    if amount.text.startswith("-") or not amount.text.strip("0."):
        raise AmountInvalid(
            f"the amount is {shown}, but a refund gives something back: write it above zero, without a sign",
            code="amount_not_positive",
        )


def amount_of(amount: AmountText, currency: str) -> Money | None:
    """Read an amount in a currency (lower case).

    Returns:
        The amount, or `None` for the word `full`.

    Raises:
        AmountInvalid: `amount_unreadable`, `amount_not_positive`, `amount_too_precise`, `amount_too_large`.
        CurrencyUnknown: The currency is not Stripe's.
    """
    check_written(amount)
    match amount.kind:
        case AmountKind.FULL:
            return None
        case AmountKind.MAJOR:
            return money.from_major(amount.text, currency)
        case AmountKind.MINOR:
            return money.from_minor(amount.text, currency)
        case _:
            assert_never(amount.kind)


def amount_asked(amounts: Sequence[AmountText], currency: str) -> Money | None:
    """Read the amount that all of a row's amounts say.

    Returns:
        The amount, or `None` for the word `full`.

    Raises:
        AmountInvalid: As `amount_of`, and `amounts_disagree`.
        CurrencyUnknown: The currency is not Stripe's.
    """
    first, *others = amounts
    asked = amount_of(first, currency)
    for other in others:
        if amount_of(other, currency) != asked:
            raise AmountInvalid(
                f"'{first.text[:SHOWN_MAX]}' ({first.kind}) and '{other.text[:SHOWN_MAX]}' ({other.kind}) are not the same "
                f"amount in {currency.upper()}: leave one of them empty, or make them equal",
                code="amounts_disagree",
            )
    return asked


def report_cell(text: str) -> str:
    """Write foreign text into a cell of a CSV report, so that no spreadsheet takes it for a formula.

    A text that begins like one, also after spaces, gets an apostrophe before it, as OWASP advises; other text stays. A report as JSON
    keeps the text as it is.
    """
    risky = text.startswith(FORMULA_STARTS) or text.lstrip().startswith(FORMULA_STARTS)
    return f"'{text}" if risky else text


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to another system.

    Args:
        id: The same whenever it is sent again: by it a receiver knows what it has taken in.
        kind: What it says: `refund_request.settled`.
        envelope: All of it as plain JSON: `id`, `kind`, `version`, `created_at`, `account`, `mode`, `data`.
    """

    id: str
    kind: str
    envelope: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has taken a message in, now or earlier; `told` is what there is to say about that."""

    told: str = ""


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """Nobody can say that the target has taken a message in; it is sent again.

    Args:
        told: What happened, for a person; nothing in it is trusted.
        retry_after_seconds: How long the target wants to be left alone.
        gone: The target wants nothing any more.
    """

    told: str
    retry_after_seconds: float | None = None
    gone: bool = False


DeliveryOutcome = Delivered | NotDelivered


class OrderTarget(Protocol):
    """A system that is told what becomes of refunds. It may be told the same message again, and has to take it in once.

    Attributes:
        name: `http`, `sql`, `file`.
        patience_seconds: The longest that a delivery takes: whoever delivers holds the message for longer than that.
    """

    name: str
    patience_seconds: float

    async def open(self) -> None:
        """Get ready, once, in the loop that delivers.

        Raises:
            UsageError: A setting is wrong in a way that only the other system could tell.
        """
        ...

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        """Send one message, once, and wait for the answer. Never raises for what the other system does.

        Raises:
            InvariantViolated: Code `network_inside_transaction`.
        """
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...
