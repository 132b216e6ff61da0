"""How long a person waits for one refund while a file is being paid at full pace.

Measured inside a process of the product (`python -m bench.fairness FILE`), put together as its commands are, since only there the
waits can be told apart: for Stripe, for a slot, and for ourselves, which is all the rest. A refund is asked for as `refundry refund
create` asks: the charge is found and looked at, the request is received, the worker pays it. It is over when it stands as settled.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import results
from bench.pace import READS, SHARE, WRITES
from bench.product import product
from bench.shop import shop
from bench.witness import Seen, watching
from refundry import bootstrap
from refundry.batches import service as batches
from refundry.bootstrap import Desk
from refundry.cli import refund_create
from refundry.connectors.base import AmountKind, ReadOptions, ReferenceKind
from refundry.infra import loop
from refundry.infra import settings as settings_of
from refundry.infra.pace import HORIZON
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.worker.main import Worker

BULK, DESK = 1_200, 40
# Between two persons.
PAUSE_SECONDS = 0.3
OWN_SECONDS = 0.025
# What a person may wait for a slot: the horizon that bulk has reserved, and four slots.
SLOT_SECONDS = HORIZON[Lane.BULK] + 4 / SHARE
FLOWING = 20
OVER = {State.SETTLED, State.PENDING}
# A person's refund that takes longer than this is stuck, and the figures would say nothing.
PATIENCE_SECONDS = 60.0


@dataclass
class Watch:
    """Times what a desk refund waits for: Stripe, and its slot. One is paid at a time, and it may wait for both at once.

    Args:
        desk: Whose pacer and gateway are watched.
        charges: Those that are refunded at the desk.
        waits: From when to when a desk refund waited for either, by the boot clock.
        slots: How long for each slot, in seconds.
    """

    desk: Desk
    charges: Collection[str]
    waits: list[tuple[float, float]] = field(default_factory=list)
    slots: list[float] = field(default_factory=list)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0
    _asking: ContextVar[bool] = field(default_factory=lambda: ContextVar("asking", default=False))

    def attach(self) -> None:
        """Stand between the product and its pacer and gateway."""
        look, send = self.desk.gateway.look, self.desk.gateway.send
        gateway: Any = self.desk.gateway
        pacer: Any = self.desk.pacer
        in_line = pacer.in_line

        def lined(operation: str, lane: Lane, early: float) -> Any:
            turn, began = in_line(operation, lane, early), self.desk.clock.boot_seconds()
            if lane is Lane.DESK:
                asking = self._asking.get()
                turn.future.add_done_callback(lambda future: self._had(began, future, early, asking=asking))
            return turn

        async def sends(body: Any, key: str) -> Any:
            self.count += 1
            if self.count >= FLOWING:
                self.flowing.set()
            return await self._timed(lambda: send(body, key), desk=body.charge in self.charges)

        pacer.in_line = lined
        gateway.look = lambda charge, lane, **more: self._timed(
            lambda: look(charge, lane, **more), desk=lane is Lane.DESK
        )
        gateway.send = sends

    def _had(self, began: float, slot: asyncio.Future[float], early: float, *, asking: bool) -> None:
        if slot.cancelled():
            return
        # The wait for a slot that is told early lasts until its moment, whatever is done meanwhile.
        ended = max(slot.result() if early else self.desk.clock.boot_seconds(), began)
        self.slots.append(ended - began)
        if not asking:
            self.waits.append((began, ended))

    async def _timed(self, call: Callable[[], Awaitable[Any]], *, desk: bool) -> Any:
        # The slot of a read is taken inside, and counts with it.
        token, began = self._asking.set(True), self.desk.clock.boot_seconds()
        try:
            return await call()
        finally:
            self._asking.reset(token)
            if desk:
                self.waits.append((began, self.desk.clock.boot_seconds()))

    def waited(self, began: float, ended: float) -> float:
        """Tell how much of a time a desk refund waited for Stripe or its slot, in seconds; what it waited for both counts once."""
        total, until = 0.0, began
        for start, end in sorted(self.waits):
            total += max(min(end, ended) - max(start, until), 0.0)
            until = max(until, end)
        return total


async def asked(desk: Desk, worker: Worker, watch: Watch, charge: str, number: int) -> float:
    """Ask for one refund and wait until it is settled; tells what we took ourselves, in seconds."""
    watch.waits.clear()
    began = desk.clock.boot_seconds()
    request = await _received(desk, charge, number)
    turns = worker.turns_of(request.id)
    worker.begin(request.account, request.lane)
    # As the command waits: it looks after each turn of work on its request.
    while (await desk.writer.aside(lambda: _read(desk, request.id))).state not in OVER:
        await asyncio.wait_for(turns.wait(), PATIENCE_SECONDS)
        turns.clear()
    ended = desk.clock.boot_seconds()
    return ended - began - watch.waited(began, ended)


async def _received(desk: Desk, charge: str, number: int) -> RefundRequest:
    asked = refund_create.Asked(
        references={ReferenceKind.CHARGE_ID: charge},
        amounts={AmountKind.MINOR: "100"},
        currency=None,
        reason="requested_by_customer",
        ticket=f"desk-{number}",
        key=None,
        allow_repeat=False,
        allow_inquiry=False,
        allow_fraudulent=False,
        cancel_uncaptured=False,
    )
    wanted = refund_create.wanted_of(asked)
    seen = await refund_create.look_up(desk, asked, wanted)
    _, taken = await desk.writer.put(
        lambda unit: refund_create.received(unit, desk, seen, asked, wanted), needs=refund_create.needs_of(seen)
    )
    assert taken is not None, "the charge is not captured"
    return taken[0]


def _read(desk: Desk, request: str) -> RefundRequest:
    with desk.database.reading() as unit:
        return refunds.need(unit, request)


async def run(path: Path, desk_charges: list[str]) -> dict[str, list[Any]]:
    """Pay a file, and refund at the desk meanwhile; tells our own time of each, when it began and ended, and the waits for slots, in seconds."""
    settings = settings_of.read()
    async with bootstrap.desk(settings) as desk:
        watch = Watch(desk, desk_charges)
        watch.attach()
        worker, stop = Worker(desk, bootstrap.lock_of(settings)), asyncio.Event()
        working = asyncio.create_task(worker.run(until=stop))
        await worker.executing.wait()
        file = bootstrap.read_file(path, options=ReadOptions(blank_amount_full=False, allow_fraudulent=False))
        await desk.writer.put(lambda unit: batches.accept(unit, desk.account.name, file, "", SYSTEM))
        await watch.flowing.wait()
        own, spans = [], []
        for number, charge in enumerate(desk_charges):
            began = time.monotonic()
            took = await asked(desk, worker, watch, charge, number)
            if watch.count >= BULK:
                # The file is paid: from here on nobody is in the way.
                break
            own.append(took)
            spans.append((began, time.monotonic()))
            await asyncio.sleep(PAUSE_SECONDS)
        stop.set()
        await working
        return {"own": own, "spans": spans, "slots": watch.slots}


def at95(times: list[float]) -> float:
    """Tell the time within which 95 of 100 are done."""
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.95))]


def main(*_: str) -> None:
    """Measure, print, and keep."""
    with shop(BULK + DESK, READS, WRITES, limits="live") as opened, product(opened.address, limits="live") as house:
        file = opened.file("bulk", opened.charges[:BULK])
        command = [sys.executable, "-m", "bench.fairness", str(file), *opened.charges[BULK:]]
        seen = Seen()
        with watching(seen):
            said = subprocess.run(command, env=house.environment(), check=True, stdout=subprocess.PIPE).stdout
        # Before its figures stands what it logs.
        told = json.loads(said.splitlines()[-1])
    own, slots = told["own"], told["slots"]
    assert own, "the file was paid before a single desk refund was: nothing was measured"
    # Of a refund in which the machine was slow at any time, nobody knows what of it was ours.
    steady = [one for one, span in zip(own, told["spans"], strict=True) if not seen.overlapped(*span)]
    figures = {
        "own_ms": {"median": round(1000 * sorted(own)[len(own) // 2], 1), "p95": round(1000 * at95(own), 1)},
        "own_ms_when_steady": {
            "median": round(1000 * sorted(steady)[len(steady) // 2], 1),
            "p95": round(1000 * at95(steady), 1),
        },
        "slot_ms": {"median": round(1000 * sorted(slots)[len(slots) // 2], 1), "p95": round(1000 * at95(slots), 1)},
    }
    results.table(("", "median", "p95"), [(name, *parts.values()) for name, parts in figures.items()])
    aims = [
        results.Aim("our own time of a desk refund, p95, ms", figures["own_ms"]["p95"], most=1000 * OWN_SECONDS),
        results.Aim("its wait for a slot, p95, ms", figures["slot_ms"]["p95"], most=round(1000 * SLOT_SECONDS)),
    ]
    results.write(
        "fairness",
        {
            "desk_refunds": len(own),
            "of_them_steady": len(steady),
            "machine_slow_percent": round(seen.share * 100, 1),
            **figures,
            "aims": results.show(aims),
        },
    )


if __name__ == "__main__":
    print(json.dumps(loop.run(run(Path(sys.argv[1]), sys.argv[2:]))))
