"""A simulator for each test, closed at its end."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.sim import Sim


@pytest.fixture
def sim() -> Iterator[Sim]:
    made = Sim()
    yield made
    made.simulator.close()


class Ticker:
    """A clock of the limiters that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
def paced(ticker: Ticker) -> Iterator[Sim]:
    """A simulator whose limiters' seconds pass only when `ticker` is moved."""
    options: dict[str, Any] = {"monotonic": ticker}
    made = Sim(**options)
    yield made
    made.simulator.close()
