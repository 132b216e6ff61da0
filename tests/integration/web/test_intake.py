"""An event is stored once, and only then answered with 200; whatever else comes by is refused, and stores nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from refundry.inbox import service as inbox
from refundry.inbox.model import Door, Event, Search, State
from refundry.infra.db import Database
from refundry.infra.writer import GroupWriter, InlineWriter, Writer
from refundry.web import webhooks
from refundry.web.listening import HEAD_MAX, Impatient
from refundry.web.webhooks import BODY_MAX, REFUSALS, Intake
from tests.support.clock import HandClock
from tests.support.database import sqlite_copy
from tests.support.events import SECRET, body_of, signed, written
from tests.support.listening import listening

pytestmark = pytest.mark.integration

OURS = Door("acct_1|test", (SECRET, "whsec_next"), frozenset({"acct_2|test"}), "STRIPE_WEBHOOK_SECRET")
FURTHER = Door("acct_3|test", ("whsec_further",), frozenset(), "REFUNDRY_ACCOUNTS__EU__WEBHOOK_SECRET")
BARE = Door("acct_4|test", (), frozenset(), "REFUNDRY_ACCOUNTS__BARE__WEBHOOK_SECRET")
DOORS = {"": OURS, "acct_1": OURS, "acct_3": FURTHER, "eu": FURTHER, "acct_4": BARE}
JSON = {"Content-Type": "application/json; charset=utf-8"}


@dataclass
class Desk:
    """What a test has at hand."""

    database: Database
    clock: HandClock
    intake: Intake
    address: str
    http: aiohttp.ClientSession
    woken: list[str] = field(default_factory=list)

    async def post(
        self, body: bytes, header: str | None = None, *, path: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Deliver; tells the status and the code."""
        signature = signed(body, at=self.clock.now()) if header is None else header
        given = JSON | {"Stripe-Signature": signature} | (headers or {})
        async with self.http.post(
            f"{self.address}/webhooks/stripe{path}", data=io.BytesIO(body), headers=given
        ) as answer:
            told = await answer.json(content_type=None)
            return answer.status, told.get("code", "")

    def stored(self) -> list[Event]:
        with self.database.reading() as unit:
            return inbox.page(unit, Search(), 100)


@asynccontextmanager
async def opened(
    database: Database, clock: HandClock, *, writer: Writer | None = None, body_seconds: float = 10.0
) -> AsyncIterator[Desk]:
    woken: list[str] = []
    intake = Intake(DOORS, writer or InlineWriter(database), clock, woken=woken.append, body_seconds=body_seconds)
    async with listening(intake) as address, aiohttp.ClientSession() as http:
        yield Desk(database, clock, intake, address, http, woken)


@pytest.fixture
def file(sqlite_file: Path, tmp_path: Path, clock: HandClock) -> Iterator[Database]:
    """One database is enough where nothing, or nothing special, is stored."""
    with sqlite_copy(sqlite_file, tmp_path, clock) as made:
        yield made


@pytest.fixture
async def desk(file: Database, clock: HandClock) -> AsyncIterator[Desk]:
    async with opened(file, clock) as made:
        yield made


async def test_an_event_is_stored_as_it_came_and_then_answered(database: Database, clock: HandClock) -> None:
    async with opened(database, clock) as desk:
        body = written(body_of())
        assert await desk.post(body) == (200, "")
        (event,) = desk.stored()
        with desk.database.reading() as unit:
            assert inbox.find(unit, event.id).raw == body
        assert (event.account, event.state, event.source) == ("acct_1|test", State.WAITING, "webhook")
        assert desk.woken == ["acct_1|test"]
        assert desk.intake.stored == {"acct_1|test": 1}


async def test_a_redelivery_is_answered_again_and_stored_once(desk: Desk) -> None:
    body = written(body_of())
    for _ in range(3):
        assert await desk.post(body) == (200, "")
        # Each redelivery has a time stamp and a signature of its own.
        desk.clock.move(60)
    assert len(desk.stored()) == 1


@pytest.mark.parametrize("path", ["/", "/acct_1", "/acct_1/"])
async def test_a_slash_at_the_end_of_an_address_is_no_redirect_which_stripe_does_not_follow(
    desk: Desk, path: str
) -> None:
    body = written(body_of())
    headers = JSON | {"Stripe-Signature": signed(body, at=desk.clock.now())}
    to = f"{desk.address}/webhooks/stripe{path}"
    async with desk.http.post(to, data=body, headers=headers, allow_redirects=False) as answer:
        assert answer.status == 200
    assert len(desk.stored()) == 1


async def test_events_that_come_at_once_are_committed_together(database: Database, clock: HandClock) -> None:
    writer = GroupWriter(database)
    writer.start()
    async with opened(database, clock, writer=writer) as desk:
        bodies = [written(body_of(f"evt_{at % 40}")) for at in range(120)]
        told = await asyncio.gather(*(desk.post(body) for body in bodies))
        assert set(told) == {(200, "")}
        assert len(desk.stored()) == 40
    await writer.stop()


async def test_nothing_is_acknowledged_that_could_not_be_stored(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database, clock) as desk:
        with monkeypatch.context() as patch:
            patch.setattr(database, "unit", Database("sqlite:////nowhere/at/all.db", clock).unit)
            assert await desk.post(written(body_of())) == (503, "database_unusable")
        assert desk.woken == desk.stored() == []
        assert await desk.post(written(body_of())) == (200, "")


async def test_an_event_is_stored_under_its_own_account(desk: Desk) -> None:
    for at, account in enumerate((None, "acct_1", "acct_2", "acct_9")):
        assert await desk.post(written(body_of(f"evt_{at}", account=account))) == (200, "")
    assert await desk.post(written(body_of("evt_4", livemode=True))) == (200, "")
    told = {event.id: (event.account, event.state) for event in desk.stored()}
    assert told == {
        "evt_0": ("acct_1|test", State.WAITING),
        "evt_1": ("acct_1|test", State.WAITING),
        "evt_2": ("acct_2|test", State.WAITING),
        "evt_3": ("acct_9|test", State.IGNORED),
        "evt_4": ("acct_1|live", State.IGNORED),
    }
    assert desk.woken == ["acct_1|test", "acct_1|test", "acct_2|test"]


async def test_each_path_has_the_secrets_of_its_account(desk: Desk) -> None:
    body = written(body_of())
    for path in ("/acct_3", "/eu"):
        assert await desk.post(body, path=path) == (400, "signature_wrong")
        assert await desk.post(body, signed(body, "whsec_further", at=desk.clock.now()), path=path) == (200, "")
    assert await desk.post(body, signed(body, "whsec_further", at=desk.clock.now())) == (400, "signature_wrong")
    assert await desk.post(body, signed(body, "whsec_next", at=desk.clock.now())) == (200, "")
    assert await desk.post(body, path="/acct_404") == (404, "webhook_account_unknown")
    assert await desk.post(body, signed(body, "", at=desk.clock.now()), path="/acct_4") == (
        503,
        "webhook_secret_missing",
    )
    assert {event.account for event in desk.stored()} == {"acct_1|test", "acct_3|test"}


async def test_a_secret_vouches_for_no_account_that_its_key_does_not_reach(desk: Desk) -> None:
    body = written(body_of(account="acct_1"))
    assert await desk.post(body, signed(body, "whsec_further", at=desk.clock.now()), path="/eu") == (200, "")
    assert [(event.account, event.state) for event in desk.stored()] == [("acct_1|test", State.IGNORED)]
    assert desk.woken == []


async def test_an_event_that_came_by_another_accounts_door_first_is_followed_once_it_comes_by_its_own(
    database: Database, clock: HandClock
) -> None:
    async with opened(database, clock) as desk:
        assert await desk.post(written(body_of(account="acct_3"))) == (200, "")
        own = written(body_of())
        clock.move(1)
        assert await desk.post(own, signed(own, "whsec_further", at=clock.now()), path="/acct_3") == (200, "")
        assert [(event.account, event.state) for event in desk.stored()] == [("acct_3|test", State.WAITING)]
        assert desk.woken == ["acct_3|test"]
        with database.reading() as unit:
            assert inbox.find(unit, "evt_1").raw == own


BODY = written(body_of())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0), ("t=1,v1=", 0), (f"t=1,v1={'0' * 64}", 0), ("right", 301), ("right", -301), ("other", 0), ("é", 0), ("long", 0),
    ],
)  # fmt: skip
async def test_a_wrong_signature_stores_nothing_and_says_nothing(desk: Desk, header: str, seconds: int) -> None:
    moment = desk.clock.now() - seconds
    made = {"right": signed(BODY, at=moment), "other": signed(BODY, "whsec_other", at=moment), "long": "v1=," * 4000}
    assert await desk.post(BODY, made.get(header, header)) == (400, "signature_wrong")
    assert desk.stored() == desk.woken == []
    assert desk.intake.refused == {"signature_wrong": 1}


async def test_why_a_signature_is_refused_is_not_told(desk: Desk) -> None:
    answers = set()
    for header in ("", signed(BODY, at=0), signed(BODY, "whsec_other", at=desk.clock.now())):
        async with desk.http.post(
            f"{desk.address}/webhooks/stripe", data=BODY, headers=JSON | {"Stripe-Signature": header}
        ) as answer:
            answers.add((answer.status, await answer.read(), answer.headers["content-type"]))
    assert len(answers) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"\x00", b"\xff", BODY[:-1], b'{"a":' * 50_000, b"[" * 500_000, written(body_of(livemode=None))],
    ids=range(10),
)  # fmt: skip
async def test_what_is_signed_and_no_event_is_refused(desk: Desk, body: bytes) -> None:
    assert await desk.post(body) == (400, "event_unreadable")
    assert desk.stored() == []


@pytest.mark.parametrize("kind", ["refund.updated", "v1.refund.created"])
async def test_a_signed_event_that_says_too_little_is_kept_in_sight(desk: Desk, kind: str) -> None:
    body = body_of(kind=kind)
    if kind == "refund.updated":
        body["data"] = {"object": {"id": "re\0"}}
    else:
        body |= {"object": "v2.core.event", "created": "2026-10-01T00:00:00Z"}
        del body["data"]
    assert await desk.post(written(body)) == (200, "")
    assert [event.state for event in desk.stored()] == [State.PARKED if kind == "refund.updated" else State.IGNORED]


async def test_texts_with_a_nul_do_not_reach_the_database(database: Database, clock: HandClock) -> None:
    body = body_of(request={"id": "req\0", "idempotency_key": "a\0b"})
    body["data"]["object"] |= {"status": "suc\0ceeded", "charge": "ch\0", "metadata": {"refundry_request_id": "\0"}}
    async with opened(database, clock) as desk:
        assert await desk.post(written(body)) == (200, "")
        (event,) = desk.stored()
    assert (event.status, event.charge, event.request, event.idempotency_key) == (None, None, None, None)


# Limits


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "multipart/form-data"]
)
async def test_only_json_is_taken(desk: Desk, kind: str) -> None:
    assert await desk.post(BODY, headers={"Content-Type": kind}) == (415, "content_type_wrong")
    assert desk.stored() == []


async def test_a_compressed_body_is_not_unpacked(desk: Desk) -> None:
    packed = gzip.compress(b"0" * 10_000_000)
    told = await desk.post(packed, headers={"Content-Encoding": "gzip"})
    assert told == (415, "content_encoding_wrong")
    assert desk.stored() == []


async def test_a_body_of_the_largest_size_is_taken_and_one_beyond_not(desk: Desk) -> None:
    assert await desk.post(BODY + b" " * (BODY_MAX - len(BODY))) == (200, "")
    assert await desk.post(BODY + b" " * (BODY_MAX - len(BODY) + 1)) == (413, "body_too_large")


async def raw(desk: Desk, *parts: bytes) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    url = urlsplit(desk.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read(4000)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head(desk: Desk, *lines: str) -> bytes:
    given = [f"Stripe-Signature: {signed(BODY, at=desk.clock.now())}", "Content-Type: application/json", *lines]
    return "\r\n".join(["POST /webhooks/stripe HTTP/1.1", "Host: here", *given, "", ""]).encode()


async def test_ten_megabytes_are_refused_before_they_are_here(desk: Desk) -> None:
    assert b" 413 " in await raw(desk, head(desk, "Content-Length: 10000000"))


@pytest.mark.parametrize(
    "header", ["", "Stripe-Signature: ", "Stripe-Signature: t=1,v0=a", "Stripe-Signature: t=,v1=a"]
)
async def test_without_a_signature_no_body_is_waited_for(desk: Desk, header: str) -> None:
    lines = [
        "POST /webhooks/stripe HTTP/1.1",
        "Host: here",
        "Content-Type: application/json",
        "Content-Length: 1000000",
        header,
    ]
    answer = await raw(desk, "\r\n".join([*filter(None, lines), "", ""]).encode())
    assert b" 400 " in answer
    assert b"connection: close" in answer
    assert answer.endswith(desk.intake._refusals["signature_wrong"].body)
    assert desk.intake.refused == {"signature_wrong": 1}


async def test_a_body_in_chunks_is_measured_as_it_comes(desk: Desk) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert b" 413 " in await raw(desk, head(desk, "Transfer-Encoding: chunked"), *[chunk] * 20)
    whole = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    assert b" 200 " in await raw(desk, head(desk, "Transfer-Encoding: chunked"), whole)
    assert len(desk.stored()) == 1


async def test_a_slow_body_is_given_up_while_others_are_served(file: Database, clock: HandClock) -> None:
    async with opened(file, clock, body_seconds=0.5) as desk:
        url, slow = urlsplit(desk.address), []
        for _ in range(1000):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            writer.write(head(desk, f"Content-Length: {len(BODY)}") + BODY[:5])
            slow.append((reader, writer))
        assert await desk.post(BODY) == (200, "")
        answers = await asyncio.gather(*(reader.read(4000) for reader, _ in slow))
        assert all(b" 408 " in answer for answer in answers)
        for _, writer in slow:
            writer.close()
        assert len(desk.stored()) == 1
        assert desk.intake.refused == {"body_too_slow": 1000}


async def test_a_slow_head_is_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Impatient, "head_seconds", 0.05)
        assert await raw(desk, b"") == b""
        assert await raw(desk, b"POST /webhooks/stripe HT") == b""
    assert await desk.post(BODY) == (200, "")


async def test_a_head_without_end_is_cut_off(desk: Desk) -> None:
    assert (
        await raw(desk, b"POST /webhooks/stripe HTTP/1.1\r\n", *[b"X: " + b"y" * 5000 + b"\r\n"] * (HEAD_MAX // 2500))
        == b""
    )
    assert await desk.post(BODY) == (200, "")


async def test_connections_beyond_the_limit_are_closed_at_once(
    file: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refundry.web.listening.CONNECTIONS_MAX", 2)
    async with opened(file, clock) as desk:
        assert await desk.post(BODY) == (200, "")
        url = urlsplit(desk.address)
        _, kept = await asyncio.open_connection(url.hostname, url.port)
        assert await raw(desk, b"") == b""
        kept.close()
        assert await desk.post(BODY) == (200, "")


async def test_who_hangs_up_in_the_middle_stores_nothing(desk: Desk) -> None:
    url = urlsplit(desk.address)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head(desk, f"Content-Length: {len(BODY)}") + BODY[:-1])
    writer.close()
    await writer.wait_closed()
    assert await desk.post(written(body_of("evt_2"))) == (200, "")
    assert [event.id for event in desk.stored()] == ["evt_2"]
    assert desk.intake.refused == {"body_broken_off": 1}


async def test_of_several_signatures_the_first_line_counts(desk: Desk) -> None:
    wrong, length = f"Stripe-Signature: t=1,v1={'0' * 64}", f"Content-Length: {len(BODY)}"
    # The right one stands first in what `head` writes, and is added behind the wrong one here.
    behind = head(desk, length).replace(b"Stripe-Signature", wrong.encode() + b"\r\nStripe-Signature", 1)
    assert b" 400 " in await raw(desk, behind.replace(b"Host", b"Connection: close\r\nHost", 1) + BODY)
    assert desk.stored() == []
    assert b" 200 " in await raw(desk, head(desk, wrong, length, "Connection: close") + BODY)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods_are_refused(desk: Desk, method: str) -> None:
    async with desk.http.request(method, f"{desk.address}/webhooks/stripe") as answer:
        assert answer.status == 405


def test_every_refusal_has_a_status_that_makes_stripe_try_again() -> None:
    assert all(400 <= status < 600 for status, _ in REFUSALS.values())
    assert webhooks.STORED.status_code == 200
