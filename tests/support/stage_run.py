"""Files that are sent in stages, in hours and with a maximum for each day, by processes that are disturbed; Stripe's books judge.

Everybody's time is moved from day to day, Stripe's too, and only while no process of ours runs. It begins in the first hour of a day, so
that no day ends by itself.
"""

from __future__ import annotations

import contextlib
import random  # noqa: TID251  # from the seed of the test
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.infra.db import Unit, sqlite_url
from refundry.kernel.money import decimal
from tests.support import books, crash_run, fault_run
from tests.support.clock import HandClock
from tests.support.crash_run import HOUR, House, wait_until
from tests.support.database import HandDatabase, PostgresServer
from tests.support.disturbed import Trouble, calls, disturb, kill
from tests.support.fault_run import IN_DOUBT, LATENCY, PARTLY, SEND, Rule, Scene
from tests.support.forked import Process
from tests.support.plan_run import QUICK

DAY = 24 * HOUR
# When the window is open, in UTC; the days begin a while after it has.
OPENS, CLOSES, BEGINS = 0, 6, 600.0
# A look at the counts of a batch costs its process something.
LOOK = 0.2
# After a day's work, at an hour at which the window is closed.
CLOSED_AT = 8 * HOUR
# The day after the next, at the same hour: whatever was left in doubt can be decided by then.
NEXT = 2 * DAY
# More than this share of a stage has to fail for a halt: one of ten.
TENTH = 10
# What is in doubt over a day's end counts on both, so it may take longer than it had to.
DAYS_MORE = 4


@dataclass(frozen=True, slots=True)
class Stages:
    """How a file is sent.

    Args:
        canary: The sizes of the stages. In the second, just so many rows are refused by Stripe that it is halted.
        days: How many days the file takes, by what may be sent on each.
        spread: Over how long it is sent evenly; empty, if it is not.
    """

    canary: tuple[int, ...]
    days: int
    spread: str = ""

    @property
    def ends(self) -> list[int]:
        """Tell how many rows are over when each stage is."""
        return list(accumulate(self.canary))

    def closed(self, seed: int) -> list[int]:
        """Draw the orders whose charges Stripe does not refund."""
        chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
        return sorted(chance.sample(range(self.ends[0], self.ends[1]), self.ends[1] // TENTH + 1))

    def flags(self, limit: int) -> tuple[str, ...]:
        """Write it as `batch run` takes it; at most `limit` minor units are to be sent in a day."""
        spread = ("--spread", self.spread) if self.spread else ()
        stages = ("--canary", ",".join(map(str, self.canary)), "--halt-at", "10%")
        hours = f"{OPENS:02}:00-{CLOSES:02}:00 UTC"
        return (*stages, "--max-per-day", decimal(limit, "gbp"), "--between", hours, *spread)


@dataclass
class Days:
    """A file on its way, day after day.

    Args:
        scene: Stripe, and the installation.
        flags: Of `batch run`.
        doubted: The tickets of rows that were in doubt when a process was killed: these may be sent again at any hour.
    """

    scene: Scene
    flags: tuple[str, ...]
    doubted: set[str] = field(default_factory=set)

    @property
    def batch(self) -> str:
        """Tell the batch's id."""
        with self.looking() as (_, batch):
            return batch.id

    @property
    def house(self) -> House:
        """Tell the installation."""
        return self.scene.houses[-1]

    def run(self) -> Process:
        """Start a process that pays the file."""
        return self.house.run(*self.flags)

    @contextlib.contextmanager
    def looking(self) -> Iterator[tuple[Unit, Batch]]:
        """Look into the database, by the time that it has for everybody."""
        url = self.house.postgres or sqlite_url(self.house.folder / "refundry.db")
        now = HandClock(time.time() + self.scene.moved)  # noqa: TID251  # the processes go by this machine's clock
        database = HandDatabase(url.replace("postgresql://", "postgresql+psycopg://"), now)
        try:
            with database.reading() as unit:
                (batch,) = batches.every(unit, books.account_of(self.scene.shop), BatchState)
                yield unit, batch
        finally:
            database.close()

    def halted(self) -> str:
        """Tell why the batch was halted; nothing, if it was not."""
        with self.looking() as (_, batch):
            return batch.course.halted

    def waits_for(self) -> str:
        """Tell what the batch waits for by its schedule, once nothing else is to happen to it; else nothing."""
        with self.looking() as (unit, batch):
            totals, told = batches.totals(unit, batch), batches.outlook(unit, batch)
            return told.waits_for if told and totals.moving == totals.in_line else ""

    def rest(self, process: Process, why: str) -> bool:
        """Wait until a process has nothing to do until another hour, and kill it; tells whether it had not ended before."""
        wait_until(f"the wait for the {why}", lambda: process.poll() is not None or self.waits_for() == why, every=LOOK)
        if process.poll() is not None:
            return False
        kill(process)
        return True

    def left_in_the_middle(self, process: Process) -> None:
        """Kill a process whose day is not over, and note what is in doubt then."""
        kill(process)
        report = fault_run.report_of(self.house, self.batch)
        self.doubted |= {row["ticket"] for row in report if row["state"] in IN_DOUBT}


def play(
    folder: Path,
    rows: int,
    *,
    seed: int,
    server: PostgresServer | None,
    stages: Stages,
    halting: Trouble,
    daily: Trouble,
    rules: tuple[Rule, ...] = (),
    long: bool = False,
) -> None:
    """Send a file in stages and over days, through trouble.

    Args:
        folder: For the shop's files.
        rows: How many rows there are.
        seed: Of everything that is drawn.
        server: A Postgres server; `None` for SQLite.
        stages: How it is sent.
        halting: What is done until the file is halted.
        daily: What is done on each day after that.
        rules: The faults that it meets.
        long: Whether nobody works from the middle of the first day on, and a process is started also at hours at which nothing may be sent.

    Raises:
        AssertionError: A stage began too soon, a halt did not last, a day's maximum or its hours were not kept, or a row was not paid just once.
    """
    with contextlib.ExitStack() as stack:
        sized = [LATENCY, *(fault_run.sized(rule, rows) for rule in rules)]
        shop = stack.enter_context(crash_run.shop(folder, rows, seed=seed, faults=sized))
        scene = Scene(shop, server, stack, QUICK)
        scene.owed = {one["name"]: one for one in shop.obligations}
        _close(scene, stages.closed(seed))
        limit = sum(one["amount"] for one in shop.obligations) * 2 // (2 * stages.days - 1)
        days = Days(scene, stages.flags(limit))
        scene.open_house()
        now = time.time()  # noqa: TID251  # the processes go by this machine's clock
        scene.later(DAY - now % DAY + BEGINS)
        _halt(days, stages, halting, seed)
        counts = _resume(days, stages, daily, seed, long=long)
        _judge(days, stages, counts, limit)


def _close(scene: Scene, orders: list[int]) -> None:
    named = {f"o{order}" for order in orders}
    for charge in books.listed(scene.shop, "charges"):
        if charge["metadata"]["order_id"] in named:
            change = {"refund": "charge_not_refundable"}
            scene.shop.server.control(f"POST /_sim/charges/{charge['id']}/behaviour", change)
    for one in list(scene.owed.values()):
        if one["charge"] in named:
            scene.bar(one["name"], "charge_not_refundable")


def _halt(days: Days, stages: Stages, trouble: Trouble, seed: int) -> None:
    """Send until the second stage is halted, kill the process that does it, and see that the halt stays."""
    shop, end = days.scene.shop, stages.ends[1]
    crew = [days.run()]
    disturb(
        days.house, crew, days.run, trouble, progress=lambda: calls(shop, SEND), within=(0, end - 1), seed=seed,
        moved=days.scene.moved,
    )  # fmt: skip
    wait_until("a refund", lambda: calls(shop, SEND) > 0)
    wait_until("the halt", lambda: bool(days.halted()) or crew[0].poll() is not None)
    kill(crew[0])
    halted = days.halted()
    for _ in range(2 if trouble.kills else 1):
        again = days.house.finish(days.run(), PARTLY)
        assert (again["state"], again["schedule"]["halted"]) == ("paused", halted), again
        made = [row_of(refund) for refund in _refunds(days.scene)]
        assert max(made) <= end, f"row {max(made)} was sent, and the stage that was halted ends with row {end}"


def _resume(days: Days, stages: Stages, trouble: Trouble, seed: int, *, long: bool) -> dict[str, Any]:
    """Let it go on, day after day, to its end."""
    shop = days.scene.shop
    crew = [days.house.begin("batch", "resume", days.batch, "--json")]
    for day in range(stages.days + DAYS_MORE):
        sent = calls(shop, SEND)
        disturb(
            days.house, crew, days.run, trouble, progress=lambda: calls(shop, SEND),
            within=(sent, sent + len(shop.obligations) // (stages.days + 1)), seed=seed + day, moved=days.scene.moved,
        )  # fmt: skip
        if long and not day:
            days.left_in_the_middle(crew[0])
        elif not days.rest(crew[0], "day"):
            return days.house.finish(crew[0], PARTLY)
        if long:
            days.scene.later(CLOSED_AT)
            days.rest(days.run(), "window")
        days.scene.later(NEXT - (CLOSED_AT if long else 0))
        crew = [days.run()]
    raise AssertionError(f"not over after {stages.days + DAYS_MORE} days: {days.house.logs()}")


def row_of(refund: dict[str, Any]) -> int:
    """Tell the number of the row that a refund was made for."""
    return int(refund["metadata"]["ticket_id"].removeprefix("t")) + 1


def _refunds(scene: Scene) -> Iterator[dict[str, Any]]:
    """List Stripe's refunds, the oldest first."""
    yield from reversed(list(books.listed(scene.shop, "refunds")))


def _judge(days: Days, stages: Stages, counts: dict[str, Any], limit: int) -> None:
    scene, made = days.scene, list(_refunds(days.scene))
    audit = scene.shop.server.control("POST /_sim/audit", {"obligations": list(scene.owed.values())})
    report = fault_run.report_of(days.house, days.batch)
    fault_run.judge_books(audit, last=True)
    fault_run.judge_report(audit, report, counts, set())
    fault_run.judge_rows(scene.owed, scene.barred, {row["ticket"]: row for row in report}, audit, last=True)
    numbers = [row_of(refund) for refund in made]
    for end in stages.ends:
        last = max(at for at, number in enumerate(numbers) if number <= end)
        assert all(number <= end for number in numbers[:last]), (
            f"row {max(numbers[:last])} was paid before row {end}'s stage was over"
        )
    by_day: Counter[str] = Counter()
    for refund in made:
        at = datetime.fromtimestamp(refund["created"], UTC)
        by_day[f"{at:%Y-%m-%d}"] += refund["amount"]
        in_hours = OPENS <= at.hour < CLOSES or refund["metadata"]["ticket_id"] in days.doubted
        assert in_hours, f"{refund['id']} was made at {at:%H:%M}, and was not in doubt before"
    assert all(sum_ <= limit for sum_ in by_day.values()), f"{by_day}, and {limit} was allowed"
    assert len(by_day) >= stages.days, f"{by_day}: it was to take {stages.days} days"
