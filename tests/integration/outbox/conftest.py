"""A worker, a charge of order `o1` over 100.00 GBP that it has just looked at, and an order system that wants everything."""

from __future__ import annotations

import pytest

from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery, Kind, Wants
from refundry.refunds import service as refunds
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import Hand

ALL = Wants({"http": frozenset(Kind)})


def wanting(database: HandDatabase, wants: Wants = ALL) -> None:
    """Attach the outbox as `bootstrap` does."""
    outbox.attach(database, wants, refunds.messages)


def written(database: HandDatabase, target: str | None = None) -> list[Delivery]:
    """Read all deliveries, oldest first."""
    with database.reading() as unit:
        return outbox.page(unit, None, [], target=target, most=1000)[::-1]


def kinds(database: HandDatabase, target: str | None = None) -> list[str]:
    """Read the kinds of all messages, oldest first."""
    return [one.message.kind.value.partition(".")[2] for one in written(database, target)]


@pytest.fixture
def hand(database: HandDatabase, clock: HandClock) -> Hand:
    wanting(database)
    made = Hand(database, clock)
    made.looked(metadata={"order_id": "o1"})
    return made
