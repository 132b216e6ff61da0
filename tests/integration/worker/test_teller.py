"""The teller against a receiver behind a real socket that misbehaves: every message is applied once, and in order per order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from refundry.connectors.base import Delivered, DeliveryOutcome, Outgoing
from refundry.connectors.orders_http.client import HttpTarget
from refundry.connectors.orders_http.client import Receiver as Address
from refundry.connectors.orders_http.signing import keys_of
from refundry.infra.db import DatabaseUnusable
from refundry.infra.writer import GroupWriter, InlineWriter, Writer
from refundry.kernel.actor import SYSTEM
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.ids import RandomIds
from refundry.outbox import service as outbox
from refundry.outbox.model import Delivery
from refundry.outbox.rules import outgoing
from refundry.worker.teller import DOWN_AFTER, LEASE_MARGIN, REST_MAX, TOLD_MAX, Teller
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.messages import deliveries, message, story, write
from tests.support.order_receiver import SECRET, Mood, Receiver

pytestmark = pytest.mark.integration
# How long a slow receiver is waited for: only where it is meant to be too slow.
PATIENCE, SHORT = 20.0, 0.3
TRIES_MAX = 30
# Longer than any wait between two tries.
LONG = 4000.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver(timeout_seconds=SHORT * 2)
    async with made.listening():
        yield made


Make = Callable[..., Teller]


@pytest.fixture
async def make(database: HandDatabase, clock: HandClock, receiver: Receiver) -> AsyncIterator[Make]:
    """Make tellers that deliver to the receiver."""
    targets: list[HttpTarget] = []

    def made(
        *, secrets: str = SECRET, url: str = "", writer: Writer | None = None, patience: float = PATIENCE, **more: Any
    ) -> Teller:
        address = Address(url or receiver.url, keys_of(secrets, "S"))
        targets.append(HttpTarget(address, clock=clock, timeout_seconds=patience))
        values: dict[str, Any] = {"at_once": 8, "tries_max": TRIES_MAX} | more
        return Teller(
            targets[-1:],
            database=database,
            writer=writer or InlineWriter(database),
            clock=clock,
            ids=RandomIds(),
            **values,
        )

    yield made
    for target in targets:
        await target.close()


async def delivered(teller: Teller) -> int:
    """Deliver what is due now."""
    return await teller.drain(teller.lines[0])


async def quiesce(teller: Teller, clock: HandClock, most: int = 60) -> None:
    """Deliver until nothing waits any more."""
    for _ in range(most):
        await delivered(teller)
        with teller._database.reading() as unit:
            if not any(state == "waiting" for _, state in outbox.counts(unit)):
                return
        clock.move(LONG)
    raise AssertionError("something still waits")


def stands(database: HandDatabase) -> list[tuple[str, int]]:
    return [(one.state.value, one.tries) for one in deliveries(database)]


def versions(receiver: Receiver) -> dict[str, list[int]]:
    return {order: [one["data"]["order_version"] for one in told] for order, told in receiver.by_order.items()}


async def test_what_is_due_is_delivered_signed_and_noted(
    database: HandDatabase, make: Make, receiver: Receiver
) -> None:
    write(database, [message()])
    assert await delivered(make()) == 1
    (told,) = receiver.applied.values()
    assert (told["kind"], told["account"], told["mode"], told["data"]["order_id"]) == (
        "order.refunded_changed", "acct_1", "test", "o1",
    )  # fmt: skip
    assert receiver.headers[0]["webhook-id"] == told["id"] == message().id
    assert receiver.headers[0]["content-type"] == "application/json"
    assert stands(database) == [("delivered", 1)]
    assert deliveries(database)[0].told == "HTTP 200"


@pytest.mark.parametrize("seed", [1, 2])
async def test_however_a_receiver_misbehaves_each_message_is_applied_once_and_in_order(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver, seed: int
) -> None:
    usual = [Mood.FINE] * 5 + [
        Mood.CHATTY,
        Mood.ERROR,
        Mood.ERROR,
        Mood.DIES_BEFORE,
        Mood.DIES_AFTER,
        Mood.TIMEOUT,
        Mood.BUSY,
    ]

    def mood(told: Any, tries: int) -> Mood:
        drawn = sha256(f"{seed}/{told['id']}/{tries}".encode()).digest()[0]
        return usual[drawn % len(usual)] if tries < 5 else Mood.FINE

    receiver.mood = mood
    write(database, story(orders=15, length=4))
    await quiesce(make(patience=SHORT), clock)
    assert versions(receiver) == {f"o{order}": [1, 2, 3, 4] for order in range(15)}
    assert {state for state, _ in stands(database)} == {"delivered"}
    assert sum(receiver.tries.values()) > 60
    assert receiver.refused == 0
    assert 1 < receiver.at_once_max <= 8


async def test_of_one_order_one_message_is_on_its_way_and_others_do_not_wait_for_it(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    receiver.mood = lambda told, _: Mood.ERROR if told["data"]["order_id"] == "o0" else Mood.FINE
    write(database, story(orders=3, length=3))
    await delivered(make())
    assert versions(receiver) == {"o1": [1, 2, 3], "o2": [1, 2, 3]}
    assert sorted(receiver.tries.values()) == [1] * 7
    receiver.mood = lambda *_: Mood.FINE
    await quiesce(make(), clock)
    assert versions(receiver)["o0"] == [1, 2, 3]


async def test_after_the_last_try_a_message_is_parked_and_its_order_waits_until_a_person_decides(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    receiver.mood = lambda told, _: Mood.ERROR if told["data"]["order_version"] == 1 else Mood.FINE
    write(database, story(orders=2, length=2))
    teller = make(tries_max=3)
    for _ in range(5):
        await delivered(teller)
        clock.move(LONG)
    assert stands(database) == [("parked", 3), ("parked", 3), ("waiting", 0), ("waiting", 0)]
    parked = deliveries(database)[0]
    assert parked.told.startswith("HTTP 500: no [31m!!!")
    assert len(parked.told) < 250
    with database.unit() as unit:
        assert outbox.behind(unit, parked) == 1
        outbox.drop(unit, parked.message.id, SYSTEM, "of no use")
        outbox.resend(unit, deliveries(database)[1].message.id, SYSTEM)
    receiver.mood = lambda *_: Mood.FINE
    await quiesce(teller, clock)
    assert versions(receiver) == {"o0": [2], "o1": [1, 2]}
    assert stands(database) == [("dropped", 0), ("delivered", 1), ("delivered", 1), ("delivered", 1)]


async def test_a_message_that_was_delivered_can_be_sent_again_under_its_id(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    write(database, [message()])
    await quiesce(make(), clock)
    with database.unit() as unit:
        outbox.resend(unit, message().id, SYSTEM)
    await quiesce(make(), clock)
    assert receiver.tries == {message().id: 2}
    assert len(receiver.applied) == 1


async def test_a_receiver_that_is_down_does_not_use_up_the_tries_of_all_that_waits(
    database: HandDatabase, clock: HandClock, make: Make
) -> None:
    write(database, story(orders=100, length=1))
    teller = make(url="http://127.0.0.1:9/refunds", at_once=4)
    for _ in range(20):
        await delivered(teller)
        clock.move(1.0)
    tried = sum(tries for _, tries in stands(database))
    assert DOWN_AFTER <= tried < 2 * DOWN_AFTER + 4


async def test_many_that_fail_at_once_are_one_failure_to_a_receiver_that_is_down(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    """One that restarts is found to be back within a second or two, however many calls it had when it went away."""
    receiver.mood = lambda _, tries: Mood.DIES_BEFORE if tries == 0 else Mood.FINE
    write(database, story(orders=20, length=1))
    teller = make(at_once=20)
    assert await delivered(teller) == 20
    (line,) = teller.lines
    assert (line.fails, line.rests_until) == (DOWN_AFTER, clock.boot_seconds() + 1.0)
    # What fails after the rest makes the next one longer.
    receiver.mood = lambda *_: Mood.ERROR
    clock.move(LONG)
    assert await delivered(teller) == 1
    assert (line.fails, line.rests_until) == (DOWN_AFTER + 1, clock.boot_seconds() + 2.0)
    receiver.mood = lambda *_: Mood.FINE
    await quiesce(teller, clock)
    assert (line.fails, len(receiver.applied)) == (0, 20)


async def test_orders_that_are_refused_again_and_again_keep_no_new_one_waiting(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    """A shop that knows some orders no more, and refuses each, is up: what it does take must not queue behind all of those."""
    receiver.mood = lambda told, _: Mood.FINE if told["data"]["order_id"] == "new" else Mood.ERROR
    write(database, story(orders=40, length=1))
    teller = make()
    for _ in range(40):
        await delivered(teller)
        clock.move(REST_MAX)
    assert min(tries for _, tries in stands(database)) > 0
    write(database, [message("new", at=clock.now())])
    await delivered(teller)
    assert versions(receiver) == {"new": [1]}


async def test_however_long_a_receiver_is_down_each_try_is_noted_and_the_rest_is_kept(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    receiver.mood = lambda *_: Mood.ERROR
    write(database, story(orders=2, length=1))
    teller = make()
    # A try a minute for a month.
    teller.lines[0].fails = 30 * 24 * 60
    assert await delivered(teller) == 1
    assert await delivered(teller) == 0
    assert stands(database) == [("waiting", 1), ("waiting", 0)]
    clock.move(REST_MAX)
    assert await delivered(teller) == 1


async def test_a_receiver_that_asks_for_rest_gets_it(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    receiver.mood = lambda _, tries: Mood.BUSY if tries == 0 else Mood.FINE
    write(database, story(orders=3, length=1))
    teller = make(at_once=1)
    await delivered(teller)
    clock.move(119.0)
    await delivered(teller)
    assert sum(receiver.tries.values()) == 1
    clock.move(1.0)
    await delivered(teller)
    assert sum(receiver.tries.values()) > 1


async def test_a_receiver_that_wants_nothing_any_more_is_asked_once_and_left_alone(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    receiver.mood = lambda *_: Mood.GONE
    write(database, story(orders=3, length=1))
    teller = make(at_once=1)
    for _ in range(10):
        await delivered(teller)
        clock.move(300.0)
    assert stands(database) == [("parked", 1), ("waiting", 0), ("waiting", 0)]


async def test_a_redirect_is_not_followed(database: HandDatabase, make: Make, receiver: Receiver) -> None:
    receiver.mood = lambda *_: Mood.MOVED
    write(database, [message()])
    await delivered(make())
    (one,) = deliveries(database)
    assert one.told == "HTTP 302: redirects are not followed; set REFUNDRY_ORDERS__URL to where it leads"
    assert sum(receiver.tries.values()) == 1


@pytest.mark.parametrize(("secrets", "refused"), [("whsec_" + "A" * 44, 1), ("whsec_" + "A" * 44 + "," + SECRET, 0)])
async def test_while_a_secret_is_replaced_the_receiver_may_know_either(
    database: HandDatabase, make: Make, receiver: Receiver, secrets: str, refused: int
) -> None:
    write(database, [message()])
    await delivered(make(secrets=secrets))
    assert receiver.refused == refused


async def test_two_workers_share_the_work_and_neither_sends_what_the_other_holds(
    database: HandDatabase, make: Make, receiver: Receiver
) -> None:
    writers = [GroupWriter(database) for _ in range(2)]
    for writer in writers:
        writer.start()
    write(database, story(orders=20, length=3))
    try:
        tellers = [make(writer=writer) for writer in writers]
        taken = await asyncio.gather(*(delivered(teller) for teller in tellers))
    finally:
        for writer in writers:
            await writer.stop()
    assert sum(taken) == 60
    assert set(receiver.tries.values()) == {1}
    assert versions(receiver) == {f"o{order}": [1, 2, 3] for order in range(20)}


class Dying:
    """A target whose process dies in the middle of a delivery: the call was made, and nothing is noted."""

    name = "http"
    patience_seconds = 3.0

    async def open(self) -> None:
        pass

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:  # noqa: ARG002  # the port's
        raise asyncio.CancelledError

    async def close(self) -> None:
        pass


class Broken(Dying):
    """A target with a fault of ours, at one order's messages."""

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        if message.envelope["data"]["order_id"] == "o0":
            raise UnicodeEncodeError("ascii", "\0注文", 0, 2, "of no use " * 100)
        return Delivered()


async def test_a_fault_of_ours_counts_as_a_try_and_its_message_is_parked_in_the_end(
    database: HandDatabase, clock: HandClock
) -> None:
    write(database, story(orders=2, length=2))
    writer = InlineWriter(database)
    teller = Teller([Broken()], database=database, writer=writer, clock=clock, ids=RandomIds(), at_once=8, tries_max=3)
    for _ in range(5):
        await delivered(teller)
        clock.move(LONG)
    assert stands(database) == [("parked", 3), ("delivered", 1), ("waiting", 0), ("delivered", 1)]
    told = deliveries(database)[0].told
    assert told.startswith(r"UnicodeEncodeError('ascii', '\x00注文', 0, 2, 'of no use")
    assert len(told) == TOLD_MAX


async def test_a_database_that_is_lost_in_a_delivery_costs_no_try(database: HandDatabase, clock: HandClock) -> None:
    class Lost(Dying):
        async def deliver(self, message: Outgoing) -> DeliveryOutcome:  # noqa: ARG002  # the port's
            raise DatabaseUnusable("gone")

    write(database, [message()])
    writer = InlineWriter(database)
    teller = Teller([Lost()], database=database, writer=writer, clock=clock, ids=RandomIds(), at_once=8, tries_max=1)
    with pytest.raises(DatabaseUnusable):
        await delivered(teller)
    assert stands(database) == [("waiting", 0)]


async def test_what_a_dead_worker_held_is_sent_by_another_when_its_lease_is_over(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    write(database, story(orders=1, length=2))
    writer, ids = InlineWriter(database), RandomIds()
    dead = Teller([Dying()], database=database, writer=writer, clock=clock, ids=ids, at_once=1, tries_max=3)
    with pytest.raises(asyncio.CancelledError):
        await delivered(dead)
    alive = make()
    assert await delivered(alive) == 0
    clock.move(Dying.patience_seconds + LEASE_MARGIN)
    assert await delivered(alive) == 2
    assert versions(receiver) == {"o0": [1, 2]}


async def test_who_is_alone_does_not_wait_for_the_leases_of_the_dead_or_for_a_time_that_was_wrong(
    database: HandDatabase, clock: HandClock, make: Make, receiver: Receiver
) -> None:
    write(database, [message("o1", at=clock.now() + 10**7), message("o2", at=clock.now())])
    with database.unit() as unit:
        outbox.claim(unit, "http", "of-the-dead", seconds=60, most=5)
        outbox.begin(unit, "http", alone=True)
    await delivered(make())
    assert versions(receiver) == {"o1": [1], "o2": [1]}


async def test_an_answer_that_comes_after_the_lease_is_believed_if_it_is_a_yes_only(
    database: HandDatabase, clock: HandClock
) -> None:
    write(database, [message("o1"), message("o2")])

    def claimed(lease: str) -> list[Delivery]:
        with database.unit() as unit:
            return outbox.claim(unit, "http", lease, seconds=1.0, most=5)

    first, _ = claimed("slow")
    clock.move(2.0)
    _, second = claimed("other")
    with database.unit() as unit:
        outbox.delivered(unit, "http", first.number, "HTTP 200")
        assert not outbox.failed(unit, second, "slow", "late", tries_max=1)
    assert stands(database) == [("delivered", 1), ("waiting", 0)]


async def test_it_runs_beside_a_worker_until_it_is_stopped(
    database: HandDatabase, make: Make, receiver: Receiver
) -> None:
    teller = make()
    await teller.open()
    teller.start(alone=True)
    write(database, story(orders=2, length=2))
    async with asyncio.timeout(60):
        await receiver.until(4)
    await teller.stop()
    assert versions(receiver) == {"o0": [1, 2], "o1": [1, 2]}


async def test_nothing_is_sent_inside_a_unit(database: HandDatabase, clock: HandClock, receiver: Receiver) -> None:
    target = HttpTarget(Address(receiver.url, keys_of(SECRET, "S")), clock=clock, timeout_seconds=1.0)
    with database.unit(), pytest.raises(InvariantViolated) as refused:
        await target.deliver(outgoing(message()))
    assert refused.value.code == "network_inside_transaction"
    assert receiver.headers == []
    assert isinstance(await target.deliver(outgoing(replace(message(), created_at=clock.now()))), Delivered)
    await target.close()
