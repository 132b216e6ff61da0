"""A simulator whose calls and answers are both held against Stripe's OpenAPI file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.recorder import Recorder


@pytest.fixture
def sim() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.simulator.close()
