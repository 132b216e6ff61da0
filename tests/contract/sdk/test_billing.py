"""The SDK drives prices, subscriptions, invoices, their payments, and credit notes."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

pytestmark = pytest.mark.contract
Client = Any


@pytest.fixture
def customer(client: Client) -> str:
    """Make a customer who pays by card."""
    return str(client.v1.customers.create({"email": "ada@example.com", "payment_method": "pm_card_visa"}).id)


@pytest.fixture
def subscription(client: Client, customer: str) -> Any:
    """Let the customer subscribe, twice 15.00 a month."""
    product = client.v1.products.create({"name": "Coffee"})
    monthly: Any = {"interval": "month"}
    price = client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 1500, "recurring": monthly}
    )
    assert client.v1.prices.retrieve(price.id, {"expand": ["product"]}).product.name == "Coffee"
    assert [one.id for one in client.v1.prices.list({"product": product.id}).data] == [price.id]
    return client.v1.subscriptions.create({"customer": customer, "items": [{"price": price.id, "quantity": 2}]})


def test_a_subscription_lives_and_ends(client: Client, subscription: Any, customer: str) -> None:
    subscriptions = client.v1.subscriptions
    (item,) = subscriptions.retrieve(subscription.id)["items"].data
    assert (subscription.status, item.quantity, item.price.unit_amount) == ("active", 2, 1500)
    assert item.current_period_end > item.current_period_start, "the periods are the items'"
    assert "current_period_end" not in subscription
    assert [one.id for one in subscriptions.list({"customer": customer}).data] == [subscription.id]
    assert subscriptions.update(subscription.id, {"cancel_at_period_end": True}).cancel_at == item.current_period_end
    assert subscriptions.cancel(subscription.id).status == "canceled"
    assert subscriptions.list({"customer": customer}).data == []
    assert len(subscriptions.list({"customer": customer, "status": "canceled"}).data) == 1


def test_an_invoice_is_linked_to_its_payment_by_invoice_payments(client: Client, subscription: Any) -> None:
    invoice = client.v1.invoices.retrieve(subscription.latest_invoice)
    assert (invoice.status, invoice.total, invoice.amount_paid) == ("paid", 3000, 3000)
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert not {"charge", "payment_intent", "subscription", "paid"} & invoice.to_dict().keys(), "gone since basil"
    (link,) = client.v1.invoice_payments.list({"invoice": invoice.id}).data
    intent = client.v1.payment_intents.retrieve(link.payment.payment_intent)
    assert (intent.status, intent.amount_received) == ("succeeded", 3000)
    payment: Any = {"type": "payment_intent", "payment_intent": intent.id}
    assert [one.invoice for one in client.v1.invoice_payments.list({"payment": payment}).data] == [invoice.id]
    assert client.v1.invoice_payments.retrieve(link.id).amount_paid == 3000


def test_an_invoice_is_written_finalized_and_paid(client: Client, customer: str) -> None:
    invoices = client.v1.invoices
    draft = invoices.create({"customer": customer, "currency": "usd"})
    client.v1.invoice_items.create({"customer": customer, "invoice": draft.id, "amount": 2500, "description": "Tea"})
    opened = invoices.finalize_invoice(draft.id)
    assert (opened.status, opened.amount_due, opened.lines.data[0].description) == ("open", 2500, "Tea")
    assert invoices.pay(draft.id).status == "paid"
    assert [one.id for one in invoices.list({"customer": customer, "status": "paid"}).data] == [draft.id]


def test_a_credit_note_refunds_and_credits(client: Client, subscription: Any, customer: str) -> None:
    invoice, notes = subscription.latest_invoice, client.v1.credit_notes
    wanted: Any = {"invoice": invoice, "amount": 1000, "refund_amount": 700, "credit_amount": 300}
    preview = notes.preview(wanted)
    assert preview.post_payment_amount == 1000
    note = notes.create(wanted | {"reason": "order_change", "memo": "As agreed"})
    refund = client.v1.refunds.retrieve(note.refunds[0].refund)
    assert (refund.amount, refund.status) == (700, "succeeded")
    assert client.v1.customers.retrieve(customer).balance == -300
    assert client.v1.invoices.retrieve(invoice).post_payment_credit_notes_amount == 1000
    assert notes.update(note.id, {"memo": "Done"}).memo == "Done"
    assert [one.id for one in notes.list({"invoice": invoice}).data] == [note.id]
    assert [line.amount for line in notes.line_items.list(note.id).data] == [1000]
    with pytest.raises(stripe.InvalidRequestError):
        notes.void_credit_note(note.id)


def test_a_refund_is_linked_to_a_credit_note_later(client: Client, subscription: Any) -> None:
    invoice = subscription.latest_invoice
    (link,) = client.v1.invoice_payments.list({"invoice": invoice}).data
    refund = client.v1.refunds.create({"payment_intent": link.payment.payment_intent, "amount": 400})
    linked: Any = [{"refund": refund.id, "amount_refunded": 400}]
    note = client.v1.credit_notes.create({"invoice": invoice, "amount": 400, "refunds": linked})
    assert note.refunds[0].refund == refund.id
    assert len(client.v1.refunds.list({"payment_intent": link.payment.payment_intent}).data) == 1, "none is made"


def test_a_note_on_an_open_invoice_can_be_voided(client: Client, customer: str) -> None:
    draft = client.v1.invoices.create({"customer": customer, "currency": "usd"})
    client.v1.invoice_items.create({"customer": customer, "invoice": draft.id, "amount": 2500})
    client.v1.invoices.finalize_invoice(draft.id)
    note = client.v1.credit_notes.create({"invoice": draft.id, "amount": 500})
    assert client.v1.invoices.retrieve(draft.id).amount_remaining == 2000
    assert client.v1.credit_notes.void_credit_note(note.id).status == "void"
    assert client.v1.invoices.retrieve(draft.id).amount_remaining == 2500
