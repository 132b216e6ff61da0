"""A process that works: it takes wake-ups, sweeps for what nobody works on, and takes over when the executing process ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from refundry import migrations
from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.bootstrap import Closed, Desk, Seat
from refundry.charges import service as charges
from refundry.follow import service as follow
from refundry.gateways.base import GatewayError, Trouble
from refundry.infra.db import DatabaseUnusable, Unit
from refundry.infra.engine import KEEP_SECONDS, WINDOW_SECONDS, Engine
from refundry.infra.lock import FileLock
from refundry.infra.logs import logger
from refundry.infra.readings import Recorder
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.tasks import service as tasks
from refundry.worker.executor import Executor
from refundry.worker.flight import Flight
from refundry.worker.following import Following
from refundry.worker.planner import Planner, planner_of
from refundry.worker.stagger import Stagger
from refundry.worker.teller import teller_of

SWEEP_SECONDS = 1.0
# While the database is away, it is said so often: who reads the end of a log finds it there, and a night's outage fills no disk.
LOST_AGAIN_SECONDS = 60.0
# After charges could not be looked up, they are tried again so much later.
PLAN_AGAIN_SECONDS = 5.0
FORGET_SECONDS = 600.0
# A sweep waits so long for the turns of scheduled batches: most need a read of the database, some one call to Stripe.
TURN_SECONDS = 1.0
# A process that watches tries this often to become the one that executes.
TAKE_OVER_SECONDS = 1.0
# Rows that a process pays at once, over all accounts; their calls fit into the connections (`gateways/stripe/transport.py`). Twenty
# accounts at full pace need about half of it: 22 refunds a second each, under half a second of calls for each refund.
FLIGHT_TOTAL_MAX = 400


@dataclass(slots=True)
class Station:
    """What works on one account.

    Args:
        seat: The account at the desk.
        executor: Pays.
        planner: Plans.
        stagger: Keeps batches to their schedules.
        recorder: Writes how its calls go, for other processes to read.
        flight: Tells how many of its rows may be on their way at once.
        planned_from: Before this time, by the boot clock, nothing is planned, if it was tried and has failed.
    """

    seat: Seat
    executor: Executor
    planner: Planner
    stagger: Stagger
    recorder: Recorder
    flight: Flight
    planned_from: float = 0.0


class Worker:
    """Works on all accounts of a desk, in this process.

    Each account has its own stations, lanes and budgets, and a share of what may be on its way at once: one account with
    50,000 rows takes nothing from another with five.

    Args:
        desk: The parts.
        lock: On SQLite, the lock of the one executing process; `None` on Postgres.
        follows: Whether it follows what Stripe has too: a process that stays does, a command that pays one file leaves it to that.
    """

    def __init__(self, desk: Desk, lock: FileLock | None, *, follows: bool = False) -> None:
        """Prepare; nothing runs before `run`."""
        self._desk = desk
        self._lock = lock
        self._log = logger()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._runs: dict[tuple[str, Lane], asyncio.Task[None]] = {}
        self._plans: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self.stations = {seat.account.name: self._station(seat) for seat in desk.seats}
        self._teller = teller_of(desk)
        self.following = Following(desk, self._name()) if follows else None
        self.executing = asyncio.Event()
        self._awaited: set[tuple[str, Lane]] = set()
        # Who waits for a request keeps its event; nobody else does.
        self._turns_over = WeakValueDictionary[str, asyncio.Event]()
        # Another process executes, and this one waits for its end.
        self.watching = False

    def _station(self, seat: Seat) -> Station:
        desk, account, order_key = self._desk, seat.account, seat.access.order_key
        executor = Executor(
            account.name,
            gateway=seat.gateway,
            pacer=seat.pacer,
            database=desk.database,
            writer=desk.writer,
            clock=desk.clock,
            ids=desk.ids,
            pay=desk.settings.pay,
            order_key=order_key,
        )
        executor.came_back, executor.taken_back = batches.came_back, batches.taken_back
        executor.may_send, executor.not_sent = batches.may_send, batches.not_sent
        executor.held_back = batches.held_back
        executor.stopping = self._stopping.is_set
        flight = Flight(seat.pacer, desk.clock, desk.settings.pay.flight_max)
        executor.flight_max = lambda: min(flight.rows(), self._share())
        executor.row_took, executor.turn_over = flight.took, self._turn_over
        executor.trace = desk.tracing
        planner = planner_of(desk, seat)
        stagger = Stagger(seat.gateway, seat.pacer, desk.database, desk.writer, desk.clock)
        recorder = Recorder(account.name, self._name(), seat.pacer.meter, desk.clock)
        return Station(seat, executor, planner, stagger, recorder, flight)

    def turns_of(self, request_id: str) -> asyncio.Event:
        """Tell an event that is set after each turn of work on a request in this process, for who waits for that request and looks again then.

        It is never set for what another process works on.
        """
        return self._turns_over.setdefault(request_id, asyncio.Event())

    def _turn_over(self, request_id: str) -> None:
        awaited = self._turns_over.get(request_id)
        if awaited is not None:
            awaited.set()

    def _share(self) -> int:
        """Tell how many rows each lane that is worked on may have on its way at most, so that all have their share of this process."""
        return max(FLIGHT_TOTAL_MAX // max(len(self._runs), 1), 1)

    async def run(self, *, until: asyncio.Event) -> None:
        """Work until told to stop: as the executing process, or watching until it can become that."""
        self._loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(Engine, self._desk.database, self._name())
        launched = False
        try:
            while not until.is_set() and not await self._took_lock():
                self.watching = True
                await _wait(until, TAKE_OVER_SECONDS)
            if until.is_set():
                return
            self.watching = False
            await self._desk.writer.put(self._take_charge)
            await self._teller.open()
            await asyncio.to_thread(engine.launch, self._wake)
            launched = True
            self.executing.set()
            for account, lane in sorted(self._awaited):
                self._begin(account, lane)
            self._log.info("worker.started", executor=self._name())
            self._teller.start(alone=self._lock is not None)
            if self.following is not None:
                self.following.start()
            await self._sweep(engine, until)
        finally:
            self._stopping.set()
            await self._teller.stop()
            if self.following is not None:
                await self.following.stop()
            # What is on its way is finished, and only then the engine and everything under it is closed.
            for turn in self._turns.values():
                turn.cancel()
            while self._runs or self._plans or self._turns:
                await asyncio.wait([*self._runs.values(), *self._plans.values(), *self._turns.values()])
                self._turns = {batch_id: turn for batch_id, turn in self._turns.items() if not turn.done()}
            await asyncio.to_thread(engine.stop if launched else engine.close)
            if self._lock is not None:
                self._lock.free()

    def _take_charge(self, unit: Unit) -> None:
        migrations.check(unit)
        for account in self.stations:
            take_charge(unit, account, alone=self._lock is not None)
        for shut in self._desk.closed:
            if shut.name is not None and _key_refused(shut):
                accounts.hold(unit, shut.name, shut.error.message)

    def _complete_tasks(self, unit: Unit) -> None:
        for account in self.stations:
            tasks.complete(unit, account)

    async def _took_lock(self) -> bool:
        return self._lock is None or self._lock.take()

    def _name(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"

    def _wake(self, account: str, lane: Lane) -> None:
        """Begin to work on a lane; called by the engine in one of its threads, which does not wait for the end of it.

        The engine's queue runs a few wake-ups at once: if each stayed until its lane is empty, a few large accounts would keep all
        others out for a minute at a time.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, account, lane)

    def begin(self, account: str, lane: Lane) -> None:
        """Begin at once with what this process itself has just written: a person waits for it, and a wake-up may take seconds.

        What is written before this process executes is begun in the moment in which it does. Nothing is lost should the process die
        here, or only watch: the sweeper of whoever executes finds it.
        """
        if self.executing.is_set():
            if lane is Lane.DESK and account in self.stations:
                self.stations[account].executor.expect(lane)
            self._begin(account, lane)
        else:
            self._awaited.add((account, lane))

    def _begin(self, account: str, lane: Lane) -> None:
        """One run at a time for each lane of each account: a second wake-up has the first claim once more.

        A run has no end of its own while anything is due: to end, it would wait for an answer that does not come, and keep others waiting.
        """
        station, key = self.stations.get(account), (account, lane)
        if station is None or self._stopping.is_set():
            return
        if lane is Lane.BULK and account not in self._plans and self._desk.clock.boot_seconds() >= station.planned_from:
            self._plans[account] = asyncio.create_task(
                self._kept(account, lane, self._plan(station)), name=f"{account}/plan"
            )
            self._plans[account].add_done_callback(lambda _: self._plans.pop(account))
        if key in self._runs:
            station.executor.stir(lane)
            return
        self._runs[key] = asyncio.create_task(
            self._kept(account, lane, self._drain(station, lane)), name=f"{account}/{lane}"
        )
        self._runs[key].add_done_callback(lambda _: self._ended(station, lane))

    def _ended(self, station: Station, lane: Lane) -> None:
        account = station.seat.account.name
        del self._runs[account, lane]
        if station.executor.stirred(lane):
            # After its last claim, and before its end: nobody else would look before the next sweep.
            self._begin(account, lane)

    async def _kept(self, account: str, lane: Lane, work: Coroutine[Any, Any, None]) -> None:
        """Do some work; what goes wrong there ends it, and the sweeper begins another."""
        log = self._log.bind(account=account, lane=lane.value)
        try:
            await work
        except DatabaseUnusable as error:
            # What stays broken ends the sweeper, and so the process, with one sentence.
            log.warning("wake.interrupted", code=error.code, why=error.message)
        except Exception:
            log.exception("wake.interrupted")

    async def _plan(self, station: Station) -> None:
        """Plan what was accepted; the sweeper has it done again for what is accepted meanwhile."""
        account, planned_from = station.seat.account.name, station.planned_from
        station.planned_from = self._desk.clock.boot_seconds() + PLAN_AGAIN_SECONDS
        failed = False
        for batch in await self._desk.writer.aside(lambda: self._accepted(account)):
            try:
                await station.planner.plan(batch, lease=self._desk.ids.new(), until=self._stopping.is_set)
            except GatewayError as error:
                # What one file names may not be found for long; the others do not wait for that.
                failed = True
                self._log.warning(
                    "batch.not_planned", account=account, batch=batch.id, code=error.code, why=error.message
                )
                if error.trouble in {Trouble.KEY_REFUSED, Trouble.FORBIDDEN}:
                    # No row could be looked up until a person has changed the key: say so once, and stop asking.
                    why = error.message
                    await self._desk.writer.put(lambda unit: accounts.hold(unit, account, why))  # noqa: B023  # it is awaited here
                    return
            except DatabaseUnusable:
                raise
            except Exception:  # noqa: BLE001  # what is wrong with one file keeps no other from being planned
                failed = True
                self._log.exception("batch.not_planned", account=account, batch=batch.id)
        if not failed:
            station.planned_from = planned_from

    async def _drain(self, station: Station, lane: Lane) -> None:
        """Pay what is due; also what is planned already while the rest is planned."""
        account = station.seat.account.name
        while True:
            planning = lane is Lane.BULK and account in self._plans
            await station.executor.drain(lane, until=self._stopping.is_set)
            if not planning or self._stopping.is_set():
                return
            await self._desk.clock.sleep(0.1)

    def _accepted(self, account: str) -> list[Batch]:
        with self._desk.database.reading() as unit:
            if accounts.held_text(unit, account):
                return []
            return batches.every(unit, account, [BatchState.ACCEPTED])

    async def _sweep(self, engine: Engine, until: asyncio.Event) -> None:
        """Find what is due and nobody works on, and wake its lane: after a lost wake-up, a dead worker, an upgrade."""
        forgot_at = self._desk.clock.boot_seconds()
        told_at: float | None = None
        while not until.is_set():
            try:
                await self._swept(engine)
                if told_at is not None:
                    self._log.warning("database.found")
                    told_at = None
                if self._desk.clock.boot_seconds() - forgot_at > FORGET_SECONDS:
                    forgot_at = self._desk.clock.boot_seconds()
                    before = int((self._desk.clock.now() - KEEP_SECONDS) * 1000)
                    await asyncio.to_thread(engine.forget_old, before)
                    # Once more: what an older program was working on when this one began, it has left since.
                    await self._desk.writer.put(self._complete_tasks)
            except DatabaseUnusable as error:
                # A Postgres that restarts comes back; a disk that is full or a file that cannot be written does not by itself.
                if not self._desk.database.postgres or error.code in migrations.CHANGED:
                    raise
                now = self._desk.clock.boot_seconds()
                if told_at is None or now - told_at >= LOST_AGAIN_SECONDS:
                    self._log.warning("database.lost", code=error.code, why=error.message)
                    told_at = now
            await _wait(until, SWEEP_SECONDS)

    async def _swept(self, engine: Engine) -> None:
        for station in self.stations.values():
            await station.recorder.turn(self._desk.writer)
        window = f"{int(self._desk.clock.boot_seconds() // WINDOW_SECONDS)}/{os.getpid()}"
        scheduled = await self._desk.writer.aside(self._scheduled)
        await self._take_turns(scheduled)
        due = await self._desk.writer.aside(self._due)
        fresh = [pair for pair in due if pair not in self._runs]
        # What has just had its turn is begun at once: a wake-up comes once in a window of time, and rows of a spread come more often.
        own = {(batch.account, Lane.BULK) for batch in scheduled}
        # And a lane that is worked on claims what is due meanwhile, whatever it waits for.
        for account, lane in own.intersection(fresh) | (self._runs.keys() & due):
            self._begin(account, lane)
        fresh = [pair for pair in fresh if pair not in own]
        if fresh:
            await self._desk.writer.put(lambda unit: _wake_all(engine, unit, fresh, window))

    async def _take_turns(self, scheduled: list[Batch]) -> None:
        """Give each batch with a schedule its turn; one whose balance is slow to be read goes on beside the sweeps, and keeps nobody waiting."""
        for batch in scheduled:
            if batch.id not in self._turns:
                turn = self.stations[batch.account].stagger.turn(batch)
                self._turns[batch.id] = asyncio.create_task(turn, name=f"turn/{batch.id}")
        if self._turns:
            await asyncio.wait(self._turns.values(), timeout=TURN_SECONDS)
        for batch_id in [batch_id for batch_id, task in self._turns.items() if task.done()]:
            try:
                self._turns.pop(batch_id).result()
            except DatabaseUnusable:
                raise
            except Exception:  # noqa: BLE001  # what is wrong with one batch keeps no other from its turn
                self._log.exception("turn.interrupted", batch=batch_id)

    def _scheduled(self) -> list[Batch]:
        with self._desk.database.reading() as unit:
            free = self._free(unit)
            return [batch for batch in batches.scheduled(unit) if batch.account in free]

    def _free(self, unit: Unit) -> set[str]:
        """Tell the accounts that are worked on, but for those that are held."""
        return {one.name for one in accounts.known(unit) if not one.held_text} & self.stations.keys()

    def _due(self) -> list[tuple[str, Lane]]:
        with self._desk.database.reading() as unit:
            # While it ran, a newer program may have changed the tables, which this one does not understand any more.
            migrations.check(unit)
            free = self._free(unit)
            due = dict.fromkeys(pair for pair in refunds.due_lanes(unit, unit.now) if pair[0] in free)
            due |= dict.fromkeys((account, Lane.BULK) for account in batches.accounts_to_plan(unit) if account in free)
            return list(due)


def _key_refused(shut: Closed) -> bool:
    error = shut.error
    return isinstance(error, GatewayError) and error.trouble in {Trouble.KEY_REFUSED, Trouble.FORBIDDEN}


def take_charge(unit: Unit, account: str, *, alone: bool) -> None:
    """Begin with a key that works, with looks that can be believed, and without the leases of a dead process.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        alone: Whether no other process executes on this database, so that what is leased was leased by the dead.
    """
    accounts.free(unit, account)
    charges.distrust_future_looks(unit, account)
    tasks.complete(unit, account)
    if alone:
        refunds.end_leases(unit, account)
        batches.end_planning(unit, account)
        follow.end_turn(unit, account)


def _wake_all(engine: Engine, unit: Unit, due: list[tuple[str, Lane]], window: str) -> None:
    for account, lane in due:
        engine.enqueue(unit, account, lane, window)


async def _wait(until: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return
