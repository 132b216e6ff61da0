"""The intent is on disk before the call, over the version that was read, under a lease that holds; else nothing may be sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from refundry.charges import service as charges
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.lane import Lane
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State, Submitted, apply, body_of
from refundry.refunds.service import Claimed
from tests.support.builders import (
    accepted,
    attempt,
    content,
    declined,
    not_taken,
    refund_request,
    seen_refund,
    sent,
    unknown,
)
from tests.support.hand import ADA, LEASE_SECONDS, Hand

pytestmark = pytest.mark.integration


def test_the_intent_is_on_disk_before_the_call(hand: Hand) -> None:
    intent = hand.intended(refund_request(asked=content(ticket_id="T1", metadata={"agent": "Ada"})))
    kept = hand.find(intent)
    assert (kept.state, kept.attempt, kept.reserved_minor) == (State.SUBMITTING, 1, 1000)
    (stored,) = hand.attempts(kept)
    assert stored == intent.attempt
    assert stored.body == body_of(kept)
    assert stored.key == f"{kept.id}.1"
    assert [send.outcome for send in stored.sends] == [None], "nobody knows, until it is known"
    assert hand.timeline(kept.id)[-1].event == "refund_request.submitting"


def test_a_send_is_written_with_three_clocks(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    at = hand.clock.now()
    intent = hand.unit(
        lambda unit: refunds.submit(
            unit, approved, at=at - 7, stripe_at=at + 3, look_max_age=600, age_max_days=0
        )
    )  # fmt: skip
    assert intent is not None
    send = intent.attempt.sends[-1]
    assert (send.at, send.stripe_at) == (at - 7, at + 3)
    assert send.database_at == pytest.approx(at, abs=0.1)


def _stopped(hand: Hand, claimed: Claimed) -> None:
    hand.unit(lambda unit: refunds.stop(unit, [claimed.request.id], ADA))


def _withdrawn(hand: Hand, claimed: Claimed) -> None:
    hand.unit(lambda unit: refunds.withdraw(unit, claimed.request.id, ADA, "no longer"))


def _taken_over(hand: Hand, _: Claimed) -> None:
    hand.clock.move(LEASE_SECONDS + 1)
    Hand(hand.database, hand.clock, "lease-2").claimed_one()
    hand.looked()


def _lease_over(hand: Hand, _: Claimed) -> None:
    hand.clock.move(LEASE_SECONDS + 1)
    hand.looked()


def _found(hand: Hand, claimed: Claimed) -> None:
    hand.found(seen_refund(of=claimed.request))
    hand.looked(refunds=(seen_refund(of=claimed.request),))


def _touched(hand: Hand, _: Claimed) -> None:
    hand.unit(lambda unit: charges.touch(unit, "ch_1", unit.now))


MEANWHILE: dict[str, Callable[[Hand, Claimed], None]] = {
    "stopped": _stopped, "withdrawn": _withdrawn, "taken over": _taken_over, "the lease ended": _lease_over,
    "found at Stripe": _found, "an event came": _touched,
}  # fmt: skip


@pytest.mark.parametrize("case", MEANWHILE)
def test_what_changed_meanwhile_is_not_sent_and_nothing_is_written(hand: Hand, case: str) -> None:
    approved = hand.approved(refund_request())
    MEANWHILE[case](hand, approved)
    before, timeline = hand.find(approved), hand.timeline(approved.request.id)
    assert hand.submit(approved) is None
    assert hand.find(approved) == before
    assert hand.attempts(approved.request) == []
    assert hand.timeline(approved.request.id) == timeline


def test_an_old_look_is_not_good_enough(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    hand.unit(lambda unit: refunds.renew(unit, [approved.request.id], [hand.lease], 10_000))
    hand.clock.move(601)
    assert hand.submit(approved, look_max_age=600) is None
    hand.looked()
    assert hand.submit(approved, look_max_age=600) is not None


def test_only_the_version_that_was_read_is_written_over(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    before = hand.find(approved)
    for wrong in (-1, 1):
        stale = replace(approved.request, version=approved.request.version + wrong)
        assert hand.submit(replace(approved, request=stale)) is None
    assert hand.find(approved) == before
    assert hand.submit(approved) is not None


def test_only_one_of_two_writes_the_same_intent(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    first, second = hand.submit(approved), hand.submit(approved)
    assert first is not None
    assert second is None
    assert len(hand.attempts(approved.request)[0].sends) == 1


def test_the_compare_and_set_is_what_stops_the_second(monkeypatch: pytest.MonkeyPatch, hand: Hand) -> None:
    """The test above can fail: without comparing version and lease, the second would be sent too."""
    monkeypatch.setattr(repository, "_ours", lambda *_: True)
    approved = hand.approved(refund_request())
    assert hand.submit(approved) is not None
    assert hand.submit(approved) is not None


# At most one of a charge on its way


def two_approved(hand: Hand, other: Hand) -> tuple[Claimed, Claimed]:
    hand.receive(refund_request("key:1"), refund_request("key:2"))
    hand.unit(lambda unit: refunds.stop(unit, [refund_request("key:1").id], ADA))
    second = other.judge(other.claimed_one())
    hand.unit(lambda unit: refunds.go_on(unit, [refund_request("key:1").id], ADA))
    first = hand.judge(hand.claimed_one())
    assert first is not None
    assert second is not None
    return first, second


def test_a_second_request_of_a_charge_waits_while_the_first_is_on_its_way(hand: Hand, other: Hand) -> None:
    first, second = two_approved(hand, other)
    intent = hand.submit(first)
    assert intent is not None
    before = hand.find(second)
    assert other.submit(second) is None
    assert hand.find(second) == before
    assert hand.attempts(second.request) == []


def test_a_person_and_a_row_of_a_file_together_get_no_more_than_is_left(hand: Hand, other: Hand) -> None:
    row = refund_request("key:row", asked=content(asked_minor=8000))
    person = refund_request("key:person", asked=content(asked_minor=7000), lane=Lane.DESK)
    hand.receive(row, person)
    first, second = other.claimed_one(), hand.claim(lane=Lane.DESK)[0]
    paid = hand.judge(second)
    assert paid is not None
    assert other.judge(first) is None
    assert hand.submit(paid) is not None
    assert other.claim() == []
    waiting = hand.find(row)
    assert (waiting.state, waiting.reserved_minor, waiting.reason_code) == (State.RECEIVED, 0, "sibling")


def test_the_database_itself_allows_only_one_of_a_charge_on_its_way(hand: Hand, other: Hand) -> None:
    first, second = two_approved(hand, other)
    hand.submit(first)
    change = apply(second.request, Submitted(attempt(second.request, sent(None))))
    assert change is not None
    after = change.after
    with pytest.raises(sa.exc.IntegrityError):
        hand.unit(lambda unit: repository.update(unit, second.request, after, None, keep_lease=True))
    unsure = replace(after, state=State.OUTCOME_UNKNOWN)
    with pytest.raises(sa.exc.IntegrityError):
        hand.unit(lambda unit: repository.update(unit, second.request, unsure, None, keep_lease=True))
    assert hand.find(second).state is State.APPROVED


def test_requests_of_two_charges_are_on_their_way_side_by_side(hand: Hand) -> None:
    hand.looked("ch_2")
    hand.receive(refund_request("key:1"), refund_request("key:2", asked=content(charge="ch_2")))
    intents = [hand.submit(claimed) for claimed in map(hand.judge, hand.claim()) if claimed]
    assert all(intents)
    assert len(intents) == 2


def test_amounts_below_zero_cannot_be_kept(hand: Hand) -> None:
    hand.receive(refund_request())
    before = hand.find(refund_request())
    with pytest.raises(sa.exc.IntegrityError):
        hand.unit(
            lambda unit: repository.update(unit, before, replace(before, reserved_minor=-1), None, keep_lease=True)
        )


# Which attempt


def sent_once(hand: Hand, outcome: object) -> Claimed:
    """Send once, and take the request up again, its charge looked at."""
    hand.record(hand.intended(refund_request()), outcome)  # type: ignore[arg-type]
    hand.clock.move(refunds.LOW_BALANCE_WAIT + 1)
    hand.looked()
    return hand.claimed_one()


def numbers(hand: Hand, request: RefundRequest) -> list[tuple[int, list[str | None]]]:
    return [(a.number, [send.outcome for send in a.sends]) for a in hand.attempts(request)]


def test_what_was_surely_not_taken_is_sent_again_under_the_same_key(hand: Hand) -> None:
    again = hand.submit(sent_once(hand, not_taken()))
    assert again is not None
    assert numbers(hand, again.claimed.request) == [(1, ["not_taken", None])]


def test_what_was_not_taken_gets_a_new_number_if_its_parameters_changed(hand: Hand) -> None:
    request = refund_request(asked=content(asked_minor=None))
    hand.record(hand.intended(request), not_taken())
    hand.looked(refunds=(seen_refund("re_x", amount_minor=4000),))
    again = hand.submit(hand.claimed_one())
    assert again is not None
    assert (again.attempt.number, again.attempt.body.amount_minor) == (2, 6000)
    assert numbers(hand, request) == [(1, ["not_taken"]), (2, [None])]


def test_what_is_in_doubt_is_sent_again_with_its_own_parameters(hand: Hand) -> None:
    claimed = sent_once(hand, unknown())
    assert claimed.request.state is State.SUBMITTING
    again = hand.submit(claimed)
    assert again is not None
    assert numbers(hand, again.claimed.request) == [(1, ["unknown", None])]
    assert again.attempt.body == hand.attempts(claimed.request)[0].body


def test_a_new_key_is_never_used_while_the_old_one_is_in_doubt(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, unknown())
    stuck = attempt(intent.claimed.request, sent("unknown"), sent("declined"))
    hand.unit(lambda unit: repository.save_attempt(unit, stuck))
    claimed = hand.claimed_one()
    assert hand.submit(claimed) is None, "an answer came meanwhile: it is looked at anew"
    assert hand.find(claimed).version == claimed.request.version
    assert numbers(hand, claimed.request) == [(1, ["unknown", "declined"])]


def test_proven_absence_allows_the_next_number(hand: Hand) -> None:
    claimed = sent_once(hand, unknown())
    gone = replace(hand.attempts(claimed.request)[0], absent=True)
    hand.unit(lambda unit: repository.save_attempt(unit, gone))
    again = hand.submit(claimed)
    assert again is not None
    assert numbers(hand, claimed.request) == [(1, ["unknown"]), (2, [None])]
    assert again.attempt.key == f"{claimed.request.id}.2"


def test_a_reopened_request_goes_on_with_the_next_number(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    held = hand.record(intent, declined())
    assert held is not None
    (refused,) = hand.attempts(held.request)
    hand.resolve(held, refunds.Plan(refunds.Step.CLOSE, replace(refused, absent=True)))
    assert hand.find(intent).state is State.DECLINED
    hand.unit(lambda unit: refunds.reopen(unit, intent.attempt.request, ADA))
    again = hand.judge(hand.claimed_one())
    assert again is not None
    next_one = hand.submit(again)
    assert next_one is not None
    assert next_one.attempt.number == 2


def test_a_paid_request_is_never_sent_again(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, accepted(intent.claimed.request))
    assert hand.claim() == []
    stale = replace(intent.claimed, request=hand.find(intent))
    assert hand.submit(stale) is None


def test_the_database_itself_keeps_a_request_that_was_ever_sent_on_its_charge(hand: Hand) -> None:
    kept = hand.find(hand.intended(refund_request()))
    elsewhere = replace(kept, content=replace(kept.content, charge="ch_9"), version=kept.version + 1)
    with pytest.raises(InvariantViolated, match="never asks for another charge"):
        hand.unit(lambda unit: repository.update(unit, kept, elsewhere, None, keep_lease=False))
    assert hand.find(kept) == kept
