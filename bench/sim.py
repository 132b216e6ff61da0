"""How fast the simulator is, so that nobody measures it while meaning to measure the product.

Three questions: refunds per second over HTTP; a million charges in memory and time; whether answers and pages stay as fast
with a million charges as with a thousand.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench import results

KEY = {"Authorization": "Bearer sk_test_sim"}
CONNECTIONS = 8
REFUNDS = 12_000
MILLION = 1_000_000
REPEATS = 1_500
START_TIMEOUT = 180


@dataclass(frozen=True)
class Server:
    """A running simulator."""

    address: str
    pid: int
    seconds_to_start: float

    def peak_megabytes(self) -> float:
        """Tell the most memory that the process ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)


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
    """Write a file of charges, one a minute, of a few thousand customers."""
    with path.open("w") as file:
        file.write("order_id,created,amount_minor,currency\n")
        file.writelines(f"order{at},{1_700_000_000 + at * 60},{1000 + at % 9000},gbp\n" for at in range(count))


async def get(session: aiohttp.ClientSession, path: str, **params: str) -> Any:
    """Read."""
    async with session.get(path, params=params, headers=KEY) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def refund(session: aiohttp.ClientSession, charge: str, number: int) -> None:
    """Refund a little of a charge, as the product does: with a key, a reason and metadata."""
    data = {
        "charge": charge,
        "amount": "1",
        "reason": "requested_by_customer",
        "metadata[refundry_request_id]": f"request-{number}",
        "metadata[ticket_id]": f"ticket-{number}",
    }
    headers = KEY | {"Idempotency-Key": f"request-{number}.1"}
    async with session.post("/v1/refunds", data=data, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()


async def throughput(address: str) -> dict[str, float]:
    """Refund with eight connections, one call at a time on each."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(address, connector=connector) as session:
        charges = [c["id"] for c in (await get(session, "/v1/charges", limit="100"))["data"]]
        numbers = iter(range(REFUNDS))

        async def lane() -> None:
            for number in numbers:
                await refund(session, charges[number % len(charges)], number)

        began = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
        seconds = time.perf_counter() - began
        audit = await get(session, "/_sim/audit")
    assert audit["ok"], audit["problems"][:3]
    assert audit["refunds"] == REFUNDS
    return {"refunds": REFUNDS, "seconds": round(seconds, 2), "refunds_per_second": round(REFUNDS / seconds)}


async def median_us(repeats: int, once: Callable[[int], Awaitable[Any]]) -> float:
    """Tell the median time of a call in microseconds, one after another on one connection."""
    times = []
    for at in range(repeats):
        began = time.perf_counter()
        await once(at)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e6, 1)


async def answers(address: str) -> dict[str, float]:
    """Time the calls that a refund program makes."""
    async with aiohttp.ClientSession(address) as session:
        charges = [c["id"] for c in (await get(session, "/v1/charges", limit="100"))["data"]]
        some = charges[:50]
        return {
            "retrieve_charge_us": await median_us(REPEATS, lambda at: get(session, f"/v1/charges/{some[at % 50]}")),
            "list_refunds_of_charge_us": await median_us(
                REPEATS, lambda at: get(session, "/v1/refunds", charge=some[at % 50])
            ),
            "create_refund_us": await median_us(REPEATS, lambda at: refund(session, some[at % 50], at)),
            "list_100_charges_us": await median_us(REPEATS // 10, lambda _: get(session, "/v1/charges", limit="100")),
        }


async def depths(address: str, count: int) -> dict[str, float]:
    """Time a page of 100 at the head of the list and far down, found by the time of creation."""
    out = {}
    async with aiohttp.ClientSession(address) as session:
        for share in (0, 50, 99):
            before = str(1_700_000_000 + (count - count * share // 100) * 60)
            page = await get(session, "/v1/charges", limit="1", **{"created[lt]": before})
            cursor = page["data"][0]["id"]
            once = lambda _, cursor=cursor: get(session, "/v1/charges", limit="100", starting_after=cursor)  # noqa: E731
            out[f"page_at_{share}_percent_us"] = await median_us(REPEATS // 10, once)
        order = {"query": f"metadata['order_id']:'order{count // 2}'"}
        found = await get(session, "/v1/charges/search", **order)
        assert len(found["data"]) == 1
        out["search_by_order_us"] = await median_us(
            REPEATS // 10, lambda _: get(session, "/v1/charges/search", **order)
        )
    return out


def main() -> None:
    """Measure, print, and keep."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.csv", Path(folder) / "large.csv"
        write_charges(small, 1_000)
        write_charges(large, MILLION)
        with server("--load", str(small)) as running:
            figures["throughput"] = asyncio.run(throughput(running.address))
            print(json.dumps(figures["throughput"]))
        with server("--load", str(small)) as running:
            thousand = asyncio.run(answers(running.address)) | asyncio.run(depths(running.address, 1_000))
            starting = running.seconds_to_start
        with server("--load", str(large)) as running:
            figures["million"] = {
                "load_seconds": round(running.seconds_to_start - starting, 1),
                "peak_megabytes_loaded": running.peak_megabytes(),
            }
            million = asyncio.run(answers(running.address)) | asyncio.run(depths(running.address, MILLION))
            figures["million"]["peak_megabytes_used"] = running.peak_megabytes()
            print(json.dumps(figures["million"]))
    figures["thousand_charges"], figures["million_charges"] = thousand, million
    figures["ratio"] = {name: round(million[name] / thousand[name], 2) for name in thousand}
    print(json.dumps(figures["ratio"]))
    print(f"kept in {results.write('sim', figures)}")
