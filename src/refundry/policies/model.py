"""Facts about a request, and what is decided from them. Amounts are minor units, times epoch seconds UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from refundry.accounts.model import Connect
from refundry.charges.model import Charge, Expected

# The fixed, built-in policy: eligibility alone. Decisions name it, so that later ones can be told from today's.
BUILT_IN = "built-in-1"


class Verdict(StrEnum):
    """What a decision says."""

    APPROVE = "approve"
    ASK = "ask"
    REFUSE = "refuse"
    HOLD = "hold"


# A request waits that seemed to repeat another refund, which has failed or was canceled since.
REPEAT_FAILED = "repeat_failed"


class Wait(StrEnum):
    """What a held request waits for."""

    POSSIBLE_REPEAT = "possible_repeat"
    SIBLING = "sibling"
    DISPUTE = "dispute"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decision is made from.

    Args:
        charge: Our mirror, fresh; `None` if Stripe has no such charge.
        request: The request's own id: refunds that carry ids of ours are never taken for somebody else's.
        asked_minor: The amount asked for, or planned; `None` says the word `full`.
        currency: As asked.
        ticket_id: The ticket that it is for.
        reserved_minor: What other requests claim of the charge and Stripe does not know yet.
        twins: Other living requests of ours for the same ticket and charge, by other keys, that this one would repeat.
        keyed: Whether the request has a key of its own, which tells it from another refund for the same ticket.
        expected: What the charge was like when this refund was planned; `None` without a plan.
        planned_full: Whether the amount is a plan's, which had the word `full` to read.
        allowed: The refunds and requests, by id, of which a person said that it is no repeat.
        allow_inquiry: A person, or a flag, said to refund while an inquiry is open.
        now: When it is decided.
        age_max_days: The oldest charge that is refunded; zero means any.
        connect: The Connect flags that the refund carries.
    """

    charge: Charge | None
    request: str
    asked_minor: int | None
    currency: str
    ticket_id: str | None
    reserved_minor: int
    allow_inquiry: bool
    now: float
    age_max_days: int = 0
    allowed: frozenset[str] = frozenset()
    twins: tuple[str, ...] = ()
    keyed: bool = False
    expected: Expected | None = None
    planned_full: bool = False
    connect: Connect = Connect()  # noqa: RUF009  # frozen: nothing is set


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Args:
        verdict: Approve, ask, refuse, hold.
        code: Stable, for machines.
        text: One sentence for a support agent.
        amount_minor: What is to be paid, if it is approved.
        wait: What a held request waits for.
        policy: Which version of the policy decided.
    """

    verdict: Verdict
    code: str
    text: str
    amount_minor: int = 0
    wait: Wait | None = None
    policy: str = BUILT_IN
