"""A process of the product in virtual time: the real executor, planner, services and gateway, in surroundings that can die.

Everything that a process does to the outside goes through its `Life`: each read and write of the database, each call to
Stripe, each wait. There it can be stopped or killed between any two steps; what is killed never takes another step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random  # noqa: TID251  # drawn from the seed that was handed in
from typing import Any, TypeVar

import stripe

from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.audit import service as audit
from refundry.batches import service as batches
from refundry.batches.model import BatchState
from refundry.gateways.base import GatewayError
from refundry.gateways.stripe.client import StripeGateway
from refundry.infra.db import Database, Needs, Unit
from refundry.infra.pace import Limits, Pacer, parsed
from refundry.infra.settings import PaySettings, Settings, SettingsError, StripeSettings
from refundry.infra.writer import NOTHING, InlineWriter
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.worker.executor import Executor
from refundry.worker.main import SWEEP_SECONDS, take_charge
from refundry.worker.planner import Planner
from refundry.worker.stagger import Stagger
from tests.simulation.following import Following
from tests.simulation.scenario import ABSENCE_GAP, ABSENCE_WAIT
from tests.support.stripe_transport import InProcess
from tests.support.virtual_time import MachineClock

Result = TypeVar("Result")
KEY = "sk_test_sim"
# After charges could not be looked up, they are tried again so much later.
PLAN_AGAIN_SECONDS = 5.0
# A key that was refused works again when somebody has mended it and started the process anew.
MENDED_SECONDS = 60.0
IDLE_FIRST, IDLE_MOST = 1.0, 600.0
TURN_MOST = 60.0
JITTER = (0.0, 0.0, 0.0, 0.001, 0.02)


class Life:
    """Whether a process still takes steps.

    Args:
        name: Its name in the log.
        chance: How long its steps take.
        died: Is told when it dies.
    """

    def __init__(self, name: str, chance: Random, died: Callable[[Life], None]) -> None:
        """Begin to live."""
        self.name = name
        self.dead = False
        self.steps = 0
        self.again: float | None = None
        self.was_stopped = False
        # Is done once it is dead.
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chance = chance
        self._died = died
        self._crash_at: int | None = None
        self._stop_at: tuple[int, float] | None = None
        self._runs_at = 0.0

    def crash(self, after: int, again: float | None) -> None:
        """Die after so many more steps, and be started again so many seconds later."""
        self._crash_at, self.again = self.steps + after, again

    def stop(self, after: int, seconds: float) -> None:
        """Stand still after so many more steps, as by SIGSTOP."""
        self._stop_at = (self.steps + after, seconds)

    @property
    def stopped(self) -> bool:
        """Tell whether it stands still."""
        return asyncio.get_running_loop().time() < self._runs_at

    async def step(self) -> None:
        """Take a step, or never return."""
        self.steps += 1
        loop = asyncio.get_running_loop()
        if not self.dead and self._crash_at is not None and self.steps >= self._crash_at:
            self.kill()
        if not self.dead and self._stop_at is not None and self.steps >= self._stop_at[0]:
            self._runs_at, self.was_stopped, self._stop_at = loop.time() + self._stop_at[1], True, None
        if (jitter := self._chance.choice(JITTER)) > 0:
            await asyncio.sleep(jitter)
        while self.dead or loop.time() < self._runs_at:
            if self.dead:
                await loop.create_future()
            await asyncio.sleep(self._runs_at - loop.time())

    def kill(self) -> None:
        """Die now."""
        self.dead = True
        if not self.over.done():
            self.over.set_result(None)
        self._died(self)


class LivingClock:
    """The machine's clock, as a process sees it."""

    def __init__(self, life: Life, machine: MachineClock) -> None:
        """Keep both."""
        self._life, self._machine = life, machine

    def now(self) -> float:
        """Tell the wall-clock time."""
        return self._machine.now()

    def boot_seconds(self) -> float:
        """Tell the boot clock."""
        return self._machine.boot_seconds()

    def machine(self) -> str:
        """Name its boot."""
        return self._machine.machine()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._machine.sleep(seconds)
        await self._life.step()


class LivingWriter(InlineWriter):
    """Saves between two steps: a kill comes before the commit, or after it and before anybody has heard of it."""

    def __init__(self, life: Life, database: Database) -> None:
        """Keep both."""
        super().__init__(database)
        self._life = life
        # Called after each commit.
        self.saved: Callable[[], None] = lambda: None
        # Called after each commit too, before anything else happens: sees what was intended in it.
        self.intended: Callable[[], None] = lambda: None

    async def put(
        self, work: Callable[[Unit], Result], *, needs: Needs = NOTHING, long: bool = False, alone: bool = False
    ) -> Result:
        """Commit one piece of work."""
        await self._life.step()
        result = await super().put(work, needs=needs, long=long, alone=alone)
        self.intended()
        self.saved()
        await self._life.step()
        return result

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Run it here."""
        await self._life.step()
        return work()


class Wire(stripe.HTTPClient):
    """The process's way to Stripe. What has left is worked on, whatever becomes of the process."""

    name = "wire"

    def __init__(self, process: Process, inner: InProcess) -> None:
        """Keep both."""
        super().__init__()
        self._process, self._inner = process, inner

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send one call."""
        process = self._process
        await process.life.step()
        path = url.partition("://")[2].partition("/")[2]
        key = headers.get("Idempotency-Key", "") if method == "post" else ""
        what = f"{method.upper()} /{path}" + (f" {key}" if key else "")
        watch = process.world.sends if key and path == "v1/refunds" else None
        if watch is not None:
            watch.begins(process, key)
        try:
            content, status, answered = await self._inner.request_async(method, url, headers, post_data)
        except Exception as error:
            process.world.log(process.life.name, f"{what} -> {type(error).__name__}")
            raise
        else:
            replayed = " replayed" if answered.get("Idempotent-Replayed") else ""
            process.world.log(process.life.name, f"{what} -> {status}{replayed}")
        finally:
            if watch is not None:
                watch.ends(process, key)
            await process.life.step()
        return content, status, answered


class CountedIds:
    """Lease tokens that a replay makes again."""

    def __init__(self, name: str) -> None:
        """Begin at one."""
        self._name, self._count = name, 0

    def new(self) -> str:
        """Make the next."""
        self._count += 1
        return f"lease-{self._name}-{self._count}"


class Process:
    """One process that works on one database.

    Args:
        world: The run that it is part of.
        name: Its name in the log.
        place: The installation that it belongs to, with its database and the clock of its machine.
        limits: What it takes Stripe's limits for.
    """

    def __init__(self, world: Any, name: str, place: Any, limits: str) -> None:
        """Put the parts together, as `bootstrap.desk` does."""
        self.world, self.place, self.url = world, place, place.url
        machine: MachineClock = place.machine
        self.life = Life(name, Random(f"{world.scenario.seed}/{name}"), world.died)  # noqa: S311  # no secret
        self.clock = LivingClock(self.life, machine)
        self.database = world.opened(self.url, machine)
        writer = LivingWriter(self.life, self.database)
        self.writer = writer
        self._limits: Limits = parsed(limits)
        self._pacer = Pacer(self._limits, 0.1, writer, self.clock)
        self.settings = Settings.model_construct(
            mode="test",
            stripe=StripeSettings(account=world.account),
            pay=PaySettings(
                absence_wait=ABSENCE_WAIT, absence_gap=ABSENCE_GAP, slice=5, flight_max=5, **world.scenario.pay
            ),
        )
        self._inner = InProcess(world.simulator)
        self.gateway = StripeGateway(
            KEY,
            api_base="http://stripe.invalid",
            account=None,
            clock=self.clock,
            slots=self._pacer,
            http_client=Wire(self, self._inner),
        )
        self.woken = asyncio.Event()
        self.following: Following | None = None
        # Whether it was asked to end, as by SIGTERM: what is on its way is finished, and nothing else is begun.
        self.ending = False
        self._paying = False
        self._planned_from = 0.0
        self._long_waits = bool(world.scenario.traits & {"tight", "doubted", "unknown"})
        if self._long_waits:
            writer.intended = self._intended

    @property
    def working(self) -> bool:
        """Tell whether it does something at this moment."""
        return self._paying or (self.following is not None and self.following.working > 0)

    def wake(self) -> None:
        """Look at once for what is to be done."""
        self.woken.set()
        if self.following is not None:
            self.following.wake()

    def now(self) -> float:
        """Tell how long the run has lasted."""
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Work until killed."""
        while True:
            try:
                account = await bootstrap.account_of(self.settings, self.gateway)
                break
            except (GatewayError, SettingsError) as error:
                self.world.log(self.life.name, f"cannot start: {error.code}")
                await self.clock.sleep(5.0)
        self._pacer.serve(account.name)
        await self.writer.put(lambda unit: accounts.stamp(unit, account))
        await self.writer.put(lambda unit: take_charge(unit, account.name, alone=False))
        parts: dict[str, Any] = {
            "gateway": self.gateway, "database": self.database, "writer": self.writer, "clock": self.clock,
            "order_key": "order_id",
        }  # fmt: skip
        self.executor = Executor(
            account.name, pacer=self._pacer, ids=CountedIds(self.life.name), pay=self.settings.pay, **parts
        )
        self.executor.may_send, self.executor.not_sent = batches.may_send, batches.not_sent
        self.executor.held_back = batches.held_back
        self.executor.came_back, self.executor.taken_back = batches.came_back, batches.taken_back
        self.executor.stopping = lambda: self.ending
        self.planner = Planner(account.name, account.mode, **parts)
        self.planner.slice = self.planner.slice_listed = self.world.scenario.slice_rows
        self.stagger = Stagger(self.gateway, self._pacer, self.database, self.writer, self.clock)
        if self.world.scenario.follow is not None:
            self._follow_too(account.name, parts)
        idle = IDLE_FIRST
        while not self.ending:
            self.woken.clear()
            self._paying = True
            worked = await self._round(account.name)
            self._paying = False
            idle = IDLE_FIRST if worked else min(idle * 2, IDLE_MOST)
            await self._rest(account.name, idle)
        self.life.kill()

    def end(self, again: float) -> None:
        """Ask it to end; it is started again so many seconds after it has."""
        self.ending, self.life.again = True, again
        self.wake()

    def _intended(self) -> None:
        with self.database.reading() as unit:
            self.world.sends.intended(self, unit)

    def _follow_too(self, account: str, parts: dict[str, Any]) -> None:
        secret = self.world.secrets[self.place.number]
        self.following = Following(self, account, secret, CountedIds(f"{self.life.name}-told"), parts)
        self.writer.saved = self.following.written.set
        for name, loop in self.following.loops().items():
            task = self.world.beside(loop(), f"{self.life.name} {name}")
            # It would go on asking whether those have ended that never take another step.
            self.life.over.add_done_callback(lambda _, one=task: one.cancel())

    async def _round(self, account: str) -> bool:
        """Do what the sweeper finds due: as wake-ups do, lane by lane, and until none is worked on any more."""
        if await self.writer.aside(lambda: self.read(lambda unit: accounts.held_text(unit, account))):
            await self.clock.sleep(MENDED_SECONDS)
            await self.writer.put(lambda unit: accounts.free(unit, account))
        runs, worked = dict[str, asyncio.Task[int]](), 0
        await self._sweep(account, runs)
        while runs:
            await asyncio.wait(runs.values(), timeout=SWEEP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            worked += sum(runs.pop(name).result() for name, run in list(runs.items()) if run.done())
            if runs:
                await self._sweep(account, runs)
        return worked > 0

    async def _sweep(self, account: str, runs: dict[str, asyncio.Task[int]]) -> None:
        """Begin what is due; a lane that is worked on claims what is due meanwhile, whatever it waits for."""
        for batch in self.read(batches.scheduled):
            await self.stagger.turn(batch)
        # As by a worker, nothing is begun of an account that is held: else a lane of it would begin, and be over, again and again.
        accepted = await self.writer.aside(
            lambda: self._of_free(account, lambda unit: batches.every(unit, account, [BatchState.ACCEPTED]))
        )
        due = await self.writer.aside(
            lambda: self._of_free(account, lambda unit: list(refunds.due_lanes(unit, unit.now)))
        )
        if self.ending:
            return
        begun: dict[str, Any] = {}
        if accepted and "plan" not in runs and self.clock.boot_seconds() >= self._planned_from:
            begun["plan"] = self._plan(accepted)
        for lane in Lane:
            if (account, lane) in due and lane in runs:
                self.executor.stir(lane)
            elif (account, lane) in due:
                begun[lane] = self.executor.drain(lane, until=lambda: self.ending)
        for name, work in begun.items():
            runs[name] = asyncio.get_running_loop().create_task(work, name=f"{self.life.name} {name}")

    def _of_free(self, account: str, work: Callable[[Unit], list[Result]]) -> list[Result]:
        """Read what is to be done, unless the account is held."""
        return self.read(lambda unit: [] if accounts.held_text(unit, account) else work(unit))

    async def _plan(self, accepted: list[Any]) -> int:
        try:
            for batch in accepted:
                await self.planner.plan(batch, lease=self.life.name, until=lambda: self.ending)
        except GatewayError as error:
            self.world.log(self.life.name, f"not planned: {error.code}")
            self._planned_from = self.clock.boot_seconds() + PLAN_AGAIN_SECONDS
            return 0
        return 1

    async def _rest(self, account: str, idle: float) -> None:
        """Wait for what falls due next, or for a wake-up."""
        due = self.read(lambda unit: refunds.next_due(unit, account))
        accepted = self.read(lambda unit: batches.every(unit, account, [BatchState.ACCEPTED]))
        seconds = max(0.0 if due is None else due - self.clock.now(), 0.01)
        nothing = due is None and not accepted
        waits = None if nothing else idle if accepted or seconds < idle else seconds
        # Whoever waits for minutes, as for a proof of absence, is not asked about in each second of them.
        every = min(idle, TURN_MOST) if self._long_waits else SWEEP_SECONDS
        if (turns := self.read(partial(turns_in, every=every))) is not None:
            waits = max(turns, 0.01) if waits is None else min(waits, max(turns, 0.01))
        try:
            async with asyncio.timeout(waits):
                await self.woken.wait()
        except TimeoutError:
            pass
        await self.life.step()

    def read(self, work: Callable[[Unit], Result]) -> Result:
        """Read from its database."""
        with self.database.reading() as unit:
            return work(unit)

    async def follow(self, account: str) -> None:
        """Re-read every refund that Stripe has taken, as webhooks, poller and reconciliation do."""
        self._pacer.serve(account)
        with self.database.reading() as unit:
            known = [request for _, request in refunds.page(unit, account, [], after=0, most=1000)]
        for request in known:
            if request.refund is not None:
                refund = await self.gateway.refund(request.refund, Lane.BULK)
                await self.writer.put(partial(_found, account=account, refund=refund))


def turns_in(unit: Unit, every: float = SWEEP_SECONDS) -> float | None:
    """Tell in how many seconds the next turn of a batch with a schedule is worth taking; `None`, if there is none.

    Args:
        unit: The open unit.
        every: How often, where no time is known.
    """
    found = []
    for batch in batches.scheduled(unit):
        outlook = batches.outlook(unit, batch)
        found.append(outlook.until - unit.now if outlook is not None and outlook.until is not None else every)
    return min(found, default=None)


def _found(unit: Unit, account: str, refund: SeenRefund) -> None:
    refunds.found(unit, account, refund)


def migrated(folder: Path) -> Path:
    """Make an SQLite file of this program's version, to be copied."""
    from tests.support.database import sqlite_template

    return sqlite_template(folder)


__all__ = ["KEY", "SYSTEM", "CountedIds", "Life", "Process", "audit", "migrated"]
