"""What time does to refunds: they settle, wait, come back, fail a month later; and a clock that goes wherever it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sim import START, Reply, Sim

pytestmark = pytest.mark.integration
DAY = 86_400


async def paid(sim: Sim, means: str, currency: str = "eur") -> str:
    """Pay by a test card or by another method; tells the charge."""
    how: dict[str, Any] = {"payment_method": f"pm_card_{means}"}
    if means in {"sepa_debit", "us_bank_account", "bacs_debit", "konbini", "promptpay", "boleto", "ideal", "klarna"}:
        how = {"payment_method_data": {"type": means}, "payment_method_types": [means]}
    reply = await sim.call("POST /v1/payment_intents", amount=5000, currency=currency, confirm=True, **how)
    assert reply.status == 200, reply.json
    return str(reply["latest_charge"])


async def state(sim: Sim, refund: str) -> tuple[str, str | None]:
    reply = await sim.call(f"GET /v1/refunds/{refund}")
    return reply["status"], reply.json.get("pending_reason") or reply.json.get("failure_reason")


async def booked(sim: Sim, refund: str) -> list[tuple[str, int]]:
    rows = await sim.call("GET /v1/balance_transactions", source=refund)
    return [(row["type"], row["amount"]) for row in reversed(rows["data"])]


async def sound(sim: Sim) -> Reply:
    audit = await sim.control("GET /_sim/audit")
    assert audit["ok"], audit["problems"]
    return audit


WAYS = {
    "visa": [(0, "succeeded", None)],
    "pendingRefund": [(0, "pending", "processing"), (299, "pending", "processing"), (1, "succeeded", None)],
    "refundFail": [(0, "succeeded", None), (299, "succeeded", None), (1, "failed", "expired_or_canceled_card")],
    "klarna": [(0, "succeeded", None)],
    "ideal": [(0, "pending", "processing"), (300, "succeeded", None)],
    "sepa_debit": [(0, "pending", "processing"), (3 * DAY - 1, "pending", "processing"), (1, "succeeded", None)],
    "us_bank_account": [(0, "pending", "processing"), (3 * DAY, "succeeded", None)],
    "konbini": [(0, "requires_action", None), (45 * DAY - 1, "requires_action", None), (1, "failed", "unknown")],
}


@pytest.mark.parametrize("means", WAYS)
async def test_a_refund_goes_the_way_of_its_card_or_method(means: str, sim: Sim) -> None:
    refund = await sim.call("POST /v1/refunds", charge=await paid(sim, means))
    assert refund["id"].startswith("re_" if means in {"visa", "pendingRefund", "refundFail"} else "pyr_")
    for seconds, status, why in WAYS[means]:
        await sim.move(seconds)
        assert await state(sim, refund["id"]) == (status, why)
    await sound(sim)


async def test_a_refund_fails_thirty_days_after_it_succeeded_and_the_money_is_back(sim: Sim) -> None:
    charge = await paid(sim, "visa")
    refund = await sim.call("POST /v1/refunds", charge=charge)
    later = {"reason": "lost_or_stolen_card", "after_seconds": 30 * DAY}
    assert (await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", later))["status"] == "succeeded"
    await sim.move(30 * DAY - 1)
    assert await state(sim, refund["id"]) == ("succeeded", None)
    await sim.move(1)
    assert await state(sim, refund["id"]) == ("failed", "lost_or_stolen_card")
    assert await booked(sim, refund["id"]) == [("refund", -5000), ("refund_failure", 5000)]
    failed = await sim.call(f"GET /v1/refunds/{refund['id']}")
    assert failed["failure_balance_transaction"].startswith("txn_")
    assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0
    await sound(sim)


async def test_a_failed_refund_may_leave_the_charge_as_refunded_if_told_so(sim: Sim) -> None:
    await sim.control("POST /_sim/settings", {"failed_refund_frees_charge": False})
    charge = await paid(sim, "refundFail")
    await sim.call("POST /v1/refunds", charge=charge)
    await sim.move(300)
    assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 5000
    again = await sim.call("POST /v1/refunds", charge=charge)
    assert again.error["code"] == "charge_already_refunded"
    await sound(sim)


async def test_a_customer_acts_the_bank_returns_it_and_he_has_the_whole_time_again(sim: Sim) -> None:
    refund = (await sim.call("POST /v1/refunds", charge=await paid(sim, "konbini")))["id"]
    await sim.move(20 * DAY)
    await sim.control(f"POST /_sim/refunds/{refund}/act")
    assert await state(sim, refund) == ("pending", "processing")
    assert await booked(sim, refund) == [("payment_refund", -5000)]
    await sim.control(f"POST /_sim/refunds/{refund}/require_action")
    await sim.move(44 * DAY)
    assert await state(sim, refund) == ("requires_action", None)
    await sim.control(f"POST /_sim/refunds/{refund}/act")
    await sim.move(3 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    await sim.move(30 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    assert await booked(sim, refund) == [("payment_refund", -5000)]
    await sound(sim)


async def test_a_refund_that_needs_action_is_canceled_and_its_money_comes_back(sim: Sim) -> None:
    charge = await paid(sim, "promptpay")
    refund = (await sim.call("POST /v1/refunds", charge=charge))["id"]
    assert (await sim.call(f"POST /v1/refunds/{refund}/cancel"))["status"] == "canceled"
    await sim.move(60 * DAY)
    assert await state(sim, refund) == ("canceled", "merchant_request")
    assert await booked(sim, refund) == [("payment_refund", -5000), ("refund_failure", 5000)]
    assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0
    await sound(sim)


async def low(sim: Sim, means: str) -> tuple[str, str]:
    charge = await paid(sim, means)
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 100})
    return charge, (await sim.call("POST /v1/refunds", charge=charge))["id"]


async def test_a_card_refund_waits_for_the_balance_and_goes_out_when_it_grows(sim: Sim) -> None:
    _, refund = await low(sim, "visa")
    assert await state(sim, refund) == ("pending", "insufficient_funds")
    assert await booked(sim, refund) == []
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 5000})
    assert await state(sim, refund) == ("succeeded", None)
    assert await booked(sim, refund) == [("refund", -5000)]
    await sound(sim)


async def chosen(sim: Sim, way: str, means: str = "visa") -> str:
    """Refund a charge whose refunds go a way that was chosen for it; tells the refund."""
    charge = await paid(sim, means)
    assert (await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": way})).status == 200
    return str((await sim.call("POST /v1/refunds", charge=charge))["id"])


@pytest.mark.parametrize(("verb", "ends"), [("settle", ("succeeded", None)), ("fail", ("failed", "declined"))])
async def test_a_refund_stays_pending_until_somebody_settles_or_fails_it(sim: Sim, verb: str, ends: Any) -> None:
    refund = await chosen(sim, "stays")
    assert await state(sim, refund) == ("pending", "processing")
    await sim.move(400 * DAY)
    assert await state(sim, refund) == ("pending", "processing")
    await sim.control(f"POST /_sim/refunds/{refund}/{verb}")
    assert await state(sim, refund) == ends
    await sound(sim)


async def test_a_refund_that_stays_pending_stays_so_whatever_it_waited_for_before(sim: Sim) -> None:
    charge = await paid(sim, "visa")
    await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 100})
    refund = (await sim.call("POST /v1/refunds", charge=charge))["id"]
    assert await state(sim, refund) == ("pending", "insufficient_funds")
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 9000})
    assert (await state(sim, refund), await booked(sim, refund)) == (("pending", "processing"), [("refund", -5000)])
    await sim.control(f"POST /_sim/refunds/{refund}/require_action")
    await sim.control(f"POST /_sim/refunds/{refund}/act")
    await sim.move(30 * DAY)
    assert await state(sim, refund) == ("pending", "processing")
    await sound(sim)


async def test_a_dispute_fails_a_refund_that_stays_pending(sim: Sim) -> None:
    refund = await chosen(sim, "stays")
    charge = (await sim.call(f"GET /v1/refunds/{refund}"))["charge"]
    await sim.control("POST /_sim/disputes", {"charge": charge})
    assert await state(sim, refund) == ("failed", "charge_for_pending_refund_disputed")


async def destination(sim: Sim, refund: str) -> Any:
    return (await sim.call(f"GET /v1/refunds/{refund}"))["destination_details"]


async def test_a_reversal_succeeds_at_once_and_never_has_a_reference(sim: Sim) -> None:
    refund = await chosen(sim, "reverses")
    for _ in range(2):
        assert await state(sim, refund) == ("succeeded", None)
        assert await destination(sim, refund) == {"card": {"type": "reversal"}, "type": "card"}
        await sim.move(DAY)
    assert (await sim.call("GET /v1/events", type="refund.updated"))["data"] == []
    assert await booked(sim, refund) == [("refund", -5000)]
    await sound(sim)


async def test_what_is_too_late_or_no_card_goes_its_usual_way_instead_of_being_reversed(sim: Sim) -> None:
    charge = await paid(sim, "visa")
    await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "reverses"})
    await sim.move(7200)
    early = (await sim.call("POST /v1/refunds", charge=charge, amount=100))["id"]
    await sim.move(1)
    late = (await sim.call("POST /v1/refunds", charge=charge, amount=100))["id"]
    assert [(await destination(sim, one))["card"]["type"] for one in (early, late)] == ["reversal", "refund"]
    assert await state(sim, await chosen(sim, "reverses", "ideal")) == ("pending", "processing")


async def test_a_reference_number_may_never_come(sim: Sim) -> None:
    refund = await chosen(sim, "unreferenced")
    assert (await destination(sim, refund))["card"]["reference_status"] == "pending"
    await sim.move(5)
    card = (await destination(sim, refund))["card"]
    assert card == {
        "reference_status": "unavailable",
        "reference_type": "acquirer_reference_number",
        "type": "refund",
    }
    assert len((await sim.call("GET /v1/events", type="refund.updated"))["data"]) == 1
    await sim.move(30 * DAY)
    assert (await destination(sim, refund))["card"] == card


async def test_a_card_refund_that_waits_goes_out_by_itself_when_funds_mature(sim: Sim) -> None:
    _, refund = await low(sim, "visa")
    await paid(sim, "visa")
    await sim.move(4 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    await sound(sim)


@pytest.mark.parametrize("comes", ["a payment", "a refund that failed"])
async def test_a_waiting_refund_goes_out_as_soon_as_money_comes_that_can_be_spent_at_once(sim: Sim, comes: str) -> None:
    failing = (await sim.call("POST /v1/refunds", charge=await paid(sim, "visa")))["id"]
    _, refund = await low(sim, "visa")
    if comes == "a payment":
        await sim.charge(90_000, "eur", "pm_card_bypassPending")
        await sim.move(3)
    else:
        await sim.control(f"POST /_sim/refunds/{failing}/fail")
    assert await state(sim, refund) == ("succeeded", None)
    await sound(sim)


async def test_a_card_refund_that_waits_too_long_fails(sim: Sim) -> None:
    await sim.control("POST /_sim/settings", {"low_balance_expiry": 3600})
    charge, refund = await low(sim, "visa")
    await sim.move(3599)
    assert await state(sim, refund) == ("pending", "insufficient_funds")
    await sim.move(1)
    assert await state(sim, refund) == ("failed", "insufficient_funds")
    assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 0
    await sound(sim)


async def test_another_methods_refund_fails_for_want_of_money_unless_somebody_settles_it(sim: Sim) -> None:
    _, refund = await low(sim, "klarna")
    await sim.move(60)
    assert await state(sim, refund) == ("failed", "insufficient_funds")
    _, settled = await low(sim, "klarna")
    await sim.control(f"POST /_sim/refunds/{settled}/settle")
    await sim.move(60)
    assert await state(sim, settled) == ("succeeded", None)
    await sound(sim)


async def test_a_waiting_refund_that_comes_back_is_not_booked_twice(sim: Sim) -> None:
    _, refund = await low(sim, "visa")
    await sim.control(f"POST /_sim/refunds/{refund}/require_action")
    await sim.control(f"POST /_sim/refunds/{refund}/act")
    await sim.control("POST /_sim/balance", {"currency": "eur", "available": 1_000_000})
    await sim.move(3 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    assert await booked(sim, refund) == [("refund", -5000)]
    await sound(sim)


async def test_a_failed_refund_comes_back_in_the_currency_in_which_it_left(sim: Sim) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "eur", "into": "usd", "rate_millionths": 1_100_000})
    refund = (await sim.call("POST /v1/refunds", charge=await paid(sim, "visa")))["id"]
    await sim.control("POST /_sim/settlement", {"currency": "eur", "into": "gbp", "rate_millionths": 900_000})
    await sim.control(f"POST /_sim/refunds/{refund}/fail")
    rows = (await sim.call("GET /v1/balance_transactions", source=refund))["data"]
    assert [(row["amount"], row["currency"]) for row in reversed(rows)] == [(-5500, "usd"), (5500, "usd")]
    await sound(sim)


async def test_a_dispute_opens_between_a_refunds_creation_and_its_success(sim: Sim) -> None:
    charge = await paid(sim, "pendingRefund")
    refund = (await sim.call("POST /v1/refunds", charge=charge, amount=2000))["id"]
    await sim.control("POST /_sim/disputes", {"charge": charge, "after_seconds": 100})
    await sim.move(99)
    assert await state(sim, refund) == ("pending", "processing")
    await sim.move(1)
    assert await state(sim, refund) == ("failed", "charge_for_pending_refund_disputed")
    assert await booked(sim, refund) == [("refund", -2000), ("refund_failure", 2000)]
    await sim.move(1000)
    assert (await state(sim, refund))[0] == "failed", "it does not succeed after all"
    again = await sim.call("POST /v1/refunds", charge=charge)
    assert again.error["code"] == "charge_disputed"
    await sound(sim)


@pytest.mark.parametrize(("after", "ends"), [(200, "failed"), (300, "succeeded")])
async def test_an_inquiry_that_escalates_takes_young_refunds_back_and_pays_old_ones_twice(
    after: int, ends: str, sim: Sim
) -> None:
    charge = await paid(sim, "visa")
    inquiry = (await sim.control("POST /_sim/disputes", {"charge": charge, "inquiry": True}))["id"]
    refund = (await sim.call("POST /v1/refunds", charge=charge, amount=1000))["id"]
    await sim.move(after)
    await sim.control(f"POST /_sim/disputes/{inquiry}/escalate")
    assert (await state(sim, refund))[0] == ends
    taken = (await sim.call(f"GET /v1/disputes/{inquiry}"))["balance_transactions"]
    assert [row["amount"] for row in taken] == [-5000], "the whole amount, whatever was refunded"
    await sound(sim)


async def test_an_authorisation_that_nobody_captures_expires(sim: Sim) -> None:
    intent = await sim.call(
        "POST /v1/payment_intents", amount=5000, currency="usd", payment_method="pm_card_visa", confirm=True,
        capture_method="manual",
    )  # fmt: skip
    await sim.move(7 * DAY)
    gone = await sim.call(f"GET /v1/payment_intents/{intent['id']}")
    assert (gone["status"], gone["cancellation_reason"], gone["amount_capturable"]) == ("canceled", "automatic", 0)
    refund = (await sim.call("GET /v1/refunds", charge=intent["latest_charge"]))["data"][0]
    assert (refund["reason"], refund["status"], refund["amount"]) == ("expired_uncaptured_charge", "succeeded", 5000)
    assert (await sim.call(f"POST /v1/payment_intents/{intent['id']}/capture")).status == 400
    await sound(sim)


async def test_a_captured_or_canceled_authorisation_does_not_expire(sim: Sim) -> None:
    for end in ("capture", "cancel"):
        intent = await sim.call(
            "POST /v1/payment_intents", amount=5000, currency="usd", payment_method="pm_card_visa", confirm=True,
            capture_method="manual",
        )  # fmt: skip
        before = await sim.call(f"POST /v1/payment_intents/{intent['id']}/{end}")
        await sim.move(8 * DAY)
        assert (await sim.call(f"GET /v1/payment_intents/{intent['id']}")).body == before.body
    await sound(sim)


async def test_a_refund_of_a_debit_that_has_not_arrived_waits_for_it(sim: Sim) -> None:
    await sim.control("POST /_sim/settings", {"bank_charge_delay": 2 * DAY})
    charge = await paid(sim, "sepa_debit")
    seen = await sim.call(f"GET /v1/charges/{charge}", expand=["payment_intent"])
    assert (seen["status"], seen["paid"], seen["payment_intent"]["status"]) == ("pending", False, "processing")
    assert seen["balance_transaction"] is None
    refund = (await sim.call("POST /v1/refunds", charge=charge))["id"]
    assert await state(sim, refund) == ("pending", "charge_pending")
    await sim.move(2 * DAY)
    seen = await sim.call(f"GET /v1/charges/{charge}", expand=["payment_intent"])
    assert (seen["status"], seen["paid"], seen["payment_intent"]["status"]) == ("succeeded", True, "succeeded")
    assert (await state(sim, refund))[0] == "pending"
    await sim.move(3 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    await sound(sim)


async def test_the_clock_moves_forward_back_to_a_time_and_stands(sim: Sim) -> None:
    assert (await sim.control("GET /_sim/clock")).json == {"now": START, "frozen": True}
    assert (await sim.control("POST /_sim/clock", {"move_seconds": 90.5})).json["now"] == START + 90.5
    assert (await sim.control("POST /_sim/clock", {"move_seconds": -100}))["now"] == START - 9.5
    assert (await sim.control("POST /_sim/clock", {"to": START + DAY}))["now"] == START + DAY
    assert (await sim.control("POST /_sim/clock", {}))["now"] == START + DAY
    charge = await sim.call(f"GET /v1/charges/{await sim.charge()}")
    assert charge["created"] == START + DAY


async def test_work_is_stamped_with_the_time_when_it_was_due_not_with_the_jumps_end(sim: Sim) -> None:
    refund = (await sim.call("POST /v1/refunds", charge=await paid(sim, "pendingRefund")))["id"]
    await sim.control("POST /_sim/clock", {"move_seconds": 40 * DAY})
    events = (await sim.control("GET /_sim/clock")), await sim.call("GET /v1/events", limit=100)
    assert events[1]["data"] == [], "Stripe lists events of the last 30 days"
    await sim.control("POST /_sim/clock", {"move_seconds": -20 * DAY})
    events = await sim.call("GET /v1/events", type="refund.updated")
    assert [event["created"] - START for event in events["data"]] == [305, 300]
    assert await state(sim, refund) == ("succeeded", None)


async def test_what_was_done_stays_done_when_the_clock_goes_back(sim: Sim) -> None:
    refund = (await sim.call("POST /v1/refunds", charge=await paid(sim, "pendingRefund"), idempotency_key="k"))["id"]
    await sim.control("POST /_sim/clock", {"move_seconds": 400})
    await sim.control("POST /_sim/clock", {"move_seconds": -10 * DAY})
    assert await state(sim, refund) == ("succeeded", None)
    await sim.control("POST /_sim/clock", {"move_seconds": 20 * DAY})
    assert await state(sim, refund) == ("succeeded", None)
    await sound(sim)


@pytest.mark.parametrize(("means", "reason"), [("createDispute", "fraudulent"), ("createDisputeInquiry", "fraudulent")])
async def test_a_test_card_brings_its_dispute_half_a_second_later(means: str, reason: str, sim: Sim) -> None:
    charge = await paid(sim, means)
    assert (await sim.call("GET /v1/disputes", charge=charge))["data"] == []
    await sim.move(0.5)
    dispute = (await sim.call("GET /v1/disputes", charge=charge))["data"][0]
    assert dispute["reason"] == reason
    assert dispute["is_charge_refundable"] == (means == "createDisputeInquiry")
    await sound(sim)


async def test_a_refund_that_is_worth_nothing_where_it_settles_has_its_two_rows_too(sim: Sim) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "jpy", "into": "usd", "rate_millionths": 7_000})
    charge = await paid(sim, "pendingRefund", "jpy")
    refund = (await sim.call("POST /v1/refunds", charge=charge, amount=5))["id"]
    await sim.control(f"POST /_sim/refunds/{refund}/settle")
    assert await booked(sim, refund) == [("refund", 0)]
    await sim.control(f"POST /_sim/refunds/{refund}/fail")
    assert await booked(sim, refund) == [("refund", 0), ("refund_failure", 0)]
    await sound(sim)


async def test_a_waiting_refund_sees_money_that_was_not_even_booked_when_it_began_to_wait(sim: Sim) -> None:
    await sim.control("POST /_sim/settings", {"balance_transaction_delay": 3600})
    _, refund = await low(sim, "visa")
    await paid(sim, "visa")
    await sim.move(4 * DAY)
    assert await state(sim, refund) == ("succeeded", None)
    await sound(sim)
