"""How a batch is told: its counts as `--json` has them, and in words, with a reason for each row that is not paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from refundry import bootstrap
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, Standing, Totals
from refundry.batches.service import Outlook, Stuck
from refundry.cli import output
from refundry.cli.session import Local
from refundry.infra import inspection
from refundry.infra.db import Unit
from refundry.refunds import service as refunds

# A file can have as many reasons as rows; the report has them all.
REASONS_MAX = 12
GOES_ON = "`refundry serve`, `refundry worker` or the command that began it goes on"
NOBODY = f"nobody executes: {GOES_ON}"
HELD = "the account is held, and nothing is paid until its key works: {}"
WORDS = {
    Standing.PAID: "paid",
    Standing.REFUSED: "refused",
    Standing.FAILED: "failed at Stripe",
    Standing.UNKNOWN: "unknown",
    Standing.WAITING: "waiting",
}


def examples(unit: Unit, batch: Batch, totals: Totals) -> dict[str, tuple[int, str]]:
    """Find a row for each reason: its number and what was said about it. Stops as soon as every reason has one."""
    found: dict[str, tuple[int, str]] = {}
    if not totals.reasons:
        return found
    for one in batches.lines(unit, batch):
        if one.code in totals.reasons and one.code not in found:
            found[one.code] = (one.row.number, one.text)
            if len(found) == len(totals.reasons):
                break
    return found


def facts(
    batch: Batch, totals: Totals, run: Mapping[str, Any] | None = None, *, outlook: Outlook | None = None
) -> dict[str, Any]:
    """Write a batch for `--json`. What only a run knows is `null` for those who look at it later."""
    counts = totals.told()
    of_run = run or {"stripe_calls": None, "rate_limited": None, "seconds": None}
    schedule = asdict(outlook) if outlook else None
    return {
        "batch_id": batch.id, "file": batch.name, "state": stands(batch, totals), **counts, "schedule": schedule, **of_run,
    }  # fmt: skip


def stands(batch: Batch, totals: Totals) -> str:
    """Tell where a batch stands: `accepted`, `running`, `waiting` (nothing moves by itself), `done`, `paused`, `withdrawn`."""
    if batch.state is not BatchState.RUNNING or totals.moving:
        return batch.state.value
    return "waiting" if totals.standings[Standing.WAITING] or totals.standings[Standing.UNKNOWN] else "done"


def executing(local: Local, unit: Unit, account: str) -> bool:
    """Tell whether any process works on an account's requests, or would."""
    if refunds.leased(unit, account):
        return True
    if unit.postgres:
        return bool(inspection.postgres_facts(unit).workers)
    lock = bootstrap.lock_of(local.settings)
    return lock is not None and lock.taken()


def words(
    batch: Batch,
    totals: Totals,
    why: Mapping[str, tuple[int, str]],
    where: str,
    outlook: Outlook | None = None,
    *,
    stuck: Stuck | None = None,
    nobody: bool = False,
    held: str = "",
) -> None:
    """Write a batch for people, on stdout; `stuck` tells of rows that a person keeps waiting, `nobody` that no process executes, `held` why none may."""
    output.line(output.wrapped(f"Batch {batch.id[:8]} ({batch.name}), {stands(batch, totals)}, {where}", hanging=2))
    counts = [
        f"{output.number(totals.standings[s])} {WORDS[s]}"
        for s in Standing
        if totals.standings[s] or s is Standing.PAID
    ]
    output.line(f"  {output.counted(totals.rows, 'row')}: {', '.join(counts)}")
    pending = f" ({output.counted(totals.pending, 'refund')} pending at Stripe)" if totals.pending else ""
    if totals.requested:
        output.line(f"  paid {output.amounts(totals.paid)} of {output.amounts(totals.requested)}{pending}")
    if outlook is not None:
        output.line(output.wrapped(f"schedule: {outlook.schedule}", indent=2, hanging=4))
        if outlook.halted or outlook.text:
            waits = f"halted: {outlook.halted}" if outlook.halted else outlook.text
            output.line(output.wrapped(waits, indent=2, hanging=4))
    if stuck is not None:
        output.line(output.wrapped(stuck.text, indent=2, hanging=4))
    begun = batch.state in {BatchState.ACCEPTED, BatchState.RUNNING}
    if held and begun and totals.standings[Standing.WAITING]:
        # A process that is started before that is mended does not help.
        output.line(output.wrapped(HELD.format(held), indent=2, hanging=4))
        if nobody:
            output.line(output.wrapped(f"with a key that works, {GOES_ON}", indent=2, hanging=4))
    elif nobody and begun and totals.moving > (stuck.count if stuck else 0):
        told = NOBODY if outlook is not None and not outlook.due else f"due now, and {NOBODY}"
        output.line(output.wrapped(told, indent=2, hanging=4))
    if totals.reasons:
        output.line("  not paid, and why:")
    for code, count in sorted(totals.reasons.items(), key=lambda pair: -pair[1])[:REASONS_MAX]:
        output.line(f"    {output.number(count):>6}  {code}")
        row, text = why.get(code, (0, ""))
        if text:
            output.line(output.wrapped(f"row {row}: {text}", indent=12))
    if len(totals.reasons) > REASONS_MAX:
        output.line(f"    and {len(totals.reasons) - REASONS_MAX} more reasons: see the report")


def advice(batch: Batch, totals: Totals) -> None:
    """Say what can be done now, on stderr."""
    short = batch.id[:8]
    if batch.state is BatchState.PAUSED:
        output.say(f"The batch is paused: `refundry batch resume {short}` goes on.")
    if totals.standings[Standing.PAID] < totals.rows:
        output.say(f"Every row with its reason: `refundry batch report {short} -o report.csv`")


def exit_code(totals: Totals) -> int:
    """Tell the exit code: all paid, or not."""
    return output.DONE if totals.standings[Standing.PAID] == totals.rows else output.PARTLY
