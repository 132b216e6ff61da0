"""Workers, webhooks and a person at the same time, several pieces in each unit: nobody waits for ever, nothing is paid twice."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from refundry.charges import service as charges
from refundry.charges.model import REQUEST_ID
from refundry.infra.db import Unit
from refundry.kernel.outcome import SeenRefund
from refundry.refunds import service as refunds
from refundry.refunds.model import State
from refundry.refunds.service import Intent
from tests.support.builders import ACCOUNT, accepted, content, look, refund_request
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ADA, ORDER_KEY, Hand

pytestmark = pytest.mark.integration

CHARGES, OF_EACH, WORKERS = 6, 3, 3
STOPS = 5
# How often, and for how long in all, it is seen whether everything is over.
POLL_SECONDS, POLLS_MAX = 0.05, 1200


class Stripe:
    """Makes each refund once by its key, and tells webhooks of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.refunds: dict[str, SeenRefund] = {}
        self.events: queue.SimpleQueue[SeenRefund] = queue.SimpleQueue()

    def send(self, intent: Intent) -> SeenRefund:
        with self.lock:
            made = accepted(intent.claimed.request, refund_id=f"re_{intent.attempt.key}").refund
            if intent.attempt.key not in self.refunds:
                self.refunds[intent.attempt.key] = made
                self.events.put(made)
            return self.refunds[intent.attempt.key]

    def of(self, charge: str) -> tuple[SeenRefund, ...]:
        with self.lock:
            return tuple(refund for refund in self.refunds.values() if refund.charge == charge)


def work(hand: Hand, stripe: Stripe, done: threading.Event) -> None:
    """Pay slice after slice, each step of a whole slice in one unit."""
    while not done.is_set():
        claimed = hand.claim(most=4)
        if not claimed:
            done.wait(POLL_SECONDS)
            continue
        began = hand.clock.now()
        looks = [
            look(c.request.content.charge, refunds=stripe.of(c.request.content.charge), began_at=began) for c in claimed
        ]
        hand.unit(lambda unit, some=looks: charges.mirror(unit, ACCOUNT, some, ORDER_KEY))  # type: ignore[misc]
        judged = hand.unit(
            lambda unit, some=claimed: [refunds.judge(unit, c, known=True, age_max_days=0) for c in some]  # type: ignore[misc]
        )
        at = hand.clock.now()
        intents = hand.unit(
            lambda unit, some=judged, now=at: [  # type: ignore[misc]
                refunds.submit(unit, c, at=now, stripe_at=now, look_max_age=600, age_max_days=0) for c in some if c
            ]
        )
        # Answers come in another order than calls were sent.
        outcomes = [(i, accepted(i.claimed.request, refund_id=stripe.send(i).id)) for i in reversed(intents) if i]
        hand.unit(lambda unit, some=outcomes: [refunds.record(unit, i, o, unit.now) for i, o in some])  # type: ignore[misc]
        hand.unit(lambda unit, some=claimed: [refunds.release(unit, c) for c in some])  # type: ignore[misc]


def hear(hand: Hand, stripe: Stripe, done: threading.Event) -> None:
    """Take events in, a few in each unit, the latest first."""
    waiting: list[SeenRefund] = []
    while not done.is_set() or waiting or not stripe.events.empty():
        with contextlib.suppress(queue.Empty):
            waiting.append(stripe.events.get(timeout=POLL_SECONDS))
        if waiting and (len(waiting) >= 3 or stripe.events.empty()):
            some, waiting = list(reversed(waiting)), []
            hand.unit(lambda unit, s=some: [refunds.found(unit, ACCOUNT, refund) for refund in s])  # type: ignore[misc]


def steer(hand: Hand, ids: list[str], done: threading.Event) -> None:
    """Stop everything and let it go on, a few times; then see that all of it comes to its end."""

    def over(unit: Unit) -> bool:
        return all(request.state is State.SETTLED for request in refunds.many(unit, ids).values())

    try:
        for _ in range(STOPS):
            hand.unit(lambda unit: refunds.stop(unit, reversed(ids), ADA))
            hand.unit(lambda unit: refunds.go_on(unit, ids, ADA))
            done.wait(POLL_SECONDS)
        for _ in range(POLLS_MAX):
            if hand.unit(over):
                return
            done.wait(POLL_SECONDS)
    finally:
        done.set()


def test_everybody_at_once_pays_each_request_once(database: HandDatabase, clock: HandClock) -> None:
    stripe, done, person = Stripe(), threading.Event(), Hand(database, clock)
    wanted = [
        refund_request(f"key:{charge}:{n}", asked=content(charge=f"ch_{charge}", asked_minor=1000 + n))
        for n in range(OF_EACH)
        for charge in range(CHARGES)
    ]
    for charge in range(CHARGES):
        person.looked(f"ch_{charge}")
    person.receive(*wanted)
    workers = [Hand(database, clock, f"lease-{n}") for n in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS + 2) as pool:
        running = [pool.submit(work, worker, stripe, done) for worker in workers]
        running.append(pool.submit(hear, Hand(database, clock), stripe, done))
        running.append(pool.submit(steer, person, [request.id for request in wanted], done))
        for one in running:
            one.result(timeout=100)
    assert [person.find(request).state for request in wanted] == [State.SETTLED] * len(wanted)
    paid = [refund.metadata[REQUEST_ID] for refund in stripe.refunds.values()]
    assert sorted(paid) == sorted(request.id for request in wanted)
    assert person.breaks() == []
    assert all(person.find(request).reserved_minor == 0 for request in wanted)
    assert person.audit_is_sound()
