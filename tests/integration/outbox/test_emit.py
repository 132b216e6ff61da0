"""A message is written with its cause or not at all, once, and only if somebody wants it; an order is told of when it has changed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.charges import service as charges
from refundry.infra.db import Unit, metadata
from refundry.kernel.outcome import NotTakenWhy
from refundry.outbox import service as outbox
from refundry.outbox.model import Kind, Wants
from refundry.refunds import service as refunds
from tests.integration.outbox.conftest import kinds, wanting, written
from tests.support.builders import accepted, content, declined, look, not_taken, refund_request, seen_refund
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ADA, Hand

pytestmark = pytest.mark.integration


def paid(hand: Hand, key: str = "key:1", amount: int = 1000, **more: str) -> str:
    intent = hand.intended(refund_request(key, asked=content(asked_minor=amount)))
    hand.record(intent, accepted(intent.claimed.request, refund_id="re_" + key, **more))
    hand.looked(metadata={"order_id": "o1"}, refunds=hand.charge().refunds)
    return intent.claimed.request.id


def test_a_refund_is_told_step_by_step_and_its_order_at_the_end(hand: Hand) -> None:
    paid(hand)
    assert kinds(hand.database) == ["received", "approved", "submitting", "settled", "refunded_changed"]
    last = written(hand.database)[-1].message
    assert (last.payload["refunded"], last.payload["refunded_minor"]) == ("partial", 1000)
    assert {one.message.order_id for one in written(hand.database)} == {"o1"}


def test_what_was_told_before_its_order_was_known_comes_before_the_rest(
    database: HandDatabase, clock: HandClock
) -> None:
    """A request may come before its charge was ever looked at: that message belongs to no order yet, and may have to be sent again."""
    wanting(database)
    hand = Hand(database, clock)
    hand.receive(refund_request())
    (first,) = written(database)
    assert first.message.order_id is None
    hand.looked(metadata={"order_id": "o1"})
    hand.judge(hand.claimed_one())
    assert kinds(database) == ["received", "approved"]

    def claim(unit: Unit) -> list[str]:
        due = outbox.claim(unit, "http", "lease", seconds=20, most=10)
        return [one.message.kind.value.partition(".")[2] for one in due]

    assert hand.unit(claim) == ["received"]
    with database.reading() as unit:
        assert outbox.behind(unit, written(database)[0]) == 1
    hand.unit(lambda unit: outbox.delivered(unit, "http", first.number, "HTTP 200"))
    assert hand.unit(claim) == ["approved"]


def test_a_request_and_the_order_are_told_in_words_of_their_own(hand: Hand) -> None:
    request = paid(hand, amount=10_000, status="pending")
    pending, order = (one.message.payload for one in written(hand.database)[-2:])
    assert (pending["request_id"], pending["state"], pending["refund"]) == (request, "pending", "re_key:1")
    assert (pending["captured_minor"], pending["refunded_minor"], pending["left_minor"]) == (10_000, 10_000, 0)
    assert order["refunded"] == "full"


def test_what_is_rolled_back_is_not_told(hand: Hand) -> None:
    def interrupted(unit: Unit) -> None:
        refunds.receive(unit, [refund_request()], ADA)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        hand.unit(interrupted)
    assert written(hand.database) == []


def test_the_same_request_handed_in_twice_is_told_once(hand: Hand) -> None:
    hand.receive(refund_request())
    hand.receive(refund_request())
    assert kinds(hand.database) == ["received"]


def test_the_same_message_written_twice_is_one_and_stays_delivered(hand: Hand) -> None:
    hand.receive(refund_request())
    (first,) = written(hand.database)
    hand.unit(lambda unit: outbox.delivered(unit, "http", first.number, "HTTP 200"))
    hand.unit(lambda unit: outbox.write(unit, [first.message], Wants({"http": frozenset(Kind)})))
    assert [(one.number, one.state.value) for one in written(hand.database)] == [(first.number, "delivered")]


def test_without_a_target_nothing_is_noted_or_written_and_no_statement_is_run(
    database: HandDatabase, clock: HandClock
) -> None:
    wanting(database, Wants({}))
    said: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda _c, _cursor, text, *_: said.append(text))
    hand = Hand(database, clock)
    hand.looked(metadata={"order_id": "o1"})
    with database.unit() as unit:
        refunds.receive(unit, [refund_request("key:0")], ADA)
        assert outbox.NAME not in unit.collected
    paid(hand)
    hand.found(replace(hand.charge().refunds[0], status="failed"))
    assert any("refund_requests" in text for text in said)
    assert [text for text in said if "outbox" in text] == []
    assert written(database) == []


def test_each_target_gets_the_kinds_that_it_wants(database: HandDatabase, clock: HandClock) -> None:
    wanting(
        database, Wants({"http": frozenset({Kind.SETTLED, Kind.ORDER_CHANGED}), "sql": frozenset({Kind.ORDER_CHANGED})})
    )
    hand = Hand(database, clock)
    hand.looked(metadata={"order_id": "o1"})
    paid(hand)
    assert kinds(database, "http") == ["settled", "refunded_changed"]
    assert kinds(database, "sql") == ["refunded_changed"]
    with database.reading() as unit:
        assert len({one.message.id for one in written(database)}) == 2
        assert outbox.counts(unit) == {("http", "waiting"): 2, ("sql", "waiting"): 1}


def test_all_of_a_large_unit_is_told_in_its_order(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refundry.outbox.service.CAUSES_MAX", 2)
    keys = [f"key:{at}" for at in range(5)]
    hand.unit(lambda unit: refunds.receive(unit, [refund_request(key) for key in keys], ADA))
    assert kinds(hand.database) == ["received"] * 5
    assert [one.message.payload["request_id"] for one in written(hand.database)] == [
        refund_request(key).id for key in keys
    ]


def test_a_hold_is_told_when_it_is_put_on(hand: Hand) -> None:
    request = hand.receive(refund_request())[0].request
    for _ in range(2):
        hand.unit(lambda unit: refunds.stop(unit, [request.id], ADA))
    hand.unit(lambda unit: refunds.go_on(unit, [request.id], ADA))
    hand.unit(lambda unit: refunds.make_wait(unit, [request.id], ADA))
    assert kinds(hand.database) == ["received", "held", "held"]
    assert [one.message.payload["held"] for one in written(hand.database)[1:]] == ["stopped", "schedule"]


def test_what_stripe_did_not_take_goes_back_and_says_so(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, not_taken(NotTakenWhy.LOW_BALANCE))
    assert kinds(hand.database)[-1] == "held"
    assert written(hand.database)[-1].message.payload["state"] == "approved"


def test_a_refusal_is_not_told_before_it_is_believed(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, declined())
    assert kinds(hand.database)[-1] == "submitting"


def test_a_person_withdraws_and_reopens(hand: Hand) -> None:
    request = hand.receive(refund_request())[0].request
    hand.unit(lambda unit: refunds.withdraw(unit, request.id, ADA, "kept it"))
    hand.unit(lambda unit: refunds.reopen(unit, request.id, ADA))
    assert kinds(hand.database) == ["received", "withdrawn", "received"]
    assert written(hand.database)[1].message.payload["text"] == "kept it"


def test_a_refund_made_by_others_is_told_of_its_order_alone(hand: Hand) -> None:
    hand.looked(metadata={"order_id": "o1"}, refunds=(seen_refund(),))
    hand.looked(metadata={"order_id": "o1"}, refunds=(seen_refund(),))
    hand.found(seen_refund("re_2", amount_minor=9000))
    told = [one.message.payload for one in written(hand.database)]
    assert [(one["refunded"], one["refunded_minor"]) for one in told] == [("partial", 1000), ("full", 10_000)]


def test_an_order_goes_back_when_its_refund_fails_and_forth_again(hand: Hand) -> None:
    for status in ("succeeded", "failed"):
        hand.found(seen_refund(status=status))
    hand.found(seen_refund("re_2"))
    orders = [one.message for one in written(hand.database)]
    assert [one.payload["refunded"] for one in orders] == ["partial", "none", "partial"]
    versions = [one.payload["order_version"] for one in orders]
    assert versions == sorted(set(versions))
    assert len({one.id for one in orders}) == 3


def test_a_database_that_was_lost_tells_of_its_orders_anew(hand: Hand) -> None:
    """Under new ids, and as newer than what the order system knows: told as old, it would be thrown away there."""
    hand.found(seen_refund())
    [before] = [one.message for one in written(hand.database)]
    with hand.database.unit() as unit:
        for table in metadata.sorted_tables:
            unit.connection.execute(sa.delete(table))
    hand.clock.move(60)
    hand.looked(metadata={"order_id": "o1"})
    hand.found(seen_refund(amount_minor=2000))
    [after] = [one.message for one in written(hand.database)]
    assert after.id != before.id
    assert after.payload["order_version"] > before.payload["order_version"]


def test_an_order_of_two_charges_is_full_when_both_are(hand: Hand) -> None:
    hand.looked("ch_2", metadata={"order_id": "o1"})
    hand.looked("ch_3", metadata={"order_id": "o3"})
    hand.found(seen_refund(amount_minor=10_000))
    hand.found(seen_refund("re_2", charge="ch_2", amount_minor=10_000))
    told = [one.message.payload for one in written(hand.database)]
    assert [one["refunded"] for one in told] == ["partial", "full"]
    assert [len(one["charges"]) for one in told] == [2, 2]
    assert {one.message.ordering_key for one in written(hand.database)} == {"acct_1|test|order|o1"}


def test_an_order_that_was_told_as_full_is_partial_once_another_charge_of_it_is_known(hand: Hand) -> None:
    hand.found(seen_refund(amount_minor=10_000))
    hand.looked("ch_2", metadata={"order_id": "o1"})
    assert [one.message.payload["refunded"] for one in written(hand.database)] == ["full", "partial"]


def test_an_order_of_another_account_with_the_same_name_is_another(hand: Hand) -> None:
    def mirror(unit: Unit) -> None:
        charges.mirror(unit, "acct_2|test", [look("ch_9", metadata={"order_id": "o1"}, began_at=unit.now)], "order_id")

    hand.unit(mirror)
    hand.found(seen_refund(amount_minor=10_000))
    (one,) = written(hand.database)
    assert (one.message.account, one.message.payload["refunded"]) == ("acct_1|test", "full")


def test_a_charge_without_an_order_has_messages_of_its_own_and_none_of_an_order(hand: Hand) -> None:
    hand.looked("ch_2")
    hand.receive(refund_request(asked=content(charge="ch_2")))
    hand.found(seen_refund("re_2", charge="ch_2"))
    (one,) = written(hand.database)
    assert (one.message.order_id, one.message.ordering_key) == (None, "acct_1|test|charge|ch_2")


def test_a_look_that_finds_nothing_given_back_writes_nothing(hand: Hand) -> None:
    hand.looked("ch_2", metadata={"order_id": "o2"})
    with hand.database.unit() as unit:
        assert outbox.hold_keys(unit, ["acct_1|test|order|o2"], make=[]) == {}


def test_what_happens_at_once_in_many_threads_is_numbered_in_the_order_of_its_commits(hand: Hand) -> None:
    """Both halves of an order are given back at once: whoever is second sees the first, and the last word is `full`."""
    for at in range(2, 10):
        hand.looked(f"ch_{at}", metadata={"order_id": "o1"})
    together = threading.Barrier(9)

    def give_back(at: int) -> None:
        together.wait(30)
        with hand.database.unit() as unit:
            refunds.found(unit, "acct_1|test", seen_refund(f"re_{at}", charge=f"ch_{at}", amount_minor=10_000))

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(give_back, range(1, 10)))
    told = [one.message.payload for one in written(hand.database)]
    assert [one["order_version"] for one in told] == sorted({one["order_version"] for one in told})
    assert [one["refunded_minor"] for one in told] == [10_000 * at for at in range(1, 10)]
    assert told[-1]["refunded"] == "full"
