"""Disputes, what they take, what they leave open, and how the same money can be lost twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract


async def opened(sim: Recorder, card: str = "pm_card_createDispute", amount: int = 10_000) -> tuple[str, str]:
    """Pay by a card whose dispute follows half a second later; tells charge and dispute."""
    charge = await sim.charge(amount, card=card)
    assert (await sim.ok("GET /v1/disputes", charge=charge))["data"] == []
    await sim.move(0.5)
    (dispute,) = (await sim.ok("GET /v1/disputes", charge=charge))["data"]
    return charge, dispute["id"]


async def adjustments(sim: Recorder) -> list[dict[str, Any]]:
    rows = (await sim.ok("GET /v1/balance_transactions", type="adjustment", limit=100))["data"]
    return [row for row in reversed(rows) if row["description"] != "Set by hand"]


async def gone(sim: Recorder, charge: str) -> int:
    """Tell how much of a charge has left by refunds and chargebacks, without fees."""
    refunds = (await sim.ok("GET /v1/refunds", charge=charge))["data"]
    kept = sum(one["amount"] for one in refunds if one["status"] == "succeeded")
    return int(kept - sum(row["amount"] for row in await adjustments(sim)))


@pytest.mark.parametrize(("card", "reason", "code", "status"), [
    ("pm_card_createDispute", "fraudulent", "10.4", "needs_response"),
    ("pm_card_createDisputeProductNotReceived", "product_not_received", "13.1", "needs_response"),
    ("pm_card_createDisputeInquiry", "fraudulent", "10.4", "warning_needs_response"),
])  # fmt: skip
async def test_a_test_card_brings_its_dispute(sim: Recorder, card: str, reason: str, code: str, status: str) -> None:
    charge, dispute = await opened(sim, card)
    shown = await sim.ok(f"GET /v1/disputes/{dispute}")
    assert dispute.startswith("du_")
    assert (shown["reason"], shown["status"], shown["amount"]) == (reason, status, 10_000)
    assert shown["payment_method_details"]["card"]["network_reason_code"] == code
    assert (await sim.ok(f"GET /v1/charges/{charge}"))["disputed"] is True
    assert (await sim.ok(f"GET /v1/charges/{charge}/dispute"))["id"] == dispute


async def test_a_manual_charge_is_disputed_only_after_its_capture(sim: Recorder) -> None:
    charge = await sim.charge(900, card="pm_card_createDispute", capture_method="manual")
    await sim.move(60)
    assert (await sim.ok("GET /v1/disputes", charge=charge))["data"] == []
    intent = (await sim.ok(f"GET /v1/charges/{charge}"))["payment_intent"]
    await sim.ok(f"POST /v1/payment_intents/{intent}/capture", amount_to_capture=600)
    await sim.move(0.5)
    (dispute,) = (await sim.ok("GET /v1/disputes", charge=charge))["data"]
    assert dispute["amount"] == 600


async def test_a_chargeback_takes_amount_and_fee_at_once(sim: Recorder) -> None:
    charge, dispute = await opened(sim)
    (row,) = await adjustments(sim)
    assert (row["reporting_category"], row["amount"], row["fee"], row["net"]) == ("dispute", -10_000, 1500, -11_500)
    assert row["description"] == f"Chargeback withdrawal for {charge}"
    assert (row["status"], row["source"], row["fee_details"][0]["description"]) == ("available", dispute, "Dispute fee")
    found = await sim.ok("GET /v1/balance_transactions", source=dispute)
    assert found["data"] == [], "a dispute's id matches nothing, although the row names it"


async def test_a_won_dispute_returns_the_amount_and_not_the_fee(sim: Recorder) -> None:
    charge, dispute = await opened(sim)
    await sim.ok(f"POST /v1/disputes/{dispute}", evidence={"uncategorized_text": "winning_evidence"})
    await sim.move(5)
    _, back = await adjustments(sim)
    assert (back["reporting_category"], back["amount"], back["fee"]) == ("dispute_reversal", 10_000, 0)
    won = await sim.ok(f"GET /v1/disputes/{dispute}")
    assert (won["status"], won["is_charge_refundable"]) == ("won", True)
    now = await sim.ok(f"GET /v1/charges/{charge}")
    assert (now["disputed"], now["refunded"], now["amount_refunded"]) == (True, False, 0)
    assert (await sim.ok("POST /v1/refunds", charge=charge))["status"] == "succeeded"


async def test_a_lost_dispute_keeps_amount_and_door_closed(sim: Recorder) -> None:
    charge, dispute = await opened(sim)
    await sim.ok(f"POST /v1/disputes/{dispute}", evidence={"uncategorized_text": "losing_evidence"})
    await sim.move(5)
    assert len(await adjustments(sim)) == 1
    assert (await sim.ok(f"GET /v1/disputes/{dispute}"))["is_charge_refundable"] is False
    await sim.refused("POST /v1/refunds", 400, "charge_disputed", None, charge=charge)


async def test_the_order_of_a_disputes_events(sim: Recorder) -> None:
    _, dispute = await opened(sim)
    await sim.ok(f"POST /v1/disputes/{dispute}", evidence={"uncategorized_text": "winning_evidence"})
    await sim.move(5)
    listed = (await sim.ok("GET /v1/events", type="charge.dispute.*"))["data"]
    assert [one["type"].removeprefix("charge.dispute.") for one in reversed(listed)] == [
        "created", "funds_withdrawn", "updated", "updated", "funds_reinstated", "closed",
    ]  # fmt: skip


async def test_evidence_is_gathered_before_it_is_submitted(sim: Recorder) -> None:
    _, dispute = await opened(sim)
    path = f"POST /v1/disputes/{dispute}"
    draft = await sim.ok(path, evidence={"customer_name": "Ada"}, submit=False)
    assert (draft["status"], draft["evidence"]["customer_name"]) == ("needs_response", "Ada")
    sent = await sim.ok(path, evidence={"receipt": "file_1"}, metadata={"case": "7"})
    assert (sent["evidence"]["customer_name"], sent["metadata"]) == ("Ada", {"case": "7"})
    assert (sent["status"], sent["evidence_details"]["submission_count"]) == ("under_review", 1)


async def test_what_is_closed_stays_closed(sim: Recorder) -> None:
    charge, dispute = await opened(sim)
    assert (await sim.ok(f"POST /v1/disputes/{dispute}/close"))["status"] == "lost"
    for path in (f"disputes/{dispute}", f"disputes/{dispute}/close", f"charges/{charge}/dispute/close"):
        reply = await sim.refused(f"POST /v1/{path}", 400)
        assert reply.error["message"] == "This dispute is already closed"


async def test_a_full_refund_settles_an_inquiry_and_a_part_does_not(sim: Recorder) -> None:
    charge, inquiry = await opened(sim, "pm_card_createDisputeInquiry")
    shown = await sim.ok(f"GET /v1/disputes/{inquiry}")
    assert (shown["is_charge_refundable"], shown["balance_transactions"]) == (True, [])
    await sim.ok("POST /v1/refunds", charge=charge, amount=9999)
    assert (await sim.ok(f"GET /v1/disputes/{inquiry}"))["status"] == "warning_needs_response"
    await sim.ok("POST /v1/refunds", charge=charge)
    assert (await sim.ok(f"GET /v1/disputes/{inquiry}"))["status"] == "warning_closed"
    assert await adjustments(sim) == []


@pytest.mark.parametrize("by", ["evidence", "control"])
async def test_a_refund_during_an_inquiry_can_be_lost_twice(sim: Recorder, by: str) -> None:
    charge, inquiry = await opened(sim, "pm_card_createDisputeInquiry")
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=2000)
    await sim.move(300)
    if by == "evidence":
        text = {"uncategorized_text": "escalate_inquiry_evidence"}
        assert (await sim.ok(f"POST /v1/disputes/{inquiry}", evidence=text))["status"] == "warning_under_review"
        await sim.move(5)
    else:
        await sim.control(f"POST /_sim/disputes/{inquiry}/escalate", {})
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "succeeded"
    escalated = await sim.ok(f"GET /v1/disputes/{inquiry}")
    assert (escalated["status"], escalated["is_charge_refundable"]) == ("needs_response", False)
    assert await gone(sim, charge) == 12_000, "120.00 is out on a payment of 100.00"


async def test_a_refund_right_before_the_escalation_fails_instead(sim: Recorder) -> None:
    charge, inquiry = await opened(sim, "pm_card_createDisputeInquiry")
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=2000)
    assert refund["status"] == "succeeded"
    await sim.control(f"POST /_sim/disputes/{inquiry}/escalate", {})
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert (after["status"], after["failure_reason"]) == ("failed", "charge_for_pending_refund_disputed")
    assert await gone(sim, charge) == 10_000


@pytest.mark.parametrize("route", ["disputes/{dispute}/close", "charges/{charge}/dispute/close"])
async def test_an_inquiry_that_is_closed_by_api_is_lost_and_shuts_its_charge(sim: Recorder, route: str) -> None:
    charge, inquiry = await opened(sim, "pm_card_createDisputeInquiry")
    await sim.ok("POST /v1/refunds", charge=charge, amount=100)
    closed = await sim.ok("POST /v1/" + route.format(dispute=inquiry, charge=charge))
    assert (closed["status"], closed["is_charge_refundable"], closed["balance_transactions"]) == ("lost", False, [])
    await sim.refused("POST /v1/refunds", 400, "charge_disputed", charge=charge, amount=100)
    reply = await sim.refused(f"POST /v1/disputes/{inquiry}/close", 400)
    assert reply.error["message"] == "This dispute is already closed"
    assert (await sim.control(f"POST /_sim/disputes/{inquiry}/escalate")).status == 400
    assert (await gone(sim, charge), await adjustments(sim)) == (100, []), "an inquiry takes no money, lost or not"


async def test_a_refund_is_accepted_under_review_of_an_inquiry(sim: Recorder) -> None:
    charge, inquiry = await opened(sim, "pm_card_createDisputeInquiry")
    sent = await sim.ok(f"POST /v1/disputes/{inquiry}", evidence={"receipt": "file_1"})
    assert sent["status"] == "warning_under_review"
    assert (await sim.ok("POST /v1/refunds", charge=charge, amount=100))["status"] == "succeeded"


async def test_there_may_be_several_disputes_and_one_for_more_than_the_charge(sim: Recorder) -> None:
    charge = await sim.charge(card="pm_card_createMultipleDisputes")
    await sim.move(1)
    assert len((await sim.ok("GET /v1/disputes", charge=charge))["data"]) == 2
    other = await sim.charge(1000)
    await sim.control("POST /_sim/disputes", {"charge": other, "amount": 1300})
    (dispute,) = (await sim.ok("GET /v1/disputes", charge=other))["data"]
    assert dispute["amount"] == 1300
    await sim.control(f"POST /_sim/disputes/{dispute['id']}/lose", {})
    await sim.refused("POST /v1/refunds", 400, "charge_disputed", None, charge=other)


async def test_one_open_dispute_of_several_closes_the_door(sim: Recorder) -> None:
    charge = await sim.charge(card="pm_card_createMultipleDisputes")
    await sim.move(1)
    first, second = (await sim.ok("GET /v1/disputes", charge=charge))["data"]
    await sim.control(f"POST /_sim/disputes/{first['id']}/win", {})
    await sim.refused("POST /v1/refunds", 400, "charge_disputed", None, charge=charge)
    await sim.control(f"POST /_sim/disputes/{second['id']}/win", {})
    assert (await sim.ok("POST /v1/refunds", charge=charge))["status"] == "succeeded"


async def test_endive_adds_what_dahlia_does_not_have(sim: Recorder) -> None:
    _, dispute = await opened(sim)
    old = await sim.ok(f"GET /v1/disputes/{dispute}")
    new = await sim.ok(f"GET /v1/disputes/{dispute}", version="2026-10-28.endive")
    assert new.json.keys() - old.json.keys() == {"intended_submission_method"}
    assert new["evidence_details"].keys() - old["evidence_details"].keys() == {"submission_method"}


async def test_a_warning_is_actionable_until_dispute_or_full_refund(sim: Recorder) -> None:
    for over in ("refund", "dispute"):
        charge = await sim.charge(card="pm_card_createIssuerFraudRecord")
        await sim.move(1)
        (warning,) = (await sim.ok("GET /v1/radar/early_fraud_warnings", charge=charge))["data"]
        assert warning["id"].startswith("issfr_")
        path = f"GET /v1/radar/early_fraud_warnings/{warning['id']}"
        await sim.ok("POST /v1/refunds", charge=charge, amount=100)
        assert (await sim.ok(path))["actionable"] is True
        if over == "refund":
            await sim.ok("POST /v1/refunds", charge=charge)
        else:
            await sim.control("POST /_sim/disputes", {"charge": charge})
        assert (await sim.ok(path))["actionable"] is False


async def test_a_warning_may_come_after_the_dispute(sim: Recorder) -> None:
    charge, _ = await opened(sim)
    await sim.control("POST /_sim/warnings", {"charge": charge})
    (warning,) = (await sim.ok("GET /v1/radar/early_fraud_warnings", charge=charge))["data"]
    assert warning["actionable"] is False
