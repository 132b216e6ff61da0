"""`refundry dispute`: disputes and early fraud warnings, as far as they were seen."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson

app = typer.Typer(help="Disputes and early fraud warnings.", no_args_is_help=True)


@app.command("list", epilog="example: refundry dispute list --phase lost --json")
def show_all(
    *,
    phase: Annotated[
        list[str] | None,
        typer.Option(metavar="PHASE", help="inquiry, chargeback, won, lost or closed; by default those that are open."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many of each.")] = 50,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on behind this dispute or warning, the last of the page before."),
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show disputes, the last opened first, and early fraud warnings beside."""
    from refundry.cli import disputes_told

    return disputes_told.show_all(phase or [], account, limit=limit, after=after, as_json=as_json)
