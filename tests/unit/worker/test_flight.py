"""How many rows are on their way at once: as many as keep every slot used, fewer where Stripe says that they are too many."""

from __future__ import annotations

import pytest

from refundry.infra.pace import Limits, Pacer
from refundry.worker.flight import CUT, CUT_PAUSE, FEW, MARGIN, Crowding, Flight, rows_wanted
from tests.support.clock import HandClock
from tests.unit.infra.test_pace import NoWriter

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("rate", "seconds", "rows"),
    [
        (22.5, 0.33, 15), (22.5, 0.1, 5), (22.5, 0.001, FEW), (22.5, 1.0, 45), (22.5, 60.0, 50), (0.5, 0.3, FEW),
        (0.0, 0.3, 50), (0.0, 60.0, 50),
    ],
)  # fmt: skip
def test_the_rows_at_once_follow_the_rate_and_the_time_of_a_row(rate: float, seconds: float, rows: int) -> None:
    assert rows_wanted(rate, seconds, 50) == rows


def test_the_setting_is_never_exceeded_even_where_a_few_would_be_more() -> None:
    assert rows_wanted(22.5, 0.001, 1) == 1


def flight(limits: Limits = Limits(25, 25), most: int = 50) -> tuple[Flight, Pacer, HandClock]:  # noqa: B008  # it is frozen
    clock = HandClock()
    pacer = Pacer(limits, 0.1, NoWriter(), clock)  # type: ignore[arg-type]
    return Flight(pacer, clock, most), pacer, clock


def test_a_stripe_that_becomes_slow_gets_more_rows_and_one_that_is_quick_again_fewer() -> None:
    made, _, _ = flight()
    for _ in range(150):
        made.took(0.33)
    quick = made.rows()
    for _ in range(150):
        made.took(1.0)
    slow = made.rows()
    for _ in range(150):
        made.took(0.33)
    assert (quick, slow, made.rows()) == (15, 45, 15)


def test_one_row_that_hangs_does_not_matter_for_long() -> None:
    made, _, _ = flight()
    for _ in range(150):
        made.took(0.33)
    made.took(30.0)
    assert made.rows() == 50
    for _ in range(40):
        made.took(0.33)
    assert made.rows() <= 18


@pytest.mark.parametrize("reason", ["global-concurrency", "endpoint-concurrency"])
async def test_too_many_at_once_leaves_fewer_and_they_creep_up_again(reason: str) -> None:
    made, pacer, clock = flight(Limits(0, 0))
    assert made.rows() == 50
    await pacer.limited("POST /v1/refunds", reason, 0.0)
    assert made.rows() == int(50 * CUT)
    await clock.run(CUT_PAUSE + 5.0)
    assert made.rows() == int(50 * CUT) + 5
    await clock.run(60.0)
    assert made.rows() == 50


async def test_a_storm_of_one_moment_cuts_once_and_one_that_goes_on_cuts_again() -> None:
    made, pacer, clock = flight(Limits(0, 0), most=16)
    for _ in range(10):
        await pacer.limited("POST /v1/refunds", "endpoint-concurrency", 0.0)
        made.rows()
    assert made.rows() == 12
    await clock.run(CUT_PAUSE)
    await pacer.limited("POST /v1/refunds", "endpoint-concurrency", 0.0)
    assert made.rows() == 9


async def test_a_limit_on_the_rate_says_nothing_about_the_rows_at_once() -> None:
    made, pacer, _ = flight(Limits(0, 0))
    await pacer.limited("POST /v1/refunds", "endpoint-rate", 0.0)
    assert made.rows() == 50


async def test_however_often_it_is_said_one_row_is_left() -> None:
    made, pacer, clock = flight(Limits(0, 0))
    for _ in range(40):
        await pacer.limited("POST /v1/refunds", "global-concurrency", 0.0)
        made.rows()
        await clock.run(CUT_PAUSE)
    assert made.rows() == 1


def test_nothing_new_that_was_said_changes_nothing() -> None:
    crowding = Crowding(rows=10.0, at=5.0, heard=3)
    assert crowding.after(3, 100.0, 10) is crowding


def test_the_margin_leaves_rows_that_wait_for_their_slots() -> None:
    assert MARGIN > 1
