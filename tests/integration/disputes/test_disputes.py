"""What a dispute does to refunds that are waiting, on their way, or paid."""

from __future__ import annotations

import pytest

from refundry.disputes.model import Phase
from refundry.gateways.base import RefundBody
from refundry.kernel.outcome import Outcome
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration


async def test_a_dispute_holds_every_unpaid_request_of_its_charge(scene: Scene) -> None:
    await scene.listen()
    charge, other = await scene.sim.charge(5000), await scene.sim.charge(5000)
    paid = await scene.paid(charge, 100)
    waiting = [await scene.requested(charge, amount) for amount in (200, 300)]
    apart = await scene.requested(other, 200)
    dispute = await scene.disputed(charge)
    await scene.follow()
    assert [scene.held(request) for request in waiting] == ["dispute", "dispute"]
    assert (scene.state(paid), scene.held(apart)) == (State.SETTLED, "")
    (kept,) = scene.disputes(charge)
    assert (kept.id, kept.phase, kept.amount_minor, kept.currency) == (dispute, Phase.CHARGEBACK, 5000, "usd")
    assert dispute in scene.now(waiting[0]).reason_text
    await scene.pay_due()
    assert [scene.held(request) for request in waiting] == ["dispute", "dispute"]
    assert scene.state(apart) is State.SETTLED


async def test_the_decision_before_the_next_send_sees_a_dispute_that_no_event_told(scene: Scene) -> None:
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    await scene.disputed(charge)
    await scene.pay_due()
    assert scene.held(request) == "dispute"
    assert await scene.at_stripe() == []


async def test_what_is_asked_for_after_the_dispute_is_refused(scene: Scene) -> None:
    charge = await scene.sim.charge(5000)
    await scene.disputed(charge)
    await scene.move(5)
    request = await scene.paid(charge, 200)
    assert (request.state, request.reason_code) == (State.REJECTED, "charge_disputed")


@pytest.mark.parametrize("polls", [False, True])
async def test_a_dispute_that_is_won_lets_requests_be_decided_anew(scene: Scene, polls: bool) -> None:  # noqa: FBT001
    if not polls:
        await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    dispute = await scene.disputed(charge)
    await scene.poll()
    assert scene.held(request) == "dispute"
    await scene.control(f"POST /_sim/disputes/{dispute}/win")
    await scene.move(61)
    await scene.poll()
    assert scene.held(request) == ""
    await scene.pay_due()
    assert scene.state(request) is State.SETTLED


async def test_a_dispute_that_is_lost_rejects_them_with_the_reason(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    dispute = await scene.disputed(charge)
    await scene.follow()
    await scene.control(f"POST /_sim/disputes/{dispute}/lose")
    await scene.follow()
    after = scene.now(request)
    assert (after.state, after.reason_code, after.reserved_minor) == (State.REJECTED, "dispute_lost", 0)
    assert dispute in after.reason_text


@pytest.mark.parametrize(("ends", "phase"), [("win", Phase.WON), ("lose", Phase.LOST)])
async def test_its_end_is_heard_beside_its_beginning_that_a_decision_had_seen(
    scene: Scene, ends: str, phase: Phase
) -> None:
    """After a time away all events of a dispute come at once, and those of its beginning tell what stands here already."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    dispute = await scene.disputed(charge)
    await scene.pay_due()
    assert scene.held(request) == "dispute"
    await scene.control(f"POST /_sim/disputes/{dispute}/{ends}")
    await scene.follow()
    assert [one.phase for one in scene.disputes(charge)] == [phase]
    assert scene.held(request) == ""


async def test_during_an_inquiry_only_a_full_refund_that_was_asked_for_goes_on(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    part = await scene.requested(charge, 200, allow_inquiry=True)
    unasked = await scene.requested(charge, None)
    asked = await scene.requested(charge, None, allow_inquiry=True)
    dispute = await scene.disputed(charge, inquiry=True)
    await scene.follow()
    assert [scene.held(one) for one in (part, unasked, asked)] == ["dispute", "dispute", ""]
    await scene.pay_due()
    await scene.follow()
    assert scene.state(asked) is State.SETTLED
    # The full refund has settled it, and nothing is left for the others.
    assert [one.phase for one in scene.disputes(charge)] == [Phase.CLOSED]
    await scene.pay_due()
    assert {scene.now(one).reason_code for one in (part, unasked)} == {"charge_already_refunded"}
    assert dispute


async def test_an_inquiry_that_is_closed_lets_the_rest_go_on(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    dispute = await scene.disputed(charge, inquiry=True)
    await scene.follow()
    assert scene.held(request) == "dispute"
    await scene.control(f"POST /_sim/disputes/{dispute}/close_inquiry")
    await scene.follow()
    await scene.pay_due()
    assert scene.state(request) is State.SETTLED


@pytest.mark.parametrize("listens", [True, False])
async def test_in_the_double_loss_nothing_avoidable_is_lost_and_what_was_is_shown(scene: Scene, listens: bool) -> None:  # noqa: FBT001
    """As measured at Stripe: 20.00 refunded in an inquiry that escalates later; the chargeback takes the full 100.00."""
    if listens:
        await scene.listen()
    charge = await scene.sim.charge(10_000)
    await scene.requested(charge, 100)
    await scene.pay_due()
    waiting = [await scene.requested(charge, amount) for amount in (3000, None)]
    dispute = await scene.disputed(charge, inquiry=True)
    await scene.poll()
    await scene.by_hand(charge, 2000)
    await scene.pay_due()
    await scene.move(300)
    await scene.control(f"POST /_sim/disputes/{dispute}/escalate")
    await scene.poll()
    await scene.days(2)
    assert sum(refund["amount"] for refund in await scene.at_stripe() if refund["status"] == "succeeded") == 2100
    assert [scene.held(request) for request in waiting] == ["dispute", "dispute"]
    (task,) = scene.tasks()
    assert (task.kind, task.amount_minor, task.charge) == ("double_loss", 2100, charge)
    assert all(word in task.text for word in ("21.00", "100.00", dispute))
    await scene.control(f"POST /_sim/disputes/{dispute}/win")
    await scene.days(1)
    assert scene.tasks() == []
    assert [task.how for task in scene.tasks(resolved=True)] == ["over"]


async def test_a_request_that_is_being_sent_when_the_dispute_comes_is_followed_and_reported(scene: Scene) -> None:
    """It succeeds at Stripe, the chargeback comes before anybody has heard of it: both are out, and a person is told."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    send = scene.gateway.send

    async def sent(body: RefundBody, key: str) -> Outcome:
        outcome = await send(body, key)
        await scene.disputed(charge)
        await scene.follow()
        return outcome

    scene.gateway.send = sent  # type: ignore[method-assign]
    await scene.pay_due()
    await scene.follow()
    assert scene.state(request) is State.SETTLED
    (task,) = scene.tasks()
    assert (task.kind, task.amount_minor) == ("double_loss", 200)


async def test_a_pending_refund_that_a_chargeback_overtakes_is_no_loss(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000, card="pm_card_pendingRefund")
    request = await scene.paid(charge, 200)
    await scene.disputed(charge)
    await scene.follow()
    after = scene.now(request)
    assert (after.state, after.reason_code) == (State.FAILED, "charge_for_pending_refund_disputed")
    assert scene.kinds() == ["refund_failed"]


async def test_a_paused_request_is_held_for_the_dispute_when_it_is_resumed(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    request = await scene.requested(charge, 200)
    with scene.database.unit() as unit:
        refunds.stop(unit, [request.id], ADA)
    await scene.disputed(charge)
    await scene.follow()
    assert scene.held(request) == "stopped"
    with scene.database.unit() as unit:
        refunds.go_on(unit, [request.id], ADA)
    await scene.pay_due()
    assert scene.held(request) == "dispute"


async def test_a_dispute_that_stripe_does_not_show_yet_when_its_event_comes_is_looked_for_again(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.looked(charge)
    late = {"kind": "stale_read", "operation": "GET /v1/disputes", "bound_seconds": 45}
    await scene.control("POST /_sim/faults", {"rules": [late]})
    await scene.disputed(charge)
    await scene.follow()
    assert scene.disputes(charge) == []
    await scene.control("POST /_sim/faults", {"rules": []})
    await scene.move(60)
    await scene.follow()
    assert [one.phase for one in scene.disputes(charge)] == ["chargeback"]
