"""The call to the order system: signed, timed, never redirected, and its answer read with caution."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
import orjson

import refundry
from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered, Outgoing
from refundry.connectors.orders_http.signing import headers, keys_of
from refundry.infra.http import refuse_inside_unit
from refundry.infra.logs import redacted
from refundry.infra.settings import OrderSettings, SettingsError
from refundry.kernel.clock import Clock

URL, SECRETS = "REFUNDRY_ORDERS__URL", "REFUNDRY_ORDERS__SECRETS"
# What is read of an answer's body, in bytes, and what of that is kept for a person, in characters: an answer says nothing that is needed.
BODY_MAX, TOLD_MAX = 4096, 200
CONNECTIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where the order system listens.

    Args:
        url: Its address.
        keys: What it is signed with.
    """

    url: str
    keys: tuple[bytes, ...] = field(repr=False)


def receiver_of(orders: OrderSettings, mode: str) -> Receiver | None:
    """Read the receiver from the settings; `None`, if there is none.

    Raises:
        SettingsError: `orders_url_wrong`, `orders_secret_wrong`, `orders_secret_missing`.
    """
    secrets = orders.secrets.get_secret_value() if orders.secrets is not None else ""
    if orders.url is None:
        return None
    _check_url(orders.url, mode)
    if not secrets.strip():
        raise SettingsError(
            f"{URL} is set and {SECRETS} is not: nothing is sent without a signature. `echo whsec_$(openssl rand -base64 32)` "
            "makes a secret; the receiver gets the same",
            code="orders_secret_missing",
            setting=SECRETS,
        )
    return Receiver(orders.url, keys_of(secrets, SECRETS))


def _check_url(url: str, mode: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _wrong("is no address") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _wrong("is no address that begins with https:// or http://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _wrong("holds a user, a password or a fragment, which are never sent; the signature says who calls")
    if mode == "live" and parts.scheme != "https" and not _loopback(parts.hostname):
        raise _wrong("begins with http:// in live mode, where only this machine may be told without https")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(what: str) -> SettingsError:
    return SettingsError(
        f"{URL} {what}: write it as https://shop.example/refunds", code="orders_url_wrong", setting=URL
    )


class HttpTarget:
    """Tells the order system over HTTP. One for each event loop.

    Args:
        receiver: Where it listens.
        clock: Dates each try.
        timeout_seconds: How long a call may take in all.
    """

    name = "http"

    def __init__(self, receiver: Receiver, *, clock: Clock, timeout_seconds: float) -> None:
        """Keep the parts; the session is made by `open`, inside its loop."""
        self._receiver = receiver
        self._clock = clock
        self.patience_seconds = timeout_seconds
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session, in the running loop."""
        self._opened()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # By default the system's authorities are trusted, among which a shop's own may be.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=self._timeout,
            )
        return self._session

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        """Send one message; any 2xx is a yes, whatever its body says."""
        refuse_inside_unit(f"POST {self._receiver.url}")
        body = orjson.dumps(message.envelope)
        told = headers(message.id, self._clock.now(), body, self._receiver.keys)
        told |= {"content-type": "application/json", "user-agent": f"refundry/{refundry.__version__}"}
        try:
            async with self._opened().post(
                self._receiver.url, data=body, headers=told, allow_redirects=False
            ) as response:
                return await _judged(response, self._clock.now())
        except TimeoutError:
            return NotDelivered(f"no answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # All that is said of what is no HTTP has the address in it, and so a token that may stand there.
            said = error.message if isinstance(error, aiohttp.ClientResponseError) else error
            return NotDelivered(plain(f"{type(error).__name__}: {said}"))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _judged(response: aiohttp.ClientResponse, now: float) -> DeliveryOutcome:
    status = f"HTTP {response.status}"
    if 200 <= response.status < 300:  # noqa: PLR2004  # HTTP
        return Delivered(status)
    if 300 <= response.status < 400:  # noqa: PLR2004  # HTTP
        return NotDelivered(f"{status}: redirects are not followed; set {URL} to where it leads")
    try:
        begun = await response.content.read(BODY_MAX)
    except (TimeoutError, aiohttp.ClientError, OSError):
        # The status has come: what it asks for holds without a body too.
        begun = b""
    said = plain(begun.decode("utf-8", "replace"))
    told = f"{status}: {said}" if said else status
    # Only with these two it is the receiver as a whole that wants a rest (RFC 9110, 15.6.4; RFC 6585, 4).
    wait = retry_after(response.headers.get("retry-after"), now) if response.status in {429, 503} else None
    return NotDelivered(told, retry_after_seconds=wait, gone=response.status == 410)  # noqa: PLR2004  # HTTP


def plain(text: str) -> str:
    """Cut a foreign text down to what can be shown: one short line, without control characters and secrets."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return redacted(line)[:TOLD_MAX]


def retry_after(value: str | None, now: float) -> float | None:
    """Read `Retry-After`: seconds, or a date (RFC 9110, 10.2.3); `None` where there is none that can be read.

    Args:
        value: The header.
        now: Epoch seconds UTC.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def targets_of(orders: OrderSettings, mode: str, clock: Clock) -> Sequence[HttpTarget]:
    """Make the target from the settings: none, if none is set.

    Raises:
        SettingsError: See `receiver_of`.
    """
    receiver = receiver_of(orders, mode)
    return () if receiver is None else (HttpTarget(receiver, clock=clock, timeout_seconds=orders.timeout_seconds),)
