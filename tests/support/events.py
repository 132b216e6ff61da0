"""Events as tests need them: made by hand, and bodies that are signed as Stripe signs."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson

from refundry.gateways.base import SeenEvent

SECRET = "whsec_ours"  # opens nothing
NOW = 1_700_000_000


def body_of(event: str = "evt_1", kind: str = "refund.updated", **members: Any) -> dict[str, Any]:  # JSON
    """Write an event about a refund; members win over those that are usual."""
    refund = {
        "id": "re_1", "object": "refund", "charge": "ch_1", "amount": 500, "status": "succeeded", "payment_intent": "pi_1",
        "metadata": {},
    }  # fmt: skip
    usual: dict[str, Any] = {
        "id": event, "object": "event", "api_version": "2026-08-26.dahlia", "created": NOW, "data": {"object": refund},
        "livemode": False, "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}, "type": kind,
    }  # fmt: skip
    return usual | members


def written(body: dict[str, Any]) -> bytes:
    """Write an event as it goes over the wire."""
    return orjson.dumps(body)


def signed(body: bytes, *secrets: str, at: float = NOW, scheme: str = "v1") -> str:
    """Sign a body as Stripe does (stripe-facts 5.4): one signature for each secret."""
    moment = int(at)
    text = f"{moment}.".encode() + body
    signs = [hmac.new(secret.encode(), text, hashlib.sha256).hexdigest() for secret in secrets or (SECRET,)]
    return ",".join([f"t={moment}", *(f"{scheme}={sign}" for sign in signs)])


def seen(
    event: str = "evt_1",
    kind: str = "refund.updated",
    *,
    charge: str | None = "ch_1",
    refund: str | None = "re_1",
    created_at: float = NOW,
    livemode: bool = False,
    trouble: str = "",
) -> SeenEvent:
    """Make an event that was read."""
    return SeenEvent(
        event, kind, None, livemode, created_at, refund or charge, charge, refund, None, None, "succeeded", 500, None,
        trouble, b'{"id":"' + event.encode() + b'"}',
    )  # fmt: skip
