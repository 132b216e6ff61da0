"""Disputes and early fraud warnings shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from refundry.cli import output, session
from refundry.disputes import service as disputes


def show_all(phases: Sequence[str], account: str | None, *, limit: int, after: str | None, as_json: bool) -> int:
    """Show disputes and warnings.

    Raises:
        UsageError: `dispute_phase_unknown`, `place_unknown`.
    """
    with session.local(account) as local, local.database.reading() as unit:
        # One more than is shown tells whether there are more.
        found, warnings = disputes.page(unit, local.name, phases, limit + 1, after)
        now = unit.now
    more = [page[limit - 1].id if len(page) > limit else None for page in (found, warnings)]
    found, warnings = found[:limit], warnings[:limit]
    if as_json:
        told = [asdict(one) | {"phase": one.phase.value, "amount": one.amount_minor} for one in found]
        pages = {"disputes": told, "fraud_warnings": [asdict(one) for one in warnings]}
        output.as_json({**pages, "next": dict(zip(pages, more, strict=True))})
        return output.DONE
    if found:
        rows = [
            [
                one.id, one.charge, output.money(one.amount_minor, one.currency), one.phase.value, one.reason,
                output.lasting(now - one.opened_at), output.moment(one.due_at) if one.due_at else "",
            ]
            for one in found
        ]  # fmt: skip
        output.table(["dispute", "charge", "amount", "phase", "reason", "age", "evidence until"], rows, right=(2, 5))
    elif after is None:
        output.line("There are no disputes.")
    if warnings:
        if after is None:
            output.line()
        rows = [
            [
                one.id,
                one.charge,
                one.fraud_type,
                "yes" if one.actionable else "no",
                output.lasting(now - one.created_at),
            ]
            for one in warnings
        ]
        output.table(["fraud warning", "charge", "type", "actionable", "age"], rows, right=(4,))
    for what, place in zip(("disputes", "fraud warnings"), more, strict=True):
        if place is not None:
            output.say(f"more {what}: --after {place}")
    return output.DONE
