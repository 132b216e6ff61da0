"""The use cases of a refund request. Each verb works inside an open unit: load, decide by a pure function, save, record.

Nothing here talks to Stripe. The executor (`worker/executor.py`) sends, and tells what came of it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from refundry.accounts.model import Connect
from refundry.audit import service as audit
from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID, Charge, KnownRefund, Origin
from refundry.infra.db import Database, Needs, Unit
from refundry.kernel.actor import SYSTEM, Actor
from refundry.kernel.errors import InvariantViolated, RefundryError, UsageError
from refundry.kernel.lane import Lane
from refundry.kernel.money import shown
from refundry.kernel.outcome import Accepted, Declined, NotTaken, Outcome, SeenRefund, Unknown
from refundry.outbox import service as outbox
from refundry.outbox.model import Cause, Kind, Message, OrderTold, Wants
from refundry.outbox.rules import ordering_key
from refundry.policies.model import REPEAT_FAILED, Decision, Facts, Verdict, Wait
from refundry.policies.rules import decide, named, repeated, seen_repeat, unread
from refundry.refunds import repository, rules
from refundry.refunds.model import (
    AT_STRIPE,
    IN_FLIGHT,
    IN_LINE,
    OF_STRIPE,
    REOPENABLE,
    UNPAID,
    Attempt,
    CameBack,
    Change,
    Closed,
    Concern,
    Fact,
    Found,
    GaveUp,
    HeldReason,
    Hold,
    Judged,
    Looked,
    Postponed,
    RefundRequest,
    Reopened,
    Send,
    Sent,
    State,
    Submitted,
    Withdrawn,
    apply,
    body_of,
)
from refundry.refunds.repository import Claimed, Tally
from refundry.refunds.rules import Clocks, Plan, Step, asks_for_same, kind_of, only_disputes_changed, request_message

# How long a request waits for its siblings before it is looked at again, in seconds.
SIBLING_WAIT = 60.0
LOW_BALANCE_WAIT = 900.0
# One in doubt that somebody may have paid by hand is not sent again; so much later it is looked whether that still stands, in seconds.
REPEAT_WAIT = 3600.0
# A refund that we do not understand is looked at again this much later, in seconds; a person has to act before.
BREAK_WAIT = 3600.0
# No request waits longer than this before it is looked at again, in seconds: the longest single wait is an hour.
DUE_WITHIN = 7200.0
# The year 3000: what waits for its turn is not due, and not come across by who looks for what is.
NEVER = 32_503_680_000.0
# What a person may have to know of is collected under this name, for whoever has attached to it.
CONCERNS = "concerns"
# And under this one what has ended unpaid: another may be held as its repeat.
OVER = "over"
# What waits for a person, or for its dispute already, is not held anew for a dispute: when that has ended, it would go on by itself.
KEPT_IN_DISPUTE = frozenset({HeldReason.DISPUTE, HeldReason.STOPPED, HeldReason.POSSIBLE_REPEAT})
# The answers of a decision that an open dispute gives.
DISPUTED = frozenset({"charge_disputed", "charge_under_inquiry", "changed_since_plan"})
# Nothing goes on by itself from these, or in one of them a person may have been asked.
CONCERNING = frozenset({State.FAILED, State.CANCELED, State.REQUIRES_ACTION, State.OUTCOME_UNKNOWN})
# Stripe counts whole seconds: a dispute of the second in which a request came may be the later of the two.
STRIPE_SECOND = 1.0
# Why a request takes a step that no look has shown.
RETURNED = "the bank had sent it back, and its customer had answered, when it was looked at again"
# The event of a person's word that one which was over is wanted after all.
REOPENED = "refund_request.reopened"
# Why a request is refused whose payment has failed: its customer may have paid by another charge since.
PAYMENT_FAILED = "charge_failed"
# Why a request is over of which people have said that it paid nothing, since nothing could prove it.
NOT_PAID = "not_paid"
# A look that was made for this very send is good enough, however short `look_max_age` is.
LOOK_GRACE = 30.0


class RequestUnknown(UsageError):  # noqa: N818
    """There is no such refund request."""

    code = "request_unknown"


class StateForbids(RefundryError):  # noqa: N818
    """The request's state does not allow what was asked."""

    code = "state_forbids"


class Receipt(StrEnum):
    """What became of a request that was handed in."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it is kept, and whether it was new."""

    receipt: Receipt
    request: RefundRequest


def attach(database: Database) -> None:
    """Let what pieces of work need be read and held together: each charge, its requests, and the one that is worked on."""
    database.at_commit(OVER, _say_over)
    database.before_work(fetch)


def fetch(unit: Unit, needs: Sequence[Needs]) -> None:
    """Read and hold together what will be asked for one by one."""
    touched = [one.charge for one in needs]
    # The charges first, as everywhere, so that two units never wait for each other.
    charges.hold(unit, touched)
    repository.fetch(unit, [one.request for one in needs if one.request])
    repository.fetch_siblings(unit, touched)


def receive(unit: Unit, wanted: Sequence[RefundRequest], actor: Actor) -> list[Received]:
    """Take requests in. The same key with the same content is the same request; with other content it is a conflict.

    Returns:
        One for each that was handed in, in order; on a conflict the request that holds the key.
    """
    unique: dict[str, RefundRequest] = {}
    for request in wanted:
        unique.setdefault(request.id, request)
    fresh = repository.insert(unit, list(unique.values()))
    kept = unique | repository.many(unit, unique.keys() - fresh)
    for request_id, request in kept.items():
        if request_id in fresh:
            facts = {"allowed": sorted(request.allowed)} if request.allowed else {}
            _record(unit, actor, "refund_request.received", request, {"key": request.request_key, **facts})
            _tell(unit, None, request)
    out, seen = [], set()
    for request in wanted:
        held = kept[request.id]
        same = held is request or held.content.fingerprint == request.content.fingerprint
        new = request.id in fresh and request.id not in seen
        seen.add(request.id)
        out.append(Received(Receipt.NEW if new and same else Receipt.SAME if same else Receipt.CONFLICT, held))
    return out


# What a worker does


def claim(unit: Unit, account: str, lane: Lane, lease: str, *, seconds: float, most: int) -> list[Claimed]:
    """Take due requests under a lease."""
    return repository.claim(unit, account, lane, lease, until=unit.now + seconds, most=most)


def renew(unit: Unit, requests: Collection[str], leases: Collection[str], seconds: float) -> None:
    """Hold on to requests that were claimed under these leases, as far as they still are."""
    repository.renew(unit, requests, leases, unit.now + seconds)


def judge(unit: Unit, claimed: Claimed, *, known: bool, age_max_days: int) -> Claimed | None:
    """Decide about a claimed request from our mirror, and reserve its amount in the same commit.

    Args:
        unit: The open unit.
        claimed: What the worker holds.
        known: Whether Stripe knows the charge.
        age_max_days: See `PaySettings`.

    Returns:
        The approved request, still held; `None` if it was not approved, or is somebody else's now.
    """
    return _decided_on(unit, claimed, _still(unit, claimed.request) if known else None, age_max_days)


def hold_undecided(unit: Unit, taken: Sequence[Claimed], looked: Container[str]) -> list[Claimed]:
    """Hold the charges of those requests that this unit has claimed and that may be decided at once; tells which.

    Args:
        unit: The open unit.
        taken: What it has claimed.
        looked: The charges that were looked at and have not changed since. One that another unit holds is left to it.
    """
    undecided = [one for one in taken if one.request.state is State.RECEIVED and one.request.content.charge in looked]
    free = charges.hold_free(unit, [one.request.content.charge for one in undecided])
    return [one for one in undecided if one.request.content.charge in free]


def _still(unit: Unit, request: RefundRequest) -> Charge | None:
    """Hold a request's charge, and read it."""
    charges.hold_still(unit, request.content.charge)
    return charges.find(unit, request.content.charge)


def _decided_on(unit: Unit, claimed: Claimed, charge: Charge | None, age_max_days: int) -> Claimed | None:
    request = claimed.request
    if charge is not None and adopt(unit, claimed, charge.refunds):
        return None
    decision = _while_disputed(unit, request, charge, _decided(unit, request, charge, age_max_days=age_max_days))
    unchanged = (
        request.state is State.APPROVED
        and decision.verdict is Verdict.APPROVE
        and decision.amount_minor == request.amount_minor == request.reserved_minor
    )
    if unchanged:
        return claimed
    go_on = decision.verdict is Verdict.APPROVE
    after = _step(unit, claimed, _judged(decision, unit.now), keep_lease=go_on, facts=_told(decision))
    return after if go_on else None


def adopt(unit: Unit, claimed: Claimed, seen: Iterable[SeenRefund]) -> bool:
    """Take in those of the refunds that carry the request's id; the request is given back if there are any.

    A lost database, another installation, or a send whose answer was lost has made them: the request is paid already.
    """
    ours = [refund for refund in seen if refund.metadata.get(REQUEST_ID) == claimed.request.id]
    if ours:
        # What another read has shown since that look began is newer.
        known = charges.refunds_known(unit, [refund.id for refund in ours])
        ours = [known[refund.id].refund if refund.id in known else refund for refund in ours]
    # Those that came back last, so that the one whose money is out pays the request.
    for refund in sorted(ours, key=lambda refund: refund.over):
        found(unit, claimed.request.account, refund)
    if ours:
        release(unit, claimed)
    return bool(ours)


def look_needed(unit: Unit, request: RefundRequest, max_age: float, *, since: float = 0.0) -> bool:
    """Tell whether the mirror of a request's charge is too old, or was overtaken, to decide or pay by it.

    Args:
        unit: The open unit.
        request: The request.
        max_age: The oldest look that is good enough, in seconds; the request's plan may allow more.
        since: Looks from before this time, in epoch seconds, are not believed, whatever a plan allows.
    """
    charge = charges.find(unit, request.content.charge)
    return _old(charge, unit.now, look_age(request, max_age)) or (
        charge is not None and since > (charge.looked_at or 0.0)
    )


def look_age(request: RefundRequest, max_age: float) -> float:
    """Tell how old a look may be for this request, in seconds: a plan may allow more than the setting."""
    return max(max_age, request.planned.look_max_age if request.planned else 0.0)


def _old(charge: Charge | None, now: float, max_age: float) -> bool:
    if charge is None or charge.stale or charge.looked_at is None:
        return True
    return not 0 <= now - charge.looked_at <= max_age


def _decided(
    unit: Unit,
    request: RefundRequest,
    charge: Charge | None,
    *,
    age_max_days: int,
    first: bool = False,
    more_reserved: int = 0,
) -> Decision:
    facts = _facts(unit, request, charge, age_max_days=age_max_days, first=first, more_reserved=more_reserved)
    decision = decide(facts)
    if request.asks_minor is None and request.amount_minor and decision.verdict is Verdict.APPROVE:
        # `full` was resolved once: more that is left now is not paid, less is.
        decision = replace(decision, amount_minor=min(decision.amount_minor, request.amount_minor))
    return decision


def _facts(
    unit: Unit,
    request: RefundRequest,
    charge: Charge | None,
    *,
    age_max_days: int = 0,
    first: bool = False,
    more_reserved: int = 0,
) -> Facts:
    content = request.content
    return Facts(
        charge=charge,
        request=request.id,
        asked_minor=request.asks_minor,
        currency=content.currency,
        ticket_id=content.ticket_id,
        reserved_minor=0 if first else more_reserved + repository.reserved(unit, content.charge, but=request.id),
        allowed=request.allowed,
        allow_inquiry=request.allow_inquiry,
        now=unit.now,
        age_max_days=age_max_days,
        twins=() if request.keyed else repository.twins(unit, request),
        keyed=request.keyed,
        connect=Connect(content.reverse_transfer, content.refund_application_fee),
        expected=request.planned.expected if request.planned else None,
        planned_full=request.planned is not None and content.asked_minor is None,
    )


def foresee(unit: Unit, request: RefundRequest, *, known: bool, age_max_days: int, more_reserved: int = 0) -> Decision:
    """Tell what would be decided about a request at this moment; nothing is kept.

    Args:
        unit: The open unit.
        request: The request, handed in or not.
        known: Whether Stripe knows its charge.
        age_max_days: See `PaySettings`.
        more_reserved: What would be claimed of its charge before it, besides what is, in minor units.
    """
    charge = _still(unit, request) if known else None
    return _decided(unit, request, charge, age_max_days=age_max_days, more_reserved=more_reserved)


def foresee_again(
    unit: Unit, request: RefundRequest, *, allow_repeat: bool, allow_inquiry: bool, age_max_days: int
) -> Decision:
    """Tell what would be decided about a request that is asked for again, by `reopen` or by `allow_repeat`; nothing is kept.

    Args:
        unit: The open unit.
        request: As it is kept.
        allow_repeat: Whether a person says that it is no repeat.
        allow_inquiry: Whether a person says to refund during an inquiry.
        age_max_days: See `PaySettings`.
    """
    charges.hold_still(unit, request.content.charge)
    again = request
    if change := apply(request, _reopened(unit, request, allow_repeat=allow_repeat, allow_inquiry=allow_inquiry)):
        again = change.after
    elif allow_repeat:
        read = _let_past(unit, request)
        if isinstance(read, Decision):
            return read
        again = replace(request, hold=None, allowed=request.allowed | read)
    return foresee(unit, again, known=True, age_max_days=age_max_days)


def _judged(decision: Decision, now: float) -> Judged:
    hold = None
    if decision.wait is Wait.SIBLING:
        hold = Hold(HeldReason.SIBLING, now + SIBLING_WAIT)
    elif decision.wait is not None:
        hold = Hold(HeldReason(decision.wait))
    return Judged(decision.verdict, decision.code, decision.text, decision.amount_minor, hold)


def _while_disputed(unit: Unit, request: RefundRequest, charge: Charge | None, decision: Decision) -> Decision:
    """Let a request wait that a dispute has overtaken, until that has ended; one that was asked for later is refused."""
    if charge is None or decision.verdict is not Verdict.REFUSE or decision.code not in DISPUTED:
        return decision
    opened = [dispute.created_at for dispute in charge.disputes if not dispute.over]
    lost = any(dispute.over and not dispute.refundable for dispute in charge.disputes)
    if not opened or lost or not only_disputes_changed(charge, request):
        return decision
    if repository.received_at(unit, [request.id])[request.id] >= min(opened) + STRIPE_SECOND:
        return decision
    return replace(decision, verdict=Verdict.HOLD, wait=Wait.DISPUTE)


def _told(decision: Decision) -> dict[str, object]:
    return {"verdict": decision.verdict.value, "policy": decision.policy, "why": decision.text}


def last_attempt(unit: Unit, request: RefundRequest) -> Attempt | None:
    """Read the last attempt of a request."""
    return repository.attempt(unit, request.id, request.attempt) if request.attempt else None


@dataclass(frozen=True, slots=True)
class Intent:
    """An attempt whose intent is on disk: it may be sent now, once.

    Args:
        claimed: The request, `submitting`.
        attempt: The attempt; its last send is this one.
    """

    claimed: Claimed
    attempt: Attempt


def submit(
    unit: Unit, claimed: Claimed, *, at: float, stripe_at: float | None, look_max_age: float, age_max_days: int
) -> Intent | None:
    """Write the intent to send: the attempt, its exact parameters and this send, before any call.

    An approved request is decided once more, in the same unit: what was seen of its charge since may have changed the answer.

    Args:
        unit: The open unit.
        claimed: An approved request, or one whose last attempt is to be sent again or followed by the next.
        at: Our clock's time.
        stripe_at: Stripe's time, as far as it is known.
        look_max_age: See `PaySettings`; a look of a moment ago is always good enough.
        age_max_days: See `PaySettings`.

    Returns:
        What to send; `None` if the request is somebody else's now, or is held or refused, or its charge has to be looked at
        again, or another request of the charge is on its way: then nothing may be sent.
    """
    charge = _still(unit, claimed.request)
    if repository.on_the_way(unit, claimed.request.content.charge, but=claimed.request.id):
        return None
    approved: Claimed | None = claimed
    if claimed.request.state is State.APPROVED:
        if _old(charge, unit.now, max(look_age(claimed.request, look_max_age), LOOK_GRACE)):
            return None
        approved = _decided_on(unit, claimed, charge, age_max_days)
    if approved is None:
        return None
    last = last_attempt(unit, approved.request)
    if _answered_late(approved.request, last):
        return None
    attempt = _to_send(approved.request, last, Send(at, unit.now, stripe_at))
    held = _step(unit, approved, Submitted(attempt), keep_lease=True, facts={"attempt": attempt.number})
    return Intent(held, attempt) if held else None


def _answered_late(request: RefundRequest, last: Attempt | None) -> bool:
    """Tell whether an answer came to an earlier send since it was decided to send the attempt again: it is looked at anew."""
    return request.state is State.SUBMITTING and last is not None and last.in_doubt and last.spent and not last.absent


def _again(request: RefundRequest, last: Attempt) -> bool:
    """Tell whether the last attempt is the one that is sent, under its key."""
    return not last.spent and (last.in_doubt or last.body == body_of(request))


def followed(unit: Unit, claimed: Claimed) -> Attempt | None:
    """Tell the last attempt of a request on its way where another is to follow it; `None`, where it is sent again, or there is none."""
    request = claimed.request
    last = last_attempt(unit, request) if request.state is State.SUBMITTING else None
    return None if last is None or _again(request, last) else last


def _to_send(request: RefundRequest, last: Attempt | None, send: Send) -> Attempt:
    """Tell which attempt is sent: the last one again, or the next."""
    if last is not None and _again(request, last):
        return replace(last, sends=(*last.sends, send), looks=())
    if last is not None and last.in_doubt and not last.absent:
        raise InvariantViolated(
            f"attempt {last.number} of {request.id} is in doubt: a new key would risk a second refund",
            request=request.id,
        )
    return Attempt(request.id, (last.number if last else 0) + 1, body_of(request), (send,))


def record(unit: Unit, intent: Intent, outcome: Outcome, due_at: float) -> Claimed | None:
    """Keep what came of a send. A refund that Stripe made is kept whoever holds the request by now.

    Returns:
        The request, still held, where this worker has more to do (a refusal to look after); else `None`.
    """
    attempt = _answered(intent.attempt, outcome)
    fact = Sent(attempt, outcome, due_at)
    facts = {"attempt": attempt.number, "outcome": attempt.sends[-1].outcome, "stripe_request": outcome.answer.request}
    go_on = isinstance(outcome, Declined)
    before = intent.claimed.request
    # The charge first, as everywhere: a webhook about this same refund may be taken in at this moment.
    charges.hold_still(unit, before.content.charge)
    change = _applied(before, fact, unit.now)
    if change is not None and repository.update(unit, before, change.after, intent.claimed.lease, keep_lease=go_on):
        _keep(unit, SYSTEM, before, change, facts)
        return replace(intent.claimed, request=change.after) if go_on else None
    _note(unit, attempt)
    if isinstance(outcome, Accepted):
        # Whoever has seen it since knows more: an answer tells of the refund as it was made.
        known = charges.refunds_known(unit, [outcome.refund.id]).get(outcome.refund.id)
        found(unit, before.account, known.refund if known else outcome.refund)
    return None


def _answered(attempt: Attempt, outcome: Outcome) -> Attempt:
    match outcome:
        case Accepted():
            name, code = "accepted", ""
        case Declined(code=code):
            name = "declined"
        case NotTaken(why=why):
            name, code = "not_taken", why.value
        case Unknown(code=code):
            name = "unknown"
    done = replace(attempt.sends[-1], outcome=name, code=code, answer=outcome.answer)
    return replace(attempt, sends=(*attempt.sends[:-1], done))


def _note(unit: Unit, attempt: Attempt) -> None:
    """Write the answer to a send beside it, though the request is in other hands by now."""
    kept = repository.attempt(unit, attempt.request, attempt.number)
    place = len(attempt.sends) - 1
    if kept is None or len(kept.sends) <= place or kept.sends[place].outcome is not None:
        return
    sends = (*kept.sends[:place], attempt.sends[place], *kept.sends[place + 1 :])
    repository.save_attempt(unit, replace(kept, sends=sends))


def resolve(unit: Unit, claimed: Claimed, plan: Plan, *, age_max_days: int = 0) -> Claimed | None:
    """Take the next step with an attempt in doubt, after a complete look without our refund.

    Args:
        unit: The open unit.
        claimed: The request.
        plan: What `rules.plan` said.
        age_max_days: See `PaySettings`.

    Returns:
        The request, still held, where the attempt is to be sent again or followed by the next; else `None`. It is not sent again while a refund
        that was not made here has given back the same: that it never reached Stripe is proven then, and it is decided anew.
    """
    facts = {"attempt": plan.attempt.number, "step": plan.step.value, "why": plan.text}
    # The charge before the request, as everywhere, so that two units never wait for each other.
    charges.hold_still(unit, claimed.request.content.charge)
    match plan.step:
        case Step.RESEND:
            repeat = repeats_by_now(unit, claimed.request)
            if repeat is None:
                return claimed
            # Perhaps its send has reached nobody, and a person has paid it by hand meanwhile: the same key again would pay it twice.
            waits = Looked(plan.attempt, unit.now + REPEAT_WAIT)
            _end(unit, claimed, waits, facts={**facts, "step": Step.WAIT.value, "why": repeat.text})
            return None
        case Step.WAIT:
            _end(unit, claimed, Looked(plan.attempt, unit.now + plan.wait_seconds), facts=facts)
            return None
        case Step.GIVE_UP:
            _end(unit, claimed, GaveUp(plan.text), facts=facts)
            return None
        case Step.CLOSE:
            refusal = plan.attempt.refusal
            if refusal is not None and (less := _less_by_now(unit, claimed, plan.attempt, refusal, age_max_days)):
                return less
            code, text = (refusal.code, refusal.answer.message) if refusal else ("declined", "")
            _end(unit, claimed, Closed(plan.attempt, code, text), facts=facts)
            return None
        case Step.NEXT_ATTEMPT:
            return _step(unit, claimed, Looked(plan.attempt, unit.now), keep_lease=True, facts=facts)


def repeats_by_now(unit: Unit, request: RefundRequest) -> Decision | None:
    """Tell what somebody else's refund has given back that a request in doubt asks for, and that was not there when it was decided."""
    charge = charges.find(unit, request.content.charge)
    return None if charge is None else seen_repeat(_facts(unit, request, charge), charge)


def _less_by_now(unit: Unit, claimed: Claimed, attempt: Attempt, refusal: Send, age_max_days: int) -> Claimed | None:
    """Pay what is left where `full` was refused as too much: somebody else's refund came between the look and the send."""
    request = claimed.request
    if request.asks_minor is not None or refusal.code != "amount_exceeds_refundable":
        return None
    decision = _decided(unit, request, _still(unit, request), age_max_days=age_max_days, first=True)
    if decision.verdict is not Verdict.APPROVE or decision.amount_minor >= request.reserved_minor:
        return None
    held = _step(unit, claimed, Looked(attempt, unit.now), keep_lease=True, facts={"attempt": attempt.number})
    return _lowered(unit, held, decision) if held is not None else None


def judge_again(unit: Unit, claimed: Claimed, attempt: Attempt, *, known: bool, age_max_days: int) -> Claimed | None:
    """Decide whether the next attempt may follow one that is proven absent; the amount stays, but `full` may have become less.

    What its siblings have claimed does not count here: they cannot be sent before it is over, and are decided again then. A wait
    for a person ends it, since a request on its way cannot be held: reopened with that person's word, it goes on.

    Returns:
        The request, still held, if it may; `None` if it is over.
    """
    request = claimed.request
    charge = _still(unit, request) if known else None
    decision = _decided(unit, request, charge, age_max_days=age_max_days, first=True)
    approved = decision.verdict is Verdict.APPROVE
    if approved and decision.amount_minor >= request.reserved_minor:
        return claimed
    if approved and request.asks_minor is None:
        return _lowered(unit, claimed, decision)
    code = "amount_exceeds_refundable" if approved else decision.code
    _end(unit, claimed, Closed(attempt, code, decision.text), facts=_told(decision))
    return None


def close(unit: Unit, claimed: Claimed, attempt: Attempt, code: str, text: str) -> None:
    """End a request whose last attempt is proven absent, and that is not to be sent again."""
    _end(unit, claimed, Closed(attempt, code, text), facts={"attempt": attempt.number, "why": text})


def come_back(unit: Unit, claimed: Claimed, attempt: Attempt, reason: HeldReason) -> bool:
    """Have a request wait whose last attempt is proven absent, as it would before its first: in line, or until it is let go on.

    Returns:
        Whether it was still held by this worker.
    """
    due_at = NEVER if reason in IN_LINE else unit.now
    facts = {"attempt": attempt.number, "held": reason.value}
    return _step(unit, claimed, CameBack(attempt, Hold(reason), due_at), keep_lease=False, facts=facts) is not None


def _lowered(unit: Unit, claimed: Claimed, decision: Decision) -> Claimed | None:
    """Let the word `full` mean what is left by now: the attempt that asked for more is proven absent, and the next asks for less."""
    before, amount = claimed.request, decision.amount_minor
    after = replace(before, amount_minor=amount, reserved_minor=amount, version=before.version + 1)
    if not repository.update(unit, before, after, claimed.lease, keep_lease=True):
        return None
    _record(unit, SYSTEM, "refund_request.lowered", after, {"was_minor": before.amount_minor, **_told(decision)})
    return replace(claimed, request=after)


def postpone(unit: Unit, claimed: Claimed, due_at: float, why: str) -> None:
    """Give a request back, to be looked at again later, in whatever version it is by now."""
    request = repository.find(unit, claimed.request.id, hold=True)
    change = apply(request, Postponed(due_at)) if request is not None else None
    if request is not None and change is not None:
        if repository.update(unit, request, change.after, claimed.lease, keep_lease=False):
            _keep(unit, SYSTEM, request, change, {"why": why})
        return
    release(unit, claimed)


def release(unit: Unit, claimed: Claimed) -> None:
    """Give a request back as it is, if it is still ours."""
    repository.free(unit, claimed.request.id, claimed.lease)


def end_leases(unit: Unit, account: str) -> int:
    """Give back what dead processes held. Only for whoever knows that no other process executes; tells how many.

    What they had sent is in doubt like after any crash, and is looked for before anything else is done about it. What is due
    later than any wait lasts was written by a clock that has been set back since: it is due now.
    """
    repository.pull_forward(unit, account, unit.now + DUE_WITHIN)
    return repository.free_all(unit, account)


def found(unit: Unit, account: str, refund: SeenRefund) -> bool:
    """Take in a refund of Stripe's; if it carries the id of a request of ours, move that.

    Returns:
        Whether a request of ours stands for it now.
    """
    refund = charges.take_refund(unit, account, refund, unit.now)
    request_id = refund.metadata.get(REQUEST_ID)
    request = repository.find(unit, request_id, hold=True) if request_id else None
    if request is None:
        if request_id:
            _unknown(unit, account, refund)
        return False
    if charges.set_origin(unit, refund.id, Origin.OURS):
        _concern(unit, Concern(account, refund.charge, request, refund=refund))
    facts = {"refund": refund.id, "status": refund.status}
    returned = _returned(request, refund)
    if returned is not None:
        _found_change(unit, request, returned, {**facts, "why": RETURNED})
        request = returned.after
    change = _applied(request, Found(refund), unit.now)
    if change is not None:
        _found_change(unit, request, change, facts)
    return True


def _returned(request: RefundRequest, refund: SeenRefund) -> Change | None:
    """Tell the step that nobody has seen of a settled refund which is pending anew; `None`, if it is no such refund.

    Nobody has to be asked for what its customer has done already, so the step has no refund that a task could be opened for.
    """
    here = (request.state, request.refund, request.content.charge)
    if here != (State.SETTLED, refund.id, refund.charge) or OF_STRIPE.get(refund.status) is not State.PENDING:
        return None
    step = apply(request, Found(replace(refund, status="requires_action", pending_reason=None)))
    return None if step is None else replace(step, refund=None)


def _found_change(unit: Unit, request: RefundRequest, change: Change, facts: Mapping[str, object]) -> None:
    if not repository.update(unit, request, change.after, None, keep_lease=False):
        raise InvariantViolated(f"request {request.id} changed inside a unit that holds it", request=request.id)
    _keep(unit, SYSTEM, request, change, facts)


def _unknown(unit: Unit, account: str, refund: SeenRefund) -> None:
    """Keep a refund that carries the id of a request which is not here: it is never taken for somebody else's."""
    charges.set_origin(unit, refund.id, Origin.UNKNOWN_REFUNDRY)
    _concern(unit, Concern(account, refund.charge, refund=refund))


def _concern(unit: Unit, concern: Concern) -> None:
    if CONCERNS in unit.flushed:
        unit.collect(CONCERNS, concern)


def heard(unit: Unit, account: str, refund: SeenRefund, began_at: float) -> bool:
    """Take in what a read of a refund has shown, whoever made it.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        refund: As it was read.
        began_at: When that read began, by the database's clock.

    Returns:
        False, if another read that ended meanwhile says something else: then it has to be read again.
    """
    charges.hold_still(unit, refund.charge)
    if charges.overtaken(unit, refund, began_at):
        return False
    if not found(unit, account, refund):
        suspect(unit, refund)
    return True


def notice(unit: Unit, account: str, charge_id: str) -> None:
    """Move those requests of a charge whose refunds stand otherwise in the mirror, which a look has just brought up to date."""
    charge = charges.find(unit, charge_id)
    seen = charge.refunds if charge else ()
    ours = {Told(one.id, one.metadata[REQUEST_ID], one.status): one for one in seen if REQUEST_ID in one.metadata}
    fresh = ours.keys() - standing_here(unit, ours) if ours else set()
    # Those that came back last, so that the one whose money is out pays the request.
    for told in sorted(fresh, key=lambda told: (ours[told].over, told)):
        found(unit, account, ours[told])


class Told(NamedTuple):
    """What an event or a list tells of one of Stripe's refunds: its id, the request that it is said to belong to, and its status."""

    refund: str
    request: str | None
    status: str | None


def standing_here(unit: Unit, told: Iterable[Told]) -> set[Told]:
    """Tell what stands here already as it is told, refund and request alike: nothing has to be read or changed for it.

    A unit that only reads is enough.
    """
    asked = set(told)
    known = charges.refunds_known(unit, {one.refund for one in asked})
    of = {refund: one.refund.metadata.get(REQUEST_ID) for refund, one in known.items()}
    requests = repository.many(unit, {request for request in of.values() if request})
    broken = repository.broken(unit, known)
    return {
        one
        for one in asked
        if one.refund in known
        and one.status == known[one.refund].refund.status
        and one.request in {None, of[one.refund]}
        and _stands(known[one.refund], requests.get(of[one.refund] or ""), broken)
    }


def _stands(known: KnownRefund, request: RefundRequest | None, broken: set[str]) -> bool:
    refund = known.refund
    if REQUEST_ID not in refund.metadata:
        return known.origin is Origin.EXTERNAL
    if request is None:
        return known.origin is Origin.UNKNOWN_REFUNDRY
    if request.refund == refund.id:
        return OF_STRIPE.get(refund.status) is request.state
    # It is not the one that paid the request: then there is a break, unless its money came back.
    return refund.id in broken or (refund.over and request.refund is not None)


def suspect(unit: Unit, refund: SeenRefund) -> int:
    """Hold the waiting requests that ask for what somebody else's refund has given back; tells how many.

    Those that wait for a person, or for a dispute, already, are decided before they are paid. If the refund has failed, those that are held for
    it say so.
    """
    charge = charges.find(unit, refund.charge)
    if charge is not None and refund.over:
        _say_failed(unit, refund, charge)
    if charge is None or refund.over or REQUEST_ID in refund.metadata:
        return 0
    text = (
        f"{refund.id} has given back {shown(refund.amount_minor, refund.currency)} on {charge.id}, and it was not made here: allow it "
        "with --allow-repeat, or withdraw it"
    )
    fact = Judged(Verdict.HOLD, "possible_repeat", text, hold=Hold(HeldReason.POSSIBLE_REPEAT))
    count = 0
    for request in repository.of_charge(unit, charge.id, hold=True):
        settled = request.hold is not None and request.hold.until is None and not waits_in_line(request)
        # What a person would let go, since the other refund has failed, is a repeat again.
        settled = settled and not _held_for_failed(request)
        if request.state not in UNPAID or settled or refund.id in request.allowed:
            continue
        if asks_for_same(request.content, refund, charge, unit.now):
            _by_itself(unit, request, fact, {"refund": refund.id})
            count += 1
    return count


def _held_for_failed(request: RefundRequest) -> bool:
    """Tell whether a request is held as the repeat of a refund that has failed since."""
    held = request.hold is not None and request.hold.reason is HeldReason.POSSIBLE_REPEAT
    return held and request.reason_code == REPEAT_FAILED


def _say_over(unit: Unit, over: Sequence[RefundRequest]) -> None:
    """Have the requests say so that are held as repeats of requests which were withdrawn, rejected or declined; for all of a unit together."""
    by_charge: dict[str, list[RefundRequest]] = {}
    for request in over:
        by_charge.setdefault(request.content.charge, []).append(request)
    for request in repository.held_as_repeats(unit, sorted(by_charge)):
        gone = next((one for one in by_charge[request.content.charge] if one.id in request.reason_text), None)
        charge = charges.find(unit, request.content.charge) if gone is not None else None
        if gone is None or charge is None or gone.id == request.id or request.reason_code == REPEAT_FAILED:
            continue
        other = repeated(_facts(unit, request, charge), charge)
        text = (
            f"refund request {gone.id}, which this one seemed to repeat, is {gone.state}, and gives nothing back: see that it was not paid in "
            "another way, then allow this one with --allow-repeat, or withdraw it"
        )
        said = Judged(Verdict.HOLD, REPEAT_FAILED, text, hold=Hold(HeldReason.POSSIBLE_REPEAT))
        _by_itself(unit, request, said if other is None else _judged(other, unit.now), {"request": gone.id})


def _say_failed(unit: Unit, refund: SeenRefund, charge: Charge) -> None:
    """Have the requests say so that are held as repeats of a refund which has failed or was canceled.

    They are not let go: whoever saw it fail may have paid in another way, and whoever canceled it may have meant all of it.
    """
    names = {refund.id, refund.metadata.get(REQUEST_ID, refund.id)}
    for request in repository.of_charge(unit, charge.id, hold=True):
        held = request.hold is not None and request.hold.reason is HeldReason.POSSIBLE_REPEAT
        # Its text names what it was held for.
        named = any(name in request.reason_text for name in names)
        if not held or not named or request.state not in UNPAID or request.reason_code == REPEAT_FAILED:
            continue
        other = repeated(_facts(unit, request, charge), charge)
        if other is not None:
            fact = _judged(other, unit.now)
        else:
            what = f"{refund.id}, which this one seemed to repeat, {'was canceled' if refund.status == 'canceled' else 'has failed'}"
            text = (
                f"{what}, and gives nothing back: see that it was not paid in another way, then allow this one with --allow-repeat, or "
                "withdraw it"
            )
            fact = Judged(Verdict.HOLD, REPEAT_FAILED, text, hold=Hold(HeldReason.POSSIBLE_REPEAT))
        _by_itself(unit, request, fact, {"refund": refund.id})


def sent(unit: Unit, ids: Sequence[str]) -> Iterator[tuple[float, str, int]]:
    """Tell of those requests that were sent, and did not come back unpaid, when that was last, by the database's clock, in what currency and how much.

    Of what is still on its way it is now: it may be paid now.
    """
    at = repository.sent_at(unit, ids)
    for request in repository.many(unit, ids).values():
        if request.id in at and request.state in IN_FLIGHT | AT_STRIPE:
            when = unit.now if request.state in IN_FLIGHT else at[request.id]
            yield when, request.content.currency, request.amount_minor


# What disputes do


def hold_disputed(unit: Unit, charge: Charge, opened_at: float, text: str, *, full_settles: bool) -> int:
    """Hold every unpaid request of a charge that came before its dispute; tells how many.

    One that waits for a person goes on waiting for a person, also when the dispute has ended: let go, it is decided anew, and that sees
    the dispute.

    Args:
        unit: The open unit, which holds the charge.
        charge: The charge.
        opened_at: When Stripe opened the dispute, in epoch seconds: what is asked for later is decided by policy.
        text: Why, for a person.
        full_settles: Whether it is an inquiry: one that a person asked for, and for all that is left, goes on.
    """
    waiting = [request for request in repository.of_charge(unit, charge.id, hold=True) if request.state in UNPAID]
    received = repository.received_at(unit, [request.id for request in waiting])
    fact = Judged(Verdict.HOLD, "charge_disputed", text, hold=Hold(HeldReason.DISPUTE))
    count = 0
    for request in waiting:
        full = request.asks_minor in {None, charge.unrefunded_minor}
        spared = full_settles and request.allow_inquiry and full
        held = request.hold is not None and request.hold.reason in KEPT_IN_DISPUTE
        if not held and not spared and received[request.id] < opened_at + STRIPE_SECOND:
            _by_itself(unit, request, fact, {})
            count += 1
    return count


def lift_disputed(unit: Unit, charge: Charge) -> int:
    """Have the requests decided anew that waited for a dispute which has ended; tells how many."""
    count = 0
    for request in repository.of_charge(unit, charge.id, hold=True):
        if request.hold is None or request.hold.reason is not HeldReason.DISPUTE:
            continue
        planned = None if only_disputes_changed(charge, request) else request.planned
        freed = replace(request, hold=None, planned=planned, version=request.version + 1, due_at=unit.now)
        repository.update(unit, request, freed, None, keep_lease=False)
        _record(unit, SYSTEM, "refund_request.dispute_over", freed, {})
        count += 1
    return count


def refuse_disputed(unit: Unit, charge: Charge, text: str) -> int:
    """Reject every unpaid request of a charge whose dispute is lost: the bank has given the money back; tells how many."""
    fact, count = Judged(Verdict.REFUSE, "dispute_lost", text), 0
    for request in repository.of_charge(unit, charge.id, hold=True):
        if request.state in UNPAID:
            _by_itself(unit, request, fact, {})
            count += 1
    return count


def _by_itself(unit: Unit, request: RefundRequest, fact: Fact, facts: Mapping[str, object]) -> None:
    """Apply a fact to a request that this unit holds, whoever works on it: that worker finds that it has lost it."""
    change = apply(request, fact)
    if change is None or not repository.update(unit, request, change.after, None, keep_lease=False):
        raise InvariantViolated(f"request {request.id} changed inside a unit that holds it", request=request.id)
    _keep(unit, SYSTEM, request, change, {**facts, "why": change.after.reason_text})


def _applied(request: RefundRequest, fact: Fact, now: float) -> Change | None:
    """Apply a fact about a refund; where it cannot be understood, nobody looks again at once, it would be the same."""
    change = apply(request, fact)
    if change is None or change.break_ is None or change.after.state not in UNPAID | {State.SUBMITTING}:
        return change
    return replace(change, after=replace(change.after, due_at=now + BREAK_WAIT))


def _step(unit: Unit, claimed: Claimed, fact: Fact, *, keep_lease: bool, facts: Mapping[str, object]) -> Claimed | None:
    """Apply a fact to a request that a worker holds; `None` if it is somebody else's by now, or the fact came too late."""
    change = apply(claimed.request, fact)
    if change is None:
        return None
    if not repository.update(unit, claimed.request, change.after, claimed.lease, keep_lease=keep_lease):
        return None
    _keep(unit, SYSTEM, claimed.request, change, facts)
    return replace(claimed, request=change.after)


def _end(unit: Unit, claimed: Claimed, fact: Fact, *, facts: Mapping[str, object]) -> None:
    """Apply a fact, and give the request back."""
    _step(unit, claimed, fact, keep_lease=False, facts=facts)


def _keep(unit: Unit, actor: Actor, before: RefundRequest, change: Change, facts: Mapping[str, object]) -> None:
    """Write what a change brings with it, in the unit of the change."""
    if change.attempt is not None:
        # A first send is not on disk yet.
        first = before.state is State.APPROVED and len(change.attempt.sends) == 1
        repository.save_attempt(unit, change.attempt if first else _with_late_answers(unit, change.attempt))
    if change.refund is not None:
        charges.take_refund(unit, before.account, change.refund, unit.now)
    if change.break_ is not None:
        repository.open_break(unit, before.id, change.break_)
        facts = {**facts, "break": change.break_.code, "text": change.break_.text}
    told = {"from": before.state.value, "to": change.after.state.value, "code": change.after.reason_code}
    _record(unit, actor, change.event, change.after, {**told, **facts})
    _tell(unit, before, change.after)
    if change.after.state is not before.state and change.after.state in REOPENABLE and OVER in unit.flushed:
        unit.collect(OVER, change.after)
    failed = change.refund is not None and change.refund.over and change.after.state is not before.state
    charge = charges.find(unit, before.content.charge) if failed else None
    if charge is not None and change.refund is not None:
        _say_failed(unit, change.refund, charge)
    if change.break_ is not None or {before.state, change.after.state} & CONCERNING:
        _concern(unit, Concern(before.account, before.content.charge, before, change, change.refund))


def _tell(unit: Unit, before: RefundRequest | None, after: RefundRequest) -> None:
    """Have the order system told what a request has become, where that is more than what it was."""
    kind = kind_of(before, after)
    if kind is not None:
        outbox.note(unit, Cause(after.content.charge, kind, after))


def messages(unit: Unit, causes: Sequence[Cause], wants: Wants) -> list[Message]:
    """Compose the messages of all that a unit has changed, amounts as they are committed; see `outbox.service.attach`."""
    orders = charges.orders_of(unit, {cause.charge for cause in causes})
    changed = [(cause.kind, cause.request) for cause in causes if isinstance(cause.request, RefundRequest)]
    family = charges.families(unit, orders)
    told = _hold_keys(unit, orders, family, [request for _, request in changed], wants)
    if unit.postgres:
        # Read again now that the keys are held: what others have committed for the same orders is in it.
        family = charges.families(unit, orders)
    known, claimed = {charge.id: charge for charge in family}, repository.reserved_of(unit, orders)
    out = []
    for kind, request in changed:
        name = request.content.charge
        out.append(request_message(kind, request, known.get(name), claimed.get(name, 0), unit.now))
    if wants.any_wants(Kind.ORDER_CHANGED):
        out += charges.order_messages(unit, set(orders.values()), family, told)
    return out


def _hold_keys(
    unit: Unit,
    orders: Mapping[str, tuple[str, str | None]],
    family: Sequence[Charge],
    changed: Sequence[RefundRequest],
    wants: Wants,
) -> dict[str, OrderTold]:
    """Hold the ordering keys of what has changed, so that the messages of each are written in the order of their commits."""
    named = {one.content.charge: (one.account, None) for one in changed} | dict(orders)
    keys = {charge: ordering_key(account, order, charge) for charge, (account, order) in named.items()}
    # Most charges that are only looked at have given nothing back: there is nothing to tell of their orders, and no key to make.
    made = {one.content.charge for one in changed}
    made |= {one.id for one in family if one.id in keys and one.unrefunded_minor < one.captured_minor}
    # What was told before a charge's order was known stands under the charge's own key, and comes before all that is told of the order.
    alone = {
        ordering_key(account, None, one): keys[one] for one, (account, order) in orders.items() if order is not None
    }
    told = outbox.hold_keys(unit, [*keys.values(), *alone], make={keys[charge] for charge in made})
    if before := {old: new for old, new in alone.items() if old in told}:
        outbox.rename_keys(unit, before, wants.by_target)
    return told


def _with_late_answers(unit: Unit, attempt: Attempt) -> Attempt:
    """Keep what `_note` has written since this attempt was read: an answer is never forgotten."""
    kept = None
    if any(send.outcome is None for send in attempt.sends):
        kept = repository.attempt(unit, attempt.request, attempt.number)
    if kept is None:
        return attempt
    told = [late if ours.outcome is None else ours for ours, late in zip(attempt.sends, kept.sends, strict=False)]
    return replace(attempt, sends=(*told, *attempt.sends[len(told) :]))


def _record(unit: Unit, actor: Actor, event: str, request: RefundRequest, facts: Mapping[str, object]) -> None:
    amount = {"amount_minor": request.amount_minor, "currency": request.content.currency, "version": request.version}
    audit.record(unit, actor, event, request.id, {**amount, **facts})


# What a person does


def withdraw(unit: Unit, request_id: str, actor: Actor, why: str) -> RefundRequest:
    """Take a request back that was not sent yet.

    Raises:
        RequestUnknown: There is none.
        StateForbids: It is on its way, or over.
    """
    request = _held(unit, request_id)
    if request.state not in UNPAID:
        raise StateForbids(
            f"request {request_id} is {request.state}: only what was not sent yet can be withdrawn", request=request_id
        )
    return _by_person(unit, request, Withdrawn(why), actor, {"why": why})


def reopen(
    unit: Unit, request_id: str, actor: Actor, *, allow_repeat: bool = False, allow_inquiry: bool = False
) -> RefundRequest:
    """Have a request looked at again that was declined, rejected or withdrawn.

    Raises:
        RequestUnknown: There is none.
        StateForbids: It is not over, or Stripe had taken it.
    """
    # The charge first, as everywhere, so that two units never wait for each other.
    charges.hold_still(unit, need(unit, request_id).content.charge)
    request = _held(unit, request_id)
    if request.state not in REOPENABLE:
        raise StateForbids(
            f"request {request_id} is {request.state}: only declined, rejected and withdrawn ones can be tried again",
            request=request_id,
        )
    if request.reason_code == NOT_PAID:
        # Nothing has proven that, and its refund may have turned up since: the next number is only sent after a look that begins from here on.
        charges.touch(unit, request.content.charge, unit.now)
    fact = _reopened(unit, request, allow_repeat=allow_repeat, allow_inquiry=allow_inquiry)
    facts = {"allowed": sorted(fact.allowed)} if fact.allowed else {}
    return _by_person(unit, request, fact, actor, facts)


def name_refund(
    unit: Unit, request_id: str, refund: SeenRefund, began_at: float, actor: Actor, note: str
) -> RefundRequest:
    """Take a refund that a person names for the one that has paid a request of unknown outcome. It is known by the request's id from then on.

    Args:
        unit: The open unit.
        request_id: The request.
        refund: As it was read at Stripe just now.
        began_at: When that read began, by the database's clock.
        actor: Who names it.
        note: What they say.

    Raises:
        RequestUnknown: There is none.
        StateForbids: Its outcome is not unknown (any more), or another read of the refund says something else. `refund_misfits`: it cannot
            be the one.
    """
    # The charge first, as everywhere, so that two units never wait for each other.
    charges.hold_still(unit, refund.charge)
    request = _of_unknown_outcome(unit, request_id)
    first, *_ = repository.attempts(unit, request_id)
    known = charges.refunds_known(unit, [refund.id]).get(refund.id)
    # As it is known here: the mark of another request may have been taken away at Stripe.
    mark = (known.refund.metadata if known else refund.metadata).get(REQUEST_ID)
    why = rules.misfit(request, first.sends[0], _with_mark(refund, mark) if mark else refund)
    if why:
        raise StateForbids(
            f"{refund.id} is not the refund of request {request_id}: {why}; nothing was changed",
            code="refund_misfits",
            request=request_id,
            refund=refund.id,
        )
    _record(unit, actor, "refund_request.refund_named", request, {"refund": refund.id, "why": note})
    if not heard(unit, request.account, _with_mark(refund, request_id), began_at):
        raise StateForbids(f"{refund.id} has just changed at Stripe: try again", request=request_id, refund=refund.id)
    return need(unit, request_id)


def _with_mark(refund: SeenRefund, request_id: str) -> SeenRefund:
    return replace(refund, metadata=refund.metadata | {REQUEST_ID: request_id})


def sayable_in(unit: Unit, request_id: str, clocks: Clocks) -> float:
    """Tell in how many seconds people may say that a request of unknown outcome was not paid; zero or less, if they may at once.

    Raises:
        RequestUnknown: There is none.
        StateForbids: Its outcome is not unknown (any more).
    """
    return rules.sayable_in(_last_of(unit, _of_unknown_outcome(unit, request_id)), clocks)


def say_not_paid(unit: Unit, request_id: str, actor: Actor, text: str) -> RefundRequest:
    """End a request of unknown outcome of which two people say that it was not paid. It may be tried again, by policy, under the next number.

    The caller has seen that they may say so (`sayable_in`), and that the charge, looked at just now, shows no refund of it.

    Raises:
        RequestUnknown: There is none.
        StateForbids: Its outcome is not unknown (any more).
    """
    request = _of_unknown_outcome(unit, request_id)
    gone = replace(_last_of(unit, request), absent=True)
    return _by_person(unit, request, Closed(gone, NOT_PAID, text), actor, {"attempt": gone.number, "why": text})


def _of_unknown_outcome(unit: Unit, request_id: str) -> RefundRequest:
    request = _held(unit, request_id)
    if request.state is not State.OUTCOME_UNKNOWN:
        raise StateForbids(
            f"request {request_id} is {request.state}: nobody has to say what became of it", request=request_id
        )
    return request


def _last_of(unit: Unit, request: RefundRequest) -> Attempt:
    last = last_attempt(unit, request)
    if last is None:
        raise InvariantViolated(f"request {request.id} is {request.state} without an attempt", request=request.id)
    return last


def payment_failed(request: RefundRequest) -> bool:
    """Tell whether a request was refused since its payment had failed, and was never sent."""
    return request.state is State.REJECTED and request.reason_code == PAYMENT_FAILED and request.unsent


def asks_as_before(kept: RefundRequest, wanted: RefundRequest) -> bool:
    """Tell whether one asks for the same as a request whose payment had failed, be it of another charge."""
    same = replace(kept.content, charge=wanted.content.charge).fingerprint == wanted.content.fingerprint
    return payment_failed(kept) and same


def follow_payment(unit: Unit, wanted: RefundRequest, actor: Actor) -> bool:
    """Have the request that is kept under this id looked at again, on the charge that it leads to now, if it was refused since its payment had failed.

    Nothing was ever sent for it, so that nothing can be given back under its id on the charge that it leaves. All else that it asks for is as
    it was. The caller knows that both ask for the same.

    Args:
        unit: The open unit.
        wanted: As it would be handed in now.
        actor: Who says so.

    Returns:
        False, if it is something else that it waits for, or if it is over; nothing was changed.
    """
    kept, charge = _held(unit, wanted.id), wanted.content.charge
    if not asks_as_before(kept, wanted):
        return False
    facts = {"charge_before": kept.content.charge, "charge": charge} if charge != kept.content.charge else {}
    _by_person(unit, kept, Reopened(charge=charge), actor, facts)
    return True


def _reopened(unit: Unit, request: RefundRequest, *, allow_repeat: bool, allow_inquiry: bool) -> Reopened:
    allowed = allowable(unit, request) if allow_repeat else frozenset()
    if request.reason_code == "possible_repeat":
        # What has come since it was refused is not named by its text, so nobody has read of it: it is held for that.
        allowed = frozenset(one for one in allowed if one in request.reason_text)
    return Reopened(allowed, allow_inquiry)


def allowable(unit: Unit, request: RefundRequest) -> frozenset[str]:
    """Tell the refunds and requests, by id, that a person lets past who says beforehand that a request is no repeat: all that are there."""
    charge = charges.find(unit, request.content.charge)
    seen = [refund.id for refund in charge.refunds if not refund.over] if charge is not None else []
    return frozenset({*seen, *repository.twins(unit, request, waiting=True)})


def allow_repeat(unit: Unit, request_id: str, actor: Actor) -> RefundRequest:
    """Say that a request held as a possible repeat is none: of what its text names. What comes after that holds it again.

    Where the other refund has failed, that is all that is said: the charge is looked at anew, and another repeat holds it again.
    """
    charge = need(unit, request_id).content.charge
    # The charge first, as everywhere, so that two units never wait for each other.
    charges.hold_still(unit, charge)
    request = _held(unit, request_id)
    if request.state in REOPENABLE:
        return reopen(unit, request_id, actor, allow_repeat=True)
    if request.hold is None or request.hold.reason is not HeldReason.POSSIBLE_REPEAT:
        return request
    read = _let_past(unit, request)
    if isinstance(read, Decision):
        return _by_person(unit, request, _judged(read, unit.now), actor, {"why": read.text})
    if _held_for_failed(request):
        charges.touch(unit, charge, unit.now)
    freed = replace(request, hold=None, allowed=request.allowed | read, version=request.version + 1, due_at=unit.now)
    repository.update(unit, request, freed, None, keep_lease=False)
    _record(unit, actor, "refund_request.repeat_allowed", freed, {"allowed": sorted(read)})
    return freed


def expedite(unit: Unit, request_id: str, actor: Actor) -> RefundRequest:
    """Have a person wait for no rows of files before a request that a file had asked for first.

    What is held until it is let go, as by a pause or for its turn, stays as it is, and what was sent is awaited where it is. A worker that was
    about to send it finds that it has lost it, as with a stop.
    """
    request = _held(unit, request_id)
    goes_on = request.hold is None or request.hold.until is not None
    if request.lane is Lane.DESK or request.state not in {State.RECEIVED, State.APPROVED} or not goes_on:
        return request
    moved = replace(request, lane=Lane.DESK, version=request.version + 1)
    repository.update(unit, request, moved, None, keep_lease=False)
    _record(unit, actor, "refund_request.expedited", moved, {})
    return moved


def _let_past(unit: Unit, request: RefundRequest) -> frozenset[str] | Decision:
    """Tell what a person lets past who has read why a request is held, or for what it is held instead."""
    seen = charges.find(unit, request.content.charge)
    if _held_for_failed(request) or seen is None:
        return frozenset()
    facts = _facts(unit, request, seen)
    now = repeated(facts, seen)
    if now is not None and unread(facts, seen, request.reason_text):
        # Another has come since, of which nobody has read: it is named, and may be allowed then.
        return now
    return named(facts, seen)


def _by_person(
    unit: Unit, request: RefundRequest, fact: Fact, actor: Actor, facts: Mapping[str, object]
) -> RefundRequest:
    change = apply(request, fact)
    if change is None or not repository.update(unit, request, change.after, None, keep_lease=False):
        raise StateForbids(f"request {request.id} has just changed: look again", request=request.id)
    _keep(unit, actor, request, change, facts)
    return change.after


def stop(unit: Unit, ids: Iterable[str], actor: Actor) -> int:
    """Hold those of the requests that would go on by themselves, until they are let go on; tells how many.

    A request on its way is not called back: its outcome is awaited.
    """
    count = 0
    # Those on their way are not held: whoever has sent them would wait until this unit is over to write down what came of it.
    waiting = [request.id for request in repository.many(unit, ids).values() if request.state in UNPAID]
    for request in repository.many(unit, waiting, hold=True).values():
        if request.state in UNPAID and (request.hold is None or request.hold.until is not None):
            held = replace(request, hold=Hold(HeldReason.STOPPED), version=request.version + 1)
            repository.update(unit, request, held, None, keep_lease=False)
            _record(unit, actor, "refund_request.stopped", held, {})
            _tell(unit, request, held)
            count += 1
    return count


def go_on(unit: Unit, ids: Iterable[str], actor: Actor, *, in_line: bool = False) -> int:
    """Let stopped requests go on; tells how many.

    Args:
        unit: The open unit.
        ids: Those that are to go on.
        actor: Who says so.
        in_line: Whether each waits for its turn by a schedule, instead of going on at once.
    """
    count = 0
    for request in repository.many(unit, ids, hold=True).values():
        if request.hold is not None and request.hold.reason is HeldReason.STOPPED:
            freed = replace(request, hold=None, version=request.version + 1, due_at=unit.now)
            freed = put_in_line(freed) if in_line else freed
            repository.update(unit, request, freed, None, keep_lease=False)
            _record(unit, actor, "refund_request.resumed", freed, {})
            count += 1
    return count


def try_now(unit: Unit, ids: Iterable[str], actor: Actor) -> int:
    """Try those again at once that wait a while since Stripe refused them for a low balance; tells how many."""
    count = 0
    for request in repository.many(unit, ids, hold=True).values():
        if waits_for_money(request):
            freed = replace(request, hold=None, version=request.version + 1, due_at=unit.now)
            repository.update(unit, request, freed, None, keep_lease=False)
            _record(unit, actor, "refund_request.resumed", freed, {})
            count += 1
    return count


def waits_for_money(request: RefundRequest) -> bool:
    """Tell whether a request waits a while, since Stripe has refused it for a low balance."""
    hold = request.hold
    return hold is not None and hold.until is not None and hold.reason is HeldReason.LOW_BALANCE


# Waiting for one's turn, by a schedule


def put_in_line(request: RefundRequest, reason: HeldReason = HeldReason.SCHEDULE) -> RefundRequest:
    """Tell what a request is like that waits for its turn: held without end, claiming nothing, and due never, so that no search comes across it."""
    return replace(request, hold=Hold(reason), reserved_minor=0, due_at=NEVER)


def waits_in_line(request: RefundRequest) -> bool:
    """Tell whether a request waits until a schedule lets it go, be it for its turn or for the balance."""
    return request.hold is not None and request.hold.in_line


def make_wait(unit: Unit, ids: Iterable[str], actor: Actor, reason: HeldReason = HeldReason.SCHEDULE) -> list[str]:
    """Put those in line that would go on by themselves, or wait in line for another reason; tells which."""
    put = []
    for request in repository.many(unit, ids, hold=True).values():
        goes_on = request.hold is None or request.hold.until is not None
        waits = waits_in_line(request) and request.hold != Hold(reason)
        if request.state in UNPAID and (goes_on or waits):
            held = replace(put_in_line(request, reason), version=request.version + 1)
            repository.update(unit, request, held, None, keep_lease=False)
            _record(unit, actor, "refund_request.put_in_line", held, {"held": reason.value})
            _tell(unit, request, held)
            put.append(request.id)
    return put


def let_go(unit: Unit, requests: Iterable[RefundRequest], actor: Actor) -> None:
    """Let requests go whose turn has come. The caller holds them."""
    for request in requests:
        freed = replace(request, hold=None, version=request.version + 1, due_at=unit.now)
        repository.update(unit, request, freed, None, keep_lease=False)
        _record(unit, actor, "refund_request.let_go", freed, {})


def send_back(unit: Unit, claimed: Claimed, reason: HeldReason) -> bool:
    """Put a request in line again that a worker is about to send; false, if it is somebody else's by now."""
    facts = {"held": reason.value}
    return _step(unit, claimed, Postponed(NEVER, Hold(reason)), keep_lease=False, facts=facts) is not None


def refuse(unit: Unit, claimed: Claimed, code: str, text: str) -> None:
    """Refuse a request that a worker is about to send."""
    _end(unit, claimed, Judged(Verdict.REFUSE, code, text), facts={"why": text})


def waits_for(unit: Unit, request: RefundRequest) -> RefundRequest | None:
    """Tell the other request of its charge that an unpaid one waits for: it is on its way, or nobody knows whether it was paid.

    One that is held waits for something else first.
    """
    other = repository.on_its_way(unit, request.content.charge) if _is_next(request) else None
    return None if other is None else repository.find(unit, other)


def behind_unknown(unit: Unit, account: str) -> dict[str, str]:
    """Tell the requests of an account that go on only after a person has said what became of another of their charge, and that one."""
    return {
        request.id: other
        for charge, other in repository.unknown(unit, account).items()
        for request in repository.of_charge(unit, charge)
        if _is_next(request)
    }


def _is_next(request: RefundRequest) -> bool:
    """Tell whether a request would be sent by itself, were it not for the others of its charge."""
    return request.state in {State.RECEIVED, State.APPROVED} and (
        request.hold is None or request.hold.until is not None
    )


def need(unit: Unit, request_id: str) -> RefundRequest:
    """Read a request.

    Raises:
        RequestUnknown: There is none.
    """
    return _needed(repository.find(unit, request_id), request_id)


def _held(unit: Unit, request_id: str) -> RefundRequest:
    """Read a request that is about to be changed; others wait until this unit is over."""
    return _needed(repository.find(unit, request_id, hold=True), request_id)


def _needed(request: RefundRequest | None, request_id: str) -> RefundRequest:
    if request is None:
        raise RequestUnknown(
            f"there is no refund request {request_id}: `refundry refund list` shows them", request=request_id
        )
    return request


find = repository.find
many = repository.many
but_for_waiting = repository.but_for_waiting
attempts = repository.attempts
page = repository.page
tally = repository.tally
due_lanes = repository.due_lanes
next_due = repository.next_due
counts = repository.counts
unknown = repository.unknown
failed = repository.failed
flying = repository.flying
all_on_the_way = repository.all_on_the_way
in_doubt = repository.in_doubt
leased = repository.leased
open_breaks = repository.open_breaks
any_going_on = repository.any_going_on
replaced_by = repository.replaced_by
of_charge = repository.of_charge
__all__ = [
    "IN_LINE",
    "Claimed",
    "Intent",
    "Receipt",
    "Received",
    "RequestUnknown",
    "StateForbids",
    "Tally",
    "Told",
    "adopt",
    "all_on_the_way",
    "allow_repeat",
    "allowable",
    "any_going_on",
    "asks_as_before",
    "attempts",
    "behind_unknown",
    "but_for_waiting",
    "claim",
    "come_back",
    "counts",
    "due_lanes",
    "end_leases",
    "expedite",
    "failed",
    "fetch",
    "find",
    "flying",
    "follow_payment",
    "followed",
    "foresee",
    "foresee_again",
    "found",
    "go_on",
    "heard",
    "hold_disputed",
    "hold_undecided",
    "in_doubt",
    "judge",
    "judge_again",
    "last_attempt",
    "leased",
    "let_go",
    "lift_disputed",
    "look_age",
    "look_needed",
    "make_wait",
    "many",
    "messages",
    "name_refund",
    "need",
    "next_due",
    "notice",
    "of_charge",
    "open_breaks",
    "page",
    "payment_failed",
    "postpone",
    "put_in_line",
    "receive",
    "record",
    "refuse",
    "refuse_disputed",
    "release",
    "renew",
    "reopen",
    "repeats_by_now",
    "replaced_by",
    "resolve",
    "say_not_paid",
    "sayable_in",
    "send_back",
    "standing_here",
    "stop",
    "submit",
    "suspect",
    "tally",
    "unknown",
    "waits_for",
    "waits_in_line",
    "withdraw",
]  # fmt: skip
