"""The call to the order system, over real sockets: whatever it answers, its status counts, and nothing secret is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered
from refundry.connectors.orders_http.client import HttpTarget, Receiver
from refundry.connectors.orders_http.signing import keys_of
from refundry.outbox.rules import outgoing
from tests.support.clock import HandClock
from tests.support.messages import message
from tests.support.order_receiver import SECRET

pytestmark = pytest.mark.integration
# Long enough for anything on loopback, and not waited for unless the receiver keeps silent; then long enough for the head of its answer.
PATIENCE, SHORT = 20.0, 1.0


@asynccontextmanager
async def answering(answer: bytes, *, silent: bool = False) -> AsyncIterator[int]:
    """Listen on loopback, and answer each call with these bytes; `silent` then keeps the connection open."""
    over = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        writer.write(answer)
        await writer.drain()
        if silent:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()


async def told(clock: HandClock, answer: bytes, *, silent: bool = False) -> DeliveryOutcome:
    """Send a message to a receiver that answers so, at an address with a token."""
    async with answering(answer, silent=silent) as port:
        receiver = Receiver(f"http://127.0.0.1:{port}/refunds?token=hunter2", keys_of(SECRET, "S"))
        target = HttpTarget(receiver, clock=clock, timeout_seconds=SHORT if silent else PATIENCE)
        try:
            return await target.deliver(outgoing(message()))
        finally:
            await target.close()


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        ("503 Busy\r\nretry-after: 120", NotDelivered("HTTP 503", retry_after_seconds=120.0)),
        ("410 Gone", NotDelivered("HTTP 410", gone=True)), ("500 Oops", NotDelivered("HTTP 500")), ("200 OK", Delivered("HTTP 200")),
    ],
)  # fmt: skip
async def test_an_answer_whose_body_breaks_off_or_never_comes_counts_by_its_status(
    clock: HandClock, head: str, outcome: DeliveryOutcome, *, silent: bool
) -> None:
    answer = f"HTTP/1.1 {head}\r\ncontent-length: 100\r\n\r\n".encode()
    assert await told(clock, answer, silent=silent) == outcome


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_http_is_said_without_the_address_that_may_hold_a_token(
    clock: HandClock, answer: bytes
) -> None:
    outcome = await told(clock, answer)
    assert isinstance(outcome, NotDelivered)
    assert outcome.told.startswith("ClientResponseError: ")
    assert "hunter2" not in outcome.told
    assert "127.0.0.1" not in outcome.told


async def test_no_proxy_is_used_whatever_the_environment_says(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert await told(clock, b"HTTP/1.1 204 No Content\r\n\r\n") == Delivered("HTTP 204")
