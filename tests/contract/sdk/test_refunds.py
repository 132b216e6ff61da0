"""The SDK drives refunds, also the legacy paths and the asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from tests.support.server import Server

pytestmark = pytest.mark.contract
Client = Any


def test_a_refund_names_charge_and_intent_whichever_was_sent(client: Client, pay: Any) -> None:
    intent = pay()
    by_charge = client.v1.refunds.create(
        {"charge": intent.latest_charge, "amount": 1000, "reason": "duplicate", "metadata": {"ticket": "9"}}
    )
    by_intent = client.v1.refunds.create({"payment_intent": intent.id})
    for refund in (by_charge, by_intent):
        assert (refund.charge, refund.payment_intent) == (intent.latest_charge, intent.id)
        assert refund.status == "succeeded"
    assert (by_charge.amount, by_charge.reason, by_charge.metadata["ticket"]) == (1000, "duplicate", "9")
    assert by_intent.amount == 4000, "without an amount it is all of the rest"
    charge = client.v1.charges.retrieve(intent.latest_charge)
    assert (charge.amount_refunded, charge.refunded, charge.status) == (5000, True, "succeeded")


def test_a_refund_is_read_changed_and_listed_over_many_pages(client: Client, pay: Any) -> None:
    refunds, intent, other = client.v1.refunds, pay(), pay()
    ids = [refunds.create({"charge": intent.latest_charge, "amount": 10 + at}).id for at in range(23)]
    refunds.create({"charge": other.latest_charge})
    page = refunds.list({"charge": intent.latest_charge, "limit": 10})
    assert [one.id for one in page.auto_paging_iter()] == ids[::-1]
    assert len(list(refunds.list({"limit": 7}).auto_paging_iter())) == 24
    backwards = refunds.list({"payment_intent": intent.id, "limit": 5, "ending_before": ids[0]})
    assert [one.id for one in backwards.auto_paging_iter()] == ids[1:]
    assert refunds.update(ids[0], {"metadata": {"ticket": "9"}}).metadata["ticket"] == "9"
    assert refunds.retrieve(ids[0]).amount == 10


def test_a_refund_that_waits_for_its_customer_is_canceled(client: Client, pay: Any) -> None:
    konbini: Any = {"type": "konbini", "billing_details": {"email": "ada@example.com"}}
    method = client.v1.payment_methods.create(konbini).id
    intent = pay(3000, method, "jpy")
    refund = client.v1.refunds.create({"payment_intent": intent.id, "instructions_email": "ada@example.com"})
    assert refund.status == "requires_action"
    assert refund.next_action.display_details.email_sent.email_sent_to == "ada@example.com"
    gone = client.v1.refunds.cancel(refund.id)
    assert (gone.status, gone.failure_reason) == ("canceled", "merchant_request")
    with pytest.raises(stripe.InvalidRequestError, match=r"Canceling this refund is unsupported\."):
        client.v1.refunds.cancel(refund.id)


def test_a_refund_that_waits_for_its_customer_expires(client: Client, pay: Any) -> None:
    konbini: Any = {"type": "konbini"}
    intent = pay(3000, client.v1.payment_methods.create(konbini).id, "jpy")
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert client.v1.test_helpers.refunds.expire(refund.id).status == "failed"


def test_the_legacy_paths_answer_with_refund_and_with_charge(client: Client, pay: Any) -> None:
    charge = pay().latest_charge

    def raw(method: str, path: str, **params: Any) -> Any:
        return client.deserialize(client.raw_request(method, path, **params), api_mode="V1")

    refund = raw("post", f"/v1/charges/{charge}/refunds", amount=300)
    assert isinstance(refund, stripe.Refund)
    assert (refund.amount, refund.charge) == (300, charge)
    after = raw("post", f"/v1/charges/{charge}/refund", amount=200)
    assert isinstance(after, stripe.Charge)
    assert after.amount_refunded == 500
    listed = raw("get", f"/v1/charges/{charge}/refunds")
    assert [one.amount for one in listed.data] == [200, 300]
    assert raw("get", f"/v1/charges/{charge}/refunds/{refund.id}").id == refund.id
    changed = raw("post", f"/v1/charges/{charge}/refunds/{refund.id}", metadata={"ticket": "9"})
    assert changed.metadata["ticket"] == "9"


def test_a_key_gives_the_same_refund_again(client: Client, pay: Any) -> None:
    charge = pay().latest_charge
    options: Any = {"idempotency_key": "request_7.1"}
    first = client.v1.refunds.create({"charge": charge, "amount": 100}, options)
    again = client.v1.refunds.create({"charge": charge, "amount": 100}, options)
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.request_id
    assert client.v1.charges.retrieve(charge).amount_refunded == 100


def test_the_pending_and_the_failing_card_do_what_they_are_for(client: Client, pay: Any, server: Server) -> None:
    refunds = client.v1.refunds
    pending = refunds.create({"payment_intent": pay(method="pm_card_pendingRefund").id})
    failing = refunds.create({"payment_intent": pay(method="pm_card_refundFail").id})
    assert (pending.status, failing.status) == ("pending", "succeeded")
    server.move(600)
    assert refunds.retrieve(pending.id).status == "succeeded"
    failed = refunds.retrieve(failing.id, {"expand": ["failure_balance_transaction"]})
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert failed.failure_balance_transaction.type == "refund_failure"


@pytest.fixture
async def refunds(client_of: Any) -> AsyncIterator[Any]:
    """Give the refunds of an asynchronous client."""
    transport = stripe.AIOHTTPClient()
    yield client_of(http_client=transport).v1.refunds
    await transport.close_async()


async def test_the_asynchronous_client_refunds_too(refunds: Any, pay: Any) -> None:
    intent = pay()
    made = [await refunds.create_async({"charge": intent.latest_charge, "amount": 100 + at}) for at in range(3)]
    page = await refunds.list_async({"payment_intent": intent.id, "limit": 2})
    assert [one.id async for one in page.auto_paging_iter()] == [one.id for one in made][::-1]
    changed = await refunds.update_async(made[0].id, {"metadata": {"ticket": "9"}})
    assert (await refunds.retrieve_async(made[0].id)).metadata == changed.metadata
    with pytest.raises(stripe.InvalidRequestError, match=r"is greater than unrefunded amount") as caught:
        await refunds.create_async({"charge": intent.latest_charge, "amount": 9000})
    assert (caught.value.code, caught.value.param) == (None, "amount")
