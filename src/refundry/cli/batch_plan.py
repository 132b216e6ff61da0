"""Planning a file: every row checked at Stripe and nothing paid; and paying exactly what was planned."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from refundry import bootstrap
from refundry.batches import service as batches
from refundry.batches.model import DAY_SECONDS, Batch, BatchState, Schedule
from refundry.bootstrap import Desk, read_file
from refundry.charges import service as charges
from refundry.cli import batch_run, output, session
from refundry.cli.batch_run import NotConfirmed, Wait
from refundry.cli.schedule_options import changed, previewed, scheduled
from refundry.cli.work import working
from refundry.connectors.base import FileOpened, ReadOptions, visible
from refundry.gateways.base import GatewayError
from refundry.infra import loop
from refundry.infra.db import Unit
from refundry.kernel.errors import UsageError
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import SeenRefund
from refundry.plans import service as plans
from refundry.plans.model import Plan, PlanRefused, PlanState, hashed
from refundry.worker.executor import REFUND
from refundry.worker.planner import planner_of

TELL_SECONDS = 5.0
# Longer than any row of a plan: more of a line is not read at once.
LINE_MAX = 65_536
REASONS_MAX = 12
STANDARD_INPUT = Path("-")


def plan_file(
    path: Path,
    reading: ReadOptions,
    *,
    allow_repeat: frozenset[int],
    look_max_age: float,
    to: Path | None,
    account: str | None = None,
    as_json: bool,
) -> int:
    """Check every row of a file at Stripe, pay nothing, and keep the plan.

    Args:
        path: The file.
        reading: How it is read.
        allow_repeat: The numbers of rows that are no repeats, though they look like ones.
        look_max_age: How old a look may be when a row is paid, in seconds; zero leaves it to the setting.
        to: Where to write the plan as a file for others to read; nowhere, if `None`.
        account: Which account is meant, with several.
        as_json: One object on stdout instead of words.
    """
    settings = session.settings()
    _ = settings.key
    if to is not None and _is_input(path, to):
        raise UsageError(
            f"{visible(str(to))} is the file that is planned, and would be lost: name another one with -o; nothing was changed",
            code="output_is_input", option="--output",
        )  # fmt: skip
    file = read_file(path, options=reading)
    for assumption in file.assumed:
        output.say(f"{file.name}: {assumption}")
    batch_run.check_rows(file, allow_repeat)

    async def make() -> tuple[Plan, Batch]:
        async with bootstrap.desk(settings, account=account) as desk:
            batch = await _taken_in(desk, file)
            plan = await desk.writer.put(
                lambda unit: plans.begin(unit, desk.ids.new(), batch, look_max_age=look_max_age)
            )
            await _checked(desk, plan, batch, allow_repeat)
            balance = await _balance(desk)
            rate = desk.pacer.rate_of(REFUND)
            made = await desk.writer.put(
                lambda unit: plans.finish(unit, plan, session.person(), balance=balance, rate=rate), long=True
            )
            if to is not None:
                await desk.writer.aside(lambda: _write(desk, made, to))
            return made, batch

    with suppress(AttributeError, OSError):
        # It computes a lot, and nobody is paid by it: what pays on this machine goes first. There is no such thing on Windows.
        os.nice(10)
    plan, batch = loop.run(make())
    if as_json:
        output.as_json(facts(plan, batch))
    else:
        words(plan, batch, session.where(plan.account, settings))
    output.say(f"Nothing was paid. `refundry batch apply {plan.id[:8]} --yes` pays exactly this.")
    return output.DONE if plan.forecast["payable"] == plan.forecast["rows"] else output.PARTLY


async def _taken_in(desk: Desk, file: FileOpened) -> Batch:
    ready = await desk.writer.aside(lambda: batches.ready(file))
    batch, _ = await desk.writer.put(
        lambda unit: batches.accept(unit, desk.account.name, ready, file.options, session.person(), planned=True),
        long=True,
    )
    if batch.state is not BatchState.PLANNED:
        status = f"`refundry batch status {batch.id[:8]}`"
        withdrawn = batch.state is BatchState.WITHDRAWN
        raise PlanRefused(
            f"{batch.name} was withdrawn, and nothing more of it is paid: {status} tells what was"
            if withdrawn
            else f"{batch.name} was taken in already, and needs no plan: {status} tells how far it is",
            code="batch_not_waiting", batch=batch.id,
        )  # fmt: skip
    return batch


async def _checked(desk: Desk, plan: Plan, batch: Batch, allow_repeat: frozenset[int]) -> None:
    pay = desk.settings.pay
    planner = planner_of(desk, desk.seat)
    done = await planner.check(
        plan,
        batch,
        look_max_age=pay.look_max_age,
        age_max_days=pay.age_max_days,
        allow_repeat=allow_repeat,
        until=_teller(desk, plan, batch),
    )
    if not done:
        raise PlanRefused(f"plan {plan.id[:8]} was interrupted", code="plan_unfinished", plan=plan.id)


def _teller(desk: Desk, plan: Plan, batch: Batch) -> Callable[[], bool]:
    """Say now and then how far the checking is."""
    told = desk.clock.boot_seconds()

    def tell() -> bool:
        nonlocal told
        if desk.clock.boot_seconds() - told > TELL_SECONDS:
            told = desk.clock.boot_seconds()
            with desk.database.reading() as unit:
                done = plans.checked(unit, plan)
            output.say(f"checked {output.number(done)} of {output.counted(batch.row_count, 'row')}")
        return False

    return tell


async def _balance(desk: Desk) -> dict[str, int] | None:
    """Ask for the balance, less the refunds that Stripe still shows as available; a key that may not see these can still plan."""
    try:
        available = await desk.gateway.balance()
    except GatewayError:
        return None
    with suppress(GatewayError):
        since = await desk.gateway.leaving_since()
        # As before a batch with `--keep-balance` is paid: others may have refunded, and nobody have followed.
        until = (desk.gateway.stripe_now() or desk.clock.now()) + DAY_SECONDS
        pages = desk.gateway.refunds(since, until, Lane.DESK)
        listed = [refund async for page in pages for refund in page]
        leaving = await desk.writer.aside(lambda: _leaving(desk, since, listed))
        return {currency: amount - leaving.get(currency, 0) for currency, amount in available.items()}
    return available


def _leaving(desk: Desk, since: float, listed: Sequence[SeenRefund]) -> Mapping[str, int]:
    with desk.database.reading() as unit:
        return charges.leaving(unit, desk.account.name, since, listed)


def _is_input(path: Path, to: Path) -> bool:
    """Tell whether what is to be written is the file that is read, by whatever name."""
    with suppress(OSError):
        given = os.fstat(sys.stdin.fileno()) if path == STANDARD_INPUT else path.stat()
        return to.is_file() and os.path.samestat(given, to.stat())
    return False


def _write(desk: Desk, plan: Plan, to: Path) -> None:
    """Write a plan as JSON lines: what it is, and a line for each row as it was hashed."""
    try:
        with output.whole(to) as opened, desk.database.reading() as unit:
            opened.write(json.dumps({"plan": plan.id, "hash": plan.hash, "header": plan.header}) + "\n")
            opened.writelines(row.written + "\n" for row in plans.rows(unit, plan.id))
    except OSError as error:
        raise UsageError(
            f"the plan is made and kept as {plan.id[:8]}, but {visible(str(to))} cannot be written ({error.strerror}): apply it by its id",
            code="output_unwritable", option="--output", plan=plan.id,
        ) from error  # fmt: skip


def apply_plan(named: str, *, yes: bool, wait: Wait, schedule: Schedule | None = None, as_json: bool) -> int:
    """Pay exactly what was planned.

    Args:
        named: The plan's id, the beginning of it, or the file that `batch plan -o` wrote.
        yes: Pay it; without, only the totals are shown.
        wait: How long to wait.
        schedule: When its rows may be sent, if not at once.
        as_json: One object on stdout instead of words.

    Raises:
        NotConfirmed: The totals were shown, and nobody has said yes.
        PlanUnknown: There is no such plan in this database.
        PlanRefused: It was altered, is of another account, or must not be paid for another reason.
        ScheduleInvalid: The batch cannot keep that schedule; nothing was applied.
    """
    settings = session.settings()
    prefix, digest = _read(Path(named)) if _is_file(named) else (named, None)
    with session.local() as local, local.database.reading() as unit:
        plan = plans.need(unit, prefix)
        plans.verified(unit, plan, local.among(plan.account))
        if digest not in {None, plan.hash}:
            # It fits its own hash, which whoever alters a file can compute anew: what is paid is the plan that is kept here.
            raise PlanRefused(
                f"{Path(named).name} is not as it was written: its hash is not that of plan {plan.id[:8]}; nothing was paid, plan the file again",
                code="plan_altered", plan=plan.id,
            )  # fmt: skip
        batch = batches.need(unit, plan.batch)
    understood = previewed(schedule, batch.row_count) if schedule is not None else ""
    if not yes:
        if not as_json:
            words(plan, batch, session.where(plan.account, settings))
        if understood:
            output.say(f"  to be sent: {understood}")
        text = "nothing was paid: add --yes to pay this plan"
        if plan.state is PlanState.APPLIED:
            # Whoever reads that nothing was paid may pay by hand what is paid here.
            text = f"this plan was applied already: `refundry batch status {batch.id[:8]}` tells what was paid, and --yes goes on with it"
        raise NotConfirmed(text, facts(plan, batch) | {"schedule": understood})

    async def pay() -> int:
        async with working(settings, plan.account.partition("|")[0]) as work:
            account = work.desk.account.name

            def applied(unit: Unit) -> tuple[Batch, str]:
                before = plans.apply(unit, plan, account, session.person())
                after = scheduled(unit, before, schedule, session.person())
                return after, changed(before.schedule, after.schedule, unit.now)

            batch, note = await work.desk.writer.put(applied, long=True)
            output.say(f"plan {plan.id[:8]} of {batch.name} is applied: batch {batch.id[:8]}")
            if note:
                output.say(note)
            return await batch_run.followed(work, batch, frozenset(), wait, as_json=as_json)

    return loop.run(pay())


def _is_file(named: str) -> bool:
    try:
        return Path(named).is_file()
    except OSError:
        # Whatever cannot be the name of a file, as one that is too long.
        return False


def _read(path: Path) -> tuple[str, str]:
    """Check a plan's file against its own hash; tells the plan's id and that hash.

    Raises:
        UsageError: It is no plan.
        PlanRefused: It was altered.
    """
    try:
        with path.open(encoding="utf-8") as opened:
            head = json.loads(opened.readline(LINE_MAX))
            plan, digest, header = (str(head[name]) for name in ("plan", "hash", "header"))
            found = hashed(header, (line.rstrip("\n") for line in iter(partial(opened.readline, LINE_MAX), "")))
            same = json.loads(header)[0] == plan
    except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
        raise UsageError(
            f"{path.name} is not a plan that `refundry batch plan -o` wrote: to pay a file of refunds, use `refundry batch run`",
            code="plan_unreadable",
            option="PLAN",
        ) from error
    if found != digest or not same:
        raise PlanRefused(
            f"{path.name} is not as it was written: its rows do not fit its hash; nothing was paid, plan the file again",
            code="plan_altered", plan=plan,
        )  # fmt: skip
    return plan, digest


def facts(plan: Plan, batch: Batch) -> dict[str, Any]:
    """Write a plan for `--json`; amounts in minor units, times in seconds."""
    return {
        "plan_id": plan.id, "hash": plan.hash, "batch_id": batch.id, "file": batch.name, "account": plan.account,
        "state": plan.state.value, "made_at": plan.made_at, "look_max_age": plan.look_max_age, **plan.forecast,
    }  # fmt: skip


def words(plan: Plan, batch: Batch, where: str) -> None:
    """Write a plan for people, on stdout."""
    told: Any = plan.forecast
    output.line(
        output.wrapped(f"Plan {plan.id[:8]} of {batch.name}, made {output.moment(plan.made_at)}, {where}", hanging=2)
    )
    output.line(f"  {output.counted(told['rows'], 'row')}: {output.number(told['payable'])} payable, "
                f"{output.number(told['refused'])} refused, {output.number(told['repeats'])} possible repeats")  # fmt: skip
    for currency, funds in told["amounts"].items():
        output.line(f"  pays {output.money(funds['payable'], currency)}{_balance_told(funds, currency)}")
    for known, note in (
        ("fees_kept", ""),
        ("fees_kept_estimated", ", an estimate: their balance transactions are not known"),
    ):
        if told[known]:
            output.line(
                output.wrapped(f"Stripe keeps its fees: {output.amounts(told[known])}{note}", indent=2, hanging=4)
            )
    if told["seconds"] is None:
        output.line("  no limit is set: as fast as Stripe answers")
    else:
        output.line(f"  takes {output.span(told['seconds'])} at {told['refunds_per_second']:g} refunds a second")
    if told["reasons"]:
        output.line("  not payable, and why:")
    for code, count in sorted(told["reasons"].items(), key=lambda pair: -pair[1])[:REASONS_MAX]:
        output.line(f"    {output.number(count):>6}  {code}")
        # A plan that an older program made has none.
        if example := told.get("examples", {}).get(code):
            output.line(output.wrapped(f"row {example['row']}: {example['text']}", indent=12))
    for known, advice in (
        ("repeat_rows", "plan again with --allow-repeat ROW for those that are none"),
        ("unnamed_rows", "for those that are none give a ticket_id or a request_key in the file, and plan that"),
    ):
        # A plan that an older program made knows only the first.
        if rows := told.get(known):
            some = ", ".join(str(row) for row in rows[:REASONS_MAX]) + (" and more" if len(rows) > REASONS_MAX else "")
            output.line(output.wrapped(f"possible repeats: rows {some}; {advice}", indent=2, hanging=4))


def _balance_told(funds: dict[str, Any], currency: str) -> str:
    if funds["balance"] is None:
        # It may not see it, or Stripe did not answer: which of them is not kept.
        return "; the balance could not be read"
    told = f"; the balance has {output.money(funds['balance'], currency)}"
    if funds["dry_at_row"] is None:
        return told
    when = "" if funds["dry_after_seconds"] is None else f", after {output.span(funds['dry_after_seconds'])}"
    return f"{told}, and runs dry at row {output.number(funds['dry_at_row'])}{when}"
