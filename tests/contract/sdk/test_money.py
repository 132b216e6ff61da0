"""The SDK reads the balance, its transactions, events, disputes and warnings, and keeps webhook endpoints."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.support.server import Server

pytestmark = pytest.mark.contract
Client = Any


def rows_of(client: Client, **filters: Any) -> list[Any]:
    return list(client.v1.balance_transactions.list(filters).auto_paging_iter())


def test_charges_cost_a_fee_and_refunds_do_not(client: Client, pay: Any, server: Server) -> None:
    charge = pay(10_000).latest_charge
    server.move(3)
    refund = client.v1.refunds.create({"charge": charge, "amount": 4000})
    (paid,) = rows_of(client, source=charge)
    (back,) = rows_of(client, source=refund.id)
    assert (paid.type, paid.amount, paid.fee, paid.net) == ("charge", 10_000, 320, 9680)
    assert [(one.amount, one.type, one.description) for one in paid.fee_details] == [
        (320, "stripe_fee", "Stripe processing fees")
    ]
    assert (back.type, back.amount, back.fee, back.net, back.fee_details) == ("refund", -4000, 0, -4000, [])
    assert client.v1.balance_transactions.retrieve(refund.balance_transaction).id == back.id
    assert [one.id for one in rows_of(client, type="refund")] == [back.id]


def test_a_failed_refund_has_a_row_of_its_own(client: Client, pay: Any, server: Server) -> None:
    refund = client.v1.refunds.create({"payment_intent": pay(method="pm_card_refundFail").id})
    server.move(600)
    (failure,) = rows_of(client, type="refund_failure")
    assert (failure.amount, failure.fee, failure.source) == (5000, 0, refund.id)
    assert client.v1.refunds.retrieve(refund.id).failure_balance_transaction == failure.id


def test_money_is_settled_in_another_currency(client: Client, pay: Any, server: Server) -> None:
    server.control("POST /_sim/settlement", {"currency": "usd", "into": "cad", "rate_millionths": 1_398_500})
    charge = pay(6000).latest_charge
    server.move(3)
    (row,) = rows_of(client, source=charge)
    assert (row.amount, row.currency, row.exchange_rate) == (8391, "cad", 1.3985)
    assert client.v1.charges.retrieve(charge).currency == "usd"
    refund = client.v1.refunds.create({"charge": charge, "amount": 3000})
    (back,) = rows_of(client, source=refund.id)
    assert (refund.amount, refund.currency, back.amount, back.currency) == (3000, "usd", -4196, "cad")
    assert {one.currency for one in client.v1.balance.retrieve().available} == {"cad"}


def test_the_balance_is_the_sum_of_its_rows(client: Client, pay: Any, server: Server) -> None:
    def total() -> int:
        balance = client.v1.balance.retrieve()
        return sum(part.amount for part in (*balance.available, *balance.pending))

    pay(method="pm_card_createDispute")
    client.v1.refunds.create({"payment_intent": pay().id, "amount": 700})
    server.move(10)
    assert total() == sum(row.net for row in rows_of(client))


def test_events_tell_what_happened_and_by_which_call(client: Client, pay: Any) -> None:
    intent = pay()
    refund = client.v1.refunds.create({"payment_intent": intent.id}, {"idempotency_key": "request_7.1"})
    created = client.v1.events.list({"type": "refund.created"}).data[0]
    assert (created.data.object.id, created.request.idempotency_key) == (refund.id, "request_7.1")
    assert created.request.id == refund.last_response.request_id
    both = client.v1.events.list({"types": ["charge.refunded", "refund.created"]}).data
    assert {one.type for one in both} == {"charge.refunded", "refund.created"}
    assert client.v1.events.retrieve(created.id).data.object.amount == 5000
    assert {one.type for one in client.v1.events.list({"type": "payment_intent.*"}).data} == {
        "payment_intent.created",
        "payment_intent.succeeded",
    }


def test_a_webhook_endpoint_tells_its_secret_once(client: Client) -> None:
    endpoints = client.v1.webhook_endpoints
    made = endpoints.create(
        {"url": "https://example.com/hook", "enabled_events": ["*"], "api_version": "2026-10-28.endive"}
    )
    assert made.secret.startswith("whsec_")
    assert "secret" not in endpoints.retrieve(made.id)
    changed = endpoints.update(made.id, {"disabled": True, "enabled_events": ["refund.failed"]})
    assert (changed.status, changed.enabled_events) == ("disabled", ["refund.failed"])
    assert [one.id for one in endpoints.list().data] == [made.id]
    assert endpoints.delete(made.id).deleted
    assert endpoints.list().data == []


def opened(client: Client, pay: Any, server: Server, token: str) -> tuple[str, Any]:
    """Pay with a card whose dispute follows; tells the charge and the dispute."""
    charge = pay(method=token).latest_charge
    server.move(1)
    (dispute,) = client.v1.disputes.list({"charge": charge}).data
    return charge, dispute


def test_a_chargeback_closes_the_charge_and_a_win_opens_it(client: Client, pay: Any, server: Server) -> None:
    charge, dispute = opened(client, pay, server, "pm_card_createDispute")
    assert (dispute.status, dispute.reason, dispute.is_charge_refundable) == ("needs_response", "fraudulent", False)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"charge": charge, "amount": 100})
    assert caught.value.code == "charge_disputed"
    evidence: Any = {"uncategorized_text": "winning_evidence"}
    assert client.v1.disputes.update(dispute.id, {"evidence": evidence}).status == "under_review"
    server.move(5)
    won = client.v1.disputes.retrieve(dispute.id)
    assert (won.status, won.is_charge_refundable, len(won.balance_transactions)) == ("won", True, 2)
    assert client.v1.charges.retrieve(charge).disputed, "it stays disputed for ever"
    assert client.v1.refunds.create({"charge": charge}).status == "succeeded"


def test_a_lost_chargeback_keeps_the_charge_closed(client: Client, pay: Any, server: Server) -> None:
    charge, dispute = opened(client, pay, server, "pm_card_createDisputeProductNotReceived")
    assert dispute.reason == "product_not_received"
    client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "losing_evidence"}})
    server.move(5)
    lost = client.v1.disputes.retrieve(dispute.id)
    assert (lost.status, lost.is_charge_refundable) == ("lost", False)
    with pytest.raises(stripe.InvalidRequestError, match=r"has been charged back; cannot issue a refund\."):
        client.v1.refunds.create({"charge": charge})


def test_a_dispute_is_accepted_once(client: Client, pay: Any, server: Server) -> None:
    _, dispute = opened(client, pay, server, "pm_card_createDispute")
    assert client.v1.disputes.close(dispute.id).status == "lost"
    for again in (client.v1.disputes.close, client.v1.disputes.update):
        with pytest.raises(stripe.InvalidRequestError, match="This dispute is already closed") as caught:
            again(dispute.id)
        assert (caught.value.http_status, caught.value.code) == (400, None)


def test_an_inquiry_is_settled_by_a_full_refund(client: Client, pay: Any, server: Server) -> None:
    charge, inquiry = opened(client, pay, server, "pm_card_createDisputeInquiry")
    assert (inquiry.status, inquiry.is_charge_refundable) == ("warning_needs_response", True)
    client.v1.refunds.create({"charge": charge, "amount": 1000})
    assert client.v1.disputes.retrieve(inquiry.id).status == "warning_needs_response", "a part does not settle it"
    client.v1.refunds.create({"charge": charge})
    assert client.v1.disputes.retrieve(inquiry.id).status == "warning_closed"
    assert [row.type for row in rows_of(client, type="adjustment")] == [], "an inquiry takes no money and no fee"


def test_a_fraud_warning_can_be_acted_on_until_the_refund(client: Client, pay: Any, server: Server) -> None:
    charge = pay(method="pm_card_createIssuerFraudRecord").latest_charge
    server.move(1)
    (warning,) = client.v1.radar.early_fraud_warnings.list({"charge": charge}).data
    assert (warning.actionable, warning.fraud_type) == (True, "made_with_stolen_card")
    client.v1.refunds.create({"charge": charge, "reason": "fraudulent"})
    assert not client.v1.radar.early_fraud_warnings.retrieve(warning.id).actionable
