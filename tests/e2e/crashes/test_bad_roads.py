"""Events come late, twice, reversed, as twins or not at all, and the order system misbehaves: in the end everybody knows what Stripe knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from refundry.inbox.model import HANDLED
from refundry.inbox.model import State as EventState
from refundry.infra.db import Database
from refundry.outbox import service as outbox
from tests.support import books, crash_run, ports
from tests.support.crash_run import House, Shop, wait_until
from tests.support.order_receiver import SECRET, Mood, Receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROWS = 18
# What Stripe is told to do with deliveries: to most of them something.
BAD = [
    {"kind": "late", "low": 0, "high": 3, "probability": 0.5},
    {"kind": "twice", "probability": 0.3},
    {"kind": "twin", "probability": 0.3},
    {"kind": "out_of_order", "delay_seconds": 2, "probability": 0.3},
    {"kind": "lost", "probability": 0.3},
]
MOODS = [Mood.FINE] * 8 + [Mood.ERROR, Mood.TIMEOUT, Mood.DIES_BEFORE, Mood.DIES_AFTER]
# The order system is patient enough to be slow for, and a turn of polling is short.
SETTINGS = {
    "REFUNDRY_ORDERS__SECRETS": SECRET,
    "REFUNDRY_ORDERS__TIMEOUT_SECONDS": "3",
    "REFUNDRY_FOLLOW__POLL_SECONDS": "1",
    "REFUNDRY_FOLLOW__READS_PER_DAY": "0",
}


@contextlib.contextmanager
def order_system() -> Iterator[Receiver]:
    """Run an order system that follows the docs, and fails every third try, in a thread of its own."""

    def mood(told: Any, tries: int) -> Mood:
        drawn = sha256(f"{told['id']}/{tries}".encode()).digest()[0]
        return MOODS[drawn % len(MOODS)] if tries < 2 else Mood.FINE

    receiver, ready = Receiver(mood=mood, timeout_seconds=4.0), threading.Event()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def listen() -> None:
        async with receiver.listening():
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()), name="order system")
    thread.start()
    ready.wait()
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def endpoint(shop: Shop, port: int) -> str:
    """Register an endpoint at Stripe; tells its secret."""
    url = f"http://127.0.0.1:{port}/webhooks/stripe"
    form = [("url", url), *((f"enabled_events[{at}]", kind) for at, kind in enumerate(sorted(HANDLED)))]
    asked = urllib.request.Request(  # noqa: S310  # loopback
        f"{shop.server.url}/v1/webhook_endpoints",
        urllib.parse.urlencode(form).encode(),
        {"Authorization": "Bearer sk_test_sim"},
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310  # loopback
        return str(json.load(answer)["secret"])


def banks_are_slow(shop: Shop) -> None:
    """Let the refunds of one order stay pending, so that polling goes on at its pace, and those of another settle later."""
    charges = {charge["metadata"]["order_id"]: charge["id"] for charge in books.listed(shop, "charges")}
    for order, way in (("o11", "stays"), ("o6", "pends")):
        shop.server.control(f"POST /_sim/charges/{charges[order]}/behaviour", {"refund": way})
    shop.server.control("POST /_sim/settings", {"arn_delay": 1, "pending_delay": 3})


def things_happen(shop: Shop) -> None:
    """Have banks and people do, at Stripe alone, whatever they do to refunds and charges."""
    control = shop.server.control
    ours = [refund["id"] for refund in books.listed(shop, "refunds") if refund["status"] == "succeeded"]
    for refund in ours[:3]:
        control(f"POST /_sim/refunds/{refund}/fail", {"reason": "lost_or_stolen_card"})
    control("POST /_sim/load", {"charges": [{"order_id": "never_asked", "amount_minor": 500, "currency": "gbp"}]})
    charges = {charge["metadata"]["order_id"]: charge for charge in books.listed(shop, "charges")}
    control("POST /_sim/refunds", {"charge": charges["never_asked"]["id"], "amount": 200})
    by_hand = [charge for order, charge in charges.items() if order in {"o7", "o8", "o9"}]
    for charge in by_hand:
        control("POST /_sim/refunds", {"charge": charge["id"], "amount": 11})
    left = charges["o10"]["amount"] - charges["o10"]["amount_refunded"]
    control("POST /_sim/refunds", {"charge": charges["o10"]["id"], "amount": left})


def owed(shop: Shop) -> dict[str, tuple[str, int]]:
    """Tell what has become of each order by Stripe's books."""
    lines = shop.server.control("GET /_sim/audit")["charges"]
    found = {}
    for line in lines:
        part = "partial" if line["refunded"] < line["captured"] else "full"
        found[line["order_id"]] = (part if line["refunded"] else "none", line["refunded"])
    return found


def told(receiver: Receiver) -> dict[str, tuple[str, int]]:
    """Tell what the order system believes."""
    changed = [one["data"] for one in list(receiver.applied.values()) if one["kind"] == "order.refunded_changed"]
    return {data["order_id"]: (data["refunded"], data["refunded_minor"]) for data in changed}


def differs(shop: Shop, database: Database, receiver: Receiver) -> list[str]:
    """Tell what is not as it has to be in the end; nothing, if all is."""
    found = books.differences(shop, database)
    here = books.events_here(database, books.account_of(shop))
    found += [f"{here[state]} events are {state}" for state in (EventState.WAITING, EventState.PARKED) if here[state]]
    if left := books.messages_left(database):
        found.append(f"{left} messages are not delivered")
    want, have = owed(shop), told(receiver)
    return found + [
        f"{order} is {want[order]}, and the order system says {have.get(order)}"
        for order in want
        if have.get(order) != want[order]
    ]


def judge(shop: Shop, house: House, receiver: Receiver) -> None:
    """Wait for the end, and see that every message was applied, each once."""
    with books.opened(house) as database:
        try:
            wait_until("the end", lambda: not differs(shop, database, receiver), 120, every=0.5)
        except AssertionError:
            raise AssertionError("\n".join(differs(shop, database, receiver)[:10]) + house.logs()) from None
        with database.reading() as unit:
            messages = {one.message.id for one in outbox.page(unit, None, [], most=10_000)}
    assert set(receiver.applied) == messages
    assert receiver.refused == 0
    assert sum(receiver.tries.values()) > len(messages)


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The database of the run: SQLite in the state directory, or the address of an empty Postgres database."""
    if request.param == "sqlite":
        yield None
    else:
        with request.getfixturevalue("postgres").made() as made:
            yield made


@pytest.mark.parametrize(("address", "webhooks"), [("postgres", True), ("sqlite", False)], indirect=["address"])
def test_in_the_end_orders_and_rows_are_as_stripes_books(
    tmp_path: Path, address: str | None, *, webhooks: bool
) -> None:
    with (
        ports.kept() as port,
        order_system() as receiver,
        crash_run.shop(tmp_path, ROWS, seed=41, faults=[]) as shop,
        crash_run.house(shop, postgres=address, settings=SETTINGS | {"REFUNDRY_ORDERS__URL": receiver.url}) as house,
    ):
        banks_are_slow(shop)
        if webhooks:
            house.settings["STRIPE_WEBHOOK_SECRET"] = endpoint(shop, port)
            shop.server.control("POST /_sim/webhooks/plan", {"seed": 41, "rules": BAD})
        server = house.start("serve", "--port", str(port))
        house.finish(house.run())
        things_happen(shop)
        judge(shop, house, receiver)
        assert server.poll() is None, house.logs()
