"""A batch keeps to its schedule: its rows take their turns, and nothing is sent that may not be, whoever was asleep."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.batches import repository
from refundry.batches import service as batches
from refundry.batches.model import Batch, BatchState, Schedule, Window
from refundry.charges import service as charges
from refundry.infra.db import Needs, Unit
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import NotTakenWhy
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, RefundRequest, State
from refundry.refunds.rules import Plan, Step
from refundry.refunds.service import Claimed, Intent
from tests.integration.batches.conftest import Clerk
from tests.support.builders import (
    ACCOUNT,
    accepted,
    content,
    declined,
    not_taken,
    refund_request,
    seen_refund,
    unknown,
)
from tests.support.clock import START
from tests.support.hand import ADA, Hand

pytestmark = pytest.mark.integration

DAY = 86_400
# The clock stands at 14:13:20 UTC.
MIDNIGHT = START - START % DAY + DAY
AFTERNOON = Window(14 * 3600, 15 * 3600, "UTC")
# From now until a few seconds before that closes.
CLOSING = MIDNIGHT - 9 * 3600 - START - 5

# Whether somebody waits for what another holds.
HELD_UP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def rows(clerk: Clerk, count: int, amount: str = "10.00") -> str:
    """Write a file with a row for each of so many charges, which are mirrored."""
    for number in range(1, count + 1):
        clerk.looked(f"ch_{number}")
    return "charge_id,amount,ticket_id\n" + "".join(f"ch_{n},{amount},T{n}\n" for n in range(1, count + 1))


def scheduled(clerk: Clerk, text: str, **schedule: object) -> Batch:
    batch = clerk.accept(text)
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(**schedule), ADA))  # type: ignore[arg-type]  # parts
    while clerk.plan(batch):
        pass
    return clerk.batch(batch)


def turn(clerk: Clerk, batch: Batch, ahead: int = 50) -> Batch:
    clerk.unit(lambda unit: batches.release(unit, batch.id, ahead))
    return clerk.batch(batch)


def intend(hand: Hand, claimed: Claimed) -> Intent | None:
    """Bring a claimed request to where it is sent, as the executor does."""
    approved = hand.judge(claimed) if claimed.request.state is State.RECEIVED else claimed
    if approved is None or not hand.unit(lambda unit: batches.may_send(unit, approved)):
        return None
    return hand.submit(approved, look_max_age=10 * DAY)


def pay(clerk: Clerk, most: int = 50, lane: Lane = Lane.BULK) -> list[int]:
    """Pay what has its turn and may be sent; tells the amounts."""
    amounts = []
    for claimed in clerk.claim(most=most, lane=lane):
        intent = intend(clerk, claimed)
        if intent is not None:
            clerk.record(intent, accepted(intent.claimed.request, refund_id=f"re_{intent.attempt.request[:8]}"))
            amounts.append(intent.attempt.body.amount_minor)
    return amounts


def sent_before(clerk: Clerk) -> Intent:
    """Send the second row of a file, while the first is not."""
    _, second = clerk.claim(most=2)
    intent = intend(clerk, second)
    assert intent is not None
    return intent


def all_refused(clerk: Clerk, batch: Batch) -> None:
    """Have what has its turn refused, after which nothing is left to wait for."""
    turn(clerk, batch)
    for claimed in clerk.claim():
        clerk.judge(claimed, known=False)
    assert turn(clerk, batch).course.resting


def request(clerk: Clerk, batch: Batch, row: int) -> RefundRequest:
    found = clerk.lines(batch)[row - 1].request
    assert found is not None
    return found


def waits(clerk: Clerk, batch: Batch) -> str:
    with clerk.database.reading() as unit:
        outlook = batches.outlook(unit, clerk.batch(batch))
    assert outlook is not None
    return outlook.text


# Turns


def test_rows_wait_for_their_turn_and_take_it_in_their_order(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), canary=(5,))
    assert clerk.claim() == []
    assert clerk.told(batch) == [("waiting", "schedule")] * 5
    totals = clerk.totals(batch)
    assert (totals.moving, totals.in_line) == (5, 5)
    with clerk.database.reading() as unit:
        assert refunds.due_lanes(unit, unit.now) == []
    turn(clerk, batch, ahead=2)
    turn(clerk, batch, ahead=2)
    assert [claimed.request.content.charge for claimed in clerk.claim()] == ["ch_1", "ch_2"]
    turn(clerk, batch, ahead=3)
    assert [claimed.request.content.charge for claimed in clerk.claim()] == ["ch_3"]


def test_where_requests_stand_in_line_is_read_for_all_once_it_is_asked_for_one(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), canary=(1, 2))
    turn(clerk, batch)
    told: list[str] = []

    def heard(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        told.append(statement)

    def reads() -> int:
        return sum("JOIN batch_rows" in statement for statement in told)

    def work(unit: Unit) -> None:
        [wanted] = repository.requests(unit, batch.id)
        sa.event.listen(clerk.database.engine, "before_cursor_execute", heard)
        try:
            clerk.database.fetch(unit, [Needs(f"ch_{at}", request) for at, request in enumerate(wanted, 1)])
            assert (len(wanted), reads()) == (3, 0)
            for request in wanted:
                found = repository.schedule_of(unit, request)
                assert found is not None
                assert (found[0].id, reads()) == (batch.id, 1)
        finally:
            sa.event.remove(clerk.database.engine, "before_cursor_execute", heard)

    clerk.unit(work)


def test_every_row_is_paid_in_the_end_and_the_batch_comes_to_rest(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 7) + "ch_1,10.00,T1\nch_99,1.00,T99\n", spread_seconds=21.0)
    paid = []
    for _ in range(40):
        turn(clerk, batch)
        paid += pay(clerk)
        clerk.clock.move(1)
    assert paid == [1000] * 7
    assert clerk.totals(batch).moving == 0
    with clerk.database.reading() as unit:
        assert batches.scheduled(unit) == []
    assert waits(clerk, batch) == ""
    assert clerk.audit_is_sound()


def test_rows_that_are_planned_later_take_their_turn_too(clerk: Clerk) -> None:
    batch = clerk.accept(rows(clerk, 3))
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="1000"), ADA))
    turn(clerk, batch)
    clerk.plan(batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3


def test_a_schedule_that_comes_later_holds_what_is_not_sent_yet(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 4))
    assert len(pay(clerk, most=1)) == 1
    schedule = Schedule(start_at=START + 3600)
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, schedule, ADA))
    assert clerk.told(batch) == [("paid", "settled")] + [("waiting", "schedule")] * 3
    turn(clerk, batch)
    assert clerk.claim() == []
    clerk.clock.move(3600)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3
    turn(clerk, batch)
    before = clerk.batch(batch)
    assert before.course.resting
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, schedule, ADA))
    assert clerk.batch(batch) == before, "the same schedule again changes nothing"


# Windows


def test_a_window_that_closes_calls_back_what_was_not_sent_and_awaits_what_was(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), window=AFTERNOON)
    clerk.clock.move(CLOSING)
    turn(clerk, batch)
    intent = intend(clerk, clerk.claim(most=1)[0])
    assert intent is not None
    clerk.clock.move(10)
    turn(clerk, batch)
    assert clerk.claim() == []
    clerk.record(intent, accepted(intent.claimed.request))
    assert clerk.told(batch) == [("paid", "settled"), ("waiting", "schedule"), ("waiting", "schedule")]
    assert waits(clerk, batch) == "next rows at 14:00 UTC"
    clerk.clock.move(MIDNIGHT + 14 * 3600 - clerk.clock.now())
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2


def test_nothing_is_sent_after_a_window_has_closed_though_nobody_took_a_turn(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), window=AFTERNOON)
    clerk.clock.move(CLOSING)
    turn(clerk, batch)
    held = [clerk.judge(claimed) for claimed in clerk.claim()]
    clerk.clock.move(10)
    for approved in held:
        assert approved is not None
        assert not clerk.unit(lambda unit, one=approved: batches.may_send(unit, one))  # type: ignore[misc]
        assert clerk.submit(approved) is None, "its worker has lost it"
    assert clerk.told(batch) == [("waiting", "schedule")] * 3
    clerk.clock.move(MIDNIGHT + 14 * 3600 - clerk.clock.now())
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3


def test_a_batch_of_which_nothing_is_left_waits_for_no_hours(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), window=AFTERNOON)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    # Whoever paid it has ended, and it is looked at in the evening.
    clerk.clock.move(3600)
    assert waits(clerk, batch) == ""


def test_a_batch_whose_rows_are_all_taken_back_waits_for_no_hours(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), window=AFTERNOON)
    clerk.clock.move(3600)
    turn(clerk, batch)
    for row in (1, 2):
        assert waits(clerk, batch) == "next rows at 14:00 UTC"
        taken_back = request(clerk, batch, row).id
        clerk.unit(lambda unit, one=taken_back: refunds.withdraw(unit, one, ADA, "no"))  # type: ignore[misc]
    assert waits(clerk, batch) == ""


# The maximum of a day


def test_a_day_takes_no_more_than_its_maximum_and_the_next_day_goes_on(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 7), max_per_day="25.00")
    days = []
    for _ in range(4):
        paid: list[int] = []
        for _ in range(5):
            turn(clerk, batch)
            paid += pay(clerk)
        days.append(sum(paid))
        told = waits(clerk, batch)
        clerk.clock.move(DAY)
    assert days == [2000, 2000, 2000, 1000]
    assert told == ""


def test_a_day_that_is_used_up_says_when_it_goes_on(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), max_per_day="25.00")
    turn(clerk, batch)
    pay(clerk)
    turn(clerk, batch)
    assert waits(clerk, batch) == (
        "20.00 GBP of today's 25.00 GBP were sent, and the next row needs 10.00 GBP: next rows at 00:00 UTC"
    )


@pytest.mark.parametrize("spread", [False, True])
def test_a_maximum_that_is_set_during_the_day_counts_what_was_sent_today(clerk: Clerk, *, spread: bool) -> None:
    text = rows(clerk, 10)
    batch = scheduled(clerk, text, spread_seconds=10.0) if spread else clerk.planned(text)
    sent = []
    while len(sent) < 4:
        turn(clerk, batch)
        sent += pay(clerk, most=1)
        clerk.clock.move(1)
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="60.00"), ADA))
    more = []
    for _ in range(4):
        turn(clerk, batch)
        more += pay(clerk)
    assert more == [1000] * 2
    # Another maximum, and today is still counted.
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="70.00"), ADA))
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3


def test_today_in_another_time_zone_counts_what_was_sent_on_that_day(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 8), max_per_day="30.00")
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3
    # There it is the next day since two hours.
    clerk.unit(
        lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="30.00", zone="Pacific/Auckland"), ADA)
    )
    turn(clerk, batch)
    assert pay(clerk) == []


@pytest.mark.parametrize("before", ["", "1000"])
def test_what_is_sent_in_the_moment_in_which_a_maximum_is_set_counts_on_the_day(clerk: Clerk, before: str) -> None:
    text = rows(clerk, 5)
    batch = scheduled(clerk, text, max_per_day=before) if before else clerk.planned(text)
    turn(clerk, batch)
    assert pay(clerk, most=1) == [1000]
    approved = [clerk.judge(one) for one in clerk.claim(most=2)]
    with ThreadPoolExecutor(1) as pool:
        with clerk.database.unit() as sending:
            # As the executor does: the requests are held first of all.
            refunds.many(sending, [one.request.id for one in approved if one], hold=True)
            wanted = Schedule(max_per_day="40.00")
            setting = pool.submit(clerk.unit, lambda unit: batches.set_schedule(unit, batch, wanted, ADA))
            while sending.postgres and not sending.connection.exec_driver_sql(HELD_UP).scalar_one():
                sending.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
            at = clerk.clock.now()
            for one in approved:
                assert one is not None
                assert batches.may_send(sending, one)
                assert refunds.submit(sending, one, at=at, stripe_at=at, look_max_age=DAY, age_max_days=0) is not None
        setting.result(20)
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_two_workers_together_keep_to_the_maximum(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 12), max_per_day="55.00")
    # As if one process had let all go before another one changed its mind.
    clerk.unit(lambda unit: refunds.let_go(unit, [line.request for line in clerk.lines(batch) if line.request], ADA))
    claimed = [clerk.judge(one) for one in clerk.claim()]
    assert None not in claimed
    other = Hand(clerk.database, clerk.clock, clerk.lease)

    def sent(one: Claimed | None) -> int:
        assert one is not None
        with other.database.unit() as unit:
            if not batches.may_send(unit, one):
                return 0
            got = refunds.submit(unit, one, at=START, stripe_at=START, look_max_age=DAY, age_max_days=0)
            assert got is not None
            return got.attempt.body.amount_minor

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(sent, claimed)) == 5000
    assert clerk.told(batch).count(("waiting", "schedule")) == 7


@pytest.mark.parametrize("ahead", [1, 400])
def test_a_clock_that_was_ahead_for_a_moment_gives_no_day_a_second_maximum_and_keeps_nobody_waiting(
    clerk: Clerk, ahead: int
) -> None:
    batch = scheduled(clerk, rows(clerk, 9), max_per_day="30.00")
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3
    clerk.clock.jump(ahead * DAY)
    rows(clerk, 9)
    turn(clerk, batch, ahead=1)
    # By that clock it is another day.
    assert pay(clerk) == [1000]
    clerk.clock.jump(-ahead * DAY)
    rows(clerk, 9)
    for _ in range(3):
        turn(clerk, batch)
        assert pay(clerk) == [], "today's maximum was sent before, and more since"
    days = []
    for _ in range(2):
        clerk.clock.move(DAY)
        paid: list[int] = []
        for _ in range(3):
            turn(clerk, batch)
            paid += pay(clerk)
        days.append(sum(paid))
    assert days == [3000, 2000]


def test_what_comes_back_unsent_uses_nothing_of_the_day(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), max_per_day="10.00")
    turn(clerk, batch)
    intent = intend(clerk, clerk.claim()[0])
    assert intent is not None
    clerk.record(intent, not_taken(NotTakenWhy.RATE_LIMITED))
    clerk.unit(lambda unit: batches.not_sent(unit, intent.claimed.request, 1000))
    assert pay(clerk) == [1000]
    turn(clerk, batch)
    assert pay(clerk) == []


def test_what_is_still_on_its_way_at_midnight_counts_on_the_new_day_too(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), max_per_day="10.00")
    turn(clerk, batch)
    intent = intend(clerk, clerk.claim()[0])
    assert intent is not None
    clerk.record(intent, unknown(), wait=1)
    clerk.clock.move(MIDNIGHT + 60 - clerk.clock.now())
    turn(clerk, batch)
    # It may be paid today: sent again, or by what was sent yesterday.
    (again,) = clerk.claim()
    assert again.request.state is State.SUBMITTING
    clerk.found(seen_refund(of=again.request))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_what_is_on_its_way_since_yesterday_counts_on_the_day_on_which_a_maximum_is_set(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 4))
    intent = intend(clerk, clerk.claim(most=1)[0])
    assert intent is not None
    clerk.record(intent, unknown(), wait=2 * DAY)
    clerk.clock.move(MIDNIGHT + 60 - clerk.clock.now())
    assert pay(clerk, most=1) == [1000]
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="20.00"), ADA))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.found(seen_refund(of=intent.claimed.request))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2


def test_what_is_on_its_way_when_a_maximum_is_set_counts_on_the_next_day_too(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 2))
    # The row before it waits, as after a refusal for a low balance.
    intent = sent_before(clerk)
    clerk.record(intent, unknown(), wait=2 * DAY)
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="10.00"), ADA))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.clock.move(MIDNIGHT + 60 - clerk.clock.now())
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.found(seen_refund(of=intent.claimed.request))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    course = turn(clerk, batch).course
    assert (course.released, course.resting) == (2, True)


def test_an_amount_that_no_day_can_take_is_refused_and_the_others_go_on(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 1, "60.00") + "ch_2,10.00,T2\nch_3,full,T3\n", max_per_day="50.00")
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    lines = clerk.lines(batch)
    assert [(line.standing.value, line.code) for line in lines] == [
        ("refused", "above_daily_maximum"), ("paid", "settled"), ("refused", "above_daily_maximum"),
    ]  # fmt: skip
    assert "60.00 GBP is more than the batch may send in a day (50.00)" in lines[0].text


def test_a_full_refund_that_turns_out_too_large_for_today_waits_for_tomorrow(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 1) + "ch_2,full,T2\nch_3,10.00,T3\n", max_per_day="105.00")
    turn(clerk, batch)
    assert pay(clerk) == [1000, 1000]
    turn(clerk, batch)
    assert "needs 100.00 GBP: next rows at 00:00 UTC" in waits(clerk, batch)
    assert clerk.claim() == []
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [10_000]


def test_a_row_that_waits_for_another_day_keeps_none_of_its_charge_waiting(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 1) + "ch_2,full,T2\nch_2,10.00,T3\n", max_per_day="105.00")
    turn(clerk, batch)
    # All of the second charge does not fit today any more.
    assert pay(clerk) == [1000]
    assert pay(clerk) == [1000]
    clerk.looked("ch_2", refunds=clerk.charge("ch_2").refunds)
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [9000]


# Spread


def test_a_clock_that_is_set_back_keeps_no_row_of_a_spread_waiting(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), spread_seconds=50.0)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    clerk.clock.jump(-DAY)
    rows(clerk, 5)
    paid = []
    for _ in range(35):
        turn(clerk, batch)
        paid.append(len(pay(clerk)))
        clerk.clock.move(1)
    # At the same pace as before.
    assert (sum(paid), max(paid)) == (4, 1)
    assert [at for at, count in enumerate(paid) if count] == [0, 10, 20, 30]


# Stages


def test_a_stage_begins_when_the_one_before_is_over(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 2))
    turn(clerk, batch)
    turn(clerk, batch)
    (claimed,) = clerk.claim()
    assert waits(clerk, batch) == "stage 2 of 3: 2 rows, begins when stage 1 is over (1 row not over yet)"
    intent = intend(clerk, claimed)
    assert intent is not None
    clerk.record(intent, accepted(intent.claimed.request))
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3


@pytest.mark.parametrize("before", [None, {"spread_seconds": 0.001}])
def test_what_was_paid_before_there_were_stages_fills_none(clerk: Clerk, before: dict[str, object] | None) -> None:
    batch = scheduled(clerk, rows(clerk, 9), **before) if before else clerk.planned(rows(clerk, 9))
    if before:
        turn(clerk, batch, ahead=4)
        clerk.clock.move(1)
        turn(clerk, batch, ahead=4)
    assert pay(clerk, most=4) == [1000] * 4
    if before:
        turn(clerk, batch, ahead=0)
    clerk.unit(lambda unit: batches.set_schedule(unit, clerk.batch(batch), Schedule(canary=(1, 2)), ADA))
    turn(clerk, batch)
    turn(clerk, batch)
    (claimed,) = clerk.claim()
    turn(clerk, batch)
    assert clerk.claim() == []
    assert waits(clerk, batch) == "stage 2 of 3: 2 rows, begins when stage 1 is over (1 row not over yet)"
    intent = intend(clerk, claimed)
    assert intent is not None
    clerk.record(intent, accepted(intent.claimed.request))
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2


@pytest.mark.parametrize("before", [None, {"spread_seconds": 100.0}])
def test_the_first_stage_begins_once_what_was_on_its_way_before_has_an_outcome(
    clerk: Clerk, before: dict[str, object] | None
) -> None:
    batch = scheduled(clerk, rows(clerk, 5), **before) if before else clerk.planned(rows(clerk, 5))
    turn(clerk, batch)
    (claimed,) = clerk.claim(most=1)
    intent = intend(clerk, claimed)
    assert intent is not None
    clerk.unit(lambda unit: batches.set_schedule(unit, clerk.batch(batch), Schedule(canary=(1, 2)), ADA))
    turn(clerk, batch)
    assert clerk.claim() == []
    assert waits(clerk, batch) == "the stages begin when what was sent before them is over (row 1 is not)"
    clerk.record(intent, accepted(intent.claimed.request))
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_the_first_stage_begins_no_sooner_where_a_row_before_what_was_on_its_way_was_not_sent(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 4))
    intent = sent_before(clerk)
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(canary=(1, 2)), ADA))
    turn(clerk, batch)
    assert pay(clerk) == []
    assert waits(clerk, batch) == "the stages begin when what was sent before them is over (row 2 is not)"
    clerk.record(intent, accepted(intent.claimed.request))
    for stage in ([1000], [1000] * 2):
        turn(clerk, batch)
        turn(clerk, batch)
        assert pay(clerk) == stage
    course = turn(clerk, batch).course
    assert (course.released, course.over, course.resting) == (4, 3, True)


def test_what_is_on_its_way_when_stages_and_a_maximum_are_set_counts_on_the_next_day_too(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 2))
    intent = sent_before(clerk)
    clerk.record(intent, unknown(), wait=DAY)
    both = Schedule(canary=(1,), max_per_day="10.00")
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, both, ADA))
    clerk.clock.move(MIDNIGHT + 60 - clerk.clock.now())
    clerk.clock.move(DAY)
    turn(clerk, batch)
    # It is sent again on this day, and paid.
    (again,) = clerk.claim()
    assert clerk.unit(lambda unit: batches.may_send(unit, again))
    clerk.found(seen_refund(of=again.request))
    turn(clerk, batch)
    assert pay(clerk) == []
    clerk.clock.move(DAY)
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_what_is_unknown_from_before_the_stages_fills_none_and_halts_none(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 4))
    intent = sent_before(clerk)
    left = clerk.record(intent, declined("charge_already_refunded"))
    assert left is not None
    clerk.resolve(left, Plan(Step.GIVE_UP, clerk.attempts(left.request)[-1]))
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(canary=(1, 2)), ADA))
    for stage in ([1000], [1000] * 2):
        turn(clerk, batch)
        assert turn(clerk, batch).course.halted == ""
        assert pay(clerk) == stage
    course = turn(clerk, batch).course
    assert (course.released, course.over, course.failed, course.resting) == (4, 3, 0, True)
    # Nor is it one of them once it is known to be paid.
    clerk.found(seen_refund(of=intent.claimed.request))
    assert turn(clerk, batch).course == course


def test_rows_that_were_declined_before_the_stages_make_none_longer_when_they_are_tried_again(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 6))
    fail_one(clerk, most=1)
    fail_one(clerk, most=1)
    clerk.unit(lambda unit: batches.set_schedule(unit, clerk.batch(batch), Schedule(canary=(1, 2)), ADA))
    assert turn(clerk, batch).course.halted == ""
    assert clerk.unit(lambda unit: batches.retry(unit, clerk.batch(batch), ADA)) == 2
    turn(clerk, batch)
    turn(clerk, batch)
    assert [claimed.request.content.charge for claimed in clerk.claim()] == ["ch_3"]


@pytest.mark.parametrize("key", ["T1", ""], ids=["with a ticket", "without"])
def test_a_row_whose_payment_was_made_by_another_charge_since_takes_its_turn_anew(clerk: Clerk, key: str) -> None:
    clerk.looked("ch_1", status="failed", captured=False, payment_intent="pi_1")
    file = f"payment_intent,amount,ticket_id\npi_1,10.00,{key}\npi_2,10.00,T2\npi_3,10.00,T3\n"
    batch = scheduled(clerk, file, canary=(1, 1))
    for _ in range(3):
        turn(clerk, batch)
        turn(clerk, batch)
        pay(clerk)
    assert clerk.told(turn(clerk, batch)) == [("refused", "charge_failed")] + [("paid", "settled")] * 2
    assert clerk.batch(batch).course.resting
    clerk.looked("ch_9", payment_intent="pi_1")
    assert clerk.unit(lambda unit: batches.retry(unit, clerk.batch(batch), ADA)) == 1
    clerk.plan(batch)
    assert pay(clerk) == []
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert request(clerk, batch, 1).content.charge == "ch_9"
    course = turn(clerk, batch).course
    assert (course.released, course.over, course.resting) == (3, 3, True)


def test_a_stage_that_a_row_keeps_open_says_which_and_what_a_person_can_do(clerk: Clerk) -> None:
    text = rows(clerk, 5)
    # Of a refund that no file asks for.
    intent = clerk.intended(refund_request(asked=content(charge="ch_1")))
    given_up(clerk, intent)
    batch = scheduled(clerk, text, canary=(2, 2))
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    turn(clerk, batch)
    row, other = request(clerk, batch, 1).id, intent.claimed.request.id
    assert clerk.totals(batch).moving == 4
    assert waits(clerk, batch) == (
        f"stage 2 of 3: 2 rows, begins when stage 1 is over (1 row not over yet); row 1 waits for request {other} of ch_1, of which nobody "
        f"knows whether it was paid: look at it by `refundry refund show {other}`, or give the row's place to another by `refundry refund "
        f"withdraw {row}`"
    )
    clerk.unit(lambda unit: refunds.withdraw(unit, row, ADA, "looked at by hand"))
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_too_many_failures_halt_the_batch_with_a_reason_and_a_person_lets_it_go_on(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 2))
    turn(clerk, batch)
    fail_one(clerk)
    halted = turn(clerk, batch)
    assert halted.state is BatchState.PAUSED
    why = "1 of the first 1 row failed, and --halt-at allows 2%"
    assert halted.course.halted == why
    assert clerk.told(halted) == [("refused", "charge_already_refunded")] + [("waiting", "stopped")] * 5
    assert clerk.lines(halted)[1].text == f"the batch was halted: {why}"
    assert clerk.totals(halted).moving == 0
    assert clerk.timeline(batch.id)[-1].facts["why"] == why
    turn(clerk, batch)
    assert clerk.claim() == []
    assert clerk.unit(lambda unit: batches.resume(unit, halted, ADA)) == 5
    going_on = turn(clerk, batch)
    assert (going_on.state, going_on.course.halted) == (BatchState.RUNNING, "")
    assert pay(clerk) == [1000] * 2


def fail_one(clerk: Clerk, most: int = 50) -> None:
    """Let Stripe refuse what has its turn, and let a look confirm it."""
    (claimed,) = clerk.claim(most=most)
    intent = intend(clerk, claimed)
    assert intent is not None
    left = clerk.record(intent, declined("charge_already_refunded"))
    assert left is not None
    attempt = clerk.attempts(left.request)[-1]
    clerk.resolve(left, Plan(Step.CLOSE, replace(attempt, absent=True)))


def given_up(clerk: Clerk, intent: Intent) -> None:
    """Have what was sent be one of which nobody knows whether it was paid."""
    clerk.record(intent, unknown())
    clerk.resolve(clerk.claimed_one(), Plan(Step.GIVE_UP, clerk.attempts(intent.claimed.request)[-1]))


def gone_on_with_one_unknown(clerk: Clerk) -> tuple[Batch, RefundRequest]:
    """Have the first row become unknown, which halts the batch, and a person let it go on."""
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 2))
    turn(clerk, batch)
    intent = intend(clerk, clerk.claimed_one())
    assert intent is not None
    given_up(clerk, intent)
    halted = turn(clerk, batch)
    assert halted.state is BatchState.PAUSED
    clerk.unit(lambda unit: batches.resume(unit, halted, ADA))
    assert turn(clerk, batch).state is BatchState.RUNNING
    return batch, intent.claimed.request


def test_what_was_unknown_when_the_batch_went_on_and_is_paid_makes_no_room_for_another_failure(clerk: Clerk) -> None:
    batch, unknown_one = gone_on_with_one_unknown(clerk)
    clerk.found(seen_refund(of=unknown_one))
    turn(clerk, batch)
    fail_one(clerk, most=1)
    assert turn(clerk, batch).course.halted == "1 of the first 3 rows failed, and --halt-at allows 2%"


def test_what_was_unknown_when_the_batch_went_on_and_people_say_was_not_paid_halts_it_no_second_time(
    clerk: Clerk,
) -> None:
    batch, unknown_one = gone_on_with_one_unknown(clerk)
    clerk.unit(lambda unit: refunds.say_not_paid(unit, unknown_one.id, ADA, "nothing there"))
    after = turn(clerk, batch)
    assert (after.state, after.course.failed, after.course.halted) == (BatchState.RUNNING, 1, "")
    assert clerk.told(batch)[0] == ("refused", "not_paid")
    fail_one(clerk, most=1)
    assert turn(clerk, batch).course.halted == "1 of the first 3 rows failed, and --halt-at allows 2%"


def test_a_row_that_is_tried_again_makes_no_failure_of_what_was_unknown_when_the_batch_went_on(clerk: Clerk) -> None:
    batch, _ = gone_on_with_one_unknown(clerk)
    fail_one(clerk, most=1)
    assert turn(clerk, batch).state is BatchState.PAUSED
    clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    assert turn(clerk, batch).state is BatchState.RUNNING
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert turn(clerk, batch).course.halted == ""
    fail_one(clerk, most=1)
    assert turn(clerk, batch).course.halted == "1 of the first 3 rows failed, and --halt-at allows 2%"


@pytest.mark.parametrize("before", ["pending", "succeeded"])
def test_what_stripe_took_and_fails_later_halts_the_batch_too_and_counts_once(clerk: Clerk, before: str) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(2, 2))
    turn(clerk, batch)
    for claimed in clerk.claim():
        intent = intend(clerk, claimed)
        assert intent is not None
        clerk.record(intent, accepted(intent.claimed.request, refund_id=f"re_{claimed.request.id[:8]}", status=before))
    turn(clerk, batch)
    assert clerk.batch(batch).course.over == 2
    first = request(clerk, batch, 1)
    clerk.found(seen_refund(f"re_{first.id[:8]}", of=first, status="failed"))
    halted = turn(clerk, batch)
    assert (halted.state, halted.course.failed) == (BatchState.PAUSED, 1)
    assert halted.course.halted == "1 of the first 4 rows failed, and --halt-at allows 2%"
    clerk.unit(lambda unit: batches.resume(unit, halted, ADA))
    for _ in range(3):
        turn(clerk, batch)
    going_on = clerk.batch(batch)
    assert (going_on.state, going_on.course.failed, going_on.course.over) == (BatchState.RUNNING, 1, 2)
    assert pay(clerk) == [1000] * 2


def test_no_row_of_a_later_stage_goes_before_since_its_dispute_is_over_or_a_person_wants_it(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 2))
    turn(clerk, batch)
    (first,) = clerk.claim()
    fifth, sixth = (request(clerk, batch, row).id for row in (5, 6))
    (charge,) = clerk.unit(lambda unit: charges.many(unit, ["ch_5"])).values()
    clerk.unit(lambda unit: refunds.hold_disputed(unit, charge, unit.now + 10, "disputed", full_settles=True))
    assert clerk.unit(lambda unit: refunds.lift_disputed(unit, charge)) == 1
    clerk.unit(lambda unit: refunds.suspect(unit, seen_refund("re_x", charge="ch_6", amount_minor=1000)))
    clerk.unit(lambda unit: refunds.allow_repeat(unit, sixth, ADA))
    turn(clerk, batch)
    assert pay(clerk) == []
    assert clerk.told(batch)[4:] == [("waiting", "schedule")] * 2
    # The stages go on, and with the last of them these two.
    intent = intend(clerk, first)
    assert intent is not None
    clerk.record(intent, accepted(intent.claimed.request, refund_id="re_first"))
    amounts = []
    for _ in range(6):
        turn(clerk, batch)
        amounts.append(pay(clerk))
    assert [len(some) for some in amounts if some] == [2, 3]
    with clerk.database.reading() as unit:
        assert {refunds.need(unit, one).state for one in (fifth, sixth)} == {State.SETTLED}


def disputed(clerk: Clerk, charge_id: str) -> None:
    (charge,) = clerk.unit(lambda unit: charges.many(unit, [charge_id])).values()
    assert (
        clerk.unit(lambda unit: refunds.hold_disputed(unit, charge, unit.now + 10, "disputed", full_settles=True)) == 1
    )


def undisputed(clerk: Clerk, charge_id: str) -> None:
    (charge,) = clerk.unit(lambda unit: charges.many(unit, [charge_id])).values()
    assert clerk.unit(lambda unit: refunds.lift_disputed(unit, charge)) == 1


def test_a_row_whose_place_was_taken_while_it_was_disputed_makes_no_stage_longer(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 3))
    turn(clerk, batch)
    disputed(clerk, "ch_1")
    turn(clerk, batch)
    undisputed(clerk, "ch_1")
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert clerk.told(batch)[:2] == [("waiting", "schedule"), ("paid", "settled")]
    for stage in ([1000] * 3, [1000] * 2):
        turn(clerk, batch)
        turn(clerk, batch)
        assert pay(clerk) == stage
    assert turn(clerk, batch).course.over == 6


def test_a_worker_that_has_lost_a_row_gives_it_no_place_in_a_stage(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 3))
    turn(clerk, batch)
    # It waits for its slot while the dispute opens and ends.
    lost = clerk.judge(clerk.claimed_one())
    assert lost is not None
    disputed(clerk, "ch_1")
    turn(clerk, batch)
    undisputed(clerk, "ch_1")
    assert intend(clerk, lost) is None
    assert pay(clerk) == [1000]
    for stage in ([1000] * 3, [1000] * 2):
        turn(clerk, batch)
        turn(clerk, batch)
        assert pay(clerk) == stage


def test_a_dispute_that_ends_in_the_moment_in_which_a_place_is_taken_makes_no_stage_longer(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 3))
    turn(clerk, batch)
    disputed(clerk, "ch_1")

    def paid_undisputed() -> list[int]:
        undisputed(clerk, "ch_1")
        return pay(clerk)

    with ThreadPoolExecutor(1) as pool:
        with clerk.database.unit() as taking:
            batches.release(taking, batch.id, 50)
            going = pool.submit(paid_undisputed)
            while taking.postgres and not going.done() and not taking.connection.exec_driver_sql(HELD_UP).scalar_one():
                taking.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        paid = going.result(20)
    assert paid + pay(clerk) == [1000]


@pytest.mark.parametrize("early", [False, True])
def test_a_row_that_is_passed_by_while_it_is_disputed_makes_no_stage_longer(clerk: Clerk, *, early: bool) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 3))
    turn(clerk, batch)
    disputed(clerk, "ch_2")
    # It is refused before it is sent, and another one takes its place.
    (first,) = clerk.claim()
    assert clerk.judge(first, known=False) is None
    if early:
        undisputed(clerk, "ch_2")
    turn(clerk, batch)
    if not early:
        undisputed(clerk, "ch_2")
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    for stage in ([1000] * 3, [1000]):
        turn(clerk, batch)
        turn(clerk, batch)
        assert pay(clerk) == stage
    assert turn(clerk, batch).course.over == 5


def test_a_row_of_a_stage_waits_for_none_of_its_charge_that_has_lost_its_place(clerk: Clerk) -> None:
    rows(clerk, 1)
    file = "charge_id,amount,ticket_id\nch_1,60.00,T1\nch_1,full,T2\n"
    batch = scheduled(clerk, file, canary=(1,), window=AFTERNOON)
    turn(clerk, batch)
    clerk.unit(lambda unit: refunds.suspect(unit, seen_refund("re_x", charge="ch_1", amount_minor=6000)))
    turn(clerk, batch)
    assert clerk.judge(clerk.claimed_one()) is not None
    clerk.clock.move(CLOSING + 10)
    turn(clerk, batch)
    clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    clerk.clock.move(DAY - 600)
    turn(clerk, batch)
    assert pay(clerk) == [6000]
    clerk.looked("ch_1", refunds=clerk.charge("ch_1").refunds)
    turn(clerk, batch)
    assert pay(clerk) == [4000]


def test_a_row_that_was_refused_and_is_asked_for_anew_makes_no_stage_longer(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 4), canary=(1, 2))
    turn(clerk, batch)
    (first,) = clerk.claim()
    assert clerk.judge(first, known=False) is None
    turn(clerk, batch)
    clerk.unit(lambda unit: refunds.reopen(unit, first.request.id, ADA))
    assert pay(clerk) == [1000]
    assert clerk.told(batch)[:2] == [("waiting", "schedule"), ("paid", "settled")]
    for stage in ([1000] * 2, [1000]):
        turn(clerk, batch)
        turn(clerk, batch)
        assert pay(clerk) == stage


def test_a_row_that_was_declined_and_is_asked_for_anew_counts_once_in_its_stage(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(2, 2), halt_hundredths=6000)
    turn(clerk, batch)
    fail_one(clerk, most=1)
    second = intend(clerk, clerk.claimed_one())
    assert second is not None
    turn(clerk, batch)
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 1).id, ADA))
    paid = []
    for _ in range(4):
        paid += pay(clerk)
        turn(clerk, batch)
    # The stage is not over before its second row is.
    assert paid == [1000]
    assert waits(clerk, batch) == "stage 2 of 3: 2 rows, begins when stage 1 is over (1 row not over yet)"
    clerk.record(second, accepted(second.claimed.request, refund_id="re_second"))
    for _ in range(2):
        turn(clerk, batch)
        assert pay(clerk) == [1000] * 2
    course = turn(clerk, batch).course
    assert (course.over, course.failed, course.resting) == (6, 0, True)


def test_a_row_that_two_persons_allow_counts_once_in_its_stage(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 6), canary=(1, 2))
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert turn(clerk, batch).course.over == 1
    # Who is second has read of it while it was held, and hears only now that it is paid.
    clerk.unit(lambda unit: batches.allow_repeat(unit, clerk.batch(batch), 1, ADA))
    assert turn(clerk, batch).course.over == 1
    assert pay(clerk, most=1) == [1000]
    turn(clerk, batch)
    assert waits(clerk, batch) == "stage 3 of 3: 3 rows, begins when stage 2 is over (1 row not over yet)"


def test_a_row_that_was_declined_after_the_stages_and_is_asked_for_anew_counts_once(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), canary=(1,), halt_hundredths=6000)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    turn(clerk, batch)
    fail_one(clerk, most=1)
    assert pay(clerk) == [1000]
    assert turn(clerk, batch).course.failed == 1
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 2).id, ADA))
    assert pay(clerk) == [1000], "no stage keeps it waiting"
    course = turn(clerk, batch).course
    assert (course.over, course.failed, course.resting) == (3, 0, True)


def test_a_row_that_failed_in_other_stages_takes_no_failure_off_when_it_is_asked_for_anew(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), canary=(2,), halt_hundredths=6000)
    turn(clerk, batch)
    fail_one(clerk, most=1)
    assert pay(clerk) == [1000]
    turn(clerk, batch)
    again = Schedule(canary=(2, 1), halt_hundredths=6000)
    clerk.unit(lambda unit: batches.set_schedule(unit, clerk.batch(batch), again, ADA))
    turn(clerk, batch)
    fail_one(clerk, most=1)
    assert turn(clerk, batch).course.failed == 1
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 1).id, ADA))
    pay(clerk)
    assert turn(clerk, batch).course.failed == 1


# Steering


@pytest.mark.parametrize("steered", ["paused", "scheduled anew"])
def test_what_is_asked_for_anew_goes_on_after_its_batch_was_steered(clerk: Clerk, steered: str) -> None:
    batch = scheduled(clerk, rows(clerk, 1), max_per_day="1000")
    all_refused(clerk, batch)
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 1).id, ADA))
    if steered == "paused":
        clerk.unit(lambda unit: batches.pause(unit, batch, ADA))
        clerk.unit(lambda unit: batches.resume(unit, batch, ADA))
    else:
        clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="2000"), ADA))
    for _ in range(2):
        turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_a_pause_wins_over_the_schedule_and_going_on_leads_back_to_it(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 4), max_per_day="1000")
    turn(clerk, batch, ahead=2)
    assert clerk.unit(lambda unit: batches.pause(unit, batch, ADA)) == 4
    paused = turn(clerk, batch)
    assert clerk.told(paused) == [("waiting", "stopped")] * 4
    assert clerk.totals(paused).told()["reasons"] == {"stopped": 4}
    assert clerk.totals(paused).moving == 0
    assert clerk.claim() == []
    assert clerk.unit(lambda unit: batches.resume(unit, batch, ADA)) == 4
    assert clerk.claim() == [], "not free, but in line"
    turn(clerk, batch, ahead=3)
    assert [claimed.request.content.charge for claimed in clerk.claim()] == ["ch_1", "ch_2", "ch_3"]


def test_what_is_tried_again_or_allowed_waits_for_its_turn(clerk: Clerk) -> None:
    text = rows(clerk, 3)
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000),))
    batch = scheduled(clerk, text, window=AFTERNOON)
    turn(clerk, batch)
    for claimed in clerk.claim():
        clerk.judge(claimed, known=claimed.request.content.charge != "ch_2")
    assert clerk.told(batch)[:2] == [("waiting", "possible_repeat"), ("refused", "charge_unknown")]
    clerk.clock.move(3600)
    turn(clerk, batch)
    assert clerk.unit(lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
    assert clerk.unit(lambda unit: batches.retry(unit, batch, ADA)) == 1
    assert clerk.claim() == []
    assert clerk.told(batch) == [("waiting", "schedule")] * 3
    clerk.clock.move(MIDNIGHT + 14 * 3600 - clerk.clock.now())
    clerk.looked("ch_2")
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 3


def test_a_row_that_is_let_go_keeps_what_another_process_counts_in_that_moment(clerk: Clerk) -> None:
    text = rows(clerk, 2)
    clerk.looked("ch_1", refunds=(seen_refund("re_x", amount_minor=1000),))
    batch = scheduled(clerk, text, max_per_day="1000")
    turn(clerk, batch)
    assert [clerk.judge(claimed) is None for claimed in clerk.claim()] == [True, False]

    with ThreadPoolExecutor(1) as pool:
        with clerk.database.unit() as counting:
            repository.lock(counting, batch.id)
            counted = replace(batches.need(counting, batch.id).course, released=2, over=2, failed=1)
            repository.set_course(counting, batch.id, counted)
            going = pool.submit(clerk.unit, lambda unit: batches.allow_repeat(unit, batch, 1, ADA))
            # On SQLite it has not even begun to read.
            while counting.postgres and not counting.connection.exec_driver_sql(HELD_UP).scalar_one():
                counting.connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        assert going.result(20)
    course = clerk.batch(batch).course
    assert (course.released, course.over, course.failed) == (2, 2, 1)


def test_what_a_person_at_the_desk_has_decided_anew_keeps_to_the_schedule(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 1), window=AFTERNOON)
    all_refused(clerk, batch)
    clerk.clock.move(3600)
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 1).id, ADA))
    assert pay(clerk) == []
    assert clerk.told(batch) == [("waiting", "schedule")]
    clerk.clock.move(MIDNIGHT + 14 * 3600 - clerk.clock.now())
    turn(clerk, batch)
    turn(clerk, batch)
    assert pay(clerk) == [1000]


def test_a_withdrawn_batch_sends_nothing_more(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 3), spread_seconds=100.0)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "no")) == 2
    clerk.clock.move(1000)
    turn(clerk, batch)
    assert clerk.claim() == []


def test_a_withdrawn_batch_takes_no_schedule_for_which_what_is_wanted_after_all_would_wait(clerk: Clerk) -> None:
    batch = clerk.planned(rows(clerk, 1))
    clerk.unit(lambda unit: batches.withdraw(unit, batch, ADA, "no"))
    clerk.unit(lambda unit: refunds.reopen(unit, request(clerk, batch, 1).id, ADA))
    # Its file is run again, with the flags of a schedule.
    clerk.unit(lambda unit: batches.set_schedule(unit, batch, Schedule(max_per_day="1000"), ADA))
    clerk.looked("ch_1")
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert clerk.batch(batch).schedule is None


# The balance


def balance(clerk: Clerk, batch: Batch, pounds: int) -> bool:
    """Read a balance for a batch, if it wants one, from which every refund has left; tells whether it did."""
    before = clerk.unit(lambda unit: batches.purse(unit, batch.id, math.inf))
    if before is None:
        return False
    clerk.unit(lambda unit: batches.note_balance(unit, batch.id, before, {"gbp": pounds * 100}))
    return True


def test_what_must_stay_of_the_balance_stays_and_rows_wait_with_its_hold(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), keep_balance="100.00")
    turn(clerk, batch)
    assert clerk.claim() == []
    assert waits(clerk, batch) == "the available balance in GBP is not known yet"
    assert balance(clerk, batch, 125)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    turn(clerk, batch)
    assert clerk.told(batch) == [("paid", "settled")] * 2 + [("waiting", "low_balance")] * 3
    assert (clerk.totals(batch).moving, clerk.totals(batch).in_line) == (3, 3)
    assert waits(clerk, batch) == (
        "the next row needs 10.00 GBP, and the available balance is 5.00 GBP above the 100.00 GBP to be kept"
    )
    assert not balance(clerk, batch, 105), "it was read a moment ago"
    clerk.clock.move(61)
    assert balance(clerk, batch, 115)
    turn(clerk, batch)
    assert pay(clerk) == [1000]
    assert clerk.told(batch)[2:] == [("paid", "settled"), ("waiting", "low_balance"), ("waiting", "low_balance")]


def test_what_is_on_its_way_while_the_balance_is_read_is_not_spent_twice(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), keep_balance="100.00")
    turn(clerk, batch)
    balance(clerk, batch, 130)
    turn(clerk, batch)
    flying = intend(clerk, clerk.claim(most=1)[0])
    assert flying is not None
    clerk.clock.move(10)
    # Stripe may have taken it from this balance, or not yet.
    assert balance(clerk, batch, 130)
    assert pay(clerk) == [1000] * 2
    assert clerk.told(batch)[0] == ("waiting", "submitting")
    turn(clerk, batch)
    assert clerk.claim() == []


def test_all_that_is_in_doubt_on_the_account_is_taken_off_the_balance_however_many_they_are(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), keep_balance="100.00")
    turn(clerk, batch)
    # As after an outage: sent, without an answer, and looked for later.
    sent = RefundRequest("", ACCOUNT, "", request(clerk, batch, 1).content, state=State.SUBMITTING, amount_minor=100)
    sent = replace(sent, due_at=clerk.clock.now() + 300)
    names = [f"doubt_{number}" for number in range(1200)]
    doubt = [replace(sent, id=one, request_key=one, content=replace(sent.content, charge=one)) for one in names]
    clerk.receive(*doubt)
    balance(clerk, batch, 1300)
    turn(clerk, batch)
    assert pay(clerk) == []
    assert waits(clerk, batch).endswith("the available balance is 0.00 GBP above the 100.00 GBP to be kept")


def test_a_balance_that_was_read_long_ago_is_not_believed(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 2), keep_balance="100.00")
    turn(clerk, batch)
    balance(clerk, batch, 1000)
    turn(clerk, batch)
    clerk.clock.move(3600)
    assert pay(clerk) == []
    assert clerk.told(batch) == [("waiting", "low_balance")] * 2
    assert request(clerk, batch, 1).hold is not None
    with clerk.database.reading() as unit:
        kept = repository.budgets(unit, batch.id)["gbp"]
    assert (kept.spent_minor, request(clerk, batch, 1).hold.reason) == (0, HeldReason.LOW_BALANCE)  # type: ignore[union-attr]


def test_a_clock_that_is_set_back_keeps_no_balance_from_being_read(clerk: Clerk) -> None:
    batch = scheduled(clerk, rows(clerk, 5), keep_balance="100.00")
    turn(clerk, batch)
    assert balance(clerk, batch, 120)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    clerk.clock.jump(-DAY)
    rows(clerk, 5)
    assert balance(clerk, batch, 120)
    turn(clerk, batch)
    assert pay(clerk) == [1000] * 2
    turn(clerk, batch)
    assert waits(clerk, batch).startswith("the next row needs 10.00 GBP, and the available balance is 0.00 GBP above")
