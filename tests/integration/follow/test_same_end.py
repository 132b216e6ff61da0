"""Whatever becomes of the webhooks, the end is the same: all of them, late, twice, reversed, some lost, or none at all."""

from __future__ import annotations

from pathlib import Path
from random import Random  # noqa: TID251  # drawn from the seed that was handed in
from typing import Any

import pytest

from refundry.inbox.model import State as EventState
from refundry.refunds import service as refunds
from tests.support.builders import ACCOUNT
from tests.support.clock import HandClock
from tests.support.database import sqlite_copy
from tests.support.following import Scene
from tests.support.hand import ADA
from tests.support.sim import Sim

pytestmark = pytest.mark.integration
PLANS: dict[str, list[dict[str, Any]]] = {
    "bad": [
        {"kind": "late", "event": "*", "probability": 0.3, "low": 1, "high": 7200},
        {"kind": "twice", "event": "*", "probability": 0.3},
        {"kind": "twin", "event": "refund.*", "probability": 0.3},
        {"kind": "out_of_order", "event": "*", "probability": 0.4, "delay_seconds": 900},
    ],
    "lost": [{"kind": "lost", "event": "*", "probability": 0.3}, {"kind": "twice", "event": "*", "probability": 0.3}],
}


async def story(scene: Scene, seed: int) -> None:
    """Let a shop live for some days: refunds of all kinds, by us and by others, disputes, failures."""
    chance = Random(seed)  # noqa: S311  # no secret
    cards = ["pm_card_visa", "pm_card_pendingRefund", "pm_card_refundFail"]
    charges = [await scene.sim.charge(5000, card=card) for card in cards * 3]
    for charge in charges:
        await scene.looked(charge)
    for charge in charges[:6]:
        await scene.requested(charge, chance.choice([500, 1200, 3000]))
    await scene.pay_due()
    await scene.follow()
    waiting = [await scene.requested(charge, 700, key=f"key:late-{charge}") for charge in charges[3:]]
    with scene.database.unit() as unit:
        refunds.stop(unit, [waiting[0].id], ADA)
    # On plain cards: a refund by hand that failed meanwhile is no repeat any more for whoever hears of it late.
    for charge in (charges[3], charges[6]):
        await scene.by_hand(charge, chance.choice([700, 900]))
    dispute = await scene.disputed(charges[5], inquiry=chance.random() < 0.5)
    await scene.follow()
    await scene.move(400)
    await scene.follow()
    await scene.control(f"POST /_sim/disputes/{dispute}/{chance.choice(['win', 'lose'])}")
    await scene.sim.call(
        "POST /v1/refunds", charge=charges[7], amount=100, metadata={"refundry_request_id": "elsewhere"}
    )
    await scene.days(1)
    for refund in await scene.at_stripe():
        if refund["status"] == "succeeded" and chance.random() < 0.3:
            await scene.control(f"POST /_sim/refunds/{refund['id']}/fail", {"reason": "declined"})
    await scene.days(2)


async def end(scene: Scene) -> dict[str, Any]:
    """Tell where everything stands, and that it stands as at Stripe."""
    at_stripe = {one["id"]: one for one in await scene.at_stripe()}
    of_stripe = {"succeeded": "settled"}
    with scene.database.reading() as unit:
        found = [request for _, request in refunds.page(unit, ACCOUNT, [], after=0, most=100)]
        breaks = refunds.open_breaks(unit)
    for request in found:
        if request.refund is not None:
            status = at_stripe[request.refund]["status"]
            assert request.state.value == of_stripe.get(status, status)
    for refund_id, refund in at_stripe.items():
        assert scene.origin(refund_id), "every refund is a record of its own"
        (mirrored,) = [one for one in scene.charge(refund["charge"]).refunds if one.id == refund_id]
        assert mirrored.status == refund["status"]
    assert EventState.WAITING not in scene.events()
    assert EventState.PARKED not in scene.events()
    return {
        "requests": sorted(
            (r.request_key, r.state.value, r.hold.reason.value if r.hold else "", r.amount_minor) for r in found
        ),
        "origins": sorted(
            (scene.origin(one["id"]), one["charge"], one["amount"], one["status"]) for one in at_stripe.values()
        ),
        "tasks": sorted((one.kind.value, one.charge, one.amount_minor) for one in scene.tasks()),
        "disputes": sorted(
            (d.charge, d.phase.value) for one in at_stripe.values() for d in scene.disputes(one["charge"])
        ),
        "breaks": sorted(one.code for _, one in breaks),
    }


@pytest.mark.parametrize("plan", ["bad", "lost"])
async def test_the_end_is_as_at_stripe_however_badly_webhooks_come(scene: Scene, plan: str) -> None:
    await scene.listen(*PLANS[plan])
    await story(scene, 1)
    told = await end(scene)
    assert {"external", "ours", "unknown_refundry"} == {origin for origin, *_ in told["origins"]}
    assert "refund_failed" in {kind for kind, *_ in told["tasks"]}


@pytest.mark.parametrize("seed", [1, 2])
async def test_without_any_webhook_the_end_is_the_same(tmp_path: Path, sqlite_file: Path, seed: int) -> None:
    """Every other way is held against Stripe; these two against each other, to the last task."""
    ends = []
    for plan in ("all", "none"):
        clock = HandClock()
        with sqlite_copy(sqlite_file, tmp_path, clock) as database:
            scene = Scene(database, clock, Sim())
            if plan == "all":
                await scene.listen()
            await story(scene, seed)
            ends.append(await end(scene))
            assert (scene.received > 0) is (plan == "all")
            await scene.close()
    assert ends[0] == ends[1]
