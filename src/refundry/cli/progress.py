"""Live progress of a batch on stderr: a bar in a terminal, else a plain line every ten seconds."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from refundry.batches.model import Standing, Totals
from refundry.batches.service import Outlook
from refundry.cli.output import amounts, counted, number, say, span
from refundry.kernel.clock import Clock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_SECONDS = 10.0
# The rate is taken over this long: shorter jumps about, longer hides a stop.
RATE_SECONDS = 10.0
# Before so much of a run has passed, a rate says nothing about the time left.
RATE_AFTER_SECONDS = 2.0
# Counting a large batch takes a while itself, a quarter of a second for 100,000 rows: at most this share of the time goes into it.
LOOKING_SHARE = 0.02
# However long a look took: of a process that was stopped meanwhile, or whose database was away, it says nothing.
REST_SECONDS_MAX = 30.0


def packed(parts: Iterable[str], width: int) -> list[str]:
    """Join parts into lines that fit a narrow terminal; none is broken in the middle."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}   {part}" if lines[-1] else part
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch at one moment.

    Args:
        totals: Its counts.
        planning: Whether its charges are still looked up.
        watching: Whether another process pays, and this one waits for its end.
        in_doubt: How many rows were sent and have no answer that can be trusted.
        next_look_seconds: When the next of those is looked for.
        limit: Refunds per second that the pace allows now; zero means any number.
        limited: How many calls Stripe has turned away since the start (429).
        held: Why the account is held, or empty.
        outlook: What its schedule says, if it has one.
    """

    totals: Totals
    planning: bool
    watching: bool
    in_doubt: int
    next_look_seconds: float | None
    limit: float
    limited: int
    held: str = ""
    outlook: Outlook | None = None


class Speed:
    """Tells how fast a batch goes, over the last moments.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._past: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """Hear how many rows are over now."""
        now = self._clock.boot_seconds()
        if self._past and done < self._past[-1][1]:
            # Rows are tried again that were over: how fast others went says nothing of what is left now.
            self._past.clear()
        self._past.append((now, done))
        while len(self._past) > 2 and now - self._past[0][0] > RATE_SECONDS:  # noqa: PLR2004  # two ends of a span
            self._past.popleft()

    def rows_per_second(self) -> float | None:
        """Tell rows per second; `None`, before that says anything."""
        if len(self._past) < 2:  # noqa: PLR2004  # two ends of a span
            return None
        (began, first), (ended, last) = self._past[0], self._past[-1]
        return (last - first) / (ended - began) if ended - began >= RATE_AFTER_SECONDS else None


class Progress:
    """Shows what happens to a batch, while it happens.

    Args:
        title: The file's name, and whose money.
        clock: Tells how fast it goes.
    """

    def __init__(self, title: str, clock: Clock) -> None:
        self._title = title
        self._clock = clock
        self._speed = Speed(clock)
        self._told_at = float("-inf")
        self._told = ""
        self._live: Live | None = None
        self._seen: Seen | None = None

    def __enter__(self) -> Self:
        """Take the terminal, if there is one."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=4, transient=True)
            self._live.start()
        else:
            say(self._title)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Give the terminal back; a log file gets its last line."""
        if self._live is not None:
            self._live.stop()
        elif self._seen is not None:
            self._plain(self._seen)

    def show(self, seen: Seen) -> None:
        """Show how far it is."""
        now = self._clock.boot_seconds()
        self._speed.note(seen.totals.done)
        self._seen = seen
        if self._live is not None:
            self._live.update(self._drawn(seen))
        elif now - self._told_at >= PLAIN_SECONDS:
            self._told_at = now
            self._plain(seen)

    def _plain(self, seen: Seen) -> None:
        text = "  ".join([f"{number(seen.totals.done)} of {counted(seen.totals.rows, 'row')}", *self._parts(seen)])
        if text != self._told:
            self._told = text
            say(text)

    def _drawn(self, seen: Seen) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = seen.totals.rows
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        percent = f"{number(seen.totals.done)} of {counted(rows, 'row')} {seen.totals.done * 100 // max(rows, 1):3}%"
        bar.add_row(ProgressBar(total=max(rows, 1), completed=seen.totals.done), percent)
        title = Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        return Group(title, bar, *(Text(part) for part in self._lines(seen)))

    def _lines(self, seen: Seen) -> list[str]:
        from rich.console import Console

        return packed(self._parts(seen), Console(stderr=True).width)

    def _parts(self, seen: Seen) -> list[str]:
        totals = seen.totals
        whole = "" if seen.planning or not totals.requested else f" of {amounts(totals.requested)}"
        parts = [f"paid {amounts(totals.paid)}{whole}"]
        if seen.planning:
            parts.append("looking up charges")
        parts += [
            f"{totals.standings[s]} {s.value}"
            for s in (Standing.REFUSED, Standing.FAILED, Standing.UNKNOWN)
            if totals.standings[s]
        ]
        resting = totals.standings[Standing.WAITING] - totals.moving
        if resting:
            parts.append(f"{number(resting)} held")
        rate = self._speed.rows_per_second()
        if rate is not None and totals.moving and not seen.planning:
            parts.append(f"{rate:.1f}/s" + (f" of {seen.limit:.1f}/s" if seen.limit else ""))
        if seen.limited:
            parts.append(f"{number(seen.limited)} x 429")
        if seen.outlook is not None:
            # A schedule says when rows are sent, and not how fast they were a moment ago.
            parts += [seen.outlook.text] if seen.outlook.text else []
        elif rate and totals.moving and not seen.planning:
            parts.append(f"{span(totals.moving / rate)} left")
        if seen.in_doubt and seen.next_look_seconds is not None:
            parts.append(f"{counted(seen.in_doubt, 'row')} in doubt, next look in {span(seen.next_look_seconds)}")
        if seen.watching:
            parts.append("another process is paying, this one watches")
        return parts
