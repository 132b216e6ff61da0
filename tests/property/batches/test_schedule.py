"""Schedules, over random clocks that are set forward and back: never outside a window, never above a day's maximum, every row in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refundry.batches.model import DAY_SECONDS, Budget, Course, Schedule, Window
from refundry.batches.rules import calendar
from refundry.batches.rules.schedule import (
    Allow,
    Fit,
    Halt,
    Seen,
    Wait,
    anchored,
    decide,
    fits,
    of_day,
    spent,
    too_early,
)

pytestmark = pytest.mark.property

# Set by an hour at night, by half an hour, at midnight (so that a day begins at one), in the south, and never.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Kolkata",
    "UTC",
)
YEAR = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


def settings_of(zone: str) -> list[int]:
    """Find the hours in which a zone's clock is set in a year."""
    there = ZoneInfo(zone)
    hours = range(YEAR, YEAR + 366 * DAY_SECONDS, 3600)
    ahead = [datetime.fromtimestamp(hour, there).utcoffset() for hour in hours]
    return [hour for hour, now, later in zip(hours, ahead, ahead[1:], strict=False) if now != later]


SET = {zone: settings_of(zone) for zone in ZONES}
minutes = st.integers(0, 24 * 60 - 1).map(lambda minute: minute * 60)


@st.composite
def windows(draw: st.DrawFn, least: int = 60) -> Window:
    opens, length = draw(minutes), draw(st.integers(least // 60, 24 * 60 - 1)) * 60
    return Window(opens, (opens + length) % DAY_SECONDS or DAY_SECONDS, draw(st.sampled_from(ZONES)))


@st.composite
def moments(draw: st.DrawFn, zone: str) -> float:
    """Draw a time, of two about every second within a day of one at which the clock is set."""
    near = SET[zone] and draw(st.booleans())
    around = draw(st.sampled_from(SET[zone])) if near else draw(st.integers(YEAR, YEAR + 365 * DAY_SECONDS))
    return around + draw(st.floats(-DAY_SECONDS, DAY_SECONDS, allow_nan=False))


@st.composite
def windows_and_moments(draw: st.DrawFn, least: int = 60) -> tuple[Window, float]:
    window = draw(windows(least))
    return window, draw(moments(window.zone))


def by_the_wall(window: Window, at: float) -> bool:
    """Tell whether a window is open, by what stands on the clock in words."""
    there = datetime.fromtimestamp(int(at // 1), ZoneInfo(window.zone))
    clock = f"{there:%H:%M:%S}"
    opens, closes = (f"{end // 3600:02}:{end // 60 % 60:02}:00" for end in (window.opens, window.closes))
    return opens <= clock < closes if opens < closes else not closes <= clock < opens


@settings(max_examples=40, deadline=None)
@given(windows_and_moments())
def test_a_window_is_open_by_the_clock_on_the_wall(drawn: tuple[Window, float]) -> None:
    assert calendar.is_open(*drawn) == by_the_wall(*drawn)


@settings(max_examples=40, deadline=None)
@given(windows_and_moments(), st.lists(st.floats(0, 0.999), max_size=20))
def test_a_window_changes_when_it_is_said_to_and_not_before(drawn: tuple[Window, float], places: list[float]) -> None:
    window, at = drawn
    change = calendar.next_change(window, at)
    before = by_the_wall(window, at)
    assert at < change <= at + 2 * DAY_SECONDS + 3600
    assert by_the_wall(window, change) != before
    assert by_the_wall(window, change - 0.001) == before
    assert all(by_the_wall(window, at + (change - at) * place) == before for place in places)


@settings(max_examples=40, deadline=None)
@given(windows_and_moments(), st.floats(0, 3 * DAY_SECONDS), st.floats(0, 3 * DAY_SECONDS))
def test_the_open_time_of_two_spans_adds_up(drawn: tuple[Window, float], first: float, second: float) -> None:
    window, at = drawn
    middle, end = at + first, at + first + second
    whole = calendar.open_seconds(window, at, end)
    parts = calendar.open_seconds(window, at, middle) + calendar.open_seconds(window, middle, end)
    assert whole == pytest.approx(parts, abs=1e-3)
    assert 0 <= whole <= end - at + 1e-3


@settings(max_examples=40, deadline=None)
@given(windows_and_moments(3 * 3600), st.floats(1, DAY_SECONDS))
def test_the_moment_after_some_open_time_is_found_again(drawn: tuple[Window, float], seconds: float) -> None:
    window, at = drawn
    then = calendar.after_open_seconds(window, at, seconds)
    assert calendar.open_seconds(window, at, then) == pytest.approx(seconds, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ZONES).flatmap(lambda zone: st.tuples(st.just(zone), moments(zone))))
@example(("Africa/Cairo", float(SET["Africa/Cairo"][0])))
def test_the_day_after_begins_at_its_first_second(drawn: tuple[str, float]) -> None:
    zone, at = drawn
    today = calendar.day_of(zone, at)
    begins = calendar.day_after(zone, today, at)
    tomorrow = (datetime.fromisoformat(today) + timedelta(days=1)).date().isoformat()
    assert calendar.day_of(zone, begins) == tomorrow
    assert calendar.day_of(zone, begins - 1) == today


# Whole batches


@st.composite
def schedules(draw: st.DrawFn, rows: int) -> tuple[Schedule, float]:
    window = draw(st.none() | windows(3 * 3600))
    zone = window.zone if window else draw(st.sampled_from(ZONES))
    now = draw(moments(zone))
    sizes = draw(st.lists(st.integers(1, 5), max_size=3))
    return Schedule(
        start_at=draw(st.none() | st.floats(now - 3600, now + 2 * DAY_SECONDS)),
        spread_seconds=draw(st.none() | st.floats(60, 2 * DAY_SECONDS)),
        window=window,
        max_per_day=draw(st.none() | st.sampled_from(("10.00", "25.00", "60.50"))),
        canary=tuple(sizes) if sum(sizes) <= rows else (),
        zone=zone,
    ), now


@st.composite
def batches(draw: st.DrawFn) -> tuple[Schedule, float, list[int]]:
    amounts = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=25))
    schedule, now = draw(schedules(len(amounts)))
    return schedule, now, amounts


def paid_by(schedule: Schedule, now: float, amounts: list[int], ahead: int = 4) -> list[tuple[float, int]]:
    """Pay a batch whose every row takes its turn, and then some time; tells when which amount was sent."""
    course, budget, sent = Course(), Budget("gbp"), []
    for _ in range(3000):
        if course.released == len(amounts):
            return sent
        seen = Seen(course, 0, 0, len(amounts))
        course = anchored(schedule, seen, now)
        verdict = decide(schedule, replace(seen, course=course), now, ahead)
        budget = of_day(budget, calendar.day_of(schedule.zone, now), 0)
        if isinstance(verdict, Wait):
            assert verdict.until is not None
            now = max(verdict.until, now + 0.001)
            continue
        assert isinstance(verdict, Allow), verdict
        for amount in amounts[course.released : course.released + verdict.rows]:
            if fits(schedule, budget, amount, now) is not Fit.YES:
                now = calendar.day_after(schedule.zone, budget.day, now)
                break
            assert too_early(schedule, now) is None
            budget = spent(budget, amount)
            course = replace(course, released=course.released + 1, over=course.over + 1)
            sent.append((now, amount))
        now += 1.0
    raise AssertionError(f"only {course.released} of {len(amounts)} rows were paid by {now}")


@settings(max_examples=40, deadline=None)
@given(batches())
def test_every_row_is_sent_once_in_order_in_its_hours_and_within_each_days_maximum(
    drawn: tuple[Schedule, float, list[int]],
) -> None:
    schedule, now, amounts = drawn
    sent = paid_by(schedule, now, amounts)
    assert [amount for _, amount in sent] == amounts
    days: Counter[str] = Counter()
    for at, amount in sent:
        assert schedule.window is None or by_the_wall(schedule.window, at)
        assert schedule.start_at is None or at >= schedule.start_at
        days[datetime.fromtimestamp(int(at // 1), ZoneInfo(schedule.zone)).date().isoformat()] += amount
    if schedule.max_per_day is not None:
        assert max(days.values()) <= int(schedule.max_per_day.replace(".", ""))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 40),
    st.floats(600, 2 * DAY_SECONDS),
    windows_and_moments(3 * 3600),
)
def test_a_spread_is_even_in_the_time_in_which_the_window_is_open(
    rows: int, seconds: float, drawn: tuple[Window, float]
) -> None:
    window, now = drawn
    schedule = Schedule(spread_seconds=seconds, window=window, zone=window.zone)
    times = [at for at, _ in paid_by(schedule, now, [1] * rows)]
    gaps = [calendar.open_seconds(window, one, other) for one, other in pairwise(times)]
    # A row is looked for once a second.
    assert min(gaps) >= seconds / rows - 2.5
    assert sum(gaps) <= seconds + 2.5 * rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.data())
def test_whatever_has_become_of_the_rows_there_is_an_answer(rows: int, data: st.DataObject) -> None:
    schedule, now = data.draw(schedules(rows))
    schedule = replace(schedule, halt_hundredths=data.draw(st.integers(0, 9999)))
    released = data.draw(st.integers(0, rows))
    over = data.draw(st.integers(0, released))
    failed = data.draw(st.integers(0, over))
    unknown = data.draw(st.integers(0, released - over))
    moving = data.draw(st.integers(0, released - over - unknown))
    seen = Seen(
        Course(released=released, over=over, failed=failed, forgiven=data.draw(st.integers(0, 5))),
        moving,
        unknown,
        rows,
    )
    seen = replace(seen, course=anchored(schedule, seen, now))
    match decide(schedule, seen, now, data.draw(st.integers(0, 40))):
        case Allow(rows=more):
            assert 0 <= more <= rows - released
        case Wait(until=until, text=text, why=why):
            assert text
            assert until is None or until > now
            # What time alone does not end is ended by rows that are on their way.
            assert until is not None or moving, why
        case Halt(text=text):
            assert schedule.canary
            assert text
