"""What a dispute means for refunds (stripe-facts 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refundry.charges.model import Charge
from refundry.disputes.model import TAKEN, Dispute, Loss, Phase
from refundry.gateways.base import SeenDispute
from refundry.kernel.money import shown

PHASES = {
    "warning_needs_response": Phase.INQUIRY,
    "warning_under_review": Phase.INQUIRY,
    "warning_closed": Phase.CLOSED,
    "needs_response": Phase.CHARGEBACK,
    "under_review": Phase.CHARGEBACK,
    "appeal_needs_response": Phase.CHARGEBACK,
    "appeal_under_review": Phase.CHARGEBACK,
    "prevented": Phase.CLOSED,
    "won": Phase.WON,
    "lost": Phase.LOST,
}


def phase_of(seen: SeenDispute) -> Phase:
    """Tell where a dispute stands. A status that we do not know bars refunds, or lets only a full one through, but is never over."""
    return PHASES.get(seen.status, Phase.INQUIRY if seen.refundable else Phase.CHARGEBACK)


def standing(disputes: Iterable[Dispute]) -> Phase:
    """Tell what all disputes of a charge together mean: the worst of them."""
    phases = {dispute.phase for dispute in disputes}
    order = (Phase.LOST, Phase.CHARGEBACK, Phase.INQUIRY, Phase.WON)
    return next((phase for phase in order if phase in phases), Phase.CLOSED)


def loss(charge: Charge, disputes: Sequence[Dispute]) -> Loss:
    """Tell what has left twice: measured at Stripe, 20.00 refunded in an inquiry that escalates to 100.00 are 120.00 on 100.00.

    A dispute in another currency counts as one over all that was paid: a person is told of too much rather than of nothing.
    """
    taken = sum(
        dispute.amount_minor if dispute.currency == charge.currency else charge.captured_minor
        for dispute in disputes
        if dispute.phase in TAKEN
    )
    refunded = charge.given_back_minor
    beyond = max(refunded + taken - charge.captured_minor, 0)
    # A chargeback alone may be for more than the charge: without a refund nothing was paid twice.
    return Loss(min(beyond, refunded) if taken else 0, refunded, taken)


def told(charge: str, dispute: Dispute) -> str:
    """Say why requests wait."""
    what = (
        f"{charge} has a dispute ({dispute.id}, {dispute.status}) over {shown(dispute.amount_minor, dispute.currency)}"
    )
    if dispute.phase is Phase.INQUIRY:
        return f"{what}, an inquiry: only a full refund settles it, asked for with --allow-inquiry; this one waits until it has ended"
    return f"{what}: the bank has taken the money, a refund would pay it twice; this one waits until it has ended"
