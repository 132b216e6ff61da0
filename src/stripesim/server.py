"""The simulator as a server: its connections, the clockwork that lets due things happen, and the webhooks.

Uvicorn reads HTTP, watches the connections and ends in order. Between a whole request and its answer there is no ASGI: a
simulator slower than what it measures measures itself.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stripesim import api
from stripesim.api import Answer, Request
from stripesim.app import Simulator, body_max, half, too_large
from stripesim.errors import internal
from stripesim.webhooks import Pump

# How often the clockwork looks for due work: a tenth of the shortest delay that a person could notice.
TICK_SECONDS = 0.02
RESET = struct.pack("ii", 1, 0)


STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Protocol(HttpToolsProtocol):
    """A connection: whole requests, answered one after another in the order in which they came."""

    def __init__(self, config: uvicorn.Config, *args: Any, **more: Any) -> None:  # noqa: ANN401  # uvicorn's own
        """Begin with no request."""
        super().__init__(config, *args, **more)
        self._simulator: Simulator = config.app  # type: ignore[assignment]  # `serve` put it there
        self._waiting: deque[tuple[Request | None, bool]] = deque()
        self._answering = False
        self._ending = False

    # What the parser finds

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url = b""
        self.headers = []
        self._fields: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of several with one name, the last counts."""
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Read whom the request is for, and let a caller go on that waits to send its body."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("latin-1")
        self._path = unquote(path) if "%" in path else path
        self._query = (url.query or b"").decode("latin-1")
        self._most = body_max(self._path)
        if self._fields.get("expect", "").lower() == "100-continue" and not self._answering:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; of one that is too large, no more than shows that."""
        if self._size <= self._most:
            self._size += len(body)
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Let the request be answered, after those that came before it."""
        method, body = self.parser.get_method().decode("ascii"), b"".join(self._parts)
        request = Request(method, self._path, self._query, self._fields, body) if self._size <= self._most else None
        stays = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._waiting.append((request, stays))
        if self._answering:
            self.flow.pause_reading()
            return
        self._answering = True
        task = self.loop.create_task(self._answer())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # What is answered

    async def _answer(self) -> None:
        """Answer what waits. A call goes on, and what it does is done, also when its caller went away."""
        try:
            while self._waiting and not self.transport.is_closing():
                request, stays = self._waiting.popleft()
                answer = too_large() if request is None else await self._simulator.answer(request)
                await self.flow.drain()
                self._write(answer, bare=request is not None and request.method == "HEAD", last=not stays)
        except Exception:
            self.logger.exception("A call was not answered")
            self._write(Answer(500, api.encoded(internal().body()), {}), bare=False, last=True)
        finally:
            self._answering = False
            self._waiting.clear()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _write(self, answer: Answer, *, bare: bool, last: bool) -> None:
        if answer.cut == "crash":
            api.die()
        if self.transport.is_closing():
            return
        if answer.cut.startswith("reset"):
            with suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
            return
        last = last or self._ending or bool(answer.cut)
        if answer.cut != "drop":
            head = self._simulator.head(answer)
            if last and not answer.cut:
                head.append(("connection", "close"))
            lines = STATUS_LINES[answer.status] + "".join([f"{name}: {value}\r\n" for name, value in head]) + "\r\n"
            body = b"" if bare else half(answer) if answer.cut else answer.body
            self.transport.write(lines.encode("latin-1", "replace") + body)
        self.server_state.total_requests += 1
        if last:
            self.transport.close()

    def shutdown(self) -> None:
        """End, after what is being answered."""
        self._ending = True
        if not self._answering:
            self.transport.close()


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
