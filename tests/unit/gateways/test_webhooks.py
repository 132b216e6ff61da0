"""A body is believed only with a fresh signature of a secret of ours; an event is read strictly where it is stored by, and kindly elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from refundry.gateways.stripe import webhooks
from refundry.gateways.stripe.mapping import Unreadable
from tests.support.events import NOW, SECRET, body_of, signed, written

pytestmark = pytest.mark.unit

BODY = written(body_of())


def flaw(header: str, *, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,), now: float = NOW) -> str:
    return webhooks.flaw(secrets, header, body, now)


def read(**members: Any) -> Any:
    return webhooks.read(written(body_of(**members)))


# Signatures


def test_a_signature_of_ours_is_right() -> None:
    assert flaw(signed(BODY)) == ""
    assert flaw(webhooks.signature(SECRET, BODY, NOW + 0.7)) == ""


def test_any_of_several_secrets_is_enough_on_either_side() -> None:
    assert flaw(signed(BODY, "whsec_new", "whsec_old"), secrets=("whsec_old",)) == ""
    assert flaw(signed(BODY, "whsec_new"), secrets=("whsec_old", "whsec_new")) == ""
    assert flaw(signed(BODY, "whsec_new"), secrets=("whsec_old",)) == "wrong"


@pytest.mark.parametrize("seconds", [300, -300, 0])
def test_a_signature_is_good_for_five_minutes_in_both_directions(seconds: int) -> None:
    assert flaw(signed(BODY, at=NOW - seconds)) == ""


@pytest.mark.parametrize(("seconds", "why"), [(301, "stale"), (-301, "from_the_future"), (10**8, "stale")])
def test_an_older_or_newer_one_is_refused(seconds: int, why: str) -> None:
    assert flaw(signed(BODY, at=NOW - seconds)) == why


@pytest.mark.parametrize(
    "header",
    [
        "", "v1=" + "0" * 64, f"t={NOW}", f"t={NOW},v1=", f"t={NOW},v1={'0' * 63}", f"t={NOW},v1={'g' * 64}", "t=,v1=" + "0" * 64,
        f"t=-{NOW},v1={'0' * 64}", f"t={NOW}.5,v1={'0' * 64}", f"t={'9' * 5000},v1={'0' * 64}", "t=१२३,v1=" + "0" * 64, "é" * 90, ",,,=,=",
        f"t={NOW},v1={chr(0xFF10) * 64}",
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(header: str) -> None:
    assert flaw(header) in {"missing", "too_long", "unreadable", "wrong"}


def test_only_the_scheme_v1_counts() -> None:
    assert flaw(signed(BODY, scheme="v0")) == "unreadable"
    assert flaw(signed(BODY, scheme="V1")) == "unreadable"
    fake = signed(BODY, scheme="v0").replace(f"t={NOW}", f"t={NOW},v1={'0' * 64}")
    assert flaw(fake) == "wrong"


def test_a_second_time_stamp_is_refused() -> None:
    """Which of the two was signed would be the sender's choice."""
    assert flaw(signed(BODY) + f",t={NOW + 1}") == "unreadable"


def test_a_changed_body_or_time_is_refused() -> None:
    header = signed(BODY)
    assert flaw(header, body=BODY + b" ") == "wrong"
    assert flaw(header, body=b"") == "wrong"
    assert flaw(header.replace(f"t={NOW}", f"t={NOW + 1}")) == "wrong"


def test_the_body_is_signed_byte_for_byte() -> None:
    body = b'{"a": "\xff\x00 not even text"}'
    assert flaw(signed(body), body=body) == ""


@pytest.mark.parametrize("secret", ["", " ", "\t"])
def test_a_blank_secret_opens_nothing(secret: str) -> None:
    assert flaw(signed(BODY, secret), secrets=(secret,)) == "wrong"
    assert flaw(signed(BODY), secrets=()) == "wrong"


def test_a_huge_header_is_refused_unread() -> None:
    assert flaw(signed(BODY) + "," + ",".join(f"v1={'0' * 64}" for _ in range(100))) == "too_long"


def test_a_secret_may_hold_any_sign() -> None:
    assert flaw(signed(BODY, "whsec_é"), secrets=("whsec_é",)) == ""


# Events


def test_an_event_is_read_with_all_that_it_is_looked_up_by() -> None:
    refund = {
        "id": "re_1", "object": "refund", "charge": "ch_1", "amount": 500, "status": "pending", "payment_intent": "pi_1",
        "metadata": {"refundry_request_id": "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"},
    }  # fmt: skip
    event = read(data={"object": refund}, account="acct_2", request={"id": "req_1", "idempotency_key": "6f1c7f0e.1"})
    assert (event.id, event.type, event.account, event.livemode, event.created_at) == (
        "evt_1", "refund.updated", "acct_2", False, NOW,
    )  # fmt: skip
    assert (event.object_id, event.refund, event.charge, event.payment_intent) == ("re_1", "re_1", "ch_1", "pi_1")
    assert (event.status, event.amount_minor, event.trouble) == ("pending", 500, "")
    assert event.request == "6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11"
    assert event.idempotency_key == "6f1c7f0e.1"


def test_the_body_is_kept_byte_for_byte() -> None:
    body = b" " + BODY + b"\n"
    assert webhooks.read(body).raw == body


@pytest.mark.parametrize(
    ("about", "charge", "refund", "amount"),
    [
        ({"object": "charge", "id": "ch_1", "amount": 900, "amount_refunded": 300}, "ch_1", None, 300),
        ({"object": "dispute", "id": "du_1", "charge": "ch_1", "amount": 900}, "ch_1", None, 900),
        ({"object": "radar.early_fraud_warning", "id": "issfr_1", "charge": "ch_1"}, "ch_1", None, None),
        (
            {"object": "refund", "id": "re_1", "charge": {"id": "ch_1", "object": "charge"}, "amount": 5},
            "ch_1",
            "re_1",
            5,
        ),
        ({"object": "credit_note", "id": "cn_1", "refund": "re_1", "amount": 7}, None, "re_1", 7),
        ({"object": "credit_note", "id": "cn_1", "refunds": [{"refund": "re_1"}], "amount": 7}, None, "re_1", 7),
        (
            {
                "object": "credit_note",
                "id": "cn_1",
                "refunds": [{"refund": "re_0"}, {"refund": {"id": "re_1"}}],
                "amount": 7,
            },
            None,
            "re_1",
            7,
        ),
        ({"object": "credit_note", "id": "cn_1", "refunds": [], "amount": 7}, None, None, 7),
        ({"object": "credit_note", "id": "cn_1", "refunds": [None], "amount": 7}, None, None, 7),
        ({"object": "credit_note", "id": "cn_1", "refunds": "re_1", "amount": 7}, None, None, 7),
        ({"object": "charge", "id": "ch_1", "refunds": [{"refund": "re_1"}]}, "ch_1", None, None),
        ({"object": "refund", "id": "re_1", "charge": None}, None, "re_1", None),
    ],
)
def test_what_an_event_is_about_is_found_in_every_kind(
    about: dict[str, Any], charge: str | None, refund: str | None, amount: int | None
) -> None:
    event = read(data={"object": about})
    assert (event.object_id, event.charge, event.refund, event.amount_minor) == (about["id"], charge, refund, amount)


@pytest.mark.parametrize(
    "members",
    [
        {"id": None}, {"id": ""}, {"id": 7}, {"id": "evt\0"}, {"id": "e" * 256}, {"id": "../x"}, {"type": None}, {"type": "Re fund"},
        {"type": "a" * 121}, {"livemode": None}, {"livemode": 0}, {"livemode": "false"}, {"created": None}, {"created": True},
        {"created": "soon"}, {"created": 10**15}, {"account": 7}, {"account": "acct 1"}, {"object": "refund"}, {"object": None},
    ],
)  # fmt: skip
def test_an_event_that_could_not_be_stored_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        read(**members)


@pytest.mark.parametrize(
    "members",
    [
        {"data": None}, {"data": []}, {"data": {}}, {"data": {"object": None}}, {"data": {"object": []}}, {"data": {"object": {}}},
        {"data": {"object": {"id": None}}}, {"data": {"object": {"id": "re\0_1"}}},
    ],
)  # fmt: skip
def test_one_that_does_not_say_what_it_is_about_is_kept_and_says_so(members: dict[str, Any]) -> None:
    assert read(**members).trouble


@pytest.mark.parametrize(
    "members",
    [
        {"request": None}, {"request": "req_1"}, {"request": {}}, {"request": {"idempotency_key": "a\0b"}}, {"extra": {"deep": []}},
        {"request": {"idempotency_key": 7}}, {"data": {"object": {"id": "re_1", "status": 7, "amount": 1.5, "metadata": "x", "charge": 9}}},
        {"data": {"object": {"id": "re_1", "amount": 10**17}}}, {"pending_webhooks": "many"},
    ],
)  # fmt: skip
def test_what_is_strange_elsewhere_is_left_out(members: dict[str, Any]) -> None:
    event = read(**members)
    assert event.trouble == ""
    assert event.idempotency_key is None


def test_a_thin_event_is_kept_and_says_so() -> None:
    thin = {
        "id": "evt_1", "object": "v2.core.event", "type": "v1.refund.created", "livemode": False, "created": "2026-10-01T00:00:00.000Z",
        "related_object": {"id": "re_1", "type": "refund", "url": "/v1/refunds/re_1"},
    }  # fmt: skip
    event = webhooks.read(written(thin))
    assert "thin" in event.trouble
    assert event.created_at == 1_790_812_800


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b'"evt_1"', b"{", b"\x00", b"\xff\xfe", b'{"id":"\\ud800"}', b"{}" * 2, b"NaN", b"[" * 100_000,
        b'{"a":' * 100_000, BODY[:-1], BODY + b"x",
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(Unreadable):
        webhooks.read(body)
