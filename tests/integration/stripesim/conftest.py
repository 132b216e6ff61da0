"""A simulator for each test, closed at its end."""

from collections.abc import Iterator

import pytest

from tests.support.sim import Sim


@pytest.fixture
def sim() -> Iterator[Sim]:
    made = Sim()
    yield made
    made.simulator.close()
