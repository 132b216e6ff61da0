"""The audit judges a refund program: what was owed and paid, paid double, not paid, or never asked for."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any

import pytest

from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.integration
Json = dict[str, Any]


async def audit(sim: Sim, *obligations: Json) -> Reply:
    return await sim.control("POST /_sim/audit", {"obligations": list(obligations)})


async def refund(sim: Sim, charge: str, amount: int, request: str = "", ticket: str = "") -> str:
    metadata = {"refundry_request_id": request, "ticket_id": ticket}
    reply = await sim.call("POST /v1/refunds", charge=charge, amount=amount, metadata=metadata)
    assert reply.status == 200, reply.json
    return str(reply["id"])


async def test_what_was_paid_once_is_in_order_however_it_is_named(sim: Sim) -> None:
    await sim.control("POST /_sim/load", {"charges": [{"amount_minor": 900, "currency": "usd", "order_id": "o1"}]})
    loaded = (await sim.call("GET /v1/charges"))["data"][0]
    paid = await sim.charge()
    await refund(sim, loaded["id"], 100, request="r1")
    await refund(sim, loaded["id"], 100, ticket="t1")
    await refund(sim, loaded["id"], 50)
    await refund(sim, paid, 70)
    told = await audit(
        sim,
        {"charge": "o1", "amount": 100, "request": "r1"},
        {"charge": loaded["payment_intent"], "amount": 100, "ticket": "t1"},
        {"charge": loaded["id"], "amount": 50},
        {"charge": paid, "amount": 70, "name": "the last"},
    )
    assert (told["paid"], told["obligations"]) == (4, 4)
    assert (told["not_paid"], told["paid_double"], told["never_asked"]) == ([], [], [])
    assert told["totals"] == {"usd": 320}
    assert told["ok"]


async def test_what_was_not_paid_is_told_and_why(sim: Sim) -> None:
    charge = await sim.charge()
    other = await refund(sim, charge, 99, request="r1")
    told = await audit(
        sim,
        {"charge": charge, "amount": 100, "request": "r1"},
        {"charge": "o_unknown", "amount": 5, "name": "lost"},
    )
    assert [(o["charge"], o.get("why")) for o in told["not_paid"]] == [(charge, None), ("o_unknown", "no such charge")]
    assert told["paid"] == 0
    # The request got another amount than it was owed.
    assert [line["id"] for line in told["paid_double"] + told["never_asked"]] == [other]
    assert (told["ok"], told["problems"]) == (False, []), "the books are in order, the payer is not"


async def test_a_failed_refund_pays_nothing(sim: Sim) -> None:
    charge = await sim.charge(card="pm_card_refundFail")
    await refund(sim, charge, 100, request="r1")
    owed = {"charge": charge, "amount": 100, "request": "r1"}
    assert (await audit(sim, owed))["paid"] == 1
    await sim.move(300)
    told = await audit(sim, owed)
    assert (told["paid"], len(told["not_paid"])) == (0, 1)
    again = await refund(sim, charge, 100, request="r1")
    assert again
    assert (await audit(sim, owed))["ok"], "paying again what failed is no repeat"


WAITING = {"pends": "pending", "action": "requires_action"}


@pytest.mark.parametrize("way", WAITING)
async def test_a_refund_on_its_way_pays_until_it_fails_or_is_canceled(sim: Sim, way: str) -> None:
    charge = await sim.charge()
    await sim.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": way})
    made = await refund(sim, charge, 100, request="r1")
    owed = {"charge": charge, "amount": 100, "request": "r1"}
    told = await audit(sim, owed)
    assert (told["ok"], told["paid"]) == (True, 1)
    assert told["charges"][0]["refunds"][0]["status"] == WAITING[way]
    if way == "action":
        assert (await sim.call(f"POST /v1/refunds/{made}/cancel"))["status"] == "canceled"
    else:
        await sim.control(f"POST /_sim/refunds/{made}/fail")
    told = await audit(sim, owed)
    assert (told["ok"], told["paid"], len(told["not_paid"]), told["never_asked"]) == (False, 0, 1, [])


@pytest.mark.parametrize("wrong", ["not_paid", "paid_double", "never_asked"])
async def test_each_wrong_against_an_obligation_fails_the_audit_though_the_books_are_in_order(
    sim: Sim, wrong: str
) -> None:
    charge = await sim.charge()
    owed = {"charge": charge, "amount": 100, "request": "r1"}
    if wrong != "not_paid":
        await refund(sim, charge, 100, request="r1")
        assert (await audit(sim, owed))["ok"]
        await refund(sim, charge, 100 if wrong == "paid_double" else 33)
    told = await audit(sim, owed)
    assert [name for name in ("not_paid", "paid_double", "never_asked") if told[name]] == [wrong]
    assert (told["ok"], told["problems"]) == (False, [])
    assert (await sim.control("GET /_sim/audit"))["ok"], "without obligations only the books are judged"


async def test_what_stripe_gives_back_itself_is_nobodys_to_ask_for(sim: Sim) -> None:
    released = await sim.charge(capture_method="manual")
    intent = (await sim.call(f"GET /v1/charges/{released}"))["payment_intent"]
    await sim.call(f"POST /v1/payment_intents/{intent}/cancel")
    account = (await sim.call("POST /v1/accounts", country="US"))["id"]
    charge = await sim.charge(transfer_data={"destination": account})
    await sim.call("POST /v1/refunds", charge=charge, amount=100, reverse_transfer=True)
    told = await audit(sim, {"charge": charge, "amount": 100})
    assert (told["refunds"], told["never_asked"], told["ok"]) == (3, [], True)


async def test_a_request_that_was_paid_twice_is_found_without_and_with_obligations(sim: Sim) -> None:
    charge = await sim.charge()
    ids = [await refund(sim, charge, 100, request="r1") for _ in range(2)]
    plain = await sim.control("GET /_sim/audit")
    assert [(p["code"], p["refunds"]) for p in plain["problems"]] == [("request_paid_twice", ids)]
    told = await audit(sim, {"charge": charge, "amount": 100, "request": "r1"})
    assert (told["paid"], [line["id"] for line in told["paid_double"]]) == (1, ids[1:])
    assert not told["ok"]


async def test_the_same_ticket_charge_and_amount_twice_is_found_and_other_amounts_are_not(sim: Sim) -> None:
    charge, other = await sim.charge(), await sim.charge()
    await refund(sim, charge, 100, ticket="t1")
    await refund(sim, charge, 101, ticket="t1")
    await refund(sim, other, 100, ticket="t1")
    assert (await sim.control("GET /_sim/audit"))["ok"]
    await refund(sim, charge, 100, ticket="t1")
    problems = (await sim.control("GET /_sim/audit"))["problems"]
    assert [(p["code"], p["charge"], p["amount"], p["ticket_id"]) for p in problems] == [
        ("ticket_paid_twice", charge, 100, "t1")
    ]


async def test_what_nobody_asked_for_is_told_apart_from_what_repeats(sim: Sim) -> None:
    charge = await sim.charge()
    await refund(sim, charge, 100, request="r1")
    by_hand = (await sim.control("POST /_sim/refunds", {"charge": charge, "amount": 33}))["id"]
    repeats = (await sim.control("POST /_sim/refunds", {"charge": charge, "amount": 100}))["id"]
    told = await audit(sim, {"charge": charge, "amount": 100, "request": "r1"})
    assert [line["id"] for line in told["never_asked"]] == [by_hand]
    assert [line["id"] for line in told["paid_double"]] == [repeats]


async def test_two_equal_obligations_are_both_owed(sim: Sim) -> None:
    charge = await sim.charge()
    owed = {"charge": charge, "amount": 100}
    await refund(sim, charge, 100)
    assert len((await audit(sim, owed, owed))["not_paid"]) == 1
    await refund(sim, charge, 100)
    told = await audit(sim, owed, owed)
    assert (told["paid"], told["paid_double"], told["not_paid"]) == (2, [], [])


# Whether the audit would see what is wrong with the books: each change is made behind the simulator's back.
CRIMES: dict[str, tuple[str, str]] = {
    "more refunded than paid": (
        "UPDATE refund SET doc=json_set(CAST(doc AS TEXT), '$.amount', 9999)",
        "refunded_beyond_charge amount_refunded_wrong refund_booked_wrong",
    ),
    "the charge tells another sum": (
        "UPDATE charge SET doc=json_set(CAST(doc AS TEXT), '$.amount_refunded', 1)",
        "amount_refunded_wrong",
    ),
    "a refund without its row": (
        "DELETE FROM balance_transaction WHERE type='refund'",
        "refund_not_booked balance_wrong",
    ),
    "a row of another amount": (
        "UPDATE balance_transaction SET doc=json_set(CAST(doc AS TEXT), '$.amount', -1) WHERE type='refund'",
        "refund_booked_wrong",
    ),
    "a row too many": (
        """INSERT INTO balance_transaction SELECT seq+1000, id||'x', scope, created, doc, source, type
        FROM balance_transaction WHERE type='refund'""",
        "refund_booked_wrong balance_wrong",
    ),
    "a balance that is off by one": ("UPDATE balance SET available=available+1", "balance_wrong"),
    "an acknowledged refund that is gone": ("DELETE FROM refund", "acknowledged_refund_lost"),
    "a refund in another currency": (
        "UPDATE refund SET doc=json_set(CAST(doc AS TEXT), '$.currency', 'eur')",
        "refund_malformed",
    ),
    "a refund of nothing": (
        "UPDATE refund SET doc=json_set(CAST(doc AS TEXT), '$.charge', 'ch_x')",
        "refund_without_charge",
    ),
    "a replay of other words": (
        "INSERT INTO acknowledged SELECT 'req_x', request, x'00', object FROM acknowledged",
        "replay_of_other_request",
    ),
}


@pytest.mark.parametrize("crime", CRIMES)
async def test_books_that_do_not_add_up_are_found(crime: str, sim: Sim) -> None:
    sql, codes = CRIMES[crime]
    await refund(sim, await sim.charge(), 100, request="r1")
    assert (await sim.control("GET /_sim/audit"))["ok"]
    sim.world.store.db.execute(sql)
    told = await sim.control("GET /_sim/audit")
    assert not told["ok"]
    assert set(codes.split()) <= {problem["code"] for problem in told["problems"]}


# A year of a real shop


def rows(name: str) -> list[dict[str, str]]:
    text = files("stripesim.scenarios").joinpath("online_retail", name).read_text()
    return list(csv.DictReader(text.splitlines()))


async def test_a_shops_credit_notes_paid_through_the_simulator_are_all_there_and_one_paid_twice_is_found(
    sim: Sim,
) -> None:
    owed = rows("refund_requests.csv")
    assert (await sim.control("POST /_sim/load", {"scenario": "online-retail"})).json == {"charges": 9659}
    obligations = [
        {"charge": row["order_id"], "amount": int(row["amount_minor"]), "ticket": row["ticket_id"]} for row in owed
    ]
    before = await audit(sim, *obligations)
    assert (before["paid"], len(before["not_paid"]), before["obligations"]) == (0, 1719, 1719)
    sql = "SELECT value, charge.id FROM metadata JOIN charge USING (seq) WHERE kind='charge' AND key='order_id'"
    by_order = dict(sim.world.store.db.execute(sql).fetchall())

    async def pay(row: dict[str, str], key: str) -> None:
        metadata = {"ticket_id": row["ticket_id"]}
        reply = await sim.call(
            "POST /v1/refunds", charge=by_order[row["order_id"]], amount=row["amount_minor"], metadata=metadata,
            idempotency_key=key, check=False,
        )  # fmt: skip
        assert (reply.status, reply["status"]) == (200, "succeeded")

    for at, row in enumerate(owed):
        await pay(row, f"k{at}")
    told = await audit(sim, *obligations)
    assert told["ok"], told["problems"]
    assert (told["paid"], told["not_paid"], told["paid_double"], told["never_asked"]) == (1719, [], [], [])
    assert told["totals"] == {"gbp": 17_233_609}
    again = next(row for row in owed if int(row["amount_minor"]) < 500 and enough_left(told.json, row, by_order))
    await pay(again, "again")
    told = await audit(sim, *obligations)
    assert not told["ok"]
    assert [(p["code"], p["ticket_id"]) for p in told["problems"]] == [("ticket_paid_twice", again["ticket_id"])]
    assert [line["charge"] for line in told["paid_double"]] == [by_order[again["order_id"]]]
    assert told["totals"] == {"gbp": 17_233_609 + int(again["amount_minor"])}


def enough_left(told: Json, row: dict[str, str], by_order: dict[str, str]) -> bool:
    """Tell whether a charge has enough left to be refunded by mistake once more."""
    line = next(line for line in told["charges"] if line["charge"] == by_order[row["order_id"]])
    return bool(line["captured"] - line["refunded"] >= int(row["amount_minor"]))
