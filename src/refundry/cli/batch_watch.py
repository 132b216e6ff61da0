"""Watching a batch that any process may be paying: nothing is written, and whoever pays it notices nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.cli import batch_told, output, session, watch_view
from refundry.cli.progress import LOOKING_SHARE, PLAIN_SECONDS, REST_SECONDS_MAX, Speed
from refundry.cli.watch_view import Moment
from refundry.infra import loop, pace, readings
from refundry.infra.db import DatabaseUnusable, Unit
from refundry.kernel.clock import SystemClock
from refundry.refunds import service as refunds
from refundry.worker.executor import REFUND

LOOK_SECONDS = 1.0
# The times of calls are told of so long: shorter jumps about, longer hides a Stripe that has become slow.
TIMES_SECONDS = 60.0
RATE_SECONDS = 15.0
# For so many seconds a Postgres may be away; a restart takes less.
LOST_SECONDS = 60.0


def watch(prefix: str, *, follow: bool, once: bool, as_json: bool) -> int:
    """Show a batch until it is over; gives the exit code of `batch status`."""
    with session.local() as local:
        with local.database.reading() as unit:
            batch_id = batches.need(unit, prefix).id
        seen = Seen(local, batch_id)
        if once or (as_json and not follow):
            moment = seen.look()
            if as_json:
                output.as_json(watch_view.told(moment))
            else:
                _still(moment)
            return batch_told.exit_code(moment.totals)
        try:
            return loop.run(_followed(seen, as_json=as_json))
        except KeyboardInterrupt:
            output.say(
                f"no longer watched; the batch itself goes on. To stop it: `refundry batch pause {batch_id[:8]}`"
            )
            return output.INTERRUPTED


class Seen:
    """Looks at a batch, again and again.

    Args:
        local: The database.
        batch_id: Which batch.
    """

    def __init__(self, local: session.Local, batch_id: str) -> None:
        self._local = local
        self._batch_id = batch_id
        self.clock = SystemClock()
        # Whether a database that is lost may come back by itself.
        self.lasting = local.database.postgres
        self._speed = Speed(self.clock)

    def look(self) -> Moment:
        """See how it stands.

        Raises:
            DatabaseUnusable: It cannot be read.
        """
        with self._local.database.reading() as unit:
            moment = self._read(unit)
        self._speed.note(moment.totals.done)
        speed = self._speed.rows_per_second()
        return moment if speed is None else replace(moment, rows_per_second=speed)

    def _read(self, unit: Unit) -> Moment:
        batch = batches.need(unit, self._batch_id)
        account = batch.account
        totals = batches.totals(unit, batch)
        in_doubt, soonest = refunds.in_doubt(unit, account)
        reading = readings.read(unit, account, times_seconds=TIMES_SECONDS, rate_seconds=RATE_SECONDS)
        return Moment(
            batch=batch,
            where=session.where(account, self._local.settings),
            totals=totals,
            outlook=batches.outlook(unit, batch),
            budgets=tuple(pace.standings(unit, account, reading.rates)),
            reading=reading,
            # Until two looks tell more: as many refunds as were sent, which may be of other batches too.
            rows_per_second=reading.rates.get(REFUND),
            in_doubt=in_doubt,
            next_look_seconds=None if soonest is None else soonest - unit.now,
            held="".join(one.held_text for one in accounts.known(unit) if one.name == account),
            executing=batch_told.executing(self._local, unit, account),
        )


async def _followed(seen: Seen, *, as_json: bool) -> int:
    """Look once a second, and show it, until the batch is over."""
    with ExitStack() as stack:
        show = _json_lines if as_json else _live(stack) if sys.stdout.isatty() else _lines(seen.clock)
        lost_at: float | None = None
        while True:
            began = seen.clock.boot_seconds()
            try:
                moment = await asyncio.to_thread(seen.look)
            except DatabaseUnusable:
                # A Postgres that restarts comes back.
                lost_at = began if lost_at is None else lost_at
                if not seen.lasting or began - lost_at > LOST_SECONDS:
                    raise
            else:
                lost_at = None
                show(moment)
                if moment.over:
                    break
            took = seen.clock.boot_seconds() - began
            await seen.clock.sleep(min(max(LOOK_SECONDS - took, took / LOOKING_SHARE), REST_SECONDS_MAX))
    batch_told.advice(moment.batch, moment.totals)
    return batch_told.exit_code(moment.totals)


def _json_lines(moment: Moment) -> None:
    output.as_json(watch_view.told(moment))
    output.flush()


def _live(stack: ExitStack) -> Callable[[Moment], None]:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    live = stack.enter_context(Live(console=console, auto_refresh=False))
    return lambda moment: live.update(watch_view.drawn(moment, console.width), refresh=True)


def _lines(clock: SystemClock) -> Callable[[Moment], None]:
    told_at = float("-inf")

    def show(moment: Moment) -> None:
        nonlocal told_at
        now = clock.boot_seconds()
        if now - told_at >= PLAIN_SECONDS or moment.over:
            told_at = now
            output.line(f"{output.moment(clock.now())}  {watch_view.line(moment)}")
            output.flush()

    return show


def _still(moment: Moment) -> None:
    if not sys.stdout.isatty():
        output.line(watch_view.line(moment))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(watch_view.drawn(moment, console.width))
