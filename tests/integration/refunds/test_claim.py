"""Claims: who works on what, until when, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.charges import service as charges
from refundry.infra.db import Needs, Unit
from refundry.kernel.lane import Lane
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, Hold, RefundRequest, State
from refundry.refunds.service import Claimed
from tests.support.builders import ACCOUNT, content, refund_request, unknown
from tests.support.hand import ADA, LEASE_SECONDS, Hand

pytestmark = pytest.mark.integration


def of(charge: str, key: str, **changes: object) -> RefundRequest:
    return refund_request(key, asked=content(charge=charge), **changes)


def ids(claimed: list[Claimed]) -> list[str]:
    return [one.request.request_key for one in claimed]


def put(hand: Hand, request: RefundRequest, **changes: object) -> RefundRequest:
    """Bring a kept request into any state, past the services."""
    before = hand.find(request)
    after = replace(before, version=before.version + 1, **changes)  # type: ignore[arg-type]
    assert hand.unit(lambda unit: repository.update(unit, before, after, None, keep_lease=False))
    return after


def expedited(hand: Hand, request: RefundRequest) -> RefundRequest:
    return hand.unit(lambda unit: refunds.expedite(unit, request.id, ADA))


def test_what_is_due_is_taken_in_the_order_it_came(hand: Hand) -> None:
    hand.receive(*(of(f"ch_{n}", f"key:{n}") for n in range(5)))
    assert ids(hand.claim(most=3)) == ["key:0", "key:1", "key:2"]
    assert ids(hand.claim(most=3)) == ["key:3", "key:4"]
    assert hand.claim() == []


def test_a_claim_takes_a_new_version_so_that_older_reads_are_void(hand: Hand) -> None:
    (received,) = hand.receive(refund_request())
    claimed = hand.claimed_one()
    assert claimed.request.version == received.request.version + 1
    assert hand.find(claimed) == claimed.request


def statements_on_requests(hand: Hand, work: Callable[[Unit], object]) -> list[str]:
    """Tell the first word of each statement that writes to requests in a unit of this work."""
    told: list[str] = []

    def heard(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        first, second = statement.split()[:2]
        if second == "refund_requests":
            told.append(first)

    sa.event.listen(hand.database.engine, "before_cursor_execute", heard)
    try:
        hand.unit(work)
    finally:
        sa.event.remove(hand.database.engine, "before_cursor_execute", heard)
    return told


def test_what_is_decided_in_the_unit_of_its_claim_is_written_once(hand: Hand) -> None:
    hand.looked("ch_1")
    hand.looked("ch_2")
    (first, second) = hand.receive(of("ch_1", "key:1"), of("ch_2", "key:2"))

    def work(unit: Unit) -> None:
        taken = refunds.claim(unit, ACCOUNT, Lane.BULK, "lease-1", seconds=LEASE_SECONDS, most=2)
        hand.database.fetch(unit, [Needs(one.request.content.charge, one.request.id) for one in taken])
        for one in taken:
            assert refunds.judge(unit, one, known=True, age_max_days=0)

    assert statements_on_requests(hand, work) == ["UPDATE"]
    for received in (first, second):
        kept = hand.find(received.request)
        assert (kept.state, kept.version) == (State.APPROVED, received.request.version + 2)
    assert hand.claim() == []


def test_whoever_asks_the_table_after_a_claim_finds_it_written(hand: Hand) -> None:
    (received,) = hand.receive(of("ch_1", "key:1"))

    def work(unit: Unit) -> list[Claimed]:
        taken = refunds.claim(unit, ACCOUNT, Lane.BULK, "lease-1", seconds=LEASE_SECONDS, most=2)
        assert refunds.claim(unit, ACCOUNT, Lane.BULK, "lease-2", seconds=LEASE_SECONDS, most=2) == []
        assert refunds.end_leases(unit, ACCOUNT) == 1
        return taken

    (claimed,) = hand.unit(work)
    assert claimed.request.version == received.request.version + 1
    # Free again, under the version that the first claim made.
    (again,) = hand.claim()
    assert again.request.version == claimed.request.version + 1


def test_what_is_changed_after_its_claim_is_seen_by_its_siblings(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))

    def work(unit: Unit) -> bool:
        (taken,) = refunds.claim(unit, ACCOUNT, Lane.BULK, "lease-1", seconds=LEASE_SECONDS, most=2)
        assert not repository.on_the_way(unit, "ch_2", "another")
        before = taken.request
        after = replace(before, state=State.SUBMITTING, version=before.version + 1)
        assert repository.update(unit, before, after, "lease-1", keep_lease=True)
        return repository.on_the_way(unit, "ch_1", "another")

    assert hand.unit(work)


def test_a_claim_that_is_given_back_in_its_own_unit_leaves_the_request_free(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))

    def work(unit: Unit) -> None:
        (taken,) = refunds.claim(unit, ACCOUNT, Lane.BULK, "lease-1", seconds=LEASE_SECONDS, most=2)
        refunds.release(unit, taken)

    hand.unit(work)
    assert len(hand.claim()) == 1


def test_never_more_than_asked_for_are_taken(hand: Hand) -> None:
    hand.receive(*(of(f"ch_{n}", f"key:{n}") for n in range(200)))
    assert [len(hand.claim(most=most)) for most in (1, 7, 50, 0)] == [1, 7, 50, 0]


def test_one_of_each_charge_is_taken_the_first_that_came(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"), of("ch_2", "key:3"), of("ch_1", "key:4"))
    assert ids(hand.claim()) == ["key:1", "key:3"]
    assert hand.claim() == []


def test_the_next_of_a_charge_follows_when_the_first_is_over(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    hand.judge(hand.claimed_one(), known=False)
    assert ids(hand.claim()) == ["key:2"]


@pytest.mark.parametrize("state", [State.SUBMITTING, State.OUTCOME_UNKNOWN])
def test_a_sibling_on_its_way_keeps_all_others_of_the_charge_waiting(hand: Hand, state: State) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"), of("ch_1", "key:3"))
    put(hand, of("ch_1", "key:2"), state=state, due_at=hand.clock.now() + 900)
    assert hand.claim() == []


def test_a_later_sibling_that_is_over_keeps_nobody_waiting(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    put(hand, of("ch_1", "key:2"), state=State.SETTLED)
    assert ids(hand.claim()) == ["key:1"]


def test_an_earlier_sibling_that_is_due_later_still_comes_first(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1", due_at=hand.clock.now() + 60), of("ch_1", "key:2"))
    assert hand.claim() == []
    hand.clock.move(61)
    assert ids(hand.claim()) == ["key:1"]


def test_a_held_request_is_not_taken_and_lets_its_siblings_pass(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    put(hand, of("ch_1", "key:1"), hold=Hold(HeldReason.POSSIBLE_REPEAT))
    assert ids(hand.claim()) == ["key:2"]


def test_a_hold_that_has_passed_is_taken_off_by_the_claim(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    put(hand, of("ch_1", "key:1"), hold=Hold(HeldReason.LOW_BALANCE, hand.clock.now() + 900))
    assert hand.claim() == []
    hand.clock.move(899)
    assert hand.claim() == []
    hand.clock.move(1)
    (claimed,) = hand.claim()
    assert claimed.request.hold is None
    assert hand.find(claimed).hold is None


def test_a_request_whose_hold_has_passed_comes_before_its_later_siblings(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    put(hand, of("ch_1", "key:1"), hold=Hold(HeldReason.SIBLING, hand.clock.now() - 1))
    assert ids(hand.claim()) == ["key:1"]


@pytest.mark.parametrize("state", [s for s in State if s not in {State.RECEIVED, State.APPROVED, State.SUBMITTING}])
def test_what_has_nothing_to_be_done_is_not_taken(hand: Hand, state: State) -> None:
    hand.receive(of("ch_1", "key:1"))
    put(hand, of("ch_1", "key:1"), state=state)
    assert hand.claim() == []


def test_lanes_and_accounts_are_kept_apart(hand: Hand) -> None:
    theirs = replace(of("ch_9", "key:9"), account="acct_2|test")
    hand.receive(of("ch_1", "key:1", lane=Lane.DESK), of("ch_2", "key:2"), theirs)
    with hand.database.reading() as unit:
        assert set(refunds.due_lanes(unit, unit.now)) == {
            (ACCOUNT, Lane.DESK), (ACCOUNT, Lane.BULK), ("acct_2|test", Lane.BULK)}  # fmt: skip
    assert ids(hand.claim(lane=Lane.DESK)) == ["key:1"]
    assert ids(hand.claim(lane=Lane.BULK)) == ["key:2"]


def test_a_person_does_not_wait_for_an_earlier_row_of_a_file_for_the_same_charge(hand: Hand) -> None:
    rows = [of("ch_1", f"key:{n}", due_at=hand.clock.now() + n * 3600) for n in range(2)]
    hand.receive(*rows, of("ch_1", "key:person", lane=Lane.DESK))
    with hand.database.reading() as unit:
        assert set(refunds.due_lanes(unit, unit.now)) == {(ACCOUNT, Lane.DESK), (ACCOUNT, Lane.BULK)}
    assert ids(hand.claim(lane=Lane.DESK)) == ["key:person"]
    assert ids(hand.claim(lane=Lane.BULK)) == ["key:0"]


def test_a_row_of_a_file_waits_for_what_a_person_asked_for_before_it(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:person", lane=Lane.DESK), of("ch_1", "key:row"), of("ch_1", "key:2", lane=Lane.DESK))
    assert hand.claim(lane=Lane.BULK) == []
    assert ids(hand.claim(lane=Lane.DESK)) == ["key:person"]


def test_a_row_of_a_file_that_a_person_asks_for_waits_for_no_other_row(hand: Hand) -> None:
    hand.receive(*(of(f"ch_{n}", f"key:{n}") for n in range(3)))
    (same,) = hand.receive(of("ch_2", "key:2", lane=Lane.DESK))
    asked = expedited(hand, same.request)
    assert (asked.lane, asked.version) == (Lane.DESK, same.request.version + 1)
    assert hand.timeline(asked.id)[-1].event == "refund_request.expedited"
    assert expedited(hand, asked) == asked, "once is enough"
    assert hand.find(asked) == asked
    assert ids(hand.claim(lane=Lane.DESK)) == ["key:2"]
    assert ids(hand.claim(lane=Lane.BULK)) == ["key:0", "key:1"]
    assert hand.audit_is_sound()


def test_a_row_that_a_person_asks_for_is_taken_out_of_the_hands_of_a_worker_that_has_not_sent_it(hand: Hand) -> None:
    approved = hand.approved(of("ch_1", "key:1"))
    hand.looked("ch_1")
    expedited(hand, approved.request)
    assert hand.submit(approved) is None
    (claimed,) = hand.claim(lane=Lane.DESK)
    assert claimed.request.state is State.APPROVED
    assert hand.submit(claimed) is not None


def test_a_row_that_waits_a_while_keeps_its_wait_when_a_person_asks_for_it(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    waits = Hold(HeldReason.SIBLING, hand.clock.now() + 60)
    asked = expedited(hand, put(hand, of("ch_1", "key:1"), hold=waits))
    assert (asked.lane, asked.hold) == (Lane.DESK, waits)
    assert hand.claim(lane=Lane.DESK) == []
    hand.clock.move(61)
    assert ids(hand.claim(lane=Lane.DESK)) == ["key:1"]


@pytest.mark.parametrize("reason", list(HeldReason))
def test_a_row_that_is_held_stays_as_it_is_whoever_asks_for_it(hand: Hand, reason: HeldReason) -> None:
    hand.receive(of("ch_1", "key:1"))
    held = put(hand, of("ch_1", "key:1"), hold=Hold(reason))
    assert expedited(hand, held) == hand.find(held) == held


@pytest.mark.parametrize("state", [s for s in State if s not in {State.RECEIVED, State.APPROVED}])
def test_what_was_sent_or_waits_for_nobody_stays_as_it_is_whoever_asks_for_it(hand: Hand, state: State) -> None:
    hand.receive(of("ch_1", "key:1"))
    kept = put(hand, of("ch_1", "key:1"), state=state)
    assert expedited(hand, kept) == hand.find(kept) == kept


@pytest.mark.parametrize("state", [State.SUBMITTING, State.OUTCOME_UNKNOWN])
def test_a_person_waits_for_a_row_of_a_file_that_is_on_its_way(hand: Hand, state: State) -> None:
    hand.receive(of("ch_1", "key:row"), of("ch_1", "key:person", lane=Lane.DESK))
    put(hand, of("ch_1", "key:row"), state=state, due_at=hand.clock.now() + 900)
    assert hand.claim(lane=Lane.DESK) == []


# Leases


def test_what_another_holds_is_not_taken_until_its_lease_has_ended(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    assert len(hand.claim()) == 1
    assert other.claim() == []
    hand.clock.move(LEASE_SECONDS - 1)
    assert other.claim() == []
    hand.clock.move(1)
    assert ids(other.claim()) == ["key:1"]


def renew(hand: Hand, taken: list[Claimed], seconds: float = LEASE_SECONDS) -> None:
    requests = [one.request.id for one in taken]
    hand.unit(lambda unit: refunds.renew(unit, requests, {one.lease for one in taken}, seconds))


def test_a_renewed_lease_goes_on(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    taken = hand.claim()
    hand.clock.move(LEASE_SECONDS - 1)
    renew(hand, taken)
    hand.clock.move(LEASE_SECONDS - 1)
    assert other.claim() == []


def test_a_lease_that_has_ended_cannot_be_renewed(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    taken = hand.claim()
    hand.clock.move(LEASE_SECONDS)
    renew(hand, taken)
    assert ids(other.claim()) == ["key:1"]


def test_only_what_is_named_is_renewed_and_only_under_its_lease(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_2", "key:2"), of("ch_3", "key:3"))
    first, second = hand.claim(most=1), other.claim(most=1)
    hand.claim(most=1)
    hand.clock.move(LEASE_SECONDS - 1)
    renew(hand, first)
    hand.unit(lambda unit: refunds.renew(unit, [second[0].request.id], [hand.lease], LEASE_SECONDS))
    hand.clock.move(LEASE_SECONDS - 1)
    assert ids(other.claim()) == ["key:2", "key:3"]


def test_what_is_given_back_is_taken_by_the_next(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    claimed = hand.claimed_one()
    hand.unit(lambda unit: refunds.release(unit, claimed))
    assert ids(other.claim()) == ["key:1"]


def test_nobody_gives_back_what_another_holds_by_now(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"))
    stale = hand.claimed_one()
    hand.clock.move(LEASE_SECONDS)
    other.claim()
    hand.unit(lambda unit: refunds.release(unit, stale))
    hand.unit(lambda unit: refunds.postpone(unit, stale, unit.now + 900, "late"))
    assert hand.claim() == []
    assert hand.find(stale).due_at == 0.0


def test_ending_all_leases_frees_what_the_dead_held(hand: Hand, other: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_2", "key:2"))
    hand.claim()
    assert hand.unit(lambda unit: refunds.end_leases(unit, ACCOUNT)) == 2
    assert len(other.claim()) == 2


def test_a_dead_workers_send_is_taken_up_as_it_stands(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.clock.move(LEASE_SECONDS + 1)
    (claimed,) = other.claim()
    assert claimed.request.state is State.SUBMITTING
    (attempt,) = other.attempts(claimed.request)
    assert attempt == intent.attempt
    assert attempt.in_doubt


# What is due


def test_what_is_due_is_told_by_lane_and_nothing_that_somebody_holds(hand: Hand) -> None:
    def due() -> list[tuple[str, Lane]]:
        with hand.database.reading() as unit:
            return refunds.due_lanes(unit, unit.now)

    hand.receive(of("ch_1", "key:1"))
    assert due() == [(ACCOUNT, Lane.BULK)]
    hand.claim()
    assert due() == []
    hand.clock.move(LEASE_SECONDS)
    assert due() == [(ACCOUNT, Lane.BULK)]


def test_what_waits_for_a_sibling_on_its_way_is_not_told_as_due(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    put(hand, of("ch_1", "key:1"), state=State.OUTCOME_UNKNOWN)
    with hand.database.reading() as unit:
        assert refunds.due_lanes(unit, unit.now) == [], "a wake-up would find nothing, again and again"


def test_the_next_due_time_counts_leases_and_holds(hand: Hand) -> None:
    def next_due() -> float | None:
        with hand.database.reading() as unit:
            return refunds.next_due(unit, ACCOUNT)

    assert next_due() is None
    hand.receive(of("ch_1", "key:1", due_at=hand.clock.now() + 30))
    assert next_due() == pytest.approx(hand.clock.now() + 30, abs=0.1)
    hand.clock.move(30)
    hand.claim()
    assert next_due() == pytest.approx(hand.clock.now() + LEASE_SECONDS, abs=0.1)


def test_what_waits_for_a_sibling_on_its_way_has_no_due_time_of_its_own(hand: Hand) -> None:
    def next_due() -> float | None:
        with hand.database.reading() as unit:
            return refunds.next_due(unit, ACCOUNT)

    hand.receive(of("ch_1", "key:1"), of("ch_1", "key:2"))
    later = hand.clock.now() + 800
    put(hand, of("ch_1", "key:1"), state=State.SUBMITTING, due_at=later)
    assert next_due() == pytest.approx(later, abs=0.1), "else a run would wait for what cannot be claimed"
    put(hand, of("ch_1", "key:1"), state=State.OUTCOME_UNKNOWN)
    assert next_due() is None, "a person has to look first"


def test_a_postponed_request_is_due_again_when_it_was_said(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, unknown(), wait=8)
    assert hand.claim() == []
    hand.clock.move(8)
    claimed = hand.claimed_one()
    hand.unit(lambda unit: refunds.postpone(unit, claimed, unit.now + 5, "Stripe cannot be reached"))
    assert hand.claim() == []
    assert hand.timeline(claimed.request.id)[-1].facts["why"] == "Stripe cannot be reached"
    hand.clock.move(5)
    assert len(hand.claim()) == 1


def test_a_postponed_request_that_was_withdrawn_meanwhile_stays_withdrawn(hand: Hand) -> None:
    hand.receive(refund_request())
    claimed = hand.claimed_one()
    hand.unit(lambda unit: refunds.withdraw(unit, claimed.request.id, ADA, "no longer"))
    hand.unit(lambda unit: refunds.postpone(unit, claimed, unit.now + 5, "late"))
    assert hand.find(claimed).state is State.WITHDRAWN


def test_a_claim_reads_the_index_of_what_is_due_and_not_the_whole_table(hand: Hand) -> None:
    if hand.database.postgres:
        pytest.skip("Postgres reads a small table whole, whatever index there is")
    values = {"the_account": ACCOUNT, "the_lane": "bulk", "the_now": 0.0, "most": 5}
    compiled = repository._DUE.compile(hand.database.engine, compile_kwargs={"render_postcompile": True})
    sql = "EXPLAIN QUERY PLAN " + str(compiled)
    with hand.database.reading() as unit:
        plan = unit.connection.exec_driver_sql(
            sql, tuple({**compiled.params, **values}[name] for name in compiled.positiontup or ())
        ).all()
    told = " | ".join(str(row[-1]) for row in plan)
    assert "ix_refund_requests_due" in told
    assert "uq_refund_requests_in_flight" in told
    assert "SCAN" not in told


def test_a_charge_that_another_unit_holds_is_not_waited_for(hand: Hand) -> None:
    """Whoever claims holds requests, and everybody else holds charges first: they would wait for each other."""
    if not hand.database.postgres:
        pytest.skip("on SQLite one unit writes at a time")
    for charge in ("ch_1", "ch_2"):
        hand.looked(charge)
    hand.receive(of("ch_1", "key:1"), of("ch_2", "key:2"), of("ch_3", "key:3"))
    with hand.database.unit() as unit:
        charges.hold_still(unit, "ch_1")
        taken = hand.claim()
        assert len(taken) == 3
        free = hand.unit(lambda other: refunds.hold_undecided(other, taken, {"ch_1", "ch_2"}))
        assert ids(free) == ["key:2"]
    assert ids(hand.unit(lambda other: refunds.hold_undecided(other, taken, {"ch_1", "ch_2"}))) == ["key:1", "key:2"]


def test_a_lease_is_renewed_without_waiting_for_what_another_unit_changes(hand: Hand) -> None:
    hand.receive(of("ch_1", "key:1"), of("ch_2", "key:2"))
    taken = hand.claim(seconds=10)
    if hand.database.postgres:
        with hand.database.unit() as unit:
            repository.many(unit, [taken[0].request.id], hold=True)
            renew(hand, taken, 20)
        hand.clock.move(11)
        # The one that was held was left out, and its lease is over; the next time it would have had its turn.
        assert ids(hand.claim()) == ["key:1"]
        return
    renew(hand, taken, 20)
    hand.clock.move(11)
    assert hand.claim() == []
