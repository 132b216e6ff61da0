"""Steering a batch that another process may be paying: its first commit is seen by that process at once, however many rows there are."""

from __future__ import annotations

from collections.abc import Callable

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchDone, BatchState, Standing, Totals
from refundry.cli import batch_told, output, session
from refundry.infra.db import Unit


def show_all(account: str | None, *, as_json: bool) -> int:
    """Show the batches of an account, the newest first."""
    with session.local(account) as local, local.database.reading() as unit:
        told = [(batch, batches.totals(unit, batch)) for batch in batches.every(unit, local.name, list(BatchState))]
        outlooks = [batches.outlook(unit, batch) for batch, _ in told]
    if as_json:
        facts = [
            batch_told.facts(batch, totals, outlook=outlook) | {"created_at": batch.created_at}
            for (batch, totals), outlook in zip(told, outlooks, strict=True)
        ]
        output.as_json({"batches": facts})
        return output.DONE
    if not told:
        output.line("There are no batches yet: `refundry batch run FILE` shows what a file asks for.")
        return output.DONE
    rows = [
        [
            batch.id[:8], f"{output.moment(batch.created_at)[:16]}", batch_told.stands(batch, totals), output.number(totals.rows),
            output.number(totals.standings[Standing.PAID]), output.number(totals.rows - totals.standings[Standing.PAID]),
            output.amounts(totals.paid), batch.name,
        ]
        for batch, totals in told
    ]  # fmt: skip
    output.table(
        ["id", "taken in (UTC)", "state", "rows", "paid", "not paid", "amount paid", "file"], rows, right=(3, 4, 5, 6)
    )
    return output.DONE


def status(prefix: str, *, as_json: bool) -> int:
    """Count a batch."""
    with session.local() as local, local.database.reading() as unit:
        batch = batches.need(unit, prefix)
        return _told(local, unit, batch, as_json=as_json)


def pause(prefix: str, *, as_json: bool) -> int:
    """Stop a batch."""
    return _steered(
        prefix,
        lambda unit, batch: batches.pause(unit, batch, session.person()),
        "paused: {} will not be sent; what was on its way is awaited",
        as_json=as_json,
    )


def withdraw(prefix: str, why: str, *, as_json: bool) -> int:
    """Take back what was not sent."""
    return _steered(
        prefix,
        lambda unit, batch: batches.withdraw(unit, batch, session.person(), why),
        "withdrawn: {}; what Stripe has already stays",
        as_json=as_json,
    )


def _steered(prefix: str, verb: Callable[[Unit, Batch], int], words: str, *, as_json: bool) -> int:
    with session.local() as local:
        with local.database.unit() as unit:
            batch = batches.need(unit, prefix)
            if batch.state in {BatchState.ACCEPTED, BatchState.RUNNING}:
                _not_done(unit, batch)
            batches.hold_up(unit, batch, session.person())
        with local.database.unit() as unit:
            count = verb(unit, batches.need(unit, prefix))
        output.say(words.format(output.counted(count, "row")))
        with local.database.reading() as unit:
            _told(local, unit, batches.need(unit, prefix), as_json=as_json)
    return output.DONE


def _not_done(unit: Unit, batch: Batch) -> None:
    totals = batches.totals(unit, batch)
    if totals.standings[Standing.PAID] == totals.rows:
        raise BatchDone(
            f"batch {batch.id[:8]} ({batch.name}) is done: all of its {output.counted(totals.rows, 'row')} are paid, and nothing is left to "
            "pause or to take back",
            batch=batch.id,
        )


def _told(local: session.Local, unit: Unit, batch: Batch, *, as_json: bool) -> int:
    totals: Totals = batches.totals(unit, batch)
    outlook = batches.outlook(unit, batch)
    if as_json:
        output.as_json(batch_told.facts(batch, totals, outlook=outlook))
    else:
        why, where = batch_told.examples(unit, batch, totals), session.where(batch.account, local.settings)
        nobody, held = not batch_told.executing(local, unit, batch.account), accounts.held_text(unit, batch.account)
        batch_told.words(batch, totals, why, where, outlook, stuck=batches.stuck(unit, batch), nobody=nobody, held=held)
        batch_told.advice(batch, totals)
    return batch_told.exit_code(totals)
