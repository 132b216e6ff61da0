"""Which exception of the SDK each refusal becomes, and what can be read off it (the traps: some lose their code)."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.support.server import Server

pytestmark = pytest.mark.contract
Client = Any


def plan(server: Server, kind: str, **more: Any) -> None:
    """Let every refund meet this trouble."""
    server.control("POST /_sim/faults", {"rules": [{"kind": kind, "operation": "POST /v1/refunds", **more}]})


def told(error: stripe.StripeError) -> tuple[Any, ...]:
    """Tell what a program may look at."""
    body: Any = error.json_body
    return error.http_status, error.code, body["error"].get("code"), body["error"]["type"]


def test_400_and_404_keep_code_and_param(client: Client, pay: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"charge": "ch_unknown"})
    assert told(caught.value) == (404, "resource_missing", "resource_missing", "invalid_request_error")
    assert caught.value.param == "id"
    intent = pay()
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 9000})
    assert told(caught.value) == (400, None, None, "invalid_request_error")
    assert caught.value.param == "amount"


def test_402_is_a_card_error(pay: Any) -> None:
    with pytest.raises(stripe.CardError) as caught:
        pay(method="pm_card_chargeDeclined")
    assert told(caught.value) == (402, "card_declined", "card_declined", "card_error")


def test_401_is_an_authentication_error_without_code(client_of: Any) -> None:
    with pytest.raises(stripe.AuthenticationError) as caught:
        client_of("sk_test_wrong").v1.balance.retrieve()
    assert told(caught.value) == (401, None, None, "invalid_request_error")


def test_403_loses_its_code(client: Client) -> None:
    with pytest.raises(stripe.PermissionError) as caught:
        client.v1.balance.retrieve({}, {"stripe_account": "acct_1stranger"})
    assert told(caught.value) == (403, None, "account_invalid", "invalid_request_error")


def test_403_for_a_restricted_key(client_of: Any, server: Server) -> None:
    server.control("POST /_sim/keys", {"secret": "rk_test_reader", "permissions": ["refund_read"]})
    reader = client_of("rk_test_reader")
    assert reader.v1.refunds.list().data == []
    with pytest.raises(stripe.PermissionError, match=r"does not have the required permissions for this endpoint"):
        reader.v1.refunds.create({"charge": "ch_1"})


def test_a_key_used_for_other_parameters_is_an_idempotency_error(client: Client, pay: Any) -> None:
    charge, options = pay().latest_charge, {"idempotency_key": "request_7.1"}
    client.v1.refunds.create({"charge": charge, "amount": 100}, options)
    with pytest.raises(stripe.IdempotencyError) as caught:
        client.v1.refunds.create({"charge": charge, "amount": 200}, options)
    assert told(caught.value) == (400, None, None, "idempotency_error")


def test_409_is_no_idempotency_error(client: Client, pay: Any, server: Server) -> None:
    charge = pay().latest_charge
    plan(server, "conflict")
    with pytest.raises(stripe.APIError) as caught:
        client.v1.refunds.create({"charge": charge}, {"idempotency_key": "request_7.1"})
    assert not isinstance(caught.value, stripe.IdempotencyError)
    assert told(caught.value)[:3] == (409, None, "idempotency_key_in_use")


@pytest.mark.parametrize(("kind", "code", "reason"), [
    ("rate_limit", "rate_limit", "global-rate"),
    ("lock_timeout", "lock_timeout", None),
])  # fmt: skip
def test_429_is_a_rate_limit_error_without_code(
    client: Client, pay: Any, server: Server, kind: str, code: str, reason: str | None
) -> None:
    charge = pay().latest_charge
    plan(server, kind)
    with pytest.raises(stripe.RateLimitError) as caught:
        client.v1.refunds.create({"charge": charge})
    assert told(caught.value) == (429, None, code, "invalid_request_error")
    headers: Any = caught.value.headers
    assert headers.get("Stripe-Rate-Limited-Reason") == reason
    assert headers.get("Stripe-Should-Retry") == ("true" if kind == "lock_timeout" else None)


def test_500_is_an_api_error_and_does_not_tell_whether_it_was_done(client: Client, pay: Any, server: Server) -> None:
    charge, options = pay().latest_charge, {"idempotency_key": "request_7.1"}
    plan(server, "error_after", times=1)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as caught:
            client.v1.refunds.create({"charge": charge, "amount": 100}, options)
        assert told(caught.value) == (500, None, None, "api_error")
    assert client.v1.charges.retrieve(charge).amount_refunded == 100, "once, and the key repeats its 500"


@pytest.mark.parametrize(("kind", "done"), [("drop_before", 0), ("reset_before", 0), ("drop_after", 100),
                                            ("reset_after", 100), ("truncate", 100)])  # fmt: skip
def test_a_lost_answer_is_a_connection_error(client: Client, pay: Any, server: Server, kind: str, done: int) -> None:
    charge, options = pay().latest_charge, {"idempotency_key": "request_7.1"}
    plan(server, kind, times=1)
    with pytest.raises(stripe.APIConnectionError):
        client.v1.refunds.create({"charge": charge, "amount": 100}, options)
    assert client.v1.charges.retrieve(charge).amount_refunded == done
    assert client.v1.refunds.create({"charge": charge, "amount": 100}, options).amount == 100
    assert client.v1.charges.retrieve(charge).amount_refunded == 100


def test_an_unknown_version_is_refused(client_of: Any) -> None:
    for version in ("2099-01-01.future", "2020-08-27"):
        with pytest.raises(stripe.InvalidRequestError, match=version):
            client_of(stripe_version=version).v1.balance.retrieve()


def test_what_is_not_there_is_refused(client: Client) -> None:
    for call in (client.v1.payouts.list, client.v1.checkout.sessions.list, client.v1.coupons.create):
        with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL") as caught:
            call({})
        assert caught.value.http_status == 404
