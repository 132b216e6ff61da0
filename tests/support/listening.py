"""The intake of webhooks behind a real socket of loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from refundry.web.listening import config_of
from refundry.web.webhooks import Intake


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: they are the test's."""
        yield


@asynccontextmanager
async def listening(intake: Intake) -> AsyncIterator[str]:
    """Serve its routes as `refundry serve` does; tells the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as sock:
        server = _Server(config_of(Starlette(routes=intake.routes)))
        task = asyncio.create_task(server.serve(sockets=[sock]))
        host, port = sock.getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            await task
