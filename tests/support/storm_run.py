"""Storms: far more events than a quiet day brings, some of them twice and none in order, while the server that takes them in is killed.

What the events tell is first made to happen at the simulator, by nobody telling the product. Whatever of it stands in the product's
tables in the end was brought by an event: polling has had its turn before, and has its next a day later.
"""

from __future__ import annotations

import asyncio
import contextlib
import random  # noqa: TID251  # from the seed of the test
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import orjson

from refundry.follow import service as follow
from refundry.follow.model import Feed
from refundry.inbox.model import HANDLED
from refundry.inbox.model import State as EventState
from refundry.infra.db import Database
from tests.support import books, crash_run
from tests.support.crash_run import House, Shop, wait_until
from tests.support.events import SECRET, signed
from tests.support.forked import Process

LINES = 16
# One event of ten comes twice.
TWICE = 10
# A call that nobody answers is given up, and made again: the server was killed while it had it.
ANSWER_SECONDS = 30.0
AGAIN_SECONDS = 0.2
# Looks at a database or a list cost those who are looked at something.
LOOK = 0.1
# What becomes of ours without us: every so many refunds are given back by the bank, and every so many charges are refunded by hand too.
FAILED_EACH, BY_HAND_EACH = 20, 10
SETTINGS = {"STRIPE_WEBHOOK_SECRET": SECRET, "REFUNDRY_FOLLOW__POLL_SECONDS": "86400"}


class Sender:
    """Sends events from a thread of its own, each signed anew and again and again until it is acknowledged.

    Args:
        port: Where the server listens, or will again.
        bodies: The events, in the order in which they are sent; some stand there twice.
        rate: How many are sent in a second at most.
    """

    def __init__(self, port: int, bodies: list[bytes], rate: float) -> None:
        """Prepare; `with` begins."""
        self.acknowledged: Counter[bytes] = Counter()
        self.calls = 0
        self.failure: BaseException | None = None
        self._port, self._bodies, self._rate = port, bodies, rate
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="storm")

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send no more."""
        self._stopping = True
        self._thread.join()

    def count(self) -> int:
        """Tell how many sends were acknowledged so far.

        Raises:
            AssertionError: One was refused, which none should be.
        """
        assert self.failure is None, self.failure
        return self.acknowledged.total()

    def _run(self) -> None:
        try:
            asyncio.run(self._storm())
        except BaseException as error:  # noqa: BLE001  # told by `count`, in the thread that waits
            self.failure = error

    async def _storm(self) -> None:
        waiting, began = iter(enumerate(self._bodies)), time.monotonic()

        async def pump() -> None:
            for at, body in waiting:
                await asyncio.sleep(max(began + at / self._rate - time.monotonic(), 0))
                while not await self._acknowledged(body):
                    if self._stopping:
                        return
                    await asyncio.sleep(AGAIN_SECONDS)

        await asyncio.gather(*(pump() for _ in range(LINES)))

    async def _acknowledged(self, body: bytes) -> bool:
        """Send once, on a connection of its own; tells whether the answer was a yes."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                self.calls += 1
                writer.write(_call(body))
                answer = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return False
        # Nothing, if it died over it; and a database that is not there for a moment may ask for it again.
        if not answer or answer.startswith(b"HTTP/1.1 503 "):
            return False
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        self.acknowledged[body] += 1
        return True


def _call(body: bytes) -> bytes:
    sign = signed(body, at=time.time())  # noqa: TID251  # the server's clock is this machine's
    head = (
        f"POST /webhooks/stripe HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Stripe-Signature: {sign}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextlib.contextmanager
def scene(folder: Path, rows: int, *, seed: int, postgres: str | None) -> Iterator[tuple[Shop, House]]:
    """Open a shop whose events all come soon, and an installation."""
    with (
        crash_run.shop(folder, rows, seed=seed, faults=[]) as shop,
        crash_run.house(shop, postgres=postgres, settings=SETTINGS) as house,
    ):
        shop.server.control("POST /_sim/settings", {"arn_delay": 0})
        yield shop, house


def weather(shop: Shop, house: House, port: int, seed: int) -> tuple[Process, list[bytes]]:
    """Have a file paid by a server that polls once, then let things happen that only events tell; tells the server, and the storm of them."""
    server = house.start("serve", "--port", str(port))
    with books.opened(house) as database:
        wait_until("polling to have had its turn", lambda: _polled(database, shop) or server.poll() is not None)
    house.finish(house.run())
    seen = shop.refunds()
    assert seen == len(shop.obligations)
    ours = [refund["id"] for refund in books.listed(shop, "refunds")]
    for refund in ours[::FAILED_EACH]:
        shop.server.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "lost_or_stolen_card"})
    for charge in list(books.listed(shop, "charges"))[::BY_HAND_EACH]:
        shop.server.control("POST /_sim/refunds", {"charge": charge["id"], "amount": 7})
    made = len(list(books.listed(shop, "refunds")))
    wait_until("the last of the numbers that banks give", lambda: _updated(shop) >= made, every=LOOK)
    return server, _storm(list(books.listed(shop, "events")), seed)


def _polled(database: Database, shop: Shop) -> bool:
    with contextlib.suppress(Exception), database.reading() as unit:
        return all(follow.mark(unit, books.account_of(shop), feed).mark for feed in (Feed.EVENTS, Feed.REFUNDS))
    return False  # its tables are not there yet


def _updated(shop: Shop) -> int:
    return len({e["data"]["object"]["id"] for e in books.listed(shop, "events") if e["type"] == "refund.updated"})


def _storm(events: list[dict[str, Any]], seed: int) -> list[bytes]:
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    bodies = [orjson.dumps(event) for event in events if event["type"] in HANDLED]
    chance.shuffle(bodies)
    storm = bodies + chance.sample(bodies, len(bodies) // TWICE)
    # Within reach of the first ones, and not only behind all of them.
    for at in range(len(bodies), len(storm)):
        other = chance.randrange(len(bodies))
        storm[at], storm[other] = storm[other], storm[at]
    return storm


def kill_in_the_storm(shop: Shop, house: House, port: int, *, kills: int, seed: int, rate: float) -> dict[str, int]:
    """Send a storm, and `kill -9` the server again and again; then let it come to rest, and hold everything against Stripe's books.

    Args:
        shop: Stripe.
        house: The installation.
        port: Where its server listens.
        kills: How often that is killed, at random moments.
        seed: Of everything that is drawn.
        rate: How many events are sent in a second at most.

    Returns:
        How many `sends` there were, how many of them were `again` because of a kill, and how many `reads` applying took at Stripe.

    Raises:
        AssertionError: An event that was acknowledged is not in the inbox, or was not applied, or not just once.
    """
    chance = random.Random(seed)  # noqa: S311  # a test's own, from its seed
    account = books.account_of(shop)
    server, storm = weather(shop, house, port, seed)
    shop.server.control("DELETE /_sim/calls")
    moments = sorted(chance.randrange(1, len(storm)) for _ in range(kills))
    with books.opened(house) as database, Sender(port, storm, rate) as sender:

        def waits() -> int:
            return books.events_here(database, account)[EventState.WAITING]

        def done() -> int:
            return books.events_here(database, account)[EventState.APPLIED]

        for number, moment in enumerate(moments):
            before = done()
            wait_until(f"acknowledgement {moment}", lambda at=moment: sender.count() >= at)  # type: ignore[misc]
            if number % 2:
                # While it applies, and not only while it takes in.
                wait_until("some that are applied", lambda n=before: done() > n or not waits(), every=LOOK)  # type: ignore[misc]
            assert server.poll() is None, house.logs()
            server.kill()
            server.wait()
            server = house.start("serve", "--port", str(port))
        wait_until("the last acknowledgement", lambda: sender.count() == len(storm))
        wait_until("the end of the inbox", lambda: not waits(), every=LOOK)
        _judge(shop, database, storm)
    calls = shop.server.control("GET /_sim/calls")["operations"]
    reads = sum(told["calls"] for name, told in calls.items() if name.startswith("GET /v1/") and "account" not in name)
    return {"sends": len(storm), "again": sender.calls - len(storm), "reads": reads}


def _judge(shop: Shop, database: Database, storm: list[bytes]) -> None:
    found = books.events_here(database, books.account_of(shop))
    want = dict.fromkeys(EventState, 0) | {EventState.APPLIED: len(set(storm))}
    assert found == want, f"{len(set(storm))} events were acknowledged, and the inbox has {found}"
    told = books.differences(shop, database)
    assert not told, "\n".join(told[:10])
