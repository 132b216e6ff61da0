"""Calls to Stripe for one account in one mode. The SDK writes each call; we read each answer ourselves.

The SDK's own reading is left out on purpose. Its exceptions lose the code of most errors, and the headers of bodies that
are not Stripe's; it warns aloud about notices in headers; its objects cost 0.65 ms per charge. Its retries are off: each try
is one of ours, with a slot of its own, and can be seen.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import stripe

from refundry.gateways.base import (
    GatewayError,
    Look,
    NewEndpoint,
    RefundBody,
    Right,
    SeenAccount,
    SeenCharge,
    SeenDispute,
    SeenEndpoint,
    SeenEvent,
    SeenWarning,
    Slots,
    Trouble,
)
from refundry.gateways.stripe import errors, mapping, webhooks
from refundry.gateways.stripe.mapping import Json, Unreadable
from refundry.gateways.stripe.transport import Answered, Tap, Transport
from refundry.infra.http import refuse_inside_unit
from refundry.kernel.clock import Clock
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome, SeenRefund

# What was recorded and is mapped here (stripe-facts, head); never the account's default, which others can change.
STRIPE_VERSION = "2026-08-26.dahlia"
STRIPE_API = "https://api.stripe.com"
# Three tries with these waits between them ride out a restart of a load balancer; longer trouble is the row's to wait for.
READ_WAITS_SECONDS = (0.5, 2.0)
# With one call in five turned away, eight tries fail once in 390,000 calls; more would hide a limit that is set too high.
LIMITED_TRIES_MAX = 8
# An object that another call holds is free again within moments, and so is a limit that no budget slows down for; each further wait is
# one of these longer.
LOCK_WAIT_SECONDS = 0.25
PAGE = 100
# A million entries: more than any window or charge has; only a list that never ends gets there.
PAGES_MAX = 10_000
# A thousand charges of one order are a wrong order key, not an order.
SEARCH_PAGES_MAX = 10
DAY_SECONDS = 86_400
# No account waits longer for its money; an answer that says so for more days is no reason to ask on.
LEAVING_DAYS_MAX = 31
# Of so many refunds it is seen whether they have left the balance: the latest may have no balance transaction yet.
FEW = 10
NO_ANSWER = (stripe.APIConnectionError, aiohttp.ClientError, OSError, TimeoutError)

ACCOUNT = "GET /v1/account"
BALANCE = "GET /v1/balance"
BALANCE_TRANSACTIONS = "GET /v1/balance_transactions"
CHARGE = "GET /v1/charges/{charge}"
CHARGES = "GET /v1/charges"
CHARGE_SEARCH = "GET /v1/charges/search"
DISPUTES = "GET /v1/disputes"
EVENTS = "GET /v1/events"
FRAUD_WARNINGS = "GET /v1/radar/early_fraud_warnings"
PAYMENT_INTENT = "GET /v1/payment_intents/{intent}"
PAYMENT_INTENTS = "GET /v1/payment_intents"
PAYMENT_INTENT_CANCEL = "POST /v1/payment_intents/{intent}/cancel"
REFUND = "GET /v1/refunds/{refund}"
REFUNDS = "GET /v1/refunds"
REFUND_CANCEL = "POST /v1/refunds/{refund}/cancel"
SEND = "POST /v1/refunds"
WEBHOOK_ENDPOINTS = "GET /v1/webhook_endpoints"
WEBHOOK_ENDPOINT_MAKE = "POST /v1/webhook_endpoints"
WEBHOOK_ENDPOINT_DELETE = "DELETE /v1/webhook_endpoints/{webhook_endpoint}"
# All of them: a limit of any other is a slip of the pen.
OPERATIONS = frozenset(
    {
        ACCOUNT, BALANCE, BALANCE_TRANSACTIONS, CHARGE, CHARGES, CHARGE_SEARCH, DISPUTES, EVENTS, FRAUD_WARNINGS, PAYMENT_INTENT, PAYMENT_INTENTS,
        PAYMENT_INTENT_CANCEL, REFUND, REFUNDS, REFUND_CANCEL, SEND, WEBHOOK_ENDPOINTS, WEBHOOK_ENDPOINT_MAKE, WEBHOOK_ENDPOINT_DELETE,
    }
)  # fmt: skip
# Well-formed, and nobody's: Stripe's own ids are longer.
NO_CHARGE, NO_INTENT = "ch_refundrydoctor", "pi_refundrydoctor"
ONE: Json = {"limit": 1}
# A call for each right that has no effect whether the right is there or not: a list of one, or a change to what does not exist, which
# Stripe refuses as such only after it has seen that the key may change it.
ASKED: dict[Right, tuple[str, str, Json]] = {
    Right.ACCOUNT_READ: (ACCOUNT, "/v1/account", {}),
    Right.CHARGE_READ: (CHARGES, "/v1/charges", ONE),
    Right.REFUND_READ: (REFUNDS, "/v1/refunds", ONE),
    Right.REFUND_WRITE: (SEND, "/v1/refunds", {"charge": NO_CHARGE, "amount": 1}),
    Right.DISPUTE_READ: (DISPUTES, "/v1/disputes", ONE),
    Right.PAYMENT_INTENT_READ: (PAYMENT_INTENTS, "/v1/payment_intents", ONE),
    Right.PAYMENT_INTENT_WRITE: (PAYMENT_INTENT_CANCEL, f"/v1/payment_intents/{NO_INTENT}/cancel", {}),
    Right.BALANCE_READ: (BALANCE, "/v1/balance", {}),
    Right.BALANCE_TRANSACTION_READ: (BALANCE_TRANSACTIONS, "/v1/balance_transactions", ONE),
    Right.EVENT_READ: (EVENTS, "/v1/events", ONE),
    Right.RADAR_READ: (FRAUD_WARNINGS, "/v1/radar/early_fraud_warnings", ONE),
    Right.WEBHOOK_READ: (WEBHOOK_ENDPOINTS, "/v1/webhook_endpoints", ONE),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class StripeGateway:
    """The payment port (`gateways.base.PaymentGateway`), spoken to Stripe.

    Args:
        key: A secret or restricted key; never part of a text.
        api_base: Another address than Stripe's, as of the simulator.
        account: A connected account, on which every call is made (`Stripe-Account`).
        clock: Times the looks, and waits between tries.
        slots: Where each call takes its slot; `send` takes none.
        http_client: Carries the calls, and is the caller's to close; without it the gateway has its own.
        order_key: The metadata key that holds the order id on charges.
        key_by: The variable that sets the key, for who has to mend it.

    Raises:
        InvariantViolated: A live key and another address than Stripe's.
    """

    def __init__(
        self,
        key: str,
        *,
        api_base: str | None,
        account: str | None,
        clock: Clock,
        slots: Slots,
        http_client: stripe.HTTPClient | None = None,
        order_key: str = "order_id",
        key_by: str = "STRIPE_SECRET_KEY",
    ) -> None:
        """Keep the parts; nothing is sent."""
        base = (api_base or STRIPE_API).rstrip("/")
        if mapping.LIVE_KEY.match(key) and base != STRIPE_API:
            # The settings refuse this too, with advice; a key that has left cannot be called back.
            raise InvariantViolated(
                f"a live key was about to be used with {base}: it goes to Stripe only", code="live_key_to_other_base"
            )
        # With its telemetry on, the SDK writes an id into the user's home and tells Stripe about the machine.
        stripe.enable_telemetry = False
        self._own: Transport | None = None
        if http_client is None:
            http_client = self._own = Transport()
        self._client = stripe.StripeClient(
            key,
            stripe_account=account,
            stripe_version=STRIPE_VERSION,
            base_addresses={"api": base},
            max_network_retries=0,
            http_client=Tap(http_client),
        )
        self._key = key
        self._clock = clock
        self._slots = slots
        self._order_key = order_key
        self._key_by = key_by
        self._heard: tuple[float, float] | None = None

    @property
    def api_version(self) -> str:
        """Tell the version that every call names."""
        return STRIPE_VERSION

    def stripe_now(self) -> float | None:
        """Tell Stripe's time, in epoch seconds: its last `Date`, and what has passed since; `None` before the first answer."""
        if self._heard is None:
            return None
        date, boot = self._heard
        return date + self._clock.boot_seconds() - boot

    # Reads

    async def account(self) -> SeenAccount:
        """Tell whose key this is."""
        read, _ = await self._call(ACCOUNT, Lane.DESK, "/v1/account", what="the key's account")
        with _readable(ACCOUNT, "the key's account"):
            return mapping.account_of(read, self._key)

    async def balance(self) -> dict[str, int]:
        """Tell what is available, in minor units per currency."""
        read, _ = await self._call(BALANCE, Lane.DESK, "/v1/balance", what="the balance")
        with _readable(BALANCE, "the balance"):
            return mapping.available_of(read)

    async def leaving_since(self) -> float:
        """Tell since when refunds were made whose money is still shown as available (stripe-facts 6).

        It leaves at a midnight UTC, some days later: how many is the account's own, and is told by the refunds of the days before.
        """
        what, now = "when refunds leave the balance", self.stripe_now()
        now = self._clock.now() if now is None else now
        since = int(now // DAY_SECONDS * DAY_SECONDS)
        for _ in range(LEAVING_DAYS_MAX):
            params: Json = {"created": {"lt": since}, "limit": FEW, "expand": ["data.balance_transaction"]}
            read, _ = await self._call(REFUNDS, Lane.DESK, "/v1/refunds", params, what=what)
            with _readable(REFUNDS, what):
                entries, _ = mapping.page_of(read)
                booked = [at for at in map(mapping.available_on, entries) if at is not None]
            if not entries or (booked and max(booked) <= now):
                break
            since -= DAY_SECONDS
        return float(since)

    async def look(self, charge: str, lane: Lane, *, fees: bool = False) -> Look:
        """Read a charge, all its refunds and its disputes: one call for most charges.

        With `fees` what Stripe kept for it too, which a restricted key needs a right of its own for.
        """
        path = f"/v1/charges/{_checked(charge)}"
        expand = ["refunds", "balance_transaction"] if fees else ["refunds"]
        read, sent_at = await self._call(CHARGE, lane, path, {"expand": expand}, what=charge)
        with _readable(CHARGE, charge):
            if read.get("id") != charge:
                raise Unreadable(f"asked for {charge}, got {read.get('id')!r:.80}")
            return await self._completed(read, sent_at, lane)

    async def charges(self, since: float, until: float, *, fees: bool = False) -> AsyncIterator[Sequence[Look]]:
        """List the charges that were created in a time window (epoch seconds, both ends included), page by page, newest first.

        Stripe counts whole seconds, so the window is widened to them.
        """
        created = _window(since, until)
        expand = ["data.refunds", "data.balance_transaction"] if fees else ["data.refunds"]
        params: Json = {"created": created, "expand": expand}
        async for page, sent_at in self._pages(CHARGES, "/v1/charges", Lane.BULK, params, what="the charges"):
            with _readable(CHARGES, "the charges"):
                looks = [await self._completed(raw, sent_at, Lane.BULK) for raw in page]
            yield looks

    async def _completed(self, raw: Json, began_at: float, lane: Lane) -> Look:
        """Add what a charge's own JSON leaves out: refunds beyond its first ten, and disputes."""
        charge = mapping.charge_of(raw)
        first, more = mapping.page_of(raw.get("refunds"))
        entries = {entry["id"]: entry for entry in first}
        if more:
            after = first[-1]["id"] if first else None
            params = {"charge": charge.id}
            async for page, _ in self._pages(REFUNDS, "/v1/refunds", lane, params, what=charge.id, after=after):
                entries |= {entry["id"]: entry for entry in page}
        refunds = tuple(mapping.refund_of(entry) for entry in entries.values())
        if strange := [refund.id for refund in refunds if refund.charge != charge.id]:
            raise Unreadable(f"{strange[0]} was listed for {charge.id}, and is of another charge")
        return Look(charge, refunds, await self._disputes(charge, lane), began_at)

    async def _disputes(self, charge: SeenCharge, lane: Lane) -> tuple[SeenDispute, ...]:
        if not charge.disputed:
            return ()
        pages = self._pages(DISPUTES, "/v1/disputes", lane, {"charge": charge.id}, what=f"the disputes of {charge.id}")
        return tuple([mapping.dispute_of(entry) async for page, _ in pages for entry in page])

    async def charge_of(self, payment_intent: str, lane: Lane) -> str | None:
        """Tell the latest charge of a payment intent; `None`, if it has none."""
        path = f"/v1/payment_intents/{_checked(payment_intent)}"
        read, _ = await self._call(PAYMENT_INTENT, lane, path, what=payment_intent)
        with _readable(PAYMENT_INTENT, payment_intent):
            return mapping.latest_charge_of(read)

    async def charges_of_order(self, order_id: str, lane: Lane) -> Sequence[SeenCharge]:
        """Search for charges whose metadata name an order; up to a minute behind (stripe-facts 4.2)."""
        what, found, page = f"order {order_id!r:.80}", dict[str, SeenCharge](), None
        params: Json = {"query": mapping.order_query(self._order_key, order_id), "limit": PAGE}
        for _ in range(SEARCH_PAGES_MAX):
            asked = params | ({"page": page} if page else {})
            read, _ = await self._call(CHARGE_SEARCH, lane, "/v1/charges/search", asked, what=what)
            with _readable(CHARGE_SEARCH, what):
                entries, more = mapping.page_of(read)
                charges = [mapping.charge_of(entry) for entry in entries]
            page = read.get("next_page")
            # The search may be looser than we are, about case for one; money goes by the exact id.
            found |= {one.id: one for one in charges if one.metadata.get(self._order_key) == order_id}
            if not more:
                return list(found.values())
            if not entries or not isinstance(page, str):
                break
        raise _incomplete(CHARGE_SEARCH, what)

    async def refund(self, refund: str, lane: Lane) -> SeenRefund:
        """Read one refund."""
        read, _ = await self._call(REFUND, lane, f"/v1/refunds/{_checked(refund)}", what=refund)
        with _readable(REFUND, refund):
            return mapping.refund_of(read)

    async def events(
        self, since: float, until: float, *, types: Sequence[str], only_failed: bool = False
    ) -> AsyncIterator[Sequence[SeenEvent]]:
        """List events; Stripe counts whole seconds, so the window is widened to them, and takes at most twenty types (stripe-facts 5.3)."""
        params: Json = {"created": _window(since, until), "types": list(types)}
        if only_failed:
            params["delivery_success"] = False
        async for page, _ in self._pages(EVENTS, "/v1/events", Lane.BULK, params, what="the events"):
            with _readable(EVENTS, "the events"):
                seen = [webhooks.event_of(entry) for entry in page]
            yield seen

    async def refunds(self, since: float, until: float, lane: Lane) -> AsyncIterator[Sequence[SeenRefund]]:
        """List refunds; Stripe counts whole seconds, so the window is widened to them."""
        params: Json = {"created": _window(since, until)}
        async for page, _ in self._pages(REFUNDS, "/v1/refunds", lane, params, what="the refunds"):
            with _readable(REFUNDS, "the refunds"):
                seen = mapping.refunds_of(page)
            yield seen

    async def fraud_warnings(self, charge: str, lane: Lane) -> Sequence[SeenWarning]:
        """List the early fraud warnings of a charge."""
        what, found = f"the fraud warnings of {charge}", list[SeenWarning]()
        async for page, _ in self._pages(
            FRAUD_WARNINGS, "/v1/radar/early_fraud_warnings", lane, {"charge": charge}, what=what
        ):
            with _readable(FRAUD_WARNINGS, what):
                found += [mapping.warning_of(entry) for entry in page]
        return found

    async def ask(self, right: Right) -> None:
        """Ask for a right of the key by a call that has no effect; `FORBIDDEN` says that it is missing.

        That Stripe looks at the key's rights before it looks for the object is how its refusals read (stripe-facts 3.2, 12).
        """
        operation, path, params = ASKED[right]
        writes = operation.startswith("POST ")
        # A key of its own each time: a refusal that Stripe has stored would be replayed to a key that has the right by now.
        key = f"ask.{right}.{self._clock.now():.6f}" if writes else None
        try:
            await self._call(operation, Lane.DESK, path, params, key=key, what=f"the right {right}")
        except GatewayError as error:
            if not writes or error.trouble not in {Trouble.NOT_FOUND, Trouble.REFUSED}:
                raise
        else:
            if writes:
                raise InvariantViolated(f"Stripe did {operation} for {path}, which names nothing: look into its log")

    async def endpoints(self) -> Sequence[SeenEndpoint]:
        """List the account's webhook endpoints."""
        what, found = "the webhook endpoints", list[SeenEndpoint]()
        async for page, _ in self._pages(WEBHOOK_ENDPOINTS, "/v1/webhook_endpoints", Lane.DESK, {}, what=what):
            with _readable(WEBHOOK_ENDPOINTS, what):
                found += [mapping.endpoint_of(entry) for entry in page]
        return found

    async def register_endpoint(self, url: str, events: Sequence[str], *, connect: bool, key: str) -> NewEndpoint:
        """Make a webhook endpoint in the version that every call here names, never the account's default."""
        params: Json = {"url": url, "enabled_events": list(events), "api_version": STRIPE_VERSION, "connect": connect}
        params["description"] = "Refundry"
        operation = WEBHOOK_ENDPOINT_MAKE
        read, _ = await self._call(operation, Lane.DESK, "/v1/webhook_endpoints", params, key=key, what=url)
        with _readable(operation, url):
            return mapping.new_endpoint_of(read)

    async def delete_endpoint(self, endpoint: str) -> None:
        """Delete a webhook endpoint."""
        path = f"/v1/webhook_endpoints/{_checked(endpoint)}"
        await self._call(WEBHOOK_ENDPOINT_DELETE, Lane.DESK, path, method="delete", what=endpoint)

    # Writes

    async def send(self, body: RefundBody, key: str) -> Outcome:
        """Send a refund attempt under its idempotency key. The caller has taken a slot for it, and has written its intent.

        Every ending is an outcome, but for the two that prevent the call.

        Raises:
            InvariantViolated: The key is missing, or a transaction is open; nothing was sent.
        """
        refuse_inside_unit(SEND)
        if not key:
            # The SDK would make up a key that nobody could ever send again.
            raise InvariantViolated(f"a refund of {body.charge} was about to be sent without an idempotency key")
        try:
            reply = await self._request(SEND, "post", "/v1/refunds", mapping.refund_params(body), key)
        except Exception as failure:  # noqa: BLE001  # whatever it was, the call may have reached Stripe
            return errors.outcome_of_failure(_cause(failure))
        return errors.outcome_of(reply.status, reply.headers, reply.content, body)

    async def cancel_refund(self, refund: str) -> SeenRefund:
        """Cancel a refund that waits for its customer (`requires_action`); one that is canceled already is told as it is."""
        # A key of its own per second: Stripe would replay an older refusal, though the refund's state has changed since.
        key = f"cancel.{_checked(refund)}.{self._clock.now():.0f}"
        try:
            path = f"/v1/refunds/{refund}/cancel"
            read, _ = await self._call(REFUND_CANCEL, Lane.DESK, path, key=key, what=refund)
        except GatewayError as error:
            if error.trouble is not Trouble.REFUSED:
                raise
            now = await self.refund(refund, Lane.DESK)
            if now.status != "canceled":
                raise
            return now
        with _readable(REFUND_CANCEL, refund):
            return mapping.refund_of(read)

    async def cancel_payment_intent(self, payment_intent: str, key: str) -> None:
        """Release an authorised, uncaptured payment."""
        if not key:
            raise InvariantViolated(f"{payment_intent} was about to be canceled without an idempotency key")
        path = f"/v1/payment_intents/{_checked(payment_intent)}/cancel"
        await self._call(PAYMENT_INTENT_CANCEL, Lane.DESK, path, key=key, what=payment_intent)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._own is not None:
            await self._own.close_async()

    # How a call is made

    async def _pages(
        self, operation: str, path: str, lane: Lane, params: Json, *, what: str, after: str | None = None
    ) -> AsyncIterator[tuple[list[Json], float]]:
        """Follow a list to its end; tells each page's new entries, and when its call was sent.

        Raises:
            GatewayError: `UNREACHABLE`, when the list says that more follows and brings nothing new. What was told by then
                is not all, and must not be taken for all.
        """
        seen: set[str] = set()
        for _ in range(PAGES_MAX):
            asked = params | {"limit": PAGE} | ({"starting_after": after} if after else {})
            read, sent_at = await self._call(operation, lane, path, asked, what=what)
            with _readable(operation, what):
                entries, more = mapping.page_of(read)
            fresh = [entry for entry in entries if entry["id"] not in seen]
            seen |= {entry["id"] for entry in fresh}
            yield fresh, sent_at
            if not more:
                return
            if not fresh:
                break
            after = entries[-1]["id"]
        raise _incomplete(operation, what)

    async def _call(
        self,
        operation: str,
        lane: Lane,
        path: str,
        params: Json | None = None,
        *,
        what: str,
        key: str | None = None,
        method: str | None = None,
    ) -> tuple[Json, float]:
        """Make a call that may be repeated, each try in a slot of its own; tells the answer and when its call was sent.

        Args:
            operation: Its name by Stripe's template.
            lane: Who waits.
            path: Its address.
            params: Its parameters.
            what: What it is about, for messages.
            key: Makes a POST repeatable.
            method: By default POST with a key, else GET.

        Raises:
            GatewayError: No answer after all tries, or a no.
        """
        limited = failed = 0
        while True:
            refuse_inside_unit(operation)
            taken_at = await self._slots.take(operation, lane)
            sent_at, failure, read, request = self._clock.now(), "", None, None
            try:
                reply = await self._request(operation, method or ("post" if key else "get"), path, params or {}, key)
            except NO_ANSWER as error:
                trouble: Trouble | None = Trouble.UNREACHABLE
                failure = errors.outcome_of_failure(_cause(error)).answer.message
            else:
                read, request = errors.parsed(reply.content), reply.headers.get("request-id")
                trouble = errors.trouble_of(reply.status, read)
            match trouble:
                case None if isinstance(read, dict):
                    return read, sent_at
                case Trouble.RATE_LIMITED if limited + 1 < LIMITED_TRIES_MAX:
                    limited += 1
                    await self._limited(operation, errors.limiter_of(reply.headers, read), taken_at, limited)
                case Trouble.UNREACHABLE if failed < len(READ_WAITS_SECONDS):
                    await self._clock.sleep(READ_WAITS_SECONDS[failed])
                    failed += 1
                case _:
                    raise errors.read_failed(
                        trouble or Trouble.UNREACHABLE, operation, what, read, failure,
                        key_by=self._key_by, request=request,
                    )  # fmt: skip

    async def _limited(self, operation: str, reason: str | None, taken_at: float, count: int) -> None:
        await self._slots.limited(operation, reason, taken_at)
        # Where the pace is not at fault, or is not told to be, it will not slow down, so the time is given here. And whose key it is, is
        # asked before its account has budgets: one account that is short of calls at that moment must not keep all others from opening.
        paced = reason is not None and reason.startswith(("endpoint", "global"))
        if operation == ACCOUNT or not paced:
            await self._clock.sleep(LOCK_WAIT_SECONDS * count)

    async def _request(self, operation: str, method: str, path: str, params: Json, key: str | None) -> Reply:
        """Make one call, and only one."""
        options = {"idempotency_key": key} if key else {}
        began = self._clock.boot_seconds()
        try:
            await self._client.raw_request_async(method, path, **params, **options)
        except Answered as answered:
            reply = Reply(*answered.parts)
            if (date := errors.date_of(reply.headers)) is not None:
                self._heard = (date, self._clock.boot_seconds())
            return reply
        finally:
            self._slots.took(operation, self._clock.boot_seconds() - began)
        raise InvariantViolated(f"{method.upper()} {path} came back without passing its transport")


def _checked(given: str) -> str:
    """See that an id can stand in a path.

    Raises:
        GatewayError: `NOT_FOUND`: Stripe has nothing of that name.
    """
    if not mapping.ID.fullmatch(given):
        text = f"{given!r:.80} is no id that Stripe could know: check the row or the command for a slip of the pen"
        raise GatewayError(Trouble.NOT_FOUND, text)
    return given


def _window(since: float, until: float) -> Json:
    return {"gte": math.floor(since), "lte": math.ceil(until)}


@contextmanager
def _readable(operation: str, what: str) -> Iterator[None]:
    """Turn an answer that cannot be read into a read that failed."""
    try:
        yield
    except Unreadable as error:
        raise errors.read_failed(Trouble.UNREACHABLE, operation, what, None, str(error)) from error


def _incomplete(operation: str, what: str) -> GatewayError:
    return errors.read_failed(Trouble.UNREACHABLE, operation, what, None, "the list broke off before its end")


def _cause(failure: Exception) -> BaseException:
    """Take the network's own error out of the SDK's, which a client of the SDK's wraps around it."""
    wrapped = isinstance(failure, stripe.APIConnectionError) and failure.__cause__ is not None
    return failure.__cause__ or failure if wrapped else failure
