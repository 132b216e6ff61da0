"""A plan and its rows. All amounts are minor units, all times epoch seconds UTC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from refundry.charges.model import Expected
from refundry.kernel.errors import RefundryError, UsageError

# Rows with these codes wait for somebody in a run; in a plan they are told apart from what can never be paid.
REPEATS = frozenset({"possible_repeat"})
# How the text of those ends that nobody can let go by their number: without a name of its own such a row is the very request before it.
NAME_IT = "give a ticket_id or a request_key"
# A look may be this old when a planned refund is paid, in seconds, and no older, whatever is asked for.
LOOK_MAX_AGE_MAX = 3600.0
# Where no balance transaction is known: what Stripe takes for a card in most countries, in thousandths (stripe-facts 8).
FEE_THOUSANDTHS = 29


class PlanUnknown(UsageError):  # noqa: N818
    """There is no such plan here."""

    code = "plan_unknown"


class PlanRefused(RefundryError):  # noqa: N818
    """A plan that must not be paid: `plan_altered`, `plan_of_another_account`, `plan_unfinished`, `plan_applied`."""

    code = "plan_refused"


class PlanState(StrEnum):
    """Where a plan stands."""

    MAKING = "making"
    MADE = "made"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What a plan says about a row.

    Args:
        number: The row's.
        code: Empty, if it is payable; else why not.
        text: For a support agent.
        request: The refund request it would become; `None` if it becomes none.
        fingerprint: Of that request's content.
        amount_minor: What would be paid, if it is payable.
        expected: What its charge is like.
        allow_repeat: A person said that it is no repeat.
        allowed: Of which refunds and requests, by id, that were there then.
        fee_minor: The share of Stripe's fee that does not come back, in `fee_currency`; `None` where it is not known.
        ticket_id: Of that request.
    """

    number: int
    code: str = ""
    text: str = ""
    request: str | None = None
    fingerprint: str = ""
    charge: str | None = None
    amount_minor: int = 0
    currency: str | None = None
    expected: Expected | None = None
    allow_repeat: bool = False
    allowed: frozenset[str] = frozenset()
    fee_minor: int | None = None
    fee_currency: str | None = None
    ticket_id: str | None = None

    @property
    def unnamed(self) -> bool:
        """Tell whether it looks like a repeat that only a ticket or a key of its own makes another refund."""
        return self.code in REPEATS and self.text.endswith(NAME_IT)

    @property
    def written(self) -> str:
        """Write it in the one way that is hashed; the fee and the ticket do not decide what is paid, and are left out."""
        expected = self.expected
        told = expected and [expected.status, expected.captured_minor, expected.given_back_minor, expected.disputes]
        parts = [
            self.number, self.code, self.text, self.request, self.fingerprint, self.charge, self.amount_minor,
            self.currency, told, self.allow_repeat,
        ]  # fmt: skip
        # Left out where there is nothing, so that a plan of an older program has the hash that it was made with.
        parts += [sorted(self.allowed)] if self.allowed else []
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Plan:
    """A file, checked.

    Args:
        id: Of its own; a file may be planned again.
        batch: The batch whose rows it is about.
        account: `acct_…|test`.
        sha256: Of the file's bytes.
        hash: Over all of it that decides what is paid; empty until it is made.
        look_max_age: How old a look may be when a row is paid, in seconds; zero leaves it to the setting.
        forecast: What was told when it was made.
    """

    id: str
    batch: str
    account: str
    sha256: str
    state: PlanState
    made_at: float
    look_max_age: float = 0.0
    hash: str = ""
    forecast: Mapping[str, object] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """Write what is hashed before the rows."""
        return json.dumps([self.id, self.batch, self.account, self.sha256, self.made_at, self.look_max_age])

    @property
    def forecast_sha256(self) -> str:
        """Hash what was told when it was made: a person says yes to that."""
        return hashlib.sha256(json.dumps(dict(self.forecast), sort_keys=True).encode()).hexdigest()


def hashed(header: str, rows: Iterable[str]) -> str:
    """Hash a plan, row by row.

    Args:
        header: See `Plan.header`.
        rows: See `PlanRow.written`, in the order of their numbers.
    """
    digest = hashlib.sha256(header.encode())
    for row in rows:
        digest.update(b"\n" + row.encode())
    return digest.hexdigest()


@dataclass(slots=True)
class Funds:
    """How far a balance reaches, in one currency.

    Args:
        balance_minor: What is available now; `None`, if Stripe did not say.
        payable_minor: What the plan would pay.
        dry_at_row: The first row that the balance does not reach for; `None`, if it reaches for all.
        rows_before: How many payable rows, of any currency, come before that one.
    """

    balance_minor: int | None
    payable_minor: int = 0
    dry_at_row: int | None = None
    rows_before: int = 0

    def take(self, row: PlanRow, before: int) -> None:
        """Count a payable row; `before` payable rows come before it."""
        self.payable_minor += row.amount_minor
        if self.balance_minor is not None and self.dry_at_row is None and self.payable_minor > self.balance_minor:
            self.dry_at_row, self.rows_before = row.number, before


@dataclass(slots=True)
class Forecast:
    """What applying a plan would do; filled row by row, in the order of the file.

    Args:
        balance: What is available now per currency; `None`, if Stripe did not say.
        rate: Refunds per second; zero means that no limit is set.
    """

    balance: Mapping[str, int] | None
    rate: float
    rows: int = 0
    payable: int = 0
    repeats: list[int] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)
    repeat_count: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    # The first row of each code, with its text: a count alone names no row, and no column to correct.
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    funds: dict[str, Funds] = field(default_factory=dict)
    fees: dict[str, int] = field(default_factory=dict)
    # Amounts and fees of the rows whose fee is in their own currency: a share of the one is told only by those.
    _fee_base: dict[str, int] = field(default_factory=dict)
    _fee_own: dict[str, int] = field(default_factory=dict)
    _fee_unknown: dict[str, int] = field(default_factory=dict)

    def take(self, row: PlanRow) -> None:
        """Count a row."""
        self.rows += 1
        if row.code in REPEATS:
            self.repeat_count += 1
            told = self.unnamed if row.unnamed else self.repeats
            told += [row.number] if len(told) < REPEATS_TOLD else []
        if row.code or row.currency is None:
            self.codes[row.code] = self.codes.get(row.code, 0) + 1
            self.examples.setdefault(row.code, (row.number, row.text))
            return
        currency = row.currency
        if currency not in self.funds:
            known = None if self.balance is None else self.balance.get(currency, 0)
            self.funds[currency] = Funds(known)
        self.funds[currency].take(row, self.payable)
        self.payable += 1
        if row.fee_minor is None or row.fee_currency is None:
            self._fee_unknown[currency] = self._fee_unknown.get(currency, 0) + row.amount_minor
            return
        self.fees[row.fee_currency] = self.fees.get(row.fee_currency, 0) + row.fee_minor
        if row.fee_currency == currency:
            self._fee_base[currency] = self._fee_base.get(currency, 0) + row.amount_minor
            self._fee_own[currency] = self._fee_own.get(currency, 0) + row.fee_minor

    def fees_estimated(self) -> dict[str, int]:
        """Estimate what Stripe keeps of the rows whose balance transaction is not known, by those that are."""
        out = {}
        for currency, amount in self._fee_unknown.items():
            base = self._fee_base.get(currency, 0)
            out[currency] = amount * self._fee_own[currency] // base if base else amount * FEE_THOUSANDTHS // 1000
        return out

    @property
    def seconds(self) -> int | None:
        """Tell how long it takes at the pace; `None` without a limit."""
        return _ceiled(self.payable, self.rate)

    def told(self) -> dict[str, object]:
        """Tell it in the form of `--json`."""
        return {
            "rows": self.rows,
            "payable": self.payable,
            "refused": sum(count for code, count in self.codes.items() if code not in REPEATS),
            "repeats": self.repeat_count,
            "repeat_rows": self.repeats,
            "unnamed_rows": self.unnamed,
            "reasons": dict(sorted(self.codes.items())),
            "examples": {code: {"row": number, "text": text} for code, (number, text) in sorted(self.examples.items())},
            "amounts": {currency: self._told(funds) for currency, funds in sorted(self.funds.items())},
            "fees_kept": dict(sorted(self.fees.items())),
            "fees_kept_estimated": dict(sorted(self.fees_estimated().items())),
            "refunds_per_second": self.rate or None,
            "seconds": self.seconds,
        }

    def _told(self, funds: Funds) -> dict[str, int | None]:
        dry = funds.dry_at_row is not None
        return {
            "payable": funds.payable_minor,
            "balance": funds.balance_minor,
            "dry_at_row": funds.dry_at_row,
            "dry_after_seconds": _ceiled(funds.rows_before, self.rate) if dry else None,
        }


REPEATS_TOLD = 50


def _ceiled(rows: int, rate: float) -> int | None:
    return None if not rate else int(-(-rows // rate))


def fee_share(fee_minor: int, amount_minor: int, captured_minor: int) -> int:
    """Tell the part of a fee that belongs to an amount of a charge, half a minor unit rounded up."""
    return (2 * fee_minor * amount_minor + captured_minor) // (2 * captured_minor) if captured_minor > 0 else 0
