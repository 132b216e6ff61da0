"""A process that stays: a worker, with the web side beside it where one is wanted."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import uvicorn

import refundry
from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.bootstrap import Closed
from refundry.cli import output, session
from refundry.cli.work import Work, working
from refundry.follow import service as follow
from refundry.follow.model import Backlog
from refundry.gateways.base import GatewayError
from refundry.infra import loop
from refundry.infra.db import DatabaseUnusable
from refundry.infra.pace import Pacer
from refundry.infra.settings import Settings
from refundry.kernel.errors import RefundryError, UsageError
from refundry.outbox import service as outbox
from refundry.outbox.model import Queue
from refundry.refunds import service as refunds
from refundry.web.app import Health, app_of
from refundry.web.listening import config_of
from refundry.web.metrics import Numbers, age
from refundry.web.webhooks import Intake
from refundry.worker.executor import REFUND
from refundry.worker.main import Station

LOOK_SECONDS = 1.0
# What waits is counted no more often than this: nobody who is called for it comes sooner.
WAITS_SECONDS = 5.0
# Stripe, or Postgres, is asked again so long after it could not be reached at the start: late enough for a network that comes up, rare
# enough for one that does not.
OPEN_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the web side listens."""

    host: str
    port: int


class Server(uvicorn.Server):
    """A web server that leaves the signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


def bound(address: Address) -> socket.socket:
    """Take the port.

    Raises:
        UsageError: `port_taken`, `host_wrong`.
    """
    try:
        return socket.create_server((address.host, address.port))
    except OSError as error:
        # Below zero are the resolver's own numbers: the name leads nowhere.
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:
            raise UsageError(
                f"--host {address.host} is no IPv4 address of this machine: leave it out, or write 0.0.0.0 for all of them",
                code="host_wrong",
                option="--host",
            ) from error
        # The library's own text has more of Python in it than of the network.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"{address.host}:{address.port} cannot be listened on ({why}): choose another --port, or 0 for a free one",
            code="port_taken",
            option="--port",
        ) from error


def run(settings: Settings, address: Address | None) -> int:
    """Work until interrupted."""
    _ = settings.key
    sock = bound(address) if address else None

    async def stay() -> int:
        async with AsyncExitStack() as stack:
            work = await _opened(stack, settings)
            names = ", ".join(seat.account.id for seat in work.desk.seats)
            output.say(f"Refundry {refundry.__version__}, {names}, {session.place(settings)}")
            await until_interrupted(work, sock)
            return output.INTERRUPTED if work.interrupted else output.DONE

    try:
        return loop.run(stay())
    finally:
        if sock is not None:
            sock.close()


async def _opened(stack: AsyncExitStack, settings: Settings) -> Work:
    """Open everything, as soon as Stripe and Postgres can be reached: nobody may be there to start a process again that stays.

    Raises:
        RefundryError: What does not pass by waiting, as a key that Stripe refuses.
    """
    told = ""
    # Without an end but a person's, as everything that stays: they may be away for hours.
    while True:
        try:
            return await stack.enter_async_context(working(settings, every=True))
        except (GatewayError, DatabaseUnusable) as error:
            if not error.passing:
                raise
            if error.message != told:
                who = "Stripe" if isinstance(error, GatewayError) else "it"
                output.say(
                    f"error: {error.message} [{error.code}]: nothing is begun until {who} answers, and it is asked again"
                )
            told = error.message
        await asyncio.sleep(OPEN_AGAIN_SECONDS)


async def until_interrupted(work: Work, sock: socket.socket | None) -> None:
    """Serve and work until Ctrl-C; say when this process begins to execute, and when an account is held."""
    server: Server | None = None
    task: asyncio.Task[None] | None = None
    if sock is not None:
        following = work.worker.following
        woken = following.woken if following is not None else lambda _: None
        intake = Intake(bootstrap.doors_of(work.desk), work.desk.writer, work.desk.clock, woken=woken)
        waits = Waits(work)
        app = app_of(lambda: _health(work, waits), lambda: _numbers(work, waits), waits.told, intake)
        server = Server(config_of(app))
        task = asyncio.create_task(server.serve(sockets=[sock]), name="web")
        host, port = sock.getsockname()[:2]
        output.say(f"http://{host}:{port}/health and /metrics, Stripe's webhooks at /webhooks/stripe; Ctrl-C ends it")
    try:
        await _watched(work)
    finally:
        if server is not None and task is not None:
            server.should_exit = True
            await task


async def _watched(work: Work) -> None:
    told, held = "", dict[str, str]()
    while not work.interrupted:
        now = _stands(work)
        if now != told:
            output.say(now)
        told = now
        try:
            held_now = await work.held_accounts()
        except DatabaseUnusable:
            # The worker has said so, and its end ends this process where waiting does not help: nobody may be there to start it again.
            held_now = held
        for account, why in held_now.items():
            if why != held.get(account):
                name = account.partition("|")[0]
                output.say(
                    f"error: {why} [key_refused]: nothing of {name} is paid until its key works in every process on this database; then start one of them again"
                )
        held = held_now
        await work.rest(LOOK_SECONDS)


def _stands(work: Work) -> str:
    if work.worker.watching:
        return "another process works on this database; this one watches, and takes over when it ends"
    return "working" if work.worker.executing.is_set() else "starting"


class Waits:
    """What waits for a person, for a bank, for an order system, or to be followed.

    It is read at most once in `WAITS_SECONDS`, however often and by however many it is asked for: a balancer may ask for `/health` every
    second, and in a storm there is much to count.

    Args:
        work: The command at work.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._read_at = -WAITS_SECONDS
        self._backlogs: Mapping[str, Backlog] = {}
        self._queues: Mapping[str, Queue] = {}
        self._now = 0.0

    def backlogs(self) -> Mapping[str, Backlog]:
        """Tell the backlog of each account, also of one whose key did not open it, by its name in our tables."""
        self._look()
        return self._backlogs

    def told(self) -> tuple[Mapping[str, Queue], float]:
        """Tell what each target was not told yet, and when that was read, by the database's clock."""
        self._look()
        return self._queues, self._now

    def facts(self) -> dict[str, object]:
        """Write it for `/health`, over all accounts; ages in seconds, `None` where nothing waits."""
        queues, now = self.told()
        waits = list(self.backlogs().values())

        def oldest(times: Iterable[float | None]) -> float | None:
            known = [at for at in times if at is not None]
            return round(age(min(known), now), 3) if known else None

        return {
            "tasks": {
                "open": sum(sum(one.tasks.values()) for one in waits), "overdue": sum(one.tasks_overdue for one in waits),
                "oldest_seconds": oldest(one.task_since for one in waits),
            },
            "disputes": {
                "open": sum(one.disputes for one in waits), "due_soon": sum(len(one.disputes_due) for one in waits),
            },
            "messages": {
                "waiting": sum(one.waiting for one in queues.values()), "parked": sum(one.parked for one in queues.values()),
                "oldest_seconds": oldest(one.waits_since for one in queues.values()),
            },
            "events": {
                "waiting": sum(one.events_waiting for one in waits), "parked": sum(one.events_parked for one in waits),
                "oldest_seconds": oldest(one.event_since for one in waits),
                "last_seconds": round(age(max(came), now), 3) if (came := [one.event_at for one in waits if one.event_at]) else None,
            },
        }  # fmt: skip

    def _look(self) -> None:
        desk = self._work.desk
        # Several threads of the web server may ask at once: one reads, the others take what it has read.
        with self._lock:
            if desk.clock.boot_seconds() - self._read_at < WAITS_SECONDS:
                return
            with desk.database.reading() as unit:
                names = [*self._work.worker.stations, *_closed(self._work)]
                self._backlogs = {account: follow.backlog(unit, account) for account in names}
                set_ = dict.fromkeys((target.name for target in desk.targets), Queue())
                self._queues, self._now = set_ | outbox.queues(unit), unit.now
            self._read_at = desk.clock.boot_seconds()


def _health(work: Work, waits: Waits) -> Health:
    """Look whether everything that is needed is there; called in a thread of the web server."""
    desk = work.desk
    facts: dict[str, object] = {
        "version": refundry.__version__,
        "accounts": [seat.account.id for seat in desk.seats],
        "mode": desk.settings.mode,
        "executing": work.worker.executing.is_set(),
        "closed": {shut.access.opened_by: shut.error.message for shut in desk.closed},
    }
    try:
        with desk.database.reading() as unit:
            held = {
                one.id: one.held_text for one in accounts.known(unit) if one.held_text and _works_on(work, one.name)
            }
            facts["breaks"] = len(refunds.open_breaks(unit))
        # For people and monitors. None of it makes the process unwell: a new start would not make a receiver come back.
        facts |= waits.facts()
    except RefundryError as error:
        return Health(ok=False, facts={**facts, "error": error.told()})
    # One account that is held does not stop the others, and a new start would not free it.
    return Health(ok=not work.task.done() and len(held) < len(desk.seats), facts={**facts, "held": held})


def _works_on(work: Work, account: str) -> bool:
    return account in work.worker.stations


def _numbers(work: Work, waits: Waits) -> list[Numbers]:
    backlogs = waits.backlogs()
    stations = work.worker.stations
    with work.desk.database.reading() as unit:
        held = {one.name for one in accounts.known(unit) if one.held_text}
        breaks = len(refunds.open_breaks(unit))
        rates = {name: station.seat.pacer.rate_now(unit, REFUND) for name, station in stations.items()}
    opened = [
        _of_station(work, station, breaks, held, rates[name], backlogs[name]) for name, station in stations.items()
    ]
    return [*opened, *(_of_closed(work, shut, breaks, backlogs[name]) for name, shut in _closed(work).items())]


def _closed(work: Work) -> dict[str, Closed]:
    """Tell the accounts that did not open, as far as the settings tell their names."""
    return {shut.name: shut for shut in work.desk.closed if shut.name is not None}


def _of_closed(work: Work, shut: Closed, breaks: int, backlog: Backlog) -> Numbers:
    """Tell of an account whose key did not open it: nothing of it is paid, and what waits there waits on."""
    desk, account = work.desk, Account(shut.access.said or "", work.desk.settings.mode)
    pacer = Pacer(bootstrap.limits_of(desk.settings, shut.access), shut.access.headroom, desk.writer, desk.clock)
    return Numbers(
        account=account.id,
        mode=account.mode,
        executing=work.worker.executing.is_set(),
        held=True,
        breaks=breaks,
        claimed=0,
        sent=0,
        looks=0,
        adopted=0,
        outcomes={},
        stripe_calls=0,
        rate_limit=pacer.rate_of(REFUND),
        flight=0,
        meter=pacer.meter,
        backlog=backlog,
    )


def _of_station(work: Work, station: Station, breaks: int, held: set[str], rate: float, backlog: Backlog) -> Numbers:
    counts, pacer, account = station.executor.counts, station.seat.pacer, station.seat.account
    return Numbers(
        account=account.id,
        mode=account.mode,
        executing=work.worker.executing.is_set(),
        held=account.name in held,
        breaks=breaks,
        claimed=counts.claimed,
        sent=counts.sent,
        looks=counts.looks,
        adopted=counts.adopted,
        outcomes=dict(counts.outcomes),
        stripe_calls=pacer.taken_count,
        rate_limit=rate,
        flight=station.executor.flight_max(),
        meter=pacer.meter.copied(),
        backlog=backlog,
    )
