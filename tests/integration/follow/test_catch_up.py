"""Asking without a hint: at a low rate, at once after a time away, never twice at the same time, and within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from refundry.follow import service as follow
from refundry.follow.model import Feed
from refundry.inbox.model import State as EventState
from refundry.infra.db import Needs, Unit
from refundry.infra.settings import FollowSettings
from refundry.infra.writer import NOTHING, InlineWriter
from refundry.refunds.model import State
from refundry.worker.catch_up import CatchUp, OutOfReads
from tests.support.builders import ACCOUNT
from tests.support.following import Scene

pytestmark = pytest.mark.integration
Result = TypeVar("Result")


class Calls:
    """Counts what is asked of Stripe."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def since_last(self) -> Counter[str]:
        told = await self._scene.sim.control("GET /_sim/calls")
        await self._scene.sim.control("DELETE /_sim/calls")
        made = {name: peaks["calls"] for name, peaks in told["operations"].items()}
        return Counter({name: count for name, count in made.items() if name.startswith("GET /v1/")})


@pytest.fixture
async def calls(scene: Scene) -> Calls:
    made = Calls(scene)
    await made.since_last()
    return made


async def test_nothing_on_its_way_is_asked_about_fifteen_times_less_often(scene: Scene, calls: Calls) -> None:
    for _ in range(31):
        await scene.poll()
        await scene.move(60)
    assert await calls.since_last() == {"GET /v1/events": 3, "GET /v1/refunds": 3}
    charge = await scene.sim.charge(5000, card="pm_card_pendingRefund")
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    await scene.paid(charge, 100)
    await calls.since_last()
    for _ in range(30):
        await scene.poll()
        await scene.move(60)
    told = await calls.since_last()
    assert told["GET /v1/events"] == 30
    assert told["GET /v1/refunds"] == 2


async def test_where_webhooks_come_only_what_they_failed_to_bring_is_asked_for(scene: Scene) -> None:
    await scene.listen({"kind": "lost", "event": "refund.updated"}, {"kind": "lost", "event": "charge.refund.updated"})
    charge = await scene.sim.charge(5000, card="pm_card_pendingRefund")
    request = await scene.paid(charge, 100)
    await scene.follow()
    await scene.poll()
    await scene.move(400)
    await scene.follow()
    assert scene.state(request) is State.PENDING
    before = replace(scene.catch_up.done)
    await scene.poll()
    assert scene.state(request) is State.SETTLED
    after = scene.catch_up.done
    assert after.events - before.events == after.new - before.new > 0, "nothing that a webhook has brought is listed"
    assert after.reads - before.reads == 1


async def test_after_a_time_away_everything_since_is_read_at_once(scene: Scene) -> None:
    request = await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 100)
    await scene.poll()
    await scene.move(9 * 86_400)
    await scene.poll()
    assert scene.state(request) is State.SETTLED
    with scene.database.reading() as unit:
        mark = follow.mark(unit, ACCOUNT, Feed.EVENTS).mark
    assert mark is not None
    assert scene.clock.now() - mark < 1


async def test_two_processes_ask_once_and_one_of_them_applies(scene: Scene, calls: Calls) -> None:
    await scene.poll()
    parts: dict[str, Any] = {
        "gateway": scene.gateway, "database": scene.database, "writer": scene.writer, "clock": scene.clock,
        "order_key": "order_id",
    }  # fmt: skip
    second = CatchUp(ACCOUNT, settings=FollowSettings(), **parts)
    await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 100)
    await scene.move(61)
    await calls.since_last()
    seen = [scene.catch_up._due, second._due]
    with scene.database.reading() as unit:
        due = [one(unit) for one in seen]
    assert due[0] == due[1] != []
    for one, feeds in zip((scene.catch_up, second), due, strict=True):
        for feed, mark in feeds:
            await (one._events(mark) if feed is Feed.EVENTS else one._refunds(mark))
    assert (await calls.since_last())["GET /v1/events"] == 1
    assert await scene.follower.turn() > 0
    await scene.sim.call("GET /v1/account")
    await scene.listen()
    await scene.by_hand(await scene.sim.charge(5000), 300)
    while await scene.pump.deliver_due(scene.send):
        pass
    assert await scene.other.turn() == 0, "the first has its turn"
    await scene.move(31)
    assert await scene.other.turn() > 0, "and is dead now"


async def test_a_day_costs_no_more_than_its_budget(scene: Scene, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refundry.follow.rules.READS_AHEAD", 10)
    scene.catch_up._settings = FollowSettings(poll_seconds=1, reads_per_day=24 * 60)
    charge = await scene.sim.charge(5000)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    await scene.paid(charge, 100)
    await scene.poll()
    await scene.move(86_400 - scene.clock.now() % 86_400 + 1)
    await scene.poll()
    await calls.since_last()
    for _ in range(80):
        await scene.catch_up.turn()
        await scene.move(3)
    told = await calls.since_last()
    # Four minutes of the day, one call each, and those ahead of them.
    assert 5 <= told["GET /v1/events"] + told["GET /v1/refunds"] <= 15


async def test_a_refund_of_which_nothing_was_heard_is_read_again_now_and_then(scene: Scene, calls: Calls) -> None:
    charge = await scene.sim.charge(5000)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    request = await scene.paid(charge, 100)
    for _ in range(2):
        await scene.poll()
        await scene.move(3600)
    await scene.control(f"POST /_sim/refunds/{request.refund}/settle")
    await scene.move(60)
    # Its events are gone, as after thirty days.
    scene.sim.world.store.db.execute('DELETE FROM "event"')
    await calls.since_last()
    await scene.poll()
    assert scene.state(request) is State.PENDING
    await scene.move(4 * 3600)
    await scene.poll()
    assert scene.state(request) is State.SETTLED
    assert (await calls.since_last())["GET /v1/refunds/{refund}"] == 1


async def test_what_stripe_has_forgotten_keeps_nothing_else_from_being_read_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after all test data was deleted there: what is asked about first each time is not to be the only thing ever."""
    monkeypatch.setattr("refundry.worker.catch_up.REREAD_MAX", 1)
    asked = []
    for _ in range(3):
        charge = await scene.sim.charge(5000)
        await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
        asked.append(await scene.paid(charge, 100))
    gone, disputed, still = asked
    # No list shows them again.
    await scene.move(1000)
    await scene.poll()
    await scene.disputed(disputed.content.charge)
    await scene.poll()
    await scene.control(f"POST /_sim/refunds/{still.refund}/settle")
    for kind, id_ in (("refund", gone.refund), ("charge", disputed.content.charge)):
        scene.sim.world.store.db.execute(f'DELETE FROM "{kind}" WHERE id = ?', [id_])  # noqa: S608  # as it says
    for _ in range(3):
        await scene.move(86_400)
        scene.sim.world.store.db.execute('DELETE FROM "event"')
        await scene.poll()
    assert scene.state(still) is State.SETTLED
    assert scene.state(gone) is State.PENDING


async def test_a_refund_of_a_charge_that_the_key_may_not_look_at_stops_no_list(scene: Scene) -> None:
    await scene.poll()
    charge = await scene.sim.charge(5000)
    made = await scene.by_hand(charge, 300)
    await scene.disputed(charge)
    other = await scene.by_hand(await scene.sim.charge(5000), 300)
    rules = [{"kind": "forbidden", "operation": f"GET /v1/{name}"} for name in ("events", "disputes")]
    await scene.control("POST /_sim/faults", {"rules": rules})
    await scene.move(901)
    await scene.poll()
    assert (scene.origin(made), scene.origin(other)) == ("external", "external")
    with scene.database.reading() as unit:
        mark = follow.mark(unit, ACCOUNT, Feed.REFUNDS).mark
    assert mark is not None
    assert scene.clock.now() - mark < 1


async def test_a_watermark_of_a_clock_that_was_set_back_since_leaves_no_gap(scene: Scene) -> None:
    await scene.poll()
    with scene.database.unit() as unit:
        for feed in (Feed.EVENTS, Feed.REFUNDS):
            follow.move(unit, ACCOUNT, feed, scene.clock.now() + 86_400)
    charge = await scene.sim.charge(5000)
    made = await scene.by_hand(charge, 300)
    await scene.move(3 * 3600)
    await scene.poll()
    assert scene.origin(made) == "external"
    with scene.database.reading() as unit:
        marks = [follow.mark(unit, ACCOUNT, feed).mark or 0.0 for feed in (Feed.EVENTS, Feed.REFUNDS)]
    assert max(marks) <= scene.clock.now()


@pytest.mark.parametrize("hours", [1, 24, -1, -24])
async def test_a_clock_that_is_hours_apart_from_stripes_hides_nothing(scene: Scene, hours: int) -> None:
    """By that clock, everything that happens at Stripe is older than the last watermark, or yet to come."""
    scene.clock.jump(hours * 3600.0)
    await scene.poll()
    failed = await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 1200)
    assert scene.state(failed) is State.SETTLED
    made = await scene.by_hand(await scene.sim.charge(5000), 300)
    for _ in range(20):
        await scene.move(61)
        await scene.poll()
    assert scene.state(failed) is State.FAILED
    assert scene.origin(made) == "external"


async def test_a_watermark_older_than_stripe_keeps_events_moves_on(scene: Scene) -> None:
    await scene.poll()
    await scene.move(40 * 86_400)
    await scene.poll()
    with scene.database.reading() as unit:
        mark = follow.mark(unit, ACCOUNT, Feed.EVENTS).mark
    assert mark is not None
    assert scene.clock.now() - mark < 1


@pytest.mark.parametrize("by", ["itself", "command"])
@pytest.mark.parametrize("followed", [True, False], ids=["it followed before", "it never followed"])
async def test_a_refund_that_failed_more_than_a_month_ago_is_found_after_a_long_time_away(
    scene: Scene,
    followed: bool,  # noqa: FBT001
    by: str,
) -> None:
    """Stripe does not list that event any more, and the refund was made long before the watermark."""
    request = await scene.paid(await scene.sim.charge(5000), 1200)
    if followed:
        for _ in range(20):
            await scene.move(86_400)
            await scene.poll()
    assert scene.state(request) is State.SETTLED
    await scene.control(f"POST /_sim/refunds/{request.refund}/fail", {"after_seconds": 86_400})
    await scene.move(40 * 86_400)
    if by == "command":
        now, feeds = scene.clock.now(), (Feed.EVENTS, Feed.REFUNDS)
        with scene.database.unit() as unit:
            begins = [scene.catch_up.begins(unit, feed, None, now) for feed in feeds]
        await scene.catch_up.events_between(begins[0], now)
        await scene.catch_up.refunds_between(begins[1], now)
    else:
        await scene.poll()
    assert (scene.state(request), scene.kinds()) == (State.FAILED, ["refund_failed"])


async def test_a_key_that_may_not_read_events_does_not_list_the_refunds_of_months_again_and_again(
    scene: Scene, calls: Calls
) -> None:
    await scene.poll()
    await scene.control("POST /_sim/faults", {"rules": [{"kind": "forbidden", "operation": "GET /v1/events"}]})
    for _ in range(40):
        await scene.move(86_400)
        await scene.poll()
    await calls.since_last()
    await scene.move(901)
    await scene.poll()
    assert (await calls.since_last())["GET /v1/refunds"] == 1


async def test_what_happens_while_the_first_lists_cannot_be_read_is_asked_for_later(scene: Scene) -> None:
    rules = [{"kind": "forbidden", "operation": f"GET /v1/{name}"} for name in ("events", "refunds")]
    await scene.control("POST /_sim/faults", {"rules": rules})
    await scene.poll()
    made = await scene.by_hand(await scene.sim.charge(5000), 300)
    await scene.move(1800)
    await scene.control("POST /_sim/faults", {"rules": []})
    await scene.poll()
    assert scene.origin(made) == "external"


async def test_a_key_that_may_not_read_events_is_followed_by_lists(scene: Scene) -> None:
    await scene.poll()
    await scene.control("POST /_sim/faults", {"rules": [{"kind": "forbidden", "operation": "GET /v1/events"}]})
    charge = await scene.sim.charge(5000, card="pm_card_pendingRefund")
    await scene.paid(charge, 100)
    made = await scene.by_hand(charge, 300)
    await scene.move(900)
    await scene.poll()
    await scene.move(61)
    await scene.poll()
    assert scene.origin(made) == "external"


async def test_a_late_failure_is_found_without_any_event_too(scene: Scene) -> None:
    """No webhook, and a key that may not read events: only lists tell, and the refund was made long before their watermark."""
    await scene.control("POST /_sim/faults", {"rules": [{"kind": "forbidden", "operation": "GET /v1/events"}]})
    request = await scene.paid(await scene.sim.charge(5000), 1200)
    await scene.days(25, step=86_400)
    assert scene.state(request) is State.SETTLED
    await scene.control(f"POST /_sim/refunds/{request.refund}/fail", {"reason": "declined"})
    await scene.days(1.5)
    assert (scene.state(request), scene.kinds()) == (State.FAILED, ["refund_failed"])


async def test_a_key_that_is_given_the_right_to_events_is_followed_by_them_again(scene: Scene, calls: Calls) -> None:
    charge = await scene.sim.charge(5000)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    await scene.paid(charge, 100)
    await scene.control("POST /_sim/faults", {"rules": [{"kind": "forbidden", "operation": "GET /v1/events"}]})
    await scene.poll()
    for _ in range(5):
        await scene.move(61)
        await scene.poll()
    assert (await calls.since_last())["GET /v1/refunds"] >= 5
    await scene.control("DELETE /_sim/faults")
    await scene.move(900)
    await scene.poll()
    await calls.since_last()
    for _ in range(5):
        await scene.move(61)
        await scene.poll()
    told = await calls.since_last()
    assert (told["GET /v1/events"], told["GET /v1/refunds"]) == (5, 0)


async def test_charges_are_mirrored_by_lists_from_the_watermark_on(scene: Scene) -> None:
    charges = [await scene.sim.charge(5000) for _ in range(3)]
    made = await scene.by_hand(charges[0], 300)
    await scene.disputed(charges[1])
    start = scene.clock.now() - 3 * 86_400
    await scene.move(10)
    scene.catch_up.reads_max = 1
    with pytest.raises(OutOfReads):
        await scene.catch_up.charges_between(start, scene.clock.now())
    with scene.database.reading() as unit:
        mark = follow.mark(unit, ACCOUNT, Feed.CHARGES).mark
    # The first day is read to its end, however few calls there may be: else the next attempt would begin with it again.
    assert mark == start + 86_400
    assert scene.catch_up.done.reads == 2
    scene.catch_up.reads_max = None
    await scene.catch_up.charges_between(start, scene.clock.now())
    assert scene.origin(made) == "external"
    assert scene.charge(charges[0]).unrefunded_minor == 4700
    assert [one.phase for one in scene.disputes(charges[1])] == ["chargeback"]
    with scene.database.reading() as unit:
        assert follow.mark(unit, ACCOUNT, Feed.CHARGES).mark == scene.clock.now()


async def synced(scene: Scene) -> None:
    """Sync charges for the first time, as a person does."""
    await scene.move(3600)
    await scene.catch_up.charges_between(scene.clock.now() - 1800, scene.clock.now())


async def test_charges_that_were_synced_once_are_gone_on_with_seldom(scene: Scene, calls: Calls) -> None:
    await synced(scene)
    made = await scene.sim.charge(5000, metadata={"order_id": "o2"})
    await calls.since_last()
    for _ in range(30):
        await scene.move(60)
        await scene.poll()
    assert (await calls.since_last())["GET /v1/charges"] == 2
    assert scene.charge(made).order_id == "o2"
    with scene.database.reading() as unit:
        assert scene.clock.now() - (follow.mark(unit, ACCOUNT, Feed.CHARGES).mark or 0) < 1000


async def test_charges_that_were_never_synced_are_not_listed(scene: Scene, calls: Calls) -> None:
    await scene.days(1)
    assert "GET /v1/charges" not in await calls.since_last()


async def test_a_long_time_of_charges_is_read_a_day_in_a_turn(scene: Scene, calls: Calls) -> None:
    await synced(scene)
    made = [await scene.sim.charge(5000)]
    await scene.move(10 * 86_400)
    await calls.since_last()
    await scene.poll()
    assert (await calls.since_last())["GET /v1/charges"] == 1
    for _ in range(11):
        await scene.move(1000)
        await scene.poll()
    with scene.database.reading() as unit:
        assert scene.clock.now() - (follow.mark(unit, ACCOUNT, Feed.CHARGES).mark or 0) < 1000
    assert scene.charge(made[0]).captured_minor == 5000


async def test_charges_keep_up_also_where_their_turn_comes_less_than_once_a_day(scene: Scene) -> None:
    scene.catch_up._settings = FollowSettings(poll_seconds=10_000)
    await synced(scene)
    await scene.move(10 * 86_400)
    for _ in range(20):
        await scene.move(150_000)
        await scene.poll()
    with scene.database.reading() as unit:
        assert scene.clock.now() - (follow.mark(unit, ACCOUNT, Feed.CHARGES).mark or 0) < 1000


async def test_charges_wait_for_what_a_day_may_cost_and_keep_nothing_else_waiting(scene: Scene, calls: Calls) -> None:
    scene.catch_up._settings = FollowSettings(poll_seconds=1, reads_per_day=1000)
    await synced(scene)
    with scene.database.unit() as unit:
        follow.spend(unit, ACCOUNT, Feed.CHARGES, 5000)
    await calls.since_last()
    for _ in range(40):
        await scene.move(1)
        await scene.poll()
    told = await calls.since_last()
    assert told["GET /v1/charges"] == 0
    assert told["GET /v1/events"] > 0


async def test_few_calls_at_a_time_get_on_also_where_much_has_happened(scene: Scene) -> None:
    charge = await scene.sim.charge(500_000)
    made = [await scene.by_hand(charge, 100 + number) for number in range(210)]
    await scene.move(10)
    # All of it in one window, which takes more calls than there may be.
    since = scene.clock.now() - 3600
    scene.catch_up.reads_max = 2
    with suppress(OutOfReads):
        await scene.catch_up.events_between(since, scene.clock.now())
    with scene.database.reading() as unit:
        assert follow.mark(unit, ACCOUNT, Feed.EVENTS).mark == scene.clock.now()
    await scene.follow()
    assert {scene.origin(refund) for refund in made} == {"external"}


@pytest.mark.parametrize("ahead", [115, 290])
async def test_what_is_made_while_our_clock_is_ahead_is_found(scene: Scene, ahead: int) -> None:
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 100)
    await scene.poll()
    scene.clock.move(ahead)
    await scene.poll()
    made = []
    for _ in range(20):
        await scene.move(61)
        await scene.poll()
        made.append(await scene.by_hand(charge, 11))
    for _ in range(20):
        await scene.move(61)
        await scene.poll()
    assert {scene.origin(refund) for refund in made} == {"external"}


class Dies(Exception):  # noqa: N818  # it does
    """The process is killed."""


class DyingWriter(InlineWriter):
    """Saves so many times, and then the process is dead: before the commit, or after it and before anybody has heard of it."""

    left, after = 10**9, False

    async def put(
        self, work: Callable[[Unit], Result], *, needs: Needs = NOTHING, long: bool = False, alone: bool = False
    ) -> Result:
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Dies
        result = await super().put(work, needs=needs, long=long, alone=alone)
        if self.left < 0:
            raise Dies
        return result


@pytest.mark.parametrize("after", [False, True])
async def test_whenever_the_process_is_killed_the_next_one_ends_the_same(scene: Scene, after: bool) -> None:  # noqa: FBT001
    writer = DyingWriter(scene.database)
    for part in (scene.follower, scene.catch_up):
        part._writer = writer
    await scene.listen({"kind": "lost", "event": "refund.*", "probability": 0.4})
    await scene.poll()
    cards = ["pm_card_pendingRefund", "pm_card_refundFail", "pm_card_visa"]
    charges = [await scene.sim.charge(5000, card=card) for card in cards]
    asked = [await scene.paid(charge, 1000) for charge in charges]
    waiting = await scene.requested(charges[2], 700)
    await scene.by_hand(charges[2], 700)
    await scene.disputed(charges[0])
    await scene.move(400)
    deaths = 0
    for left in (*range(14), 10**9):
        writer.left, writer.after = left, after
        try:
            await scene.poll()
        except (Dies, ExceptionGroup):
            deaths += 1
        await scene.move(61)
    await scene.days(0.5)
    assert deaths >= 5
    assert [scene.state(request) for request in asked] == [State.FAILED, State.FAILED, State.SETTLED]
    assert scene.held(waiting) == "possible_repeat"
    assert scene.kinds() == ["refund_failed", "refund_failed"]
    assert set(scene.events()) == {EventState.APPLIED}


async def test_what_happened_after_the_last_turn_of_a_clock_that_was_ahead_is_found_once_it_is_right(
    scene: Scene,
) -> None:
    await synced(scene)
    await scene.poll()
    charge = await scene.sim.charge(5000)
    await scene.looked(charge)
    scene.clock.jump(600)
    await scene.move(1000)
    await scene.poll()
    made, new = await scene.by_hand(charge, 300), await scene.sim.charge(5000)
    # More than it is set back by: so no watermark lies in the future.
    await scene.move(800)
    scene.clock.jump(-600)
    await scene.move(1000)
    await scene.poll()
    assert scene.origin(made) == "external"
    assert scene.charge(new).captured_minor == 5000
