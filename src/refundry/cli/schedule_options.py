"""The options that say when the rows of a batch may be sent; every command that pays a batch has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    # What is imported here and in functions takes longer than `--help` may: it is read by all commands.
    from refundry.batches.model import Batch, Schedule
    from refundry.infra.db import Unit
    from refundry.kernel.actor import Actor

StartAt = Annotated[
    str | None,
    typer.Option(metavar="TIME", help='Send nothing before, as in "2026-11-28 09:00 Europe/Berlin".'),
]
Spread = Annotated[
    str | None, typer.Option(metavar="SPAN", help="Send the rows evenly over so much time, as in 6h or 1d12h.")
]
Between = Annotated[
    str | None,
    typer.Option(metavar="WINDOW", help='Send only in these hours, as in "22:00-06:00 Europe/Berlin".'),
]
MaxPerDay = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="Send no more than this in a day, of each currency on its own: 600000.00."),
]
KeepBalance = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT", help="Leave so much of the available balance, of each currency on its own: 1000.00."
    ),
]
Canary = Annotated[
    str | None,
    typer.Option(metavar="ROWS,ROWS", help="Stages: each begins when the one before is over, as in 1,50,500."),
]
HaltAt = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE", help="With --canary: pause the batch when more than this share fails; 2% by default."
    ),
]
NAMED = {
    "start_at": StartAt,
    "spread": Spread,
    "between": Between,
    "max_per_day": MaxPerDay,
    "keep_balance": KeepBalance,
    "canary": Canary,
    "halt_at": HaltAt,
}


def with_schedule_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of this page; it gets them as one argument, `schedule`, a `Schedule` or `None`.

    Raises:
        ScheduleInvalid: When the command is called: an option says nothing that can be kept.
    """

    @wraps(command)
    def called(*args: Any, **given: Any) -> int:  # noqa: ANN401  # whatever the command takes
        from refundry.batches.rules.asked import Asked

        said = {name: given.pop(name) for name in NAMED}
        return command(*args, **given, schedule=Asked(**said).schedule())

    # The type of the argument that the command gets is nothing to typer.
    signature = inspect.signature(command, eval_str=True, locals={"Schedule": object})
    kept = [parameter for name, parameter in signature.parameters.items() if name != "schedule"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in NAMED.items()
    ]
    # What typer reads.
    called.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]  # any function may have one
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    return called


def scheduled(unit: Unit, batch: Batch, schedule: Schedule | None, actor: Actor) -> Batch:
    """Give a batch its schedule, in the unit in which it is taken in or applied; without one it stays as it is.

    Raises:
        ScheduleInvalid: `canary_too_large`, `start_in_the_past`; the unit must be given up.
    """
    from refundry.batches import service as batches
    from refundry.batches.rules.asked import check

    if schedule is None:
        return batch
    # The same schedule again may have begun long ago.
    check(schedule, batch.row_count, unit.now, new=batch.schedule != schedule)
    return batches.set_schedule(unit, batch, schedule, actor)


def previewed(schedule: Schedule, rows: int) -> str:
    """Say how a schedule is understood, for whoever is about to approve the totals.

    Raises:
        ScheduleInvalid: No batch of so many rows can keep it.
    """
    from refundry.batches.rules.asked import check, past, words
    from refundry.kernel.clock import SystemClock

    # A batch that is here already may have begun long ago: whether this is one is not known yet.
    check(schedule, rows, 0.0, new=False)
    now = SystemClock().now()
    late = "; that start is past, and only a batch that has it already goes on" if past(schedule, now) else ""
    return words(schedule, now) + late


def changed(before: Schedule | None, after: Schedule | None, now: float) -> str:
    """Say which schedule a batch had before, where it has another one now; else nothing."""
    from refundry.batches.rules.asked import words

    if before is None or after is None or before == after:
        return ""
    return f"its schedule was {words(before, now)}, and is now {words(after, now)}: what is not named again is over"
