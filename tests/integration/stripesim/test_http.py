"""HTTP itself, as a plain socket sees it: connections that stay, requests that queue, bodies in pieces, and the end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.stripesim.process import END_SECONDS, Process, simulator
from tests.support.sim import KEY

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with simulator() as running:
        yield running


class Caller:
    """A connection that sends bytes as they are, and reads answers one after another."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._file = plain.makefile("rb")

    def send(self, raw: bytes) -> None:
        self._plain.sendall(raw)

    def line(self) -> bytes:
        return self._file.readline()

    def answer(self, *, bare: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read an answer: its status, its headers, and its body unless it is bare."""
        status = int(self.line().split()[1])
        headers: dict[str, str] = {}
        while (line := self.line().decode().rstrip("\r\n")) != "":
            name, _, value = line.partition(": ")
            headers[name] = value
        return status, headers, b"" if bare else self._file.read(int(headers["content-length"]))

    def ended(self) -> bool:
        return self._file.read(1) == b""


@contextmanager
def caller(server: Process) -> Iterator[Caller]:
    with socket.create_connection(("127.0.0.1", server.port), END_SECONDS) as plain:
        yield Caller(plain)


def raw(start: str, body: str = "", *more: str, version: str = "1.1") -> bytes:
    head = [f"{start} HTTP/{version}", "Host: sim", f"Authorization: Bearer {KEY}", *more]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def customer(name: str) -> bytes:
    return raw("POST /v1/customers", f"name={name}")


def test_a_connection_serves_call_after_call(server: Process) -> None:
    with caller(server) as one:
        for name in ("ann", "ben"):
            one.send(customer(name))
            status, headers, body = one.answer()
            assert (status, json.loads(body)["name"]) == (200, name)
            assert "connection" not in headers


def test_calls_that_are_sent_together_are_answered_in_their_order(server: Process) -> None:
    with caller(server) as one:
        one.send(b"".join(customer(f"c{at}") for at in range(50)))
        assert [json.loads(one.answer()[2])["name"] for _ in range(50)] == [f"c{at}" for at in range(50)]


def test_a_request_may_arrive_byte_by_byte(server: Process) -> None:
    with caller(server) as one:
        for byte in customer("slow"):
            one.send(bytes([byte]))
        assert json.loads(one.answer()[2])["name"] == "slow"


def test_a_body_may_come_in_chunks(server: Process) -> None:
    with caller(server) as one:
        one.send(raw("POST /v1/customers", "", "Transfer-Encoding: chunked"))
        for piece in (b"name=in+", b"pieces"):
            one.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        one.send(b"0\r\n\r\n")
        assert json.loads(one.answer()[2])["name"] == "in pieces"


def test_a_caller_that_waits_to_send_its_body_is_told_to_go_on(server: Process) -> None:
    with caller(server) as one:
        body = "name=polite"
        one.send(raw("POST /v1/customers", "", "Expect: 100-continue", f"Content-Length: {len(body)}"))
        assert (one.line(), one.line()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
        one.send(body.encode())
        assert json.loads(one.answer()[2])["name"] == "polite"


@pytest.mark.parametrize(
    ("more", "version"), [(("Connection: close",), "1.1"), ((), "1.0"), (("Connection: close",), "1.0")]
)
def test_a_connection_ends_after_its_answer_where_the_caller_wants_that(
    more: tuple[str, ...], version: str, server: Process
) -> None:
    with caller(server) as one:
        one.send(raw("GET /v1/charges", "", *more, version=version))
        status, headers, _ = one.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert one.ended()


def test_a_head_request_is_answered_without_a_body(server: Process) -> None:
    with caller(server) as one:
        one.send(raw("HEAD /v1/charges"))
        status, headers, _ = one.answer(bare=True)
        assert (status, headers["content-type"]) == (404, "application/json")
        one.send(customer("next"))
        assert one.answer()[0] == 200


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET /v1/charges HTTP/1.1\r\nbroken\r\n\r\n"])
def test_what_is_no_http_gets_a_400_and_the_end(nonsense: bytes, server: Process) -> None:
    with caller(server) as one:
        one.send(nonsense)
        assert one.answer()[0] == 400
        assert one.ended()


def test_a_path_is_read_percent_decoded_and_its_query_is_not(server: Process) -> None:
    with caller(server) as one:
        one.send(raw("GET /v1/c%68arges?limit=%31"))
        assert one.answer()[0] == 200
        one.send(raw("GET /v1/charges?limit=101&a=%26"))
        status, _, body = one.answer()
        assert (status, json.loads(body)["error"]["param"]) == (400, "a")


def test_a_call_that_runs_is_answered_before_the_end_and_the_next_is_not_taken() -> None:
    with simulator() as ending, caller(ending) as one, caller(ending) as other:
        # Longer than it takes to ask something else and to end it, also on a busy machine.
        plan: Any = {"rules": [{"kind": "latency", "operation": "POST *", "milliseconds": 1000}]}
        other.send(raw("POST /_sim/faults", json.dumps(plan), "Content-Type: application/json"))
        assert other.answer()[0] == 200
        one.send(customer("last"))
        other.send(raw("GET /v1/charges"))
        assert other.answer()[0] == 200
        # The call of the first connection is on its way, as the answer to a later one shows.
        ending.running.terminate()
        status, headers, body = one.answer()
        assert (status, json.loads(body)["name"], headers["connection"]) == (200, "last", "close")
        assert one.ended()
        assert other.ended()
        assert ending.ended() == 0
