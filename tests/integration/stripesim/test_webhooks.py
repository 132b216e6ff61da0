"""Webhooks: every event reaches whoever asked for it, signed, tried again as Stripe does, and told badly by a plan."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import stripe

from stripesim import webhooks
from stripesim.webhooks import Pump
from tests.integration.stripesim.process import simulator
from tests.integration.stripesim.receiver import Delivery, Receiver, genuine, listening
from tests.support import openapi
from tests.support.sim import START, Reply, Sim

pytestmark = pytest.mark.integration
DAY = 86_400
URL = "http://127.0.0.1:9/hook"
# FACTS of events that matter to a refund program.
EVENTS = (
    "refund.created", "refund.updated", "refund.failed", "charge.refunded", "charge.refund.updated",
    "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed", "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated", "radar.early_fraud_warning.created", "radar.early_fraud_warning.updated",
    "charge.succeeded", "charge.failed", "charge.captured", "charge.updated", "charge.expired", "charge.pending",
    "customer.subscription.updated", "customer.subscription.deleted", "invoice.paid", "credit_note.created",
    "credit_note.updated", "credit_note.voided", "application_fee.refunded", "application_fee.refund.updated",
    "transfer.reversed", "review.closed",
)  # fmt: skip


async def ok(sim: Sim, operation: str, **params: Any) -> Reply:
    reply = await sim.call(operation, **params)
    assert reply.status == 200, reply.json
    return reply


async def endpoint(sim: Sim, *events: str, **params: Any) -> Reply:
    return await ok(sim, "POST /v1/webhook_endpoints", url=URL, enabled_events=list(events) or ["*"], **params)


async def plan(sim: Sim, *rules: dict[str, Any], seed: int = 1) -> None:
    reply = await sim.control("POST /_sim/webhooks/plan", {"seed": seed, "rules": list(rules)})
    assert reply.status == 200, reply.json


# What each event needs to happen


async def payments(sim: Sim) -> None:
    declined = await sim.call(
        "POST /v1/payment_intents", amount=900, currency="usd", payment_method="pm_card_chargeDeclined", confirm=True
    )
    assert declined.status == 402
    held = {
        "amount": 900,
        "currency": "usd",
        "payment_method": "pm_card_visa",
        "confirm": True,
        "capture_method": "manual",
    }
    first, _ = await ok(sim, "POST /v1/payment_intents", **held), await ok(sim, "POST /v1/payment_intents", **held)
    await ok(sim, f"POST /v1/payment_intents/{first['id']}/capture")
    await sim.control("POST /_sim/settings", {"bank_charge_delay": 60})
    debit = {"payment_method_data": {"type": "sepa_debit"}, "payment_method_types": ["sepa_debit"], "confirm": True}
    await ok(sim, "POST /v1/payment_intents", amount=900, currency="eur", **debit)
    await sim.move(8 * DAY)


async def refunds_and_disputes(sim: Sim) -> None:
    failing = await sim.charge(card="pm_card_refundFail")
    await sim.control("POST /_sim/warnings", {"charge": failing})
    await sim.control("POST /_sim/reviews", {"charge": failing})
    await ok(sim, "POST /v1/refunds", charge=failing)
    await sim.move(400)
    disputed = await sim.charge(card="pm_card_createDispute")
    await sim.move(1)
    dispute = (await ok(sim, "GET /v1/disputes", charge=disputed))["data"][0]["id"]
    await ok(sim, f"POST /v1/disputes/{dispute}", evidence={"uncategorized_text": "winning_evidence"})
    await sim.move(10)


async def billing(sim: Sim) -> None:
    customer = (await ok(sim, "POST /v1/customers", name="Ada"))["id"]
    card = (await ok(sim, "POST /v1/payment_methods/pm_card_visa/attach", customer=customer))["id"]
    settings = {"default_payment_method": card}
    await ok(sim, f"POST /v1/customers/{customer}", invoice_settings=settings)
    price = (
        await ok(sim, "POST /v1/prices", unit_amount=1500, currency="usd", recurring={"interval": "month"},
                 product_data={"name": "Tea"})
    )["id"]  # fmt: skip
    made = await ok(sim, "POST /v1/subscriptions", customer=customer, items=[{"price": price}])
    await ok(sim, f"POST /v1/subscriptions/{made['id']}", cancel_at_period_end=True)
    await ok(sim, f"DELETE /v1/subscriptions/{made['id']}")
    paid = made["latest_invoice"]
    note = await ok(sim, "POST /v1/credit_notes", invoice=paid, amount=500, refund_amount=500)
    await ok(sim, f"POST /v1/credit_notes/{note['id']}", memo="late")
    opened = await ok(sim, "POST /v1/invoices", customer=customer)
    await ok(sim, "POST /v1/invoiceitems", customer=customer, amount=900, currency="usd", invoice=opened["id"])
    await ok(sim, f"POST /v1/invoices/{opened['id']}/finalize")
    voidable = await ok(sim, "POST /v1/credit_notes", invoice=opened["id"], amount=100)
    await ok(sim, f"POST /v1/credit_notes/{voidable['id']}/void")


async def connect(sim: Sim) -> None:
    account = (await ok(sim, "POST /v1/accounts", country="US"))["id"]
    charge = await sim.charge(transfer_data={"destination": account}, application_fee_amount=100)
    await ok(sim, "POST /v1/refunds", charge=charge, amount=1000, reverse_transfer=True, refund_application_fee=True)
    fee = (await ok(sim, "GET /v1/application_fees"))["data"][0]["id"]
    refund = (await ok(sim, f"GET /v1/application_fees/{fee}/refunds"))["data"][0]["id"]
    await ok(sim, f"POST /v1/application_fees/{fee}/refunds/{refund}", metadata={"why": "late"})


@pytest.fixture(scope="module")
def told() -> tuple[str, dict[str, list[Delivery]]]:
    """Live through all of it once; tells the endpoint's secret, and the deliveries by type."""

    async def live() -> tuple[str, dict[str, list[Delivery]]]:
        sim, receiver = Sim(), Receiver()
        secret = (await endpoint(sim))["secret"]
        for story in (payments, refunds_and_disputes, billing, connect):
            await story(sim)
            await receiver.drain(sim)
        by_type: dict[str, list[Delivery]] = {}
        for delivery in receiver.got:
            by_type.setdefault(delivery.event["type"], []).append(delivery)
        audit = await sim.control("GET /_sim/audit")
        assert audit["ok"], audit["problems"]
        sim.simulator.close()
        return secret, by_type

    with asyncio.Runner() as runner:
        return runner.run(live())


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_delivered_signed_and_in_shape(event: str, told: tuple[str, dict[str, list[Delivery]]]) -> None:
    secret, by_type = told
    assert by_type.get(event), f"never delivered; there were {sorted(by_type)}"
    for delivery in by_type[event]:
        assert genuine(delivery, secret)
        signed = delivery.headers["stripe-signature"]
        read = stripe.Webhook.construct_event(delivery.body, signed, secret, tolerance=0)
        assert (read["type"], read["object"]) == (event, "event")
        openapi.check("GET", f"/v1/events/{read['id']}", 200, delivery.event)
        shape = delivery.event["data"]["object"]
        if shape["object"] in openapi.spec()["components"]["schemas"]:
            assert not list(openapi.object_validator(shape["object"]).iter_errors(shape))


async def test_the_order_seen_in_the_sandbox_is_kept(sim: Sim) -> None:
    receiver = Receiver()
    await endpoint(sim)
    charge = await sim.charge()
    await sim.booked()
    await receiver.drain(sim)
    receiver.got.clear()
    await ok(sim, "POST /v1/refunds", charge=charge, amount=100)
    await sim.move(5)
    await receiver.drain(sim)
    assert receiver.types == ["refund.created", "charge.refunded", "refund.updated", "charge.refund.updated"]
    previous = receiver.got[2].event["data"]["previous_attributes"]
    assert previous["destination_details"]["card"]["reference_status"] == "pending"


async def test_an_event_keeps_the_state_of_then_and_tells_whose_request_it_was(sim: Sim) -> None:
    receiver = Receiver()
    await endpoint(sim, "charge.refunded")
    charge = await sim.charge()
    calls = [await ok(sim, "POST /v1/refunds", charge=charge, amount=100, idempotency_key=f"k{at}") for at in range(2)]
    await receiver.drain(sim)
    assert [delivery.event["data"]["object"]["amount_refunded"] for delivery in receiver.got] == [100, 200]
    requests = [{"id": reply.headers["request-id"], "idempotency_key": f"k{at}"} for at, reply in enumerate(calls)]
    assert [delivery.event["request"] for delivery in receiver.got] == requests


# Signatures


async def test_a_changed_body_or_another_secret_does_not_verify(sim: Sim) -> None:
    receiver = Receiver()
    first, second = await endpoint(sim, "charge.succeeded"), await endpoint(sim, "charge.succeeded")
    await sim.charge()
    await receiver.drain(sim)
    for delivery in receiver.got:
        holders = [made for made in (first, second) if genuine(delivery, made["secret"])]
        assert len(holders) == 1, "each endpoint signs with its own secret"
        signed = delivery.headers["stripe-signature"]
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(delivery.body + b" ", signed, holders[0]["secret"], tolerance=0)
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(delivery.body, signed, "whsec_other", tolerance=0)


async def test_while_a_secret_rolls_the_old_and_the_new_one_verify_and_then_only_the_new(sim: Sim) -> None:
    receiver = Receiver()
    made = await endpoint(sim, "charge.succeeded")
    secrets = [made["secret"]]
    for _ in range(2):
        rolled = await sim.control(f"POST /_sim/webhooks/{made['id']}/roll", {"keep_old_seconds": 3600})
        secrets.append(rolled["secret"])
    assert len(set(secrets)) == 3
    await sim.charge()
    (delivery,) = await receiver.drain(sim)
    assert delivery.headers["stripe-signature"].count("v1=") == 3
    assert all(genuine(delivery, secret) for secret in secrets)
    for secret in secrets:
        stripe.Webhook.construct_event(delivery.body, delivery.headers["stripe-signature"], secret, tolerance=0)
    await sim.move(3601)
    await sim.charge()
    (delivery,) = await receiver.drain(sim)
    assert [genuine(delivery, secret) for secret in secrets] == [False, False, True]


async def test_an_old_secret_lives_a_day_at_most(sim: Sim) -> None:
    receiver = Receiver()
    made = await endpoint(sim, "charge.succeeded")
    await sim.control(f"POST /_sim/webhooks/{made['id']}/roll", {"keep_old_seconds": 30 * DAY})
    await sim.move(DAY)
    await sim.charge()
    (delivery,) = await receiver.drain(sim)
    assert not genuine(delivery, made["secret"])


async def test_a_retry_has_a_time_and_signature_of_its_own_and_the_same_body(sim: Sim) -> None:
    receiver = Receiver(lambda _: 500)
    made = await endpoint(sim, "charge.succeeded")
    await sim.charge()
    (first,) = await receiver.drain(sim)
    await sim.move(60)
    (second,) = await receiver.drain(sim)
    assert first.event["id"] == second.event["id"]
    assert first.headers["stripe-signature"].startswith(f"t={START},")
    assert second.headers["stripe-signature"].startswith(f"t={START + 60},")
    assert genuine(second, made["secret"])
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(
            first.body, second.headers["stripe-signature"].replace("t=", "t=1"), made["secret"]
        )


# Retries


async def tries(sim: Sim, answer: int, days: int, *, live: bool) -> list[float]:
    """Let every delivery be answered badly for some days; tells the seconds after which each try came."""
    receiver, key = Receiver(lambda _: answer), "sk_live_sim" if live else "sk_test_sim"
    await endpoint(sim, "customer.created", key=key)
    await ok(sim, "POST /v1/customers", name="Ada", key=key)
    moments = []
    for minute in range(days * 24 * 12):
        moments += [minute * 300.0] * len(await receiver.drain(sim))
        await sim.move(300)
    return moments


async def test_a_sandbox_tries_three_times_more_over_a_few_hours(sim: Sim) -> None:
    moments = await tries(sim, 500, 1, live=False)
    assert len(moments) == 4
    assert 2 * 3600 < moments[-1] < 8 * 3600


async def test_live_mode_tries_for_nearly_three_days_ever_less_often(sim: Sim) -> None:
    moments = await tries(sim, 500, 4, live=True)
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps == sorted(gaps)
    assert 2 * DAY < moments[-1] <= 3 * DAY


@pytest.mark.parametrize(("answer", "delivered"), [(200, True), (204, True), (301, False), (404, False), (0, False)])
async def test_only_2xx_counts_as_delivered(answer: int, delivered: bool, sim: Sim) -> None:  # noqa: FBT001
    receiver = Receiver(lambda _: answer)
    await endpoint(sim, "customer.created")
    await ok(sim, "POST /v1/customers", name="Ada")
    await receiver.drain(sim)
    await sim.move(60)
    assert len(await receiver.drain(sim)) == (0 if delivered else 1)
    event = (await ok(sim, "GET /v1/events", type="customer.created"))["data"][0]
    assert event["pending_webhooks"] == (0 if delivered else 1)
    told = await sim.control(f"GET /_sim/events/{event['id']}/deliveries")
    assert [one["answer"] for one in told["deliveries"][0]["tries"]] == [answer] * (1 if delivered else 2)
    assert told["deliveries"][0]["status"] == ("delivered" if delivered else "pending")


async def test_a_resend_does_not_stop_the_retries(sim: Sim) -> None:
    receiver = Receiver(lambda _: 500)
    made = await endpoint(sim, "customer.created")
    await ok(sim, "POST /v1/customers", name="Ada")
    (first,) = await receiver.drain(sim)
    await sim.control(f"POST /_sim/events/{first.event['id']}/resend", {"endpoint": made["id"]})
    receiver.answer = lambda _: 200
    assert [delivery.event["id"] for delivery in await receiver.drain(sim)] == [first.event["id"]]
    await sim.move(60)
    assert [delivery.event["id"] for delivery in await receiver.drain(sim)] == [first.event["id"]]


async def test_a_disabled_endpoint_gets_nothing_and_what_waited_when_it_is_enabled_in_time(sim: Sim) -> None:
    receiver = Receiver(lambda _: 500)
    made = await endpoint(sim, "customer.created")
    await ok(sim, "POST /v1/customers", name="Ada")
    await receiver.drain(sim)
    await ok(sim, f"POST /v1/webhook_endpoints/{made['id']}", disabled=True)
    await ok(sim, "POST /v1/customers", name="Bob")
    await sim.move(DAY)
    assert await receiver.drain(sim) == []
    await ok(sim, f"POST /v1/webhook_endpoints/{made['id']}", disabled=False)
    came = await receiver.drain(sim)
    assert [delivery.event["data"]["object"]["name"] for delivery in came] == ["Ada"], "Bob came while nobody listened"


async def test_what_waited_for_a_disabled_endpoint_fails_after_three_days(sim: Sim) -> None:
    receiver = Receiver(lambda _: 500)
    made = await endpoint(sim, "customer.created")
    await ok(sim, "POST /v1/customers", name="Ada")
    await receiver.drain(sim)
    await ok(sim, f"POST /v1/webhook_endpoints/{made['id']}", disabled=True)
    await sim.move(3 * DAY + 3600)
    await receiver.drain(sim)
    await ok(sim, f"POST /v1/webhook_endpoints/{made['id']}", disabled=False)
    assert await receiver.drain(sim) == []
    event = (await ok(sim, "GET /v1/events", type="customer.created", delivery_success=False))["data"][0]
    told = await sim.control(f"GET /_sim/events/{event['id']}/deliveries")
    assert told["deliveries"][0]["status"] == "failed"


@pytest.mark.parametrize("answer", [200, 500])
async def test_an_endpoint_that_is_deleted_amid_a_delivery_stops_nothing(answer: int, sim: Sim) -> None:
    made = await endpoint(sim, "customer.created")
    other = await endpoint(sim, "customer.created")
    await ok(sim, "POST /v1/customers", name="Ada")
    sent: list[str] = []

    async def send(_: str, headers: dict[str, str], body: bytes, __: float) -> int:
        sent.append(headers["Stripe-Signature"])
        if genuine(Delivery("", {"stripe-signature": headers["Stripe-Signature"]}, body, 0), made["secret"]):
            await ok(sim, f"DELETE /v1/webhook_endpoints/{made['id']}")
        return answer

    await Pump(sim.world).deliver_due(send)
    assert len(sent) == 2
    await sim.move(60)
    assert await Pump(sim.world).deliver_due(send) == (0 if answer == 200 else 1), "only the other one is tried again"
    assert other["status"] == "enabled"


async def test_nothing_leaves_this_machine_unless_told(sim: Sim) -> None:
    receiver = Receiver()
    for url in ("https://example.com/hook", "http://127.0.0.1.example.com/", "http://localhost:9/", "http://[::1]:9/"):
        await ok(sim, "POST /v1/webhook_endpoints", url=url, enabled_events=["customer.created"])
    await ok(sim, "POST /v1/customers", name="Ada")
    await receiver.drain(sim)
    assert {delivery.url for delivery in receiver.got} == {"http://localhost:9/", "http://[::1]:9/"}
    await sim.move(60)
    pump, anywhere = Pump(sim.world, anywhere=True), Receiver()
    await pump.deliver_due(anywhere.send)
    assert {delivery.url for delivery in anywhere.got} == {"https://example.com/hook", "http://127.0.0.1.example.com/"}


# By the plan


async def lived(*rules: dict[str, Any], seed: int = 1, count: int = 40) -> tuple[Receiver, list[str], Sim]:
    """Make customers one after another; tells what came, and in which order the events were made."""
    sim, receiver = Sim(), Receiver()
    await endpoint(sim, "customer.created")
    await plan(sim, *rules, seed=seed)
    for at in range(count):
        await ok(sim, "POST /v1/customers", name=f"c{at}")
        await receiver.drain(sim)
        await sim.move(1)
    for _ in range(20):
        await sim.move(60)
        await receiver.drain(sim)
    page = await ok(sim, "GET /v1/events", type="customer.created", limit=100)
    return receiver, [event["id"] for event in reversed(page["data"])], sim


def ids(receiver: Receiver) -> list[str]:
    return [delivery.event["id"] for delivery in receiver.got]


async def test_by_plan_a_delivery_is_lost_and_shows_as_not_delivered() -> None:
    receiver, made, sim = await lived({"kind": "lost", "probability": 0.3})
    came = ids(receiver)
    assert 0 < len(made) - len(came) < len(made)
    assert len(set(came)) == len(came)
    missed = await ok(sim, "GET /v1/events", delivery_success=False, type="customer.*", limit=100)
    assert {event["id"] for event in missed["data"]} == set(made) - set(came)
    got = await ok(sim, "GET /v1/events", delivery_success=True, types=["customer.created", "refund.*"], limit=100)
    assert {event["id"] for event in got["data"]} == set(came)
    sim.simulator.close()


async def test_by_plan_a_delivery_comes_twice_by_the_same_id() -> None:
    receiver, made, sim = await lived({"kind": "twice", "probability": 0.3})
    counts = Counter(ids(receiver))
    assert counts.keys() == set(made)
    assert set(counts.values()) == {1, 2}
    sim.simulator.close()


async def test_by_plan_two_events_with_ids_of_their_own_tell_of_one_change() -> None:
    receiver, made, sim = await lived({"kind": "twin", "probability": 0.3})
    assert len(set(ids(receiver))) == len(ids(receiver)) == len(made) > 40
    told = Counter((d.event["type"], d.event["data"]["object"]["id"]) for d in receiver.got)
    assert len(told) == 40
    assert set(told.values()) == {1, 2}
    twin = next(key for key, count in told.items() if count == 2)
    pair = [d.event for d in receiver.got if d.event["data"]["object"]["id"] == twin[1]]
    assert [e | {"id": None, "pending_webhooks": None} for e in pair[:1]] == [
        e | {"id": None, "pending_webhooks": None} for e in pair[1:]
    ]
    sim.simulator.close()


async def test_by_plan_later_events_overtake_earlier_ones() -> None:
    receiver, made, sim = await lived({"kind": "out_of_order", "probability": 0.3, "delay_seconds": 3})
    assert ids(receiver) != made
    assert sorted(ids(receiver)) == sorted(made)
    sim.simulator.close()


async def test_by_plan_a_delivery_is_late_by_as_much_as_it_says() -> None:
    receiver, made, sim = await lived({"kind": "late", "low": 5, "high": 15})
    assert sorted(ids(receiver)) == sorted(made)
    for delivery in receiver.got:
        signed = int(delivery.headers["stripe-signature"].split(",")[0].removeprefix("t="))
        # It is looked for once a second, and once a minute at the end.
        assert delivery.event["created"] + 5 <= signed <= delivery.event["created"] + 15 + 60
    sim.simulator.close()


async def test_the_same_seed_tells_the_same_deliveries_badly_and_another_seed_others() -> None:
    rules = (
        {"kind": "lost", "probability": 0.2},
        {"kind": "twice", "probability": 0.2},
        {"kind": "twin", "probability": 0.2},
    )
    runs = [await lived(*rules, seed=seed) for seed in (5, 5, 6)]
    told = [[(d.body, d.headers) for d in receiver.got] for receiver, _, _ in runs]
    assert told[0] == told[1] != told[2]
    for _, _, sim in runs:
        sim.simulator.close()


async def test_a_plan_for_one_type_leaves_the_others_alone(sim: Sim) -> None:
    receiver = Receiver()
    await endpoint(sim)
    await plan(sim, {"kind": "lost", "event": "refund.*"})
    await ok(sim, "POST /v1/refunds", charge=await sim.charge())
    await receiver.drain(sim)
    assert "charge.refunded" in receiver.types
    assert "refund.created" not in receiver.types


BAD = [
    ("rules", {}, "list"),
    ("rules[0]", {"rules": [3]}, "object"),
    ("rules[0].kind", {"rules": [{}]}, "one of"),
    ("rules[0].kind", {"rules": [{"kind": []}]}, "one of"),
    ("rules[0].wat", {"rules": [{"kind": "lost", "wat": 1}]}, "not known"),
    ("rules[0].event", {"rules": [{"kind": "lost", "event": 1}]}, "pattern"),
    ("rules[1].probability", {"rules": [{"kind": "lost"}, {"kind": "lost", "probability": 2}]}, "0 to 1"),
    ("rules[0].delay_seconds", {"rules": [{"kind": "late", "delay_seconds": -1}]}, "number"),
    ("rules[0].delay_seconds", {"rules": [{"kind": "late"}]}, "needs"),
    ("rules[0].delay_seconds", {"rules": [{"kind": "lost", "delay_seconds": 1}]}, "means nothing"),
    ("rules[0].low", {"rules": [{"kind": "late", "low": 9, "high": 3}]}, "at most"),
    ("seed", {"seed": 1.5, "rules": []}, "whole"),
    ("wat", {"rules": [], "wat": 1}, "not known"),
]


@pytest.mark.parametrize(("where", "body", "why"), BAD)
async def test_a_bad_plan_is_refused_by_field_and_reason_and_the_old_one_stays(
    where: str, body: dict[str, Any], why: str, sim: Sim
) -> None:
    await plan(sim, {"kind": "lost", "probability": 0.5})
    before = await sim.control("GET /_sim/webhooks/plan")
    reply = await sim.control("POST /_sim/webhooks/plan", body)
    assert (reply.status, reply["error"]["field"]) == (400, where)
    assert why in reply["error"]["message"]
    assert (await sim.control("GET /_sim/webhooks/plan")).body == before.body


# Catching up


async def test_events_go_back_thirty_days_and_are_found_by_type_pattern_and_time(sim: Sim) -> None:
    await ok(sim, "POST /v1/refunds", charge=await sim.charge(), amount=1)
    await sim.move(10)
    some = await ok(sim, "GET /v1/events", type="refund.*", limit=100)
    assert {event["type"] for event in some["data"]} == {"refund.created", "refund.updated"}
    exact = await ok(sim, "GET /v1/events", types=["charge.refunded", "charge.succeeded"])
    assert [event["type"] for event in exact["data"]] == ["charge.refunded", "charge.succeeded"]
    late = await ok(sim, "GET /v1/events", created={"gt": START})
    assert {event["created"] for event in late["data"]} == {START + 3, START + 5}
    assert (await sim.call("GET /v1/events", types=[f"t{at}" for at in range(21)])).status == 400
    event = some["data"][-1]["id"]
    await sim.move(30 * DAY - 10)
    assert len((await ok(sim, "GET /v1/events", limit=100))["data"]) > 3
    assert (await sim.call(f"GET /v1/events/{event}")).status == 200
    await sim.move(6)
    assert (await ok(sim, "GET /v1/events"))["data"] == []
    assert (await sim.call(f"GET /v1/events/{event}")).error["code"] == "resource_missing"


async def test_connect_endpoints_hear_of_connected_accounts_and_others_do_not(sim: Sim) -> None:
    account = (await ok(sim, "POST /v1/accounts", country="US"))["id"]
    own, connected = Receiver(), Receiver()
    first = await endpoint(sim, "customer.created")
    second = await endpoint(sim, "customer.created", connect=True)
    await ok(sim, "POST /v1/customers", name="Ada")
    await ok(sim, "POST /v1/customers", name="Bob", account=account)
    for delivery in await own.drain(sim):
        assert genuine(delivery, first["secret"]) != genuine(delivery, second["secret"])
        connected.got += [delivery] if genuine(delivery, second["secret"]) else []
    assert [(d.event["account"], d.event["data"]["object"]["name"]) for d in connected.got] == [(account, "Bob")]
    assert len(own.got) == 2


# By a real server to a real receiver


async def test_a_real_server_delivers_to_a_real_receiver_and_tries_again_after_trouble() -> None:
    refused = 2
    done = asyncio.Event()

    def answer(delivery: Delivery) -> int:
        if delivery.event["type"] != "refund.created":
            return 200
        if sum(kind == "refund.created" for kind in receiver.types) <= refused:
            return 503
        done.set()
        return 200

    receiver = Receiver(answer)
    async with listening(receiver) as url:
        with simulator() as server:
            async with server.session() as session:
                form = {"url": url, "enabled_events[]": "*"}
                async with session.post("/v1/webhook_endpoints", data=form) as reply:
                    secret = (await reply.json())["secret"]
                form = {"amount": "5000", "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}
                async with session.post("/v1/payment_intents", data=form) as reply:
                    charge = (await reply.json())["latest_charge"]
                async with session.post("/v1/refunds", data={"charge": charge}) as reply:
                    refund = (await reply.json())["id"]
                async with asyncio.timeout(30):
                    while not done.is_set():
                        async with session.post("/_sim/clock", json={"move_seconds": 600}) as reply:
                            assert reply.status == 200
                        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.05)
    tries = [delivery for delivery in receiver.got if delivery.event["type"] == "refund.created"]
    assert len(tries) == refused + 1
    for delivery in tries:
        read = stripe.Webhook.construct_event(delivery.body, delivery.headers["stripe-signature"], secret, tolerance=0)
        assert read["data"]["object"]["id"] == refund


def test_the_steps_are_stripes_three_days_and_three_times() -> None:
    assert sum(webhooks.LIVE_STEPS) <= 3 * DAY
    assert len(webhooks.SANDBOX_STEPS) == 3
