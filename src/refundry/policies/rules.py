"""Eligibility: may this refund be paid at all? Pure; the order of the checks is Stripe's where it is known (stripe-facts 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from refundry.accounts.model import Connect
from refundry.charges.model import REQUEST_ID, TICKET_ID, Charge
from refundry.kernel.errors import AmountInvalid
from refundry.kernel.money import Money, checked
from refundry.kernel.outcome import SeenRefund
from refundry.policies.model import Decision, Facts, Verdict, Wait

DAY = 86_400
# How far back a refund by others with the same amount is taken for a possible repeat.
REPEAT_DAYS = 30
# What a run does about siblings, and a plan does not.
WAITING = ": waiting for them"
# What to do about a row that is not as it was planned: a file whose plan was applied cannot be planned again.
ANEW = "have it decided anew by `refundry batch retry`"

Check = Callable[[Facts, Charge], Decision | None]


def decide(facts: Facts) -> Decision:
    """Decide about a request from a fresh look at its charge."""
    charge = facts.charge
    if charge is None:
        return _refuse(
            "charge_unknown", "Stripe has no such charge in this account and mode: check the id, and whose it is"
        )
    for check in CHECKS:
        if (decision := check(facts, charge)) is not None:
            return decision
    amount = _amount(facts, charge)
    return Decision(Verdict.APPROVE, "eligible", f"{Money(amount, charge.currency)} can be refunded", amount)


def connect_of(charge: Charge, asked: Connect, usual: Connect) -> Connect:
    """Tell the Connect flags that a refund of a charge carries: as asked, else as is set for its account.

    What is set for the account is meant for charges that have a transfer, or a fee: on others Stripe would refuse the flag.
    """
    reverse, fee = asked.reverse_transfer, asked.refund_application_fee
    if reverse is None and charge.destination is not None:
        reverse = usual.reverse_transfer
    if fee is None and charge.application_fee:
        fee = usual.refund_application_fee
    return Connect(reverse, fee)


def undecided(charge: Charge, connect: Connect) -> Decision | None:
    """Refuse a destination charge whose flags nobody has decided, or not both ways; `None`, if they can be sent.

    Without the flags the platform alone would pay it back, and the connected account would keep its money (stripe-facts 9): that is
    nothing to guess.
    """
    if charge.destination is None:
        return None
    reverse, fee = connect.reverse_transfer, connect.refund_application_fee
    missing = ["reverse_transfer"] if reverse is None else []
    missing += ["refund_application_fee"] if fee is None and charge.application_fee else []
    if missing:
        told, settings = " and ".join(missing), " and ".join(f"__{name.upper()}" for name in missing)
        return _refuse(
            "connect_undecided",
            f"{charge.id} is a destination charge, {charge.destination} got the money, and nobody has decided on {told}: write true "
            f"or false in the row, or set it for the account ({settings} of REFUNDRY_STRIPE or REFUNDRY_ACCOUNTS__NAME)",
        )
    if fee and not reverse:
        return _refuse(
            "connect_fee_alone",
            f"Stripe gives the fee of the destination charge {charge.id} back only together with the transfer: set "
            "refund_application_fee to false, or reverse_transfer to true",
        )
    return None


def _amount(facts: Facts, charge: Charge) -> int:
    """Tell what is paid: the amount asked for, or all that is unrefunded and unreserved."""
    if facts.asked_minor is not None:
        return facts.asked_minor
    return charge.unrefunded_minor - facts.reserved_minor


def _refuse(code: str, text: str) -> Decision:
    return Decision(Verdict.REFUSE, code, text)


def _changed(facts: Facts, charge: Charge) -> Decision | None:
    """What was planned is paid as it was planned, or not at all."""
    if facts.expected is None:
        return None
    told = "; ".join(charge.changes(facts.expected))
    if not told:
        return None
    return _refuse("changed_since_plan", f"{charge.id} has changed since the plan: {told}; {ANEW}")


def _failed(_: Facts, charge: Charge) -> Decision | None:
    if charge.status == "failed":
        return _refuse("charge_failed", f"the payment {charge.id} failed: nothing was paid, nothing can be given back")
    return None


def _uncaptured(_: Facts, charge: Charge) -> Decision | None:
    if charge.captured:
        return None
    if charge.refunded_minor:
        return _refuse(
            "charge_uncaptured",
            f"{charge.id} was only authorised, and is released: nothing was paid, nothing can be given back",
        )
    return _refuse(
        "charge_uncaptured",
        f"{charge.id} is only authorised, not captured: cancel the payment intent instead (--cancel-uncaptured)",
    )


def _currency(facts: Facts, charge: Charge) -> Decision | None:
    if facts.currency == charge.currency:
        return None
    return _refuse(
        "currency_wrong",
        f"asked for {facts.currency.upper()}, and {charge.id} was paid in {charge.currency.upper()}: "
        "a refund is in the charge's currency",
    )


def _disputed(facts: Facts, charge: Charge) -> Decision | None:
    """A chargeback takes the money itself; an inquiry ends with a full refund, and a partial one may be lost twice."""
    for dispute in charge.disputes:
        if not dispute.refundable:
            return _refuse(
                "charge_disputed",
                f"{charge.id} has a chargeback ({dispute.id}, {dispute.status}): the bank takes the money itself, a refund "
                "would pay it twice",
            )
        if dispute.inquiry and not facts.allow_inquiry:
            return _refuse(
                "charge_under_inquiry",
                f"{charge.id} has an open inquiry ({dispute.id}): a full refund settles it; ask for it with --allow-inquiry",
            )
        if dispute.inquiry and facts.asked_minor not in {None, charge.unrefunded_minor}:
            return _refuse(
                "charge_under_inquiry",
                f"{charge.id} has an open inquiry ({dispute.id}): only a full refund settles it, a partial one may be lost "
                "twice",
            )
    if charge.disputed and not charge.disputes:
        # Stripe says that there is a dispute and we have not seen which: never pay into the dark.
        return _refuse("charge_disputed", f"{charge.id} is disputed, and Stripe did not show how: look at it in Stripe")
    return None


def _connected(facts: Facts, charge: Charge) -> Decision | None:
    return undecided(charge, facts.connect)


def _refunded(_: Facts, charge: Charge) -> Decision | None:
    if charge.unrefunded_minor > 0:
        return None
    return _refuse("charge_already_refunded", f"{charge.id} has been refunded in full: nothing is left to give back")


def _readable(facts: Facts, charge: Charge) -> Decision | None:
    if facts.asked_minor is None:
        return None
    try:
        checked(facts.asked_minor, charge.currency)
    except AmountInvalid as error:
        return _refuse(error.code, error.message)
    return None


def _too_old(facts: Facts, charge: Charge) -> Decision | None:
    if not facts.age_max_days or facts.now - charge.created_at <= facts.age_max_days * DAY:
        return None
    days = int((facts.now - charge.created_at) // DAY)
    return _refuse(
        "charge_too_old",
        f"{charge.id} is {days} days old, more than the {facts.age_max_days} that are allowed (REFUNDRY_PAY__AGE_MAX_DAYS)",
    )


def _beyond(facts: Facts, charge: Charge) -> Decision | None:
    if facts.asked_minor is None or facts.asked_minor <= charge.unrefunded_minor:
        return None
    asked, left = Money(facts.asked_minor, charge.currency), Money(charge.unrefunded_minor, charge.currency)
    if facts.planned_full:
        return _refuse(
            "changed_since_plan", f"{asked} was left on {charge.id} when it was planned, and {left} is: {ANEW}"
        )
    return _refuse("amount_exceeds_refundable", f"asked for {asked}, {left} is left on {charge.id}: lower the amount")


def seen_repeat(facts: Facts, charge: Charge) -> Decision | None:
    """A refund that somebody else made may be the one that is asked for here; this request's own never is."""
    told = [
        f"{refund.id} has already given back {Money(refund.amount_minor, charge.currency)} on {charge.id}, and {whose}"
        for refund, whose in _repeats(facts, charge)
    ]
    if not told:
        return None
    # All of them: what a person allows is what was named.
    text = f"{'; '.join(told)}: allow it with --allow-repeat, or withdraw it"
    return Decision(Verdict.HOLD, "possible_repeat", text, wait=Wait.POSSIBLE_REPEAT)


def _repeats(facts: Facts, charge: Charge) -> Iterator[tuple[SeenRefund, str]]:
    for refund in charge.refunds:
        # What pays a request that a person has allowed is allowed with it.
        if refund.id in facts.allowed or refund.metadata.get(REQUEST_ID) in facts.allowed:
            continue
        if refund.over or refund.metadata.get(REQUEST_ID) == facts.request:
            continue
        if REQUEST_ID not in refund.metadata:
            if _same(facts, charge, refund):
                yield refund, "it was not made here"
        elif _same_ticket_by_another_key(facts, refund):
            yield refund, "it is for the same ticket"


def unread(facts: Facts, charge: Charge, told: str) -> bool:
    """Tell whether a request seems to repeat something that a text does not name, by its refund or by its request."""
    names = [{refund.id, refund.metadata.get(REQUEST_ID, refund.id)} for refund, _ in _repeats(facts, charge)]
    names += [
        {twin, *(refund.id for refund in charge.refunds if refund.metadata.get(REQUEST_ID) == twin)}
        for twin in _twins(facts)
    ]
    return any(not any(name in told for name in some) for some in names)


def named(facts: Facts, charge: Charge) -> frozenset[str]:
    """Tell the refunds and requests, by id, that a request seems to repeat at this moment: what a person allows is kept by these."""
    return frozenset({*(refund.id for refund, _ in _repeats(facts, charge)), *_twins(facts)})


def _same_ticket_by_another_key(facts: Facts, refund: SeenRefund) -> bool:
    """One ticket may name one charge in two ways, and so have two keys: the other may have been paid by another installation.

    Whatever its amount: by one name, a second amount would be refused for having the same key.
    """
    return not facts.keyed and facts.ticket_id is not None and refund.metadata.get(TICKET_ID) == facts.ticket_id


def _twin(facts: Facts, charge: Charge) -> Decision | None:
    """The same ticket may have come by two sources that name the charge differently; only its own key tells two refunds apart."""
    told = [f"request {twin} is for the same ticket and gives back some of {charge.id} too" for twin in _twins(facts)]
    if not told:
        return None
    text = f"{'; '.join(told)}: allow it with --allow-repeat, or withdraw it"
    return Decision(Verdict.HOLD, "possible_repeat", text, wait=Wait.POSSIBLE_REPEAT)


def _twins(facts: Facts) -> list[str]:
    return [twin for twin in facts.twins if twin not in facts.allowed]


def _same(facts: Facts, charge: Charge, refund: SeenRefund) -> bool:
    if facts.ticket_id is not None and refund.metadata.get(TICKET_ID) == facts.ticket_id:
        return True
    recent = facts.now - refund.created_at <= REPEAT_DAYS * DAY
    wanted = charge.unrefunded_minor if facts.asked_minor is None else facts.asked_minor
    return recent and refund.amount_minor in {wanted, charge.captured_minor}


def repeated(facts: Facts, charge: Charge) -> Decision | None:
    """Tell what a request seems to repeat at this moment; `None`, if nothing."""
    refund, twin = seen_repeat(facts, charge), _twin(facts, charge)
    if refund is None or twin is None:
        return refund or twin
    return replace(refund, text=f"{refund.text}; and {twin.text}")


def _reserved(facts: Facts, charge: Charge) -> Decision | None:
    """Short only because of what other requests have claimed: wait until they are over, it may be enough then."""
    left = charge.unrefunded_minor - facts.reserved_minor
    wanted = 1 if facts.asked_minor is None else facts.asked_minor
    if wanted <= left:
        return None
    return Decision(
        Verdict.HOLD,
        "sibling",
        f"other requests have claimed {Money(facts.reserved_minor, charge.currency)} of {charge.id}{WAITING}",
        wait=Wait.SIBLING,
    )


CHECKS: tuple[Check, ...] = (
    _changed,
    _failed,
    _uncaptured,
    _currency,
    _connected,
    _disputed,
    _refunded,
    _readable,
    _too_old,
    _beyond,
    seen_repeat,
    _twin,
    _reserved,
)
