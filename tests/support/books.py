"""Holds what an installation knows of Stripe's refunds against the simulator's own books, and its inbox and outbox against being unfinished."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

from refundry.charges import service as charges
from refundry.inbox import service as inbox
from refundry.inbox.model import State as EventState
from refundry.infra.db import Database, Unit, sqlite_url
from refundry.kernel.clock import SystemClock
from refundry.outbox import service as outbox
from refundry.refunds import service as refunds
from refundry.tasks import service as tasks
from refundry.tasks.model import Kind
from tests.support.crash_run import House, Shop
from tests.support.fault_run import AT_STRIPE

REQUEST_ID = "refundry_request_id"
# More than any of these runs leaves behind.
MOST = 100_000
READS_MAX = 100


@contextlib.contextmanager
def opened(house: House) -> Iterator[Database]:
    """Open the database of an installation, to look into it beside its processes."""
    url = house.postgres or sqlite_url(house.folder / "refundry.db")
    database = Database(url.replace("postgresql://", "postgresql+psycopg://"), SystemClock())
    try:
        yield database
    finally:
        database.close()


def account_of(shop: Shop) -> str:
    """Name the shop's account as our tables do."""
    return f"{shop.server.account}|test"


def listed(shop: Shop, kind: str, *, key: str = "sk_test_sim", account: str | None = None) -> Iterator[dict[str, Any]]:
    """List what Stripe has of a kind, the newest first.

    Args:
        shop: Stripe.
        kind: `charges`, `refunds`, …
        key: Whose account.
        account: One that is connected to it, whose they are instead.
    """
    headers = {"Authorization": f"Bearer {key}"} | ({"Stripe-Account": account} if account else {})
    after, more = "", True
    while more:
        url = f"{shop.server.url}/v1/{kind}?limit=100{after}"
        asked = urllib.request.Request(url, headers=headers)  # noqa: S310  # loopback
        page = _read(asked)
        yield from page["data"]
        more = page["has_more"]
        after = f"&starting_after={page['data'][-1]['id']}" if more else ""


def _read(asked: urllib.request.Request) -> dict[str, Any]:
    """Read a page, again where one of the run's faults has met it: the books are not what is tried."""
    for _ in range(READS_MAX):
        with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(asked) as answer:  # noqa: S310  # loopback
            page: dict[str, Any] = json.load(answer)
            return page
    raise AssertionError(f"{asked.full_url} could not be read in {READS_MAX} tries")


def events_here(database: Database, account: str) -> dict[EventState, int]:
    """Count the events of the inbox."""
    with database.reading() as unit:
        return inbox.counts(unit, account)


def messages_left(database: Database) -> int:
    """Count the messages that wait or are parked."""
    with database.reading() as unit:
        return sum(outbox.counts(unit).values())


def differences(shop: Shop, database: Database) -> list[str]:
    """Tell where our rows differ from Stripe's books: refunds and their states, requests, what is left on charges, and tasks."""
    books = shop.server.control("GET /_sim/audit")
    told = [f"the books: {problem}" for problem in books["problems"]]
    with database.reading() as unit:
        for at in range(0, len(books["charges"]), 500):
            told += _differing(unit, books["charges"][at : at + 500])
        told += _tasks(unit, account_of(shop), books["charges"])
    return told


def _differing(unit: Unit, lines: list[dict[str, Any]]) -> Iterator[str]:
    made = {refund["id"]: refund for line in lines for refund in line["refunds"]}
    known = charges.refunds_known(unit, list(made))
    mirrors = charges.many(unit, [line["charge"] for line in lines])
    for id_, refund in made.items():
        here = known.get(id_)
        if here is None or (here.refund.status, here.refund.amount_minor) != (refund["status"], refund["amount"]):
            yield f"{id_} is {refund['status']}, and here {here}"
        elif REQUEST_ID in refund["metadata"]:
            request = refunds.need(unit, refund["metadata"][REQUEST_ID])
            if refund["status"] not in AT_STRIPE.get(request.state, set()):
                yield f"{id_} is {refund['status']}, and its request {request.id} is {request.state}"
    for line in lines:
        mirror = mirrors.get(line["charge"])
        if mirror is None or mirror.given_back_minor != line["refunded"]:
            had = mirror.given_back_minor if mirror else "no charge"
            yield f"{line['charge']} has given back {line['refunded']}, and here {had}"


def _tasks(unit: Unit, account: str, lines: list[dict[str, Any]]) -> Iterator[str]:
    """See that each late failure is one open task: told never, or told twice, is applied not once."""
    failed = {
        refund["id"]
        for line in lines
        for refund in line["refunds"]
        if refund["status"] == "failed" and REQUEST_ID in refund["metadata"]
    }
    open_ = Counter(task.refund for task in tasks.page(unit, account, [Kind.REFUND_FAILED], MOST))
    if open_ != Counter(failed):
        yield f"failed are {sorted(failed)}, and there are tasks of {open_}"
