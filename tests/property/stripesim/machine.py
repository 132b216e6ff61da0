"""Does to a simulator what a refund program, its network and its operators do, and holds it against a small model.

The model knows what was answered: which refunds were confirmed, and what each idempotency key holds. All else is judged by
the simulator's own audit, after every step.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stripesim import faults
from stripesim.clock import Clock
from stripesim.webhooks import Pump
from tests.support.sim import START, Reply, Sim

HOURS_24 = 86_400
CARDS = ("visa", "visa", "pendingRefund", "refundFail", "bypassPending", "createDispute", "createDisputeInquiry",
         "createIssuerFraudRecord", "chargeDeclined")  # fmt: skip
LISTS = ("charges", "refunds", "balance_transactions", "events", "disputes")
WAYS = ("succeeds", "pends", "stays", "fails", "bank", "action", "reverses", "unreferenced")
METHODS = ("sepa_debit", "konbini", "ideal", "klarna")
CURRENCIES = ("usd", "eur", "jpy", "kwd")
TROUBLE = {"error_before", "error_stored", "error_after", "error_later"}
KINDS = sorted(faults.KINDS)
HURTING = ("error_after", *sorted(faults.KINDS - faults.SHAPING - {"error_after"}))
# In the limiters' seconds: a call takes a twentieth of one.
TICK = 0.05
picks = range(10_001)
# A part of 50.00; one stands for all that is left.
parts = (7, 20, 100, 3, 2, 50, 1000, 1)
EITHER = (False, True)


# Each step by its name, with what its arguments may be; one that matters more is here more than once.
STEPS: list[tuple[str, dict[str, Sequence[Any]]]] = []
Step = TypeVar("Step", bound=Callable[..., None])


def step(often: int = 1, **domains: Sequence[Any]) -> Callable[[Step], Step]:
    """Make a step of a method: for hypothesis, which makes a failure small, and for walks, which go far."""

    def add(method: Step) -> Step:
        STEPS.extend([(method.__name__, domains)] * often)
        made: Step = rule(**{name: st.sampled_from(domain) for name, domain in domains.items()})(method)
        return made

    return add


@dataclass(frozen=True)
class Payment:
    """A charge, its payment intent if it has one, the connected account it lives on, and whether money was passed on."""

    charge: str
    intent: str | None
    account: str | None
    passed_on: bool


@dataclass
class Memory:
    """What a caller of the simulator could have written down."""

    charges: list[Payment] = field(default_factory=list)
    refunds: list[str] = field(default_factory=list)
    confirmed: dict[str, int] = field(default_factory=dict)
    disputes: list[str] = field(default_factory=list)
    sent: dict[str, tuple[str, dict[str, Any], str | None]] = field(default_factory=dict)
    kept: dict[str, tuple[int, bytes, float]] = field(default_factory=dict)


@cache
def _empty_state() -> bytes:
    """Make a state file once; each run begins with a copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        Sim(state=str(path)).simulator.close()
        return path.read_bytes()


class Machine(RuleBasedStateMachine):
    """One simulator with its state in a file, from its first call to its last."""

    def __init__(self) -> None:
        """Begin with an empty world."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stripesim"))
        self.lives = 0
        self.path = self.folder / "state0"
        self.path.write_bytes(_empty_state())
        self.runner = asyncio.Runner()
        self.ticks = 0.0
        self.memory = Memory()
        self.past: Memory | None = None
        self.number = 0
        self.account: str | None = None
        self.clock = Clock(START)
        self.sim = self._open()

    def _open(self) -> Sim:
        return Sim(state=str(self.path), clock=self.clock, monotonic=self._tick)

    def _tick(self) -> float:
        self.ticks += TICK
        return self.ticks

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.sim.simulator.close()
        self.runner.close()
        shutil.rmtree(self.folder)

    # Calling

    def _call(self, operation: str, *, key: str | None = None, account: str | None = None, **params: Any) -> Reply:
        """Call, and hold the answer against what the key is known to hold."""
        holds = self._holds(key)
        reply = self.runner.run(self.sim.call(operation, idempotency_key=key, account=account, **params))
        self._judge(reply, holds)
        self._write_down(operation, key, account, params, reply)
        if reply.cut == "crash":
            self._restart(crashed=True)
        return reply

    def _holds(self, key: str | None) -> tuple[int, bytes, float] | None:
        held = self.memory.kept.get(key or "")
        return held if held and held[2] > self.clock.now() - HOURS_24 else None

    def _judge(self, reply: Reply, holds: tuple[int, bytes, float] | None) -> None:
        if reply.status >= 500 or reply.status == 424:
            ordered = bool(TROUBLE & {r.kind for r in self.sim.simulator.api.faults.rules})
            assert ordered or (holds and holds[0] == reply.status), f"nobody ordered this {reply.status}"
        if holds and "idempotent-replayed" in reply.headers:
            assert (reply.status, reply.body) == holds[:2], "a replay differs from the first answer"
        elif holds:
            # Only what stands before the idempotency layer may answer instead of it: a fault, a limiter, a refused key.
            assert reply.status not in {200, 402}, "a key that holds an answer ran anew"

    def _write_down(self, operation: str, key: str | None, account: str | None, params: Any, reply: Reply) -> None:
        if reply.json is None:
            return
        began = "original-request" in reply.headers and "idempotent-replayed" not in reply.headers
        if key and began and (reply.status in {200, 402} or reply.status >= 500 or reply.status == 424):
            self.memory.sent[key] = (operation, params, account)
            self.memory.kept[key] = (reply.status, reply.body, self.clock.now())
        if reply.status == 200 and reply["object"] == "refund":
            self.memory.confirmed[reply["id"]] = reply["amount"]
            if reply["id"] not in self.memory.refunds:
                self.memory.refunds.append(reply["id"])

    def _control(self, operation: str, body: Any = None) -> Reply:
        reply = self.runner.run(self.sim.control(operation, body))
        assert reply.status < 500, reply.json
        return reply

    def _restart(self, *, crashed: bool) -> None:
        """Go on from the file. A crashed process leaves the file and its log as they lie, nothing is closed."""
        self.lives += 1
        then = self.folder / f"state{self.lives}"
        if crashed:
            for end in ("", "-wal"):
                left = Path(f"{self.path}{end}")
                if left.exists():
                    shutil.copyfile(left, f"{then}{end}")
            self.sim.simulator.store.close()
        else:
            self.sim.simulator.close()
            shutil.copyfile(self.path, then)
        self.path = then
        self.sim = self._open()

    def _new(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def _charge(self, pick: int) -> Payment | None:
        return self.memory.charges[pick % len(self.memory.charges)] if self.memory.charges else None

    def _refund(self, pick: int) -> str | None:
        return self.memory.refunds[pick % len(self.memory.refunds)] if self.memory.refunds else None

    # What callers do

    @initialize()
    def first_payment(self) -> None:
        """There is always something to refund, and an account that is connected."""
        self.account = self._call("POST /v1/accounts", country="DE")["id"]
        self.pay(100_000, "usd", "visa", "at_once")
        self.pay(12_340, "eur", "pendingRefund", "destination")
        self.pay(5000, "usd", "refundFail", "direct")

    @step(
        amount=(5000, 12340, 100_000),
        currency=CURRENCIES,
        means=CARDS + METHODS,
        way=("at_once", "manual", "direct", "destination", "connected"),
    )
    def pay(self, amount: int, currency: str, means: str, way: str) -> None:
        """A customer pays, by card or otherwise, at once or authorised only, on the platform or a connected account."""
        params: dict[str, Any] = {"amount": amount, "currency": currency}
        account = self.account if way == "connected" else None
        if way == "direct":
            params |= {"source": f"tok_{means if means in CARDS else 'visa'}"}
            reply = self._call("POST /v1/charges", key=self._new("pay"), **params)
            charge = reply["id"] if reply.status == 200 else None
        else:
            params |= {"payment_method": f"pm_card_{means}"} if means in CARDS else {
                "payment_method_data": {"type": means}, "payment_method_types": [means],
            }  # fmt: skip
            params |= {"capture_method": "manual"} if way == "manual" and means in CARDS else {}
            if way == "destination":
                params |= {"transfer_data": {"destination": self.account}, "application_fee_amount": 77}
            reply = self._call(
                "POST /v1/payment_intents", key=self._new("pay"), account=account, confirm=True, **params
            )
            charge = reply["latest_charge"] if reply.status == 200 else None
        if charge:
            intent = reply["id"] if way != "direct" else None
            self.memory.charges.append(Payment(charge, intent, account, way == "destination"))

    @step(
        often=3,
        pick=picks,
        part=parts,
        way=("charge", "payment_intent", "refunds", "refund"),
        reason=(None, "duplicate", "fraudulent", "nonsense"),
        keyed=EITHER,
    )
    def refund(self, pick: int, part: int, way: str, reason: str | None, keyed: bool) -> None:  # noqa: FBT001
        """Somebody wants money back: all that is left, or some of it, by one of the four ways."""
        if found := self._charge(pick):
            operation, params = self._wanted(found, part, way)
            params |= {"reason": reason} if reason else {}
            params |= {"reverse_transfer": True, "refund_application_fee": True} if found.passed_on and reason else {}
            self._call(operation, key=self._new("key") if keyed else None, account=found.account, **params)

    def _wanted(self, found: Payment, part: int, way: str) -> tuple[str, dict[str, Any]]:
        params: dict[str, Any] = {"metadata": {"refundry_request_id": self._new("request")}}
        if part > 1:
            params["amount"] = max(5000 // part // 10 * 10, 1)
        if way in {"refund", "refunds"}:
            return f"POST /v1/charges/{found.charge}/{way}", params
        if way == "payment_intent" and found.intent:
            return "POST /v1/refunds", params | {"payment_intent": found.intent}
        return "POST /v1/refunds", params | {"charge": found.charge}

    @step(often=2, pick=picks, part=parts, kind=HURTING, other=(None, *HURTING))
    def refund_in_trouble(self, pick: int, part: int, kind: str, other: str | None) -> None:
        """A call goes wrong, and its caller, who cannot know what was done, asks again with the same key."""
        if not (found := self._charge(pick)):
            return
        operation, params = self._wanted(found, part, "charge")
        key = self._new("key")
        rules = [{"kind": name, "operation": operation, "times": 1} for name in (kind, other) if name]
        rules[1:] = [told | {"skip": 1} for told in rules[1:]]
        assert self._control("POST /_sim/faults", {"rules": rules}).status == 200
        for _ in range(3):
            self._call(operation, key=key, account=found.account, **params)
        self._control("DELETE /_sim/faults")

    @step(pick=picks)
    def replay(self, pick: int) -> None:
        """A caller that is in doubt asks again, with the same key and the same words."""
        if self.memory.sent and self._holds(key := self._sent(pick)):
            operation, params, account = self.memory.sent[key]
            self._call(operation, key=key, account=account, **params)

    @step(pick=picks)
    def replay_with_other_words(self, pick: int) -> None:
        """A caller that is wrong asks for something else with a key that it has used."""
        if self.memory.sent and self._holds(key := self._sent(pick)):
            operation, params, account = self.memory.sent[key]
            other = params | {"metadata": {"refundry_request_id": self._new("other")}}
            reply = self._call(operation, key=key, account=account, **other)
            assert "idempotent-replayed" not in reply.headers, "other words got the answer to the first ones"

    def _sent(self, pick: int) -> str:
        return list(self.memory.sent)[pick % len(self.memory.sent)]

    @step(often=2, pick=picks, part=(1, 2, 1, 7), same_key=EITHER, lock_wait=(0, 0, 1))
    def refund_twice_at_once(self, pick: int, part: int, same_key: bool, lock_wait: int) -> None:  # noqa: FBT001
        """Two workers refund one charge at the same moment, while calls take their time."""
        if not (found := self._charge(pick)):
            return
        before = self._control("GET /_sim/faults")
        slow = {"kind": "latency", "milliseconds": 0.01, "operation": "POST *"}
        self._control("POST /_sim/faults", {"rules": [slow]})
        self._control("POST /_sim/settings", {"lock_wait": lock_wait})
        operation, params = self._wanted(found, part, "charge")
        other = params if same_key else self._wanted(found, part, "charge")[1]
        first = self._new("key")
        keys = (first, first if same_key else self._new("key"))

        async def both() -> list[Reply]:
            wanted = zip(keys, (params, other), strict=True)
            calls = (self.sim.call(operation, idempotency_key=k, account=found.account, **p) for k, p in wanted)
            return list(await asyncio.gather(*calls))

        replies = self.runner.run(both())
        for key, sent, reply in zip(keys, (params, other), replies, strict=True):
            self._judge(reply, None)
            self._write_down(operation, key, found.account, sent, reply)
        self._control("POST /_sim/settings", {"lock_wait": 0})
        rules = [told.pop("more") | {k: v for k, v in told.items() if v} for told in before["rules"]]
        self._control("POST /_sim/faults", {"seed": before["seed"], "rules": [_again(told) for told in rules]})

    @step(pick=picks, part=parts, what=("capture", "cancel"))
    def end_authorisation(self, pick: int, part: int, what: str) -> None:
        """An authorised payment is captured, in full or in part, or canceled."""
        found = self._charge(pick)
        if found and found.intent:
            params: dict[str, Any] = {"amount_to_capture": 5000 // part} if what == "capture" and part > 1 else {}
            self._call(
                f"POST /v1/payment_intents/{found.intent}/{what}", key=self._new("end"), account=found.account, **params
            )

    @step(pick=picks, what=("cancel", "update", "read", "list"))
    def touch_refund(self, pick: int, what: str) -> None:
        """A refund is canceled, relabelled, or read, or a page of a list is."""
        if refund := self._refund(pick):
            match what:
                case "cancel":
                    self._call(f"POST /v1/refunds/{refund}/cancel", key=self._new("cancel"))
                case "update":
                    self._call(f"POST /v1/refunds/{refund}", metadata={"note": self._new("note")})
                case "list":
                    self._call(f"GET /v1/{LISTS[pick % len(LISTS)]}", limit=pick % 5 + 1)
                case _:
                    self._call(f"GET /v1/refunds/{refund}", expand=["charge", "balance_transaction"])

    # What banks, customers and people at the Dashboard do

    @step(pick=picks, part=parts, inquiry=EITHER, later=EITHER)
    def dispute(self, pick: int, part: int, inquiry: bool, later: bool) -> None:  # noqa: FBT001
        """A bank disputes a payment, now or in a while."""
        if found := self._charge(pick):
            body: dict[str, Any] = {"charge": found.charge, "inquiry": inquiry, "amount": 5000 // part}
            reply = self._control("POST /_sim/disputes", body | ({"after_seconds": 30} if later else {}))
            if reply.status == 200 and not later:
                self.memory.disputes.append(reply["id"])

    @step(pick=picks, verdict=("escalate", "win", "lose", "close_inquiry"))
    def end_dispute(self, pick: int, verdict: str) -> None:
        """A dispute goes on or ends."""
        if self.memory.disputes:
            self._control(f"POST /_sim/disputes/{self.memory.disputes[pick % len(self.memory.disputes)]}/{verdict}")

    @step(pick=picks, part=parts)
    def refund_by_hand(self, pick: int, part: int) -> None:
        """A person refunds at the Dashboard, and tells nobody."""
        if found := self._charge(pick):
            reply = self._control(
                "POST /_sim/refunds", {"charge": found.charge, **({"amount": 5000 // part} if part > 1 else {})}
            )
            if reply.status == 200:
                self.memory.refunds.append(reply["id"])
                self.memory.confirmed[reply["id"]] = reply["amount"]

    @step(pick=picks, what=("settle", "fail", "require_action", "act"))
    def steer_refund(self, pick: int, what: str) -> None:
        """A refund settles, fails, comes back from the bank, or its customer says where to."""
        if refund := self._refund(pick):
            self._control(f"POST /_sim/refunds/{refund}/{what}")

    @step(
        what=("behaviour", "balance", "settlement", "limits"),
        pick=picks,
        currency=CURRENCIES,
        owner=EITHER,
    )
    def operate(self, what: str, pick: int, currency: str, owner: bool) -> None:  # noqa: FBT001
        """Refunds of a charge go another way, a balance runs low, a currency is paid out in another, limiters change."""
        account = {"account": self.account} if owner and self.account else {}
        match what:
            case "behaviour":
                if found := self._charge(pick):
                    self._control(f"POST /_sim/charges/{found.charge}/behaviour", {"refund": WAYS[pick % len(WAYS)]})
            case "balance":
                available = (-200_000, -90_000, 0, 1000, 100_000_000)[pick % 5]
                self._control("POST /_sim/balance", {"currency": currency, "available": available, **account})
            case "settlement":
                rate = {"into": "cad", "rate_millionths": (1_000_000, 1_234_567, 7_000)[pick % 3]}
                self._control("POST /_sim/settlement", {"currency": currency, **rate, **account})
            case _:
                limits = ("none", "none", "sandbox", "global=2,endpoint=1")[pick % 4]
                self._control("POST /_sim/limits", {"limits": limits})

    # What goes wrong

    @step(
        seed=range(100),
        kinds=((), *((one,) for one in KINDS), *permutations(KINDS, 2)),
        operation=("POST /v1/refunds", "POST *", "*", "GET *"),
        probability=(0.3, 0.7, 1.0),
    )
    def trouble(self, seed: int, kinds: tuple[str, ...], operation: str, probability: float) -> None:
        """The network and the far side go wrong, by a plan, or well again."""
        more: dict[str, dict[str, Any]] = {"latency": {"milliseconds": 0.01}, "stale_read": {"bound_seconds": 60}}
        rules = [{"kind": k, "operation": operation, "probability": probability} | more.get(k, {}) for k in kinds]
        assert self._control("POST /_sim/faults", {"seed": seed, "rules": rules}).status == 200

    @step(crashed=EITHER)
    def restart(self, crashed: bool) -> None:  # noqa: FBT001
        """The process ends, in order or not, and another goes on with its file."""
        self._restart(crashed=crashed)

    @step(seconds=(1, 6, 59, 301, 3_600, 86_401, 3 * 86_400, 31 * 86_400, -5, -3_600))
    def move_clock(self, seconds: int) -> None:
        """Time passes, or a clock is put right backwards."""
        self._control("POST /_sim/clock", {"move_seconds": seconds})

    @step(older=(None, 60))
    def prune(self, older: int | None) -> None:
        """Old answers are forgotten; a careful caller does not ask with those keys again."""
        self._control("POST /_sim/idempotency/prune", {} if older is None else {"older_than_seconds": older})
        before = self.clock.now() - older if older is not None else float("inf")
        self.memory.kept = {k: v for k, v in self.memory.kept.items() if v[2] > before}
        self.memory.sent = {k: v for k, v in self.memory.sent.items() if k in self.memory.kept}

    @step(back=EITHER)
    def snapshot(self, back: bool) -> None:  # noqa: FBT001
        """The whole world is put by, or brought back, with what was known then."""
        if not back:
            self._control("POST /_sim/snapshots/one", {})
            self.past = deepcopy(self.memory)
        elif self.past is not None and self._control("POST /_sim/snapshots/one/restore", {}).status == 200:
            self.memory = deepcopy(self.past)

    @step(
        answer=(200, 500, 0),
        rules=((), ("twice",), ("twin",), ("lost",), ("out_of_order",), ("twin", "twice", "lost")),
    )
    def listen(self, answer: int, rules: tuple[str, ...]) -> None:
        """Somebody listens, more or less well, and is told badly."""
        plan = {"seed": 1, "rules": [{"kind": kind, "probability": 0.5} for kind in rules]}
        assert self._control("POST /_sim/webhooks/plan", plan).status == 200
        self._call("POST /v1/webhook_endpoints", url="http://127.0.0.1:9/", enabled_events=["*"])

        async def send(_: str, __: dict[str, str], ___: bytes, ____: float) -> int:
            return answer

        self.runner.run(Pump(self.sim.world).deliver_due(send))

    # What must hold whatever happened

    @invariant()
    def the_books_add_up(self) -> None:
        """The simulator finds nothing wrong with itself, and no refund that it confirmed is gone or different."""
        audit = self._control("GET /_sim/audit")
        assert audit["ok"], audit["problems"]
        there = {r["id"]: r["amount"] for line in audit["charges"] for r in line["refunds"]}
        gone = {name: amount for name, amount in self.memory.confirmed.items() if there.get(name) != amount}
        assert not gone, f"confirmed, and now gone or different: {gone}"


def _again(told: dict[str, Any]) -> dict[str, Any]:
    """Write a rule as it was given, from how the control call tells it."""
    return {name: value for name, value in told.items() if name not in {"met", "hits"}}


def walk(seed: int, steps: int) -> None:
    """Take a number of steps, each chosen by the seed, and look at the books after each.

    Raises:
        AssertionError: The books are broken; a note tells the walk and how far it went.
    """

    def drawn(at: int, name: str, domain: Sequence[Any]) -> Any:
        digest = blake2b(f"{seed}/{at}/{name}".encode(), digest_size=8).digest()
        return domain[int.from_bytes(digest) % len(domain)]

    machine, at = Machine(), 0
    try:
        machine.first_payment()
        for at in range(1, steps + 1):
            name, domains = drawn(at, "step", STEPS)
            getattr(machine, name)(**{one: drawn(at, one, domain) for one, domain in domains.items()})
            machine.the_books_add_up()
    except Exception as error:
        error.add_note(f"replay it by walk({seed}, {at})")
        raise
    finally:
        machine.teardown()
