"""The state machine: what each fact does in each state, what is reserved meanwhile, and when a break is opened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refundry.gateways.base import RefundBody
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.outcome import Answer, NotTakenWhy
from refundry.policies.model import Verdict
from refundry.refunds import model
from refundry.refunds.model import AT_STRIPE, IN_FLIGHT, TRANSITIONS, UNPAID, HeldReason, Hold, State, apply, body_of
from tests.support.builders import attempt, content, refund_request, seen_refund, sent
from tests.support.clock import START
from tests.support.states import FACTS, LATER, REFUND, STATUSES, standing

pytestmark = pytest.mark.unit

R, W, A, S, U = State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED, State.SUBMITTING, State.OUTCOME_UNKNOWN
P, Q, D, F, C = State.PENDING, State.REQUIRES_ACTION, State.SETTLED, State.FAILED, State.CANCELED
N, J, X = State.DECLINED, State.REJECTED, State.WITHDRAWN

UNPAID_STAY = {R: R, W: W, A: A}
FROM_NOTHING = (R, W, A, S, U)
OVER_UNPAID = {N: N, J: J, X: X}
# Where Stripe's word of each status leads; what stays where it is has a break opened, unless nothing is new.
AT = {
    "pending": {**dict.fromkeys(FROM_NOTHING, P), Q: P, D: D, F: F, C: C, **OVER_UNPAID},
    "requires_action": {**dict.fromkeys(FROM_NOTHING, Q), P: Q, D: Q, F: F, C: C, **OVER_UNPAID},
    "succeeded": {**dict.fromkeys(FROM_NOTHING, D), P: D, Q: D, F: F, C: C, **OVER_UNPAID},
    "failed": {**dict.fromkeys(FROM_NOTHING, F), P: F, Q: F, D: F, C: C, **OVER_UNPAID},
    "canceled": {**dict.fromkeys(FROM_NOTHING, C), P: C, Q: C, D: C, F: F, **OVER_UNPAID},
}
SENT_ONLY = {S: S}
# What each fact does; a state that is not named drops it.
EXPECTED: dict[str, dict[State, State]] = {
    "approved": {R: A, W: A, A: A},
    "asked": {R: W, A: W},
    "refused": {R: J, W: J, A: J},
    "held": UNPAID_STAY,
    "held_for_siblings": UNPAID_STAY,
    "submitted": {A: S, S: S, U: S},
    "declined_by_stripe": SENT_ONLY,
    "not_taken": {S: A},
    "low_balance": {S: A},
    "not_taken_in_doubt": SENT_ONLY,
    "unknown": SENT_ONLY,
    "looked": {S: S, U: U},
    "closed": {S: N, U: N},
    "came_back": {S: A},
    "gave_up": {S: U},
    "postponed": {**UNPAID_STAY, S: S, U: U},
    "postponed_with_hold": {**UNPAID_STAY, S: S, U: U},
    "withdrawn": {R: X, W: X, A: X},
    "reopened": {N: R, J: R, X: R},
    **{f"found_{status}": AT[status] for status in STATUSES},
    **{f"accepted_{status}": AT[status] for status in STATUSES},
}
EVERY = [(name, state) for name in FACTS for state in State]


def test_the_table_names_every_fact() -> None:
    assert set(EXPECTED) == set(FACTS)
    kinds = {type(make(standing(State.APPROVED))) for make in FACTS.values()}
    assert kinds == set(model.Fact.__args__)


@pytest.mark.parametrize(("name", "state"), EVERY)
def test_a_fact_leads_where_the_table_says(name: str, state: State) -> None:
    request = standing(state)
    change = apply(request, FACTS[name](request))
    expected = EXPECTED[name].get(state)
    assert (change.after.state if change else None) == expected
    if change is not None:
        assert change.after.state in TRANSITIONS[state] | {state}
        assert change.after.version == request.version + 1


@pytest.mark.parametrize(("name", "state"), EVERY)
def test_what_is_reserved_is_let_go_when_the_request_is_over_or_waits_for_others_or_its_refund_is_known(
    name: str, state: State
) -> None:
    request = standing(state)
    change = apply(request, FACTS[name](request))
    if change is None:
        return
    after = change.after
    if name in {"held", "held_for_siblings"} or after.state in AT_STRIPE | {R, W, N, J, X}:
        assert after.reserved_minor == 0
    else:
        assert after.reserved_minor == after.amount_minor == 1000


@pytest.mark.parametrize(("name", "state"), EVERY)
def test_a_hold_is_only_on_what_is_not_sent(name: str, state: State) -> None:
    held = Hold(HeldReason.STOPPED) if state in UNPAID else None
    request = replace(standing(state), hold=held)
    change = apply(request, FACTS[name](request))
    if change is not None and change.after.hold is not None:
        assert change.after.state in UNPAID


@pytest.mark.parametrize(("name", "state"), EVERY)
def test_a_fact_that_comes_twice_in_a_row_moves_no_money_twice(name: str, state: State) -> None:
    request = standing(state)
    fact = FACTS[name](request)
    once = apply(request, fact)
    if once is None:
        return
    twice = apply(once.after, fact)
    after = (twice or once).after
    assert after.refund == once.after.refund
    assert after.reserved_minor <= max(once.after.reserved_minor, 1000 if name == "approved" else 0)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("status", STATUSES)
def test_a_refund_is_kept_in_every_state_and_a_break_is_opened_where_it_is_not_expected(
    status: str, state: State
) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund(of=request, status=status)))
    to = model.OF_STRIPE[status]
    if state is to:
        assert change is None, "it is known already"
        return
    assert change is not None
    assert change.refund is not None
    unexpected = to not in TRANSITIONS[state]
    assert (change.break_.code if change.break_ else None) == ("refund_unexpected" if unexpected else None)
    assert (change.after.refund == REFUND) == (not unexpected or state in AT_STRIPE)


@pytest.mark.parametrize("state", [State.PENDING, State.REQUIRES_ACTION, State.SETTLED])
@pytest.mark.parametrize("status", ["pending", "requires_action", "succeeded"])
def test_a_second_living_refund_with_our_id_is_paid_twice_and_the_state_stays(state: State, status: str) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund("re_2", of=request, status=status)))
    assert change is not None
    assert change.break_ is not None
    assert (change.break_.code, change.break_.refund) == ("paid_twice", "re_2")
    assert (change.after.state, change.after.refund) == (state, REFUND)
    assert change.refund is not None


@pytest.mark.parametrize("state", AT_STRIPE)
@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_second_refund_that_came_back_is_only_kept(state: State, status: str) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund("re_2", of=request, status=status)))
    assert change is not None
    assert change.refund is not None
    assert change.break_ is None
    assert (change.after.state, change.after.refund) == (state, REFUND)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELED])
def test_a_living_refund_beside_one_that_came_back_is_a_break_and_not_called_paid_twice(state: State) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund("re_2", of=request)))
    assert change is not None
    assert change.break_ is not None
    assert change.break_.code == "refund_unexpected"


@pytest.mark.parametrize("state", State)
def test_a_status_that_we_do_not_know_is_kept_and_opens_a_break(state: State) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund(of=request, status="in_review")))
    assert change is not None
    assert change.break_ is not None
    assert change.break_.code == "refund_status_unknown"
    assert change.after.state is state


@pytest.mark.parametrize("state", [*UNPAID, *IN_FLIGHT])
def test_a_refund_over_another_amount_is_taken_in_with_a_break(state: State) -> None:
    request = standing(state)
    change = apply(request, model.Found(seen_refund(of=request, amount_minor=999)))
    assert change is not None
    assert change.after.state is State.SETTLED
    # What was never decided cannot differ.
    assert (change.break_.code if change.break_ else None) == (None if state is State.RECEIVED else "amount_differs")


def test_an_adopted_request_is_paid_with_the_refunds_amount_and_says_so() -> None:
    request = standing(State.RECEIVED)
    change = apply(request, model.Found(seen_refund(of=request, amount_minor=700)))
    assert change is not None
    assert change.event == "refund_request.adopted"
    assert (change.after.amount_minor, change.after.reason_code, change.after.refund) == (700, "adopted", REFUND)


def test_a_late_failure_turns_settled_into_failed_with_stripes_reason() -> None:
    request = standing(State.SETTLED)
    seen = seen_refund(of=request, status="failed", failure_reason="expired_or_canceled_card")
    change = apply(request, model.Found(seen))
    assert change is not None
    assert (change.after.state, change.after.reason_code) == (State.FAILED, "expired_or_canceled_card")


def test_a_refund_seen_again_with_a_new_reason_is_noted_and_without_one_is_dropped() -> None:
    request = standing(State.PENDING)
    assert apply(request, model.Found(seen_refund(of=request, status="pending"))) is None
    news = apply(request, model.Found(seen_refund(of=request, status="pending", pending_reason="charge_pending")))
    assert news is not None
    assert news.after.reason_code == "charge_pending"
    assert news.after.state is State.PENDING


# What a change brings with it


def test_an_approval_reserves_exactly_what_is_decided_and_ends_the_hold() -> None:
    request = replace(standing(State.RECEIVED), hold=Hold(HeldReason.POSSIBLE_REPEAT))
    change = apply(request, model.Judged(Verdict.APPROVE, "eligible", "text", 400))
    assert change is not None
    assert (change.after.amount_minor, change.after.reserved_minor, change.after.hold) == (400, 400, None)


def test_another_decision_about_an_approved_request_replaces_its_reservation() -> None:
    request = standing(State.APPROVED)
    less = apply(request, model.Judged(Verdict.APPROVE, "eligible", "text", 300))
    assert less is not None
    assert (less.after.amount_minor, less.after.reserved_minor) == (300, 300)


def test_a_hold_names_its_reason_and_until_when() -> None:
    change = apply(standing(State.RECEIVED), FACTS["held_for_siblings"](standing(State.RECEIVED)))
    assert change is not None
    assert (change.after.hold, change.after.due_at) == (Hold(HeldReason.SIBLING, LATER), LATER)


def test_a_low_balance_holds_until_it_is_due_again() -> None:
    change = apply(standing(State.SUBMITTING), FACTS["low_balance"](standing(State.SUBMITTING)))
    assert change is not None
    assert change.after.hold == Hold(HeldReason.LOW_BALANCE, LATER)


def test_reopening_forgets_the_amount_and_keeps_the_number_of_the_last_attempt() -> None:
    request = replace(standing(State.DECLINED), attempt=3, allowed=frozenset({"re_x"}))
    change = apply(request, model.Reopened(frozenset({"re_y"})))
    assert change is not None
    after = change.after
    assert (after.amount_minor, after.attempt, after.due_at) == (0, 3, 0.0)
    assert after.allowed == {"re_x", "re_y"}
    assert (after.reason_code, after.reason_text) == ("", "")


def test_a_request_that_was_never_sent_may_lead_to_another_charge_and_asks_for_the_same() -> None:
    request = replace(standing(State.REJECTED), attempt=0, refund=None)
    change = apply(request, model.Reopened(charge="ch_9"))
    assert change is not None
    assert change.after.content == replace(request.content, charge="ch_9")
    assert (change.after.id, change.after.state) == (request.id, State.RECEIVED)


@pytest.mark.parametrize("left", [{"attempt": 1, "refund": None}, {"attempt": 0, "refund": "re_x"}])
def test_a_request_that_was_ever_sent_or_paid_never_leads_to_another_charge(left: dict[str, Any]) -> None:
    request = replace(standing(State.REJECTED), **left)
    with pytest.raises(InvariantViolated, match="never asks for ch_9"):
        apply(request, model.Reopened(charge="ch_9"))
    again = apply(request, model.Reopened(charge=request.content.charge))
    assert again is not None
    assert again.after.content == request.content


def test_an_intent_moves_the_request_to_its_attempts_number() -> None:
    request = standing(State.OUTCOME_UNKNOWN)
    change = apply(request, model.Submitted(attempt(request, sent(None), number=2)))
    assert change is not None
    assert (change.after.attempt, change.attempt) == (2, attempt(request, sent(None), number=2))


def test_a_held_request_is_not_sent() -> None:
    request = replace(standing(State.APPROVED), hold=Hold(HeldReason.STOPPED))
    assert apply(request, FACTS["submitted"](request)) is None


# What cannot happen


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("an attempt that skips a number", model.Submitted(attempt(standing(State.APPROVED), sent(None), number=2))),
        ("no send", model.Submitted(model.Attempt("r", 1, body_of(standing(State.APPROVED))))),
        ("an answered send", model.Submitted(attempt(standing(State.APPROVED), sent("unknown")))),
        ("another amount", model.Submitted(attempt(replace(standing(State.APPROVED), amount_minor=999), sent(None)))),
        ("an approval of nothing", model.Judged(Verdict.APPROVE, "", "", 0)),
        ("a hold without a reason", model.Judged(Verdict.HOLD, "", "")),
    ],
)
def test_what_cannot_happen_stops(name: str, fact: model.Fact) -> None:
    with pytest.raises(InvariantViolated):
        apply(standing(State.APPROVED), fact)
    assert name


def test_every_step_that_apply_takes_is_in_the_table_of_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSITIONS, State.APPROVED, frozenset())
    request = standing(State.APPROVED)
    for name in ("refused", "submitted", "withdrawn", "asked"):
        with pytest.raises(InvariantViolated):
            apply(request, FACTS[name](request))


def test_nothing_leaves_failed_or_canceled() -> None:
    assert TRANSITIONS[State.FAILED] == TRANSITIONS[State.CANCELED] == frozenset()


def test_the_transitions_know_every_state() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(AT) == set(STATUSES) == set(model.OF_STRIPE)


# Content, body, attempt


@pytest.mark.parametrize(
    "change",
    [
        {"charge": "ch_2"}, {"asked_minor": 1001}, {"asked_minor": None}, {"currency": "eur"}, {"reason": "duplicate"},
        {"refund_application_fee": True}, {"reverse_transfer": False},
    ],
)  # fmt: skip
def test_what_moves_money_tells_contents_apart(change: dict[str, object]) -> None:
    assert content(**change).fingerprint != content().fingerprint


def test_ticket_and_metadata_do_not_tell_contents_apart() -> None:
    assert content(ticket_id="T1", metadata={"a": "b"}).fingerprint == content().fingerprint


def test_the_body_is_the_same_bytes_wherever_it_is_made() -> None:
    asked = content(ticket_id="T1", metadata={"z": "1", "a": "2"}, reverse_transfer=True)
    request = refund_request(asked=asked, amount_minor=700, version=3, lane=model.Lane.DESK, due_at=9.0)
    again = refund_request(asked=replace(asked, metadata={"a": "2", "z": "1"}), amount_minor=700)
    expected = {"a": "2", "refundry_request_id": request.id, "ticket_id": "T1", "z": "1"}
    assert body_of(request) == body_of(again)
    assert list(body_of(request).metadata.items()) == list(expected.items())
    assert body_of(request) == RefundBody("ch_1", 700, "requested_by_customer", expected, None, reverse_transfer=True)


def test_nobody_can_pass_a_refund_off_as_another_requests() -> None:
    forged = content(metadata={"refundry_request_id": "other", "ticket_id": "other"}, ticket_id="T1")
    request = refund_request(asked=forged, amount_minor=1)
    assert body_of(request).metadata == {"refundry_request_id": request.id, "ticket_id": "T1"}


def test_the_key_of_an_attempt_is_the_requests_id_and_its_number() -> None:
    request = refund_request()
    assert attempt(request, number=3).key == f"{request.id}.3"


@pytest.mark.parametrize(
    ("outcomes", "in_doubt"),
    [
        ((None,), True), (("unknown",), True), (("not_taken",), False), (("declined",), False), (("accepted",), False),
        (("unknown", "declined"), True), (("not_taken", None), True), (("not_taken", "not_taken"), False),
    ],
)  # fmt: skip
def test_an_attempt_is_judged_as_a_whole(outcomes: tuple[str | None, ...], in_doubt: bool) -> None:  # noqa: FBT001  # a column of the table
    assert attempt(refund_request(), *(sent(outcome) for outcome in outcomes)).in_doubt is in_doubt


@pytest.mark.parametrize(
    ("send", "spent"),
    [
        (sent("accepted"), True), (sent("declined"), True), (sent("unknown"), False), (sent(None), False),
        (sent("not_taken", code=NotTakenWhy.RATE_LIMITED), False), (sent("not_taken", code=NotTakenWhy.LOW_BALANCE), True),
        (sent("not_taken", code=NotTakenWhy.KEY_REFUSED), False), (sent("not_taken", code=NotTakenWhy.UNSENT), False),
    ],
)  # fmt: skip
def test_a_number_is_spent_once_stripe_has_executed_it(send: model.Send, spent: bool) -> None:  # noqa: FBT001
    assert attempt(refund_request(), send).spent is spent


def test_an_absent_attempt_is_spent() -> None:
    assert attempt(refund_request(), sent("unknown"), absent=True).spent


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (Answer(status=500, replayed=True), True), (Answer(status=503, replayed=True), True),
        (Answer(status=500), False), (Answer(status=400, replayed=True), False), (Answer(), False),
    ],
)  # fmt: skip
def test_only_a_replayed_5xx_is_a_stored_error(answer: Answer, stored: bool) -> None:  # noqa: FBT001
    assert attempt(refund_request(), sent("unknown", answer=answer), sent("unknown")).stored_error is stored


def test_the_refusal_is_the_send_to_which_stripe_said_no() -> None:
    no = sent("declined", START + 1, code="charge_disputed")
    assert attempt(refund_request(), sent("unknown"), no).refusal == no
    assert attempt(refund_request()).refusal is None
