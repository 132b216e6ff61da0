"""The SDK drives customers, payment methods, payment intents and charges."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.support.server import Server

pytestmark = pytest.mark.contract
Client = Any
DECLINES = {
    "chargeDeclined": ("4000000000000002", "card_declined", "generic_decline"),
    "chargeDeclinedInsufficientFunds": ("4000000000009995", "card_declined", "insufficient_funds"),
    "chargeDeclinedLostCard": ("4000000000009987", "card_declined", "lost_card"),
    "chargeDeclinedStolenCard": ("4000000000009979", "card_declined", "stolen_card"),
    "chargeDeclinedExpiredCard": ("4000000000000069", "expired_card", None),
    "chargeDeclinedIncorrectCvc": ("4000000000000127", "incorrect_cvc", None),
    "chargeDeclinedProcessingError": ("4000000000000119", "processing_error", None),
}


def test_the_sdks_own_version_is_accepted(client: Client) -> None:
    answer = client.v1.balance.retrieve().last_response
    assert stripe.api_version == "2026-10-28.endive"
    assert answer.headers["Stripe-Version"] == stripe.api_version
    assert answer.request_id.startswith("req_")


def test_a_customer_lives_and_is_deleted(client: Client, server: Server) -> None:
    customers = client.v1.customers
    ada = customers.create({"email": "ada@example.com", "name": "Ada", "metadata": {"tier": "gold"}})
    changed = customers.update(ada.id, {"metadata": {"tier": ""}, "phone": "+49301"})
    assert (changed.metadata.to_dict(), changed.phone) == ({}, "+49301")
    assert customers.retrieve(ada.id).name == "Ada"
    assert [one.id for one in customers.list({"email": "ada@example.com"}).data] == [ada.id]
    server.move(61)
    assert [one.id for one in customers.search({"query": "email:'ada@example.com'"}).data] == [ada.id]
    assert customers.delete(ada.id).deleted
    assert customers.retrieve(ada.id).deleted
    assert customers.list().data == []


def test_a_customers_credit_is_kept(client: Client) -> None:
    ada = client.v1.customers.create()
    rows = client.v1.customers.balance_transactions
    row = rows.create(ada.id, {"amount": -250, "currency": "usd", "description": "For the delay"})
    assert (row.ending_balance, client.v1.customers.retrieve(ada.id).balance) == (-250, -250)
    assert rows.retrieve(ada.id, row.id).description == "For the delay"
    assert rows.update(ada.id, row.id, {"metadata": {"ticket": "9"}}).metadata["ticket"] == "9"
    assert [one.id for one in rows.list(ada.id).data] == [row.id]


def test_a_payment_method_is_attached_and_detached(client: Client) -> None:
    ada, methods = client.v1.customers.create(), client.v1.payment_methods
    card: Any = {"number": "5555555555554444", "exp_month": 9, "exp_year": 2030, "cvc": "123"}
    method = methods.create({"type": "card", "card": card})
    assert (method.card.brand, method.card.last4, method.customer) == ("mastercard", "4444", None)
    assert methods.attach(method.id, {"customer": ada.id}).customer == ada.id
    assert [one.id for one in methods.list({"customer": ada.id, "type": "card"}).data] == [method.id]
    assert methods.update(method.id, {"billing_details": {"name": "Ada"}}).billing_details.name == "Ada"
    assert methods.detach(method.id).customer is None
    assert methods.list({"customer": ada.id}).data == []


@pytest.mark.parametrize("way", ["token", "number"])
@pytest.mark.parametrize("name", sorted(DECLINES))
def test_a_declining_card_declines(client: Client, pay: Any, name: str, way: str) -> None:
    number, code, reason = DECLINES[name]
    method = f"pm_card_{name}"
    if way == "number":
        card: Any = {"number": number, "exp_month": 9, "exp_year": 2030}
        method = client.v1.payment_methods.create({"type": "card", "card": card}).id
    with pytest.raises(stripe.CardError) as caught:
        pay(method=method)
    error = caught.value
    assert (error.http_status, error.code, error.json_body["error"].get("decline_code")) == (402, code, reason)
    intent = client.v1.payment_intents.retrieve(error.error.payment_intent.id)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", code)
    charge = client.v1.charges.retrieve(intent.latest_charge)
    assert (charge.status, charge.paid, charge.failure_code, charge.refunded) == ("failed", False, code, False)


@pytest.mark.parametrize(
    ("token", "number", "brand"),
    [
        ("pm_card_visa", "4242424242424242", "visa"),
        ("pm_card_mastercard", "5555555555554444", "mastercard"),
        ("pm_card_amex", "378282246310005", "amex"),
        ("pm_card_pendingRefund", "4000000000007726", "visa"),
        ("pm_card_refundFail", "4000000000005126", "visa"),
        ("pm_card_bypassPending", "4000000000000077", "visa"),
    ],
)
def test_a_good_card_pays(client: Client, pay: Any, token: str, number: str, brand: str) -> None:
    card: Any = {"number": number, "exp_month": 9, "exp_year": 2030}
    by_number = client.v1.payment_methods.create({"type": "card", "card": card}).id
    for method in (token, by_number):
        charge = client.v1.charges.retrieve(pay(method=method).latest_charge)
        card_of = charge.payment_method_details.card
        assert (charge.paid, card_of.brand, card_of.last4) == (True, brand, number[-4:])


def test_a_number_that_is_no_test_card_is_incorrect(client: Client) -> None:
    card: Any = {"number": "4242424242424241", "exp_month": 9, "exp_year": 2030}
    with pytest.raises(stripe.CardError, match=r"Your card number is incorrect\.") as caught:
        client.v1.payment_methods.create({"type": "card", "card": card})
    assert (caught.value.code, caught.value.param) == ("incorrect_number", "number")


def test_an_intent_is_created_confirmed_and_found(client: Client, server: Server) -> None:
    intents, ada = client.v1.payment_intents, client.v1.customers.create()
    order = {"order_id": "536365"}
    intent = intents.create({"amount": 1200, "currency": "eur", "customer": ada.id, "metadata": order})
    assert (intent.status, intent.latest_charge) == ("requires_payment_method", None)
    done = intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    assert (done.status, done.amount_received) == ("succeeded", 1200)
    server.move(3)
    whole = intents.retrieve(intent.id, {"expand": ["latest_charge.balance_transaction"]})
    assert whole.latest_charge.balance_transaction.amount == 1200
    assert intents.update(intent.id, {"description": "Order"}).description == "Order"
    assert [one.id for one in intents.list({"customer": ada.id}).data] == [intent.id]
    assert intents.search({"query": "metadata['order_id']:'536365'"}).data == [], "not found at once"
    server.move(61)
    assert [one.id for one in intents.search({"query": "metadata['order_id']:'536365'"}).data] == [intent.id]


def test_an_authorised_payment_is_captured_in_full_or_in_part_or_released(client: Client, pay: Any) -> None:
    intents, held = client.v1.payment_intents, {"capture_method": "manual"}
    full, part, never = pay(900, **held), pay(900, **held), pay(900, **held)
    assert {one.status for one in (full, part, never)} == {"requires_capture"}
    assert intents.capture(full.id).amount_received == 900
    captured = intents.capture(part.id, {"amount_to_capture": 600})
    charge = client.v1.charges.retrieve(captured.latest_charge)
    assert (captured.amount_received, charge.amount, charge.amount_captured) == (600, 900, 600)
    gone = intents.cancel(never.id, {"cancellation_reason": "abandoned"})
    assert (gone.status, gone.cancellation_reason) == ("canceled", "abandoned")
    released = client.v1.charges.retrieve(never.latest_charge)
    assert (released.captured, released.amount_refunded) == (False, 900)


def test_charges_are_read_changed_listed_and_searched(client: Client, server: Server) -> None:
    charges, ada = client.v1.charges, client.v1.customers.create()
    params: Any = {"amount": 700, "currency": "usd", "source": "tok_visa", "customer": ada.id, "transfer_group": "g1"}
    ids = [charges.create(params | {"metadata": {"order_id": str(at)}}).id for at in range(12)]
    assert [one.id for one in charges.list({"customer": ada.id, "limit": 5}).auto_paging_iter()] == ids[::-1]
    assert len(charges.list({"transfer_group": "g1"}).data) == 10
    changed = charges.update(ids[0], {"description": "Order 0", "fraud_details": {"user_report": "safe"}})
    assert (changed.description, changed.fraud_details.user_report) == ("Order 0", "safe")
    server.move(61)
    found = charges.search({"query": "metadata['order_id']:'7'", "limit": 1})
    assert ([one.id for one in found.data], found.has_more) == ([ids[7]], False)
    everything = charges.search({"query": "amount:700", "limit": 5}).auto_paging_iter()
    assert {one.id for one in everything} == set(ids)


def test_a_charge_is_captured_by_itself(client: Client) -> None:
    held: Any = {"amount": 900, "currency": "usd", "source": "tok_visa", "capture": False}
    charge = client.v1.charges.create(held)
    done = client.v1.charges.capture(charge.id, {"amount": 400})
    assert (done.captured, done.amount_captured) == (True, 400)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.charges.capture(charge.id)
    assert caught.value.code == "charge_already_captured"


def test_refunds_are_in_a_charge_only_when_asked_for(client: Client, pay: Any) -> None:
    charge = pay().latest_charge
    client.v1.refunds.create({"charge": charge, "amount": 100})
    assert "refunds" not in client.v1.charges.retrieve(charge)
    inside = client.v1.charges.retrieve(charge, {"expand": ["refunds"]}).refunds
    assert ([one.amount for one in inside.data], inside.has_more) == ([100], False)
