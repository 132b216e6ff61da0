"""How schedules are read, and what they allow: the cases that a person meets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from refundry.batches.model import Anchor, Budget, Course, Schedule, Window
from refundry.batches.rules import calendar
from refundry.batches.rules.asked import Asked, ScheduleInvalid, check, words
from refundry.batches.rules.schedule import (
    Allow,
    Fit,
    Halt,
    Seen,
    Wait,
    Why,
    anchored,
    decide,
    fits,
    of_day,
    short,
    spent,
)
from refundry.kernel.money import cut

pytestmark = pytest.mark.unit

BERLIN = "Europe/Berlin"
NIGHT = Window(22 * 3600, 6 * 3600, BERLIN)


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


NOON = at("2026-11-24 12:00")


# Reading


def test_without_options_there_is_no_schedule() -> None:
    assert Asked().schedule() is None


def test_all_options_are_read() -> None:
    asked = Asked(
        start_at="2026-11-28 09:00 Europe/Berlin", spread="1d 6h30m", between="22:00-06:00 Europe/Berlin",
        max_per_day="600000.00", keep_balance="1000", canary="1, 50,500", halt_at="0.5%",
    )  # fmt: skip
    assert asked.schedule() == Schedule(
        start_at=at("2026-11-28 09:00"), spread_seconds=109_800.0, window=NIGHT, max_per_day="600000.00",
        keep_balance="1000", canary=(1, 50, 500), halt_hundredths=50, zone=BERLIN,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-11-28T09:00+01:00", "2026-11-28 08:00"),
        ("2026-11-28T09:00:30Z", "2026-11-28 09:00:30"),
        ("2026-11-28 09:00 +05:30", "2026-11-28 03:30"),
        ("2026-11-28 09:00 Asia/Tokyo", "2026-11-28 00:00"),
        ("2026-11-28 UTC", "2026-11-28 00:00"),
    ],
)
def test_a_start_is_a_moment_with_an_offset_or_a_zone(text: str, when: str) -> None:
    schedule = Asked(start_at=text).schedule()
    assert schedule is not None
    assert schedule.start_at == datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()


def test_a_start_that_comes_twice_is_refused_with_both_moments() -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        Asked(start_at="2027-10-31 02:30 Europe/Berlin").schedule()
    moments = ["2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00"]
    assert " or ".join(moments) in refused.value.message
    starts = [schedule.start_at for schedule in (Asked(start_at=moment).schedule() for moment in moments) if schedule]
    assert starts == [at("2027-10-31 00:30", "UTC"), at("2027-10-31 01:30", "UTC")]


def test_days_are_those_of_the_window_then_of_the_start_then_utc() -> None:
    tokyo = Asked(start_at="2026-11-28 09:00 Asia/Tokyo", max_per_day="1").schedule()
    both = Asked(start_at="2026-11-28 09:00 Asia/Tokyo", between="1:00-2:00 Europe/Berlin").schedule()
    plain = Asked(max_per_day="1").schedule()
    assert [one.zone for one in (tokyo, both, plain) if one] == ["Asia/Tokyo", BERLIN, "UTC"]


WRONG = {
    "--start-at": ["tomorrow", "2026-11-28 09:00", "2026-13-01 09:00 UTC", "", "2027-03-28 02:30 Europe/Berlin", "2027-10-31 02:30 Europe/Berlin", "9 UTC"],
    "--spread": ["0", "0h", "", "6", "six hours", "-1h", "1h2d", "999999999999d", "367d"],
    "--between": ["22-06 UTC", "22:00 UTC", "25:00-06:00 UTC", "22:60-06:00 UTC", "24:00-06:00 UTC", "", "22:00-06:00 UTC now"],
    "--max-per-day": ["0", "0.00", "-1", "1,000.00", "1e308", "NaN", "", "12.3456", "9" * 13, "600000 GBP"],
    "--keep-balance": ["-1", "low", "1'000"],
    "--canary": ["", "0", "1,,2", "1;50", "-1", "1.5", "1,0", "9" * 20],
    "--halt-at": ["2", "101%", "100%", "-1%", "2.345%", "%", ""],
}  # fmt: skip


@pytest.mark.parametrize(("option", "text"), [(option, text) for option, texts in WRONG.items() for text in texts])
def test_what_cannot_be_kept_is_refused_with_the_option_and_an_example(option: str, text: str) -> None:
    name = option.removeprefix("--").replace("-", "_")
    asked = replace(Asked(canary="1") if option == "--halt-at" else Asked(), **{name: text})
    with pytest.raises(ScheduleInvalid) as refused:
        asked.schedule()
    assert refused.value.ids["option"] == option
    assert option in refused.value.message


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (Asked(between="22:00-06:00"), "time_zone_unknown"),
        (Asked(between="22:00-06:00 Europe/Entenhausen"), "time_zone_unknown"),
        (Asked(between="22:00-06:00 Europe"), "time_zone_unknown"),
        (Asked(between="22:00-06:00 ../../etc/passwd"), "time_zone_unknown"),
        (Asked(start_at="2026-11-28 09:00 Mars"), "time_zone_unknown"),
        (Asked(between="06:00-06:00 UTC"), "window_impossible"),
        (Asked(between="00:00-24:00 UTC"), "window_impossible"),
        (Asked(between="22:00-22:01 UTC", spread="12h"), "window_impossible"),
        (Asked(halt_at="2%"), "schedule_invalid"),
    ],
)
def test_what_cannot_be_kept_has_a_code(asked: Asked, code: str) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        asked.schedule()
    assert refused.value.code == code


def test_a_canary_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        check(Schedule(canary=(1, 50)), 50, NOON, new=True)
    assert refused.value.code == "canary_too_large"
    check(Schedule(canary=(1, 50)), 51, NOON, new=True)


def test_a_start_in_the_past_is_said_of_a_new_batch_and_means_nothing_to_one_that_goes_on() -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        check(Schedule(start_at=NOON - 3600), 50, NOON, new=True)
    assert refused.value.code == "start_in_the_past"
    check(Schedule(start_at=NOON - 3600), 50, NOON, new=False)
    check(Schedule(start_at=NOON - 5), 50, NOON, new=True)


@pytest.mark.parametrize("new", [True, False])
def test_a_start_that_never_comes_is_refused(*, new: bool) -> None:
    never = Asked(start_at="9999-12-31T23:59:59-05:00").schedule()
    assert never is not None
    with pytest.raises(ScheduleInvalid) as refused:
        check(never, 50, NOON, new=new)
    assert refused.value.code == "start_too_far"
    assert "batch pause" in refused.value.message


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("text", ["0001-01-01T00:00+23:59", "1969-12-31T23:59Z"])
def test_a_start_from_before_there_were_batches_is_refused_whether_the_calendar_has_it_or_not(
    text: str, *, new: bool
) -> None:
    before = Asked(start_at=text).schedule()
    assert before is not None
    with pytest.raises(ScheduleInvalid, match="before the year 1970") as refused:
        check(before, 50, NOON, new=new)
    assert refused.value.code == "start_in_the_past"


@pytest.mark.parametrize("text", ["0001-01-01 00:00 Europe/Berlin", "9999-12-31 23:59 America/New_York"])
def test_a_moment_at_the_end_of_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        Asked(start_at=text).schedule()
    assert refused.value.code == "schedule_invalid"


def test_a_schedule_is_written_back() -> None:
    schedule = Asked(
        start_at="2026-11-28 09:00 Europe/Berlin", spread="1d6h30m", between="22:00-6:00 Europe/Berlin",
        max_per_day="600000.00", keep_balance="1000", canary="1,50", halt_at="0.5%",
    ).schedule()  # fmt: skip
    assert schedule is not None
    assert words(schedule, NOON) == (
        "from 2026-11-28 09:00 Europe/Berlin; 22:00-06:00 Europe/Berlin; spread over 1d6h30m; at most 600000.00 a day "
        "(Europe/Berlin); keeping a balance of 1000; stages of 1, 50 rows, halted at 0.5% failures"
    )


@pytest.mark.parametrize(
    ("text", "currency", "below", "above"),
    [("10.50", "gbp", 1050, 1050), ("10.50", "jpy", 10, 11), ("10", "kwd", 10_000, 10_000), ("0.009", "gbp", 0, 1)],
)
def test_a_limit_is_never_more_than_was_written_and_a_floor_never_less(
    text: str, currency: str, below: int, above: int
) -> None:
    assert (cut(text, currency), cut(text, currency, up=True)) == (below, above)


# Time


def test_a_night_is_as_long_as_it_is() -> None:
    night = calendar.open_seconds(NIGHT, at("2026-11-24 12:00"), at("2026-11-25 12:00"))
    longer = calendar.open_seconds(NIGHT, at("2026-10-24 12:00"), at("2026-10-25 12:00"))
    shorter = calendar.open_seconds(NIGHT, at("2027-03-27 12:00"), at("2027-03-28 12:00"))
    assert (night, longer, shorter) == (8 * 3600, 9 * 3600, 7 * 3600)


def test_a_window_that_the_clock_jumps_over_stays_closed_that_day_and_one_it_jumps_into_opens_then() -> None:
    over = Window(2 * 3600, 3 * 3600, BERLIN)
    into = Window(2 * 3600 + 1800, 5 * 3600, BERLIN)
    evening = at("2027-03-27 20:00")
    assert calendar.next_change(over, evening) == at("2027-03-29 02:00")
    assert calendar.next_change(into, evening) == at("2027-03-28 03:00")


def see(schedule: Schedule, now: float, *, rows: int = 1000, moving: int = 0, unknown: int = 0, **course: int) -> Seen:
    seen = Seen(Course(**course), moving, unknown, rows)  # type: ignore[arg-type]  # counts
    return replace(seen, course=anchored(schedule, seen, now))


def test_nothing_goes_before_the_start_and_outside_the_window_and_what_had_its_turn_is_recalled() -> None:
    start = Schedule(start_at=NOON + 3600, zone=BERLIN)
    assert decide(start, see(start, NOON), NOON, 50) == Wait(
        Why.START, NOON + 3600, "begins at 13:00 Europe/Berlin", recall=True
    )
    night = Schedule(window=NIGHT, zone=BERLIN)
    assert decide(night, see(night, NOON), NOON, 50) == Wait(
        Why.WINDOW, at("2026-11-24 22:00"), "next rows at 22:00 Europe/Berlin", recall=True
    )
    assert decide(night, see(night, NOON), at("2026-11-24 22:00"), 50) == Allow(50)


def test_no_more_go_than_can_be_worked_on_soon() -> None:
    plain = Schedule()
    assert decide(plain, see(plain, NOON, moving=20, released=20), NOON, 50) == Allow(30)
    assert decide(plain, see(plain, NOON, moving=60, released=60), NOON, 50) == Allow(0)
    assert decide(plain, see(plain, NOON, rows=25, moving=20, released=20), NOON, 50) == Allow(5)


# Spread


def test_rows_are_spread_evenly_from_the_first_turn_on() -> None:
    schedule = Schedule(spread_seconds=1000.0)
    seen = see(schedule, NOON, rows=100)
    assert decide(schedule, seen, NOON, 50) == Allow(1)
    one = replace(seen, course=replace(seen.course, released=1))
    assert decide(schedule, one, NOON + 5, 50) == Wait(Why.SPREAD, NOON + 10, "next row at 11:00:10 UTC, evenly spread")
    assert decide(schedule, one, NOON + 10, 50) == Allow(1)


def test_rows_that_are_late_are_not_hurried_after() -> None:
    schedule = Schedule(spread_seconds=1000.0)
    seen = see(schedule, NOON, rows=100)
    one = replace(seen, course=replace(seen.course, released=1))
    later = replace(one, course=anchored(schedule, one, NOON + 500))
    assert later.course.anchor == Anchor(NOON + 500, 1, 990.0)
    assert decide(schedule, later, NOON + 500, 50) == Allow(1)


# Stages

CANARY = Schedule(canary=(1, 50, 500))


@pytest.mark.parametrize(
    ("over", "moving", "allowed"),
    [(0, 0, 1), (1, 0, 50), (1, 20, 30), (51, 0, 500), (551, 0, 449), (600, 10, 390)],
)
def test_a_stage_begins_when_the_one_before_is_over(over: int, moving: int, allowed: int) -> None:
    seen = see(CANARY, NOON, over=over, moving=moving, released=over + moving)
    assert decide(CANARY, seen, NOON, 5000) == Allow(allowed)


@pytest.mark.parametrize(
    ("over", "moving", "text"),
    [
        (0, 1, "stage 2 of 4: 50 rows, begins when stage 1 is over (1 row not over yet)"),
        (1, 50, "stage 3 of 4: 500 rows, begins when stage 2 is over (50 rows not over yet)"),
        (500, 51, "stage 4 of 4: 449 rows, begins when stage 3 is over (51 rows not over yet)"),
    ],
)
def test_a_stage_that_is_waited_for_is_told(over: int, moving: int, text: str) -> None:
    seen = see(CANARY, NOON, over=over, moving=moving, released=over + moving)
    assert decide(CANARY, seen, NOON, 5000) == Wait(Why.STAGE, None, text)


def test_rows_that_were_refused_before_they_were_sent_fill_no_stage() -> None:
    assert decide(CANARY, see(CANARY, NOON, over=0, released=7), NOON, 5000) == Allow(1)


@pytest.mark.parametrize(
    ("over", "failed", "unknown", "halts"),
    [(1, 1, 0, True), (0, 0, 1, True), (10, 1, 0, False), (10, 2, 0, True), (50, 1, 1, True), (51, 1, 0, False), (300, 11, 0, False),
     (300, 12, 0, True), (900, 18, 0, False), (900, 19, 0, True)],
)  # fmt: skip
def test_too_large_a_share_of_failures_halts(over: int, failed: int, unknown: int, halts: bool) -> None:  # noqa: FBT001  # a case
    seen = see(CANARY, NOON, over=over, failed=failed, unknown=unknown, released=over + unknown)
    assert isinstance(decide(CANARY, seen, NOON, 50), Halt) is halts


def test_a_halt_says_how_many_failed_and_how_many_may() -> None:
    seen = see(CANARY, NOON, over=10, failed=2, released=10)
    assert decide(CANARY, seen, NOON, 50) == Halt("2 of the first 51 rows failed, and --halt-at allows 2%")


def test_failures_that_a_person_knew_of_when_the_batch_went_on_do_not_halt_it_again() -> None:
    seen = see(CANARY, NOON, over=10, failed=2, released=10, forgiven=2)
    assert decide(CANARY, seen, NOON, 50) == Allow(41)
    more = see(CANARY, NOON, over=12, failed=4, released=12, forgiven=2)
    assert isinstance(decide(CANARY, more, NOON, 50), Halt)


def test_a_batch_of_which_nothing_is_left_is_not_halted() -> None:
    seen = see(CANARY, NOON, rows=551, over=551, failed=500, released=551)
    assert decide(CANARY, seen, NOON, 50) == Allow(0)


# Money


def test_a_day_takes_no_more_than_its_maximum_and_the_next_begins_anew() -> None:
    schedule = Schedule(max_per_day="10.00", zone=BERLIN)
    budget = spent(of_day(Budget("gbp"), "2026-11-24", 0), 900)
    assert fits(schedule, budget, 100, NOON) is Fit.YES
    assert fits(schedule, budget, 101, NOON) is Fit.ANOTHER_DAY
    assert fits(schedule, budget, 1001, NOON) is Fit.NEVER
    tomorrow = of_day(budget, "2026-11-25", 300)
    assert tomorrow.sent_minor == 300
    assert tomorrow.spent_minor == 900
    # A clock that was set back brings no old day back.
    assert of_day(tomorrow, "2026-11-24", 0) == tomorrow


def test_a_day_that_is_used_up_says_so_and_when_the_next_rows_go() -> None:
    budget = replace(Budget("gbp"), day="2026-11-24", sent_minor=59_999_000)
    schedule = Schedule(max_per_day="600000.00", zone=BERLIN)
    wait = short(schedule, budget, Fit.ANOTHER_DAY, 2000, NOON)
    assert wait.until == at("2026-11-25 00:00")
    assert wait.text == (
        "599990.00 GBP of today's 600000.00 GBP were sent, and the next row needs 20.00 GBP: next rows at 00:00 Europe/Berlin"
    )
    by_day = replace(schedule, window=Window(9 * 3600, 17 * 3600, BERLIN))
    assert short(by_day, budget, Fit.ANOTHER_DAY, 2000, NOON).until == at("2026-11-25 09:00")


def test_what_must_stay_of_the_balance_stays() -> None:
    schedule = Schedule(keep_balance="10.00")
    budget = Budget("gbp", spent_minor=500, ceiling_minor=2500, read_at=NOON)
    assert fits(schedule, budget, 1000, NOON + 10) is Fit.YES
    assert fits(schedule, budget, 1001, NOON + 10) is Fit.LOW_BALANCE
    assert fits(schedule, budget, 1, NOON + 3600) is Fit.LOW_BALANCE, "it was read an hour ago"
    assert fits(schedule, Budget("gbp"), 1, NOON) is Fit.LOW_BALANCE, "it was never read"
    told = [
        short(schedule, one, Fit.LOW_BALANCE, 1001, NOON)
        for one in (budget, replace(budget, spent_minor=2000), Budget("gbp"))
    ]
    assert [wait.why for wait in told] == [Why.BALANCE, Why.BALANCE, Why.BALANCE_UNKNOWN]
    assert told[0].text == (
        "the next row needs 10.01 GBP, and the available balance is 10.00 GBP above the 10.00 GBP to be kept"
    )
    assert told[1].text == "the available balance is 5.00 GBP below the 10.00 GBP to be kept"
