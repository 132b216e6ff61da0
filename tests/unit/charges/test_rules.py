"""What an order has given back is derived from the real amounts of all its captured charges."""

import pytest

from refundry.charges.rules import Refunded, order_message, order_refunded, told_of
from refundry.outbox.model import OrderTold
from tests.support.builders import charge, seen_refund

pytestmark = pytest.mark.unit


def status(*charges: object) -> str:
    found = order_refunded(charges)  # type: ignore[arg-type]
    assert found is not None
    return found.status.value


def refunded(amount: int, state: str = "succeeded", name: str = "ch_1", **more: object) -> object:
    refund = seen_refund(charge=name, amount_minor=amount, status=state)
    return charge(name, refunds=(refund,), **more)


def test_nothing_a_part_and_all_of_it() -> None:
    assert status(charge()) == "none"
    assert status(refunded(9_999)) == "partial"
    assert status(refunded(10_000)) == "full"


@pytest.mark.parametrize(
    ("state", "told"), [("pending", "full"), ("requires_action", "full"), ("failed", "none"), ("canceled", "none")]
)
def test_a_refund_that_failed_came_back_and_one_that_is_pending_counts(state: str, told: str) -> None:
    assert status(refunded(10_000, state)) == told


def test_an_order_is_refunded_in_full_when_all_its_charges_are() -> None:
    assert status(refunded(10_000), charge("ch_2")) == "partial"
    assert status(refunded(10_000), refunded(10_000, name="ch_2")) == "full"


def test_what_was_only_authorised_or_failed_does_not_count() -> None:
    assert status(refunded(10_000), charge("ch_2", captured_minor=0, captured=False)) == "full"
    assert order_refunded([charge(captured_minor=0, captured=False, status="failed")]) is None
    assert order_refunded([]) is None


def test_what_stripe_says_was_refunded_counts_where_we_do_not_know_the_refunds() -> None:
    assert status(charge(refunded_minor=4_000)) == "partial"


def test_more_than_was_captured_is_never_told() -> None:
    found = order_refunded([refunded(20_000)])  # type: ignore[list-item]
    assert found is not None
    assert found.total == ("gbp", 10_000, 10_000)


def test_sums_are_told_only_of_one_currency() -> None:
    both = order_refunded([refunded(500), charge("ch_2", currency="eur")])  # type: ignore[list-item]
    assert both is not None
    assert both.total is None
    told = order_message("acct_1|test", "o1", both, 1, 0.0).payload
    assert (told["currency"], told["captured_minor"], told["refunded_minor"]) == (None, None, None)
    assert [one["currency"] for one in told["charges"]] == ["gbp", "eur"]


def test_an_order_is_told_of_only_when_something_else_is_true_of_it() -> None:
    nothing, part = order_refunded([charge()]), order_refunded([refunded(500)])  # type: ignore[list-item]
    assert nothing is not None
    assert part is not None
    assert nothing.status is Refunded.NONE
    assert told_of(nothing, OrderTold(), 1.0) is None
    first = told_of(part, OrderTold(), 1.5)
    assert first is not None
    assert told_of(part, first, 2.0) is None
    back = told_of(nothing, first, 2.0)
    assert back is not None
    assert (first.version, back.version) == (1500, 2000)
    again = told_of(part, back, 1.0)
    assert again is not None
    # The clock was set back, and it is newer all the same.
    assert again.version == 2001
