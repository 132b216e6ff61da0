"""The follower: takes the events that wait, reads what they hint at with as few calls as will do, and applies that.

An event is a hint: it may come late, twice, out of order or not at all (stripe-facts 5.3). What it says is never applied; what Stripe
shows at the read is. Everything here may be done twice, by two processes, or be cut off at any point: then it is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from refundry.accounts import service as accounts
from refundry.charges import service as charges
from refundry.follow import rules
from refundry.follow import service as follow
from refundry.follow.model import About, Feed, Needed, Run, Target
from refundry.gateways.base import GatewayError, PaymentGateway
from refundry.inbox import service as inbox
from refundry.inbox.model import Event
from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.infra.logs import logger
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import SeenRefund

Result = TypeVar("Result")
# Events that are looked at together: enough that many hints become one list, few enough that memory stays flat.
SLICE = 500
# How long a process is the one that applies an account's events, without saying so again: after it was killed, another begins so much
# later. Each call that is needed gives it as long as that takes at Stripe's usual pace; should it take longer, another process does the
# same work again, and no harm.
TURN_SECONDS, READ_SECONDS = 3.0, 0.06
# How often an inbox is looked at that nobody has told of: what other processes have stored is found by this.
IDLE_SECONDS = 2.0
# After a database that was lost, or a fault of ours, it is tried again this much later.
LOST_SECONDS = 5.0
# Reads on their way at once: the pace is the pacer's, this only bounds what waits for it.
READS_AT_ONCE = 10
# What was overtaken is read again this much later.
AGAIN_SECONDS = 1.0
OVERTAKEN = "it changed while it was read"


@dataclass(slots=True)
class Followed:
    """What a follower has done since it began.

    Args:
        applied: Events that are applied.
        unread: How many of them needed no read.
        reads: Calls to Stripe.
        put_off: Events that wait longer.
    """

    applied: int = 0
    unread: int = 0
    reads: int = 0
    put_off: int = 0


class Follower:
    """Applies the events of one account.

    Args:
        account: `acct_…|test`.
        who: Names this process among those that may do the same.
        gateway: Stripe.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
        order_key: The metadata key of the order id.
    """

    def __init__(
        self,
        account: str,
        who: str,
        *,
        gateway: PaymentGateway,
        database: Database,
        writer: Writer,
        clock: Clock,
        order_key: str,
    ) -> None:
        """Keep the parts."""
        self.account = account
        self.done = Followed()
        self._who = who
        self._gateway = gateway
        self._database = database
        self._writer = writer
        self._clock = clock
        self._order_key = order_key
        self._gate = asyncio.Semaphore(READS_AT_ONCE)
        self._woken = asyncio.Event()
        self._log = logger().bind(account=account)
        # What Stripe did not answer in this turn.
        self._unread: list[GatewayError] = []

    def wake(self) -> None:
        """Begin at once: events have come in."""
        self._woken.set()

    async def run(self, until: asyncio.Event) -> None:
        """Follow until told to stop; what goes wrong is told, and tried again."""
        log, told = self._log, ""
        while not until.is_set():
            self._woken.clear()
            rest = IDLE_SECONDS
            try:
                some = await self.turn()
                told = ""
                if some:
                    continue
            except DatabaseUnusable as error:
                # Once: for as long as it lasts, the sweeper says so.
                if error.code != told:
                    log.warning("follow.interrupted", code=error.code, why=error.message)
                told = error.code
                rest = LOST_SECONDS
            except Exception:
                log.exception("follow.interrupted")
                rest = LOST_SECONDS
            await _first(rest, until, self._woken)

    async def turn(self, most: int = SLICE) -> int:
        """Take some of the events that are due, and apply them or put them off; tells how many."""
        events, found = await self._read(lambda unit: self._due(unit, most))
        seconds = TURN_SECONDS + READ_SECONDS * len(found.reads)
        if not events or not await self._writer.put(lambda unit: self._takes_turn(unit, seconds)):
            return 0
        failed = await self._applied(found)
        self._tell_unread()
        await self._writer.put(lambda unit: self._settle(unit, found, failed))
        return len(events)

    async def leave(self) -> None:
        """End: whoever comes next need not wait for the end of this process's turn."""
        try:
            await self._writer.put(lambda unit: follow.end_turn(unit, self.account, self._who))
        except DatabaseUnusable as error:
            # Then it is waited for, and no more than that.
            self._log.warning("follow.interrupted", code=error.code, why=error.message)

    def _due(self, unit: Unit, most: int) -> tuple[list[Event], Needed]:
        events = [] if accounts.held_text(unit, self.account) else inbox.waiting(unit, self.account, most)
        return events, follow.needed(unit, events)

    def _takes_turn(self, unit: Unit, seconds: float) -> bool:
        return follow.take_turn(unit, self.account, self._who, seconds)

    async def _applied(self, found: Needed) -> dict[Target, str]:
        """Read and apply what is needed; tells what failed, and why."""
        failed: dict[Target, str] = {}
        left = {target.id for target in found.reads if target.about is About.REFUND}
        for run in rules.runs({refund: at for refund, at in found.created.items() if refund in left}):
            left -= await self._listed(run, found.claims, failed)

        async def one(target: Target) -> None:
            async with self._gate:
                why = await self._guarded(lambda: self._taken(target, found))
            if why:
                failed[target] = why

        singles = [target for target in found.reads if target.about is not About.REFUND or target.id in left]
        await asyncio.gather(*(one(target) for target in singles))
        return failed

    def _tell_unread(self) -> None:
        """Log in one line what was not read: a Stripe that is away or limits says the same of each object, hundreds of times a minute."""
        unread, self._unread = self._unread, []
        if unread:
            self._log.warning("follow.not_read", count=len(unread), code=unread[0].code, why=unread[0].message)

    async def _guarded(self, work: Callable[[], Awaitable[str]]) -> str:
        """Do something with Stripe; tells why it could not be done."""
        try:
            return await work()
        except GatewayError as error:
            self._unread.append(error)
            why = error.message
            if error.shut_out:
                await self._writer.put(lambda unit: accounts.hold(unit, self.account, why))
            return why
        except DatabaseUnusable:
            raise
        except Exception as error:  # noqa: BLE001  # as it says
            # A fault of ours, or something new at Stripe: it concerns this one alone, which is put off and parked in the end.
            self._log.exception("follow.not_applied")
            return f"it could not be applied ({type(error).__name__}: {error})"

    async def _taken(self, target: Target, found: Needed) -> str:
        began_at = self._now()
        self.done.reads += 1
        match target.about:
            case About.REFUND:
                refund = await self._gateway.refund(target.id, Lane.BULK)
                if await self._read(lambda unit: charges.find(unit, refund.charge)) is not None:
                    return await self._take_refund(refund, began_at, found.claims.get(refund.id))
                # A credit note does not name the charge, and whose order that is, only a look at it tells.
                self.done.reads += 1
                return await self._take_charge(refund.charge, found)
            case About.CHARGE:
                return await self._take_charge(target.id, found)
            case About.WARNINGS:
                warnings = await self._gateway.fraud_warnings(target.id, Lane.BULK)
                await self._writer.put(lambda unit: follow.take_warnings(unit, self.account, warnings))
                return ""

    async def _take_charge(self, charge: str, found: Needed) -> str:
        look = await self._gateway.look(charge, Lane.BULK)
        self.done.reads += bool(look.disputes)
        dated = replace(look, began_at=look.began_at + self._database.offset)
        events = found.reads.get(Target(About.CHARGE, charge), ())

        def work(unit: Unit) -> str:
            if not follow.take_look(unit, self.account, dated, self._order_key, found.claims):
                return OVERTAKEN
            # Stripe's lists may be behind its events, and no other event may ever tell of it.
            hidden = follow.not_on_record(unit, events)
            return f"Stripe does not show {', '.join(hidden)} yet" if hidden else ""

        return await self._writer.put(work, needs=Needs(charge))

    async def _take_refund(self, refund: SeenRefund, began_at: float, claim: str | None) -> str:
        taken = await self._writer.put(
            lambda unit: follow.take_refund(unit, self.account, refund, began_at, claim), needs=Needs(refund.charge)
        )
        return "" if taken else OVERTAKEN

    async def _listed(self, run: Run, claims: Mapping[str, str], failed: dict[Target, str]) -> set[str]:
        """Read refunds by a list, as long as its pages save more calls than they cost; tells which were found."""
        seen: set[str] = set()

        async def pages() -> str:
            began_at = self._now()
            async for page in self._gateway.refunds(run.since, run.until, Lane.BULK):
                self.done.reads += 1
                wanted = [refund for refund in page if refund.id in run.ids - seen]
                seen.update(refund.id for refund in wanted)

                async def taken(refund: SeenRefund, began_at: float = began_at) -> str:
                    return await self._guarded(lambda: self._take_refund(refund, began_at, claims.get(refund.id)))

                told = await asyncio.gather(*map(taken, wanted))
                failed.update(
                    {Target(About.REFUND, refund.id): why for refund, why in zip(wanted, told, strict=True) if why}
                )
                if len(wanted) <= 1 or seen >= run.ids:
                    break
            return ""

        # What a list could not show is read by itself, and fails by itself.
        await self._guarded(pages)
        return seen

    def _settle(self, unit: Unit, found: Needed, failed: Mapping[Target, str]) -> None:
        follow.take_known(unit, self.account, found)
        done = [event.key for target, events in found.reads.items() if target not in failed for event in events]
        count = inbox.applied(unit, [*found.settled, *done])
        for target, why in failed.items():
            self._put_off(unit, found.reads[target], why)
        follow.spend(unit, self.account, Feed.INBOX, len(found.reads))
        self.done.applied += count
        self.done.unread += len(found.settled)

    def _put_off(self, unit: Unit, events: Sequence[Event], why: str) -> None:
        by_wait: dict[float, list[Event]] = {}
        for event in events:
            wait = AGAIN_SECONDS if why == OVERTAKEN else rules.back_off(event.tries)
            by_wait.setdefault(wait, []).append(event)
        for wait, some in by_wait.items():
            inbox.put_off(unit, [event.key for event in some], unit.now + wait, why)
        self.done.put_off += len(events)

    def _now(self) -> float:
        return self._clock.now() + self._database.offset

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)


async def _first(seconds: float, *events: asyncio.Event) -> None:
    """Wait for the first of several events, or for a while."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
