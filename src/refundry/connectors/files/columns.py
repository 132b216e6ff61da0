"""The header of a file of refunds: which columns mean something, and which were meant to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from refundry.connectors.base import AmountKind, FileRefused, ReferenceKind

AMOUNTS = {"amount": AmountKind.MAJOR, "amount_minor": AmountKind.MINOR, "amount_cents": AmountKind.MINOR}
REFERENCES = tuple(str(kind) for kind in ReferenceKind)
FLAGS = ("refund_application_fee", "reverse_transfer")
OTHERS = ("ticket_id", "request_key", "reason", "currency")
KNOWN = (*REFERENCES, *AMOUNTS, *OTHERS, *FLAGS)
REFERENCES_AND_AMOUNTS = frozenset((*REFERENCES, *AMOUNTS))
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
TOLD_MAX = 300
IGNORED = "\0"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class Header:
    """A header in which every name is as it should be.

    Args:
        columns: All, in the file's order, as the file names them.
        names: Ours for them, in the same order: the same where nobody has said otherwise.
        metadata: Key by name, of those that begin with `metadata.`.
        unknown: The columns that mean nothing to us.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    metadata: dict[str, str]
    unknown: tuple[str, ...]

    def column(self, name: str | None) -> str | None:
        """Tell how the file names one of our columns."""
        return self.columns[self.names.index(name)] if name in self.names else name


def header_of(
    columns: Sequence[str],
    *,
    file: str,
    line: int,
    mapping: Mapping[str, str] | None = None,
    lines: Mapping[str, int] | None = None,
) -> Header:
    """Read a header.

    Args:
        columns: As they stand in the file.
        file: The file's name, for errors.
        line: The header's, for errors.
        mapping: Our names by the file's, for columns that somebody has named; an empty one means nothing.
        lines: Where columns stand that do not stand in one line, for errors.

    Raises:
        FileRefused: `columns_too_many`, `mapping_unknown`, `delimiter_wrong`, `column_unnamed`, `column_repeated`, `column_misnamed`,
            `metadata_column_invalid`, `no_reference_column`, `no_amount_column`.
    """
    if len(columns) > COLUMNS_MAX:
        message = f"{file}, line {line}: the header has {len(columns)} columns, at most {COLUMNS_MAX} are possible"
        raise FileRefused(message, code="columns_too_many", file=file, line=line)
    mapping = mapping or {}
    _check_mapping(mapping, columns, file, line)
    names = [_ours(column, mapping) for column in columns]
    found = next(_problems(names), None)
    if found is not None:
        at, (code, what) = found
        line = (lines or {}).get(columns[at], line)
        raise FileRefused(f"{file}, line {line}: {what}", code=code, file=file, line=line, column=columns[at])
    for wanted, code, what in (
        (REFERENCES, "no_reference_column", "no column says which charge to refund"),
        (tuple(AMOUNTS), "no_amount_column", "no column says how much to refund"),
    ):
        if not set(wanted) & set(names):
            raise FileRefused(
                f"{file}, line {line}: {what}: one of {', '.join(wanted)} is needed; --map COLUMN=NAME says so of another column, "
                "--delimiter what stands between cells",
                code=code,
                file=file,
                line=line,
            )
    metadata = {name: name.removeprefix(METADATA) for name in names if name.startswith(METADATA)}
    known = {*KNOWN, *metadata}
    unknown = tuple(column for column, name in zip(columns, names, strict=True) if name not in known)
    return Header(tuple(columns), tuple(names), metadata, unknown)


def _check_mapping(mapping: Mapping[str, str], columns: Sequence[str], file: str, line: int) -> None:
    for column, name in mapping.items():
        if column not in columns:
            what = f"there is no column '{column}'; there are {', '.join(columns)[:TOLD_MAX]}"
        elif name and name not in KNOWN and not name.startswith(METADATA):
            what = f"'{name}' means nothing here; possible are {', '.join(KNOWN)} and {METADATA}NAME"
        else:
            continue
        message = f"{file}, line {line}: --map '{column}={name}': {what}"
        raise FileRefused(message, code="mapping_unknown", file=file, line=line, column=column)


def _ours(column: str, mapping: Mapping[str, str]) -> str:
    """Name a column; one that was said to mean nothing gets a name that none can have."""
    name = mapping.get(column)
    return column if name is None else name or IGNORED + column


def is_known(column: str, mapping: Mapping[str, str]) -> bool:
    """Tell whether a column of this name, or of one much like it, means something."""
    bare = _bare(column)
    return column in mapping or bare in BARE or bare.startswith(_bare(METADATA))


Problem = tuple[str, str]


def _problems(names: Sequence[str]) -> Iterator[tuple[int, Problem]]:
    """Find what is wrong with which; a wrong delimiter first, since it makes everything else look wrong."""
    checks: tuple[Callable[[str, Sequence[str]], Problem | None], ...] = (
        _delimiter, _unnamed, _repeated, _misnamed, _metadata,
    )  # fmt: skip
    for check in checks:
        for at, name in enumerate(names):
            problem = check(name, names)
            if problem is not None:
                yield at, problem


def _delimiter(name: str, names: Sequence[str]) -> Problem | None:
    if not REFERENCES_AND_AMOUNTS.isdisjoint(names):
        return None
    for delimiter, word in DELIMITERS.items():
        parts = [_bare(part) for part in name.split(delimiter)]
        if len(parts) > 1 and any(known in parts for known in BARE):
            return "delimiter_wrong", f"cells are separated by {word}: leave --delimiter out, or say so with it"
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
        f"the column '{name}' is not known, '{meant}' is: rename it, or say --map '{name}={meant}'; --map '{name}=' if it is something else",
    )


def _meant(name: str, names: Sequence[str]) -> str | None:
    if name in KNOWN or name.startswith((METADATA, IGNORED)):
        return None
    if _bare(name) in BARE:
        return BARE[_bare(name)]
    if _bare(name).startswith(_bare(METADATA)):
        return METADATA + (re.sub(r"^[\W_]*metadata[\W_]*", "", name, flags=re.IGNORECASE).rstrip("] ") or "key")
    # Beside the real one, `amounts` or `order_id2` is something else.
    missing = [spelled for spelled, known in BARE.items() if known not in names]
    close = difflib.get_close_matches(_bare(name), missing, n=1, cutoff=CLOSE)
    return BARE[close[0]] if close else None


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


BARE = {_bare(known): known for known in KNOWN}
