"""What a person has said of a batch holds also for what is on its way, waits for something else, or comes anew."""

from __future__ import annotations

import pytest

from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, BatchWithdrawn
from refundry.charges import service as charges
from refundry.cli.refund_create import Asked, take_in
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import NotTakenWhy
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, Hold, RefundRequest, State
from tests.integration.batches.conftest import Clerk
from tests.integration.batches.test_schedule import intend, pay, request, rows, scheduled, turn
from tests.support.builders import ACCOUNT, not_taken, seen_refund
from tests.support.hand import ADA


def at_the_desk(clerk: Clerk, row: RefundRequest) -> RefundRequest:
    """Have a person type what a row of a file asks for; tells the request as it is kept."""
    asked = Asked(
        references={"charge_id": row.content.charge}, amounts={"amount": "10.00"}, currency=None, ticket=row.content.ticket_id,
        key=None, reason=row.content.reason, allow_repeat=False, allow_inquiry=False, allow_fraudulent=False,
        cancel_uncaptured=False,
    )  # fmt: skip
    wanted = RefundRequest(row.id, row.account, row.request_key, row.content, lane=Lane.DESK)
    kept, new = clerk.unit(lambda unit: take_in(unit, wanted, asked))
    assert not new
    return kept


def test_a_row_that_a_person_asks_for_does_not_wait_for_those_before_it(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 3))
    kept = at_the_desk(clerk, request(clerk, batch, 3))
    assert (kept.lane, kept.state) == (Lane.DESK, State.RECEIVED)
    assert pay(clerk, lane=Lane.DESK) == [1000]
    assert [line.standing.value for line in clerk.lines(batch)] == ["waiting", "waiting", "paid"]
    assert at_the_desk(clerk, request(clerk, batch, 3)).state is State.SETTLED
    assert pay(clerk) == [1000, 1000]
    assert clerk.audit_is_sound()


def test_a_row_of_a_paused_batch_stays_paused_whoever_asks_for_it(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 2))
    at_the_desk(clerk, request(clerk, batch, 1))
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    for row in (1, 2):
        assert at_the_desk(clerk, request(clerk, batch, row)).hold == Hold(HeldReason.STOPPED)
    assert [pay(clerk, lane=lane) for lane in Lane] == [[], []]
    clerk.unit(lambda unit: batches.resume(unit, clerk.batch(batch), ADA))
    assert [pay(clerk, lane=lane) for lane in Lane] == [[1000], [1000]]


def test_a_row_takes_no_place_in_a_stage_by_a_persons_word(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 4), canary=(1, 2))
    turn(clerk, batch)
    third = at_the_desk(clerk, request(clerk, batch, 3))
    assert (third.hold, third.lane) == (Hold(HeldReason.SCHEDULE), Lane.BULK)
    assert at_the_desk(clerk, request(clerk, batch, 1)).lane is Lane.DESK
    turn(clerk, batch)
    assert [pay(clerk, lane=lane) for lane in Lane] == [[1000], []]
    turn(clerk, batch)
    assert [pay(clerk, lane=lane) for lane in Lane] == [[], [1000, 1000]]


def test_a_row_that_a_person_asks_for_counts_for_its_day_and_can_be_called_back(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), max_per_day="10.00")
    turn(clerk, batch)
    at_the_desk(clerk, request(clerk, batch, 1))
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    assert [pay(clerk, lane=lane) for lane in Lane] == [[], []]
    clerk.unit(lambda unit: batches.resume(unit, clerk.batch(batch), ADA))
    turn(clerk, batch)
    assert [pay(clerk, lane=lane) for lane in Lane] == [[1000], []]
    turn(clerk, batch)
    assert at_the_desk(clerk, request(clerk, batch, 2)).hold == Hold(HeldReason.SCHEDULE)
    assert [pay(clerk, lane=lane) for lane in Lane] == [[], []]


def test_a_withdrawn_row_that_a_person_asks_for_anew_waits_for_no_file(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 1))
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file"))
    assert at_the_desk(clerk, request(clerk, batch, 1)).state is State.RECEIVED
    assert pay(clerk, lane=Lane.DESK) == [1000]


def test_a_charge_found_by_a_retry_gets_its_turn_though_the_batch_had_come_to_rest(clerk: Clerk) -> None:
    head, body = rows(clerk, 3).split("\n", 1)
    batch = scheduled(clerk, head + "\nch_99,1.00,T99\n" + body, max_per_day="1000")
    for _ in range(4):
        turn(clerk, batch)
        pay(clerk)
    assert clerk.batch(batch).course.resting
    clerk.looked("ch_99")
    clerk.unit(lambda unit: batches.retry(unit, clerk.batch(batch), ADA))
    while clerk.plan(clerk.batch(batch)):
        pass
    assert pay(clerk) == []
    turn(clerk, batch)
    assert pay(clerk) == [100]
    turn(clerk, batch)
    turn(clerk, batch)
    assert clerk.batch(batch).course.resting


def test_what_comes_back_unpaid_after_its_batch_was_withdrawn_is_withdrawn_too_unless_a_person_wants_it(
    clerk: Clerk,
) -> None:
    batch = clerk.planned(rows(clerk, 1))
    (claimed,) = clerk.claim()
    intent = intend(clerk, claimed)
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file"))
    clerk.record(intent, not_taken(NotTakenWhy.RATE_LIMITED))
    clerk.unit(lambda unit: batches.came_back(unit, intent.attempt.request))
    clerk.clock.move(5)
    assert pay(clerk) == []
    # A person wants it after all.
    clerk.unit(lambda unit: refunds.reopen(unit, intent.attempt.request, ADA))
    clerk.looked("ch_1")
    (claimed,) = clerk.claim()
    intent = intend(clerk, claimed)
    clerk.record(intent, not_taken(NotTakenWhy.RATE_LIMITED))
    clerk.unit(lambda unit: batches.came_back(unit, intent.attempt.request))
    clerk.clock.move(5)
    assert pay(clerk) == [1000]


def test_a_paused_batch_stays_so_when_a_dispute_ends(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 1))
    clerk.unit(
        lambda unit: refunds.hold_disputed(
            unit, charges.find(unit, "ch_1"), unit.now + 10, "disputed", full_settles=False
        )
    )
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    clerk.unit(lambda unit: refunds.lift_disputed(unit, charges.find(unit, "ch_1")))
    clerk.looked("ch_1")
    assert pay(clerk) == []
    assert clerk.told(batch) == [("waiting", "stopped")]
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert pay(clerk) == [1000]


def test_a_repeat_that_nobody_has_read_of_is_named_before_it_may_pass(clerk: Clerk) -> None:
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000),))
    batch = clerk.planned("charge_id,amount,ticket_id\nch_1,10.00,T1\n")
    for claimed in clerk.claim():
        clerk.judge(claimed)
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000), seen_refund("re_y", amount_minor=1000)))
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    assert pay(clerk) == []
    assert "re_x" in clerk.lines(batch)[0].text
    assert "re_y" in clerk.lines(batch)[0].text
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    assert pay(clerk) == [1000]


def held_again(clerk: Clerk, batch: Batch, row: int, before: str, by: str) -> None:
    """See that an allowed row that goes on now is not paid, and names what has come since, and only that; allowed once more, it is paid."""
    assert pay(clerk) == []
    assert clerk.told(batch)[row - 1] == ("waiting", "possible_repeat"), clerk.told(batch)
    text = clerk.lines(batch)[row - 1].text
    assert (before in text, by in text) == (False, True), text
    assert clerk.unit(lambda unit: batches.allow_repeat(unit, batch, row, ADA))
    look_again(clerk)
    assert pay(clerk) == [1000]


def look_again(clerk: Clerk) -> None:
    """See at Stripe what was told or paid since."""
    clerk.looked("ch_1", refunds=clerk.charge("ch_1").refunds, payment_intent="pi_1")


@pytest.mark.parametrize("meanwhile", ["a pause", "an event", "a retry"])
def test_a_refund_that_came_after_a_row_was_allowed_holds_it_again(clerk: Clerk, meanwhile: str) -> None:
    by_hand = seen_refund("re_x", amount_minor=1000), seen_refund("re_y", amount_minor=1000)
    clerk.looked("ch_1", refunds=by_hand[:1])
    batch = clerk.planned("charge_id,amount,ticket_id\nch_1,10.00,T1\n")
    for claimed in clerk.claim():
        clerk.judge(claimed)
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    if meanwhile == "an event":
        clerk.unit(lambda unit: refunds.heard(unit, ACCOUNT, by_hand[1], clerk.clock.now()))
    elif meanwhile == "a pause":
        clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
        clerk.looked("ch_1", refunds=by_hand)
        clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    else:
        for claimed in clerk.claim():
            clerk.judge(claimed, known=False)
        assert clerk.told(batch) == [("refused", "charge_unknown")]
        clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
        clerk.looked("ch_1", refunds=by_hand)
    held_again(clerk, batch, 1, "re_x", "re_y")
    assert clerk.audit_is_sound()


def test_a_refund_that_was_allowed_holds_nothing_again_when_it_is_told_of_once_more(clerk: Clerk) -> None:
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000, status="pending"),))
    batch = clerk.planned("charge_id,amount,ticket_id\nch_1,10.00,T1\n")
    for claimed in clerk.claim():
        clerk.judge(claimed)
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    clerk.unit(lambda unit: refunds.heard(unit, ACCOUNT, seen_refund("re_x", amount_minor=1000), clerk.clock.now()))
    look_again(clerk)
    assert pay(clerk) == [1000]


def test_a_request_for_the_same_ticket_that_came_after_a_row_was_allowed_holds_it_again(clerk: Clerk) -> None:
    clerk.looked("ch_1", metadata={"order_id": "o1"})
    batch = clerk.planned("charge_id,order_id,amount,ticket_id\nch_1,,10.00,T1\n,o1,10.00,T1\n")
    first, second = (request(clerk, batch, row).id for row in (1, 2))
    assert pay(clerk) == [1000]
    look_again(clerk)
    assert pay(clerk) == []
    assert first in clerk.lines(batch)[1].text
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 2, ADA))
    clerk.unit(lambda unit: refunds.stop(unit, [second], ADA))
    other = clerk.planned("payment_intent,amount,ticket_id\npi_1,10.00,T1\n", "other.csv")
    assert pay(clerk) == []
    text = clerk.lines(other)[0].text
    assert first in text
    assert second in text, "all of them: what a person allows is what was named"
    clerk.unit(lambda unit: batches.allow_repeat(unit, other, 1, ADA))
    assert pay(clerk) == [1000]
    clerk.unit(lambda unit: refunds.go_on(unit, [second], ADA))
    held_again(clerk, batch, 2, first, request(clerk, other, 1).id)


def test_a_row_that_repeats_another_lets_no_other_row_go(clerk: Clerk) -> None:
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000),))
    batch = clerk.planned("charge_id,amount\nch_1,10.00\nch_1,10.00\n")
    for claimed in clerk.claim():
        clerk.judge(claimed)
    # Whoever has read of the second row has not read of the refund for which the first is held.
    assert clerk.told(batch) == [("waiting", "possible_repeat"), ("refused", "possible_repeat")]
    assert "re_x" not in clerk.lines(batch)[1].text
    assert not clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 2, ADA))
    assert pay(clerk) == []
    assert clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    assert pay(clerk) == [1000]


def test_what_is_held_as_a_twin_says_what_became_of_it(clerk: Clerk) -> None:
    clerk.looked("ch_1", metadata={"order_id": "o1"})
    batch = clerk.planned("charge_id,order_id,amount,ticket_id\nch_1,,10.00,T1\n,o1,10.00,T1\n")
    first = request(clerk, batch, 1).id
    (a,) = clerk.claim(most=1)
    clerk.judge(a)
    clerk.unit(lambda unit: refunds.stop(unit, [first], ADA))
    (b,) = clerk.claim(most=1)
    clerk.judge(b)
    assert first in clerk.lines(batch)[1].text
    clerk.unit(lambda unit: refunds.withdraw(unit, first, ADA, "no"))
    assert clerk.told(batch)[1] == ("waiting", "possible_repeat"), clerk.told(batch)
    assert "is withdrawn" in clerk.lines(batch)[1].text
    assert clerk.audit_is_sound()


def test_a_batch_that_is_held_up_sends_nothing_before_all_of_its_rows_are_stopped(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 3))
    claimed = clerk.claim(most=1)
    clerk.unit(lambda unit: batches.hold_up(unit, batch, ADA))
    clerk.unit(lambda unit: [batches.may_send(unit, one) for one in claimed])
    assert pay(clerk) == []
    assert clerk.batch(batch).state is BatchState.PAUSED
    clerk.unit(lambda unit: batches.pause(unit, clerk.batch(batch), ADA))
    clerk.unit(lambda unit: batches.resume(unit, clerk.batch(batch), ADA))
    assert len(pay(clerk)) == 3


def test_what_is_withdrawn_or_was_never_applied_is_not_held_up(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 2))
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file"))
    clerk.unit(lambda unit: batches.hold_up(unit, clerk.batch(batch), ADA))
    assert clerk.batch(batch).state is BatchState.WITHDRAWN


def test_a_batch_that_is_withdrawn_just_before_it_is_held_up_stays_withdrawn(clerk: Clerk) -> None:
    read_before = clerk.planned(rows(clerk, 2))
    clerk.unit(lambda unit: batches.withdraw(unit, read_before, ADA, "wrong file"))
    clerk.unit(lambda unit: batches.hold_up(unit, read_before, ADA))
    assert clerk.batch(read_before).state is BatchState.WITHDRAWN
    with pytest.raises(BatchWithdrawn):
        clerk.unit(lambda unit: batches.resume(unit, read_before, ADA))
