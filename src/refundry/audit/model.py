"""An audit entry and the chain that it hangs in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

# What the first entry hangs on.
ROOT = "0" * 64
# The one way to write facts down; made once, since every step of every request is written twice.
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was done.

    Args:
        at: Epoch seconds UTC, by the database's clock.
        actor: `person:ada`, `system:refundry`.
        event: `refund_request.approved`.
        subject: The id that it is about.
        facts: Plain JSON: from, to, codes, amounts, Stripe's ids. No secrets.
    """

    at: float
    actor: str
    event: str
    subject: str
    facts: dict[str, Any]

    def line(self, number: int, before: str) -> str:
        """Write the entry in its one canonical form; its hash is taken of this."""
        parts = [number, before, self.at, self.actor, self.event, self.subject, self.facts]
        return canonical(parts)


def chained(line: str) -> str:
    """Take the hash of an entry; the entry holds the hash of the one before it."""
    return hashlib.sha256(line.encode()).hexdigest()
