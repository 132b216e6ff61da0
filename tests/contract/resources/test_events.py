"""Events and webhook endpoints as they are read and kept through the API (their delivery is tested elsewhere)."""

from __future__ import annotations

import pytest

from stripesim.registry import DAHLIA
from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract
DAY = 86_400


async def types_of(sim: Recorder, **filters: object) -> list[str]:
    listed = await sim.ok("GET /v1/events", **{"limit": 100} | filters)
    return [one["type"] for one in reversed(listed["data"])]


async def test_a_refund_tells_of_itself_and_of_its_charge(sim: Recorder) -> None:
    charge = await sim.charge()
    assert await types_of(sim) == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    await sim.move(1)
    start = sim.clock.seconds()
    for amount in (1000, 4000):
        await sim.ok("POST /v1/refunds", charge=charge, amount=amount)
    assert await types_of(sim, created={"gte": start}) == ["refund.created", "charge.refunded"] * 2
    events = (await sim.ok("GET /v1/events", type="charge.refunded"))["data"]
    assert [one["data"]["object"]["amount_refunded"] for one in events] == [5000, 1000], "as it was then"
    assert "refunds" not in events[0]["data"]["object"]
    assert [one["data"]["previous_attributes"] for one in events] == [
        {"amount_refunded": 1000, "refunded": False}, {"amount_refunded": 0},
    ]  # fmt: skip


async def test_an_event_carries_the_call_that_caused_it(sim: Recorder) -> None:
    charge = await sim.charge()
    reply = await sim.ok("POST /v1/refunds", charge=charge, idempotency_key="request_7.1")
    (event,) = (await sim.ok("GET /v1/events", type="refund.created"))["data"]
    assert event["request"] == {"id": reply.headers["request-id"], "idempotency_key": "request_7.1"}
    await sim.move(5)
    (later,) = (await sim.ok("GET /v1/events", type="refund.updated"))["data"]
    assert later["request"] == {"id": None, "idempotency_key": None}, "what Stripe does itself has no request"
    assert later.keys() >= {"id", "object", "api_version", "created", "data", "livemode", "pending_webhooks", "type"}


async def test_an_events_snapshot_does_not_change(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(card="pm_card_pendingRefund"))
    before = (await sim.ok("GET /v1/events", type="refund.created"))["data"][0]
    await sim.move(600)
    await sim.ok(f"POST /v1/refunds/{refund['id']}", metadata={"ticket": "9"})
    after = await sim.ok(f"GET /v1/events/{before['id']}")
    assert after.json == before
    assert (after["data"]["object"]["status"], after["api_version"]) == ("pending", DAHLIA)


async def test_events_go_back_thirty_days(sim: Recorder) -> None:
    await sim.charge()
    old = (await sim.ok("GET /v1/events", limit=1))["data"][0]["id"]
    await sim.move(30 * DAY)
    assert len(await types_of(sim)) == 4
    await sim.move(1)
    assert await types_of(sim) == ["charge.updated"], "the balance transaction came three seconds later"
    await sim.move(3)
    assert await types_of(sim) == []
    reply = await sim.refused(f"GET /v1/events/{old}", 404, "resource_missing", "id")
    assert reply.error["message"] == f"No such event: '{old}'"


async def test_types_choose_events(sim: Recorder) -> None:
    await sim.ok("POST /v1/refunds", charge=await sim.charge())
    assert await types_of(sim, type="refund.*") == ["refund.created"]
    assert await types_of(sim, type="*.created") == ["payment_intent.created", "refund.created"]
    assert await types_of(sim, types=["charge.refunded", "refund.created"]) == ["refund.created", "charge.refunded"]
    assert await types_of(sim, type="charge?refunded") == [], "only the star stands for something"
    both = {"type": "refund.created", "types": ["refund.created"]}
    await sim.refused("GET /v1/events", 400, None, "types", **both)
    await sim.ok("GET /v1/events", types=[f"type_{at}" for at in range(20)])
    await sim.refused("GET /v1/events", 400, None, "types", types=[f"type_{at}" for at in range(21)])


async def test_an_endpoint_keeps_its_secret_to_itself(sim: Recorder) -> None:
    made = await sim.ok("POST /v1/webhook_endpoints", url="https://example.com/a", enabled_events=["*"])
    assert made["secret"].startswith("whsec_")
    for reply in (
        await sim.ok(f"GET /v1/webhook_endpoints/{made['id']}"),
        await sim.ok(f"POST /v1/webhook_endpoints/{made['id']}", description="Refunds"),
        await sim.ok("GET /v1/webhook_endpoints"),
    ):
        assert b"whsec_" not in reply.body
    other = await sim.ok("POST /v1/webhook_endpoints", url="https://example.com/a", enabled_events=["*"])
    assert other["secret"] != made["secret"]


async def test_a_deleted_endpoint_gives_its_secret_to_no_other(sim: Recorder) -> None:
    secrets = set()
    for _ in range(3):
        made = await sim.ok("POST /v1/webhook_endpoints", url="https://example.com/a", enabled_events=["*"])
        secrets.add(made["secret"])
        await sim.ok(f"DELETE /v1/webhook_endpoints/{made['id']}")
    assert len(secrets) == 3


async def test_an_account_has_at_most_sixteen_endpoints_a_mode(sim: Recorder) -> None:
    endpoint = {"url": "https://example.com/a", "enabled_events": ["*"]}
    made = [await sim.ok("POST /v1/webhook_endpoints", **endpoint) for _ in range(16)]
    await sim.refused("POST /v1/webhook_endpoints", 400, None, None, **endpoint)
    await sim.ok("POST /v1/webhook_endpoints", key="sk_live_sim", **endpoint)
    await sim.ok(f"DELETE /v1/webhook_endpoints/{made[0]['id']}")
    await sim.ok("POST /v1/webhook_endpoints", **endpoint)


@pytest.mark.parametrize(("params", "param"), [
    ({"url": "nowhere"}, "url"),
    ({"url": "ftp://example.com/a"}, "url"),
    ({"url": "https://"}, "url"),
    ({"api_version": "2019-01-01"}, "api_version"),
    ({"enabled_events": ["refund.invented"]}, "enabled_events[0]"),
])  # fmt: skip
async def test_an_endpoint_that_cannot_work_is_refused(sim: Recorder, params: dict[str, object], param: str) -> None:
    endpoint: dict[str, object] = {"url": "https://example.com/a", "enabled_events": ["*"]}
    reply = await sim.call("POST /v1/webhook_endpoints", **endpoint | params)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert (await sim.ok("GET /v1/webhook_endpoints"))["data"] == []


async def test_an_endpoint_keeps_the_version_it_was_made_with(sim: Recorder) -> None:
    endpoint = {"url": "https://example.com/a", "enabled_events": ["*"], "api_version": "2026-10-28.endive"}
    # The file is older than this version, and does not know it.
    made = await sim.ok("POST /v1/webhook_endpoints", check=False, **endpoint)
    assert made["api_version"] == "2026-10-28.endive"
    path = f"POST /v1/webhook_endpoints/{made['id']}"
    await sim.refused(path, 400, "parameter_unknown", "api_version", api_version=DAHLIA)


async def test_pending_webhooks_are_counted(sim: Recorder) -> None:
    endpoint = {"url": "https://example.com/a", "enabled_events": ["refund.created"]}
    for _ in range(2):
        await sim.ok("POST /v1/webhook_endpoints", **endpoint)
    await sim.ok("POST /v1/refunds", charge=await sim.charge())
    events = (await sim.ok("GET /v1/events"))["data"]
    assert {one["type"]: one["pending_webhooks"] for one in events if one["pending_webhooks"]} == {"refund.created": 2}
    undelivered = (await sim.ok("GET /v1/events", delivery_success=False))["data"]
    assert [one["type"] for one in undelivered] == ["refund.created"]
