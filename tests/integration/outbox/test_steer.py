"""What a person does with messages: each step is in the audit log, and bad input changes nothing."""

from __future__ import annotations

import pytest

from refundry.audit import service as audit
from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery, DeliveryState, MessageForbids, MessageUnknown, Queue
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ADA
from tests.support.messages import deliveries, message, story, write

pytestmark = pytest.mark.integration


def park(database: HandDatabase, *targets: str) -> None:
    """Try everything that is due once, in vain."""
    for target in targets or ("http",):
        with database.unit() as unit:
            for one in outbox.claim(unit, target, "lease", seconds=60, most=100):
                assert outbox.failed(unit, one, "lease", "HTTP 500", tries_max=1)


def states(database: HandDatabase) -> list[tuple[str, str]]:
    return [(one.target, one.state.value) for one in deliveries(database)]


def test_all_that_is_parked_is_sent_again_at_once(database: HandDatabase, clock: HandClock) -> None:
    write(database, story(orders=3, length=1), "http", "file")
    park(database, "http", "file")
    with database.unit() as unit:
        assert len(outbox.resend_parked(unit, ADA, target="file")) == 3
    assert sorted(set(states(database))) == [("file", "waiting"), ("http", "parked")]
    with database.unit() as unit:
        assert len(outbox.resend_parked(unit, ADA)) == 3
        assert outbox.resend_parked(unit, ADA) == []
    assert {(one.tries, one.due_at) for one in deliveries(database)} == {(0, clock.now())}


def test_who_dropped_a_message_and_why_is_in_the_audit_log(database: HandDatabase) -> None:
    write(database, [message()], "http", "sql")
    park(database, "http")
    with database.unit() as unit:
        outbox.drop(unit, message().id, ADA, "order is gone", target="http")
    assert states(database) == [("http", "dropped"), ("sql", "waiting")]
    with database.reading() as unit:
        (entry,) = audit.timeline(unit, message().id)
    assert (entry.actor, entry.event) == ("person:ada", "message.dropped")
    assert entry.facts == {"target": "http", "why": "order is gone"}


def test_what_is_over_cannot_be_dropped_and_what_is_not_there_is_told(database: HandDatabase) -> None:
    write(database, [message()])
    with database.unit() as unit:
        outbox.drop(unit, message().id, ADA, "first")
    with database.unit() as unit, pytest.raises(MessageForbids) as refused:
        outbox.drop(unit, message().id, ADA, "second")
    assert refused.value.code == "message_forbids"
    for action in (
        lambda unit: outbox.resend(unit, message().id, ADA, target="sql"),
        lambda unit: outbox.need(unit, "no"),
    ):
        with database.unit() as unit, pytest.raises(MessageUnknown) as unknown:
            action(unit)
        assert unknown.value.code == "message_unknown"
    assert deliveries(database)[0].told == "first"


def test_messages_are_paged_by_state_order_target_and_account(database: HandDatabase) -> None:
    write(database, story(orders=2, length=3), "http", "sql")
    park(database, "sql")
    with database.reading() as unit:
        assert len(outbox.page(unit, "acct_1|test", [])) == 12
        assert outbox.page(unit, "acct_2|test", []) == []
        assert len(outbox.page(unit, None, [DeliveryState.PARKED])) == 2
        assert len(outbox.page(unit, None, [], target="http", order="o1")) == 3
        first = outbox.page(unit, None, [], target="http", most=4)
        rest = outbox.page(unit, None, [], target="http", after=first[-1].place, most=4)
        assert [one.number for one in first + rest] == sorted((one.number for one in first + rest), reverse=True)
        assert len(rest) == 2


@pytest.mark.parametrize("most", range(1, 8))
def test_a_page_may_end_between_two_targets_of_a_message(database: HandDatabase, most: int) -> None:
    write(database, story(orders=4, length=1), "http", "sql", "file")
    seen: list[Delivery] = []
    with database.reading() as unit:
        while more := outbox.page(unit, None, [], after=seen[-1].place if seen else None, most=most):
            seen += more
        assert seen == outbox.page(unit, None, [], most=100)
    assert len(seen) == 12


def test_a_message_that_is_sent_again_holds_up_later_ones_of_its_order(database: HandDatabase) -> None:
    write(database, story(orders=1, length=2))
    with database.unit() as unit:
        (first,) = outbox.claim(unit, "http", "lease", seconds=60, most=9)
        outbox.delivered(unit, "http", first.number, "")
        outbox.resend(unit, first.message.id, ADA)
        assert [one.number for one in outbox.claim(unit, "http", "lease", seconds=60, most=9)] == [first.number]
        assert outbox.behind(unit, first) == 1


def test_what_each_target_was_not_told_is_counted_with_its_oldest(database: HandDatabase, clock: HandClock) -> None:
    with database.reading() as unit:
        assert outbox.queues(unit) == {}
    write(database, [message("o1", at=clock.now())])
    park(database)
    write(database, [message("o2", at=clock.now() - 9), message("o3", at=clock.now() - 5)], "http", "file")
    with database.unit() as unit:
        (first,) = outbox.claim(unit, "http", "lease", seconds=60, most=1)
        assert not outbox.failed(unit, first, "lease", "HTTP 503", tries_max=9)
    with database.reading() as unit:
        told = outbox.queues(unit)
    assert told == {
        "file": Queue(2, 0, clock.now() - 9, ""),
        "http": Queue(2, 1, clock.now() - 9, "HTTP 503"),
    }
