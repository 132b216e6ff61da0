"""Schedules when everything breaks: processes die and stand still, and no hour, no day's maximum and no stage is overstepped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random  # noqa: TID251  # drawn from the seed that was handed in

import pytest
import sqlalchemy as sa

from refundry.batches.model import Schedule, Window
from tests.simulation.scenario import FileRow, Happening, Scenario, ShopCharge
from tests.simulation.world_run import Result
from tests.support.clock import START

pytestmark = pytest.mark.simulation

# The run begins at 14:13:20 UTC.
HOURS = Window(14 * 3600 + 10 * 60, 14 * 3600 + 20 * 60, "UTC")
CLOSES = START - START % 86_400 + HOURS.closes
SENDS = "SELECT r.currency, r.amount_minor, a.sends FROM refund_attempts a JOIN refund_requests r ON r.id = a.request WHERE a.number = 1"


def drawn(seed: int, schedule: Schedule, rows: int = 14) -> Scenario:
    """Draw a run in which processes die and stand still, some of them while the window closes."""
    chance = Random(f"schedule/{seed}")  # noqa: S311  # no secret
    scenario = Scenario(seed, limits="global=10,endpoint=1" if schedule.window else "none")
    scenario.charges = [ShopCharge(f"order-{n}", 10_000, "gbp") for n in range(rows)]
    amounts = [None if chance.random() < 0.15 else chance.randint(1, 50) * 100 for _ in range(rows)]
    scenario.files = [[FileRow(n, "charge_id", amount, f"T-{n}") for n, amount in enumerate(amounts)]]
    scenario.happenings = [
        Happening(0.1, "start", {"installation": 0}),
        Happening(0.1, "start", {"installation": 0}),
        Happening(0.2, "accept", {"installation": 0, "file": 0, "schedule": schedule}),
    ]
    closing_in = CLOSES - START
    for at in (1.0, 5.0, closing_in - chance.uniform(0, 8), closing_in - chance.uniform(0, 3), 86_400.0 + 5.0):
        step = chance.randint(1, 60)
        if chance.random() < 0.6:
            how = {"installation": 0, "step": step, "again": chance.choice((0.5, 5.0, 30.0))}
            scenario.happenings.append(Happening(at, "crash", how))
        else:
            how = {"installation": 0, "step": step, "seconds": chance.choice((3.0, 15.0, 70.0))}
            scenario.happenings.append(Happening(at, "stop", how))
    pause = chance.uniform(1, 10)
    scenario.happenings.append(Happening(pause, "pause", {"installation": 0, "file": 0}))
    scenario.happenings.append(Happening(pause + chance.choice((0.5, 20.0)), "resume", {"installation": 0, "file": 0}))
    scenario.happenings.sort(key=lambda happening: happening.at)
    scenario.calm_at = 86_400.0 + 600.0
    return scenario


def sends(folder: Path, seed: int) -> list[tuple[str, int, float]]:
    """Tell when each request was first sent, by the database, and did not come back unsent: its currency, amount, time."""
    engine = sa.create_engine(f"sqlite:///{folder / f'{seed}-0-1.db'}")
    with closing(engine.raw_connection()) as connection:
        found = connection.execute(SENDS).fetchall()  # type: ignore[attr-defined]  # sqlite3's own
    engine.dispose()
    gone = [[one for one in json.loads(kept) if one["outcome"] != "not_taken"] for _, _, kept in found]
    return [(row[0], row[1], some[0]["database_at"]) for row, some in zip(found, gone, strict=True) if some]


@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_hours_and_maximum_hold_whatever_dies_or_stands_still(
    play: Callable[[Scenario], Result], tmp_path: Path, seed: int
) -> None:
    schedule = Schedule(window=HOURS, max_per_day="150.00")
    result = play(drawn(seed, schedule))
    assert result.faults == [], result.log
    first = sends(tmp_path, seed)
    assert len(first) == 14
    days: Counter[str] = Counter()
    for _, amount, at in first:
        there = datetime.fromtimestamp(at, UTC)
        assert HOURS.opens <= there.hour * 3600 + there.minute * 60 + there.second < HOURS.closes, there
        days[there.date().isoformat()] += amount
    assert max(days.values()) <= 15_000, days
    assert len(days) > 1


def test_a_spread_with_stages_pays_every_row_though_processes_die(
    play: Callable[[Scenario], Result], tmp_path: Path
) -> None:
    seed = 1
    result = play(drawn(seed, Schedule(spread_seconds=1400.0, canary=(1, 3), halt_hundredths=0), rows=10))
    assert result.faults == [], result.log
    times = sorted(at for _, _, at in sends(tmp_path, seed))
    assert len(times) == 10
    assert times[-1] - times[0] >= 1000.0
    assert min(later - sooner for sooner, later in pairwise(times)) > 100.0
