"""How the SDK's calls reach the network, and how their answers come back as they are: status, headers, body."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import stripe

# A host that does not take a connection within 10 s is not there; longer would only delay the honest "unsent".
CONNECT_SECONDS = 10.0
# A read can be repeated at will, so a slow one is given up before it holds up its row's lease for long.
READ_SECONDS = 30.0
# A send that is given up is in doubt, which costs looks and minutes: Stripe gets twice the time of a read.
SEND_SECONDS = 60.0
# As many as rows may be on their way over all accounts (`worker/main.py`): what is sent does not wait for a connection.
CONNECTIONS_MAX = 400


class Transport(stripe.HTTPClient):
    """The SDK's way to the network, over aiohttp. One per event loop, for all accounts (an aiohttp session knows one loop).

    Other than the SDK's own aiohttp client it has a timeout per kind of call, follows no redirect (a key goes to Stripe and
    nowhere else), and gives the connection back when reading a body fails. A GET on a kept connection that Stripe has closed
    meanwhile is sent once more by aiohttp itself; a POST never is.

    Args:
        read_seconds: How long a read may take in all.
        send_seconds: The same for everything else.
    """

    name = "aiohttp"

    def __init__(self, *, read_seconds: float = READ_SECONDS, send_seconds: float = SEND_SECONDS) -> None:
        """Keep the timeouts; the session is made by the first call, inside its loop."""
        super().__init__()
        self._read = aiohttp.ClientTimeout(total=read_seconds, connect=CONNECT_SECONDS)
        self._send = aiohttp.ClientTimeout(total=send_seconds, connect=CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        post_data: Any = None,  # noqa: ANN401  # the SDK's signature
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send one call; tells the body, the status and the headers."""
        session = self._session = self._session or self._opened()
        timeout = self._read if method == "get" else self._send
        async with session.request(
            method, url, headers=headers, data=post_data, timeout=timeout, allow_redirects=False
        ) as response:
            return await response.read(), response.status, response.headers

    def _opened(self) -> aiohttp.ClientSession:
        # Stripe's own bundle of authorities, as its SDK would use it: a bare container has none.
        trusted = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=trusted)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close_async(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class Answered(Exception):  # noqa: N818  # it is an answer, not an error
    """An answer on its way past the SDK; `parts` are status, headers and body as they came."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        """Keep the parts."""
        super().__init__(status)
        self.parts = (status, headers, content)


class Tap(stripe.HTTPClient):
    """Carries each answer past the SDK's reading, straight to whoever called.

    Args:
        inner: What carries the calls.
    """

    def __init__(self, inner: stripe.HTTPClient) -> None:
        """Keep what carries the calls."""
        super().__init__()
        self.name = inner.name  # type: ignore[misc]  # the SDK declares it for the class
        self._inner = inner

    async def request_async(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        post_data: Any = None,  # noqa: ANN401  # the SDK's signature
    ) -> NoReturn:
        """Send one call; never returns.

        Raises:
            Answered: It was answered, whatever the answer.
        """
        content, status, answered = await self._inner.request_async(method, url, headers, post_data)
        raise Answered(status, answered, content)
