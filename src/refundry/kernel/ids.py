"""Ids. Those that mean something are derived, so that two installations make the same; the rest come from a port."""

from __future__ import annotations

import uuid
from typing import Protocol

# Drawn once, for ever: with another namespace the same obligation would get another id, and could be paid again.
REQUESTS = uuid.UUID("6f1c7f0e-3d0a-5b53-9a8e-0c6f2f5d9b11")
ATTEMPT_DIGITS_MAX = 9


class Ids(Protocol):
    """Makes ids that stand for nothing: leases, batches."""

    def new(self) -> str:
        """Make an id that nobody has had."""
        ...


class RandomIds:
    """Ids from the machine's randomness."""

    def new(self) -> str:
        """Make a random UUID."""
        return str(uuid.uuid4())  # noqa: TID251  # the one place where randomness comes in


def request_id(account: str, mode: str, request_key: str) -> str:
    """Derive a refund request's id: a UUIDv5 of account, mode and request key, the same in every installation."""
    return str(uuid.uuid5(REQUESTS, f"{account}|{mode}|{request_key}"))


def idempotency_key(request: str, attempt: int) -> str:
    """Derive the key of one attempt: `{request_id}.{n}`, n from 1."""
    return f"{request}.{attempt}"
