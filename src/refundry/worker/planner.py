"""The planner: looks up the charges that a batch's rows name, then lets the batch's service turn the rows into requests.

Orders are found by listing charges, a hundred a call; searching is the fallback, since a search is a call for each order and
may be a minute behind (stripe-facts 4.2).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from refundry.accounts.model import Connect
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchRow, Foreseen
from refundry.batches.service import Missing
from refundry.bootstrap import Desk, Seat
from refundry.charges import service as charges
from refundry.charges.model import LastLook
from refundry.connectors.base import Reference, ReferenceKind
from refundry.gateways.base import GatewayError, Look, PaymentGateway, Trouble
from refundry.infra.db import Database, DatabaseUnusable, Needs, Unit
from refundry.infra.logs import logger
from refundry.infra.settings import PaySettings
from refundry.infra.witness import vouched_since
from refundry.infra.writer import Writer
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import Clock
from refundry.kernel.lane import Lane
from refundry.plans import service as plans
from refundry.plans.model import Plan
from refundry.worker.listing import Listing

Result = TypeVar("Result")
# Charges appear in lists a little after they were created; what is younger than this is listed again the next time.
OVERLAP_SECONDS = 600.0
# Listing stops here and searching takes over, unless the file has more rows than that: pages cost a call each, and so does a search.
PAGES_MIN = 200
LOOK = "GET /v1/charges/{charge}"
# So many charges are asked for at once.
LOOKUPS = 30
# A batch of this size is worth a list: below it, reading one by one costs about as little.
LIST_FROM = 200
# So many rows, evenly taken from the whole file, tell whether a list is worth its calls, and a few of them which time it is of.
SAMPLE, DATED = 200, 20
# So many rows are looked up together at most, and then paid while the next ones are looked up; and no more than Stripe answers in so many
# seconds, since a stop waits for them. A few are worth a unit at any pace.
SLICE, SLICE_SECONDS, SLICE_LEAST = 100, 0.5, 10
# Once the account's charges are listed orders cost no look-up, and nobody waits for their rows: fewer and larger units are cheaper.
SLICE_LISTED = batches.SLICE
SLICES_AHEAD = 2
# A process that dies keeps others from looking a batch's rows up for so long; one that lives renews its turn in good time. Shorter than the
# lease of a request, since two that plan at once cost calls and nothing else.
TURN_SECONDS, RENEW_SECONDS = 10.0, 2.0
# A list goes on for so many pages that show nothing of the sample before it is given up.
PAGES_IN_VAIN = 10
DAY = 86_400.0
# By which column of the mirror a reference finds its charges.
COLUMNS = {
    ReferenceKind.CHARGE_ID: "id",
    ReferenceKind.PAYMENT_INTENT: "payment_intent",
    ReferenceKind.ORDER_ID: "order_id",
}


class _Stopped(Exception):  # noqa: N818  # it is a wish, not an error
    """Whoever plans is told to stop, in the middle of a list; what is mirrored by then stays."""


class Planner:
    """Plans the batches of one account.

    Args:
        account: `acct_…|test`.
        mode: `test` or `live`.
        gateway: Stripe.
        database: For what only reads.
        writer: For what is saved.
        clock: Time.
        order_key: The metadata key of the order id.
        lane: Who waits for the look-ups.
        connect: The Connect flags that are set for the account.
    """

    def __init__(
        self,
        account: str,
        mode: str,
        *,
        gateway: PaymentGateway,
        database: Database,
        writer: Writer,
        clock: Clock,
        order_key: str,
        lane: Lane = Lane.BULK,
        connect: Connect = Connect(),  # noqa: B008  # frozen: nothing is set
    ) -> None:
        """Keep the parts."""
        self._lane = lane
        # How old a look may be by which an order is known, in seconds: metadata are changed at Stripe, and the key that names orders
        # is a setting. As old as it may be when a refund is sent, so that no look is made twice.
        self.look_max_age = PaySettings().look_max_age
        self._account = account
        self._mode = mode
        self._gateway = gateway
        self._database = database
        self._writer = writer
        self._clock = clock
        self._order_key = order_key
        self._connect = connect
        # How many rows are looked up together; simulations set it.
        self.slice, self.slice_listed = SLICE, SLICE_LISTED
        self._gate = asyncio.Semaphore(LOOKUPS)
        self._listing = asyncio.Lock()
        self._covered = False
        self._listed = False
        # Whether a stop has ended the list: rows that waited for it are not searched for instead.
        self._stopped = False
        # How old a look may be, in seconds, and since when looks are believed; for a plan of all charges, else of those of orders.
        self._age_max = self.look_max_age
        self._believed_since = 0.0
        self._rests_on_looks = False
        # For a plan: whether Stripe's fees are asked for.
        self._fees = False
        self._until: Callable[[], bool] = lambda: False

    async def check(
        self,
        plan: Plan,
        batch: Batch,
        *,
        look_max_age: float,
        age_max_days: int,
        allow_repeat: frozenset[int],
        until: Callable[[], bool],
    ) -> bool:
        """Check a plan's rows against Stripe, slice by slice, and pay nothing; tells whether all are checked.

        Args:
            plan: The plan, from where it stands.
            batch: Its batch.
            look_max_age: How old a look may be that is planned by, in seconds.
            age_max_days: See `PaySettings`.
            allow_repeat: The numbers of rows that are no repeats.
            until: Asked before each slice; true stops.

        Raises:
            GatewayError: A charge could not be looked up; what was checked stays.
        """
        self._covered = self._listed = self._stopped = False
        self._age_max, self._rests_on_looks, self._fees = look_max_age, True, True
        # A plan is what somebody approves: it rests on looks of its own, and not on those of a command before it, since which
        # somebody may have paid by hand and no event may have been read.
        # That the witness saw this moment lets what pays believe these looks.
        _, self._believed_since = await self._writer.put(lambda unit: (vouched_since(unit, self._clock), unit.now))
        if batch.row_count >= LIST_FROM:
            await self._list_around(batch)
        while not until():
            rows = await self._read(lambda unit: plans.next_rows(unit, plan))
            if not rows:
                return True
            named = dict.fromkeys(reference for row in rows if row.wanted for reference in row.wanted.references)
            missing = await self._look_up(named, batch.row_count, look_max_age)

            def checked(unit: Unit, some: list[BatchRow] = rows, gone: dict[Reference, Missing] = missing) -> None:
                plans.check(
                    unit, plan, some, gone, mode=self._mode, age_max_days=age_max_days, allow_repeat=allow_repeat,
                    connect=self._connect,
                )  # fmt: skip

            await self._writer.put(checked)
        return False

    async def _list_around(self, batch: Batch) -> None:
        """Mirror by lists what the file is likely to name, where that costs fewer calls than reading one by one.

        A few rows tell from when their charges are; the sample, how many of a page's charges the file names. Each page costs a
        call, and each charge it shows saves one.
        """
        numbers = [1 + at * batch.row_count // SAMPLE for at in range(SAMPLE)]
        rows = await self._read(lambda unit: batches.some_rows(unit, batch.id, numbers))
        sample = list(dict.fromkeys(row.wanted.references[0] for row in rows if row.wanted and row.wanted.references))
        if not sample:
            return
        await self._look_up(sample[:: max(1, len(sample) // DATED)], batch.row_count, self._age_max)
        stale, created = await self._read(lambda unit: self._stale_and_dated(unit, sample))
        if len(stale) <= len(sample) // 2 or not created:
            return
        pages, stale_before = 0, len(stale)
        listing = Listing(self._charge_pages, min(created) - DAY, max(created) + DAY)
        async with aclosing(listing.walk()) as walk:
            async for page in walk:
                await self._writer.put(lambda unit, some=page: self._mirror(unit, some))  # type: ignore[misc]
                pages += 1
                stale, _ = await self._read(lambda unit, some=stale: self._stale_and_dated(unit, some))  # type: ignore[misc]
                saved = (stale_before - len(stale)) * batch.row_count // len(sample)
                if not stale or pages > PAGES_IN_VAIN + saved:
                    return

    def _stale_and_dated(self, unit: Unit, sample: list[Reference]) -> tuple[list[Reference], list[float]]:
        """Tell which of the references have no fresh look, and when the charges that we know of were created."""
        known = self._last_looks(unit, sample)
        stale = [r for r in sample if not known[r] or any(self._too_old(unit, one, self._age_max) for one in known[r])]
        return stale, [one.created_at for looks in known.values() for one in looks]

    def _last_looks(self, unit: Unit, references: Iterable[Reference]) -> dict[Reference, list[LastLook]]:
        """Tell how and when the charges were last seen that each reference leads to."""
        of: dict[ReferenceKind, list[str]] = {kind: [] for kind in COLUMNS}
        for reference in references:
            of[reference.kind].append(reference.value)
        return {
            Reference(kind, name): looks
            for kind, names in of.items()
            for name, looks in charges.last_looks(unit, self._account, COLUMNS[kind], names).items()
        }

    def _too_old(self, unit: Unit, last: LastLook, age_max: float) -> bool:
        """Tell whether nothing must rest on what is mirrored of a charge."""
        since = max(unit.now - age_max, self._believed_since)
        return last.stale or last.looked_at is None or not since <= last.looked_at <= unit.now

    async def _charge_pages(self, since: float, until: float) -> AsyncGenerator[Sequence[Look], None]:
        """List charges with Stripe's fees, as far as the key may see those."""
        shown = False
        try:
            async for page in self._gateway.charges(since, until, fees=self._fees):
                shown = True
                yield self._dated(page)
        except GatewayError as error:
            if error.trouble is not Trouble.FORBIDDEN or not self._fees or shown:
                raise
            self._fees = False
            async for page in self._gateway.charges(since, until):
                yield self._dated(page)

    def _dated(self, looks: Sequence[Look]) -> list[Look]:
        """Date looks by the database's clock."""
        return [replace(look, began_at=look.began_at + self._database.offset) for look in looks]

    async def plan(self, batch: Batch, *, lease: str, until: Callable[[], bool]) -> None:
        """Plan a batch's rows, slice by slice; may be stopped and gone on with at any time. Nothing is done while another process plans them.

        Args:
            batch: The batch.
            lease: A token that nobody else has, under which the turn is taken.
            until: Asked before each slice and each further page of charges; true stops.

        Raises:
            GatewayError: A charge could not be looked up; what was planned stays.
        """
        if not await self._hold(batch, lease):
            return
        renewal = asyncio.get_running_loop().create_task(self._renew(batch, lease))
        try:
            await self._planned(batch, until)
        except asyncio.CancelledError:
            # The process ends with it, and the turn by itself.
            renewal.cancel()
            raise
        except Exception:
            await self._release(batch, lease, renewal)
            raise
        await self._release(batch, lease, renewal)

    async def _release(self, batch: Batch, lease: str, renewal: asyncio.Task[None]) -> None:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await self._of_batch(batch, lambda unit: batches.release_planning(unit, batch.id, lease))

    async def _hold(self, batch: Batch, lease: str) -> bool:
        return await self._of_batch(batch, lambda unit: batches.hold_planning(unit, batch.id, lease, TURN_SECONDS))

    async def _renew(self, batch: Batch, lease: str) -> None:
        """Keep the turn for as long as this process lives; two that plan at once cost calls, and nothing else."""
        while True:
            await self._clock.sleep(RENEW_SECONDS)
            try:
                await self._hold(batch, lease)
            except DatabaseUnusable as error:
                logger().warning("planning.not_renewed", batch=batch.id, code=error.code, why=error.message)
            except Exception:  # noqa: BLE001  # whatever it is, the next time may go well
                logger().exception("planning.not_renewed", batch=batch.id)

    async def _of_batch(self, batch: Batch, work: Callable[[Unit], Result]) -> Result:
        """Write something of the batch itself, in a unit of its own, so that whoever holds its row waits for nothing else."""
        return await self._writer.put(work, needs=Needs(request=f"batch/{batch.id}"), alone=True)

    async def _planned(self, batch: Batch, until: Callable[[], bool]) -> None:
        """Plan slice after slice. While one is looked up and planned the next is looked up already, so that Stripe never waits for us."""
        self._covered = self._listed = self._stopped = False
        self._until = until
        after, ahead = 0, deque[asyncio.Task[Callable[[Unit], int]]]()
        try:
            while True:
                stopping = until()
                rows = [] if stopping else await self._next(batch, after)
                if rows:
                    ahead.append(asyncio.get_running_loop().create_task(self._sliced(batch, rows)))
                    after = rows[-1].number
                if len(ahead) == SLICES_AHEAD or (ahead and not rows):
                    plan = await ahead[0]
                    ahead.popleft()
                    await self._of_batch(batch, plan)
                elif stopping or (not rows and not after):
                    return
                elif not rows:
                    # Once more from the beginning: a person may have had a row looked up anew meanwhile.
                    after = 0
        except _Stopped:
            # The rows are left as they are: by a list that is not whole, an order may have more charges than we know.
            return
        finally:
            for one in ahead:
                one.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _next(self, batch: Batch, after: int) -> list[BatchRow]:
        most = self.slice_listed if self._covered else self.slice
        return await self._read(lambda unit: batches.next_unplanned(unit, batch.id, most, after))

    async def _sliced(self, batch: Batch, rows: list[BatchRow]) -> Callable[[Unit], int]:
        """Look up what rows name; tells how they are planned by it."""
        foreseen = await self._read(lambda unit: self._foreseen(unit, batch, rows))
        planned = [one.planned.look_max_age for one in (foreseen or {}).values() if one.planned]
        # In the order of the file, so that a run can be repeated from its seed. What is not to be paid is not looked up.
        wanted = [
            row.wanted for row in rows if row.wanted and (row.anew or not (foreseen and foreseen[row.number].code))
        ]
        named = dict.fromkeys(reference for one in wanted for reference in one.references)
        anew = {one for row in rows if row.anew and row.wanted for one in row.wanted.references}
        missing = await self._look_up(named, batch.row_count, max([self.look_max_age, *planned]), anew)
        return lambda unit: batches.plan_slice(
            unit, batch, missing, mode=self._mode, actor=SYSTEM, looked=rows, connect=self._connect, foreseen=foreseen
        )

    def _foreseen(self, unit: Unit, batch: Batch, rows: Sequence[BatchRow]) -> Mapping[int, Foreseen] | None:
        """Tell what the plan that was applied says of rows; `None` without a plan."""
        return plans.foreseen(unit, batch.plan, [row.number for row in rows]) if batch.plan else None

    async def find(self, references: Iterable[Reference]) -> dict[Reference, Missing]:
        """Look up the charges that a single request names; an order is searched for. Tells what Stripe does not have.

        Raises:
            GatewayError: A charge could not be looked up.
        """
        self._covered, self._listed, self._stopped = False, True, False
        self._believed_since = self._clock.now() + self._database.offset
        return await self._look_up(references, 1, self.look_max_age)

    async def look(self, charge: str) -> Look | Missing:
        """Look at one charge and keep nothing, dated by the database's clock; or tell that Stripe does not have it.

        Raises:
            GatewayError: It could not be looked up.
        """
        try:
            [look] = self._dated([await self._gateway.look(charge, self._lane)])
        except GatewayError as error:
            if error.trouble is Trouble.NOT_FOUND:
                return _missing(Reference(ReferenceKind.CHARGE_ID, charge), error.message)
            raise
        return look

    async def _look_up(
        self, named: Iterable[Reference], rows: int, age_max: float, anew: Container[Reference] = ()
    ) -> dict[Reference, Missing]:
        """Bring the mirror to know what is named, by looks not older than this; tells what Stripe does not have.

        The metadata of a charge say which order it is of: where an order is named they are of a fresh look, and in what is looked up
        `anew` those of a charge that is named by its id too.
        """
        wanted = list(named)
        async with self._listing:
            if not self._listed and any(reference.kind is ReferenceKind.ORDER_ID for reference in wanted):
                self._listed = True
                await self._list_charges(max(PAGES_MIN, rows))
            if self._stopped:
                raise _Stopped
        unknown, old = await self._read(lambda unit: self._unknown_and_old(unit, wanted, age_max, anew))
        missing: dict[Reference, Missing] = {}

        async def one(reference: Reference) -> None:
            gone = await self._look_for(reference)
            if gone is not None:
                missing[reference] = gone

        await asyncio.gather(*(one(reference) for reference in unknown))
        resting = [reference for reference in wanted if self._rests_on(reference, anew) and reference not in missing]
        if unknown and resting:
            old = await self._read(lambda unit: self._old(unit, resting, age_max, self._last_looks(unit, resting)))
        if not resting or not (unknown or old):
            # Nothing has changed since: a person waits, and each read of the database waits for its turn.
            return missing
        missing |= await self._freshen(old)
        # Those whose charges turned out to be of another order by now.
        left = [reference for reference in resting if reference not in missing]
        astray = await self._read(lambda unit: self._orders_without(unit, left))
        missing |= {reference: _missing(reference, "") for reference in astray if reference in unknown}
        await asyncio.gather(*(one(reference) for reference in astray if reference not in unknown))
        return missing

    def _rests_on(self, reference: Reference, anew: Container[Reference]) -> bool:
        """Tell whether something is planned by the last look at a charge itself, and not only by its id."""
        return self._rests_on_looks or reference.kind is ReferenceKind.ORDER_ID or reference in anew

    def _orders_without(self, unit: Unit, references: Sequence[Reference]) -> list[Reference]:
        """Tell the orders that no charge names which we know of."""
        orders = [reference for reference in references if reference.kind is ReferenceKind.ORDER_ID]
        known = self._last_looks(unit, orders)
        return [one for one in orders if not known[one]]

    def _old(
        self, unit: Unit, references: Sequence[Reference], age_max: float, known: Mapping[Reference, list[LastLook]]
    ) -> dict[str, list[Reference]]:
        """Tell the charges whose last look is too old to plan by, and what names each of them."""
        named: dict[str, list[Reference]] = {}
        for reference in references:
            for last in known[reference]:
                if self._too_old(unit, last, age_max):
                    named.setdefault(last.charge, []).append(reference)
        return named

    async def _freshen(self, old: Mapping[str, list[Reference]]) -> dict[Reference, Missing]:
        """Look again at charges, each with what names it; tells what Stripe does not have any more."""
        gone: dict[Reference, Missing] = {}

        async def one(charge: str, named: list[Reference]) -> None:
            try:
                await self._looked(charge)
            except GatewayError as error:
                if error.trouble is not Trouble.NOT_FOUND:
                    raise
                # Its rows are refused, and the others are planned.
                gone.update({reference: _missing(reference, error.message) for reference in named})

        await asyncio.gather(*(one(charge, named) for charge, named in old.items()))
        return gone

    async def _looked(self, charge: str) -> Look:
        """Look at a charge, with Stripe's fee where that is asked for and the key may see it, and mirror it."""
        async with self._gate:
            try:
                look = await self._gateway.look(charge, self._lane, fees=self._fees)
            except GatewayError as error:
                if error.trouble is not Trouble.FORBIDDEN or not self._fees:
                    raise
                self._fees = False
                look = await self._gateway.look(charge, self._lane)
        # Mirrored by those that have looked while the next ones look: a commit is not what keeps Stripe waiting.
        [look] = self._dated([look])
        await self._writer.put(lambda unit: self._mirror(unit, [look]), needs=Needs(charge))
        return look

    def _unknown_and_old(
        self, unit: Unit, references: Sequence[Reference], age_max: float, anew: Container[Reference]
    ) -> tuple[list[Reference], dict[str, list[Reference]]]:
        """Tell what is not mirrored; and where all is, the charges whose last look is too old to plan by."""
        known = self._last_looks(unit, references)
        unknown = [reference for reference in references if not self._mirrored(reference, known[reference])]
        resting = [] if unknown else [reference for reference in references if self._rests_on(reference, anew)]
        return unknown, self._old(unit, resting, age_max, known)

    def _mirrored(self, reference: Reference, known: Sequence[LastLook]) -> bool:
        match reference.kind:
            case ReferenceKind.CHARGE_ID:
                return bool(known)
            case ReferenceKind.PAYMENT_INTENT:
                # After a try that failed the customer may have paid by another, which is its latest charge then.
                return any(last.status != "failed" for last in known)
            case ReferenceKind.ORDER_ID:
                # Without the whole list, an order may have more charges than we know.
                return self._covered and bool(known)

    async def _list_charges(self, pages_max: int) -> None:
        """Mirror the charges that are newer than the last time, all of them the first time."""
        asked, began = self._clock.boot_seconds(), self._clock.now() + self._database.offset
        window = await self._read(lambda unit: charges.window(unit, self._account, self._order_key))
        if window is not None and window[1] > began:
            # Written by a clock that was ahead: nobody has listed what was created since the true time.
            window = None
        since = window[1] - OVERLAP_SECONDS if window else 0.0
        pages = 0
        # By whichever clock is ahead: with ours behind, an order's second charge would be of a time that is yet to come.
        until = max(began, self._gateway.stripe_now() or began)
        async with aclosing(Listing(self._charge_pages, since, until).walk()) as walk:
            async for page in walk:
                if pages and self._until():
                    # A large account's charges are minutes of calls, and a stop is to be over in moments.
                    self._stopped = True
                    return
                await self._writer.put(lambda unit, some=page: self._mirror(unit, some))  # type: ignore[misc]
                pages += 1
                if pages >= pages_max:
                    return
        first = window[0] if window else 0.0
        stripe = self._gateway.stripe_now()
        if stripe is not None:
            # By Stripe's clock, which dates the charges: one of ours that is ahead must not pass over what is still to be created.
            began = min(began, stripe - (self._clock.boot_seconds() - asked))
        await self._writer.put(lambda unit: charges.save_window(unit, self._account, self._order_key, first, began))
        self._covered = True

    def _mirror(self, unit: Unit, looks: Sequence[Look]) -> None:
        charges.mirror(unit, self._account, looks, self._order_key)

    async def _look_for(self, reference: Reference) -> Missing | None:
        looked = False
        try:
            for charge in await self._charges_of(reference):
                look, looked = await self._looked(charge), True
                if self._names_another(reference, look):
                    return _missing(reference, f"Stripe's search is behind: {charge} does not name it any more")
        except GatewayError as error:
            if error.trouble is Trouble.NOT_FOUND:
                return _missing(reference, error.message)
            raise
        if looked and reference.kind is ReferenceKind.CHARGE_ID:
            return None
        known = await self._read(lambda unit: self._last_looks(unit, [reference]))
        return None if known[reference] else _missing(reference, "")

    def _names_another(self, reference: Reference, look: Look) -> bool:
        named = look.charge.metadata.get(self._order_key)
        return reference.kind is ReferenceKind.ORDER_ID and named != reference.value

    async def _charges_of(self, reference: Reference) -> list[str]:
        match reference.kind:
            case ReferenceKind.CHARGE_ID:
                return [reference.value]
            case ReferenceKind.PAYMENT_INTENT:
                async with self._gate:
                    charge = await self._gateway.charge_of(reference.value, self._lane)
                return [] if charge is None else [charge]
            case ReferenceKind.ORDER_ID:
                async with self._gate:
                    found = await self._gateway.charges_of_order(reference.value, self._lane)
                return [charge.id for charge in found]

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)


def planner_of(desk: Desk, seat: Seat, lane: Lane = Lane.BULK) -> Planner:
    """Make the planner of an account at the desk."""
    planner = Planner(
        seat.account.name,
        seat.account.mode,
        gateway=seat.gateway,
        database=desk.database,
        writer=desk.writer,
        clock=desk.clock,
        order_key=seat.access.order_key,
        lane=lane,
        connect=seat.connect,
    )
    planner.look_max_age = desk.settings.pay.look_max_age
    planner.slice = slice_at(seat.pacer.rate_of(LOOK))
    return planner


def slice_at(rate: float) -> int:
    """Tell how many rows are looked up together, at so many looks a second; zero means any number."""
    return min(max(math.ceil(rate * SLICE_SECONDS), SLICE_LEAST), SLICE) if rate else SLICE


def _missing(reference: Reference, why: str) -> Missing:
    code = "order_unknown" if reference.kind is ReferenceKind.ORDER_ID else "charge_unknown"
    text = f"there is no charge for {reference.kind} {reference.value} in this account and mode"
    return Missing(code, f"{text} ({why})" if why else text)
