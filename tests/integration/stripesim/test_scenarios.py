"""Charges from files: what is loaded is there as if it had been paid, and a wrong file is refused by line and column, whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stripesim import cards
from stripesim.api import Request
from stripesim.scenarios import BadScenario, load
from tests.support.sim import START, Reply, Sim

pytestmark = pytest.mark.integration
DAY = 86_400
HEAD = "order_id,created,customer,amount_minor,currency,card,captured,description,refund,metadata.shop\n"


async def csv(sim: Sim, text: str | bytes, query: str = "") -> Reply:
    body = text if isinstance(text, bytes) else text.encode()
    request = Request("POST", "/_sim/load", query, {"content-type": "text/csv"}, body)
    answer = await sim.simulator.answer(request)
    return Reply(answer.status, {}, json.loads(answer.body), answer.body, answer.cut)


async def counted(sim: Sim) -> tuple[int, ...]:
    kinds = ("charge", "payment_intent", "customer", "balance_transaction")
    return tuple(sim.world.store.db.execute(f"SELECT count(*) FROM {kind}").fetchone()[0] for kind in kinds)  # noqa: S608


async def test_a_file_becomes_charges_customers_and_balance_as_if_they_had_been_paid(sim: Sim) -> None:
    text = HEAD + (
        "o1,2026-01-02T03:04:05Z,c1,1250,EUR,,,First,,north\n"
        "o2,1700000000,c1,999,jpy,mastercard,true,,pends,\n"
        'o3,,,70000,usd,,false,"two\nlines",,\n'
    )  # fmt: skip
    assert (await csv(sim, "\ufeff" + text)).json == {"charges": 3}
    charges = (await sim.call("GET /v1/charges", expand=["data.customer", "data.payment_intent"]))["data"]
    by_order = {charge["metadata"]["order_id"]: charge for charge in charges}
    first, second, third = by_order["o1"], by_order["o2"], by_order["o3"]
    assert (first["amount"], first["currency"], first["created"]) == (1250, "eur", 1_767_323_045)
    assert (first["metadata"], first["description"]) == ({"order_id": "o1", "shop": "north"}, "First")
    assert first["customer"]["id"] == second["customer"]["id"]
    assert second["payment_method_details"]["card"]["brand"] == "mastercard"
    assert (third["captured"], third["created"], third["description"]) == (False, START, "two\nlines")
    assert third["payment_intent"]["status"] == "requires_capture"
    rows = (await sim.call("GET /v1/balance_transactions", source=first["id"]))["data"]
    assert [(row["amount"], row["net"], row["status"]) for row in rows] == [(1250, 1250 - 36 - 30, "available")]
    assert (await sim.call("POST /v1/refunds", charge=second["id"]))["status"] == "pending"
    found = await sim.call("GET /v1/charges/search", query="metadata['order_id']:'o1'")
    assert [charge["id"] for charge in found["data"]] == [first["id"]]
    assert (await sim.control("GET /_sim/audit"))["ok"]


async def test_a_file_chooses_how_the_refunds_of_each_charge_go(sim: Sim) -> None:
    rows = "".join(f"{way},500,usd,{way}\n" for way in cards.WAYS)
    assert (await csv(sim, "order_id,amount_minor,currency,refund\n" + rows)).json == {"charges": len(cards.WAYS)}
    refunds = {}
    for charge in (await sim.call("GET /v1/charges"))["data"]:
        refund = await sim.call("POST /v1/refunds", charge=charge["id"])
        refunds[charge["metadata"]["order_id"]] = refund["id"]
    await sim.move(50 * DAY)
    found = {way: (await sim.call(f"GET /v1/refunds/{refund}"))["status"] for way, refund in refunds.items()}
    wrong = {"stays": "pending", "fails": "failed", "action": "failed"}
    assert found == {way: wrong.get(way, "succeeded") for way in cards.WAYS}
    assert (await sim.control("GET /_sim/audit"))["ok"]


async def test_a_csv_body_names_its_account_behind_the_question_mark(sim: Sim) -> None:
    text = "amount_minor,currency\n500,usd\n"
    assert (await csv(sim, text, "livemode=true")).status == 200
    assert len((await sim.call("GET /v1/charges", key="sk_live_sim"))["data"]) == 1
    assert (await sim.call("GET /v1/charges"))["data"] == []
    for query, field in (("livemode=maybe", "livemode"), ("account=acct_none", "account"), ("mode=live", "mode")):
        reply = await csv(sim, text, query)
        assert (reply.status, reply["error"]["field"]) == (400, field)
    assert len((await sim.call("GET /v1/charges", key="sk_live_sim"))["data"]) == 1


ROWS: list[tuple[str, str, str]] = [
    # what stands in the third line, the column, a word of the reason
    ("o3,,,,usd,,,,,", "amount_minor", "above 0"),
    ("o3,,,0,usd,,,,,", "amount_minor", "above 0"),
    ("o3,,,-5,usd,,,,,", "amount_minor", "above 0"),
    ("o3,,,12.50,usd,,,,,", "amount_minor", "whole number"),
    ("o3,,,1e3,usd,,,,,", "amount_minor", "whole number"),
    ("o3,,,١٢,usd,,,,,", "amount_minor", "whole number"),
    ("o3,,,999999999999,usd,,,,,", "amount_minor", "whole number"),
    ("o3,,,5,,,,,,", "currency", "currency"),
    ("o3,,,5,xxx,,,,,", "currency", "'xxx'"),
    ("o3,,,5,usd,gold,,,,", "card", "'gold'"),
    ("o3,,,5,usd,chargeDeclined,,,,", "card", "test card"),
    ("o3,,,5,usd,,perhaps,,,", "captured", "true or false"),
    ("o3,,,5,usd,,,,never,", "refund", "succeeds"),
    ("o3,yesterday,,5,usd,,,,,", "created", "ISO 8601"),
    ("o3,2026-13-01,,5,usd,,,,,", "created", "ISO 8601"),
    ("o3,2030-01-01,,5,usd,,,,,", "created", "present"),
    ("o3,1950-01-01,,5,usd,,,,,", "created", "1970"),
    ("o3,,,5,usd,,,,," + "x" * 501, "metadata.shop", "500"),
    ("o3,,," + "5,usd", "card", "missing"),
    ("o3,,,5,usd,,,,,,", "", "more cells"),
]


@pytest.mark.parametrize(("row", "column", "word"), ROWS)
@pytest.mark.parametrize("way", ["body", "file"])
async def test_a_wrong_row_is_refused_by_line_and_column_and_nothing_is_loaded(
    row: str, column: str, word: str, way: str, sim: Sim, tmp_path: Path
) -> None:
    text = HEAD + "o1,,c1,500,usd,,,,,\n" + row + "\n"
    before = await counted(sim)
    if way == "body":
        reply = await csv(sim, text)
        assert (reply.status, reply["error"]["field"]) == (400, "charges")
        message = reply["error"]["message"]
    else:
        path = tmp_path / "charges.csv"
        path.write_text(text)
        with pytest.raises(BadScenario) as refused, sim.world.store.transaction():
            load(sim.world, sim.world.scopes[sim.world.platform, False], path)
        message = str(refused.value)
    assert message.startswith("line 3: " + (f"column {column}" if column else ""))
    assert word in message
    assert await counted(sim) == before
    assert (await sim.control("GET /_sim/audit"))["ok"]


FILES: list[tuple[bytes, str]] = [
    (b"", "line 1: is empty"),
    (b"order_id,currency\no1,usd\n", "line 1: column amount_minor is missing"),
    (b"amount_minor\n5\n", "line 1: column currency is missing"),
    (b"amount_minor,currency,colour\n5,usd,red\n", "line 1: column colour is not known"),
    (b"amount_minor,currency,currency\n5,usd,eur\n", "line 1: column currency is there twice"),
    (b'amount_minor,currency\n5,usd\n7,"usd\n', "line 3: cannot be read as CSV"),
    (b'amount_minor,currency\n5,"us"d\n', "line 2: cannot be read as CSV"),
    (b"amount_minor,currency\n5,usd\n\xff\xfe,usd\n", "UTF-8"),
    (b"PK\x03\x04\x00\x00", ""),
    (b"amount_minor,currency,metadata." + b"k" * 41 + b"\n5,usd,x\n", "line 2: column metadata.k"),
    (b"amount_minor,currency,metadata.\n5,usd,x\n", "line 2: column metadata."),
]


@pytest.mark.parametrize(("content", "message"), FILES)
async def test_a_file_that_is_no_such_file_is_refused_and_nothing_is_loaded(
    content: bytes, message: str, sim: Sim, tmp_path: Path
) -> None:
    before = await counted(sim)
    reply = await csv(sim, content)
    assert reply.status == 400
    assert message in reply["error"]["message"]
    path = tmp_path / "charges.csv"
    path.write_bytes(content)
    with pytest.raises(BadScenario), sim.world.store.transaction():
        load(sim.world, sim.world.scopes[sim.world.platform, False], path)
    assert await counted(sim) == before


JSON_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"amount_minor": 5.5, "currency": "usd"}, "charges[1]: column amount_minor"),
    ({"amount_minor": True, "currency": "usd"}, "charges[1]: column amount_minor"),
    ({"amount_minor": 5, "currency": ["usd"]}, "charges[1]: column currency"),
    ({"amount_minor": 5, "currency": "usd", "card": ["visa"]}, "charges[1]: column card"),
    ({"amount_minor": 5, "currency": "usd", "refund": {}}, "charges[1]: column refund"),
    ({"amount_minor": 5, "currency": "usd", "metadata.a": 5}, "charges[1]: column metadata.a"),
    ({"amount_minor": 5, "currency": "usd", "description": {}}, "charges[1]: column description"),
    ({"amount_minor": 5, "currency": "usd", "order_id": ["o"]}, "charges[1]: column order_id"),
    ({"amount_minor": 5, "currency": "usd", "wat": 1}, "charges[1]: column wat"),
    (
        {"amount_minor": 5, "currency": "usd", **{f"metadata.k{at}": "v" for at in range(51)}},
        "charges[1]: column metadata.*",
    ),
]


@pytest.mark.parametrize(("row", "message"), JSON_ROWS)
async def test_a_wrong_object_is_refused_by_place_and_column(row: dict[str, Any], message: str, sim: Sim) -> None:
    before = await counted(sim)
    reply = await sim.control("POST /_sim/load", {"charges": [{"amount_minor": 5, "currency": "usd"}, row]})
    assert reply.status == 400
    assert reply["error"]["message"].startswith(message)
    assert await counted(sim) == before


async def test_an_error_after_thousands_of_good_rows_undoes_them_too(sim: Sim) -> None:
    before = await counted(sim)
    good = "".join(f"c{at % 50},{at + 1},gbp\n" for at in range(5_000))
    reply = await csv(sim, "customer,amount_minor,currency\n" + good + "c1,nothing,gbp\n")
    assert reply["error"]["message"].startswith("line 5002: column amount_minor")
    assert await counted(sim) == before
    assert (await csv(sim, "customer,amount_minor,currency\n" + good)).json == {"charges": 5000}
    assert (await sim.control("GET /_sim/audit"))["ok"]


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path, sim: Sim) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadScenario, match="cannot be read"):
            load(sim.world, sim.world.scopes[sim.world.platform, False], path)
