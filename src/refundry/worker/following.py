"""Following the money in a process that stays: for each account a follower and a catch-up, side by side with what pays; and pruning."""

from __future__ import annotations

import asyncio

from refundry.bootstrap import Desk, Seat
from refundry.worker.catch_up import CatchUp
from refundry.worker.follower import Follower
from refundry.worker.pruner import Pruner


class Following:
    """The followers of all accounts of a desk.

    Args:
        desk: The parts.
        who: Names this process among those on the same database.
    """

    def __init__(self, desk: Desk, who: str) -> None:
        """Prepare; nothing runs before `start`."""
        self.followers = {seat.account.name: follower_of(desk, seat, who) for seat in desk.seats}
        self.catch_ups = {seat.account.name: catch_up_of(desk, seat) for seat in desk.seats}
        for account, catch_up in self.catch_ups.items():
            catch_up.stored = self.followers[account].wake
        self.pruner = Pruner(desk.writer, desk.settings.keep)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._pruning: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        for account in self.followers:
            runs = {"follow": self.followers[account].run, "catch_up": self.catch_ups[account].run}
            self._tasks += [
                asyncio.create_task(run(self._stopping), name=f"{name}/{account}") for name, run in runs.items()
            ]
        self._pruning = asyncio.create_task(self.pruner.run(self._stopping), name="prune")

    def woken(self, account: str) -> None:
        """Hear that events of an account have come in."""
        if account in self.followers:
            self.followers[account].wake()

    async def stop(self) -> None:
        """Begin nothing more, and leave off what is under way: it is done again by whoever comes next."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await asyncio.gather(*(follower.leave() for follower in self.followers.values()))
        if self._pruning is not None:
            # It ends after its slice, and says what it has forgotten.
            await self._pruning


def follower_of(desk: Desk, seat: Seat, who: str) -> Follower:
    """Make the follower of an account at the desk."""
    return Follower(
        seat.account.name, who, gateway=seat.gateway, database=desk.database, writer=desk.writer, clock=desk.clock,
        order_key=seat.access.order_key,
    )  # fmt: skip


def catch_up_of(desk: Desk, seat: Seat) -> CatchUp:
    """Make what catches up on an account at the desk."""
    return CatchUp(
        seat.account.name, gateway=seat.gateway, database=desk.database, writer=desk.writer, clock=desk.clock,
        order_key=seat.access.order_key, settings=desk.settings.follow,
    )  # fmt: skip
