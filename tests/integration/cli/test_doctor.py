"""The doctor tells what is wrong with settings, machine, key and Stripe, why it matters and what to type; and it changes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refundry.cli import doctor_stripe, session
from refundry.gateways.base import Right
from refundry.gateways.stripe import client
from refundry.infra import inspection
from tests.integration.cli.conftest import Run, Told
from tests.support.server import Server

pytestmark = pytest.mark.integration

RIGHTS = [right.value for right in Right]
FIELDS = ["area", "what", "said", "level", "code", "why", "do", "setting"]


def found(told: Told, code: str) -> list[Any]:
    return [finding for finding in told.json["findings"] if finding["code"] == code]


def the(told: Told, code: str) -> Any:
    findings = found(told, code)
    assert len(findings) == 1, f"one {code} was to be found: {told.out}"
    return findings[0]


def key(stripe: Server, *without: str) -> str:
    """Make a restricted key with all rights that we need but these; write includes read."""
    kept = [right for right in RIGHTS if right not in without]
    secret = "rk_test_" + "x".join(without).replace("_", "0") + "abcdefgh1234"
    stripe.control("POST /_sim/keys", {"secret": secret, "permissions": kept})
    return secret


def post(stripe: Server, path: str, **params: Any) -> Any:
    pairs = [
        (name, value) for name, values in params.items() for value in (values if isinstance(values, list) else [values])
    ]
    request = urllib.request.Request(  # noqa: S310  # loopback
        stripe.url + path,
        urllib.parse.urlencode(pairs).encode(),
        {"Authorization": "Bearer sk_test_sim"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # loopback
        return json.load(answer)


def test_where_all_is_well_the_exit_code_is_0_and_every_field_is_there(refundry: Run, stripe: Server) -> None:
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), REFUNDRY_STRIPE__LIMITS=None)
    assert told.code == 0
    assert list(told.json) == ["ok", "counts", "findings"]
    assert told.json["ok"] is True
    counts = told.json["counts"]
    assert list(counts) == ["ok", "note", "warning", "wrong"]
    assert (counts["note"], counts["warning"], counts["wrong"]) == (1, 0, 0)
    assert all(list(finding) == FIELDS for finding in told.json["findings"])
    assert [finding["code"] for finding in told.json["findings"] if finding["level"] != "ok"] == [
        "webhooks_not_registered"
    ]
    assert all(finding["why"] for finding in told.json["findings"] if finding["level"] != "ok")
    # The sandbox's 25 calls a second less a tenth; a look before a refund is a second call.
    limits = next(finding for finding in told.json["findings"] if finding["what"] == "limits")["said"]
    assert "11.2 refunds a second (40,500 an hour)" in limits
    assert "22.5 refunds a second (81,000 an hour)" in limits
    assert "the default in test mode, 10% left" in limits
    mode = next(finding for finding in told.json["findings"] if finding["what"] == "mode")["said"]
    assert "no real money" in mode
    assert "single-operator" in mode
    assert f"who types is {session.person().name} to the audit log" in mode


def test_nothing_is_changed_at_stripe_or_here(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("ticket_id,order_id,amount,currency\nT-1,o1,10.00,gbp\n")
    assert refundry("batch", "run", str(file), "--yes").code == 0
    state = tmp_path / "state"

    def all_of_it() -> tuple[Any, ...]:
        files = {path.name: path.read_bytes() for path in state.iterdir()}
        return files, stripe.control("GET /_sim/audit"), stripe.control("POST /_sim/audit", {"obligations": []})

    before = all_of_it()
    for _ in range(2):
        assert refundry("doctor").code == 0
    assert all_of_it() == before
    fresh = tmp_path / "fresh"
    assert refundry("doctor", REFUNDRY_STATE_DIR=str(fresh)).code == 0
    assert not fresh.exists()


def test_in_words_every_trouble_has_its_reason_and_its_advice(refundry: Run, stripe: Server) -> None:
    told = refundry("doctor", STRIPE_SECRET_KEY=key(stripe, "refund_write", "dispute_read"))
    assert told.code == 1
    lines = told.out.splitlines()
    at = next(n for n, line in enumerate(lines) if "Refunds: Write is missing (Stripe calls it refund_write)" in line)
    assert lines[at].startswith("  WRONG   permissions   ")
    assert lines[at + 1].strip() == "why  nothing can be paid"
    assert lines[at + 2].strip() == "do   edit the key at https://dashboard.stripe.com/test/apikeys"
    assert lines[-1].startswith("2 things to mend")


# Settings


@pytest.mark.parametrize(
    ("settings", "code", "variable"),
    [
        ({"STRIPE_SECRET_KEY": None}, "stripe_key_missing", "STRIPE_SECRET_KEY"),
        ({"STRIPE_SECRET_KEY": "pk_test_1"}, "stripe_key_wrong", "STRIPE_SECRET_KEY"),
        ({"STRIPE_SECRET_KEY": "sk_live_1"}, "stripe_key_of_other_mode", "REFUNDRY_MODE"),
        ({"REFUNDRY_MODE": "live"}, "stripe_key_of_other_mode", "REFUNDRY_MODE"),
        ({"REFUNDRY_STRIPE__HEADROOM": "2"}, "setting_wrong", "REFUNDRY_STRIPE__HEADROOM"),
        ({"REFUNDRY_STRIPE__LIMITS": "much"}, "limits_wrong", "REFUNDRY_STRIPE__LIMITS"),
        ({"REFUNDRY_DATABASE_URL": "mysql://x"}, "database_url_wrong", "REFUNDRY_DATABASE_URL"),
        ({"REFUNDRY_DATABASE_URL": "postgresql://127.0.0.1:abc/r"}, "database_url_wrong", "REFUNDRY_DATABASE_URL"),
        (
            {"REFUNDRY_DATABASE_URL": "postgresql://127.0.0.1:9/r?bogus=1"},
            "database_url_wrong",
            "REFUNDRY_DATABASE_URL",
        ),
        ({"REFUNDRY_DATABASE_URL": "postgresql://pg:a@b@127.0.0.1:9/r"}, "database_url_wrong", "REFUNDRY_DATABASE_URL"),
        ({"REFUNDRY_STRIPE__ACCOUNT": "acct_other"}, "account_disagrees", "REFUNDRY_STRIPE__ACCOUNT"),
        ({"REFUNDRY_KEEP__EVENTS_DAYS": "34"}, "setting_wrong", "REFUNDRY_KEEP__EVENTS_DAYS"),
        ({"REFUNDRY_ORDERS__URL": "shop.example"}, "orders_url_wrong", "REFUNDRY_ORDERS__URL"),
        (
            {
                "REFUNDRY_ORDERS__SQL_URL": "postgresql://127.0.0.1:abc/shop",
                "REFUNDRY_ORDERS__SQL_STATEMENT": "DELETE FROM open WHERE id = :order_id",
            },
            "orders_sql_wrong",
            "REFUNDRY_ORDERS__SQL_URL",
        ),
        (
            {"REFUNDRY_ORDERS__KINDS": "refund.paid", "REFUNDRY_ORDERS__FILE": "f"},
            "message_kind_unknown",
            "REFUNDRY_ORDERS__KINDS",
        ),
    ],
)
def test_a_wrong_setting_is_named_and_is_wrong_usage(
    refundry: Run, settings: dict[str, str | None], code: str, variable: str
) -> None:
    told = refundry("doctor", "--json", **settings)
    finding = the(told, code)
    assert (told.code, finding["level"], finding["setting"]) == (2, "wrong", variable)
    assert variable in finding["said"] + finding["do"]


@pytest.mark.parametrize("path", ["nowhere/told.jsonl", "."])
def test_a_file_of_messages_that_no_command_could_write_is_wrong(refundry: Run, tmp_path: Path, path: str) -> None:
    told = refundry("doctor", "--json", REFUNDRY_ORDERS__FILE=str(tmp_path / path))
    finding = the(told, "orders_file_unusable")
    assert (told.code, finding["level"], finding["setting"]) == (2, "wrong", "REFUNDRY_ORDERS__FILE")
    assert refundry("doctor", REFUNDRY_ORDERS__FILE=str(tmp_path / "told.jsonl")).code == 0
    assert not (tmp_path / "told.jsonl").exists()


def test_an_order_system_that_is_told_of_nothing_is_a_warning(refundry: Run, tmp_path: Path) -> None:
    file = str(tmp_path / "told.jsonl")
    told = refundry("doctor", "--json", REFUNDRY_ORDERS__FILE=file, REFUNDRY_ORDERS__KINDS=" ,")
    finding = the(told, "message_kinds_none")
    assert (told.code, finding["level"]) == (0, "warning")
    assert "file" in finding["said"]


def test_a_variable_that_sets_nothing_is_told_with_the_one_that_was_meant(refundry: Run) -> None:
    told = refundry("doctor", "--json", REFUNDRY_STRIPE_LIMITS="none", REFUNDRY_NOTHING_LIKE_IT_AT_ALL="1")
    assert told.code == 0
    meant = {finding["said"].split()[0]: finding["do"] for finding in found(told, "setting_unknown")}
    assert meant["REFUNDRY_STRIPE_LIMITS"] == "write REFUNDRY_STRIPE__LIMITS"
    assert "docs/operate/settings.md" in meant["REFUNDRY_NOTHING_LIKE_IT_AT_ALL"]


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_an_address_for_traces_without_a_scheme_is_told(refundry: Run, name: str) -> None:
    told = refundry("doctor", "--json", **{name: "localhost:4318"})
    finding = the(told, "traces_endpoint_wrong")
    assert (told.code, finding["level"]) == (0, "warning")
    assert f"{name}=http://" in finding["do"]
    assert not found(refundry("doctor", "--json", **{name: "http://localhost:4318"}), "traces_endpoint_wrong")


def test_no_secret_is_shown(refundry: Run) -> None:
    told = refundry(
        "doctor",
        STRIPE_SECRET_KEY="sk_test_abcdefgh1234",
        STRIPE_WEBHOOK_SECRET="whsec_abcdefgh1234",
        REFUNDRY_DATABASE_URL="postgresql://me:letmein@127.0.0.1:9/x?password=letmein",
    )
    assert "STRIPE_SECRET_KEY=sk_test_…1234" in told.out
    assert "abcdefgh" not in told.out + told.err
    assert "letmein" not in told.out + told.err


@pytest.mark.parametrize(
    "part", ["postgresql://pg:let@mein@h", "postgresql://p@g:letmein@h", "postgresql://pg:let/m@mein@h"]
)
def test_no_part_of_a_password_is_shown_where_its_signs_are_not_escaped(refundry: Run, part: str) -> None:
    for rest in ("/r", ":abc/r", "/r?bogus=1"):
        told = refundry("doctor", REFUNDRY_DATABASE_URL=part + rest)
        assert ":…@h" in told.out
        assert "let" not in told.out + told.err
        assert "mein" not in told.out + told.err


def test_live_mode_is_told(refundry: Run) -> None:
    told = refundry("doctor", "--json", REFUNDRY_MODE="live")
    assert "real money" in the(told, "live")["said"]


@pytest.mark.parametrize(
    ("settings", "code", "level", "said"),
    [
        ({"REFUNDRY_STRIPE__LIMITS": "none"}, "limits_none", "note", "REFUNDRY_STRIPE__LIMITS=none"),
        ({"REFUNDRY_STRIPE__LIMITS": "live"}, "limits_high", "note", "25 calls a second"),
        (
            {"REFUNDRY_STRIPE__LIMITS": None, "REFUNDRY_STRIPE__HEADROOM": "0"},
            "headroom_none",
            "note",
            "nothing is left",
        ),
    ],
)
def test_a_pace_that_may_hurt_is_told(
    refundry: Run, settings: dict[str, str | None], code: str, level: str, said: str
) -> None:
    told = refundry("doctor", "--json", **settings)
    finding = the(told, code)
    assert (told.code, finding["level"]) == (0, level)
    assert said in finding["said"]


# The machine


def test_a_directory_that_cannot_be_made_is_wrong(refundry: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = f"{tmp_path}/file/state"
    told = refundry("doctor", "--json", REFUNDRY_STATE_DIR=place)
    finding = the(told, "state_dir_unusable")
    assert (told.code, finding["level"]) == (1, "wrong")
    assert place in finding["said"]
    assert "REFUNDRY_STATE_DIR" in finding["do"]


def test_a_directory_that_may_not_be_looked_into_is_wrong(
    refundry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0)
    exists = Path.exists

    # The tests may run as root, who may look everywhere.
    def refused(path: Path) -> bool:
        if path.parent == state:
            raise PermissionError(errno.EACCES, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    monkeypatch.setattr(os, "access", lambda path, _: path != state)
    told = refundry("doctor", "--json")
    assert (told.code, the(told, "state_dir_unusable")["level"]) == (1, "wrong")
    assert the(told, "database_unreachable")["said"].endswith("(Permission denied)")
    assert any(finding["what"] == "key" and finding["level"] == "ok" for finding in told.json["findings"])


@pytest.mark.parametrize(
    ("free", "level", "code", "room"),
    [
        (2 * 10**9, "ok", 0, "250,000"),
        (5 * 10**8, "warning", 0, "62,000"),
        (10**7, "wrong", 1, "1,200"),
    ],
)
def test_a_disk_that_fills_up_is_told_in_refunds(
    refundry: Run, monkeypatch: pytest.MonkeyPatch, free: int, level: str, code: int, room: str
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # the shape of the standard library's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free, 0, free))
    told = refundry("doctor", "--json")
    disk = next(finding for finding in told.json["findings"] if finding["what"] == "disk")
    assert (told.code, disk["level"], disk["code"]) == (code, level, "" if level == "ok" else "disk_low")
    assert f"room for about {room} refunds" in disk["said"]


# The key


@pytest.mark.parametrize(
    ("right", "level"),
    [
        ("charge_read", "wrong"),
        ("refund_write", "wrong"),
        ("dispute_read", "wrong"),
        ("payment_intent_write", "note"),
        ("balance_read", "warning"),
        ("balance_transaction_source_read", "note"),
        ("event_read", "warning"),
        ("radar_read", "note"),
        ("webhook_read", "note"),
    ],
)
def test_a_right_that_is_missing_is_named_with_a_link_to_a_key_that_has_it(
    refundry: Run, stripe: Server, refunds_of: Callable[[], int], right: str, level: str
) -> None:
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe, right))
    missing = the(told, "permission_missing")
    assert (told.code, missing["level"]) == (int(level == "wrong"), level)
    assert f"is missing (Stripe calls it {right})" in missing["said"]
    assert "add Account: Read (or set REFUNDRY_STRIPE__ACCOUNT=acct_…)" in the(told, "key_link")["do"]
    link = the(told, "key_link")["do"].split()[-1]
    where = urllib.parse.urlsplit(link)
    assert (where.netloc, where.path) == ("dashboard.stripe.com", "/test/apikeys/create")
    asked = urllib.parse.parse_qs(where.query)["permissions[]"]
    assert asked == [
        "rak_refund_write", "rak_charge_write", "rak_dispute_read", "rak_payment_intent_read", "rak_balance_read",
        "rak_event_read",
    ]  # fmt: skip
    assert refunds_of() == 0


def test_what_a_write_right_includes_is_missing_with_it(refundry: Run, stripe: Server) -> None:
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe, "refund_write", "refund_read"))
    assert {finding["said"].split(" is ")[0] for finding in found(told, "permission_missing")} == {
        "Refunds: Read", "Refunds: Write",
    }  # fmt: skip


def test_a_full_secret_key_is_advised_against(refundry: Run) -> None:
    told = refundry("doctor", "--json")
    advice = the(told, "key_unrestricted")["do"]
    assert "add Account: Read (or set REFUNDRY_STRIPE__ACCOUNT=acct_…)" in advice
    assert advice.endswith("rak_event_read")
    assert told.code == 0


def test_a_key_that_may_not_name_its_account_needs_the_setting(refundry: Run, stripe: Server) -> None:
    secret = key(stripe, "account_read")
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret)
    assert (told.code, the(told, "account_unknown")["setting"]) == (2, "REFUNDRY_STRIPE__ACCOUNT")
    assert [finding["what"] for finding in told.json["findings"]].count("permissions") == 1
    assert not found(told, "permission_missing")
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret, REFUNDRY_STRIPE__ACCOUNT=stripe.account)
    assert (told.code, the(told, "permission_missing")["level"]) == (0, "note")


def test_what_else_a_key_lacks_is_told_though_it_does_not_name_its_account(refundry: Run, stripe: Server) -> None:
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe, "account_read", "refund_write", "balance_read"))
    assert {finding["said"].split(" is ")[0] for finding in found(told, "permission_missing")} == {
        "Refunds: Write", "Balance: Read",
    }  # fmt: skip
    assert "or set REFUNDRY_STRIPE__ACCOUNT" in the(told, "key_link")["do"]
    assert (told.code, the(told, "account_unknown")["what"]) == (2, "key")


def test_a_revoked_key_is_refused(refundry: Run, stripe: Server) -> None:
    secret = key(stripe)
    stripe.control(f"POST /_sim/keys/{secret}/expire", {})
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret)
    assert (told.code, the(told, "stripe_key_refused")["what"]) == (1, "key")


def test_a_right_that_cannot_be_asked_for_now_is_not_called_missing(
    refundry: Run, stripe: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_WAITS_SECONDS", ())
    secret = key(stripe)
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "rate_limit", "operation": "GET /v1/disputes"}]})
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret)
    assert (told.code, the(told, "stripe_rate_limited")["level"]) == (0, "warning")
    assert found(told, "permission_missing") == []
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "operation": "POST /v1/refunds"}]})
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret)
    assert "Refunds: Write could not be asked for" in the(told, "stripe_unreachable")["said"]


def test_rights_are_asked_for_until_an_account_that_is_short_of_calls_has_room(refundry: Run, stripe: Server) -> None:
    secret = key(stripe)
    stripe.control("POST /_sim/limits", {"limits": "global=8"})
    try:
        told = refundry("doctor", "--json", STRIPE_SECRET_KEY=secret)
    finally:
        stripe.control("POST /_sim/limits", {"limits": "none"})
    assert (told.code, found(told, "stripe_rate_limited")) == (0, [])
    assert any(finding["what"] == "balance" for finding in told.json["findings"])


# The network


@pytest.fixture
def silence() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_network_ends_in_bounded_time_with_all_else_told(
    refundry: Run, silence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor_stripe.SECONDS_MAX <= 20
    monkeypatch.setattr(doctor_stripe, "SECONDS_MAX", 0.3)
    monkeypatch.setattr(client, "READ_WAITS_SECONDS", ())
    # Without the bound, a single call would wait for half a minute, and be told as one that was given up.
    for address, said in ((f"http://{silence}", "did not answer everything within 0.3 s"), ("http://127.0.0.1:9", "")):
        told = refundry("doctor", "--json", REFUNDRY_STRIPE__API_BASE=address)
        assert (told.code, the(told, "stripe_unreachable")["level"]) == (1, "wrong")
        assert said in the(told, "stripe_unreachable")["said"]
        assert {"versions", "directory", "database", "limits"} <= {f["what"] for f in told.json["findings"]}


def test_a_dead_postgres_ends_in_bounded_time_with_all_else_told(
    refundry: Run, silence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inspection.WAIT_SECONDS <= 5
    monkeypatch.setattr(inspection, "WAIT_SECONDS", 1)
    for address in (silence, "127.0.0.1:9"):
        told = refundry("doctor", "--json", REFUNDRY_DATABASE_URL=f"postgresql://me@{address}/x?sslmode=disable")
        assert (told.code, the(told, "database_unreachable")["level"]) == (1, "wrong")
        assert any(finding["what"] == "key" and finding["level"] == "ok" for finding in told.json["findings"])


# What Stripe says


def test_a_balance_that_is_dry_is_told(refundry: Run, stripe: Server) -> None:
    stripe.control("POST /_sim/balance", {"currency": "gbp", "available": -500})
    told = refundry("doctor", "--json")
    finding = the(told, "balance_dry")
    assert (told.code, finding["level"], finding["said"]) == (0, "warning", "-5.00 GBP available")
    assert finding["do"] == "top it up at https://dashboard.stripe.com/test/balance"


def test_a_webhook_endpoint_is_told_with_what_it_lacks(refundry: Run, stripe: Server) -> None:
    assert "found by polling" in the(refundry("doctor", "--json"), "webhooks_not_registered")["why"]
    post(stripe, "/v1/webhook_endpoints", url="https://other.example/hook", **{"enabled_events[]": ["charge.updated"]})
    made = post(
        stripe,
        "/v1/webhook_endpoints",
        url="https://desk.example/webhooks/stripe",
        api_version="2026-10-28.endive",
        **{"enabled_events[]": ["refund.created", "refund.updated", "charge.dispute.created"]},
    )
    post(stripe, f"/v1/webhook_endpoints/{made['id']}", disabled="true")
    told = refundry("doctor", "--json")
    said = the(told, "webhook_endpoint")["said"]
    assert made["id"] in said
    assert "it is disabled" in said
    assert the(told, "webhook_endpoint")["do"] == "enable it at https://dashboard.stripe.com/test/webhooks"
    assert "it is of API 2026-10-28.endive, not 2026-08-26.dahlia" in said
    assert "charge.dispute.closed, charge.dispute.funds_reinstated" in said
    assert "refund.created" not in said
    assert the(told, "webhook_secret_missing")["level"] == "warning"
    assert the(told, "webhooks_silent")["level"] == "note"
    assert told.code == 0


def test_a_wrong_secret_of_a_webhook_is_told_as_such_and_all_else_is_looked_at(refundry: Run, stripe: Server) -> None:
    post(
        stripe,
        "/v1/webhook_endpoints",
        url="https://desk.example/webhooks/stripe",
        **{"enabled_events[]": ["refund.created"]},
    )
    told = refundry("doctor", "--json", STRIPE_WEBHOOK_SECRET="foo")
    finding = the(told, "webhook_secret_wrong")
    assert (told.code, finding["what"], finding["setting"]) == (2, "webhooks", "STRIPE_WEBHOOK_SECRET")
    assert found(told, "webhook_secret_missing") == []
    looked_at = {finding["what"] for finding in told.json["findings"] if finding["area"] == "stripe"}
    assert {"key", "permissions", "balance", "webhooks", "clock", "limits"} <= looked_at


@pytest.mark.parametrize("account", ["acct_1", "acct_nobodys"])
def test_a_key_that_does_not_tell_its_account_is_told_whichever_is_asked_for(
    refundry: Run, stripe: Server, account: str
) -> None:
    secret = key(stripe)
    stripe.control(f"POST /_sim/keys/{secret}/expire", {})
    told = refundry("doctor", "--json", "--account", account, STRIPE_SECRET_KEY=secret)
    assert (told.code, the(told, "stripe_key_refused")["what"]) == (1, "key")


def test_clocks_that_disagree_are_told(refundry: Run) -> None:
    with Server(start=None) as ahead:
        base = {"REFUNDRY_STRIPE__API_BASE": ahead.url}
        ahead.move(60)
        told = refundry("doctor", "--json", **base)
        assert (told.code, the(told, "clock_apart")["level"]) == (0, "note")
        ahead.move(300)
        told = refundry("doctor", "--json", **base)
        finding = the(told, "clock_apart")
        assert (told.code, finding["level"]) == (1, "wrong")
        assert "behind Stripe's" in finding["said"]
        assert "NTP" in finding["do"]
