"""Endpoints are made once, with our version and our events; a secret is told once; a test event goes the whole way and changes nothing."""

from __future__ import annotations

import asyncio
import json
import shlex
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from refundry.cli import webhook_endpoints
from refundry.gateways.base import SeenEndpoint
from refundry.gateways.stripe import webhooks
from refundry.inbox import service as inbox
from refundry.inbox.model import HANDLED, Door, Source
from refundry.infra.db import Database, sqlite_url
from refundry.infra.writer import InlineWriter
from refundry.kernel.clock import SystemClock
from refundry.kernel.errors import UsageError
from refundry.web.webhooks import Intake
from tests.integration.cli.conftest import Run, Told
from tests.support.database import HandDatabase
from tests.support.events import body_of, written
from tests.support.listening import listening
from tests.support.server import Server

pytestmark = pytest.mark.integration

URL = "https://desk.example/webhooks/stripe"


def test_an_endpoint_is_made_with_our_version_and_exactly_our_events(refundry: Run) -> None:
    told = refundry("webhooks", "register", "https://Desk.example/", "--json")
    assert (told.code, told.json["url"], told.json["api_version"]) == (0, URL, "2026-08-26.dahlia")
    assert set(told.json["events"]) == HANDLED
    assert told.json["secret"].startswith("whsec_")
    assert told.json["setting"] == "STRIPE_WEBHOOK_SECRET"
    listed = refundry("webhooks", "list", "--json")
    (endpoint,) = listed.json["endpoints"]
    assert (endpoint["endpoint"], endpoint["lacks"], endpoint["ours"]) == (told.json["endpoint"], [], True)
    assert "whsec_" not in listed.out + refundry("webhooks", "list").out


def test_a_person_is_told_what_to_set(refundry: Run) -> None:
    told = refundry("webhooks", "register", URL)
    assert "STRIPE_WEBHOOK_SECRET=whsec_" in told.out
    told = refundry("webhooks", "rotate", URL, STRIPE_WEBHOOK_SECRET="whsec_old")
    assert "STRIPE_WEBHOOK_SECRET=$STRIPE_WEBHOOK_SECRET,whsec_" in told.out
    assert "whsec_old" not in told.out + told.err


@pytest.mark.parametrize("again", [URL, "https://desk.example", URL + "/", "HTTPS://Desk.Example:443"])
def test_a_second_endpoint_of_one_address_is_not_made(refundry: Run, again: str) -> None:
    made = refundry("webhooks", "register", URL, "--json").json
    told = refundry("webhooks", "register", again, "--json")
    assert (told.code, told.error["code"], told.error["endpoint"]) == (2, "endpoint_exists", made["endpoint"])
    assert "rotate" in told.error["message"]
    assert len(refundry("webhooks", "list", "--json").json["endpoints"]) == 1


def test_a_secret_is_rotated_by_a_second_endpoint_that_replaces_the_first(refundry: Run) -> None:
    old = refundry("webhooks", "register", URL, "--json").json
    assert refundry("webhooks", "rotate", URL, "--retire", old["endpoint"], "--json").error["code"] == "endpoint_needed"
    new = refundry("webhooks", "rotate", URL, "--json").json
    assert (new["replaces"], new["url"]) == (old["endpoint"], URL)
    assert new["secret"] != old["secret"]
    assert refundry("webhooks", "rotate", URL, "--json").error["code"] == "endpoint_exists"
    told = refundry("webhooks", "rotate", URL, "--retire", old["endpoint"], "--json")
    assert (told.code, told.json) == (0, {"deleted": old["endpoint"], "setting": "STRIPE_WEBHOOK_SECRET"})
    assert [one["endpoint"] for one in refundry("webhooks", "list", "--json").json["endpoints"]] == [new["endpoint"]]


def test_what_is_not_there_is_not_rotated(refundry: Run) -> None:
    for words in (["rotate", URL], ["rotate", URL, "--retire", "we_404"]):
        told = refundry("webhooks", *words, "--json")
        assert (told.code, told.error["code"]) == (2, "endpoint_missing")


def test_events_of_a_connected_account_come_through_its_platform(refundry: Run, stripe: Server) -> None:
    pairs = {"type": "custom", "country": "GB"}
    request = urllib.request.Request(  # noqa: S310  # loopback
        f"{stripe.url}/v1/accounts", urllib.parse.urlencode(pairs).encode(), {"Authorization": "Bearer sk_test_sim"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # loopback
        connected = {"REFUNDRY_ACCOUNTS__EU__CONNECTED": json.load(answer)["id"]}
    told = refundry("webhooks", "register", URL, "--account", "eu", "--json", **connected)
    assert (told.code, told.error["code"]) == (2, "endpoint_of_platform")
    assert refundry("webhooks", "register", URL, "--connect", "--account", stripe.account, **connected).code == 0


def test_what_is_said_to_be_typed_names_the_account_where_there_are_several(refundry: Run, stripe: Server) -> None:
    other = stripe.control("POST /_sim/accounts", {"secret": "sk_test_other"})["account"]
    eu = {"REFUNDRY_ACCOUNTS__EU__SECRET_KEY": "sk_test_other"}
    asked = ("refund", "create", "--order", "o3", "--full", "--reason", "duplicate", "--dry-run", "--json")
    charge = refundry(*asked, "--account", stripe.account, **eu).json["charge"]
    stripe.control("POST /_sim/disputes", {"charge": charge})
    assert refundry("catch-up", "--account", stripe.account, "--since", "3d", **eu).code == 0
    made = refundry("webhooks", "register", URL, "--account", stripe.account, **eu)
    assert made.err.endswith(f"refundry webhooks test {URL} --account {stripe.account}\n")
    seen = refundry("doctor", "--json", **eu).json["findings"]
    for code in ("webhook_secret_missing", "disputes_open"):
        (do,) = [finding["do"] for finding in seen if finding["code"] == code]
        assert refundry(*shlex.split(do.rpartition("refundry ")[2]), **eu).code == 0, do
    (register,) = [finding["do"] for finding in seen if finding["code"] == "webhooks_not_registered"]
    assert register == f"refundry webhooks register https://… --account {other}"


def test_a_further_account_is_told_of_at_the_address_that_takes_its_secret(refundry: Run, stripe: Server) -> None:
    other = stripe.control("POST /_sim/accounts", {"secret": "sk_test_other"})["account"]
    eu = {"REFUNDRY_ACCOUNTS__EU__SECRET_KEY": "sk_test_other"}
    told = refundry("webhooks", "register", "https://desk.example", "--account", "eu", **eu)
    assert f"to {URL}/{other}" in told.out
    assert told.err.endswith(f"try it: refundry webhooks test {URL}/{other} --account {other}\n")
    new = refundry("webhooks", "rotate", f"{URL}/{other}", "--account", "eu", "--json", **eu).json
    assert new["url"] == f"{URL}/{other}"
    asked = urllib.parse.urlencode({"url": URL, "enabled_events[]": "*", "api_version": new["api_version"]}).encode()
    request = urllib.request.Request(  # noqa: S310  # loopback
        f"{stripe.url}/v1/webhook_endpoints", asked, {"Authorization": "Bearer sk_test_other"}
    )
    urllib.request.urlopen(request, timeout=20).close()  # noqa: S310  # loopback
    listed = refundry("webhooks", "list", "--account", "eu", "--json", **eu).json["endpoints"]
    assert {one["url"]: one["lacks"] for one in listed} == {
        URL: [f"its address is the primary account's, and that of this one ends with /webhooks/stripe/{other}"],
        f"{URL}/{other}": [],
    }
    warned = refundry("doctor", "--account", other, "--json", **eu).json["findings"]
    assert [one["said"].split("; ")[0] for one in warned if one["code"] == "webhook_endpoint"] == [
        f"{listed[0]['endpoint']} sends to {URL}"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "desk.example", "ftp://desk.example", "https://", "https://desk.example/hooks", "https://u:p@desk.example", "https://desk.example?a=1",
        "https://desk.example:0", "https://[::1", "https://desk.example#x", "https://desk.example/webhooks/stripe_old",
        "https://desk.example/webhooks/stripe/acct_1/more",
    ],
)  # fmt: skip
def test_an_address_that_does_not_lead_to_us_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        webhook_endpoints.address(url, live=False)
    assert refused.value.code == "url_wrong"


def test_an_endpoint_of_another_program_is_not_taken_for_ours() -> None:
    def ours(url: str) -> bool:
        return webhook_endpoints.ours(
            SeenEndpoint("we_1", f"https://x.example{url}", enabled=True, api_version=None, events=("*",))
        )

    assert all(ours(path) for path in ("/webhooks/stripe", "/a/webhooks/stripe/", "/webhooks/stripe/acct_1"))
    assert not any(ours(path) for path in ("/webhooks/stripe_old", "/webhooks/stripes", "/webhooks/stripe/a/b"))


def test_live_events_go_over_an_encrypted_line() -> None:
    with pytest.raises(UsageError, match="not encrypted"):
        webhook_endpoints.address("http://desk.example", live=True)
    assert webhook_endpoints.address("http://127.0.0.1:80", live=False) == "http://127.0.0.1/webhooks/stripe"
    assert webhook_endpoints.address("HTTPS://[::1]:8443", live=True) == "https://[::1]:8443/webhooks/stripe"
    assert webhook_endpoints.address("https://x.example:80", live=True) == "https://x.example:80/webhooks/stripe"
    assert webhook_endpoints.address("https://x.example/a/webhooks/stripe/acct_1/", live=True).endswith(
        "/a/webhooks/stripe/acct_1"
    )


# A test event


async def tried(refundry: Run, path: Path, stripe: Server, secret: str, look: Callable[[str], Awaitable[Told]]) -> Told:
    """Serve webhooks into the database at `path` with one secret."""
    (path.parent).mkdir(exist_ok=True)
    await asyncio.to_thread(refundry, "db", "upgrade")
    database = HandDatabase(sqlite_url(path), SystemClock())  # type: ignore[arg-type]  # a clock is a clock
    doors = {"": Door(f"{stripe.account}|test", (secret,), frozenset(), "STRIPE_WEBHOOK_SECRET")}
    try:
        async with listening(Intake(doors, InlineWriter(database), SystemClock())) as address:
            return await look(address)
    finally:
        database.close()


async def test_a_test_event_is_stored_and_changes_nothing(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    async def look(address: str) -> Told:
        secrets = {"STRIPE_WEBHOOK_SECRET": "whsec_old, whsec_new"}
        return await asyncio.to_thread(refundry, "webhooks", "test", address, "--json", **secrets)

    told = await tried(refundry, tmp_path / "state" / "refundry.db", stripe, "whsec_new", look)
    assert (told.code, told.json["ok"]) == (0, True), told.err
    shown = refundry("inbox", "show", told.json["event"], "--json").json
    assert (shown["state"], shown["type"]) == ("ignored", "refundry.test")


async def test_a_server_with_another_secret_is_named(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    async def look(address: str) -> Told:
        return await asyncio.to_thread(refundry, "webhooks", "test", address, "--json", STRIPE_WEBHOOK_SECRET="whsec_b")

    told = await tried(refundry, tmp_path / "state" / "refundry.db", stripe, "whsec_a", look)
    assert (told.code, told.error["code"], told.error["status"]) == (1, "webhook_refused", 400)
    assert "another STRIPE_WEBHOOK_SECRET" in told.error["message"]


async def test_a_server_with_another_database_is_named(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.db"

    async def look(address: str) -> Told:
        return await asyncio.to_thread(refundry, "webhooks", "test", address, "--json", STRIPE_WEBHOOK_SECRET="whsec_a")

    Database(sqlite_url(other), SystemClock()).close()
    with_other = {"REFUNDRY_DATABASE_URL": sqlite_url(other)}
    await asyncio.to_thread(refundry, "db", "upgrade", **with_other)
    told = await tried(refundry, other, stripe, "whsec_a", look)
    assert (told.code, told.error["code"]) == (1, "webhook_not_stored")


def test_without_a_secret_or_a_server_it_says_what_to_do(refundry: Run) -> None:
    told = refundry("webhooks", "test", "--json")
    assert (told.code, told.error["code"]) == (2, "webhook_secret_missing")
    told = refundry("webhooks", "test", "http://127.0.0.1:1", "--json", STRIPE_WEBHOOK_SECRET="whsec_a")
    assert (told.code, told.error["code"]) == (1, "webhook_unreachable")
    assert "refundry serve" in told.error["message"]


@pytest.mark.parametrize("secret", ["sk_test_sim", "whsec_a,we_1", "whsec_", "whsec_a b", "whsec_é"])
def test_what_is_no_secret_is_refused_and_not_repeated(refundry: Run, secret: str) -> None:
    told = refundry("webhooks", "list", "--json", STRIPE_WEBHOOK_SECRET=secret)
    assert (told.code, told.error["code"], told.error["setting"]) == (
        2,
        "webhook_secret_wrong",
        "STRIPE_WEBHOOK_SECRET",
    )
    assert secret not in told.out.replace("begins with whsec_,", "") + told.err.replace("begins with whsec_,", "")


# What the doctor sees of a registered endpoint


def of_webhooks(told: Told) -> list[tuple[str, str, str]]:
    """Tell what is said of endpoints: level, code and sentence."""
    return [(f["level"], f["code"], f["said"]) for f in told.json["findings"] if f["what"] == "webhooks"]


@pytest.mark.parametrize(
    ("secret", "level", "code", "said"),
    [("whsec_a", "ok", "", "was reached from here"), ("whsec_b", "warning", "webhook_refused", "answered 400")],
)
async def test_the_doctor_sees_whether_an_endpoint_takes_our_secret_and_stores_nothing_there(
    refundry: Run, stripe: Server, tmp_path: Path, secret: str, level: str, code: str, said: str
) -> None:
    async def look(address: str) -> Told:
        assert (await asyncio.to_thread(refundry, "webhooks", "register", address, "--json")).code == 0
        return await asyncio.to_thread(refundry, "doctor", "--json", STRIPE_WEBHOOK_SECRET=secret)

    told = await tried(refundry, tmp_path / "state" / "refundry.db", stripe, "whsec_a", look)
    assert told.code == 0
    seen = [(one, text) for one, which, text in of_webhooks(told) if which == code and said in text]
    assert [one for one, _ in seen] == [level], told.out
    assert refundry("inbox", "list", "--json").json["events"] == []


def test_the_doctor_tells_that_nobody_or_somebody_else_answers_where_stripe_sends_to(
    refundry: Run, stripe: Server
) -> None:
    secret = {"STRIPE_WEBHOOK_SECRET": "whsec_a"}
    assert refundry("webhooks", "register", "http://127.0.0.1:1", "--json").code == 0
    told = refundry("doctor", "--json", **secret)
    (finding,) = [f for f in told.json["findings"] if f["code"] == "webhook_unreachable"]
    assert (told.code, finding["level"]) == (0, "warning")
    assert "http://127.0.0.1:1/webhooks/stripe" in finding["said"]
    assert "polling" in finding["why"]
    assert "refundry serve" in finding["do"]
    # The simulator, which wants a key and answers in several lines.
    assert refundry("webhooks", "register", stripe.url, "--json").code == 0
    seen = of_webhooks(refundry("doctor", "--json", **secret))
    assert [code for _, code, _ in seen].count("webhook_unreachable") == 1
    (said,) = [text for _, code, text in seen if code == "webhook_refused"]
    assert "answered 401" in said
    assert "\n" not in said


def test_an_endpoint_whose_host_no_name_can_be_keeps_the_doctor_from_nothing_else(refundry: Run) -> None:
    assert refundry("webhooks", "register", "https://desk..example", "--json").code == 0
    told = refundry("doctor", "--json", STRIPE_WEBHOOK_SECRET="whsec_a")
    assert told.code == 0
    assert [level for level, code, _ in of_webhooks(told) if code == "webhook_unreachable"] == ["warning"]
    tried = refundry("webhooks", "test", "https://desk..example", "--json", STRIPE_WEBHOOK_SECRET="whsec_a")
    assert (tried.code, tried.error["code"]) == (1, "webhook_unreachable")


def test_an_endpoint_that_only_we_cannot_reach_is_no_warning_while_events_come(
    refundry: Run, stripe: Server, tmp_path: Path
) -> None:
    assert refundry("webhooks", "register", "http://127.0.0.1:1", "--json").code == 0
    database = HandDatabase(sqlite_url(tmp_path / "state" / "refundry.db"), SystemClock())  # type: ignore[arg-type]  # a clock is a clock
    with database.unit() as unit:
        inbox.store(unit, f"{stripe.account}|test", [webhooks.read(written(body_of()))], Source.WEBHOOK)
    database.close()
    told = of_webhooks(refundry("doctor", "--json", STRIPE_WEBHOOK_SECRET="whsec_a"))
    assert [level for level, code, _ in told if code == "webhook_unreachable"] == ["note"]
