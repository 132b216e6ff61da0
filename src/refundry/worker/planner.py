"""The planner: looks up the charges that a batch's rows name, then lets the batch's service turn the rows into requests.

Orders are found by listing charges, a hundred a call; searching is the fallback, since a search is a call for each order and
may be a minute behind (stripe-facts 4.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from refundry.batches import service as batches
from refundry.batches.model import Batch
from refundry.batches.service import Missing
from refundry.charges import service as charges
from refundry.connectors.base import Reference, ReferenceKind
from refundry.gateways.base import GatewayError, Look, PaymentGateway, Trouble
from refundry.infra.db import Database, Unit
from refundry.infra.writer import Writer
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import Clock
from refundry.kernel.lane import Lane

Result = TypeVar("Result")
# Charges appear in lists a little after they were created; what is younger than this is listed again the next time.
OVERLAP_SECONDS = 600.0
# Listing stops here and searching takes over, unless the file has more rows than that: pages cost a call each, and so does a search.
PAGES_MIN = 200
LOOKUPS = 20


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
    ) -> None:
        """Keep the parts."""
        self._lane = lane
        self._account = account
        self._mode = mode
        self._gateway = gateway
        self._database = database
        self._writer = writer
        self._clock = clock
        self._order_key = order_key
        self._covered = False
        self._listed = False

    async def plan(self, batch: Batch, *, until: Callable[[], bool]) -> None:
        """Plan a batch's rows, slice by slice; may be stopped and gone on with at any time.

        Raises:
            GatewayError: A charge could not be looked up; what was planned stays.
        """
        self._covered = self._listed = False
        while not until():
            rows = await self._read(lambda unit: batches.next_unplanned(unit, batch.id))
            if not rows:
                return
            # In the order of the file, so that a run can be repeated from its seed.
            named = dict.fromkeys(reference for row in rows if row.wanted for reference in row.wanted.references)
            missing = await self._look_up(named, batch.row_count)
            numbers = {row.number for row in rows}
            await self._writer.put(lambda unit, gone=missing, only=numbers: self._sliced(unit, batch, gone, only))  # type: ignore[misc]

    def _sliced(self, unit: Unit, batch: Batch, missing: dict[Reference, Missing], only: set[int]) -> int:
        return batches.plan_slice(unit, batch, missing, mode=self._mode, actor=SYSTEM, only=only)

    async def find(self, references: Iterable[Reference]) -> dict[Reference, Missing]:
        """Look up the charges that a single request names; an order is searched for. Tells what Stripe does not have.

        Raises:
            GatewayError: A charge could not be looked up.
        """
        self._covered, self._listed = False, True
        return await self._look_up(references, 1)

    async def _look_up(self, named: Iterable[Reference], rows: int) -> dict[Reference, Missing]:
        """Bring the mirror to know what is named; tells what Stripe does not have."""
        wanted = list(named)
        if not self._listed and any(reference.kind is ReferenceKind.ORDER_ID for reference in wanted):
            self._listed = True
            await self._list_charges(max(PAGES_MIN, rows))
        unknown = await self._read(lambda unit: [r for r in wanted if not self._mirrored(unit, r)])
        gate = asyncio.Semaphore(LOOKUPS)
        missing: dict[Reference, Missing] = {}

        async def one(reference: Reference) -> None:
            async with gate:
                gone = await self._look_for(reference)
                if gone is not None:
                    missing[reference] = gone

        await asyncio.gather(*(one(reference) for reference in unknown))
        return missing

    def _mirrored(self, unit: Unit, reference: Reference) -> bool:
        match reference.kind:
            case ReferenceKind.CHARGE_ID:
                return charges.find(unit, reference.value) is not None
            case ReferenceKind.PAYMENT_INTENT:
                return bool(charges.by_payment_intent(unit, self._account, reference.value))
            case ReferenceKind.ORDER_ID:
                # Without the whole list, an order may have more charges than we know.
                return self._covered and bool(charges.by_order(unit, self._account, reference.value))

    async def _list_charges(self, pages_max: int) -> None:
        """Mirror the charges that are newer than the last time, all of them the first time."""
        began = self._clock.now() + self._database.offset
        window = await self._read(lambda unit: charges.window(unit, self._account))
        since = window[1] - OVERLAP_SECONDS if window else 0.0
        pages = 0
        async for page in self._gateway.charges(since, began):
            looks = [replace(look, began_at=look.began_at + self._database.offset) for look in page]
            await self._writer.put(lambda unit, some=looks: self._mirror(unit, some))  # type: ignore[misc]
            pages += 1
            if pages >= pages_max:
                return
        first = window[0] if window else 0.0
        await self._writer.put(lambda unit: charges.save_window(unit, self._account, first, began))
        self._covered = True

    def _mirror(self, unit: Unit, looks: list[Look]) -> None:
        charges.mirror(unit, self._account, looks, self._order_key)

    async def _look_for(self, reference: Reference) -> Missing | None:
        try:
            for charge in await self._charges_of(reference):
                look = await self._gateway.look(charge, self._lane)
                look = replace(look, began_at=look.began_at + self._database.offset)
                await self._writer.put(lambda unit, one=look: self._mirror(unit, [one]))  # type: ignore[misc]
                if self._names_another(reference, look):
                    return _missing(reference, f"Stripe's search is behind: {charge} does not name it any more")
        except GatewayError as error:
            if error.trouble is Trouble.NOT_FOUND:
                return _missing(reference, error.message)
            raise
        found = await self._read(lambda unit: self._known(unit, reference))
        return None if found else _missing(reference, "")

    def _names_another(self, reference: Reference, look: Look) -> bool:
        named = look.charge.metadata.get(self._order_key)
        return reference.kind is ReferenceKind.ORDER_ID and named != reference.value

    def _known(self, unit: Unit, reference: Reference) -> bool:
        if reference.kind is ReferenceKind.ORDER_ID:
            return bool(charges.by_order(unit, self._account, reference.value))
        return self._mirrored(unit, reference)

    async def _charges_of(self, reference: Reference) -> list[str]:
        match reference.kind:
            case ReferenceKind.CHARGE_ID:
                return [reference.value]
            case ReferenceKind.PAYMENT_INTENT:
                charge = await self._gateway.charge_of(reference.value, self._lane)
                return [] if charge is None else [charge]
            case ReferenceKind.ORDER_ID:
                return [charge.id for charge in await self._gateway.charges_of_order(reference.value, self._lane)]

    async def _read(self, work: Callable[[Unit], Result]) -> Result:
        def reading() -> Result:
            with self._database.reading() as unit:
                return work(unit)

        return await self._writer.aside(reading)


def _missing(reference: Reference, why: str) -> Missing:
    code = "order_unknown" if reference.kind is ReferenceKind.ORDER_ID else "charge_unknown"
    text = f"there is no charge for {reference.kind} {reference.value} in this account and mode"
    return Missing(code, f"{text} ({why})" if why else text)
