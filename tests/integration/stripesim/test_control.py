"""The control API: every call works, and every wrong one is refused by field and reason and changes nothing."""

from __future__ import annotations

import base64
import re
import sqlite3
from dataclasses import asdict
from typing import Any

import pytest

from stripesim.clock import LATEST
from stripesim.control import VERBS
from stripesim.store import VERSION
from stripesim.world import Settings
from tests.support.sim import START, Reply, Sim

pytestmark = pytest.mark.integration
Json = dict[str, Any]


async def furnished() -> tuple[Sim, dict[str, str]]:
    """Make a world with one of each thing; tells their ids by name."""
    sim, ids = Sim(), {}
    ids["charge"] = await sim.charge()
    for name, card in (("done", "visa"), ("pending", "pendingRefund")):
        charge = await sim.charge(card=f"pm_card_{card}")
        ids[name] = (await sim.call("POST /v1/refunds", charge=charge))["id"]
    asking = await sim.charge(card="pm_card_visa")
    await sim.control(f"POST /_sim/charges/{asking}/behaviour", {"refund": "action"})
    ids["asking"] = (await sim.call("POST /v1/refunds", charge=asking))["id"]
    ids["refunded"] = (await sim.call(f"GET /v1/refunds/{ids['done']}"))["charge"]
    for name, inquiry in (("dispute", False), ("inquiry", True)):
        charge = await sim.charge()
        ids[name] = (await sim.control("POST /_sim/disputes", {"charge": charge, "inquiry": inquiry}))["id"]
    held = await sim.call(
        "POST /v1/payment_intents", amount=900, currency="usd", payment_method="pm_card_visa", confirm=True,
        capture_method="manual",
    )  # fmt: skip
    ids["held"] = held["latest_charge"]
    ids["reviewed"] = await sim.charge()
    ids["review"] = (await sim.control("POST /_sim/reviews", {"charge": ids["reviewed"]}))["id"]
    hook = {"url": "http://127.0.0.1:9/", "enabled_events": ["*"]}
    ids["endpoint"] = (await sim.call("POST /v1/webhook_endpoints", **hook))["id"]
    ids["event"] = (await sim.call("GET /v1/events", limit=1))["data"][0]["id"]
    ids["account"] = (await sim.call("POST /v1/accounts", country="DE"))["id"]
    await sim.control("POST /_sim/snapshots/kept")
    return sim, ids


def filled(given: Any, ids: dict[str, str]) -> Any:
    """Put ids for their names: `@charge`."""
    match given:
        case str():
            return re.sub(r"@(\w+)", lambda found: ids[found[1]], given)
        case dict():
            return {name: filled(value, ids) for name, value in given.items()}
        case list():
            return [filled(value, ids) for value in given]
        case _:
            return given


def everything(sim: Sim) -> list[Any]:
    """Tell all that a call could have changed."""
    api, world = sim.simulator.api, sim.world
    memory = [
        asdict(api.limiter.limits),
        api.faults.rules,
        api.faults.counts(),
        sim.clock.state(),
        asdict(world.settings),
    ]
    known = [sorted(world.keys), sorted(world.scopes), sorted(sim.simulator.control.snapshots), world.next_job]
    return [*memory, *known, list(world.store.db.iterdump())]


GOOD: dict[str, tuple[str, Any, Json]] = {
    "GET /_sim": ("", None, {"object": "control"}),
    "GET /_sim/health": ("", None, {"ok": True, "seed": 1, "now": START}),
    "GET /_sim/clock": ("", None, {"now": START, "frozen": True}),
    "POST /_sim/clock": ("", {"move_seconds": 5}, {"now": START + 5, "frozen": True}),
    "GET /_sim/limits": ("", None, {"total": 0, "endpoint": 0}),
    "POST /_sim/limits": ("", {"limits": "live"}, {"total": 100, "endpoint": 25}),
    "GET /_sim/faults": ("", None, {"seed": 0, "rules": []}),
    "POST /_sim/faults": ("", {"seed": 4, "rules": []}, {"seed": 4, "rules": []}),
    "DELETE /_sim/faults": ("", None, {"seed": 0, "rules": []}),
    "GET /_sim/settings": ("", None, {"overdraft": 100_000}),
    "POST /_sim/settings": ("", {"overdraft": 5, "lock_wait": 1}, {"overdraft": 5, "lock_wait": 1}),
    "POST /_sim/accounts": ("", {"secret": "sk_test_other"}, {"secret": "sk_test_other", "livemode": False}),
    "POST /_sim/keys": (
        "",
        {"secret": "rk_test_mine", "permissions": ["refund_write"]},
        {"secret": "rk_test_mine", "livemode": False, "permissions": ["refund_write"]},
    ),
    "DELETE /_sim/keys/{secret}": ("/sk_live_sim", None, {"deleted": True}),
    "POST /_sim/keys/{secret}/expire": ("/sk_live_sim/expire", None, {"expired": True}),
    "POST /_sim/settlement": (
        "",
        {"currency": "EUR", "into": "usd", "rate_millionths": 1_100_000},
        {"settle": {"eur": ["usd", 1_100_000]}},
    ),
    "POST /_sim/balance": ("", {"currency": "usd", "available": -7}, {"available": -7, "currency": "usd"}),
    "POST /_sim/load": ("", {"charges": [{"amount_minor": 5, "currency": "usd"}]}, {"charges": 1}),
    "POST /_sim/refunds": (
        "",
        {"charge": "@charge", "amount": 12, "reason": "duplicate", "metadata": {"by": "hand"}},
        {"amount": 12, "reason": "duplicate", "metadata": {"by": "hand"}, "status": "succeeded"},
    ),
    "POST /_sim/refunds/{refund}/settle": ("/@pending/settle", None, {"status": "succeeded"}),
    "POST /_sim/refunds/{refund}/fail": (
        "/@done/fail",
        {"reason": "declined"},
        {"status": "failed", "failure_reason": "declined"},
    ),
    "POST /_sim/refunds/{refund}/require_action": ("/@done/require_action", None, {"status": "requires_action"}),
    "POST /_sim/refunds/{refund}/act": ("/@asking/act", None, {"status": "pending"}),
    "POST /_sim/charges/{charge}/behaviour": ("/@charge/behaviour", {"refund": "bank"}, {"refund": "bank"}),
    "POST /_sim/disputes": (
        "",
        {"charge": "@charge", "amount": 70, "reason": "duplicate", "inquiry": True},
        {"amount": 70, "reason": "duplicate", "status": "warning_needs_response"},
    ),
    "POST /_sim/disputes/{dispute}/{verdict}": ("/@inquiry/escalate", None, {"status": "needs_response"}),
    "POST /_sim/warnings": ("", {"charge": "@charge"}, {"object": "radar.early_fraud_warning", "actionable": True}),
    "POST /_sim/reviews": ("", {"charge": "@charge"}, {"object": "review", "open": True}),
    "POST /_sim/reviews/{review}/approve": ("/@review/approve", None, {"open": False, "closed_reason": "approved"}),
    "POST /_sim/idempotency/prune": ("", {"older_than_seconds": 60}, {"pruned": 0}),
    "POST /_sim/snapshots/{name}": ("/mine", None, {"snapshot": "mine"}),
    "POST /_sim/snapshots/{name}/restore": ("/kept/restore", None, {"snapshot": "kept", "now": START}),
    "GET /_sim/webhooks/plan": ("", None, {"seed": 0, "rules": []}),
    "POST /_sim/webhooks/plan": ("", {"rules": [{"kind": "lost"}]}, {"seed": 0, "rules": [{"kind": "lost"}]}),
    "POST /_sim/webhooks/{endpoint}/roll": ("/@endpoint/roll", {"keep_old_seconds": 0}, {"id": "@endpoint"}),
    "POST /_sim/events/{event}/resend": ("/@event/resend", {"endpoint": "@endpoint"}, {"event": "@event"}),
    "GET /_sim/events/{event}/deliveries": ("/@event/deliveries", None, {"event": "@event", "deliveries": []}),
    "GET /_sim/calls": ("", None, {"limited": {}}),
    "GET /_sim/calls/times": ("", None, {}),
    "GET /_sim/calls/accounts": ("", None, {}),
    "DELETE /_sim/calls": ("", None, {"statuses": {}}),
    "GET /_sim/audit": ("", None, {"object": "audit", "ok": True, "problems": []}),
    "POST /_sim/audit": ("", {"obligations": []}, {"obligations": 0, "paid": 0, "ok": False, "problems": []}),
}
# It ends the process: `test_death.py`.
ELSEWHERE = {"POST /_sim/crash"}


def placed(operation: str, path: str, ids: dict[str, str]) -> str:
    head = operation.split("{", maxsplit=1)[0].rstrip("/") if "{" in operation else operation
    return head + filled(path, ids)


def test_every_control_call_has_its_example() -> None:
    assert GOOD.keys() | ELSEWHERE == VERBS.keys()


async def test_the_index_tells_every_call_in_a_sentence(sim: Sim) -> None:
    told = (await sim.control("GET /_sim"))["calls"]
    assert told.keys() == VERBS.keys()
    assert all(sentence.strip() for sentence in told.values())


@pytest.mark.parametrize("operation", GOOD)
async def test_a_control_call_does_what_it_says(operation: str) -> None:
    sim, ids = await furnished()
    path, body, expected = GOOD[operation]
    reply = await sim.control(placed(operation, path, ids), filled(body, ids))
    assert reply.status == 200, reply.json
    expected = filled(expected, ids)
    assert {name: reply.json.get(name) for name in expected} == expected
    audit = await sim.control("GET /_sim/audit")
    assert audit["ok"], audit["problems"]
    sim.simulator.close()


# operation, body, HTTP status, field, a word of the reason
WRONG: list[tuple[str, Any, int, str, str]] = [
    ("GET /_sim/nothing", None, 404, "", "there are"),
    ("PUT /_sim/clock", {}, 404, "", "there are"),
    ("POST /_sim/snapshots/", None, 404, "", "there are"),
    ("POST /_sim/clock", [], 400, "", "object"),
    ("POST /_sim/clock", {"move": 5}, 400, "move", "not known"),
    ("POST /_sim/clock", {"move_seconds": "5"}, 400, "move_seconds", "number"),
    ("POST /_sim/clock", {"move_seconds": True}, 400, "move_seconds", "number"),
    ("POST /_sim/clock", {"to": None}, 400, "to", "missing"),
    ("POST /_sim/clock", {"to": 1, "move_seconds": 1}, 400, "to", "not both"),
    ("POST /_sim/clock", {"to": LATEST + 1}, 400, "to", "9998"),
    ("POST /_sim/clock", {"move_seconds": 10**15}, 400, "move_seconds", "9998"),
    ("POST /_sim/clock", {"move_seconds": -START - 1}, 400, "move_seconds", "1970"),
    ("POST /_sim/clock", {"frozen": 1, "to": 5}, 400, "frozen", "true or false"),
    ("POST /_sim/limits", {}, 400, "limits", "missing"),
    ("POST /_sim/limits", {"limits": "fast"}, 400, "limits", "one of"),
    ("POST /_sim/limits", {"limits": "global=-1"}, 400, "limits", "number"),
    ("POST /_sim/limits", {"limits": "planet=5"}, 400, "limits", "not known"),
    ("POST /_sim/settings", {"overdraft": -1}, 400, "overdraft", "from 0"),
    ("POST /_sim/settings", {"overdraft": 1.5}, 400, "overdraft", "whole"),
    ("POST /_sim/settings", {"lock_wait": 1, "overdraft": None}, 400, "overdraft", "number"),
    ("POST /_sim/settings", {"failed_refund_frees_charge": 1}, 400, "failed_refund_frees_charge", "true or false"),
    ("POST /_sim/settings", {"account_default_version": "2020-01-01"}, 400, "account_default_version", "one of"),
    ("POST /_sim/settings", {"colour": 1}, 400, "colour", "not known"),
    ("POST /_sim/keys", {}, 400, "secret", "missing"),
    ("POST /_sim/accounts", {}, 400, "secret", "missing"),
    ("POST /_sim/accounts", {"secret": "sk test"}, 400, "secret", "letters"),
    ("POST /_sim/accounts", {"secret": "sk_test_sim"}, 409, "secret", "already"),
    ("POST /_sim/keys", {"secret": ""}, 400, "secret", "letters"),
    ("POST /_sim/keys", {"secret": "sk test"}, 400, "secret", "letters"),
    ("POST /_sim/keys", {"secret": "k", "account": "acct_none"}, 400, "account", "there are"),
    ("POST /_sim/keys", {"secret": "k", "livemode": "yes"}, 400, "livemode", "true or false"),
    ("POST /_sim/keys", {"secret": "k", "permissions": ["all"]}, 400, "permissions", "refund_write"),
    ("POST /_sim/keys", {"secret": "k", "permissions": [["refund_write"]]}, 400, "permissions", "refund_write"),
    ("POST /_sim/keys", {"secret": "k", "permissions": "refund_write"}, 400, "permissions", "list"),
    ("DELETE /_sim/keys/sk_none", None, 404, "secret", "not known"),
    ("POST /_sim/keys/sk_none/expire", None, 404, "secret", "not known"),
    ("POST /_sim/settlement", {"currency": "usd", "into": "eur"}, 400, "rate_millionths", "missing"),
    ("POST /_sim/settlement", {"currency": "usd", "into": "xxx", "rate_millionths": 5}, 400, "into", "currency"),
    ("POST /_sim/settlement", {"currency": "moon", "into": "usd", "rate_millionths": 5}, 400, "currency", "currency"),
    ("POST /_sim/settlement", {"currency": "usd", "into": "eur", "rate_millionths": 0}, 400, "rate_millionths", "from 1"),
    ("POST /_sim/settlement", {"currency": "usd", "into": "eur", "rate_millionths": 10**13}, 400, "rate_millionths", "most"),
    ("POST /_sim/balance", {"currency": "usd"}, 400, "available", "missing"),
    ("POST /_sim/balance", {"currency": "usd", "available": 1.5}, 400, "available", "whole"),
    ("POST /_sim/balance", {"currency": "usd", "available": 10**16}, 400, "available", "whole"),
    ("POST /_sim/balance", {"currency": "us", "available": 1}, 400, "currency", "currency"),
    ("POST /_sim/refunds", {"amount": 1}, 400, "charge", "missing"),
    ("POST /_sim/refunds", {"charge": "ch_none"}, 404, "charge", "no charge ch_none"),
    ("POST /_sim/refunds", {"charge": "@charge", "amount": 0}, 400, "amount", "from 1"),
    ("POST /_sim/refunds", {"charge": "@charge", "amount": 5001}, 400, "amount", "greater"),
    ("POST /_sim/refunds", {"charge": "@charge", "reason": "mood"}, 400, "reason", "one of"),
    ("POST /_sim/refunds", {"charge": "@charge", "reason": ["duplicate"]}, 400, "reason", "one of"),
    ("POST /_sim/refunds", {"charge": "@charge", "metadata": {"a": 1}}, 400, "metadata", "strings"),
    ("POST /_sim/refunds", {"charge": "@charge", "metadata": {"a" * 41: "x"}}, 400, f"metadata[{'a' * 41}]", "40"),
    ("POST /_sim/refunds", {"charge": "@charge", "metadata": {"a": "x" * 501}}, 400, "metadata[a]", "500"),
    ("POST /_sim/refunds", {"charge": "@refunded"}, 400, "", "already been refunded"),
    ("POST /_sim/refunds", {"charge": "@held"}, 400, "", "uncaptured"),
    ("POST /_sim/refunds/re_none/settle", None, 404, "refund", "no refund"),
    ("POST /_sim/refunds/@done/settle", None, 409, "refund", "succeeded"),
    ("POST /_sim/refunds/@pending/settle", {"now": True}, 400, "now", "not known"),
    ("POST /_sim/refunds/@pending/fail", {"reason": "bad luck"}, 400, "reason", "one of"),
    ("POST /_sim/refunds/@pending/fail", {"after_seconds": -1}, 400, "after_seconds", "0 or more"),
    ("POST /_sim/refunds/@pending/fail", {"after_seconds": "soon"}, 400, "after_seconds", "number"),
    ("POST /_sim/refunds/@asking/require_action", None, 409, "refund", "requires_action"),
    ("POST /_sim/refunds/@done/act", None, 409, "refund", "succeeded"),
    ("POST /_sim/charges/@charge/behaviour", {}, 400, "refund", "missing"),
    ("POST /_sim/charges/@charge/behaviour", {"refund": "explodes"}, 400, "refund", "one of"),
    ("POST /_sim/charges/ch_none/behaviour", {"refund": "bank"}, 404, "charge", "no charge"),
    ("POST /_sim/disputes", {}, 400, "charge", "missing"),
    ("POST /_sim/disputes", {"charge": "@charge", "amount": 0}, 400, "amount", "from 1"),
    ("POST /_sim/disputes", {"charge": "@charge", "reason": "banana"}, 400, "reason", "one of"),
    ("POST /_sim/disputes", {"charge": "@charge", "inquiry": "no"}, 400, "inquiry", "true or false"),
    ("POST /_sim/disputes", {"charge": "@charge", "after_seconds": -5}, 400, "after_seconds", "0 or more"),
    ("POST /_sim/disputes", {"charge": "@held"}, 409, "charge", "no money"),
    ("POST /_sim/disputes/@dispute/escalate", None, 400, "", "not an inquiry"),
    ("POST /_sim/disputes/@dispute/forget", None, 404, "verdict", "one of"),
    ("POST /_sim/disputes/du_none/win", None, 404, "dispute", "no dispute"),
    ("POST /_sim/warnings", {"charge": 5}, 400, "charge", "string"),
    ("POST /_sim/reviews", {"charge": "@reviewed"}, 409, "charge", "already"),
    ("POST /_sim/reviews/prv_none/approve", None, 404, "review", "no review"),
    ("POST /_sim/idempotency/prune", {"older_than_seconds": -1}, 400, "older_than_seconds", "0 or more"),
    ("POST /_sim/idempotency/prune", {"older": 1}, 400, "older", "not known"),
    ("POST /_sim/snapshots/kept", {"download": "yes"}, 400, "download", "true or false"),
    ("POST /_sim/snapshots/lost/restore", None, 404, "name", "kept"),
    ("POST /_sim/snapshots/x/restore", {"content": "???"}, 400, "content", "base64"),
    ("POST /_sim/snapshots/x/restore", {"content": "aGVsbG8="}, 400, "content", "not a snapshot"),
    ("POST /_sim/crash", {"really": True}, 400, "really", "not known"),
    ("POST /_sim/webhooks/we_none/roll", None, 404, "endpoint", "no webhook_endpoint"),
    ("POST /_sim/webhooks/@endpoint/roll", {"keep_old_seconds": -1}, 400, "keep_old_seconds", "from 0"),
    ("POST /_sim/events/evt_none/resend", {"endpoint": "@endpoint"}, 404, "event", "no event"),
    ("POST /_sim/events/@event/resend", {}, 400, "endpoint", "missing"),
    ("POST /_sim/events/@event/resend", {"endpoint": "we_none"}, 404, "endpoint", "no webhook_endpoint"),
    ("GET /_sim/events/evt_none/deliveries", None, 404, "event", "no event"),
    ("DELETE /_sim/calls", {"all": True}, 400, "all", "not known"),
    ("DELETE /_sim/faults", {"seed": 1}, 400, "seed", "not known"),
    ("POST /_sim/audit", {}, 400, "obligations", "list"),
    ("POST /_sim/audit", {"obligations": [5]}, 400, "obligations[0]", "object"),
    ("POST /_sim/audit", {"obligations": [{"amount": 1}]}, 400, "obligations[0].charge", "missing"),
    ("POST /_sim/audit", {"obligations": [{"charge": "c", "amount": 0}]}, 400, "obligations[0].amount", "from 1"),
    ("POST /_sim/audit", {"obligations": [{"charge": "c", "amount": 1, "x": 1}]}, 400, "obligations[0].x", "not known"),
    ("POST /_sim/audit", {"obligations": [{"charge": "c", "amount": 1, "ticket": 5}]}, 400, "obligations[0].ticket", "string"),
    ("POST /_sim/load", {}, 400, "charges", "list"),
    ("POST /_sim/load", {"charges": [1]}, 400, "charges", "objects"),
    ("POST /_sim/load", {"scenario": "moon"}, 400, "scenario", "online-retail"),
    ("POST /_sim/load", {"scenario": "online-retail", "charges": []}, 400, "charges", "not both"),
    ("POST /_sim/load", {"charges": [], "account": "@account", "livemode": True}, 400, "account", "there are"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "body", "status", "field", "word"), WRONG)
async def test_a_wrong_call_is_refused_by_field_and_reason_and_changes_nothing(
    operation: str, body: Any, status: int, field: str, word: str
) -> None:
    sim, ids = await furnished()
    before = everything(sim)
    reply = await sim.control(filled(operation, ids), filled(body, ids))
    assert (reply.status, reply["error"]["field"]) == (status, field), reply.json
    assert word in reply["error"]["message"]
    assert reply["error"]["type"] == "control_error"
    assert everything(sim) == before
    sim.simulator.close()


@pytest.mark.parametrize("operation", [name for name in VERBS if name.startswith("POST")])
async def test_a_body_that_is_not_json_or_has_an_unknown_field_is_refused(operation: str) -> None:
    sim, ids = await furnished()
    names = {"refund": "@pending", "charge": "@charge", "dispute": "@inquiry", "verdict": "win", "name": "kept",
             "secret": "sk_live_sim", "endpoint": "@endpoint", "event": "@event", "review": "@review"}  # fmt: skip
    path = filled(re.sub(r"\{(\w+)\}", lambda found: names[found[1]], operation), ids)
    before = everything(sim)
    unknown = await sim.control(path, {"surely_unknown": 1})
    assert (unknown.status, unknown["error"]["field"]) == (400, "surely_unknown")
    query = await sim.control(path, None, surely="unknown")
    assert (query.status, query["error"]["field"]) == (400, "surely")
    broken = await raw(sim, path, b'{"half')
    assert (broken.status, broken["error"]["field"]) == (400, "")
    assert "not JSON" in broken["error"]["message"]
    assert everything(sim) == before
    sim.simulator.close()


async def raw(sim: Sim, operation: str, body: bytes, kind: str = "application/json", query: str = "") -> Reply:
    import json

    from stripesim.api import Request

    method, path = operation.split(" ")
    answer = await sim.simulator.answer(Request(method, path, query, {"content-type": kind}, body))
    return Reply(answer.status, {}, json.loads(answer.body), answer.body, answer.cut)


@pytest.mark.parametrize("name", asdict(Settings()))
async def test_a_setting_is_set_by_name_and_survives(name: str, sim: Sim) -> None:
    default = asdict(Settings())[name]
    value = (
        (not default) if isinstance(default, bool) else "2026-10-28.endive" if isinstance(default, str) else default + 3
    )
    assert (await sim.control("POST /_sim/settings", {name: value}))[name] == value
    assert (await sim.control("GET /_sim/settings")).json == asdict(Settings()) | {name: value}
    sim.world.reload()
    assert (await sim.control("GET /_sim/settings"))[name] == value


# Snapshots


async def test_a_snapshot_brings_back_the_whole_world_to_the_byte() -> None:
    sim, ids = await furnished()
    await sim.control("POST /_sim/faults", {"seed": 3, "rules": [{"kind": "latency", "milliseconds": 0.001}]})
    await sim.call("GET /v1/balance")
    await sim.control("POST /_sim/snapshots/one")
    before = everything(sim)
    await sim.control("DELETE /_sim/faults")
    await sim.control("POST /_sim/clock", {"move_seconds": 90_000})
    await sim.control("POST /_sim/settings", {"overdraft": 1})
    gone = (await sim.call("POST /v1/refunds", charge=ids["charge"], amount=7, idempotency_key="k"))["id"]
    await sim.control("POST /_sim/snapshots/one/restore")
    assert everything(sim) == before
    assert (await sim.call(f"GET /v1/refunds/{gone}")).status == 404
    again = await sim.call("POST /v1/refunds", charge=ids["charge"], amount=7, idempotency_key="k")
    assert "idempotent-replayed" not in again.headers, "the key is forgotten with the rest"
    assert (await sim.control("GET /_sim/audit"))["ok"]
    sim.simulator.close()


@pytest.mark.parametrize("kept", [False, True])
async def test_a_snapshot_travels_to_another_simulator_also_from_and_into_a_file(kept: bool, tmp_path: Any) -> None:  # noqa: FBT001
    one = Sim(state=str(tmp_path / "one") if kept else "")
    charge = await one.charge()
    refund = (await one.call("POST /v1/refunds", charge=charge))["id"]
    content = (await one.control("POST /_sim/snapshots/a", {"download": True}))["content"]
    other = Sim(state=str(tmp_path / "other") if kept else "", seed=99)
    reply = await other.control("POST /_sim/snapshots/b/restore", {"content": content})
    assert reply.status == 200, reply.json
    assert (await other.call(f"GET /v1/refunds/{refund}"))["charge"] == charge
    assert (await other.control("GET /_sim/audit"))["ok"]
    other.simulator.close()
    if kept:
        back = Sim(state=str(tmp_path / "other"))
        assert (await back.call(f"GET /v1/refunds/{refund}"))["charge"] == charge
        back.simulator.close()
    one.simulator.close()


async def test_a_restored_world_does_not_repeat_the_request_ids_of_the_life_in_between(tmp_path: Any) -> None:
    state, seen = str(tmp_path / "state"), []
    sim = Sim(state=state)
    content = (await sim.control("POST /_sim/snapshots/a", {"download": True}))["content"]
    for _ in range(3):
        sim.simulator.close()
        sim = Sim(state=state)
        await sim.control("POST /_sim/snapshots/a/restore", {"content": content})
        seen.append((await sim.call("GET /v1/balance")).headers["request-id"])
    assert len(set(seen)) == 3
    sim.simulator.close()


@pytest.mark.parametrize("what", ["cut", "foreign", "version", "poor"])
async def test_bytes_that_are_no_snapshot_change_nothing(what: str) -> None:
    sim, _ = await furnished()
    taken = sim.world.store.snapshot()
    foreign = sqlite3.connect(":memory:")
    foreign.execute("CREATE TABLE recipe (id)")
    foreign.execute(f"PRAGMA user_version={VERSION if what == 'foreign' else VERSION + 1}")
    poor = sqlite3.connect(":memory:")
    poor.deserialize(taken)
    poor.execute("DELETE FROM meta")
    poor.commit()
    content = {
        "cut": taken[: len(taken) // 2],
        "foreign": foreign.serialize(),
        "version": foreign.serialize(),
        "poor": poor.serialize(),
    }[what]
    foreign.close()
    poor.close()
    before = everything(sim)
    reply = await sim.control("POST /_sim/snapshots/x/restore", {"content": base64.b64encode(content).decode()})
    assert (reply.status, reply["error"]["field"]) == (400, "content")
    assert everything(sim) == before
    sim.simulator.close()


# What single calls promise


async def test_pruning_all_forgets_answers_from_the_future_too(sim: Sim) -> None:
    charge = await sim.charge()
    await sim.call("POST /v1/refunds", charge=charge, amount=1, idempotency_key="k")
    await sim.control("POST /_sim/clock", {"move_seconds": -1000})
    assert (await sim.control("POST /_sim/idempotency/prune"))["pruned"] == 1
    again = await sim.call("POST /v1/refunds", charge=charge, amount=1, idempotency_key="k")
    assert "idempotent-replayed" not in again.headers


async def test_calls_are_counted_by_operation_status_and_reason() -> None:
    sim = Sim(monotonic=lambda: 1.0)
    await sim.control("POST /_sim/limits", {"limits": "GET /v1/balance=2"})
    for _ in range(3):
        await sim.call("GET /v1/balance")
    await sim.call("GET /v1/charges/ch_none")
    told = (await sim.control("GET /_sim/calls")).json
    assert told["statuses"] == {"200": 2, "429": 1, "404": 1}
    assert told["limited"] == {"endpoint-rate": 1}
    assert told["operations"]["GET /v1/balance"]["calls"] == 2
    assert told["all"]["calls"] == 3
    times = (await sim.control("GET /_sim/calls/times"))["operations"]
    assert times == {"GET /v1/balance": [1.0, 1.0], "GET /v1/charges/{charge}": [1.0]}
    assert (await sim.control("DELETE /_sim/calls"))["operations"] == {}
    sim.simulator.close()


async def test_an_own_account_is_opened_by_its_own_key_alone_and_has_its_own_limits() -> None:
    sim = Sim(monotonic=lambda: 1.0)
    other = (await sim.control("POST /_sim/accounts", {"secret": "sk_test_other"}))["account"]
    assert (await sim.call("GET /v1/account", key="sk_test_other"))["id"] == other
    assert (await sim.call("GET /v1/balance", account=other, check=False)).status == 403
    await sim.control("POST /_sim/limits", {"limits": "GET /v1/balance=1"})
    first, second = [await sim.call("GET /v1/balance", key=key) for key in ("sk_test_sim", "sk_test_other")]
    assert (first.status, second.status) == (200, 200)
    assert (await sim.call("GET /v1/balance", key="sk_test_other", check=False)).status == 429
    sim.simulator.close()


async def test_calls_are_counted_by_account_and_by_the_key_that_they_carried(sim: Sim) -> None:
    await sim.control("POST /_sim/accounts", {"secret": "sk_test_other"})
    connected = (await sim.call("POST /v1/accounts", type="custom"))["id"]
    await sim.control("DELETE /_sim/calls")
    await sim.call("GET /v1/balance", key="sk_test_other")
    other = (await sim.call("GET /v1/account", key="sk_test_other"))["id"]
    await sim.call("GET /v1/balance", account=connected)
    await sim.call("GET /v1/balance")
    told = (await sim.control("GET /_sim/calls/accounts"))["accounts"]
    platform = sim.world.platform
    assert told == {
        other: {other: {"GET /v1/balance": 1, "GET /v1/account": 1}},
        connected: {platform: {"GET /v1/balance": 1}},
        platform: {platform: {"GET /v1/balance": 1}},
    }


async def test_limits_change_while_it_runs() -> None:
    sim = Sim(monotonic=lambda: 1.0)

    async def passed() -> int:
        return sum([(await sim.call("GET /v1/balance")).status == 200 for _ in range(6)])

    assert await passed() == 6
    await sim.control("POST /_sim/limits", {"limits": "global=4"})
    assert await passed() == 4
    await sim.control("POST /_sim/limits", {"limits": "none"})
    assert await passed() == 6
    sim.simulator.close()


async def test_a_full_refund_or_a_dispute_closes_a_review(sim: Sim) -> None:
    ends = {"refunded": {}, "refunded_as_fraud": {"reason": "fraudulent"}, "disputed": None}
    for reason, how in ends.items():
        charge = await sim.charge()
        await sim.control("POST /_sim/reviews", {"charge": charge})
        if how is None:
            await sim.control("POST /_sim/disputes", {"charge": charge})
        else:
            await sim.call("POST /v1/refunds", charge=charge, amount=10)
            assert (await sim.call("GET /v1/events", type="review.closed", created={"gte": START}))["data"] == []
            await sim.call("POST /v1/refunds", charge=charge, **how)
        closed = (await sim.call("GET /v1/events", type="review.closed"))["data"][0]["data"]["object"]
        assert (closed["charge"], closed["closed_reason"], closed["open"]) == (charge, reason, False)
        await sim.move(1)
        await sim.control("POST /_sim/clock", {"move_seconds": 31 * 86_400})
