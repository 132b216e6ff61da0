"""At Stripe's pace: send slots from budgets in the database, shared by all processes, evenly spaced (GCRA).

Each account has one budget for all its calls and one for each operation, since Stripe limits both (stripe-facts 1). A slot is
taken from both at once. A 429 cuts the budget that Stripe names; it creeps up again. A person's call may reserve further
ahead than a bulk run, so it overtakes one.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass, field

import sqlalchemy as sa

from refundry.infra.db import Hot, Needs, Unit, metadata
from refundry.infra.readings import Meter
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.errors import UsageError
from refundry.kernel.lane import Lane

EVERYTHING = "*"
# How far ahead of the present a lane may reserve, in seconds: a person waits at most for what bulk has reserved.
HORIZON = {Lane.BULK: 0.10, Lane.DESK: 2.0}
# How long before its slot a lane's send is handed out: its intent is committed in this time, and then it waits for the very moment. A
# commit takes now 5 and now 50 ms, and sends that were handed out evenly would come in twos and threes after it. At a high rate a few more
# or less do not matter, and waiting would: no more than so many slots. A person's send never waits for that: where its slot is at once, it
# is sent when its intent is committed.
EARLY = {Lane.BULK: 0.06, Lane.DESK: 0.03}
EARLY_SLOTS = 1.5
# A slot that was asked for ahead and has passed by more than this, in seconds, is lost: used later than a head-room of a tenth makes up for,
# those of many persons would be too many in a second.
ASKED_SECONDS = 0.1
# A wait that ended so many seconds too soon is over: no clock is finer.
MOMENT = 1e-6
# Slots that are reserved in one step: more would come in bursts when another process shares the budget.
STEP = {Lane.BULK: 3, Lane.DESK: 1}
# What a 429 leaves of the rate. Beside other traffic the rate goes to and fro between that and what the traffic leaves.
CUT = 0.85
# After a cut the rate grows, each second by this share of its ceiling for every second since: slowly at first, for what it was cut from is
# near the limit, and growth that is faster there runs into it again and again; then ever faster, since the limit may be back.
GROWTH = 0.0015
GROWTH_PAUSE = 1.0
# A budget is ahead of the present by a lane's horizon and a step at most. What is further ahead by more than this, in seconds, was written
# by a clock that was set back since.
AHEAD_SLACK = 1.0
# A call takes its slot some seconds before it is made, and is told as made at the moment for less than a minute and a half: it may wait
# for Stripe's answer for most of that.
GONE_SECONDS = 120.0
FLOOR = 0.05
PAUSE_AFTER_CUT = 0.1
# Nobody asks the database more often than this, in seconds.
RETRY_MIN = 0.002
# Too many calls on their way at once (stripe-facts 1): the rate is cut, and fewer rows are worked on (`worker/flight.py`).
CROWDED = frozenset({"global-concurrency", "endpoint-concurrency"})

budgets = sa.Table(
    "pace_budgets",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("rate", sa.Double, nullable=False),
    sa.Column("rate_max", sa.Double, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("cut_at", sa.Double, nullable=False),
    sa.Column("reserved_at", sa.Double, nullable=False),
)

# Built once: to build a statement costs several times what it costs to run it, and these are run for every few calls.
_b = sa.bindparam
_MINE = budgets.c.account == _b("the_account")
_HELD = (
    sa.select(budgets)
    .where(_MINE, budgets.c.scope.in_(_b("scopes", expanding=True)))
    .order_by(budgets.c.scope)
    .with_for_update()
)
_ANEW = (
    sa.update(budgets)
    .where(_MINE, budgets.c.scope == _b("the_scope"))
    .values({name: _b("the_now", type_=sa.Double) for name in ("next_at", "cut_at", "reserved_at")})
)
_RESERVE = Hot(
    sa.update(budgets)
    .where(_MINE, budgets.c.scope == _b("the_scope"))
    .values({name: _b("new_" + name, type_=sa.Double) for name in ("next_at", "rate", "rate_max", "reserved_at")})
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Stripe's limits of one account, in calls per second; zero means none.

    Args:
        total: Of all calls.
        endpoint: Of each operation.
        operations: Of single operations, where Stripe has raised or lowered them.
    """

    total: float
    endpoint: float
    operations: dict[str, float] = field(default_factory=dict)


# docs.stripe.com/rate-limits (stripe-facts 1).
NAMED = {"live": Limits(100, 25), "sandbox": Limits(25, 25), "none": Limits(0, 0)}
SEARCH = 20.0


def parsed(text: str, setting: str = "REFUNDRY_STRIPE__LIMITS") -> Limits:
    """Read `live`, `sandbox`, `none`, or `global=100,endpoint=25`.

    Args:
        text: As it was set.
        setting: Where.

    Raises:
        UsageError: `limits_wrong`.
    """
    if text in NAMED:
        return NAMED[text]
    told: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(global|endpoint|(?:GET|POST|DELETE) /\S+)\s*=\s*(\d+(?:\.\d+)?)\s*", part)
        # Zero stands for no limit in here: whoever writes it means anything but that. And of two of a kind one would be ignored.
        if match is None or match[1] in told or not 0 < float(match[2]) < math.inf:
            raise UsageError(
                f"'{text}' are no limits: write live, sandbox, none, or global=100,endpoint=25, each once and above zero",
                code="limits_wrong",
                setting=setting,
            )
        told[match[1]] = float(match[2])
    return Limits(told.pop("global", 0.0), told.pop("endpoint", 0.0), told)


@dataclass(frozen=True, slots=True)
class Turn:
    """Somebody who waits, and how many seconds before the slot the turn is handed out; it is answered with the slot's moment."""

    future: asyncio.Future[float]
    early: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a step reserved: `count` slots, the first to be handed out at `first` by the boot clock, one each `gap` seconds.

    With `count` zero, nothing: ask again at `first`.
    """

    count: int
    first: float
    gap: float


@dataclass(slots=True)
class Waited:
    """How long a task has waited for slots, in seconds."""

    seconds: float = 0.0


_waited: ContextVar[Waited | None] = ContextVar("waited", default=None)


def note_waits() -> Waited:
    """Begin to count how long this task waits for slots; tells where."""
    waited = Waited()
    _waited.set(waited)
    return waited


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands.

    Args:
        scope: An operation, or `*` for all calls.
        rate: Calls a second that it allows now.
        rate_max: The same, when no 429 has cut it.
    """

    scope: str
    rate: float
    rate_max: float


def standings(unit: Unit, account: str, called: Collection[str] = ()) -> list[Standing]:
    """Tell how the budgets of an account stand that were used at least once: of all calls, and of each operation.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        called: The operations that are called at the moment. A budget of theirs whose slots nobody has taken for long is of a limit
            that was taken away since, and is left out.
    """
    c = budgets.c
    statement = sa.select(c.scope, c.rate, c.rate_max, c.reserved_at).where(c.account == account).order_by(c.scope)
    found = []
    for row in unit.connection.execute(statement):
        used = row.scope in called or (row.scope == EVERYTHING and bool(called))
        if not (used and row.reserved_at < unit.now - GONE_SECONDS):
            found.append(Standing(row.scope, min(row.rate, row.rate_max), row.rate_max))
    return found


def _too_far(row: sa.Row[tuple[object, ...]], now: float) -> bool:
    """Tell whether a budget stands at a time that no reservation and no cut could have brought it to by now."""
    ahead = HORIZON[Lane.DESK] + STEP[Lane.BULK] / float(row.rate) + AHEAD_SLACK
    return float(row.next_at) - now > ahead or float(row.cut_at) - now > AHEAD_SLACK


class Pacer:
    """Hands out the slots of one account, within this process.

    Args:
        limits: Stripe's, before head-room.
        headroom: The share that is left to others.
        writer: Saves the budgets.
        clock: Tells how long to wait.
    """

    def __init__(self, limits: Limits, headroom: float, writer: Writer, clock: Clock) -> None:
        """Begin with nobody waiting, and before the account is known: the call that asks for it takes no slot."""
        self._account = ""
        self._limits = limits
        self._share = 1.0 - headroom
        self._writer = writer
        self._clock = clock
        self._waiting: dict[str, dict[Lane, deque[Turn]]] = {}
        # Those that were asked for, and that nobody has taken yet.
        self._asked: dict[tuple[str, Lane], deque[Turn]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._steps: set[asyncio.Task[None]] = set()
        # When the last call of each budget has left, by the boot clock.
        self._left: dict[str, float] = {}
        self.meter = Meter()
        # How many 429s said that too many calls were on their way at once.
        self.crowded_count = 0
        self.limited_count = 0
        self.taken_count = 0

    def serve(self, account: str) -> None:
        """Hand out the slots of this account (`acct_…|test`) from now on."""
        self._account = account

    def _limit(self, scope: str) -> float:
        if scope == EVERYTHING:
            return self._limits.total
        own: float = SEARCH if scope.endswith("/search") and self._limits.endpoint else self._limits.endpoint
        return self._limits.operations.get(scope, own)

    def _ceiling(self, scope: str) -> float:
        return self._limit(scope) * self._share

    def rate_of(self, operation: str) -> float:
        """Tell how many calls of an operation this account may make per second; zero means any number."""
        return min((rate for rate in (self._ceiling(operation), self._ceiling(EVERYTHING)) if rate), default=0.0)

    def rate_now(self, unit: Unit, operation: str) -> float:
        """Tell the same as it is at the moment: less after 429s. A unit that only reads is enough."""
        kept = {of.scope: of.rate for of in standings(unit, self._account)}
        ceilings = {scope: self._ceiling(scope) for scope in (operation, EVERYTHING)}
        return min((min(rate, kept.get(scope, rate)) for scope, rate in ceilings.items() if rate), default=0.0)

    def early(self, operation: str, lane: Lane) -> float:
        """Tell how many seconds before its slot a send is handed out, so that its intent is committed by then."""
        rate = self.rate_of(operation)
        return min(EARLY[lane], EARLY_SLOTS / rate) if rate else 0.0

    async def take(self, operation: str, lane: Lane, *, early: float = 0.0) -> float:
        """Wait for a slot.

        Args:
            operation: `POST /v1/refunds`, `GET /v1/charges/{charge}`.
            lane: Who waits.
            early: To be told so many seconds before the slot: for who has something to do first, and then awaits `moment`.

        Returns:
            The slot's moment by the boot clock, for `moment` and `limited`.
        """
        slot = began = self._clock.boot_seconds()
        if self._account and self.rate_of(operation):
            turn = self._asked_for(operation, lane) or self.in_line(operation, lane, early)
            slot = await turn.future
            self._note(self._clock.boot_seconds() - began)
        self.taken_count += 1
        return slot

    def ask(self, operation: str, lane: Lane, *, early: float = 0.0) -> None:
        """Ask for a slot that is taken in a moment: what is done until then is done while it is waited for.

        Whoever asks gives back by `unask` what is not taken after all.
        """
        if self._account and self.rate_of(operation):
            self._asked.setdefault((operation, lane), deque()).append(self.in_line(operation, lane, early))

    def unask(self, operation: str, lane: Lane) -> None:
        """Give back what was asked for and not taken; a slot that was reserved for it already is lost."""
        asked = self._asked.get((operation, lane), deque())
        while asked:
            turn = asked.popleft()
            if turn in self._waiting[operation][lane]:
                self._waiting[operation][lane].remove(turn)
            _lost(turn)

    def _asked_for(self, operation: str, lane: Lane) -> Turn | None:
        asked = self._asked.get((operation, lane))
        while asked:
            turn = asked.popleft()
            if not turn.future.done() or not (_lost(turn) or self._passed(turn)):
                return turn
        return None

    def _passed(self, turn: Turn) -> bool:
        return turn.future.result() < self._clock.boot_seconds() - ASKED_SECONDS

    def in_line(self, operation: str, lane: Lane, early: float) -> Turn:
        """Stand in line for a slot, as `take` and `ask` do."""
        lanes = self._waiting.setdefault(operation, {lane: deque() for lane in Lane})
        turn = Turn(asyncio.get_running_loop().create_future(), early)
        lanes[lane].append(turn)
        drain = self._drains.get(operation)
        if drain is None or drain.done():
            self._drains[operation] = asyncio.get_running_loop().create_task(self._drain(operation, lanes))
        return turn

    async def moment(self, operation: str, lane: Lane, slot: float) -> None:
        """Wait for the moment of a slot that was told early."""
        began = self._clock.boot_seconds()
        await self._leave(operation, lane, slot)
        self._note(self._clock.boot_seconds() - began)

    async def _leave(self, operation: str, lane: Lane, slot: float) -> None:
        """Wait for a slot, and for a distance to the calls that left before.

        A process that was held up has slots that have passed. It catches up by the head-room, since calls that are as far apart as the limit
        itself allows are never too many in a second. A person's call keeps no distance: there are few.
        """
        gaps = {scope: 1 / limit for scope in (EVERYTHING, operation) if (limit := self._limit(scope))}
        while True:
            apart = (self._left.get(scope, -math.inf) + gap for scope, gap in gaps.items() if lane is Lane.BULK)
            soonest = max([slot, *apart])
            if soonest <= self._clock.boot_seconds() + MOMENT:
                break
            await self._sleep_until(soonest)
        self._left |= dict.fromkeys(gaps, self._clock.boot_seconds())

    def _note(self, seconds: float) -> None:
        waited = _waited.get()
        if waited is not None:
            waited.seconds += seconds

    async def _drain(self, operation: str, lanes: dict[Lane, deque[Turn]]) -> None:
        """Reserve for those who wait, persons first, until nobody does."""
        try:
            while any(lanes.values()):
                lane = next(lane for lane in (Lane.DESK, Lane.BULK) if lanes[lane])
                count = min(len(lanes[lane]), STEP[lane])
                early = lanes[lane][0].early
                # Named, so that all processes hold the budgets of several accounts in one order.
                got = await self._writer.put(
                    lambda unit, n=count, who=lane, by=early: self._reserve(unit, operation, n, who, by),  # type: ignore[misc]
                    needs=Needs(request=f"pace/{self._account}/{operation}"),
                )
                turns = [lanes[lane].popleft() for _ in range(min(got.count, len(lanes[lane])))]
                if turns:
                    step = asyncio.get_running_loop().create_task(self._hand_out(operation, lane, turns, got))
                    self._steps.add(step)
                    step.add_done_callback(self._steps.discard)
                # The next step is reserved when this one is nearly used up, not sooner: others share the budget.
                await self._sleep_until(got.first + got.gap * max(len(turns) - 1, 0))
        except Exception as error:  # noqa: BLE001  # whoever waits has to hear of it
            for waiting in lanes.values():
                while waiting:
                    turn = waiting.popleft().future
                    if not turn.done():
                        turn.set_exception(error)

    async def _hand_out(self, operation: str, lane: Lane, turns: list[Turn], got: Reservation) -> None:
        due = got.first
        try:
            for turn in turns:
                # Who is told early waits for the moment by itself.
                await (self._sleep_until(due) if turn.early else self._leave(operation, lane, due))
                if not turn.future.done():
                    turn.future.set_result(due + turn.early)
                due += got.gap
        finally:
            for turn in turns:
                # Only if this was cancelled: nobody may wait for a slot that will not come.
                turn.future.cancel()

    async def _sleep_until(self, moment: float) -> None:
        await self._clock.sleep(max(moment - self._clock.boot_seconds(), 0.0))

    def _reserve(self, unit: Unit, operation: str, count: int, lane: Lane, early: float = 0.0) -> Reservation:
        """Take slots from both budgets, or none: one short transaction, by the database's clock.

        With `early`, slots that are handed out by so many seconds before; those of a bulk run begin so many seconds from now at the
        soonest, and come evenly all the same.
        """
        # The boot clock of the moment in which the database told its time: a later one, by as much as the unit has taken since, would
        # make the slots of one step come later than those of the next.
        boot = unit.boot
        found = self._rows(unit, operation)
        ahead = max(row.next_at for row in found) - unit.now - early
        if ahead > HORIZON[lane]:
            # Back in the very moment when a reservation is possible again: who came later would find that another process,
            # which knows its own schedule, is always a step ahead.
            return Reservation(0, boot + max(ahead - HORIZON[lane], RETRY_MIN), 0.0)
        delay, gap, told = -early, 0.0, list[dict[str, object]]()
        for row in found:
            begin = max(row.next_at, unit.now + (0.0 if lane is Lane.DESK else early))
            grown = self._grown(row, unit.now)
            delay, gap = max(delay, begin - unit.now - early), max(gap, 1 / grown)
            told.append(
                {
                    "the_account": self._account, "the_scope": row.scope,
                    # Each budget moves by its own rate: dragging the account's along with a slow operation's would starve the others.
                    "new_next_at": begin + count / grown, "new_rate": grown, "new_reserved_at": unit.now,
                    # The limits may have been set anew since the budget was made, and others read the ceiling there.
                    "new_rate_max": self._ceiling(str(row.scope)),
                }
            )  # fmt: skip
        _RESERVE.many(unit.connection, told)
        return Reservation(count, boot + delay, gap)

    def _rows(self, unit: Unit, operation: str) -> list[sa.Row[tuple[object, ...]]]:
        """Read and hold the budgets of an operation, those that are missing made."""
        scopes = [scope for scope in (EVERYTHING, operation) if self._ceiling(scope)]
        mine = {"the_account": self._account, "scopes": scopes}
        found = list(unit.connection.execute(_HELD, mine).all())
        if len(found) < len(scopes):
            for scope in scopes:
                if scope not in {row.scope for row in found}:
                    self._open(unit, scope)
            found = list(unit.connection.execute(_HELD, mine).all())
        lost = [row for row in found if _too_far(row, unit.now)]
        if lost and (lost := [row for row in lost if _too_far(row, unit.present())]):
            # The database's clock was set back: nobody waits until it is as late again.
            for row in lost:
                anew = {"the_account": self._account, "the_scope": row.scope, "the_now": unit.now}
                unit.connection.execute(_ANEW, anew)
            found = list(unit.connection.execute(_HELD, mine).all())
        return found

    def _open(self, unit: Unit, scope: str) -> None:
        rate = self._ceiling(scope)
        values = {
            "account": self._account, "scope": scope, "rate": rate, "rate_max": rate, "next_at": 0.0, "cut_at": 0.0,
            "reserved_at": unit.now,
        }  # fmt: skip
        from sqlalchemy.dialects import postgresql, sqlite

        make = postgresql.insert if unit.postgres else sqlite.insert
        unit.connection.execute(make(budgets).values(values).on_conflict_do_nothing())

    def _grown(self, row: sa.Row[tuple[object, ...]], now: float) -> float:
        ceiling, rate, since_cut = self._ceiling(str(row.scope)), float(row.rate), now - float(row.cut_at)
        if since_cut < GROWTH_PAUSE:
            return min(rate, ceiling)
        return min(ceiling, rate + GROWTH * since_cut * ceiling * min(1.0, max(0.0, now - float(row.reserved_at))))

    def took(self, operation: str, seconds: float) -> None:
        """Hear how long a call took."""
        self.meter.took(operation, seconds)

    async def limited(self, operation: str, reason: str | None, taken_at: float) -> None:
        """A call got a 429: cut the budget that Stripe names.

        Args:
            operation: The call's.
            reason: `Stripe-Rate-Limited-Reason`, or `None`; a lock timeout or a resource's own limit cuts nothing.
            taken_at: When the call's slot was had: slots from before the last cut must not cut again.
        """
        self.limited_count += 1
        self.meter.turned_away(reason)
        self.crowded_count += reason in CROWDED
        if reason is None or not reason.startswith(("endpoint", "global")):
            return
        named, other = (EVERYTHING, operation) if reason.startswith("global") else (operation, EVERYTHING)
        # Where no budget is kept of what Stripe names, the one that is kept has to slow down: another 429 would follow each time.
        scope = named if self._ceiling(named) else other
        if not self._account or not self._ceiling(scope):
            return
        needs = Needs(request=f"pace/{self._account}/{operation}")
        await self._writer.put(lambda unit: self._cut(unit, operation, scope, taken_at), needs=needs)

    def _cut(self, unit: Unit, operation: str, scope: str, taken_at: float) -> None:
        slot = unit.now - (unit.boot - taken_at)
        for row in self._rows(unit, operation):
            if row.scope == scope and slot > row.cut_at:
                rate = max(self._ceiling(scope) * FLOOR, float(row.rate) * CUT)
                statement = sa.update(budgets).where(budgets.c.account == self._account, budgets.c.scope == scope)
                later = max(float(row.next_at), unit.now + PAUSE_AFTER_CUT)
                unit.connection.execute(statement.values(rate=rate, cut_at=unit.now, next_at=later))

    async def close(self) -> None:
        """Let nobody wait any longer: who still does is cancelled, and sends nothing."""
        tasks = [*self._drains.values(), *self._steps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lanes in self._waiting.values():
            for waiting in lanes.values():
                while waiting:
                    waiting.popleft().future.cancel()


def _lost(turn: Turn) -> bool:
    """Tell whether a turn has no slot and gets none; one that still waits gets none from here on."""
    return turn.future.cancel() or turn.future.cancelled() or turn.future.exception() is not None
