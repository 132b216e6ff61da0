"""Money stays right when everything breaks: a run for each of 60 seeds. `make sim SEEDS=5000` runs more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.scenario import Scenario, drawn

pytestmark = pytest.mark.simulation
SEEDS, CHUNK = 60, 5


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_money_stays_right_when_everything_breaks(judged: Callable[[Scenario], None], first: int) -> None:
    for seed in range(first, first + CHUNK):
        judged(drawn(seed))
