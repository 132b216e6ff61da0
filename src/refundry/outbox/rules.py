"""What is sent, to whom, and when it is tried again. Pure."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from refundry.connectors.base import Outgoing
from refundry.outbox.model import ENVELOPE_FIELDS, STATES, Field, Kind, KindUnknown, Message, fields_of

# Drawn once, for ever: with another one a cause that is written twice after an upgrade would be two messages.
MESSAGES = uuid.UUID("0d0e6a5c-56c1-5d3f-8d4e-5a3d7f2b9c44")
# The first wait, in seconds; each further one is twice as long, up to an hour: an hour after a receiver has come back all is told.
BACK_OFF_FIRST = 1.0
BACK_OFF_MAX = 3600.0
# No target is left alone for longer, in seconds, whatever it asks for.
LEFT_ALONE_MAX = 3600.0
ALL = "all"


def message_id(subject: str, kind: Kind, version: int) -> str:
    """Derive a message's id: a UUIDv5 of what it is about, its kind, and the version of that.

    Args:
        subject: The refund request, or the account and the order.
        kind: What it says.
        version: The request's, or the order's (`charges.rules.told_of`).
    """
    return str(uuid.uuid5(MESSAGES, f"{subject}|{kind}|{version}"))


def ordering_key(account: str, order_id: str | None, charge: str) -> str:
    """Tell what a message is kept in order by: its order, or its charge where that belongs to none."""
    return f"{account}|charge|{charge}" if order_id is None else f"{account}|order|{order_id}"


def envelope(message: Message) -> dict[str, Any]:
    """Write a message as it is sent."""
    account, _, mode = message.account.partition("|")
    return {
        "id": message.id,
        "kind": message.kind.value,
        "version": message.version,
        "created_at": moment(message.created_at),
        "account": account,
        "mode": mode,
        "data": dict(message.payload),
    }


def outgoing(message: Message) -> Outgoing:
    """Hand a message to a connector, in the connector's words."""
    return Outgoing(message.id, message.kind.value, envelope(message))


def moment(at: float) -> str:
    """Write a time: `2026-11-24T10:43:17.250Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def kinds_of(text: str, setting: str) -> frozenset[Kind]:
    """Read which kinds are wanted: names with commas between, `refund_request.*` for all of that kind, or `all`.

    Raises:
        KindUnknown: Names what is none, and the setting.
    """
    found: set[Kind] = set()
    for word in (part.strip() for part in text.split(",")):
        if not word:
            continue
        stem = "" if word == ALL else word.removesuffix("*")
        some = {kind for kind in Kind if kind.value == word or (stem != word and kind.value.startswith(stem))}
        if not some:
            raise KindUnknown(
                f"{setting} names {word}, which is no kind of message: write some of {', '.join(Kind)}, or all",
                setting=setting,
            )
        found |= some
    return frozenset(found)


def back_off(tries: int, message: str) -> float:
    """Tell how long to wait before the next try, in seconds: 1, 2, 4, … up to an hour, less up to half of it.

    Args:
        tries: How many were made, from 1.
        message: The message's id: what is taken off is drawn from it, so that messages that failed together are not tried together.
    """
    whole = min(BACK_OFF_FIRST * 2.0 ** min(max(tries - 1, 0), 32), BACK_OFF_MAX)
    drawn = int.from_bytes(hashlib.sha256(f"{message}/{tries}".encode()).digest()[:4], "big") / 2**32
    return whole * (1.0 - drawn / 2.0)


def parameters_of(kind: Kind) -> frozenset[str]:
    """Tell which fields of a kind's message a statement for SQL may name: all but lists and objects."""
    fields = {**ENVELOPE_FIELDS, **fields_of(kind)}
    return frozenset(name for name, field in fields.items() if not {"array", "object"} & set(field.types))


def schema_of(kind: Kind) -> dict[str, Any]:
    """Write the JSON schema (2020-12) of a kind's message. A receiver has to let fields pass that it does not know."""
    fixed = {"kind": {"const": kind.value}, "data": _object(fields_of(kind), _state(kind))}
    envelope_ = _object(ENVELOPE_FIELDS, fixed)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind.value, **envelope_}


def _state(kind: Kind) -> dict[str, Any]:
    if kind is Kind.ORDER_CHANGED:
        amounts = {"type": "integer", "minimum": 0}
        names = {
            "charge": {"type": "string"},
            "currency": {"type": "string"},
            "captured_minor": amounts,
            "refunded_minor": amounts,
        }
        each = {"type": "object", "properties": names, "required": list(names)}
        return {"charges": {"type": "array", "items": each, "minItems": 1}}
    if kind is Kind.HELD:
        return {"state": {"enum": ["received", "awaiting_approval", "approved"]}, "held": {"type": "string"}}
    state = kind.value.partition(".")[2]
    return {"state": {"const": state}} if state in STATES else {}


def _object(fields: Mapping[str, Field], fixed: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: fixed.get(name) or _property(field) for name, field in fields.items()}
    return {"type": "object", "properties": properties, "required": list(fields)}


def _property(field: Field) -> dict[str, Any]:
    if field.words:
        return {"enum": list(field.words)}
    return {"type": field.types[0] if len(field.types) == 1 else list(field.types)}
