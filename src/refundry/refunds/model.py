"""A refund request, its attempts, and its state machine: `TRANSITIONS` is data, `apply` is pure and total.

Amounts are minor units of the request's currency; times are epoch seconds UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from refundry.charges.model import Expected
from refundry.gateways.base import RefundBody
from refundry.kernel import ids
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Accepted, Answer, Declined, NotTaken, NotTakenWhy, Outcome, SeenRefund, Unknown
from refundry.policies.model import Verdict

FULL = "full"
# Why a request stands at Stripe that was never sent from here.
ADOPTED = "adopted"


class State(StrEnum):
    """Where a refund request stands."""

    RECEIVED = "received"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    SUBMITTING = "submitting"
    OUTCOME_UNKNOWN = "outcome_unknown"
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SETTLED = "settled"
    FAILED = "failed"
    CANCELED = "canceled"
    DECLINED = "declined"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


AT_STRIPE = frozenset({State.PENDING, State.REQUIRES_ACTION, State.SETTLED, State.FAILED, State.CANCELED})
UNPAID = frozenset({State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED})
IN_FLIGHT = frozenset({State.SUBMITTING, State.OUTCOME_UNKNOWN})
REOPENABLE = frozenset({State.DECLINED, State.REJECTED, State.WITHDRAWN})
# Where a request may go from where it is. `apply` takes no other step; staying is always allowed.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.RECEIVED: AT_STRIPE | {State.AWAITING_APPROVAL, State.APPROVED, State.REJECTED, State.WITHDRAWN},
    State.AWAITING_APPROVAL: AT_STRIPE | {State.APPROVED, State.REJECTED, State.WITHDRAWN},
    State.APPROVED: AT_STRIPE | {State.SUBMITTING, State.AWAITING_APPROVAL, State.REJECTED, State.WITHDRAWN},
    State.SUBMITTING: AT_STRIPE | {State.DECLINED, State.OUTCOME_UNKNOWN, State.APPROVED},
    State.OUTCOME_UNKNOWN: AT_STRIPE | {State.DECLINED, State.SUBMITTING},
    State.PENDING: frozenset({State.REQUIRES_ACTION, State.SETTLED, State.FAILED, State.CANCELED}),
    State.REQUIRES_ACTION: frozenset({State.PENDING, State.SETTLED, State.FAILED, State.CANCELED}),
    State.SETTLED: frozenset({State.FAILED, State.CANCELED, State.REQUIRES_ACTION}),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
    State.DECLINED: frozenset({State.RECEIVED}),
    State.REJECTED: frozenset({State.RECEIVED}),
    State.WITHDRAWN: frozenset({State.RECEIVED}),
}
OF_STRIPE = {
    "pending": State.PENDING,
    "requires_action": State.REQUIRES_ACTION,
    "succeeded": State.SETTLED,
    "failed": State.FAILED,
    "canceled": State.CANCELED,
}


class HeldReason(StrEnum):
    """Why an unpaid request waits. A hold is not a state."""

    DISPUTE = "dispute"
    POSSIBLE_REPEAT = "possible_repeat"
    POLICY_DELAY = "policy_delay"
    LOW_BALANCE = "low_balance"
    SCHEDULE = "schedule"
    STOPPED = "stopped"
    KEY_REFUSED = "key_refused"
    SIBLING = "sibling"


# Why a request is held that a schedule will let go.
IN_LINE = frozenset({HeldReason.SCHEDULE, HeldReason.LOW_BALANCE})


@dataclass(frozen=True, slots=True)
class Hold:
    """A wait, with its reason; `until` is when it ends by itself, `None` for never."""

    reason: HeldReason
    until: float | None = None

    @property
    def in_line(self) -> bool:
        """Tell whether a schedule ends it, be it for a turn or for the balance."""
        return self.until is None and self.reason in IN_LINE


@dataclass(frozen=True, slots=True)
class Content:
    """What is asked for. Two requests with the same key must have the same content.

    Args:
        charge: `ch_…` or `py_…`, resolved.
        asked_minor: The amount asked for; `None` says the word `full`.
        reason: One of Stripe's three.
        metadata: What the caller adds; does not tell requests apart, the first wins.
    """

    charge: str
    asked_minor: int | None
    currency: str
    reason: str
    ticket_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    refund_application_fee: bool | None = None
    reverse_transfer: bool | None = None

    @property
    def asked(self) -> str:
        """Write what is asked for: minor units, or the word `full`."""
        return FULL if self.asked_minor is None else str(self.asked_minor)

    @property
    def fingerprint(self) -> str:
        """Tell one content from another: charge, asked amount, currency, reason and the flags that move money."""
        parts = [
            self.charge, self.asked, self.currency, self.reason, self.refund_application_fee, self.reverse_transfer,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Send:
    """One send of an attempt. Written before the call with `outcome` `None`, which reads: nobody knows.

    Args:
        at: By our clock.
        database_at: By the database's clock.
        stripe_at: By Stripe's clock, as far as its last answer told; `None`, if it never answered.
        outcome: `accepted`, `declined`, `not_taken`, `unknown`, or `None` while no answer is recorded.
        code: Our stable code of the outcome.
        answer: What came back.
    """

    at: float
    database_at: float
    stripe_at: float | None = None
    outcome: str | None = None
    code: str = ""
    answer: Answer = field(default_factory=Answer)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One numbered try to pay: exact parameters, every send and answer.

    Args:
        absent: Proven, or said by two people, that no refund of it exists.
        looks: When complete looks without our id began since its last send, by Stripe's clock.
    """

    request: str
    number: int
    body: RefundBody
    sends: tuple[Send, ...] = ()
    absent: bool = False
    looks: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Tell its idempotency key."""
        return ids.idempotency_key(self.request, self.number)

    @property
    def in_doubt(self) -> bool:
        """Tell whether any of its sends may have made a refund that we have not seen."""
        return any(send.outcome in {None, "unknown"} for send in self.sends)

    @property
    def spent(self) -> bool:
        """Tell whether its number is used up: Stripe has executed it, or its absence is proven.

        A refusal for a low balance was executed too, and would be answered again under the same key (stripe-facts 2).
        """
        return self.absent or any(
            send.outcome in {"accepted", "declined"} or send.code == NotTakenWhy.LOW_BALANCE for send in self.sends
        )

    @property
    def refusal(self) -> Send | None:
        """Tell the send to which Stripe said no, if there is one."""
        return next((send for send in self.sends if send.outcome == "declined"), None)

    @property
    def stored_error(self) -> bool:
        """Tell whether Stripe keeps a 5xx under its key, so that no further send of it can make a refund."""
        return any(send.answer.replayed and send.answer.status >= 500 for send in self.sends)  # noqa: PLR2004  # HTTP


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan that was applied says about a request.

    Args:
        expected: What its charge was like.
        look_max_age: How old a look may be when it is paid, in seconds, where the plan allows more than the setting.
        amount_minor: What the plan pays; `None` for one that was applied by an older program.
    """

    expected: Expected
    look_max_age: float = 0.0
    amount_minor: int | None = None


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """Somebody wants an amount of one charge returned.

    Args:
        id: Derived from account, mode and request key.
        account: `acct_…|test` or `acct_…|live`.
        amount_minor: What was decided; zero before.
        reserved_minor: What it claims of the charge: from its approval until its refund is known, until it is over, or until it
            has to wait for its siblings.
        reason_code: Why it stands where it stands; stable.
        attempt: The number of its last attempt; zero, if it has none.
        refund: The Stripe refund that paid it.
        version: Grows with every change; each write names the version that it changes.
        due_at: When a worker should look at it next.
        allowed: The refunds and requests, by id, that a person has seen and said it does not repeat; any other is one anew.
        allow_inquiry: A person, or a flag, said to refund during an inquiry.
        planned: What its plan says; `None`, if it was not planned, or if a person had it decided anew since.
    """

    id: str
    account: str
    request_key: str
    content: Content
    state: State = State.RECEIVED
    amount_minor: int = 0
    reserved_minor: int = 0
    hold: Hold | None = None
    reason_code: str = ""
    reason_text: str = ""
    attempt: int = 0
    refund: str | None = None
    version: int = 1
    lane: Lane = Lane.BULK
    due_at: float = 0.0
    allowed: frozenset[str] = frozenset()
    allow_inquiry: bool = False
    replaces: str | None = None
    planned: Planned | None = None

    @property
    def keyed(self) -> bool:
        """Tell whether it has a key of its own, which tells it from another refund for the same ticket."""
        return self.request_key.startswith("key:")

    @property
    def unsent(self) -> bool:
        """Tell whether it never had an attempt, and no refund of it was ever seen: only then may it ask for another charge."""
        return not self.attempt and self.refund is None

    @property
    def asks_minor(self) -> int | None:
        """Tell what is asked for: for the word `full` what its plan says, and `None` without one."""
        if self.content.asked_minor is None and self.planned is not None:
            return self.planned.amount_minor
        return self.content.asked_minor


def body_of(request: RefundRequest) -> RefundBody:
    """Write the call's parameters: a pure function of the content and the decided amount."""
    content = request.content
    metadata = dict(content.metadata) | {"refundry_request_id": request.id}
    if content.ticket_id is not None:
        metadata["ticket_id"] = content.ticket_id
    return RefundBody(
        charge=content.charge,
        amount_minor=request.amount_minor,
        reason=content.reason,
        metadata=dict(sorted(metadata.items())),
        refund_application_fee=content.refund_application_fee,
        reverse_transfer=content.reverse_transfer,
    )


# Facts


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision about an unpaid request, made from a look at its charge."""

    verdict: Verdict
    code: str
    text: str
    amount_minor: int = 0
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """An attempt is about to be sent: the intent, before the call."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Sent:
    """A send has ended.

    Args:
        attempt: The attempt, its last send being the one that ended.
        outcome: How.
        due_at: When to go on, where something is left to do.
    """

    attempt: Attempt
    outcome: Outcome
    due_at: float


@dataclass(frozen=True, slots=True)
class Found:
    """A refund that carries our id was seen at Stripe."""

    refund: SeenRefund


@dataclass(frozen=True, slots=True)
class Looked:
    """A complete look has not found our refund, while the attempt is in doubt.

    Args:
        attempt: With the look counted; `absent`, if that proves it.
        due_at: When to go on.
    """

    attempt: Attempt
    due_at: float


@dataclass(frozen=True, slots=True)
class Closed:
    """Looks have shown, or two people have said, that an attempt made no refund, and no other attempt is to follow.

    Args:
        attempt: The attempt, absent.
        code: Why no other follows: Stripe's refusal, what a new decision said, or `not_paid`.
    """

    attempt: Attempt
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class CameBack:
    """Looks have shown that an attempt made no refund, and the next one has to wait, as a first one would.

    Args:
        attempt: The attempt, proven absent.
        hold: What is waited for.
        due_at: When to go on, once the hold is over.
    """

    attempt: Attempt
    hold: Hold
    due_at: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The automatic means are used up."""

    text: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nothing was sent; look again later. An `until` of a hold may ride along."""

    due_at: float
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Whoever asked no longer does."""

    text: str


@dataclass(frozen=True, slots=True)
class Reopened:
    """A person wants it looked at again, and says of what it is no repeat.

    Args:
        charge: What it asks for from now on, where that is another one; `None`, if it is not.
    """

    allowed: frozenset[str] = frozenset()
    allow_inquiry: bool = False
    charge: str | None = None


Fact = Judged | Submitted | Sent | Found | Looked | Closed | CameBack | GaveUp | Postponed | Withdrawn | Reopened


@dataclass(frozen=True, slots=True)
class Break:
    """Ours and Stripe's differ, and somebody has to own it."""

    code: str
    refund: str
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a fact does: everything here is saved in one commit, or nothing.

    Args:
        after: The request; its version is one higher than the one it replaces.
        event: What is written to the audit log: `refund_request.approved`.
        attempt: The attempt as it is now.
        refund: A refund of Stripe's to mirror; replaces the reservation in the same commit.
        break_: A break to open.
    """

    after: RefundRequest
    event: str
    attempt: Attempt | None = None
    refund: SeenRefund | None = None
    break_: Break | None = None


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a person may have to know of, noted in the unit in which it happens.

    Args:
        account: `acct_…|test`.
        charge: The charge that it is about.
        before: The request as it was; `None`, where a refund carries the id of a request that is not here.
        change: What became of it; `None`, where the request of a refund is here by now that was not before.
        refund: Stripe's refund.
    """

    account: str
    charge: str
    before: RefundRequest | None = None
    change: Change | None = None
    refund: SeenRefund | None = None


def apply(request: RefundRequest, fact: Fact) -> Change | None:  # noqa: PLR0911  # one return for each kind of fact
    """Tell what a fact does to a request.

    Returns:
        The change, or `None` where the fact does not concern a request in this state (it came too late): the caller drops it.

    Raises:
        InvariantViolated: The step is not in `TRANSITIONS`, or leaves an attempt in doubt behind: a fault of ours, never of the input.
    """
    match fact:
        case Judged():
            return _judged(request, fact)
        case Submitted():
            return _submitted(request, fact)
        case Sent():
            return _sent(request, fact)
        case Found():
            return _found(request, fact.refund)
        case Looked():
            if request.state not in IN_FLIGHT:
                return None
            return _moved(request, request.state, "absence_noted", attempt=fact.attempt, due_at=fact.due_at)
        case Closed():
            if request.state not in IN_FLIGHT:
                return None
            change = _ended(request, State.DECLINED, fact.code, fact.text)
            return replace(change, attempt=fact.attempt)
        case CameBack():
            if request.state is not State.SUBMITTING:
                return None
            if fact.attempt.in_doubt and not fact.attempt.absent:
                raise InvariantViolated(
                    f"attempt {fact.attempt.number} of {request.id} is in doubt: it may have paid", request=request.id
                )
            return _moved(
                request, State.APPROVED, "came_back", attempt=fact.attempt, hold=fact.hold, due_at=fact.due_at
            )
        case GaveUp():
            if request.state is not State.SUBMITTING:
                return None
            return _moved(request, State.OUTCOME_UNKNOWN, "outcome_unknown", code="outcome_unknown", text=fact.text)
        case Postponed():
            if request.state not in UNPAID | IN_FLIGHT:
                return None
            hold = fact.hold if request.state in UNPAID else None
            event = "held" if hold else "postponed"
            return _moved(request, request.state, event, due_at=fact.due_at, hold=hold or request.hold)
        case Withdrawn():
            if request.state not in UNPAID:
                return None
            return _ended(request, State.WITHDRAWN, "withdrawn", fact.text)
        case Reopened():
            if request.state not in REOPENABLE:
                return None
            again = replace(
                request,
                content=_led_to(request, fact.charge),
                amount_minor=0,
                planned=None,
                allowed=request.allowed | fact.allowed,
                allow_inquiry=request.allow_inquiry or fact.allow_inquiry,
            )
            return _moved(again, State.RECEIVED, "reopened", code="", text="", due_at=0.0)
        case _:
            assert_never(fact)


def _led_to(request: RefundRequest, charge: str | None) -> Content:
    """Tell what a request asks for that leads to another charge by now; one that was ever sent stays with its own, whatever has become of it."""
    if charge is None or charge == request.content.charge:
        return request.content
    if not request.unsent:
        raise InvariantViolated(
            f"request {request.id} was sent for {request.content.charge}, and never asks for {charge}",
            request=request.id,
        )
    return replace(request.content, charge=charge)


def _moved(  # the parts of a change
    request: RefundRequest,
    state: State,
    event: str,
    *,
    code: str | None = None,
    text: str | None = None,
    reserved_minor: int | None = None,
    due_at: float | None = None,
    hold: Hold | None = None,
    attempt: Attempt | None = None,
) -> Change:
    if state is not request.state and state not in TRANSITIONS[request.state]:
        raise InvariantViolated(f"request {request.id} cannot go from {request.state} to {state}", request=request.id)
    if hold is not None and hold.in_line:
        # Whoever was let go and waits for what this one has claimed would keep its turn from coming: it claims again once it has come.
        reserved_minor = 0
    after = replace(
        request,
        state=state,
        version=request.version + 1,
        reason_code=request.reason_code if code is None else code,
        reason_text=request.reason_text if text is None else text,
        reserved_minor=request.reserved_minor if reserved_minor is None else reserved_minor,
        due_at=request.due_at if due_at is None else due_at,
        hold=hold,
        attempt=attempt.number if attempt is not None else request.attempt,
    )
    return Change(after, f"refund_request.{event}", attempt=attempt)


def _ended(request: RefundRequest, state: State, code: str, text: str) -> Change:
    return _moved(request, state, state.value, code=code, text=text, reserved_minor=0)


def _judged(request: RefundRequest, fact: Judged) -> Change | None:
    if request.state not in UNPAID:
        return None
    match fact.verdict:
        case Verdict.APPROVE:
            if fact.amount_minor <= 0:
                raise InvariantViolated(f"request {request.id} was approved without an amount", request=request.id)
            decided = replace(request, amount_minor=fact.amount_minor)
            return _moved(
                decided, State.APPROVED, "approved", code=fact.code, text=fact.text, reserved_minor=fact.amount_minor
            )
        case Verdict.ASK:
            if request.state is State.AWAITING_APPROVAL:
                return None
            return _moved(
                replace(request, amount_minor=fact.amount_minor),
                State.AWAITING_APPROVAL,
                "awaiting_approval",
                code=fact.code,
                text=fact.text,
                reserved_minor=0,
            )
        case Verdict.REFUSE:
            return _ended(request, State.REJECTED, fact.code, fact.text)
        case Verdict.HOLD:
            if fact.hold is None:
                raise InvariantViolated(f"request {request.id} was held without a reason", request=request.id)
            # Two that each wait for what the other has claimed would wait for ever: the first to notice lets go of its claim. So does one that
            # waits for a person, or for a dispute: its siblings would wait as long, for what may never be paid. It is decided anew when it goes on.
            freed = 0 if fact.hold.reason is HeldReason.SIBLING or fact.hold.until is None else None
            return _moved(
                request, request.state, "held", code=fact.code, text=fact.text, hold=fact.hold, due_at=fact.hold.until,
                reserved_minor=freed,
            )  # fmt: skip
        case _:
            assert_never(fact.verdict)


def _submitted(request: RefundRequest, fact: Submitted) -> Change | None:
    """Write the intent. From `submitting` it is the same attempt sent again, or the next one after proof of absence."""
    if request.state not in {State.APPROVED, State.SUBMITTING, State.OUTCOME_UNKNOWN} or request.hold is not None:
        return None
    attempt = fact.attempt
    if attempt.number not in {request.attempt, request.attempt + 1}:
        raise InvariantViolated(f"request {request.id} has no attempt {attempt.number} to send", request=request.id)
    if not attempt.sends or attempt.sends[-1].outcome is not None:
        raise InvariantViolated(f"the intent of {attempt.key} is missing", request=request.id)
    if request.reserved_minor != attempt.body.amount_minor:
        raise InvariantViolated(f"{attempt.key} would pay another amount than is reserved", request=request.id)
    return _moved(request, State.SUBMITTING, "submitting", attempt=attempt, code="", text="")


def _sent(request: RefundRequest, fact: Sent) -> Change | None:
    if isinstance(fact.outcome, Accepted):
        change = _found(request, fact.outcome.refund)
        return replace(change, attempt=fact.attempt) if change is not None else None
    if request.state is not State.SUBMITTING:
        return None
    match fact.outcome:
        case Declined(code=code, answer=answer):
            # Not over yet: a look has to show first that no refund of ours is there (`Closed`).
            return _moved(
                request, State.SUBMITTING, "refused", code=code, text=answer.message, attempt=fact.attempt,
                due_at=fact.due_at,
            )  # fmt: skip
        case NotTaken() if not fact.attempt.in_doubt:
            return _not_taken(request, fact, fact.outcome)
        case NotTaken():
            # An earlier send of this attempt is unknown, and this one says nothing about that.
            return _moved(request, State.SUBMITTING, "still_in_doubt", attempt=fact.attempt, due_at=fact.due_at)
        case Unknown(code=code, answer=answer):
            return _moved(
                request, State.SUBMITTING, "in_doubt", code=code, text=answer.message, attempt=fact.attempt,
                due_at=fact.due_at,
            )  # fmt: skip
        case _:
            assert_never(fact.outcome)


def _not_taken(request: RefundRequest, fact: Sent, outcome: NotTaken) -> Change:
    hold, code = None, str(outcome.why)
    if outcome.why is NotTakenWhy.LOW_BALANCE:
        hold = Hold(HeldReason.LOW_BALANCE, fact.due_at)
    return _moved(
        request,
        State.APPROVED,
        "not_taken",
        code=code,
        text=outcome.answer.message,
        attempt=fact.attempt,
        due_at=fact.due_at,
        hold=hold,
    )


def _found(request: RefundRequest, refund: SeenRefund) -> Change | None:  # noqa: PLR0911  # one for each way in which it may not fit
    """Take in a refund that carries our id: always storable, whatever state the request is in."""
    to = OF_STRIPE.get(refund.status)
    if to is None:
        return _broken(request, refund, "refund_status_unknown", f"Stripe says '{refund.status}', which we do not know")
    if refund.charge != request.content.charge:
        text = f"{refund.id} carries the id of this request, and is of another charge, {refund.charge}: it has not paid this one"
        return _broken(request, refund, "refund_unexpected", text)
    if request.refund not in {None, refund.id}:
        if refund.over:
            return _stored(request, refund)
        if request.state in {State.FAILED, State.CANCELED}:
            text = f"{refund.id} carries the id of this request too, whose refund {request.refund} is {request.state}"
            return _broken(request, refund, "refund_unexpected", text)
        text = f"{refund.id} also carries the id of this request, which {request.refund} has paid"
        return _broken(request, refund, "paid_twice", text)
    if to is request.state:
        return _stored(request, refund) if request.refund is None else _seen_again(request, refund)
    if to not in TRANSITIONS[request.state]:
        text = f"{refund.id} is {refund.status} at Stripe, the request is {request.state}"
        return _broken(request, refund, "refund_unexpected", text)
    if refund.amount_minor != request.amount_minor and request.amount_minor:
        text = f"{refund.id} gives back {refund.amount_minor}, the request decided {request.amount_minor}"
        change = _taken(request, refund, to)
        return replace(change, break_=Break("amount_differs", refund.id, text))
    return _taken(request, refund, to)


def _taken(request: RefundRequest, refund: SeenRefund, to: State) -> Change:
    adopted = request.state in UNPAID
    # What was given back, also where another amount was decided here (then there is a break): reports tell what was paid.
    owner = replace(request, refund=refund.id, amount_minor=refund.amount_minor)
    why = refund.failure_reason or refund.pending_reason or ""
    event = ADOPTED if adopted else to.value
    change = _moved(owner, to, event, code=why or (ADOPTED if adopted else ""), text="", reserved_minor=0)
    return replace(change, refund=refund)


def _stored(request: RefundRequest, refund: SeenRefund) -> Change:
    after = replace(request, version=request.version + 1)
    return Change(after, "refund_request.refund_seen", refund=refund)


def _seen_again(request: RefundRequest, refund: SeenRefund) -> Change | None:
    kept = request.reason_code if request.reason_code == ADOPTED else ""
    why = refund.failure_reason or refund.pending_reason or kept
    if why == request.reason_code:
        return None
    return Change(
        replace(request, version=request.version + 1, reason_code=why), "refund_request.refund_seen", refund=refund
    )


def _broken(request: RefundRequest, refund: SeenRefund, code: str, text: str) -> Change:
    after = replace(request, version=request.version + 1)
    return Change(after, "break.opened", refund=refund, break_=Break(code, refund.id, text))
