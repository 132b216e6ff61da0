"""Deciding and reserving: what is left on a charge is given away once, whoever decides at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from refundry.charges import service as charges
from refundry.gateways.base import SeenDispute
from refundry.infra.db import Unit
from refundry.policies.model import Decision, Facts
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import Hold, RefundRequest, State
from refundry.refunds.service import Claimed
from tests.support.builders import CHARGE, content, refund_request, seen_refund
from tests.support.hand import ADA, LEASE_SECONDS, Hand

pytestmark = pytest.mark.integration

# How long two decisions may wait for each other in a test that makes them meet; a lock lets them not.
MEETING_SECONDS = 0.3
# Where nothing keeps them apart they meet, however late one of them is.
DEADLINE_SECONDS = 60.0


def of(amount: int | None, key: str) -> RefundRequest:
    return refund_request(key, asked=content(asked_minor=amount))


def both(hand: Hand, other: Hand, one: RefundRequest, two: RefundRequest) -> tuple[Claimed, Claimed]:
    """Bring two requests of one charge into the hands of two workers, as happens when a hold ends meanwhile."""
    hand.receive(one, two)
    hand.unit(lambda unit: refunds.stop(unit, [one.id], ADA))
    second = other.claimed_one()
    hand.unit(lambda unit: refunds.go_on(unit, [one.id], ADA))
    first = hand.claimed_one()
    assert (first.request.id, second.request.id) == (one.id, two.id)
    return first, second


def at_once(*works: Callable[[], Claimed | None]) -> list[Claimed | None]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


def test_an_approval_and_its_reservation_are_one_commit(hand: Hand) -> None:
    hand.receive(refund_request())
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    kept = hand.find(approved)
    assert kept == approved.request
    assert (kept.state, kept.amount_minor, kept.reserved_minor) == (State.APPROVED, 1000, 1000)
    entry = hand.timeline(kept.id)[-1]
    assert (entry.event, entry.actor) == ("refund_request.approved", "system:refundry")
    assert entry.facts["policy"] == "built-in-1"


def test_a_refusal_is_kept_with_its_reason(hand: Hand) -> None:
    hand.receive(of(10_001, "key:1"))
    assert hand.judge(hand.claimed_one()) is None
    kept = hand.find(of(10_001, "key:1"))
    assert (kept.state, kept.reason_code, kept.reserved_minor) == (State.REJECTED, "amount_exceeds_refundable", 0)
    assert "100.00 GBP is left" in kept.reason_text
    assert hand.claim() == []


def test_a_charge_that_stripe_does_not_know_is_refused(hand: Hand) -> None:
    hand.receive(refund_request())
    assert hand.judge(hand.claimed_one(), known=False) is None
    assert hand.find(refund_request()).reason_code == "charge_unknown"


def test_a_request_in_other_hands_by_now_is_not_decided(hand: Hand, other: Hand) -> None:
    hand.receive(refund_request())
    claimed = hand.claimed_one()
    hand.clock.move(LEASE_SECONDS + 1)
    theirs = other.claimed_one()
    assert hand.judge(claimed) is None
    assert hand.find(claimed) == theirs.request


def test_a_lease_that_has_ended_decides_nothing_though_nobody_took_it(hand: Hand) -> None:
    hand.receive(refund_request())
    claimed = hand.claimed_one()
    hand.clock.move(LEASE_SECONDS)
    assert hand.judge(claimed) is None
    assert hand.find(claimed).state is State.RECEIVED


def meet(monkeypatch: pytest.MonkeyPatch, seconds: float = MEETING_SECONDS) -> None:
    """Let two decisions both read what is left before either of them writes, if nothing keeps them apart."""
    meeting, decide = threading.Barrier(2), refunds.decide

    def decided(facts: Facts) -> Decision:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(seconds)
        return decide(facts)

    monkeypatch.setattr(refunds, "decide", decided)


@pytest.mark.parametrize(("one", "two"), [(6000, 6000), (10_000, 1), (None, None), (9999, None)])
def test_two_workers_never_both_get_what_is_left(
    monkeypatch: pytest.MonkeyPatch, hand: Hand, other: Hand, one: int | None, two: int | None
) -> None:
    meet(monkeypatch)
    first, second = both(hand, other, of(one, "key:1"), of(two, "key:2"))
    at_once(lambda: hand.judge(first), lambda: other.judge(second))
    kept = [hand.find(first), hand.find(second)]
    assert sum(request.reserved_minor for request in kept) <= 10_000
    assert State.APPROVED in {request.state for request in kept}
    for request in kept:
        assert request.reserved_minor == (request.amount_minor if request.state is State.APPROVED else 0)


def test_without_the_lock_both_would_get_it(monkeypatch: pytest.MonkeyPatch, hand: Hand, other: Hand) -> None:
    """The test above can fail: on SQLite a unit that writes is alone, so that only Postgres needs the lock."""
    if not hand.database.postgres:
        pytest.skip("on SQLite one unit writes at a time, whatever is locked")
    meet(monkeypatch, DEADLINE_SECONDS)
    monkeypatch.setattr(charges, "hold_still", lambda _unit, _charge: None)
    first, second = both(hand, other, of(6000, "key:1"), of(6000, "key:2"))
    at_once(lambda: hand.judge(first), lambda: other.judge(second))
    assert hand.find(first).reserved_minor + hand.find(second).reserved_minor == 12_000


def test_ten_workers_give_away_what_is_left_once(hand: Hand) -> None:
    wanted = [of(1500, f"key:{n}") for n in range(10)]
    hand.receive(*wanted)
    held = hand.unit(
        lambda unit: [
            Claimed(one, "lease-1") for one in repository.many(unit, [q.id for q in wanted]).values()
        ]
    )  # fmt: skip
    hand.unit(lambda unit: [_lease(unit, claimed) for claimed in held])
    at_once(*(lambda one=one: hand.judge(one) for one in held))  # type: ignore[misc]
    kept = [hand.find(one) for one in held]
    assert sorted(request.state for request in kept) == [State.APPROVED] * 6 + [State.RECEIVED] * 4
    assert sum(request.reserved_minor for request in kept) == 9000
    assert {request.hold.reason.value for request in kept if request.hold} == {"sibling"}


def _lease(unit: Unit, claimed: Claimed) -> None:
    statement = repository.refund_requests.update().where(repository.t.id == claimed.request.id)
    unit.connection.execute(statement.values(lease=claimed.lease, leased_until=unit.now + LEASE_SECONDS))


# Siblings


def test_a_sibling_waits_for_what_another_has_claimed_and_is_decided_again(hand: Hand, other: Hand) -> None:
    first, second = both(hand, other, of(6000, "key:1"), of(6000, "key:2"))
    assert hand.judge(first) is not None
    assert other.judge(second) is None
    waiting = hand.find(second)
    assert (waiting.state, waiting.reason_code) == (State.RECEIVED, "sibling")
    assert waiting.hold is not None
    assert waiting.hold.until == pytest.approx(hand.clock.now() + refunds.SIBLING_WAIT, abs=0.1)
    hand.unit(lambda unit: refunds.withdraw(unit, first.request.id, ADA, "no longer"))
    hand.clock.move(refunds.SIBLING_WAIT + 1)
    assert hand.judge(hand.claimed_one()) is not None


def test_full_takes_what_siblings_have_left_and_keeps_it_beside_the_word(hand: Hand, other: Hand) -> None:
    first, second = both(hand, other, of(4000, "key:1"), of(None, "key:2"))
    hand.judge(first)
    approved = other.judge(second)
    assert approved is not None
    assert (approved.request.amount_minor, approved.request.content.asked) == (6000, "full")


def test_full_is_resolved_once_more_left_later_is_not_paid(hand: Hand, other: Hand) -> None:
    first, second = both(hand, other, of(4000, "key:1"), of(None, "key:2"))
    hand.judge(first)
    approved = other.judge(second)
    assert approved is not None
    hand.unit(lambda unit: refunds.withdraw(unit, first.request.id, ADA, "no longer"))
    again = other.judge(approved)
    assert again is not None
    assert again.request.amount_minor == 6000


def test_full_is_decided_again_when_less_is_left(hand: Hand) -> None:
    approved = hand.approved(of(None, "key:1"))
    hand.looked(refunds=(seen_refund("re_x", amount_minor=2500),))
    again = hand.judge(approved)
    assert again is not None
    assert (again.request.amount_minor, again.request.reserved_minor) == (7500, 7500)


def test_two_that_wait_for_each_others_claim_do_not_wait_for_ever(hand: Hand, other: Hand) -> None:
    """A refund by hand leaves too little for both; the first to notice lets go, and the other is paid."""
    first, second = both(hand, other, of(5000, "key:1"), of(4000, "key:2"))
    approved = hand.judge(first), other.judge(second)
    assert all(approved)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=4500),))
    one, two = approved
    assert one is not None
    assert two is not None
    assert hand.judge(one) is None
    assert hand.find(one).reserved_minor == 0
    assert other.judge(two) is not None
    hand.clock.move(refunds.SIBLING_WAIT + LEASE_SECONDS)
    assert [c.request.id for c in hand.claim()] == [one.request.id]


def test_a_request_that_let_go_of_its_claim_reserves_again_before_it_is_sent(hand: Hand, other: Hand) -> None:
    first, second = both(hand, other, of(5000, "key:1"), of(4000, "key:2"))
    one, two = hand.judge(first), other.judge(second)
    assert one is not None
    assert two is not None
    hand.looked(refunds=(seen_refund("re_x", amount_minor=4500),))
    hand.judge(one)
    hand.unit(lambda unit: refunds.withdraw(unit, two.request.id, ADA, "no longer"))
    hand.clock.move(refunds.SIBLING_WAIT)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=4500),))
    again = hand.claimed_one()
    assert again.request.state is State.APPROVED
    intent = hand.submit(again)
    assert intent is not None
    assert intent.claimed.request.reserved_minor == intent.attempt.body.amount_minor == 5000


def test_a_sibling_does_not_wait_for_one_that_waits_for_a_person(hand: Hand, other: Hand) -> None:
    first, second = both(hand, other, of(6000, "key:1"), of(2000, "key:2"))
    assert hand.judge(first) is not None
    by_hand = seen_refund("re_x", amount_minor=6000)
    hand.looked(refunds=(by_hand,))
    assert hand.unit(lambda unit: refunds.suspect(unit, by_hand)) == 1
    waits = hand.find(first)
    assert (waits.state, waits.reason_code, waits.reserved_minor) == (State.APPROVED, "possible_repeat", 0)
    paid = other.judge(second)
    assert paid is not None
    assert paid.request.reserved_minor == 2000
    # Let go by a person, it is decided anew: by what is left by then.
    hand.unit(lambda unit: refunds.allow_repeat(unit, first.request.id, ADA))
    again = hand.claimed_one()
    assert hand.judge(again) is None
    assert hand.find(first).reason_code == "amount_exceeds_refundable"


# Before it is paid, once more


@pytest.mark.parametrize(
    ("case", "seen", "state", "code"),
    [
        ("a refund by hand", {"refunds": (seen_refund("re_x", amount_minor=1000),)}, State.APPROVED, "possible_repeat"),
        (
            "all of it by hand",
            {"refunds": (seen_refund("re_x", amount_minor=10_000),)},
            State.REJECTED,
            "charge_already_refunded",
        ),
        (
            "too much by hand",
            {"refunds": (seen_refund("re_x", amount_minor=9500),)},
            State.REJECTED,
            "amount_exceeds_refundable",
        ),
        (
            "a chargeback",
            {"disputes": (SeenDispute("du_1", "needs_response", 1, refundable=False),)},
            State.REJECTED,
            "charge_disputed",
        ),
    ],
)
def test_what_happened_since_the_approval_changes_the_decision(
    hand: Hand, case: str, seen: dict[str, object], state: State, code: str
) -> None:
    approved = hand.approved(refund_request())
    hand.looked(**seen)
    assert hand.submit(approved) is None, case
    kept = hand.find(approved)
    assert (kept.state, kept.reason_code) == (state, code)
    assert kept.reserved_minor == 0
    assert hand.attempts(approved.request) == []


def test_the_same_ticket_by_another_name_of_the_charge_is_a_possible_repeat(hand: Hand) -> None:
    asked = content(ticket_id="T1")
    hand.receive(refund_request("ticket:T1:A1", asked=asked), refund_request("ticket:T1:ch_1", asked=asked))
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    hand.unit(lambda unit: refunds.release(unit, approved))
    hand.unit(lambda unit: refunds.stop(unit, [approved.request.id], ADA))
    assert hand.judge(hand.claimed_one()) is None
    kept = hand.find(refund_request("ticket:T1:ch_1"))
    assert kept.hold == Hold(kept.hold.reason if kept.hold else pytest.fail("it is not held"))
    assert kept.reason_code == "possible_repeat"


def test_reservations_of_other_charges_do_not_count(hand: Hand) -> None:
    hand.looked("ch_2")
    hand.receive(of(10_000, "key:1"), refund_request("key:2", asked=content(charge="ch_2", asked_minor=10_000)))
    assert all(hand.judge(claimed) for claimed in hand.claim())
    with hand.database.reading() as unit:
        assert [repository.reserved(unit, charge, "") for charge in (CHARGE, "ch_2", "ch_3")] == [10_000, 10_000, 0]
