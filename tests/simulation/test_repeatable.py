"""A replayed seed gives the identical log, in another process too, where sets have another order."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.simulation


def logged(seed: int, hash_seed: str) -> str:
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "POST /v1/refunds" in done.stdout, done.stdout
    return done.stdout.rpartition("1 seeds")[0]


@pytest.mark.parametrize("seed", [24])
def test_a_seed_replayed_gives_the_identical_log(seed: int) -> None:
    assert logged(seed, "1") == logged(seed, "2")
