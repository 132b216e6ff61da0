"""How broken connections look from outside, to a real client and on a real socket."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stripesim.server import RESET
from tests.integration.stripesim.process import Process, simulator
from tests.support.sim import KEY

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with simulator() as running:
        yield running


async def control(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with session.request(method, "/_sim" + path, json=body) as answer:
        told = await answer.json()
        assert answer.status == 200, told
        return told


async def pay(session: aiohttp.ClientSession) -> str:
    form = {"amount": "5000", "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}
    async with session.post("/v1/payment_intents", data=form) as answer:
        return str((await answer.json())["latest_charge"])


async def sent(session: aiohttp.ClientSession, **wanted: Any) -> bytes:
    async with session.post("/v1/refunds", **wanted) as answer:
        return await answer.read()


SEEN: dict[str, tuple[type[Exception], int]] = {
    "drop_before": (aiohttp.ServerDisconnectedError, 0),
    "drop_after": (aiohttp.ServerDisconnectedError, 1),
    "reset_before": (aiohttp.ClientOSError, 0),
    "reset_after": (aiohttp.ClientOSError, 1),
    "truncate": (aiohttp.ClientPayloadError, 1),
}


@pytest.mark.parametrize("kind", SEEN)
async def test_a_client_sees_the_connection_fail_and_the_same_key_tells_what_was_done(
    kind: str, server: Process
) -> None:
    error, done = SEEN[kind]
    async with server.session() as session:
        charge = await pay(session)
        plan = {"rules": [{"kind": kind, "operation": "POST /v1/refunds", "times": 1}]}
        await control(session, "POST", "/faults", plan)
        wanted = {"data": {"charge": charge, "amount": "700"}, "headers": {"Idempotency-Key": f"{kind}.1"}}
        with pytest.raises(error):
            await sent(session, **wanted)
        async with session.get("/v1/refunds", params={"charge": charge}) as answer:
            assert len((await answer.json())["data"]) == done
        async with session.post("/v1/refunds", **wanted) as answer:
            assert answer.status == 200
            assert ("Idempotent-Replayed" in answer.headers) == bool(done)
        async with session.get("/v1/refunds", params={"charge": charge}) as answer:
            assert [refund["amount"] for refund in (await answer.json())["data"]] == [700]


async def test_the_server_has_nothing_to_say_about_trouble_that_was_ordered() -> None:
    with simulator() as quiet:
        async with quiet.session() as session:
            charge = await pay(session)
            for kind, (error, _) in SEEN.items():
                plan = {"rules": [{"kind": kind, "operation": "POST /v1/refunds", "times": 3}]}
                await control(session, "POST", "/faults", plan)
                for at in range(3):
                    with pytest.raises(error):
                        await sent(session, data={"charge": charge, "amount": "10", "metadata[try]": f"{kind}{at}"})
            assert (await control(session, "GET", "/audit"))["ok"]
        quiet.running.terminate()
        assert (quiet.ended(), quiet.said()) == (0, "")


async def test_the_server_tells_of_trouble_that_nobody_ordered(tmp_path: Path) -> None:
    with simulator(state=tmp_path / "state") as broken:
        async with broken.session() as session:
            with sqlite3.connect(tmp_path / "state") as file:
                file.execute("DROP TABLE charge")
            async with session.get("/v1/charges") as answer:
                assert answer.status == 500
        broken.running.terminate()
        broken.ended()
        assert "no such table: charge" in broken.said()


def raw(body: str, *, length: int | None = None) -> bytes:
    head = (
        "POST /v1/refunds HTTP/1.1",
        "Host: sim",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body) if length is None else length}",
    )
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


async def test_half_of_a_truncated_body_arrives_under_the_full_length(server: Process) -> None:
    async with server.session() as session:
        charge = await pay(session)
        await control(session, "POST", "/faults", {"rules": [{"kind": "truncate", "operation": "POST *", "times": 1}]})
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(raw(f"charge={charge}&amount=300"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 200")
        assert len(body) == int(fields[b"content-length"]) // 2
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)
        assert (await control(session, "GET", "/audit"))["ok"]


@pytest.mark.parametrize("kind", ["reset_after", "drop_after"])
async def test_a_reset_is_a_reset_and_a_drop_an_end(kind: str, server: Process) -> None:
    async with server.session() as session:
        charge = await pay(session)
        await control(session, "POST", "/faults", {"rules": [{"kind": kind, "operation": "POST *", "times": 1}]})
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(plain, raw(f"charge={charge}&amount=300"))
            if kind == "reset_after":
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(plain, 1)
            else:
                assert await loop.sock_recv(plain, 1) == b""


@pytest.mark.parametrize("reset", [False, True])
async def test_half_a_request_is_not_taken_for_a_whole_one(reset: bool, server: Process) -> None:  # noqa: FBT001
    async with server.session() as session:
        charge = await pay(session)
        # The caller meant 4,000 and died amid the amount: 40 must not be refunded.
        body = f"charge={charge}&amount=40"
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(raw(body, length=len(body) + 2))
            if reset:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # Another connection's calls are answered after the end of that one was seen.
        for _ in range(20):
            async with session.get("/v1/refunds", params={"charge": charge}) as answer:
                assert (await answer.json())["data"] == []
        assert (await control(session, "GET", "/audit"))["ok"]


async def test_a_body_beyond_a_megabyte_is_refused_whole(server: Process) -> None:
    async with server.session() as session:
        charge = await pay(session)
        filler = "&".join(f"metadata[k{at}]={'x' * 400}" for at in range(3_000))
        async with session.post(
            "/v1/refunds", data=io.BytesIO(f"charge={charge}&amount=1&{filler}".encode())
        ) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
        async with session.get("/v1/refunds", params={"charge": charge}) as answer:
            assert (await answer.json())["data"] == []
