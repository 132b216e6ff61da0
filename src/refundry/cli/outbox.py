"""`refundry outbox`: what was told to the order system, what waits, what is parked, and a hand on it."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson, said

app = typer.Typer(help="Messages to the order system.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The message's id.")]
Target = Annotated[str | None, typer.Option(metavar="TARGET", help="Only this one: http, sql or file.")]


@app.command("list", epilog="example: refundry outbox list --state parked")
def show_all(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Only waiting, delivered, parked or dropped ones; may be given again."),
    ] = None,
    order: Annotated[str | None, typer.Option(metavar="ID", help="Only those of an order.")] = None,
    target: Target = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on from here: the `next` of the page before.")] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show messages and how their delivery stands, the newest first."""
    from refundry.cli import outbox_steer

    return outbox_steer.show_all(
        state or [], account, order=order, target=target, limit=limit, after=after, as_json=as_json
    )


@app.command("show", epilog="example: refundry outbox show 0d0e6a5c-56c1-5d3f-8d4e-5a3d7f2b9c44")
def show(message: Id, *, as_json: AsJson = False) -> int:
    """Show one message as it is sent, and how it stands with each target."""
    from refundry.cli import outbox_steer

    return outbox_steer.show(message, as_json=as_json)


@app.command("resend", epilog="example: refundry outbox resend --parked")
def resend(
    message: Annotated[str | None, typer.Argument(metavar="[ID]", help="The message's id.")] = None,
    *,
    parked: Annotated[bool, typer.Option("--parked", help="All that are parked, at most 1000 at once.")] = False,
    target: Target = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Have a message sent again, whatever became of it; a receiver that took it in knows it by its id."""
    from refundry.cli import outbox_steer

    return outbox_steer.resend(message, account, parked=parked, target=target, as_json=as_json)


@app.command("drop", epilog='example: refundry outbox drop 0d0e6a5c-… --why "order 536365 is not in the shop any more"')
def drop(
    message: Id,
    *,
    why: Annotated[str, typer.Option(callback=said, help="Stands in the audit log.")],
    target: Target = None,
    as_json: AsJson = False,
) -> int:
    """Give a message up that waits or is parked, so that later ones of its order go on."""
    from refundry.cli import outbox_steer

    return outbox_steer.drop(message, why, target=target, as_json=as_json)
