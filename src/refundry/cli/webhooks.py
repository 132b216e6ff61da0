"""`refundry webhooks`: the endpoints at Stripe that tell us of events."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson

app = typer.Typer(help="Stripe's webhooks.", no_args_is_help=True)

Url = Annotated[str, typer.Argument(metavar="URL", help="Where Stripe reaches this installation: https://….")]


@app.command("register", epilog="example: refundry webhooks register https://refunds.example.com")
def register(
    url: Url,
    *,
    connect: Annotated[
        bool,
        typer.Option("--connect", help="Tell of the accounts that are connected to this one, instead of this one."),
    ] = False,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Have Stripe send the events that matter here, in the version that is read here; tells the secret, once."""
    from refundry.cli import webhook_endpoints

    return webhook_endpoints.register(url, account, connect=connect, as_json=as_json)


@app.command("list", epilog="example: refundry webhooks list")
def show_all(*, account: AccountOption = None, as_json: AsJson = False) -> int:
    """Show the account's endpoints, and what those of Refundry lack."""
    from refundry.cli import webhook_endpoints

    return webhook_endpoints.show_all(account, as_json=as_json)


@app.command("rotate", epilog="example: refundry webhooks rotate https://refunds.example.com")
def rotate(
    url: Url,
    *,
    connect: Annotated[
        bool, typer.Option("--connect", help="Its endpoint tells of the accounts that are connected to this one.")
    ] = False,
    retire: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="Delete the old one, we_…, once the new secret is set.")
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Take a new secret, or up-to-date events and version: a second endpoint of the same address, until the old one is retired."""
    from refundry.cli import webhook_endpoints

    if retire is not None:
        return webhook_endpoints.retire(url, retire, account, as_json=as_json)
    return webhook_endpoints.rotate(url, account, connect=connect, as_json=as_json)


@app.command("test", epilog="example: refundry webhooks test https://refunds.example.com")
def trial(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="By default the server on this machine.")
    ] = "http://127.0.0.1:8080",
    *,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Send an event without effect, signed with the secret that is set, and see that it is stored."""
    from refundry.cli import webhook_trial

    return webhook_trial.run(url, account, as_json=as_json)
