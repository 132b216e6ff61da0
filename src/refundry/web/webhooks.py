"""Where Stripe's webhooks come in: checked, stored, and only then answered. What they hint at is followed elsewhere.

This is the one route that strangers may call, so it is bare: limits first, whether there is a signature at all, then the signature over
the raw body, and only then is that read as JSON. A refusal tells a stranger nothing that its sender did not know.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping

import orjson
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from refundry.bootstrap import read_webhook, webhook_flaw
from refundry.inbox import service as inbox
from refundry.inbox.model import Door, Source
from refundry.inbox.rules import whose
from refundry.infra import logs
from refundry.infra.db import DatabaseUnusable
from refundry.infra.writer import Writer
from refundry.kernel.clock import Clock

# The largest event that we follow tells of a dispute, whose evidence may have 150,000 characters (stripe-facts 5.6).
BODY_MAX = 1024 * 1024
# Stripe gives up after some ten seconds itself (stripe-facts 5.3), and sends a body at once.
BODY_SECONDS = 10.0
JSON = "application/json"
# What every header has that may be right (`gateways.stripe.webhooks.flaw`); who does not even write that makes us keep no body.
MOMENT, SIGNATURE = re.compile(rb"t=[0-9]"), b"v1="

# Codes, each with its status and its sentence.
REFUSALS = {
    "webhook_account_unknown": (404, "no account here is reached by this path"),
    "webhook_secret_missing": (503, "no secret is set for the webhooks of this account; the event is to be sent again"),
    "content_type_wrong": (415, "an event is application/json"),
    "content_encoding_wrong": (415, "an event is not compressed"),
    "body_too_large": (413, f"an event has at most {BODY_MAX} bytes"),
    "body_too_slow": (408, f"the body has to be here within {BODY_SECONDS:g} seconds"),
    "body_broken_off": (400, "the body ended before its end"),
    "signature_wrong": (400, "the signature does not fit"),
    "event_unreadable": (400, "the body is no event"),
    "database_unusable": (503, "the event could not be stored; it is to be sent again"),
}
# The sender of these goes on sending what nobody will read.
CUT = frozenset({"body_too_large", "body_too_slow", "content_type_wrong", "content_encoding_wrong"})
STORED = Response(b'{"received":true}', media_type=JSON)


def _refusal(code: str, *, cut: bool) -> Response:
    status, title = REFUSALS[code]
    body = orjson.dumps({"status": status, "code": code, "title": title})
    headers = {"connection": "close"} if cut else None
    return Response(body, status, headers, media_type="application/problem+json")


class Intake:
    """The route.

    Args:
        doors: Where events come in: by account, and by an empty text for the path without one.
        writer: Commits events together.
        clock: Our time, which signatures are held against.
        woken: Called after the commit, with the account whose events wait to be followed.
        body_seconds: How long a body may take.
    """

    def __init__(
        self,
        doors: Mapping[str, Door],
        writer: Writer,
        clock: Clock,
        *,
        woken: Callable[[str], None] = lambda _: None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._doors = doors
        self._writer = writer
        self._clock = clock
        self._woken = woken
        self._body_seconds = body_seconds
        self._refusals = {code: _refusal(code, cut=code in CUT) for code in REFUSALS}
        self._unsigned = _refusal("signature_wrong", cut=True)
        # Since the start: events stored by account, and calls refused by code.
        self.stored: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def routes(self) -> list[Route]:
        """Tell its paths."""
        paths = ("/webhooks/stripe", "/webhooks/stripe/{account}")
        # With a slash at their end too: Starlette would answer with a redirect, which is a failed delivery to Stripe.
        return [Route(f"{path}{end}", self, methods=["POST"]) for path in paths for end in ("", "/")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call. By ASGI itself: with Starlette's request around it an event takes a sixth longer (`bench.intake`)."""
        response = await self.take(scope, receive)
        await response(scope, receive, send)

    async def take(self, scope: Scope, receive: Receive) -> Response:
        """Take an event in: a 2xx says that it is stored, and anything else that it is not."""
        door = self._doors.get(scope["path_params"].get("account", ""))
        if door is None:
            return self._refuse("webhook_account_unknown")
        if not door.secrets:
            return self._refuse("webhook_secret_missing", setting=door.setting)
        # Of several with one name the first counts.
        headers = dict(reversed(scope["headers"]))
        if code := _unfit(headers):
            return self._refuse(code)
        signature = headers.get(b"stripe-signature", b"")
        if SIGNATURE not in signature or MOMENT.search(signature) is None:
            self._refuse("signature_wrong", flaw="unreadable" if signature else "missing", setting=door.setting)
            return self._unsigned
        try:
            async with asyncio.timeout(self._body_seconds):
                body = await _body(receive)
        except TimeoutError:
            return self._refuse("body_too_slow")
        except _Refused as error:
            return self._refuse(error.code)
        flaw = webhook_flaw(door.secrets, signature.decode("latin-1"), body, self._clock.now())
        if flaw:
            return self._refuse("signature_wrong", flaw=flaw, setting=door.setting)
        return await self._store(door, body)

    async def _store(self, door: Door, body: bytes) -> Response:
        try:
            seen = read_webhook(body)
        except ValueError as error:
            return self._refuse("event_unreadable", error=str(error))
        account, stranger = whose(door, seen)
        try:
            await self._writer.put(lambda unit: inbox.collect(unit, account, seen, Source.WEBHOOK, stranger=stranger))
        except DatabaseUnusable as error:
            return self._refuse("database_unusable", error=error.message)
        self.stored[account] += 1
        if not stranger:
            self._woken(account)
        return STORED

    def _refuse(self, code: str, **why: str) -> Response:
        """Refuse; why exactly is for our log, not for who has called."""
        self.refused[code] += 1
        logs.logger().info("webhook.refused", code=code, **why)
        return self._refusals[code]


def _unfit(headers: Mapping[bytes, bytes]) -> str:
    """Tell by which code a call is refused before its body is read; nothing, if it is not."""
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON.encode():
        return "content_type_wrong"
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return "content_encoding_wrong"
    # The server has seen that it is a number.
    return "body_too_large" if int(headers.get(b"content-length", b"0")) > BODY_MAX else ""


class _Refused(Exception):  # noqa: N818  # never seen outside
    """A body that is not read to its end, with the code for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def _body(receive: Receive) -> bytes:
    """Read the body.

    Raises:
        _Refused: It is too long, or ends before its end.
    """
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused("body_broken_off")
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > BODY_MAX:
            raise _Refused("body_too_large")
        parts.append(part)
    return b"".join(parts)
