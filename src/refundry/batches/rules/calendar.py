"""Days and windows of the clock on the wall, in a time zone; right on the days on which that clock is set.

Times are epoch seconds UTC. Within a second nothing changes: a window opens and closes, and a day begins, on a whole second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

from refundry.batches.model import DAY_SECONDS, Window

# No schedule looks further ahead than this; a clock that is ahead by years must not be waited for without end.
DAYS_MAX = 800


def _clock(zone: ZoneInfo, at: int) -> tuple[int, int]:
    """Tell the seconds since midnight on the wall, and by how many seconds the zone is ahead of UTC."""
    there = datetime.fromtimestamp(at, zone)
    ahead = there.utcoffset()
    return there.hour * 3600 + there.minute * 60 + there.second, int(ahead.total_seconds()) if ahead is not None else 0


def _next_change(zone: ZoneInfo, at: float, marks: tuple[int, ...], told: Callable[[int], object]) -> int:
    """Tell when what is told changes next, after `at`.

    Args:
        zone: The time zone.
        at: From when on.
        marks: The seconds since midnight at which it may change by the clock; when that is set, it may change too.
        told: What it is at a moment.
    """
    here = math.floor(at)
    before = told(here)
    for _ in range(DAYS_MAX * 2 * (len(marks) + 1)):
        clock, ahead = _clock(zone, here)
        there = here + min((mark - clock - 1) % DAY_SECONDS + 1 for mark in marks)
        if _clock(zone, there)[1] != ahead:
            there = _set_between(zone, here, there)
        if told(there) != before:
            return there
        here = there
    return here


def _set_between(zone: ZoneInfo, low: int, high: int) -> int:
    """Find the second at which the clock is set, between two moments a day apart at most: it is not set twice in one."""
    ahead = _clock(zone, low)[1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _clock(zone, middle)[1] == ahead else (low, middle)
    return high


def is_open(window: Window | None, at: float) -> bool:
    """Tell whether a window is open; without one it always is."""
    if window is None:
        return True
    clock = _clock(ZoneInfo(window.zone), math.floor(at))[0]
    if window.opens < window.closes:
        return window.opens <= clock < window.closes
    return clock >= window.opens or clock < window.closes


def next_change(window: Window, at: float) -> int:
    """Tell when an open window closes, or a closed one opens."""
    zone = ZoneInfo(window.zone)
    marks = (window.opens, window.closes % DAY_SECONDS)
    return _next_change(zone, at, marks, lambda then: is_open(window, then))


def open_seconds(window: Window | None, since: float, until: float) -> float:
    """Tell how long a window is open between two moments."""
    if window is None:
        return max(until - since, 0.0)
    total, here = 0.0, since
    while here < until:
        there = min(float(next_change(window, here)), until)
        total += there - here if is_open(window, here) else 0.0
        here = there
    return total


def after_open_seconds(window: Window | None, since: float, seconds: float) -> float:
    """Tell the moment at which a window has been open for so many seconds."""
    here = since
    if window is None:
        return here + seconds
    for _ in range(DAYS_MAX):
        there = float(next_change(window, here))
        if is_open(window, here):
            if there - here >= seconds:
                return here + seconds
            seconds -= there - here
        here = there
    return here


def day_of(zone: str, at: float) -> str:
    """Tell the day on the calendar: `2026-11-28`."""
    return datetime.fromtimestamp(math.floor(at), ZoneInfo(zone)).date().isoformat()


def day_after(zone: str, day: str, at: float) -> float:
    """Tell when the first day after `day` begins, not before `at`."""
    here = at
    for _ in range(DAYS_MAX):
        if day_of(zone, here) > day:
            break
        here = float(_next_change(ZoneInfo(zone), here, (0,), lambda then: day_of(zone, then)))
    return here
