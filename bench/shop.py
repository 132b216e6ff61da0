"""A simulator with charges, and files that ask for their money back: what every measurement of the product begins with.

The simulator is a process of its own. What it tells (when calls passed, how many were turned away, what its audit finds) is what
is reported of pace; the product's own word counts for nothing there.
"""

from __future__ import annotations

import csv
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import sim

TIMEOUT_SECONDS = 120
REFUND = "POST /v1/refunds"
ACCOUNT = "GET /v1/account"
PAGE = 100
# More than any run gives back.
PLENTY = 10**13


@dataclass(frozen=True)
class Shop:
    """A running simulator with charges.

    Args:
        server: The simulator.
        charges: The ids of its charges, oldest first.
        folder: Where files are kept.
    """

    server: sim.Server
    charges: list[str]
    folder: Path

    @property
    def address(self) -> str:
        """Tell where it listens."""
        return self.server.address

    def control(self, operation: str, body: Any = None) -> Any:
        """Call the control API, `POST /_sim/limits`."""
        return control(self.address, operation, body)

    def file(self, name: str, charges: list[str] | range) -> Path:
        """Write a file that asks for a little of each charge, under a ticket of its own.

        Args:
            name: The file's name, without its ending.
            charges: Ids of charges; or numbers of orders, which leaves it to the product to find their charges.
        """
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(
                ["ticket_id", "order_id" if isinstance(charges, range) else "charge_id", "amount_minor", "currency"]
            )
            for at, charge in enumerate(charges):
                told = f"order{charge}" if isinstance(charges, range) else charge
                writer.writerow([f"{name}-{at}", told, 100 + at % 900, "gbp"])
        return path

    def times(self) -> dict[str, list[float]]:
        """Tell when calls passed, by operation, in seconds of this machine's monotonic clock."""
        told: dict[str, list[float]] = self.control("GET /_sim/calls/times")["operations"]
        return told

    def forget_calls(self) -> None:
        """Count calls from nothing."""
        self.control("DELETE /_sim/calls")

    def audited(self, refunds: int) -> None:
        """See that so many refunds were made, none twice, and that the books agree.

        Raises:
            AssertionError: They do not: figures of a run that pays wrongly are worth nothing.
        """
        audit = self.control("GET /_sim/audit")
        assert audit["ok"], audit["problems"][:3]
        assert audit["refunds"] == refunds, f"{audit['refunds']} refunds were made, {refunds} were asked for"


def control(address: str, operation: str, body: Any = None) -> Any:
    """Call the control API of a simulator, or read it as Stripe."""
    method, _, path = operation.partition(" ")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {sim.KEY}"}
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, raw, headers, method=method)  # noqa: S310  # loopback
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  # loopback
        return json.load(answer)


def latency(milliseconds: float, operation: str = "*") -> dict[str, Any]:
    """Write the rule that makes calls take longer."""
    return {"kind": "latency", "operation": operation, "milliseconds": milliseconds}


@contextmanager
def shop(charges: int, *rules: dict[str, Any], limits: str = "none") -> Iterator[Shop]:
    """Open a shop with so many charges, each of its own order (`order0`, …), and these rules for its answers."""
    with tempfile.TemporaryDirectory(prefix="refundry-bench-") as name:
        folder = Path(name)
        sim.write_charges(folder / "charges.csv", charges)
        with sim.server() as server:
            control(server.address, "POST /_sim/settings", {"opening_balance": PLENTY})
            rows = (folder / "charges.csv").read_bytes()
            load(server.address, rows)
            ids = _ids(server.address)
            assert len(ids) == charges
            control(server.address, "POST /_sim/faults", {"seed": 1, "rules": list(rules)})
            control(server.address, "POST /_sim/limits", {"limits": limits})
            opened = Shop(server, ids, folder)
            opened.forget_calls()
            yield opened


def load(address: str, rows: bytes, account: str | None = None) -> None:
    """Fill a simulator with charges, written as CSV; those of the platform, or of another account."""
    place = f"{address}/_sim/load" + (f"?account={account}" if account else "")
    request = urllib.request.Request(place, rows, {"Content-Type": "text/csv"}, method="POST")  # noqa: S310  # loopback
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  # loopback
        answer.read()


def _ids(address: str) -> list[str]:
    found: list[str] = []
    more = True
    while more:
        after = f"&starting_after={found[-1]}" if found else ""
        page = control(address, f"GET /v1/charges?limit={PAGE}{after}")
        found += [charge["id"] for charge in page["data"]]
        more = page["has_more"]
    return found[::-1]
