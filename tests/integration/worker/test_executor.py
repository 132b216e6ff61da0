"""The executor, with the real gateway and the simulator in this process: what it does around each send."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.audit import service as audit
from refundry.charges import service as charges
from refundry.gateways.stripe.client import StripeGateway
from refundry.infra.db import Unit
from refundry.infra.pace import NAMED, Limits, Pacer
from refundry.infra.settings import PaySettings
from refundry.infra.writer import InlineWriter
from refundry.kernel import ids
from refundry.kernel.actor import SYSTEM
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.ids import RandomIds
from refundry.kernel.lane import Lane
from refundry.refunds import service as refunds
from refundry.refunds.model import Content, HeldReason, RefundRequest, State
from refundry.refunds.service import Claimed
from refundry.worker.executor import REFUND, Executor
from tests.support.builders import look
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.sim import Sim
from tests.support.stripe_transport import InProcess

pytestmark = pytest.mark.integration
ACCOUNT = "acct_1|test"
TO_STRIPE = ConnectionKey(
    host="api.stripe.com", port=443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)


@dataclass
class Bench:
    """An executor, its database, and the Stripe that it pays through."""

    executor: Executor
    database: HandDatabase
    sim: Sim

    async def requested(self, amount: int, key: str = "key:1", *, looked: bool = False) -> RefundRequest:
        """Hand a request in, for a charge of its own that was `looked` at a moment ago, or never."""
        charge = await self.sim.charge(5000)
        content = Content(charge=charge, asked_minor=amount, currency="usd", reason="requested_by_customer")
        wanted = RefundRequest(ids.request_id("acct_1", "test", key), ACCOUNT, key, content, lane=Lane.DESK)
        with self.database.unit() as unit:
            if looked:
                seen = look(charge, captured_minor=5000, currency="usd", began_at=unit.now)
                charges.mirror(unit, ACCOUNT, [seen], "order_id")
            return refunds.receive(unit, [wanted], SYSTEM)[0].request

    async def drain(self) -> None:
        await self.executor.drain(Lane.DESK, until=lambda: False)

    def now(self, request: RefundRequest) -> RefundRequest:
        with self.database.reading() as unit:
            return refunds.need(unit, request.id)

    async def made(self) -> int:
        return len((await self.sim.call("GET /v1/refunds"))["data"])


@pytest.fixture
async def bench(database: HandDatabase, clock: HandClock) -> AsyncIterator[Bench]:
    sim = Sim()
    writer, transport = InlineWriter(database), InProcess(sim.simulator)
    pacer = Pacer(NAMED["none"], 0.0, writer, clock)
    gateway = StripeGateway(
        "sk_test_sim", api_base="http://127.0.0.1", account=None, clock=clock, slots=pacer, http_client=transport
    )
    executor = Executor(
        ACCOUNT, gateway=gateway, pacer=pacer, database=database, writer=writer, clock=clock, ids=RandomIds(),
        pay=PaySettings(), order_key="order_id",
    )  # fmt: skip
    yield Bench(executor, database, sim)
    await transport.close_async()
    sim.simulator.close()


async def test_a_request_is_looked_at_decided_and_paid(bench: Bench) -> None:
    request = await bench.requested(1200)
    await bench.drain()
    assert bench.now(request).state is State.SETTLED
    assert await bench.made() == 1


async def test_a_right_that_is_missing_holds_the_account_with_one_message_whatever_it_was_about(bench: Bench) -> None:
    with bench.database.unit() as unit:
        accounts.stamp(unit, Account("acct_1", "test"))
    some = [await bench.requested(1200, f"key:{at}") for at in range(5)]
    missing = {"kind": "forbidden", "operation": "GET /v1/charges/{charge}"}
    await bench.sim.control("POST /_sim/faults", {"rules": [missing]})
    await bench.drain()
    assert {bench.now(one).state for one in some} == {State.RECEIVED}
    with bench.database.reading() as unit:
        assert "has no right" in accounts.held_text(unit, ACCOUNT)
        assert [entry.event for entry in audit.timeline(unit, ACCOUNT)] == ["account.added", "account.held"]


@pytest.mark.parametrize("doubt", [False, True])
async def test_a_request_whose_charge_is_gone_at_stripe_comes_to_an_end(
    bench: Bench, clock: HandClock, *, doubt: bool
) -> None:
    """As once Stripe's test data were deleted, between its look and its send."""
    content = Content(charge="ch_gone", asked_minor=100, currency="usd", reason="requested_by_customer")
    wanted = RefundRequest(ids.request_id("acct_1", "test", "key:1"), ACCOUNT, "key:1", content, lane=Lane.DESK)
    with bench.database.unit() as unit:
        seen = look("ch_gone", captured_minor=5000, currency="usd", began_at=unit.now)
        charges.mirror(unit, ACCOUNT, [seen], "order_id")
        request = refunds.receive(unit, [wanted], SYSTEM)[0].request
    if doubt:
        lost = {"kind": "reset_before", "operation": REFUND, "times": 1}
        await bench.sim.control("POST /_sim/faults", {"rules": [lost]})
    await bench.drain()
    after = bench.now(request)
    if doubt:
        assert (after.state, after.reason_code) == (State.SUBMITTING, "connection_lost")
        # Nobody says that it was paid, or that it was not; a person is told once its key has done whatever it would do.
        for _ in range(60):
            clock.move(1800)
            bench.sim.clock.move(by=1800)
            await bench.drain()
        assert bench.now(request).state is State.OUTCOME_UNKNOWN
    else:
        assert (after.state, after.reason_code) == (State.DECLINED, "charge_unknown")
    assert await bench.made() == 0


async def test_while_stripe_cannot_be_reached_tries_become_rare_and_then_it_is_paid_once(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, reached = await bench.requested(1200), InProcess.request_async

    async def refused(carrier: InProcess, method: str, url: str, *rest: Any) -> Any:
        if method == "post":
            gone = OSError(errno.ECONNREFUSED, "Connection refused")
            raise aiohttp.ClientConnectorError(TO_STRIPE, gone)
        return await reached(carrier, method, url, *rest)

    async def passing(seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            await bench.drain()
            clock.move(0.5)
            bench.sim.clock.move(by=0.5)

    with monkeypatch.context() as outage:
        outage.setattr(InProcess, "request_async", refused)
        await passing(300)
        assert bench.now(request).state is State.APPROVED
        # Half a second, one, two, four, and then every five.
        assert 50 < bench.executor.counts.sent < 70
    await passing(6)
    assert bench.now(request).state is State.SETTLED
    assert await bench.made() == 1


async def test_what_comes_back_unpaid_while_its_batch_is_stopped_is_held(bench: Bench) -> None:
    request = await bench.requested(1200)
    await bench.sim.control(
        "POST /_sim/faults", {"rules": [{"kind": "rate_limit", "operation": "POST /v1/refunds", "times": 1}]}
    )

    def came_back(unit: Unit, request_id: str) -> None:
        refunds.stop(unit, [request_id], SYSTEM)

    bench.executor.came_back = came_back
    await bench.drain()
    after = bench.now(request)
    assert after.state is State.APPROVED
    assert after.hold is not None
    assert after.hold.reason is HeldReason.STOPPED
    assert await bench.made() == 0


@pytest.mark.parametrize("taken_back", [False, True])
async def test_what_is_proven_absent_is_not_sent_anew_once_its_batch_is_withdrawn(
    bench: Bench, clock: HandClock, *, taken_back: bool
) -> None:
    request = await bench.requested(1200)
    await bench.sim.control(
        "POST /_sim/faults", {"rules": [{"kind": "error_stored", "operation": "POST /v1/refunds", "times": 1}]}
    )
    await bench.drain()
    assert bench.now(request).state in {State.SUBMITTING, State.OUTCOME_UNKNOWN}
    bench.executor.taken_back = lambda _unit, request_id: taken_back and request_id == request.id
    # The key only gives the stored error: looks tell what became of it, and the next attempt has another.
    for _ in range(50):
        await bench.drain()
        clock.move(120)
        bench.sim.clock.move(by=120)
    after = bench.now(request)
    assert (after.state, after.reason_code) == ((State.DECLINED, "withdrawn") if taken_back else (State.SETTLED, ""))
    assert await bench.made() == (not taken_back)


async def test_a_look_that_was_overtaken_decides_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    request = await bench.requested(1200)
    monkeypatch.setattr("refundry.refunds.service.look_needed", lambda *_: True)
    await bench.drain()
    assert bench.now(request).state is State.RECEIVED
    assert await bench.made() == 0


async def test_the_time_of_a_row_is_told_without_its_waits_for_slots(bench: Bench, clock: HandClock) -> None:
    took: list[float] = []
    slow = Pacer(Limits(0.1, 0.1), 0.0, InlineWriter(bench.database), clock)
    slow.serve(ACCOUNT)
    await slow.take(REFUND, Lane.DESK)
    bench.executor.row_took, bench.executor._pacer = took.append, slow
    began = clock.boot_seconds()
    request = await bench.requested(1200)
    draining = asyncio.create_task(bench.drain())
    while not took:
        await clock.run(1.0)
    await draining
    assert bench.now(request).state is State.SETTLED
    assert clock.boot_seconds() - began >= 9.0
    assert took == [pytest.approx(0.0, abs=1.0)]
    await slow.close()


def paced(bench: Bench, clock: HandClock) -> Pacer:
    pacer = Pacer(Limits(0.1, 0.1), 0.0, InlineWriter(bench.database), clock)
    pacer.serve(ACCOUNT)
    bench.executor._pacer = pacer
    return pacer


async def test_what_needs_no_look_is_decided_in_the_unit_of_its_claim(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await bench.requested(1200, looked=True)
    pacer, units = paced(bench, clock), list[State]()
    put = InlineWriter.put

    async def counted(self: InlineWriter, work: Callable[[Unit], object], **more: Any) -> object:
        done = await put(self, work, **more)
        units.append(bench.now(request).state)
        return done

    # The account's next slot is ten seconds away.
    await pacer.take(REFUND, Lane.DESK)
    monkeypatch.setattr(InlineWriter, "put", counted)
    draining = asyncio.create_task(bench.drain())
    while not units:
        await clock.run(0.001)
    assert units[0] is State.APPROVED
    assert bench.now(request).reserved_minor == 1200
    assert bench.executor.counts.looks == 0
    # No intent is written while it waits for its slot: what was decided may change.
    await clock.run(9.0)
    assert bench.now(request).state is State.APPROVED
    while not draining.done():
        await clock.run(1.0)
    assert bench.now(request).state is State.SETTLED
    await pacer.close()


async def test_what_falls_due_is_claimed_though_another_is_not_over(bench: Bench, clock: HandClock) -> None:
    first, pacer = await bench.requested(1200, looked=True), paced(bench, clock)
    await pacer.take(REFUND, Lane.DESK)
    draining = asyncio.create_task(bench.drain())
    await clock.run(1.0)
    assert bench.now(first).state is State.APPROVED
    # It waits for its slot, as it might for an answer; the second one does not wait for that.
    second = await bench.requested(1200, "key:2", looked=True)
    await clock.run(1.0)
    assert bench.now(second).state is State.RECEIVED
    bench.executor.stir(Lane.DESK)
    await clock.run(1.0)
    assert (bench.now(first).state, bench.now(second).state) == (State.APPROVED, State.APPROVED)
    while not draining.done():
        await clock.run(1.0)
    assert (bench.now(first).state, bench.now(second).state) == (State.SETTLED, State.SETTLED)
    await pacer.close()


async def test_what_came_back_unpaid_has_one_intent_for_each_call(bench: Bench, clock: HandClock) -> None:
    request = await bench.requested(1200)
    limited = {"kind": "rate_limit", "operation": REFUND, "times": 1}
    for _ in range(2):
        await bench.sim.control("POST /_sim/faults", {"rules": [limited]})
        await bench.drain()
        assert bench.now(request).state is State.APPROVED
        # Its look is too old by then: it is looked at, decided and sent again.
        clock.move(PaySettings().look_max_age + 1)
        bench.sim.clock.move(by=PaySettings().look_max_age + 1)
    await bench.drain()
    assert bench.now(request).state is State.SETTLED
    with bench.database.reading() as unit:
        (attempt,) = refunds.attempts(unit, request.id)
    assert [send.outcome for send in attempt.sends] == ["not_taken", "not_taken", "accepted"]
    assert bench.executor.counts.sent == 3


async def test_what_is_looked_at_while_the_process_is_asked_to_end_is_given_back(bench: Bench) -> None:
    some = [await bench.requested(100, f"key:{n}") for n in range(3)]
    bench.executor.stopping = lambda: bench.executor.counts.looks > 0
    await bench.executor.drain(Lane.DESK, until=bench.executor.stopping)
    assert {bench.now(one).state for one in some} == {State.APPROVED}
    assert await bench.made() == 0
    bench.executor.stopping = lambda: False
    await bench.drain()
    assert {bench.now(one).state for one in some} == {State.SETTLED}


async def test_the_sibling_of_what_is_refused_as_it_is_claimed_waits_for_nobody(bench: Bench, clock: HandClock) -> None:
    waits, refused = (
        await bench.requested(1200, "key:1", looked=True),
        await bench.requested(9000, "key:2", looked=True),
    )
    sibling = replace(
        refused, id=ids.request_id("acct_1", "test", "key:3"), request_key="key:3",
        content=replace(refused.content, asked_minor=100),
    )  # fmt: skip
    with bench.database.unit() as unit:
        refunds.receive(unit, [sibling], SYSTEM)
    pacer = paced(bench, clock)
    await pacer.take(REFUND, Lane.DESK)
    draining = asyncio.create_task(bench.drain())
    await clock.run(1.0)
    assert [bench.now(one).state for one in (waits, refused, sibling)] == [
        State.APPROVED, State.REJECTED, State.APPROVED,
    ]  # fmt: skip
    while not draining.done():
        await clock.run(1.0)
    assert bench.now(sibling).state is State.SETTLED
    await pacer.close()


async def test_what_was_looked_at_too_long_ago_is_looked_at_again_before_it_is_decided(
    bench: Bench, clock: HandClock
) -> None:
    request = await bench.requested(1200, looked=True)
    clock.move(PaySettings().look_max_age + 1)
    bench.sim.clock.move(by=PaySettings().look_max_age + 1)
    await bench.drain()
    assert bench.now(request).state is State.SETTLED
    assert bench.executor.counts.looks == 1


async def test_without_a_limit_a_claim_a_decision_and_an_intent_are_one_unit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for looked in (True, False):
        request = await bench.requested(1200, f"key:{looked}", looked=looked)
        states = list[State]()
        put = InlineWriter.put

        async def counted(self: InlineWriter, work: Callable[[Unit], object], **more: Any) -> object:
            done = await put(self, work, **more)  # noqa: B023  # of this round
            states.append(bench.now(request).state)  # noqa: B023
            return done

        with monkeypatch.context() as patch:
            patch.setattr(InlineWriter, "put", counted)
            await bench.drain()
        # The last unit finds nothing more to claim.
        after_claim = [] if looked else [State.RECEIVED]
        assert states == [*after_claim, State.SUBMITTING, State.SETTLED, State.SETTLED]
    assert await bench.made() == 2


async def test_one_that_cannot_be_decided_keeps_no_other_from_being_paid(
    bench: Bench, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await bench.requested(1200, f"key:{n}", looked=True) for n in range(2)]
    judge = refunds.judge

    def poisoned(unit: Unit, claimed: Claimed, **more: Any) -> Claimed | None:
        if claimed.request.id == first.id:
            raise InvariantViolated("this one is broken")
        return judge(unit, claimed, **more)

    monkeypatch.setattr(refunds, "judge", poisoned)
    await bench.drain()
    assert (bench.now(first).state, bench.now(second).state) == (State.RECEIVED, State.SETTLED)
    assert bench.now(first).due_at > clock.now() + 60
    assert await bench.made() == 1


async def test_what_is_refused_as_it_is_claimed_makes_room_for_the_next(bench: Bench) -> None:
    refused = [await bench.requested(9000, f"key:{n}", looked=True) for n in range(5)]
    paid = await bench.requested(1200, "key:5", looked=True)
    bench.executor._pay = PaySettings(slice=2)
    await bench.drain()
    assert {bench.now(one).state for one in refused} == {State.REJECTED}
    assert bench.now(paid).state is State.SETTLED
    assert bench.executor.counts.claimed == 6
