"""What comes after the demo's payments: they are followed at the simulated Stripe, and an order system is told of them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from refundry.cli import output
from refundry.cli.work import Work
from refundry.follow import service as follow
from refundry.follow.model import Feed
from refundry.inbox import service as inbox
from refundry.inbox.model import State as EventState
from refundry.infra.db import Unit
from refundry.infra.settings import OrderSettings, Settings
from refundry.outbox import service as outbox
from refundry.refunds import service as refunds
from refundry.refunds.model import State

TOLD, KINDS = "order_system.jsonl", "order.refunded_changed"
REST_SECONDS = 0.05
# An order system that does not answer is not waited for: its messages wait in the outbox.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Followed:
    """How the refunds of the demo stand at the simulated Stripe.

    Args:
        settled: Refunds that have succeeded.
        pending: Refunds that are on their way.
        events: Events that told of it, and are applied.
        reads: How many of them had to be read again.
        waiting: Events that are not applied yet.
    """

    settled: int
    pending: int
    events: int
    reads: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Orders:
    """What the demo's order system has been told: lines in a file.

    Args:
        messages: How many.
        full: Orders of which everything was given back.
        partial: Orders of which a part was.
        amounts: What was given back in all, in minor units by currency.
        waiting: Messages that are not delivered yet, also to a receiver of the user's.
    """

    messages: int
    full: int
    partial: int
    amounts: dict[str, int]
    waiting: int


def told_by(read: Settings, folder: Path) -> OrderSettings:
    """Set whom the demo tells: a file of its own, and a receiver on this machine if one is set.

    What is set for the real order system is never told of simulated refunds.
    """
    orders: dict[str, Any] = {"file": str(folder / TOLD), "kinds": KINDS}
    if read.orders.url is not None:
        if _here(read.orders.url):
            orders |= {"url": read.orders.url, "secrets": read.orders.secrets}
        else:
            output.say(
                "REFUNDRY_ORDERS__URL leads to another machine, which the demo does not tell of simulated refunds"
            )
    return OrderSettings(**orders)


def _here(url: str) -> bool:
    """Tell whether an address leads to this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def followed(work: Work, since: float) -> Followed:
    """Ask the simulated Stripe what has happened, and wait until that is applied, and the order system told.

    Args:
        work: The demo at work.
        since: When it began, in epoch seconds.
    """
    following, account = work.worker.following, work.desk.account.name
    if following is not None:
        # A demo that goes on where it was has missed what was done by hand meanwhile.
        mark = await work.read(lambda unit: follow.mark(unit, account, Feed.EVENTS).mark)
        since = min(since, mark or since)
        catch_up, follower = following.catch_ups[account], following.followers[account]
        await catch_up.events_between(since, work.desk.clock.now())
        follower.wake()
    ends = work.desk.clock.boot_seconds() + PATIENCE_SECONDS
    targets = {target.name for target in work.desk.targets}
    while (
        not work.interrupted
        and work.desk.clock.boot_seconds() < ends
        and await work.read(lambda unit: _busy(unit, account, targets))
    ):
        await work.rest(REST_SECONDS)

    def count(unit: Unit) -> Followed:
        states, events = refunds.counts(unit, account), inbox.counts(unit, account)
        reads = following.followers[account].done.reads if following is not None else 0
        return Followed(
            states.get(State.SETTLED, 0), states.get(State.PENDING, 0), events[EventState.APPLIED], reads,
            events[EventState.WAITING],
        )  # fmt: skip

    return await work.read(count)


def _busy(unit: Unit, account: str, targets: set[str]) -> bool:
    # An earlier demo may have had a target that this one has not.
    waiting = any(queue.waiting for target, queue in outbox.queues(unit).items() if target in targets)
    return bool(follow.backlog(unit, account).events_waiting) or waiting


async def orders(work: Work) -> Orders:
    """Read what the demo's order system was told: of each order the last."""
    path = Path(work.desk.settings.orders.file or "")
    lines = await asyncio.to_thread(lambda: path.read_text(encoding="utf-8").splitlines() if path.is_file() else [])
    last: dict[str, dict[str, Any]] = {}
    for line in lines:
        order = json.loads(line)["data"]
        known = last.get(order["order_id"])
        if known is None or known["order_version"] < order["order_version"]:
            last[order["order_id"]] = order
    amounts: Counter[str] = Counter()
    for order in last.values():
        for charge in order["charges"]:
            amounts[charge["currency"]] += charge["refunded_minor"]
    count = Counter(order["refunded"] for order in last.values())
    waiting = await work.read(lambda unit: sum(one.waiting + one.parked for one in outbox.queues(unit).values()))
    return Orders(len(lines), count["full"], count["partial"], dict(amounts), waiting)


def facts(seen: Followed, told: Orders) -> dict[str, Any]:
    """Write both for `--json`."""
    return {"followed": asdict(seen), "orders": asdict(told)}


def tell(seen: Followed, told: Orders, path: str | None) -> None:
    """Tell both in words.

    Args:
        seen: How the refunds stand.
        told: What the order system was told.
        path: Where that stands; `None`, if it is not kept.
    """
    pending = f", {output.number(seen.pending)} pending" if seen.pending else ""
    output.line(
        output.wrapped(
            f"Followed: {output.counted(seen.settled, 'refund')} settled{pending}; Stripe's {output.counted(seen.events, 'event')} "
            f"read, {output.number(seen.reads)} of them looked up again."
        )
    )
    where = f", in {path}" if path else ""
    waiting = f"; {output.counted(told.waiting, 'message')} not delivered yet" if told.waiting else ""
    output.line(
        output.wrapped(
            f"Order system: told of {output.counted(told.full + told.partial, 'order')}, {output.number(told.full)} given back in full "
            f"and {output.number(told.partial)} in part, {output.amounts(told.amounts)}{where}{waiting}."
        )
    )
