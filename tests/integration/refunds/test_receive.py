"""Taking requests in: the request key decides who is the same."""

from __future__ import annotations

import pytest

from refundry.refunds import service as refunds
from refundry.refunds.model import State
from refundry.refunds.service import Receipt
from tests.support.builders import content, refund_request
from tests.support.hand import ADA, Hand

pytestmark = pytest.mark.integration


def test_same_key_same_content_is_the_same_request(hand: Hand) -> None:
    (first,) = hand.receive(refund_request())
    (again,) = hand.receive(refund_request())
    assert (first.receipt, again.receipt) == (Receipt.NEW, Receipt.SAME)
    assert first.request == again.request
    assert [entry.event for entry in hand.timeline(first.request.id)] == ["refund_request.received"]


@pytest.mark.parametrize(
    "change",
    [{"asked_minor": 1001}, {"asked_minor": None}, {"charge": "ch_2"}, {"reason": "duplicate"}, {"currency": "eur"}],
)
def test_same_key_other_content_is_a_conflict_and_changes_nothing(hand: Hand, change: dict[str, object]) -> None:
    (first,) = hand.receive(refund_request())
    (again,) = hand.receive(refund_request(asked=content(**change)))
    assert again.receipt is Receipt.CONFLICT
    assert again.request == first.request
    assert len(hand.claim()) == 1


def test_the_first_metadata_wins(hand: Hand) -> None:
    (first,) = hand.receive(refund_request(asked=content(metadata={"agent": "Ada"})))
    (again,) = hand.receive(refund_request(asked=content(metadata={"agent": "Bob"})))
    assert again.receipt is Receipt.SAME
    assert again.request.content.metadata == first.request.content.metadata == {"agent": "Ada"}


def test_the_same_key_twice_in_one_go_is_one_request(hand: Hand) -> None:
    twice = refund_request("key:1"), refund_request("key:2"), refund_request("key:1"), refund_request("key:2")
    told = hand.receive(*twice)
    assert [one.receipt for one in told] == [Receipt.NEW, Receipt.NEW, Receipt.SAME, Receipt.SAME]
    assert told[0].request == told[2].request


def test_the_first_content_of_one_go_is_kept(hand: Hand) -> None:
    told = hand.receive(refund_request(), refund_request(asked=content(asked_minor=5)))
    assert [one.receipt for one in told] == [Receipt.NEW, Receipt.CONFLICT]
    assert told[1].request.content.asked_minor == 1000


def test_requests_keep_the_order_in_which_they_were_handed_in(hand: Hand) -> None:
    wanted = [refund_request(f"key:{n}", asked=content(charge=f"ch_{n % 7}")) for n in range(300)]
    hand.receive(*wanted[:200])
    hand.receive(*wanted[100:])
    order = []
    while got := hand.claim(most=7):
        order += [claimed.request.id for claimed in got]
        for claimed in got:
            hand.judge(claimed, known=False)
    by_charge = {n: [q.id for at, q in enumerate(wanted) if at % 7 == n] for n in range(7)}
    for n, ids in by_charge.items():
        assert [one for one in order if one in ids] == ids, n


@pytest.mark.parametrize("hold", [False, True])
def test_more_requests_are_read_at_once_than_a_statement_takes_parameters(hand: Hand, *, hold: bool) -> None:
    first, second = (one.request for one in hand.receive(refund_request("key:1"), refund_request("key:2")))
    # So many rows of a large batch may wait for a person.
    ids = [second.id, *(f"request-{number}" for number in range(70_000)), first.id]
    assert list(hand.unit(lambda unit: refunds.many(unit, ids, hold=hold)).values()) == [first, second]


def test_what_waits_for_a_person_is_left_out_and_what_waits_in_line_is_not(hand: Hand) -> None:
    free, held, in_line = (one.request for one in hand.receive(*(refund_request(f"key:{n}") for n in range(3))))
    hand.unit(lambda unit: refunds.stop(unit, [held.id], ADA))
    hand.unit(lambda unit: refunds.make_wait(unit, [in_line.id], ADA))
    ids = [in_line.id, held.id, free.id]
    assert list(hand.unit(lambda unit: refunds.but_for_waiting(unit, ids, refunds.IN_LINE))) == [free.id, in_line.id]


def test_nothing_handed_in_is_nothing(hand: Hand) -> None:
    assert hand.receive() == []


def test_every_word_of_a_request_is_kept(hand: Hand) -> None:
    asked = content(
        asked_minor=None, ticket_id="T1", metadata={"ü": "ß", "a": "1"}, refund_application_fee=True, reverse_transfer=False,
        reason="duplicate",
    )  # fmt: skip
    request = refund_request(
        asked=asked, allowed=frozenset({"re_x", "r-2"}), allow_inquiry=True, due_at=hand.clock.now()
    )
    (told,) = hand.receive(request)
    assert told.request == request
    assert told.request.state is State.RECEIVED
