"""A request in doubt whose money a person gives back by hand meanwhile: the same key is not sent again, whose first send may have reached nobody."""

from __future__ import annotations

import pytest

from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration


async def in_doubt(scene: Scene) -> tuple[str, RefundRequest]:
    """Have a send of 12.00 lost before it reaches Stripe."""
    charge = await scene.sim.charge(5000)
    lost = {"kind": "drop_before", "operation": "POST /v1/refunds", "times": 1}
    await scene.control("POST /_sim/faults", {"rules": [lost]})
    request = await scene.paid(charge, 1200)
    assert request.state is State.SUBMITTING
    return charge, request


async def later(scene: Scene, *hours: float) -> None:
    """Pay what is due after each of some waits."""
    for some in hours:
        await scene.move(some * 3600)
        await scene.pay_due()


async def test_what_a_person_has_paid_by_hand_is_not_paid_again(scene: Scene) -> None:
    charge, request = await in_doubt(scene)
    await scene.by_hand(charge, 1200)
    await later(scene, 0.1, 1, 2, 12, 9, *[1] * 5)
    after = scene.now(request)
    assert (after.state, after.reason_code) == (State.DECLINED, "possible_repeat")
    assert scene.charge(charge).given_back_minor == 1200


async def test_a_person_has_it_paid_all_the_same(scene: Scene) -> None:
    charge, request = await in_doubt(scene)
    await scene.by_hand(charge, 1200)
    await later(scene, 0.1, 1, 2, 12, 9, *[1] * 5)
    with scene.database.unit() as unit:
        refunds.reopen(unit, request.id, ADA, allow_repeat=True)
    await scene.pay_due()
    assert (scene.state(request), scene.charge(charge).given_back_minor) == (State.SETTLED, 2400)


async def test_a_refund_by_hand_that_came_after_another_was_allowed_keeps_it_from_being_sent_again(
    scene: Scene,
) -> None:
    charge = await scene.sim.charge(5000)
    await scene.looked(charge)
    before = await scene.by_hand(charge, 1200)
    lost = {"kind": "drop_before", "operation": "POST /v1/refunds", "times": 1}
    await scene.control("POST /_sim/faults", {"rules": [lost]})
    request = await scene.paid(charge, 1200, allowed=frozenset({before}))
    assert request.state is State.SUBMITTING
    after = await scene.by_hand(charge, 1200)
    await later(scene, 0.1, 1, 2, 12, 9, *[1] * 5)
    kept = scene.now(request)
    assert (kept.state, kept.reason_code, scene.charge(charge).given_back_minor) == (
        State.DECLINED,
        "possible_repeat",
        2400,
    )
    assert (before in kept.reason_text, after in kept.reason_text) == (False, True), kept.reason_text


@pytest.mark.parametrize("made", ["other", "failed"])
async def test_it_is_sent_again_where_nobody_has_paid_the_same(scene: Scene, made: str) -> None:
    charge, request = await in_doubt(scene)
    refund = await scene.by_hand(charge, 700 if made == "other" else 1200)
    if made == "failed":
        await later(scene, 0.1)
        assert scene.state(request) is State.SUBMITTING
        await scene.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "declined"})
    await later(scene, 0.1, 1.1)
    assert scene.state(request) is State.SETTLED
    assert scene.now(request).attempt == 1
