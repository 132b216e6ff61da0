"""A shop and an installation for tests of the real program."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Installation, Shop
from tests.support.database import postgres
from tests.support.server import Server

__all__ = ["postgres"]


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Server(start=None) as server:
        yield Shop.opened(server, 60)


@pytest.fixture
def installed(shop: Shop, tmp_path: Path) -> Installation:
    return Installation(tmp_path / "state", shop.server.url)
