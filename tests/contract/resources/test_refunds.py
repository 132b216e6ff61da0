"""What a refund shows, and how it goes on: by method and test card, on a clock that is moved."""

from __future__ import annotations

from typing import Any

import pytest

from stripesim.cards import OTHERS
from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract
DAY = 86_400
ALWAYS = {
    "id", "object", "amount", "created", "currency", "balance_transaction", "charge", "customer", "customer_account",
    "metadata", "payment_intent", "payment_method", "reason", "receipt_number", "source_transfer_reversal", "status",
    "transfer_reversal", "destination_details",
}  # fmt: skip
BANK_DEBITS = ("sepa_debit", "us_bank_account", "bacs_debit", "au_becs_debit", "acss_debit")
WITHOUT_NATIVE_REFUND = ("konbini", "promptpay", "boleto", "customer_balance")


async def paid(sim: Recorder, method: str, currency: str = "usd") -> str:
    """Pay 50.00 by a method that is no card; tells the charge."""
    made = await sim.ok("POST /v1/payment_methods", type=method)
    return await sim.charge(5000, currency, card=made["id"])


async def events_of(sim: Recorder, object_id: str) -> list[str]:
    listed = (await sim.ok("GET /v1/events", limit=100))["data"]
    return [one["type"] for one in reversed(listed) if one["data"]["object"]["id"] == object_id]


async def test_what_has_no_value_is_absent_and_not_null(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge())
    assert refund.json.keys() == ALWAYS
    assert refund["id"].startswith("re_")


async def test_a_card_refund_is_there_at_once_and_its_reference_follows(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge())
    waiting = {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"}
    assert (refund["status"], refund["destination_details"]) == ("succeeded", {"card": waiting, "type": "card"})
    await sim.move(5)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    card = after["destination_details"]["card"]
    assert card["reference_status"] == "available"
    assert len(card["reference"]) == 16
    assert await events_of(sim, refund["id"]) == ["refund.created", "refund.updated", "charge.refund.updated"]


async def test_the_pending_card_is_pending_and_then_succeeds(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(card="pm_card_pendingRefund"))
    assert (refund["status"], refund["pending_reason"]) == ("pending", "processing")
    assert refund["destination_details"] == {"card": {"type": "pending"}, "type": "card"}
    await sim.move(299)
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "pending"
    await sim.move(1)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert after["status"] == "succeeded"
    assert "pending_reason" not in after.json
    (updated,) = (await sim.ok("GET /v1/events", type="refund.updated"))["data"]
    assert updated["data"]["previous_attributes"]["status"] == "pending"


async def test_the_failing_card_succeeds_and_then_fails(sim: Recorder) -> None:
    charge = await sim.charge(card="pm_card_refundFail")
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=2000)
    assert refund["status"] == "succeeded"
    await sim.move(300)
    await failed(sim, refund["id"], "expired_or_canceled_card", charge)
    assert "refund.failed" in await events_of(sim, refund["id"])


async def failed(sim: Recorder, refund: str, reason: str, charge: str) -> None:
    """See that a refund failed, that its money is back on the balance, and that the charge may be refunded again."""
    after = await sim.ok(f"GET /v1/refunds/{refund}", expand=["failure_balance_transaction"])
    assert (after["status"], after["failure_reason"]) == ("failed", reason)
    row = after["failure_balance_transaction"]
    assert (row["type"], row["amount"], row["fee"], row["source"]) == ("refund_failure", after["amount"], 0, refund)
    paid_back = await sim.ok(f"GET /v1/charges/{charge}")
    assert (paid_back["amount_refunded"], paid_back["refunded"]) == (0, False)


async def test_a_refund_fails_thirty_days_later(sim: Recorder) -> None:
    charge = await sim.charge()
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    later = {"reason": "lost_or_stolen_card", "after_seconds": 30 * DAY}
    await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", later)
    await sim.move(30 * DAY - 1)
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "succeeded"
    await sim.move(1)
    await failed(sim, refund["id"], "lost_or_stolen_card", charge)


@pytest.mark.parametrize("method", BANK_DEBITS)
async def test_a_bank_debits_refund_takes_days(sim: Recorder, method: str) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await paid(sim, method, "eur"))
    assert refund["id"].startswith("pyr_")
    assert (refund["status"], refund["pending_reason"]) == ("pending", "processing")
    assert refund["destination_details"] == {"type": method}
    await sim.move(3 * DAY - 1)
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "pending"
    await sim.move(1)
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "succeeded"


async def test_a_payment_that_is_not_settled_keeps_its_refund_pending(sim: Recorder) -> None:
    await sim.control("POST /_sim/settings", {"bank_charge_delay": 2.0 * DAY})
    charge = await paid(sim, "sepa_debit", "eur")
    assert (await sim.ok(f"GET /v1/charges/{charge}"))["status"] == "pending"
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    assert (refund["status"], refund["pending_reason"]) == ("pending", "charge_pending")
    await sim.move(6 * DAY)
    assert (await sim.ok(f"GET /v1/charges/{charge}"))["status"] == "succeeded"
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "succeeded"


@pytest.mark.parametrize("method", WITHOUT_NATIVE_REFUND)
async def test_a_method_without_native_refunds_asks_the_customer(sim: Recorder, method: str) -> None:
    charge = await paid(sim, method)
    refund = await sim.ok("POST /v1/refunds", charge=charge, instructions_email="ada@example.com")
    assert (refund["status"], refund["next_action"]["type"]) == ("requires_action", "display_details")
    shown = refund["next_action"]["display_details"]
    assert shown["email_sent"]["email_sent_to"] == refund["instructions_email"] == "ada@example.com"
    assert shown["expires_at"] > refund["created"]
    assert refund["balance_transaction"] is not None, "its money is set aside at once"
    path = f"/v1/refunds/{refund['id']}"

    await sim.control(f"POST /_sim/refunds/{refund['id']}/act", {})
    acted = await sim.ok(f"GET {path}")
    assert (acted["status"], acted["pending_reason"]) == ("pending", "processing")
    assert "next_action" not in acted.json
    await sim.control(f"POST /_sim/refunds/{refund['id']}/require_action", {})
    assert (await sim.ok(f"GET {path}"))["status"] == "requires_action", "the bank returned it"
    await sim.control(f"POST /_sim/refunds/{refund['id']}/act", {})
    await sim.move(3 * DAY)
    assert (await sim.ok(f"GET {path}"))["status"] == "succeeded"
    rows = (await sim.ok("GET /v1/balance_transactions", source=refund["id"]))["data"]
    assert [row["amount"] for row in rows] == [-5000], "the money has left once"


async def test_no_answer_of_the_customer_lets_the_refund_fail(sim: Recorder) -> None:
    charge = await paid(sim, "konbini")
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    expires = refund["next_action"]["display_details"]["expires_at"]
    await sim.move(expires - sim.clock.seconds())
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert after["status"] == "failed"
    await failed(sim, refund["id"], "unknown", charge)


@pytest.mark.parametrize("acted", [False, True])
async def test_a_canceled_refund_says_why_and_gives_its_money_back(sim: Recorder, *, acted: bool) -> None:
    charge = await paid(sim, "konbini")
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    if acted:
        # The bank returned it before it is canceled.
        await sim.control(f"POST /_sim/refunds/{refund['id']}/act", {})
        await sim.control(f"POST /_sim/refunds/{refund['id']}/require_action", {})
    gone = await sim.ok(f"POST /v1/refunds/{refund['id']}/cancel")
    assert (gone["status"], gone["failure_reason"]) == ("canceled", "merchant_request")
    rows = (await sim.ok("GET /v1/balance_transactions", source=refund["id"]))["data"]
    assert [row["amount"] for row in rows] == [5000, -5000], "once out, once back"
    assert rows[0]["id"] == gone["failure_balance_transaction"]
    assert (await sim.ok(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0
    assert (await sim.ok("POST /v1/refunds", charge=charge))["amount"] == 5000


@pytest.mark.parametrize("status", ["succeeded", "pending", "failed", "canceled"])
async def test_only_a_refund_that_waits_can_be_canceled(sim: Recorder, status: str) -> None:
    charge = await sim.charge(card="pm_card_pendingRefund") if status == "pending" else await sim.charge()
    if status == "canceled":
        charge = await paid(sim, "konbini")
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    if status == "failed":
        await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", {"reason": "declined"})
    if status == "canceled":
        await sim.ok(f"POST /v1/refunds/{refund['id']}/cancel")
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == status
    reply = await sim.refused(f"POST /v1/refunds/{refund['id']}/cancel", 400)
    assert reply.error["message"] == "Canceling this refund is unsupported."


async def test_a_card_refund_waits_for_the_available_balance(sim: Recorder) -> None:
    charge = await sim.charge()
    await sim.booked()
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 4999})
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    assert (refund["status"], refund["pending_reason"]) == ("pending", "insufficient_funds")
    assert refund["balance_transaction"] is None
    balance = await sim.ok("GET /v1/balance")
    assert balance["pending"][0]["amount"] > 0, "pending funds do not count"
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 5000})
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert after["status"] == "succeeded"
    assert after["balance_transaction"] is not None


async def test_a_waiting_refund_goes_out_when_pending_funds_arrive(sim: Recorder) -> None:
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 0})
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(), amount=1000)
    assert refund["status"] == "pending"
    await sim.move(3 * DAY)
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "succeeded"


async def test_a_card_refund_that_waited_too_long_fails(sim: Recorder) -> None:
    charge = await sim.charge()
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": -5000})
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    await sim.move(7 * DAY)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert (after["status"], after["failure_reason"]) == ("failed", "insufficient_funds")
    assert "failure_balance_transaction" not in after.json
    assert (await sim.ok("GET /v1/balance_transactions", source=refund["id"]))["data"] == []


@pytest.mark.parametrize("method", ["klarna", "ideal", "sepa_debit"])
async def test_another_methods_refund_fails_for_want_of_balance(sim: Recorder, method: str) -> None:
    charge = await paid(sim, method, "eur")
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 100})
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    assert (refund["status"], refund["pending_reason"]) == ("pending", "insufficient_funds")
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 100_000})
    await sim.move(60)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    assert (after["status"], after["failure_reason"]) == ("failed", "insufficient_funds")


async def test_a_balance_is_spent_once_by_refunds_that_come_together(sim: Recorder) -> None:
    charges = [await sim.charge() for _ in range(4)]
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 10_000})
    made = [await sim.ok("POST /v1/refunds", charge=charge) for charge in charges]
    assert [refund["status"] for refund in made] == ["succeeded", "succeeded", "pending", "pending"]


@pytest.mark.parametrize("card", ["pm_card_pendingRefund", "pm_card_visa"])
async def test_a_chargeback_overtakes_a_pending_refund_and_no_other(sim: Recorder, card: str) -> None:
    charge = await sim.charge(card=card)
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=1000)
    await sim.control("POST /_sim/disputes", {"charge": charge, "after_seconds": 10})
    await sim.move(600)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}")
    if card == "pm_card_visa":
        assert after["status"] == "succeeded"
    else:
        assert (after["status"], after["failure_reason"]) == ("failed", "charge_for_pending_refund_disputed")


async def test_what_was_captured_in_part_is_refunded_up_to_that_part(sim: Recorder) -> None:
    charge = await sim.charge(5000, capture_method="manual")
    intent = (await sim.ok(f"GET /v1/charges/{charge}"))["payment_intent"]
    await sim.ok(f"POST /v1/payment_intents/{intent}/capture", amount_to_capture=2000)
    await sim.refused("POST /v1/refunds", 400, None, "amount", charge=charge, amount=2001)
    assert (await sim.ok("POST /v1/refunds", charge=charge))["amount"] == 2000
    after = await sim.ok(f"GET /v1/charges/{charge}")
    assert (after["refunded"], after["amount_refunded"], after["amount"]) == (True, 2000, 5000)


async def test_metadata_stays_with_the_refund_that_has_it(sim: Recorder) -> None:
    charge = await sim.charge(metadata={"order_id": "536365"})
    plain = await sim.ok("POST /v1/refunds", charge=charge, amount=100)
    assert plain["metadata"] == {}, "it is not copied from the payment intent"
    path = f"POST /v1/refunds/{plain['id']}"
    assert (await sim.ok(path, metadata={"a": "1", "b": "2"}))["metadata"] == {"a": "1", "b": "2"}
    assert (await sim.ok(path, metadata={"a": ""}))["metadata"] == {"b": "2"}
    assert (await sim.ok(path, **{"metadata[c]": "3"}))["metadata"] == {"b": "2", "c": "3"}
    assert (await sim.ok(path, metadata=""))["metadata"] == {}


async def test_endive_tells_the_reference_of_three_more_methods(sim: Recorder) -> None:
    for method in ("klarna", "afterpay_clearpay", "paypal", "alipay"):
        refund = await sim.ok("POST /v1/refunds", charge=await paid(sim, method))
        await sim.move(10)
        path = f"GET /v1/refunds/{refund['id']}"
        old: Any = (await sim.ok(path))["destination_details"]
        assert old == {method: {}, "type": method}
        new = await sim.ok(path, version="2026-10-28.endive", check=False)
        told = new["destination_details"][method]
        assert told.keys() == (set() if method == "alipay" else {"reference", "reference_status"})


@pytest.mark.parametrize("method", sorted(OTHERS))
async def test_a_refund_of_every_method_is_what_the_file_says(sim: Recorder, method: str) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await paid(sim, method))
    assert refund["id"].startswith("pyr_")
    await sim.move(60 * DAY)
    after = await sim.ok(f"GET /v1/refunds/{refund['id']}", expand=["charge", "payment_intent", "payment_method"])
    assert after["payment_method"]["type"] == method
    assert after["status"] in {"succeeded", "failed"}
