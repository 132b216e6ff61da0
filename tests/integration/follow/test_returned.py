"""A settled refund that the bank returns, and whose customer answers before anybody looks again: two steps of Stripe's, seen as one."""

from __future__ import annotations

import pytest

from refundry.audit import service as audit
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from tests.integration.outbox.conftest import wanting, written
from tests.support.following import Scene

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("told", ["webhooks", "polling"])
async def test_what_was_returned_and_answered_between_two_looks_takes_both_steps(scene: Scene, told: str) -> None:
    wanting(scene.database)
    if told == "webhooks":
        await scene.listen()
    await scene.poll()
    request = await scene.paid(await scene.sim.charge(5000), 1200)
    await scene.poll()
    assert scene.state(request) is State.SETTLED
    for done in ("require_action", "act"):
        await scene.control(f"POST /_sim/refunds/{request.refund}/{done}")
    # While nothing is on its way, events are asked for every quarter of an hour.
    await scene.move(1000)
    await scene.poll()
    assert scene.state(request) is State.PENDING
    with scene.database.reading() as unit:
        assert refunds.open_breaks(unit) == []
        timeline = [entry.facts for entry in audit.timeline(unit, request.id)]
        assert audit.first_fault(unit) is None
    steps = [(facts["from"], facts["to"], "why" in facts) for facts in timeline if "to" in facts]
    assert steps[-2:] == [("settled", "requires_action", True), ("requires_action", "pending", False)]
    messages = [one.message for one in written(scene.database) if one.message.payload.get("request_id") == request.id]
    assert [one.payload["state"] for one in messages][-2:] == ["requires_action", "pending"]
    assert scene.tasks(resolved=True) == [], "its customer has answered already"
    await scene.control(f"POST /_sim/refunds/{request.refund}/settle")
    await scene.move(1000)
    await scene.poll()
    assert scene.state(request) is State.SETTLED
