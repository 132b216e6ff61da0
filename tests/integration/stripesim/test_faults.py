"""What a caller sees of each kind of trouble, and what was done behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from stripesim import faults
from stripesim.api import matched
from stripesim.call import Call
from stripesim.registry import DAHLIA
from tests.support.sim import Reply, Sim

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Case:
    """One kind of trouble that befalls a refund.

    Args:
        sees: HTTP status and way of the cut, as the caller sees them first.
        done: Refunds there are then.
        again: HTTP status of the same call with the same key, when the trouble is over.
        replayed: Whether that is the stored answer.
        finally_done: Refunds there are then.
        more: Further fields of the rule.
    """

    sees: tuple[int, str]
    done: int
    again: int
    replayed: bool
    finally_done: int
    more: dict[str, Any] = field(default_factory=dict)


CASES = {
    "drop_before": Case((0, "drop"), 0, 200, replayed=False, finally_done=1),
    "reset_before": Case((0, "reset"), 0, 200, replayed=False, finally_done=1),
    "error_before": Case((500, ""), 0, 200, replayed=False, finally_done=1),
    "error_stored": Case((500, ""), 0, 500, replayed=True, finally_done=0),
    "rate_limit": Case((429, ""), 0, 200, replayed=False, finally_done=1, more={"reason": "endpoint-rate"}),
    "lock_timeout": Case((429, ""), 0, 200, replayed=False, finally_done=1),
    "conflict": Case((409, ""), 0, 200, replayed=False, finally_done=1),
    "drop_after": Case((200, "drop"), 1, 200, replayed=True, finally_done=1),
    "reset_after": Case((200, "reset"), 1, 200, replayed=True, finally_done=1),
    "truncate": Case((200, "truncate"), 1, 200, replayed=True, finally_done=1),
    "error_after": Case((500, ""), 1, 500, replayed=True, finally_done=1),
    "error_later": Case((500, ""), 0, 500, replayed=True, finally_done=0, more={"delay_seconds": 9}),
    "crash": Case((200, "crash"), 1, 200, replayed=True, finally_done=1),
    "unauthorized": Case((401, ""), 0, 200, replayed=False, finally_done=1),
    "forbidden": Case((403, ""), 0, 200, replayed=False, finally_done=1),
    "latency": Case((200, ""), 1, 200, replayed=True, finally_done=1, more={"milliseconds": 0.01}),
    "stale_read": Case((200, ""), 1, 200, replayed=True, finally_done=1, more={"bound_seconds": 5}),
}


async def plan(sim: Sim, *rules: dict[str, Any], seed: int = 0) -> Reply:
    reply = await sim.control("POST /_sim/faults", {"seed": seed, "rules": list(rules)})
    assert reply.status == 200, reply.json
    return reply


async def refunds(sim: Sim) -> int:
    audit = await sim.control("GET /_sim/audit")
    assert audit["ok"], audit["problems"]
    return int(audit["refunds"])


def test_every_kind_of_trouble_has_its_case() -> None:
    assert CASES.keys() == faults.KINDS


@pytest.mark.parametrize("kind", CASES)
async def test_trouble_is_seen_and_leaves_behind_what_it_says(kind: str, sim: Sim) -> None:
    case, charge = CASES[kind], await sim.charge()
    await plan(sim, {"kind": kind, "operation": "POST /v1/refunds", **case.more})
    first = await sim.call("POST /v1/refunds", charge=charge, amount=100, idempotency_key="k")
    assert (first.status, first.cut) == case.sees
    assert await refunds(sim) == case.done
    await sim.control("DELETE /_sim/faults")
    again = await sim.call("POST /v1/refunds", charge=charge, amount=100, idempotency_key="k")
    assert again.status == case.again
    assert ("idempotent-replayed" in again.headers) == case.replayed
    assert await refunds(sim) == case.finally_done
    if case.replayed:
        assert again.body == first.body


async def test_a_refund_behind_a_500_is_made_later_and_the_500_stays(sim: Sim) -> None:
    charge = await sim.charge()
    await plan(sim, {"kind": "error_later", "operation": "POST /v1/refunds", "delay_seconds": 30})
    params = {"charge": charge, "amount": 100, "metadata": {"refundry_request_id": "r1"}}
    first = await sim.call("POST /v1/refunds", idempotency_key="k", **params)
    await sim.move(29)
    assert await refunds(sim) == 0
    await sim.move(1)
    assert await refunds(sim) == 1
    made = await sim.call("GET /v1/refunds", charge=charge)
    assert made["data"][0]["metadata"] == {"refundry_request_id": "r1"}
    assert made["data"][0]["created"] == sim.clock.seconds()
    event = (await sim.call("GET /v1/events", type="refund.created"))["data"][0]
    assert event["request"] == {"id": first.headers["request-id"], "idempotency_key": "k"}
    again = await sim.call("POST /v1/refunds", idempotency_key="k", **params)
    assert (again.status, again.body) == (500, first.body)
    assert await refunds(sim) == 1


async def test_a_refund_behind_a_500_may_also_be_refused_later(sim: Sim) -> None:
    charge = await sim.charge(amount=5000)
    await plan(sim, {"kind": "error_later", "operation": "POST /v1/refunds", "delay_seconds": 30, "times": 1})
    assert (await sim.call("POST /v1/refunds", charge=charge, idempotency_key="k")).status == 500
    assert (await sim.call("POST /v1/refunds", charge=charge, idempotency_key="other")).status == 200
    await sim.move(31)
    assert await refunds(sim) == 1


@pytest.mark.parametrize("status", faults.STATUSES)
async def test_a_500_may_be_another_of_its_kin(status: int, sim: Sim) -> None:
    charge = await sim.charge()
    await plan(sim, {"kind": "error_after", "status": status})
    assert (await sim.call("POST /v1/refunds", charge=charge, idempotency_key="k")).status == status
    assert await refunds(sim) == 1


async def test_limiter_and_lock_429_differ_by_their_headers(sim: Sim) -> None:
    charge = await sim.charge()
    await plan(
        sim, {"kind": "rate_limit", "reason": "global-concurrency", "times": 1}, {"kind": "lock_timeout", "skip": 1}
    )
    limited = await sim.call("POST /v1/refunds", charge=charge)
    assert limited.headers["stripe-rate-limited-reason"] == "global-concurrency"
    assert "request-id" in limited.headers
    locked = await sim.call("POST /v1/refunds", charge=charge)
    assert locked.error["code"] == "lock_timeout"
    assert locked.headers["stripe-should-retry"] == "true"
    assert not {"stripe-rate-limited-reason", "request-id"} & locked.headers.keys()


@pytest.mark.parametrize("kind", ["drop_after", "reset_after", "truncate", "crash"])
@pytest.mark.parametrize("operation", ["GET /v1/charges/ch_none", "POST /v1/refunds"])
async def test_a_connection_fails_under_a_refusal_too(kind: str, operation: str, sim: Sim) -> None:
    await plan(sim, {"kind": kind})
    reply = await sim.call(operation, **({"charge": "ch_none"} if operation.startswith("POST") else {}))
    assert (reply.status, reply.cut) == (404, kind.removesuffix("_after"))


@pytest.mark.parametrize("kind", sorted(faults.WRITES))
async def test_a_rule_does_not_count_calls_that_it_cannot_hit(kind: str, sim: Sim) -> None:
    charge = await sim.charge()
    await plan(sim, {"kind": kind})
    assert (await sim.call(f"GET /v1/charges/{charge}")).status == 200
    if kind == "conflict":
        assert (await sim.call("POST /v1/refunds", charge=charge, amount=1)).status == 200
    rule = (await sim.control("GET /_sim/faults"))["rules"][0]
    assert (rule["met"], rule["hits"]) == (0, 0)


async def test_rules_choose_by_number_and_count_what_they_met(sim: Sim) -> None:
    charge = await sim.charge()
    chosen = {
        "every": {"every": 3},
        "at": {"at": [1, 4]},
        "skip": {"skip": 8},
        "times": {"times": 2},
        "both": {"every": 2, "skip": 1, "times": 2},
    }
    hit = {"every": [3, 6, 9], "at": [1, 4], "skip": [9, 10], "times": [1, 2], "both": [3, 5]}
    for name, how in chosen.items():
        await plan(sim, {"kind": "error_before", "operation": "GET /v1/charges/{charge}", **how})
        seen = [(await sim.call(f"GET /v1/charges/{charge}")).status for _ in range(10)]
        assert [at for at, status in enumerate(seen, 1) if status == 500] == hit[name], name
        rule = (await sim.control("GET /_sim/faults"))["rules"][0]
        assert (rule["met"], rule["hits"]) == (10, len(hit[name]))


async def test_a_rule_for_one_endpoint_or_account_leaves_the_others_alone(sim: Sim) -> None:
    charge = await sim.charge()
    account = (await sim.call("POST /v1/accounts", country="US"))["id"]
    await plan(
        sim,
        {"kind": "error_before", "operation": "POST /v1/refunds"},
        {"kind": "drop_before", "operation": "GET *", "account": account},
    )
    assert (await sim.call("GET /v1/refunds")).status == 200
    assert (await sim.call("GET /v1/refunds", account=account)).cut == "drop"
    assert (await sim.call("POST /v1/refunds", charge=charge)).status == 500
    rules = (await sim.control("GET /_sim/faults"))["rules"]
    assert [(rule["met"], rule["hits"]) for rule in rules] == [(1, 1), (1, 1)]


async def hits(seed: int, calls: int = 400) -> str:
    sim = Sim()
    await plan(sim, {"kind": "error_before", "probability": 0.25}, seed=seed)
    seen = [(await sim.call("GET /v1/balance", check=False)).status for _ in range(calls)]
    sim.simulator.close()
    return "".join("x" if status == 500 else "." for status in seen)


async def test_the_same_seed_hits_the_same_calls_and_another_seed_others() -> None:
    first, second, other = await hits(7), await hits(7), await hits(8)
    assert first == second != other
    # A quarter of 400, give or take four deviations.
    assert 65 < first.count("x") < 135


async def test_latency_is_waited_by_the_loops_clock_half_before_and_half_after(sim: Sim) -> None:
    class Virtual(asyncio.SelectorEventLoop):
        """A loop whose time jumps to the next thing that is due."""

        now = 0.0

        def time(self) -> float:
            return self.now

        def _run_once(self) -> None:
            if not self._ready and self._scheduled:
                self.now = max(self.now, self._scheduled[0].when())
            super()._run_once()

    async def story() -> tuple[float, float]:
        loop, charge = asyncio.get_running_loop(), await sim.charge()
        rules = [{"kind": "latency", "operation": "POST *", "milliseconds": 4_000}]
        await sim.control("POST /_sim/faults", {"rules": [*rules, {"kind": "latency", "low": 500, "high": 500}]})
        start = loop.time()
        call = asyncio.create_task(sim.call("POST /v1/refunds", charge=charge))
        await asyncio.sleep(2.2)
        assert (await sim.control("GET /_sim/audit"))["refunds"] == 0
        await asyncio.sleep(0.1)
        assert (await sim.control("GET /_sim/audit"))["refunds"] == 1
        await call
        written = loop.time() - start
        await sim.call("GET /v1/balance")
        return written, loop.time() - start - written

    def run() -> tuple[float, float]:
        with asyncio.Runner(loop_factory=Virtual) as runner:
            return runner.run(story())

    assert await asyncio.to_thread(run) == (pytest.approx(4.5), pytest.approx(0.5))


async def test_a_stale_read_is_never_older_than_its_bound_and_never_touches_a_write(sim: Sim) -> None:
    await plan(sim, {"kind": "stale_read", "bound_seconds": 10})
    charge = await sim.charge()
    seen: set[int] = set()
    for step in range(1, 41):
        await sim.move(1)
        refund = await sim.call("POST /v1/refunds", charge=charge, amount=1)
        assert refund.status == 200
        reply = await sim.call(f"GET /v1/charges/{charge}")
        if step <= 10:
            assert reply.status in {200, 404}, "the charge itself may be too young to be seen"
            continue
        behind = step - reply["amount_refunded"]
        assert 0 <= behind <= 10
        seen.add(behind)
        listed = await sim.call("GET /v1/refunds", charge=charge, limit=100)
        assert step - 10 <= len(listed["data"]) <= step
        assert listed["count"] == len(listed["data"])
    assert len(seen) > 4, "it should differ from read to read"
    rows = sim.world.store.db.execute("SELECT count(*) FROM history").fetchone()[0]
    assert rows < 120, "the past that nobody can ask for is dropped"
    await sim.control("DELETE /_sim/faults")
    assert (await sim.call(f"GET /v1/charges/{charge}"))["amount_refunded"] == 40


async def stale(sim: Sim, seconds: int, operation: str, **params: Any) -> Any:
    """Read as the world was just so many seconds ago; a fault draws how many, up to its bound."""
    sim.world.as_of = sim.clock.now() - seconds
    try:
        route, path = matched(*operation.split(" "))
        scope = sim.world.scopes[sim.world.platform, False]
        call = Call(sim.world, scope, scope, DAHLIA, params, path)
        return call.expand(route.handler(call))
    finally:
        sim.world.as_of = None


READS: list[tuple[str, dict[str, Any]]] = [
    ("GET /v1/charges/{charge}", {"expand": ["refunds"]}),
    ("GET /v1/charges/{charge}/refunds", {"limit": 2}),
    ("GET /v1/refunds", {"charge": "{charge}", "limit": 3}),
    ("GET /v1/balance_transactions", {"limit": 4}),
    ("GET /v1/balance", {}),
    ("GET /v1/charges/search", {"query": "metadata['order_id']:'7'"}),
    ("GET /v1/charges/search", {"query": "currency:'usd'"}),
    ("GET /v1/transfers", {}),
    ("GET /v1/application_fees", {}),
]


@pytest.mark.parametrize(("operation", "params"), READS)
async def test_a_stale_read_answers_what_the_same_read_answered_then(
    operation: str, params: dict[str, Any], sim: Sim
) -> None:
    await sim.control("POST /_sim/settings", {"search_delay": 2, "arn_delay": 3, "funds_days": 0})
    # A midnight, at which money becomes available, comes amid the story.
    await sim.move(86_400 - sim.clock.now() % 86_400 - 6)
    await plan(sim, {"kind": "stale_read", "bound_seconds": 86_400, "operation": "GET /v1/events"})
    account = (await sim.call("POST /v1/accounts", country="US"))["id"]
    share = {"transfer_data": {"destination": account}, "application_fee_amount": 50}
    other = await sim.charge(300)
    charge = await sim.charge(5000, metadata={"order_id": "7"}, **share)
    path = operation.format(charge=charge)
    wanted = {name: charge if value == "{charge}" else value for name, value in params.items()}
    answers = []
    for step in range(12):
        if step % 3 == 1:
            await sim.call(
                "POST /v1/refunds", charge=charge, amount=100, reverse_transfer=True, refund_application_fee=True
            )
        if step == 5:
            await sim.charge(700, card="pm_card_bypassPending", metadata={"order_id": "7"})
            await sim.call(f"POST /v1/charges/{other}", metadata={"order_id": "7"})
        if step == 8:
            await sim.control("POST /_sim/balance", {"currency": "usd", "available": 70_000})
        answers.append(await stale(sim, 0, path, **wanted))
        await sim.move(1)
    assert len({repr(answer) for answer in answers}) > 3, "it should have changed meanwhile"
    for ago, answer in enumerate(reversed(answers), 1):
        assert await stale(sim, ago, path, **wanted) == answer, f"{ago} seconds ago it was answered otherwise"


BAD = [
    ("rules", {"rules": {}}, "list"),
    ("rules[0]", {"rules": ["crash"]}, "object"),
    ("rules[0].kind", {"rules": [{}]}, "one of"),
    ("rules[0].kind", {"rules": [{"kind": "explode"}]}, "one of"),
    ("rules[0].kind", {"rules": [{"kind": ["crash"]}]}, "one of"),
    ("rules[1].wat", {"rules": [{"kind": "crash"}, {"kind": "crash", "wat": 1}]}, "not known"),
    ("rules[0].operation", {"rules": [{"kind": "crash", "operation": 5}]}, "string"),
    ("rules[0].account", {"rules": [{"kind": "crash", "account": None}]}, "string"),
    ("rules[0].probability", {"rules": [{"kind": "crash", "probability": 1.5}]}, "0 to 1"),
    ("rules[0].probability", {"rules": [{"kind": "crash", "probability": True}]}, "0 to 1"),
    ("rules[0].every", {"rules": [{"kind": "crash", "every": -1}]}, "whole number"),
    ("rules[0].times", {"rules": [{"kind": "crash", "times": 1.5}]}, "whole number"),
    ("rules[0].skip", {"rules": [{"kind": "crash", "skip": "2"}]}, "whole number"),
    ("rules[0].at", {"rules": [{"kind": "crash", "at": [0]}]}, "from 1"),
    ("rules[0].at", {"rules": [{"kind": "crash", "at": [True]}]}, "from 1"),
    ("rules[0].at", {"rules": [{"kind": "crash", "at": 3}]}, "from 1"),
    ("rules[0].every", {"rules": [{"kind": "crash", "probability": 0.5, "every": 2}]}, "beside probability"),
    ("rules[0].reason", {"rules": [{"kind": "rate_limit", "reason": "tired"}]}, "one of"),
    ("rules[0].reason", {"rules": [{"kind": "rate_limit", "reason": []}]}, "one of"),
    ("rules[0].reason", {"rules": [{"kind": "crash", "reason": "global-rate"}]}, "means nothing to crash"),
    ("rules[0].status", {"rules": [{"kind": "error_after", "status": 418}]}, "one of"),
    ("rules[0].status", {"rules": [{"kind": "error_after", "status": True}]}, "one of"),
    ("rules[0].status", {"rules": [{"kind": "drop_after", "status": 500}]}, "means nothing"),
    ("rules[0].delay_seconds", {"rules": [{"kind": "error_later", "delay_seconds": 86_401}]}, "0 to 86400"),
    ("rules[0].milliseconds", {"rules": [{"kind": "latency"}]}, "needs"),
    ("rules[0].milliseconds", {"rules": [{"kind": "latency", "low": 5}]}, "needs"),
    ("rules[0].low", {"rules": [{"kind": "latency", "low": 5, "high": 4}]}, "at most high"),
    ("rules[0].low", {"rules": [{"kind": "latency", "low": 5, "milliseconds": 9}]}, "at most high"),
    ("rules[0].bound_seconds", {"rules": [{"kind": "stale_read"}]}, "above 0"),
    ("seed", {"seed": -1, "rules": []}, "whole number"),
    ("seed", {"seed": "1", "rules": []}, "whole number"),
    ("wat", {"rules": [], "wat": 1}, "not known"),
]


@pytest.mark.parametrize(("where", "body", "why"), BAD)
async def test_a_bad_rule_is_refused_by_field_and_reason_and_the_old_plan_stays(
    where: str, body: dict[str, Any], why: str, sim: Sim
) -> None:
    await plan(sim, {"kind": "error_before", "every": 2}, seed=3)
    await sim.call("GET /v1/balance")
    before = await sim.control("GET /_sim/faults")
    reply = await sim.control("POST /_sim/faults", body)
    assert (reply.status, reply["error"]["field"]) == (400, where)
    assert why in reply["error"]["message"]
    assert (await sim.control("GET /_sim/faults")).body == before.body
