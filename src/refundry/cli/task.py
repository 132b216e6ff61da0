"""`refundry task`: what a person has to do where nothing goes on by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from refundry.cli.account_option import AccountOption
from refundry.cli.output import AsJson, said

app = typer.Typer(help="What waits for a person.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


@app.command("list", epilog="example: refundry task list --kind refund_failed --json")
def show_all(
    *,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Only this kind; may be given again.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are resolved too, the newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on from here: the `next` of the page before.")
    ] = None,
    account: AccountOption = None,
    as_json: AsJson = False,
) -> int:
    """Show the open tasks, those that are due first at the top. Exit code 3, if any is overdue."""
    from refundry.cli import task_steer

    return task_steer.show_all(kind or [], account, every=every, limit=limit, after=after, as_json=as_json)


@app.command("show", epilog="example: refundry task show 2b0d8f5e-7a53-5c1e-9d55-6a2f3c4e8b07")
def show(task: Id, *, as_json: AsJson = False) -> int:
    """Show one: what happened, since when, and what can be done."""
    from refundry.cli import task_steer

    return task_steer.show(task, as_json=as_json)


@app.command(
    "resolve",
    epilog="example: refundry task resolve 2b0d8f5e-… --how paid_otherwise --note 'bank transfer of 24 November'",
)
def resolve(
    task: Id,
    *,
    how: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="paid_otherwise, replace, cancel, noted, paid_by, not_paid or give_up; `task show` says which.",
        ),
    ],
    refund: Annotated[
        str, typer.Option(metavar="ID", help="With paid_by: Stripe's refund that has paid it, re_….")
    ] = "",
    note: Annotated[
        str, typer.Option(metavar="TEXT", callback=said, help="What was done; stands in the timeline.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Resolve one.

    `replace` asks for the refund anew, by policy; `cancel` calls it back at Stripe. Of an unknown outcome `paid_by` names its refund, and
    `not_paid`, said by two people, lets it be tried again. The others only say what was done.
    """
    from refundry.cli import task_steer

    return task_steer.resolve(task, how, note, refund.strip(), as_json=as_json)
