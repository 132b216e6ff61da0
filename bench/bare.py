"""The least program that makes the product's calls: a loop of asyncio and aiohttp on the product's event loop, with nothing kept and nothing checked.

`python -m bench.bare ADDRESS FILE [--look]` pays a file of `bench.shop`, fifty calls in flight, as many as the product sends at once. With `--look` it
reads each charge before its refund; without, it lists all charges by the hundred first. It is what the product is compared with,
and nothing to pay refunds with: an answer that is lost, or a second run, pays twice.
"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench import sim
from refundry.infra import loop

IN_FLIGHT = 50
PAGE = 100


async def pay(session: aiohttp.ClientSession, rows: Iterator[dict[str, str]], *, look: bool) -> None:
    """Pay row after row, one at a time."""
    for row in rows:
        if look:
            async with session.get(f"/v1/charges/{row['charge_id']}", params={"expand[]": "refunds"}) as answer:
                charge: dict[str, Any] = await answer.json()
                assert charge["amount"] - charge["amount_refunded"] >= int(row["amount_minor"])
        body = {
            "charge": row["charge_id"],
            "amount": row["amount_minor"],
            "reason": "requested_by_customer",
            "metadata[ticket_id]": row["ticket_id"],
        }
        async with session.post("/v1/refunds", data=body, headers={"Idempotency-Key": row["ticket_id"]}) as answer:
            refund = await answer.json()
            assert answer.status == 200, refund


async def listed(session: aiohttp.ClientSession) -> dict[str, str]:
    """List all charges; tells them by order."""
    found: dict[str, str] = {}
    after: dict[str, str] = {}
    while True:
        async with session.get(
            "/v1/charges", params={"limit": str(PAGE), "expand[]": "data.refunds", **after}
        ) as answer:
            page = await answer.json()
        found |= {charge["metadata"]["order_id"]: charge["id"] for charge in page["data"]}
        if not page["has_more"]:
            return found
        after = {"starting_after": page["data"][-1]["id"]}


async def run(address: str, path: Path, *, look: bool) -> None:
    """Pay the file."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    headers = {"Authorization": f"Bearer {sim.KEY}", "Stripe-Version": "2026-08-26.dahlia"}
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(address, headers=headers, connector=connector) as session:
        if not look:
            charges = await listed(session)
            rows = [row | {"charge_id": charges[row["order_id"]]} for row in rows]
        waiting = iter(rows)
        await asyncio.gather(*(pay(session, waiting, look=look) for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    loop.run(run(sys.argv[1], Path(sys.argv[2]), look="--look" in sys.argv))
    print(json.dumps({"ok": True}))
