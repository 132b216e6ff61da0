"""Disputes and early fraud warnings shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from refundry.cli import output, session
from refundry.disputes import service as disputes


def show_all(phases: Sequence[str], account: str | None, *, limit: int, as_json: bool) -> int:
    """Show disputes and warnings."""
    with session.local(account) as local, local.database.reading() as unit:
        # One more than is shown tells whether there are more.
        found = disputes.page(unit, local.name, phases, limit + 1)
        warnings, now = disputes.warnings(unit, local.name, limit + 1), unit.now
    more = max(len(found), len(warnings)) > limit
    found, warnings = found[:limit], warnings[:limit]
    if as_json:
        told = [asdict(one) | {"phase": one.phase.value, "amount": one.amount_minor} for one in found]
        output.as_json({"disputes": told, "fraud_warnings": [asdict(one) for one in warnings]})
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
    else:
        output.line("There are no disputes.")
    if warnings:
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
    if more:
        output.say("there are more than are shown: a higher --limit (up to 1000) shows them")
    return output.DONE
