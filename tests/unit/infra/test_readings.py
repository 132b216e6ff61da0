"""What is counted of calls: times in buckets, 429s by reason, and what came after a moment."""

from __future__ import annotations

import pytest

from refundry.infra.readings import BOUNDS, Meter, Times

pytestmark = pytest.mark.unit


def times(*seconds: float) -> Times:
    made = Times()
    for one in seconds:
        made.took(one)
    return made


@pytest.mark.parametrize(("seconds", "share", "told"), [(0.25, 0.5, 0.25), (0.001, 0.95, 0.005), (45.0, 0.5, 60.0)])
def test_a_time_is_told_exact_to_its_bucket(seconds: float, share: float, told: float) -> None:
    at = times(*[seconds] * 20).at(share)
    assert at is not None
    assert at <= told
    assert at > max([0.0, *(bound for bound in BOUNDS if bound < told)])


def test_a_few_slow_calls_show_in_the_95th_and_not_in_the_middle() -> None:
    made = times(*[0.24] * 90, *[1.9] * 10)
    middle, slow = made.at(0.5), made.at(0.95)
    assert middle is not None
    assert slow is not None
    assert 0.2 < middle <= 0.25
    assert 1.5 < slow <= 2.0


def test_a_call_that_took_longer_than_any_bucket_is_told_as_the_longest() -> None:
    assert times(300.0).at(0.5) == BOUNDS[-1]
    assert times(300.0).count == 1


def test_without_calls_no_time_is_told() -> None:
    assert times().at(0.5) is None


@pytest.mark.parametrize(
    ("reason", "counted"),
    [("endpoint-rate", "endpoint-rate"), (None, "unnamed"), ("", "unnamed"), ("lock_timeout", "lock_timeout"), ("x" * 999, "other")],
)  # fmt: skip
def test_a_429_counts_by_its_reason_and_names_from_outside_are_few(reason: str | None, counted: str) -> None:
    meter = Meter()
    meter.turned_away(reason)
    assert meter.limited == {counted: 1}


def test_what_came_after_a_moment_is_told_alone() -> None:
    meter = Meter()
    meter.took("GET /v1/charges", 0.1)
    before = meter.copied()
    meter.took("POST /v1/refunds", 0.2)
    meter.turned_away("global-rate")
    since = meter.since(before)
    assert (list(since.calls), since.limited) == (["POST /v1/refunds"], {"global-rate": 1})
    assert since.calls["POST /v1/refunds"].count == 1
    assert meter.copied() == meter != before
