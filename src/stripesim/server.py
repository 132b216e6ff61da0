"""The simulator as a server: uvicorn around the application, the clockwork that lets due things happen, and the webhooks."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stripesim.app import CONNECTION, Simulator
from stripesim.webhooks import Pump

if TYPE_CHECKING:
    from asyncio import Transport

# How often the clockwork looks for due work: a tenth of the shortest delay that a person could notice.
TICK_SECONDS = 0.02
RESET = struct.pack("ii", 1, 0)


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP, which also hands the application a way to cut its connection."""

    def on_message_begin(self) -> None:
        """Leave the way to cut in the scope of each call."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"cut": cutter(self.transport)}}


def cutter(transport: Transport) -> Callable[..., None]:
    """Build the function that ends a connection: in order, after what was written; or with a reset, at once."""

    def cut(*, reset: bool) -> None:
        if reset:
            sock = transport.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        else:
            transport.close()

    return cut


class Server(uvicorn.Server):
    """Uvicorn, which ends at a signal and leaves the rest to us.

    Left alone it raises the signal anew at its end: the process would die before the clock is put by and the state closed.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the serving, and no more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def clockwork(simulator: Simulator) -> None:
    """Let what is due happen, also when nobody calls."""
    while True:
        simulator.world.catch_up()
        await asyncio.sleep(TICK_SECONDS)


def bound(host: str, port: int) -> socket.socket:
    """Take the port before anything is said about it; port 0 takes a free one.

    Raises:
        OSError: The port is taken, or the host is not one of this machine's.
    """
    sock = socket.create_server((host, port), backlog=1024, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.settimeout(0)
    return sock


def serve(simulator: Simulator, sock: socket.socket, *, anywhere: bool, facts: dict[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        simulator: What answers.
        sock: A bound and listening socket.
        anywhere: Whether webhooks may go to other machines.
        facts: What the first line of output tells beside the address.
    """
    config = uvicorn.Config(
        simulator,
        http=Protocol,
        loop="uvloop",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    host, port = sock.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(simulator, Server(config), sock, anywhere=anywhere, first={"address": address, **facts}))


async def _serve(
    simulator: Simulator, server: uvicorn.Server, sock: socket.socket, *, anywhere: bool, first: dict[str, Any]
) -> None:
    pump = Pump(simulator.world, anywhere=anywhere)
    works = [asyncio.create_task(clockwork(simulator)), asyncio.create_task(pump.run())]
    for work in works:
        # Without its clockwork or its webhooks the simulator would lie: it stops, and says why.
        work.add_done_callback(lambda done: _stop(server, done))
    sys.stdout.write(json.dumps(first) + "\n")
    sys.stdout.flush()
    try:
        await server.serve(sockets=[sock])
    finally:
        for work in works:
            work.cancel()
        results = await asyncio.gather(*works, return_exceptions=True)
        simulator.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _stop(server: uvicorn.Server, done: asyncio.Task[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        server.should_exit = True
