"""A batch and its rows. A row is one line of an accepted file; several may point to one refund request."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import assert_never

from refundry.connectors.base import AmountKind, AmountText, ParsedRow, Reference, ReferenceKind
from refundry.kernel.errors import RefundryError, UsageError
from refundry.refunds.model import FULL, Planned, State

DAY_SECONDS = 86_400
BATCHES = uuid.UUID("0b2f9a54-8a3e-5c68-8d0f-1f0f5f9f2a77")


class BatchUnknown(UsageError):  # noqa: N818
    """There is no such batch."""

    code = "batch_unknown"


class BatchWithdrawn(RefundryError):  # noqa: N818
    """A batch was withdrawn, which is its end."""

    code = "batch_withdrawn"


class BatchDone(RefundryError):  # noqa: N818
    """All rows of a batch are paid: nothing of it can be steered."""

    code = "batch_done"


class NotApplied(RefundryError):  # noqa: N818
    """A batch waits for its plan to be applied."""

    code = "plan_not_applied"


class BatchState(StrEnum):
    """Where a batch stands."""

    PLANNED = "planned"
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


class Turn(IntEnum):
    """Where a row of a batch with a schedule stands in line: it waits, was let go and is not over, is over, or is over and counted as failed.

    With stages one that waits for a person or a dispute has left its place, and stands like one that is over.
    """

    WAITS = 0
    HAS_COME = 1
    OVER = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Window:
    """The hours of the day in which refunds may be sent, by the clock on the wall.

    Args:
        opens: In seconds since midnight.
        closes: The same, and not the same as `opens`; before it, the window lasts over midnight.
        zone: A time zone of the IANA database, as in `Europe/Berlin`.
    """

    opens: int
    closes: int
    zone: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the rows of a batch may be sent, as a person has asked for it.

    Args:
        start_at: Not before this, in epoch seconds UTC.
        spread_seconds: Evenly over so much time in which the window is open.
        window: Only then.
        max_per_day: No more than this is sent in a day, of each currency on its own: major units, as written.
        keep_balance: What must stay of the available balance, of each currency on its own: major units, as written.
        canary: The sizes of stages; each begins when the one before is over, and all other rows follow the last.
        halt_hundredths: With stages, the share of failures beyond which the batch is halted, in hundredths of a percent.
        zone: The time zone of days and of what is told.
    """

    start_at: float | None = None
    spread_seconds: float | None = None
    window: Window | None = None
    max_per_day: str | None = None
    keep_balance: str | None = None
    canary: tuple[int, ...] = ()
    halt_hundredths: int = 200
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Anchor:
    """From where on the rows of a spread are counted.

    Args:
        at: Since when, in epoch seconds UTC.
        released: How many rows had their turn then.
        seconds: For how much more time of an open window the others are spread.
    """

    at: float
    released: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Course:
    """How far a batch has come on its schedule.

    Args:
        next_row: No row before this one waits for its turn.
        released: How many rows had their turn.
        over: How many of those are over, with Stripe's word on them.
        failed: How many of those Stripe has refused, or gave up.
        rows: How many rows became a refund request; zero until all are looked up.
        anchor: See `Anchor`.
        forgiven: The failures that a person knew of when the batch was let go on.
        halted: Why it was halted; empty, if it was not.
        resting: Nothing is left to do, until somebody puts a row back in line.
        unread: Why the balance could not be read when it was tried last; empty, if it could.
    """

    next_row: int = 1
    released: int = 0
    over: int = 0
    failed: int = 0
    rows: int = 0
    anchor: Anchor | None = None
    forgiven: int = 0
    halted: str = ""
    resting: bool = False
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a batch with a schedule has spent in one currency, in minor units.

    Args:
        day: The day that `sent_minor` is of; empty before the first.
        sent_minor: What was sent that day, and what was on its way when it began.
        spent_minor: All that was ever sent, less what came back unsent.
        ceiling_minor: Where `spent_minor` must stop, by the balance that was read last; `None`, if none was.
        read_at: When that was, by the database's clock.
    """

    currency: str
    day: str = ""
    sent_minor: int = 0
    spent_minor: int = 0
    ceiling_minor: int | None = None
    read_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """An accepted file.

    Args:
        id: Derived from the account and the file's bytes and options, so that the same file again is the same batch.
        name: The file's name when it was accepted first.
        sha256: Of its bytes.
        row_count: How many rows it has.
        created_at: Epoch seconds UTC.
        schedule: When its rows may be sent; `None`, if at once.
        course: How far it has come on its schedule.
        plan: The plan that was applied to it; `None`, if it is paid without one.
    """

    id: str
    account: str
    name: str
    sha256: str
    state: BatchState
    columns: tuple[str, ...]
    row_count: int
    created_at: float
    schedule: Schedule | None = None
    course: Course = Course()
    plan: str | None = None


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


def packed(wanted: Wanted | ParsedRow) -> dict[str, object]:
    """Turn what a row asks for into plain JSON; what is not said is left out, since there may be a million of them."""
    kept: dict[str, object] = {
        "references": [[r.kind.value, r.value] for r in wanted.references],
        "amounts": [[a.kind.value, a.text] for a in wanted.amounts],
        "ticket_id": wanted.ticket_id,
        "request_key": wanted.request_key,
        "reason": wanted.reason,
        "currency": wanted.currency,
        "metadata": dict(wanted.metadata) or None,
        "refund_application_fee": wanted.refund_application_fee,
        "reverse_transfer": wanted.reverse_transfer,
    }
    return {key: value for key, value in kept.items() if value is not None}


def unpacked(kept: dict[str, object]) -> Wanted:
    """Read it back."""
    references: list[list[str]] = kept.pop("references")  # type: ignore[assignment]  # as `packed` wrote it
    amounts: list[list[str]] = kept.pop("amounts")  # type: ignore[assignment]  # the same
    said: dict[str, object] = {"ticket_id": None, "request_key": None, "currency": None, "metadata": {}, **kept}
    return Wanted(
        tuple(Reference(ReferenceKind(kind), value) for kind, value in references),
        tuple(AmountText(AmountKind(kind), text) for kind, text in amounts),
        **said,  # type: ignore[arg-type]  # the same
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


# Codes of rows whose request, if they point to one, is that of another row, of another file or of the desk.
OF_ANOTHER = ("same_key_other_content", "possible_repeat", "repeated_row")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a row when its charge was looked up.

    Args:
        code: Empty if it became a request of its own; else why it was refused.
        text: For a support agent.
        request: The request it points to: its own, also where it was looked up anew and led to no charge; or, with a code of
            `OF_ANOTHER`, an earlier one's.
    """

    code: str = ""
    text: str = ""
    request: str | None = None
    currency: str | None = None
    asked_minor: int | None = None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the plan that was applied says about a row.

    Args:
        code: Empty, if it was payable; else why not.
        text: For a support agent.
        request: The refund request that it would become.
        fingerprint: Of that request's content.
        allowed: The refunds and requests, by id, of which a person said that it is no repeat.
        planned: What its request carries along.
    """

    code: str
    text: str
    request: str | None
    fingerprint: str
    allowed: frozenset[str]
    planned: Planned | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One line of the file.

    Args:
        number: 1 for the first under the header.
        line: The physical line.
        raw: Its cells as they stand in the file.
        wanted: What it asks for; `None` if it cannot be read.
        verdict: `None` until its charge was looked up.
        anew: A person had it looked up anew: what its plan said does not count any more.
        became: While it is looked up anew, the request that it became before; `None`, if it became none.
    """

    number: int
    line: int
    raw: Mapping[str, str]
    wanted: Wanted | None
    verdict: Verdict | None = None
    anew: bool = False
    became: str | None = None


@dataclass(slots=True)
class Totals:
    """The counts of a batch; the five standings sum to `rows`. Amounts are minor units by currency.

    Each request's money is counted once, however many rows point to it. `moving` counts the rows with which something is still to
    happen by itself: those that wait without a hold, and those whose turn will come by a schedule, which `in_line` counts again.
    `waits` has the part of `reasons` that is of rows that wait. `in_doubt` rows were sent and have no answer that can be trusted; the next look
    for one of them is at `next_look_at`, by the database's clock.
    """

    rows: int = 0
    standings: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(Standing, 0))
    pending: int = 0
    requested: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    waits: dict[str, int] = field(default_factory=dict)
    moving: int = 0
    in_line: int = 0
    in_doubt: int = 0
    next_look_at: float | None = None

    @property
    def done(self) -> int:
        """Tell how many rows have an outcome; what waits has none, be it for a person or after a halt."""
        return self.rows - self.standings[Standing.WAITING]

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
