"""The four outcomes of sending a refund attempt. What matches no rule is `Unknown`, never "no"."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class NotTakenWhy(StrEnum):
    """Why Stripe surely did not execute a call."""

    RATE_LIMITED = "rate_limited"
    KEY_REFUSED = "key_refused"
    LOW_BALANCE = "low_balance"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from Stripe for one send, kept with the attempt.

    Args:
        status: HTTP status; 0 where no answer came.
        code: Stripe's error code, if it gave one.
        message: Stripe's or the network's text, without secrets.
        request: Stripe's `Request-Id`.
        replayed: Whether it was the stored answer of an earlier send (`Idempotent-Replayed`).
        date: Stripe's own time, from the `Date` header, in epoch seconds.
    """

    status: int = 0
    code: str | None = None
    message: str = ""
    request: str | None = None
    replayed: bool = False
    date: float | None = None


@dataclass(frozen=True, slots=True)
class SeenRefund:
    """A refund as Stripe showed it.

    Args:
        id: `re_…` or `pyr_…`.
        charge: Its charge.
        amount_minor: Minor units of `currency`.
        status: `pending`, `requires_action`, `succeeded`, `failed`, `canceled`.
        created_at: Epoch seconds, UTC.
        metadata: As Stripe has it.
        action_until: Until when its customer may act, while it waits for that, if Stripe says so.
    """

    id: str
    charge: str
    amount_minor: int
    currency: str
    status: str
    created_at: float
    reason: str | None = None
    failure_reason: str | None = None
    pending_reason: str | None = None
    payment_intent: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    action_until: float | None = None

    @property
    def over(self) -> bool:
        """Tell whether its money came back: it no longer counts against the charge."""
        return self.status in {"failed", "canceled"}


@dataclass(frozen=True, slots=True)
class Accepted:
    """Stripe made the refund, now or at an earlier send of the same attempt."""

    refund: SeenRefund
    answer: Answer


@dataclass(frozen=True, slots=True)
class Declined:
    """Stripe executed the call and refused; `code` is ours, stable, and `answer` has Stripe's words."""

    code: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Surely not executed; true only of the first send of an attempt.

    Args:
        why: What kept it.
        answer: What came back.
        limiter: The value of `Stripe-Rate-Limited-Reason`, if it was a limiter.
        retry_after_seconds: From `Retry-After`, should it appear.
    """

    why: NotTakenWhy
    answer: Answer
    limiter: str | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can say whether Stripe made the refund.

    Args:
        code: Ours, stable: `timeout`, `connection_lost`, `stripe_error`, `conflict`, `lock_timeout`, `idempotency_mismatch`, `unreadable`,
            `unmatched`.
        answer: What came back, if anything.
    """

    code: str
    answer: Answer


Outcome = Accepted | Declined | NotTaken | Unknown
