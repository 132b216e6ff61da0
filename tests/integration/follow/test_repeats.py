"""A request that is held as a repeat of a refund which fails: it says so, nothing is paid without a person, and then once."""

from __future__ import annotations

import pytest

from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import RefundRequest, State
from refundry.tasks import service as tasks
from tests.integration.outbox.conftest import wanting, written
from tests.support.following import Scene
from tests.support.hand import ADA

pytestmark = pytest.mark.integration


async def held(scene: Scene) -> tuple[str, RefundRequest, str]:
    """Have a request held since somebody refunds the same by hand; tells the charge, the request and that refund."""
    await scene.listen()
    charge = await scene.sim.charge(5000)
    await scene.paid(charge, 100)
    request = await scene.requested(charge, 1200)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "stays"})
    made = await scene.by_hand(charge, 1200)
    await scene.follow()
    assert told(scene, request) == ("possible_repeat", "possible_repeat")
    assert made in scene.now(request).reason_text
    return charge, request, made


def told(scene: Scene, request: RefundRequest) -> tuple[str, str]:
    """Tell why a request is held, and by which code."""
    return scene.held(request), scene.now(request).reason_code


async def fails(scene: Scene, refund: str, how: str = "fail") -> None:
    if how == "cancel":
        await scene.control(f"POST /_sim/refunds/{refund}/require_action")
        await scene.follow()
        await scene.sim.call(f"POST /v1/refunds/{refund}/cancel")
    else:
        await scene.control(f"POST /_sim/refunds/{refund}/fail")
    await scene.follow()


def allow(scene: Scene, request: RefundRequest) -> None:
    with scene.database.unit() as unit:
        refunds.allow_repeat(unit, request.id, ADA)


@pytest.mark.parametrize("how", ["fail", "cancel"])
async def test_a_request_says_that_what_it_seemed_to_repeat_has_failed_and_waits_for_a_person(
    scene: Scene, how: str
) -> None:
    wanting(scene.database)
    charge, request, made = await held(scene)
    await fails(scene, made, how)
    assert told(scene, request) == ("possible_repeat", "repeat_failed")
    text = scene.now(request).reason_text
    assert made in text
    assert ("was canceled" if how == "cancel" else "has failed") in text
    messages = [one.message for one in written(scene.database) if one.message.payload.get("request_id") == request.id]
    assert [one.payload["code"] for one in messages if one.kind == "refund_request.held"] == [
        "possible_repeat",
        "repeat_failed",
    ]
    await scene.days(1)
    assert scene.state(request) is State.RECEIVED
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "succeeds"})
    allow(scene, request)
    await scene.pay_due()
    assert scene.state(request) is State.SETTLED
    assert sum(one["status"] == "succeeded" and one["amount"] == 1200 for one in await scene.at_stripe()) == 1


async def test_what_is_let_go_is_held_again_by_a_repeat_that_nobody_has_told_of_yet(scene: Scene) -> None:
    charge, request, made = await held(scene)
    await fails(scene, made)
    await scene.looked(charge)
    # Whoever saw it fail has paid it once more by hand, just now: a look from before does not count.
    again = await scene.by_hand(charge, 1200)
    allow(scene, request)
    await scene.pay_due()
    assert told(scene, request) == ("possible_repeat", "possible_repeat")
    assert again in scene.now(request).reason_text
    allow(scene, request)
    await scene.pay_due()
    assert scene.now(request).refund is not None, "that it is no repeat of this one either, a person has said by now"


async def test_a_further_repeat_after_the_failure_is_named_in_its_place(scene: Scene) -> None:
    charge, request, made = await held(scene)
    await fails(scene, made)
    again = await scene.by_hand(charge, 1200)
    await scene.follow()
    assert told(scene, request) == ("possible_repeat", "possible_repeat")
    assert again in scene.now(request).reason_text


async def test_while_another_repeat_stands_the_request_names_that(scene: Scene) -> None:
    charge, request, made = await held(scene)
    other = await scene.by_hand(charge, 1200)
    await scene.follow()
    await fails(scene, made)
    assert told(scene, request) == ("possible_repeat", "possible_repeat")
    assert other in scene.now(request).reason_text
    await fails(scene, other)
    assert told(scene, request) == ("possible_repeat", "repeat_failed")


async def test_another_refund_that_fails_says_nothing_of_a_request_that_was_not_held_for_it(scene: Scene) -> None:
    charge, request, _ = await held(scene)
    other = await scene.by_hand(charge, 333)
    await scene.follow()
    before = scene.now(request)
    await fails(scene, other)
    assert scene.now(request) == before


async def test_of_two_requests_for_one_ticket_the_second_says_when_the_first_has_failed(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000, card="pm_card_refundFail")
    first = await scene.paid(charge, 1200, ticket_id="T-1", key="ticket:T-1:order")
    second = await scene.paid(charge, 1200, ticket_id="T-1", key=f"ticket:T-1:{charge}")
    assert told(scene, second) == ("possible_repeat", "possible_repeat")
    await scene.move(400)
    await scene.follow()
    assert scene.state(first) is State.FAILED
    assert told(scene, second) == ("possible_repeat", "repeat_failed")
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "succeeds"})
    allow(scene, second)
    await scene.pay_due()
    assert scene.state(second) is State.SETTLED
    assert sum(one["status"] == "succeeded" for one in await scene.at_stripe()) == 1


async def test_what_replaces_a_failed_refund_of_a_ticket_is_no_repeat_of_it(scene: Scene) -> None:
    await scene.listen()
    charge = await scene.sim.charge(5000, card="pm_card_refundFail")
    request = await scene.paid(charge, 1200, ticket_id="T-1", key="ticket:T-1:order")
    for _ in range(2):
        await scene.move(400)
        await scene.follow()
        (task,) = scene.tasks()
        seen = await scene.gateway.refund(task.refund or "", Lane.DESK)
        await scene.move(0.01)
        with scene.database.unit() as unit:
            request = tasks.replace_failed(unit, task.id, seen, scene.clock.now(), ADA)
        await scene.pay_due()
        assert scene.now(request).refund is not None, scene.now(request).reason_text


async def test_a_dispute_that_comes_and_goes_does_not_pay_what_waits_for_a_person(scene: Scene) -> None:
    charge, request, made = await held(scene)
    await fails(scene, made)
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "succeeds"})
    dispute = await scene.disputed(charge, inquiry=True)
    await scene.follow()
    await scene.control(f"POST /_sim/disputes/{dispute}/close_inquiry")
    await scene.follow()
    await scene.pay_due()
    assert (scene.state(request), *told(scene, request)) == (State.RECEIVED, "possible_repeat", "repeat_failed")


async def test_what_fails_while_there_is_a_dispute_is_told_and_still_waits_for_a_person(scene: Scene) -> None:
    charge, request, made = await held(scene)
    dispute = await scene.disputed(charge, inquiry=True)
    await scene.follow()
    await fails(scene, made)
    assert told(scene, request) == ("possible_repeat", "repeat_failed")
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "succeeds"})
    # A person lets it go: then it is the dispute that it waits for.
    allow(scene, request)
    await scene.pay_due()
    assert told(scene, request) == ("dispute", "charge_under_inquiry")
    await scene.control(f"POST /_sim/disputes/{dispute}/close_inquiry")
    await scene.follow()
    await scene.pay_due()
    assert scene.state(request) is State.SETTLED


async def test_a_failure_that_a_sibling_has_seen_first_is_told_all_the_same(scene: Scene) -> None:
    charge, request, made = await held(scene)
    await scene.control(f"POST /_sim/refunds/{made}/fail")
    await scene.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "succeeds"})
    # Long enough for the next payment to look at the charge itself: that look mirrors the failure.
    await scene.move(4000)
    other = await scene.requested(charge, 300)
    await scene.pay_due()
    assert scene.state(other) is State.SETTLED
    await scene.follow()
    assert told(scene, request) == ("possible_repeat", "repeat_failed")
