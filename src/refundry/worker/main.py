"""A process that works: it takes wake-ups, sweeps for what nobody works on, and takes over when the executing process ends."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState
from refundry.bootstrap import Desk
from refundry.charges import service as charges
from refundry.gateways.base import GatewayError, Trouble
from refundry.infra.db import DatabaseUnusable, Unit
from refundry.infra.engine import KEEP_SECONDS, WINDOW_SECONDS, Engine
from refundry.infra.lock import FileLock
from refundry.infra.logs import logger
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.worker.executor import Executor
from refundry.worker.planner import Planner

# A wake-up ends after this long even if more is due, so that others get their turn; the sweeper wakes again.
WAKE_SECONDS = 60.0
SWEEP_SECONDS = 1.0
FORGET_SECONDS = 600.0
# A process that watches tries this often to become the one that executes.
TAKE_OVER_SECONDS = 1.0


class Worker:
    """Works on one account, in this process.

    Args:
        desk: The parts.
        lock: On SQLite, the lock of the one executing process; `None` on Postgres.
    """

    def __init__(self, desk: Desk, lock: FileLock | None) -> None:
        """Prepare; nothing runs before `run`."""
        self._desk = desk
        self._lock = lock
        self._log = logger().bind(account=desk.account.name)
        settings = desk.settings
        self.executor = Executor(
            desk.account.name,
            gateway=desk.gateway,
            pacer=desk.pacer,
            database=desk.database,
            writer=desk.writer,
            clock=desk.clock,
            ids=desk.ids,
            pay=settings.pay,
            order_key=settings.stripe.order_key,
        )
        self.executor.stopped = batches.paused
        self._planner = Planner(
            desk.account.name,
            desk.account.mode,
            gateway=desk.gateway,
            database=desk.database,
            writer=desk.writer,
            clock=desk.clock,
            order_key=settings.stripe.order_key,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self.executor.stopping = self._stopping.is_set
        self._busy: set[Lane] = set()
        self.executing = asyncio.Event()
        # Another process executes, and this one waits for its end.
        self.watching = False

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
            await asyncio.to_thread(engine.launch, self._wake)
            launched = True
            self.executing.set()
            self._log.info("worker.started", executor=self._name())
            await self._sweep(engine, until)
        finally:
            self._stopping.set()
            # What is on its way is finished, and only then the engine and everything under it is closed.
            while self._busy:
                await self._desk.clock.sleep(0.05)
            await asyncio.to_thread(engine.stop if launched else engine.close)
            if self._lock is not None:
                self._lock.free()

    def _take_charge(self, unit: Unit) -> None:
        take_charge(unit, self._desk.account.name, alone=self._lock is not None)

    async def _took_lock(self) -> bool:
        return self._lock is None or self._lock.take()

    def _name(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}"

    def _wake(self, account: str, lane: Lane) -> None:
        """Work on a lane; called by the engine in one of its threads. One at a time: a second call finds nothing to do."""
        loop = self._loop
        if account != self._desk.account.name or loop is None or self._stopping.is_set() or lane in self._busy:
            return
        self._busy.add(lane)
        try:
            asyncio.run_coroutine_threadsafe(self._work(lane), loop).result()
        except DatabaseUnusable as error:
            # What stays broken ends the sweeper, and so the process, with one sentence.
            self._log.warning("wake.interrupted", code=error.code, why=error.message)
        finally:
            self._busy.discard(lane)

    async def _work(self, lane: Lane) -> None:
        ends = self._desk.clock.boot_seconds() + WAKE_SECONDS
        over = self._over(ends)
        if lane is Lane.BULK:
            await asyncio.gather(self._plan(over), self._drain_while_planning(lane, over))
        else:
            await self.executor.drain(lane, until=over)

    def _over(self, ends: float) -> Callable[[], bool]:
        return lambda: self._stopping.is_set() or self._desk.clock.boot_seconds() > ends

    async def _plan(self, over: Callable[[], bool]) -> None:
        accepted = await self._desk.writer.aside(self._accepted)
        self._planning = bool(accepted)
        try:
            for batch in accepted:
                await self._planner.plan(batch, until=over)
        except GatewayError as error:
            self._log.warning("batch.not_planned", code=error.code, why=error.message)
            if error.trouble in {Trouble.KEY_REFUSED, Trouble.FORBIDDEN}:
                # No row could be looked up until a person has changed the key: say so once, and stop asking.
                why = error.message
                await self._desk.writer.put(lambda unit: accounts.hold(unit, self._desk.account.name, why))
        finally:
            self._planning = False

    _planning = False

    async def _drain_while_planning(self, lane: Lane, over: Callable[[], bool]) -> None:
        """Pay what is planned already while the rest is planned."""
        while True:
            await self.executor.drain(lane, until=over)
            if not self._planning or over():
                return
            await self._desk.clock.sleep(0.1)

    def _accepted(self) -> list[Batch]:
        with self._desk.database.reading() as unit:
            return batches.every(unit, self._desk.account.name, [BatchState.ACCEPTED])

    async def _sweep(self, engine: Engine, until: asyncio.Event) -> None:
        """Find what is due and nobody works on, and wake its lane: after a lost wake-up, a dead worker, an upgrade."""
        forgot_at = self._desk.clock.boot_seconds()
        while not until.is_set():
            try:
                await self._swept(engine)
                if self._desk.clock.boot_seconds() - forgot_at > FORGET_SECONDS:
                    forgot_at = self._desk.clock.boot_seconds()
                    before = int((self._desk.clock.now() - KEEP_SECONDS) * 1000)
                    await asyncio.to_thread(engine.forget_old, before)
            except DatabaseUnusable as error:
                # A Postgres that restarts comes back; a disk that is full or a file that cannot be written does not by itself.
                if not self._desk.database.postgres:
                    raise
                self._log.warning("database.lost", code=error.code, why=error.message)
            await _wait(until, SWEEP_SECONDS)

    async def _swept(self, engine: Engine) -> None:
        window = f"{int(self._desk.clock.boot_seconds() // WINDOW_SECONDS)}/{os.getpid()}"
        due = await self._desk.writer.aside(self._due)
        fresh = [(account, lane) for account, lane in due if lane not in self._busy]
        if fresh:
            await self._desk.writer.put(lambda unit: _wake_all(engine, unit, fresh, window))

    def _due(self) -> list[tuple[str, Lane]]:
        with self._desk.database.reading() as unit:
            account = self._desk.account.name
            if accounts.held_text(unit, account):
                return []
            due = [pair for pair in refunds.due_lanes(unit, unit.now) if pair[0] == account]
            if batches.every(unit, account, [BatchState.ACCEPTED]) and (account, Lane.BULK) not in due:
                due.append((account, Lane.BULK))
            return due


def take_charge(unit: Unit, account: str, *, alone: bool) -> None:
    """Begin with a key that works, with looks that can be believed, and without the leases of a dead process.

    Args:
        unit: The open unit.
        account: `acct_…|test`.
        alone: Whether no other process executes on this database, so that what is leased was leased by the dead.
    """
    accounts.free(unit, account)
    charges.distrust_future_looks(unit, account)
    if alone:
        refunds.end_leases(unit, account)


def _wake_all(engine: Engine, unit: Unit, due: list[tuple[str, Lane]], window: str) -> None:
    for account, lane in due:
        engine.enqueue(unit, account, lane, window)


async def _wait(until: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return
