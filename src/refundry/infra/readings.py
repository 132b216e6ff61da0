"""What a process has seen of Stripe's calls: how long they took, and how many were turned away, and why.

It is counted where the calls are made, in memory, and shared in rows that each process writes for itself at most once a second:
so any other process can tell how it goes. A row is about ten seconds long and is forgotten after an hour.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.infra.db import Unit, metadata
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock

# Where the buckets of a call's seconds end: close enough together to tell 250 ms from 300, up to the longest timeout.
BOUNDS = (
    0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0,
)  # fmt: skip
SLICE_SECONDS = 10.0
KEEP_SECONDS = 3600.0
# Who has written nothing for so long makes no calls at the moment; whoever does writes every second.
FRESH_SECONDS = 5.0
# Stripe's own (stripe-facts 1), and the one of a busy object. Others count as one: names come from outside.
REASONS = frozenset({
    "global-rate", "global-concurrency", "endpoint-rate", "endpoint-concurrency", "resource-specific", "lock_timeout",
})  # fmt: skip
UNNAMED, OTHER = "unnamed", "other"

table = sa.Table(
    "pace_readings",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("process", sa.Text, primary_key=True),
    sa.Column("began_at", sa.Double, primary_key=True),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Column("calls", sa.Text, nullable=False),
    sa.Column("limited", sa.Text, nullable=False),
)


@dataclass(slots=True)
class Times:
    """How long calls took.

    Args:
        counts: How many ended within each bucket of `BOUNDS`, and at the end those that took longer.
        seconds: All of them together.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Tell how many calls there were."""
        return sum(self.counts)

    def took(self, seconds: float) -> None:
        """Count a call."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def at(self, share: float) -> float | None:
        """Tell within how many seconds such a share of the calls ended, exact to its bucket; `None` without any."""
        left = self.count * share
        if not left:
            return None
        for at, count in enumerate(self.counts[:-1]):
            if count >= left:
                low = BOUNDS[at - 1] if at else 0.0
                return low + (BOUNDS[at] - low) * left / count
            left -= count
        return BOUNDS[-1]


@dataclass(slots=True)
class Meter:
    """Counts the calls of one account in this process, since its start.

    Args:
        calls: By operation, as in `POST /v1/refunds`.
        limited: How many were turned away (429), by the reason that Stripe gave.
    """

    calls: dict[str, Times] = field(default_factory=dict)
    limited: Counter[str] = field(default_factory=Counter)

    def took(self, operation: str, seconds: float) -> None:
        """Count a call, answered or not."""
        times = self.calls.get(operation)
        if times is None:
            times = self.calls[operation] = Times()
        times.took(seconds)

    def turned_away(self, reason: str | None) -> None:
        """Count a 429."""
        self.limited[UNNAMED if not reason else reason if reason in REASONS else OTHER] += 1

    def copied(self) -> Meter:
        """Keep how it stands."""
        return Meter({name: Times(list(of.counts), of.seconds) for name, of in self.calls.items()}, self.limited.copy())

    def since(self, before: Meter) -> Meter:
        """Tell what was counted after it stood as it did before."""
        told = Meter(limited=self.limited - before.limited)
        for name, now in self.calls.items():
            then = before.calls.get(name, Times())
            counts = [one - other for one, other in zip(now.counts, then.counts, strict=True)]
            if any(counts):
                told.calls[name] = Times(counts, now.seconds - then.seconds)
        return told


class Recorder:
    """Writes what a meter counts, for other processes to read.

    Args:
        account: `acct_…|test`.
        process: This process, other than all that run beside it.
        meter: Counts.
        clock: Tells how long a row has been open.
    """

    def __init__(self, account: str, process: str, meter: Meter, clock: Clock) -> None:
        """Begin with nothing written."""
        self._account = account
        self._process = process
        self._meter = meter
        self._clock = clock
        self._written = meter.copied()
        self._looked_at = clock.boot_seconds()
        # What was counted before the row that is open, and when that began, by the database's clock.
        self._open: tuple[Meter, float] | None = None

    async def turn(self, writer: Writer) -> None:
        """Write what was counted since the last turn; if that is nothing, nothing is written."""
        now, looked_at = self._meter.copied(), self._clock.boot_seconds()
        if now != self._written:
            # A process that was stopped meanwhile made no calls for most of that.
            age = min(looked_at - self._looked_at, FRESH_SECONDS)
            self._open = await writer.put(lambda unit: self._written_as(unit, now, age))
            self._written = now
        self._looked_at = looked_at

    def _written_as(self, unit: Unit, now: Meter, age: float) -> tuple[Meter, float]:
        before, began_at = self._open or (self._written, unit.now - age)
        if self._open is None or not 0 <= unit.now - began_at < SLICE_SECONDS:
            before, began_at = self._written, unit.now - age
            _forget(unit, self._account)
        told = now.since(before)
        values = {
            "account": self._account, "process": self._process, "began_at": began_at, "ended_at": unit.now,
            "calls": json.dumps({name: times.counts for name, times in told.calls.items()}),
            "limited": json.dumps(told.limited),
        }  # fmt: skip
        make: Any = postgresql.insert(table) if unit.postgres else sqlite.insert(table)
        changed = {name: values[name] for name in ("ended_at", "calls", "limited")}
        keys = ["account", "process", "began_at"]
        unit.connection.execute(make.values(values).on_conflict_do_update(index_elements=keys, set_=changed))
        return before, began_at


def _forget(unit: Unit, account: str) -> None:
    """Drop what is old, or lies in the future: the clock of an SQLite database was set back."""
    c = table.c
    old = sa.or_(c.ended_at < unit.now - KEEP_SECONDS, c.began_at > unit.now)
    unit.connection.execute(sa.delete(table).where(c.account == account, old))


@dataclass(frozen=True, slots=True)
class Reading:
    """What all processes have seen of an account's calls lately.

    Args:
        times: How long its calls took, by operation.
        limited: Its 429s by reason.
        rates: Calls a second at this moment, by operation; without those that are not made.
    """

    times: Mapping[str, Times]
    limited: Mapping[str, int]
    rates: Mapping[str, float]


def read(unit: Unit, account: str, *, times_seconds: float, rate_seconds: float) -> Reading:
    """Read what processes have written of an account.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        times_seconds: How far back the times of calls are told. The 429s are told as far back as they are kept.
        rate_seconds: Over how long a rate is taken.
    """
    c = table.c
    statement = sa.select(table).where(c.account == account, c.ended_at >= unit.now - KEEP_SECONDS)
    rows = list(unit.connection.execute(statement.order_by(c.began_at)))
    times: dict[str, Times] = {}
    limited: Counter[str] = Counter()
    for row in rows:
        limited.update(json.loads(row.limited))
        if row.ended_at >= unit.now - times_seconds:
            for name, counts in json.loads(row.calls).items():
                _add(times.setdefault(name, Times()), counts)
    return Reading(times, limited, _rates(rows, unit.now, rate_seconds))


def _add(times: Times, counts: list[int]) -> None:
    # A process of another version may have other buckets, until it is replaced.
    if len(counts) == len(times.counts):
        times.counts = [one + other for one, other in zip(times.counts, counts, strict=True)]


def _rates(rows: Iterable[Any], now: float, seconds: float) -> dict[str, float]:
    rates: dict[str, float] = {}
    by_process: dict[str, list[Any]] = {}
    for row in rows:
        if row.ended_at >= now - seconds:
            by_process.setdefault(row.process, []).append(row)
    for own in by_process.values():
        took = own[-1].ended_at - own[0].began_at
        if now - own[-1].ended_at > FRESH_SECONDS or took <= 0:
            continue
        for row in own:
            for name, counts in json.loads(row.calls).items():
                rates[name] = rates.get(name, 0.0) + sum(counts) / took
    return rates
