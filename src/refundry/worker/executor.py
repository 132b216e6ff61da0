"""The executor: claims due refund requests by lease, looks, decides, writes the intent, sends, and records what came of it.

Every decision is made by the services, inside a unit; this module only orders the steps and awaits the network, and no step
awaits the network while a unit is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Protocol, TypeVar

from refundry.accounts import service as accounts
from refundry.charges import service as charges
from refundry.disputes import service as disputes
from refundry.gateways.base import GatewayError, Look, PaymentGateway, Trouble
from refundry.infra import tracing
from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.infra.logs import logger
from refundry.infra.pace import Pacer, note_waits
from refundry.infra.settings import PaySettings
from refundry.infra.witness import SET_BACK, vouched_since
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.ids import Ids
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Answer, Declined, NotTaken, NotTakenWhy, Outcome, Unknown
from refundry.refunds import rules
from refundry.refunds import service as refunds
from refundry.refunds.model import Attempt, RefundRequest, State
from refundry.refunds.service import LOOK_GRACE, LOW_BALANCE_WAIT, Claimed, Intent

Result = TypeVar("Result")
REFUND = "POST /v1/refunds"
LEASE_SECONDS = 20.0
RENEW_SECONDS = 5.0
# After a read that failed, a request is looked at again this much later.
READ_WAIT = 5.0
LIMITED_WAIT = 0.5
# What kept an intent from being written is over after about this long; without a wait the same look would be made again and again.
AGAIN_WAIT = 1.0
# After a wait for a slot that was shorter than this the charge is not read again before the intent is written, in whose unit it is anyway.
WAITED = 1.0
AGAIN = "its charge has to be looked at again, or a sibling is on its way"
TAKEN_BACK = "its batch was withdrawn while it was on its way, and it has given nothing back"
# A fault of ours stops one request; it is looked at again after this long, and is loud until then.
FAULT_WAIT = 300.0


@dataclass(frozen=True, slots=True)
class Intended:
    """An intent that is on disk, and when it was asked for, by the boot clock."""

    intent: Intent
    began: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A claimed request, and what is known of its charge.

    Args:
        claimed: The request.
        fresh_until: Until when, by the boot clock, the last look at its charge is fresh, if nothing happens to it; zero, if it is not.
        intended: Its intent, where that is written already.
    """

    claimed: Claimed
    fresh_until: float = 0.0
    intended: Intended | None = None


class Judge(Protocol):
    """Decides about a request in an open unit; what goes on, or `None`."""

    def __call__(self, unit: Unit, claimed: Claimed, *, known: bool) -> Taken | None:
        """Decide; `known` tells whether Stripe knows the charge."""
        ...


@dataclass(slots=True)
class Counts:
    """What a run has done, for progress."""

    claimed: int = 0
    sent: int = 0
    looks: int = 0
    adopted: int = 0
    limited: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


class Executor:
    """Pays what is due on one account.

    Args:
        account: `acct_…|test`.
        gateway: Stripe, for that account.
        pacer: Its send slots.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
        ids: Makes lease tokens.
        pay: The settings of paying.
        order_key: The metadata key of the order id.
    """

    def __init__(
        self,
        account: str,
        *,
        gateway: PaymentGateway,
        pacer: Pacer,
        database: Database,
        writer: Writer,
        clock: Clock,
        ids: Ids,
        pay: PaySettings,
        order_key: str,
    ) -> None:
        """Keep the parts."""
        self.account = account
        self._gateway = gateway
        self._pacer = pacer
        self._database = database
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._pay = pay
        self._order_key = order_key
        self.counts = Counts()
        self._stirred = {lane: asyncio.Event() for lane in Lane}
        # Looks are dated by the database's clock. Those from before this time are not believed: the clock may have been set back
        # since, and a look of yesterday would pass for one of a moment ago. The first claim asks the machine's witness.
        self._believed_since = clock.now() + database.offset
        self._ahead = self._believed_since - clock.boot_seconds()
        # Whether the process is asked to end; set by whoever runs it.
        self.stopping: Callable[[], bool] = lambda: False
        # How many rows of a lane may be on their way at once; set by whoever works on several accounts.
        self.flight_max: Callable[[], int] = lambda: pay.flight_max
        # Hears how long the work on a row took, in seconds without its waits for slots; set by the same.
        self.row_took: Callable[[float], None] = lambda _seconds: None
        # Hears that a turn of work on a request is over, whatever came of it; set by the same.
        self.turn_over: Callable[[str], None] = lambda _request: None
        # Traces each request; set by whoever has settings.
        self.trace: tracing.Tracing = tracing.OFF
        # Hears that a request came back unpaid; set by whoever knows batches, which are above this.
        self.came_back: Callable[[Unit, str], None] = lambda _unit, _request: None
        # Whether what a request belongs to was taken back, and nobody wants the request after all; set by the same.
        self.taken_back: Callable[[Unit, str], bool] = lambda _unit, _request: False
        # Whether a request whose attempt has paid nothing has to wait before its next; then it is not ours any more. Set by the same.
        self.held_back: Callable[[Unit, Claimed, Attempt], bool] = lambda _unit, _claimed, _absent: False
        # Whether a request may be sent, or sent again, at this moment; if not, it is not ours any more. And what was not sent after
        # all, in minor units.
        self.may_send: Callable[[Unit, Claimed], bool] = lambda _unit, _claimed: True
        self.not_sent: Callable[[Unit, RefundRequest, int], None] = lambda _unit, _request, _amount: None
        self._log = logger().bind(account=account)

    async def drain(self, lane: Lane, *, until: Callable[[], bool]) -> int:
        """Claim and pay slice after slice, until nothing is due or `until` says to stop; tells how many were claimed.

        A request that is being paid is always finished: stopping means claiming no more.

        Raises:
            DatabaseUnusable: Nothing can be claimed, and nothing is on its way any more.
        """
        running, total = dict[asyncio.Task[None], Claimed](), 0
        renewal = asyncio.get_running_loop().create_task(self._renew(running))
        stirred = self._stirred[lane]
        try:
            while not until():
                stirred.clear()
                most = min(self.flight_max() - len(running), self._pay.slice)
                try:
                    # Each claim has a lease of its own: who had a request before must not give back what its successor holds.
                    count, taken = await self._claim(lane, self._ids.new(), most) if most > 0 else (0, [])
                except DatabaseUnusable as error:
                    if not running:
                        raise
                    # Perhaps for this once; whoever is on its way ends as it does, and keeps nobody from claiming again.
                    self._log.warning("claim.failed", code=error.code, why=error.message)
                    await _until_any(running, stirred)
                    continue
                total += count
                self.counts.claimed += count
                for one in taken:
                    task = asyncio.get_running_loop().create_task(self._timed(one))
                    running[task] = one.claimed
                    task.add_done_callback(running.pop)
                if not running and not count and not stirred.is_set():
                    return total
                # Fewer than there was room for, and nothing ended that would let its sibling go: no more is due.
                no_more = count < most and len(taken) == count
                if running and (no_more or len(running) >= self.flight_max()):
                    await _until_any(running, stirred)
            return total
        finally:
            if running:
                await asyncio.wait([*running])
            renewal.cancel()
            self._pacer.unask(REFUND, lane)
            await asyncio.gather(renewal, return_exceptions=True)

    def expect(self, lane: Lane) -> None:
        """Hear that a request is about to be claimed: its slot is waited for from now on, beside the claim and what is decided in it."""
        self._pacer.ask(REFUND, lane, early=self._pacer.early(REFUND, lane))

    def stir(self, lane: Lane) -> None:
        """Have whoever drains a lane claim again: something has fallen due, and an answer that does not come is nobody else's concern."""
        self._stirred[lane].set()

    def stirred(self, lane: Lane) -> bool:
        """Tell whether somebody has stirred since the last claim."""
        return self._stirred[lane].is_set()

    async def _claim(self, lane: Lane, lease: str, most: int) -> tuple[int, list[Taken]]:
        """Claim what is due, and decide at once what needs no look; tells how many were claimed, and those that go on."""
        try:
            return await self._claimed(lane, lease, most, decide=True)
        except DatabaseUnusable:
            raise
        except Exception:  # noqa: BLE001  # whatever it is, it is that one's
            # One that cannot be decided keeps no other from being claimed: each is decided by itself now.
            self._log.exception("claim.not_decided")
            return await self._claimed(lane, lease, most, decide=False)

    async def _claimed(self, lane: Lane, lease: str, most: int, *, decide: bool) -> tuple[int, list[Taken]]:
        judge = self._judge()

        def work(unit: Unit) -> tuple[int, list[Taken], dict[str, float], float, float]:
            vouched = vouched_since(unit, self._clock)
            back = self._set_back(unit.now)
            if back or vouched == unit.now:
                charges.distrust_future_looks(unit, self.account)
            since = vouched if vouched is not None else unit.now if back else self._believed_since
            held = accounts.held_text(unit, self.account)
            taken = [] if held else refunds.claim(unit, self.account, lane, lease, seconds=LEASE_SECONDS, most=most)
            looks = charges.looked_at(unit, [one.request.content.charge for one in taken]) if taken else {}
            free = refunds.hold_undecided(unit, taken, looks) if decide else []
            self._database.fetch(unit, [_needs(one) for one in free])
            ripe = {one.request.id for one in free if not self._old(unit, one, since)}
            going_on = [judge(unit, one, known=True) if one.request.id in ripe else Taken(one) for one in taken]
            return len(taken), [one for one in going_on if one is not None], looks, unit.now, since

        # Alone on Postgres: it holds requests before charges, and whoever did so and then waited for a charge could wait for ever.
        claiming = self._writer.put(work, alone=self._database.postgres)
        count, taken, looks, now, self._believed_since = await claiming
        boot = self._clock.boot_seconds()
        self._ahead = now - boot
        return count, [replace(one, fresh_until=self._fresh_until(one.claimed, looks, now, boot)) for one in taken]

    def _old(self, unit: Unit, claimed: Claimed, since: float) -> bool:
        return refunds.look_needed(unit, claimed.request, self._pay.look_max_age, since=since)

    def _fresh_until(self, claimed: Claimed, looks: Mapping[str, float], now: float, boot: float) -> float:
        """Tell until when, by the boot clock, a look is fresh; zero for one that is not, or that is not to be believed."""
        looked_at = looks.get(claimed.request.content.charge)
        if looked_at is None or not self._believed_since <= looked_at <= now:
            return 0.0
        return boot + refunds.look_age(claimed.request, self._pay.look_max_age) - (now - looked_at)

    async def _renew(self, running: Mapping[asyncio.Task[None], Claimed]) -> None:
        """Renew the leases of what is worked on, and of nothing else: what was given up, as nothing could be written, falls due again."""
        while True:
            await self._clock.sleep(RENEW_SECONDS)
            requests, leases = {one.request.id for one in running.values()}, {one.lease for one in running.values()}
            if not requests:
                continue
            try:
                # Alone on Postgres, as a claim is.
                await self._writer.put(
                    lambda unit, some=requests, by=leases: refunds.renew(unit, some, by, LEASE_SECONDS),  # type: ignore[misc]
                    alone=self._database.postgres,
                )
            except DatabaseUnusable as error:
                # What stays broken ends the claims, and so the run; until then the leases are renewed the next time.
                self._log.warning("leases.not_renewed", code=error.code, why=error.message)
            except Exception:  # noqa: BLE001  # whatever it is, the next time may go well
                self._log.exception("leases.not_renewed")

    async def _timed(self, taken: Taken) -> None:
        """Work on one request, and tell how long that took."""
        began, waited = self._clock.boot_seconds(), note_waits()
        await self._paid(taken)
        self.turn_over(taken.claimed.request.id)
        self.row_took(self._clock.boot_seconds() - began - waited.seconds)

    async def _paid(self, taken: Taken) -> None:
        """Work on one request; whatever goes wrong concerns this one alone."""
        claimed, request = taken.claimed, taken.claimed.request
        log = self._log.bind(request=request.id, charge=request.content.charge)
        try:
            about = {"account": self.account, "charge": request.content.charge, "lane": request.lane.value}
            await self.trace.of("refund_request", self._work(taken), request=request.id, **about)
        except GatewayError as error:
            log.warning("read.failed", code=error.code, why=error.message)
            await self._after_read_failure(claimed, error)
        except InvariantViolated as error:
            log.exception("invariant.violated", code=error.code)
            await self._put_off(claimed, FAULT_WAIT, error.message)
        except asyncio.CancelledError:
            raise
        except DatabaseUnusable as error:
            # Nothing can be written about it now. The lease ends by itself, and what stays broken ends the sweeper too.
            log.info("request.interrupted", code=error.code, why=error.message)
        except Exception as error:
            log.exception("request.interrupted")
            await self._put_off(claimed, READ_WAIT, f"interrupted by {type(error).__name__}")

    async def _after_read_failure(self, claimed: Claimed, error: GatewayError) -> None:
        if error.trouble in {Trouble.KEY_REFUSED, Trouble.FORBIDDEN}:
            await self._hold_account(error.message)
        await self._put_off(claimed, READ_WAIT, error.message)

    async def _put_off(self, claimed: Claimed, seconds: float, why: str) -> None:
        await self._writer.put(lambda unit: _postponed(unit, claimed, seconds, why), needs=_needs(claimed))

    async def _hold_account(self, why: str) -> None:
        if await self._writer.put(lambda unit: accounts.hold(unit, self.account, why)):
            self._log.error("account.held", why=why)

    async def _work(self, taken: Taken) -> None:
        if taken.claimed.request.state is State.SUBMITTING and taken.intended is None:
            await self._resolve(taken.claimed)
            return
        fresh: Taken | None = taken
        if taken.claimed.request.state is State.RECEIVED:
            fresh = await self._decided(taken, look=self._clock.boot_seconds() > taken.fresh_until)
        if fresh is None:
            return
        began = self._clock.boot_seconds()
        slot = await self._slot(taken.claimed)
        if fresh.intended is not None:
            await self._send(fresh.intended, slot)
            return
        if self.stopping():
            # It waited for its turn, and nothing was sent: whoever comes next pays it.
            held = fresh.claimed
            await self._writer.put(lambda unit: refunds.release(unit, held), needs=_needs(held))
            return
        # The slot was waited for: what was seen before may be old by now.
        now = self._clock.boot_seconds()
        if now > fresh.fresh_until or (now - began > WAITED and await self._look_needed(fresh.claimed)):
            fresh = await self._decided(fresh, look=True)
        if fresh is not None and fresh.intended is not None:
            await self._send(fresh.intended, slot)
        elif fresh is not None:
            await self._pay_now(fresh.claimed, slot)

    async def _decided(self, taken: Taken, *, look: bool) -> Taken | None:
        """Decide, after a `look` where one is needed; the request if it is approved and still ours, else `None`."""
        claimed = taken.claimed
        seen = await self._look(claimed) if look else None
        known, judge = seen is not None or not look, self._judge()

        def work(unit: Unit) -> tuple[Taken | None, float, bool]:
            if seen is not None and self._taken_in(unit, claimed, seen):
                return None, unit.now, True
            if known and refunds.look_needed(unit, claimed.request, max(self._pay.look_max_age, LOOK_GRACE)):
                # The look was overtaken, and not taken in: by what is mirrored now nothing may be decided.
                refunds.postpone(unit, claimed, unit.now + AGAIN_WAIT, "its charge changed while it was looked at")
                return None, unit.now, False
            return judge(unit, claimed, known=known), unit.now, False

        after, now, adopted = await self.trace.of("decide", self._writer.put(work, needs=_needs(claimed)))
        self.counts.adopted += adopted
        if after is None:
            return None
        looks = {claimed.request.content.charge: seen.began_at} if seen is not None else {}
        fresh_until = (
            self._fresh_until(after.claimed, looks, now, self._clock.boot_seconds()) if looks else taken.fresh_until
        )
        return replace(after, fresh_until=fresh_until)

    def _judge(self) -> Judge:
        """Tell how a request is decided in a unit that is asked for now. Where it need not wait for a slot, its intent is written too."""
        intend = None if self._pacer.rate_of(REFUND) else self._intend()

        def judge(unit: Unit, claimed: Claimed, *, known: bool) -> Taken | None:
            held = refunds.judge(unit, claimed, known=known, age_max_days=self._pay.age_max_days)
            if held is None or intend is None or self.stopping():
                return Taken(held) if held is not None else None
            intended = intend(unit, held)
            return Taken(intended.intent.claimed, intended=intended) if intended is not None else None

        return judge

    async def _look_needed(self, claimed: Claimed) -> bool:
        def work(unit: Unit) -> bool:
            age, since = self._pay.look_max_age, self._believed_since
            return self._set_back(unit.now) or refunds.look_needed(unit, claimed.request, age, since=since)

        return await self._read(work)

    def _set_back(self, now: float) -> bool:
        """Tell whether the database's clock was set back since the last claim: then no look from before is believed."""
        ahead = now - self._clock.boot_seconds()
        # Set ahead in between and back again, it has been ahead all the same.
        self._ahead = max(self._ahead, ahead)
        return ahead < self._ahead - SET_BACK

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        """Read without writing: on SQLite it waits for no writer."""

        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)

    async def _look(self, claimed: Claimed) -> Look | None:
        """Read the charge at Stripe; `None`, if Stripe does not know it."""
        self.counts.looks += 1
        try:
            asked = self._gateway.look(claimed.request.content.charge, claimed.request.lane)
            look = await self.trace.of("look", asked)
        except GatewayError as error:
            if error.trouble is Trouble.NOT_FOUND:
                return None
            raise
        return replace(look, began_at=look.began_at + self._database.offset)

    def _taken_in(self, unit: Unit, claimed: Claimed, look: Look) -> bool:
        """Mirror a look, and take in a refund that carries our id, if there is one; tells whether there is."""
        charges.mirror(unit, self.account, [look], self._order_key)
        if look.refunds:
            refunds.notice(unit, self.account, look.charge.id)
        if look.disputes:
            disputes.seen(unit, self.account, look.charge.id, look.disputes, look.began_at)
        return refunds.adopt(unit, claimed, look.refunds)

    async def _slot(self, claimed: Claimed) -> float:
        """Wait for the turn to write the intent; tells when the slot is in which to send."""
        lane = claimed.request.lane
        return await self.trace.of(
            "wait_for_slot", self._pacer.take(REFUND, lane, early=self._pacer.early(REFUND, lane))
        )

    async def _pay_now(self, claimed: Claimed, slot: float) -> None:
        """Write the intent, and send."""
        intend = self._intend()
        intended = await self._writer.put(lambda unit: intend(unit, claimed), needs=_needs(claimed))
        if intended is not None:
            await self._send(intended, slot)

    def _intend(self) -> Callable[[Unit, Claimed], Intended | None]:
        """Tell how an intent is written in a unit that is asked for now; what may not be sent is given back."""
        at, stripe_at, began = self._clock.now(), self._gateway.stripe_now(), self._clock.boot_seconds()
        look_max_age, age_max_days = self._pay.look_max_age, self._pay.age_max_days

        def intend(unit: Unit, claimed: Claimed) -> Intended | None:
            again = self._again(unit, claimed)
            if again is None:
                return None
            claimed = again
            new, amount, intent = claimed.request.state is State.APPROVED, claimed.request.amount_minor, None
            if self.may_send(unit, claimed):
                intent = refunds.submit(
                    unit, claimed, at=at, stripe_at=stripe_at, look_max_age=look_max_age, age_max_days=age_max_days
                )
                unsent = amount - (intent.attempt.body.amount_minor if intent else 0)
                if new and unsent:
                    self.not_sent(unit, claimed.request, unsent)
            if intent is None:
                refunds.postpone(unit, claimed, unit.now + AGAIN_WAIT, AGAIN)
                return None
            return Intended(intent, began)

        return intend

    def _again(self, unit: Unit, claimed: Claimed) -> Claimed | None:
        """Decide once more about a next attempt, as about a first one, and about one more send: while it waited, somebody else may have paid it."""
        last = refunds.followed(unit, claimed)
        if last is None:
            if claimed.request.state is State.SUBMITTING and refunds.repeats_by_now(unit, claimed.request) is not None:
                refunds.postpone(unit, claimed, unit.now + AGAIN_WAIT, AGAIN)
                return None
            return claimed
        if refunds.look_needed(unit, claimed.request, max(self._pay.look_max_age, LOOK_GRACE)):
            refunds.postpone(unit, claimed, unit.now + AGAIN_WAIT, AGAIN)
            return None
        return self._next(unit, claimed, last)

    def _next(self, unit: Unit, claimed: Claimed, last: Attempt) -> Claimed | None:
        """Decide about a next attempt, the last one having paid nothing; the request, if it is to be sent."""
        if self.taken_back(unit, claimed.request.id):
            refunds.close(unit, claimed, last, "withdrawn", TAKEN_BACK)
            return None
        if self.held_back(unit, claimed, last):
            return None
        return refunds.judge_again(unit, claimed, last, known=True, age_max_days=self._pay.age_max_days)

    async def _send(self, intended: Intended, slot: float) -> None:
        """Wait for the moment of the slot, send, record."""
        intent = intended.intent
        await self._pacer.moment(REFUND, intent.claimed.request.lane, slot)
        if self._clock.boot_seconds() - intended.began > rules.SEND_WITHIN:
            # This process slept: somebody else may hold the request by now.
            outcome: Outcome = NotTaken(NotTakenWhy.UNSENT, Answer(message="too late to be sent, nothing was"))
        else:
            self.counts.sent += 1
            sending = self._gateway.send(intent.attempt.body, intent.attempt.key)
            outcome = await self.trace.of(
                "send", sending, charge=intent.attempt.body.charge, attempt=intent.attempt.number
            )
        await self._recorded(intent, outcome, slot)

    async def _recorded(self, intent: Intent, outcome: Outcome, slot: float) -> None:
        name = type(outcome).__name__
        self.counts.outcomes[name] = self.counts.outcomes.get(name, 0) + 1
        wait = _wait(intent.attempt, outcome)

        def work(unit: Unit) -> Claimed | None:
            left = refunds.record(unit, intent, outcome, unit.now + wait)
            if not isinstance(outcome, NotTaken):
                return left
            if refunds.need(unit, intent.attempt.request).state is State.APPROVED:
                self.not_sent(unit, intent.claimed.request, intent.attempt.body.amount_minor)
            # It was on its way, perhaps when it was stopped or taken back: now it can be held.
            self.came_back(unit, intent.attempt.request)
            return left

        saving = self._writer.put(work, needs=_needs(intent.claimed))
        left = await self.trace.of("record", saving, attempt=intent.attempt.number, outcome=name)
        if isinstance(outcome, NotTaken):
            await self._not_taken(outcome, slot)
        elif isinstance(outcome, Unknown):
            self._log.warning(
                "outcome.unknown", request=intent.attempt.request, code=outcome.code, why=outcome.answer.message
            )
        elif isinstance(outcome, Declined) and left is not None:
            await self._resolve(left)

    async def _not_taken(self, outcome: NotTaken, slot: float) -> None:
        if outcome.why is NotTakenWhy.RATE_LIMITED:
            self.counts.limited += 1
            await self._pacer.limited(REFUND, outcome.limiter, slot)
        elif outcome.why is NotTakenWhy.KEY_REFUSED:
            await self._hold_account(outcome.answer.message)

    async def _resolve(self, claimed: Claimed) -> None:
        """Go on with an attempt whose outcome is not known, or whose refusal is not yet looked after."""
        held = await self._looked_after(claimed)
        if held is None:
            return
        began = self._clock.boot_seconds()
        slot = await self._slot(held)
        if self._clock.boot_seconds() - began > WAITED and await self._look_needed(held):
            # The slot was waited for: what was seen before may be old by now.
            held = await self._looked_after(held)
        if held is not None:
            await self._pay_now(held, slot)

    async def _looked_after(self, claimed: Claimed) -> Claimed | None:
        """Look at the charge of an attempt in doubt, and take the next step; the request, if it is to be sent now."""
        attempt = await self._read(lambda unit: refunds.last_attempt(unit, claimed.request))
        if attempt is None:
            raise InvariantViolated(f"request {claimed.request.id} is submitting without an attempt")
        began = self._clock.boot_seconds()
        look = await self._look(claimed)
        if look is None:
            return await self._planned(claimed, attempt, None, began)
        if await self._writer.put(lambda unit: self._taken_in(unit, claimed, look), needs=_needs(claimed)):
            self.counts.adopted += 1
            return None
        return await self._planned(claimed, attempt, look, began)

    async def _planned(self, claimed: Claimed, attempt: Attempt, look: Look | None, began: float) -> Claimed | None:
        """Take the next step with an attempt in doubt; the request, if it is to be sent now.

        Args:
            claimed: The request.
            attempt: Its last attempt.
            look: A look that has not shown our refund; `None`, if it did not find the charge.
            began: When that look began, by the boot clock: what it proves, it proves of that moment.
        """
        patience = rules.Patience(self._pay.absence_wait, self._pay.absence_gap)

        def work(unit: Unit) -> Claimed | None:
            since, stripe = self._clock.boot_seconds() - began, self._gateway.stripe_now()
            ours = self._clock.now() - since
            then = rules.Clocks(ours, unit.now - since, None if stripe is None else stripe - since)
            looked_at = ours if then.stripe is None else then.stripe
            # Read again: an answer to an earlier send may have come during the look.
            last = refunds.last_attempt(unit, claimed.request) or attempt
            if look is None:
                plan = rules.plan_without_charge(last, then)
            else:
                plan = rules.plan(last, then, looked_at=looked_at, explained=look.explained, patience=patience)
            held = refunds.resolve(unit, claimed, plan, age_max_days=self._pay.age_max_days)
            if held is None or plan.step is not rules.Step.NEXT_ATTEMPT:
                return held
            return self._next(unit, held, plan.attempt)

        return await self.trace.of("decide", self._writer.put(work, needs=_needs(claimed)))


async def _until_any(running: Iterable[asyncio.Task[None]], stirred: asyncio.Event) -> None:
    """Wait until one of the tasks is over, or somebody stirs."""
    waker = asyncio.get_running_loop().create_task(stirred.wait())
    await asyncio.wait({*running, waker}, return_when=asyncio.FIRST_COMPLETED)
    waker.cancel()


def _needs(claimed: Claimed) -> Needs:
    return Needs(claimed.request.content.charge, claimed.request.id)


def _postponed(unit: Unit, claimed: Claimed, seconds: float, why: str) -> None:
    refunds.postpone(unit, claimed, unit.now + seconds, why)


def _wait(attempt: Attempt, outcome: Outcome) -> float:
    """Tell after how many seconds a request is looked at again, if its send did not end it."""
    if isinstance(outcome, NotTaken):
        if outcome.why is NotTakenWhy.LOW_BALANCE:
            return LOW_BALANCE_WAIT
        if outcome.why is NotTakenWhy.UNSENT:
            # As long as nothing gets through, each try is an entry of the attempt and of the audit log, and says nothing new.
            before = takewhile(lambda send: send.code == NotTakenWhy.UNSENT, reversed(attempt.sends[:-1]))
            return min(LIMITED_WAIT * 2.0 ** min(sum(1 for _ in before), 10), READ_WAIT)
        return max(outcome.retry_after_seconds or 0.0, LIMITED_WAIT)
    return 0.0 if isinstance(outcome, Declined) else rules.back_off(attempt)
