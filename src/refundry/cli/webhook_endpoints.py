"""Webhook endpoints at Stripe: made, shown, and replaced by one with a new secret.

Stripe's API has no call that rolls a secret (stripe-facts 5.6): a second endpoint of the same address is made, both secrets are
set, and the first one is deleted. In between every event comes twice, and is stored once.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from refundry import bootstrap
from refundry.bootstrap import Desk, Seat
from refundry.cli import output, session
from refundry.gateways.base import NewEndpoint, SeenEndpoint
from refundry.inbox.model import HANDLED
from refundry.infra import loop
from refundry.kernel.errors import UsageError

Result = TypeVar("Result")
PATH = "/webhooks/stripe"
# Behind whatever path a proxy has for us.
ENDS = re.compile(rf".*{PATH}(/[^/]+)?/?")
PORTS = {"http": 80, "https": 443}


class EndpointRefused(UsageError):  # noqa: N818  # read in a sentence
    """An endpoint that is not made or deleted: `endpoint_exists`, `endpoint_missing`, `endpoint_needed`, `endpoint_of_platform`."""

    code = "endpoint_exists"


def address(url: str, *, live: bool) -> str:
    """See that Stripe can call an address and we answer there; without a path it gets ours.

    Raises:
        UsageError: `url_wrong`.
    """
    try:
        parts = urlsplit(url.strip())
        well = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well or "@" in parts.netloc or parts.query or parts.fragment:
        raise _wrong(url, "is no address that Stripe can call: write it as in https://refunds.example.com")
    if live and parts.scheme != "https":
        raise _wrong(url, "is not encrypted, and live events go to https:// only")
    path = parts.path.rstrip("/") or PATH
    if not ENDS.fullmatch(path):
        raise _wrong(url, f"leads elsewhere: Refundry answers at {PATH}, and {PATH}/acct_… with several accounts")
    return f"{_place(parts)}{path}"


def _place(parts: SplitResult) -> str:
    """Tell scheme, host and port in the one way in which they are written: in small letters, without a port that the scheme means anyway."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, PORTS.get(parts.scheme)} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _wrong(url: str, why: str) -> UsageError:
    return UsageError(f"{url:.200} {why}", code="url_wrong")


def own_address(url: str, seat: Seat) -> str:
    """Lead to the seat's own door: a further account's secret is not taken at the path without an account."""
    return f"{url}/{seat.account.id}" if seat.access.name and url.endswith(PATH) else url


def lacks(endpoint: SeenEndpoint, api_version: str, further: str = "") -> list[str]:
    """Tell what an endpoint of ours lacks; nothing, if it is as `register` makes it.

    Args:
        endpoint: As Stripe shows it.
        api_version: What is read here.
        further: The `acct_…` of a further account; empty for the primary one.
    """
    lost = [] if "*" in endpoint.events else sorted(HANDLED - set(endpoint.events))
    amiss = [] if endpoint.enabled else ["it is disabled"]
    if endpoint.api_version != api_version:
        amiss.append(f"it is of API {endpoint.api_version or 'the default of the account'}, not {api_version}")
    if further and urlsplit(endpoint.url).path.rstrip("/").endswith(PATH):
        amiss.append(f"its address is the primary account's, and that of this one ends with {PATH}/{further}")
    if lost:
        amiss.append(f"{', '.join(lost)} {'are' if len(lost) > 1 else 'is'} not sent")
    return amiss


def ours(endpoint: SeenEndpoint) -> bool:
    """Tell whether an endpoint leads to where Refundry answers."""
    return ENDS.fullmatch(urlsplit(endpoint.url).path) is not None


def _same(endpoint: SeenEndpoint, url: str) -> bool:
    parts = urlsplit(endpoint.url)
    try:
        there = f"{_place(parts)}{parts.path.rstrip('/')}"
    except ValueError:
        # Whatever else is written there, it is no address of ours.
        return False
    return there.lower() == url.lower() and not parts.query


def _at_seat(account: str | None, work: Callable[[Desk, Seat], Awaitable[Result]]) -> Result:
    """Open everything for one account."""

    async def run() -> Result:
        async with bootstrap.desk(session.settings(), account=account) as desk:
            return await work(desk, desk.seat)

    return loop.run(run())


def _about(seat: Seat) -> str:
    """Tell which account a command to copy is about, where several are set."""
    return session.about(seat.account.id, several=len(session.settings().accesses) > 1)


def register(url: str, account: str | None, *, connect: bool, as_json: bool) -> int:
    """Make an endpoint.

    Raises:
        UsageError: `url_wrong`.
        EndpointRefused: `endpoint_exists`, `endpoint_of_platform`.
    """

    async def work(desk: Desk, seat: Seat) -> tuple[Seat, NewEndpoint]:
        to = _allowed(seat, url)
        if same := [one.id for one in await seat.gateway.endpoints() if _same(one, to)]:
            raise EndpointRefused(
                f"{same[0]} sends to {to} already: `refundry webhooks rotate {to}{_about(seat)}` replaces it by one with a new secret",
                endpoint=same[0],
            )
        return seat, await _made(desk, seat, to, connect=connect)

    seat, made = _at_seat(account, work)
    if as_json:
        output.as_json(_facts(seat, made))
        return output.DONE
    output.line(
        f"{made.endpoint.id} sends {output.counted(len(made.endpoint.events), 'type')} of events to {made.endpoint.url}"
    )
    _tell_secret(seat, made)
    output.say(
        f"then start `refundry serve` again, and try it: refundry webhooks test {made.endpoint.url}{_about(seat)}"
    )
    return output.DONE


def _allowed(seat: Seat, url: str) -> str:
    if seat.access.connected is not None:
        raise EndpointRefused(
            f"{seat.account.id} is reached through its platform, and so are its events: leave --account out, and write --connect",
            code="endpoint_of_platform",
            option="--account",
        )
    return own_address(address(url, live=seat.account.mode == "live"), seat)


async def _made(desk: Desk, seat: Seat, url: str, *, connect: bool) -> NewEndpoint:
    return await seat.gateway.register_endpoint(url, sorted(HANDLED), connect=connect, key=f"endpoint.{desk.ids.new()}")


def _facts(seat: Seat, made: NewEndpoint) -> dict[str, Any]:
    return {
        "endpoint": made.endpoint.id,
        "url": made.endpoint.url,
        "api_version": made.endpoint.api_version,
        "events": list(made.endpoint.events),
        "setting": seat.access.setting("webhook_secret"),
        "secret": made.secret,
    }


def _tell_secret(seat: Seat, made: NewEndpoint) -> None:
    setting, secrets = seat.access.setting("webhook_secret"), seat.access.webhook_secrets
    beside = ", beside the one that is set already" if secrets else ""
    output.say(f"its secret, which is told only now; set it{beside}:")
    output.line(f"{setting}={f'${setting},' if secrets else ''}{made.secret}")


def show_all(account: str | None, *, as_json: bool) -> int:
    """Show the endpoints of an account."""

    async def work(_: Desk, seat: Seat) -> tuple[Seat, Sequence[SeenEndpoint]]:
        return seat, await seat.gateway.endpoints()

    seat, found = _at_seat(account, work)
    further = seat.account.id if seat.access.name else ""
    told = [(one, lacks(one, seat.gateway.api_version, further) if ours(one) else []) for one in found]
    if as_json:
        rows = [
            {
                "endpoint": one.id, "url": one.url, "enabled": one.enabled, "api_version": one.api_version,
                "events": list(one.events), "ours": ours(one), "lacks": amiss,
            }
            for one, amiss in told
        ]  # fmt: skip
        output.as_json({"endpoints": rows, "secrets": len(seat.access.webhook_secrets)})
        return output.DONE
    if not found:
        output.line(
            f"There are none: `refundry webhooks register URL{_about(seat)}` makes one; without, changes are found by polling."
        )
        return output.DONE
    words = [
        [one.id, one.url, "enabled" if one.enabled else "disabled", "; ".join(amiss) or ("well" if ours(one) else "not ours")]
        for one, amiss in told
    ]  # fmt: skip
    output.table(["endpoint", "url", "status", "for Refundry"], words)
    return output.DONE


def rotate(url: str, account: str | None, *, connect: bool, as_json: bool) -> int:
    """Make a second endpoint of an address, which is to replace the first.

    Raises:
        UsageError: `url_wrong`.
        EndpointRefused: `endpoint_missing`: there is none to replace; `endpoint_exists`: it has a second one already; `endpoint_of_platform`.
    """

    async def work(desk: Desk, seat: Seat) -> tuple[Seat, SeenEndpoint, NewEndpoint]:
        to = _allowed(seat, url)
        same = [one for one in await seat.gateway.endpoints() if _same(one, to)]
        if not same:
            text = f"no endpoint sends to {to}: `refundry webhooks register {to}{_about(seat)}` makes one"
            raise EndpointRefused(text, code="endpoint_missing")
        if len(same) > 1:
            told = " and ".join(one.id for one in same)
            raise EndpointRefused(
                f"{told} send to {to}: delete the one whose secret is not to be used any more with `refundry webhooks rotate {to} --retire ENDPOINT{_about(seat)}`"
            )
        return seat, same[0], await _made(desk, seat, to, connect=connect)

    seat, old, made = _at_seat(account, work)
    if as_json:
        output.as_json({**_facts(seat, made), "replaces": old.id})
        return output.DONE
    output.line(
        f"{made.endpoint.id} sends to {made.endpoint.url} beside {old.id}; every event comes twice now, and is stored once"
    )
    _tell_secret(seat, made)
    output.say(
        f"then start `refundry serve` again, and when it has taken events in: refundry webhooks rotate {made.endpoint.url} --retire {old.id}{_about(seat)}"
    )
    return output.DONE


def retire(url: str, endpoint: str, account: str | None, *, as_json: bool) -> int:
    """Delete an endpoint that another one has replaced.

    Raises:
        EndpointRefused: `endpoint_missing`: it does not send there; `endpoint_needed`: no other one does.
    """

    async def work(_: Desk, seat: Seat) -> str:
        to = _allowed(seat, url)
        same = [one for one in await seat.gateway.endpoints() if _same(one, to)]
        if endpoint not in {one.id for one in same}:
            text = f"{endpoint:.80} does not send to {to}: `refundry webhooks list{_about(seat)}` shows what there is"
            raise EndpointRefused(text, code="endpoint_missing")
        if not any(one.enabled for one in same if one.id != endpoint):
            raise EndpointRefused(
                f"no other endpoint sends to {to}: make its successor first, with `refundry webhooks rotate {to}{_about(seat)}`",
                code="endpoint_needed",
            )
        await seat.gateway.delete_endpoint(endpoint)
        return seat.access.setting("webhook_secret")

    setting = _at_seat(account, work)
    if as_json:
        output.as_json({"deleted": endpoint, "setting": setting})
    else:
        output.line(f"{endpoint} is deleted; its secret can be taken out of {setting}")
    return output.DONE
