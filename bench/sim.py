"""How fast the simulator is, so that nobody measures it while meaning to measure the product.

Three questions: refunds per second over HTTP; a million charges in memory and time; whether answers and pages stay as fast
with a million charges as with a thousand. The two worlds of the last one run side by side and are asked in turn, so that
what else the machine does slows both.

The client is lean on purpose, since it shares the two cores with what it measures: bytes that were built before, one call at
a time on each connection, and of an answer only the status, the length and, where it is needed, the body are read.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import uvloop

from bench import memory, results

KEY = "sk_test_sim"
CONNECTIONS = 8
REFUNDS = 12_000
MILLION = 1_000_000
THOUSAND = 1_000
REPEATS = 1_000
PAGE = 100
FIRST_CREATED, STEP_SECONDS = 1_700_000_000, 60
TICKS_PER_SECOND = 100


@dataclass(frozen=True)
class Server:
    """A running simulator."""

    address: str
    pid: int
    seconds_to_start: float

    def peak_megabytes(self) -> float:
        """Tell the most memory that the process ever held."""
        return memory.peak_megabytes(self.pid)

    def cpu_seconds(self) -> float:
        """Tell how long it has computed so far, in itself and in the system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


@contextmanager
def server(*flags: str) -> Iterator[Server]:
    """Start the simulator as a process of its own, and end it."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "stripesim", "--port", "0", "--seed", "1", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        yield Server(first["address"], process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(timeout=30)


def write_charges(path: Path, count: int) -> None:
    """Write a file of charges, one a minute."""
    with path.open("w") as file:
        file.write("order_id,created,amount_minor,currency\n")
        file.writelines(
            f"order{at},{FIRST_CREATED + at * STEP_SECONDS},{1000 + at % 9000},gbp\n" for at in range(count)
        )


class Line(asyncio.Protocol):
    """One connection: sends a call's bytes, and tells the answer's body when all of it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing received."""
        self._transport = cast("asyncio.Transport", transport)
        self._got = b""
        self._answer: asyncio.Future[bytes] | None = None

    def data_received(self, data: bytes) -> None:
        """Collect an answer up to its length."""
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._got = b""
        assert self._answer is not None
        if head.startswith(b"HTTP/1.1 200"):
            self._answer.set_result(body)
        else:
            self._answer.set_exception(AssertionError(head.decode() + body.decode()))

    async def call(self, raw: bytes) -> bytes:
        """Send a call; tells the body of its 200."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await self._answer

    def close(self) -> None:
        """End."""
        self._transport.close()


@asynccontextmanager
async def lines(address: str, count: int = 1) -> AsyncIterator[list[Line]]:
    """Open connections."""
    host, port = urlsplit(address).hostname, urlsplit(address).port
    opened = [(await asyncio.get_running_loop().create_connection(Line, host, port))[1] for _ in range(count)]
    try:
        yield opened
    finally:
        for line in opened:
            line.close()


def get(path: str, **params: str | int) -> bytes:
    """Build a read."""
    query = "?" + urlencode(params, quote_via=quote) if params else ""
    return f"GET {path}{query} HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def refund(charge: str, number: int) -> bytes:
    """Build a refund of a little of a charge, as the product makes it: with a key, a reason and metadata."""
    body = urlencode(
        {
            "charge": charge,
            "amount": "1",
            "reason": "requested_by_customer",
            "metadata[refundry_request_id]": f"request-{number}",
            "metadata[ticket_id]": f"ticket-{number}",
        }
    )
    head = (
        "POST /v1/refunds HTTP/1.1",
        "Host: sim",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/x-www-form-urlencoded",
        "Stripe-Version: 2026-08-26.dahlia",
        f"Idempotency-Key: request-{number}.1",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


async def newest(line: Line) -> list[str]:
    """Tell the ids of the newest hundred charges."""
    return [charge["id"] for charge in json.loads(await line.call(get("/v1/charges", limit=PAGE)))["data"]]


async def throughput(running: Server) -> dict[str, float]:
    """Refund with eight connections, one call at a time on each."""
    async with lines(running.address, CONNECTIONS) as opened:
        charges = await newest(opened[0])
        calls = iter([refund(charges[number % len(charges)], number) for number in range(REFUNDS)])

        async def lane(line: Line) -> None:
            for raw in calls:
                await line.call(raw)

        began, computed, own = time.perf_counter(), running.cpu_seconds(), time.process_time()
        await asyncio.gather(*(lane(line) for line in opened))
        seconds = time.perf_counter() - began
        computed, own = running.cpu_seconds() - computed, time.process_time() - own
        audit = json.loads(await opened[0].call(get("/_sim/audit")))
    assert audit["ok"], audit["problems"][:3]
    assert audit["refunds"] == REFUNDS
    return {
        "refunds": REFUNDS,
        "seconds": round(seconds, 2),
        "refunds_per_second": round(REFUNDS / seconds),
        "simulator_cpu_ms_per_refund": round(1000 * computed / REFUNDS, 3),
        "client_cpu_ms_per_refund": round(1000 * own / REFUNDS, 3),
    }


@dataclass(frozen=True)
class World:
    """One of the worlds that are compared: its connection, how many charges it has, and some of them."""

    line: Line
    count: int
    charges: list[str]

    async def at(self, rank: int) -> str:
        """Tell the id of the charge at a place of the list, counted from the newest."""
        before = FIRST_CREATED + (self.count - rank) * STEP_SECONDS
        page = json.loads(await self.line.call(get("/v1/charges", limit=1, **{"created[lt]": before})))
        return str(page["data"][0]["id"])


Once = Callable[[int], bytes]


async def calls_of(world: World) -> dict[str, tuple[int, Once]]:
    """Build the calls that a refund program makes, with how often each is timed. Each reads as much in either world."""
    some, last = world.charges[:50], world.count - 2 * PAGE
    # From the head of the list, from its middle, and from its end, each time a full page of 100 with more behind it.
    head, middle, end = await world.at(0), await world.at(last // 2), await world.at(last)
    order = {"query": f"metadata['order_id']:'order{world.count // 2}'"}
    assert len(json.loads(await world.line.call(get("/v1/charges/search", **order)))["data"]) == 1

    def page(cursor: str) -> Once:
        return lambda _: get("/v1/charges", limit=PAGE, starting_after=cursor)

    return {
        "retrieve_charge_us": (REPEATS, lambda at: get(f"/v1/charges/{some[at % 50]}")),
        "list_refunds_of_charge_us": (REPEATS, lambda at: get("/v1/refunds", charge=some[at % 50])),
        "create_refund_us": (REPEATS, lambda at: refund(some[at % 50], at)),
        "list_100_charges_us": (REPEATS // 5, lambda _: get("/v1/charges", limit=PAGE)),
        "page_at_head_us": (REPEATS // 5, page(head)),
        "page_in_the_middle_us": (REPEATS // 5, page(middle)),
        "page_at_end_us": (REPEATS // 5, page(end)),
        "search_by_order_us": (REPEATS, lambda _: get("/v1/charges/search", **order)),
    }


async def compared(small: Server, large: Server) -> tuple[dict[str, float], dict[str, float]]:
    """Time each call in both worlds in turn; tells the medians, in microseconds."""
    async with lines(small.address) as (one,), lines(large.address) as (other,):
        worlds = World(one, THOUSAND, await newest(one)), World(other, MILLION, await newest(other))
        calls = [await calls_of(world) for world in worlds]
        medians: tuple[dict[str, float], dict[str, float]] = {}, {}
        for name, (repeats, _) in calls[0].items():
            times: tuple[list[float], list[float]] = [], []
            for at in range(repeats):
                for which, world in enumerate(worlds):
                    raw = calls[which][name][1](at)
                    began = time.perf_counter()
                    await world.line.call(raw)
                    times[which].append(time.perf_counter() - began)
            for which in (0, 1):
                medians[which][name] = round(statistics.median(times[which]) * 1e6, 1)
    return medians


def main() -> None:
    """Measure, print, and keep."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        small, large, state = Path(folder) / "small.csv", Path(folder) / "large.csv", Path(folder) / "state"
        write_charges(small, THOUSAND)
        write_charges(large, MILLION)
        for name, flags in (("throughput", ()), ("throughput_with_state_file", ("--state", str(state)))):
            with server("--load", str(small), *flags) as running:
                figures[name] = uvloop.run(throughput(running))
                print(json.dumps({name: figures[name]}))
        thousand = stack.enter_context(server("--load", str(small)))
        million = stack.enter_context(server("--load", str(large)))
        figures["million"] = {
            "load_seconds": round(million.seconds_to_start - thousand.seconds_to_start, 1),
            "load_cpu_seconds": round(million.cpu_seconds(), 1),
            "peak_megabytes_loaded": million.peak_megabytes(),
        }
        figures["thousand_charges"], figures["million_charges"] = uvloop.run(compared(thousand, million))
        figures["million"]["peak_megabytes_used"] = million.peak_megabytes()
        print(json.dumps(figures["million"]))
    figures["ratio"] = {
        name: round(figures["million_charges"][name] / figures["thousand_charges"][name], 2)
        for name in figures["thousand_charges"]
    }
    print(json.dumps(figures["ratio"]))
    print(f"kept in {results.write('sim', figures)}")
