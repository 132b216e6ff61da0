"""One refund, from the question to Stripe's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from refundry import bootstrap
from refundry.audit import service as audit
from refundry.batches import service as batches
from refundry.batches.model import Verdict, Wanted
from refundry.batches.service import Missing
from refundry.bootstrap import Desk
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.cli import output, refund_told, session
from refundry.cli.work import Work, working
from refundry.connectors.base import (
    ORDER_CHARACTERS_MAX,
    REQUEST_KEY_CHARACTERS_MAX,
    TICKET_CHARACTERS_MAX,
    AmountKind,
    AmountText,
    NameInvalid,
    Reference,
    ReferenceKind,
    amount_asked,
    check_name,
    check_written,
)
from refundry.gateways.base import Look
from refundry.infra import loop
from refundry.infra.db import Needs, Unit
from refundry.infra.settings import Settings
from refundry.infra.writer import NOTHING
from refundry.kernel.errors import AmountInvalid, CurrencyUnknown, InvariantViolated, UsageError
from refundry.kernel.lane import Lane
from refundry.kernel.money import exponent
from refundry.policies.model import Decision
from refundry.policies.model import Verdict as Judgement
from refundry.refunds import service as refunds
from refundry.refunds.model import REOPENABLE, HeldReason, RefundRequest, State
from refundry.refunds.service import Receipt
from refundry.worker.planner import planner_of

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
OPTIONS = {
    ReferenceKind.CHARGE_ID: "--charge",
    ReferenceKind.PAYMENT_INTENT: "--payment-intent",
    ReferenceKind.ORDER_ID: "--order",
}
LOOK_SECONDS = 0.05
# A person is told that an answer is late once, not every moment.
TELL_AFTER_SECONDS = 3.0
WORKED_ON = (State.RECEIVED, State.APPROVED, State.SUBMITTING)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed.

    Args:
        references: By kind (`ReferenceKind`); one of them.
        amounts: By kind (`AmountKind`); one of them.
        account: Which account is meant, with several.
    """

    references: Mapping[str, str | None]
    amounts: Mapping[str, str | None]
    currency: str | None
    reason: str
    ticket: str | None
    key: str | None
    allow_repeat: bool
    allow_inquiry: bool
    allow_fraudulent: bool
    cancel_uncaptured: bool
    reverse_transfer: bool | None = None
    refund_application_fee: bool | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What Stripe shows of what was asked for; nothing of the look is kept yet.

    Args:
        missing: The references that lead to no charge, and why.
        charge: The charge, if there is one.
        look: The look at it; `None`, if it has been mirrored by now.
    """

    missing: Mapping[Reference, Missing]
    charge: str | None = None
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A charge was found, and the request that was made of it."""

    charge: Charge
    request: RefundRequest


def create(asked: Asked, *, dry_run: bool, patience_seconds: float, as_json: bool) -> int:
    """Ask for one refund, and follow it until it is over, or waits for something."""
    settings = session.settings()
    _ = settings.key
    wanted = wanted_of(asked)

    async def run() -> int:
        if dry_run:
            async with bootstrap.desk(settings, account=asked.account) as desk:
                return await _foreseen(desk, asked, wanted, as_json=as_json)
        async with working(settings, asked.account) as work:
            return await _created(work, asked, wanted, patience_seconds, as_json=as_json)

    return loop.run(run())


# What was typed


def wanted_of(asked: Asked) -> Wanted:
    """See that what was typed can be understood.

    Raises:
        UsageError: It cannot; nothing was looked up.
    """
    kind, value = _one(asked.references, "--charge, --payment-intent or --order")
    amount = AmountText(*_amount(asked.amounts))
    currency = asked.currency.strip().lower() if asked.currency is not None else None
    try:
        check_written(amount)
        if currency is not None:
            exponent(currency)
            amount_asked([amount], currency)
    except (AmountInvalid, CurrencyUnknown) as error:
        raise UsageError(error.message, code=error.code) from error
    if asked.reason not in REASONS:
        raise UsageError(
            f"--reason {asked.reason:.40} is not one of Stripe's: {', '.join(REASONS)}", code="reason_unknown"
        )
    if asked.reason == "fraudulent" and not asked.allow_fraudulent:
        raise UsageError(
            "the reason fraudulent puts the customer on your block lists at Stripe: add --allow-fraudulent if that is meant",
            code="reason_fraudulent",
        )
    called = OPTIONS[ReferenceKind(kind)]
    return Wanted(
        references=(Reference(ReferenceKind(kind), _name(value, called, ORDER_CHARACTERS_MAX, any_form=True)),),
        amounts=(amount,),
        ticket_id=_name(asked.ticket, "--ticket", TICKET_CHARACTERS_MAX) if asked.ticket is not None else None,
        request_key=_name(asked.key, "--key", REQUEST_KEY_CHARACTERS_MAX) if asked.key is not None else None,
        reason=asked.reason,
        currency=currency,
        metadata={},
        refund_application_fee=asked.refund_application_fee,
        reverse_transfer=asked.reverse_transfer,
    )


def _one(given: Mapping[str, str | None], names: str) -> tuple[str, str]:
    said = [(kind, text) for kind, text in given.items() if text is not None]
    if len(said) != 1:
        raise UsageError(f"give one of {names}, and {'only one' if said else 'one is missing'}", code="usage")
    return said[0]


def _amount(given: Mapping[str, str | None]) -> tuple[AmountKind, str]:
    kind, text = _one(given, "--full, --amount or --amount-minor")
    return AmountKind(kind), text.strip()


def _name(text: str, option: str, most: int, *, any_form: bool = False) -> str:
    kept = text.strip()
    if not kept:
        raise UsageError(f"{option} is empty: say which one is meant", code="usage")
    try:
        check_name(kept, option, most, any_form=any_form)
    except NameInvalid as error:
        raise UsageError(error.message, code=error.code) from error
    return kept


# Looking and deciding


async def look_up(desk: Desk, asked: Asked, wanted: Wanted) -> Seen:
    """Find the charge and look at it: all its refunds, its disputes.

    Raises:
        UsageError: There is no charge, or more than one, or the amount is none in its currency.
    """
    (reference,) = wanted.references
    planner, began = planner_of(desk, desk.seat, Lane.DESK), desk.clock.now() + desk.database.offset
    if reference.kind is ReferenceKind.CHARGE_ID:
        # Looked at whether it is known here or not: nothing has to be read before, and a person waits.
        look = await planner.look(reference.value)
        return Seen({reference: look}) if isinstance(look, Missing) else Seen({}, reference.value, look)
    missing = await planner.find(wanted.references)

    def known() -> tuple[str, bool]:
        with desk.database.reading() as unit:
            charge = found(unit, desk, Seen(missing), asked, wanted).charge
            # One that was not known here was looked at just now, to find it.
            return charge.id, not charge.stale and began <= (charge.looked_at or 0.0) <= unit.now

    charge, looked = await desk.writer.aside(known)
    if looked:
        return Seen({}, charge)
    look = await planner.look(charge)
    return Seen({reference: look}) if isinstance(look, Missing) else Seen({}, charge, look)


def found(unit: Unit, desk: Desk, seen: Seen, asked: Asked, wanted: Wanted) -> Found:
    """Keep what was seen, and tell by it what is asked for: in the unit that goes on with it, since each commit is a wait.

    Raises:
        UsageError: See `look_up`.
    """
    account, access = desk.seat.account, desk.seat.access
    if seen.look is not None:
        charges.mirror(unit, account.name, [seen.look], access.order_key)
    judged = batches.resolve(unit, account.name, wanted, seen.missing, account.mode, desk.seat.connect)
    if isinstance(judged, Verdict):
        raise UsageError(judged.text, code=judged.code)
    charge = charges.find(unit, judged.content.charge)
    if charge is None:
        raise InvariantViolated(f"{judged.content.charge} was found and is not mirrored")
    allowed = refunds.allowable(unit, judged) if asked.allow_repeat else judged.allowed
    return Found(charge, replace(judged, lane=Lane.DESK, allowed=allowed, allow_inquiry=asked.allow_inquiry))


def needs_of(seen: Seen) -> Needs:
    """Tell what the unit needs in which a request is taken in."""
    return Needs(seen.charge) if seen.charge is not None else NOTHING


async def _foreseen(desk: Desk, asked: Asked, wanted: Wanted, *, as_json: bool) -> int:
    """Tell what would be decided; nothing is kept but what was seen."""
    seen, age = await look_up(desk, asked, wanted), desk.settings.pay.age_max_days

    def foreseen(unit: Unit) -> tuple[Found, Decision, RefundRequest | None]:
        it = found(unit, desk, seen, asked, wanted)
        before = None if asked.cancel_uncaptured and _releasable(it.charge) else _asked_before(unit, it.request, asked)
        if before is None or not _decided_anew(before, asked):
            return it, refunds.foresee(unit, it.request, known=True, age_max_days=age), before
        decision = refunds.foresee_again(
            unit, before, allow_repeat=asked.allow_repeat, allow_inquiry=asked.allow_inquiry, age_max_days=age
        )
        return it, decision, None

    it, decision, before = await desk.writer.put(foreseen, needs=needs_of(seen))
    charge, pays = it.charge, decision.verdict is Judgement.APPROVE
    if before is not None:
        output.say(f"this refund was asked for before: refund request {before.id}")
        if as_json:
            output.as_json(
                refund_told.facts(before) | {"dry_run": True, "decision": Receipt.SAME.value, "cancels_payment": False}
            )
        else:
            output.line(output.wrapped(refund_told.sentence(before)))
        output.say("dry run: nothing was asked for, and nothing was paid")
        return refund_told.exit_code(before)
    cancels = asked.cancel_uncaptured and _releasable(charge) and not charge.refunded_minor
    if as_json:
        told = refund_told.facts(it.request)
        told |= {"dry_run": True, "decision": decision.verdict.value, "code": decision.code, "why": decision.text}
        output.as_json(told | {"amount": decision.amount_minor, "cancels_payment": cancels})
    else:
        output.line(output.wrapped(_seen(charge, desk.settings)))
        if pays:
            told_so = f"would pay {output.money(decision.amount_minor, charge.currency)}"
        elif cancels:
            told_so = f"would cancel the payment {charge.payment_intent}: it is only authorised"
        else:
            told_so = f"would not pay: {decision.text}"
        output.line(output.wrapped(told_so))
        output.say("dry run: nothing was asked for, and nothing was paid")
    return output.DONE if pays or cancels else output.PARTLY


def _asked_before(unit: Unit, wanted: RefundRequest, asked: Asked) -> RefundRequest | None:
    """Tell the request that is the same; `None`, if there is none, or if it would ask for another charge than before.

    Raises:
        UsageError: See `take_in`.
    """
    kept = refunds.find(unit, wanted.id)
    if kept is not None and _paid_by_another(unit, kept, wanted):
        return None
    if kept is not None:
        _see_that_it_is_the_same(kept, wanted, asked)
    return kept


def _decided_anew(kept: RefundRequest, asked: Asked) -> bool:
    held = kept.hold.reason if kept.hold is not None else None
    return kept.state in REOPENABLE or (asked.allow_repeat and held is HeldReason.POSSIBLE_REPEAT)


def _seen(charge: Charge, settings: Settings) -> str:
    order = f", order {charge.order_id}" if charge.order_id else ""
    if _releasable(charge):
        released = output.money(charge.refunded_minor, charge.currency)
        told = f"{output.money(charge.amount_minor, charge.currency)} authorised and not captured, {released} released before"
    else:
        given = output.money(charge.given_back_minor, charge.currency)
        told = f"{output.money(charge.captured_minor, charge.currency)} captured, {given} given back before"
    return f"{charge.id}{order}: {told} ({session.where(charge.account, settings)})"


def _releasable(charge: Charge) -> bool:
    return not charge.captured and charge.status != "failed"


# Paying


async def _created(work: Work, asked: Asked, wanted: Wanted, patience: float, *, as_json: bool) -> int:
    desk = work.desk
    seen = await look_up(desk, asked, wanted)
    charge, taken = await desk.writer.put(lambda unit: received(unit, desk, seen, asked, wanted), needs=needs_of(seen))
    output.say(_seen(charge, desk.settings))
    if taken is None:
        return await _canceled(desk, charge, as_json=as_json)
    request, new = taken
    work.worker.begin(request.account, request.lane)
    if not new:
        output.say(f"this refund was asked for before: refund request {request.id}")
    output.say(f"refund request {request.id}: {refund_told.amount(request)}, {request.content.reason}")
    request, held = await _over(work, request.id, patience)
    if as_json:
        output.as_json(refund_told.facts(request))
    else:
        output.line(output.wrapped(refund_told.sentence(request)))
        if afterwards := await desk.writer.put(lambda unit: refund_told.afterwards(unit, request)):
            output.say(afterwards)
    if held and request.state in WORKED_ON:
        output.say(f"error: {held} [key_refused]: {work.mend}")
    if work.interrupted and request.state in WORKED_ON:
        output.say("interrupted: the request is kept; the same command, or any process that works, goes on with it")
        return output.INTERRUPTED
    return refund_told.exit_code(request)


def received(
    unit: Unit, desk: Desk, seen: Seen, asked: Asked, wanted: Wanted
) -> tuple[Charge, tuple[RefundRequest, bool] | None]:
    """Keep what was seen, and take the request in; tells the charge, and the request unless the payment is to be canceled instead.

    Raises:
        UsageError: See `look_up` and `take_in`.
    """
    it = found(unit, desk, seen, asked, wanted)
    cancels = asked.cancel_uncaptured and _releasable(it.charge)
    return it.charge, None if cancels else take_in(unit, it.request, asked)


def take_in(unit: Unit, wanted: RefundRequest, asked: Asked) -> tuple[RefundRequest, bool]:
    """Take the request in, or find the one that is the same.

    Raises:
        UsageError: `same_key_other_content`; `possible_repeat`, where neither ticket nor key tells it from one that was paid.
    """
    actor = session.person()
    (got,) = refunds.receive(unit, [wanted], actor)
    kept = got.request
    if got.receipt is Receipt.NEW:
        return kept, True
    if _paid_by_another(unit, kept, wanted) and refunds.follow_payment(unit, wanted, actor):
        kept = refunds.need(unit, kept.id)
    _see_that_it_is_the_same(kept, wanted, asked)
    if kept.state in REOPENABLE:
        # Asked for again by a person, after it was refused or withdrawn: it is decided anew.
        refunds.reopen(unit, kept.id, actor, allow_repeat=asked.allow_repeat, allow_inquiry=asked.allow_inquiry)
    elif asked.allow_repeat:
        refunds.allow_repeat(unit, kept.id, actor)
    # Whoever has typed it waits for it, also where a file had asked for it first, whose turn may be days away.
    return refunds.expedite(unit, kept.id, actor), False


def _paid_by_another(unit: Unit, kept: RefundRequest, wanted: RefundRequest) -> bool:
    """Tell whether the payment of a request has failed, and the same order or payment intent leads to another charge by now.

    A ticket's key names what was typed. One of the caller's own may have been given to another payment by mistake, so that both have to be
    charges of one payment intent.
    """
    if not refunds.asks_as_before(kept, wanted) or kept.content.charge == wanted.content.charge:
        return False
    before, now = (charges.find(unit, one.content.charge) for one in (kept, wanted))
    same = before is not None and now is not None and before.payment_intent == now.payment_intent is not None
    return same or not kept.keyed


def _see_that_it_is_the_same(kept: RefundRequest, wanted: RefundRequest, asked: Asked) -> None:
    """See that what is asked for is what a request that has its key already asks for.

    Raises:
        UsageError: See `take_in`.
    """
    if kept.content.fingerprint != wanted.content.fingerprint:
        content = kept.content
        told = f"{refund_told.amount(kept)} of {content.charge}, {content.reason}"
        raise UsageError(
            f"refund request {kept.id} has the same ticket or key and asks for something else ({told}): nothing was changed; give this "
            "one a --key of its own if it is another refund",
            code="same_key_other_content",
            request=kept.id,
        )
    named = asked.ticket is not None or asked.key is not None
    if not named and not asked.allow_repeat and kept.state not in (*WORKED_ON, *REOPENABLE):
        raise UsageError(
            f"refund request {kept.id} already asks for the same amount of this charge, and is {kept.state}: give --ticket or --key if "
            f"this is another refund (`refundry refund show {kept.id}` shows it)",
            code="possible_repeat",
            request=kept.id,
        )


async def _over(work: Work, request_id: str, patience: float) -> tuple[RefundRequest, str]:
    """Wait until a request is over or held, or sleeps for longer than wanted; tells it, and why its account is held."""
    began, told = work.desk.clock.boot_seconds(), False
    turns = work.worker.turns_of(request_id)
    while True:
        request, other, now = await work.read(lambda unit: (*_with_other(unit, request_id), unit.now))
        held = await work.held()
        later = request.due_at - now
        if other is not None:
            later = max(later, inf if other.state is State.OUTCOME_UNKNOWN else other.due_at - now)
        if request.state not in WORKED_ON or request.hold is not None or held or work.interrupted or later > patience:
            break
        if not told and work.desk.clock.boot_seconds() - began > TELL_AFTER_SECONDS:
            told = True
            output.say(_waits(work, request, later))
        await work.rest(LOOK_SECONDS, turns)
    if work.interrupted:
        await work.task
        request = await work.read(lambda unit: refunds.need(unit, request_id))
    return request, held


def _with_other(unit: Unit, request_id: str) -> tuple[RefundRequest, RefundRequest | None]:
    """Read a request, and the other one of its charge that it waits for."""
    request = refunds.need(unit, request_id)
    return request, refunds.waits_for(unit, request)


def _waits(work: Work, request: RefundRequest, later: float) -> str:
    if work.worker.watching:
        return "another process is paying on this database; this one waits for it"
    if request.state is State.SUBMITTING and later > 0:
        return f"no answer yet that can be trusted; the next look is in {output.span(later)}"
    return "working …"


async def _canceled(desk: Desk, charge: Charge, *, as_json: bool) -> int:
    """Release a payment that is only authorised: there is nothing to refund."""
    if charge.payment_intent is None:
        raise UsageError(
            f"{charge.id} is only authorised and has no payment intent that could be canceled: it is released by itself, or in Stripe's "
            "dashboard",
            code="charge_uncaptured",
            charge=charge.id,
        )
    facts = {"charge": charge.id, "payment_intent": charge.payment_intent}
    if charge.refunded_minor:
        # Canceled before, or expired: Stripe would refuse to cancel it again.
        output.say(f"the payment {charge.payment_intent} was released before: nothing was changed")
    else:
        # The same key for the same payment: asked for twice at once, it is canceled once.
        await desk.gateway.cancel_payment_intent(charge.payment_intent, f"cancel.{charge.payment_intent}")
        await desk.writer.put(
            lambda unit: audit.record(unit, session.person(), "payment_intent.canceled", charge.id, dict(facts))
        )
    if as_json:
        output.as_json(
            {**facts, "state": "payment_canceled", "amount": charge.amount_minor, "currency": charge.currency}
        )
    else:
        released = output.money(charge.amount_minor, charge.currency)
        output.line(
            output.wrapped(
                f"canceled: the payment {charge.payment_intent} was only authorised; {released} are released, nothing had been paid"
            )
        )
    return output.DONE
