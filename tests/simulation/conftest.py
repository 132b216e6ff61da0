"""What the simulation's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.__main__ import commit
from tests.simulation.scenario import Scenario
from tests.simulation.world_run import Result, copies, played
from tests.support.database import postgres, sqlite_file

__all__ = ["judged", "play", "postgres", "sqlite_file"]


@pytest.fixture
def play(sqlite_file: Path, tmp_path: Path) -> Callable[[Scenario], Result]:  # a fixture
    """Run a scenario."""
    return lambda scenario: played(scenario, tmp_path, copies(sqlite_file, tmp_path))


@pytest.fixture
def judged(play: Callable[[Scenario], Result]) -> Callable[[Scenario], None]:
    """Run a scenario and see that nothing is wrong; a failure tells how to repeat it."""

    def check(scenario: Scenario) -> None:
        result = play(scenario)
        told = "\n".join(result.faults)
        assert not result.faults, f"\nmake sim SEED={scenario.seed}  # at {commit()}\n{told}"

    return check
