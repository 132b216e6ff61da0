"""`refundry charges`: our mirror of Stripe's charges."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson

app = typer.Typer(help="The mirror of Stripe's charges.", no_args_is_help=True)


@app.command("sync", epilog="example: refundry charges sync --since 2026-09-01 --reads 2000")
def sync(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="Charges created since: 2026-09-01, 30d, 12h. By default since the last time."
        ),
    ] = None,
    reads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many calls; the next time goes on from there.")
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Mirror charges with their refunds and disputes, the oldest first: a hundred a call."""
    from refundry.cli import catching_up

    return catching_up.sync(since, account, reads_max=reads, as_json=as_json)
