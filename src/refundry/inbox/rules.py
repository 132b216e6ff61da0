"""Whose an event is: its own `account` and `livemode` say so, not the path that it came to."""

from __future__ import annotations

from refundry.gateways.base import SeenEvent
from refundry.inbox.model import Door

# How each reason begins for which an event is nobody's: a stored one is known by that, should it come again by its own door.
OTHER_MODE, OTHER_ACCOUNT = "it is of ", "no key here opens "
STRANGE = (OTHER_MODE, OTHER_ACCOUNT)


def whose(door: Door, seen: SeenEvent) -> tuple[str, str]:
    """Tell an event's account by its name in our tables, and why it is none that is served at this door, or an empty text.

    A Connect platform is told of all its accounts, and its live endpoints also of test mode (stripe-facts 5.6). Refused events would
    come again for days, and make Stripe give the endpoint up: they are taken in, and nothing follows them.

    Args:
        door: Where it came in; its secret vouches for no other accounts than those that its key reaches.
        seen: The event.
    """
    own, _, mode = door.account.partition("|")
    account, of_mode = seen.account or own, "live" if seen.livemode else "test"
    name = f"{account}|{of_mode}"
    if name == door.account or name in door.connected:
        return name, ""
    if of_mode != mode:
        return name, f"{OTHER_MODE}{of_mode} mode, and {mode} mode is served here"
    return name, f"{OTHER_ACCOUNT}{account}, or it came in by the door of {own}"
