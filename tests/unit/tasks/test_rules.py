"""Which task a happening opens, and which one it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.refunds.model import Break, Change, Concern, State
from refundry.tasks.model import NOTE_NEEDED, OPTIONS, PATIENCE, How, Kind, task_id
from refundry.tasks.rules import ended_by, opened_by
from tests.support.builders import ACCOUNT, CHARGE, seen_refund
from tests.support.clock import START
from tests.support.states import standing

pytestmark = pytest.mark.unit


def concern(before: State, after: State, code: str = "", **refund: object) -> Concern:
    was = standing(before)
    now = replace(was, state=after, reason_code=code)
    return Concern(ACCOUNT, CHARGE, was, Change(now, "event"), seen_refund(of=was, **refund))


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (State.SETTLED, State.FAILED, Kind.REFUND_FAILED, "had been told as paid"),
        (State.PENDING, State.FAILED, Kind.REFUND_FAILED, "has failed"),
        (State.SUBMITTING, State.FAILED, Kind.REFUND_FAILED, "has failed"),
        (State.REQUIRES_ACTION, State.CANCELED, Kind.REFUND_CANCELED, "has been canceled"),
        (State.PENDING, State.REQUIRES_ACTION, Kind.REQUIRES_ACTION, "e-mail"),
        (State.REQUIRES_ACTION, State.REQUIRES_ACTION, Kind.REQUIRES_ACTION, "e-mail"),
        (State.SUBMITTING, State.OUTCOME_UNKNOWN, Kind.OUTCOME_UNKNOWN, "nobody can say"),
        (State.OUTCOME_UNKNOWN, State.OUTCOME_UNKNOWN, None, ""),
        (State.OUTCOME_UNKNOWN, State.SETTLED, None, ""),
        (State.PENDING, State.SETTLED, None, ""),
        (State.FAILED, State.FAILED, None, ""),
        (State.REQUIRES_ACTION, State.PENDING, None, ""),
    ],
)
def test_what_nothing_goes_on_from_by_itself_is_a_task(
    before: State, after: State, kind: Kind | None, words: str
) -> None:
    task = opened_by(concern(before, after), START)
    assert (task.kind if task else None) == kind
    if task is not None:
        assert words in task.text
        assert (task.amount_minor, task.currency, task.opened_at) == (1000, "gbp", START)


def test_a_customer_who_is_asked_has_until_the_time_that_stripe_says() -> None:
    task = opened_by(concern(State.PENDING, State.REQUIRES_ACTION, action_until=START + 77), START)
    assert task is not None
    assert task.due_at == START + 77


@pytest.mark.parametrize(
    ("code", "words"),
    [("expired_or_canceled_card", "expired"), ("something_new", "Stripe says something_new"), ("", "does not say why")],
)
def test_a_failure_says_why_in_words(code: str, words: str) -> None:
    task = opened_by(concern(State.SETTLED, State.FAILED, code), START)
    assert task is not None
    assert words in task.text


@pytest.mark.parametrize("before", [State.PENDING, State.SETTLED])
def test_nobody_is_told_to_pay_beside_a_bank(before: State) -> None:
    task = opened_by(concern(before, State.FAILED, "charge_for_pending_refund_disputed"), START)
    assert task is not None
    assert "pay nothing while the dispute is open" in task.text
    assert "in another way" not in task.text
    assert "has none of it" not in task.text


def test_money_that_went_out_twice_is_a_task_of_its_own() -> None:
    was, second = standing(State.SETTLED), seen_refund("re_2", amount_minor=700)
    change = Change(was, "break.opened", refund=second, break_=Break("paid_twice", "re_2", "re_2 also carries the id"))
    task = opened_by(Concern(ACCOUNT, CHARGE, was, change, second), START)
    assert task is not None
    assert (task.kind, task.refund, task.amount_minor) == (Kind.PAID_TWICE, "re_2", 700)
    other = replace(change, break_=Break("amount_differs", "re_2", "x"))
    assert opened_by(Concern(ACCOUNT, CHARGE, was, other, second), START) is None


@pytest.mark.parametrize(("status", "opens"), [("succeeded", True), ("pending", True), ("failed", False)])
def test_a_refund_of_another_refundry_is_a_task_unless_its_money_came_back(status: str, opens: bool) -> None:  # noqa: FBT001
    task = opened_by(Concern(ACCOUNT, CHARGE, refund=seen_refund(status=status)), START)
    assert (task is not None) is opens
    assert opened_by(Concern(ACCOUNT, CHARGE), START) is None


def test_a_customer_who_has_acted_or_a_refund_that_was_found_ends_the_task() -> None:
    acted = concern(State.REQUIRES_ACTION, State.PENDING)
    assert acted.before is not None
    assert ended_by(acted) == task_id(Kind.REQUIRES_ACTION, ACCOUNT, acted.before.id)
    assert ended_by(concern(State.REQUIRES_ACTION, State.REQUIRES_ACTION)) is None
    assert ended_by(concern(State.PENDING, State.SETTLED)) is None
    found = concern(State.OUTCOME_UNKNOWN, State.PENDING)
    assert found.before is not None
    assert ended_by(found) == task_id(Kind.OUTCOME_UNKNOWN, ACCOUNT, f"{found.before.id}.{found.before.attempt}")
    assert ended_by(Concern(ACCOUNT, CHARGE)) is None


def test_every_kind_has_options_and_patience() -> None:
    assert OPTIONS.keys() == PATIENCE.keys() == set(Kind)
    assert How.OVER not in {how for options in OPTIONS.values() for how in options}
    assert {How.PAID_OTHERWISE, How.NOTED, How.NOT_PAID} == NOTE_NEEDED
