"""Stripe's JSON to our types, and our refund body to Stripe's parameters.

Strict where money hangs on it: a member that is missing or of another type raises `Unreadable`, and is never replaced by a
guess. What Stripe leaves out while it has no value (stripe-facts 3.3) reads as `None`.
"""

from __future__ import annotations

import re
from typing import Any

from refundry.gateways.base import (
    NewEndpoint,
    RefundBody,
    SeenAccount,
    SeenCharge,
    SeenDispute,
    SeenEndpoint,
    SeenWarning,
)
from refundry.kernel.outcome import SeenRefund

Json = dict[str, Any]
# Ids are letters, digits and underscores, up to 255 of them (stripe-facts 3.3). Whatever else a file holds is no id, and
# would lead a path elsewhere: `..`, `ch_1/refunds`, nothing at all.
ID = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
LIVE_KEY = re.compile(r"[a-z]{2}_live_")


class Unreadable(ValueError):  # noqa: N818  # read in a sentence
    """An answer of Stripe's that is not what its reference describes."""


def _text(raw: Json, name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise Unreadable(f"'{name}' of a {raw.get('object', 'thing')} should be a text, not {value!r:.80}")
    return value


def _text_or_none(raw: Json, name: str) -> str | None:
    return None if raw.get(name) is None else _text(raw, name)


def _whole(raw: Json, name: str) -> int:
    value = raw.get(name)
    if type(value) is not int:  # a bool is an int too, and no amount
        raise Unreadable(f"'{name}' of a {raw.get('object', 'thing')} should be a whole number, not {value!r:.80}")
    return value


def _truth(raw: Json, name: str) -> bool:
    value = raw.get(name)
    if not isinstance(value, bool):
        raise Unreadable(f"'{name}' of a {raw.get('object', 'thing')} should be true or false, not {value!r:.80}")
    return value


def _id(raw: Json, name: str) -> str | None:
    """Take an id, also where the object stands in its place because it was expanded."""
    value = raw.get(name)
    return _text_or_none(value if isinstance(value, dict) else raw, "id" if isinstance(value, dict) else name)


def _metadata(raw: Json) -> dict[str, str]:
    value = raw.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(one, str) for pair in value.items() for one in pair):
        raise Unreadable(f"'metadata' of a {raw.get('object', 'thing')} should map texts to texts")
    return dict(value)


def _object(raw: object, kind: str) -> Json:
    if not isinstance(raw, dict) or raw.get("object") != kind:
        raise Unreadable(f"expected a {kind}, got {raw!r:.80}")
    return raw


def refund_of(raw: object) -> SeenRefund:
    """Read a refund (stripe-facts 3.3).

    Raises:
        Unreadable: It is none, or lacks what ours needs; a refund of a cash balance has no charge and is none of ours.
    """
    refund = _object(raw, "refund")
    charge = _id(refund, "charge")
    if charge is None:
        raise Unreadable(f"{_text(refund, 'id')} names no charge")
    return SeenRefund(
        id=_text(refund, "id"),
        charge=charge,
        amount_minor=_whole(refund, "amount"),
        currency=_text(refund, "currency"),
        status=_text(refund, "status"),
        created_at=float(_whole(refund, "created")),
        reason=_text_or_none(refund, "reason"),
        failure_reason=_text_or_none(refund, "failure_reason"),
        pending_reason=_text_or_none(refund, "pending_reason"),
        payment_intent=_id(refund, "payment_intent"),
        metadata=_metadata(refund),
        action_until=_action_until(refund),
    )


def refunds_of(entries: list[Json]) -> list[SeenRefund]:
    """Read a page of refunds; those of a cash balance have no charge, and are none of ours.

    Raises:
        Unreadable: One of them is none, or lacks what ours needs.
    """
    return [refund_of(entry) for entry in entries if entry.get("charge") is not None]


def _action_until(refund: Json) -> float | None:
    """Read until when the customer may act; for people, so that another form of it is no reason to refuse a refund."""
    action = refund.get("next_action")
    details = action.get("display_details") if isinstance(action, dict) else None
    until = details.get("expires_at") if isinstance(details, dict) else None
    return float(until) if type(until) is int else None


def warning_of(raw: object) -> SeenWarning:
    """Read an early fraud warning (stripe-facts 6).

    Raises:
        Unreadable: It is none, or lacks what ours needs.
    """
    warning = _object(raw, "radar.early_fraud_warning")
    charge = _id(warning, "charge")
    if charge is None:
        raise Unreadable(f"{_text(warning, 'id')} names no charge")
    return SeenWarning(
        id=_text(warning, "id"),
        charge=charge,
        fraud_type=_text(warning, "fraud_type"),
        actionable=_truth(warning, "actionable"),
        created_at=float(_whole(warning, "created")),
    )


def endpoint_of(raw: object) -> SeenEndpoint:
    """Read a webhook endpoint (stripe-facts 5.3).

    Raises:
        Unreadable: It is none, or lacks what ours needs.
    """
    endpoint = _object(raw, "webhook_endpoint")
    events = endpoint.get("enabled_events")
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise Unreadable(f"'enabled_events' of {_text(endpoint, 'id')} should be texts")
    return SeenEndpoint(
        id=_text(endpoint, "id"),
        url=_text(endpoint, "url"),
        enabled=_text(endpoint, "status") == "enabled",
        api_version=_text_or_none(endpoint, "api_version"),
        events=tuple(events),
    )


def new_endpoint_of(raw: object) -> NewEndpoint:
    """Read a webhook endpoint that was just made, with its secret.

    Raises:
        Unreadable: It is none, or lacks what ours needs.
    """
    return NewEndpoint(endpoint_of(raw), _text(_object(raw, "webhook_endpoint"), "secret"))


def charge_of(raw: object) -> SeenCharge:
    """Read a charge (stripe-facts 4.1).

    Raises:
        Unreadable: It is none, or lacks what ours needs.
    """
    charge = _object(raw, "charge")
    transfer = charge.get("transfer_data")
    destination = _id(transfer, "destination") if isinstance(transfer, dict) else None
    balance = charge.get("balance_transaction")
    expanded = balance if isinstance(balance, dict) else None
    return SeenCharge(
        id=_text(charge, "id"),
        payment_intent=_id(charge, "payment_intent"),
        currency=_text(charge, "currency"),
        amount_minor=_whole(charge, "amount"),
        captured_minor=_whole(charge, "amount_captured"),
        refunded_minor=_whole(charge, "amount_refunded"),
        status=_text(charge, "status"),
        captured=_truth(charge, "captured"),
        disputed=_truth(charge, "disputed"),
        livemode=_truth(charge, "livemode"),
        created_at=float(_whole(charge, "created")),
        # `destination` is no longer declared, and still comes (stripe-facts 4.1).
        destination=destination or _id(charge, "destination"),
        application_fee=any(charge.get(name) is not None for name in ("application_fee", "application_fee_amount")),
        fee_minor=_whole(expanded, "fee") if expanded else None,
        fee_currency=_text(expanded, "currency") if expanded else None,
        metadata=_metadata(charge),
    )


def dispute_of(raw: object) -> SeenDispute:
    """Read a dispute (stripe-facts 6).

    Raises:
        Unreadable: It is none, or lacks what ours needs.
    """
    dispute = _object(raw, "dispute")
    details = dispute.get("evidence_details")
    due = details.get("due_by") if isinstance(details, dict) else None
    return SeenDispute(
        id=_text(dispute, "id"),
        status=_text(dispute, "status"),
        amount_minor=_whole(dispute, "amount"),
        refundable=_truth(dispute, "is_charge_refundable"),
        currency=_text(dispute, "currency"),
        reason=_text(dispute, "reason"),
        created_at=float(_whole(dispute, "created")),
        due_at=float(due) if type(due) is int else None,
    )


def latest_charge_of(raw: object) -> str | None:
    """Tell a payment intent's latest charge; `None`, if it has none.

    Raises:
        Unreadable: It is no payment intent.
    """
    return _id(_object(raw, "payment_intent"), "latest_charge")


def account_of(raw: object, key: str) -> SeenAccount:
    """Read an account. It does not tell its mode; the key's prefix does (stripe-facts 12).

    Raises:
        Unreadable: It is none.
    """
    account = _object(raw, "account")
    return SeenAccount(
        id=_text(account, "id"),
        livemode=LIVE_KEY.match(key) is not None,
        country=_text_or_none(account, "country"),
        default_currency=_text_or_none(account, "default_currency"),
    )


def available_of(raw: object) -> dict[str, int]:
    """Read what a balance has available: minor units per currency.

    Raises:
        Unreadable: It is no balance.
    """
    sums: dict[str, int] = {}
    for entry in _entries(_object(raw, "balance"), "available"):
        currency = _text(entry, "currency")
        sums[currency] = sums.get(currency, 0) + _whole(entry, "amount")
    return sums


def available_on(refund: Json) -> float | None:
    """Read when a refund leaves the available balance, of one that was asked for with its balance transaction; `None`, if it has none yet.

    Raises:
        Unreadable: Its balance transaction is none.
    """
    booked = refund.get("balance_transaction")
    return None if booked is None else float(_whole(_object(booked, "balance_transaction"), "available_on"))


def page_of(raw: object) -> tuple[list[Json], bool]:
    """Take a list apart: its entries, each an object with an id, and whether more follow.

    Raises:
        Unreadable: It is no list. A list that was asked for and does not come is not an empty one.
    """
    if not isinstance(raw, dict) or all(raw.get("object") != kind for kind in ("list", "search_result")):
        raise Unreadable(f"expected a list, got {raw!r:.80}")
    entries = _entries(raw, "data")
    for entry in entries:
        _text(entry, "id")
    return entries, _truth(raw, "has_more")


def _entries(raw: Json, name: str) -> list[Json]:
    value = raw.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Unreadable(f"'{name}' of a {raw.get('object')} should be a list of objects")
    return value


def refund_params(body: RefundBody) -> Json:
    """Write the parameters of `POST /v1/refunds`, always in the same order: the same body is the same bytes."""
    params: Json = {
        "charge": body.charge,
        "amount": body.amount_minor,
        "reason": body.reason,
        "metadata": dict(sorted(body.metadata.items())),
    }
    flags = {"refund_application_fee": body.refund_application_fee, "reverse_transfer": body.reverse_transfer}
    return params | {name: flag for name, flag in flags.items() if flag is not None}


def order_query(order_key: str, order_id: str) -> str:
    r"""Write the search for an order in Stripe's query language: `metadata['order_id']:'536365'`.

    Quotes and backslashes are escaped, so that an id is never read as part of the query.
    """
    return f"metadata['{_escaped(order_key)}']:'{_escaped(order_id)}'"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
