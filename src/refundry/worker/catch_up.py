"""Catching up: asks Stripe for what no webhook has told, always at a low rate, and at once after a time without.

Events that are found are stored like those that came in, and the follower applies them. Refunds are listed beside, since a list tells
what an event that was never made cannot; and what may still change by itself is read again now and then. Charges are listed where somebody has
begun to mirror them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from refundry.accounts import service as accounts
from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID
from refundry.disputes import service as disputes
from refundry.follow import rules
from refundry.follow import service as follow
from refundry.follow.model import EVENTS_KEPT, POLLED, Feed, Mark
from refundry.gateways.base import GatewayError, Look, PaymentGateway, Trouble
from refundry.inbox import service as inbox
from refundry.inbox.model import Source
from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.infra.logs import logger
from refundry.infra.settings import FollowSettings
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.service import Told

Result = TypeVar("Result")
# What was made so shortly before a watermark is asked for again: it may not have been in the list yet.
OVERLAP_SECONDS = 120.0
# Lists are read in windows of at least this width, the oldest first, so that what was read is not read again after an interruption.
WINDOW_SECONDS = 6 * 3600.0
DAY = 86_400.0
# The last window is open beyond our present: Stripe's clock may be ahead of ours, and what it has made is not to wait for that.
CLOCKS_APART = 600.0
# After so many missed turns, what webhooks have failed to bring comes first.
TURNS_AWAY = 3
# Refunds that may still change, and open disputes, are read again when nothing was heard of them for so long; events bring it sooner.
REFUND_UNSEEN_SECONDS, DISPUTE_UNSEEN_SECONDS = 6 * 3600.0, DAY
# So many of them in one turn at most: a hundred pending bank debits take some turns.
REREAD_MAX = 20
# What keeps one object from being read, and says nothing about others.
ITS_OWN = frozenset({Trouble.NOT_FOUND, Trouble.FORBIDDEN, Trouble.REFUSED})
# How often the turn of a feed is looked for; also how soon what is asked for by the setting begins.
TICK_SECONDS = 1.0
LOST_SECONDS = 30.0


class OutOfReads(Exception):  # noqa: N818  # it is a limit, not an error
    """The calls that a command may make are used up."""


@dataclass(slots=True)
class Caught:
    """What catching up has done since it began.

    Args:
        reads: Calls to Stripe.
        events: Events that were listed.
        new: How many of them nobody had told before.
        refunds: Refunds that were listed.
        moved: How many of them stood otherwise here.
        charges: Charges that were listed.
        until: How far the present list was read, in epoch seconds.
    """

    reads: int = 0
    events: int = 0
    new: int = 0
    refunds: int = 0
    moved: int = 0
    charges: int = 0
    until: float = 0.0


class CatchUp:
    """Catches up on one account.

    Args:
        account: `acct_…|test`.
        gateway: Stripe.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
        order_key: The metadata key of the order id.
        follow: The settings of following.
    """

    def __init__(
        self,
        account: str,
        *,
        gateway: PaymentGateway,
        database: Database,
        writer: Writer,
        clock: Clock,
        order_key: str,
        settings: FollowSettings,
    ) -> None:
        """Keep the parts."""
        self.account = account
        self.done = Caught()
        # Told of each step, for progress.
        self.stepped: Callable[[Caught], None] = lambda _: None
        # Told that events were stored.
        self.stored: Callable[[], None] = lambda: None
        # After how many calls it stops, once a window of time is read to its end; a command sets it.
        self.reads_max: int | None = None
        self._gateway = gateway
        self._database = database
        self._writer = writer
        self._clock = clock
        self._order_key = order_key
        self._settings = settings
        self._without_events = False
        # When the last month of refunds is listed next, by the boot clock, while no event tells which of them has failed since.
        self._month_due = 0.0
        # Whether a window was read to its end: a limit that ends each attempt in the middle of the first one would never get on.
        self._got_on = False
        # Refunds and charges that Stripe does not know any more: they are not read again before the next start.
        self._lost: set[str] = set()
        self._log = logger().bind(account=account)

    # Always, at a low rate

    async def run(self, until: asyncio.Event) -> None:
        """Catch up until told to stop."""
        log, told = self._log, ""
        while not until.is_set():
            rest = TICK_SECONDS
            try:
                await self.turn()
                told = ""
            except DatabaseUnusable as error:
                # Once: for as long as it lasts, the sweeper says so.
                if error.code != told:
                    log.warning("catch_up.interrupted", code=error.code, why=error.message)
                told = error.code
                rest = LOST_SECONDS
            except Exception:
                log.exception("catch_up.interrupted")
                rest = LOST_SECONDS
            try:
                await asyncio.wait_for(until.wait(), rest)
            except TimeoutError:
                continue

    async def turn(self) -> bool:
        """Ask for what has its turn; tells whether anything had."""
        found = await self._read(self._due)
        asks = {Feed.EVENTS: self._events, Feed.REFUNDS: self._refunds, Feed.CHARGES: self._charges}
        for feed, mark in found:
            try:
                await asks[feed](mark)
                # A key may be given the right meanwhile; refunds are then listed as seldom as before.
                self._without_events = self._without_events and feed is not Feed.EVENTS
            except GatewayError as error:
                self._log.warning("catch_up.not_read", feed=feed.value, code=error.code, why=error.message)
                await self._failed(feed, error)
        return bool(found)

    def _due(self, unit: Unit) -> list[tuple[Feed, Mark]]:
        """Tell which feeds have their turn."""
        if accounts.held_text(unit, self.account):
            return []
        poll = self._settings.poll_seconds
        every = rules.every(poll, going_on=refunds.any_going_on(unit, self.account))
        marks = [follow.mark(unit, self.account, feed) for feed in (Feed.EVENTS, Feed.REFUNDS)]
        spent, most = sum(m.reads_today for m in marks), self._settings.reads_per_day
        if not rules.affordable(spent, most, unit.now):
            return []
        synced = follow.mark(unit, self.account, Feed.CHARGES)
        # Only where somebody has begun with them; and what they have cost keeps nothing else from being asked for.
        if synced.mark is not None and rules.affordable(spent + synced.reads_today, most, unit.now):
            marks.append(synced)
        slow = every if self._without_events else poll * rules.CALM
        waits = {
            Feed.EVENTS: poll * rules.CALM if self._without_events else every,
            Feed.REFUNDS: slow,
            Feed.CHARGES: poll * rules.CALM,
        }
        return [(m.feed, m) for m in marks if not 0 <= unit.now - m.tried_at < waits[m.feed]]

    async def _failed(self, feed: Feed, error: GatewayError) -> None:
        if error.shut_out:
            await self._writer.put(lambda unit: accounts.hold(unit, self.account, error.message))
        elif error.trouble is Trouble.FORBIDDEN and feed is Feed.EVENTS:
            self._without_events = True

    async def _events(self, seen: Mark) -> None:
        begun = await self._begun(Feed.EVENTS, seen)
        if begun is None:
            return
        now, since, told_at = begun
        if rules.failed_will_do(now, seen.mark, told_at, self._settings.poll_seconds):
            await self._list_events(since, self._open(now, now), only_failed=True)
            return
        if now - since > self._settings.poll_seconds * rules.CALM * TURNS_AWAY:
            await self._list_events(since, self._open(now, now), only_failed=True)
        await self.events_between(since, now)

    async def _refunds(self, seen: Mark) -> None:
        begun = await self._begun(Feed.REFUNDS, seen)
        if begun is None:
            return
        now, since, _ = begun
        month = self._without_events and self._clock.boot_seconds() >= self._month_due
        await self.refunds_between(since - EVENTS_KEPT if month else since, now)
        if month:
            self._month_due = self._clock.boot_seconds() + DAY
        await self._reread(now)

    async def _charges(self, seen: Mark) -> None:
        begun = await self._begun(Feed.CHARGES, seen)
        if begun is None:
            return
        now, since, _ = begun
        # A day beyond the watermark at most: after a long time away events do not wait until all charges are listed.
        # But twice what passes between two turns, where these are seldom: else they would fall behind more and more.
        most = max(DAY, 2 * self._settings.poll_seconds * rules.CALM)
        await self.charges_between(since, min(now, since + OVERLAP_SECONDS + self._ahead(now) + most))

    async def _begun(self, feed: Feed, seen: Mark) -> tuple[float, float, float | None] | None:
        """Begin with a feed, unless another process just has; tells the time, since when to ask, and when the last webhook came."""

        def work(unit: Unit) -> tuple[float, float, float | None] | None:
            mark = follow.begin(unit, self.account, feed, max(unit.now - seen.tried_at, 0.0))
            if mark is None:
                return None
            since = self._reached(unit.now) if mark.mark is None else mark.mark
            if mark.mark is None and charges.any_refund(unit, self.account):
                # Worked before it followed: what has become of its refunds since is asked for once.
                since = self._worked_since(unit, feed, unit.now)
            since = self._believed(unit, feed, since)
            if feed is Feed.EVENTS and since < unit.now - EVENTS_KEPT:
                # Nothing before can be asked for.
                self._events_lost(unit, since, unit.now)
                since = unit.now - EVENTS_KEPT
            if mark.mark is None or mark.mark < since:
                # Where it begins is kept at once: what a list that cannot be read leaves out is asked for next time.
                follow.move(unit, self.account, feed, since)
            told_at = inbox.last_received(unit, self.account, Source.WEBHOOK)
            return unit.now, since - OVERLAP_SECONDS - self._ahead(unit.now), told_at

        return await self._writer.put(work)

    def _believed(self, unit: Unit, feed: Feed, mark: float) -> float:
        """Tell a watermark as far as it can be believed; one that cannot is set back."""
        if mark - OVERLAP_SECONDS <= unit.now:
            return mark
        # Written by a clock that has been set back since: nobody has asked for what happened in between, however long that was.
        mark = unit.now - EVENTS_KEPT
        follow.set_back(unit, self.account, feed, mark)
        return mark

    def _worked_since(self, unit: Unit, feed: Feed, now: float) -> float:
        """Tell since when a feed is asked for that nobody has asked for, though refunds were made: those from the first on, events as far as they go."""
        made = charges.first_of_ours(unit, self.account) if feed is Feed.REFUNDS else None
        return now - EVENTS_KEPT if made is None else min(made, now - EVENTS_KEPT)

    def _events_lost(self, unit: Unit, mark: float, now: float) -> None:
        """List refunds from a month before the events that are lost: one may have failed in that time (stripe-facts 3.4), and only its list tells."""
        listed = follow.mark(unit, self.account, Feed.REFUNDS).mark
        # Where refunds were listed meanwhile, it is the key that may not read events, and that every time.
        if listed is not None and listed < now - EVENTS_KEPT:
            follow.set_back(unit, self.account, Feed.REFUNDS, mark - EVENTS_KEPT)

    def _ahead(self, now: float) -> float:
        """Tell by how many seconds our time is ahead of Stripe's: so much that was made before a watermark was not in the list yet."""
        stripe = self._gateway.stripe_now()
        # However much it is: by a clock that is hours ahead, all that happens at Stripe is older than the watermark.
        return CLOCKS_APART if stripe is None else min(max(now - stripe, 0.0), EVENTS_KEPT)

    def _reached(self, now: float) -> float:
        """Tell how far a watermark may go at most: not beyond Stripe's present, or what happens until then is passed over once our clock is set right."""
        stripe = self._gateway.stripe_now()
        # Less than what is asked for again anyway is no matter; Stripe tells whole seconds.
        return now if stripe is None or now - stripe <= OVERLAP_SECONDS / 2 else stripe

    # What commands do too

    def begins(self, unit: Unit, feed: Feed, since: float | None, now: float) -> float:
        """Tell from when on a command reads a feed: from a time, or from the watermark on; without one it gets one."""
        mark = follow.mark(unit, self.account, feed).mark
        if mark is None:
            # As when it begins by itself: what is older than was asked for here is not passed over for ever.
            worked = since is None or charges.any_refund(unit, self.account)
            mark = self._worked_since(unit, feed, now) if worked else since or now
            follow.move(unit, self.account, feed, mark)
        mark = self._believed(unit, feed, mark)
        if feed is Feed.EVENTS and mark < now - EVENTS_KEPT:
            # Nothing before can be asked for.
            self._events_lost(unit, mark, now)
            mark = now - EVENTS_KEPT
            follow.move(unit, self.account, feed, mark)
        return mark - OVERLAP_SECONDS - self._ahead(now) if since is None else since

    async def events_between(self, since: float, until: float) -> None:
        """Store the events of a time, window by window, the oldest first; each window moves the watermark."""
        since = max(since, until - EVENTS_KEPT)
        for begin, end in rules.windows(since, until, WINDOW_SECONDS):
            await self._list_events(begin, self._open(end, until))
            await self._moved(Feed.EVENTS, begin, end)

    async def _list_events(self, since: float, until: float, *, only_failed: bool = False) -> None:
        async for page in self._gateway.events(since, until, types=POLLED, only_failed=only_failed):
            mine = [event for event in page if event.account in {None, self.account.partition("|")[0]}]
            new = await self._writer.put(lambda unit, some=mine: inbox.store(unit, self.account, some, Source.POLL))  # type: ignore[misc]
            self.done.events += len(mine)
            self.done.new += new
            if new:
                self.stored()
            await self._paid_for(Feed.EVENTS, 1)

    async def refunds_between(self, since: float, until: float) -> None:
        """Hold the refunds that were created in a time against ours, window by window, the oldest first."""
        for begin, end in rules.windows(since, until, WINDOW_SECONDS):
            began_at = self._now()
            async for page in self._gateway.refunds(begin, self._open(end, until), Lane.BULK):
                self.done.refunds += len(page)
                await self._held_against(page, began_at)
                await self._paid_for(Feed.REFUNDS, 1)
            await self._moved(Feed.REFUNDS, begin, end)

    async def _held_against(self, page: Sequence[SeenRefund], began_at: float) -> None:
        told = {Told(one.id, one.metadata.get(REQUEST_ID), one.status): one for one in page}
        stand = await self._read(lambda unit: refunds.standing_here(unit, told))
        fresh = [refund for key, refund in told.items() if key not in stand]
        mirrors = await self._read(lambda unit: charges.many(unit, {refund.charge for refund in fresh}))
        await asyncio.gather(
            *(self._alone(self._take(refund, began_at), refund.id) for refund in fresh if refund.charge in mirrors)
        )
        # Nobody here has asked for these charges yet: whose orders they are, and what is left of them, only a look at them tells.
        for charge in dict.fromkeys(refund.charge for refund in fresh if refund.charge not in mirrors):
            look = await self._known(self._gateway.look(charge, Lane.BULK), charge)
            if look is not None:
                self.done.moved += await self._alone(self._take_look(look), charge)
            else:
                # What was given back is known all the same, for when the charge can be looked at.
                for refund in (refund for refund in fresh if refund.charge == charge):
                    await self._alone(self._take(refund, began_at), refund.id)
            await self._paid_for(Feed.REFUNDS, 1)

    async def _known(self, reading: Awaitable[Result], what: str) -> Result | None:
        """Read one object; `None` where Stripe does not know it, or does not show it to this key: that concerns it alone, and the rest goes on."""
        try:
            return await reading
        except GatewayError as error:
            if error.trouble not in ITS_OWN:
                raise
            self._log.warning("catch_up.not_read", object=what, code=error.code, why=error.message)
            if error.trouble is Trouble.NOT_FOUND:
                self._lost.add(what)
            return None

    async def _alone(self, work: Awaitable[None], what: str) -> bool:
        """Do something about one object; what goes wrong concerns that alone, and the list goes on. Tells whether it was done."""
        try:
            await work
        except (DatabaseUnusable, GatewayError):
            raise
        except Exception:  # noqa: BLE001  # a fault of ours, or something new at Stripe
            self._log.exception("catch_up.not_applied", object=what)
            return False
        return True

    async def _take(self, refund: SeenRefund, began_at: float) -> None:
        taken = await self._writer.put(
            lambda unit: follow.take_refund(unit, self.account, refund, began_at), needs=Needs(refund.charge)
        )
        # One that was overtaken has just been read by somebody else.
        self.done.moved += taken

    async def _reread(self, now: float) -> None:
        """Read again what may have changed without anybody telling."""
        still = await self._read(
            lambda unit: charges.refunds_open(
                unit, self.account, now - REFUND_UNSEEN_SECONDS, REREAD_MAX + len(self._lost)
            )
        )
        for name in [one.refund.id for one in still if one.refund.id not in self._lost][:REREAD_MAX]:
            began_at = self._now()
            refund = await self._known(self._gateway.refund(name, Lane.BULK), name)
            if refund is not None:
                await self._alone(self._take(refund, began_at), name)
            await self._paid_for(Feed.REFUNDS, 1)
        disputed = await self._read(
            lambda unit: disputes.unseen(unit, self.account, now - DISPUTE_UNSEEN_SECONDS, REREAD_MAX + len(self._lost))
        )
        for name in [name for name in dict.fromkeys(one.charge for one in disputed) if name not in self._lost][
            :REREAD_MAX
        ]:
            look = await self._known(self._gateway.look(name, Lane.BULK), name)
            if look is not None:
                await self._alone(self._take_look(look), name)
            await self._paid_for(Feed.REFUNDS, 2)

    async def charges_between(self, since: float, until: float) -> None:
        """Mirror the charges that were created in a time, with their refunds and disputes, day by day, the oldest first."""
        # Where it begins is kept at once: what is left off is gone on with from there.
        await self._moved(Feed.CHARGES, since, since)
        for begin, end in rules.windows(since, until, DAY):
            async for page in self._gateway.charges(begin, self._open(end, until)):
                self.done.charges += len(page)
                await asyncio.gather(*(self._alone(self._take_look(look), look.charge.id) for look in page))
                await self._paid_for(Feed.CHARGES, 1 + sum(bool(look.disputes) for look in page))
            await self._moved(Feed.CHARGES, begin, end)

    async def _take_look(self, look: Look) -> None:
        dated = replace(look, began_at=look.began_at + self._database.offset)
        await self._writer.put(
            lambda unit: follow.take_look(unit, self.account, dated, self._order_key), needs=Needs(look.charge.id)
        )

    async def _moved(self, feed: Feed, begin: float, end: float) -> None:
        """Move a watermark that lies in what was just read; one that lies before it stays, since a gap would be left behind."""

        def work(unit: Unit) -> None:
            mark = follow.mark(unit, self.account, feed).mark
            if mark is None or begin <= mark:
                follow.move(unit, self.account, feed, min(end, self._reached(unit.now)))

        await self._writer.put(work)
        self._got_on = self._got_on or begin < end
        self.done.until = end
        self.stepped(self.done)

    async def _paid_for(self, feed: Feed, reads: int) -> None:
        self.done.reads += reads
        await self._writer.put(lambda unit: follow.spend(unit, self.account, feed, reads))
        self.stepped(self.done)
        if self.reads_max is not None and self.done.reads >= self.reads_max and self._got_on:
            raise OutOfReads

    def _open(self, end: float, until: float) -> float:
        """Leave the last window open, to Stripe's present and beyond."""
        stripe = self._gateway.stripe_now()
        behind = 0.0 if stripe is None else max(stripe - self._now(), 0.0)
        return end + behind + CLOCKS_APART if end == until else end

    def _now(self) -> float:
        return self._clock.now() + self._database.offset

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)
