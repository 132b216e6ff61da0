"""A command that works: it opens everything, executes or watches until it may, and ends well on Ctrl-C and on a polite kill."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.bootstrap import Desk
from refundry.cli import interruption, output
from refundry.cli.interruption import Wish
from refundry.infra.db import DatabaseUnusable, Unit
from refundry.infra.settings import Settings
from refundry.kernel.errors import RefundryError, UsageError
from refundry.worker.main import TAKE_OVER_SECONDS, Worker

Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# For so long a Postgres may be away before a command gives up; a process that stays goes on looking.
LOST_SECONDS = 60


@dataclass(slots=True)
class Work:
    """A command at work.

    Args:
        desk: Everything that is open.
        worker: Executes, or watches.
        stop: Set, when no more is to be begun.
        task: The worker's run; once it is done, it has failed or was stopped.
    """

    desk: Desk
    worker: Worker
    stop: asyncio.Event
    task: asyncio.Task[None]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    wish: Wish = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nobody who wants it to end."""
        self.wish = Wish(self.desk.clock)

    @property
    def interrupted(self) -> bool:
        """Tell whether a person, or a polite kill, wants it to end."""
        return self.wish.heard_at is not None

    def interrupt(self) -> None:
        """Begin nothing more; the second time, leave at once."""
        if not self.wish.heard():
            return
        self.woken.set()
        self.stop.set()
        output.say("stopping: nothing more is begun, what is on its way is finished (again: leave at once)")

    async def read(self, work: Callable[[Unit], Result]) -> Result:
        """Read the database, beside the event loop.

        Raises:
            DatabaseUnusable: On SQLite at once; on Postgres, if it does not come back, or the command is to end meanwhile.
        """

        def reading() -> Result:
            with self.desk.database.reading() as unit:
                return work(unit)

        tries_left = LOST_SECONDS if self.desk.database.postgres else 0
        while True:
            try:
                return await asyncio.to_thread(reading)
            except DatabaseUnusable:
                # A Postgres that restarts comes back; and one that has cut off a process which was stopped takes it again.
                if not tries_left or self.task.done() or self.interrupted:
                    raise
                tries_left -= 1
                await self.desk.clock.sleep(1.0)

    async def rest(self, seconds: float, sooner: asyncio.Event | None = None) -> None:
        """Wait until the next look, or until interrupted.

        Args:
            seconds: Until the next look.
            sooner: Ends the wait too, and is cleared then.

        Raises:
            RefundryError: A setting that a worker found wrong, after something may have been taken in.
            Exception: What else has ended the worker.
        """
        wakers = {asyncio.create_task(event.wait()) for event in (self.woken, sooner) if event is not None}
        await asyncio.wait({*wakers, self.task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waker in wakers:
            waker.cancel()
        if sooner is not None:
            sooner.clear()
        if self.task.done() and not self.interrupted:
            try:
                await self.task
            except UsageError as error:
                if self.worker.following is not None:
                    raise
                # Wrong usage says that nothing was changed, and whoever believes that pays by hand what is paid here later.
                raise RefundryError(
                    f"{error.message}; what was taken in before is kept, and the next process that works pays it",
                    code=error.code,
                    **error.ids,
                ) from error

    async def held(self) -> str:
        """Tell why the account that the command is about is held; an empty string, if it is not."""
        name = self.desk.account.name
        return await self._held_elsewhere(name) if self.worker.watching else (await self.held_accounts()).get(name, "")

    async def _held_elsewhere(self, account: str) -> str:
        """Tell why the process that executes holds an account: it has ended every hold from before its own start, if it has not just begun."""
        why = await self.read(lambda unit: accounts.held_text(unit, account))
        if why:
            await self.desk.clock.sleep(TAKE_OVER_SECONDS)
            why = await self.read(lambda unit: accounts.held_text(unit, account))
        return why if self.worker.watching else ""

    @property
    def mend(self) -> str:
        """Tell what is to be done with a key that is refused, before the same command goes on."""
        if self.worker.watching:
            return "nothing more is paid until the key works in the process that pays here: start that one again, and then run the same command"
        return "nothing more is paid until the key works; then run the same command again"

    async def held_accounts(self) -> dict[str, str]:
        """Tell which of the open accounts are held, and why. A hold from before our own start is not believed."""
        if not self.worker.executing.is_set():
            return {}
        known = await self.read(accounts.known)
        return {one.name: one.held_text for one in known if one.held_text and one.name in self.worker.stations}


@asynccontextmanager
async def working(settings: Settings, account: str | None = None, *, every: bool = False) -> AsyncIterator[Work]:
    """Open everything and work until the block ends; what is on its way then is finished first.

    Whatever the command is about, the work is on all accounts: on SQLite no other process could do it.

    Args:
        settings: As read.
        account: What a person said which account the command is about; see `bootstrap.Desk.seat`.
        every: It is about all of them, and stays: it follows what Stripe has too.

    Raises:
        AccountNeeded: There are several, and nobody said which.
    """
    async with bootstrap.desk(settings, account=account) as desk:
        for shut in desk.closed:
            output.say(f"error: {shut.told}: nothing of it is paid until that is mended; the other accounts go on")
        if not every:
            _ = desk.seat
        stop = asyncio.Event()
        worker = Worker(desk, bootstrap.lock_of(settings), follows=every)
        work = Work(desk, worker, stop, asyncio.create_task(worker.run(until=stop), name="worker"))
        loop = asyncio.get_running_loop()
        # Not the loop's own way, which lets go of a signal before anybody can put back who had it.
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(work.interrupt))
            for number in SIGNALS
            # Whoever started it by `nohup` wants it to outlive the terminal.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield work
        finally:
            stop.set()
            # An error of the worker's own was told by `rest`; here it may only hide what ended the block.
            with suppress(Exception):
                await work.task
            if work.interrupted:
                # The end takes a moment, in which the same wish may be said again.
                interruption.process.heard_at = work.wish.heard_at
            for number, handler in before.items():
                signal.signal(number, handler)
