"""Subscriptions, invoices and credit notes: honest shapes, and honest links to their payments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stripesim.resources.subscriptions import period_end
from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract


async def subscribed(sim: Recorder, card: str = "pm_card_visa", **more: Any) -> Any:
    """Let a customer subscribe to 15.00 a month; tells the subscription."""
    customer = await sim.ok("POST /v1/customers", email="ada@example.com", payment_method=card)
    product = (await sim.ok("POST /v1/products", name="Coffee"))["id"]
    params = {"product": product, "currency": "usd", "unit_amount": 1500, "recurring": {"interval": "month"}}
    price = (await sim.ok("POST /v1/prices", **params))["id"]
    return await sim.call("POST /v1/subscriptions", customer=customer["id"], items=[{"price": price}], **more)


async def charge_of(sim: Recorder, invoice: str) -> str:
    (link,) = (await sim.ok("GET /v1/invoice_payments", invoice=invoice, expand=["data.payment.payment_intent"]))[
        "data"
    ]
    return str(link["payment"]["payment_intent"]["latest_charge"])


async def open_invoice(sim: Recorder, amount: int = 2500) -> str:
    customer = (await sim.ok("POST /v1/customers", payment_method="pm_card_visa"))["id"]
    invoice = (await sim.ok("POST /v1/invoices", customer=customer, currency="usd"))["id"]
    await sim.ok("POST /v1/invoiceitems", customer=customer, invoice=invoice, amount=amount)
    await sim.ok(f"POST /v1/invoices/{invoice}/finalize")
    return str(invoice)


async def test_periods_are_on_the_items_and_links_on_the_parent(sim: Recorder) -> None:
    subscription = await subscribed(sim)
    item = subscription["items"]["data"][0]
    assert item["current_period_end"] == period_end(item["current_period_start"], "month", 1)
    assert not {"current_period_start", "current_period_end"} & subscription.json.keys()
    invoice = await sim.ok(f"GET /v1/invoices/{subscription['latest_invoice']}")
    assert invoice["parent"]["subscription_details"]["subscription"] == subscription["id"]
    assert not {"charge", "payment_intent", "subscription"} & invoice.json.keys()


@pytest.mark.parametrize(("start", "interval", "count", "end"), [
    ("2026-01-31T12:00:00", "month", 1, "2026-02-28T12:00:00"),
    ("2027-12-31T00:00:00", "month", 2, "2028-02-29T00:00:00"),
    ("2028-02-29T06:00:00", "year", 1, "2029-02-28T06:00:00"),
    ("2026-12-15T06:00:00", "month", 1, "2027-01-15T06:00:00"),
    ("2026-12-25T06:00:00", "week", 2, "2027-01-08T06:00:00"),
])  # fmt: skip
def test_a_period_keeps_the_day_or_takes_the_months_last(start: str, interval: str, count: int, end: str) -> None:
    from datetime import datetime

    def seconds(text: str) -> int:
        return int(datetime.fromisoformat(text + "+00:00").timestamp())

    assert period_end(seconds(start), interval, count) == seconds(end)


async def test_an_invoices_payment_is_an_ordinary_charge(sim: Recorder) -> None:
    subscription = await subscribed(sim)
    charge = await charge_of(sim, subscription["latest_invoice"])
    refund = await sim.ok("POST /v1/refunds", charge=charge, amount=500)
    assert refund["customer"] == subscription["customer"]
    by_intent = {"type": "payment_intent", "payment_intent": refund["payment_intent"]}
    (link,) = (await sim.ok("GET /v1/invoice_payments", payment=by_intent))["data"]
    assert (link["invoice"], link["amount_paid"], link["status"]) == (subscription["latest_invoice"], 1500, "paid")
    assert (await sim.ok(f"GET /v1/invoices/{link['invoice']}"))["amount_paid"] == 1500, "a refund leaves the invoice"


async def test_a_note_that_refunds_and_a_refund_of_the_charge_exclude_each_other(sim: Recorder) -> None:
    subscription = await subscribed(sim)
    charge = await charge_of(sim, subscription["latest_invoice"])
    rule = {"kind": "latency", "operation": "POST *", "milliseconds": 20}
    assert (await sim.control("POST /_sim/faults", {"rules": [rule]})).status == 200
    note = {"invoice": subscription["latest_invoice"], "amount": 500, "refund_amount": 500}
    first, other = await asyncio.gather(
        sim.call("POST /v1/credit_notes", **note), sim.call("POST /v1/refunds", charge=charge, amount=100)
    )
    assert (first.status, other.status, other.error["code"]) == (200, 429, "lock_timeout")


async def test_a_declined_first_payment_makes_no_subscription(sim: Recorder) -> None:
    reply = await subscribed(sim, "pm_card_chargeCustomerFail")
    assert (reply.status, reply.error["code"]) == (402, "card_declined")
    assert (await sim.ok("GET /v1/subscriptions", status="all"))["data"] == []


async def test_a_cancelled_subscription_refunds_nothing_by_itself(sim: Recorder) -> None:
    subscription = await subscribed(sim)
    gone = await sim.ok(f"DELETE /v1/subscriptions/{subscription['id']}")
    assert (gone["status"], gone["canceled_at"], gone["ended_at"]) == ("canceled", sim.clock.now(), sim.clock.now())
    assert (await sim.ok("GET /v1/refunds"))["data"] == []
    (event,) = (await sim.ok("GET /v1/events", type="customer.subscription.deleted"))["data"]
    assert event["data"]["object"]["id"] == subscription["id"]
    await sim.refused(f"DELETE /v1/subscriptions/{subscription['id']}", 404, "resource_missing", "id")


async def test_a_note_on_a_paid_invoice_splits_into_refund_credit_and_elsewhere(sim: Recorder) -> None:
    subscription = await subscribed(sim)
    invoice = subscription["latest_invoice"]
    parts = {"refund_amount": 500, "credit_amount": 300, "out_of_band_amount": 200}
    note = await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=1000, **parts)
    assert (note["post_payment_amount"], note["pre_payment_amount"], note["type"]) == (1000, 0, "post_payment")
    refund = await sim.ok(f"GET /v1/refunds/{note['refunds'][0]['refund']}")
    assert (refund["amount"], refund["charge"]) == (500, await charge_of(sim, invoice))
    customer = await sim.ok(f"GET /v1/customers/{subscription['customer']}")
    assert customer["balance"] == -300
    (row,) = (await sim.ok(f"GET /v1/customers/{customer['id']}/balance_transactions"))["data"]
    assert (row["id"], row["credit_note"], row["type"]) == (
        note["customer_balance_transaction"],
        note["id"],
        "credit_note",
    )


@pytest.mark.parametrize("parts", [
    {},
    {"refund_amount": 999},
    {"refund_amount": 600, "credit_amount": 600},
])  # fmt: skip
async def test_the_parts_make_up_the_note(sim: Recorder, parts: dict[str, int]) -> None:
    invoice = (await subscribed(sim))["latest_invoice"]
    reply = await sim.call("POST /v1/credit_notes", invoice=invoice, amount=1000, **parts)
    assert reply.status == 400
    assert (await sim.ok("GET /v1/refunds"))["data"] == []
    assert (await sim.ok("GET /v1/credit_notes"))["data"] == []


async def test_notes_never_exceed_their_invoice(sim: Recorder) -> None:
    invoice = (await subscribed(sim))["latest_invoice"]
    await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=1000, refund_amount=1000)
    await sim.refused("POST /v1/credit_notes", 400, None, "amount", invoice=invoice, amount=501, refund_amount=501)
    assert (await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=500, refund_amount=500))["amount"] == 500


async def test_a_note_refunds_no_more_than_the_charge_has_left(sim: Recorder) -> None:
    invoice = (await subscribed(sim))["latest_invoice"]
    await sim.ok("POST /v1/refunds", charge=await charge_of(sim, invoice), amount=1400)
    await sim.refused("POST /v1/credit_notes", 400, None, "amount", invoice=invoice, amount=200, refund_amount=200)
    assert (await sim.ok("GET /v1/credit_notes"))["data"] == []


async def test_a_note_on_an_open_invoice_lowers_what_is_due_and_can_be_voided(sim: Recorder) -> None:
    invoice = await open_invoice(sim)
    note = await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=700)
    assert (note["pre_payment_amount"], note["type"]) == (700, "pre_payment")
    assert (await sim.ok(f"GET /v1/invoices/{invoice}"))["amount_remaining"] == 1800
    assert (await sim.ok(f"POST /v1/credit_notes/{note['id']}/void"))["status"] == "void"
    await sim.refused(f"POST /v1/credit_notes/{note['id']}/void", 400)
    assert (await sim.ok(f"GET /v1/invoices/{invoice}"))["amount_remaining"] == 2500


async def test_an_invoice_is_paid_what_its_notes_leave(sim: Recorder) -> None:
    invoice = await open_invoice(sim)
    await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=700)
    paid = await sim.ok(f"POST /v1/invoices/{invoice}/pay")
    assert (paid["status"], paid["amount_paid"], paid["amount_remaining"]) == ("paid", 1800, 0)
    assert (await sim.ok(f"GET /v1/charges/{await charge_of(sim, invoice)}"))["amount"] == 1800


async def test_lines_make_a_note_too(sim: Recorder) -> None:
    invoice = await sim.ok(f"GET /v1/invoices/{(await subscribed(sim))['latest_invoice']}")
    line = {"type": "invoice_line_item", "invoice_line_item": invoice["lines"]["data"][0]["id"], "amount": 400}
    custom = {"type": "custom_line_item", "description": "Goodwill", "quantity": 2, "unit_amount": 50}
    params = {"invoice": invoice["id"], "lines": [line, custom], "refund_amount": 500}
    assert (await sim.ok("GET /v1/credit_notes/preview", **params))["amount"] == 500
    note = await sim.ok("POST /v1/credit_notes", **params)
    assert [one["amount"] for one in note["lines"]["data"]] == [400, 100]
    listed = await sim.ok(f"GET /v1/credit_notes/{note['id']}/lines", limit=1)
    assert (len(listed["data"]), listed["has_more"]) == (1, True)
    rest = await sim.ok(f"GET /v1/credit_notes/{note['id']}/lines", starting_after=listed["data"][0]["id"])
    assert ([one["amount"] for one in rest["data"]], rest["has_more"]) == ([100], False)
    back = await sim.ok(f"GET /v1/credit_notes/{note['id']}/lines", ending_before=rest["data"][0]["id"])
    assert [one["amount"] for one in back["data"]] == [400]
    await sim.refused(
        f"GET /v1/credit_notes/{note['id']}/lines", 400, "resource_missing", "starting_after", starting_after="cnli_0"
    )


async def test_no_two_notes_share_a_line(sim: Recorder) -> None:
    invoice = (await subscribed(sim))["latest_invoice"]
    line = {"type": "custom_line_item", "unit_amount": 100, "quantity": 1, "description": "Goodwill"}
    notes = [await sim.ok("POST /v1/credit_notes", invoice=invoice, amount=100, refund_amount=100) for _ in range(2)]
    params = {"invoice": invoice, "lines": [line, line], "refund_amount": 200}
    notes += [await sim.ok("POST /v1/credit_notes", **params) for _ in range(2)]
    lines = [one["id"] for note in notes for one in note["lines"]["data"]]
    assert len(lines) == len(set(lines)) == 6


async def test_subscriptions_are_found_by_price_status_and_period(sim: Recorder) -> None:
    made = await subscribed(sim)
    item = made["items"]["data"][0]
    for filters, count in (
        ({"price": item["price"]["id"]}, 1),
        ({"price": "price_other"}, 0),
        ({"status": "active", "current_period_end": {"gt": item["current_period_start"]}}, 1),
        ({"current_period_end": {"lt": item["current_period_end"]}}, 0),
        ({"status": "canceled"}, 0),
        ({"collection_method": "send_invoice"}, 0),
    ):
        assert len((await sim.ok("GET /v1/subscriptions", **filters))["data"]) == count, filters
