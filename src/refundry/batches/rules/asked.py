"""How a schedule is read that a person has written, and how it is written back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from refundry.batches.model import DAY_SECONDS, Schedule, Window
from refundry.batches.rules.schedule import WHOLE, percent, told
from refundry.kernel.errors import UsageError
from refundry.kernel.money import DECIMAL, DIGITS_MAX

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
WINDOW = re.compile(r"\s*(\d?\d:\d\d)\s*-\s*(\d?\d:\d\d)\s*(\S*)\s*", re.ASCII)
SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
PERCENT = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?\s*%", re.ASCII)
# Longer than any batch should take, and short enough that a slip of the pen is seen.
SPREAD_MAX = 366 * DAY_SECONDS
# No currency has more decimals (stripe-facts 7).
DECIMALS_MAX = 3
# A start that is past by less than this is now.
PAST_SECONDS = 60.0
# The year 2500. A start after it is a slip of the pen, or means never, and the calendar ends before some of them.
START_MAX = 16_725_225_600.0
# The year 1970. No batch can have begun before it, and the calendar begins only after some of such starts.
START_MIN = 0.0


class ScheduleInvalid(UsageError):  # noqa: N818
    """A schedule that cannot be read, or cannot be kept."""

    code = "schedule_invalid"


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a schedule, as they were typed; `None` where one was not given."""

    start_at: str | None = None
    spread: str | None = None
    between: str | None = None
    max_per_day: str | None = None
    keep_balance: str | None = None
    canary: str | None = None
    halt_at: str | None = None

    def schedule(self) -> Schedule | None:
        """Read them; `None`, if none was given.

        Raises:
            ScheduleInvalid: One of them says nothing that can be kept: `schedule_invalid`, `time_zone_unknown`, `window_impossible`.
        """
        if self == Asked():
            return None
        window = _window(self.between) if self.between is not None else None
        start_at, zone = _moment(self.start_at) if self.start_at is not None else (None, "UTC")
        if self.halt_at is not None and self.canary is None:
            raise ScheduleInvalid(
                "--halt-at says when stages are halted: add --canary 1,50,500, or leave --halt-at out",
                option="--halt-at",
            )
        spread = _span(self.spread) if self.spread is not None else None
        if window is not None and spread is not None:
            _fits(window, spread, str(self.spread))
        return Schedule(
            start_at=start_at,
            spread_seconds=spread,
            window=window,
            max_per_day=_amount("--max-per-day", self.max_per_day, least=1),
            keep_balance=_amount("--keep-balance", self.keep_balance, least=0),
            canary=_stages(self.canary) if self.canary is not None else (),
            halt_hundredths=_share(self.halt_at) if self.halt_at is not None else Schedule().halt_hundredths,
            zone=window.zone if window is not None else zone,
        )


def past(schedule: Schedule, now: float) -> bool:
    """Tell whether a new batch can begin only later than it should."""
    return schedule.start_at is not None and schedule.start_at < now - PAST_SECONDS


def check(schedule: Schedule, rows: int, now: float, *, new: bool) -> None:
    """See that a batch can keep a schedule.

    Args:
        schedule: As it was read.
        rows: How many rows the batch has.
        now: Epoch seconds UTC.
        new: Whether the batch is new; one that goes on may have begun long ago.

    Raises:
        ScheduleInvalid: `canary_too_large`, `start_in_the_past`, `start_too_far`.
    """
    if sum(schedule.canary) > rows:
        raise ScheduleInvalid(
            f"--canary {','.join(map(str, schedule.canary))} has stages of {sum(schedule.canary):,} rows together, and the file has "
            f"{rows:,}: make the stages smaller, or leave them out",
            code="canary_too_large",
            option="--canary",
        )
    if schedule.start_at is not None and schedule.start_at >= START_MAX:
        raise ScheduleInvalid(
            "--start-at is after the year 2500: correct it; a batch that is not to begin yet can be held with `refundry batch pause`",
            code="start_too_far",
            option="--start-at",
        )
    if schedule.start_at is not None and schedule.start_at < START_MIN:
        raise ScheduleInvalid(
            "--start-at is before the year 1970: correct it, or leave it out to begin at once",
            code="start_in_the_past",
            option="--start-at",
        )
    if new and schedule.start_at is not None and past(schedule, now):
        raise ScheduleInvalid(
            f"--start-at {told(schedule.zone, schedule.start_at, now)} is past: correct it, or leave it out to begin at once",
            code="start_in_the_past",
            option="--start-at",
        )


def _zone(name: str, option: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # `ZoneInfoNotFoundError` is a `KeyError`; a folder's name is an `OSError`.
        raise ScheduleInvalid(
            f"{option}: there is no time zone '{name[:40]}': write one of the IANA database, as in Europe/Berlin or UTC",
            code="time_zone_unknown",
            option=option,
        ) from None


def _window(text: str) -> Window:
    match = WINDOW.fullmatch(text)
    opens, closes = (_clock(match[1]), _clock(match[2])) if match else (None, None)
    if match is None or opens is None or closes is None or opens == DAY_SECONDS:
        raise ScheduleInvalid(
            f"--between '{text[:60]}' is not a window: write it as in \"22:00-06:00 Europe/Berlin\"", option="--between"
        )
    if not match[3]:
        raise ScheduleInvalid(
            f"--between '{text[:60]}' names no time zone: write it as in \"{match[1]}-{match[2]} Europe/Berlin\"",
            code="time_zone_unknown",
            option="--between",
        )
    _zone(match[3], "--between")
    if opens == closes % DAY_SECONDS:
        raise ScheduleInvalid(
            f"--between {match[1]}-{match[2]} is never closed, or never open: let it end at another time than it begins, or leave it out",
            code="window_impossible",
            option="--between",
        )
    return Window(opens, closes, match[3])


def _fits(window: Window, spread: float, said: str) -> None:
    """See that a spread is over within a year, since only the time in which the window is open counts."""
    days = spread * DAY_SECONDS / ((window.closes - window.opens) % DAY_SECONDS) / DAY_SECONDS
    if days > SPREAD_MAX / DAY_SECONDS:
        raise ScheduleInvalid(
            f"--spread {said} takes {days:,.0f} days in the hours of --between: spread over less time, or open the window for longer",
            code="window_impossible",
            option="--spread",
        )


def _clock(text: str) -> int | None:
    """Read a time of the day, in seconds since midnight; 24:00 is the end of a day."""
    if text == "24:00":
        return DAY_SECONDS
    match = CLOCK.fullmatch(text)
    return int(match[1]) * 3600 + int(match[2]) * 60 if match else None


def _moment(text: str) -> tuple[float, str]:
    """Read a moment, with the zone that it is written in: an offset, or the name of a time zone behind it."""
    words = text.split()
    zone = words.pop() if len(words) > 1 and not re.match(r"[\d+-]", words[-1]) else ""
    try:
        at = datetime.fromisoformat("T".join(words))
    except ValueError:
        raise _unreadable_moment(text) from None
    if zone and at.tzinfo is None:
        there = at.replace(tzinfo=_zone(zone, "--start-at"))
        try:
            back = datetime.fromtimestamp(there.timestamp(), there.tzinfo).replace(tzinfo=None)
        except (OverflowError, ValueError):
            # At the very beginning or end of the calendar.
            raise _unreadable_moment(text) from None
        if back != at:
            raise ScheduleInvalid(
                f"--start-at {text}: that time does not exist, the clocks are set forward then: take {back:%H:%M}",
                option="--start-at",
            )
        first, second = (there.replace(fold=fold).isoformat() for fold in (0, 1))
        if first != second:
            raise ScheduleInvalid(
                f"--start-at {text}: that time comes twice, the clocks are set back then: take {first} or {second}",
                option="--start-at",
            )
        return there.timestamp(), zone
    if zone or at.tzinfo is None:
        raise _unreadable_moment(text)
    return at.timestamp(), "UTC"


def _unreadable_moment(text: str) -> ScheduleInvalid:
    return ScheduleInvalid(
        f"--start-at '{text[:60]}' is not a moment: write it as in \"2026-11-28 09:00 Europe/Berlin\" or 2026-11-28T09:00+01:00",
        option="--start-at",
    )


def _span(text: str) -> float:
    match = SPAN.fullmatch(text.replace(" ", ""))
    parts = [int(part or "0") for part in match.groups()] if match and len(text) <= DIGITS_MAX * 2 else []
    seconds = sum(part * unit for part, unit in zip(parts, (DAY_SECONDS, 3600, 60, 1), strict=False))
    if not 0 < seconds <= SPREAD_MAX:
        raise ScheduleInvalid(
            f"--spread '{text[:40]}' is not a time to spread rows over: write it as in 6h, 90m or 1d12h, up to a year",
            option="--spread",
        )
    return float(seconds)


def _amount(option: str, text: str | None, *, least: int) -> str | None:
    if text is None:
        return None
    match = DECIMAL.fullmatch(text.strip())
    whole, fraction = (match[1], match[2] or "") if match else ("", "")
    if len(whole) not in range(1, DIGITS_MAX + 1) or len(fraction) > DECIMALS_MAX or int(whole + fraction) < least:
        raise ScheduleInvalid(
            f"{option} '{text[:40]}' is not an amount: write it in major units, as in 600000.00; it counts for each currency of the file",
            option=option,
        )
    return text.strip()


def _stages(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) and int(part) for part in parts):
        raise ScheduleInvalid(
            f"--canary '{text[:40]}' is not a list of stages: write how many rows each has, as in 1,50,500",
            option="--canary",
        )
    return tuple(int(part) for part in parts)


def _share(text: str) -> int:
    match = PERCENT.fullmatch(text.strip())
    hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else WHOLE
    if hundredths >= WHOLE:
        raise ScheduleInvalid(
            f"--halt-at '{text[:40]}' is not a share of rows that may fail: write it as in 2% or 0.5%, below 100%",
            option="--halt-at",
        )
    return hundredths


def words(schedule: Schedule, now: float) -> str:
    """Write a schedule for a person: `22:00-06:00 Europe/Berlin, at most 600000.00 a day`."""
    parts = []
    if schedule.start_at is not None:
        parts.append(f"from {told(schedule.zone, schedule.start_at, now)}")
    if schedule.window is not None:
        ends = (f"{end // 3600:02}:{end // 60 % 60:02}" for end in (schedule.window.opens, schedule.window.closes))
        parts.append(f"{'-'.join(ends)} {schedule.window.zone}")
    if schedule.spread_seconds is not None:
        parts.append(f"spread over {_span_words(int(schedule.spread_seconds))}")
    if schedule.max_per_day is not None:
        parts.append(f"at most {schedule.max_per_day} a day ({schedule.zone})")
    if schedule.keep_balance is not None:
        parts.append(f"keeping a balance of {schedule.keep_balance}")
    if schedule.canary:
        stages = ", ".join(map(str, schedule.canary))
        parts.append(f"stages of {stages} rows, halted at {percent(schedule.halt_hundredths)} failures")
    return "; ".join(parts)


def _span_words(seconds: int) -> str:
    units = (("d", DAY_SECONDS), ("h", 3600), ("m", 60), ("s", 1))
    told_parts = []
    for name, unit in units:
        if seconds >= unit:
            told_parts.append(f"{seconds // unit}{name}")
            seconds %= unit
    return "".join(told_parts)
