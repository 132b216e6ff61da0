"""Pausing, going on, taking back, trying again; and counting that tells the truth about every row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, Standing
from refundry.kernel.outcome import NotTakenWhy
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, Hold, State
from refundry.refunds.rules import Plan, Step
from tests.integration.batches.conftest import Clerk
from tests.support.builders import accepted, not_taken, seen_refund, unknown
from tests.support.hand import ADA, ORDER_KEY

pytestmark = pytest.mark.integration

THREE = "charge_id,amount,ticket_id\nch_1,10.00,T1\nch_2,20.00,T2\nch_3,30.00,T3\n"


def three(clerk: Clerk) -> Batch:
    return clerk.planned(THREE)


# Pause


def test_a_paused_batch_is_not_paid_and_goes_on_when_it_is_told_to(clerk: Clerk) -> None:
    batch = three(clerk)
    assert clerk.unit(lambda unit: batches.pause(unit, batch, ADA)) == 3
    assert clerk.batch(batch).state is BatchState.PAUSED
    clerk.clock.move(1_000_000)
    assert clerk.claim() == []
    assert clerk.totals(batch).told()["reasons"] == {"stopped": 3}
    assert clerk.totals(batch).moving == 0
    assert clerk.unit(lambda unit: batches.resume(unit, batch, ADA)) == 3
    assert clerk.batch(batch).state is BatchState.RUNNING
    assert len(clerk.claim()) == 3
    assert [entry.event for entry in clerk.timeline(batch.id)] == ["batch.accepted", "batch.paused", "batch.resumed"]


def test_a_pause_takes_what_is_claimed_out_of_the_workers_hands(clerk: Clerk) -> None:
    batch = three(clerk)
    approved = [clerk.judge(claimed) for claimed in clerk.claim()]
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    assert [clerk.submit(one) for one in approved if one] == [None] * 3


def test_what_is_on_its_way_is_awaited_and_kept_during_a_pause(clerk: Clerk) -> None:
    batch = three(clerk)
    approved = clerk.judge(clerk.claim(most=1)[0])
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    assert clerk.unit(lambda unit: batches.pause(unit, batch, ADA)) == 2
    clerk.record(intent, accepted(intent.claimed.request))
    assert clerk.told(batch) == [("paid", "settled"), ("waiting", "stopped"), ("waiting", "stopped")]


def test_a_pause_outlasts_a_low_balance(clerk: Clerk) -> None:
    batch = three(clerk)
    approved = clerk.judge(clerk.claim(most=1)[0])
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    clerk.record(intent, not_taken(NotTakenWhy.LOW_BALANCE), wait=60)
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    clerk.clock.move(1_000)
    assert clerk.claim() == []


def test_a_batch_paused_while_it_was_planned_is_planned_further_when_it_goes_on(clerk: Clerk) -> None:
    batch = clerk.accept(THREE)
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert clerk.batch(batch).state is BatchState.ACCEPTED
    clerk.plan(batch)
    assert len(clerk.claim()) == 3


def test_nothing_is_looked_up_for_a_paused_batch(clerk: Clerk) -> None:
    batch = clerk.accept("charge_id,amount,ticket_id\nch_1,1.00,a\nch_2,1.00,b\n")

    def numbers() -> list[int]:
        return clerk.unit(lambda unit: [row.number for row in batches.next_unplanned(unit, batch.id)])

    assert numbers() == [1, 2]
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    assert numbers() == []
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert numbers() == [1, 2]


def test_what_is_freed_from_another_wait_keeps_to_the_pause(clerk: Clerk) -> None:
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000),))
    batch = three(clerk)
    for claimed in clerk.claim():
        clerk.judge(claimed, known=claimed.request.content.charge != "ch_2")
    assert clerk.told(batch)[:2] == [("waiting", "possible_repeat"), ("refused", "charge_unknown")]
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    assert clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    clerk.clock.move(1_000)
    assert clerk.claim() == []
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert len(clerk.claim()) == 3


# Withdraw, retry, allow


def test_withdrawing_takes_back_what_was_not_sent_and_nothing_else(clerk: Clerk) -> None:
    batch = three(clerk)
    approved = clerk.judge(clerk.claim(most=1)[0])
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    assert clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file")) == 2
    assert clerk.batch(batch).state is BatchState.WITHDRAWN
    clerk.record(intent, accepted(intent.claimed.request))
    assert clerk.told(batch) == [("paid", "settled"), ("refused", "withdrawn"), ("refused", "withdrawn")]
    assert clerk.lines(batch)[1].text == "wrong file"
    assert clerk.claim() == []
    assert clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "again")) == 0


def test_retrying_reopens_what_was_declined_or_rejected_and_nothing_else(clerk: Clerk) -> None:
    batch = three(clerk)
    for claimed in clerk.claim():
        clerk.judge(claimed, known=claimed.request.content.charge != "ch_1")
    assert clerk.told(batch)[0] == ("refused", "charge_unknown")
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert clerk.told(batch)[0] == ("waiting", "received")
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 0


def test_what_people_say_was_not_paid_is_not_retried_with_all_the_others(clerk: Clerk) -> None:
    """Who has said so may have paid it in another way: it is asked for by itself."""
    batch = three(clerk)
    approved = clerk.judge(clerk.claim(most=1)[0])
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    clerk.record(intent, unknown())
    clerk.clock.move(10)
    (doubtful,) = [one for one in clerk.claim() if one.request.state is State.SUBMITTING]
    clerk.resolve(doubtful, Plan(Step.GIVE_UP, clerk.attempts(doubtful.request)[-1]))
    clerk.unit(lambda unit: refunds.say_not_paid(unit, doubtful.request.id, ADA, "by bank transfer"))
    assert clerk.told(batch)[0] == ("refused", "not_paid")
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 0
    assert clerk.told(batch)[0] == ("refused", "not_paid")


NAMED = [
    "payment_intent,amount,ticket_id\npi_1,10.00,T1\n",
    "payment_intent,amount,request_key\npi_1,10.00,K1\n",
    "payment_intent,amount\npi_1,10.00\n",
    "order_id,amount,ticket_id\nA1,10.00,T1\n",
]


def payment_fails(clerk: Clerk) -> None:
    clerk.looked("ch_1", status="failed", captured=False, payment_intent="pi_1", metadata={ORDER_KEY: "A1"})


def paid_by_another(clerk: Clerk) -> None:
    clerk.looked("ch_9", payment_intent="pi_1", metadata={ORDER_KEY: "A1"})


def refused(clerk: Clerk, text: str) -> Batch:
    """Have a row refused whose payment has failed, and the customer pay by another charge then."""
    payment_fails(clerk)
    batch = clerk.planned(text)
    assert clerk.pay_what_is_due() == []
    assert clerk.told(batch)[0] == ("refused", "charge_failed")
    paid_by_another(clerk)
    return clerk.batch(batch)


@pytest.mark.parametrize("text", NAMED, ids=["ticket", "key", "neither", "order"])
def test_a_retry_pays_what_was_paid_by_another_charge_since(clerk: Clerk, text: str) -> None:
    batch = refused(clerk, text)
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert clerk.told(batch) == [("waiting", "not_looked_up")]
    assert clerk.plan(batch) == 1
    (paid,) = clerk.pay_what_is_due()
    assert (paid.content.charge, clerk.attempts(paid)[0].body.charge) == ("ch_9", "ch_9")
    assert clerk.told(batch) == [("paid", "settled")]
    assert clerk.totals(batch).told()["amounts"] == {"gbp": {"requested": 1000, "paid": 1000}}
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 0
    assert clerk.audit_is_sound()


def test_a_request_that_leads_to_another_charge_is_the_same_request_and_says_so(clerk: Clerk) -> None:
    batch = refused(clerk, NAMED[0])
    before = clerk.lines(batch)[0].request
    clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
    clerk.plan(batch)
    (paid,) = clerk.pay_what_is_due()
    assert before is not None
    assert paid.id == before.id
    (reopened,) = [entry for entry in clerk.timeline(paid.id) if entry.event == refunds.REOPENED]
    assert (reopened.facts["charge_before"], reopened.facts["charge"]) == ("ch_1", "ch_9")
    # The row again, in another file, is that request too.
    clerk.looked("ch_9", payment_intent="pi_1", refunds=clerk.charge("ch_9").refunds)
    assert clerk.told(clerk.planned(NAMED[0] + "\n", "again.csv")) == [("refused", "repeated_row")]


def test_a_row_whose_payment_failed_in_another_file_says_how_it_is_asked_for_anew(clerk: Clerk) -> None:
    batch = refused(clerk, NAMED[0])
    again = clerk.planned(NAMED[0] + "\n", "again.csv")
    assert clerk.told(again) == [("refused", "same_key_other_content")]
    assert clerk.lines(again)[0].text == (
        "row 1 of refunds.csv asks for the same of ch_1, whose payment has failed, and which gives nothing back: `refundry refund create` "
        "asks for it anew, of ch_9"
    )
    assert clerk.told(batch) == [("refused", "charge_failed")]


@pytest.mark.parametrize("text", NAMED, ids=["ticket", "key", "neither", "order"])
def test_a_retry_before_the_customer_has_paid_again_is_refused_again_and_the_next_one_pays(
    clerk: Clerk, text: str
) -> None:
    payment_fails(clerk)
    batch = clerk.planned(text)
    for _ in range(2):
        assert clerk.pay_what_is_due() == []
        assert clerk.told(batch) == [("refused", "charge_failed")]
        assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
        clerk.plan(batch)
    assert clerk.pay_what_is_due() == []
    paid_by_another(clerk)
    clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
    clerk.plan(batch)
    assert [paid.content.charge for paid in clerk.pay_what_is_due()] == ["ch_9"]


@pytest.mark.parametrize("text", NAMED, ids=["ticket", "key", "neither", "order"])
def test_a_retry_that_finds_two_charges_is_refused_and_the_next_one_pays_once_there_is_one(
    clerk: Clerk, text: str
) -> None:
    batch = refused(clerk, text)
    clerk.looked("ch_8", payment_intent="pi_1", metadata={ORDER_KEY: "A1"})
    for _ in range(2):
        assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
        clerk.plan(batch)
        assert clerk.told(batch) == [("refused", "ambiguous_order")]
        assert clerk.totals(batch).told()["refused"] == 1
        assert clerk.pay_what_is_due() == []
    clerk.looked("ch_8", payment_intent="pi_8")
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    clerk.plan(batch)
    # What was ambiguous is looked at anew before it is paid.
    paid_by_another(clerk)
    assert [paid.content.charge for paid in clerk.pay_what_is_due()] == ["ch_9"]
    assert clerk.told(batch) == [("paid", "settled")]
    assert clerk.totals(batch).told()["amounts"] == {"gbp": {"requested": 1000, "paid": 1000}}
    assert clerk.audit_is_sound()


def test_a_row_that_names_the_charge_itself_stays_with_it(clerk: Clerk) -> None:
    batch = refused(clerk, "charge_id,payment_intent,amount,ticket_id\nch_1,pi_1,10.00,T1\n")
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert clerk.pay_what_is_due() == []
    assert clerk.told(batch) == [("refused", "charge_failed")]


def test_a_request_that_was_ever_sent_stays_with_its_charge(clerk: Clerk) -> None:
    batch = clerk.planned(NAMED[0])
    approved = clerk.judge(clerk.claimed_one())
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    clerk.record(intent, not_taken(NotTakenWhy.LOW_BALANCE))
    payment_fails(clerk)
    assert clerk.judge(clerk.claimed_one()) is None
    assert clerk.told(batch) == [("refused", "charge_failed")]
    paid_by_another(clerk)
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert clerk.plan(batch) == 0
    assert clerk.pay_what_is_due() == []
    assert clerk.find(intent).content.charge == "ch_1"
    wanted = replace(clerk.find(intent).content, charge="ch_9")
    other = replace(clerk.find(intent), content=wanted)
    assert not clerk.unit(lambda unit: refunds.follow_payment(unit, other, ADA))


def test_a_key_that_another_row_has_too_takes_no_request_to_the_charge_of_that_row(clerk: Clerk) -> None:
    batch = refused(clerk, "payment_intent,order_id,amount,request_key\npi_1,,10.00,K1\n,A8,10.00,K1\n")
    assert clerk.told(batch)[1] == ("refused", "charge_unknown")
    clerk.looked("ch_8", metadata={ORDER_KEY: "A8"})
    clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
    clerk.plan(batch)
    assert [paid.content.charge for paid in clerk.pay_what_is_due()] == ["ch_9"]
    assert clerk.told(batch) == [("paid", "settled"), ("refused", "same_key_other_content")]


def test_a_row_that_is_looked_up_anew_keeps_to_a_pause_and_to_a_withdrawal(clerk: Clerk) -> None:
    batch = refused(clerk, NAMED[0])
    clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
    clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
    clerk.plan(batch)
    assert clerk.told(batch)[0] == ("waiting", "stopped")
    assert clerk.pay_what_is_due() == []
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file"))
    assert clerk.told(batch)[0] == ("refused", "withdrawn")
    assert clerk.pay_what_is_due() == []


def test_a_row_is_allowed_by_its_number(clerk: Clerk) -> None:
    clerk.looked("ch_2", refunds=(seen_refund("re_x", charge="ch_2", amount_minor=2000),))
    batch = three(clerk)
    for claimed in clerk.claim():
        clerk.judge(claimed)
    assert clerk.told(batch)[1] == ("waiting", "possible_repeat")
    assert clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 2, ADA))
    assert not clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 99, ADA))
    (again,) = clerk.claim()
    assert clerk.judge(again) is not None


# Counting


def put(clerk: Clerk, batch: Batch, states: dict[int, State | Hold], amount: int = 0) -> None:
    """Bring the requests of rows into any state, past the services."""
    for line in clerk.lines(batch):
        to = states.get(line.row.number)
        if line.request is None or to is None:
            continue
        change = {"hold": to} if isinstance(to, Hold) else {"state": to}
        before = line.request
        after = replace(before, version=before.version + 1, amount_minor=amount or before.amount_minor, **change)  # type: ignore[arg-type]
        clerk.unit(lambda unit, b=before, a=after: repository.update(unit, b, a, None, keep_lease=False))  # type: ignore[misc]


def test_every_row_counts_as_exactly_one_thing_and_they_sum_to_all(clerk: Clerk) -> None:
    for number in range(4, 20):
        clerk.looked(f"ch_{number}")
    rows = "".join(f"ch_{n},{n}.00,T{n}\n" for n in range(1, 16))
    batch = clerk.planned(f"charge_id,amount,ticket_id\n{rows}ch_1,1.00,T1\nch_1,2.00,T1\nch_99,1.00,\nch_2,abc,\n")
    put(clerk, batch, {n: state for n, state in enumerate(State, start=1)})  # noqa: C416  # row by row
    put(clerk, batch, {14: Hold(HeldReason.SIBLING, 9e9)})
    totals = clerk.totals(batch)
    by_line: dict[Standing, int] = dict.fromkeys(Standing, 0)
    for line in clerk.lines(batch):
        by_line[line.standing] += 1
    assert totals.standings == by_line
    assert sum(totals.standings.values()) == totals.rows == batch.row_count == 19
    assert totals.told() == {
        "rows": 19, "paid": 2, "refused": 7, "failed": 2, "unknown": 1, "waiting": 7, "pending": 1,
        "amounts": {"gbp": {"requested": 12_000, "paid": 1400}},
        "reasons": dict(sorted({
            "received": 2, "awaiting_approval": 1, "approved": 1, "submitting": 1, "outcome_unknown": 1,
            "requires_action": 1, "failed": 1, "canceled": 1, "declined": 1, "rejected": 1, "withdrawn": 1, "sibling": 1,
            "repeated_row": 1, "same_key_other_content": 1, "charge_unknown": 1, "amount_unreadable": 1,
        }.items())),
    }  # fmt: skip


def test_reasons_name_every_row_that_is_not_paid(clerk: Clerk) -> None:
    batch = three(clerk)
    put(clerk, batch, {1: State.SETTLED})
    totals = clerk.totals(batch)
    assert sum(totals.reasons.values()) == totals.rows - totals.standings[Standing.PAID]


def test_money_is_counted_once_however_many_rows_point_to_a_request(clerk: Clerk) -> None:
    batch = clerk.planned(THREE + "ch_1,10.00,T1\nch_1,10.00,T1\n")
    clerk.pay_what_is_due()
    told = clerk.totals(batch).told()
    assert (told["paid"], told["refused"]) == (3, 2)
    assert told["amounts"] == {"gbp": {"requested": 6000, "paid": 6000}}


def test_full_counts_what_was_decided(clerk: Clerk) -> None:
    batch = clerk.planned("charge_id,amount,ticket_id\nch_1,full,T1\nch_2,full,T2\n")
    for claimed in clerk.claim(most=1):
        clerk.judge(claimed)
    assert clerk.totals(batch).told()["amounts"] == {"gbp": {"requested": 10_000, "paid": 0}}


def test_currencies_are_counted_apart(clerk: Clerk) -> None:
    clerk.looked("ch_5", currency="jpy")
    batch = clerk.planned("charge_id,amount,ticket_id\nch_1,10.00,T1\nch_5,500,T2\n")
    clerk.pay_what_is_due()
    assert clerk.totals(batch).told()["amounts"] == {
        "gbp": {"requested": 1000, "paid": 1000}, "jpy": {"requested": 500, "paid": 500}}  # fmt: skip


def test_a_refund_that_came_back_later_is_no_longer_counted_as_paid(clerk: Clerk) -> None:
    batch = three(clerk)
    paid = clerk.pay_what_is_due()
    late = seen_refund(str(paid[0].refund), of=paid[0], status="failed", failure_reason="declined")
    clerk.found(late)
    told = clerk.totals(batch).told()
    assert (told["paid"], told["failed"]) == (2, 1)
    assert clerk.told(batch)[0] == ("failed", "declined")


def test_what_moves_by_itself_is_told_apart_from_what_waits_for_somebody(clerk: Clerk) -> None:
    batch = three(clerk)
    assert clerk.totals(batch).moving == 3
    put(clerk, batch, {1: Hold(HeldReason.POSSIBLE_REPEAT), 2: State.REQUIRES_ACTION, 3: State.SUBMITTING})
    assert clerk.totals(batch).moving == 1


def test_the_report_tells_stripes_words(clerk: Clerk) -> None:
    batch = three(clerk)
    clerk.unit(lambda unit: refunds.withdraw(unit, clerk.lines(batch)[0].request.id, ADA, "kept"))  # type: ignore[union-attr]
    line = clerk.lines(batch)[0]
    assert (line.standing, line.code, line.text) == ("refused", "withdrawn", "kept")


def test_what_waits_for_the_balance_is_tried_at_once_when_a_person_says_so(clerk: Clerk) -> None:
    batch = three(clerk)
    approved = clerk.judge(clerk.claim(most=1)[0])
    assert approved is not None
    intent = clerk.submit(approved)
    assert intent is not None
    clerk.record(intent, not_taken(NotTakenWhy.LOW_BALANCE), wait=900)
    row = clerk.lines(batch)[0]
    assert row.code == "low_balance"
    assert row.text.endswith(
        f"it is tried again within 15 minutes by a process that works, and at once by `refundry batch retry {batch.id[:8]}`"
    )
    assert intent.claimed.request.id not in {claimed.request.id for claimed in clerk.claim()}
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    (again,) = clerk.claim()
    assert again.request.id == intent.claimed.request.id
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 0
