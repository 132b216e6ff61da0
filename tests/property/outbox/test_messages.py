"""Every message that can be written keeps to the schema that is shipped for its kind, and every signature verifies."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from refundry.charges.rules import order_message, order_refunded
from refundry.connectors.orders_http.signing import headers, keys_of
from refundry.outbox.model import Kind, Message
from refundry.outbox.rules import BACK_OFF_MAX, back_off, envelope
from refundry.refunds.model import HeldReason, Hold, State
from refundry.refunds.rules import kind_of, request_message
from tests.support import message_schemas
from tests.support.builders import charge, content, refund_request, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.property
# The cores are shared.
unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
STATUSES = st.sampled_from(["pending", "requires_action", "succeeded", "failed", "canceled"])
HOLDS = st.none() | st.builds(Hold, st.sampled_from(HeldReason), st.none() | st.floats(START, START + 10**6))
AMOUNTS = st.integers(0, 10**9)


@cache
def validator(kind: Kind) -> Any:
    return jsonschema_rs.validator_for(message_schemas.kept(kind))


def check(message: Message) -> None:
    validator(message.kind).validate(json.loads(json.dumps(envelope(message))))


@st.composite
def charges(draw: st.DrawFn, name: str = "ch_1") -> Any:
    refunds = draw(st.lists(st.tuples(st.integers(1, 10**6), STATUSES), max_size=3))
    seen = tuple(seen_refund(f"re_{at}", charge=name, amount_minor=a, status=s) for at, (a, s) in enumerate(refunds))
    currency = draw(st.sampled_from(["gbp", "eur"]))
    more = {
        "refunded_minor": draw(AMOUNTS),
        "captured_minor": draw(AMOUNTS),
        "order_id": draw(st.none() | st.text(min_size=1)),
    }
    return charge(name, refunds=seen, currency=currency, **more)


@unhurried
@given(
    before=st.sampled_from(State), after=st.sampled_from(State), hold=HOLDS, seen=st.none() | charges(), claimed=AMOUNTS,
    asked=st.none() | AMOUNTS, amount=AMOUNTS, ticket=st.none() | st.text(), text=st.text(), refund=st.none() | st.just("re_1"),
)  # fmt: skip
def test_every_message_of_a_request_keeps_to_its_schema(
    before: State, after: State, hold: Hold | None, seen: Any, claimed: int, asked: int | None, amount: int, ticket: str | None,
    text: str, refund: str | None,
) -> None:  # fmt: skip
    unpaid = after in {State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED}
    wanted = content(asked_minor=asked, ticket_id=ticket)
    was = refund_request(state=before)
    now = refund_request(
        asked=wanted, state=after, hold=hold if unpaid else None, amount_minor=amount, reason_text=text, refund=refund
    )
    for kind in {kind_of(was, now), kind_of(None, refund_request(asked=wanted, hold=hold))} - {None}:
        told = refund_request(asked=wanted, hold=hold) if kind is Kind.RECEIVED and after is not State.RECEIVED else now
        assert kind is not None
        check(request_message(kind, told, seen, claimed, START))


@unhurried
@given(st.lists(st.integers(1, 4).flatmap(lambda at: charges(f"ch_{at}")), min_size=1, unique_by=lambda one: one.id))
def test_every_message_of_an_order_keeps_to_its_schema_and_adds_up(family: list[Any]) -> None:
    refunded = order_refunded(family)
    if refunded is None:
        return
    message = order_message("acct_1|test", "o1", refunded, 1, START)
    check(message)
    told = message.payload
    assert all(0 <= one["refunded_minor"] <= one["captured_minor"] for one in told["charges"])
    given_back = [one["refunded_minor"] for one in told["charges"]]
    whole = [one["captured_minor"] for one in told["charges"]]
    assert told["refunded"] == ("none" if not any(given_back) else "full" if given_back == whole else "partial")
    if told["currency"] is not None:
        assert (told["captured_minor"], told["refunded_minor"]) == (sum(whole), sum(given_back))


@unhurried
@given(
    keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3),
    message=st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1),
    body=st.text(st.characters(codec="utf-8")),
    at=st.floats(0, 4e9),
)
def test_every_key_makes_the_signature_that_an_independent_library_makes(
    keys: list[bytes], message: str, body: str, at: float
) -> None:
    secrets = ["whsec_" + base64.b64encode(key).decode() for key in keys]
    told = headers(message, at, body.encode(), keys_of(",".join(secrets), "S"))
    moment = datetime.fromtimestamp(int(told["webhook-timestamp"]), UTC)
    assert told["webhook-signature"].split(" ") == [Webhook(secret).sign(message, moment, body) for secret in secrets]


@unhurried
@given(st.integers(1, 10**6), st.uuids())
def test_no_wait_is_longer_than_an_hour_or_shorter_than_half_of_what_it_grew_to(tries: int, message: object) -> None:
    whole = min(2.0 ** min(tries - 1, 40), BACK_OFF_MAX)
    assert whole / 2 <= back_off(tries, str(message)) <= whole
