"""Large files: the time and memory to parse, validate and store their rows, and to pause, resume and report a large batch.

A file is taken in by `bench.accepting`, in a process of its own, on SQLite; the steering commands are the program's own. Of a large
batch the first rows are refund requests and the rest waits to be looked up, as some minutes after its start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import results
from bench.product import Product, product

SIZES = (10_000, 100_000, 1_000_000)
PLANNED = 10_000
SECONDS, MEGABYTES = 60.0, 400.0
# Constant: the largest batch may take this much more memory than the smallest, and a row of it this much more time.
CONSTANT, FLAT = 1.25, 1.25
COMMANDS = {
    "pause": ("batch", "pause"),
    "resume": ("batch", "resume", "--no-wait"),
    "status": ("batch", "status"),
    "report": ("batch", "report", "-o"),
}
# A batch that waits ends its commands with 3.
WAITS = (0, 3)


def written(path: Path, rows: int) -> None:
    """Write a file, every row of another order."""
    with path.open("w") as file:
        file.write("ticket_id,order_id,amount_minor,currency,reason\n")
        file.writelines(f"t{at},o{at},{100 + at % 900},gbp,requested_by_customer\n" for at in range(rows))


def scaled(rows: int) -> dict[str, Any]:
    """Take a file of so many rows in, then steer it."""
    # Nothing of this calls Stripe.
    with product("http://127.0.0.1:9") as house:
        path = house.folder / "rows.csv"
        written(path, rows)
        command = [sys.executable, "-m", "bench.accepting", str(path), str(min(rows, PLANNED))]
        told = json.loads(subprocess.run(command, env=house.environment(), check=True, stdout=subprocess.PIPE).stdout)
        assert told["rows"] == rows
        return {
            "seconds": told["seconds"],
            "rows_per_second": round(rows / told["seconds"]),
            "peak_megabytes": told["peak_megabytes"],
            "bytes_per_row": round(house.bytes_on_disk() / rows),
            **_steered(house, told["batch"]),
        }


def _steered(house: Product, batch: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, (*words, last) in COMMANDS.items():
        end = [last, str(house.folder / "report.csv"), batch] if last == "-o" else [last, batch]
        ended = house.run(*words, *end, codes=WAITS)
        figures |= {f"{name}_seconds": round(ended.seconds, 2), f"{name}_megabytes": ended.peak_megabytes}
    return figures


def main(*_: str) -> None:
    """Measure, print, and keep."""
    told = {f"{rows} rows": scaled(rows) for rows in SIZES}
    small, large = told[f"{SIZES[0]} rows"], told[f"{SIZES[-1]} rows"]
    results.table(("", *told), [(name, *(figure[name] for figure in told.values())) for name in small])
    aims = [
        results.Aim("a million rows taken in, seconds", large["seconds"], most=SECONDS),
        results.Aim("a million rows taken in, megabytes", large["peak_megabytes"], most=MEGABYTES),
        results.Aim(
            "time per row, a million against 10,000",
            round(small["rows_per_second"] / large["rows_per_second"], 2),
            most=FLAT,
        ),
        *(
            results.Aim(
                f"{name}, memory of a million rows against 10,000", round(large[key] / small[key], 2), most=CONSTANT
            )
            for name in COMMANDS
            if (key := f"{name}_megabytes")
        ),
    ]
    results.write("scale", {**told, "aims": results.show(aims)})
