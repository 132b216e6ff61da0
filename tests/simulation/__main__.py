"""Runs seeds: `python -m tests.simulation --seed 8841 [--log]`, `--seeds 5000 [--first 1] [--trait tight] [--plant BUG]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path

from tests.simulation.planted import BUGS, planted
from tests.simulation.process import migrated
from tests.simulation.scenario import drawn
from tests.simulation.world_run import copies, played

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a disk that does not wait, where there is one


def commit() -> str:
    """Tell the commit that is checked out."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def tell(text: str) -> None:
    """Write a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="make sim")
    parser.add_argument("--seed", type=int, help="one seed, with its log")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--plant", choices=BUGS, help="plant a bug, and stop at the first seed that finds it")
    parser.add_argument("--trait", help="only those of them that have this trait")
    parser.add_argument("--quiet", action="store_true", help="without the log")
    given = parser.parse_args()
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    if given.trait is not None:
        seeds = [seed for seed in seeds if given.trait in drawn(seed).traits]
    bad = most = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        template = migrated(Path(folder))
        for seed in seeds:
            try:
                with planted(given.plant) if given.plant else nullcontext():
                    result = played(drawn(seed), Path(folder), copies(template, Path(folder)))
            except Exception:  # noqa: BLE001  # the next seeds are to be run all the same
                tell(f"make sim SEED={seed}  # at {commit()}\n{traceback.format_exc()}")
                bad += 1
                continue
            if given.seed is not None and not given.quiet:
                tell(result.log.rstrip("\n"))
            most = max(most, result.turns)
            if result.faults:
                bad += 1
                tell(f"make sim SEED={seed}  # at {commit()}, {' '.join(sorted(result.scenario.traits))}")
                for fault in result.faults[:8]:
                    tell(f"    {fault}")
            if given.plant and result.faults:
                break
            for path in Path(folder).glob(f"{seed}-*"):
                path.unlink()
    tell(f"{len(seeds)} seeds, {bad} with faults, {time.perf_counter() - began:.1f} s, at most {most} turns")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
