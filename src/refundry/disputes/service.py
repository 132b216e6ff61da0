"""Keeping disputes, and letting them hold what is not paid yet."""

from __future__ import annotations

from collections.abc import Sequence

from refundry.audit import service as audit
from refundry.charges import service as charges
from refundry.disputes import repository
from refundry.disputes.model import DUE_SOON, OPEN, Dispute, FraudWarning, Loss, Phase
from refundry.disputes.rules import loss, phase_of, standing, told
from refundry.gateways.base import SeenDispute, SeenWarning
from refundry.infra.db import Unit
from refundry.kernel.actor import SYSTEM
from refundry.kernel.errors import UsageError
from refundry.refunds import service as refunds


class PhaseUnknown(UsageError):  # noqa: N818  # read in a sentence
    """An option names a phase of disputes that is none."""

    code = "dispute_phase_unknown"


def seen(unit: Unit, account: str, charge_id: str, found: Sequence[SeenDispute], began_at: float) -> bool:
    """Take in the disputes that a look at a charge has shown; the look is mirrored already.

    A dispute that is new, or stands otherwise than before, holds the unpaid requests of its charge, lets them go, or rejects them.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        charge_id: The charge.
        found: All its disputes.
        began_at: When the look began, by the database's clock.

    Returns:
        Whether anything was new.
    """
    if not found:
        return False
    charges.hold_still(unit, charge_id)
    known = {dispute.id: dispute for dispute in repository.of_charge(unit, charge_id)}
    now = [_kept(account, charge_id, one, began_at) for one in found]
    # A look that began before one that is kept was overtaken by it.
    now = [one for one in now if one.id not in known or not _overtaken(unit, one, known[one.id])]
    fresh = [one for one in now if one.id not in known or known[one.id].status != one.status]
    repository.save(unit, now)
    for dispute in fresh:
        facts = {"dispute": dispute.id, "status": dispute.status, "amount_minor": dispute.amount_minor}
        audit.record(unit, SYSTEM, f"dispute.{dispute.phase}", charge_id, {**facts, "currency": dispute.currency})
    if fresh:
        _follow(unit, charge_id)
    return bool(fresh)


def _overtaken(unit: Unit, one: Dispute, known: Dispute) -> bool:
    return one.seen_at < known.seen_at and not unit.yet_to_come(known.seen_at)


def _kept(account: str, charge: str, one: SeenDispute, began_at: float) -> Dispute:
    return Dispute(
        one.id, account, charge, one.status, phase_of(one), one.amount_minor, one.currency, one.reason, one.created_at,
        one.due_at, began_at,
    )  # fmt: skip


def _follow(unit: Unit, charge_id: str) -> None:
    """Hold, free or reject what waits on a charge, by all its disputes."""
    charge, disputes = charges.find(unit, charge_id), repository.of_charge(unit, charge_id)
    if charge is None:
        return
    match standing(disputes):
        case Phase.LOST:
            lost = next(dispute for dispute in disputes if dispute.phase is Phase.LOST)
            text = f"the dispute {lost.id} of {charge_id} is lost: the bank has given the money back, a refund would pay it twice"
            refunds.refuse_disputed(unit, charge, text)
        case Phase.CHARGEBACK | Phase.INQUIRY as phase:
            worst = next(dispute for dispute in disputes if dispute.phase is phase)
            opened = min(dispute.opened_at for dispute in disputes if dispute.phase in OPEN)
            refunds.hold_disputed(
                unit, charge, opened, told(charge_id, worst), full_settles=phase is Phase.INQUIRY
            )  # fmt: skip
        case _:
            refunds.lift_disputed(unit, charge)


def lost_twice(unit: Unit, charge_id: str) -> tuple[Loss, str, list[Dispute]] | None:
    """Tell what has left twice for a charge, in which currency, and by which disputes; `None`, if it has none."""
    disputes = repository.of_charge(unit, charge_id)
    charge = charges.find(unit, charge_id) if disputes else None
    return None if charge is None else (loss(charge, disputes), charge.currency, disputes)


def stand_here(unit: Unit, told_of: Sequence[tuple[str, str | None]]) -> set[tuple[str, str | None]]:
    """Tell which of what is told of disputes stands here already: each one's id and status, as it is told."""
    known = {one.id: one for one in repository.of_ids(unit, {dispute for dispute, _ in told_of})}
    return {(one, status) for one, status in told_of if one in known and known[one].status == status}


def warned(unit: Unit, account: str, found: Sequence[SeenWarning]) -> None:
    """Take in early fraud warnings."""
    known = repository.warnings_known(unit, [one.id for one in found])
    repository.save_warnings(
        unit,
        [FraudWarning(one.id, account, one.charge, one.fraud_type, one.actionable, one.created_at) for one in found],
    )
    for one in found:
        if one.id not in known:
            facts = {"warning": one.id, "fraud_type": one.fraud_type, "actionable": one.actionable}
            audit.record(unit, SYSTEM, "fraud_warning.seen", one.charge, facts)


def page(
    unit: Unit, account: str, phases: Sequence[str], most: int, after: str | None = None
) -> tuple[list[Dispute], list[FraudWarning]]:
    """Read the disputes of an account, the last opened first, and its early fraud warnings, the newest first.

    Args:
        unit: The open unit.
        account: Whose.
        phases: Of disputes; without any those that are open.
        most: How many of each.
        after: The dispute or the warning behind which to go on: then only of that kind.

    Raises:
        PhaseUnknown: There is no such phase.
        UsageError: `place_unknown`.
    """
    known = {phase.value for phase in Phase}
    for phase in phases:
        if phase not in known:
            raise PhaseUnknown(f"--phase {phase} is none: {', '.join(Phase)}", option="--phase")
    wanted = [Phase(phase) for phase in phases] or sorted(OPEN)
    if after is None:
        return repository.page(unit, account, wanted, most, None), repository.warnings(unit, account, most)
    for dispute in repository.of_ids(unit, [after]):
        return repository.page(unit, account, wanted, most, dispute), []
    for warning in repository.warnings_known(unit, [after]).values():
        return [], repository.warnings(unit, account, most, warning)
    raise UsageError(
        f"--after {after:.40} is no place in the list: take the `next` of the page before, as du_… or issfr_…",
        code="place_unknown",
        option="--after",
    )


def due_soon(unit: Unit, account: str) -> list[Dispute]:
    """Tell the open disputes of an account that wait for evidence, and no longer than `DUE_SOON`; the first due first."""
    return repository.due(unit, account, unit.now + DUE_SOON)


count_open = repository.count_open
of_charge = repository.of_charge
of_charges = repository.of_charges
unseen = repository.unseen
warnings = repository.warnings
