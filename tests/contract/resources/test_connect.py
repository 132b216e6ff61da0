"""Connect: who is debited for a refund, and what comes back of transfers and application fees."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract


async def shop(sim: Recorder) -> str:
    """Connect an account."""
    return str((await sim.ok("POST /v1/accounts", type="express", country="US"))["id"])


async def worth(sim: Recorder, account: str | None = None) -> int:
    """Tell an account's whole balance."""
    balance = await sim.ok("GET /v1/balance", account=account)
    return sum(part["amount"] for name in ("available", "pending") for part in balance[name])


async def direct(sim: Recorder, account: str, fee: int = 1000) -> dict[str, Any]:
    """Let a customer pay 100.00 to the connected account; tells the charge."""
    params = {"amount": 10_000, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    intent = await sim.ok("POST /v1/payment_intents", account=account, application_fee_amount=fee, **params)
    await sim.booked()
    charge: dict[str, Any] = (await sim.ok(f"GET /v1/charges/{intent['latest_charge']}", account=account)).json
    return charge


async def destination(sim: Recorder, account: str, **more: Any) -> dict[str, Any]:
    """Let a customer pay 100.00 to the platform for the connected account; tells the charge."""
    charge = await sim.charge(10_000, transfer_data={"destination": account, **more}, application_fee_amount=1000)
    await sim.booked()
    found: dict[str, Any] = (await sim.ok(f"GET /v1/charges/{charge}")).json
    return found


async def test_a_direct_charges_refund_debits_the_connected_account(sim: Recorder) -> None:
    account = await shop(sim)
    await worth(sim, account)
    charge = await direct(sim, account)
    platform, connected = await worth(sim), await worth(sim, account)
    refund = await sim.ok("POST /v1/refunds", account=account, charge=charge["id"], amount=4000)
    assert (await worth(sim), await worth(sim, account)) == (platform, connected - 4000), "the platform keeps its fee"
    await sim.refused(f"GET /v1/refunds/{refund['id']}", 404, "resource_missing", "id")


async def test_a_direct_charges_fee_goes_back_when_asked_for(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await direct(sim, account)
    platform, connected = await worth(sim), await worth(sim, account)
    refund = {"charge": charge["id"], "refund_application_fee": True}
    await sim.ok("POST /v1/refunds", account=account, amount=2500, **refund)
    assert (await worth(sim), await worth(sim, account)) == (platform - 250, connected - 2500 + 250)
    await sim.ok("POST /v1/refunds", account=account, **refund)
    assert (await worth(sim), await worth(sim, account)) == (platform - 1000, connected - 10_000 + 1000)
    fee = await sim.ok(f"GET /v1/application_fees/{charge['application_fee']}")
    assert (fee["refunded"], fee["amount_refunded"]) == (True, 1000)


async def test_a_direct_charges_row_shows_both_fees(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await direct(sim, account)
    row = await sim.ok(f"GET /v1/balance_transactions/{charge['balance_transaction']}", account=account)
    assert [(one["type"], one["amount"]) for one in row["fee_details"]] == [
        ("stripe_fee", 320), ("application_fee", 1000),
    ]  # fmt: skip
    assert (row["fee"], row["net"]) == (1320, 8680)


async def test_the_platform_pays_for_a_destination_charges_refund(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await destination(sim, account)
    platform, connected = await worth(sim), await worth(sim, account)
    refund = await sim.ok("POST /v1/refunds", charge=charge["id"])
    assert (await worth(sim), await worth(sim, account)) == (platform - 10_000, connected)
    assert refund["transfer_reversal"] is None


@pytest.mark.parametrize(("fee_too", "platform_pays", "connected_pays"), [(False, 0, 4000), (True, 400, 3600)])
async def test_reversing_the_transfer_lets_the_connected_account_pay(
    sim: Recorder, *, fee_too: bool, platform_pays: int, connected_pays: int
) -> None:
    account = await shop(sim)
    charge = await destination(sim, account)
    platform, connected = await worth(sim), await worth(sim, account)
    params = {"charge": charge["id"], "amount": 4000, "reverse_transfer": True, "refund_application_fee": fee_too}
    refund = await sim.ok("POST /v1/refunds", expand=["transfer_reversal"], **params)
    assert (await worth(sim), await worth(sim, account)) == (platform - platform_pays, connected - connected_pays)
    reversal = refund["transfer_reversal"]
    assert (reversal["amount"], reversal["source_refund"]) == (4000, refund["id"])
    theirs = await sim.ok(f"GET /v1/refunds/{reversal['destination_payment_refund']}", account=account)
    assert theirs["source_transfer_reversal"] == reversal["id"]


async def test_proportional_parts_add_up_to_the_whole(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await destination(sim, account, amount=7777)
    for amount in (3333, 3333, 3334):
        both = {"reverse_transfer": True, "refund_application_fee": True}
        await sim.ok("POST /v1/refunds", charge=charge["id"], amount=amount, **both)
    transfer = await sim.ok(f"GET /v1/transfers/{charge['transfer']}")
    assert (transfer["amount_reversed"], transfer["reversed"]) == (7777, True)
    assert (await sim.ok(f"GET /v1/application_fees/{charge['application_fee']}"))["amount_refunded"] == 1000


async def test_a_reversal_may_leave_the_connected_account_negative(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await destination(sim, account)
    await sim.control("POST /_sim/balance", {"account": account, "currency": "usd", "available": 0})
    await sim.ok("POST /v1/refunds", charge=charge["id"], reverse_transfer=True)
    balance = await sim.ok("GET /v1/balance", account=account)
    assert balance["available"][0]["amount"] < 0


async def test_a_failed_refund_of_a_destination_charge_is_paid_back_to_the_platform(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await destination(sim, account)
    refund = await sim.ok("POST /v1/refunds", charge=charge["id"], reverse_transfer=True)
    platform, connected = await worth(sim), await worth(sim, account)
    await sim.control(f"POST /_sim/refunds/{refund['id']}/fail", {})
    assert (await worth(sim), await worth(sim, account)) == (platform + 10_000, connected)


@pytest.mark.parametrize("flag", ["reverse_transfer", "refund_application_fee"])
async def test_what_a_charge_does_not_have_cannot_be_taken_back(sim: Recorder, flag: str) -> None:
    await sim.refused("POST /v1/refunds", 400, None, flag, charge=await sim.charge(), **{flag: True})


async def test_a_fee_is_refunded_only_by_the_application_that_made_the_charge(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await direct(sim, account)
    await sim.control("POST /_sim/keys", {"secret": "sk_test_shop", "account": account})
    both = {"charge": charge["id"], "refund_application_fee": True}
    reply = await sim.refused("POST /v1/refunds", 400, None, "refund_application_fee", key="sk_test_shop", **both)
    assert "application" in reply.error["message"]
    assert (await sim.ok("POST /v1/refunds", key="sk_test_shop", charge=charge["id"]))["status"] == "succeeded"


async def test_separate_transfers_are_untouched_by_refunds(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await sim.charge(10_000)
    there = {"destination": account, "currency": "usd", "amount": 9000, "source_transaction": charge}
    transfer = await sim.ok("POST /v1/transfers", **there)
    await sim.ok("POST /v1/refunds", charge=charge)
    assert (await sim.ok(f"GET /v1/transfers/{transfer['id']}"))["amount_reversed"] == 0
    connected = await worth(sim, account)
    reversal = await sim.ok(f"POST /v1/transfers/{transfer['id']}/reversals", amount=8000)
    assert reversal["source_refund"] is None
    assert await worth(sim, account) == connected - 8000
    await sim.refused(f"POST /v1/transfers/{transfer['id']}/reversals", 400, None, "amount", amount=1001)
    await sim.ok(f"POST /v1/transfers/{transfer['id']}/reversals")
    await sim.refused(f"POST /v1/transfers/{transfer['id']}/reversals", 400, None, "amount")


async def test_a_transfer_needs_the_money(sim: Recorder) -> None:
    account = await shop(sim)
    await sim.control("POST /_sim/balance", {"currency": "usd", "available": 100})
    there = {"destination": account, "currency": "usd"}
    await sim.refused("POST /v1/transfers", 400, "balance_insufficient", None, amount=101, **there)
    assert (await sim.ok("POST /v1/transfers", amount=100, **there))["amount"] == 100


async def test_a_reversal_can_take_its_part_of_the_fee_along(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await destination(sim, account)
    await sim.ok(f"POST /v1/transfers/{charge['transfer']}/reversals", amount=2500, refund_application_fee=True)
    assert (await sim.ok(f"GET /v1/application_fees/{charge['application_fee']}"))["amount_refunded"] == 250


async def test_a_fee_is_refunded_alone_up_to_what_is_left(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await direct(sim, account)
    path = f"application_fees/{charge['application_fee']}"
    assert (await sim.ok(f"POST /v1/{path}/refunds", amount=600))["fee"] == charge["application_fee"]
    await sim.refused(f"POST /v1/{path}/refunds", 400, None, "amount", amount=401)
    fee = await sim.ok(f"POST /v1/{path}/refund")
    assert (fee["refunded"], fee["refunds"]["total_count"]) == (True, 2)
    await sim.refused(f"POST /v1/{path}/refund", 400)
    events = (await sim.ok("GET /v1/events", type="application_fee.refunded"))["data"]
    assert [one["data"]["previous_attributes"] for one in events] == [{"amount_refunded": 600}, {"amount_refunded": 0}]


async def test_events_of_connected_accounts_say_whose_they_are(sim: Recorder) -> None:
    account = await shop(sim)
    charge = await direct(sim, account)
    await sim.ok("POST /v1/refunds", account=account, charge=charge["id"])
    theirs = (await sim.ok("GET /v1/events", account=account, type="refund.created"))["data"]
    assert [one["account"] for one in theirs] == [account]
    assert (await sim.ok("GET /v1/events", type="refund.created"))["data"] == []
    await sim.charge()
    assert all("account" not in one for one in (await sim.ok("GET /v1/events"))["data"])


async def test_accounts_and_modes_do_not_see_each_other(sim: Recorder) -> None:
    first, second = await shop(sim), await shop(sim)
    charge = await direct(sim, first)
    for options in ({}, {"account": second}, {"key": "sk_live_sim"}):
        await sim.refused(f"GET /v1/charges/{charge['id']}", 404, "resource_missing", "id", **options)
        assert (await sim.ok("GET /v1/charges", **options))["data"] == []
        await sim.refused("POST /v1/refunds", 404, "resource_missing", "id", charge=charge["id"], **options)
    for account in (first, "acct_1stranger"):
        await sim.refused("GET /v1/balance", 403, "account_invalid", key="sk_live_sim", account=account)


@pytest.mark.parametrize(("params", "param"), [
    ({"application_fee_amount": 100}, "application_fee_amount"),
    ({"transfer_data": {"destination": "acct_1stranger"}}, "transfer_data[destination]"),
])  # fmt: skip
async def test_a_fee_needs_a_connected_account(sim: Recorder, params: dict[str, Any], param: str) -> None:
    reply = await sim.call("POST /v1/payment_intents", amount=900, currency="usd", **params)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_a_fee_is_at_most_the_charge(sim: Recorder) -> None:
    there = {"transfer_data": {"destination": await shop(sim)}}
    params = {"amount": 900, "currency": "usd", "application_fee_amount": 901, **there}
    await sim.refused("POST /v1/payment_intents", 400, None, "application_fee_amount", **params)
