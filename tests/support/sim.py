"""Calls the simulator inside a test, without a socket, and holds calls and answers against Stripe's OpenAPI file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from stripesim.api import Request
from stripesim.app import Simulator
from stripesim.clock import Clock
from tests.support import openapi

START = 1_790_000_000
KEY = "sk_test_sim"


@dataclass(frozen=True)
class Reply:
    """An answer: HTTP status, headers by lower-case name, the body read as JSON, and how the connection was cut."""

    status: int
    headers: dict[str, str]
    json: Any
    body: bytes
    cut: str

    def __getitem__(self, name: str) -> Any:
        """Take a member of the body."""
        return self.json[name]

    @property
    def error(self) -> dict[str, Any]:
        """Take the error without what differs from call to call."""
        return {k: v for k, v in self.json["error"].items() if k != "request_log_url"}


def flat(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Write parameters in form encoding's brackets."""
    out: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}[{key}]", inner)
        elif isinstance(value, list | tuple):
            for at, inner in enumerate(value):
                add(f"{name}[{at}]", inner)
        elif isinstance(value, bool):
            out.append((name, "true" if value else "false"))
        else:
            out.append((name, str(value)))

    for name, value in params.items():
        add(name, value)
    return out


class Sim:
    """A simulator of one's own, with a clock that stands until it is moved."""

    def __init__(self, **options: Any) -> None:
        """Make it; `options` are those of `stripesim.app.Simulator`."""
        self.clock: Clock = options.pop("clock", None) or Clock(START)
        self.simulator = Simulator(clock=self.clock, **options)
        self.world = self.simulator.world

    async def call(
        self,
        operation: str,
        *,
        key: str | None = KEY,
        idempotency_key: str | None = None,
        account: str | None = None,
        version: str | None = None,
        check: bool = True,
        **params: Any,
    ) -> Reply:
        """Call `GET /v1/charges/ch_1` with parameters; names with dots or brackets go through `**{"a[b]": 1}`.

        Raises:
            AssertionError: The answer is not what Stripe's file says, or a call that was answered with a 2xx sent what the
                file does not have; `check` switches both off.
        """
        method, path = operation.split(" ")
        headers = {
            "authorization": f"Bearer {key}" if key is not None else "",
            "idempotency-key": idempotency_key,
            "stripe-account": account,
            "stripe-version": version,
        }
        text = urlencode(flat(params))
        request = Request(
            method,
            path,
            text if method == "GET" else "",
            {name: value for name, value in headers.items() if value is not None},
            b"" if method == "GET" else text.encode(),
        )
        answer = await self.simulator.answer(request)
        lower = {name.lower(): value for name, value in answer.headers.items()}
        read = json.loads(answer.body) if answer.body else None
        if check and read is not None:
            openapi.check(method, path, answer.status, read)
            if 200 <= answer.status < 300:
                openapi.check_request(method, path, flat(params))
        return Reply(answer.status, lower, read, answer.body, answer.cut)

    async def control(self, operation: str, body: Any = None, **query: Any) -> Reply:
        """Call the control API: `POST /_sim/clock` with a JSON body."""
        method, path = operation.split(" ")
        raw = b"" if body is None else json.dumps(body).encode()
        request = Request(method, path, urlencode(flat(query)), {"content-type": "application/json"}, raw)
        answer = await self.simulator.answer(request)
        return Reply(answer.status, {}, json.loads(answer.body) if answer.body else None, answer.body, answer.cut)

    async def charge(self, amount: int = 5000, currency: str = "usd", card: str = "pm_card_visa", **more: Any) -> str:
        """Pay by a payment intent; tells the charge's id."""
        reply = await self.call(
            "POST /v1/payment_intents", amount=amount, currency=currency, payment_method=card, confirm=True, **more
        )
        assert reply.status == 200, reply.json
        return str(reply["latest_charge"])

    async def booked(self) -> None:
        """Let the charges so far get the balance transactions that are null right after the payment."""
        await self.move(self.world.settings.balance_transaction_delay)

    async def move(self, seconds: float) -> None:
        """Let the world's time pass, and what falls due happen."""
        self.clock.move(by=seconds)
        self.world.catch_up()
