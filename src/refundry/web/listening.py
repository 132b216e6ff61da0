"""How the web server listens: with little patience for callers who are slow on purpose, since anybody may call."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Nobody has to think before a request: its head is sent at once. The server's own time-out is for the pauses between requests.
HEAD_SECONDS = 10.0
# The heads of Stripe's calls have about five hundred bytes.
HEAD_MAX = 64 * 1024
# Far more than Stripe and a few people open at once.
CONNECTIONS_MAX = 2000
# A connection takes one of the process's files. So many are left to the database, to the calls to Stripe, and to what comes in.
FILES_BESIDE = 200


class Impatient(HttpToolsProtocol):
    """One connection: it is ended when its head does not come, and at once where there are too many."""

    connections_max = CONNECTIONS_MAX
    head_seconds = HEAD_SECONDS
    head_timer: asyncio.TimerHandle | None = None
    head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the server's own has it
        """Begin to wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.head_timer is not None:
            if self.head_bytes > HEAD_MAX:
                self.transport.abort()
                return
            self.head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Wait for the rest of the head; the first one is waited for already."""
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        self._wait_no_more()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.head_timer is None:
            self.head_bytes = 0
            self.head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


def config_of(app: Starlette) -> uvicorn.Config:
    """Tell the server what to serve, and how."""
    room = max(_files() - FILES_BESIDE, FILES_BESIDE)

    class Bounded(Impatient):
        connections_max = min(CONNECTIONS_MAX, room)

    # Without a configuration of its own it logs as all others do: with it, secrets would not be cut out.
    return uvicorn.Config(
        app, http=Bounded, log_config=None, log_level="warning", access_log=False, lifespan="off", server_header=False
    )


def _files() -> int:
    """Take as many files for this process as it may have; tells how many that are."""
    wanted = CONNECTIONS_MAX + FILES_BESIDE
    if sys.platform == "win32":
        return wanted
    import resource  # not there on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > wanted:
        hard = wanted
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else wanted
