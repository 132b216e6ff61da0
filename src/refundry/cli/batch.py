"""`refundry batch`: a file of refunds, paid once, watched, steered, and reported row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refundry.cli.output import AsJson

app = typer.Typer(help="Files of refunds.", no_args_is_help=True)

PATIENCE_SECONDS = 900.0
Id = Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the beginning of it.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Only write it down; a process that works (serve, worker, batch run) does it.")
]
Patience = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0, help="End when all that is left waits for longer than this, as rows in doubt may."
    ),
]


@app.command("run", epilog="example: refundry batch run refunds.csv --yes")
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: see docs/features/files.md.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Pay it. Without, only the totals are shown.")] = False,
    blank_amount: Annotated[
        str | None, typer.Option(metavar="full", help="What an empty amount means; only `full` is possible.")
    ] = None,
    allow_fraudulent: Annotated[
        bool,
        typer.Option(
            "--allow-fraudulent", help="Let rows use the reason `fraudulent`, which block-lists the customer."
        ),
    ] = False,
    allow_repeat: Annotated[
        list[int] | None,
        typer.Option(metavar="ROW", min=1, help="This row is no repeat, though it looks like one; may be given again."),
    ] = None,
    no_wait: NoWait = False,
    patience: Patience = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> int:
    """Pay a file. Running it again, or twice at once, goes on with the same work: no row is paid twice."""
    from refundry.cli import batch_run

    if blank_amount not in {None, "full"}:
        from refundry.kernel.errors import UsageError

        raise UsageError(
            f"--blank-amount {blank_amount} is not possible: write --blank-amount full",
            code="usage",
            option="--blank-amount",
        )
    return batch_run.pay_file(
        file,
        yes=yes,
        blank_amount_full=blank_amount == "full",
        allow_fraudulent=allow_fraudulent,
        allow_repeat=frozenset(allow_repeat or []),
        wait=batch_run.Wait(patience, none=no_wait),
        as_json=as_json,
    )


@app.command("list", epilog="example: refundry batch list")
def show_all(*, as_json: AsJson = False) -> int:
    """Show the batches, the newest first."""
    from refundry.cli import batch_steer

    return batch_steer.show_all(as_json=as_json)


@app.command("status", epilog="example: refundry batch status 3f2a")
def status(batch: Id, *, as_json: AsJson = False) -> int:
    """Count a batch: what is paid, and why the rest is not."""
    from refundry.cli import batch_steer

    return batch_steer.status(batch, as_json=as_json)


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
        str, typer.Option(help="Stands in the report and in the audit log.")
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

    return written.write(batch, to, "json" if as_json else form)
