"""Catching up by command: from when, how far, and what it has cost."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from refundry import bootstrap
from refundry.bootstrap import Desk
from refundry.cli import output, session
from refundry.follow import service as follow
from refundry.follow.model import EVENTS_KEPT, Feed
from refundry.inbox import service as inbox
from refundry.inbox.model import State
from refundry.infra import loop
from refundry.kernel.errors import UsageError
from refundry.worker.catch_up import CatchUp, Caught, OutOfReads
from refundry.worker.following import catch_up_of, follower_of

UNITS = {"d": 86_400.0, "h": 3600.0, "min": 60.0}
# Progress is told once in so many calls.
TELL_EVERY = 25
# Events are applied slice by slice; more slices than this are left to the process that stays.
SLICES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed, and the time that it means."""

    since: float | None
    reads_max: int | None


def moment_of(text: str, now: float) -> float:
    """Read `2026-11-01`, `2026-11-01T12:00:00Z`, `3d`, `12h` or `30min`: epoch seconds.

    Raises:
        UsageError: `since_wrong`.
    """
    if match := re.fullmatch(r"(\d{1,5})(d|h|min)", text.strip(), re.ASCII):
        return now - int(match[1]) * UNITS[match[2]]
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    at = None if found is None else (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if at is None or at > now:
        raise UsageError(
            f"--since {text:.40} is no time that has been: write a day (2026-11-01), or how long ago (3d, 12h)",
            code="since_wrong",
            option="--since",
        )
    return at


def catch_up(since: str | None, account: str | None, *, reads_max: int | None, as_json: bool) -> int:
    """Read events and refunds, and apply what they tell.

    Raises:
        UsageError: `since_wrong`: Stripe does not have the events of that time any more.
    """

    async def work(desk: Desk, found: CatchUp, from_: float | None, now: float) -> dict[str, Any]:
        name = desk.account.name
        if from_ is not None and from_ < now - EVENTS_KEPT:
            # Whoever asks for more is not to believe that all of it was read.
            raise UsageError(
                f"--since {since:.40} is too long ago: Stripe keeps events for 30 days; write --since 30d at most, nothing was read",
                code="since_wrong",
                option="--since",
            )

        begin = await desk.writer.put(
            lambda unit: {feed: found.begins(unit, feed, from_, now) for feed in (Feed.EVENTS, Feed.REFUNDS)}
        )
        complete = await _within(
            lambda: found.events_between(begin[Feed.EVENTS], now),
            lambda: found.refunds_between(begin[Feed.REFUNDS], now),
        )
        follower = follower_of(desk, desk.seat, "command")
        for _ in range(SLICES_MAX):
            if not await follower.turn():
                break
        counts = await desk.writer.put(lambda unit: inbox.counts(unit, name))
        return {
            "complete": complete, "reads": found.done.reads + follower.done.reads, "events": found.done.events,
            "new_events": found.done.new, "refunds": found.done.refunds, "moved": found.done.moved,
            "applied": follower.done.applied, "waiting": counts[State.WAITING], "parked": counts[State.PARKED],
        }  # fmt: skip

    return _run(since, account, reads_max, work, (Feed.EVENTS, Feed.REFUNDS), as_json=as_json)


def sync(since: str | None, account: str | None, *, reads_max: int | None, as_json: bool) -> int:
    """Mirror charges.

    Raises:
        UsageError: `since_missing`: the first time needs one.
    """

    async def work(desk: Desk, found: CatchUp, from_: float | None, now: float) -> dict[str, Any]:
        mark = await desk.writer.put(lambda unit: follow.mark(unit, desk.account.name, Feed.CHARGES).mark)
        begin = from_
        if mark is not None:
            begin = await desk.writer.put(lambda unit: found.begins(unit, Feed.CHARGES, from_, now))
        if begin is None:
            raise UsageError(
                "charges were never synced here: say since when with --since, as in --since 30d",
                code="since_missing",
                option="--since",
            )
        complete = await _within(lambda: found.charges_between(begin, now))
        return {"complete": complete, "reads": found.done.reads, "charges": found.done.charges}

    return _run(since, account, reads_max, work, (Feed.CHARGES,), as_json=as_json)


async def _within(*works: Callable[[], Awaitable[None]]) -> bool:
    """Do one after the other, as long as calls are left; tells whether all was done."""
    try:
        for work in works:
            await work()
    except OutOfReads:
        return False
    return True


Work = Callable[[Desk, CatchUp, float | None, float], Awaitable[dict[str, Any]]]


def _run(
    since: str | None, account: str | None, reads_max: int | None, work: Work, feeds: tuple[Feed, ...], *, as_json: bool
) -> int:
    settings = session.settings()

    async def run() -> int:
        async with bootstrap.desk(settings, account=account) as desk:
            name = desk.account.name
            now, before = await desk.writer.put(
                lambda unit: (unit.now, [follow.mark(unit, name, feed).mark for feed in feeds])
            )
            from_ = None if since is None else moment_of(since, now)
            found = catch_up_of(desk, desk.seat)
            found.reads_max, found.stepped = reads_max, Progress(as_json=as_json)
            told = await work(desk, found, from_, now)
            marks = await desk.writer.put(lambda unit: {feed: follow.mark(unit, name, feed) for feed in feeds})
        told["watermarks"] = {feed.value: mark.mark for feed, mark in marks.items()}
        told["reads_today"] = sum(mark.reads_today for mark in marks.values())
        if as_json:
            output.as_json(told)
        else:
            # A watermark that lay beyond --since was not set back: from there on nobody would read what was left out.
            _tell(told, gap=from_ is not None and any(mark is not None and mark > from_ for mark in before))
        return output.DONE if told["complete"] else output.PARTLY

    return loop.run(run())


class Progress:
    """Says beside the result how far it is."""

    def __init__(self, *, as_json: bool) -> None:
        """Begin with nothing said."""
        self._quiet, self._next = as_json, TELL_EVERY

    def __call__(self, done: Caught) -> None:
        """Hear of a step."""
        if not self._quiet and done.reads >= self._next:
            self._next = done.reads + TELL_EVERY
            until = f", read to {output.moment(done.until)}" if done.until else ""
            output.say(f"{output.counted(done.reads, 'call')}{until}")


def _tell(told: dict[str, Any], *, gap: bool) -> None:
    names = {
        "events": "events", "new_events": "new", "refunds": "refunds", "moved": "stood otherwise here", "charges": "charges",
        "applied": "applied", "waiting": "waiting", "parked": "parked",
    }  # fmt: skip
    output.line(", ".join(f"{output.number(told[name])} {word}" for name, word in names.items() if name in told))
    marks = ", ".join(
        f"{feed} to {output.moment(mark)}" for feed, mark in told["watermarks"].items() if mark is not None
    )
    if marks:
        output.line(f"read: {marks}")
    output.line(
        f"{output.counted(told['reads'], 'call')} to Stripe; {output.number(told['reads_today'])} today by catching up"
    )
    if not told["complete"] and gap:
        output.say(
            "stopped at --reads before it had read all of that time: give the same command more --reads, or none; without --since it "
            "would begin where `read` says, and leave a gap"
        )
    elif not told["complete"]:
        output.say("stopped at --reads: the same command without --since goes on from there")
