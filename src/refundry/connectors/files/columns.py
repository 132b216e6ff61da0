"""The header of a file of refunds: which columns mean something, and which were meant to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from refundry.connectors.base import AmountKind, FileRefused, ReferenceKind

AMOUNTS = {"amount": AmountKind.MAJOR, "amount_minor": AmountKind.MINOR, "amount_cents": AmountKind.MINOR}
REFERENCES = tuple(str(kind) for kind in ReferenceKind)
FLAGS = ("refund_application_fee", "reverse_transfer")
OTHERS = ("ticket_id", "request_key", "reason", "currency")
KNOWN = (*REFERENCES, *AMOUNTS, *OTHERS, *FLAGS)
METADATA = "metadata."
# Ours in a refund's metadata: by them a refund is found again, so that nobody else may write them.
METADATA_OWN = ("refundry_request_id", "ticket_id")
# Stripe's limits (stripe-facts 4.3), less the two keys that are ours.
METADATA_KEYS_MAX = 48
METADATA_KEY_CHARACTERS_MAX = 40
METADATA_VALUE_CHARACTERS_MAX = 500
# Takes a missing or doubled letter, `charge` for `charge_id` and `payment_intent_id`; lets `charge_date` and `amount_net` be.
CLOSE = 0.85
# Wider than any export that we know; it keeps the search for close names short.
COLUMNS_MAX = 1_000
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class Header:
    """A header in which every name is as it should be.

    Args:
        names: All, in the file's order.
        metadata: Key by column, of those that begin with `metadata.`.
        unknown: Those that mean nothing to us.
    """

    names: tuple[str, ...]
    metadata: dict[str, str]
    unknown: tuple[str, ...]


def header_of(names: Sequence[str], *, file: str, line: int) -> Header:
    """Read a header.

    Raises:
        FileRefused: `columns_too_many`, `delimiter_unsupported`, `column_unnamed`, `column_repeated`, `column_misnamed`, `metadata_column_invalid`,
            `no_reference_column`, `no_amount_column`.
    """
    if len(names) > COLUMNS_MAX:
        message = f"{file}, line {line}: the header has {len(names)} columns, at most {COLUMNS_MAX} are possible"
        raise FileRefused(message, code="columns_too_many", file=file, line=line)
    found = next(_problems(names), None)
    if found is not None:
        name, (code, what) = found
        raise FileRefused(f"{file}, line {line}: {what}", code=code, file=file, line=line, column=name)
    for wanted, code, what in (
        (REFERENCES, "no_reference_column", "no column says which charge to refund"),
        (tuple(AMOUNTS), "no_amount_column", "no column says how much to refund"),
    ):
        if not set(wanted) & set(names):
            raise FileRefused(
                f"{file}, line {line}: {what}: one of {', '.join(wanted)} is needed", code=code, file=file, line=line
            )
    metadata = {name: name.removeprefix(METADATA) for name in names if name.startswith(METADATA)}
    unknown = tuple(name for name in names if name not in KNOWN and name not in metadata)
    return Header(tuple(names), metadata, unknown)


Problem = tuple[str, str]


def _problems(names: Sequence[str]) -> Iterator[tuple[str, Problem]]:
    """Find what is wrong; a wrong delimiter first, since it makes everything else look wrong."""
    checks: tuple[Callable[[str, Sequence[str]], Problem | None], ...] = (
        _delimiter, _unnamed, _repeated, _misnamed, _metadata,
    )  # fmt: skip
    for check in checks:
        for name in names:
            problem = check(name, names)
            if problem is not None:
                yield name, problem


def _delimiter(name: str, _: Sequence[str]) -> Problem | None:
    if name.casefold().startswith("sep="):
        return "delimiter_unsupported", "the line 'sep=' is for Excel only: remove it, and separate cells by commas"
    for delimiter, word in OTHER_DELIMITERS.items():
        parts = [_bare(part) for part in name.split(delimiter)]
        if len(parts) > 1 and any(_bare(known) in parts for known in KNOWN):
            return "delimiter_unsupported", f"cells are separated by {word}: save the file with commas, as 'CSV UTF-8'"
    return None


def _unnamed(name: str, names: Sequence[str]) -> Problem | None:
    if name.strip():
        return None
    return (
        "column_unnamed",
        f"column {names.index(name) + 1} has no name in the header: give it one, or remove the column",
    )


def _repeated(name: str, names: Sequence[str]) -> Problem | None:
    if names.count(name) == 1:
        return None
    return "column_repeated", f"the column '{name}' stands twice in the header: rename or remove one"


def _misnamed(name: str, names: Sequence[str]) -> Problem | None:
    meant = _meant(name, names)
    if meant is None:
        return None
    return (
        "column_misnamed",
        f"the column '{name}' is not known, '{meant}' is: rename it, or name it otherwise if it is something else",
    )


def _meant(name: str, names: Sequence[str]) -> str | None:
    if name in KNOWN or name.startswith(METADATA):
        return None
    bare = {_bare(known): known for known in KNOWN}
    if _bare(name) in bare:
        return bare[_bare(name)]
    if _bare(name).startswith(_bare(METADATA)):
        return METADATA + (re.sub(r"^[\W_]*metadata[\W_]*", "", name, flags=re.IGNORECASE).rstrip("] ") or "key")
    # Beside the real one, `amounts` or `order_id2` is something else.
    missing = [spelled for spelled, known in bare.items() if known not in names]
    close = difflib.get_close_matches(_bare(name), missing, n=1, cutoff=CLOSE)
    return bare[close[0]] if close else None


def _metadata(name: str, _: Sequence[str]) -> Problem | None:
    if not name.startswith(METADATA):
        return None
    key = name.removeprefix(METADATA)
    if key in METADATA_OWN:
        what = "is written by Refundry itself; the ticket has a column of its own, ticket_id"
    elif not key or key != key.strip() or not key.isprintable() or set("[]") & set(key):
        what = "needs a key after the point, without brackets, control characters or space around it"
    elif len(key) > METADATA_KEY_CHARACTERS_MAX:
        what = f"has a key of {len(key)} characters, Stripe takes {METADATA_KEY_CHARACTERS_MAX}"
    else:
        return None
    return "metadata_column_invalid", f"the column '{name[:80]}' {what}"


def _bare(name: str) -> str:
    """Strip a name to its letters and digits, so that `Order ID` is `orderid`, as `order_id` is."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
