"""The balance and its rows: fees, refunds without fee, failures, another settlement currency, filters, sums."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract
DAY = 86_400
OPENING = 100_000_000


async def rows(sim: Recorder, **filters: Any) -> list[dict[str, Any]]:
    """List balance transactions, oldest first."""
    found: list[dict[str, Any]] = (await sim.ok("GET /v1/balance_transactions", limit=100, **filters))["data"]
    return found[::-1]


async def totals(sim: Recorder, **options: Any) -> tuple[int, int]:
    """Tell what is available and what is pending, in US cents."""
    balance = await sim.ok("GET /v1/balance", **options)
    sums = [sum(part["amount"] for part in balance[name]) for name in ("available", "pending")]
    return sums[0], sums[1]


@pytest.mark.parametrize(("amount", "fee"), [(10_000, 320), (50, 31), (1234, 66), (99_999, 2930)])
async def test_a_charge_costs_a_fee_and_nets_the_rest(sim: Recorder, amount: int, fee: int) -> None:
    charge = await sim.charge(amount)
    await sim.booked()
    (row,) = await rows(sim, source=charge)
    assert (row["type"], row["reporting_category"], row["amount"]) == ("charge", "charge", amount)
    assert (row["fee"], row["net"]) == (fee, amount - fee)
    (detail,) = row["fee_details"]
    assert (detail["amount"], detail["type"], detail["description"]) == (fee, "stripe_fee", "Stripe processing fees")


async def test_a_refund_gives_no_fee_back_and_costs_none(sim: Recorder) -> None:
    charge = await sim.charge(description="Order 536365")
    await sim.booked()
    before = sum(await totals(sim))
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    (row,) = await rows(sim, source=refund["id"])
    assert (row["type"], row["reporting_category"], row["amount"]) == ("refund", "refund", -5000)
    assert (row["fee"], row["fee_details"], row["net"]) == (0, [], -5000)
    assert row["description"] == "REFUND FOR CHARGE (Order 536365)"
    assert (row["status"], row["available_on"] % DAY) == ("pending", 0)
    assert sum(await totals(sim)) == before - 5000
    await sim.move(3 * DAY)
    assert (await rows(sim, source=refund["id"]))[0]["status"] == "available"


async def test_payments_by_other_means_have_types_of_their_own(sim: Recorder) -> None:
    method = (await sim.ok("POST /v1/payment_methods", type="klarna"))["id"]
    charge = await sim.charge(card=method)
    await sim.booked()
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=100)
    await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", {})
    found = {row["type"]: row for row in await rows(sim) if row["type"] != "topup"}
    assert found.keys() == {"payment", "payment_refund", "refund_failure"}
    assert found["payment"]["source"] == charge


async def test_a_failed_refund_brings_back_exactly_what_it_took(sim: Recorder) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "eur", "into": "usd", "rate_millionths": 1_083_337})
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(3333, "eur"), amount=1111)
    # The rate moves between the refund and its failure: what comes back is what went.
    await sim.control("POST /_sim/settlement", {"currency": "eur", "into": "usd", "rate_millionths": 990_001})
    await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", {})
    taken, back = await rows(sim, source=refund["id"])
    assert (taken["type"], back["type"]) == ("refund", "refund_failure")
    assert taken["amount"] + back["amount"] == 0
    assert (back["currency"], back["status"]) == ("usd", "available")


async def test_rows_are_in_the_currency_of_settlement(sim: Recorder) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "usd", "into": "cad", "rate_millionths": 1_398_500})
    charge = await sim.charge(6000)
    await sim.booked()
    (row,) = await rows(sim, source=charge)
    assert (row["amount"], row["currency"], row["exchange_rate"]) == (8391, "cad", 1.3985)
    await sim.control("POST /_sim/settlement", {"currency": "usd", "into": "cad", "rate_millionths": 1_500_000})
    refund = await sim.ok("POST /v1/refunds", charge=charge)
    (back,) = await rows(sim, source=refund["id"])
    assert (refund["currency"], back["currency"], back["amount"]) == ("usd", "cad", -9000), "and so may differ"
    await sim.control("POST /_sim/disputes", {"charge": await sim.charge(6000)})
    (dispute,) = await rows(sim, type="adjustment")
    assert (dispute["currency"], dispute["amount"], dispute["net"]) == ("cad", -9000, -10_500)


async def test_only_some_charges_are_settled_in_another_currency(sim: Recorder) -> None:
    await sim.control("POST /_sim/settlement", {"currency": "eur", "into": "usd", "rate_millionths": 1_100_000})
    await sim.charge(1000, "eur")
    await sim.charge(1000, "gbp")
    await sim.booked()
    found = {row["currency"]: row["exchange_rate"] for row in await rows(sim, type="charge")}
    assert found == {"usd": 1.1, "gbp": None}
    balance = await sim.ok("GET /v1/balance")
    assert [part["currency"] for part in balance["available"]] == ["gbp", "usd"]


async def test_funds_become_available_at_a_midnight_or_at_once(sim: Recorder) -> None:
    slow, fast = await sim.charge(), await sim.charge(card="pm_card_bypassPending")
    await sim.booked()
    (late,), (early,) = await rows(sim, source=slow), await rows(sim, source=fast)
    assert (late["status"], early["status"]) == ("pending", "available")
    assert late["available_on"] % DAY == 0
    assert await totals(sim) == (OPENING + early["net"], late["net"])
    await sim.move(late["available_on"] - sim.clock.now())
    assert await totals(sim) == (OPENING + early["net"] + late["net"], 0)


async def test_source_and_type_choose_rows(sim: Recorder) -> None:
    charges = [await sim.charge() for _ in range(3)]
    await sim.booked()
    refunds = [(await sim.ok("POST /v1/refunds", charge=charge, amount=100))["id"] for charge in charges]
    assert [row["source"] for row in await rows(sim, type="refund")] == refunds
    assert [row["source"] for row in await rows(sim, type="charge")] == charges
    for source in (*charges, *refunds):
        assert [row["source"] for row in await rows(sim, source=source)] == [source]
    assert await rows(sim, source=charges[0], type="refund") == []
    assert await rows(sim, currency="eur") == []
    assert await rows(sim, source="ch_unknown") == []


async def test_the_balance_is_the_sum_of_its_rows(sim: Recorder) -> None:
    await sim.charge(card="pm_card_createDispute")
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(card="pm_card_refundFail"))
    await sim.charge(capture_method="manual")
    for _ in range(4):
        await sim.move(DAY)
        everything = await rows(sim)
        assert all(row["net"] == row["amount"] - row["fee"] for row in everything)
        by_status = [sum(row["net"] for row in everything if row["status"] == s) for s in ("available", "pending")]
        assert list(await totals(sim)) == by_status
    assert (await sim.ok(f"GET /v1/refunds/{refund['id']}"))["status"] == "failed"


async def test_rows_name_their_sources_which_can_be_expanded(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge())
    page = await sim.ok("GET /v1/balance_transactions", type="refund", expand=["data.source.charge"])
    source = page["data"][0]["source"]
    assert (source["id"], source["charge"]["object"]) == (refund["id"], "charge")


async def test_modes_have_balances_of_their_own(sim: Recorder) -> None:
    before = await totals(sim, key="sk_live_sim")
    await sim.charge()
    assert await totals(sim, key="sk_live_sim") == before
    assert (await sim.ok("GET /v1/balance", key="sk_live_sim"))["livemode"] is True
