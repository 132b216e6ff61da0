"""A batch and its rows. A row is one line of an accepted file; several may point to one refund request."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from refundry.connectors.base import AmountKind, AmountText, ParsedRow, Reference, ReferenceKind
from refundry.kernel.errors import RefundryError
from refundry.refunds.model import FULL, State

BATCHES = uuid.UUID("0b2f9a54-8a3e-5c68-8d0f-1f0f5f9f2a77")


class BatchUnknown(RefundryError):  # noqa: N818
    """There is no such batch."""

    code = "batch_unknown"


class BatchState(StrEnum):
    """Where a batch stands."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"


class Standing(StrEnum):
    """As what a row counts: exactly one of these."""

    PAID = "paid"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    WAITING = "waiting"


def standing_of(state: State) -> Standing:
    """Tell as what a row counts whose request is in a state."""
    match state:
        case State.PENDING | State.SETTLED:
            return Standing.PAID
        case State.REJECTED | State.DECLINED | State.WITHDRAWN:
            return Standing.REFUSED
        case State.FAILED | State.CANCELED:
            return Standing.FAILED
        case State.OUTCOME_UNKNOWN:
            return Standing.UNKNOWN
        case State.RECEIVED | State.AWAITING_APPROVAL | State.APPROVED | State.SUBMITTING | State.REQUIRES_ACTION:
            return Standing.WAITING
        case _:
            assert_never(state)


@dataclass(frozen=True, slots=True)
class Batch:
    """An accepted file.

    Args:
        id: Derived from the account and the file's bytes and options, so that the same file again is the same batch.
        name: The file's name when it was accepted first.
        sha256: Of its bytes.
        row_count: How many rows it has.
        created_at: Epoch seconds UTC.
    """

    id: str
    account: str
    name: str
    sha256: str
    state: BatchState
    columns: tuple[str, ...]
    row_count: int
    created_at: float


def batch_id(account: str, sha256: str, options: str) -> str:
    """Derive a batch's id."""
    return str(uuid.uuid5(BATCHES, f"{account}|{sha256}|{options}"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row asks for, as written: nothing is resolved yet."""

    references: tuple[Reference, ...]
    amounts: tuple[AmountText, ...]
    ticket_id: str | None
    request_key: str | None
    reason: str
    currency: str | None
    metadata: Mapping[str, str]
    refund_application_fee: bool | None = None
    reverse_transfer: bool | None = None


def wanted_of(row: ParsedRow) -> Wanted:
    """Take from a parsed row what it asks for."""
    return Wanted(
        row.references, row.amounts, row.ticket_id, row.request_key, row.reason, row.currency, row.metadata,
        row.refund_application_fee, row.reverse_transfer,
    )  # fmt: skip


def packed(wanted: Wanted) -> dict[str, object]:
    """Turn it into plain JSON."""
    return {
        "references": [[r.kind.value, r.value] for r in wanted.references],
        "amounts": [[a.kind.value, a.text] for a in wanted.amounts],
        "ticket_id": wanted.ticket_id,
        "request_key": wanted.request_key,
        "reason": wanted.reason,
        "currency": wanted.currency,
        "metadata": dict(wanted.metadata),
        "refund_application_fee": wanted.refund_application_fee,
        "reverse_transfer": wanted.reverse_transfer,
    }


def unpacked(kept: dict[str, object]) -> Wanted:
    """Read it back."""
    references: list[list[str]] = kept.pop("references")  # type: ignore[assignment]  # as `packed` wrote it
    amounts: list[list[str]] = kept.pop("amounts")  # type: ignore[assignment]  # the same
    return Wanted(
        tuple(Reference(ReferenceKind(kind), value) for kind, value in references),
        tuple(AmountText(AmountKind(kind), text) for kind, text in amounts),
        **kept,  # type: ignore[arg-type]  # the same
    )


def request_key_of(wanted: Wanted, charge: str, asked_minor: int | None, currency: str) -> str:
    """Name the obligation. Never the file's hash or the row's number, else an edited file would pay again.

    Args:
        wanted: The row.
        charge: Its resolved charge.
        asked_minor: The amount asked for, `None` for `full`.
        currency: Of the amount.
    """
    if wanted.request_key is not None:
        return f"key:{wanted.request_key}"
    if wanted.ticket_id is not None:
        return f"ticket:{wanted.ticket_id}:{wanted.references[0].value}"
    return f"row:{charge}:{FULL if asked_minor is None else asked_minor}:{currency}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a row when its charge was looked up.

    Args:
        code: Empty if it became a request of its own; else why it was refused.
        text: For a support agent.
        request: The request it points to, its own or an earlier one's.
    """

    code: str = ""
    text: str = ""
    request: str | None = None
    currency: str | None = None
    asked_minor: int | None = None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One line of the file.

    Args:
        number: 1 for the first under the header.
        line: The physical line.
        raw: Its cells as they stand in the file.
        wanted: What it asks for; `None` if it cannot be read.
        verdict: `None` until its charge was looked up.
    """

    number: int
    line: int
    raw: Mapping[str, str]
    wanted: Wanted | None
    verdict: Verdict | None = None


@dataclass(slots=True)
class Totals:
    """The counts of a batch; the five standings sum to `rows`. Amounts are minor units by currency.

    Each request's money is counted once, however many rows point to it. `moving` counts the rows that wait without a hold:
    with them something is still to happen by itself.
    """

    rows: int = 0
    standings: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(Standing, 0))
    pending: int = 0
    requested: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    moving: int = 0

    def told(self) -> dict[str, object]:
        """Tell it in the form of `--json`."""
        currencies = sorted({*self.requested, *self.paid})
        return {
            "rows": self.rows,
            **{standing.value: count for standing, count in self.standings.items()},
            "pending": self.pending,
            "amounts": {c: {"requested": self.requested.get(c, 0), "paid": self.paid.get(c, 0)} for c in currencies},
            "reasons": dict(sorted(self.reasons.items())),
        }
