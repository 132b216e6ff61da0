"""What a hint brings about: the fewest reads, once, whatever order it comes in."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.bootstrap import read_webhook
from refundry.disputes import service as disputes
from refundry.gateways.base import RefundBody
from refundry.inbox import service as inbox
from refundry.inbox.model import Event, Source
from refundry.inbox.model import State as EventState
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome, SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from stripesim import control as stripesim_control
from stripesim.money import SUPPORTED
from stripesim.resources import charges as stripesim_charges
from tests.support.builders import ACCOUNT
from tests.support.events import body_of, written
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration


async def test_events_that_say_what_stands_here_cost_no_read(scene: Scene) -> None:
    await scene.listen()
    for _ in range(3):
        await scene.paid(await scene.sim.charge(5000), 1200)
    await scene.move(10)
    await scene.follow()
    assert scene.received >= 6
    assert scene.follower.done.reads == 0
    assert scene.events() == {EventState.APPLIED: scene.received}


async def test_a_pending_refund_settles_by_its_event(scene: Scene) -> None:
    await scene.listen()
    request = await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 1200)
    assert request.state is State.PENDING
    await scene.move(400)
    await scene.follow()
    assert scene.state(request) is State.SETTLED
    assert scene.follower.done.reads == 1


async def test_a_late_failure_is_believed_only_from_a_read(scene: Scene) -> None:
    await scene.listen()
    request = await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 1200)
    assert request.state is State.SETTLED
    await scene.move(400)
    await scene.follow()
    after = scene.now(request)
    assert (after.state, after.reason_code) == (State.FAILED, "expired_or_canceled_card")


async def test_a_stripe_that_is_away_is_told_once_a_turn_and_not_for_each_object(
    capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    await scene.listen()
    for _ in range(12):
        await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 1200)
    await scene.move(400)
    await scene.control("POST /_sim/faults", {"rules": [{"kind": "rate_limit", "operation": "GET *"}]})
    capsys.readouterr()
    await scene.follow()
    # Without colours, wherever this runs.
    told = [
        line for line in re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines() if "follow.not_read" in line
    ]
    assert len(told) == 1, told
    (count,) = re.findall(r"count=(\d+)", told[0])
    assert int(count) >= 12
    assert "code=stripe_rate_limited" in told[0]


async def test_without_webhooks_polling_brings_the_same(scene: Scene) -> None:
    late = await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 1200)
    slow = await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 1200)
    await scene.poll()
    await scene.move(400)
    await scene.poll()
    assert (scene.state(late), scene.state(slow)) == (State.FAILED, State.SETTLED)


async def test_the_webhook_that_is_faster_than_the_answer_is_no_break(scene: Scene) -> None:
    """The refund is pending in the answer, and settled before that is kept: the older word does not count."""
    await scene.listen()
    request = await scene.requested(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 1200)
    send = scene.gateway.send

    async def slow(body: RefundBody, key: str) -> Outcome:
        outcome = await send(body, key)
        await scene.move(400)
        await scene.follow()
        return outcome

    scene.gateway.send = slow  # type: ignore[method-assign]
    await scene.pay_due()
    assert scene.state(request) is State.SETTLED
    with scene.database.reading() as unit:
        assert refunds.open_breaks(unit) == []


async def test_a_process_that_ends_lets_another_apply_at_once(scene: Scene) -> None:
    await scene.listen()
    await scene.by_hand(await scene.sim.charge(5000), 100)
    await scene.follow()
    await scene.by_hand(await scene.sim.charge(5000), 100)
    while await scene.pump.deliver_due(scene.send):
        pass
    assert await scene.other.turn() == 0, "the first has its turn"
    await scene.follower.leave()
    assert await scene.other.turn() > 0


async def test_a_read_that_was_overtaken_is_made_again(scene: Scene) -> None:
    await scene.listen()
    request = await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 1200)
    await scene.move(400)
    read = scene.gateway.refund

    async def slow(refund: str, lane: Lane) -> SeenRefund:
        old = await read(refund, lane)
        # Somebody else reads and keeps what has come since, before this one does.
        scene.gateway.refund = read  # type: ignore[method-assign]
        await scene.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "declined"})
        await scene.move(0.01)
        assert await scene.other.turn() == 0, "another process has its turn"
        await scene.catch_up._take(await read(refund, lane), scene.clock.now())
        return old

    scene.gateway.refund = slow  # type: ignore[method-assign]
    await scene.follow()
    assert scene.state(request) is State.FAILED
    await scene.move(2)
    await scene.follow()
    assert scene.state(request) is State.FAILED
    assert scene.events() == {EventState.APPLIED: scene.received}
    with scene.database.reading() as unit:
        assert refunds.open_breaks(unit) == []


async def test_an_event_that_says_nothing_is_parked_again_when_it_is_replayed(scene: Scene) -> None:
    await scene.paid(await scene.sim.charge(5000), 1200)
    told = {
        "evt_thin": (body_of("evt_thin") | {"object": "v2.core.event", "created": "2026-10-01T00:00:00Z"}, "it is a thin event"),
        "evt_empty": (body_of("evt_empty", data={}), "it does not say what it is about"),
        "evt_nameless": (body_of("evt_nameless", data={"object": {}}), "what it is about has no id"),
    }  # fmt: skip

    def stands(event: str) -> Event:
        with scene.database.reading() as unit:
            return inbox.find(unit, event)

    with scene.database.unit() as unit:
        accounts.stamp(unit, Account("acct_1", "test"), beside=[ACCOUNT])
        inbox.store(unit, ACCOUNT, [read_webhook(written(body)) for body, _ in told.values()], Source.POLL)
    before = {event: stands(event) for event in told}
    assert all(before[event].why.startswith(why) for event, (_, why) in told.items())
    with scene.database.unit() as unit:
        for event in told:
            inbox.replay(unit, ADA, before[event])
    assert {stands(event).state for event in told} == {EventState.WAITING}
    await scene.follow()
    after = {event: stands(event) for event in told}
    assert {one.state for one in after.values()} == {EventState.PARKED}
    assert {event: one.why for event, one in after.items()} == {event: one.why for event, one in before.items()}
    # A person's reason for ignoring it is not why it is parked.
    with scene.database.unit() as unit:
        inbox.ignore(unit, ADA, after["evt_empty"], "noise")
        inbox.replay(unit, ADA, inbox.find(unit, "evt_empty"))
    await scene.follow()
    assert (stands("evt_empty").state, stands("evt_empty").why) == (EventState.PARKED, before["evt_empty"].why)


async def test_many_hints_are_read_by_few_lists(scene: Scene) -> None:
    await scene.listen()
    waiting = [await scene.paid(await scene.sim.charge(5000, card="pm_card_pendingRefund"), 100) for _ in range(12)]
    await scene.follow()
    await scene.move(400)
    await scene.follow()
    assert {scene.state(request) for request in waiting} == {State.SETTLED}
    assert scene.follower.done.reads == 1


async def test_an_event_whose_read_fails_waits_longer_and_longer_and_is_parked_in_the_end(scene: Scene) -> None:
    await scene.listen()
    await scene.by_hand(await scene.sim.charge(5000), 700)
    refuse = [{"kind": "forbidden", "operation": "GET /v1/*"}]
    await scene.control("POST /_sim/faults", {"rules": refuse})
    await scene.follow()
    assert EventState.WAITING in scene.events()
    for _ in range(20):
        await scene.move(3700)
        await scene.follow()
    assert set(scene.events()) == {EventState.APPLIED, EventState.PARKED}
    await scene.sim.control("DELETE /_sim/faults")


async def test_events_of_a_charge_that_nobody_asked_for_cost_no_read(scene: Scene) -> None:
    await scene.listen()
    for _ in range(4):
        await scene.sim.charge(5000)
    await scene.move(10)
    await scene.follow()
    assert scene.received >= 8
    assert scene.follower.done.reads == 0


async def test_an_early_fraud_warning_is_kept_and_shown(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.control("POST /_sim/warnings", {"charge": charge})
    await scene.follow()
    with scene.database.reading() as unit:
        (warning,) = disputes.warnings(unit, ACCOUNT, 10)
    assert (warning.charge, warning.fraud_type, warning.actionable) == (charge, "made_with_stolen_card", True)
    await scene.by_hand(charge, 5000)
    await scene.follow()
    with scene.database.reading() as unit:
        assert [one.actionable for one in disputes.warnings(unit, ACCOUNT, 10)] == [False]


async def test_an_object_in_a_currency_newer_than_this_program_is_followed_like_any_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stripesim_charges, stripesim_control):
        monkeypatch.setattr(module, "SUPPORTED", [*SUPPORTED, "xcg"])
    await scene.listen()
    charge = await scene.sim.charge(5000, currency="xcg")
    # Its amounts are known in minor units only.
    made = await scene.by_hand(charge, 100)
    await scene.follow()
    assert scene.origin(made) == "external"
    assert set(scene.events()) == {EventState.APPLIED}


async def test_what_cannot_be_applied_keeps_nothing_else_from_being_followed(scene: Scene) -> None:
    await scene.listen()
    broken, sound = await scene.sim.charge(5000), await scene.sim.charge(5000)
    for charge in (broken, sound):
        await scene.paid(charge, 100)
    request = await scene.requested(broken, 1200)
    await scene.follow()
    with scene.database.unit() as unit:
        unit.connection.execute(
            sa.text("UPDATE refund_requests SET metadata = '{' WHERE id = :id").bindparams(id=request.id)
        )
    await scene.by_hand(broken, 1200)
    made = await scene.by_hand(sound, 1200)
    await scene.follow()
    assert scene.origin(made) == "external"
    assert scene.events()[EventState.WAITING] >= 1
    await scene.move(60)
    # Also where no event tells: the list of refunds goes on behind it.
    after = await scene.by_hand(sound, 1300)
    await scene.catch_up.refunds_between(scene.clock.now() - 3600, scene.clock.now())
    assert scene.origin(after) == "external"
