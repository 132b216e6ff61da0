"""A process that stays: a worker, with the web side beside it where one is wanted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

import refundry
from refundry.accounts import service as accounts
from refundry.cli import output, session
from refundry.cli.work import Work, working
from refundry.infra.settings import Settings
from refundry.kernel.errors import RefundryError, UsageError
from refundry.refunds import service as refunds
from refundry.web.app import Health, app_of
from refundry.web.metrics import Numbers
from refundry.worker.executor import REFUND

LOOK_SECONDS = 1.0


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
        UsageError: `port_taken`.
    """
    try:
        return socket.create_server((address.host, address.port))
    except OSError as error:
        raise UsageError(
            f"{address.host}:{address.port} cannot be listened on ({error.strerror}): choose another --port, or 0 for a free one",
            code="port_taken",
        ) from error


def run(settings: Settings, address: Address | None) -> int:
    """Work until interrupted."""
    _ = settings.key
    sock = bound(address) if address else None

    async def stay() -> int:
        async with working(settings) as work:
            output.say(f"Refundry {refundry.__version__}, {session.where(work.desk.account.name, settings)}")
            await until_interrupted(work, sock)
            return output.INTERRUPTED if work.interrupted else output.DONE

    try:
        return asyncio.run(stay())
    finally:
        if sock is not None:
            sock.close()


async def until_interrupted(work: Work, sock: socket.socket | None) -> None:
    """Serve and work until Ctrl-C; say when this process begins to execute, and when the account is held."""
    server: Server | None = None
    task: asyncio.Task[None] | None = None
    if sock is not None:
        app = app_of(lambda: _health(work), lambda: _numbers(work))
        server = Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[sock]), name="web")
        host, port = sock.getsockname()[:2]
        output.say(f"http://{host}:{port}/health and /metrics; Ctrl-C ends it")
    try:
        await _watched(work)
    finally:
        if server is not None and task is not None:
            server.should_exit = True
            await task


async def _watched(work: Work) -> None:
    told, held = "", ""
    while not work.interrupted:
        now = _stands(work)
        if now != told:
            output.say(now)
        told = now
        why = await work.held()
        if why and why != held:
            output.say(
                f"error: {why} [key_refused]: nothing is paid until the key works; then start this process again"
            )
        held = why
        await work.rest(LOOK_SECONDS)


def _stands(work: Work) -> str:
    if work.worker.watching:
        return "another process works on this database; this one watches, and takes over when it ends"
    return "working" if work.worker.executing.is_set() else "starting"


def _health(work: Work) -> Health:
    """Look whether everything that is needed is there; called in a thread of the web server."""
    desk = work.desk
    facts: dict[str, object] = {
        "version": refundry.__version__,
        "account": desk.account.id,
        "mode": desk.account.mode,
        "executing": work.worker.executing.is_set(),
    }
    try:
        with desk.database.reading() as unit:
            facts["held"] = accounts.held_text(unit, desk.account.name) or None
            facts["breaks"] = len(refunds.open_breaks(unit))
    except RefundryError as error:
        return Health(ok=False, facts={**facts, "error": error.told()})
    return Health(ok=not work.task.done() and not facts["held"], facts=facts)


def _numbers(work: Work) -> Numbers:
    counts, pacer = work.worker.executor.counts, work.desk.pacer
    with work.desk.database.reading() as unit:
        held = bool(accounts.held_text(unit, work.desk.account.name))
        breaks = len(refunds.open_breaks(unit))
    return Numbers(
        account=work.desk.account.id,
        mode=work.desk.account.mode,
        executing=work.worker.executing.is_set(),
        held=held,
        breaks=breaks,
        claimed=counts.claimed,
        sent=counts.sent,
        looks=counts.looks,
        adopted=counts.adopted,
        outcomes=dict(counts.outcomes),
        stripe_calls=pacer.taken_count,
        rate_limited=pacer.limited_count,
        rate_limit=pacer.rate_of(REFUND),
    )
