"""What waits is counted: tasks, disputes and their evidence, events, and how far each feed was read."""

from __future__ import annotations

import pytest

from refundry.disputes import repository as disputes
from refundry.follow import service as follow
from refundry.follow.model import Backlog, Feed
from refundry.inbox import service as inbox
from refundry.inbox.model import TRIES_MAX, Source
from refundry.tasks.model import Kind
from tests.support.builders import ACCOUNT, dispute
from tests.support.events import seen
from tests.support.following import Scene

pytestmark = pytest.mark.integration
DAY = 86_400.0


def backlog(scene: Scene) -> Backlog:
    with scene.database.reading() as unit:
        return follow.backlog(unit, ACCOUNT)


async def test_where_nothing_waits_nothing_is_told(scene: Scene) -> None:
    now = scene.clock.now()
    assert backlog(scene) == Backlog(now, {}, 0, None, 0, (), 0, 0, None, None, {})


async def test_tasks_and_feeds_are_told_with_their_ages(scene: Scene) -> None:
    await scene.listen()
    await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 1200)
    await scene.poll()
    await scene.move(400)
    await scene.follow()
    opened, (task,) = scene.clock.now(), scene.tasks()
    await scene.move(3 * DAY)
    told = backlog(scene)
    assert (told.tasks, told.tasks_overdue, told.task_since) == ({Kind.REFUND_FAILED: 1}, 1, task.opened_at)
    assert set(told.marks) == {Feed.EVENTS, Feed.REFUNDS}
    assert all(told.at - mark > 3 * DAY for mark in told.marks.values())
    assert told.event_at is not None
    assert opened - 400 <= told.event_at <= opened


async def test_events_that_wait_and_that_are_parked_are_counted_apart(scene: Scene) -> None:
    with scene.database.unit() as unit:
        inbox.store(unit, ACCOUNT, [seen(f"evt_{at}") for at in range(5)], Source.POLL)
        inbox.store(unit, "acct_2|test", [seen("evt_9")], Source.POLL)
        inbox.applied(unit, [(ACCOUNT, "evt_4")])
    first = scene.clock.now()
    await scene.move(60)
    with scene.database.unit() as unit:
        for _ in range(TRIES_MAX):
            inbox.put_off(unit, [(ACCOUNT, "evt_0")], unit.now, "no")
    told = backlog(scene)
    assert (told.events_waiting, told.events_parked, told.event_since, told.event_at) == (3, 1, first, first)


@pytest.mark.parametrize(
    ("status", "phase", "days", "due"),
    [
        ("needs_response", "chargeback", 2.9, ["du_1"]),
        ("warning_needs_response", "inquiry", 0.1, ["du_1"]),
        ("needs_response", "chargeback", 3.1, []),
        ("under_review", "chargeback", 1.0, []),
        ("lost", "lost", 1.0, []),
        ("needs_response", "chargeback", -0.1, []),
    ],
)
async def test_only_what_can_still_be_answered_is_due(
    scene: Scene, status: str, phase: str, days: float, due: list[str]
) -> None:
    now = scene.clock.now()
    with scene.database.unit() as unit:
        disputes.save(
            unit, [dispute(status=status, phase=phase, due_at=now + days * DAY), dispute("du_2", due_at=None)]
        )
        disputes.save(unit, [dispute("du_3", account="acct_2|test", due_at=now + DAY)])
    told = backlog(scene)
    assert [one.id for one in told.disputes_due] == due
    assert told.disputes == 1 + (phase in {"chargeback", "inquiry"})
