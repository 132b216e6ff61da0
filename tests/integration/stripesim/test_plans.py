"""Answers stay fast with very many objects: no statement of a call walks a table, and a long load ends with every index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stripesim.scenarios import SLICE, BadScenario, load_rows
from tests.support.sim import START, Sim

pytestmark = pytest.mark.integration

# Tables that grow with what is loaded or done.
LARGE = (
    "charge|refund|payment_intent|balance_transaction|event|customer|metadata|idempotency|dispute|job|delivery"
    "|radar.early_fraud_warning|review"
)


@contextmanager
def statements(sim: Sim) -> Iterator[list[str]]:
    """Collect what is asked of the database, values filled in."""
    seen: list[str] = []
    database = sim.world.store.db
    database.set_trace_callback(seen.append)
    try:
        yield seen
    finally:
        database.set_trace_callback(None)


def walked(sim: Sim, seen: list[str]) -> list[str]:
    """Tell the steps that read a whole large table or sort what they found, each with its statement."""
    found = []
    for sql in seen:
        if not re.match("SELECT|UPDATE|DELETE", sql):
            continue
        for *_, step in sim.world.store.db.execute("EXPLAIN QUERY PLAN " + sql):
            if step == "SCAN job USING INDEX job_due":
                # The first two of them.
                continue
            # What an index names in few rows may be sorted: the finds of a search, what belongs to one charge.
            few = "metadata" in sql or "scope IN" in sql
            if re.match(rf'SCAN "?({LARGE})\b', step) or (step.startswith("USE TEMP B-TREE") and not few):
                found.append(f"{step}: {sql}")
    return found


def rows(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for at in range(count):
        created = str(START - 1_000_000 + at)
        yield f"line {at}", {"order_id": f"o{at}", "created": created, "amount_minor": "500", "currency": "usd"}


def indexes(sim: Sim) -> set[str]:
    sql = "SELECT name || ': ' || sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL"
    return {told for (told,) in sim.world.store.db.execute(sql)}


@pytest.fixture
def sim() -> Sim:
    return Sim()


def load(sim: Sim, given: Iterator[tuple[str, dict[str, Any]]]) -> int:
    with sim.world.store.transaction():
        return load_rows(sim.world, sim.world.scopes[sim.world.platform, False], given)


async def test_no_call_of_a_refund_program_walks_a_table(sim: Sim) -> None:
    await sim.move(100)
    load(sim, rows(300))
    charge, other = [c["id"] for c in (await sim.call("GET /v1/charges", limit=2))["data"]]
    await sim.call("POST /v1/refunds", charge=charge, amount=100)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("POST /v1/refunds", {"charge": charge, "amount": 5, "idempotency_key": "k", "metadata": {"a": "b"}}),
        ("POST /v1/refunds", {"charge": other, "idempotency_key": "all of it"}),
        (f"GET /v1/charges/{charge}", {"expand": ["refunds", "customer"]}),
        ("GET /v1/charges", {"limit": 100, "starting_after": charge}),
        ("GET /v1/charges", {"limit": 100, "ending_before": other}),
        ("GET /v1/charges", {"created[lt]": START - 999_990, "limit": 3}),
        ("GET /v1/refunds", {"charge": charge}),
        ("GET /v1/refunds", {"limit": 1}),
        ("GET /v1/events", {"limit": 3}),
        ("GET /v1/balance_transactions", {"source": charge}),
        ("GET /v1/charges/search", {"query": "metadata['order_id']:'o7'"}),
        ("GET /v1/charges/search", {"query": "metadata['order_id']:'o7' AND amount>400 AND -currency:'eur'"}),
        ("GET /v1/charges/search", {"query": "metadata['order_id']:'o7' OR metadata['order_id']:'o8'"}),
        ("GET /v1/payment_intents/search", {"query": "metadata['order_id']:'o7'"}),
    ]
    for operation, params in calls:
        with statements(sim) as seen:
            reply = await sim.call(operation, **params)
        assert reply.status == 200
        assert seen
        assert walked(sim, seen) == [], operation
    with statements(sim) as seen:
        await sim.move(10)
    assert walked(sim, seen) == []


async def test_a_search_through_the_index_finds_what_it_should(sim: Sim) -> None:
    await sim.move(100)
    load(sim, rows(30))
    found = await sim.call("GET /v1/charges/search", query="metadata['order_id']:'o7' OR metadata['order_id']:'o8'")
    assert [charge["metadata"]["order_id"] for charge in found["data"]] == ["o8", "o7"]


async def test_a_long_load_ends_with_the_indexes_that_a_new_world_has(sim: Sim) -> None:
    fresh = indexes(sim)
    assert any(told.startswith("charge_page:") for told in fresh)
    assert load(sim, rows(SLICE + 7)) == SLICE + 7
    assert indexes(sim) == fresh
    assert load(sim, rows(3)) == 3
    newest = (await sim.call("GET /v1/charges", limit=2))["data"]
    assert [charge["metadata"]["order_id"] for charge in newest] == [f"o{SLICE + 6}", f"o{SLICE + 5}"]


async def test_a_long_load_that_fails_leaves_no_charge_and_every_index(sim: Sim) -> None:
    fresh = indexes(sim)

    def wrong_at_the_end() -> Iterator[tuple[str, dict[str, Any]]]:
        yield from rows(SLICE + 5)
        yield "line 9999", {"amount_minor": "none", "currency": "usd"}

    with pytest.raises(BadScenario, match="line 9999: column amount_minor"):
        load(sim, wrong_at_the_end())
    assert indexes(sim) == fresh
    assert (await sim.call("GET /v1/charges"))["data"] == []


async def test_loading_much_makes_the_charges_that_loading_little_makes() -> None:
    alone, together = Sim(), Sim()
    load(alone, rows(20))
    load(together, rows(SLICE + 20))
    ids = [c["id"] for c in (await alone.call("GET /v1/charges", limit=20))["data"]]
    for charge in ids:
        assert (await together.call(f"GET /v1/charges/{charge}")).body == (
            await alone.call(f"GET /v1/charges/{charge}")
        ).body
