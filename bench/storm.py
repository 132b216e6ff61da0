"""A storm of events is drained: how fast, in how much memory, with how many reads; and how long an order system waits to hear of a change.

*Known*: a file is paid, and then all its events come at once, as after a recall; they say what the rows hold already. *Strange*: refunds that
somebody has made by hand at charges that nobody here has asked for, so that each has to be looked at, under Stripe's live limits. *Lag*:
refunds by hand at a steady rate, told by the simulator's own webhooks; from the refund to the call that tells its order.

`make bench ARGS=storm:full` sends 150,000 events, of 50,000 rows; that takes a quarter of an hour, half of it to pay the rows.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import socket
import statistics
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from bench import databases, intake, results, sim
from bench.memory import peak_megabytes
from bench.product import Product, Running, product
from bench.shop import Shop, control, shop
from bench.startup import healthy
from refundry.inbox import service as inbox
from refundry.inbox.model import HANDLED
from refundry.infra.db import Database, sqlite_url
from refundry.kernel.clock import SystemClock
from tests.support.database import PostgresServer

# Each row makes three events of these; the older twin of `refund.updated` is left out.
TYPES = ("refund.created", "refund.updated", "charge.refunded")
ROWS, FULL_ROWS, STRANGE = 3_000, 50_000, 400
# Two events tell of each refund by hand.
RATE, SECONDS, WARM = 50.0, 15.0, 50
FLAT, LAG_MOST = 1.25, 1.0
LOOK_SECONDS, PATIENCE_SECONDS = 0.05, 3600.0
SETTINGS = {"STRIPE_WEBHOOK_SECRET": intake.SECRET, "REFUNDRY_FOLLOW__POLL_SECONDS": "86400"}


@contextmanager
def serving(house: Product) -> Iterator[tuple[Running, int]]:
    """Run `refundry serve` until the end; tells its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = house.start("serve", "--port", str(port))
    try:
        until(lambda: healthy(port) and _polled(house.address))
        yield running, port
    finally:
        running.process.terminate()
        house.checked(running, running.end(), (130,))


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_SECONDS, "it did not come true"
        time.sleep(LOOK_SECONDS)


def _polled(address: str) -> bool:
    """Tell whether polling has had its turn, today's only one; what comes later is told by events."""
    calls = control(address, "GET /_sim/calls")["operations"]
    return all(f"GET /v1/{kind}" in calls for kind in ("events", "refunds"))


def keep_events(opened: Shop, path: Path) -> int:
    """Write the events of a shop to a file, the newest first; tells how many."""
    count, after, more = 0, "", True
    with path.open("w") as file:
        while more:
            page = opened.control(f"GET /v1/events?limit=100{after}")
            chosen = [event for event in page["data"] if event["type"] in TYPES]
            file.writelines(json.dumps(event) + "\n" for event in chosen)
            count, more = count + len(chosen), page["has_more"]
            after = f"&starting_after={page['data'][-1]['id']}"
    return count


def send(port: int, path: Path, begin: int, end: int) -> None:
    """Send some of the events of a file, as fast as they are taken; in a process of its own."""
    uvloop.run(_sent(port, path, begin, end))


async def _sent(port: int, path: Path, begin: int, end: int) -> None:
    async def pump(events: Iterator[str]) -> None:
        line = intake.Line(*await asyncio.open_connection("127.0.0.1", port))
        for event in events:
            await line.call(intake.request(event.rstrip().encode()))
        line.writer.close()

    with path.open() as file:
        events = (event for at, event in enumerate(file) if begin <= at < end)
        await asyncio.gather(*(pump(events) for _ in range(intake.IN_FLIGHT)))


def drained(house: Product, account: str, port: int, events: tuple[Path, int, int], pool: Any) -> float:
    """Send events, and wait until none waits any more; tells the seconds."""
    url = house.postgres or sqlite_url(house.folder / "refundry.db")
    database = Database(url.replace("postgresql://", "postgresql+psycopg://"), SystemClock())

    def empty() -> bool:
        with database.reading() as unit:
            return inbox.oldest_waiting(unit, account) is None

    began = time.monotonic()
    try:
        pool.apply(send, (port, *events))
        until(empty)
        with database.reading() as unit:
            counts = inbox.counts(unit, account)
    finally:
        database.close()
    assert sum(counts.values()) >= events[2], counts
    return time.monotonic() - began


def reads(opened: Shop) -> int:
    """Count the calls to Stripe but those that learn the account."""
    calls = opened.control("GET /_sim/calls")["operations"]
    return sum(told["calls"] for name, told in calls.items() if name.startswith("GET /v1/") and "account" not in name)


def known(rows: int, postgres: str | None, pool: Any) -> dict[str, Any]:
    """Drain the events of a file that was paid: a quarter first, to see what memory that takes, then the rest."""
    with shop(rows) as opened, product(opened.address, postgres=postgres, **SETTINGS) as house:
        opened.control("POST /_sim/settings", {"arn_delay": 0})
        with serving(house):
            pass
        house.run("batch", "run", str(opened.file("rows", opened.charges)), "--yes", "--json")
        path, account = opened.folder / "events.jsonl", f"{opened.control('GET /v1/account')['id']}|test"
        count = rows * len(TYPES)
        until(lambda: keep_events(opened, path) == count)
        with serving(house) as (running, port):
            opened.forget_calls()
            seconds = drained(house, account, port, (path, 0, count // 4), pool)
            quarter = peak_megabytes(running.process.pid)
            seconds += drained(house, account, port, (path, count // 4, count), pool)
            return {
                "events": count,
                "seconds": round(seconds, 1),
                "events_per_second": round(count / seconds),
                "reads": reads(opened),
                "peak_megabytes_quarter": quarter,
                "peak_megabytes": peak_megabytes(running.process.pid),
            }


def strange(pool: Any) -> dict[str, Any]:
    """Drain the events of refunds by hand, of which nothing is known, under live limits."""
    with (
        shop(STRANGE, limits="live") as opened,
        product(opened.address, limits="live", **SETTINGS) as house,
        serving(house) as (_, port),
    ):
        for charge in opened.charges:
            opened.control("POST /_sim/refunds", {"charge": charge, "amount": 100})
        path, account = opened.folder / "events.jsonl", f"{opened.control('GET /v1/account')['id']}|test"
        count = keep_events(opened, path)
        opened.forget_calls()
        seconds = drained(house, account, port, (path, 0, count), pool)
        limited = sum(opened.control("GET /_sim/calls")["limited"].values())
        return {"events": count, "seconds": round(seconds, 1), "reads": reads(opened), "rate_limited": limited}


# Lag


def _endpoint(opened: Shop, port: int) -> str:
    url = f"http://127.0.0.1:{port}/webhooks/stripe"
    form = [("url", url), *((f"enabled_events[{at}]", kind) for at, kind in enumerate(sorted(HANDLED)))]
    head = {"Authorization": f"Bearer {sim.KEY}"}
    body = urllib.parse.urlencode(form).encode()
    asked = urllib.request.Request(f"{opened.address}/v1/webhook_endpoints", body, head)  # noqa: S310  # loopback
    with urllib.request.urlopen(asked) as answer:  # noqa: S310  # loopback
        return str(json.load(answer)["secret"])


async def _lags(opened: Shop, heard: dict[str, float], start: Any) -> list[float]:
    """Refund at a steady rate; tells for each refund how long its order waited to be told."""

    async def take(request: web.Request) -> web.Response:
        heard.setdefault((await request.json())["data"]["order_id"], time.monotonic())
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made: dict[str, float] = {}
    with start(f"http://127.0.0.1:{runner.addresses[0][1]}/") as ready:
        await asyncio.to_thread(ready)
        async with aiohttp.ClientSession() as session:
            began = time.monotonic()

            async def refund(at: int, charge: str) -> None:
                await asyncio.sleep(began + at / RATE - time.monotonic())
                made[f"order{at}"] = time.monotonic()
                async with session.post(
                    f"{opened.address}/_sim/refunds", json={"charge": charge, "amount": 100}
                ) as answer:
                    assert answer.status == 200, await answer.text()

            await asyncio.gather(*(refund(at, charge) for at, charge in enumerate(opened.charges)))
        while len(heard) < len(made):
            assert time.monotonic() - began < PATIENCE_SECONDS / 10, f"{len(heard)} of {len(made)} were told"
            await asyncio.sleep(LOOK_SECONDS)
    await runner.cleanup()
    return [heard[order] - at for order, at in list(made.items())[WARM:]]


def lag(postgres: str | None) -> dict[str, Any]:
    """Measure from a refund to the call that tells its order, at a hundred events a second."""
    with shop(int(RATE * SECONDS) + WARM) as opened:
        opened.control("POST /_sim/settings", {"arn_delay": 86_400})

        @contextmanager
        def start(url: str) -> Iterator[Any]:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            more = SETTINGS | {
                "STRIPE_WEBHOOK_SECRET": _endpoint(opened, port),
                "REFUNDRY_ORDERS__URL": url,
                "REFUNDRY_ORDERS__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "REFUNDRY_ORDERS__KINDS": "order.refunded_changed",
            }
            with product(opened.address, postgres=postgres, **more) as house:
                house.start("serve", "--port", str(port))
                yield lambda: until(lambda: _polled(opened.address))

        took = sorted(asyncio.run(_lags(opened, {}, start)))
    cuts = statistics.quantiles(took, n=20)
    return {"refunds": len(took), "p50_seconds": round(cuts[9], 3), "p95_seconds": round(cuts[18], 3)}


def main(size: str = "") -> None:
    """Measure on both databases, print, and keep."""
    assert re.fullmatch("|full", size), f"storm:{size} is not known; there is storm:full"
    rows = FULL_ROWS if size else ROWS
    told: dict[str, dict[str, Any]] = {}
    lags: dict[str, dict[str, Any]] = {}
    with multiprocessing.get_context("spawn").Pool(1) as pool, databases.postgres() as server:
        for kind in ("sqlite", "postgres") if server else ("sqlite",):
            told[kind] = _on(server if kind == "postgres" else None, lambda url: known(rows, url, pool))
            lags[kind] = _on(server if kind == "postgres" else None, lag)
        live = strange(pool)
    results.table(("", *told), [(name, *(one[name] for one in told.values())) for name in told["sqlite"]])
    results.table(("lag", *lags), [(name, *(one[name] for one in lags.values())) for name in lags["sqlite"]])
    print(f"under live limits, sqlite: {live}")
    aims = [
        aim
        for kind, one in told.items()
        for aim in (
            results.Aim(f"{kind}: memory, all against a quarter", _ratio(one), most=FLAT),
            results.Aim(
                f"{kind}: p95 from a refund to its order's call, seconds", lags[kind]["p95_seconds"], most=LAG_MOST
            ),
        )
    ]
    name = "storm_full" if size else "storm"
    results.write(name, {"known": told, "lag": lags, "live_limits": live, "aims": results.show(aims)})


def _ratio(one: dict[str, Any]) -> float:
    return round(one["peak_megabytes"] / one["peak_megabytes_quarter"], 2)


def _on(server: PostgresServer | None, measure: Callable[[str | None], dict[str, Any]]) -> dict[str, Any]:
    if server is None:
        return measure(None)
    with server.made() as address:
        return measure(address)
