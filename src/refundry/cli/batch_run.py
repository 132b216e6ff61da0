"""Paying a batch with a person, or a script, watching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, assert_never

from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, Schedule, batch_id
from refundry.bootstrap import read_file
from refundry.cli import batch_told, output, session
from refundry.cli.progress import LOOKING_SHARE, REST_SECONDS_MAX, Progress, Seen
from refundry.cli.schedule_options import changed, previewed, scheduled
from refundry.cli.work import Work, working
from refundry.connectors.base import AmountKind, FileOpened, ParsedRow, ReadOptions, amount_asked
from refundry.infra import loop
from refundry.infra.db import Unit
from refundry.infra.settings import Settings
from refundry.kernel.errors import RefundryError, UsageError
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason
from refundry.worker.executor import REFUND

LOOK_SECONDS = 0.5


class Again(StrEnum):
    """Why a batch goes on."""

    RESUME = "resume"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a command waits for a batch.

    Args:
        patience_seconds: It ends when all that is left waits for longer than this.
        none: It does not wait at all.
    """

    patience_seconds: float
    none: bool = False


class NotConfirmed(UsageError):  # noqa: N818
    """The totals were shown, and nobody has said yes.

    Args:
        message: What to do.
        asked: The totals, for `--json`.
    """

    code = "not_confirmed"

    def __init__(self, message: str, asked: dict[str, Any]) -> None:
        super().__init__(message)
        self.asked = asked

    def told(self) -> dict[str, object]:
        """Tell it with the totals."""
        return {**super().told(), **self.asked}


def pay_file(
    path: Path,
    reading: ReadOptions,
    *,
    yes: bool,
    allow_repeat: frozenset[int],
    wait: Wait,
    schedule: Schedule | None = None,
    account: str | None = None,
    as_json: bool,
) -> int:
    """Take a file in, and pay it."""
    settings = session.settings()
    _ = settings.key
    file = read_file(path, options=reading)
    for assumption in file.assumed:
        output.say(f"{file.name}: {assumption}")
    check_rows(file, allow_repeat)
    understood = previewed(schedule, file.row_count) if schedule is not None else ""
    if not yes:
        raise _unconfirmed(file, understood, _taken_before(settings, file, account))

    async def pay() -> int:
        async with working(settings, account) as work:
            ready = await work.desk.writer.aside(lambda: batches.ready(file))

            def taken(unit: Unit) -> tuple[Batch, bool, str]:
                before, new = batches.accept(unit, work.desk.account.name, ready, file.options, session.person())
                after = scheduled(unit, before, schedule, session.person())
                return after, new, changed(before.schedule, after.schedule, unit.now)

            batch, new, note = await work.desk.writer.put(taken, long=True)
            output.say(f"{_taken(batch)} {'was taken in' if new else _here(batch)}: batch {batch.id[:8]}")
            if note:
                output.say(note)
            return await followed(work, batch, allow_repeat, wait, as_json=as_json)

    return loop.run(pay())


def check_rows(file: FileOpened, allow_repeat: frozenset[int]) -> None:
    """See that the rows that are allowed by number are there.

    Raises:
        UsageError: The file has fewer rows.
    """
    beyond = [row for row in sorted(allow_repeat) if row > file.row_count]
    if beyond:
        raise UsageError(
            f"--allow-repeat {beyond[0]}: {file.name} has {output.counted(file.row_count, 'row')}",
            option="--allow-repeat",
            row=beyond[0],
        )


def _here(batch: Batch) -> str:
    match batch.state:
        case BatchState.WITHDRAWN:
            return "was withdrawn, and nothing more of it is paid"
        case BatchState.PAUSED:
            return "is here already, and paused"
        case _:
            return "is here already, and goes on"


def _taken(batch: Batch) -> str:
    return f"{batch.name} ({output.counted(batch.row_count, 'row')})"


def _taken_before(settings: Settings, file: FileOpened, account: str | None) -> Batch | None:
    """Find the batch of a file that may be paid already; none, where nobody can tell without asking Stripe."""
    kept = settings.database.removeprefix("sqlite:///")
    if kept != settings.database and not Path(kept).exists():
        # Nothing is made for who only looks.
        return None
    with suppress(RefundryError), session.local(account) as local, local.database.reading() as unit:
        batch = batches.find(unit, batch_id(local.name, file.sha256, file.options))
        return None if batch is None or batch.state is BatchState.PLANNED else batch
    return None


def _unconfirmed(file: FileOpened, schedule: str, before: Batch | None) -> NotConfirmed:
    """Show what a file asks for, as far as it says so itself, and when it would be paid, and refuse to pay it yet."""
    asked: Counter[str] = Counter()
    unreadable = full = unpriced = 0
    why = ""
    for row in file.rows():
        if not isinstance(row, ParsedRow):
            unreadable += 1
            why = why or f"row {row.number}: {row.message}"
        elif any(amount.kind is AmountKind.FULL for amount in row.amounts):
            full += 1
        elif row.currency is None:
            unpriced += 1
        else:
            try:
                money = amount_asked(row.amounts, row.currency)
            except RefundryError as error:
                unreadable += 1
                why = why or f"row {row.number}: {error.message}"
                continue
            asked[row.currency] += money.minor_units if money else 0
    output.say(f"{file.name}: {output.counted(file.row_count, 'row')}")
    sums = [output.amounts(asked)] if asked or not (full or unpriced) else []
    if full:
        sums.append(output.counted(full, "full refund"))
    if unpriced:
        sums.append(f"{output.counted(unpriced, 'amount')} in the currency of the charge")
    output.say(f"  asks for {', and for '.join(sums)}")
    if unreadable:
        output.say(f"  {output.counted(unreadable, 'row')} cannot be read, and will be refused")
        # One reason is often that of all of them, as a decimal comma, and then nobody has to say yes to see it.
        output.say(f"    {'the first, ' if unreadable > 1 else ''}{why}")
    if file.unknown_columns:
        output.say(f"  columns that mean nothing here, and are kept for the report: {', '.join(file.unknown_columns)}")
    if schedule:
        output.say(f"  to be sent: {schedule}")
    told = {
        "rows": file.row_count,
        "amounts": dict(asked),
        "full": full,
        "without_currency": unpriced,
        "unreadable": unreadable,
        "schedule": schedule,
        "batch_id": before.id if before else None,
    }
    text = "nothing was taken in and nothing was paid: add --yes to pay this file"
    if before is not None:
        # Whoever reads that nothing was paid may pay by hand what is paid here.
        over = before.state is BatchState.WITHDRAWN
        rest = "it was withdrawn, and nothing more of it is paid" if over else "--yes goes on with it"
        text = f"this file was taken in before: `refundry batch status {before.id[:8]}` tells what was paid, and {rest}"
    return NotConfirmed(text, told)


def go_on(prefix: str, again: Again, *, wait: Wait, as_json: bool) -> int:
    """Resume a paused batch, or have its refused rows decided anew, and pay it."""
    settings = session.settings()

    def steer(unit: Unit) -> tuple[Batch, int]:
        batch = batches.need(unit, prefix)
        match again:
            case Again.RESUME:
                return batch, batches.resume(unit, batch, session.person())
            case Again.RETRY:
                return batch, batches.retry(unit, batch, session.person())
            case _:
                assert_never(again)

    with session.local() as local:
        # Known to be there before anything is started; the steering itself is one commit, below.
        with local.database.reading() as unit:
            account = batches.need(unit, prefix).account.partition("|")[0]
        if wait.none:
            with local.database.unit() as unit:
                batch, count = steer(unit)
            return _written(local, batch, again, count, as_json=as_json)

    async def pay() -> int:
        async with working(settings, account) as work:
            batch, count = await work.desk.writer.put(steer, long=True)
            output.say(_said(again, count))
            return await followed(work, batch, frozenset(), wait, as_json=as_json)

    return loop.run(pay())


def _said(again: Again, count: int) -> str:
    match again:
        case Again.RESUME:
            return f"resumed: {output.counted(count, 'row')} may be paid again"
        case Again.RETRY:
            return f"to be decided anew: {output.counted(count, 'row')}"
        case _:
            assert_never(again)


def _written(local: session.Local, batch: Batch, again: Again, count: int, *, as_json: bool) -> int:
    with local.database.reading() as unit:
        batch = batches.need(unit, batch.id)
        totals, outlook = batches.totals(unit, batch), batches.outlook(unit, batch)
    if as_json:
        output.as_json(batch_told.facts(batch, totals, outlook=outlook))
    output.say(_said(again, count))
    return batch_told.exit_code(totals)


async def followed(work: Work, batch: Batch, allow_repeat: frozenset[int], wait: Wait, *, as_json: bool) -> int:
    """Follow a batch to its end, and tell it; tells the exit code."""
    began = work.desk.clock.boot_seconds()
    seen = await (
        _left(work, batch, allow_repeat) if wait.none else paid(work, batch, allow_repeat, wait.patience_seconds)
    )
    batch = await work.read(lambda unit: batches.need(unit, batch.id))
    why = await work.read(lambda unit: batch_told.examples(unit, batch, seen.totals))
    if as_json:
        output.as_json(batch_told.facts(batch, seen.totals, of_run(work, began), outlook=seen.outlook))
    else:
        where = session.where(batch.account, work.desk.settings)
        stuck = await work.read(lambda unit: batches.stuck(unit, batch))
        batch_told.words(batch, seen.totals, why, where, seen.outlook, stuck=stuck)
    if seen.held and seen.totals.moving:
        output.say(f"error: {seen.held} [key_refused]: {work.mend}")
    if seen.in_doubt and seen.next_look_seconds is not None:
        output.say(
            f"{output.counted(seen.in_doubt, 'row')} in doubt: sent, and no answer that can be trusted. The next look is in "
            f"{output.span(seen.next_look_seconds)}; the same command, or `refundry serve`, makes it."
        )
    batch_told.advice(batch, seen.totals)
    if work.interrupted:
        output.say("interrupted: the same command goes on where this one stopped")
        return output.INTERRUPTED
    return batch_told.exit_code(seen.totals)


def of_run(work: Work, began: float) -> dict[str, Any]:
    """Tell what a run itself has done, for `--json`."""
    pacer = work.desk.pacer
    seconds = round(work.desk.clock.boot_seconds() - began, 3)
    return {"stripe_calls": pacer.taken_count, "rate_limited": pacer.limited_count, "seconds": seconds}


async def paid(work: Work, batch: Batch, allow_repeat: frozenset[int], patience: float) -> Seen:
    """Wait until a batch is over, or waits for longer than wanted, or is stopped; shows progress meanwhile."""
    clock = work.desk.clock
    title = f"{batch.name}: {session.place(work.desk.settings)}"
    with Progress(title, clock) as progress:
        work.worker.begin(batch.account, Lane.BULK)
        while True:
            began = clock.boot_seconds()
            seen = await _glance(work, batch)
            progress.show(seen)
            if seen.held or work.interrupted:
                break
            if not seen.totals.moving:
                if not allow_repeat or not await _allowed(work, batch, allow_repeat):
                    break
                work.worker.begin(batch.account, Lane.BULK)
                allow_repeat = frozenset()
            elif (
                not seen.planning
                and not seen.totals.in_line
                and await _sleeps(work, patience)
                # What was on its way may have arrived between the two looks, and then nothing sleeps: the batch is over.
                and (await _glance(work, batch)).totals.moving
            ):
                break
            took = clock.boot_seconds() - began
            await work.rest(rest_after(took))
        if work.interrupted or seen.totals.moving:
            # What was on its way is awaited, and then counted.
            work.stop.set()
            await work.task
            seen = await _glance(work, batch)
            progress.show(seen)
        return seen


def rest_after(took: float) -> float:
    """Tell how long to wait before the next look at a batch, in seconds, after one that took so long."""
    return min(max(LOOK_SECONDS, took / LOOKING_SHARE), REST_SECONDS_MAX)


async def _glance(work: Work, batch: Batch) -> Seen:
    """See how far a batch is."""
    desk = work.desk

    def look(unit: Unit) -> Seen:
        now = batches.find(unit, batch.id)
        totals = batches.totals(unit, now or batch)
        return Seen(
            totals=totals,
            planning=now is not None and now.state is BatchState.ACCEPTED,
            watching=work.worker.watching,
            in_doubt=totals.in_doubt,
            next_look_seconds=None if totals.next_look_at is None else totals.next_look_at - unit.now,
            limit=desk.pacer.rate_now(unit, REFUND),
            limited=desk.pacer.limited_count,
            outlook=batches.outlook(unit, now or batch),
        )

    return replace(await work.read(look), held=await work.held())


async def _sleeps(work: Work, patience: float) -> bool:
    """Tell whether nothing of the account falls due within the time that the person wants to wait."""

    def soonest(unit: Unit) -> float | None:
        due = refunds.next_due(unit, work.desk.account.name)
        return None if due is None else due - unit.now

    left = await work.read(soonest)
    return left is None or left > patience


async def _left(work: Work, batch: Batch, allow_repeat: frozenset[int]) -> Seen:
    """See how far a batch is that others pay, once those of the allowed rows were let go that are held by now."""
    held = await _held(work, batch, allow_repeat)
    if await _allow(work, batch, held):
        output.say(f"no repeats, by your word: {_rows(held)}; a process that works pays what was held")
    seen = await _glance(work, batch)
    later = sorted(allow_repeat.difference(held))
    if later and seen.totals.moving:
        # What is allowed is what was found: before that there is nothing to be kept.
        output.say(
            f"--allow-repeat lets go what is held by now, and not {_rows(later)}: give it again once that is held"
        )
    return seen


def _rows(numbers: Sequence[int]) -> str:
    return f"row{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


async def _allowed(work: Work, batch: Batch, rows: frozenset[int]) -> bool:
    """Let rows go that are held as possible repeats and were allowed by number; tells whether any was."""
    return await _allow(work, batch, await _held(work, batch, rows))


async def _held(work: Work, batch: Batch, rows: frozenset[int]) -> list[int]:
    """Tell which of some rows are held as possible repeats."""

    def held(unit: Unit) -> list[int]:
        return [
            line.row.number
            for line in batches.lines(unit, batch)
            if line.row.number in rows and line.request is not None and line.request.hold is not None
            and line.request.hold.reason is HeldReason.POSSIBLE_REPEAT
        ]  # fmt: skip

    return await work.read(held) if rows else []


async def _allow(work: Work, batch: Batch, numbers: Sequence[int]) -> bool:
    def allow(unit: Unit) -> bool:
        # Not `any`, which would end with the first.
        return sum(batches.allow_repeat(unit, batch, number, session.person()) for number in numbers) > 0

    return bool(numbers) and await work.desk.writer.put(allow, long=True)
