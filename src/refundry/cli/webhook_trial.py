"""A webhook that we send ourselves, signed as Stripe signs: of a type that changes nothing, and looked for in the database; or, for the doctor, none at all."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from refundry import bootstrap
from refundry.bootstrap import Desk
from refundry.cli import output, session
from refundry.cli.webhook_endpoints import address, own_address
from refundry.connectors.base import visible
from refundry.inbox import service as inbox
from refundry.inbox.model import Event, NoSuchEvent
from refundry.infra import loop
from refundry.infra.http import refuse_inside_unit
from refundry.kernel.errors import RefundryError, UsageError

TYPE = "refundry.test"
PATIENCE_SECONDS = 15.0
# The doctor looks at much else, and has a bounded time for all of it.
PROBE_SECONDS = 5.0
# Signed well it is refused as no event, and badly as badly signed: either way nothing is stored.
NO_EVENT = b"{}"
STATUS_OK = 200


class WebhookFailed(RefundryError):  # noqa: N818  # read in a sentence
    """The event did not arrive: `webhook_unreachable`, `webhook_refused`, `webhook_not_stored`."""

    code = "webhook_unreachable"


def run(url: str, account: str | None, *, as_json: bool) -> int:
    """Send the event and look for it.

    Raises:
        UsageError: `url_wrong`, `webhook_secret_missing`.
        WebhookFailed: Something on its way is wrong.
    """

    async def sent() -> tuple[str, Event]:
        async with bootstrap.desk(session.settings(), account=account) as desk:
            return await _tried(desk, url)

    to, event = loop.run(sent())
    if as_json:
        output.as_json({"ok": True, "url": to, "event": event.id, "account": event.account})
    else:
        output.line(f"{to} takes events in: {event.id} was stored, and changes nothing")
    return output.DONE


async def _tried(desk: Desk, url: str) -> tuple[str, Event]:
    seat = desk.seat
    # To another machine over an open line: a person's own test, which carries no secret.
    to = own_address(address(url, live=False), seat)
    setting = seat.access.setting("webhook_secret")
    if not seat.access.webhook_secrets:
        raise UsageError(
            f"no secret is set: set {setting} to the one that `refundry webhooks register` told",
            code="webhook_secret_missing",
            setting=setting,
        )
    event = f"evt_refundry{desk.ids.new().replace('-', '')}"
    body = _body(event, live=seat.account.mode == "live", now=desk.clock.now())
    # The newest secret is the one that has to prove itself; it is written last.
    header = bootstrap.sign_webhook(seat.access.webhook_secrets[-1], body, desk.clock.now())
    status, answer = await _posted(to, body, header, PATIENCE_SECONDS)
    if status != STATUS_OK:
        raise _refused(to, status, answer, setting)
    with desk.database.reading() as unit:
        try:
            return to, inbox.find(unit, event, seat.account.name)
        except NoSuchEvent as error:
            raise WebhookFailed(
                f"{to} took {event}, which is not in this database: another installation answers there, or it has another database",
                code="webhook_not_stored",
            ) from error


async def probe(url: str, secret: str, setting: str, now: float) -> WebhookFailed | None:
    """See whether Refundry answers at an address and takes a secret, without an effect there; tells what is wrong.

    Args:
        url: As an endpoint at Stripe has it.
        secret: One of those that are set.
        setting: The variable that holds them.
        now: Epoch seconds.
    """
    header = bootstrap.sign_webhook(secret, NO_EVENT, now)
    try:
        status, answer = await _posted(url, NO_EVENT, header, PROBE_SECONDS)
    except WebhookFailed as error:
        return error
    # Only who found the signature right has looked whether it is an event.
    return None if "event_unreadable" in answer else _refused(url, status, answer, setting)


def _refused(url: str, status: int, answer: str, setting: str) -> WebhookFailed:
    # Whoever answers there writes what a terminal might obey.
    text = f"{url} answered {status} ({visible(answer[:200])}): {_advice(answer, setting)}"
    return WebhookFailed(text, code="webhook_refused", status=status)


def _advice(answer: str, setting: str) -> str:
    if "signature_wrong" in answer:
        return f"it was started with another {setting}, or its clock is wrong; start it again, or run `refundry doctor` there"
    if "webhook_secret_missing" in answer:
        return f"it was started without {setting}; set it there, and start it again"
    return "see that Refundry answers there, and not something before it"


def _body(event: str, *, live: bool, now: float) -> bytes:
    body: dict[str, Any] = {
        "id": event, "object": "event", "type": TYPE, "livemode": live, "created": int(now), "account": None,
        "data": {"object": {"id": "test", "object": TYPE}}, "request": {"id": None, "idempotency_key": None},
    }  # fmt: skip
    return orjson.dumps(body)


async def _posted(url: str, body: bytes, header: str, seconds: float) -> tuple[int, str]:
    refuse_inside_unit("a test of the webhooks")
    headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": header}
    limit = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as http,
            http.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, (await answer.content.read(1000)).decode(errors="replace")
    except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as error:
        # The last is of a host that no name server can be asked for, as in https://desk..example.
        why = visible(str(error)) or f"no answer within {seconds:g} s"
        raise WebhookFailed(f"{url} cannot be reached ({why}): start `refundry serve`, or name its address") from error
