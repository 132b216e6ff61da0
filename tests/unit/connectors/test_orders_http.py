"""Signed calls: signatures that an independent library accepts, addresses that are refused, answers that are not trusted."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from refundry.connectors.orders_http.client import plain, receiver_of, retry_after
from refundry.connectors.orders_http.signing import headers, keys_of
from refundry.infra.settings import OrderSettings, SettingsError, given, read
from refundry.kernel.clock import SystemClock
from tests.support.clock import START

pytestmark = pytest.mark.unit
OLD, NEW = ("whsec_" + base64.b64encode(bytes([at]) * 32).decode() for at in (1, 2))
URL = "https://shop.example/refunds"


def settings(url: str = URL, secrets: str | None = OLD) -> OrderSettings:
    return OrderSettings(url=url, secrets=None if secrets is None else SecretStr(secrets))


@pytest.mark.parametrize("secrets", [OLD, f"{NEW},{OLD}", f"{OLD} {NEW}", f" {OLD} ,, {NEW} "])
def test_a_receiver_that_knows_any_of_the_secrets_accepts(secrets: str) -> None:
    body = b'{"id":"m","text":"\xc3\xbc"}'
    told = headers("m", SystemClock().now(), body, keys_of(secrets, "S"))
    assert Webhook(OLD).verify(body, told) == {"id": "m", "text": "ü"}


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the specification's own libraries.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    told = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, keys_of(secret, "S"))
    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("secrets", "code"),
    [
        (None, "orders_secret_missing"), (" ", "orders_secret_missing"), (",", "orders_secret_wrong"),
        (OLD.removeprefix("whsec_"), "orders_secret_wrong"), ("whsec_%%%", "orders_secret_wrong"),
        ("whsec_" + base64.b64encode(b"short").decode(), "orders_secret_wrong"),
        ("whsec_" + base64.b64encode(b"l" * 65).decode(), "orders_secret_wrong"), (f"{OLD},nonsense", "orders_secret_wrong"),
    ],
)  # fmt: skip
def test_a_secret_that_is_none_is_refused_and_not_told(secrets: str | None, code: str) -> None:
    with pytest.raises(SettingsError) as refused:
        receiver_of(settings(secrets=secrets), "test")
    assert refused.value.code == code
    assert refused.value.ids["setting"] == "REFUNDRY_ORDERS__SECRETS"
    assert (secrets or "nothing").strip() not in refused.value.message or not (secrets or "").strip(" ,")


@pytest.mark.parametrize(
    ("url", "mode", "fine"),
    [
        (URL, "live", True), (URL, "test", True), ("http://shop.example/", "test", True), ("http://shop.example/", "live", False),
        ("http://127.0.0.1:8000/x", "live", True), ("http://[::1]:8000/x", "live", True), ("http://localhost/x", "live", True),
        ("http://127.0.0.1.evil.example/", "live", False), ("http://10.0.0.1/", "live", False), ("ftp://shop.example", "test", False),
        ("shop.example/refunds", "test", False), ("https:///x", "test", False), ("https://u:p@shop.example/", "test", False),
        ("https://shop.example/#x", "test", False), ("https://shop.example:99999/", "test", False), ("https://[::1/", "test", False),
    ],
)  # fmt: skip
def test_live_messages_leave_the_machine_only_by_https(url: str, mode: str, fine: bool) -> None:  # noqa: FBT001
    if fine:
        assert receiver_of(settings(url), mode) is not None
        return
    with pytest.raises(SettingsError) as refused:
        receiver_of(settings(url), mode)
    assert refused.value.code == "orders_url_wrong"
    assert "u:p" not in refused.value.message


def test_without_an_address_there_is_no_receiver() -> None:
    assert receiver_of(OrderSettings(secrets=SecretStr(OLD)), "live") is None


def test_secrets_are_not_in_what_is_printed_of_a_receiver() -> None:
    found = receiver_of(settings(), "test")
    assert "\\x01" not in repr(found)
    assert OLD not in repr(settings())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-1", None), ("1.5", None), ("0", 0.0), (" 120 ", 120.0), ("9" * 40, 999_999_999.0),
        (format_datetime(datetime.fromtimestamp(START + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(START - 90, UTC), usegmt=True), 0.0), ("٣", None),
        ("Mon, 99 Foo 2026 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, START) == seconds


def test_what_a_receiver_says_is_one_short_plain_line() -> None:
    assert plain("a\x1b[31m\r\n\tb\0 " + "x" * 999 + OLD) == "a [31m b " + "x" * 191
    assert OLD not in plain(f"I was sent {OLD}")
    assert plain("\u202e\u0007") == ""


def test_what_is_set_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUNDRY_ORDERS__SECRETS", f"{NEW},{OLD}")
    monkeypatch.setenv("REFUNDRY_ORDERS__SQL_URL", "postgresql://refundry:hunter2@db/shop")
    monkeypatch.setenv("REFUNDRY_ORDERS__URL", "https://shop.example/refunds?token=hunter3")
    shown = given()
    assert shown["REFUNDRY_ORDERS__SECRETS"].startswith("whsec_…")
    assert shown["REFUNDRY_ORDERS__URL"] == "https://shop.example/refunds?…"
    assert NEW not in shown["REFUNDRY_ORDERS__SECRETS"]
    assert "hunter2" not in shown["REFUNDRY_ORDERS__SQL_URL"]
    assert NEW[:20] not in repr(read())
