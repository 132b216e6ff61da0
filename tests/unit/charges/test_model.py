"""What is left on a charge, by Stripe's sum and by the refunds that we know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.charges.service import mirrored
from refundry.gateways.base import SeenDispute
from refundry.kernel.outcome import SeenRefund
from tests.support.builders import ACCOUNT, charge, look, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.unit

PAID = seen_refund("re_1", amount_minor=3000)
PENDING = seen_refund("re_2", amount_minor=500, status="pending")
WAITING = seen_refund("re_3", amount_minor=200, status="requires_action")
FAILED = seen_refund("re_4", amount_minor=4000, status="failed")
CANCELED = seen_refund("re_5", amount_minor=1000, status="canceled")


@pytest.mark.parametrize(
    ("case", "refunds", "stripes_sum", "left"),
    [
        ("untouched", (), 0, 10_000),
        ("paid", (PAID,), 3000, 7000),
        ("on its way", (PAID, PENDING, WAITING), 3700, 6300),
        ("came back, and Stripe counts it no more", (PAID, FAILED, CANCELED), 3000, 7000),
        ("came back, and Stripe still counts it", (PAID, FAILED, CANCELED), 8000, 7000),
        ("ours is newer than Stripe's sum", (PAID, PENDING), 3000, 6500),
        ("Stripe's sum is newer than ours", (PAID,), 3500, 6500),
        ("Stripe's sum is newer, and one came back", (PAID, FAILED), 3500, 6500),
        ("all of it", (seen_refund(amount_minor=10_000),), 10_000, 0),
    ],
)
def test_what_is_left_takes_the_larger_sum_and_lets_go_what_came_back(
    case: str, refunds: tuple[SeenRefund, ...], stripes_sum: int, left: int
) -> None:
    seen = charge(refunds=refunds, refunded_minor=stripes_sum)
    assert (case, seen.unrefunded_minor) == (case, left)


def test_only_what_did_not_come_back_is_given_back() -> None:
    assert charge(refunds=(PAID, PENDING, WAITING, FAILED, CANCELED)).given_back_minor == 3700


@pytest.mark.parametrize(
    ("status", "inquiry"),
    [
        ("warning_needs_response", True), ("warning_under_review", True), ("warning_closed", False),
        ("needs_response", False), ("under_review", False), ("won", False), ("lost", False), ("prevented", False),
    ],
)  # fmt: skip
def test_an_inquiry_is_a_warning_that_is_still_open(status: str, inquiry: bool) -> None:  # noqa: FBT001
    assert SeenDispute("du_1", status, 1, refundable=True).inquiry is inquiry
    assert SeenDispute("du_1", status, 1, refundable=True).inquiry is inquiry


def test_a_look_becomes_the_mirror_with_all_that_a_decision_needs() -> None:
    seen = look(
        refunds=(PAID,), disputes=(SeenDispute("du_1", "won", 5, refundable=True),), began_at=START + 5,
        metadata={"order_no": "A1", "order_id": "other"}, destination="acct_2", application_fee=True,
    )  # fmt: skip
    mirror = mirrored(ACCOUNT, seen, "order_no")
    assert (mirror.order_id, mirror.looked_at, mirror.refunds) == ("A1", START + 5, (PAID,))
    assert mirror.disputes == (SeenDispute("du_1", "won", 5, refundable=True),)
    assert (mirror.account, mirror.refunded_minor, mirror.captured_minor) == (ACCOUNT, 3000, 10_000)
    assert (mirror.destination, mirror.application_fee, mirror.disputed) == ("acct_2", True, True)


@pytest.mark.parametrize(
    ("refunds", "stripes_sum", "explained"),
    [
        ((), 0, True), ((), 1, False), ((PAID,), 3000, True), ((PAID,), 2999, False), ((PAID, FAILED), 3000, True),
        ((PAID, FAILED), 7000, True), ((PAID, FAILED), 4000, False), ((PAID, PENDING), 3000, False),
    ],
)  # fmt: skip
def test_a_look_is_explained_when_its_refunds_add_up(
    refunds: tuple[SeenRefund, ...], stripes_sum: int, explained: bool  # noqa: FBT001
) -> None:  # fmt: skip
    assert look(refunds=refunds, refunded_minor=stripes_sum).explained is explained


def test_after_a_change_since_the_look_only_the_refunds_tell_what_was_given_back() -> None:
    # The look showed 3000 given back; then 500 more were, and the 3000 came back.
    failed = seen_refund("re_1", amount_minor=3000, status="failed")
    seen = charge(refunds=(failed, PENDING), refunded_minor=3000)
    assert seen.returned_minor == 3000
    assert replace(seen, stale=True).returned_minor == 500
    # What may be paid is still the less of the two, until the next look.
    assert replace(seen, stale=True).unrefunded_minor == 7000


@pytest.mark.parametrize(
    ("case", "refunds", "stripes_sum", "captured", "hidden"),
    [
        ("untouched", (), 0, 10_000, 0),
        ("all are shown", (PAID, PENDING), 3500, 10_000, 0),
        ("one is not shown", (PAID,), 3500, 10_000, 500),
        ("one is not shown, and what came back is counted", (PAID, FAILED), 7500, 10_000, 500),
        ("what came back is counted no more", (PAID, FAILED), 3000, 10_000, -4000),
        ("what was never captured is counted", (PAID,), 5000, 8000, 0),
        ("one is not shown beside what was never captured", (PAID,), 5500, 8000, 500),
    ],
)
def test_what_stripe_counts_and_does_not_show_is_told_in_doubt_as_less(
    case: str, refunds: tuple[SeenRefund, ...], stripes_sum: int, captured: int, hidden: int
) -> None:
    seen = charge(refunds=refunds, refunded_minor=stripes_sum, amount_minor=10_000, captured_minor=captured)
    assert seen.not_shown_minor == hidden, case


def test_what_is_only_authorised_hides_nothing_that_is_counted_on_it() -> None:
    assert charge(captured=False, captured_minor=0, amount_minor=10_000, refunded_minor=700).not_shown_minor == 700
