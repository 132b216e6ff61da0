"""What a schedule allows at a moment. Pure and total: whatever has become of the rows so far, there is one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import accumulate
from typing import assert_never
from zoneinfo import ZoneInfo

from refundry.batches.model import DAY_SECONDS, Anchor, Budget, Course, Schedule
from refundry.batches.rules import calendar
from refundry.kernel.money import Money, cut

WHOLE = 10_000
# Rows of a spread that are late by more than this, in seconds, are not hurried after: the rate stays what was asked for.
LATE_SECONDS = 60.0
# A balance that was read longer ago than this is not believed.
BELIEVED_SECONDS = 90.0


class Why(StrEnum):
    """What a batch with a schedule waits for; the values are stable."""

    START = "start"
    WINDOW = "window"
    STAGE = "stage"
    SPREAD = "spread"
    DAY = "day"
    BALANCE = "balance"
    BALANCE_UNKNOWN = "balance_unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """What has become of a batch's rows.

    Args:
        course: How far it has come, what is over included.
        moving: Rows that had their turn, and with which something is still to happen by itself.
        unknown: Rows of which nobody knows whether they were paid.
        rows: How many rows there are to be paid at most.
        before: The first row that was sent before there were stages, and has no outcome yet; zero, if there is none.
    """

    course: Course
    moving: int
    unknown: int
    rows: int
    before: int = 0

    @property
    def done(self) -> int:
        """Tell how many rows have an outcome."""
        return self.course.over + self.unknown

    @property
    def failures(self) -> int:
        """Tell how many of those failed, beyond what a person knew of when the batch was let go on."""
        return max(self.course.failed + self.unknown - self.course.forgiven, 0)


@dataclass(frozen=True, slots=True)
class Allow:
    """So many more rows may have their turn now, as far as their money fits."""

    rows: int


@dataclass(frozen=True, slots=True)
class Wait:
    """No row may have its turn now.

    Args:
        why: What is waited for.
        until: When that is over, if time is all it takes; epoch seconds UTC.
        text: For a person.
        recall: Whether those that had their turn, and were not sent yet, wait too.
    """

    why: Why
    until: float | None
    text: str
    recall: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """Too many have failed: a person has to look before any other row is sent."""

    text: str


def decide(schedule: Schedule, seen: Seen, now: float, ahead: int) -> Allow | Wait | Halt:
    """Tell how many further rows may have their turn.

    Args:
        schedule: What was asked for.
        seen: What has become of the rows.
        now: Epoch seconds UTC.
        ahead: How many rows that had their turn may be unsent at most.
    """
    if (early := too_early(schedule, now)) is not None:
        return early
    waiting = seen.rows - seen.course.released
    if waiting <= 0 and not seen.moving:
        return Allow(0)
    if (halt := _halted(schedule, seen)) is not None:
        return halt
    if waiting <= 0:
        return Allow(0)
    stage = _stage(schedule, seen)
    if stage is not None and stage <= 0:
        return Wait(Why.STAGE, None, _stage_text(schedule, seen))
    room = min(waiting, max(ahead - seen.moving, 0), waiting if stage is None else stage)
    if seen.course.anchor is None:
        return Allow(room)
    due = _due(schedule, seen, now) - seen.course.released
    if due > 0:
        return Allow(min(room, due))
    until = _next_due(schedule, seen)
    return Wait(Why.SPREAD, until, f"next row at {told(schedule.zone, until, now, seconds=True)}, evenly spread")


def too_early(schedule: Schedule, now: float) -> Wait | None:
    """Tell what to wait for, if nothing may be sent at this time of the day at all."""
    start = schedule.start_at
    if start is not None and now < start:
        return Wait(Why.START, start, f"begins at {told(schedule.zone, start, now)}", recall=True)
    window = schedule.window
    if window is not None and not calendar.is_open(window, now):
        opens = float(calendar.next_change(window, now))
        return Wait(Why.WINDOW, opens, f"next rows at {told(window.zone, opens, now)}", recall=True)
    return None


# Stages


def _ends(schedule: Schedule) -> list[int]:
    return list(accumulate(schedule.canary))


def _stage(schedule: Schedule, seen: Seen) -> int | None:
    """Tell how many more rows belong to the stage that is on; `None`, if no stage limits them."""
    if schedule.canary and seen.before:
        return 0
    end = next((end for end in _ends(schedule) if end > seen.done), None)
    return None if end is None else end - seen.done - seen.moving


def stage_now(schedule: Schedule, seen: Seen) -> str:
    """Tell in which stage a batch is, as in `stage 2 of 4: 31 of 50 rows over`; an empty text without stages."""
    if not schedule.canary:
        return ""
    ends = [end for end in _ends(schedule) if end < seen.rows]
    at = sum(end <= seen.done for end in ends)
    if at == len(ends):
        # Its size is not known: rows that are refused before they are sent fill no stage.
        return f"stage {at + 1} of {at + 1}: all other rows"
    begins = ends[at - 1] if at else 0
    return f"stage {at + 1} of {len(ends) + 1}: {seen.done - begins:,} of {_rows(ends[at] - begins)} over"


def _stage_text(schedule: Schedule, seen: Seen) -> str:
    if seen.before:
        return f"the stages begin when what was sent before them is over (row {seen.before:,} is not)"
    ends = _ends(schedule)
    number = sum(end <= seen.done for end in ends) + 1
    rest = seen.rows - ends[-1]
    sizes = [*schedule.canary, *([rest] if rest > 0 else [])]
    left = ends[number - 1] - seen.done
    if number >= len(sizes):
        return f"stage {number} of {len(sizes)}: {_rows(left)} not over yet"
    size = sizes[number]
    return f"stage {number + 1} of {len(sizes)}: {_rows(size)}, begins when stage {number} is over ({_rows(left)} not over yet)"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _halted(schedule: Schedule, seen: Seen) -> Halt | None:
    """Tell whether too large a share has failed: of the rows up to the end of the stage that the last row let go belongs to.

    After the stages, of all that are over so far.
    """
    if not schedule.canary:
        return None
    ends = _ends(schedule)
    base = next((end for end in ends if end >= seen.done + seen.moving), max(ends[-1], seen.done))
    if seen.failures * WHOLE <= schedule.halt_hundredths * base:
        return None
    return Halt(
        f"{seen.failures:,} of the first {_rows(base)} failed, and --halt-at allows {percent(schedule.halt_hundredths)}"
    )


def percent(hundredths: int) -> str:
    """Write a share: `2%`, `0.5%`."""
    text = f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")
    return f"{text}%"


# Spread


def anchored(schedule: Schedule, seen: Seen, now: float) -> Course:
    """Begin a spread, or begin to count anew if it is late, after a pause, a night, a day's maximum, at a slower pace; or if it began later than now.

    The last is so after the clock was set back, and its next row would wait until the clock has come there again.
    """
    course = seen.course
    if schedule.spread_seconds is None or too_early(schedule, now) is not None:
        return course
    if course.anchor is None:
        return replace(course, anchor=Anchor(now, course.released, schedule.spread_seconds))
    anchor, rest = course.anchor, seen.rows - course.anchor.released
    if rest <= 0 or course.released >= seen.rows:
        return course
    gap = anchor.seconds / rest
    late = _due(schedule, seen, now) - course.released
    if anchor.at <= now and late - 1 <= max(LATE_SECONDS / gap, 1.0):
        return course
    return replace(course, anchor=Anchor(now, course.released, gap * (seen.rows - course.released)))


def _due(schedule: Schedule, seen: Seen, now: float) -> int:
    """Tell how many rows may have had their turn by now."""
    anchor = seen.course.anchor
    if anchor is None:
        return seen.rows
    passed = calendar.open_seconds(schedule.window, anchor.at, now)
    share = min(passed / anchor.seconds, 1.0) if anchor.seconds > 0 else 1.0
    return min(anchor.released + int((seen.rows - anchor.released) * share) + 1, seen.rows)


def _next_due(schedule: Schedule, seen: Seen) -> float:
    """Tell when the next row's turn comes."""
    anchor = seen.course.anchor
    if anchor is None or seen.rows <= anchor.released:
        return 0.0
    share = (seen.course.released - anchor.released) / (seen.rows - anchor.released)
    return calendar.after_open_seconds(schedule.window, anchor.at, max(anchor.seconds * share, 0.0))


# Money


class Fit(StrEnum):
    """Whether an amount may be sent."""

    YES = "yes"
    ANOTHER_DAY = "another_day"
    NEVER = "never"
    LOW_BALANCE = "low_balance"


def fits(schedule: Schedule, budget: Budget, amount_minor: int, now: float) -> Fit:
    """Tell whether an amount may be sent today, and with the balance as it was read last.

    Args:
        schedule: What was asked for.
        budget: Of the amount's currency, of today.
        amount_minor: The amount.
        now: Epoch seconds UTC, by the clock that `budget.read_at` is of.
    """
    if schedule.max_per_day is not None:
        most = cut(schedule.max_per_day, budget.currency)
        if amount_minor > most:
            return Fit.NEVER
        if budget.day > calendar.day_of(schedule.zone, now):
            # The clock was set back since that day was begun: what was sent today has to be counted anew first.
            return Fit.ANOTHER_DAY
        if budget.sent_minor + amount_minor > most:
            return Fit.ANOTHER_DAY
    if schedule.keep_balance is not None:
        room = _room(schedule, budget)
        if room is None or not believed(budget, now) or amount_minor > room:
            return Fit.LOW_BALANCE
    return Fit.YES


def believed(budget: Budget, now: float) -> bool:
    """Tell whether the balance was read a moment ago."""
    return budget.ceiling_minor is not None and 0 <= now - budget.read_at <= BELIEVED_SECONDS


def _room(schedule: Schedule, budget: Budget) -> int | None:
    if schedule.keep_balance is None or budget.ceiling_minor is None:
        return None
    return budget.ceiling_minor - budget.spent_minor - cut(schedule.keep_balance, budget.currency, up=True)


def of_day(budget: Budget, day: str, in_flight_minor: int) -> Budget:
    """Begin a new day, if it is one; what is still on its way may be paid on it, and counts on it too."""
    return budget if day <= budget.day else replace(budget, day=day, sent_minor=in_flight_minor)


def spent(budget: Budget, amount_minor: int) -> Budget:
    """Count an amount that is sent, or, negative, one that came back unsent."""
    return replace(
        budget,
        sent_minor=max(budget.sent_minor + amount_minor, 0),
        spent_minor=max(budget.spent_minor + amount_minor, 0),
    )


def short(schedule: Schedule, budget: Budget, fit: Fit, amount_minor: int, now: float) -> Wait:
    """Tell what an amount waits for that does not fit."""
    currency = budget.currency
    match fit:
        case Fit.YES | Fit.NEVER:
            return Wait(Why.DAY, now, "")
        case Fit.ANOTHER_DAY:
            until = calendar.day_after(schedule.zone, budget.day, now)
            if schedule.window is not None and not calendar.is_open(schedule.window, until):
                until = float(calendar.next_change(schedule.window, until))
            most = Money(cut(schedule.max_per_day or "0", currency), currency)
            text = (
                f"{Money(budget.sent_minor, currency)} of today's {most} were sent, and the next row needs "
                f"{Money(amount_minor, currency)}: next rows at {told(schedule.zone, until, now)}"
            )
            return Wait(Why.DAY, until, text)
        case Fit.LOW_BALANCE:
            kept = Money(cut(schedule.keep_balance or "0", currency, up=True), currency)
            if (room := _room(schedule, budget)) is None or not believed(budget, now):
                return Wait(Why.BALANCE_UNKNOWN, None, f"the available balance in {currency.upper()} is not known yet")
            text = (
                f"the next row needs {Money(amount_minor, currency)}, and the available balance is "
                f"{Money(max(room, 0), currency)} above the {kept} to be kept"
                if room >= 0
                else f"the available balance is {Money(-room, currency)} below the {kept} to be kept"
            )
            return Wait(Why.BALANCE, None, text)
        case _:
            assert_never(fit)


# Telling


def told(zone: str, at: float, now: float, *, seconds: bool = False) -> str:
    """Write a moment for a person: `22:00 Europe/Berlin`, with its date where that is not plain."""
    there = datetime.fromtimestamp(at, ZoneInfo(zone))
    clock = f"{there:%H:%M:%S}" if seconds else f"{there:%H:%M}"
    return f"{clock} {zone}" if 0 <= at - now < DAY_SECONDS else f"{there:%Y-%m-%d} {clock} {zone}"
