"""A unit that has waited for a charge while another changed it: what that one wrote is of the past by then, not of the future."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from refundry.charges import service as charges
from refundry.disputes import service as disputes
from refundry.disputes.model import Phase
from refundry.follow import service as follow
from refundry.gateways.base import Look, SeenDispute
from refundry.infra.inspection import postgres_facts
from refundry.kernel.outcome import Accepted, Answer
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from tests.support.builders import ACCOUNT, CHARGE, look, refund_request, seen_refund
from tests.support.clock import HandClock
from tests.support.database import HandDatabase, emptied
from tests.support.hand import ORDER_KEY, TICK, Hand

pytestmark = pytest.mark.integration

INQUIRY = SeenDispute("du_1", "warning_needs_response", 10_000, refundable=True, created_at=1.0)
CHARGEBACK = replace(INQUIRY, status="needs_response", refundable=False)


@pytest.fixture
def hand(postgres_address: str, clock: HandClock) -> Iterator[Hand]:
    # On SQLite a unit that may write is alone, and its time begins when the other is over.
    with emptied(postgres_address, clock) as database:
        yield Hand(database, clock)


@pytest.fixture
def other(hand: Hand) -> Iterator[Hand]:
    database = HandDatabase(hand.database.url, hand.clock)
    yield Hand(database, hand.clock, "lease-2")
    database.close()


def _paid(hand: Hand) -> RefundRequest:
    hand.looked()
    intent = hand.intended(refund_request())
    request = hand.find(intent)
    mark = {"refundry_request_id": request.id}
    refund = seen_refund("re_1", amount_minor=request.amount_minor, status="pending", metadata=mark)
    hand.record(intent, Accepted(refund, Answer()))
    return hand.find(request)


def _look(hand: Hand, request: RefundRequest, status: str) -> Look:
    """See the charge as it is at this moment."""
    hand.clock.move(TICK)
    mark = {"refundry_request_id": request.id}
    refund = seen_refund("re_1", amount_minor=request.amount_minor, status=status, metadata=mark)
    return look(refunds=(refund,), began_at=hand.clock.now())


def test_a_look_that_a_failure_has_overtaken_is_dropped(hand: Hand, other: Hand) -> None:
    request = _paid(hand)
    old = _look(hand, request, "succeeded")
    with hand.database.unit() as unit:
        failed = replace(_look(hand, request, "failed").refunds[0], failure_reason="declined")
        began = hand.clock.now()
        other.unit(lambda theirs: refunds.heard(theirs, ACCOUNT, failed, began))
        hand.clock.move(TICK)
        assert not follow.take_look(unit, ACCOUNT, old, ORDER_KEY)
    assert hand.find(request).state is State.FAILED
    assert hand.charge().unrefunded_minor == hand.charge().captured_minor
    assert hand.breaks() == []


def test_a_read_that_a_failure_has_overtaken_is_made_again(hand: Hand, other: Hand) -> None:
    request = _paid(hand)
    began = hand.clock.now()
    old = _look(hand, request, "succeeded").refunds[0]
    with hand.database.unit() as unit:
        failed = _look(hand, request, "failed").refunds[0]
        other.unit(lambda theirs: refunds.heard(theirs, ACCOUNT, failed, hand.clock.now()))
        hand.clock.move(TICK)
        assert not refunds.heard(unit, ACCOUNT, old, began)
    assert hand.find(request).state is State.FAILED
    assert hand.breaks() == []


def test_a_dispute_that_another_look_has_shown_does_not_go_away(hand: Hand, other: Hand) -> None:
    hand.looked()
    hand.clock.move(TICK)
    old = look(began_at=hand.clock.now())
    with hand.database.unit() as unit:
        hand.clock.move(TICK)
        new = look(began_at=hand.clock.now(), disputes=(CHARGEBACK,))
        assert other.unit(lambda theirs: follow.take_look(theirs, ACCOUNT, new, ORDER_KEY))
        hand.clock.move(TICK)
        assert not follow.take_look(unit, ACCOUNT, old, ORDER_KEY)
    assert hand.charge().disputes


def test_a_dispute_stays_as_the_later_look_has_shown_it(hand: Hand, other: Hand) -> None:
    hand.looked()
    hand.clock.move(TICK)
    began = hand.clock.now()
    with hand.database.unit() as unit:
        hand.clock.move(TICK)
        new = look(began_at=hand.clock.now(), disputes=(CHARGEBACK,))
        assert other.unit(lambda theirs: follow.take_look(theirs, ACCOUNT, new, ORDER_KEY))
        hand.clock.move(TICK)
        assert not disputes.seen(unit, ACCOUNT, CHARGE, [INQUIRY], began)
    with hand.database.reading() as unit:
        assert [one.phase for one in disputes.of_charge(unit, CHARGE)] == [Phase.CHARGEBACK]


def test_of_two_that_see_a_charge_first_the_later_look_stays(hand: Hand, other: Hand) -> None:
    """There is no row to hold yet; what the later look has shown is not written over by the one that began before."""
    old = look(began_at=hand.clock.now())
    hand.clock.move(TICK)
    new = look(began_at=hand.clock.now(), disputes=(CHARGEBACK,))
    hand.clock.move(TICK)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(1) as thread:
        with hand.database.unit() as unit:
            charges.hold_still(unit, CHARGE)
            taken = thread.submit(other.unit, lambda theirs: follow.take_look(theirs, ACCOUNT, new, ORDER_KEY))
            # Until that one waits for this, or is over.
            while not taken.done() and not unit.direct.exec_driver_sql(waiting).scalar_one():
                pass
            follow.take_look(unit, ACCOUNT, old, ORDER_KEY)
        assert taken.result()
    assert hand.charge().disputes
    assert hand.charge().looked_at == new.began_at


def test_a_unit_that_sees_a_charge_first_is_not_counted_as_a_process_of_its_own(hand: Hand, other: Hand) -> None:
    with hand.database.unit() as unit:
        charges.hold_still(unit, CHARGE)
        assert other.unit(postgres_facts).workers == ()
