"""The rows at once, for every rate, every time of a row, and whatever Stripe says when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.worker.flight import Crowding, rows_wanted

pytestmark = pytest.mark.property

RATES, SECONDS, MOST = st.floats(0, 1000), st.floats(0, 120), st.integers(1, 500)


@given(RATES, SECONDS, MOST)
def test_there_is_always_one_and_never_more_than_the_setting(rate: float, seconds: float, most: int) -> None:
    assert 1 <= rows_wanted(rate, seconds, most) <= most


@given(RATES.filter(bool), SECONDS, MOST)
def test_there_are_enough_to_use_every_slot_where_the_setting_allows_it(rate: float, seconds: float, most: int) -> None:
    rows = rows_wanted(rate, seconds, most)
    assert rows == most or rows >= rate * seconds


@given(RATES.filter(bool), SECONDS, SECONDS, MOST)
def test_slower_rows_are_never_fewer(rate: float, one: float, other: float, most: int) -> None:
    quick, slow = sorted((one, other))
    assert rows_wanted(rate, quick, most) <= rows_wanted(rate, slow, most)


@given(MOST, st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=40))
def test_whatever_is_said_when_some_may_go_on_and_all_may_again_after_a_while(
    most: int, said: list[tuple[float, bool]]
) -> None:
    crowding, now, heard = Crowding(), 0.0, 0
    for later, crowded in said:
        now, heard = now + later, heard + crowded
        before = crowding.allowed(now, most)
        crowding = crowding.after(heard, now, before)
        assert 1 <= crowding.allowed(now, most) <= max(before, 1)
    assert crowding.allowed(now + 1000.0, most) == most
