"""Stripe's JSON becomes our types, or is refused; never a guess."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refundry.gateways.base import RefundBody, SeenDispute
from refundry.gateways.stripe import mapping
from refundry.gateways.stripe.mapping import Unreadable
from refundry.kernel.outcome import SeenRefund

pytestmark = pytest.mark.unit

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "contract" / "stripe" / "recorded.json").read_text(encoding="utf-8")
)
REFUND = RECORDED["refund_create_partial_by_charge"]["body"]
CHARGE = RECORDED["charge_after_partial_refund"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
READERS = [
    (mapping.refund_of, REFUND),
    (mapping.charge_of, CHARGE),
    (mapping.dispute_of, RECORDED["dispute_needs_response"]),
    (mapping.latest_charge_of, {"object": "payment_intent", "id": "pi_1", "latest_charge": "ch_1"}),
    (mapping.available_of, {"object": "balance", "available": [{"amount": 5, "currency": "gbp"}]}),
    (
        mapping.endpoint_of,
        {
            "object": "webhook_endpoint",
            "id": "we_1",
            "url": "https://desk.example/webhooks/stripe",
            "status": "enabled",
            "enabled_events": ["*"],
        },
    ),
    (mapping.page_of, {"object": "list", "data": [{"id": "re_1"}], "has_more": False}),
]


def test_a_recorded_refund_is_read_with_what_it_leaves_out_as_none() -> None:
    assert mapping.refund_of(REFUND) == SeenRefund(
        id="re_3UHnJtHIBYZYyePr0NWaslIl",
        charge="ch_3UHnJtHIBYZYyePr0OHvLnhd",
        amount_minor=1500,
        currency="usd",
        status="succeeded",
        created_at=1789920626.0,
        reason="duplicate",
        failure_reason=None,
        pending_reason=None,
        payment_intent="pi_3UHnJtHIBYZYyePr07DClsD4",
        metadata={"p": "s05"},
    )


def test_a_recorded_charge_is_read() -> None:
    charge = mapping.charge_of(CHARGE)
    assert (charge.id, charge.payment_intent) == (CHARGE["id"], CHARGE["payment_intent"])
    assert (charge.amount_minor, charge.captured_minor, charge.refunded_minor) == (5000, 5000, 1500)
    assert (charge.captured, charge.disputed, charge.livemode) == (True, False, False)
    assert (charge.destination, charge.application_fee, charge.metadata) == (None, False, {})


@pytest.mark.parametrize(
    ("more", "destination", "fee"),
    [
        ({"transfer_data": {"destination": "acct_1", "amount": None}}, "acct_1", False),
        ({"transfer_data": {"destination": {"id": "acct_2", "object": "account"}}}, "acct_2", False),
        ({"destination": "acct_3"}, "acct_3", False),
        ({"application_fee_amount": 0}, None, True),
        ({"application_fee": "fee_1"}, None, True),
    ],
)
def test_connect_shows_on_the_charge(more: dict[str, Any], destination: str | None, fee: bool) -> None:  # noqa: FBT001
    charge = mapping.charge_of(CHARGE | more)
    assert (charge.destination, charge.application_fee) == (destination, fee)


def test_a_recorded_dispute_is_read() -> None:
    seen = mapping.dispute_of(RECORDED["dispute_needs_response"])
    assert seen == SeenDispute("du_1UHnK4HIBYZYyePrJddVMLuH", "needs_response", 6000, refundable=False)


@pytest.mark.parametrize("name", ["id", "charge", "amount", "currency", "status", "created"])
@pytest.mark.parametrize("value", [None, True, 1.5, "", [], {}])
def test_a_refund_that_lacks_what_money_hangs_on_is_unreadable(name: str, value: object) -> None:
    with pytest.raises(Unreadable):
        mapping.refund_of(REFUND | {name: value})


@pytest.mark.parametrize("name", ["amount", "amount_captured", "amount_refunded", "captured", "disputed", "livemode"])
def test_a_charge_that_lacks_what_money_hangs_on_is_unreadable(name: str) -> None:
    with pytest.raises(Unreadable):
        mapping.charge_of({key: value for key, value in CHARGE.items() if key != name})


def test_a_dispute_without_its_gate_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        mapping.dispute_of(RECORDED["dispute_needs_response"] | {"is_charge_refundable": None})


def test_a_list_that_does_not_come_is_not_an_empty_one() -> None:
    for raw in (None, {}, {"object": "list", "data": []}, {"object": "list", "data": None, "has_more": False}):
        with pytest.raises(Unreadable):
            mapping.page_of(raw)


def test_metadata_that_is_not_text_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        mapping.refund_of(REFUND | {"metadata": {"refundry_request_id": 7}})


@pytest.mark.parametrize(("key", "live"), [("sk_live_a", True), ("rk_live_a", True), ("sk_test_live_", False)])
def test_the_mode_is_the_keys(key: str, live: bool) -> None:  # noqa: FBT001
    raw = {"object": "account", "id": "acct_1", "country": "GB", "default_currency": "gbp"}
    assert mapping.account_of(raw, key).livemode is live


def test_the_balance_adds_up_per_currency() -> None:
    rows = [{"amount": 5, "currency": "gbp"}, {"amount": -2, "currency": "eur"}, {"amount": 7, "currency": "gbp"}]
    assert mapping.available_of({"object": "balance", "available": rows}) == {"gbp": 12, "eur": -2}


def test_equal_bodies_are_equal_bytes() -> None:
    one = mapping.refund_params(RefundBody("ch_1", 5, "duplicate", {"b": "2", "a": "1"}, reverse_transfer=False))
    other = mapping.refund_params(RefundBody("ch_1", 5, "duplicate", {"a": "1", "b": "2"}, reverse_transfer=False))
    assert json.dumps(one) == json.dumps(other)
    assert one == {
        "charge": "ch_1",
        "amount": 5,
        "reason": "duplicate",
        "metadata": {"a": "1", "b": "2"},
        "reverse_transfer": False,
    }


@pytest.mark.parametrize(
    ("order_id", "query"),
    [
        ("536365", "metadata['order_id']:'536365'"),
        ("o'1", "metadata['order_id']:'o\\'1'"),
        ("a\\", "metadata['order_id']:'a\\\\'"),
        ("' OR amount>0 OR status:'", "metadata['order_id']:'\\' OR amount>0 OR status:\\''"),
    ],
)
def test_an_order_id_is_never_part_of_the_query(order_id: str, query: str) -> None:
    assert mapping.order_query("order_id", order_id) == query
    assert parse_qsl(urlencode({"query": query})) == [("query", query)]


@pytest.mark.parametrize("given_id", ["", ".", "..", "ch_1/refunds", "ch_1?x=1", "ch_1\n", "ch 1", "ch_é", "c" * 256])
def test_what_is_no_id_does_not_reach_a_path(given_id: str) -> None:
    assert not mapping.ID.fullmatch(given_id)


@pytest.mark.property
@settings(deadline=None)  # the cores are shared
@given(where=st.sampled_from(READERS), names=st.lists(st.text(max_size=9), max_size=2), value=JSON, draw=st.data())
def test_any_json_is_read_or_refused(
    where: tuple[Any, dict[str, Any]], names: list[str], value: Any, draw: st.DataObject
) -> None:
    reader, raw = where
    name = draw.draw(st.sampled_from(sorted(raw)))
    for changed in (value, raw | {name: value}, raw | dict.fromkeys(names, value)):
        with suppress(Unreadable):
            reader(changed)
