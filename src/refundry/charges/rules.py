"""What the charges of an order have given back: derived from their real amounts, never from an event. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from refundry.charges.model import Charge
from refundry.outbox.model import Kind, Message, OrderTold
from refundry.outbox.rules import message_id, ordering_key


class Refunded(StrEnum):
    """How much of an order was given back."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class OrderRefunded:
    """What an order has given back.

    Args:
        status: None, a part or all of it.
        charges: Its captured charges, by id: currency, what was captured and what was given back, in minor units.
    """

    status: Refunded
    charges: tuple[tuple[str, str, int, int], ...]

    @property
    def total(self) -> tuple[str, int, int] | None:
        """Tell currency, captured and given back in all; `None`, where the charges have several currencies."""
        currencies = {currency for _, currency, _, _ in self.charges}
        if len(currencies) != 1:
            return None
        captured, refunded = sum(c for _, _, c, _ in self.charges), sum(r for _, _, _, r in self.charges)
        return currencies.pop(), captured, refunded


def order_refunded(charges: Sequence[Charge]) -> OrderRefunded | None:
    """Tell what the charges of one order have given back.

    A refund that is pending counts, as at Stripe; one that failed or was canceled came back. See `Charge.returned_minor`.

    Args:
        charges: All charges of the order that are mirrored.

    Returns:
        `None`, if nothing of the order was captured.
    """
    captured = sorted((one for one in charges if one.captured_minor > 0), key=lambda one: one.id)
    if not captured:
        return None
    told = [(one.id, one.currency, one.captured_minor, one.returned_minor) for one in captured]
    if all(refunded == 0 for *_, refunded in told):
        status = Refunded.NONE
    else:
        status = Refunded.FULL if all(c == r for _, _, c, r in told) else Refunded.PARTIAL
    return OrderRefunded(status, tuple(told))


def told_of(refunded: OrderRefunded, before: OrderTold, at: float) -> OrderTold | None:
    """Tell what is to be told of an order, given what was told before; `None`, if that says the same.

    Nothing is told of an order that has given nothing back, and of which nothing was told. The version is the time in milliseconds, and
    more than the last: counted from one, a database that was lost or restored would tell under ids and versions that were told before.

    Args:
        refunded: What it has given back.
        before: What was told.
        at: When, by the database's clock.
    """
    now = json.dumps([refunded.status, refunded.charges], separators=(",", ":"))
    if now == before.told or (not before.told and refunded.status is Refunded.NONE):
        return None
    return OrderTold(max(before.version + 1, int(at * 1000)), now)


def order_message(account: str, order: str, refunded: OrderRefunded, version: int, at: float) -> Message:
    """Write the message that tells what an order has given back.

    Args:
        account: `acct_…|test`.
        order: The order, as it stands in the charges' metadata.
        refunded: What it has given back.
        version: What `told_of` says.
        at: When, by the database's clock.
    """
    currency, captured, given_back = refunded.total or (None, None, None)
    payload = {
        "order_id": order,
        "order_version": version,
        "refunded": refunded.status.value,
        "currency": currency,
        "captured_minor": captured,
        "refunded_minor": given_back,
        "charges": [
            {"charge": charge, "currency": currency, "captured_minor": captured, "refunded_minor": refunded}
            for charge, currency, captured, refunded in refunded.charges
        ],
    }
    key = ordering_key(account, order, "")
    identity = message_id(f"{account}|{order}", Kind.ORDER_CHANGED, version)
    return Message(identity, account, Kind.ORDER_CHANGED, order, key, payload, at)
