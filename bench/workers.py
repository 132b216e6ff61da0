"""Several workers on one Postgres keep one budget: what passes in any second, as the simulator counts it."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any

from bench import databases, results
from bench.pace import READS, SHARE, WRITES, largest, rate
from bench.product import product
from bench.shop import REFUND, shop
from bench.witness import Seen, watching
from tests.support.database import PostgresServer

ROWS = 600
COUNTS = (2, 3)
ABOVE = 1.04
INTERRUPTED = 130
STARTED_SECONDS = 4.0
# So long after a slow moment of the machine everything is on time again.
SETTLED_SECONDS = 0.2


def steady_peak(passed: list[float], seen: Seen) -> int:
    """Tell the most calls in any second in which the machine was not slow, nor just before: sends that come late run into the next ones."""
    seconds = [at for at in passed if not seen.overlapped(at - SETTLED_SECONDS, at + 1.0)]
    return max(bisect_left(passed, at + 1.0) - bisect_left(passed, at) for at in seconds)


def shared(server: PostgresServer, workers: int) -> dict[str, Any]:
    """Pay a file with so many processes: one that was asked to pay it, the others `refundry worker`."""
    with (
        shop(ROWS, READS, WRITES, limits="live") as opened,
        server.made() as address,
        product(opened.address, limits="live", postgres=address) as house,
    ):
        house.run("db", "upgrade")
        others = [house.start("worker") for _ in range(workers - 1)]
        # All are to be at work before the first row is.
        time.sleep(STARTED_SECONDS)
        file, seen = opened.file("rows", opened.charges), Seen()
        with watching(seen):
            ended = house.run("batch", "run", str(file), "--yes", "--json")
        for other in others:
            other.process.terminate()
        commits = [ended.commits, *(house.checked(other, other.end(), (0, INTERRUPTED)).commits for other in others)]
        opened.audited(ROWS)
        passed = opened.times()[REFUND]
        calls = sum(len(times) for times in opened.times().values())
        limited = sum(opened.control("GET /_sim/calls")["limited"].values())
        return {
            "of_share": round(rate(passed) / SHARE, 3),
            "peak_second": largest(passed, 1.0),
            "peak_second_of_share": round(largest(passed, 1.0) / SHARE, 3),
            "peak_second_when_steady": steady_peak(passed, seen),
            "machine_slow_percent": round(seen.share * 100, 1),
            "peak_tenth": largest(passed, 0.1),
            "limited_share": round(limited / (calls + limited), 5),
            "commits": commits,
        }


def main(*_: str) -> None:
    """Measure, print, and keep."""
    with databases.postgres() as server:
        if server is None:
            return
        told = {f"{count} workers": shared(server, count) for count in COUNTS}
    results.table(("", *told), [(name, *(figure[name] for figure in told.values())) for name in told["2 workers"]])
    aims = [
        results.Aim(f"{name}: refunds in any second, of their share", figure["peak_second_of_share"], most=ABOVE)
        for name, figure in told.items()
    ]
    results.write("workers", {**told, "aims": results.show(aims)})
