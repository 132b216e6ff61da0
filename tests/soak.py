"""The long runs: `make soak`, or parts of it: `make soak ARGS="kills jumps --seed 7"`. Each prints its seed and ends within 20 minutes.

| part | what |
|---|---|
| `kills` | 50 times `kill -9` of the only process, over one batch of 2,000 rows, on each database |
| `pairs` | 50 times `kill -9` of one of two processes, ten over each batch of 2,000 rows, on each database |
| `stops` | 50 times SIGSTOP for 60 s, then SIGCONT, of the only process, ten over each batch of 2,000 rows, on each database |
| `jumps` | 50 times a wall clock that jumps by 25 h, to and fro, ten over each batch of 2,000 rows, on each database |
| `pair-stops`, `pair-jumps` | the same of one of two processes |
| `faults` | each kind of trouble of `tests/support/fault_run.py` over 2,000 rows, on each database, until the time is up |
| `plans` | a file of 2,000 rows planned and the plan applied, while charges change in between: 40 kills, stops and jumps, then again with faults, on each database |
| `stages` | 2,000 rows in stages and over days, halted in between: 40 kills, stops and jumps, then again with faults, on each database |
| `accounts` | three accounts of 700 rows each, one of whose keys is refused half-way: 40 kills and stops of its workers, then again with faults, on each database |
| `storm` | 20,000 events, every tenth of them twice, while the server that takes them in is killed 50 times, on each database |
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
from pathlib import Path

from refundry.infra.db import PROCESS_CONNECTIONS_MAX
from tests.support import accounts_run, crash_run, fault_run, plan_run, ports, stage_run, storm_run
from tests.support.database import PostgresServer, postgres_server
from tests.support.disturbed import Trouble
from tests.support.fault_run import Rule

ROWS = 2000
COUNT = 50
PART_SECONDS = 1200.0
# Room for the longest fault run that begins last.
FAULTS_LAST_SECONDS = 180.0
STOP_SECONDS = 60.0
ROWS_OF_ACCOUNT = 700
# How often that is done to one batch.
TIMES = 10
# The rows whose events, with what else happens to their charges, make a storm of so many; fast enough that few kills meet a quiet server.
STORM_ROWS, STORM_EVENTS, STORM_RATE = 4200, 20_000, 300.0
# For whoever makes databases, and Postgres itself.
CONNECTIONS_BESIDE = 20
KINDS = ("sqlite", "postgres")
STOPPED_SECONDS = 10.0
# With faults: a clock must not be wrong while a row is in doubt, which would last for a day then.
FAULTS: tuple[Rule, ...] = (
    *fault_run.lost(0.05),
    *fault_run.limited(0.02),
    {"kind": "error_stored", "operation": fault_run.SEND, "probability": 0.02},
    {"kind": "error_after", "operation": fault_run.SEND, "probability": 0.02},
)


def _once(server: PostgresServer, kind: str, seed: int, run: Callable[[Path, str | None, int], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            run(Path(folder), None, seed)
        else:
            with server.made() as address:
                run(Path(folder), address, seed)


def _each(name: str, seed: int, times: int, run: Callable[[Path, str | None, int], None]) -> None:
    """Run a part on both databases, batch after batch, `times` to each, until it was done often enough or its time is up."""
    with postgres_server() as server:
        for kind in KINDS:
            began, done = time.monotonic(), 0
            while done < COUNT and time.monotonic() - began < PART_SECONDS / 2:
                _once(server, kind, seed + done // times, run)
                done += times
            print(f"{name} on {kind}: {done} of {COUNT}, seed {seed}, {time.monotonic() - began:.0f} s", flush=True)


def _side_by_side(name: str, seed: int, run: Callable[[Path, str | None, int], None]) -> None:
    """Work on ten installations at once, half of them on each database: a stopped process takes time and no work."""
    began, places = time.monotonic(), COUNT // TIMES
    room = 2 * places * PROCESS_CONNECTIONS_MAX + CONNECTIONS_BESIDE
    with postgres_server(connections=room) as server, ThreadPoolExecutor(len(KINDS) * places) as pool:
        runs = [pool.submit(_once, server, kind, seed + n, run) for n in range(places) for kind in KINDS]
        for each in runs:
            each.result()
    print(f"{name} on each database: {COUNT} of {COUNT}, seed {seed}, {time.monotonic() - began:.0f} s", flush=True)


def _kills(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.kill_the_only_process(shop, house, COUNT, seed)


def _pairs(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        took = crash_run.kill_again_and_again_one_of_two(shop, house, seed, TIMES)
        assert took < crash_run.TAKE_OVER_SECONDS, f"seed {seed}: the other went on after {took:.1f} s"


def _stops(folder: Path, address: str | None, seed: int) -> None:
    with crash_run.shop(folder, ROWS, seed=seed) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.stop_the_only_process(shop, house, seed, STOP_SECONDS, TIMES)


def _pair_stops(folder: Path, address: str | None, seed: int) -> None:
    # The other goes on meanwhile: it must not be done before the last stop.
    slow = {"REFUNDRY_STRIPE__LIMITS": "global=30,endpoint=3"} if address else {}
    with (
        crash_run.shop(folder, ROWS, seed=seed) as shop,
        crash_run.house(shop, postgres=address, settings=slow) as house,
    ):
        crash_run.stop_again_and_again_one_of_two(shop, house, seed, STOP_SECONDS, TIMES)


def _pair_jumps(folder: Path, address: str | None, seed: int) -> None:
    with (
        crash_run.shop(folder, ROWS, seed=seed) as shop,
        crash_run.house(shop, postgres=address, jumping=True) as house,
    ):
        crash_run.jump_the_clock_of_one_of_two(shop, house, seed, (-1) ** seed * 25 * crash_run.HOUR, TIMES)


def _jumps(folder: Path, address: str | None, seed: int) -> None:
    with (
        crash_run.shop(folder, ROWS, seed=seed) as shop,
        crash_run.house(shop, postgres=address, jumping=True) as house,
    ):
        crash_run.jump_the_clock(shop, house, seed, (-1) ** seed * 25 * crash_run.HOUR, TIMES)


def _faults(seed: int) -> None:
    """Run every case on one database, alternating, then on the other, as long as the time allows."""
    began = time.monotonic()
    turns = [
        (case, KINDS[(at + turn) % len(KINDS)]) for turn in range(len(KINDS)) for at, case in enumerate(fault_run.CASES)
    ]
    with postgres_server() as server:
        for done, (case, kind) in enumerate(turns):
            if time.monotonic() - began > PART_SECONDS - FAULTS_LAST_SECONDS:
                left = ", ".join(f"{later.name} on {where}" for later, where in turns[done:])
                print(f"faults: the time is up before {left}", flush=True)
                return
            since = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                fault_run.play(case, Path(folder), ROWS, seed=seed, server=server if kind == "postgres" else None)
            took = time.monotonic() - since
            print(f"faults: {case.name} ({case.what}) on {kind}, seed {seed}, {took:.0f} s", flush=True)


def _troubled(name: str, seed: int, play: Callable[[Path, PostgresServer | None, tuple[Rule, ...]], None]) -> None:
    """Run a part on both databases, without faults and with them, as long as the time allows."""
    began = time.monotonic()
    with postgres_server() as server:
        for rules in ((), FAULTS):
            for kind in KINDS:
                what = f"{name} {'with faults ' if rules else ''}on {kind}, seed {seed}"
                if time.monotonic() - began > PART_SECONDS - FAULTS_LAST_SECONDS:
                    print(f"{what}: the time is up before", flush=True)
                    continue
                since = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    play(Path(folder), server if kind == "postgres" else None, rules)
                print(f"{what}, {time.monotonic() - since:.0f} s", flush=True)


def _plans(seed: int) -> None:
    def play(folder: Path, server: PostgresServer | None, rules: tuple[Rule, ...]) -> None:
        planning = Trouble(kills=8, stops=1, jumps=1, stop_seconds=STOPPED_SECONDS)
        applying = Trouble(kills=25, stops=3, jumps=0 if rules else 2, stop_seconds=STOPPED_SECONDS)
        plan_run.play(folder, ROWS, seed=seed, server=server, planning=planning, applying=applying, rules=rules)

    _troubled("plans", seed, play)


def _stages(seed: int) -> None:
    def play(folder: Path, server: PostgresServer | None, rules: tuple[Rule, ...]) -> None:
        stages = stage_run.Stages(canary=(1, 20, 100), days=3, spread="1m")
        halting = Trouble(kills=5, stops=1, stop_seconds=STOPPED_SECONDS)
        daily = Trouble(kills=9, stops=1, jumps=0 if rules else 1, stop_seconds=STOPPED_SECONDS)
        stage_run.play(
            folder, ROWS, seed=seed, server=server, stages=stages, halting=halting, daily=daily, rules=rules,
            long=True,
        )  # fmt: skip

    _troubled("stages", seed, play)


def _accounts(seed: int) -> None:
    def play(folder: Path, server: PostgresServer | None, rules: tuple[Rule, ...]) -> None:
        trouble = Trouble(kills=35, stops=5, stop_seconds=STOPPED_SECONDS)
        accounts_run.play(folder, ROWS_OF_ACCOUNT, seed=seed, server=server, trouble=trouble, rules=rules)

    _troubled("accounts", seed, play)


def _storm(folder: Path, address: str | None, seed: int) -> None:
    with ports.kept() as port, storm_run.scene(folder, STORM_ROWS, seed=seed, postgres=address) as (shop, house):
        told = storm_run.kill_in_the_storm(shop, house, port, kills=COUNT, seed=seed, rate=STORM_RATE)
    assert told["sends"] >= STORM_EVENTS, told
    print(f"storm: {told}", flush=True)


def _seeds(seed: int) -> None:
    command = [sys.executable, "-m", "tests.simulation", "--first", str(seed), "--seeds", "2000"]
    subprocess.run(command, check=True, timeout=PART_SECONDS)  # noqa: S603  # our own program


PARTS: dict[str, Callable[[int], None]] = {
    "kills": lambda seed: _each("kills", seed, COUNT, _kills),
    "pairs": lambda seed: _each("pairs", seed, TIMES, _pairs),
    "stops": lambda seed: _side_by_side("stops", seed, _stops),
    "pair-stops": lambda seed: _side_by_side("pair-stops", seed, _pair_stops),
    "jumps": lambda seed: _each("jumps", seed, TIMES, _jumps),
    "pair-jumps": lambda seed: _each("pair-jumps", seed, TIMES, _pair_jumps),
    "faults": _faults,
    "plans": _plans,
    "stages": _stages,
    "accounts": _accounts,
    "storm": lambda seed: _each("storm", seed, COUNT, _storm),
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
