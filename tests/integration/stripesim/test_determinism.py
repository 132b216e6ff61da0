"""The same seed and the same requests give the same ids, times and bytes, troubles and webhooks included."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.stripesim.receiver import Receiver
from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.integration
Seen = list[tuple[Any, ...]]


class Life:
    """One simulator and all that came out of it."""

    def __init__(self, **options: Any) -> None:
        self.sim = Sim(**options)
        self.receiver = Receiver(lambda delivery: 500 if len(delivery.body) % 3 == 0 else 200)
        self.seen: Seen = []

    def note(self, reply: Reply) -> Reply:
        self.seen.append((reply.status, sorted(reply.headers.items()), reply.body, reply.cut))
        return reply

    async def call(self, operation: str, **params: Any) -> Reply:
        return self.note(await self.sim.call(operation, **params))

    async def control(self, operation: str, body: Any = None) -> Reply:
        return self.note(await self.sim.control(operation, body))

    async def live(self, fault_seed: int = 3) -> Seen:
        """Do a little of everything."""
        await self.call("POST /v1/webhook_endpoints", url="http://127.0.0.1:9/", enabled_events=["*"])
        kinds = ("lost", "twice", "twin", "out_of_order")
        plan = {"seed": fault_seed, "rules": [{"kind": kind, "probability": 0.3} for kind in kinds]}
        await self.control("POST /_sim/webhooks/plan", plan)
        rows = [{"amount_minor": 500 + at, "currency": "gbp", "order_id": f"o{at}"} for at in range(20)]
        await self.control("POST /_sim/load", {"charges": rows})
        charges = []
        for card in ("visa", "pendingRefund", "refundFail", "createDispute", "chargeDeclined"):
            paid = await self.call(
                "POST /v1/payment_intents", amount=5000, currency="usd", payment_method=f"pm_card_{card}", confirm=True
            )
            charges += [paid["latest_charge"]] if paid.status == 200 else []
        kinds = ("drop_after", "error_after", "error_before", "rate_limit", "truncate", "conflict")
        rules = [{"kind": kind, "operation": "POST /v1/refunds", "probability": 0.15} for kind in kinds]
        rules += [{"kind": "stale_read", "bound_seconds": 30, "probability": 0.5}]
        await self.control("POST /_sim/faults", {"seed": fault_seed, "rules": rules})
        for at in range(40):
            wanted = {"charge": charges[at % len(charges)], "amount": 10 + at}
            await self.call("POST /v1/refunds", idempotency_key=f"k{at // 2 * 2}", **wanted)
            await self.call("GET /v1/refunds", limit=3)
            await self.sim.move(7)
            await self.receiver.drain(self.sim)
        await self.control("GET /_sim/faults")
        await self.call("GET /v1/events", limit=100)
        await self.call("GET /v1/balance_transactions", limit=100)
        await self.control("GET /_sim/audit")
        self.seen += [(delivery.url, sorted(delivery.headers.items()), delivery.body) for delivery in self.receiver.got]
        self.seen.append(tuple(self.sim.world.store.db.iterdump()))
        self.sim.simulator.close()
        return self.seen


async def test_two_simulators_of_one_seed_answer_the_same_bytes() -> None:
    first, second = await Life(seed=11).live(), await Life(seed=11).live()
    assert len(first) > 150
    for one, other in zip(first, second, strict=True):
        assert one == other


async def test_one_that_keeps_its_state_in_a_file_answers_as_one_that_does_not(tmp_path: Any) -> None:
    assert await Life(seed=11).live() == await Life(seed=11, state=str(tmp_path / "state")).live()


async def test_another_seed_gives_other_ids_at_every_place() -> None:
    sims = [Sim(seed=seed) for seed in (1, 2)]
    ids: list[set[str]] = []
    for sim in sims:
        charge = await sim.charge()
        refund = await sim.call("POST /v1/refunds", charge=charge)
        events = await sim.call("GET /v1/events")
        hook = await sim.call("POST /v1/webhook_endpoints", url="http://127.0.0.1:9/", enabled_events=["*"])
        rows = await sim.call("GET /v1/balance_transactions")
        found = {charge, refund["id"], refund["payment_intent"], hook["id"], hook["secret"], sim.world.platform}
        found |= {item["id"] for page in (events, rows) for item in page["data"]}
        ids.append(found | {refund.headers["request-id"]})
        sim.simulator.close()
    assert not ids[0] & ids[1]
    assert len(ids[0]) == len(ids[1]) > 10


async def test_another_seed_of_a_plan_chooses_other_calls() -> None:
    first, second = await Life(seed=11).live(fault_seed=3), await Life(seed=11).live(fault_seed=4)
    assert [one[0] for one in first] != [one[0] for one in second]


async def test_a_state_file_keeps_its_seed_and_its_ids_go_on(tmp_path: Any) -> None:
    through, halves = Sim(seed=5), []
    expected = [await through.charge() for _ in range(4)]
    through.simulator.close()
    for seed in (5, 6):
        sim = Sim(seed=seed, state=str(tmp_path / "state"))
        halves += [await sim.charge() for _ in range(2)]
        assert sim.world.seed == 5, "it was made with that one"
        sim.simulator.close()
    assert halves == expected
