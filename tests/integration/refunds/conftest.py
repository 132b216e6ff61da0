"""A worker with a charge over 100.00 GBP that it has just looked at."""

import pytest

from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import Hand


@pytest.fixture
def hand(database: HandDatabase, clock: HandClock) -> Hand:
    made = Hand(database, clock)
    made.looked()
    return made


@pytest.fixture
def other(database: HandDatabase, clock: HandClock) -> Hand:
    """Another worker on the same database."""
    return Hand(database, clock, "lease-2")
