"""What came of a send is kept: at once, late, or when somebody else holds the request by now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.kernel.outcome import Answer, NotTaken, NotTakenWhy, Outcome, Unknown
from refundry.refunds import repository
from refundry.refunds import service as refunds
from refundry.refunds.model import HeldReason, Hold, RefundRequest, State
from refundry.refunds.rules import Plan, Step
from refundry.refunds.service import Claimed, Intent
from tests.support.builders import accepted, content, declined, not_taken, refund_request, seen_refund, unknown
from tests.support.hand import ADA, LEASE_SECONDS, Hand

pytestmark = pytest.mark.integration

STATES = {
    "pending": State.PENDING, "requires_action": State.REQUIRES_ACTION, "succeeded": State.SETTLED,
    "failed": State.FAILED, "canceled": State.CANCELED,
}  # fmt: skip


def outcomes(hand: Hand, request: RefundRequest) -> list[list[str | None]]:
    return [[send.outcome for send in attempt.sends] for attempt in hand.attempts(request)]


@pytest.mark.parametrize("status", STATES)
def test_an_accepted_send_is_state_refund_and_audit_in_one_commit(hand: Hand, status: str) -> None:
    intent = hand.intended(refund_request())
    assert hand.record(intent, accepted(intent.claimed.request, status=status)) is None
    kept = hand.find(intent)
    assert (kept.state, kept.refund, kept.reserved_minor) == (STATES[status], "re_1", 0)
    assert outcomes(hand, kept) == [["accepted"]]
    charge = hand.charge()
    assert [(refund.id, refund.status) for refund in charge.refunds] == [("re_1", status)]
    assert charge.stale, "before anything else is paid on it, it is looked at again"
    entry = hand.timeline(kept.id)[-1]
    assert (entry.event, entry.facts["stripe_request"], entry.facts["attempt"]) == (
        f"refund_request.{kept.state}",
        "req_1",
        1,
    )
    assert hand.claim() == []


def test_the_refund_takes_the_place_of_the_reservation_in_what_is_left(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    before = hand.charge().unrefunded_minor - 1000
    hand.record(intent, accepted(intent.claimed.request))
    with hand.database.reading() as unit:
        assert hand.charge().unrefunded_minor - repository.reserved(unit, "ch_1", "") == before


def taken_over(hand: Hand, other: Hand, intent: Intent) -> Claimed:
    """Let another worker take the request up while the answer is on its way."""
    hand.clock.move(LEASE_SECONDS + 1)
    theirs = other.claimed_one()
    assert theirs.request.id == intent.attempt.request
    return theirs


def test_a_refund_is_kept_though_the_lease_was_lost(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    theirs = taken_over(hand, other, intent)
    hand.record(intent, accepted(intent.claimed.request))
    kept = hand.find(intent)
    assert (kept.state, kept.refund, kept.reserved_minor) == (State.SETTLED, "re_1", 0)
    assert outcomes(hand, kept) == [["accepted"]]
    assert other.submit(theirs) is None, "whoever holds it by now cannot send it again"
    assert hand.breaks() == []


@pytest.mark.parametrize(
    ("outcome", "name"), [(declined(), "declined"), (not_taken(), "not_taken"), (unknown(), "unknown")]
)
def test_an_answer_that_comes_too_late_is_noted_beside_its_send(
    hand: Hand, other: Hand, outcome: Outcome, name: str
) -> None:
    intent = hand.intended(refund_request())
    theirs = taken_over(hand, other, intent)
    assert hand.record(intent, outcome) is None
    assert hand.find(intent) == theirs.request
    assert outcomes(hand, theirs.request) == [[name]]


def test_a_late_answer_does_not_touch_the_send_of_somebody_else(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    theirs = other.submit(taken_over(hand, other, intent))
    assert theirs is not None
    hand.record(intent, unknown())
    assert outcomes(hand, theirs.claimed.request) == [["unknown", None]]
    other.record(theirs, accepted(theirs.claimed.request))
    assert outcomes(hand, theirs.claimed.request) == [["unknown", "accepted"]]
    assert hand.find(intent).state is State.SETTLED


def test_a_late_answer_is_not_forgotten_by_whoever_looked_meanwhile(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    theirs = taken_over(hand, other, intent)
    (read_before,) = other.attempts(theirs.request)
    hand.record(intent, Unknown("stripe_error", Answer(status=500, replayed=True)))
    other.resolve(theirs, Plan(Step.WAIT, read_before, 60))
    (kept,) = hand.attempts(theirs.request)
    assert kept.stored_error


def test_two_answers_with_two_refunds_are_paid_twice_and_said_so(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    theirs = other.submit(taken_over(hand, other, intent))
    assert theirs is not None
    other.record(theirs, accepted(theirs.claimed.request))
    hand.record(intent, accepted(intent.claimed.request, refund_id="re_2"))
    kept = hand.find(intent)
    assert (kept.state, kept.refund) == (State.SETTLED, "re_1")
    assert [(request, opened.code, opened.refund) for request, opened in hand.breaks()] == [
        (kept.id, "paid_twice", "re_2")
    ]
    assert len(hand.charge().refunds) == 2


# In doubt


def test_an_unknown_outcome_stays_in_doubt_and_is_due_again(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, unknown(), wait=4)
    kept = hand.find(intent)
    assert (kept.state, kept.reason_code, kept.reserved_minor) == (State.SUBMITTING, "timeout", 1000)
    (attempt,) = hand.attempts(kept)
    assert attempt.in_doubt
    assert attempt.sends[-1].answer == unknown().answer
    assert hand.claim() == []
    hand.clock.move(4)
    assert hand.claimed_one().request.state is State.SUBMITTING


@pytest.mark.parametrize("why", NotTakenWhy)
def test_what_is_not_taken_after_an_unknown_send_stays_in_doubt(hand: Hand, why: NotTakenWhy) -> None:
    hand.record(hand.intended(refund_request()), unknown())
    again = hand.submit(hand.claimed_one())
    assert again is not None
    hand.record(again, not_taken(why))
    kept = hand.find(again)
    assert (kept.state, kept.reserved_minor, kept.hold) == (State.SUBMITTING, 1000, None)
    assert outcomes(hand, kept) == [["unknown", "not_taken"]]
    assert hand.attempts(kept)[0].in_doubt


@pytest.mark.parametrize("why", [NotTakenWhy.RATE_LIMITED, NotTakenWhy.KEY_REFUSED, NotTakenWhy.UNSENT])
def test_what_is_not_taken_on_the_first_send_goes_back_to_approved(hand: Hand, why: NotTakenWhy) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, not_taken(why), wait=2)
    kept = hand.find(intent)
    assert (kept.state, kept.reason_code, kept.attempt, kept.reserved_minor) == (State.APPROVED, why, 1, 1000)
    assert hand.claim() == []
    hand.clock.move(2)
    assert len(hand.claim()) == 1


def test_an_empty_balance_holds_and_takes_a_new_number(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, not_taken(NotTakenWhy.LOW_BALANCE), wait=900)
    kept = hand.find(intent)
    assert kept.state is State.APPROVED
    assert kept.hold is not None
    assert kept.hold.reason is HeldReason.LOW_BALANCE
    hand.clock.move(901)
    hand.looked()
    again = hand.submit(hand.claimed_one())
    assert again is not None
    assert again.attempt.number == 2


def test_an_unknown_outcome_never_says_no(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, Unknown("stripe_error", Answer(status=500)))
    assert hand.find(intent).state is State.SUBMITTING


# A refusal


def test_a_refusal_is_looked_after_by_the_same_worker_before_it_is_believed(hand: Hand, other: Hand) -> None:
    intent = hand.intended(refund_request())
    held = hand.record(intent, declined())
    assert held is not None
    assert (held.request.state, held.request.reason_code) == (State.SUBMITTING, "charge_disputed")
    assert other.claim() == [], "the lease goes on"
    (attempt,) = hand.attempts(held.request)
    hand.resolve(held, Plan(Step.CLOSE, replace(attempt, absent=True)))
    kept = hand.find(intent)
    assert (kept.state, kept.reason_code, kept.reason_text) == (State.DECLINED, "charge_disputed", "Stripe says no")
    assert kept.reserved_minor == 0
    assert hand.attempts(kept)[0].absent


def test_a_refusal_whose_refund_is_found_after_all_is_paid(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, declined())
    assert hand.found(seen_refund(of=intent.claimed.request))
    assert hand.find(intent).state is State.SETTLED


# The next step


def doubtful(hand: Hand) -> Claimed:
    hand.record(hand.intended(refund_request()), unknown())
    hand.looked()
    return hand.claimed_one()


def test_waiting_notes_the_look_and_gives_the_request_back(hand: Hand, other: Hand) -> None:
    claimed = doubtful(hand)
    (attempt,) = hand.attempts(claimed.request)
    assert hand.resolve(claimed, Plan(Step.WAIT, replace(attempt, looks=(1.0,)), 60, "one more look is needed")) is None
    assert hand.attempts(claimed.request)[0].looks == (1.0,)
    assert other.claim() == []
    hand.clock.move(61)
    assert len(other.claim()) == 1


def test_a_new_send_voids_the_looks_before_it(hand: Hand) -> None:
    claimed = doubtful(hand)
    (attempt,) = hand.attempts(claimed.request)
    hand.unit(lambda unit: repository.save_attempt(unit, replace(attempt, looks=(1.0,))))
    again = hand.submit(claimed)
    assert again is not None
    assert again.attempt.looks == hand.attempts(claimed.request)[0].looks == ()


def test_giving_up_tells_a_person_and_keeps_the_money_reserved(hand: Hand) -> None:
    claimed = doubtful(hand)
    (attempt,) = hand.attempts(claimed.request)
    hand.resolve(claimed, Plan(Step.GIVE_UP, attempt, text="somebody has to look"))
    kept = hand.find(claimed)
    assert (kept.state, kept.reserved_minor, kept.reason_text) == (State.OUTCOME_UNKNOWN, 1000, "somebody has to look")
    assert hand.claim() == []
    assert hand.found(seen_refund(of=kept))
    assert hand.find(claimed).state is State.SETTLED


def test_sending_again_changes_nothing_before_the_intent(hand: Hand) -> None:
    claimed = doubtful(hand)
    (attempt,) = hand.attempts(claimed.request)
    assert hand.resolve(claimed, Plan(Step.RESEND, attempt)) is claimed


def proven(hand: Hand, claimed: Claimed) -> Claimed:
    (attempt,) = hand.attempts(claimed.request)
    held = hand.resolve(claimed, Plan(Step.NEXT_ATTEMPT, replace(attempt, absent=True)))
    assert held is not None
    return held


def test_after_proof_the_next_attempt_follows(hand: Hand) -> None:
    held = proven(hand, doubtful(hand))
    (attempt,) = hand.attempts(held.request)
    again = hand.judge_again(held, attempt)
    assert again is held
    intent = hand.submit(again)
    assert intent is not None
    assert (intent.attempt.number, intent.attempt.body) == (2, attempt.body)


@pytest.mark.parametrize(
    ("amount", "code"),
    [(9500, "amount_exceeds_refundable"), (10_000, "charge_already_refunded"), (1000, "possible_repeat")],
)
def test_no_next_attempt_follows_where_a_new_decision_says_no(hand: Hand, amount: int, code: str) -> None:
    held = proven(hand, doubtful(hand))
    (attempt,) = hand.attempts(held.request)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=amount),))
    assert hand.judge_again(held, attempt) is None
    kept = hand.find(held)
    assert (kept.state, kept.reason_code, kept.reserved_minor) == (State.DECLINED, code, 0)


def test_a_possible_repeat_that_a_person_allows_goes_on_with_the_next_number(hand: Hand) -> None:
    held = proven(hand, doubtful(hand))
    (attempt,) = hand.attempts(held.request)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    hand.judge_again(held, attempt)
    hand.unit(lambda unit: refunds.allow_repeat(unit, held.request.id, ADA))
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    intent = hand.submit(approved)
    assert intent is not None
    assert intent.attempt.number == 2


def test_what_siblings_have_claimed_does_not_stop_the_one_that_is_on_its_way(hand: Hand) -> None:
    """They wait for it, so that it must not wait for them: a refund by hand has left too little for both."""
    hand.receive(
        refund_request(asked=content(asked_minor=4000)), refund_request("key:2", asked=content(asked_minor=5000))
    )
    first = hand.judge(hand.claimed_one())
    assert first is not None
    hand.unit(lambda unit: refunds.release(unit, first))
    hand.unit(lambda unit: refunds.stop(unit, [first.request.id], ADA))
    second = hand.judge(hand.claimed_one())
    assert second is not None
    hand.unit(lambda unit: refunds.release(unit, second))
    hand.unit(lambda unit: refunds.go_on(unit, [first.request.id], ADA))
    intent = hand.submit(hand.claimed_one())
    assert intent is not None
    hand.record(intent, unknown())
    hand.looked(refunds=(seen_refund("re_x", amount_minor=3000),))
    held = proven(hand, hand.claimed_one())
    assert hand.judge_again(held, hand.attempts(held.request)[0]) is held


# Found at Stripe


@pytest.mark.parametrize("status", STATES)
def test_a_refund_of_ours_that_we_never_sent_is_adopted(hand: Hand, status: str) -> None:
    hand.receive(refund_request())
    assert hand.found(seen_refund(of=refund_request(), status=status))
    kept = hand.find(refund_request())
    assert (kept.state, kept.refund, kept.reason_code) == (STATES[status], "re_1", "adopted")
    assert hand.timeline(kept.id)[-1].event == "refund_request.adopted"
    assert hand.claim() == []


def test_an_adopted_request_is_adopted_however_often_it_is_seen(hand: Hand) -> None:
    hand.receive(refund_request())
    for _ in range(3):
        hand.found(seen_refund(of=refund_request()))
    assert [entry.event for entry in hand.timeline(refund_request().id)] == [
        "refund_request.received", "refund_request.adopted"]  # fmt: skip


def test_an_approved_request_is_adopted_by_whoever_looks_before_paying(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    hand.looked(refunds=(seen_refund(of=approved.request),))
    assert hand.submit(approved) is None
    kept = hand.find(approved)
    assert (kept.state, kept.reserved_minor) == (State.SETTLED, 0)
    assert hand.attempts(kept) == []


def test_of_two_refunds_with_our_id_the_living_one_pays(hand: Hand) -> None:
    hand.receive(refund_request())
    claimed = hand.claimed_one()
    failed = seen_refund("re_0", of=claimed.request, status="failed")
    paid = seen_refund("re_1", of=claimed.request)
    assert hand.unit(lambda unit: refunds.adopt(unit, claimed, [failed, paid]))
    kept = hand.find(claimed)
    assert (kept.state, kept.refund) == (State.SETTLED, "re_1")
    assert hand.breaks() == []


def test_a_refund_that_carries_no_id_of_ours_is_only_mirrored(hand: Hand) -> None:
    assert not hand.found(seen_refund("re_x"))
    assert not hand.found(seen_refund("re_y", metadata={"refundry_request_id": "somebody-elses"}))
    assert [refund.id for refund in hand.charge().refunds] == ["re_x", "re_y"]
    assert hand.charge().stale


def test_a_late_failure_is_taken_in_and_gives_the_money_back_to_the_charge(hand: Hand) -> None:
    intent = hand.intended(refund_request(asked=content(asked_minor=10_000)))
    hand.record(intent, accepted(intent.claimed.request))
    assert hand.charge().unrefunded_minor == 0
    late = seen_refund(of=intent.claimed.request, status="failed", failure_reason="expired_or_canceled_card")
    hand.found(late)
    kept = hand.find(intent)
    assert (kept.state, kept.reason_code) == (State.FAILED, "expired_or_canceled_card")
    assert hand.charge().unrefunded_minor == 10_000


def test_a_break_is_opened_once(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, accepted(intent.claimed.request))
    for _ in range(3):
        hand.found(seen_refund("re_2", of=intent.claimed.request))
    assert [opened.code for _, opened in hand.breaks()] == ["paid_twice"]


def test_a_refund_for_a_request_that_is_over_is_kept_and_opens_a_break(hand: Hand) -> None:
    hand.receive(refund_request())
    hand.unit(lambda unit: refunds.withdraw(unit, refund_request().id, ADA, "no longer"))
    assert hand.found(seen_refund(of=refund_request()))
    assert hand.find(refund_request()).state is State.WITHDRAWN
    assert [opened.code for _, opened in hand.breaks()] == ["refund_unexpected"]
    hand.unit(lambda unit: refunds.reopen(unit, refund_request().id, ADA))
    hand.looked(refunds=(seen_refund(of=refund_request()),))
    assert hand.judge(hand.claimed_one()) is None
    assert hand.find(refund_request()).state is State.SETTLED, "reopened, it is adopted and not paid again"


@pytest.mark.parametrize("sent_before", [True, False])
def test_a_status_that_we_do_not_know_is_not_looked_at_again_and_again(hand: Hand, sent_before: bool) -> None:  # noqa: FBT001
    if sent_before:
        intent = hand.intended(refund_request())
        hand.record(intent, accepted(intent.claimed.request, status="in_review"))
    else:
        hand.receive(refund_request())
        hand.found(seen_refund(of=refund_request(), status="in_review"))
    assert [opened.code for _, opened in hand.breaks()] == ["refund_status_unknown"]
    assert hand.claim() == []
    hand.clock.move(refunds.BREAK_WAIT + 1)
    assert len(hand.claim()) == 1


def test_what_retry_after_says_is_kept_with_the_answer(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    answer = Answer(status=429, code="rate_limit", message="slow down", request="req_9", date=5.0)
    hand.record(intent, NotTaken(NotTakenWhy.RATE_LIMITED, answer, "endpoint-rate", 3.0))
    (attempt,) = hand.attempts(intent.claimed.request)
    assert attempt.sends[-1].answer == answer


# What a person does


def test_withdrawing_lets_go_of_the_reservation(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    kept = hand.unit(lambda unit: refunds.withdraw(unit, approved.request.id, ADA, "the customer kept it"))
    assert kept == hand.find(approved)
    assert (kept.state, kept.reserved_minor, kept.reason_text) == (State.WITHDRAWN, 0, "the customer kept it")
    assert hand.timeline(kept.id)[-1].actor == "person:ada"


def test_what_is_on_its_way_or_over_cannot_be_withdrawn(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    for _ in range(2):
        before = hand.find(intent)
        with pytest.raises(refunds.StateForbids, match=f"{before.state}"):
            hand.unit(lambda unit: refunds.withdraw(unit, before.id, ADA, ""))  # noqa: B023  # called at once
        assert hand.find(intent) == before
        hand.record(intent, accepted(intent.claimed.request))


def test_only_what_stripe_does_not_have_can_be_reopened(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, accepted(intent.claimed.request, status="failed"))
    with pytest.raises(refunds.StateForbids):
        hand.unit(lambda unit: refunds.reopen(unit, intent.attempt.request, ADA))


def test_a_reopened_request_is_looked_at_again(hand: Hand) -> None:
    hand.receive(refund_request(asked=content(asked_minor=10_001)))
    hand.judge(hand.claimed_one())
    hand.unit(lambda unit: refunds.reopen(unit, refund_request().id, ADA))
    assert hand.find(refund_request()).state is State.RECEIVED
    assert hand.claimed_one().request.reason_code == ""


def test_a_possible_repeat_goes_on_once_a_person_allows_it(hand: Hand) -> None:
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    hand.receive(refund_request())
    assert hand.judge(hand.claimed_one()) is None
    hand.clock.move(100_000)
    assert hand.claim() == [], "it waits for a person, however long"
    hand.unit(lambda unit: refunds.allow_repeat(unit, refund_request().id, ADA))
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    assert approved.request.allowed == {"re_x"}
    (told,) = [entry for entry in hand.timeline(approved.request.id) if entry.event == "refund_request.repeat_allowed"]
    assert told.facts["allowed"] == ["re_x"]


@pytest.mark.parametrize("reason", [HeldReason.STOPPED, HeldReason.LOW_BALANCE])
def test_allowing_a_repeat_frees_from_no_other_wait(hand: Hand, reason: HeldReason) -> None:
    hand.receive(refund_request())
    before = hand.find(refund_request())
    held = replace(before, hold=Hold(reason), version=2)
    hand.unit(lambda unit: repository.update(unit, before, held, None, keep_lease=False))
    hand.unit(lambda unit: refunds.allow_repeat(unit, before.id, ADA))
    assert hand.find(before) == held


def test_a_refused_repeat_is_reopened_when_it_is_allowed(hand: Hand) -> None:
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    hand.receive(refund_request())
    hand.unit(lambda unit: refunds.withdraw(unit, refund_request().id, ADA, ""))
    reopened = hand.unit(lambda unit: refunds.allow_repeat(unit, refund_request().id, ADA))
    assert (reopened.state, reopened.allowed) == (State.RECEIVED, {"re_x"})


def test_what_has_come_since_it_was_refused_as_a_repeat_holds_it_though_it_is_allowed(hand: Hand) -> None:
    held = proven(hand, doubtful(hand))
    (attempt,) = hand.attempts(held.request)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    hand.judge_again(held, attempt)
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000), seen_refund("re_y", amount_minor=1000)))
    foreseen = hand.unit(
        lambda unit: refunds.foresee_again(
            unit, hand.find(held), allow_repeat=True, allow_inquiry=False, age_max_days=0
        )
    )
    assert foreseen.code == "possible_repeat"
    assert ("re_x" in foreseen.text, "re_y" in foreseen.text) == (False, True), foreseen.text
    reopened = hand.unit(lambda unit: refunds.reopen(unit, held.request.id, ADA, allow_repeat=True))
    assert reopened.allowed == {"re_x"}
    assert hand.judge(hand.claimed_one()) is None
    text = hand.find(held).reason_text
    assert ("re_x" in text, "re_y" in text) == (False, True), text


def test_what_is_allowed_beforehand_is_what_is_there_then(hand: Hand) -> None:
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    asked = refund_request()
    allowed = hand.unit(lambda unit: refunds.allowable(unit, asked))
    hand.receive(replace(asked, allowed=allowed))
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000), seen_refund("re_y", amount_minor=1000)))
    assert hand.submit(approved) is None
    kept = hand.find(approved)
    assert kept.hold == Hold(HeldReason.POSSIBLE_REPEAT)
    assert ("re_x" in kept.reason_text, "re_y" in kept.reason_text) == (False, True), kept.reason_text


def test_a_request_that_is_allowed_beforehand_is_none_that_is_repeated_once_it_is_paid(hand: Hand) -> None:
    first, second = (refund_request(f"ticket:T:{name}", asked=content(ticket_id="T")) for name in ("ch_1", "pi_1"))
    hand.receive(first)
    allowed = hand.unit(lambda unit: refunds.allowable(unit, second))
    assert allowed == {first.id}, "it is there, though nobody has decided about it"
    hand.receive(replace(second, allowed=allowed))
    assert hand.timeline(second.id)[0].facts["allowed"] == [first.id]
    paid = seen_refund(of=first, metadata={"refundry_request_id": first.id, "ticket_id": "T"})
    hand.found(paid)
    hand.looked(refunds=(paid,))
    approved = hand.judge(hand.claimed_one())
    assert approved is not None
    assert approved.request.id == second.id


def test_an_unknown_request_is_named(hand: Hand) -> None:
    for verb in (
        lambda unit: refunds.withdraw(unit, "r-0", ADA, ""), lambda unit: refunds.reopen(unit, "r-0", ADA),
        lambda unit: refunds.allow_repeat(unit, "r-0", ADA), lambda unit: refunds.need(unit, "r-0"),
    ):  # fmt: skip
        with pytest.raises(refunds.RequestUnknown, match="r-0") as refused:
            hand.unit(verb)
        assert refused.value.ids == {"request": "r-0"}


# Stop and go on


def test_a_stop_takes_a_claimed_request_out_of_its_workers_hands(hand: Hand) -> None:
    approved = hand.approved(refund_request())
    assert hand.unit(lambda unit: refunds.stop(unit, [approved.request.id], ADA)) == 1
    assert hand.submit(approved) is None
    hand.clock.move(100_000)
    assert hand.claim() == []
    assert hand.unit(lambda unit: refunds.go_on(unit, [approved.request.id], ADA)) == 1
    assert hand.claimed_one().request.state is State.APPROVED


def test_a_stop_outlasts_a_wait_that_would_end_by_itself(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, not_taken(NotTakenWhy.LOW_BALANCE), wait=900)
    assert hand.unit(lambda unit: refunds.stop(unit, [intent.attempt.request], ADA)) == 1
    hand.clock.move(901)
    assert hand.claim() == []


def test_a_stop_does_not_hide_that_a_person_is_asked(hand: Hand) -> None:
    hand.looked(refunds=(seen_refund("re_x", amount_minor=1000),))
    hand.receive(refund_request())
    hand.judge(hand.claimed_one())
    assert hand.unit(lambda unit: refunds.stop(unit, [refund_request().id], ADA)) == 0
    assert hand.unit(lambda unit: refunds.go_on(unit, [refund_request().id], ADA)) == 0
    held = hand.find(refund_request()).hold
    assert held is not None
    assert held.reason is HeldReason.POSSIBLE_REPEAT


def test_what_is_on_its_way_or_over_is_not_stopped(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    assert hand.unit(lambda unit: refunds.stop(unit, [intent.attempt.request, "r-0"], ADA)) == 0
    hand.record(intent, accepted(intent.claimed.request))
    assert hand.unit(lambda unit: refunds.stop(unit, [intent.attempt.request], ADA)) == 0


def test_every_step_is_in_the_audit_log_with_the_version_that_it_made(hand: Hand) -> None:
    intent = hand.intended(refund_request())
    hand.record(intent, accepted(intent.claimed.request))
    entries = hand.timeline(intent.attempt.request)
    assert [entry.event.removeprefix("refund_request.") for entry in entries] == [
        "received", "approved", "submitting", "settled"]  # fmt: skip
    assert [(entry.facts.get("from"), entry.facts.get("to")) for entry in entries[1:]] == [
        ("received", "approved"), ("approved", "submitting"), ("submitting", "settled")]  # fmt: skip
    assert entries[-1].facts["version"] == hand.find(intent).version
    assert hand.audit_is_sound()
