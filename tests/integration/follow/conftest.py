"""A shop whose money is followed, for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.following import Scene
from tests.support.sim import Sim


@pytest.fixture
async def scene(database: HandDatabase, clock: HandClock) -> AsyncIterator[Scene]:
    made = Scene(database, clock, Sim())
    yield made
    await made.close()
