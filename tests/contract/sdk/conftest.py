"""The official SDK, pointed at a simulator in another process by its base address and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe

from tests.support.server import Server

Client = stripe.StripeClient
Make = Callable[..., Client]


@pytest.fixture(scope="session")
def process() -> Iterator[Server]:
    """One process for each worker."""
    with Server() as running:
        running.remember()
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    """Give that process, with nothing in it."""
    process.forget()
    return process


@pytest.fixture
def client_of(server: Server) -> Iterator[Make]:
    """Make clients of other keys, accounts or versions."""
    transports = []

    def make(key: str = "sk_test_sim", **options: Any) -> Client:
        transport = options.pop("http_client", None)
        if transport is None:
            transport = stripe.RequestsClient()
            transports.append(transport)
        addresses: Any = {"api": server.url}
        return Client(key, base_addresses=addresses, max_network_retries=0, http_client=transport, **options)

    yield make
    for transport in transports:
        transport.close()


@pytest.fixture
def client(client_of: Make) -> Client:
    return client_of()


@pytest.fixture
def pay(client: Client) -> Callable[..., Any]:
    """Pay by a payment intent; tells the intent."""

    def made(amount: int = 5000, method: str = "pm_card_visa", currency: str = "usd", **more: Any) -> Any:
        params: Any = {"amount": amount, "currency": currency, "payment_method": method, "confirm": True, **more}
        return client.v1.payment_intents.create(params)

    return made
