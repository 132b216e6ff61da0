"""A window of charges listed by several lists at once: all of it, for few calls, whatever the times of the charges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.gateways.base import Look
from refundry.worker.listing import APART_SECONDS, LISTS, PART_PAGES, PART_PAGES_FIRST, Listing
from tests.support.builders import look

pytestmark = pytest.mark.property

PAGE = 4
BEGIN = 1_700_000_000
# Bursts of many in a second, quiet nights, and years without any.
GAPS = st.lists(st.sampled_from([0, 0, 1, 60, 60, 61, 3600, 40_000, 90_000_000]), max_size=400)
EVEN = st.integers(0, 1500)


class Shop:
    """Charges by the seconds in which they were created, listed as Stripe lists them."""

    def __init__(self, created: list[int], *, fails_at: int | None = None) -> None:
        self.looks = [look(f"ch_{at}", created_at=float(moment)) for at, moment in enumerate(created)][::-1]
        self.calls = self.open = self.most_at_once = self.at_once = 0
        self._fails_at = fails_at

    async def pages(self, since: float, until: float) -> AsyncGenerator[Sequence[Look], None]:
        """List those of a window, newest first; the page after the last is none."""
        assert since <= until
        within = [one for one in self.looks if since <= one.charge.created_at <= until]
        self.open += 1
        try:
            for at in range(0, max(len(within), 1), PAGE):
                self.calls += 1
                call = self.calls
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                await asyncio.sleep(0)
                self.at_once -= 1
                if call == self._fails_at:
                    raise ConnectionError("Stripe is away")
                yield within[at : at + PAGE]
        finally:
            self.open -= 1

    def walk(self, since: float = 0.0, until: float = 2.0 * BEGIN, most: int | None = None) -> list[str]:
        """Walk over a window, or over so many of its pages; tells the charges."""

        async def walked() -> list[str]:
            told: list[str] = []
            count = 0
            async with aclosing(Listing(self.pages, since, until).walk()) as walk:
                async for page in walk:
                    told += [one.charge.id for one in page]
                    count += 1
                    if count == most:
                        break
            calls = self.calls
            await asyncio.sleep(0)
            assert (self.calls, self.open) == (calls, 0)
            return told

        return asyncio.run(walked())


def parts(pages: int) -> int:
    """Tell how many parts a window of so many pages has, where charges are even."""
    size, count = PART_PAGES_FIRST, 1
    while pages > size:
        pages, size, count = pages - size, min(2 * size, PART_PAGES), count + 1
    return count


def moments(gaps: list[int]) -> list[int]:
    """Tell when charges were created that came with these seconds between them."""
    return [BEGIN + sum(gaps[: at + 1]) for at in range(len(gaps))]


@given(GAPS, st.floats(0, 1), st.floats(0, 1))
def test_every_charge_of_the_window_is_told_and_no_other(gaps: list[int], one: float, other: float) -> None:
    shop = Shop(moments(gaps))
    since, until = sorted(BEGIN + sum(gaps) * share for share in (one, other))
    expected = {each.charge.id for each in shop.looks if since <= each.charge.created_at <= until}
    assert set(shop.walk(since, until)) == expected
    assert set(shop.walk()) == {each.charge.id for each in shop.looks}


@given(st.integers(1, 12), st.integers(0, 1500))
def test_many_in_each_second_are_told_where_one_part_ends_and_the_next_begins(each: int, count: int) -> None:
    shop = Shop([BEGIN + at // each for at in range(count)])
    assert set(shop.walk()) == {one.charge.id for one in shop.looks}


@given(st.integers(0, 1500), st.lists(st.sampled_from([0, int(APART_SECONDS)]), min_size=1, max_size=40))
def test_none_is_left_out_where_charges_are_listed_some_seconds_out_of_order(count: int, late: list[int]) -> None:
    shop = Shop([BEGIN + 5 * at + late[at % len(late)] for at in range(count)])
    assert set(shop.walk()) == {one.charge.id for one in shop.looks}


@given(EVEN)
def test_one_call_more_in_a_part_of_even_charges(count: int) -> None:
    shop = Shop([BEGIN + 60 * at for at in range(count)])
    shop.walk()
    pages = max(-(-count // PAGE), 1)
    assert shop.calls <= pages + parts(pages)
    assert shop.calls == 1 or count > PAGE


def test_a_window_of_some_pages_is_listed_by_several_lists_at_once() -> None:
    shop = Shop([BEGIN + 60 * at for at in range(11 * PAGE)])
    shop.walk(since=float(BEGIN))
    assert shop.most_at_once > 1


@given(GAPS)
def test_charges_come_as_they_may_and_no_more_than_twice_the_calls_are_made(gaps: list[int]) -> None:
    shop = Shop(moments(gaps))
    shop.walk()
    assert shop.calls <= 2 * max(-(-len(gaps) // PAGE), 1) + 1


def test_a_long_window_is_listed_by_nearly_all_lists_at_once() -> None:
    shop = Shop([BEGIN + 60 * at for at in range(LISTS * PART_PAGES * PAGE * 2)])
    shop.walk()
    assert LISTS - 1 <= shop.most_at_once <= LISTS


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_list_that_fails_ends_the_walk_with_its_error(fails_at: int, count: int) -> None:
    shop = Shop([BEGIN + 60 * at for at in range(PAGE * count)], fails_at=fails_at)
    if fails_at > count + parts(count):
        shop.walk()
        return
    try:
        shop.walk()
    except ConnectionError:
        assert shop.open == 0
    else:
        assert shop.calls < fails_at


@given(st.integers(1, 60))
def test_who_stops_early_leaves_no_list_behind(most: int) -> None:
    shop = Shop([BEGIN + 60 * at for at in range(PAGE * 300)])
    assert len(shop.walk(most=most)) <= most * PAGE
    assert shop.calls <= most + 2 * LISTS
