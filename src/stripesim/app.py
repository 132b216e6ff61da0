"""The ASGI application: reads a call, hands it to `/v1` or `/_sim`, and writes the answer, or fails the way a plan says.

It runs inside a test without a socket, and as a server (`stripesim.server`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from stripesim import api, registry, webhooks
from stripesim.api import Answer, Api, Request
from stripesim.clock import Clock
from stripesim.control import BODY_MAX as CONTROL_MAX
from stripesim.control import Control
from stripesim.errors import ConnectionLost
from stripesim.limits import NAMED, Limits
from stripesim.store import Store
from stripesim.world import World

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
BODY_MAX = 1_000_000
Head = list[tuple[str, str]]


class Simulator:
    """A Stripe that remembers.

    Args:
        seed: What ids and chances are derived from.
        state: The state file, or an empty string for a private one that ends with the process.
        clock: The world's time.
        limits: What the limiters let through.
        monotonic: The limiters' clock, in seconds; the event loop's own in tests with virtual time.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        state: str = "",
        clock: Clock | None = None,
        limits: Limits = NAMED["none"],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the state and begin to answer."""
        columns = {name: kind.columns for name, kind in registry.KINDS.items()}
        searchable = [name for name, kind in registry.KINDS.items() if kind.searchable]
        self.store = Store(state, columns, searchable)
        self.world = World(self.store, clock or Clock(), seed)
        self.world.listeners = (lambda scope, event: webhooks.enlist(self.world, scope, event),)
        self.api = Api(self.world, limits, monotonic)
        self.control = Control(self.world, self.api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        most = body_max(scope["path"])
        body = await _body(receive, most)
        if body is None:
            # The caller went away amid its request: half a request is none.
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers, body)
        await self._send(await self.answer(request) if len(body) <= most else too_large(), send)

    async def answer(self, request: Request) -> Answer:
        """Answer one call."""
        if request.path.startswith("/_sim"):
            return self.control.answer(request)
        return await self.api.answer(request)

    def close(self) -> None:
        """Put the clock by, and close the state."""
        self.store.keep("clock", self.world.clock.state())
        self.store.keep("fault_counts", self.api.faults.counts())
        self.store.close()

    async def _send(self, answer: Answer, send: Send) -> None:
        if answer.cut == "crash":
            api.die()
        if answer.cut not in {"", "truncate"}:
            raise ConnectionLost(answer.cut)
        head = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in self.head(answer)]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        if answer.cut:
            await send({"type": "http.response.body", "body": half(answer), "more_body": True})
            raise ConnectionLost(answer.cut)
        await send({"type": "http.response.body", "body": answer.body})

    def head(self, answer: Answer) -> Head:
        """Tell the headers of an answer, names in lower case."""
        return [
            ("server", "nginx"),
            ("date", _date(self.world.clock.seconds())),
            ("content-type", "application/json"),
            ("content-length", str(len(answer.body))),
            *((name.lower(), value) for name, value in answer.headers.items()),
        ]


@lru_cache(maxsize=1)
def _date(moment: int) -> str:
    return formatdate(moment, usegmt=True)


def half(answer: Answer) -> bytes:
    """Tell what arrives of a body that is truncated."""
    return answer.body[: len(answer.body) // 2]


def body_max(path: str) -> int:
    """Tell how many bytes a call may carry; snapshots and charges go to the control API."""
    return CONTROL_MAX if path.startswith("/_sim") else BODY_MAX


def too_large() -> Answer:
    """Refuse a call that carries more."""
    error = {"message": "The request body is too large.", "type": "invalid_request_error"}
    return Answer(413, api.encoded({"error": error}), {})


async def _body(receive: Receive, most: int) -> bytes | None:
    """Read the body; `None` if the caller went away, and a little more than `most` if there is more."""
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False) and size <= most
    return b"".join(chunks)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
