"""What is over for long is forgotten, a few at a time; what waits or is parked never; and an event that comes again does no harm."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from refundry.audit import service as audit
from refundry.bootstrap import read_webhook
from refundry.inbox import service as inbox
from refundry.inbox.model import TRIES_MAX, Search, Source
from refundry.infra.db import Needs
from refundry.infra.settings import KeepSettings
from refundry.infra.writer import NOTHING, InlineWriter
from refundry.kernel.actor import SYSTEM
from refundry.outbox import service as outbox
from refundry.refunds.model import State
from refundry.tasks import service as tasks
from refundry.tasks.model import How
from refundry.worker import pruner
from refundry.worker.following import Following
from refundry.worker.pruner import Pruned, Pruner
from tests.integration.outbox.conftest import wanting
from tests.support.builders import ACCOUNT
from tests.support.events import seen
from tests.support.following import Scene
from tests.support.hand import ADA
from tests.support.messages import message, write

pytestmark = pytest.mark.integration
DAY = 86_400.0


async def prune(scene: Scene, **keep: int) -> Pruned:
    return await Pruner(scene.writer, KeepSettings(**keep)).turn(asyncio.Event())


def events(scene: Scene) -> list[str]:
    with scene.database.reading() as unit:
        return sorted(event.id for event in inbox.page(unit, Search(), 1000))


def messages(scene: Scene) -> dict[str, str]:
    with scene.database.reading() as unit:
        return {one.message.order_id or "": one.state.value for one in outbox.page(unit, None, [], most=1000)}


def entries(scene: Scene) -> list[dict[str, Any]]:
    with scene.database.reading() as unit:
        return [entry.facts for entry in audit.of_event(unit, "records.pruned")]


async def test_events_that_are_over_go_and_those_that_are_not_stay_however_old(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "SLICE", 2)
    over = [f"evt_{at}" for at in range(5)]
    with scene.database.unit() as unit:
        inbox.store(
            unit, ACCOUNT, [seen(event) for event in (*over, "evt_ignored", "evt_parked", "evt_waits")], Source.POLL
        )
        inbox.applied(unit, [(ACCOUNT, event) for event in over])
        inbox.ignore(unit, SYSTEM, inbox.find(unit, "evt_ignored"), "noise")
        for _ in range(TRIES_MAX):
            inbox.put_off(unit, [(ACCOUNT, "evt_parked")], unit.now, "no")
    await scene.move(90 * DAY - 60)
    with scene.database.unit() as unit:
        inbox.store(unit, ACCOUNT, [seen("evt_young")], Source.POLL)
        inbox.applied(unit, [(ACCOUNT, "evt_young")])
    assert await prune(scene) == Pruned()
    await scene.move(120)
    assert await prune(scene, events_days=0) == Pruned()
    assert await prune(scene) == Pruned(events=6)
    assert events(scene) == ["evt_parked", "evt_waits", "evt_young"]
    assert entries(scene) == [{"events": 6, "events_days": 90, "messages": 0, "messages_days": 90}]
    assert await prune(scene) == Pruned()
    assert len(entries(scene)) == 1


async def test_what_was_dropped_is_kept_as_long_as_what_was_taken(scene: Scene) -> None:
    write(scene.database, [message("o1", at=scene.clock.now())])
    await scene.move(200 * DAY)
    with scene.database.unit() as unit:
        outbox.drop(unit, message("o1").id, ADA, "told by hand")
    await scene.move(89 * DAY)
    assert await prune(scene) == Pruned()
    await scene.move(2 * DAY)
    assert await prune(scene) == Pruned(messages=1)


async def test_a_run_that_is_told_to_stop_ends_with_its_slice_and_says_what_it_has_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "SLICE", 1)
    with scene.database.unit() as unit:
        inbox.store(unit, ACCOUNT, [seen("evt_1"), seen("evt_2")], Source.POLL)
        inbox.applied(unit, [(ACCOUNT, "evt_1"), (ACCOUNT, "evt_2")])
    await scene.move(91 * DAY)
    until = asyncio.Event()

    class Stops(InlineWriter):
        async def put(self, work: Any, *, needs: Needs = NOTHING, long: bool = False, alone: bool = False) -> Any:  # noqa: ARG002  # each is
            until.set()
            return await super().put(work, needs=needs, long=long)

    # Between two slices it waits for a second, unless it is told to stop.
    await Pruner(Stops(scene.database), KeepSettings()).run(until)
    assert events(scene) == ["evt_2"]
    assert [entry["events"] for entry in entries(scene)] == [1]


async def test_messages_go_once_they_are_over_at_every_target(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "SLICE", 2)
    at = scene.clock.now()
    names = ("parked", "told", "half", "dropped", "waits", "late")
    write(scene.database, [message(name, at=at) for name in names], "http", "file")
    with scene.database.unit() as unit:
        by_order = {(one.message.order_id, one.target): one for one in outbox.page(unit, None, [], most=100)}
        for name in ("told", "half"):
            outbox.delivered(unit, "http", by_order[name, "http"].number, "HTTP 200")
        for name in ("told", "parked", "waits", "late"):
            outbox.delivered(unit, "file", by_order[name, "file"].number, "")
        outbox.drop(unit, message("dropped").id, ADA, "gone")
        (first,) = outbox.claim(unit, "http", "lease", seconds=60, most=1)
        assert first.message.order_id == "parked"
        assert outbox.failed(unit, first, "lease", "HTTP 500", tries_max=1)
    await scene.move(60 * DAY)
    with scene.database.unit() as unit:
        outbox.delivered(unit, "http", by_order["late", "http"].number, "HTTP 200")
    await scene.move(31 * DAY)
    write(scene.database, [message("young", at=scene.clock.now())])
    assert await prune(scene, messages_days=0) == Pruned()
    assert await prune(scene) == Pruned(messages=2)
    assert set(messages(scene)) == {"parked", "half", "waits", "late", "young"}
    with scene.database.reading() as unit:
        left = {one.number for one in outbox.page(unit, None, [], most=100)}
        told = unit.connection.execute(sa.text("SELECT number FROM outbox_deliveries")).scalars()
        assert set(told) == left, "no delivery is left without its message"
        assert len(outbox.need(unit, message("half").id)[1]) == 2
    await scene.move(60 * DAY)
    assert await prune(scene) == Pruned(messages=1)
    assert set(messages(scene)) == {"parked", "half", "waits", "young"}


async def test_an_event_that_was_forgotten_and_comes_again_does_no_harm(scene: Scene) -> None:
    """Stripe cannot tell one again that is so old; whoever does it all the same has it read again, and nothing changes."""
    wanting(scene.database)
    await scene.listen()
    paid = await scene.paid(await scene.sim.charge(5000), 1200, ticket_id="T-1")
    failing = await scene.paid(await scene.sim.charge(5000, card="pm_card_refundFail"), 700)
    others, disputed = await scene.sim.charge(5000), await scene.sim.charge(5000)
    await scene.paid(others, 100)
    await scene.by_hand(others, 900)
    await scene.disputed(disputed)
    await scene.poll()
    await scene.days(2)
    (task,) = scene.tasks()
    with scene.database.unit() as unit:
        tasks.resolve(unit, task.id, How.GIVE_UP, ADA)
        known = [inbox.find(unit, event.id) for event in inbox.page(unit, Search(), 1000)]
    await scene.move(100 * DAY)
    await scene.follow()
    before = standing(scene)
    assert (await prune(scene)).events == len(known) > 10
    assert events(scene) == []

    with scene.database.unit() as unit:
        for event in known:
            assert event.raw is not None
            assert inbox.store(unit, ACCOUNT, [read_webhook(event.raw)], Source.WEBHOOK) == 1
    await scene.follow()
    await scene.pay_due()
    assert set(scene.events()) == {"applied"}
    assert standing(scene) == before
    assert (scene.state(paid), scene.state(failing)) == (State.SETTLED, State.FAILED)
    assert scene.tasks() == []
    # Nor does catching up over all the time that Stripe can tell of.
    now = scene.clock.now()
    await scene.catch_up.events_between(now - 200 * DAY, now)
    await scene.catch_up.refunds_between(now - 200 * DAY, now)
    await scene.follow()
    await scene.pay_due()
    assert standing(scene) == before


def standing(scene: Scene) -> dict[str, Any]:
    """Tell all that money, people and order systems go by."""
    wanted = {
        "refund_requests": "id, state, amount_minor, reserved_minor, held_reason, refund, version",
        "stripe_refunds": "id, status, amount_minor, origin",
        "charges": "id, refunded_minor, captured_minor, disputed",
        "disputes": "id, status, phase",
        "tasks": "id, how, resolved_at",
        "outbox_messages": "id",
    }
    with scene.database.reading() as unit:
        found: dict[str, Any] = {
            table: sorted(map(repr, unit.connection.execute(sa.text(f"SELECT {columns} FROM {table}")).all()))  # noqa: S608  # ours
            for table, columns in wanted.items()
        }
        found["paid"] = [entry.subject for entry in audit.of_event(unit, "refund_request.submitting")]
    return found


async def test_a_process_prunes_once_however_many_events_wake_its_followers(scene: Scene) -> None:
    """A task for each webhook would never end: a storm of events filled the memory of a server that way."""
    desk = SimpleNamespace(seats=(), writer=scene.writer, settings=SimpleNamespace(keep=KeepSettings()))
    following = Following(desk, "here")  # type: ignore[arg-type]  # all that it asks of a desk without seats
    following.start()
    for _ in range(100):
        following.woken(ACCOUNT)
    pruning = [task for task in asyncio.all_tasks() if task.get_name() == "prune"]
    await following.stop()
    assert len(pruning) == 1
    assert pruning[0].done()
