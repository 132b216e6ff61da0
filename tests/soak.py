"""The long runs: `make soak`, or parts of it: `make soak ARGS="kills jumps --seed 7"`. Each prints its seed and ends within 20 minutes.

| part | what |
|---|---|
| `kills` | 50 times `kill -9` of the only process, over one batch of 2,000 rows, on each database |
| `pairs` | `kill -9` of one of two processes, again and again over batches of 2,000 rows, until 50 or the time is up, on each database |
| `stops` | 50 times SIGSTOP for 60 s, then SIGCONT, of the only process, ten installations at once, on each database |
| `jumps` | a wall clock that jumps by 25 h, to and fro, until 50 or the time is up, on each database |
| `faults` | 2,000 rows while Stripe loses answers, fails, limits and truncates |
| `seeds` | 2,000 seeds of the simulation |
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.support import crash_run
from tests.support.database import postgres_server

ROWS = 2000
COUNT = 50
PART_SECONDS = 1200.0
STOP_SECONDS = 60.0
FAULTS = [
    {"kind": "latency", "operation": "*", "low": 2, "high": 30},
    {"kind": "drop_before", "operation": "POST /v1/refunds", "probability": 0.05},
    {"kind": "drop_after", "operation": "POST /v1/refunds", "probability": 0.05},
    {"kind": "reset_after", "operation": "POST /v1/refunds", "probability": 0.02},
    {"kind": "truncate", "operation": "POST /v1/refunds", "probability": 0.02},
    {"kind": "error_before", "operation": "POST /v1/refunds", "probability": 0.02},
    {"kind": "error_after", "operation": "POST /v1/refunds", "probability": 0.02},
    {"kind": "error_stored", "operation": "POST /v1/refunds", "probability": 0.01},
    {"kind": "rate_limit", "operation": "*", "probability": 0.01, "reason": "endpoint-rate"},
    {"kind": "conflict", "operation": "POST /v1/refunds", "probability": 0.01},
    {"kind": "lock_timeout", "operation": "POST /v1/refunds", "probability": 0.01},
]


def _each(
    name: str, seed: int, count: int, run: Callable[[Path, str | None, int], None], *, at_once: int = 1
) -> None:
    """Run a part on both databases, again and again, until it was done often enough or its time is up."""
    with postgres_server() as server:

        def once(kind: str, number: int) -> None:
            with tempfile.TemporaryDirectory() as folder:
                if kind == "sqlite":
                    run(Path(folder), None, seed + number)
                else:
                    with server.made() as address:
                        run(Path(folder), address, seed + number)

        for kind in ("sqlite", "postgres"):
            began, done = time.monotonic(), 0
            with ThreadPoolExecutor(at_once) as pool:
                while done < count and time.monotonic() - began < PART_SECONDS / 2:
                    numbers = range(done, min(done + at_once, count))
                    list(pool.map(partial(once, kind), numbers))
                    done += len(numbers)
            print(f"{name} on {kind}: {done} of {count}, seed {seed}, {time.monotonic() - began:.0f} s", flush=True)


def _kills(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.kill_the_only_process(shop, house, COUNT, seed)


def _pairs(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        took = crash_run.kill_one_of_two(shop, house, seed)
        assert took < crash_run.TAKE_OVER_SECONDS, f"seed {seed}: the other went on after {took:.1f} s"


def _stops(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.stop_the_only_process(shop, house, seed, STOP_SECONDS)


def _jumps(folder: Path, address: str | None, seed: int) -> None:
    with (
        crash_run.shop(folder, ROWS, seed=seed) as shop,
        crash_run.house(shop, postgres=address, jumping=True) as house,
    ):
        crash_run.jump_the_clock(shop, house, seed, (-1) ** seed * 25 * crash_run.HOUR)


def _faults(folder: Path, address: str | None, seed: int) -> None:
    with (
        crash_run.shop(folder, ROWS, seed=seed, faults=FAULTS) as shop,
        crash_run.house(shop, postgres=address) as house,
    ):
        house.finish(house.run())
        shop.judge()


def _seeds(seed: int) -> None:
    command = [sys.executable, "-m", "tests.simulation", "--first", str(seed), "--seeds", "2000"]
    subprocess.run(command, check=True, timeout=PART_SECONDS)  # noqa: S603  # our own program


PARTS: dict[str, Callable[[int], None]] = {
    "kills": lambda seed: _each("kills (50 each)", seed, 1, _kills),
    "pairs": lambda seed: _each("pairs", seed, COUNT, _pairs),
    "stops": lambda seed: _each("stops", seed, COUNT, _stops, at_once=10),
    "jumps": lambda seed: _each("jumps", seed, COUNT, _jumps),
    "faults": lambda seed: _each("faults", seed, 2, _faults),
    "seeds": _seeds,
}


def main() -> int:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], help="which; all without")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.parts or PARTS:
        print(f"soak {name}, seed {given.seed}", flush=True)
        PARTS[name](given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
