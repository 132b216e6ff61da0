"""An event is stored once, handed out until it is applied, and an operator can find, replay and ignore it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.audit import service as audit
from refundry.inbox import service as inbox
from refundry.inbox.model import TRIES_MAX, Door, Event, EventStays, NoSuchEvent, Search, Source, State
from refundry.inbox.rules import whose
from refundry.infra.db import Database, Unit
from refundry.kernel.actor import SYSTEM
from tests.support.clock import HandClock
from tests.support.events import seen

pytestmark = pytest.mark.integration

OURS, OTHERS = Account("acct_1", "test"), Account("acct_2", "test")
US, THEM = OURS.name, OTHERS.name


@pytest.fixture(autouse=True)
def _stamped(database: Database) -> None:
    with database.unit() as unit:
        accounts.stamp(unit, OURS, beside=[US])


def store(database: Database, *events: str, account: str = US, **parts: object) -> int:
    with database.unit() as unit:
        return inbox.store(unit, account, [seen(event, **parts) for event in events], Source.WEBHOOK)  # type: ignore[arg-type]


def waiting(database: Database, account: str = US, most: int = 100) -> list[str]:
    with database.reading() as unit:
        return [event.id for event in inbox.waiting(unit, account, most)]


def the(database: Database, event: str) -> Event:
    with database.reading() as unit:
        return inbox.find(unit, event)


def test_an_event_is_stored_once_however_often_it_comes(database: Database) -> None:
    assert store(database, "evt_1", "evt_2") == 2
    assert store(database, "evt_2", "evt_3", "evt_3") == 1
    assert store(database, "evt_1") == 0
    assert waiting(database) == ["evt_1", "evt_2", "evt_3"]


def test_events_of_one_commit_are_written_together_and_once(database: Database) -> None:
    store(database, "evt_0")
    with database.unit() as unit:
        for event in ("evt_2", "evt_1", "evt_2", "evt_0"):
            inbox.collect(unit, US, seen(event), Source.WEBHOOK)
    assert waiting(database) == ["evt_0", "evt_1", "evt_2"]


def test_all_parts_of_an_event_are_kept(database: Database, clock: HandClock) -> None:
    store(database, "evt_1")
    event = the(database, "evt_1")
    given = seen("evt_1")
    parts = "id type livemode created_at object_id charge refund payment_intent request status amount_minor idempotency_key raw"
    assert [getattr(event, part) for part in parts.split()] == [getattr(given, part) for part in parts.split()]
    assert (event.account, event.source, event.state, event.tries, event.why) == (
        US,
        Source.WEBHOOK,
        State.WAITING,
        0,
        "",
    )
    assert event.received_at == event.due_at == clock.now()


def test_the_same_id_of_two_accounts_is_two_events(database: Database) -> None:
    store(database, "evt_1")
    store(database, "evt_1", account=THEM)
    assert waiting(database) == waiting(database, THEM) == ["evt_1"]
    with database.reading() as unit:
        with pytest.raises(NoSuchEvent) as refused:
            inbox.find(unit, "evt_1")
        assert inbox.find(unit, "evt_1", THEM).account == THEM
    assert refused.value.code == "event_ambiguous"


NOBODYS = [
    whose(Door(door, (), frozenset(), ""), replace(seen(), account="acct_1"))[1]
    for door in ("acct_2|test", "acct_1|live")
]


def came(database: Database, way: str, *, why: str = "", source: Source = Source.WEBHOOK) -> None:
    """Let an event come in, one of a stranger if `why` says so, with its neighbours or by itself."""
    with database.unit() as unit:
        if way == "together":
            for event in ("evt_0", "evt_1", "evt_2"):
                inbox.collect(unit, US, seen(event, charge="ch_2" if why else "ch_1"), source, stranger=why)
        else:
            assert inbox.store(unit, US, [seen(event) for event in ("evt_1", "evt_3", "evt_1")], source) == 2


@pytest.mark.parametrize("way", ["together", "polled"])
@pytest.mark.parametrize("why", NOBODYS)
def test_an_event_that_came_by_a_strangers_door_first_is_applied_once_it_comes_by_its_own(
    database: Database, clock: HandClock, way: str, why: str
) -> None:
    came(database, "together", why=why)
    assert waiting(database) == []
    clock.move(60)
    came(database, way, source=Source.POLL)
    event = the(database, "evt_1")
    assert (event.state, event.why, event.source, event.charge) == (State.WAITING, "", Source.POLL, "ch_1")
    assert event.received_at == event.due_at == clock.now()
    assert "evt_1" in waiting(database)
    with database.unit() as unit:
        assert inbox.applied(unit, [(US, "evt_1")]) == 1
    came(database, "together", why=why)
    came(database, "together")
    assert the(database, "evt_1").state is State.APPLIED


@pytest.mark.parametrize("way", ["together", "polled"])
@pytest.mark.parametrize("why", ["noise", *NOBODYS])
def test_what_a_person_has_ignored_stays_so_however_it_comes_again(
    database: Database, clock: HandClock, way: str, why: str
) -> None:
    store(database, "evt_1")
    clock.move(1)
    with database.unit() as unit:
        inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_1"), why)
    clock.move(60)
    with database.unit() as unit:
        if way == "together":
            inbox.collect(unit, US, seen("evt_1"), Source.WEBHOOK)
        else:
            assert inbox.store(unit, US, [seen("evt_1")], Source.POLL) == 0
    assert (the(database, "evt_1").state, the(database, "evt_1").why) == (State.IGNORED, why)


def test_an_event_that_comes_by_both_doors_in_one_commit_is_applied(database: Database) -> None:
    for event, whys in (("evt_1", ("", NOBODYS[0])), ("evt_2", (NOBODYS[0], ""))):
        with database.unit() as unit:
            for why in whys:
                inbox.collect(unit, US, seen(event), Source.WEBHOOK, stranger=why)
    assert waiting(database) == ["evt_1", "evt_2"]


@pytest.mark.parametrize(
    ("kind", "trouble", "state"),
    [
        ("refund.updated", "", State.WAITING),
        ("invoice.paid", "", State.IGNORED),
        ("refund.updated", "it has no id", State.PARKED),
        ("invoice.paid", "it has no id", State.IGNORED),
    ],
)
def test_only_what_can_be_applied_waits(database: Database, kind: str, trouble: str, state: State) -> None:
    store(database, "evt_1", kind=kind, trouble=trouble)
    assert the(database, "evt_1").state is state
    assert waiting(database) == (["evt_1"] if state is State.WAITING else [])


def test_the_oldest_wait_first_without_their_bodies_and_no_more_than_asked(
    database: Database, clock: HandClock
) -> None:
    store(database, "evt_9")
    clock.move(1)
    store(database, "evt_1", "evt_2")
    assert waiting(database) == ["evt_9", "evt_1", "evt_2"]
    assert waiting(database, most=2) == ["evt_9", "evt_1"]
    with database.reading() as unit:
        assert {event.raw for event in inbox.waiting(unit, US, 9)} == {None}
        assert b"evt_9" in (inbox.waiting(unit, US, 1, raw=True)[0].raw or b"")


def test_an_applied_event_waits_no_more(database: Database) -> None:
    store(database, "evt_1", "evt_2")
    store(database, "evt_1", account=THEM)
    with database.unit() as unit:
        assert inbox.applied(unit, [(US, "evt_1")]) == 1
        assert inbox.applied(unit, [(US, "evt_1"), (US, "evt_404")]) == 0
    assert (waiting(database), waiting(database, THEM)) == (["evt_2"], ["evt_1"])


def test_an_event_that_is_put_off_comes_back_and_is_parked_in_the_end(database: Database, clock: HandClock) -> None:
    store(database, "evt_1", "evt_2")
    for tries in range(1, TRIES_MAX + 1):
        with database.unit() as unit:
            inbox.put_off(unit, [(US, "evt_1")], unit.now + 10, "Stripe is away")
            assert inbox.next_due(unit, US) is not None
        assert waiting(database) == ["evt_2"]
        clock.move(10)
        event = the(database, "evt_1")
        assert (event.tries, event.why) == (tries, "Stripe is away")
        assert event.state is (State.PARKED if tries == TRIES_MAX else State.WAITING)
    assert waiting(database) == ["evt_2"]


def test_what_waits_next_is_told(database: Database, clock: HandClock) -> None:
    with database.unit() as unit:
        assert inbox.next_due(unit, US) is None
        assert inbox.oldest_waiting(unit) is None
    store(database, "evt_1")
    with database.unit() as unit:
        inbox.put_off(unit, [(US, "evt_1")], unit.now + 10, "later")
        assert inbox.next_due(unit, US) == clock.now() + 10
        assert inbox.oldest_waiting(unit) == inbox.oldest_waiting(unit, US) == clock.now()


@pytest.mark.parametrize("state", ["applied", "parked", "ignored"])
def test_any_event_can_be_replayed_and_that_is_on_record(database: Database, state: str) -> None:
    store(database, "evt_1")
    with database.unit() as unit:
        if state == "applied":
            inbox.applied(unit, [(US, "evt_1")])
        elif state == "parked":
            for _ in range(TRIES_MAX):
                inbox.put_off(unit, [(US, "evt_1")], unit.now, "no")
        else:
            inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_1"), "noise")
    assert waiting(database) == []
    with database.unit() as unit:
        inbox.replay(unit, SYSTEM, inbox.find(unit, "evt_1"))
    assert waiting(database) == ["evt_1"]
    assert (the(database, "evt_1").tries, the(database, "evt_1").why) == (0, "")
    with database.reading() as unit:
        entry = audit.of_event(unit, "event.replayed")[0]
    assert (entry.subject, entry.facts["from"]) == ("evt_1", state)


def test_what_nothing_would_follow_is_not_replayed(database: Database) -> None:
    store(database, "evt_1", kind="invoice.paid")
    store(database, "evt_2", account=THEM)
    for event, code in (("evt_1", "event_not_handled"), ("evt_2", "event_of_other_account")):
        with database.unit() as unit, pytest.raises(EventStays) as refused:
            inbox.replay(unit, SYSTEM, inbox.find(unit, event))
        assert refused.value.code == code


def test_an_ignored_event_is_not_applied_and_an_applied_one_not_ignored(database: Database) -> None:
    store(database, "evt_1", "evt_2")
    with database.unit() as unit:
        inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_1"), "noise")
        inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_1"), "noise")
        inbox.applied(unit, [(US, "evt_1"), (US, "evt_2")])
    assert (the(database, "evt_1").state, the(database, "evt_1").why) == (State.IGNORED, "noise")
    with database.unit() as unit, pytest.raises(EventStays) as refused:
        inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_2"), "noise")
    assert refused.value.code == "event_already_applied"
    with database.reading() as unit:
        assert len(audit.of_event(unit, "event.ignored")) == 1


def test_events_are_found_by_what_they_are_about(database: Database, clock: HandClock) -> None:
    store(database, "evt_1", kind="refund.created")
    clock.move(1)
    store(database, "evt_2", kind="charge.dispute.created", charge="ch_2", refund=None)
    store(database, "evt_3", kind="charge.dispute.closed", charge="ch_2", refund=None, account=THEM)
    store(database, "evt_4", kind="charge.refunded", charge="ch_2", refund=None)

    def found(**search: object) -> list[str]:
        with database.reading() as unit:
            return [event.id for event in inbox.page(unit, Search(**search), 10)]  # type: ignore[arg-type]

    assert found() == ["evt_4", "evt_3", "evt_2", "evt_1"]
    assert found(type="charge.dispute.*") == ["evt_3", "evt_2"]
    assert found(type="charge.dispute") == []
    assert found(type="*") == found()
    assert found(type="refund.created") == found(object_id="re_1") == found(charge="ch_1") == ["evt_1"]
    assert found(charge="ch_2", account=US) == ["evt_4", "evt_2"]
    assert found(state=State.PARKED) == []
    with database.reading() as unit:
        first = inbox.page(unit, Search(), 2)
        rest = inbox.page(unit, Search(), 9, first[-1])
        assert [event.id for event in rest] == ["evt_2", "evt_1"]
        assert inbox.counts(unit) == {State.WAITING: 4, State.APPLIED: 0, State.IGNORED: 0, State.PARKED: 0}
        assert inbox.counts(unit, THEM)[State.WAITING] == 1
        assert inbox.last_received(unit, US, Source.WEBHOOK) == clock.now()
        assert inbox.last_received(unit, US, Source.POLL) is None
        with pytest.raises(NoSuchEvent):
            inbox.find(unit, "evt_404")


class UndoneError(Exception):
    """Ends a unit of which nothing is kept."""


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("charge.dispute.*", 2), ("charge.*", 3), ("*", 4), ("charge.dispute", 0), ("charge_dispute.*", 0), ("%*", 0), ("CHARGE.*", 0)],
)  # fmt: skip
def test_types_that_begin_alike_are_found_however_the_database_sorts(
    database: Database, pattern: str, found: int
) -> None:
    for at, kind in enumerate(("charge.dispute.created", "charge.dispute.closed", "charge.refunded", "refund.updated")):
        store(database, f"evt_{at}", kind=kind)
    # How types are sorted is undone with the rest of the unit.
    with suppress(UndoneError), database.unit() as unit:
        sort_as_words(unit)
        assert len(inbox.page(unit, Search(type=pattern), 10)) == found
        raise UndoneError


def sort_as_words(unit: Unit) -> None:
    """Have types sorted as a language sorts words, which passes dots over; on Postgres only where it knows a language."""
    connection = unit.connection
    if unit.postgres:
        known = "SELECT collname FROM pg_collation WHERE collname IN ('und-x-icu', 'en_US.utf8') LIMIT 1"
        if (name := connection.exec_driver_sql(known).scalar()) is not None:
            connection.exec_driver_sql(f'ALTER TABLE inbox_events ALTER COLUMN type TYPE text COLLATE "{name}"')
        return

    def letters(text: str) -> str:
        return "".join(sign for sign in text if sign.isalpha())

    def compare(one: str, other: str) -> int:
        return (letters(one) > letters(other)) - (letters(one) < letters(other))

    connection.connection.dbapi_connection.create_collation("words", compare)  # type: ignore[union-attr]
    for statement in ("RENAME COLUMN type TO kept", "ADD COLUMN type TEXT COLLATE words"):
        connection.exec_driver_sql(f"ALTER TABLE inbox_events {statement}")
    connection.exec_driver_sql("UPDATE inbox_events SET type = kept")


def test_more_events_than_one_statement_takes_are_applied_together(database: Database) -> None:
    many = [f"evt_{number}" for number in range(2500)]
    assert store(database, *many) == 2500
    with database.unit() as unit:
        assert inbox.applied(unit, [(US, event) for event in many]) == 2500
    assert waiting(database) == []
