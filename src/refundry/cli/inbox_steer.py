"""Events found, shown, replayed and ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from refundry.audit import service as audit
from refundry.cli import output, session
from refundry.cli.session import Local
from refundry.inbox import service as inbox
from refundry.inbox.model import Event, Search, State
from refundry.infra.db import Unit
from refundry.kernel.errors import UsageError

# So many parked events are replayed in one commit.
SLICE = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed."""

    type: str | None
    about: str | None
    charge: str | None
    state: str | None
    account: str | None

    def search(self, local: Local) -> Search:
        """Tell what is looked for.

        Raises:
            UsageError: `state_unknown`, `type_unknown`.
        """
        if self.state is not None and self.state not in {known.value for known in State}:
            raise UsageError(
                f"--state {self.state:.80} is none: {', '.join(State)}", code="state_unknown", option="--state"
            )
        if self.type is not None and "*" in self.type[:-1]:
            text = f"--type {self.type:.80} has a star before its end: write it as in charge.dispute.*"
            raise UsageError(text, code="type_unknown", option="--type")
        state = None if self.state is None else State(self.state)
        return Search(_name(local), self.type, self.about, self.charge, state)


def _name(local: Local) -> str | None:
    """Tell the account that is meant; `None` for all of them."""
    return None if local.wanted is None else local.name


def show_all(asked: Asked, *, limit: int, after: str | None, as_json: bool) -> int:
    """Show a page of events."""
    with session.local(asked.account) as local, local.database.reading() as unit:
        search, now = asked.search(local), unit.now
        begin = None if after is None else inbox.find(unit, after, search.account)
        found = inbox.page(unit, search, limit, begin)
        counts, oldest = inbox.counts(unit, search.account), inbox.oldest_waiting(unit, search.account)
    more = found[-1].id if len(found) == limit else None
    age = None if oldest is None else now - oldest
    if as_json:
        told = [_facts(event, now) for event in found]
        output.as_json({"events": told, "next": more, "counts": counts, "oldest_waiting_seconds": age})
        return output.DONE
    if found:
        rows = [
            [event.id, event.type, event.object_id or "", event.state.value, output.span(now - event.received_at), event.why]
            for event in found
        ]  # fmt: skip
        output.table(["event", "type", "object", "state", "age", "why"], rows, right=(4,))
    else:
        output.line("There are none.")
    waiting = f"{output.number(counts[State.WAITING])} waiting" + (
        "" if age is None else f", the oldest for {output.span(age)}"
    )
    output.say(f"{waiting}; {output.number(counts[State.PARKED])} parked" + (f"; more: --after {more}" if more else ""))
    return output.DONE


def show(event_id: str, account: str | None, *, as_json: bool) -> int:
    """Show everything about one event."""
    with session.local(account) as local, local.database.reading() as unit:
        event, now = inbox.find(unit, event_id, _name(local)), unit.now
        done = [entry for entry in audit.timeline(unit, event_id) if entry.facts.get("account") == event.account]
    try:
        body = orjson.loads(event.raw or b"")
    except orjson.JSONDecodeError:
        body = None
    if as_json:
        steps = [{"at": entry.at, "actor": entry.actor, "event": entry.event} for entry in done]
        output.as_json({**_facts(event, now), "done": steps, "body": body})
        return output.DONE
    for name, value in _facts(event, now).items():
        if value not in {None, ""}:
            shown = (
                output.moment(value)
                if name.endswith("_at")
                else output.span(value)
                if name.endswith("_seconds")
                else value
            )
            output.line(f"{name.removesuffix('_seconds'):16}{shown}")
    for entry in done:
        output.line(f"{output.moment(entry.at)}  {entry.event} by {entry.actor}")
    output.line(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    return output.DONE


def _facts(event: Event, now: float) -> dict[str, Any]:
    return {
        "event": event.id,
        "account": event.account,
        "type": event.type,
        "livemode": event.livemode,
        "object": event.object_id,
        "charge": event.charge,
        "refund": event.refund,
        "payment_intent": event.payment_intent,
        "request_id": event.request,
        "status": event.status,
        "amount": event.amount_minor,
        "idempotency_key": event.idempotency_key,
        "created_at": event.created_at,
        "received_at": event.received_at,
        "source": event.source.value,
        "state": event.state.value,
        "tries": event.tries,
        "due_at": event.due_at if event.state is State.WAITING else None,
        "why": event.why,
        "age_seconds": now - event.received_at,
    }


def replay(events: Sequence[str], account: str | None, *, parked: bool, as_json: bool) -> int:
    """Have events applied again: those that are named, or all that are parked.

    Raises:
        UsageError: `events_missing`: neither, or both.
    """
    if parked == bool(events):
        raise UsageError(
            "name the events that are to be replayed, or write --parked for all that are", code="events_missing"
        )

    def one(unit: Unit, event: Event) -> None:
        inbox.replay(unit, session.person(), event)

    if not parked:
        return _steered(events, account, one, "replayed", as_json=as_json)
    count = 0
    with session.local(account) as local:
        search = Search(account=_name(local), state=State.PARKED)
        while True:
            with local.database.unit() as unit:
                found = inbox.page(unit, search, SLICE)
                for event in found:
                    one(unit, event)
            count += len(found)
            if len(found) < SLICE:
                break
    return _told(count, "replayed", as_json=as_json)


def ignore(events: Sequence[str], account: str | None, why: str, *, as_json: bool) -> int:
    """Take events off the list."""

    def one(unit: Unit, event: Event) -> None:
        inbox.ignore(unit, session.person(), event, why)

    return _steered(events, account, one, "ignored", as_json=as_json)


def _steered(
    events: Sequence[str], account: str | None, one: Callable[[Unit, Event], None], done: str, *, as_json: bool
) -> int:
    """Do it to all of them, or to none."""
    with session.local(account) as local, local.database.unit() as unit:
        for event in events:
            one(unit, inbox.find(unit, event, _name(local)))
    return _told(len(events), done, as_json=as_json)


def _told(count: int, done: str, *, as_json: bool) -> int:
    if as_json:
        output.as_json({done: count})
    else:
        output.line(f"{output.counted(count, 'event')} {done}")
    return output.DONE
