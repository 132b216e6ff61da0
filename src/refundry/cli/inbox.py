"""`refundry inbox`: what Stripe has told us, and what became of it."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson, said

app = typer.Typer(help="Events from Stripe.", no_args_is_help=True)

Events = Annotated[list[str], typer.Argument(metavar="EVENT...", help="Stripe's ids: evt_….")]


@app.command("list", epilog="example: refundry inbox list --type 'charge.dispute.*' --state parked")
def show_all(
    *,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only this type; a star at its end stands for any.")
    ] = None,
    about: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="Only what is about this: re_…, ch_…, du_….")
    ] = None,
    charge: Annotated[str | None, typer.Option(metavar="ID", help="Only what is about this charge.")] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only waiting, applied, ignored or parked ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="EVENT", help="Go on from here: the `next` of the page before.")
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show events, the last received first."""
    from refundry.cli import inbox_steer

    asked = inbox_steer.Asked(type_, about, charge, state, account)
    return inbox_steer.show_all(asked, limit=limit, after=after, as_json=as_json)


@app.command("show", epilog="example: refundry inbox show evt_1Q0000000000000000000000 --json")
def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Stripe's id: evt_….")],
    *,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show everything about one, with its body as it came."""
    from refundry.cli import inbox_steer

    return inbox_steer.show(event, account, as_json=as_json)


@app.command("replay", epilog="example: refundry inbox replay --parked")
def replay(
    events: Annotated[list[str] | None, typer.Argument(metavar="[EVENT]...", help="Stripe's ids: evt_….")] = None,
    *,
    parked: Annotated[bool, typer.Option("--parked", help="All that are parked.")] = False,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Have events applied again; to apply one twice changes nothing."""
    from refundry.cli import inbox_steer

    return inbox_steer.replay(events or [], account, parked=parked, as_json=as_json)


@app.command(
    "ignore", epilog='example: refundry inbox ignore evt_1Q0000000000000000000000 --why "of a deleted test shop"'
)
def ignore(
    events: Events,
    *,
    why: Annotated[str, typer.Option(callback=said, help="Stands beside them.")] = "ignored at the command line",
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Take events off the list of those that wait or are parked."""
    from refundry.cli import inbox_steer

    return inbox_steer.ignore(events, account, why, as_json=as_json)
