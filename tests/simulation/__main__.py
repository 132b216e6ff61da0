"""Runs seeds: `python -m tests.simulation --seed 8841 [--log]`, `--seeds 5000 [--first 1]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.simulation.process import migrated
from tests.simulation.world_run import played

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a disk that does not wait, where there is one


def commit() -> str:
    """Tell the commit that is checked out."""
    found = subprocess.run(  # noqa: S603
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="make sim")
    parser.add_argument("--seed", type=int, help="one seed, with its log")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--quiet", action="store_true", help="without the log")
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    bad = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        template = migrated(Path(folder))
        for seed in seeds:
            try:
                result = played(seed, Path(folder), template)
            except Exception:  # noqa: BLE001  # the next seeds are to be run all the same
                print(f"make sim SEED={seed}  # at {commit()}\n{traceback.format_exc()}")
                bad += 1
                continue
            if given.seed is not None and not given.quiet:
                print(result.log, end="")
            if result.faults:
                bad += 1
                print(f"make sim SEED={seed}  # at {commit()}, {' '.join(sorted(result.scenario.traits))}")
                for fault in result.faults[:8]:
                    print("   ", fault)
            for path in Path(folder).glob(f"{seed}-*"):
                path.unlink()
    print(f"{len(seeds)} seeds, {bad} with faults, {time.perf_counter() - began:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
