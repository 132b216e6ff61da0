"""A plan says of every row what would become of it, pays nothing, and once applied lets exactly that be paid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, BatchWithdrawn, NotApplied
from refundry.kernel.actor import SYSTEM
from refundry.plans import service as plans
from refundry.plans.model import Plan, PlanRefused, PlanRow, PlanUnknown, hashed
from refundry.plans.tables import plan_rows
from refundry.plans.tables import plans as plan_table
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from tests.integration.batches.conftest import Clerk, clerk
from tests.support.builders import ACCOUNT, seen_refund
from tests.support.clock import START
from tests.support.hand import ADA, ORDER_KEY

__all__ = ["clerk"]
pytestmark = pytest.mark.integration

HEAD = "charge_id,amount,ticket_id,request_key\n"


def waiting(clerk: Clerk, text: str) -> Batch:
    """Take a file in that waits for its plan."""
    file = clerk.file(text)
    return clerk.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM, planned=True))[0]


def made(clerk: Clerk, batch: Batch, *, allow: tuple[int, ...] = (), look_max_age: float = 0.0) -> Plan:
    """Plan a batch, two rows at a time."""
    number = len(clerk.unit(lambda unit: unit.connection.execute(sa.select(plan_table)).all()))
    plan = clerk.unit(lambda unit: plans.begin(unit, f"{number}-plan", batch, look_max_age=look_max_age))
    while rows := clerk.unit(lambda unit: plans.next_rows(unit, plan, 2)):
        clerk.unit(
            lambda unit, some=rows: plans.check(  # type: ignore[misc]
                unit, plan, some, {}, mode="test", age_max_days=0, allow_repeat=allow
            )
        )
    return clerk.unit(lambda unit: plans.finish(unit, plan, ADA, balance={"gbp": 10**6}, rate=25.0))


def rows(clerk: Clerk, plan: Plan) -> list[PlanRow]:
    return clerk.unit(lambda unit: list(plans.rows(unit, plan.id)))


def codes(clerk: Clerk, plan: Plan) -> list[str]:
    return [row.code for row in rows(clerk, plan)]


def applied(clerk: Clerk, plan: Plan) -> Batch:
    """Apply a plan, and turn all its rows into requests."""
    batch = clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))
    while True:
        numbers = [row.number for row in clerk.unit(lambda unit: batches.next_unplanned(unit, batch.id))]
        if not numbers:
            return clerk.batch(batch)
        clerk.unit(
            lambda unit, some=numbers: batches.plan_slice(  # type: ignore[misc]
                unit, batch, {}, mode="test", actor=SYSTEM, foreseen=plans.foreseen(unit, batch.plan or "", some)
            )
        )


def test_a_plan_pays_nothing_and_hands_nothing_in(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,,\nch_2,full,,\n")
    plan = made(clerk, batch)
    assert clerk.batch(batch).state is BatchState.PLANNED
    assert clerk.claim() == []
    assert [(row.code, row.amount_minor) for row in rows(clerk, plan)] == [("", 1000), ("", 10_000)]
    assert plan.forecast["payable"] == 2


def test_rows_of_one_charge_are_planned_one_after_the_other(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,60.00,a,\nch_1,60.00,b,\nch_1,full,c,\nch_2,1.00,,\n")
    plan = made(clerk, batch)
    assert codes(clerk, plan) == ["", "sibling", "", ""]
    assert [row.amount_minor for row in rows(clerk, plan)] == [6000, 0, 4000, 100]
    # An applied plan refuses the row: it is not to say that it waits.
    assert "waiting" not in rows(clerk, plan)[1].text
    assert "other requests have claimed 60.00" in rows(clerk, plan)[1].text


def test_rows_that_say_the_same_are_told_as_a_run_would_tell_them(clerk: Clerk) -> None:
    text = HEAD + "ch_1,1.00,a,\nch_1,1.00,a,\nch_1,2.00,a,\nch_2,1.00,,\nch_2,1.00,,\nch_3,0.00,,\nch_9,1.00,,\n"
    plan = made(clerk, waiting(clerk, text))
    told = [
        "",
        "repeated_row",
        "same_key_other_content",
        "",
        "possible_repeat",
        "amount_not_positive",
        "charge_unknown",
    ]
    assert codes(clerk, plan) == told


def test_a_request_that_is_there_already_is_not_planned_again(clerk: Clerk) -> None:
    clerk.planned(HEAD + "ch_1,1.00,a,\nch_2,1.00,b,\n", "first.csv")
    plan = made(clerk, waiting(clerk, HEAD + "ch_1,1.00,a,\nch_2,2.00,b,\nch_3,3.00,c,\n"))
    assert codes(clerk, plan) == ["repeated_row", "same_key_other_content", ""]


def test_what_looks_like_a_repeat_is_planned_only_when_allowed_by_its_number(clerk: Clerk) -> None:
    clerk.looked("ch_1", refunds=(seen_refund("re_x", charge="ch_1", amount_minor=100, created_at=START - 60),))
    batch = waiting(clerk, HEAD + "ch_1,1.00,,\nch_2,1.00,,\n")
    assert codes(clerk, made(clerk, batch)) == ["possible_repeat", ""]
    plan = made(clerk, batch, allow=(1,))
    assert codes(clerk, plan) == ["", ""]
    applied(clerk, plan)
    assert [request.state for request in clerk.pay_what_is_due()] == [State.SETTLED, State.SETTLED]


def test_a_repeat_without_ticket_and_key_is_told_apart_since_its_number_lets_it_not_go(clerk: Clerk) -> None:
    clerk.planned(HEAD + "ch_2,2.00,,\n", "first.csv")
    clerk.looked("ch_3", refunds=(seen_refund("re_x", charge="ch_3", amount_minor=300, created_at=START - 60),))
    batch = waiting(clerk, HEAD + "ch_1,1.00,,\nch_1,1.00,,\nch_2,2.00,,\nch_3,3.00,,\n")
    for allow, repeats in (((), [4]), ((2, 3), [4]), ((4,), [])):
        forecast = made(clerk, batch, allow=allow).forecast
        assert (forecast["repeat_rows"], forecast["unnamed_rows"]) == (repeats, [2, 3])
    named = waiting(clerk, HEAD + "ch_1,1.00,a,\nch_1,1.00,b,\nch_2,2.00,c,\n")
    assert codes(clerk, made(clerk, named)) == ["", "", ""]


def test_rows_for_one_ticket_that_name_the_charge_in_two_ways_are_planned_as_a_run_would_pay_them(clerk: Clerk) -> None:
    text = "charge_id,payment_intent,amount,ticket_id,request_key\nch_1,,1.00,a,\n,pi_1,2.00,a,\nch_2,,1.00,a,\n,pi_1,3.00,a,k\n,pi_2,4.00,a,\n"
    batch = waiting(clerk, text)
    plan = made(clerk, batch)
    assert codes(clerk, plan) == ["", "possible_repeat", "", "", "possible_repeat"]
    assert rows(clerk, plan)[1].text.startswith("row 1 is for the same ticket and gives back some of ch_1 too")
    assert plan.forecast["repeat_rows"] == [2, 5]
    assert codes(clerk, made(clerk, batch, allow=(2,))) == ["", "", "", "", "possible_repeat"]
    applied(clerk, plan)
    assert sorted((request.state, request.amount_minor) for request in clerk.pay_what_is_due()) == [
        (State.SETTLED, 100), (State.SETTLED, 100), (State.SETTLED, 300),
    ]  # fmt: skip


def test_a_plan_that_was_allowed_pays_no_row_past_a_refund_or_request_that_came_after_it(clerk: Clerk) -> None:
    lost = {"refundry_request_id": "lost", "ticket_id": "a"}
    before = seen_refund("re_x", charge="ch_1", amount_minor=100, created_at=START - 60)
    clerk.looked("ch_1", refunds=(before,))
    text = "charge_id,payment_intent,amount,ticket_id\nch_1,,1.00,a\nch_2,,2.00,b\n,pi_2,2.00,b\nch_3,,3.00,c\n"
    batch = waiting(clerk, text)
    plan = made(clerk, batch, allow=(1, 3, 4))
    assert codes(clerk, plan) == ["", "", "", ""]
    # Another installation pays the first row's ticket, which is no change of what others have given back, and another file asks for the last one's.
    clerk.looked("ch_1", refunds=(before, seen_refund("re_y", charge="ch_1", amount_minor=5, metadata=lost)))
    clerk.planned("payment_intent,amount,ticket_id\npi_3,3.00,c\n", "other.csv")
    (other,) = clerk.pay_what_is_due()
    applied(clerk, plan)
    assert [request.amount_minor for request in clerk.pay_what_is_due()] == [200, 200]
    assert [code for _, code in clerk.told(batch)] == ["possible_repeat", "settled", "settled", "possible_repeat"]
    held, last = (clerk.lines(batch)[row].text for row in (0, 3))
    assert ("re_x" in held, "re_y" in held) == (False, True), held
    assert other.id in last


def test_an_applied_plan_pays_its_payable_rows_and_no_other(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,60.00,a,\nch_1,60.00,b,\nch_2,2.00,c,\n")
    plan = made(clerk, batch)
    applied(clerk, plan)
    paid = clerk.pay_what_is_due()
    assert [(r.content.charge, r.amount_minor, r.state) for r in paid] == [
        ("ch_1", 6000, State.SETTLED), ("ch_2", 200, State.SETTLED)]  # fmt: skip
    assert clerk.told(batch) == [("paid", "settled"), ("refused", "sibling"), ("paid", "settled")]
    assert "not payable in the plan" in clerk.lines(batch)[1].text


def test_a_plan_that_was_interrupted_before_it_was_paid_goes_on(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, HEAD + "ch_1,1.00,a,\n"))
    first = clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))
    again = clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))
    assert first == again
    assert [entry.event for entry in clerk.timeline(plan.id)] == ["plan.made", "plan.applied"]


CHANGES = {
    "given back by others": ({"refunds": (seen_refund("re_x", charge="ch_1", amount_minor=77),)}, "0.77"),
    "captured": ({"captured_minor": 9000}, "90.00"),
    "status": ({"status": "pending"}, "pending"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_row_whose_charge_has_changed_since_is_not_paid_and_says_what_has(clerk: Clerk, what: str) -> None:
    change, said = CHANGES[what]
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\nch_2,10.00,b,\n")
    plan = made(clerk, batch)
    clerk.clock.move(5)
    clerk.looked("ch_1", began_at=clerk.clock.now(), **change)
    applied(clerk, plan)
    paid = clerk.pay_what_is_due()
    assert [request.content.charge for request in paid] == ["ch_2"]
    assert clerk.told(batch) == [("refused", "changed_since_plan"), ("paid", "settled")]
    text = clerk.lines(batch)[0].text
    assert said in text
    # A file that was applied cannot be planned again.
    assert text.endswith("have it decided anew by `refundry batch retry`")


def test_what_our_own_refunds_did_to_a_charge_is_no_change(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\nch_1,20.00,b,\n")
    applied(clerk, made(clerk, batch))
    assert [request.amount_minor for request in clerk.pay_what_is_due()] == [1000, 2000]


def test_a_person_who_has_a_row_decided_anew_is_not_held_to_the_plan(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    plan = made(clerk, batch)
    clerk.clock.move(5)
    clerk.looked("ch_1", began_at=clerk.clock.now(), refunds=(seen_refund("re_x", charge="ch_1", amount_minor=77),))
    batch = applied(clerk, plan)
    assert clerk.pay_what_is_due() == []
    clerk.unit(lambda unit: batches.retry(unit, batch, ADA))
    clerk.clock.move(5)
    clerk.looked("ch_1", began_at=clerk.clock.now(), refunds=clerk.charge("ch_1").refunds)
    assert [request.state for request in clerk.pay_what_is_due()] == [State.SETTLED]


@pytest.mark.parametrize(
    "altered",
    [
        sa.update(plan_rows).where(plan_rows.c.number == 1).values(amount_minor=5000),
        sa.update(plan_rows).where(plan_rows.c.number == 2).values(code=""),
        sa.delete(plan_rows).where(plan_rows.c.number == 2),
        sa.update(plan_table).values(look_max_age=3600.0),
        sa.update(plan_table).values(hash="00"),
        sa.update(plan_table).values(
            forecast=sa.func.replace(plan_table.c.forecast, '"payable": 1000', '"payable": 10')
        ),
    ],
)
def test_a_plan_that_was_altered_by_hand_is_refused(clerk: Clerk, altered: sa.Executable) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\nch_9,10.00,b,\n")
    plan = made(clerk, batch)
    clerk.unit(lambda unit: unit.connection.execute(altered))
    with pytest.raises(PlanRefused) as refused:
        clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))
    assert refused.value.code == "plan_altered"
    assert clerk.batch(batch).state is BatchState.PLANNED


def test_a_plan_whose_hash_was_computed_anew_is_refused_too(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\nch_2,10.00,b,\n")
    plan = made(clerk, batch)
    one = sa.update(plan_rows).where(plan_rows.c.number == 2).values(amount_minor=5000)
    clerk.unit(lambda unit: unit.connection.execute(one))
    anew = hashed(plan.header, (row.written for row in rows(clerk, plan)))
    assert anew != plan.hash
    clerk.unit(lambda unit: unit.connection.execute(sa.update(plan_table).values(hash=anew)))
    with pytest.raises(PlanRefused) as refused:
        clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))
    assert refused.value.code == "plan_altered"
    assert clerk.batch(batch).state is BatchState.PLANNED


def test_a_plan_of_another_account_an_unfinished_and_an_unknown_one_are_refused(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    plan = made(clerk, batch)
    begun = clerk.unit(lambda unit: plans.begin(unit, "begun", batch, look_max_age=0.0))
    for one, account, code in ((plan, "acct_2|test", "plan_of_another_account"), (begun, ACCOUNT, "plan_unfinished")):
        with pytest.raises(PlanRefused) as refused:
            clerk.unit(lambda unit, p=one, a=account: plans.apply(unit, p, a, ADA))  # type: ignore[misc]
        assert refused.value.code == code
    with pytest.raises(PlanUnknown):
        clerk.unit(lambda unit: plans.need(unit, "nowhere"))


def test_only_one_plan_of_a_file_is_paid(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    first, second = made(clerk, batch), made(clerk, batch)
    clerk.unit(lambda unit: plans.apply(unit, first, ACCOUNT, ADA))
    with pytest.raises(PlanRefused) as refused:
        clerk.unit(lambda unit: plans.apply(unit, second, ACCOUNT, ADA))
    assert refused.value.code == "plan_applied"


def test_a_plan_of_a_file_that_was_withdrawn_since_says_so(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    plan = made(clerk, batch)
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "wrong file"))
    with pytest.raises(BatchWithdrawn):
        clerk.unit(lambda unit: plans.apply(unit, plan, ACCOUNT, ADA))


@pytest.mark.parametrize("steer", [batches.pause, batches.resume, batches.retry])
def test_a_batch_that_waits_for_its_plan_cannot_be_steered_into_being_paid(clerk: Clerk, steer: object) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    with pytest.raises(NotApplied):
        clerk.unit(lambda unit: steer(unit, batch, ADA))  # type: ignore[operator]
    assert clerk.batch(batch).state is BatchState.PLANNED


def test_a_file_that_waits_for_its_plan_is_paid_by_a_run_of_it(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    assert clerk.accept(HEAD + "ch_1,10.00,a,\n").state is BatchState.ACCEPTED
    while clerk.plan(batch):
        pass
    assert len(clerk.pay_what_is_due()) == 1


def test_a_plan_may_let_looks_be_an_hour_old_and_no_older(clerk: Clerk) -> None:
    batch = waiting(clerk, HEAD + "ch_1,10.00,a,\n")
    plan = made(clerk, batch, look_max_age=99_999.0)
    assert plan.look_max_age == 3600.0
    applied(clerk, plan)
    (claimed,) = clerk.claim()
    assert claimed.request.planned is not None
    assert claimed.request.planned.look_max_age == 3600.0
    assert replace(claimed.request, planned=None) != claimed.request


# The word `full`


def paid(clerk: Clerk) -> list[tuple[int, str]]:
    return [(request.amount_minor, request.state.value) for request in clerk.pay_what_is_due()]


def test_full_is_what_was_planned_also_when_a_sibling_is_withdrawn(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, HEAD + "ch_1,60.00,a,\nch_1,full,b,\n"))
    assert [row.amount_minor for row in rows(clerk, plan)] == [6000, 4000]
    batch = applied(clerk, plan)
    first = clerk.lines(batch)[0].request
    assert first is not None
    clerk.unit(lambda unit: refunds.withdraw(unit, first.id, ADA, "the customer keeps it"))
    assert paid(clerk) == [(4000, "settled")]


def test_full_is_what_was_planned_also_when_an_own_refund_fails_meanwhile(clerk: Clerk) -> None:
    clerk.planned(HEAD + "ch_2,30.00,x,\n", "other.csv")
    (before,) = clerk.pay_what_is_due()
    plan = made(clerk, waiting(clerk, HEAD + "ch_2,full,,\n"))
    assert [row.amount_minor for row in rows(clerk, plan)] == [7000]
    failed = seen_refund(before.refund or "", of=before, charge="ch_2", amount_minor=3000, status="failed")
    clerk.looked("ch_2", refunds=(failed,))
    applied(clerk, plan)
    assert paid(clerk) == [(7000, "settled")]


def test_full_is_not_paid_where_less_is_left_than_was_planned_and_says_so(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, HEAD + "ch_2,full,,\n"))
    clerk.planned(HEAD + "ch_2,30.00,x,\n", "other.csv")
    assert paid(clerk) == [(3000, "settled")]
    batch = applied(clerk, plan)
    assert paid(clerk) == []
    assert clerk.told(batch) == [("refused", "changed_since_plan")]
    (line,) = clerk.lines(batch)
    assert line.request is not None
    assert (
        line.request.reason_text
        == "100.00 GBP was left on ch_2 when it was planned, and 70.00 GBP is: have it decided anew by `refundry batch retry`"
    )


def test_what_a_person_has_decided_anew_after_a_plan_is_full_by_what_is_left(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, HEAD + "ch_2,full,,\n"))
    clerk.planned(HEAD + "ch_2,30.00,x,\n", "other.csv")
    assert paid(clerk) == [(3000, "settled")]
    batch = applied(clerk, plan)
    assert paid(clerk) == []
    (line,) = clerk.lines(batch)
    assert line.request is not None
    request = line.request.id
    clerk.unit(lambda unit: refunds.reopen(unit, request, ADA))
    assert paid(clerk) == [(7000, "settled")]


# Without the plan, by a person's word


def retried(clerk: Clerk, batch: Batch) -> Batch:
    """Have refused rows decided anew, and turn them into requests as the worker does."""
    clerk.unit(lambda unit: batches.retry(unit, clerk.batch(batch), ADA))
    while numbers := [row.number for row in clerk.unit(lambda unit: batches.next_unplanned(unit, batch.id))]:
        plan = clerk.batch(batch).plan or ""
        clerk.unit(
            lambda unit, some=numbers, its=plan: batches.plan_slice(  # type: ignore[misc]
                unit, clerk.batch(batch), {}, mode="test", actor=SYSTEM, foreseen=plans.foreseen(unit, its, some)
            )
        )
    return clerk.batch(batch)


def test_a_row_whose_charge_was_not_found_when_it_was_planned_is_paid_by_a_retry(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, HEAD + "ch_1,1.00,a,\nch_9,1.00,b,\n"))
    batch = applied(clerk, plan)
    assert paid(clerk) == [(100, "settled")]
    clerk.looked("ch_9")
    retried(clerk, batch)
    assert paid(clerk) == [(100, "settled")]
    assert [outcome for outcome, _ in clerk.told(batch)] == ["paid", "paid"]


def test_a_row_that_leads_to_another_charge_by_now_is_paid_by_a_retry(clerk: Clerk) -> None:
    plan = made(clerk, waiting(clerk, "order_id,amount,ticket_id\nA1,1.00,a\n"))
    clerk.looked("ch_1", metadata={ORDER_KEY: "old"})
    clerk.looked("ch_5", metadata={ORDER_KEY: "A1"})
    batch = applied(clerk, plan)
    assert paid(clerk) == []
    assert clerk.told(batch) == [("refused", "changed_since_plan")]
    retried(clerk, batch)
    assert paid(clerk) == [(100, "settled")]
