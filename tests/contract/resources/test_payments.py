"""Charges and payment intents: what they show, how they are listed, and in which currencies."""

from __future__ import annotations

from typing import Any

import pytest

from stripesim.money import SUPPORTED
from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract
ZERO_DECIMAL = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split()
LEAST = {
    "usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "chf": 50, "cad": 50, "aud": 50, "sek": 300, "nok": 300, "dkk": 250,
    "pln": 200, "czk": 1500, "huf": 17500, "ron": 200, "mxn": 1000, "brl": 50, "inr": 50, "sgd": 50, "hkd": 400,
    "nzd": 50, "thb": 1000, "myr": 200, "aed": 200, "krw": 50,
}  # fmt: skip


async def test_a_charge_never_becomes_refunded_by_its_status(sim: Recorder) -> None:
    charge = await sim.charge()
    for amount, refunded in ((2000, False), (3000, True)):
        await sim.ok("POST /v1/refunds", charge=charge, amount=amount)
        now = await sim.ok(f"GET /v1/charges/{charge}")
        assert (now["status"], now["refunded"]) == ("succeeded", refunded)
    assert "refunds" not in now.json


async def test_links_between_invoice_and_charge_are_gone(sim: Recorder) -> None:
    charge = await sim.ok(f"GET /v1/charges/{await sim.charge()}", expand=["payment_intent"])
    assert "invoice" not in charge.json
    assert not {"invoice", "charges"} & charge["payment_intent"].keys()


async def test_a_balance_transaction_may_be_null_right_after_success(sim: Recorder) -> None:
    charge = await sim.charge()
    assert (await sim.ok(f"GET /v1/charges/{charge}"))["balance_transaction"] is None
    await sim.move(3)
    filled = await sim.ok(f"GET /v1/charges/{charge}", expand=["balance_transaction"])
    assert filled["balance_transaction"]["source"] == charge
    (event,) = (await sim.ok("GET /v1/events", type="charge.updated"))["data"]
    assert event["data"]["previous_attributes"] == {"balance_transaction": None}


async def test_ids_of_one_payment_share_a_stem(sim: Recorder) -> None:
    charge = await sim.ok(f"GET /v1/charges/{await sim.charge()}")
    refund = await sim.ok("POST /v1/refunds", charge=charge["id"])
    stem = charge["payment_intent"].removeprefix("pi_")[:16]
    assert charge["id"].removeprefix("ch_").startswith(stem)
    assert refund["id"].removeprefix("re_").startswith(stem)


async def test_charges_are_listed_newest_first_by_cursor(sim: Recorder) -> None:
    ids = []
    for _ in range(25):
        ids.append(await sim.charge(transfer_group="g1"))
        await sim.move(1)
    first = await sim.ok("GET /v1/charges")
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:14:-1], True)
    last = await sim.ok("GET /v1/charges", starting_after=ids[3], limit=100)
    assert ([one["id"] for one in last["data"]], last["has_more"]) == (ids[2::-1], False)
    back = await sim.ok("GET /v1/charges", ending_before=ids[3], limit=4)
    assert [one["id"] for one in back["data"]] == ids[7:3:-1]
    start = (await sim.ok(f"GET /v1/charges/{ids[10]}"))["created"]
    for bounds, expected in (
        ({"gte": start, "lt": start + 3}, ids[12:9:-1]),
        ({"gt": start, "lte": start + 3}, ids[13:10:-1]),
        (start, [ids[10]]),
    ):
        found = await sim.ok("GET /v1/charges", created=bounds, transfer_group="g1")
        assert [one["id"] for one in found["data"]] == expected


@pytest.mark.parametrize("filter_name", ["status", "refunded", "metadata"])
async def test_charges_have_no_such_filter(sim: Recorder, filter_name: str) -> None:
    await sim.refused("GET /v1/charges", 400, "parameter_unknown", filter_name, **{filter_name: "x"})


@pytest.mark.parametrize(
    "path", ["charges", "refunds", "payment_intents", "disputes", "events", "balance_transactions"]
)
async def test_both_cursors_and_a_bad_one_are_refused(sim: Recorder, path: str) -> None:
    await sim.charge()
    both = await sim.refused(f"GET /v1/{path}", 400, starting_after="x_1", ending_before="x_2")
    text = "Received both starting_after and ending_before parameters. Please pass in only one."
    assert both.error["message"] == text
    for name in ("starting_after", "ending_before"):
        await sim.refused(f"GET /v1/{path}", 400, "resource_missing", name, **{name: "x_1"})


@pytest.mark.parametrize(("limit", "text"), [
    (0, "This value must be greater than or equal to 1."),
    (101, "This value must be less than or equal to 100."),
    (10.5, "Invalid integer: 10.5"),
])  # fmt: skip
async def test_a_page_has_one_to_a_hundred(sim: Recorder, limit: float, text: str) -> None:
    reply = await sim.refused("GET /v1/refunds", 400, "parameter_invalid_integer", "limit", limit=limit)
    assert reply.error["message"] == text


async def test_expansions_work_on_lists_at_most_four_deep(sim: Recorder) -> None:
    refund = await sim.ok("POST /v1/refunds", charge=await sim.charge(), amount=100)
    await sim.booked()
    page = await sim.ok("GET /v1/charges", expand=["data.refunds", "data.balance_transaction", "data.customer"])
    assert page["data"][0]["refunds"]["data"][0]["id"] == refund["id"]
    assert page["data"][0]["balance_transaction"]["object"] == "balance_transaction"
    deep = await sim.ok("GET /v1/refunds", expand=["data.charge.payment_intent.latest_charge"])
    assert deep["data"][0]["charge"]["payment_intent"]["latest_charge"]["object"] == "charge"
    too_deep = "data.charge.payment_intent.latest_charge.customer"
    reply = await sim.refused("GET /v1/refunds", 400, None, "expand", expand=[too_deep])
    assert reply.error["message"].startswith("You cannot expand more than 4 levels of a property.")


@pytest.mark.parametrize("currency", sorted(LEAST))
async def test_a_charge_has_a_smallest_amount_per_currency(sim: Recorder, currency: str) -> None:
    least = LEAST[currency]
    await sim.refused(
        "POST /v1/payment_intents", 400, "amount_too_small", "amount", amount=least - 1, currency=currency
    )
    assert (await sim.ok("POST /v1/payment_intents", amount=least, currency=currency))["amount"] == least


@pytest.mark.parametrize("currency", ["isk", "ugx"])
async def test_two_currencies_are_written_in_whole_hundreds(sim: Recorder, currency: str) -> None:
    await sim.refused(
        "POST /v1/payment_intents", 400, "parameter_invalid_integer", "amount", amount=12_345, currency=currency
    )
    charge = await sim.charge(12_300, currency)
    await sim.refused("POST /v1/refunds", 400, "parameter_invalid_integer", "amount", charge=charge, amount=150)
    assert (await sim.ok("POST /v1/refunds", charge=charge, amount=200))["currency"] == currency
    assert (await sim.ok("POST /v1/refunds", charge=charge))["amount"] == 12_100


@pytest.mark.parametrize("currency", ["bhd", "jod", "kwd", "omr", "tnd"])
async def test_three_decimal_currencies_end_in_zero(sim: Recorder, currency: str) -> None:
    await sim.refused(
        "POST /v1/payment_intents", 400, "parameter_invalid_integer", "amount", amount=12_345, currency=currency
    )
    charge = await sim.charge(12_340, currency)
    await sim.refused("POST /v1/refunds", 400, "parameter_invalid_integer", "amount", charge=charge, amount=15)
    too_much = await sim.refused("POST /v1/refunds", 400, None, "amount", charge=charge, amount=20_000)
    assert f"20.000 {currency.upper()}" in too_much.error["message"]


@pytest.mark.parametrize("currency", ZERO_DECIMAL)
async def test_zero_decimal_amounts_are_whole_units(sim: Recorder, currency: str) -> None:
    charge = await sim.charge(1235, currency)
    reply = await sim.refused("POST /v1/refunds", 400, None, "amount", charge=charge, amount=2000)
    shown = "¥2,000" if currency == "jpy" else f"2,000 {currency.upper()}"
    assert shown in reply.error["message"]
    assert (await sim.ok("POST /v1/refunds", charge=charge, amount=1))["amount"] == 1


async def test_currencies_are_lower_case_and_known(sim: Recorder) -> None:
    assert (await sim.ok("POST /v1/payment_intents", amount=900, currency="EUR"))["currency"] == "eur"
    reply = await sim.refused("POST /v1/payment_intents", 400, None, "currency", amount=900, currency="xxx")
    assert reply.error["message"].startswith("Invalid currency: xxx. Stripe currently supports these currencies: ")
    assert {"usd", "isk", "ugx", "huf", "twd", "kwd", *ZERO_DECIMAL} <= SUPPORTED


@pytest.mark.parametrize("amount", [10**12, 10**15])
async def test_an_amount_has_at_most_twelve_digits(sim: Recorder, amount: int) -> None:
    reply = await sim.refused(
        "POST /v1/payment_intents", 400, "amount_too_large", "amount", amount=amount, currency="usd"
    )
    assert reply.status == 400
    assert (await sim.ok("POST /v1/payment_intents", amount=10**12 - 1, currency="usd"))["amount"] == 10**12 - 1


STATES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "requires_payment_method": ({}, {"confirm", "cancel"}),
    "requires_confirmation": ({"payment_method": "pm_card_visa"}, {"confirm", "cancel"}),
    "requires_capture": (
        {"payment_method": "pm_card_visa", "confirm": True, "capture_method": "manual"},
        {"capture", "cancel"},
    ),
    "succeeded": ({"payment_method": "pm_card_visa", "confirm": True}, set()),
    "canceled": ({}, set()),
}


@pytest.mark.parametrize("verb", ["confirm", "capture", "cancel"])
@pytest.mark.parametrize("status", sorted(STATES))
async def test_an_intent_does_what_its_state_allows(sim: Recorder, status: str, verb: str) -> None:
    params, allowed = STATES[status]
    intent = await sim.ok("POST /v1/payment_intents", amount=900, currency="usd", **params)
    if status == "canceled":
        intent = await sim.ok(f"POST /v1/payment_intents/{intent['id']}/cancel")
    assert intent["status"] == status
    more = {"payment_method": "pm_card_visa"} if verb == "confirm" else {}
    reply = await sim.call(f"POST /v1/payment_intents/{intent['id']}/{verb}", **more)
    if verb in allowed:
        assert reply["status"] == {"cancel": "canceled"}.get(verb, "succeeded")
    else:
        assert (reply.status, reply.error["code"]) == (400, "payment_intent_unexpected_state")
        assert f"because it has a status of {status}." in reply.error["message"]


async def test_an_authorisation_that_is_canceled_or_expires_is_given_back(sim: Recorder) -> None:
    canceled, expired = [await sim.charge(900, capture_method="manual") for _ in range(2)]
    intent = (await sim.ok(f"GET /v1/charges/{canceled}"))["payment_intent"]
    await sim.ok(f"POST /v1/payment_intents/{intent}/cancel")
    await sim.move(8 * 86_400)
    for charge in (canceled, expired):
        now = await sim.ok(f"GET /v1/charges/{charge}", expand=["payment_intent", "refunds"])
        assert (now["captured"], now["amount_refunded"], now["payment_intent"]["status"]) == (False, 900, "canceled")
    (refund,) = now["refunds"]["data"]
    assert refund["reason"] == "expired_uncaptured_charge"
    rows = (await sim.ok("GET /v1/balance_transactions", type="charge"))["data"]
    assert rows == [], "no money ever moved"
