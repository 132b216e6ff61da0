"""What is left on a charge, and that no decision gives away more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.charges.model import Charge
from refundry.kernel.outcome import SeenRefund
from refundry.policies.model import Verdict
from refundry.policies.rules import decide
from tests.support.builders import charge, facts, seen_refund

pytestmark = pytest.mark.property

CAPTURED = 100_000
STATUSES = ("pending", "requires_action", "succeeded", "failed", "canceled")
parts = st.lists(st.tuples(st.integers(1, CAPTURED), st.sampled_from(STATUSES)), max_size=6)


def refunds_of(drawn: list[tuple[int, str]]) -> tuple[SeenRefund, ...]:
    """Make refunds as Stripe can have them: those alive never exceed what was captured."""
    out, alive = [], 0
    for number, (amount, status) in enumerate(drawn):
        refund = seen_refund(f"re_{number}", amount_minor=amount, status=status)
        if refund.over or alive + amount <= CAPTURED:
            alive += 0 if refund.over else amount
            out.append(refund)
    return tuple(out)


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    """Draw a charge whose sum counts failed refunds or does not, or is a little behind."""
    refunds = refunds_of(draw(parts))
    alive = sum(r.amount_minor for r in refunds if not r.over)
    told = draw(st.sampled_from([alive, sum(r.amount_minor for r in refunds), 0]))
    return charge(captured_minor=CAPTURED, refunds=refunds, refunded_minor=min(told, CAPTURED))


@given(parts, st.booleans())
def test_what_is_left_is_what_was_captured_less_what_was_given_back(
    drawn: list[tuple[int, str]], counts_failed: bool  # noqa: FBT001  # drawn
) -> None:  # fmt: skip
    refunds = refunds_of(drawn)
    alive = sum(r.amount_minor for r in refunds if not r.over)
    everything = sum(r.amount_minor for r in refunds)
    seen = charge(captured_minor=CAPTURED, refunds=refunds, refunded_minor=everything if counts_failed else alive)
    assert seen.unrefunded_minor == CAPTURED - alive


@given(charges(), st.integers(1, CAPTURED))
def test_more_that_was_given_back_never_leaves_more(seen: Charge, amount: int) -> None:
    more = (*seen.refunds, seen_refund("re_new", amount_minor=amount))
    later = charge(captured_minor=CAPTURED, refunds=more, refunded_minor=seen.refunded_minor)
    assert later.unrefunded_minor <= seen.unrefunded_minor


@given(
    charges(), st.none() | st.integers(-5, 2 * CAPTURED), st.integers(0, 2 * CAPTURED), st.frozensets(st.integers(0, 5))
)
def test_never_more_is_approved_than_is_left_and_unreserved(
    seen: Charge, asked: int | None, reserved: int, allow: frozenset[int]
) -> None:  # fmt: skip
    allowed = frozenset(f"re_{number}" for number in allow)
    told = decide(facts(charge=seen, asked_minor=asked, reserved_minor=reserved, allowed=allowed))
    if told.verdict is Verdict.APPROVE:
        assert 0 < told.amount_minor <= seen.unrefunded_minor - reserved
        assert told.amount_minor <= CAPTURED - seen.given_back_minor - reserved
        assert asked in {None, told.amount_minor}
    else:
        assert told.amount_minor == 0
        assert told.code
        assert told.text
    assert (told.verdict is Verdict.HOLD) == (told.wait is not None)
