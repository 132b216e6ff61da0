"""Keeping the mirror: looks that began before the last change of a charge are dropped, never applied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from refundry.charges import repository
from refundry.charges.model import Charge
from refundry.charges.rules import order_message, order_refunded, told_of
from refundry.gateways.base import Look
from refundry.infra.db import Unit
from refundry.kernel.outcome import SeenRefund
from refundry.outbox import service as outbox
from refundry.outbox.model import Cause, Kind, Message, OrderTold
from refundry.outbox.rules import ordering_key


def mirrored(account: str, look: Look, order_key: str) -> Charge:
    """Turn a look into our mirror's form."""
    seen = look.charge
    return Charge(
        id=seen.id,
        account=account,
        payment_intent=seen.payment_intent,
        order_id=seen.metadata.get(order_key),
        currency=seen.currency,
        amount_minor=seen.amount_minor,
        captured_minor=seen.captured_minor,
        refunded_minor=seen.refunded_minor,
        status=seen.status,
        captured=seen.captured,
        disputed=seen.disputed,
        created_at=seen.created_at,
        looked_at=look.began_at,
        destination=seen.destination,
        application_fee=seen.application_fee,
        refunds=look.refunds,
        disputes=look.disputes,
        fee_minor=seen.fee_minor,
        fee_currency=seen.fee_currency,
    )


def mirror(unit: Unit, account: str, looks: Sequence[Look], order_key: str) -> None:
    """Take looks in, those that nothing has overtaken; a refund that was once seen is never forgotten.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        looks: Whole looks, with all refunds.
        order_key: The metadata key that holds the order id.
    """
    fresh = []
    kept = repository.held(unit, [look.charge.id for look in looks]) if looks else {}
    for look in looks:
        held = kept.get(look.charge.id)
        if held is not None and look.began_at <= unit.now and unit.yet_to_come(max(held[0], held[1] or 0.0)):
            # What we know is from the future: the clock was set back since. By that order no look would ever count again.
            repository.untouch(unit, look.charge.id)
        elif held is not None and (look.began_at <= held[0] or (held[1] is not None and look.began_at < held[1])):
            continue
        fresh.append(mirrored(account, look, order_key))
    if fresh:
        repository.save(unit, fresh)
    for charge in fresh:
        repository.save_refunds(unit, account, charge.refunds, charge.looked_at or 0.0)
        tell_order(unit, charge.id)


def take_refund(unit: Unit, account: str, refund: SeenRefund, at: float) -> SeenRefund:
    """Take in one refund that Stripe answered with; the charge needs a new look before anything else is paid on it. Tells it as it is kept."""
    # The charge first, as everywhere, so that two units never wait for each other.
    hold_still(unit, refund.charge)
    repository.touch(unit, refund.charge, at)
    (kept,) = repository.save_refunds(unit, account, [refund], at)
    tell_order(unit, refund.charge)
    return kept


def tell_order(unit: Unit, charge: str) -> None:
    """Have the order system told what the charge's order has given back by now, should that have changed; called wherever the mirror has."""
    outbox.note(unit, Cause(charge, Kind.ORDER_CHANGED))


def order_messages(
    unit: Unit, orders: Collection[tuple[str, str | None]], family: Sequence[Charge], told: Mapping[str, OrderTold]
) -> list[Message]:
    """Compose the messages of those orders that have given back something else than the world was told.

    Args:
        unit: The open unit.
        orders: Account and order of what has changed.
        family: All charges of these orders.
        told: What was told before, by ordering key; the keys are held, and orders whose key is not have nothing to tell.
    """
    out, changed = [], {}
    for account, order in sorted((account, order) for account, order in orders if order is not None):
        refunded = order_refunded([one for one in family if (one.account, one.order_id) == (account, order)])
        key = ordering_key(account, order, "")
        after = told_of(refunded, told[key], unit.now) if refunded is not None and key in told else None
        if refunded is not None and after is not None:
            changed[key] = after
            out.append(order_message(account, order, refunded, after.version, unit.now))
    if changed:
        outbox.save_told(unit, changed)
    return out


def hold_still(unit: Unit, charge: str) -> None:
    """Hold a charge's row until the unit is over, so that two requests cannot both claim what is left.

    On SQLite every unit that may write is alone anyway.
    """
    repository.fetch(unit, [charge], hold=True)


def hold(unit: Unit, ids: Iterable[str]) -> None:
    """Read charges and hold their rows until the unit is over, all in one step."""
    repository.fetch(unit, ids, hold=True)


def hold_free(unit: Unit, ids: Iterable[str]) -> set[str]:
    """Read charges and hold their rows until the unit is over, where no other unit holds them; tells which.

    For whoever holds requests already: charges are held before requests everywhere else, so one must not be waited for then.
    """
    return repository.hold_free(unit, ids)


def fetch(
    unit: Unit, account: str, *, ids: Iterable[str], orders: Iterable[str], payment_intents: Iterable[str]
) -> None:
    """Read together what will be asked for one by one."""
    repository.fetch(unit, ids, hold=False)
    repository.fetch_named(unit, account, "order_id", orders)
    repository.fetch_named(unit, account, "payment_intent", payment_intents)


def overtaken(unit: Unit, refund: SeenRefund, began_at: float) -> bool:
    """Tell whether a read of a refund says something else than one that ended after it had begun: then nobody knows which is newer.

    Args:
        unit: The open unit, which holds the charge.
        refund: As it was read.
        began_at: When that read began, by the database's clock.
    """
    known = repository.refunds_known(unit, [refund.id]).get(refund.id)
    # What was seen in the future was dated by a clock that was set back since.
    return (
        known is not None
        and known.refund.status != refund.status
        and began_at <= known.seen_at
        and not unit.yet_to_come(known.seen_at)
    )


find = repository.find
many = repository.many
refunds_known = repository.refunds_known
refunds_open = repository.refunds_open
any_refund = repository.any_refund
first_of_ours = repository.first_of_ours
leaving = repository.leaving
refunds_unknown = repository.refunds_unknown
set_origin = repository.set_origin
by_order = repository.by_order
by_payment_intent = repository.by_payment_intent
last_looks = repository.last_looks
looked_at = repository.looked_at
refund_of = repository.refund_of
orders_of = repository.orders_of
families = repository.families
touch = repository.touch
window = repository.window
save_window = repository.save_window


def distrust_future_looks(unit: Unit, account: str) -> int:
    """Have charges looked at again whose last look is dated in the future: the clock was set back since.

    When that time has come, such a look would pass for a fresh one, however old it is by then. For whoever begins to work.
    """
    return repository.forget_future_looks(unit, account)
