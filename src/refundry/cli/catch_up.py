"""`refundry catch-up`: asks Stripe for what no webhook has told, at once instead of by and by."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson


def catch_up(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="What happened since: 2026-11-01, 3d, 12h; at most 30 days. By default since the last time.",
        ),
    ] = None,
    reads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many calls; the next time goes on from there.")
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Read Stripe's events and refunds, and apply what they tell. A process that stays does so by itself."""
    from refundry.cli import catching_up

    return catching_up.catch_up(since, account, reads_max=reads, as_json=as_json)
