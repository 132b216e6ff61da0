"""What the gateway reads to follow the money, against the simulator: events, refunds by time, early fraud warnings, disputes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from refundry.follow.model import POLLED
from refundry.gateways.base import GatewayError, Trouble
from refundry.gateways.stripe.client import StripeGateway
from refundry.inbox.model import HANDLED
from refundry.kernel.lane import Lane
from tests.support.sim import START, Sim
from tests.support.stripe_transport import FreeSlots, InProcess, StandingClock

pytestmark = pytest.mark.contract
OURS = "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"


@pytest.fixture
async def gateway(sim: Sim) -> AsyncIterator[StripeGateway]:
    transport = InProcess(sim.simulator)
    yield StripeGateway(
        "sk_test_sim", api_base="http://127.0.0.1", account=None, clock=StandingClock(START), slots=FreeSlots(),
        http_client=transport,
    )  # fmt: skip
    await transport.close_async()


async def test_events_come_page_by_page_with_what_they_are_about(sim: Sim, gateway: StripeGateway) -> None:
    charge = await sim.charge(50_000)
    mark = {"metadata": {"refundry_request_id": OURS}}
    made = await sim.call("POST /v1/refunds", charge=charge, amount=100, idempotency_key=f"{OURS}.1", **mark)
    for _ in range(120):
        await sim.call("POST /v1/refunds", charge=charge, amount=1)
    pages = [list(page) async for page in gateway.events(START - 1, START + 1, types=["refund.created"])]
    assert [len(page) for page in pages] == [100, 21]
    first = pages[-1][-1]
    assert (first.type, first.refund, first.charge, first.request) == ("refund.created", made["id"], charge, OURS)
    assert (first.status, first.amount_minor, first.idempotency_key) == ("succeeded", 100, f"{OURS}.1")
    assert [page async for page in gateway.events(START + 5, START + 9, types=["refund.created"])] == [[]]


async def test_stripe_takes_all_our_types_in_one_call(sim: Sim, gateway: StripeGateway) -> None:
    await sim.charge(500)
    for types in (POLLED, sorted(HANDLED)):
        assert [page async for page in gateway.events(START - 1, START + 1, types=types)]


async def test_only_failed_leaves_out_what_webhooks_have_brought(sim: Sim, gateway: StripeGateway) -> None:
    url = "http://127.0.0.1/hook"
    await sim.call("POST /v1/webhook_endpoints", url=url, enabled_events=["refund.created"], check=False)
    rules = [{"kind": "lost", "event": "refund.created"}]
    charge = await sim.charge(5000)
    await sim.control("POST /_sim/webhooks/plan", {"seed": 1, "rules": rules})
    lost = await sim.call("POST /v1/refunds", charge=charge, amount=100)
    failed = [
        event.refund
        async for page in gateway.events(START - 1, START + 1, types=["refund.created"], only_failed=True)
        for event in page
    ]
    assert failed == [lost["id"]]


async def test_refunds_of_a_time_are_listed_whoever_made_them(sim: Sim, gateway: StripeGateway) -> None:
    charge = await sim.charge(5000)
    made = [(await sim.call("POST /v1/refunds", charge=charge, amount=at + 1))["id"] for at in range(3)]
    await sim.move(100)
    later = (await sim.call("POST /v1/refunds", charge=charge, amount=9))["id"]
    seen = [refund.id async for page in gateway.refunds(START, START + 50, Lane.BULK) for refund in page]
    assert sorted(seen) == sorted(made)
    every = [refund.id async for page in gateway.refunds(START, START + 200, Lane.BULK) for refund in page]
    assert every[0] == later, "the newest first"


async def test_a_refund_that_asks_its_customer_says_until_when(sim: Sim, gateway: StripeGateway) -> None:
    charge = await sim.charge(5000)
    await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "action"})
    made = await sim.call("POST /v1/refunds", charge=charge)
    seen = await gateway.refund(made["id"], Lane.DESK)
    assert seen.action_until == made["next_action"]["display_details"]["expires_at"]


async def test_fraud_warnings_of_a_charge(sim: Sim, gateway: StripeGateway) -> None:
    charge = await sim.charge(5000)
    assert await gateway.fraud_warnings(charge, Lane.BULK) == []
    await sim.control("POST /_sim/warnings", {"charge": charge})
    (seen,) = await gateway.fraud_warnings(charge, Lane.BULK)
    assert (seen.charge, seen.fraud_type, seen.actionable) == (charge, "made_with_stolen_card", True)


async def test_a_look_shows_what_a_dispute_is_about(sim: Sim, gateway: StripeGateway) -> None:
    charge = await sim.charge(5000)
    made = await sim.control("POST /_sim/disputes", {"charge": charge, "amount": 6000})
    (seen,) = (await gateway.look(charge, Lane.BULK)).disputes
    assert (seen.id, seen.amount_minor, seen.currency, seen.reason) == (made["id"], 6000, "usd", "fraudulent")
    assert (seen.created_at, seen.due_at) == (START, made["evidence_details"]["due_by"])
    assert not seen.over


async def test_a_key_that_may_not_read_events_hears_so(sim: Sim, gateway: StripeGateway) -> None:
    await sim.control("POST /_sim/faults", {"rules": [{"kind": "forbidden", "operation": "GET /v1/events"}]})
    with pytest.raises(GatewayError) as refused:
        _ = [page async for page in gateway.events(START, START + 1, types=POLLED)]
    assert refused.value.trouble is Trouble.FORBIDDEN
