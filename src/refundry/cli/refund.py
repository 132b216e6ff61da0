"""`refundry refund`: one refund for one customer, and what became of those before."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson, said

app = typer.Typer(help="Single refunds.", no_args_is_help=True)

PATIENCE_SECONDS = 900.0
Id = Annotated[str, typer.Argument(metavar="ID", help="The refund request's id.")]


@app.command(
    "create",
    epilog="example: refundry refund create --order 536365 --amount 12.34 --reason requested_by_customer --ticket T-77",
)
def create(  # noqa: PLR0913  # its flags
    *,
    charge: Annotated[str | None, typer.Option(metavar="ID", help="The charge: ch_… or py_….")] = None,
    payment_intent: Annotated[str | None, typer.Option(metavar="ID", help="Its payment intent: pi_….")] = None,
    order: Annotated[
        str | None, typer.Option(metavar="ID", help="The order, as it stands in Stripe's metadata.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All that is left on the charge.")] = False,
    amount: Annotated[str | None, typer.Option(metavar="12.34", help="In major units, with a point.")] = None,
    amount_minor: Annotated[str | None, typer.Option(metavar="1234", help="In minor units, a whole number.")] = None,
    currency: Annotated[str | None, typer.Option(metavar="gbp", help="By default the charge's.")] = None,
    reason: Annotated[str, typer.Option(metavar="REASON", help="duplicate, requested_by_customer, or fraudulent.")],
    ticket: Annotated[
        str | None, typer.Option(metavar="T", help="Your ticket: one refund of this charge for it, ever.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Your own name for the refund: paid once under it, ever.")
    ] = None,
    allow_repeat: Annotated[
        bool, typer.Option("--allow-repeat", help="It is no repeat of a refund that others made.")
    ] = False,
    allow_inquiry: Annotated[
        bool, typer.Option("--allow-inquiry", help="Refund in full although the bank inquires.")
    ] = False,
    allow_fraudulent: Annotated[
        bool, typer.Option("--allow-fraudulent", help="Let the reason be `fraudulent`, which block-lists the customer.")
    ] = False,
    reverse_transfer: Annotated[
        bool | None,
        typer.Option("--reverse-transfer/--keep-transfer", help="Connect: whether the connected account pays it back."),
    ] = None,
    refund_application_fee: Annotated[
        bool | None,
        typer.Option(
            "--refund-application-fee/--keep-application-fee", help="Connect: whether the platform gives its fee back."
        ),
    ] = None,
    account: AccountOption = None,
    cancel_uncaptured: Annotated[
        bool,
        typer.Option("--cancel-uncaptured", help="If the payment is only authorised, cancel it: nothing was paid yet."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look and decide; ask for nothing and pay nothing.")
    ] = False,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for an answer that is in doubt.")
    ] = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> int:
    """Pay one refund, and wait until Stripe has it or it is refused."""
    from refundry.cli import refund_create

    asked = refund_create.Asked(
        references={"charge_id": charge, "payment_intent": payment_intent, "order_id": order},
        amounts={"full": "" if full else None, "major": amount, "minor": amount_minor},
        currency=currency,
        reason=reason,
        ticket=ticket,
        key=key,
        allow_repeat=allow_repeat,
        allow_inquiry=allow_inquiry,
        allow_fraudulent=allow_fraudulent,
        cancel_uncaptured=cancel_uncaptured,
        reverse_transfer=reverse_transfer,
        refund_application_fee=refund_application_fee,
        account=account,
    )
    return refund_create.create(asked, dry_run=dry_run, patience_seconds=patience, as_json=as_json)


@app.command("list", epilog="example: refundry refund list --state pending --limit 20")
def show_all(
    *,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only these states; may be given again.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Go on from here: the `next` of the page before.")] = 0,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show refund requests, the newest first."""
    from refundry.cli import refund_steer

    return refund_steer.show_all(state or [], account, limit=limit, after=after, as_json=as_json)


@app.command("show", epilog="example: refundry refund show 6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11")
def show(request: Id, *, as_json: AsJson = False) -> int:
    """Show everything about one: its timeline, its attempts, each send with Stripe's request id."""
    from refundry.cli import refund_steer

    return refund_steer.show(request, as_json=as_json)


@app.command("withdraw", epilog='example: refundry refund withdraw 6f1c7f0e-… --why "customer kept it"')
def withdraw(
    request: Id,
    *,
    why: Annotated[str, typer.Option(callback=said, help="Stands in its timeline.")] = "withdrawn at the command line",
    as_json: AsJson = False,
) -> int:
    """Take one back that was not sent yet."""
    from refundry.cli import refund_steer

    return refund_steer.withdraw(request, why, as_json=as_json)


@app.command("cancel", epilog="example: refundry refund cancel 6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11")
def cancel(request: Id, *, as_json: AsJson = False) -> int:
    """Cancel one at Stripe that waits for its customer (requires_action); no other can be called back."""
    from refundry.cli import refund_steer

    return refund_steer.cancel(request, as_json=as_json)
