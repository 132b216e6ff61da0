"""The pure parts of the pace: limits as they are written, and ceilings after head-room."""

from __future__ import annotations

import asyncio

import pytest

from refundry.infra import pace
from refundry.infra.pace import Limits, Pacer, parsed
from refundry.kernel.errors import UsageError
from refundry.kernel.lane import Lane
from tests.support.clock import HandClock

pytestmark = pytest.mark.unit

REFUND, SEARCH = "POST /v1/refunds", "GET /v1/charges/search"


class NoWriter:
    """A writer that is never needed."""

    async def put(self, work: object, **_: object) -> object:
        raise AssertionError(work)

    async def aside(self, work: object) -> object:
        raise AssertionError(work)


def pacer(limits: Limits, headroom: float = 0.1) -> Pacer:
    made = Pacer(limits, headroom, NoWriter(), HandClock())  # type: ignore[arg-type]
    made.serve("acct_1|test")
    return made


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("live", Limits(100, 25)), ("sandbox", Limits(25, 25)), ("none", Limits(0, 0)),
        ("global=100,endpoint=25", Limits(100, 25)), (" endpoint = 5 , global=12.5 ", Limits(12.5, 5)),
        ("global=10", Limits(10, 0)), ("endpoint=10", Limits(0, 10)),
        ("global=100,endpoint=25,POST /v1/refunds=50", Limits(100, 25, {REFUND: 50})),
        ("DELETE /v1/webhook_endpoints/{webhook_endpoint}=1", Limits(0, 0, {"DELETE /v1/webhook_endpoints/{webhook_endpoint}": 1})),
        ("GET /v1/charges/{charge}=3", Limits(0, 0, {"GET /v1/charges/{charge}": 3})),
    ],
)  # fmt: skip
def test_limits_are_read_as_they_are_written(text: str, limits: Limits) -> None:
    assert parsed(text) == limits


@pytest.mark.parametrize(
    "text",
    [
        "", "fast", "global", "global=-1", "global=x", "global=1;endpoint=2", "PUT /v1/x=1", "a=1",
        "POST /v1/refunds=0", "global=0.0,endpoint=25", "global=100,global=10", f"global={'9' * 400}",
    ],
)  # fmt: skip
def test_what_are_no_limits_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parsed(text)
    assert (refused.value.code, refused.value.ids["setting"]) == ("limits_wrong", "REFUNDRY_STRIPE__LIMITS")


@pytest.mark.parametrize(
    ("limits", "operation", "rate"),
    [
        (Limits(100, 25), REFUND, 22.5), (Limits(25, 25), REFUND, 22.5), (Limits(10, 25), REFUND, 9.0),
        (Limits(100, 25), SEARCH, 18.0), (Limits(100, 25, {REFUND: 50}), REFUND, 45.0), (Limits(0, 25), REFUND, 22.5),
        (Limits(100, 0), REFUND, 90.0), (Limits(100, 0), SEARCH, 90.0), (Limits(0, 0), REFUND, 0.0),
    ],
)  # fmt: skip
def test_the_rate_is_the_lower_limit_less_head_room(limits: Limits, operation: str, rate: float) -> None:
    assert pacer(limits).rate_of(operation) == pytest.approx(rate)


async def test_without_limits_nobody_waits_and_nothing_is_saved() -> None:
    clock = HandClock()
    free = Pacer(Limits(0, 0), 0.1, NoWriter(), clock)  # type: ignore[arg-type]
    free.serve("acct_1|test")
    assert await free.take(REFUND, Lane.BULK) == clock.boot_seconds()


async def test_before_the_account_is_known_nobody_waits() -> None:
    early = Pacer(Limits(100, 25), 0.1, NoWriter(), HandClock())  # type: ignore[arg-type]
    await early.take("GET /v1/account", Lane.DESK)
    await early.limited("GET /v1/account", "global-rate", 0.0)


@pytest.mark.parametrize("reason", [None, "lock_timeout", "resource-specific", "something-new"])
async def test_what_says_nothing_about_the_pace_cuts_nothing(reason: str | None) -> None:
    made = pacer(Limits(100, 25))
    await made.limited(REFUND, reason, 0.0)
    assert made.limited_count == 1


async def test_a_writer_that_fails_is_heard_by_whoever_waits() -> None:
    made = pacer(Limits(100, 25))
    waiting = [asyncio.ensure_future(made.take(REFUND, lane)) for lane in Lane]
    for told in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(told, AssertionError)


def test_a_person_may_reserve_further_ahead_than_a_bulk_run() -> None:
    assert pace.HORIZON[Lane.DESK] > pace.HORIZON[Lane.BULK]


@pytest.mark.parametrize(
    ("limits", "lane", "early"),
    [
        (Limits(100, 25), Lane.BULK, 0.06),
        (Limits(0, 1000), Lane.BULK, 0.0016667),
        (Limits(0, 5), Lane.BULK, 0.06),
        (Limits(100, 25), Lane.DESK, 0.03),
        (Limits(0, 0), Lane.BULK, 0.0),
    ],
)
def test_a_send_is_handed_out_as_early_as_its_commit_may_take_and_no_earlier_than_its_slots_are_apart(
    limits: Limits, lane: Lane, early: float
) -> None:
    made = pacer(limits, headroom=0.1)
    assert made.early("POST /v1/refunds", lane) == pytest.approx(early, rel=1e-3)
