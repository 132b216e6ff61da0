"""How much the product adds to the calls: its refunds per second against those of a bare loop that makes the same calls.

The simulator has no limits and answers after 20 ms. Both pay files of one row a charge, with a look before each refund (rows that
name charges) and without (rows that name orders: charges are listed a hundred at a time). The rate is counted by the
simulator, from the first call on a charge to the last refund. Both are processes of their own, beside that of the simulator, so two
cores carry two busy processes; what the simulator leaves idle is told.

What a program costs to start and to end is taken off the product's processor time, commits and bytes, by a run of one row after the one that
has made the tables. The smallest file takes little more than a second, in which one hiccup is much: it is paid three times, and
for each database the run with the middle ratio is told, beside the ratios of all three and the bare loop's rate in that run. Whether
the processor time is flat is told by the largest file and by the smallest, paid three times just before it and three times just after
it: a machine that is slower for some minutes makes each second of it do less. The middle one of the six counts, and all are told.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import databases, results
from bench.product import Product, product
from bench.shop import ACCOUNT, REFUND, Shop, latency, shop
from tests.support.database import PostgresServer

LATENCY_MILLISECONDS = 20
SIZES = (1_000, 10_000)
LARGE = 100_000
LEAST = 0.5
# Flat: the largest file costs at most this much more for each refund than the smallest.
FLAT = 1.25
# Runs of one row before what is measured: the first makes the tables, which no run after it does, and the second is what a run costs.
FIRST = 2
# How often the smallest file is paid; and how often just before the largest, and after it.
TIMES = 3


@dataclass(frozen=True)
class Variant:
    """What is paid.

    Args:
        rows: How many.
        look: Whether each charge is read before its refund.
    """

    rows: int
    look: bool

    @property
    def name(self) -> str:
        """Tell it in words."""
        return f"{self.rows} rows, {'a look before each' if self.look else 'charges listed'}"

    @contextmanager
    def opened(self) -> Iterator[tuple[Shop, Path]]:
        """Open a shop, and write the file."""
        with shop(self.rows + FIRST, latency(LATENCY_MILLISECONDS)) as opened:
            paid = range(FIRST, self.rows + FIRST)
            yield opened, opened.file("rows", opened.charges[FIRST:] if self.look else paid)


def rate(opened: Shop, rows: int) -> float:
    """Tell refunds per second, from the first call on a charge to the last refund."""
    times = opened.times()
    first = min(moments[0] for operation, moments in times.items() if operation != ACCOUNT and moments)
    assert len(times[REFUND]) == rows
    return rows / (times[REFUND][-1] - first)


def busy(opened: Shop, before: float, rows: int, per_second: float) -> float:
    """Tell what share of the run the simulator computed."""
    return (opened.server.cpu_seconds() - before) / (rows / per_second)


def bare(variant: Variant) -> dict[str, float]:
    """Run the bare loop."""
    with variant.opened() as (opened, file):
        before = opened.server.cpu_seconds()
        look = ["--look"] if variant.look else []
        command = [sys.executable, "-m", "bench.bare", opened.address, str(file), *look]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        per_second = rate(opened, variant.rows)
        share = busy(opened, before, variant.rows, per_second)
        opened.audited(variant.rows)
        return {"refunds_per_second": round(per_second), "simulator_busy": round(share, 2)}


def refundry(variant: Variant, server: PostgresServer | None) -> dict[str, float]:
    """Run the product, on Postgres where a server is handed in."""
    if server is None:
        with variant.opened() as (opened, file), product(opened.address) as house:
            return _paid(variant, opened, file, house, None)
    with (
        variant.opened() as (opened, file),
        server.made() as address,
        product(opened.address, postgres=address) as house,
    ):
        return _paid(variant, opened, file, house, server)


def _paid(
    variant: Variant, opened: Shop, file: Path, house: Product, server: PostgresServer | None
) -> dict[str, float]:
    ones = [opened.file(f"one-{at}", [charge]) for at, charge in enumerate(opened.charges[:FIRST])]
    least = [house.run("batch", "run", str(one), "--yes", "--json") for one in ones][-1]
    empty = _size(house, server)
    opened.forget_calls()
    before = opened.server.cpu_seconds()
    ended = house.run("batch", "run", str(file), "--yes", "--json")
    per_second = rate(opened, variant.rows)
    share = busy(opened, before, variant.rows, per_second)
    opened.audited(variant.rows + FIRST)
    return {
        "refunds_per_second": round(per_second),
        "cpu_ms_per_refund": round(1000 * (ended.cpu_seconds - least.cpu_seconds) / variant.rows, 3),
        "commits_per_refund": round((ended.commits - least.commits) / variant.rows, 3),
        "bytes_per_refund": round((_size(house, server) - empty) / variant.rows),
        "simulator_busy": round(share, 2),
        "peak_megabytes": ended.peak_megabytes,
        "seconds_in_all": round(ended.seconds, 1),
    }


def _size(house: Product, server: PostgresServer | None) -> int:
    return house.bytes_on_disk() if server is None or house.postgres is None else databases.size(server, house.postgres)


def measure(variant: Variant, server: PostgresServer | None, again: Variant | None = None) -> dict[str, Any]:
    """Run both, the bare loop before and after the product, so that what else the machine does slows both; and the product with `again`, around its run."""
    before = bare(variant)
    figures: dict[str, Any] = {"sqlite": _between(variant, None, again)}
    if server is not None:
        figures["postgres"] = _between(variant, server, again)
    after = bare(variant)
    mean = (before["refunds_per_second"] + after["refunds_per_second"]) / 2
    for figure in figures.values():
        figure["bare_refunds_per_second"] = round(mean)
        figure["ratio"] = round(figure["refunds_per_second"] / mean, 3)
    return {"bare": {name: round((before[name] + after[name]) / 2, 2) for name in before}, **figures}


def _between(variant: Variant, server: PostgresServer | None, again: Variant | None) -> dict[str, Any]:
    """Run the product, and with `again` just before that and just after it: tells the processor time of a refund there too."""
    if again is None:
        return refundry(variant, server)
    around = [refundry(again, server)["cpu_ms_per_refund"] for _ in range(TIMES)]
    figure: dict[str, Any] = refundry(variant, server)
    around += [refundry(again, server)["cpu_ms_per_refund"] for _ in range(TIMES)]
    return {**figure, "cpu_ms_of_smallest": around}


def measured(variant: Variant, server: PostgresServer | None, again: Variant | None = None) -> dict[str, Any]:
    """Measure, the smallest file several times; tells for each database the run with the middle ratio, and all ratios."""
    if variant.rows > SIZES[0]:
        return measure(variant, server, again)
    runs = [measure(variant, server) for _ in range(TIMES)]
    middle: dict[str, Any] = {}
    for name in runs[0]:
        by = "refunds_per_second" if name == "bare" else "ratio"
        middle[name] = sorted((run[name] for run in runs), key=lambda figure: figure[by])[TIMES // 2]
        if name != "bare":
            middle[name]["ratios"] = [run[name]["ratio"] for run in runs]
    return middle


def main(*flags: str) -> None:
    """Measure, print, and keep; `large` adds 100,000 rows, which takes some twenty minutes more."""
    figures: dict[str, Any] = {}
    sizes = (*SIZES, LARGE) if "large" in flags else SIZES
    with databases.postgres() as server:
        for variant in [Variant(rows, look) for rows in sizes for look in (True, False)]:
            again = Variant(sizes[0], variant.look) if variant.rows == sizes[-1] else None
            figures[variant.name] = measured(variant, server, again)
            print(variant.name)
            shown = figures[variant.name]
            names = list(shown["sqlite"])
            results.table(("", *shown), [(name, *(part.get(name, "") for part in shown.values())) for name in names])
    aims = [*_ratios(figures), *_flat(figures, sizes)]
    results.write("engine", {**figures, "aims": results.show(aims)})


def _ratios(figures: dict[str, Any]) -> Iterator[results.Aim]:
    for name, shown in figures.items():
        for database in shown.keys() - {"bare"}:
            yield results.Aim(
                f"{name}, {database}: refunds/s against the bare loop", shown[database]["ratio"], least=LEAST
            )


def _flat(figures: dict[str, Any], sizes: tuple[int, ...]) -> Iterator[results.Aim]:
    for look in (True, False):
        large = figures[Variant(sizes[-1], look).name]
        for database in large.keys() - {"bare"}:
            grown = large[database]["cpu_ms_per_refund"] / statistics.median(large[database]["cpu_ms_of_smallest"])
            words = f"processor time of a refund, {sizes[-1]} rows against {sizes[0]}, {'looks' if look else 'lists'}, {database}"
            yield results.Aim(words, round(grown, 2), most=FLAT)
