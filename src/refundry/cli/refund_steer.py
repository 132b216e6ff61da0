"""What became of refund requests, and the two ways to stop one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from refundry import bootstrap
from refundry.audit import service as audit
from refundry.audit.model import Entry
from refundry.cli import output, refund_told, session
from refundry.infra import loop
from refundry.infra.db import Unit
from refundry.kernel.errors import UsageError
from refundry.refunds import service as refunds
from refundry.refunds.model import Attempt, RefundRequest, Send, State
from refundry.refunds.service import StateForbids


def show_all(states: Sequence[str], account: str | None, *, limit: int, after: int, as_json: bool) -> int:
    """Show a page of refund requests.

    Raises:
        UsageError: `state_unknown`.
    """
    unknown = [state for state in states if state not in {known.value for known in State}]
    if unknown:
        raise UsageError(f"--state {unknown[0]} is none: {', '.join(State)}", code="state_unknown", option="--state")
    with session.local(account) as local, local.database.reading() as unit:
        found = refunds.page(unit, local.name, [State(state) for state in states], after=after, most=limit)
    more = found[-1][0] if len(found) == limit else None
    if as_json:
        output.as_json({"refunds": [refund_told.facts(request) for _, request in found], "next": more})
        return output.DONE
    if not found:
        output.line("There are none.")
        return output.DONE
    rows = [
        [
            request.id, refund_told.amount(request), f"{request.state}{f' (held: {request.hold.reason})' if request.hold else ''}",
            request.content.charge, request.content.ticket_id or "",
        ]
        for _, request in found
    ]  # fmt: skip
    output.table(["request", "amount", "state", "charge", "ticket"], rows, right=(1,))
    if more is not None:
        output.say(f"more: --after {more}")
    return output.DONE


def show(request_id: str, *, as_json: bool) -> int:
    """Show everything about one."""
    with session.local() as local, local.database.reading() as unit:
        request = refunds.need(unit, request_id)
        entries, attempts = audit.timeline(unit, request_id), refunds.attempts(unit, request_id)
        afterwards = refund_told.afterwards(unit, request)
    if as_json:
        timeline = [asdict(entry) for entry in entries]
        output.as_json(
            {**refund_told.facts(request), "timeline": timeline, "tries": [_attempt(one) for one in attempts]}
        )
        return output.DONE
    content = request.content
    output.line(output.wrapped(refund_told.sentence(request)))
    for name, value in (
        ("request", request.id), ("request key", request.request_key), ("charge", content.charge), ("asked for", refund_told.amount(request)),
        ("reason", content.reason), ("ticket", content.ticket_id), ("refund", request.refund),
    ):  # fmt: skip
        if value:
            output.line(f"  {name:12} {value}")
    output.line("timeline")
    for entry in entries:
        output.line(output.wrapped(f"{output.moment(entry.at)}  {_entry(entry)}", indent=2, hanging=4))
    for attempt in attempts:
        sum_ = output.money(attempt.body.amount_minor, content.currency)
        output.line(output.wrapped(f"attempt {attempt.number}, {sum_}, key {attempt.key}", hanging=4))
        for at, send in enumerate(attempt.sends, 1):
            output.line(output.wrapped(f"send {at}  {output.moment(send.at)}  {_send(send)}", indent=2, hanging=4))
        if attempt.absent:
            output.line("  proven: no refund of it exists")
    if afterwards:
        output.say(afterwards)
    return output.DONE


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number, "idempotency_key": attempt.key, "amount": attempt.body.amount_minor, "absent": attempt.absent,
        "sends": [
            {
                "at": send.at, "outcome": send.outcome, "code": send.code, "status": send.answer.status, "message": send.answer.message,
                "stripe_request": send.answer.request, "replayed": send.answer.replayed,
            }
            for send in attempt.sends
        ],
    }  # fmt: skip


def _entry(entry: Entry) -> str:
    facts = entry.facts
    event = entry.event.removeprefix("refund_request.").replace("_", " ")
    told = [str(facts[name]) for name in ("code", "refund", "why", "text") if facts.get(name)]
    by = "" if entry.actor == "system:refundry" else f" by {entry.actor.partition(':')[2]}"
    return event + by + (f": {', '.join(dict.fromkeys(told))}" if told else "")


def _send(send: Send) -> str:
    answer = send.answer
    parts = [send.outcome or "no answer recorded", send.code if send.code != send.outcome else ""]
    parts += [
        f"HTTP {answer.status}" if answer.status else "",
        answer.request or "",
        "replayed" if answer.replayed else "",
        answer.message,
    ]
    return ", ".join(part for part in parts if part)


def withdraw(request_id: str, why: str, *, as_json: bool) -> int:
    """Take one back that was not sent."""
    with session.local() as local, local.database.unit() as unit:
        request = refunds.withdraw(unit, request_id, session.person(), why)
    return _told(request, as_json=as_json)


def cancel(request_id: str, *, as_json: bool) -> int:
    """Cancel one at Stripe that waits for its customer.

    Raises:
        StateForbids: It does not wait for its customer.
    """
    settings = session.settings()

    async def run() -> RefundRequest:
        async with bootstrap.desk(settings) as desk:
            request = await desk.writer.put(lambda unit: refunds.need(unit, request_id))
            if request.state is not State.REQUIRES_ACTION or request.refund is None:
                raise StateForbids(
                    f"request {request_id} is {request.state}: only a refund that waits for its customer (requires_action) can be canceled",
                    request=request_id,
                )
            refund = await desk.seat_of(request.account).gateway.cancel_refund(request.refund)

            def take(unit: Unit) -> RefundRequest:
                audit.record(unit, session.person(), "refund_request.cancel_asked", request_id, {"refund": refund.id})
                refunds.found(unit, request.account, refund)
                return refunds.need(unit, request_id)

            return await desk.writer.put(take)

    return _told(loop.run(run()), as_json=as_json)


def _told(request: RefundRequest, *, as_json: bool) -> int:
    if as_json:
        output.as_json(refund_told.facts(request))
    else:
        output.line(output.wrapped(refund_told.sentence(request)))
    return output.DONE
