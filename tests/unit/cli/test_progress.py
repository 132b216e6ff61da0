"""How fast a batch goes, and what is said of the time left."""

from __future__ import annotations

import pytest

from refundry.batches.model import Standing, Totals
from refundry.cli.progress import PLAIN_SECONDS, Progress, Seen, Speed
from tests.support.clock import HandClock

pytestmark = pytest.mark.unit


def test_rows_that_are_tried_again_make_no_speed_below_zero() -> None:
    clock = HandClock()
    speed = Speed(clock)
    for done in (100, 110, 120):
        speed.note(done)
        clock.move(2.0)
    assert speed.rows_per_second() == pytest.approx(5.0)
    # What was refused is decided anew, as by `batch retry` of somebody else: how fast it went before says nothing of these.
    speed.note(40)
    assert speed.rows_per_second() is None
    clock.move(2.0)
    speed.note(50)
    assert speed.rows_per_second() == pytest.approx(5.0)


def test_no_time_left_is_told_of_rows_that_are_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock()
    with Progress("refunds.csv", clock) as progress:
        for moving in (60, 50, 600):
            totals = Totals(rows=1000, moving=moving)
            totals.standings[Standing.WAITING] = moving
            totals.standings[Standing.PAID] = 1000 - moving
            progress.show(
                Seen(totals, planning=False, watching=False, in_doubt=0, next_look_seconds=None, limit=10.0, limited=0)
            )
            clock.move(PLAIN_SECONDS)
    assert capsys.readouterr().err.splitlines() == [
        "refunds.csv",
        "940 of 1,000 rows  paid nothing",
        "950 of 1,000 rows  paid nothing  1.0/s of 10.0/s  0:50 left",
        "400 of 1,000 rows  paid nothing",
    ]


def test_rows_that_are_held_when_a_run_is_halted_are_not_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    totals = Totals(rows=100)
    totals.standings |= {Standing.WAITING: 60, Standing.PAID: 40}
    with Progress("refunds.csv", HandClock()) as progress:
        progress.show(
            Seen(totals, planning=False, watching=False, in_doubt=0, next_look_seconds=None, limit=0.0, limited=0)
        )
    assert capsys.readouterr().err.splitlines() == ["refunds.csv", "40 of 100 rows  paid nothing  60 held"]
