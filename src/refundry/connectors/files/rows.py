"""One row of a file of refunds, from its cells, of whatever format: understood, or refused with the column to blame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refundry.connectors.base import (
    ORDER_CHARACTERS_MAX,
    REQUEST_KEY_CHARACTERS_MAX,
    SHOWN_MAX,
    TICKET_CHARACTERS_MAX,
    AmountKind,
    AmountText,
    NameInvalid,
    ParsedRow,
    ReadOptions,
    Reference,
    ReferenceKind,
    RefusedRow,
    Row,
    amount_asked,
    amount_of,
    check_name,
    check_written,
    visible,
)
from refundry.connectors.files import decimals
from refundry.connectors.files.cells import Dressed, Number, Odd
from refundry.connectors.files.columns import AMOUNTS, METADATA_KEYS_MAX, METADATA_VALUE_CHARACTERS_MAX, Header
from refundry.kernel import money
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown, RefundryError

FULL = "full"
# Looked at in every row: a tuple is quicker than the enum.
REFERENCES = tuple(ReferenceKind)
REASONS = ("duplicate", "fraudulent", "requested_by_customer")
REASON_BLANK = "requested_by_customer"
FRAUDULENT = "fraudulent"
# Stripe's ids are letters and digits after the prefix, up to 255 characters (stripe-facts 3.3); a client secret has more underscores.
SHAPES = {
    ReferenceKind.CHARGE_ID: (re.compile(r"(?:ch|py)_[A-Za-z0-9]{1,252}"), "ch_ or py_"),
    ReferenceKind.PAYMENT_INTENT: (re.compile(r"pi_[A-Za-z0-9]{1,252}"), "pi_"),
}


class CellRefused(RefundryError):  # noqa: N818  # the design's word
    """A cell that cannot be understood; `column` is its column, if one is to blame. The message may quote the file."""

    code = "cell_refused"

    def __init__(self, code: str, message: str, column: str | None = None) -> None:
        """Keep the parts."""
        super().__init__(visible(message), code=code)
        self.column = column


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one row, by our names; where the encoding was assumed, `sure` is false."""

    raw: dict[str, str]
    sure: bool = True

    def text(self, column: str) -> str:
        """Tell a cell without the space around it; empty, if the file has no such column."""
        cell = self.raw.get(column)
        if not cell:
            return ""
        if isinstance(cell, Odd):
            raise CellRefused(cell.code, f"{column} {cell.why}", column)
        return cell.strip()

    def name(self, column: str, characters_max: int, *, any_form: bool = False) -> str | None:
        """Tell a cell that names something; `None`, if it is empty.

        What `check_name` refuses is refused, and a number that its sheet shows as another name.
        """
        text = self.text(column)
        if not text:
            return None
        if isinstance(self.raw.get(column), Dressed):
            message = f"{column} holds {text[:SHOWN_MAX]}, and its format shows more than that: type what was meant, with the format set to text"
            raise CellRefused("cell_shown_otherwise", message, column)
        try:
            check_name(text, column, characters_max, any_form=any_form)
        except NameInvalid as error:
            raise CellRefused(error.code, error.message, column) from error
        if not (self.sure or text.isascii()):
            message = (
                f"{column} is '{text[:SHOWN_MAX]}' if the file is Windows-1252, which nobody has said: say --encoding windows-1252, or "
                "save the file as 'CSV UTF-8'"
            )
            raise CellRefused("text_encoding_unsure", message, column)
        return text


def row_of(
    header: Header, cells: Sequence[str], *, number: int, line: int, options: ReadOptions, sure: bool = True
) -> Row:
    """Read a row.

    Args:
        header: The file's.
        cells: One for each of its columns.
        number: 1 for the first row under the header.
        line: The physical line on which it begins.
        options: What is allowed.
        sure: Whether the file's encoding is known. If not, a name with a letter that depends on it is refused: the same ticket in a
            file that is read otherwise would be another ticket, and be paid again.
    """
    raw = dict(zip(header.columns, cells, strict=True))
    named = raw if header.names == header.columns else dict(zip(header.names, cells, strict=True))
    try:
        return _parsed(header, Cells(named, sure), raw, number, line, options)
    except CellRefused as refused:
        return RefusedRow(number, line, raw, refused.code, refused.message, header.column(refused.column))


def _parsed(
    header: Header, cells: Cells, raw: dict[str, str], number: int, line: int, options: ReadOptions
) -> ParsedRow:
    if not any(cell.strip() for cell in raw.values()):
        raise CellRefused("row_empty", "every cell of the row is empty: remove the row")
    currency = _currency(cells)
    return ParsedRow(
        number=number,
        line=line,
        raw=raw,
        references=_references(cells),
        amounts=_amounts(cells, currency, options),
        ticket_id=cells.name("ticket_id", TICKET_CHARACTERS_MAX),
        request_key=cells.name("request_key", REQUEST_KEY_CHARACTERS_MAX),
        reason=_reason(cells, options),
        currency=currency,
        metadata=_metadata(header, cells),
        refund_application_fee=_flag(cells, "refund_application_fee"),
        reverse_transfer=_flag(cells, "reverse_transfer"),
    )


def _references(cells: Cells) -> tuple[Reference, ...]:
    given = []
    for kind in REFERENCES:
        value = cells.name(kind, ORDER_CHARACTERS_MAX, any_form=True) if kind in cells.raw else None
        if value is not None:
            _check_shape(kind, value)
            given.append(Reference(kind, value))
    if not given:
        raise CellRefused(
            "no_charge_named",
            "the row does not say which charge to refund: fill in charge_id, payment_intent or order_id",
        )
    return tuple(given)


def _check_shape(kind: ReferenceKind, value: str) -> None:
    if kind not in SHAPES:
        return
    pattern, prefix = SHAPES[kind]
    if not pattern.fullmatch(value):
        message = f"'{value[:SHOWN_MAX]}' is not a {kind}: it begins with {prefix}, and letters and digits follow"
        raise CellRefused(f"{kind}_invalid", message, kind)


def _amounts(cells: Cells, currency: str | None, options: ReadOptions) -> tuple[AmountText, ...]:
    amounts = tuple(
        _amount(cells, column, kind, text, currency, options)
        for column, kind in AMOUNTS.items()
        if column in cells.raw and (text := cells.text(column))
    )
    if not amounts and options.blank_amount_full:
        return (AmountText(AmountKind.FULL, ""),)
    if not amounts:
        raise CellRefused("amount_missing", "the amount is empty: write one, or the word full for all that is left")
    if len(amounts) > 1:
        _check_agreement(amounts, currency)
    return amounts


def _amount(
    cells: Cells, column: str, kind: AmountKind, text: str, currency: str | None, options: ReadOptions
) -> AmountText:
    if text.casefold() == FULL:
        return AmountText(AmountKind.FULL, text)
    if options.decimal is not None and kind is AmountKind.MAJOR and not isinstance(cells.raw[column], Number):
        written, text = text, decimals.plain(text, options.decimal) or ""
        if not text:
            message = (
                f"{column}: '{written[:SHOWN_MAX]}' is no amount with the decimal sign '{options.decimal}', as --decimal says: write it as in "
                f"{decimals.EXAMPLES[options.decimal]}"
            )
            raise CellRefused("amount_unreadable", message, column)
    if options.decimal is None and kind is AmountKind.MAJOR and not isinstance(cells.raw[column], Number):
        _check_thousands(column, text, currency)
    amount = AmountText(kind, text)
    try:
        if currency is None:
            check_written(amount)
        else:
            amount_of(amount, currency)
    except AmountInvalid as error:
        major = kind is AmountKind.MAJOR
        hint = "; or say --decimal , or --decimal . if the file writes amounts so" if major and "," in text else ""
        raise CellRefused(error.code, f"{column}: {error.message}{hint}", column) from error
    return amount


def _check_thousands(column: str, text: str, currency: str | None) -> None:
    """Refuse `1.500`, which is one and a half here and fifteen hundred to who writes a point between thousands.

    Only a currency of three decimals tells which. `1.234` needs no word of ours: no currency of two decimals takes it.
    """
    if decimals.THOUSANDS.fullmatch(text) and (currency is None or money.exponent(currency) < decimals.GROUP):
        message = (
            f"{column}: '{text}' is two amounts, one with a decimal point and one with a point between thousands: say --decimal . or "
            "--decimal , as the file means it"
        )
        raise CellRefused("amount_ambiguous", message, column)


def _check_agreement(amounts: tuple[AmountText, ...], currency: str | None) -> None:
    """See that all say the same, as far as can be told: only a currency tells whether 12.34 is 1234."""
    if currency is not None:
        try:
            amount_asked(amounts, currency)
        except AmountInvalid as error:
            raise CellRefused(error.code, error.message) from error
        return
    kinds = {amount.kind for amount in amounts}
    minors = {amount.text.lstrip("0") for amount in amounts if amount.kind is AmountKind.MINOR}
    if (AmountKind.FULL in kinds and len(kinds) > 1) or len(minors) > 1:
        said = " and ".join(f"'{amount.text[:SHOWN_MAX]}'" for amount in amounts)
        raise CellRefused(
            "amounts_disagree", f"the amounts {said} are not the same: leave one of them empty, or make them equal"
        )


def _currency(cells: Cells) -> str | None:
    text = cells.text("currency").lower()
    if not text:
        return None
    try:
        money.exponent(text[:SHOWN_MAX])
    except CurrencyUnknown as error:
        raise CellRefused(error.code, error.message, "currency") from error
    return text


def _reason(cells: Cells, options: ReadOptions) -> str:
    reason = cells.text("reason").lower() or REASON_BLANK
    if reason not in REASONS:
        message = f"'{reason[:SHOWN_MAX]}' is not one of Stripe's reasons, {', '.join(REASONS)}: leave it empty, or use metadata.reason"
        raise CellRefused("reason_unknown", message, "reason")
    if reason == FRAUDULENT and not options.allow_fraudulent:
        message = (
            "the reason fraudulent also puts the customer's card and e-mail address on your block lists at Stripe: "
            "use another one, or allow it with --allow-fraudulent"
        )
        raise CellRefused("reason_fraudulent", message, "reason")
    return reason


def _metadata(header: Header, cells: Cells) -> dict[str, str]:
    metadata = {key: text for column, key in header.metadata.items() if (text := _metadata_value(cells, column))}
    if len(metadata) > METADATA_KEYS_MAX:
        message = (
            f"{len(metadata)} cells of metadata are filled, at most {METADATA_KEYS_MAX} are possible: leave some empty"
        )
        raise CellRefused("metadata_too_many", message)
    return metadata


def _metadata_value(cells: Cells, column: str) -> str:
    text = cells.text(column)
    if len(text) > METADATA_VALUE_CHARACTERS_MAX:
        message = f"{column} has {len(text)} characters, Stripe takes {METADATA_VALUE_CHARACTERS_MAX}: shorten it"
        raise CellRefused("text_too_long", message, column)
    if not text.isprintable() and any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in text):
        message = f"{column} holds a line break or another control character: {text[:SHOWN_MAX]!a}"
        raise CellRefused("text_unprintable", message, column)
    return text


def _flag(cells: Cells, column: str) -> bool | None:
    text = cells.text(column).lower()
    if not text:
        return None
    if text not in {"true", "false"}:
        raise CellRefused(
            "flag_unreadable", f"{column} is '{text[:SHOWN_MAX]}': write true or false, or leave it empty", column
        )
    return text == "true"
