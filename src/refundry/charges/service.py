"""Keeping the mirror: looks that began before the last change of a charge are dropped, never applied."""

from __future__ import annotations

from collections.abc import Sequence

from refundry.charges import repository
from refundry.charges.model import Charge
from refundry.gateways.base import Look
from refundry.infra.db import Unit
from refundry.kernel.outcome import SeenRefund


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
    kept = repository.lock(unit, {look.charge.id for look in looks}) if looks else {}
    for look in looks:
        held = kept.get(look.charge.id)
        if held is not None and look.began_at <= unit.now < max(held[0], held[1] or 0.0):
            # What we know is from the future: the clock was set back since. By that order no look would ever count again.
            repository.untouch(unit, look.charge.id)
        elif held is not None and (look.began_at <= held[0] or (held[1] is not None and look.began_at < held[1])):
            continue
        fresh.append(mirrored(account, look, order_key))
    if fresh:
        repository.save(unit, fresh)
    for charge in fresh:
        repository.save_refunds(unit, account, charge.refunds, charge.looked_at or 0.0)


def take_refund(unit: Unit, account: str, refund: SeenRefund, at: float) -> None:
    """Take in one refund that Stripe answered with; the charge needs a new look before anything else is paid on it."""
    # The charge first, as everywhere, so that two units never wait for each other.
    hold_still(unit, refund.charge)
    repository.touch(unit, refund.charge, at)
    repository.save_refunds(unit, account, [refund], at)


def hold_still(unit: Unit, charge: str) -> None:
    """Hold a charge's row until the unit is over, so that two requests cannot both claim what is left.

    On SQLite every unit that may write is alone anyway.
    """
    if unit.postgres:
        repository.lock(unit, [charge])


find = repository.find
by_order = repository.by_order
by_payment_intent = repository.by_payment_intent
refund_of = repository.refund_of
touch = repository.touch
window = repository.window
save_window = repository.save_window


def distrust_future_looks(unit: Unit, account: str) -> int:
    """Have charges looked at again whose last look is dated in the future: the clock was set back since.

    When that time has come, such a look would pass for a fresh one, however old it is by then. For whoever begins to work.
    """
    return repository.forget_future_looks(unit, account)
