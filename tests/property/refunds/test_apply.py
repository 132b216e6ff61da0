"""`apply` is total and pure: for every request and fact it takes an allowed step, or none, or says that we are at fault."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.kernel.errors import InvariantViolated
from refundry.kernel.outcome import Accepted, Answer, Declined, NotTaken, NotTakenWhy, SeenRefund, Unknown
from refundry.policies.model import Verdict
from refundry.refunds import model
from refundry.refunds.model import AT_STRIPE, IN_FLIGHT, TRANSITIONS, UNPAID, Attempt, RefundRequest, Send, State, apply
from tests.support.builders import body, refund_request
from tests.support.clock import START

pytestmark = pytest.mark.property

amounts = st.integers(min_value=0, max_value=10**12)
times = st.floats(min_value=START - 10**6, max_value=START + 10**6)
texts = st.text(max_size=8)
holds = st.builds(model.Hold, st.sampled_from(model.HeldReason), st.none() | times)
statuses = st.sampled_from(["pending", "requires_action", "succeeded", "failed", "canceled", "in_review", ""])
answers = st.builds(Answer, status=st.sampled_from([0, 200, 400, 429, 500]), replayed=st.booleans())


@st.composite
def requests(draw: st.DrawFn) -> RefundRequest:
    """Draw a request as our own code leaves it: what is reserved, held and known goes with its state."""
    state = draw(st.sampled_from(State))
    amount = draw(amounts.filter(bool)) if state is not State.RECEIVED else draw(amounts)
    reserved = amount if state in IN_FLIGHT or (state is State.APPROVED and draw(st.booleans())) else 0
    return refund_request(
        state=state,
        amount_minor=amount,
        reserved_minor=reserved,
        hold=draw(st.none() | holds) if state in UNPAID else None,
        attempt=draw(st.integers(min_value=1 if state in IN_FLIGHT else 0, max_value=5)),
        refund=draw(st.sampled_from(["re_1", "re_2"])) if state in AT_STRIPE else None,
        version=draw(st.integers(min_value=1, max_value=10**6)),
        reason_code=draw(st.sampled_from(["", "adopted", "timeout"])),
        due_at=draw(times),
        allowed=draw(st.frozensets(st.sampled_from(["re_x", "request-2"]))),
    )


sends = st.builds(
    Send, times, times, st.none() | times, st.sampled_from([None, "accepted", "declined", "not_taken", "unknown"]),
    st.sampled_from(["", "low_balance", "timeout", "idempotency_mismatch"]), answers,
)  # fmt: skip


@st.composite
def attempts(draw: st.DrawFn, request: RefundRequest) -> Attempt:
    number = request.attempt + draw(st.integers(min_value=-1, max_value=2))
    amount = draw(st.sampled_from([request.reserved_minor, request.amount_minor, 1]))
    return Attempt(
        request.id, number, body(amount_minor=amount), tuple(draw(st.lists(sends, max_size=3))), draw(st.booleans()),
        tuple(draw(st.lists(times, max_size=2))),
    )  # fmt: skip


@st.composite
def refunds(draw: st.DrawFn, request: RefundRequest) -> SeenRefund:
    return SeenRefund(
        draw(st.sampled_from(["re_1", "re_2", "re_3"])), "ch_1", draw(amounts), "gbp", draw(statuses), draw(times),
        failure_reason=draw(st.none() | texts), pending_reason=draw(st.none() | texts),
        metadata={"refundry_request_id": request.id},
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[RefundRequest, model.Fact]:
    """Draw a request and any fact, sensible or not."""
    request = draw(requests())
    attempt, refund = attempts(request), refunds(request)
    outcomes = (
        st.builds(Accepted, refund, answers)
        | st.builds(Declined, texts, answers)
        | st.builds(NotTaken, st.sampled_from(NotTakenWhy), answers)
        | st.builds(Unknown, texts, answers)
    )
    facts = (
        st.builds(model.Judged, st.sampled_from(Verdict), texts, texts, amounts, st.none() | holds)
        | st.builds(model.Submitted, attempt)
        | st.builds(model.Sent, attempt, outcomes, times)
        | st.builds(model.Found, refund)
        | st.builds(model.Looked, attempt, times)
        | st.builds(model.Closed, attempt, texts, texts)
        | st.builds(model.CameBack, attempt, holds, times)
        | st.builds(model.GaveUp, texts)
        | st.builds(model.Postponed, times, st.none() | holds)
        | st.builds(model.Withdrawn, texts)
        | st.builds(model.Reopened, st.frozensets(st.sampled_from(["re_x", "request-2"])))
    )
    return request, draw(facts)


# Only these can be at fault, and only by what our own code hands in.
FAULTS = (model.Judged, model.Submitted)


@given(cases())
def test_apply_takes_an_allowed_step_or_none(case: tuple[RefundRequest, model.Fact]) -> None:
    request, fact = case
    before = copy.deepcopy(case)
    try:
        change = apply(request, fact)
    except InvariantViolated:
        assert isinstance(fact, FAULTS)
        return
    assert case == before, "it is pure"
    if change is None:
        return
    after = change.after
    assert after.state is request.state or after.state in TRANSITIONS[request.state]
    assert after.version == request.version + 1
    assert (after.id, after.content, after.request_key) == (request.id, request.content, request.request_key)
    assert apply(request, fact) == change, "it says the same each time"


@given(cases())
def test_nothing_is_reserved_once_it_is_over_or_its_refund_known(case: tuple[RefundRequest, model.Fact]) -> None:
    request, fact = case
    try:
        change = apply(request, fact)
    except InvariantViolated:
        return
    if change is None:
        return
    after = change.after
    if after.state not in IN_FLIGHT | {State.APPROVED}:
        assert after.reserved_minor == 0
    else:
        assert after.reserved_minor in {0, after.amount_minor}
    if after.refund is not None and change.break_ is None:
        assert after.reserved_minor == 0
    if after.state in IN_FLIGHT:
        assert after.reserved_minor == request.reserved_minor > 0, "what is on its way keeps its claim"
    assert after.hold is None or after.state in UNPAID


@given(cases())
def test_a_fact_about_a_refund_is_always_storable(case: tuple[RefundRequest, model.Fact]) -> None:
    request, fact = case
    if not isinstance(fact, model.Found):
        return
    change = apply(request, fact)
    if change is None:
        assert request.refund == fact.refund.id, "only what is known already brings nothing new"
        return
    assert change.refund == fact.refund
    if change.after.state is request.state and fact.refund.id != request.refund and not fact.refund.over:
        assert change.break_ is not None, "nobody would hear of it"


@given(cases())
def test_nothing_but_a_refund_at_stripe_makes_a_request_paid(case: tuple[RefundRequest, model.Fact]) -> None:
    request, fact = case
    try:
        change = apply(request, fact)
    except InvariantViolated:
        return
    if change is None or change.after.state not in AT_STRIPE or change.after.state is request.state:
        return
    assert isinstance(fact, model.Found) or (isinstance(fact, model.Sent) and isinstance(fact.outcome, Accepted))
    assert change.after.refund is not None


@given(cases())
def test_a_request_in_doubt_never_goes_back_without_stripes_word(case: tuple[RefundRequest, model.Fact]) -> None:
    """Only a first send that was surely not taken, or looks that close it or prove it absent, lead out of doubt without a refund."""
    request, fact = case
    if request.state not in IN_FLIGHT:
        return
    try:
        change = apply(request, fact)
    except InvariantViolated:
        return
    if change is None or change.after.state in IN_FLIGHT | AT_STRIPE:
        return
    if change.after.state is State.APPROVED:
        assert isinstance(fact, model.CameBack) or (isinstance(fact, model.Sent) and isinstance(fact.outcome, NotTaken))
        assert not fact.attempt.in_doubt or (isinstance(fact, model.CameBack) and fact.attempt.absent)
    else:
        assert change.after.state is State.DECLINED
        assert isinstance(fact, model.Closed)


@given(cases(), st.integers(min_value=1, max_value=4))
def test_an_intent_is_only_written_for_what_is_reserved(case: tuple[RefundRequest, model.Fact], number: int) -> None:
    request = case[0]
    attempt = Attempt(request.id, number, body(amount_minor=request.amount_minor), (Send(START, START),))
    try:
        change = apply(request, model.Submitted(attempt))
    except InvariantViolated:
        return
    if change is not None:
        assert request.state in IN_FLIGHT | {State.APPROVED}
        assert request.hold is None
        assert change.after.reserved_minor == attempt.body.amount_minor
        assert change.after.attempt == number
        assert replace(change.after, attempt=0).state is State.SUBMITTING
