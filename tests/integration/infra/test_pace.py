"""At Stripe's pace, with a clock that is moved by hand: evenly, a person before a bulk run, one budget for all processes."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import sqlalchemy as sa

import stripesim.limits
from refundry.infra.db import Database, Unit
from refundry.infra.pace import (
    CUT,
    EVERYTHING,
    FLOOR,
    GONE_SECONDS,
    HORIZON,
    PAUSE_AFTER_CUT,
    STEP,
    Limits,
    Pacer,
    Standing,
    budgets,
    note_waits,
    standings,
)
from refundry.infra.writer import InlineWriter
from refundry.kernel.lane import Lane
from stripesim.limits import Limiter
from tests.support.clock import HandClock

pytestmark = pytest.mark.integration

REFUND, LOOK = "POST /v1/refunds", "GET /v1/charges/{charge}"
RATE = 20.0
NO_HEADROOM = 0.0
ACCOUNT = "acct_1|test"
Result = TypeVar("Result")


@dataclass
class Callers:
    """Those who wait for slots, and when they had them by the boot clock."""

    database: Database
    clock: HandClock
    pacers: list[Pacer] = field(default_factory=list)
    waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def pacer(self, limits: Limits = Limits(0, RATE), headroom: float = NO_HEADROOM) -> Pacer:  # noqa: B008  # frozen
        made = Pacer(limits, headroom, InlineWriter(self.database), self.clock)
        made.serve("acct_1|test")
        self.pacers.append(made)
        return made

    def call(self, pacer: Pacer, count: int, lane: Lane = Lane.BULK, operation: str = REFUND) -> list[float]:
        """Let so many wait; the list fills with the times at which they had their slots."""
        had: list[float] = []

        async def one() -> None:
            had.append(await pacer.take(operation, lane))

        for _ in range(count):
            task = asyncio.get_running_loop().create_task(one())
            self.waiting.add(task)
            task.add_done_callback(self.waiting.discard)
        return had

    def rates(self) -> dict[str, float]:
        with self.database.reading() as unit:
            found = unit.connection.execute(sa.select(budgets.c.scope, budgets.c.rate)).all()
        return {row.scope: row.rate for row in found}


class Slow(InlineWriter):
    """A writer whose units do something else first, each for as long as the next of `took` says."""

    def __init__(self, database: Database, clock: HandClock, took: Iterator[float]) -> None:
        super().__init__(database)
        self._clock, self._took = clock, took

    async def put(self, work: Callable[[Unit], Result], **options: Any) -> Result:
        def slow(unit: Unit) -> Result:
            self._clock.move(next(self._took))
            return work(unit)

        return await super().put(slow, **options)


@pytest_asyncio.fixture
async def callers(database: Database, clock: HandClock) -> AsyncIterator[Callers]:
    made = Callers(database, clock)
    yield made
    for pacer in made.pacers:
        await pacer.close()
    await asyncio.gather(*made.waiting, return_exceptions=True)


def most_in(had: list[float], seconds: float) -> int:
    """Tell the most slots that fell into any window of so many seconds."""
    times = sorted(had)
    return max(sum(begin <= at < begin + seconds - 1e-9 for at in times) for begin in times)


async def test_slots_come_evenly_and_never_faster_than_the_rate(callers: Callers, clock: HandClock) -> None:
    had = callers.call(callers.pacer(), 100)
    await clock.run(5.0)
    assert len(had) == 100
    gaps = [later - earlier for earlier, later in itertools.pairwise(had)]
    assert min(gaps) >= 1 / RATE - 1e-6
    assert most_in(had, 1.0) == RATE


async def test_sends_are_even_however_long_the_commits_before_them_take(callers: Callers, clock: HandClock) -> None:
    pacer, sent = callers.pacer(), list[float]()
    late, handed = itertools.cycle([0.0, 0.055, 0.01, 0.04, 0.0]), list[float]()

    async def one() -> None:
        slot = await pacer.take(REFUND, Lane.BULK, early=0.06)
        handed.append(clock.boot_seconds())
        await clock.sleep(next(late))
        await pacer.moment(REFUND, Lane.BULK, slot)
        sent.append(clock.boot_seconds())

    tasks = [asyncio.get_running_loop().create_task(one()) for _ in range(60)]
    await clock.run(4.0)
    await asyncio.gather(*tasks)
    assert [later - earlier for earlier, later in itertools.pairwise(sent)] == pytest.approx([1 / RATE] * 59, abs=1e-5)
    assert [slot - begin for begin, slot in zip(handed, sent, strict=True)] == pytest.approx([0.06] * 60, abs=1e-5)


async def test_a_process_that_was_held_up_catches_up_without_a_burst_whatever_it_calls(
    callers: Callers, clock: HandClock
) -> None:
    pacer, left = callers.pacer(Limits(RATE, RATE), headroom=0.1), list[float]()

    async def sends() -> None:
        slot = await pacer.take(REFUND, Lane.BULK, early=0.06)
        await pacer.moment(REFUND, Lane.BULK, slot)
        left.append(clock.boot_seconds())

    async def looks() -> None:
        await pacer.take(LOOK, Lane.BULK)
        left.append(clock.boot_seconds())

    tasks = [asyncio.get_running_loop().create_task(one()) for one in (sends, looks) * 40]
    for _ in range(10):
        await clock.run(0.3)
        # Nothing of the process runs meanwhile.
        clock.move(0.3)
    await clock.run(2.0)
    await asyncio.gather(*tasks)
    assert most_in(left, 0.1) <= RATE / 10
    assert most_in(left, 1.0) <= RATE
    # What was missed is made up for by the head-room, as far as it was reserved.
    assert len(left) == 80


async def test_a_persons_call_waits_for_no_distance_to_those_before(callers: Callers, clock: HandClock) -> None:
    pacer, now = callers.pacer(), clock.boot_seconds()
    await pacer.moment(REFUND, Lane.BULK, now)
    later = asyncio.get_running_loop().create_task(pacer.moment(REFUND, Lane.BULK, now))
    await pacer.moment(REFUND, Lane.DESK, now)
    assert not later.done()
    await clock.run(1 / RATE)
    assert later.done()


async def test_slots_are_even_however_much_else_their_units_do(callers: Callers, clock: HandClock) -> None:
    took = itertools.cycle([0.0, 0.03, 0.002, 0.04, 0.01])
    pacer = Pacer(Limits(0, RATE), NO_HEADROOM, Slow(callers.database, clock, took), clock)
    pacer.serve(ACCOUNT)
    callers.pacers.append(pacer)
    had = callers.call(pacer, 60)
    await clock.run(4.0)
    assert [later - earlier for earlier, later in itertools.pairwise(had)] == pytest.approx([1 / RATE] * 59, abs=1e-5)


async def test_a_person_hears_of_a_slot_early_and_never_waits_for_that(callers: Callers, clock: HandClock) -> None:
    pacer, begun, handed, slots = callers.pacer(), clock.boot_seconds(), list[float](), list[float]()

    async def one() -> None:
        slots.append(await pacer.take(REFUND, Lane.DESK, early=0.03))
        handed.append(clock.boot_seconds())

    tasks = [asyncio.get_running_loop().create_task(one()) for _ in range(3)]
    await clock.run(1.0)
    await asyncio.gather(*tasks)
    # The first slot is at once, and the others are told before they come.
    assert slots == pytest.approx([begun, begun + 1 / RATE, begun + 2 / RATE], abs=1e-5)
    assert handed == pytest.approx([slots[0], slots[1] - 0.03, slots[2] - 0.03], abs=1e-5)


async def test_slots_told_early_and_others_share_one_budget(callers: Callers, clock: HandClock) -> None:
    pacer, sent = callers.pacer(), list[float]()

    async def early() -> None:
        sent.append(await pacer.take(REFUND, Lane.BULK, early=0.06))

    tasks = [asyncio.get_running_loop().create_task(early()) for _ in range(40)]
    desk = callers.call(callers.pacer(), 10, Lane.DESK)
    await clock.run(4.0)
    await asyncio.gather(*tasks)
    assert most_in([round(slot, 4) for slot in (*sent, *desk)], 1.0) <= RATE
    assert len(sent) + len(desk) == 50


async def test_slots_are_handed_out_in_the_order_they_were_asked_for(callers: Callers, clock: HandClock) -> None:
    pacer, order = callers.pacer(), []

    async def one(number: int) -> None:
        await pacer.take(REFUND, Lane.BULK)
        order.append(number)

    tasks = [asyncio.get_running_loop().create_task(one(n)) for n in range(20)]
    await clock.run(2.0)
    await asyncio.gather(*tasks)
    assert order == list(range(20))


async def test_head_room_is_left_to_others(callers: Callers, clock: HandClock) -> None:
    had = callers.call(callers.pacer(headroom=0.25), 200)
    await clock.run(4.0)
    assert len(had) == pytest.approx(4.0 * RATE * 0.75, abs=2)


async def test_the_accounts_budget_counts_every_operation(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer(Limits(RATE, RATE))
    had = callers.call(pacer, 100), callers.call(pacer, 100, operation=LOOK)
    await clock.run(4.0)
    assert most_in([*had[0], *had[1]], 1.0) <= RATE + 2 * STEP[Lane.BULK]
    assert len(had[0]) + len(had[1]) == pytest.approx(4.0 * RATE, abs=2 * STEP[Lane.BULK])


async def test_a_slow_operation_does_not_slow_the_others(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer(Limits(50, RATE, {REFUND: 2}))
    slow, quick = callers.call(pacer, 100), callers.call(pacer, 200, operation=LOOK)
    await clock.run(5.0)
    assert len(slow) == pytest.approx(10, abs=3)
    assert len(quick) == pytest.approx(5.0 * RATE, abs=5)


@pytest.mark.parametrize("count", [1, 5])
async def test_a_person_overtakes_a_bulk_run(callers: Callers, clock: HandClock, count: int) -> None:
    pacer = callers.pacer()
    bulk = callers.call(pacer, 1000)
    await clock.run(3.0)
    asked = clock.boot_seconds()
    desk = callers.call(pacer, count, Lane.DESK)
    await clock.run(2.0)
    assert len(desk) == count
    # At most what bulk has reserved ahead, one of its steps, and the persons before.
    assert max(desk) - asked <= HORIZON[Lane.BULK] + (STEP[Lane.BULK] + count) / RATE + 1e-6
    await clock.run(1.0)
    assert len(bulk) + count == pytest.approx(6.0 * RATE, abs=STEP[Lane.BULK] + 1)


async def test_a_person_overtakes_another_process_too(callers: Callers, clock: HandClock) -> None:
    callers.call(callers.pacer(), 1000)
    await clock.run(3.0)
    asked = clock.boot_seconds()
    desk = callers.call(callers.pacer(), 1, Lane.DESK)
    await clock.run(1.0)
    assert desk
    assert desk[0] - asked <= HORIZON[Lane.BULK] + (STEP[Lane.BULK] + 1) / RATE + 1e-6


@pytest.mark.parametrize("processes", [2, 3])
async def test_all_processes_share_one_budget(callers: Callers, clock: HandClock, processes: int) -> None:
    had = [callers.call(callers.pacer(), 500) for _ in range(processes)]
    await clock.run(10.0)
    everyone = [at for one in had for at in one]
    assert len(everyone) == pytest.approx(10.0 * RATE, abs=processes * STEP[Lane.BULK])
    assert most_in(everyone, 1.0) <= RATE + processes * STEP[Lane.BULK]
    assert min(len(one) for one in had) > 0, "nobody is starved"


async def test_a_slot_that_was_asked_for_ahead_is_waited_for_since_then(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    bulk = callers.call(pacer, 1000)
    await clock.run(3.0)
    asked = clock.boot_seconds()
    pacer.ask(REFUND, Lane.DESK)
    # Meanwhile the request is claimed and decided.
    await clock.run(0.1)
    desk = callers.call(pacer, 1, Lane.DESK)
    await clock.run(1.0)
    assert len(desk) == 1
    assert desk[0] - asked <= HORIZON[Lane.BULK] + (STEP[Lane.BULK] + 1) / RATE + 1e-6
    assert len(bulk) + len(desk) == pytest.approx(4.1 * RATE, abs=STEP[Lane.BULK] + 1)
    # It is the very slot that was asked for: none is reserved for nobody.
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted([*bulk, *desk]))]
    assert max(gaps) == pytest.approx(1 / RATE, abs=1e-5)


async def test_who_asks_twice_and_takes_once_leaves_one_for_the_next(callers: Callers, clock: HandClock) -> None:
    pacer, begun = callers.pacer(), clock.boot_seconds()
    pacer.ask(REFUND, Lane.DESK)
    pacer.ask(REFUND, Lane.DESK)
    had = callers.call(pacer, 2, Lane.DESK)
    await clock.run(1.0)
    assert [slot - begun for slot in had] == pytest.approx([0.0, 1 / RATE], abs=1e-5)
    assert pacer.taken_count == 2


async def test_what_was_asked_for_and_is_given_back_before_its_turn_costs_nobody_a_slot(
    callers: Callers, clock: HandClock
) -> None:
    pacer = callers.pacer()
    bulk = callers.call(pacer, 1000)
    await clock.run(3.0)
    for _ in range(5):
        pacer.ask(REFUND, Lane.DESK)
        pacer.unask(REFUND, Lane.DESK)
    await clock.run(1.0)
    assert len(bulk) == pytest.approx(4.0 * RATE, abs=STEP[Lane.BULK])
    # And whoever takes one later has one of its own.
    desk = callers.call(pacer, 1, Lane.DESK)
    await clock.run(1.0)
    assert len(desk) == 1


async def test_a_slot_that_was_asked_for_and_has_passed_is_not_taken(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    callers.call(pacer, 1000)
    await clock.run(1.0)
    for _ in range(5):
        pacer.ask(REFUND, Lane.DESK)
    # A claim that took far too long: what was reserved for it is long gone, and five at once would be five too many.
    await clock.run(1.0)
    begun = clock.boot_seconds()
    desk = callers.call(pacer, 5, Lane.DESK)
    await clock.run(2.0)
    assert len(desk) == 5
    assert min(desk) >= begun
    assert min(later - earlier for earlier, later in itertools.pairwise(desk)) >= 1 / RATE - 1e-5


async def test_many_persons_whose_claims_take_longer_than_their_slots_are_away_stay_below_the_limit(
    callers: Callers, clock: HandClock
) -> None:
    pacer, sent = callers.pacer(Limits(25, 25), headroom=0.1), list[float]()

    async def sends(lane: Lane, claim: float) -> None:
        early = pacer.early(REFUND, lane)
        if lane is Lane.DESK:
            pacer.ask(REFUND, lane, early=early)
            await clock.sleep(claim)
        slot = await pacer.take(REFUND, lane, early=early)
        await pacer.moment(REFUND, lane, slot)
        sent.append(clock.boot_seconds())

    def begun(lane: Lane, claim: float = 0.0) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(sends(lane, claim))

    tasks = [begun(Lane.BULK) for _ in range(100)]
    await clock.run(1.0)
    for claim in [0.5, 0.35, 0.24, 0.5, 0.1] * 10:
        tasks.append(begun(Lane.DESK, claim))
        await clock.run(0.05)
    await clock.run(8.0)
    await asyncio.gather(*tasks)
    assert most_in([round(moment, 4) for moment in sent], 1.0) <= 25


async def test_a_reservation_that_failed_before_anybody_took_its_slot_fails_nobody(
    callers: Callers, clock: HandClock
) -> None:
    pacer, broken = callers.pacer(), RuntimeError("the disk is full")
    put = pacer._writer.put

    async def fails(*_: Any, **__: Any) -> Any:
        raise broken

    pacer._writer.put = fails  # type: ignore[method-assign]
    pacer.ask(REFUND, Lane.DESK)
    await clock.run(0.1)
    pacer._writer.put = put  # type: ignore[method-assign]
    had = callers.call(pacer, 1, Lane.DESK)
    await clock.run(0.5)
    assert len(had) == 1


async def test_accounts_do_not_share_a_budget(callers: Callers, clock: HandClock) -> None:
    ours, theirs = callers.pacer(), callers.pacer()
    theirs.serve("acct_2|test")
    had = callers.call(ours, 100), callers.call(theirs, 100)
    await clock.run(2.0)
    assert [len(one) for one in had] == pytest.approx([2 * RATE, 2 * RATE], abs=STEP[Lane.BULK])


async def test_a_rest_saves_nothing_up(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    callers.call(pacer, 5)
    await clock.run(60.0)
    had = callers.call(pacer, 100)
    await clock.run(2.0)
    assert most_in(had, 1.0) <= RATE


async def test_a_task_can_tell_how_long_it_waited_and_others_do_not_count(callers: Callers, clock: HandClock) -> None:
    pacer, told = callers.pacer(), list[float]()
    callers.call(pacer, int(RATE))

    async def row() -> None:
        waited = note_waits()
        for _ in range(2):
            await pacer.take(REFUND, Lane.BULK)
        told.append(waited.seconds)

    working = asyncio.create_task(row())
    await clock.run(3.0)
    await working
    assert told == [pytest.approx(1.0, abs=0.3)]


async def test_anyone_can_read_how_the_budgets_stand(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer(Limits(RATE, RATE))
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    await pacer.limited(REFUND, "endpoint-rate", had[0])
    with callers.database.reading() as unit:
        assert standings(unit, ACCOUNT) == [Standing(EVERYTHING, RATE, RATE), Standing(REFUND, RATE * CUT, RATE)]
        assert standings(unit, "acct_nobody|test") == []


@pytest.mark.parametrize(("reason", "rate"), [("endpoint-rate", RATE * CUT), ("global-rate", 2 * RATE * CUT)])
async def test_what_is_allowed_now_is_less_after_a_429(
    callers: Callers, clock: HandClock, reason: str, rate: float
) -> None:
    pacer = callers.pacer(Limits(2 * RATE, 2 * RATE if reason == "global-rate" else RATE))
    with callers.database.reading() as unit:
        assert pacer.rate_now(unit, REFUND) == pacer.rate_of(REFUND)
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    await pacer.limited(REFUND, reason, had[0])
    with callers.database.reading() as unit:
        assert pacer.rate_now(unit, REFUND) == rate
        assert callers.pacer(Limits(0, 0)).rate_now(unit, REFUND) == 0
        # Lower limits hold at once, also before anybody has taken a slot by them.
        assert callers.pacer(Limits(0, 1)).rate_now(unit, REFUND) == 1


async def test_limits_that_are_set_anew_are_read_by_others_too(callers: Callers, clock: HandClock) -> None:
    callers.call(callers.pacer(Limits(0, RATE)), 1)
    await clock.run(0.5)
    callers.call(callers.pacer(Limits(0, RATE / 2)), 1)
    await clock.run(0.5)
    with callers.database.reading() as unit:
        assert standings(unit, ACCOUNT) == [Standing(REFUND, RATE / 2, RATE / 2)]


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (Limits(0, RATE), [Standing(REFUND, RATE, RATE)]),
        (Limits(RATE, 0), [Standing(EVERYTHING, RATE, RATE)]),
        (Limits(0, 0), []),
    ],
)
async def test_a_limit_that_was_taken_away_is_not_told_while_calls_are_made_without_it(
    callers: Callers, clock: HandClock, now: Limits, left: list[Standing]
) -> None:
    before = [Standing(EVERYTHING, RATE, RATE), Standing(REFUND, RATE, RATE)]
    callers.call(callers.pacer(Limits(RATE, RATE)), 1)
    await clock.run(GONE_SECONDS + 1)
    callers.call(callers.pacer(now), 1)
    await clock.run(0.5)
    with callers.database.reading() as unit:
        assert standings(unit, ACCOUNT, {REFUND: 1.0}) == left
        # While nothing is called, nobody can tell.
        assert standings(unit, ACCOUNT, {}) == before


# 429


@pytest.mark.parametrize(
    ("reason", "scope"),
    [
        ("endpoint-rate", REFUND),
        ("endpoint-concurrency", REFUND),
        ("global-rate", EVERYTHING),
        ("global-concurrency", EVERYTHING),
    ],
)
async def test_a_429_cuts_the_budget_that_stripe_names(
    callers: Callers, clock: HandClock, reason: str, scope: str
) -> None:
    pacer = callers.pacer(Limits(RATE, RATE))
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    await pacer.limited(REFUND, reason, had[0])
    assert callers.rates() == {name: RATE * (CUT if name == scope else 1) for name in (EVERYTHING, REFUND)}
    assert pacer.limited_count == 1


@pytest.mark.parametrize(
    ("limits", "reason", "kept"),
    [(Limits(RATE, 0), "endpoint-rate", EVERYTHING), (Limits(0, RATE), "global-rate", REFUND)],
)
async def test_a_429_of_a_limit_without_a_budget_cuts_the_one_that_is_kept(
    callers: Callers, clock: HandClock, limits: Limits, reason: str, kept: str
) -> None:
    pacer = callers.pacer(limits)
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    await pacer.limited(REFUND, reason, had[0])
    assert callers.rates() == {kept: RATE * CUT}


async def test_many_429s_of_one_moment_cut_once(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    had = callers.call(pacer, 10)
    await clock.run(1.0)
    for taken_at in had:
        await pacer.limited(REFUND, "endpoint-rate", taken_at)
    assert callers.rates()[REFUND] == RATE * CUT
    assert pacer.limited_count == 10


async def test_a_429_for_a_slot_from_after_the_cut_cuts_again(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    for cuts in (1, 2, 3):
        had = callers.call(pacer, 1)
        await clock.run(0.5)
        await pacer.limited(REFUND, "endpoint-rate", had[0])
        assert callers.rates()[REFUND] == pytest.approx(RATE * CUT**cuts)


async def test_another_processes_429_cuts_for_everyone(callers: Callers, clock: HandClock) -> None:
    ours, theirs = callers.pacer(), callers.pacer()
    had = callers.call(theirs, 1)
    await clock.run(0.5)
    await theirs.limited(REFUND, "endpoint-rate", had[0])
    later = callers.call(ours, 100)
    await clock.run(1.0)
    assert len(later) <= RATE * CUT + 1


async def test_after_a_cut_nobody_sends_for_a_moment(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    cut_at = clock.boot_seconds()
    await pacer.limited(REFUND, "endpoint-rate", had[0])
    later = callers.call(pacer, 3)
    await clock.run(2.0)
    assert min(later) >= cut_at + PAUSE_AFTER_CUT - 1e-6


async def test_the_rate_never_falls_below_its_floor(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    for _ in range(40):
        had = callers.call(pacer, 1, Lane.DESK)
        await clock.run(2.0)
        await pacer.limited(REFUND, "endpoint-rate", had[0])
    assert callers.rates()[REFUND] >= RATE * FLOOR - 1e-9


async def test_a_cut_rate_creeps_up_again_to_its_ceiling(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    had = callers.call(pacer, 1)
    await clock.run(0.5)
    await pacer.limited(REFUND, "endpoint-rate", had[0])
    callers.call(pacer, 5000)
    await clock.run(1.0)
    assert callers.rates()[REFUND] == pytest.approx(RATE * CUT, rel=0.03)
    await clock.run(5.0)
    half_way = callers.rates()[REFUND]
    assert RATE * CUT < half_way < RATE
    await clock.run(15.0)
    assert callers.rates()[REFUND] == RATE


@dataclass
class Crowd:
    """A limiter that this program and others meet: when calls passed it, and how many were turned away, of ours and of theirs."""

    limiter: Limiter
    pacer: Pacer
    clock: HandClock
    passed: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "theirs": []})
    refused: Counter[str] = field(default_factory=Counter)

    def enter(self, who: str) -> str | None:
        reason = self.limiter.enter(0, REFUND)
        if reason is None:
            self.limiter.leave(0, REFUND)
            self.passed[who].append(self.clock.boot_seconds())
        else:
            self.refused[who] += 1
        return reason

    async def ours(self) -> None:
        while True:
            slot = await self.pacer.take(REFUND, Lane.BULK)
            if reason := self.enter("ours"):
                await self.pacer.limited(REFUND, reason, slot)

    async def theirs(self, rate: float) -> None:
        while True:
            self.enter("theirs")
            await self.clock.sleep(1 / rate)

    def rate(self, who: str, begin: float, end: float) -> float:
        """Tell how many calls a second passed between two moments."""
        return sum(begin <= moment < end for moment in self.passed[who]) / (end - begin)


@pytest_asyncio.fixture
async def crowd(callers: Callers, clock: HandClock) -> AsyncIterator[Crowd]:
    limiter = Limiter(stripesim.limits.Limits(endpoint=RATE), clock.boot_seconds)
    made = Crowd(limiter, callers.pacer(headroom=0.1), clock)
    tasks = {asyncio.create_task(made.ours()) for _ in range(6)}
    callers.waiting |= tasks
    yield made
    for task in callers.waiting:
        task.cancel()


@pytest.mark.parametrize("theirs", [RATE * share for share in (0.3, 0.45, 0.5, 0.55, 0.65)])
async def test_beside_other_traffic_the_pace_settles_at_what_that_leaves(
    callers: Callers, crowd: Crowd, clock: HandClock, theirs: float
) -> None:
    callers.waiting.add(asyncio.create_task(crowd.theirs(theirs)))
    await clock.run(20.0)
    begin, before = clock.boot_seconds(), crowd.refused.copy()
    await clock.run(60.0)
    ours = crowd.rate("ours", begin, clock.boot_seconds())
    refused = {who: (crowd.refused[who] - before[who]) / 60 for who in ("ours", "theirs")}
    # Between what a cut leaves and all. Who asks as evenly as this and yields to nobody meets the full limiter at every growth, and loses
    # some, but is not crowded out.
    assert CUT <= ours / (RATE - theirs) <= 1.0
    assert refused["ours"] <= 0.02 * ours
    assert refused["theirs"] <= 0.1 * theirs


async def test_a_limit_that_is_back_after_a_minute_is_used_again_in_half_a_minute(
    crowd: Crowd, clock: HandClock
) -> None:
    await clock.run(5.0)
    crowd.limiter.limits = stripesim.limits.Limits(endpoint=RATE / 5)
    await clock.run(60.0)
    fallen = clock.boot_seconds()
    assert CUT <= crowd.rate("ours", fallen - 30, fallen) / (RATE / 5) <= 1.0
    crowd.limiter.limits = stripesim.limits.Limits(endpoint=RATE)
    await clock.run(40.0)
    assert crowd.rate("ours", fallen + 30, fallen + 40) >= 0.95 * 0.9 * RATE


async def test_lower_limits_hold_at_once(callers: Callers, clock: HandClock) -> None:
    callers.call(callers.pacer(), 1)
    await clock.run(1.0)
    had = callers.call(callers.pacer(Limits(0, 5)), 100)
    await clock.run(4.0)
    assert len(had) == pytest.approx(20, abs=STEP[Lane.BULK])


# Both less and more than any budget can be ahead; a day is how a machine without a battery for its clock may begin.
@pytest.mark.parametrize("back", [30.0, 300.0, 86_400.0])
async def test_a_database_clock_that_was_set_back_makes_nobody_wait(
    callers: Callers, clock: HandClock, back: float
) -> None:
    before = callers.call(callers.pacer(Limits(RATE, RATE)), 40)
    await clock.run(3.0)
    clock.jump(-back)
    after = callers.call(callers.pacer(Limits(RATE, RATE)), 40)
    await clock.run(3.0)
    assert (len(before), len(after)) == (40, 40)
    assert most_in(after, 1.0) <= RATE + STEP[Lane.BULK]


@pytest.mark.parametrize("back", [30.0, 300.0, 86_400.0])
async def test_a_cut_from_before_the_clock_was_set_back_ends_neither_growth_nor_cuts(
    callers: Callers, clock: HandClock, back: float
) -> None:
    pacer = callers.pacer()
    callers.call(pacer, 4)
    await clock.run(3.0)
    await pacer.limited(REFUND, "endpoint-rate", clock.boot_seconds())
    cut = callers.rates()[REFUND]
    clock.jump(-back)
    callers.call(pacer, 60)
    await clock.run(3.5)
    grown = callers.rates()[REFUND]
    assert grown > cut
    await pacer.limited(REFUND, "endpoint-rate", clock.boot_seconds())
    assert callers.rates()[REFUND] == pytest.approx(grown * CUT)


async def test_two_processes_whose_clocks_are_a_little_apart_still_share_one_budget(
    callers: Callers, clock: HandClock
) -> None:
    first, second = callers.pacer(), callers.pacer()
    had: list[list[float]] = []
    for turn in range(20):
        # As of two processes on SQLite, of which one was started after the clock was corrected.
        clock.jump(0.4 if turn % 2 else -0.4)
        had.append(callers.call(first if turn % 2 else second, 2))
        await clock.run(0.05)
    await clock.run(5.0)
    every = list(itertools.chain.from_iterable(had))
    assert len(every) == 40
    assert most_in(every, 2.0) <= 2 * RATE + 2 * STEP[Lane.BULK]


async def test_closing_lets_nobody_wait_for_a_slot_that_will_not_come(callers: Callers, clock: HandClock) -> None:
    pacer = callers.pacer()
    callers.call(pacer, 50)
    await clock.run(0.2)
    waiting = set(callers.waiting)
    assert waiting
    await pacer.close()
    done, pending = await asyncio.wait(waiting, timeout=20)
    assert not pending
    assert all(task.cancelled() for task in done)
