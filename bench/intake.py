"""How much the intake of webhooks adds to a bare route: its events per second, and how long it takes to answer at half of that.

Both are processes of their own, with the same web server and the same kind of group commit. The bare one is a Starlette route that checks the
signature and inserts id and body: nothing is read, and nothing can be found. Every event is another one, and is signed anew. The load
comes from a third process, so two cores carry three busy processes and, on the other side, a Postgres.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench import databases, results
from bench.witness import Seen, watching
from refundry.infra.db import sqlite_url
from tests.support.database import PostgresServer

EVENTS, IN_FLIGHT = 12_000, 32
ROUNDS, HALF_SECONDS = 5, 4.0
LEAST, P99_MOST = 0.7, 50.0
SECRET = "whsec_bench"  # noqa: S105  # opens nothing
KINDS = ("bare", "product")


def event(number: int, name: str) -> bytes:
    """Write an event as large as Stripe's about a refund."""
    refund = {
        "id": f"re_{number:024}", "object": "refund", "amount": 500, "balance_transaction": f"txn_{number:024}", "charge": f"ch_{number:024}",
        "created": 1_790_000_000, "currency": "gbp", "destination_details": {"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        "metadata": {"refundry_request_id": f"6f1c7f0e-3d0a-5b53-9a8e-{number:012}", "ticket_id": f"T-{number}"},
        "payment_intent": f"pi_{number:024}", "reason": "requested_by_customer", "receipt_number": None, "source_transfer_reversal": None,
        "status": "succeeded", "transfer_reversal": None,
    }  # fmt: skip
    body = {
        "id": f"evt_{name}{number:020}", "object": "event", "api_version": "2026-08-26.dahlia", "created": 1_790_000_000, "data": {"object": refund},
        "livemode": False, "pending_webhooks": 1, "request": {"id": f"req_{number}", "idempotency_key": f"k{number}.1"}, "type": "refund.created",
    }  # fmt: skip
    return json.dumps(body, indent=2).encode()


def header(body: bytes) -> str:
    """Sign it."""
    moment = int(time.time())
    sign = hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={sign}"


def request(body: bytes) -> bytes:
    """Write the whole call: a client that makes it up for each would take longer than the server."""
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: here\r\nContent-Type: application/json; charset=utf-8\r\nStripe-Signature: {header(body)}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Line:
    """One connection, kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep its ends."""
        self.reader, self.writer = reader, writer

    async def call(self, call: bytes) -> None:
        """Make one call, and read its answer to the end."""
        self.writer.write(call)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        await self.reader.readexactly(int(length[1]))


async def storm(port: int, bodies: list[bytes], rate: float | None) -> tuple[float, list[tuple[float, float]]]:
    """Send them all, as fast as they are taken or at a steady rate; tells the events per second, and of each when it was due and its milliseconds.

    At a steady rate the time counts from when a call was due, also where no line was free for it.
    """
    calls = [request(body) for body in bodies]
    took: list[tuple[float, float]] = []
    waiting = iter(enumerate(calls))
    lines = [Line(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(IN_FLIGHT)]
    began = time.monotonic()

    async def pump(line: Line) -> None:
        for at, call in waiting:
            due = time.monotonic() if rate is None else began + at / rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await line.call(call)
            took.append((due, (time.monotonic() - due) * 1000))

    await asyncio.gather(*(pump(line) for line in lines))
    seconds = time.monotonic() - began
    for line in lines:
        line.writer.close()
    return len(bodies) / seconds, took


def send(port: int, name: str, count: int, rate: float | None) -> tuple[float, list[tuple[float, float]]]:
    """Send from a process of its own."""
    bodies = [event(number, name) for number in range(count)]
    return uvloop.run(storm(port, bodies, rate))


@contextmanager
def served(kind: str, url: str) -> Iterator[int]:
    """Start a server; tells its port."""
    command = [sys.executable, "-m", "bench.intake_servers", kind, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rounds of one kind came to.

    Args:
        rates: Events per second at full load, of each round.
        rounds: The answers at half of that, of each round: when each was due, and its milliseconds.
        seen: What the machine did meanwhile.
    """

    rates: list[float] = field(default_factory=list)
    rounds: list[list[tuple[float, float]]] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)

    def measure(self, kind: str, url: str, pool: Any) -> None:  # a pool of processes
        """Measure a server once more."""
        with served(kind, url) as port:
            pool.apply(send, (port, "warm", 500, None))
            full, _ = pool.apply(send, (port, "full", EVENTS, None))
            with watching(self.seen):
                _, took = pool.apply(send, (port, "half", int(full / 2 * HALF_SECONDS), full / 2))
        self.rates.append(full)
        self.rounds.append(took)

    def told(self) -> dict[str, Any]:
        """Tell its figures; what is said of steady moments leaves out the events that were due while the machine was slow, however they fared."""
        took = [milliseconds for answers in self.rounds for _, milliseconds in answers]
        steady = [
            milliseconds for answers in self.rounds for due, milliseconds in answers if not self.seen.touched(due)
        ]
        return {
            "events_per_second": round(statistics.median(self.rates)),
            "p50_ms": round(statistics.median(took), 1),
            "p99_ms": p99(took),
            "p99_ms_in_steady_moments": p99(steady),
            "machine_slow_percent": round(self.seen.share * 100, 1),
            "rounds": [round(rate) for rate in self.rates],
            "rounds_p99_ms": [p99([milliseconds for _, milliseconds in answers]) for answers in self.rounds],
        }


def p99(took: list[float]) -> float:
    """Tell how long the slowest hundredth waits at least, in milliseconds."""
    return round(statistics.quantiles(took, n=100)[98], 1)


def compared(server: PostgresServer | None, pool: Any) -> dict[str, dict[str, Any]]:
    """Measure both kinds in turn, each time from nothing; of the rounds the middle one counts, since a machine that is held up halves any one of them."""
    measured = {kind: Measured() for kind in KINDS}
    for kind in KINDS * ROUNDS:
        with tempfile.TemporaryDirectory() as folder:
            made = server.made() if server else nullcontext(sqlite_url(Path(folder) / "b.db"))
            with made as url:
                measured[kind].measure(kind, url, pool)
    return {kind: measured[kind].told() for kind in KINDS}


def main() -> None:
    """Measure both on both databases."""
    figures: dict[str, Any] = {}
    rows, aims = [], []
    with multiprocessing.get_context("spawn").Pool(1) as pool, databases.postgres() as server:
        for database in ("sqlite", "postgres") if server else ("sqlite",):
            told = compared(server if database == "postgres" else None, pool)
            rows += [(f"{database}, {kind}", *list(one.values())[:5]) for kind, one in told.items()]
            share = round(told["product"]["events_per_second"] / told["bare"]["events_per_second"], 2)
            figures[database] = {**told, "share": share}
            aims += [
                results.Aim(f"{database}: share of the bare route", share, least=LEAST),
                results.Aim(f"{database}: p99 at half load, ms", told["product"]["p99_ms"], most=P99_MOST),
            ]
    results.table(("", "events/s", "p50 ms", "p99 ms", "p99 when steady", "slow %"), rows)
    results.write("intake", {**figures, "aims": results.show(aims)})
