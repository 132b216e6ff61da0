"""How a batch that is watched looks: in a terminal, as one plain line, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refundry.batches.model import Batch, BatchState, Standing, Totals
from refundry.batches.service import Outlook
from refundry.cli import batch_told
from refundry.cli.output import counted, money, number, span
from refundry.cli.progress import packed
from refundry.infra import pace, readings
from refundry.infra.readings import Reading, Times
from refundry.refunds.model import HeldReason
from refundry.worker.executor import REFUND

if TYPE_CHECKING:
    from rich.console import RenderableType

# A file can have as many reasons as rows; the report has them all.
REASONS_MAX = 6
LABEL_WIDTH = 10
HELD = frozenset(HeldReason)
# Operations that a run makes all the time, in words that fit a line.
WORDS = {
    pace.EVERYTHING: "all calls",
    REFUND: "refunds",
    "GET /v1/charges/{charge}": "looks",
    "GET /v1/charges": "lists of charges",
    "GET /v1/charges/search": "searches",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A batch and its account at one moment, as any process sees them.

    Args:
        batch: The batch.
        where: On whose money it works, in words.
        totals: Its counts.
        outlook: What its schedule says, if it has one.
        budgets: How Stripe's pace stands for the account.
        reading: What was seen of the account's calls lately.
        rows_per_second: How fast rows are over; `None`, where nothing says so yet.
        in_doubt: How many requests of the account were sent and have no answer that can be trusted.
        next_look_seconds: When the next of those is looked for.
        held: Why the account is held, or empty.
        executing: Whether a process executes at all.
    """

    batch: Batch
    where: str
    totals: Totals
    outlook: Outlook | None
    budgets: tuple[pace.Standing, ...]
    reading: Reading
    rows_per_second: float | None
    in_doubt: int
    next_look_seconds: float | None
    held: str
    executing: bool

    @property
    def moves(self) -> bool:
        """Tell whether something happens to it by itself."""
        return self.batch.state in {BatchState.ACCEPTED, BatchState.RUNNING} and self.totals.moving > 0

    @property
    def over(self) -> bool:
        """Tell whether nothing is left of it that could still happen by itself; a pause, or a plan to be applied, ends some day."""
        if self.batch.state is BatchState.PAUSED:
            return not self.totals.standings[Standing.WAITING]
        return not self.totals.moving and self.batch.state is not BatchState.PLANNED

    @property
    def seconds_left(self) -> float | None:
        """Tell how long the rest takes at this speed; a schedule says when rows are sent, and not how fast they were."""
        if not self.moves or self.outlook is not None or not self.rows_per_second:
            return None
        return self.totals.moving / self.rows_per_second

    @property
    def holds(self) -> dict[str, int]:
        """Tell how many rows are held, by the reason."""
        return {code: count for code, count in self.totals.waits.items() if code in HELD}

    @property
    def failures(self) -> dict[str, int]:
        """Tell how many rows are refused, failed or unknown, by the reason."""
        waits = self.totals.waits
        left = {code: count - waits.get(code, 0) for code, count in self.totals.reasons.items()}
        return {code: count for code, count in left.items() if count}

    def used(self, scope: str) -> float:
        """Tell how many calls a second a budget sees now."""
        rates = self.reading.rates
        return sum(rates.values()) if scope == pace.EVERYTHING else rates.get(scope, 0.0)


def told(moment: Moment) -> dict[str, Any]:
    """Write it for `--json`: what `batch status` tells, and how it goes. Rates are per second, times in seconds."""
    calls = moment.reading.times
    return {
        **batch_told.facts(moment.batch, moment.totals, outlook=moment.outlook),
        "over": moment.over,
        "executing": moment.executing,
        "account_held": moment.held,
        "rows_per_second": _rounded(moment.rows_per_second),
        "seconds_left": _rounded(moment.seconds_left),
        "holds": moment.holds,
        "failures": moment.failures,
        "in_doubt": moment.in_doubt,
        "next_look_seconds": _rounded(moment.next_look_seconds),
        "limits": [
            {"scope": of.scope, "used": _rounded(moment.used(of.scope)), "rate": _rounded(of.rate), "rate_max": _rounded(of.rate_max)}
            for of in moment.budgets
        ],
        "latency": {name: {"calls": of.count, "p50": _rounded(of.at(0.5)), "p95": _rounded(of.at(0.95))} for name, of in calls.items()},
        "rate_limited_by_reason": dict(moment.reading.limited),
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def line(moment: Moment) -> str:
    """Write it as one line, for a log file or a pipe."""
    totals = moment.totals
    parts = [f"{number(totals.done)} of {counted(totals.rows, 'row')}", batch_told.stands(moment.batch, totals)]
    parts += [f"{label} {', '.join(told)}" for label, told, _ in _sections(moment)]
    return "; ".join([*parts, *_notes(moment)])


def drawn(moment: Moment, width: int) -> RenderableType:
    """Draw it for a terminal that is so many columns wide."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    totals, batch = moment.totals, moment.batch
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(Text(batch.name, style="bold"), Text(f"{batch.id[:8]}, {batch_told.stands(batch, totals)}"))
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    percent = totals.done * 100 // max(totals.rows, 1)
    share = f"{number(totals.done)} of {counted(totals.rows, 'row')} {percent:3}%"
    bar.add_row(ProgressBar(total=max(totals.rows, 1), completed=totals.done), Text(share))
    body = Table.grid(padding=(0, 1))
    body.add_column(width=LABEL_WIDTH, style="dim", no_wrap=True)
    body.add_column()
    for label, parts, style in _sections(moment):
        body.add_row(label, Text("\n".join(packed(parts, width - LABEL_WIDTH - 1)), style=style))
    notes = [Text(note, style="bold yellow") for note in _notes(moment)]
    return Group(head, Text(moment.where, style="dim"), bar, Text(), body, *notes)


def _sections(moment: Moment) -> Iterator[tuple[str, list[str], str]]:
    """Tell the lines: what it is about, its parts, and how it looks."""
    totals = moment.totals
    yield "rows", [f"{number(totals.standings[one])} {one.value}" for one in Standing], ""
    if totals.requested:
        asked = sorted(totals.requested.items())
        paid = [f"{money(totals.paid.get(currency, 0), currency)} of {money(of, currency)}" for currency, of in asked]
        yield "money paid", paid, ""
    if parts := _speed(moment):
        yield "speed", parts, ""
    if parts := _limits(moment):
        yield "calls", parts, ""
    if parts := _latency(moment):
        yield "latency", parts, ""
    yield "429s", _limited(moment) or ["none in the last hour"], "yellow" if moment.reading.limited else ""
    if moment.failures:
        yield "not paid", _counted(moment.failures), ""
    if moment.holds:
        yield "held", _counted(moment.holds), ""
    if moment.outlook is not None and moment.outlook.stage and not moment.over:
        yield "canary", [moment.outlook.stage], ""
    if moment.outlook is not None:
        yield "schedule", [moment.outlook.schedule], ""
    if moment.in_doubt and moment.next_look_seconds is not None:
        parts = [counted(moment.in_doubt, "request"), f"next look in {span(moment.next_look_seconds)}"]
        yield "in doubt", parts, ""


def _speed(moment: Moment) -> list[str]:
    if not moment.moves:
        return []
    parts = [] if moment.rows_per_second is None else [f"{moment.rows_per_second:.1f} rows/s"]
    if moment.batch.state is BatchState.ACCEPTED:
        parts.append("looking up charges")
    if moment.outlook is not None:
        return [*parts, moment.outlook.text] if moment.outlook.text else parts
    left = moment.seconds_left
    return parts if left is None else [*parts, f"{span(left)} left"]


def _limits(moment: Moment) -> list[str]:
    """Tell what is used of each budget that matters now: the account's, the refunds', and whatever else is called."""
    rates = moment.reading.rates
    if not rates:
        return []
    shown = [of for of in moment.budgets if of.scope in {pace.EVERYTHING, REFUND} or of.scope in rates]
    shown.sort(key=lambda of: (of.scope != REFUND, of.scope))
    parts = [f"{_word(of.scope)} {moment.used(of.scope):.1f}/s of {_allowed(of)}" for of in shown]
    without = rates.keys() - {of.scope for of in moment.budgets}
    if not moment.budgets:
        parts += [f"{_word(name)} {rates[name]:.1f}/s, no limit" for name in sorted(without)]
    return parts


def _allowed(of: pace.Standing) -> str:
    return f"{of.rate:.1f}/s" + (f" ({of.rate_max:.1f}/s before 429s)" if of.rate < of.rate_max else "")


def _latency(moment: Moment) -> list[str]:
    """Tell the times of the calls of the last minute, those that are made most first."""
    by_count = sorted(moment.reading.times.items(), key=lambda pair: -pair[1].count)
    return [f"{_word(name)} {_millis(times, 0.5)}, p95 {_millis(times, 0.95)}" for name, times in by_count[:3]]


def _millis(times: Times, share: float) -> str:
    seconds = times.at(share) or 0.0
    return f"over {seconds:.0f} s" if seconds >= readings.BOUNDS[-1] else f"{seconds * 1000:,.0f} ms"


def _limited(moment: Moment) -> list[str]:
    limited = moment.reading.limited
    return [f"{number(sum(limited.values()))} in the last hour", *_counted(limited)] if limited else []


def _word(operation: str) -> str:
    return WORDS.get(operation, operation)


def _counted(reasons: Mapping[str, int]) -> list[str]:
    by_count = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{number(count)} {code}" for code, count in by_count[:REASONS_MAX]]
    return [*parts, f"and {len(by_count) - REASONS_MAX} more reasons"] if len(by_count) > REASONS_MAX else parts


def _notes(moment: Moment) -> list[str]:
    """Say what a person could do."""
    short, notes = moment.batch.id[:8], list[str]()
    if moment.held:
        notes.append(batch_told.HELD.format(moment.held))
    if moment.batch.state is BatchState.PAUSED:
        why = moment.outlook.halted if moment.outlook else ""
        notes.append(f"{f'halted: {why};' if why else 'paused:'} `refundry batch resume {short}` goes on")
    elif moment.batch.state is BatchState.PLANNED:
        notes.append("planned: nothing is paid before its plan is applied")
    elif moment.moves and not moment.executing:
        notes.append(batch_told.NOBODY)
    return notes
