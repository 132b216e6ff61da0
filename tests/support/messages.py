"""Messages as an outbox holds them, for whoever delivers them."""

from __future__ import annotations

from collections.abc import Sequence

from refundry.infra.db import Database
from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery, Kind, Message, Wants
from refundry.outbox.rules import message_id, ordering_key
from tests.support.builders import ACCOUNT


def message(order: str = "o1", version: int = 1, at: float = 0.0, kind: Kind = Kind.ORDER_CHANGED) -> Message:
    """Make the message that an order has given back as many pounds as its version says."""
    payload = {
        "order_id": order, "order_version": version, "refunded": "partial", "currency": "gbp", "captured_minor": 10_000,
        "refunded_minor": version * 100, "charges": [],
    }  # fmt: skip
    key = ordering_key(ACCOUNT, order, "")
    return Message(message_id(f"{ACCOUNT}|{order}", kind, version), ACCOUNT, kind, order, key, payload, at)


def write(database: Database, messages: Sequence[Message], *targets: str) -> None:
    """Write messages for some targets, by default `http`."""
    wants = Wants({target: frozenset(Kind) for target in targets or ("http",)})
    with database.unit() as unit:
        outbox.hold_keys(unit, [], make=[one.ordering_key for one in messages])
        outbox.write(unit, messages, wants)


def story(orders: int, length: int) -> list[Message]:
    """Make so many messages for each of so many orders, as they would be written: one of each order, then the next of each."""
    return [message(f"o{order}", version + 1) for version in range(length) for order in range(orders)]


def deliveries(database: Database) -> list[Delivery]:
    """Read all deliveries, oldest first, and by target."""
    with database.reading() as unit:
        return sorted(outbox.page(unit, None, [], most=10_000), key=lambda one: (one.number, one.target))
