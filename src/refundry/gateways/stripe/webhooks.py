"""Stripe's webhooks: whether a body was signed for us, and the event that it holds.

Our own check (stripe-facts 5.4), not the SDK's: that one takes signatures from the future, and reads objects that cost more than
all the rest. Nothing of a body is looked at before its signature is found to be right.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from refundry.gateways.base import SeenEvent
from refundry.gateways.stripe.mapping import ID, Json, Unreadable

# Stripe's own tolerance for a signature that is too old (stripe-facts 5.4); ours in both directions.
APART_SECONDS = 300
# One signature for each secret that is alive, which are two while one is rolled: room for many more, and none for a flood.
HEADER_MAX = 2048
SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)
MOMENT = re.compile(r"[0-9]{1,12}", re.ASCII)
TYPE = re.compile(r"[a-z0-9_.]{1,120}", re.ASCII)
KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
# As in `charges.model`, which stands above this.
OUR_ID = "refundry_request_id"
THIN = "it is a thin event, which leaves out what it is about: set its endpoint to snapshot events"


def flaw(secrets: Sequence[str], header: str, body: bytes, now: float) -> str:
    """Tell what is wrong with a signature: nothing, if it is right. Who sent it must not hear which of these it was.

    Args:
        secrets: Those of the endpoint, each whole, with its `whsec_`; blank ones fit nothing.
        header: `Stripe-Signature`.
        body: As it came, byte for byte.
        now: Our time, in epoch seconds.
    """
    if not header:
        return "missing"
    if len(header) > HEADER_MAX:
        return "too_long"
    parts = [part.strip().partition("=") for part in header.split(",")]
    moments = [value for name, _, value in parts if name == "t"]
    given = [value for name, _, value in parts if name == "v1" and SIGNATURE.fullmatch(value)]
    if len(moments) != 1 or not MOMENT.fullmatch(moments[0]) or not given:
        return "unreadable"
    signed = moments[0].encode() + b"." + body
    # Every pair is compared, so that the time it takes tells nothing.
    right = False
    for secret in secrets:
        if secret.strip():
            own = hmac.digest(secret.encode(), signed, "sha256").hex()
            for one in given:
                right |= hmac.compare_digest(own, one)
    if not right:
        return "wrong"
    # Only somebody with the secret hears of the time at all.
    apart = now - int(moments[0])
    if apart > APART_SECONDS:
        return "stale"
    return "from_the_future" if -apart > APART_SECONDS else ""


def signature(secret: str, body: bytes, now: float) -> str:
    """Sign a body as Stripe does."""
    signed = f"{int(now)}.".encode() + body
    return f"t={int(now)},v1={hmac.digest(secret.encode(), signed, 'sha256').hex()}"


def read(body: bytes) -> SeenEvent:
    """Read the body of a webhook.

    Raises:
        Unreadable: It is no event, or lacks what it is stored by.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"the body is no JSON ({error})") from error
    return event_of(raw, body)


def event_of(raw: object, body: bytes | None = None) -> SeenEvent:
    """Read an event (stripe-facts 5.1), from a webhook or from Stripe's list.

    Strict with what it is stored by: id, type, mode, time. What it is about may be missing or strange: then the event says so in
    `trouble`, since Stripe would only tell it again.

    Args:
        raw: Its JSON.
        body: Its bytes, where it came as such.

    Raises:
        Unreadable: It is no event, or lacks what it is stored by.
    """
    if not isinstance(raw, dict) or raw.get("object") not in ("event", "v2.core.event"):
        raise Unreadable("the body is no event")
    thin = raw["object"] != "event"
    about, trouble = ({}, THIN) if thin else _object(raw)
    kind = about.get("object")
    own = _id(about, "id")
    request = raw.get("request")
    return SeenEvent(
        id=_need(raw, "id", ID),
        type=_need(raw, "type", TYPE),
        account=_account(raw),
        livemode=_mode(raw),
        created_at=_created(raw),
        object_id=own,
        charge=own if kind == "charge" else _id(about, "charge"),
        refund=own if kind == "refund" else _refund(about),
        payment_intent=own if kind == "payment_intent" else _id(about, "payment_intent"),
        request=_our_request(about),
        status=_matching(about, "status", TYPE),
        amount_minor=_amount(about, "amount_refunded" if kind == "charge" else "amount"),
        idempotency_key=_matching(request, "idempotency_key", KEY) if isinstance(request, dict) else None,
        trouble=trouble,
        raw=orjson.dumps(raw) if body is None else body,
    )


def _object(raw: Json) -> tuple[Json, str]:
    content = raw.get("data")
    about = content.get("object") if isinstance(content, dict) else None
    if not isinstance(about, dict):
        return {}, "it does not say what it is about"
    return about, "" if _id(about, "id") else "what it is about has no id"


def _need(raw: Json, name: str, form: re.Pattern[str]) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Unreadable(f"'{name}' of an event should be its {name}, not {value!r:.80}")
    return value


def _account(raw: Json) -> str | None:
    return None if raw.get("account") is None else _need(raw, "account", ID)


def _mode(raw: Json) -> bool:
    if not isinstance(raw.get("livemode"), bool):
        raise Unreadable(f"'livemode' of an event should be true or false, not {raw.get('livemode')!r:.80}")
    return bool(raw["livemode"])


def _created(raw: Json) -> float:
    """Read when it was made: epoch seconds, in a thin event a text."""
    value = raw.get("created")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"'created' of an event should be a time, not {value!r:.80}") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:  # noqa: PLR2004  # beyond any time
        raise Unreadable(f"'created' of an event should be a time, not {value!r:.80}")
    return float(value)


def _id(about: Json, name: str) -> str | None:
    """Take an id, of a thing that may be written out in full; `None` where there is none that could be one."""
    value = about.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) and ID.fullmatch(value) else None


def _refund(about: Json) -> str | None:
    """Take the refund that something names; a credit note has a list of them since 2025-03-31.basil (stripe-facts 8)."""
    listed = about.get("refunds") if about.get("object") == "credit_note" else None
    # One is as good as all: of those that a note links, each has told of itself before, and one that it makes is alone or the last.
    last = listed[-1] if isinstance(listed, list) and listed else about
    return _id(last, "refund") if isinstance(last, dict) else None


def _matching(about: Json, name: str, form: re.Pattern[str]) -> str | None:
    value = about.get(name)
    return value if isinstance(value, str) and form.fullmatch(value) else None


def _amount(about: Json, name: str) -> int | None:
    value: Any = about.get(name)
    # Twelve digits are the most that Stripe holds (stripe-facts 7), and sixty-four bits the most that the table does.
    return value if type(value) is int and abs(value) < 10**12 else None


def _our_request(about: Json) -> str | None:
    metadata = about.get("metadata")
    return _matching(metadata, OUR_ID, ID) if isinstance(metadata, dict) else None
