"""Every answer of every route is what Stripe's OpenAPI file says, and so is every parameter that a call takes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from stripesim.registry import ROUTES, SHAPES
from tests.contract.examples import PLACES, REFUSALS, SUCCESSES, furnish
from tests.support import openapi
from tests.support.recorder import Recorder

pytestmark = pytest.mark.contract
TOKEN = re.compile(r"\{(\w+)\}")
WITH_ID = sorted(operation for operation in ROUTES if "{" in operation)
ENDIVE = "2026-10-28.endive"


def placed(operation: str, ids: dict[str, str]) -> str:
    """Put ids into an operation's path."""
    places = PLACES.get(operation, {})
    return TOKEN.sub(lambda token: ids[places.get(token[1], token[1])], operation)


def filled(params: Any, ids: dict[str, str]) -> Any:
    """Put ids for their names, wherever they stand."""
    match params:
        case dict():
            return {name: filled(value, ids) for name, value in params.items()}
        case list():
            return [filled(value, ids) for value in params]
        case str() if params.startswith("@"):
            return ids[params[1:]]
        case _:
            return params


@pytest.fixture(scope="module")
def furnished() -> Iterator[tuple[Recorder, dict[str, str]]]:
    """One furnished world for all tests; `world` takes it back to its beginning."""
    sim = Recorder()
    ids = asyncio.run(_begin(sim))
    yield sim, ids
    sim.simulator.close()


async def _begin(sim: Recorder) -> dict[str, str]:
    ids = await furnish(sim)
    await sim.control("POST /_sim/snapshots/furnished", {})
    return ids


@pytest.fixture
async def world(furnished: tuple[Recorder, dict[str, str]]) -> tuple[Recorder, dict[str, str]]:
    sim, ids = furnished
    await sim.control("POST /_sim/snapshots/furnished/restore", {})
    sim.taken.clear()
    return sim, ids


World = tuple[Recorder, dict[str, str]]


def test_every_route_has_an_example_that_succeeds() -> None:
    assert SUCCESSES.keys() == ROUTES.keys()


def test_every_route_has_a_refusal_of_its_own() -> None:
    own = REFUSALS.keys() | set(WITH_ID)
    assert ROUTES.keys() - own == {"GET /v1/account", "GET /v1/balance"}, "these two have nothing that could be missing"


def test_every_operation_of_the_file_is_routed() -> None:
    assert len(openapi.operations()) == 76
    assert openapi.operations().keys() <= ROUTES.keys()


@pytest.mark.parametrize("version", [None, ENDIVE])
@pytest.mark.parametrize("operation", sorted(SUCCESSES))
async def test_a_success_is_what_the_file_says(world: World, operation: str, version: str | None) -> None:
    sim, ids = world
    reply = await sim.ok(placed(operation, ids), version=version, **filled(SUCCESSES[operation], ids))
    assert sim.taken == {operation}
    if "data" in reply.json:
        assert reply["data"], "an empty list proves nothing about what it lists"
    assert reply.headers["stripe-version"] == version or version is None


@pytest.mark.parametrize("operation", sorted(REFUSALS))
async def test_a_refusal_is_what_the_file_says(world: World, operation: str) -> None:
    sim, ids = world
    status, code, param, params = REFUSALS[operation]
    await sim.refused(placed(operation, ids), status, code, param, **filled(params, ids))


@pytest.mark.parametrize("operation", WITH_ID)
async def test_an_id_that_does_not_exist_is_missing(world: World, operation: str) -> None:
    sim, ids = world
    params = filled(SUCCESSES[operation], ids)
    for wrong in TOKEN.findall(operation):
        one_wrong = operation.replace(f"{{{wrong}}}", "none_0")
        places = PLACES.get(operation, {})
        for token in TOKEN.findall(one_wrong):
            one_wrong = one_wrong.replace(f"{{{token}}}", ids[places.get(token, token)])
        reply = await sim.call(one_wrong, **params)
        if "accounts/" in operation:
            # Whether an account exists is not for strangers to know.
            assert (reply.status, reply.error["code"]) == (403, "account_invalid")
            continue
        assert (reply.status, reply.error["code"]) == (404, "resource_missing"), reply.json
        assert reply.error["message"].startswith("No such ")
        assert reply.error["message"].endswith(": 'none_0'")


@pytest.mark.parametrize("operation", sorted(ROUTES))
async def test_an_unknown_parameter_is_refused_everywhere(world: World, operation: str) -> None:
    sim, _ = world
    path = TOKEN.sub("any_1", operation)
    await sim.refused(path, 400, "parameter_unknown", "wat", wat=1)


@pytest.mark.parametrize("operation", sorted(ROUTES))
async def test_a_stranger_is_refused_everywhere(world: World, operation: str) -> None:
    sim, _ = world
    path = TOKEN.sub("any_1", operation)
    for key, text in (
        (None, "You did not provide an API key."),
        ("sk_test_wrong", "Invalid API Key provided: sk_test_"),
    ):
        reply = await sim.refused(path, 401, key=key)
        assert reply.error["message"].startswith(text)


# Objects by the route that answers them, and the name of one in the furnished world.
RETRIEVALS = {
    "charge": "GET /v1/charges/{charge}",
    "refund": "GET /v1/refunds/{refund}",
    "payment_intent": "GET /v1/payment_intents/{intent}",
    "dispute": "GET /v1/disputes/{dispute}",
    "balance_transaction": "GET /v1/balance_transactions/{id}",
    "customer": "GET /v1/customers/{customer}",
    "customer_balance_transaction": "GET /v1/customers/{customer}/balance_transactions/{transaction}",
    "payment_method": "GET /v1/payment_methods/{payment_method}",
    "radar.early_fraud_warning": "GET /v1/radar/early_fraud_warnings/{early_fraud_warning}",
    "application_fee": "GET /v1/application_fees/{id}",
    "fee_refund": "GET /v1/application_fees/{fee}/refunds/{id}",
    "transfer": "GET /v1/transfers/{transfer}",
    "transfer_reversal": "GET /v1/transfers/{transfer}/reversals/{id}",
    "credit_note": "GET /v1/credit_notes/{id}",
    "invoice": "GET /v1/invoices/{invoice}",
    "invoice_payment": "GET /v1/invoice_payments/{invoice_payment}",
    "subscription": "GET /v1/subscriptions/{subscription_exposed_id}",
    "price": "GET /v1/prices/{price}",
    "product": "GET /v1/products/{id}",
}


@pytest.mark.parametrize("kind", sorted(RETRIEVALS))
async def test_what_the_file_calls_expandable_can_be_expanded(world: World, kind: str) -> None:
    sim, ids = world
    plain = await sim.ok(placed(RETRIEVALS[kind], ids))
    assert plain["object"] == kind
    members = [path for path in SHAPES["expandable"].get(kind, {}) if path.count(".") < 4]
    whole = await sim.ok(placed(RETRIEVALS[kind], ids), expand=members)
    for path in members:
        before, after = plain.json, whole.json
        for part in path.split("."):
            before = before.get(part) if isinstance(before, dict) else None
            after = after.get(part) if isinstance(after, dict) else None
        if isinstance(before, str) and isinstance(after, dict):
            assert after["id"] == before
        else:
            assert before is None or isinstance(before, list | dict) or after == before


async def test_what_cannot_be_expanded_is_refused(world: World) -> None:
    sim, ids = world
    for path in ("amount", "nothing", "customer.nothing.more.too.deep", "data.customer"):
        reply = await sim.refused(f"GET /v1/charges/{ids['charge']}", 400, None, "expand", expand=[path])
        assert path in reply.error["message"]


async def test_what_is_not_there_is_a_404_in_stripes_words(world: World) -> None:
    sim, _ = world
    for operation in (
        "GET /v1/payouts",
        "POST /v1/checkout/sessions",
        "DELETE /v1/charges/ch_1",
        "GET /v2/core/events",
    ):
        method, path = operation.split(" ")
        reply = await sim.refused(operation, 404)
        assert reply.error["message"].startswith(f"Unrecognized request URL ({method}: {path}). Please see https://")
        assert reply.error["type"] == "invalid_request_error"
