"""Group commit: many small pieces of work share one transaction, and each waits for its own durable commit.

A commit costs a disk flush, so fifty coroutines that each commit alone wait for fifty flushes; together for one or two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.kernel.errors import InvariantViolated

Result = TypeVar("Result")
# Larger batches gain nothing more, and hold the write lock longer.
BATCH_MAX = 256
NOTHING = Needs()
# How often a piece is tried that another process keeps from being written; each try has waited for a while already.
BUSY_TRIES = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of work that waits to be committed, and who waits for it."""

    needs: Needs
    work: Callable[[Unit], Any]
    future: asyncio.Future[Any]
    long: bool = False
    alone: bool = False


class Writer(Protocol):
    """Whoever saves."""

    async def put(
        self, work: Callable[[Unit], Result], *, needs: Needs = NOTHING, long: bool = False, alone: bool = False
    ) -> Result:
        """Run a piece of work inside a unit, and return what it returned once that unit is committed.

        Args:
            work: It may be run more than once, until a commit keeps it.
            needs: The charge and the request whose rows it needs, if it does: they are read and held for all pieces of a unit
                together, in the order of the charges, so that the units of two processes do not wait for each other.
            long: Whether it may take its time, as a file of a million rows does: it gets a unit of its own. All other units are
                ended by Postgres after a few seconds, since a process that was stopped in the middle of one keeps others waiting.
            alone: Whether it gets a unit of its own that is ended all the same: many such pieces together would take too long.

        Raises:
            Exception: What the work raised, or what the commit raised; then nothing of it was kept.
        """
        ...

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Run something that blocks, outside the event loop where there is one thread to spare, and without a unit."""
        ...


class InlineWriter:
    """Commits each piece of work at once, in the caller's own thread: for commands that do one thing, and for simulations."""

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    async def put(
        self,
        work: Callable[[Unit], Result],
        *,
        needs: Needs = NOTHING,
        long: bool = False,
        alone: bool = False,  # noqa: ARG002  # each is
    ) -> Result:
        """Commit one piece of work."""
        with self._database.unit(short=not long) as unit:
            self._database.fetch(unit, [needs] if needs.charge else [])
            return work(unit)

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Run it here."""
        return work()


class GroupWriter:
    """Commits what comes in together. One for each event loop; it ends with the process.

    Args:
        database: Where to.
    """

    def __init__(self, database: Database) -> None:
        """Begin with nothing to write."""
        self._database = database
        self._waiting: list[Piece] = []
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._others_were_first = False

    def start(self) -> None:
        """Begin to commit, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="writer")

    async def stop(self) -> None:
        """Commit what waits and what is being committed, then end; nothing can be put any more."""
        self._stopping = True
        self._woken.set()
        if self._task is not None:
            # Never cancelled: a commit goes on in its thread, and whoever waits for it has to hear of it.
            await asyncio.shield(self._task)

    async def put(
        self, work: Callable[[Unit], Result], *, needs: Needs = NOTHING, long: bool = False, alone: bool = False
    ) -> Result:
        """Have a piece of work committed with its neighbours.

        Raises:
            InvariantViolated: The writer has stopped; nothing of the work was kept.
        """
        if self._stopping:
            raise InvariantViolated("something was to be saved after the writer had stopped: nothing of it was kept")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(Piece(needs, work, future, long, alone))
        self._woken.set()
        result: Result = await future
        return result

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Run it in a thread."""
        return await asyncio.to_thread(work)

    async def _run(self) -> None:
        while self._waiting or not self._stopping:
            await self._woken.wait()
            batch = self._next()
            if not self._waiting:
                self._woken.clear()
            if batch:
                await self._commit(batch)

    def _next(self) -> list[Piece]:
        """Take those that are committed together next. What takes its time is alone, and others go first, once each time."""
        alone = next((piece for piece in self._waiting if piece.long or piece.alone), None)
        quick = [piece for piece in self._waiting if not (piece.long or piece.alone)][:BATCH_MAX]
        batch = [alone] if alone is not None and (self._others_were_first or not quick) else quick
        self._others_were_first = alone is not None and batch is quick
        taken = set(map(id, batch))
        self._waiting = [piece for piece in self._waiting if id(piece) not in taken]
        return batch

    async def _commit(self, batch: list[Piece], tries: int = BUSY_TRIES) -> None:
        batch.sort(key=lambda piece: piece.needs)
        try:
            results = await asyncio.to_thread(self._together, batch)
        except Exception as error:  # noqa: BLE001  # whatever it is, it goes to whoever asked
            busy = isinstance(error, DatabaseUnusable) and error.code == "database_busy"
            if len(batch) > 1:
                # One poisoned piece must not fail its neighbours: each is tried alone.
                for piece in batch:
                    await self._commit([piece])
            elif busy and tries > 1:
                # Two units waited for each other, and this one was broken off; the other is over by now.
                await self._commit(batch, tries - 1)
            else:
                _tell(batch[0].future, error)
            return
        for piece, result in zip(batch, results, strict=True):
            if not piece.future.done():
                piece.future.set_result(result)

    def _together(self, batch: list[Piece]) -> list[Any]:
        """Run pieces in one unit, those first that need no charge."""
        others = sum(not piece.needs.charge for piece in batch)
        with self._database.unit(short=not batch[0].long) as unit:
            results = [piece.work(unit) for piece in batch[:others]]
            self._database.fetch(unit, [piece.needs for piece in batch[others:]])
            return results + [piece.work(unit) for piece in batch[others:]]


def _tell(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
