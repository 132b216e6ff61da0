"""`refundry batch`: a file of refunds, paid once, watched, steered, and reported row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.file_options import FileName, with_file_options
from refundry.cli.output import AsJson, said
from refundry.cli.schedule_options import with_schedule_options
from refundry.connectors.base import ReadOptions

if TYPE_CHECKING:
    from refundry.batches.model import Schedule

app = typer.Typer(help="Files of refunds.", no_args_is_help=True)

PATIENCE_SECONDS = 900.0
Id = Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the beginning of it.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Only write it down; a process that works (serve, worker, batch run) does it.")
]
Patience = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="End when all that is left waits for longer than this, as rows in doubt may. A schedule is waited for.",
    ),
]


@app.command("run", epilog="example: refundry batch run refunds.csv --yes")
@with_file_options
@with_schedule_options
def run(
    file: FileName,
    *,
    reading: ReadOptions,
    schedule: Schedule | None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay it. Without, only the totals are shown.")] = False,
    allow_repeat: Annotated[
        list[int] | None,
        typer.Option(metavar="ROW", min=1, help="This row is no repeat, though it looks like one; may be given again."),
    ] = None,
    no_wait: NoWait = False,
    patience: Patience = PATIENCE_SECONDS,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Pay a file. Running it again, or twice at once, goes on with the same work: no row is paid twice."""
    from refundry.cli import batch_run

    return batch_run.pay_file(
        file,
        reading,
        yes=yes,
        allow_repeat=frozenset(allow_repeat or []),
        wait=batch_run.Wait(patience, none=no_wait),
        schedule=schedule,
        account=account,
        as_json=as_json,
    )


@app.command("plan", epilog="example: refundry batch plan refunds.csv -o plan.jsonl")
@with_file_options
def plan(
    file: FileName,
    *,
    reading: ReadOptions,
    allow_repeat: Annotated[
        list[int] | None,
        typer.Option(metavar="ROW", min=1, help="This row is no repeat, though it looks like one; may be given again."),
    ] = None,
    look_max_age: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            min=0,
            max=60,
            help="How old the plan's look at a charge may be when it is paid, where no event came since; the setting by default.",
        ),
    ] = 0.0,
    to: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the plan, row by row, for others to read."),
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Check every row at Stripe and pay nothing: what would be paid, what not and why, what it costs and how long it takes."""
    from refundry.cli import batch_plan

    return batch_plan.plan_file(
        file,
        reading,
        allow_repeat=frozenset(allow_repeat or []),
        look_max_age=look_max_age * 60,
        to=to,
        account=account,
        as_json=as_json,
    )


@app.command("apply", epilog="example: refundry batch apply 7c1e --yes")
@with_schedule_options
def apply(
    plan: Annotated[
        str,
        typer.Argument(metavar="PLAN", help="The plan's id, the beginning of it, or the file that `plan -o` wrote."),
    ],
    *,
    schedule: Schedule | None,
    yes: Annotated[bool, typer.Option("--yes", help="Pay it. Without, only the totals are shown.")] = False,
    no_wait: NoWait = False,
    patience: Patience = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> int:
    """Pay exactly what was planned: a row whose charge has changed since is not paid, and says what has."""
    from refundry.cli import batch_plan, batch_run

    wait = batch_run.Wait(patience, none=no_wait)
    return batch_plan.apply_plan(plan, yes=yes, wait=wait, schedule=schedule, as_json=as_json)


@app.command("list", epilog="example: refundry batch list")
def show_all(*, account: AccountOption = None, as_json: AsJson = False) -> int:
    """Show the batches, the newest first."""
    from refundry.cli import batch_steer

    return batch_steer.show_all(account, as_json=as_json)


@app.command("status", epilog="example: refundry batch status 3f2a")
def status(batch: Id, *, as_json: AsJson = False) -> int:
    """Count a batch: what is paid, and why the rest is not."""
    from refundry.cli import batch_steer

    return batch_steer.status(batch, as_json=as_json)


@app.command("watch", epilog="example: refundry batch watch 3f2a")
def watch(
    batch: Id,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="With --json: one object a second, a line each.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and end.")] = False,
    as_json: AsJson = False,
) -> int:
    """Watch a batch until it is over, whichever process is paying it: speed, limits, latency, money, what is held and why."""
    from refundry.cli import batch_watch

    return batch_watch.watch(batch, follow=follow, once=once, as_json=as_json)


@app.command("pause", epilog="example: refundry batch pause 3f2a")
def pause(batch: Id, *, as_json: AsJson = False) -> int:
    """Send nothing more of a batch, whichever process is paying it; what is on its way is awaited."""
    from refundry.cli import batch_steer

    return batch_steer.pause(batch, as_json=as_json)


@app.command("resume", epilog="example: refundry batch resume 3f2a")
def resume(
    batch: Id, *, no_wait: NoWait = False, patience: Patience = PATIENCE_SECONDS, as_json: AsJson = False
) -> int:
    """Let a paused batch go on, and pay it."""
    from refundry.cli import batch_run

    return batch_run.go_on(batch, batch_run.Again.RESUME, wait=batch_run.Wait(patience, none=no_wait), as_json=as_json)


@app.command("retry", epilog="example: refundry batch retry 3f2a")
def retry(batch: Id, *, no_wait: NoWait = False, patience: Patience = PATIENCE_SECONDS, as_json: AsJson = False) -> int:
    """Decide anew about the rows that were refused, and pay those that can be paid now."""
    from refundry.cli import batch_run

    return batch_run.go_on(batch, batch_run.Again.RETRY, wait=batch_run.Wait(patience, none=no_wait), as_json=as_json)


@app.command("withdraw", epilog='example: refundry batch withdraw 3f2a --why "wrong file"')
def withdraw(
    batch: Id,
    *,
    why: Annotated[
        str, typer.Option(callback=said, help="Stands in the report and in the audit log.")
    ] = "withdrawn at the command line",
    as_json: AsJson = False,
) -> int:
    """Take back all rows that were not sent yet; what Stripe has stays."""
    from refundry.cli import batch_steer

    return batch_steer.withdraw(batch, why, as_json=as_json)


@app.command("report", epilog="example: refundry batch report 3f2a -o report.csv")
def report(
    batch: Id,
    *,
    to: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where to, whole or not at all; stdout without."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="csv|json", help="By default after the file's name, else CSV.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write one row per input row: its own columns, then what became of it."""
    from refundry.cli import report as written

    return written.write(batch, to, form, as_json=as_json)
