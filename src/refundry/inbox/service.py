"""Storing events once, handing out those that wait, and what an operator may do with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refundry.accounts import service as accounts
from refundry.audit import service as audit
from refundry.gateways.base import SeenEvent
from refundry.inbox import repository
from refundry.inbox.model import HANDLED, SILENT, Event, EventStays, Key, NoSuchEvent, Search, Source, State, begun
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import Actor

NAME = "inbox"


def attach(database: Database) -> None:
    """Let the events of a unit be written together, just before its commit."""
    database.at_commit(NAME, repository.add)


def collect(unit: Unit, account: str, seen: SeenEvent, source: Source, *, stranger: str = "") -> None:
    """Store an event with its neighbours of the same commit; one that is there already stays as it is, unless it was a stranger's and is not now.

    Args:
        unit: The open unit.
        account: Whose it is, by its name in our tables.
        seen: As it came.
        source: How it came.
        stranger: Why it is of no account that is served here: then it is stored, and nothing follows it.
    """
    unit.collect(NAME, _made(unit, account, seen, source, stranger))


def store(unit: Unit, account: str, seen: Iterable[SeenEvent], source: Source) -> int:
    """Store many events of an account at once, as `collect` does; tells how many are new, or were a stranger's."""
    return repository.insert(unit, [_made(unit, account, each, source, "") for each in seen])


def _made(unit: Unit, account: str, seen: SeenEvent, source: Source, stranger: str) -> Event:
    state, why = begun(seen, stranger)
    return Event(
        seen.id, account, seen.type, seen.livemode, seen.created_at, seen.object_id, seen.charge, seen.refund,
        seen.payment_intent, seen.request, seen.status, seen.amount_minor, seen.idempotency_key,
        unit.now, source, state, 0, unit.now, why, seen.raw,
    )  # fmt: skip


# For whoever follows


def waiting(unit: Unit, account: str, most: int, *, raw: bool = False) -> list[Event]:
    """Tell the events that are due, those due first first.

    Nobody holds them: to apply one twice changes nothing, so two processes may take the same.

    Args:
        unit: The open unit; one that only reads is enough.
        account: The account's name in our tables.
        most: How many at most.
        raw: Whether their bodies are wanted too.
    """
    return repository.due(unit, account, most, raw=raw)


def next_due(unit: Unit, account: str) -> float | None:
    """Tell when the next event of an account is due, by the database's clock; `None`, if none waits."""
    return repository.next_due(unit, account)


def applied(unit: Unit, keys: Iterable[Key]) -> int:
    """Note that what events hinted at is in our tables now; those that do not wait any more stay as they are."""
    return repository.applied(unit, keys)


def put_off(unit: Unit, keys: Iterable[Key], due_at: float, why: str) -> None:
    """Let events wait until `due_at`, and say why; after `TRIES_MAX` times they are parked, for a person to look at."""
    repository.put_off(unit, keys, due_at, why)


def park(unit: Unit, keys: Iterable[Key]) -> None:
    """Park waiting events that do not say what they are about, for the reason that they were parked for before."""
    repository.park(unit, keys, SILENT)


def forget(unit: Unit, before: float, most: int) -> int:
    """Forget events that were applied or ignored and came before then, the oldest first; tells how many.

    Those that wait or are parked are kept, however old they are. Should one that is forgotten come again, it is applied again, which changes
    nothing: what it is about is read anew.
    """
    return repository.forget(unit, before, most)


# For operators


def find(unit: Unit, event: str, account: str | None = None) -> Event:
    """Tell an event, with its body.

    Args:
        unit: The open unit.
        event: Stripe's `evt_…`.
        account: Whose it is, where one id was stored for several accounts, as an event of a Connect platform may be.

    Raises:
        NoSuchEvent: There is none; or `event_ambiguous`.
    """
    found = [one for one in repository.of_id(unit, event) if account in {None, one.account}]
    if len(found) > 1:
        told = ", ".join(one.account.partition("|")[0] for one in found)
        text = f"{event} was stored for {len(found)} accounts, say which with --account: {told}"
        raise NoSuchEvent(text, code="event_ambiguous", event=event)
    if not found:
        raise NoSuchEvent(
            f"there is no event {event:.80} here: `refundry inbox list` shows those that came; `refundry catch-up` asks Stripe for those that did not",
            event=event,
        )
    return found[0]


def page(unit: Unit, search: Search, most: int, after: Event | None = None) -> list[Event]:
    """Tell the events that a search finds, without their bodies, the last received first, from the one after `after` on."""
    return repository.page(unit, search, most, after)


def counts(unit: Unit, account: str | None = None) -> dict[State, int]:
    """Count the events of an account, or of all, by state."""
    return repository.counts(unit, account)


def oldest_waiting(unit: Unit, account: str | None = None) -> float | None:
    """Tell when the waiting event that came first was received; `None`, if none waits."""
    return repository.oldest_waiting(unit, account)


def open_counts(unit: Unit, account: str) -> dict[State, int]:
    """Count the events of an account that wait, and those that are parked; cheap, however many are over."""
    return repository.open_counts(unit, account)


def last_received(unit: Unit, account: str, source: Source | None = None) -> float | None:
    """Tell when the last event of an account came in some way, or in any; `None`, if none ever did."""
    return repository.last_received(unit, account, source)


def replay(unit: Unit, actor: Actor, event: Event) -> None:
    """Have an event applied again, whatever became of it; one that does not say what it is about will be parked again.

    Raises:
        EventStays: `event_not_handled`, `event_of_other_account`: nothing would follow it.
    """
    if event.type not in HANDLED:
        raise EventStays(
            f"{event.id} is of type {event.type}, which changes nothing here: there is nothing to apply", event=event.id
        )
    if event.account not in {one.name for one in accounts.known(unit)}:
        name, _, mode = event.account.partition("|")
        raise EventStays(
            f"{event.id} is of {name} ({mode}), which is not served here: set a key for that account first",
            code="event_of_other_account",
            event=event.id,
        )
    # One that says nothing is parked again, and then for the same reason.
    kept = event.why if event.says_nothing and event.state is State.PARKED else ""
    repository.move(unit, [event.key], tuple(State), State.WAITING, kept)
    audit.record(unit, actor, "event.replayed", event.id, {"account": event.account, "from": event.state.value})


def ignore(unit: Unit, actor: Actor, event: Event, why: str) -> None:
    """Take an event off the list of those that wait or are parked.

    Raises:
        EventStays: `event_already_applied`: it is too late.
    """
    before: Sequence[State] = (State.WAITING, State.PARKED)
    if event.state is State.IGNORED:
        return
    if repository.move(unit, [event.key], before, State.IGNORED, why) == 0:
        raise EventStays(
            f"{event.id} was applied already, and what it hinted at is in the tables: there is nothing to ignore",
            code="event_already_applied",
            event=event.id,
        )
    audit.record(unit, actor, "event.ignored", event.id, {"account": event.account, "why": why})
