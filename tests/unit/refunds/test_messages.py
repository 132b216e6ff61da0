"""Which change of a request is told, and as what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.outbox.model import Kind
from refundry.refunds.model import HeldReason, Hold, State
from refundry.refunds.rules import kind_of, request_message
from tests.support.builders import charge, refund_request, seen_refund
from tests.support.clock import START
from tests.support.states import standing

pytestmark = pytest.mark.unit
SIBLING = Hold(HeldReason.SIBLING, START)


def test_a_new_request_is_received_even_if_it_has_to_wait() -> None:
    assert kind_of(None, refund_request()) is Kind.RECEIVED
    assert kind_of(None, refund_request(hold=Hold(HeldReason.SCHEDULE))) is Kind.RECEIVED


@pytest.mark.parametrize("state", [state for state in State if state is not State.RECEIVED])
def test_every_new_state_is_told(state: State) -> None:
    assert kind_of(standing(State.RECEIVED), standing(state)) is Kind(f"refund_request.{state}")


def test_a_hold_is_told_when_it_is_put_on_and_not_when_it_is_renewed_or_taken_off() -> None:
    free = standing(State.APPROVED)
    held = replace(free, hold=SIBLING)
    assert kind_of(free, held) is Kind.HELD
    assert kind_of(held, replace(held, hold=replace(SIBLING, until=START + 60))) is None
    assert kind_of(held, replace(held, hold=Hold(HeldReason.DISPUTE))) is Kind.HELD
    assert kind_of(held, free) is None


def test_what_comes_back_unpaid_and_has_to_wait_is_told_as_held() -> None:
    back = replace(standing(State.APPROVED), hold=Hold(HeldReason.LOW_BALANCE, START))
    assert kind_of(standing(State.SUBMITTING), back) is Kind.HELD


def test_what_changes_neither_state_nor_hold_is_not_told() -> None:
    one = standing(State.SETTLED)
    assert kind_of(one, replace(one, version=8, reason_code="other")) is None


def test_what_is_left_is_what_was_neither_given_back_nor_claimed() -> None:
    known = charge(refunds=(seen_refund(),), order_id="o1")
    told = request_message(Kind.APPROVED, refund_request(), known, 2_500, START).payload
    assert (told["captured_minor"], told["refunded_minor"], told["left_minor"]) == (10_000, 1_000, 6_500)
    assert request_message(Kind.APPROVED, refund_request(), known, 9_500, START).payload["left_minor"] == 0


def test_of_a_charge_that_was_never_looked_at_no_amounts_are_told() -> None:
    message = request_message(Kind.RECEIVED, refund_request(), None, 0, START)
    assert (message.order_id, message.payload["captured_minor"], message.payload["left_minor"]) == (None, None, None)
