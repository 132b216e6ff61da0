"""What the simulator delivers is taken in: really signed, over a socket, from an endpoint that we registered, at old and new secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from refundry.gateways.base import GatewayError, NewEndpoint, Trouble
from refundry.gateways.stripe.client import STRIPE_VERSION, StripeGateway
from refundry.inbox import service as inbox
from refundry.inbox.model import HANDLED, Door, Event, Search, State
from refundry.infra.db import Database
from refundry.infra.writer import InlineWriter
from refundry.kernel.clock import SystemClock
from refundry.web.webhooks import Intake
from tests.support.clock import HandClock
from tests.support.database import sqlite_copy, sqlite_file
from tests.support.listening import listening
from tests.support.server import Server
from tests.support.sim import KEY, flat
from tests.support.stripe_transport import FreeSlots

pytestmark = pytest.mark.contract
__all__ = ["sqlite_file"]

DEADLINE_SECONDS = 20


@dataclass
class Desk:
    """A simulator, our intake, and a gateway between them."""

    server: Server
    database: Database
    gateway: StripeGateway
    doors: dict[str, Door]
    address: str
    intake: Intake
    http: aiohttp.ClientSession
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def stripe(self, operation: str, **params: Any) -> Any:
        method, path = operation.split(" ")
        headers = {"Authorization": f"Bearer {KEY}"}
        async with self.http.request(method, self.server.url + path, data=flat(params), headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def registered(self, *events: str) -> NewEndpoint:
        made = await self.gateway.register_endpoint(
            self.address + "/webhooks/stripe", events or sorted(HANDLED), connect=False, key="endpoint.1"
        )
        self.trust(made.secret)
        return made

    def trust(self, *secrets: str) -> None:
        self.doors[""] = replace(self.doors[""], secrets=secrets)

    async def charged(self) -> str:
        paid = await self.stripe(
            "POST /v1/payment_intents", amount=5000, currency="gbp", payment_method="pm_card_visa", confirm=True
        )
        return str(paid["latest_charge"])

    def stored(self, **search: Any) -> list[Event]:
        with self.database.reading() as unit:
            return inbox.page(unit, Search(**search), 100)

    async def until(self, *types: str, **search: Any) -> list[Event]:
        """Wait until events of these types are stored."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not set(types) <= {event.type for event in self.stored(**search)}:
                self.came.clear()
                await self.came.wait()
        return self.stored(**search)


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with Server(start=None) as server:
        server.remember()
        yield server


@pytest.fixture
async def desk(process: Server, sqlite_file: Path, tmp_path: Path) -> AsyncIterator[Desk]:
    process.forget()
    server = process
    with sqlite_copy(sqlite_file, tmp_path, HandClock()) as database:
        slots, clock = FreeSlots(), SystemClock()
        gateway = StripeGateway(KEY, api_base=server.url, account=None, clock=clock, slots=slots)
        doors = {"": Door(f"{server.account}|test", (), frozenset(), "STRIPE_WEBHOOK_SECRET")}
        came = asyncio.Event()
        intake = Intake(doors, InlineWriter(database), clock, woken=lambda _: came.set())
        async with listening(intake) as address, aiohttp.ClientSession() as http:
            yield Desk(server, database, gateway, doors, address, intake, http, came)
        await gateway.close()


async def test_an_endpoint_is_made_as_we_need_it_once_and_deleted(desk: Desk) -> None:
    made = await desk.registered()
    again = await desk.registered()
    assert again == made, "the same key makes one endpoint"
    (seen,) = await desk.gateway.endpoints()
    assert seen == made.endpoint
    assert (seen.url, seen.api_version, seen.enabled) == (desk.address + "/webhooks/stripe", STRIPE_VERSION, True)
    assert set(seen.events) == HANDLED
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    await desk.gateway.delete_endpoint(seen.id)
    assert list(await desk.gateway.endpoints()) == []
    with pytest.raises(GatewayError) as refused:
        await desk.gateway.delete_endpoint(seen.id)
    assert refused.value.trouble is Trouble.NOT_FOUND


async def test_what_stripe_delivers_is_stored_with_all_that_it_is_about(desk: Desk) -> None:
    await desk.registered()
    charge = await desk.charged()
    refund = await desk.stripe(
        "POST /v1/refunds",
        charge=charge,
        amount=700,
        metadata={"refundry_request_id": "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"},
    )
    stored = {event.type: event for event in await desk.until("refund.created", "charge.refunded", charge=charge)}
    created = stored["refund.created"]
    assert (created.object_id, created.refund, created.charge) == (refund["id"], refund["id"], charge)
    assert (created.amount_minor, created.status, created.livemode) == (700, "succeeded", False)
    assert created.request == "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"
    assert created.account == f"{desk.server.account}|test"
    assert (stored["charge.refunded"].object_id, stored["charge.refunded"].amount_minor) == (charge, 700)
    assert {event.state for event in stored.values()} == {State.WAITING}
    assert not desk.intake.refused


async def test_a_rolled_secret_is_taken_beside_the_old_one(desk: Desk) -> None:
    made = await desk.registered()
    rolled = desk.server.control(f"POST /_sim/webhooks/{made.endpoint.id}/roll", {"keep_old_seconds": 3600})
    charge = await desk.charged()
    await desk.until("charge.succeeded", charge=charge)
    desk.trust("whsec_other", rolled["secret"])
    charge = await desk.charged()
    await desk.until("charge.succeeded", charge=charge)
    assert not desk.intake.refused


async def test_a_wrong_secret_is_refused_and_the_event_comes_again_later(desk: Desk) -> None:
    made = await desk.registered()
    desk.trust("whsec_other")
    charge = await desk.charged()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not desk.intake.refused["signature_wrong"]:  # noqa: ASYNC110  # nothing else tells of a refusal
            await asyncio.sleep(0)
    assert desk.stored() == []
    desk.trust(made.secret)
    # Enabled anew, an endpoint gets at once what waits for its next try.
    await desk.stripe(f"POST /v1/webhook_endpoints/{made.endpoint.id}", disabled=False)
    await desk.until("charge.succeeded", charge=charge)


async def test_twice_and_out_of_order_is_stored_once(desk: Desk) -> None:
    await desk.registered("refund.created", "charge.refunded")
    rules = [{"kind": "twice"}, {"kind": "out_of_order", "event": "refund.created", "delay_seconds": 0.05}]
    desk.server.control("POST /_sim/webhooks/plan", {"seed": 1, "rules": rules})
    charge = await desk.charged()
    await desk.stripe("POST /v1/refunds", charge=charge, amount=700)
    await desk.until("refund.created", "charge.refunded")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while desk.intake.stored.total() < 4:  # noqa: ASYNC110  # nor of a redelivery that was stored already
            await asyncio.sleep(0)
    assert len(desk.stored()) == 2


async def test_a_dispute_is_told_with_its_charge(desk: Desk) -> None:
    await desk.registered()
    paid = await desk.stripe(
        "POST /v1/payment_intents", amount=5000, currency="usd", payment_method="pm_card_createDispute", confirm=True
    )
    stored = {event.type: event for event in await desk.until("charge.dispute.created")}
    dispute = stored["charge.dispute.created"]
    assert (dispute.charge, dispute.status, dispute.amount_minor) == (paid["latest_charge"], "needs_response", 5000)
