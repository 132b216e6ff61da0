"""How one talks to Stripe: form encoding, expansion, lists and their cursors, search, headers, errors, metadata, versions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import pytest

from stripesim.api import Request
from tests.support import openapi
from tests.support.sim import START, Reply, Sim

pytestmark = pytest.mark.contract

DAHLIA, ENDIVE_SEPTEMBER, ENDIVE_OCTOBER = "2026-08-26.dahlia", "2026-09-30.endive", "2026-10-28.endive"
MINUTE = 60
DAY = 86_400


def error(message: str, param: str | None = None, code: str | None = None) -> dict[str, str]:
    """Build a whole `invalid_request_error`."""
    out = {"type": "invalid_request_error", "message": message}
    if param is not None:
        out["param"] = param
    if code is not None:
        out |= {"code": code, "doc_url": "https://stripe.com/docs/error-codes/" + code.replace("_", "-")}
    return out


def _of(method: str) -> dict[str, Any]:
    return {method: {}}


async def raw(sim: Sim, method: str, path: str, *, query: str = "", body: bytes = b"") -> Any:
    """Call with bytes that no well-behaved client would send."""
    import json

    headers = {"authorization": "Bearer sk_test_sim"}
    answer = await sim.simulator.answer(Request(method, path, query, headers, body))
    read = json.loads(answer.body)
    openapi.check(method, path, answer.status, read)
    return answer.status, read


async def over_asgi(sim: Sim, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Call through the ASGI application: only there do `Date` and its like come to the answer."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    headers = [(b"Authorization", b"Bearer sk_test_sim"), (b"Idempotency-Key", b"8d3f.1")]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    await sim.simulator(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    shown = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], shown, sent[1]["body"]


async def customers(sim: Sim, count: int) -> list[str]:
    """Make customers, a second apart; tell them newest first."""
    made = []
    for _ in range(count):
        made.append((await sim.call("POST /v1/customers"))["id"])
        await sim.move(1)
    return made[::-1]


def ids(reply: Reply) -> list[str]:
    return [entry["id"] for entry in reply["data"]]


class TestFormEncoding:
    @pytest.mark.parametrize(
        ("body", "metadata"),
        [
            ("metadata[a]=1", {"a": "1"}),
            ("metadata%5Ba%5D=1", {"a": "1"}),
            ("metadata[a]=one+two%20three", {"a": "one two three"}),
            ("metadata[a]=1&metadata[b]=%26%3D%2B", {"a": "1", "b": "&=+"}),
            ("metadata[a]=" + quote("Zürich ☕"), {"a": "Zürich ☕"}),
            ("metadata[a]=first&metadata[a]=last", {"a": "last"}),
            ("metadata[0]=zero", {"0": "zero"}),
        ],
    )
    async def test_a_hash_comes_in_brackets(self, sim: Sim, body: str, metadata: dict[str, str]) -> None:
        status, customer = await raw(sim, "POST", "/v1/customers", body=body.encode())
        assert (status, customer["metadata"]) == (200, metadata)

    @pytest.mark.parametrize(
        "query",
        [
            "expand[]=data.charge&expand[]=data.balance_transaction",
            "expand[0]=data.charge&expand[1]=data.balance_transaction",
            "expand[1]=data.balance_transaction&expand[0]=data.charge",
            "expand%5B%5D=data.charge&expand%5B%5D=data.balance_transaction",
        ],
    )
    async def test_an_array_comes_with_or_without_places(self, sim: Sim, query: str) -> None:
        await sim.call("POST /v1/refunds", charge=await sim.charge())
        status, listed = await raw(sim, "GET", "/v1/refunds", query=query)
        assert status == 200
        refund = listed["data"][0]
        assert (refund["charge"]["object"], refund["balance_transaction"]["object"]) == (
            "charge",
            "balance_transaction",
        )

    async def test_hashes_nest(self, sim: Sim) -> None:
        body = b"shipping[name]=A&shipping[address][city]=Bern&shipping[address][country]=CH"
        _, customer = await raw(sim, "POST", "/v1/customers", body=body)
        assert customer["shipping"]["name"] == "A"
        assert customer["shipping"]["address"].items() >= {"city": "Bern", "country": "CH"}.items()

    @pytest.mark.parametrize(
        ("body", "param", "message", "code"),
        [
            ("wat=1", "wat", "Received unknown parameter: wat", "parameter_unknown"),
            ("invoice_settings[nope]=1", "invoice_settings[nope]", "Received unknown parameter: invoice_settings[nope]", "parameter_unknown"),
            ("shipping[address][nope]=1", "shipping[address][nope]", "Received unknown parameter: shipping[address][nope]", "parameter_unknown"),
            ("wat[a][b]=1", "wat", "Received unknown parameter: wat", "parameter_unknown"),
            ("Name=A", "Name", "Received unknown parameter: Name", "parameter_unknown"),
            ("balance=abc", "balance", "Invalid integer: abc", "parameter_invalid_integer"),
            ("balance=1.5", "balance", "Invalid integer: 1.5", "parameter_invalid_integer"),
            ("balance=%D9%A1", "balance", "Invalid integer: \u0661", "parameter_invalid_integer"),
            ("shipping=A", "shipping", "Invalid object", None),
            ("metadata=A", "metadata", "Invalid object", None),
            ("preferred_locales=de", "preferred_locales", "Invalid array", None),
            ("preferred_locales[a]=de", "preferred_locales", "Invalid array", None),
            ("tax_exempt=maybe", "tax_exempt", "Invalid tax_exempt: must be one of none, exempt, or reverse", None),
        ],
    )  # fmt: skip
    async def test_a_wrong_parameter_is_named_and_nothing_is_made(
        self, sim: Sim, body: str, param: str, message: str, code: str | None
    ) -> None:
        status, reply = await raw(sim, "POST", "/v1/customers", body=body.encode())
        reply["error"].pop("request_log_url")
        assert (status, reply["error"]) == (400, error(message, param, code))
        assert (await sim.call("GET /v1/customers"))["data"] == []

    @pytest.mark.parametrize(
        "body",
        [
            b"name=\xff",
            b"name=%ff",
            b"name[=1",
            b"name[a=1",
            b"name]=1",
            b"[a]=1",
            b"=1",
            b"name=1&name[a]=2",
            b"name[a]=1&name=2",
            b"metadata" + 40 * b"[a]" + b"=1",
            b"&".join(b"metadata[%d]=1" % at for at in range(3000)),
        ],
        ids=lambda body: body[:20].decode("latin-1"),
    )
    async def test_bytes_that_make_no_sense_get_a_400_in_stripes_form(self, sim: Sim, body: bytes) -> None:
        status, reply = await raw(sim, "POST", "/v1/customers", body=body)
        assert (status, reply["error"]["type"]) == (400, "invalid_request_error")
        assert (await sim.call("GET /v1/customers"))["data"] == []

    async def test_a_flag_is_true_or_false(self, sim: Sim) -> None:
        status, reply = await raw(
            sim, "POST", "/v1/payment_intents", body=b"amount=5000&currency=usd&confirm=yes&payment_method=pm_card_visa"
        )
        assert status == 400
        assert (reply["error"]["param"], reply["error"]["message"]) == ("confirm", "Invalid boolean: yes")

    async def test_a_required_parameter_that_is_missing_is_named(self, sim: Sim) -> None:
        reply = await sim.call("POST /v1/payment_intents", currency="usd")
        assert (reply.status, reply.error) == (
            400,
            error("Missing required param: amount.", "amount", "parameter_missing"),
        )


class TestExpand:
    async def _world(self, sim: Sim) -> tuple[str, Reply]:
        customer = (await sim.call("POST /v1/customers", name="A person"))["id"]
        refund = await sim.call("POST /v1/refunds", charge=await sim.charge(customer=customer), amount=1500)
        return customer, refund

    async def test_nothing_is_expanded_unasked(self, sim: Sim) -> None:
        _, refund = await self._world(sim)
        charge = await sim.call(f"GET /v1/charges/{refund['charge']}")
        assert all(isinstance(refund[name], str) for name in ("charge", "payment_intent", "balance_transaction"))
        assert "refunds" not in charge.json
        assert isinstance(charge["customer"], str)

    async def test_four_levels_deep(self, sim: Sim) -> None:
        customer, refund = await self._world(sim)
        deep = "charge.payment_intent.latest_charge.customer"
        shown = await sim.call(f"GET /v1/refunds/{refund['id']}", expand=[deep])
        found = shown["charge"]["payment_intent"]["latest_charge"]["customer"]
        assert (found["object"], found["id"], found["name"]) == ("customer", customer, "A person")

    async def test_on_lists_the_way_begins_with_data(self, sim: Sim) -> None:
        customer, _ = await self._world(sim)
        listed = await sim.call("GET /v1/refunds", expand=["data.charge.payment_intent.customer"])
        assert listed["data"][0]["charge"]["payment_intent"]["customer"]["id"] == customer

    async def test_refunds_of_the_charges_of_a_list(self, sim: Sim) -> None:
        _, refund = await self._world(sim)
        listed = await sim.call("GET /v1/charges", expand=["data.refunds"])
        inside = listed["data"][0]["refunds"]
        assert ([r["id"] for r in inside["data"]], inside["total_count"]) == ([refund["id"]], 1)

    async def test_at_most_ten_refunds_come_inside_a_charge(self, sim: Sim) -> None:
        charge = await sim.charge()
        for _ in range(11):
            await sim.call("POST /v1/refunds", charge=charge, amount=1)
        inside = (await sim.call(f"GET /v1/charges/{charge}", expand=["refunds.data.balance_transaction"]))["refunds"]
        assert (len(inside["data"]), inside["has_more"], inside["total_count"]) == (10, True, 11)
        assert inside["data"][9]["balance_transaction"]["object"] == "balance_transaction"

    async def test_on_search_results_too(self, sim: Sim) -> None:
        customer, _ = await self._world(sim)
        await sim.move(2 * MINUTE)
        found = await sim.call("GET /v1/charges/search", query="amount:5000", expand=["data.customer", "data.refunds"])
        assert found["data"][0]["customer"]["id"] == customer
        assert found["data"][0]["refunds"]["total_count"] == 1

    async def test_on_what_a_post_answers(self, sim: Sim) -> None:
        refund = await sim.call("POST /v1/refunds", charge=await sim.charge(), expand=["charge", "balance_transaction"])
        assert refund["charge"]["refunded"] is True
        assert refund["balance_transaction"]["amount"] == -5000

    async def test_two_ways_that_share_a_beginning(self, sim: Sim) -> None:
        customer, refund = await self._world(sim)
        ways = ["charge.customer", "charge.payment_intent", "charge"]
        shown = await sim.call(f"GET /v1/refunds/{refund['id']}", expand=ways)
        assert shown["charge"]["customer"]["id"] == customer
        assert shown["charge"]["payment_intent"]["object"] == "payment_intent"

    async def test_what_is_null_stays_null(self, sim: Sim) -> None:
        charge = await sim.charge()
        shown = await sim.call(f"GET /v1/charges/{charge}", expand=["customer", "review", "customer.default_source"])
        assert (shown["customer"], shown["review"]) == (None, None)

    @pytest.mark.parametrize("way", ["wat", "amount", "charge.wat", "metadata", "data.charge", "charge.amount.x"])
    async def test_what_cannot_be_expanded_is_refused(self, sim: Sim, way: str) -> None:
        _, refund = await self._world(sim)
        reply = await sim.call(f"GET /v1/refunds/{refund['id']}", expand=[way])
        assert (reply.status, reply.error["param"], reply.error["type"]) == (400, "expand", "invalid_request_error")
        assert f"({way})" in reply.error["message"]

    async def test_a_refused_expansion_makes_no_refund(self, sim: Sim) -> None:
        charge = await sim.charge()
        assert (await sim.call("POST /v1/refunds", charge=charge, expand=["wat"])).status == 400
        assert (await sim.call("GET /v1/refunds"))["data"] == []


class TestLists:
    async def test_newest_first_ten_at_a_time(self, sim: Sim) -> None:
        made = await customers(sim, 11)
        listed = await sim.call("GET /v1/customers")
        assert (ids(listed), listed["has_more"], listed["url"]) == (made[:10], True, "/v1/customers")
        assert listed.json.keys() == {"object", "data", "has_more", "url"}

    @pytest.mark.parametrize("limit", [1, 3, 7, 100])
    async def test_cursors_walk_through_all_of_it_both_ways(self, sim: Sim, limit: int) -> None:
        made = await customers(sim, 7)
        down: list[str] = []
        while True:
            after: dict[str, Any] = {"starting_after": down[-1]} if down else {}
            page = await sim.call("GET /v1/customers", limit=limit, **after)
            down += ids(page)
            if not page["has_more"]:
                break
        assert down == made
        up = [made[-1]]
        while True:
            page = await sim.call("GET /v1/customers", limit=limit, ending_before=up[0])
            up = ids(page) + up
            if not page["has_more"]:
                break
        assert up == made

    async def test_objects_of_one_second_have_an_order_too(self, sim: Sim) -> None:
        made = [(await sim.call("POST /v1/customers"))["id"] for _ in range(5)][::-1]
        first = await sim.call("GET /v1/customers", limit=2)
        second = await sim.call("GET /v1/customers", limit=3, starting_after=ids(first)[-1])
        assert ids(first) + ids(second) == made

    async def test_what_is_made_meanwhile_does_not_shift_pages(self, sim: Sim) -> None:
        made = await customers(sim, 4)
        first = await sim.call("GET /v1/customers", limit=2)
        await customers(sim, 1)
        second = await sim.call("GET /v1/customers", limit=2, starting_after=ids(first)[-1])
        assert ids(first) + ids(second) == made

    async def test_the_last_page_may_be_empty(self, sim: Sim) -> None:
        made = await customers(sim, 2)
        page = await sim.call("GET /v1/customers", starting_after=made[-1])
        assert (page["data"], page["has_more"]) == ([], False)

    @pytest.mark.parametrize(
        ("limit", "message"),
        [
            ("0", "This value must be greater than or equal to 1."),
            ("-1", "This value must be greater than or equal to 1."),
            ("101", "This value must be less than or equal to 100."),
            ("abc", "Invalid integer: abc"),
            ("10.5", "Invalid integer: 10.5"),
        ],
    )
    async def test_a_limit_is_from_1_to_100(self, sim: Sim, limit: str, message: str) -> None:
        reply = await sim.call("GET /v1/charges", limit=limit)
        assert (reply.status, reply.error) == (400, error(message, "limit", "parameter_invalid_integer"))

    @pytest.mark.parametrize("limit", [1, 100])
    async def test_both_ends_of_the_limit_are_taken(self, sim: Sim, limit: int) -> None:
        assert (await sim.call("GET /v1/charges", limit=limit)).status == 200

    @pytest.mark.parametrize(
        ("path", "noun", "cursor"),
        [
            ("customers", "customer", "cus_aaa"),
            ("charges", "charge", "ch_aaa"),
            ("refunds", "refund", "re_aaa"),
            ("payment_intents", "payment_intent", "pi_aaa"),
            ("disputes", "dispute", "du_aaa"),
            ("events", "event", "evt_aaa"),
        ],
    )
    @pytest.mark.parametrize("name", ["starting_after", "ending_before"])
    async def test_a_bad_cursor_is_a_400_that_names_it(
        self, sim: Sim, path: str, noun: str, cursor: str, name: str
    ) -> None:
        given: dict[str, Any] = {name: cursor}
        reply = await sim.call(f"GET /v1/{path}", **given)
        assert (reply.status, reply.error) == (400, error(f"No such {noun}: '{cursor}'", name, "resource_missing"))

    async def test_both_cursors_are_refused(self, sim: Sim) -> None:
        made = await customers(sim, 2)
        reply = await sim.call("GET /v1/customers", starting_after=made[0], ending_before=made[1])
        text = "Received both starting_after and ending_before parameters. Please pass in only one."
        assert (reply.status, reply.error) == (400, error(text))

    @pytest.mark.parametrize(
        ("path", "filter_name", "object_id", "noun"),
        [
            ("charges", "customer", "cus_aaa", "customer"),
            ("charges", "payment_intent", "pi_aaa", "payment_intent"),
            ("refunds", "charge", "ch_aaa", "charge"),
            ("refunds", "payment_intent", "pi_aaa", "payment_intent"),
            ("disputes", "charge", "ch_aaa", "charge"),
            ("payment_intents", "customer", "cus_aaa", "customer"),
        ],
    )
    async def test_an_unknown_id_in_a_filter_is_a_400(
        self, sim: Sim, path: str, filter_name: str, object_id: str, noun: str
    ) -> None:
        given: dict[str, Any] = {filter_name: object_id}
        reply = await sim.call(f"GET /v1/{path}", **given)
        text = f"No such {noun}: '{object_id}'"
        assert (reply.status, reply.error) == (400, error(text, filter_name, "resource_missing"))

    @pytest.mark.parametrize("name", ["status", "refunded", "metadata"])
    async def test_charges_have_no_filter_by_status_refunded_or_metadata(self, sim: Sim, name: str) -> None:
        given: dict[str, Any] = {name: "x"}
        reply = await sim.call("GET /v1/charges", **given)
        assert (reply.status, reply.error) == (
            400,
            error(f"Received unknown parameter: {name}", name, "parameter_unknown"),
        )

    async def test_filters_choose_and_keep_choosing_behind_a_cursor(self, sim: Sim) -> None:
        charge, other = await sim.charge(), await sim.charge()
        made = []
        for _ in range(3):
            made.append((await sim.call("POST /v1/refunds", charge=charge, amount=1))["id"])
            await sim.call("POST /v1/refunds", charge=other, amount=1)
        first = await sim.call("GET /v1/refunds", charge=charge, limit=2)
        second = await sim.call("GET /v1/refunds", charge=charge, limit=2, starting_after=ids(first)[-1])
        assert ids(first) + ids(second) == made[::-1]
        assert (first["count"], first["has_more"], second["has_more"]) == (3, True, False)


class TestCreated:
    """`created[gt|gte|lt|lte]` in whole seconds, or one number."""

    @pytest.mark.parametrize(
        ("created", "places"),
        [
            ({"gt": 1}, [3, 2]),
            ({"gte": 1}, [3, 2, 1]),
            ({"lt": 2}, [1, 0]),
            ({"lte": 2}, [2, 1, 0]),
            ({"gte": 1, "lt": 3}, [2, 1]),
            ({"gt": 1, "lte": 2}, [2]),
            ({"gt": 3}, []),
            ({"gte": 2, "lte": 1}, []),
            (2, [2]),
        ],
        ids=str,
    )
    async def test_a_filter_by_time(self, sim: Sim, created: Any, places: list[int]) -> None:
        for _ in range(4):
            await sim.call("POST /v1/refunds", charge=await sim.charge())
            await sim.move(100)
        moved = {k: START + 100 * v for k, v in created.items()} if isinstance(created, dict) else START + 100 * created
        every, wanted = [START + 100 * place for place in range(4)], [START + 100 * place for place in places]
        for path in ("charges", "refunds", "payment_intents", "events", "balance_transactions"):
            listed = await sim.call(f"GET /v1/{path}", limit=100, created=moved)
            # The acquirer's reference and other small things happen in the seconds between.
            found = {entry["created"] for entry in listed["data"] if entry["created"] in every}
            assert sorted(found, reverse=True) == wanted, path

    @pytest.mark.parametrize(
        ("created", "param"),
        [({"gt": "yesterday"}, "created[gt]"), ({"since": 1}, "created[since]"), ("noon", "created"), ({"gte": "1.5"}, "created[gte]")],
        ids=str,
    )  # fmt: skip
    async def test_a_wrong_filter_is_refused_and_named(self, sim: Sim, created: Any, param: str) -> None:
        reply = await sim.call("GET /v1/refunds", created=created)
        assert (reply.status, reply.error["param"]) == (400, param)


class TestSearch:
    """Stripe's query language, on data that is found a minute after it was written."""

    async def _charges(self, sim: Sim) -> dict[str, str]:
        """Make charges that differ; tell their names by id."""
        customer = (await sim.call("POST /v1/customers", name="A person"))["id"]
        named = {
            await sim.charge(5000, metadata={"order_id": "536365", "shop": "north"}, customer=customer): "five",
            await sim.charge(1500, "eur", metadata={"order_id": "536366", "shop": "it's"}): "euro",
            await sim.charge(9900, card="pm_card_mastercard", metadata={"order_id": "536367"}): "master",
        }
        await sim.call("POST /v1/refunds", charge=next(c for c, name in named.items() if name == "five"))
        await sim.move(1)
        bare = await sim.charge(100)
        await sim.call(
            "POST /v1/payment_intents",
            amount=700,
            currency="usd",
            payment_method="pm_card_chargeDeclined",
            confirm=True,
        )
        declined = (await sim.call("GET /v1/charges", limit=1))["data"][0]["id"]
        await sim.move(2 * MINUTE)
        return named | {bare: "bare", declined: "declined"}

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("metadata['order_id']:'536365'", ["five"]),
            ('metadata["order_id"]:"536365"', ["five"]),
            ("metadata['order_id']:'none'", []),
            ("metadata['shop']:'it\\'s'", ["euro"]),
            ("metadata['order_id']~'36366'", ["euro"]),
            ("metadata['order_id']:null", ["declined", "bare"]),
            ("-metadata['order_id']:null", ["master", "euro", "five"]),
            ("-metadata['order_id']:'536365'", ["declined", "bare", "master", "euro"]),
            ("status:'succeeded'", ["bare", "master", "euro", "five"]),
            ("status:'failed'", ["declined"]),
            ("-status:'failed' AND amount<2000", ["bare", "euro"]),
            ("amount:1500", ["euro"]),
            ("amount:'1500'", ["euro"]),
            ("amount>1500", ["master", "five"]),
            ("amount>=1500", ["master", "euro", "five"]),
            ("amount<1500", ["declined", "bare"]),
            ("amount<=1500", ["declined", "bare", "euro"]),
            ("amount>100 AND amount<5001 AND status:'succeeded'", ["euro", "five"]),
            ("amount:100 OR amount:9900", ["bare", "master"]),
            ("currency:'eur'", ["euro"]),
            ("-currency:'usd'", ["euro"]),
            ("refunded:'true'", ["five"]),
            ("refunded:'false' AND status:'succeeded'", ["bare", "master", "euro"]),
            ("disputed:'true'", []),
            ("payment_method_details.card.brand:'mastercard'", ["master"]),
            ("payment_method_details.card.last4:'4242' AND amount>1000", ["euro", "five"]),
            ("customer:null AND currency:'eur'", ["euro"]),
            (f"created>{START}", ["declined", "bare"]),
            (f"created<={START}", ["master", "euro", "five"]),
            ("  amount : 1500  ", ["euro"]),
        ],
    )
    async def test_a_query_finds(self, sim: Sim, query: str, names: list[str]) -> None:
        named = await self._charges(sim)
        found = await sim.call("GET /v1/charges/search", query=query, limit=100)
        assert found.status == 200, found.json
        assert [named[charge] for charge in ids(found)] == names
        assert found.json.keys() == {"object", "data", "has_more", "next_page", "url"}
        assert (found["object"], found["has_more"], found["next_page"], found["url"]) == (
            "search_result",
            False,
            None,
            "/v1/charges/search",
        )

    @pytest.mark.parametrize(
        "query",
        [
            "",
            " ",
            "amount",
            "amount:",
            "amount:abc",
            "amount~15",
            "amount:1500 AND",
            "AND amount:1500",
            "amount:1500 amount:1500",
            "amount:1 AND amount:2 OR amount:3",
            "(amount:1)",
            "wat:'x'",
            "metadata:'x'",
            "metadata['order_id']>'5'",
            "metadata[order_id]:'5'",
            "status['x']:'y'",
            "status:succeeded",
            "status>'succeeded'",
            "status:'succeeded",
            "refunded:'maybe'",
            "refunded~'true'",
            "'; DROP TABLE charge; --",
            "amount:1500; amount:1500",
            "currency='eur'",
        ],
    )
    async def test_a_bad_query_is_a_400_that_names_it(self, sim: Sim, query: str) -> None:
        await sim.charge()
        reply = await sim.call("GET /v1/charges/search", query=query)
        assert (reply.status, reply.error["param"], reply.error["type"]) == (400, "query", "invalid_request_error")

    async def test_a_query_is_required(self, sim: Sim) -> None:
        reply = await sim.call("GET /v1/charges/search")
        assert (reply.status, reply.error) == (
            400,
            error("Missing required param: query.", "query", "parameter_missing"),
        )

    async def test_pages_follow_one_another(self, sim: Sim) -> None:
        made = [await sim.charge(1000 + at) for at in range(5)][::-1]
        await sim.move(2 * MINUTE)
        walked: list[str] = []
        page: str | None = None
        sizes = []
        while True:
            more: dict[str, Any] = {"page": page} if page else {}
            found = await sim.call("GET /v1/charges/search", query="amount>=1000", limit=2, **more)
            walked += ids(found)
            sizes.append(len(found["data"]))
            page = found["next_page"]
            assert found["has_more"] is (page is not None)
            if page is None:
                break
        assert (walked, sizes) == (made, [2, 2, 1])

    @pytest.mark.parametrize("page", ["2", "wat", "MTIz", "%"])
    async def test_a_page_that_was_never_answered_is_refused(self, sim: Sim, page: str) -> None:
        reply = await sim.call("GET /v1/charges/search", query="amount>1", page=page)
        assert (reply.status, reply.error["param"]) == (400, "page")

    @pytest.mark.parametrize("limit", ["0", "101", "x"])
    async def test_the_limit_is_from_1_to_100_here_too(self, sim: Sim, limit: str) -> None:
        reply = await sim.call("GET /v1/charges/search", query="amount>1", limit=limit)
        assert (reply.status, reply.error["param"]) == (400, "limit")

    async def test_cursors_of_lists_are_unknown_here(self, sim: Sim) -> None:
        reply = await sim.call("GET /v1/charges/search", query="amount>1", starting_after=await sim.charge())
        assert reply.error["code"] == "parameter_unknown"

    async def test_the_total_comes_only_when_asked_for(self, sim: Sim) -> None:
        for _ in range(3):
            await sim.charge()
        await sim.move(2 * MINUTE)
        found = await sim.call("GET /v1/charges/search", query="amount:5000", limit=1, expand=["total_count"])
        assert (len(found["data"]), found["total_count"]) == (1, 3)

    async def test_what_was_just_written_is_not_found_yet(self, sim: Sim) -> None:
        charge = await sim.charge(metadata={"order_id": "1"})
        query = "metadata['order_id']:'1'"
        await sim.move(MINUTE - 1)
        assert (await sim.call("GET /v1/charges/search", query=query))["data"] == []
        await sim.move(1)
        assert ids(await sim.call("GET /v1/charges/search", query=query)) == [charge]

    async def test_a_search_sees_its_own_account_only(self, sim: Sim) -> None:
        account = (await sim.call("POST /v1/accounts", type="standard"))["id"]
        await sim.charge()
        await sim.move(2 * MINUTE)
        for where in ({"account": account}, {"key": "sk_live_sim"}):
            assert (await sim.call("GET /v1/charges/search", query="amount>0", **where))["data"] == []

    async def test_payment_intents_and_customers_are_searched_too(self, sim: Sim) -> None:
        charge = await sim.charge(metadata={"order_id": "7"})
        intent = (await sim.call(f"GET /v1/charges/{charge}"))["payment_intent"]
        customer = (await sim.call("POST /v1/customers", email="a@example.com", name="Ada Person"))["id"]
        await sim.move(2 * MINUTE)
        assert ids(await sim.call("GET /v1/payment_intents/search", query="metadata['order_id']:'7'")) == [intent]
        for query in ("email:'a@example.com'", "name~'ada'", "email~'example' AND name:'Ada Person'"):
            assert ids(await sim.call("GET /v1/customers/search", query=query)) == [customer]

    async def test_refunds_cannot_be_searched(self, sim: Sim) -> None:
        # There is no such route: the last word is read as a refund's id.
        assert (await sim.call("GET /v1/refunds/search")).status == 404
        assert (await sim.call("GET /v1/refunds/search", query="amount>0")).error["code"] == "parameter_unknown"


class TestHeaders:
    async def test_each_answer_has_a_request_id_of_its_own(self, sim: Sim) -> None:
        replies = [
            await sim.call("GET /v1/balance"),
            await sim.call("GET /v1/charges/ch_1"),
            await sim.call("GET /v1/x"),
        ]
        seen = [reply.headers["request-id"] for reply in replies]
        assert len(set(seen)) == 3
        assert all(one.startswith("req_") and len(one) == 18 for one in seen)

    async def test_a_refused_key_has_a_request_id_too(self, sim: Sim) -> None:
        assert (await sim.call("GET /v1/balance", key="sk_test_wrong")).headers["request-id"]

    async def test_the_same_seed_and_calls_give_the_same_bytes(self, sim: Sim) -> None:
        twin = Sim()
        for world in (sim, twin):
            await world.call("POST /v1/refunds", charge=await world.charge(), metadata={"a": "b"})
        one, other = [await world.call("GET /v1/events", limit=100) for world in (sim, twin)]
        assert (one.body, one.headers) == (other.body, other.headers)
        twin.simulator.close()

    async def test_the_date_is_the_worlds_time(self, sim: Sim) -> None:
        _, headers, _ = await over_asgi(sim, "GET", "/v1/balance")
        assert parsedate_to_datetime(headers["date"]) == datetime.fromtimestamp(START, UTC)
        assert headers["date"].endswith(" GMT")
        await sim.move(DAY)
        _, headers, _ = await over_asgi(sim, "GET", "/v1/balance")
        assert parsedate_to_datetime(headers["date"]) == datetime.fromtimestamp(START + DAY, UTC)

    async def test_json_of_the_told_length_under_lower_case_headers(self, sim: Sim) -> None:
        status, headers, body = await over_asgi(sim, "POST", "/v1/customers", b"name=Z%C3%BCrich")
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert int(headers["content-length"]) == len(body)
        assert "Zürich" in body.decode()
        assert headers.keys() >= {"request-id", "date", "stripe-version", "idempotency-key", "original-request"}
        assert all(name == name.lower() for name in headers)

    async def test_errors_come_with_the_same_headers(self, sim: Sim) -> None:
        status, headers, _ = await over_asgi(sim, "GET", "/v1/charges/ch_unknown")
        assert status == 404
        assert headers.keys() >= {"request-id", "date", "stripe-version", "content-type", "content-length"}


class TestErrorEnvelope:
    async def _refused(self, sim: Sim) -> list[Reply]:
        charge = await sim.charge()
        await sim.call("POST /v1/refunds", charge=charge)
        faults = [
            {"kind": kind, "operation": "GET /v1/balance", "at": [at]}
            for at, kind in enumerate(("rate_limit", "lock_timeout", "error_before", "unauthorized", "forbidden"), 1)
        ]
        await sim.control("POST /_sim/faults", {"rules": faults})
        return [
            await sim.call("POST /v1/refunds", charge=charge),
            await sim.call("POST /v1/refunds", charge=charge, wat=1),
            await sim.call("GET /v1/charges/ch_unknown"),
            await sim.call("GET /v1/nothing"),
            await sim.call("GET /v1/charges", key=None),
            await sim.call(
                "POST /v1/payment_intents",
                amount=5000,
                currency="usd",
                payment_method="pm_card_chargeDeclinedInsufficientFunds",
                confirm=True,
            ),
            *[await sim.call("GET /v1/balance") for _ in faults],
        ]

    async def test_the_envelope_holds_one_error_without_nulls(self, sim: Sim) -> None:
        for reply in await self._refused(sim):
            assert reply.json.keys() == {"error"}
            assert None not in reply["error"].values()
            assert reply["error"].keys() >= {"type", "message"}

    async def test_there_are_four_types_on_the_wire(self, sim: Sim) -> None:
        kinds = {reply.error["type"] for reply in await self._refused(sim)}
        charge = await sim.charge()
        for amount in (1, 2):
            used = await sim.call("POST /v1/refunds", idempotency_key="k", charge=charge, amount=amount)
        kinds.add(used.error["type"])
        assert kinds == {"api_error", "card_error", "idempotency_error", "invalid_request_error"}

    async def test_a_page_is_named_just_where_there_is_a_code(self, sim: Sim) -> None:
        for reply in await self._refused(sim):
            code = reply.error.get("code")
            page = code and "https://stripe.com/docs/error-codes/" + code.replace("_", "-")
            assert reply.error.get("doc_url") == page

    async def test_the_log_of_the_request_is_named(self, sim: Sim) -> None:
        reply = await sim.call("GET /v1/charges/ch_unknown")
        assert reply["error"]["request_log_url"].endswith("/logs/" + reply.headers["request-id"])

    async def test_a_declined_card_is_402_with_its_charge_and_intent(self, sim: Sim) -> None:
        reply = (await self._refused(sim))[5]
        told = reply.error
        assert reply.status == 402
        assert (told["type"], told["code"], told["decline_code"]) == (
            "card_error",
            "card_declined",
            "insufficient_funds",
        )
        assert told["payment_intent"]["latest_charge"] == told["charge"]
        assert (await sim.call(f"GET /v1/charges/{told['charge']}"))["status"] == "failed"

    @pytest.mark.parametrize("status", [424, 500, 502, 503, 504])
    async def test_stripes_own_trouble_has_each_of_its_documented_statuses(self, sim: Sim, status: int) -> None:
        await sim.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "status": status}]})
        reply = await sim.call("GET /v1/balance")
        assert (reply.status, reply.error["type"]) == (status, "api_error")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/nothing"),
            ("POST", "/v1/nothing/else"),
            ("DELETE", "/v1/charges/ch_1"),
            ("PUT", "/v1/refunds"),
            ("GET", "/v2/core/events"),
            ("GET", "/v1"),
            ("GET", "/"),
            ("POST", "/v1/topups"),
            ("GET", "/v1/charges/"),
        ],
    )
    async def test_what_is_not_there_is_404_in_stripes_words(self, sim: Sim, method: str, path: str) -> None:
        status, reply = await raw(sim, method, path)
        assert status == 404
        assert reply["error"]["type"] == "invalid_request_error"
        assert reply["error"]["message"].startswith(f"Unrecognized request URL ({method}: {path}). ")

    @pytest.mark.parametrize(
        ("path", "noun", "param"),
        [
            ("charges/ch_nope", "charge", "id"),
            ("disputes/du_nope", "dispute", "dispute"),
            ("customers/cus_nope", "customer", "id"),
            ("balance_transactions/txn_nope", "balance_transaction", "id"),
            ("events/evt_nope", "event", "id"),
        ],
    )
    async def test_an_unknown_id_in_the_path_is_404(self, sim: Sim, path: str, noun: str, param: str) -> None:
        reply = await sim.call(f"GET /v1/{path}")
        text = f"No such {noun}: '{path.split('/')[1]}'"
        assert (reply.status, reply.error) == (404, error(text, param, "resource_missing"))


class TestMetadata:
    async def _refund(self, sim: Sim, **metadata: str) -> Reply:
        return await sim.call("POST /v1/refunds", charge=await sim.charge(), metadata=metadata)

    async def _change(self, sim: Sim, refund: Reply, metadata: Any) -> Reply:
        return await sim.call(f"POST /v1/refunds/{refund['id']}", metadata=metadata)

    async def test_it_is_kept_on_the_refund_and_shown_in_its_events(self, sim: Sim) -> None:
        refund = await self._refund(sim, refundry_request_id="8d3f", ticket="77")
        assert refund["metadata"] == {"refundry_request_id": "8d3f", "ticket": "77"}
        event = (await sim.call("GET /v1/events", type="refund.created"))["data"][0]
        assert event["data"]["object"]["metadata"] == refund["metadata"]

    async def test_it_is_not_copied_from_the_payment_intent_to_the_refund(self, sim: Sim) -> None:
        charge = await sim.charge(metadata={"order_id": "1"})
        assert (await sim.call(f"GET /v1/charges/{charge}"))["metadata"] == {"order_id": "1"}
        assert (await sim.call("POST /v1/refunds", charge=charge))["metadata"] == {}

    async def test_a_change_merges_an_empty_value_unsets_and_an_empty_hash_clears(self, sim: Sim) -> None:
        refund = await self._refund(sim, a="1", b="2")
        assert (await self._change(sim, refund, {"b": "3", "c": "4"}))["metadata"] == {"a": "1", "b": "3", "c": "4"}
        assert (await self._change(sim, refund, {"a": ""}))["metadata"] == {"b": "3", "c": "4"}
        assert (await self._change(sim, refund, {"never": ""}))["metadata"] == {"b": "3", "c": "4"}
        assert (await self._change(sim, refund, ""))["metadata"] == {}
        assert (await sim.call(f"GET /v1/refunds/{refund['id']}"))["metadata"] == {}

    async def test_values_are_texts(self, sim: Sim) -> None:
        refund = await self._refund(sim, number="007", flag="true")
        assert refund["metadata"] == {"number": "007", "flag": "true"}

    async def test_only_metadata_of_a_refund_can_be_changed(self, sim: Sim) -> None:
        refund = await self._refund(sim)
        reply = await sim.call(f"POST /v1/refunds/{refund['id']}", amount=1)
        assert reply.error == error("Received unknown parameter: amount", "amount", "parameter_unknown")

    @pytest.mark.parametrize(("key", "value"), [("k" * 40, "v"), ("k", "v" * 500), ("ключ", "☕" * 500)])
    async def test_what_is_just_short_enough_is_taken(self, sim: Sim, key: str, value: str) -> None:
        assert (await self._refund(sim, **{key: value}))["metadata"] == {key: value}

    @pytest.mark.parametrize(("key", "value"), [("k" * 41, "v"), ("k", "v" * 501), ("k[x]", "v")])
    async def test_what_is_too_long_or_has_brackets_is_refused(self, sim: Sim, key: str, value: str) -> None:
        reply = await self._refund(sim, **{key: value})
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
        assert reply.error["param"].startswith("metadata[")
        assert (await sim.call("GET /v1/refunds"))["data"] == []

    async def test_fifty_keys_are_the_most(self, sim: Sim) -> None:
        fifty = {f"k{at}": "v" for at in range(50)}
        assert len((await self._refund(sim, **fifty))["metadata"]) == 50
        reply = await self._refund(sim, **fifty, one_more="v")
        assert (reply.status, reply.error["param"]) == (400, "metadata")

    async def test_fifty_keys_are_the_most_after_a_change_too(self, sim: Sim) -> None:
        refund = await self._refund(sim, **{f"k{at}": "v" for at in range(50)})
        assert (await self._change(sim, refund, {"more": "v"})).status == 400
        assert (await self._change(sim, refund, {"k0": "", "more": "v"})).status == 200
        assert len((await sim.call(f"GET /v1/refunds/{refund['id']}"))["metadata"]) == 50


class TestVersions:
    async def _paid_by(self, sim: Sim, method: str, currency: str = "usd") -> str:
        made = await sim.call("POST /v1/payment_methods", type=method, **_of(method))
        return await sim.charge(currency=currency, card=made["id"])

    async def test_dahlia_is_answered_unasked(self, sim: Sim) -> None:
        assert (await sim.call("GET /v1/balance")).headers["stripe-version"] == DAHLIA

    @pytest.mark.parametrize("version", [DAHLIA, ENDIVE_SEPTEMBER, ENDIVE_OCTOBER])
    async def test_the_asked_version_is_answered(self, sim: Sim, version: str) -> None:
        assert (await sim.call("GET /v1/balance", version=version)).headers["stripe-version"] == version

    @pytest.mark.parametrize(
        "version",
        ["2019-01-01", "2026-08-26", "2026-08-26.endive", "2027-03-31.fennel", "latest", "", "2026-08-26.dahlia "],
    )
    async def test_an_unknown_version_is_refused(self, sim: Sim, version: str) -> None:
        reply = await sim.call("GET /v1/balance", version=version)
        assert (reply.status, reply.error) == (400, error(f"Invalid Stripe API version: {version}"))

    async def test_an_unknown_version_makes_no_refund(self, sim: Sim) -> None:
        charge = await sim.charge()
        assert (await sim.call("POST /v1/refunds", version="2019-01-01", charge=charge)).status == 400
        assert (await sim.call("GET /v1/refunds"))["data"] == []

    async def test_an_account_may_have_another_version_by_default(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"account_default_version": ENDIVE_OCTOBER})
        assert (await sim.call("GET /v1/balance")).headers["stripe-version"] == ENDIVE_OCTOBER

    @pytest.mark.parametrize("method", ["klarna", "paypal", "afterpay_clearpay"])
    async def test_endive_adds_references_to_refunds_of_three_methods(self, sim: Sim, method: str) -> None:
        refund = await sim.call("POST /v1/refunds", charge=await self._paid_by(sim, method))
        path = f"GET /v1/refunds/{refund['id']}"
        assert refund["destination_details"] == {"type": method, method: {}}
        fresh = await sim.call(path, version=ENDIVE_OCTOBER, check=False)
        assert fresh["destination_details"] == {"type": method, method: {"reference_status": "pending"}}
        await sim.move(MINUTE)
        later = (await sim.call(path, version=ENDIVE_OCTOBER, check=False))["destination_details"][method]
        assert later.keys() == {"reference", "reference_status"}
        assert (later["reference_status"], bool(later["reference"])) == ("available", True)
        assert (await sim.call(path))["destination_details"] == {"type": method, method: {}}

    async def test_endive_adds_the_way_of_submission_to_disputes(self, sim: Sim) -> None:
        charge = await sim.charge(card="pm_card_createDispute")
        await sim.move(1)
        old = await sim.call(f"GET /v1/charges/{charge}/dispute")
        new = await sim.call(f"GET /v1/charges/{charge}/dispute", version=ENDIVE_OCTOBER)
        assert new.json.keys() - old.json.keys() == {"intended_submission_method"}
        assert new["evidence_details"].keys() - old["evidence_details"].keys() == {"submission_method"}
        assert old.json.keys() <= new.json.keys()

    async def test_endive_changes_nothing_about_card_refunds_and_charges(self, sim: Sim) -> None:
        refund = await sim.call("POST /v1/refunds", version=ENDIVE_OCTOBER, charge=await sim.charge())
        for path in (f"GET /v1/refunds/{refund['id']}", f"GET /v1/charges/{refund['charge']}", "GET /v1/balance"):
            assert (await sim.call(path, version=ENDIVE_OCTOBER)).json == (await sim.call(path)).json

    @pytest.mark.parametrize("version", [ENDIVE_SEPTEMBER, ENDIVE_OCTOBER])
    @pytest.mark.parametrize("at", ["create", "confirm"])
    async def test_endive_takes_no_payment_method_types(self, sim: Sim, version: str, at: str) -> None:
        params = {"payment_method": "pm_card_visa", "payment_method_types": ["card"]}
        if at == "create":
            call: tuple[str, dict[str, Any]] = (
                "POST /v1/payment_intents",
                {"amount": 5000, "currency": "usd", **params},
            )
        else:
            intent = (await sim.call("POST /v1/payment_intents", amount=5000, currency="usd"))["id"]
            call = (f"POST /v1/payment_intents/{intent}/confirm", params)
        reply = await sim.call(call[0], version=version, **call[1])
        text = "Received unknown parameter: payment_method_types"
        assert (reply.status, reply.error) == (400, error(text, "payment_method_types", "parameter_unknown"))
        assert (await sim.call(call[0], version=DAHLIA, **call[1])).status == 200

    async def test_one_object_is_shown_to_each_caller_in_its_version(self, sim: Sim) -> None:
        refund = await sim.call(
            "POST /v1/refunds", charge=await self._paid_by(sim, "klarna"), version=ENDIVE_OCTOBER, check=False
        )
        assert refund["destination_details"]["klarna"] == {"reference_status": "pending"}
        listed = await sim.call("GET /v1/refunds")
        assert listed["data"][0]["destination_details"]["klarna"] == {}


class TestChosenByTheSimulator:
    """These are from memory, or not confirmed of Stripe."""

    async def test_more_than_four_levels_are_refused(self, sim: Sim) -> None:
        refund = await sim.call("POST /v1/refunds", charge=await sim.charge())
        way = "charge.payment_intent.latest_charge.payment_intent.customer"
        reply = await sim.call(f"GET /v1/refunds/{refund['id']}", expand=[way])
        text = f"You cannot expand more than 4 levels of a property. Property: {way}"
        assert (reply.status, reply.error) == (400, error(text, "expand"))
        listed = await sim.call("GET /v1/refunds", expand=["data.charge.payment_intent.latest_charge.customer"])
        assert listed.status == 400

    async def test_the_sentence_for_what_cannot_be_expanded(self, sim: Sim) -> None:
        await sim.charge()
        reply = await sim.call("GET /v1/charges", expand=["data.wat"])
        assert reply.error == error("This property cannot be expanded (data.wat).", "expand")

    @pytest.mark.parametrize(
        ("metadata", "param", "message"),
        [
            ({"k" * 41: "v"}, f"metadata[{'k' * 41}]", f"Metadata keys can have up to 40 characters, but you passed in a key that is 41 characters. Invalid key: {'k' * 41}"),
            ({"k": "v" * 501}, "metadata[k]", f"Metadata values can have up to 500 characters, but you passed in a value that is 501 characters. Invalid value: {'v' * 501}"),
            ({f"k{at}": "v" for at in range(51)}, "metadata", "You can only have up to 50 metadata keys, but you would have 51."),
        ],
        ids=["key", "value", "keys"],
    )  # fmt: skip
    async def test_the_sentences_for_metadata(
        self, sim: Sim, metadata: dict[str, str], param: str, message: str
    ) -> None:
        reply = await sim.call("POST /v1/customers", metadata=metadata)
        assert reply.error == error(message, param)

    async def test_an_unknown_search_field_is_named(self, sim: Sim) -> None:
        reply = await sim.call("GET /v1/charges/search", query="wat:'x'")
        assert reply.error["message"].startswith("Field 'wat' is an unsupported search field for resource 'charges'.")

    async def test_how_late_a_search_is_is_a_setting(self, sim: Sim) -> None:
        await sim.control("POST /_sim/settings", {"search_delay": 0})
        charge = await sim.charge()
        assert ids(await sim.call("GET /v1/charges/search", query="amount:5000")) == [charge]
