"""How messages stand, and the two ways to steer them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from refundry.cli import output, session
from refundry.kernel.errors import UsageError
from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery, DeliveryState, Place
from refundry.outbox.rules import envelope

TARGETS = ("http", "sql", "file")


def show_all(
    states: Sequence[str],
    account: str | None,
    *,
    order: str | None,
    target: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> int:
    """Show a page of deliveries.

    Raises:
        UsageError: `state_unknown`, `target_unknown`, `place_unknown`.
    """
    known = {state.value for state in DeliveryState}
    for state in states:
        if state not in known:
            raise UsageError(
                f"--state {state} is none: {', '.join(DeliveryState)}", code="state_unknown", option="--state"
            )
    _check_target(target)
    wanted = [DeliveryState(state) for state in states]
    begin = None if after is None else _place(after)
    with session.local(account) as local, local.database.reading() as unit:
        name = local.name
        found = outbox.page(unit, name, wanted, target=target, order=order, after=begin, most=limit)
        counts = outbox.counts(unit)
    more = f"{found[-1].number}:{found[-1].target}" if len(found) == limit else None
    if as_json:
        open_: dict[str, dict[str, int]] = {}
        for (where, state_), count in sorted(counts.items()):
            open_.setdefault(where, {})[state_.value] = count
        output.as_json({"messages": [facts(one) for one in found], "open": open_, "next": more})
        return output.DONE
    if not found:
        output.line("There are none.")
    else:
        rows = [
            [one.message.id, one.message.kind.value, one.message.order_id or "", one.target, _stands(one)]
            for one in found
        ]
        output.table(["message", "kind", "order", "target", "stands"], rows)
    for (where, state_), count in sorted(counts.items()):
        output.say(f"{where}: {output.counted(count, 'message')} {state_}")
    if more is not None:
        output.say(f"more: --after {more}")
    return output.DONE


def show(message_id: str, *, as_json: bool) -> int:
    """Show everything about one."""
    with session.local() as local, local.database.reading() as unit:
        message, deliveries = outbox.need(unit, message_id)
        behind = {one.target: outbox.behind(unit, one) for one in deliveries}
    sent = envelope(message)
    if as_json:
        output.as_json(
            {"message": sent, "deliveries": [facts(one) | {"behind": behind[one.target]} for one in deliveries]}
        )
        return output.DONE
    output.line(f"{message.kind} of {output.moment(message.created_at)}")
    for name, value in sent["data"].items():
        if value is not None and value != "":
            output.line(f"  {name:16} {value}")
    for one in deliveries:
        output.line(output.wrapped(f"{one.target}: {_stands(one)}", hanging=2))
        if behind[one.target] and one.state in {DeliveryState.WAITING, DeliveryState.PARKED}:
            output.line(f"  {output.counted(behind[one.target], 'message')} of its order behind it")
    return output.DONE


def resend(message_id: str | None, account: str | None, *, parked: bool, target: str | None, as_json: bool) -> int:
    """Have one, or all that are parked, sent again.

    Raises:
        UsageError: `message_needed`: neither or both were said; `target_unknown`.
    """
    if (message_id is None) is not parked:
        raise UsageError("name one message, or write --parked for all that are parked", code="message_needed")
    _check_target(target)
    with session.local(account) as local, local.database.unit() as unit:
        person, more = session.person(), False
        if message_id is None:
            found = outbox.resend_parked(unit, person, account=local.name, target=target)
            more = bool(outbox.page(unit, local.name, [DeliveryState.PARKED], target=target, most=1))
        else:
            found = outbox.resend(unit, message_id, person, target=target)
    code = _told(found, "will be sent again", as_json=as_json)
    if not as_json and any(one.target == "sql" and one.state is DeliveryState.DELIVERED for one in found):
        output.say(
            "its statement was run for it, and is run once for each message: to have it run again, delete its id from refundry_messages in your "
            "database, and then resend it"
        )
    if not as_json and more:
        output.say("more are parked: run it again for those")
    return code


def drop(message_id: str, why: str, *, target: str | None, as_json: bool) -> int:
    """Give one up.

    Raises:
        UsageError: `why_needed`, `target_unknown`.
    """
    if not why.strip():
        raise UsageError("--why is empty: say why the message is given up", code="why_needed", option="--why")
    _check_target(target)
    with session.local() as local, local.database.unit() as unit:
        found = outbox.drop(unit, message_id, session.person(), why, target=target)
    return _told(found, "dropped", as_json=as_json)


def _place(text: str) -> Place:
    number, _, target = text.partition(":")
    # A number has at most eighteen digits, so that both databases can hold it.
    if not re.fullmatch(r"[0-9]{1,18}", number) or target not in TARGETS:
        raise UsageError(
            f"--after {text:.40} is no place in the list: take the `next` of the page before, as 17:http",
            code="place_unknown",
            option="--after",
        )
    return int(number), target


def _check_target(target: str | None) -> None:
    if target is not None and target not in TARGETS:
        raise UsageError(f"--target {target} is none: {', '.join(TARGETS)}", code="target_unknown", option="--target")


def _told(found: Sequence[Delivery], what: str, *, as_json: bool) -> int:
    if as_json:
        output.as_json({"messages": [{"message_id": one.message.id, "target": one.target} for one in found]})
        return output.DONE
    for one in found:
        output.line(f"{one.message.id} ({one.message.kind}, {one.target}) {what}")
    if not found:
        output.line("There are none.")
    return output.DONE


def facts(one: Delivery) -> dict[str, Any]:
    """Write a delivery for `--json`; times in epoch seconds."""
    message = one.message
    return {
        "message_id": message.id,
        "kind": message.kind.value,
        "account": message.account,
        "order_id": message.order_id,
        "created_at": message.created_at,
        "target": one.target,
        "state": one.state.value,
        "tries": one.tries,
        "due_at": one.due_at if one.state is DeliveryState.WAITING else None,
        "told": one.told,
        "delivered_at": one.delivered_at,
    }


def _stands(one: Delivery) -> str:
    told = f": {one.told}" if one.told else ""
    match one.state:
        case DeliveryState.WAITING:
            return f"waiting, tried {output.counted(one.tries, 'time')}{told}" if one.tries else "waiting"
        case DeliveryState.DELIVERED:
            return f"delivered {output.moment(one.delivered_at or one.message.created_at)}{told}"
        case DeliveryState.PARKED | DeliveryState.DROPPED:
            return f"{one.state}{told}"
