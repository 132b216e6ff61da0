"""Many accounts at one desk: one worker pays them all, each at its own pace, and a key that fails stops its own account only."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.accounts.model import Account, OtherAccount
from refundry.batches import service as batches
from refundry.batches.model import Batch, Schedule, Standing, Totals
from refundry.bootstrap import Desk, Seat
from refundry.connectors.base import ReadOptions
from refundry.gateways.base import GatewayError, RefundBody
from refundry.gateways.stripe.client import StripeGateway
from refundry.infra import settings as settings_of
from refundry.infra.db import Database
from refundry.infra.pace import Pacer, budgets, parsed
from refundry.infra.settings import Access, AccountSettings, PaySettings, Settings, SettingsError, StripeSettings
from refundry.infra.writer import GroupWriter
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import SystemClock
from refundry.kernel.ids import RandomIds, request_id
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Outcome
from refundry.refunds import service as refunds
from refundry.refunds.model import Content, RefundRequest, State
from refundry.worker.main import Worker
from tests.support.database import HandDatabase
from tests.support.server import Server
from tests.support.sim import Sim
from tests.support.stripe_call import PRIMARY, called
from tests.support.stripe_transport import InProcess

pytestmark = pytest.mark.integration

ROWS = 6
OWN = "sk_test_of_eu"
DEADLINE_SECONDS = 60
REFUND = "POST /v1/refunds"


@dataclass(frozen=True)
class World:
    """A Stripe with four accounts: the platform, one with a key of its own, and two that are connected to the platform."""

    server: Server
    eu: str
    shops: tuple[str, str]

    @property
    def accounts(self) -> tuple[str, ...]:
        return (self.server.account, self.eu, *self.shops)

    def paid(self) -> dict[str, list[int]]:
        """Tell what was paid by account, by the simulator's audit, which has to find nothing wrong."""
        audited = self.server.control("GET /_sim/audit")
        assert audited["problems"] == []
        amounts = {line["charge"]: [refund["amount"] for refund in line["refunds"]] for line in audited["charges"]}
        return {
            account: sorted(
                amount
                for charge in called(self.server, "GET /v1/charges?limit=100", account)["data"]
                for amount in amounts.get(charge["id"], [])
            )
            for account in self.accounts
        }

    def settings(self, url: str, folder: Path, **changed: Any) -> Settings:
        further: dict[str, Any] = {"eu": {"secret_key": OWN}}
        further |= {f"shop{at}": {"connected": shop} for at, shop in enumerate(self.shops)}
        primary = StripeSettings(secret_key=PRIMARY, api_base=self.server.url, limits="none")  # type: ignore[arg-type]
        parts: dict[str, Any] = {"stripe": primary, "accounts": further, "database_url": url, "state_dir": folder}
        return settings_of.read(**parts | changed)


def charges(count: int) -> list[dict[str, Any]]:
    return [
        {"order_id": f"o{at}", "amount_minor": 1000, "currency": "gbp", "created": 1_780_000_000 + at}
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def four() -> Iterator[World]:
    with Server(start=None) as server:
        server.control("POST /_sim/settings", {"opening_balance": 10**12})
        made = [called(server, "POST /v1/accounts", country="GB", type="custom")["id"] for _ in range(3)]
        for account in (server.account, *made):
            server.control("POST /_sim/load", {"account": account, "charges": charges(ROWS)})
        server.control("POST /_sim/keys", {"secret": OWN, "account": made[0]})
        server.remember()
        yield World(server, made[0], (made[1], made[2]))


@pytest.fixture
def world(four: World) -> Iterator[World]:
    four.server.forget()
    yield four
    # The engine logs to the standard error of its first start.
    logging.getLogger("dbos").handlers.clear()


@asynccontextmanager
async def working(desk: Desk, settings: Settings) -> AsyncIterator[Worker]:
    stop, worker = asyncio.Event(), Worker(desk, bootstrap.lock_of(settings))
    task = asyncio.create_task(worker.run(until=stop))
    try:
        yield worker
    finally:
        stop.set()
        await task


async def handed_in(desk: Desk, account: str, amounts: Mapping[str, str], folder: Path) -> Batch:
    """Hand a file in, the same for every account: each row is an order with its ticket."""
    file = folder / "refunds.csv"
    lines = [f"T-{order},{order},{amount},gbp" for order, amount in amounts.items()]
    file.write_text("\n".join(["ticket_id,order_id,amount,currency", *lines, ""]))
    opened = bootstrap.read_file(file, options=ReadOptions())
    return (await desk.writer.put(lambda unit: batches.accept(unit, f"{account}|test", opened, "", SYSTEM)))[0]


def totals(database: Database, batch: Batch) -> Totals:
    with database.reading() as unit:
        return batches.totals(unit, batches.need(unit, batch.id))


def held(database: Database) -> dict[str, str]:
    with database.reading() as unit:
        return {one.id: one.held_text for one in accounts.known(unit) if one.held_text}


def first_unanswered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let the first send of the platform have no answer until the event is set: anything else may take as long as it does."""
    gateway, answered, keys = desk.seats[0].gateway, asyncio.Event(), list[str]()
    send = gateway.send

    async def late(body: RefundBody, key: str) -> Outcome:
        keys.append(key)
        if len(keys) == 1:
            await answered.wait()
        return await send(body, key)

    monkeypatch.setattr(gateway, "send", late)
    return answered


async def asked(desk: Desk, account: str, charge: str) -> str:
    """Take in what a person asks for; tells the request's id."""
    body = Content(charge=charge, asked_minor=100, currency="gbp", reason="requested_by_customer")
    id_ = request_id(account.partition("|")[0], "test", charge)
    wanted = RefundRequest(id_, account, f"key:{charge}", body, lane=Lane.DESK)
    (got,) = await desk.writer.put(lambda unit: refunds.receive(unit, [wanted], SYSTEM))
    return got.request.id


def state(desk: Desk, request: str) -> State:
    with desk.database.reading() as unit:
        return refunds.need(unit, request).state


def two_charges(world: World) -> tuple[str, str]:
    found = called(world.server, "GET /v1/charges?limit=2", world.server.account)["data"]
    return found[0]["id"], found[1]["id"]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await asyncio.to_thread(happened):  # noqa: ASYNC110  # it happens in the database
            await asyncio.sleep(0.05)


def over(desk: Desk, batch: Batch) -> bool:
    return not totals(desk.database, batch).moving


AMOUNTS = {f"o{at}": f"{at + 1}.00" for at in range(ROWS)}
# Where the two databases cannot differ.
on_one = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
EACH_ONCE = [100 * (at + 1) for at in range(ROWS)]


async def test_two_keys_and_two_connected_accounts_are_paid_in_one_run_by_one_worker(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        assert [seat.account.id for seat in desk.seats] == list(world.accounts)
        handed = [await handed_in(desk, account, AMOUNTS, tmp_path) for account in world.accounts]
        for batch in handed:
            await until(lambda one=batch: over(desk, one))  # type: ignore[misc]
        # The same orders and tickets in each account are obligations of their own.
        assert [totals(desk.database, batch).standings[Standing.PAID] for batch in handed] == [ROWS] * 4
        again = [await handed_in(desk, account, AMOUNTS, tmp_path) for account in world.accounts]
        assert [batch.id for batch in again] == [batch.id for batch in handed]
    assert world.paid() == dict.fromkeys(world.accounts, EACH_ONCE)


async def test_a_key_that_is_revoked_in_the_middle_holds_its_own_account_only(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings = world.settings(database.url, tmp_path)
    revoked = {"kind": "unauthorized", "operation": REFUND, "account": world.eu, "skip": 2}
    world.server.control("POST /_sim/faults", {"rules": [revoked]})
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        handed = {account: await handed_in(desk, account, AMOUNTS, tmp_path) for account in world.accounts}
        others = [batch for account, batch in handed.items() if account != world.eu]
        await until(lambda: all(over(desk, batch) for batch in others))
        await until(lambda: bool(held(desk.database)))
        assert held(desk.database).keys() == {world.eu}
        told = totals(desk.database, handed[world.eu])
    assert told.standings[Standing.PAID] + told.standings[Standing.WAITING] == ROWS
    assert told.standings[Standing.WAITING] > 0
    assert {account: len(paid) for account, paid in world.paid().items() if account != world.eu} == dict.fromkeys(
        (account for account in world.accounts if account != world.eu), ROWS
    )
    # With a key that works, the rest is paid, and nothing twice.
    world.server.control("POST /_sim/faults", {"rules": []})
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        await until(lambda: totals(desk.database, handed[world.eu]).standings[Standing.PAID] == ROWS)
        assert held(desk.database) == {}
    assert world.paid() == dict.fromkeys(world.accounts, EACH_ONCE)


@on_one
async def test_an_account_whose_key_fails_at_the_start_is_held_and_the_others_open(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings = world.settings(database.url, tmp_path)
    async with bootstrap.desk(settings):
        pass
    world.server.control(f"POST /_sim/keys/{OWN}/expire", {})
    said = AccountSettings(secret_key=OWN, account=world.eu)  # type: ignore[arg-type]
    settings = world.settings(database.url, tmp_path, accounts=settings.accounts | {"eu": said})
    async with bootstrap.desk(settings) as desk, working(desk, settings) as worker:
        assert [shut.access.opened_by for shut in desk.closed] == ["REFUNDRY_ACCOUNTS__EU__SECRET_KEY"]
        assert world.eu not in {seat.account.id for seat in desk.seats}
        handed = await handed_in(desk, world.shops[0], AMOUNTS, tmp_path)
        await until(lambda: over(desk, handed))
        assert worker.stations.keys() == {f"{one}|test" for one in world.accounts if one != world.eu}
        assert held(desk.database).keys() == {world.eu}
    assert world.paid()[world.shops[0]] == EACH_ONCE


async def test_where_no_key_works_nothing_opens(world: World, tmp_path: Path) -> None:
    for key in (PRIMARY, OWN):
        world.server.control(f"POST /_sim/keys/{key}/expire", {})
    settings = world.settings(f"sqlite:///{tmp_path}/all.db", tmp_path)
    with pytest.raises(GatewayError) as refused:
        async with bootstrap.desk(settings):
            pass
    assert refused.value.code == "stripe_key_refused"


async def test_a_platform_that_is_not_connected_opens_no_account(world: World, tmp_path: Path) -> None:
    settings = world.settings(
        f"sqlite:///{tmp_path}/stranger.db", tmp_path, accounts={"shop": AccountSettings(connected="acct_1stranger")}
    )
    async with bootstrap.desk(settings) as desk:
        assert [seat.account.id for seat in desk.seats] == [world.server.account]
        assert [shut.error.code for shut in desk.closed] == ["stripe_forbidden"]


# Which accounts a database takes


async def opened(settings: Settings) -> None:
    async with bootstrap.desk(settings):
        pass


def known(url: str) -> set[str]:
    database = Database(url, SystemClock())
    try:
        with database.reading() as unit:
            return {one.id for one in accounts.known(unit)}
    finally:
        database.close()


async def test_a_swapped_key_is_refused_and_a_further_account_is_taken_in(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    url, eu = database.url, AccountSettings(secret_key=OWN)  # type: ignore[arg-type]
    await opened(world.settings(url, tmp_path, accounts={}))
    swapped = StripeSettings(secret_key=OWN, api_base=world.server.url)  # type: ignore[arg-type]
    with pytest.raises(OtherAccount) as refused:
        await opened(world.settings(url, tmp_path, accounts={}, stripe=swapped))
    assert refused.value.code == "database_of_other_account"
    assert "REFUNDRY_ACCOUNTS__NAME" in refused.value.message
    assert known(url) == {world.server.account}
    await opened(world.settings(url, tmp_path, accounts={"eu": eu}))
    assert known(url) == {world.server.account, world.eu}


@on_one
async def test_a_further_key_that_was_swapped_is_refused_until_its_account_is_named(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    url, other = database.url, "sk_test_of_another"
    world.server.control("POST /_sim/keys", {"secret": other, "account": world.shops[0]})
    await opened(world.settings(url, tmp_path, accounts={"eu": AccountSettings(secret_key=OWN)}))  # type: ignore[arg-type]
    with pytest.raises(OtherAccount):
        await opened(world.settings(url, tmp_path, accounts={"eu": AccountSettings(secret_key=other)}))  # type: ignore[arg-type]
    assert known(url) == {world.server.account, world.eu}
    named = AccountSettings(secret_key=other, account=world.shops[0])  # type: ignore[arg-type]
    await opened(world.settings(url, tmp_path, accounts={"eu": named}))
    assert known(url) == {world.server.account, world.eu, world.shops[0]}


@pytest.mark.parametrize("twin", [{"secret_key": PRIMARY}, {"secret_key": OWN}])
async def test_two_settings_for_one_account_are_refused(world: World, tmp_path: Path, twin: dict[str, str]) -> None:
    eu = AccountSettings(secret_key=OWN)  # type: ignore[arg-type]
    settings = world.settings(
        f"sqlite:///{tmp_path}/twice.db", tmp_path, accounts={"eu": eu, "twin": AccountSettings(**twin)}  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(SettingsError) as refused:
        await opened(settings)
    assert refused.value.code == "account_twice"
    assert "REFUNDRY_ACCOUNTS__TWIN__SECRET_KEY" in refused.value.message


# Fairness


class Watched(InProcess):
    """Remembers the refunds that were asked for, account by account, in the order of the calls."""

    def __init__(self, sim: Sim, order: list[str]) -> None:
        super().__init__(sim.simulator)
        self._order = order

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        if method == "post" and url.endswith("/v1/refunds"):
            self._order.append(headers["Stripe-Account"])
        return await super().request_async(method, url, headers, post_data)


@asynccontextmanager
async def seated(
    database: HandDatabase, folder: Path, limits: Mapping[str, str], order: list[str], sim: Sim
) -> AsyncIterator[tuple[Desk, Settings]]:
    """A desk whose seats are connected accounts of a simulator in this process, each with limits of its own."""
    clock, transport = SystemClock(), Watched(sim, order)
    # A clock of its own, since the worker's time is the machine's.
    ours = bootstrap.attached(Database(database.url, clock))
    writer = GroupWriter(ours)
    writer.start()
    seats = []
    for account, text in limits.items():
        pacer = Pacer(parsed(text), 0.1, writer, clock)
        gateway = StripeGateway(
            PRIMARY, api_base="http://stripe.invalid", account=account, clock=clock, slots=pacer, http_client=transport
        )
        access = Access(account[-4:].lower(), PRIMARY, account, account, text, 0.1, "order_id", None, None)
        seats.append(Seat(access, Account(account, "test"), gateway, pacer))
        pacer.serve(f"{account}|test")
    with ours.unit() as unit:
        for seat in seats:
            accounts.stamp(unit, seat.account, meant=True)
    settings = settings_of.read(database_url=database.url, state_dir=folder, pay=PaySettings(flight_max=6))
    try:
        yield Desk(settings, ours, writer, clock, RandomIds(), tuple(seats)), settings
    finally:
        for seat in seats:
            await seat.pacer.close()
        await transport.close_async()
        await writer.stop()
        ours.close()


async def test_five_rows_are_paid_while_five_large_accounts_are_under_way_each_by_its_own_budget(
    database: HandDatabase, tmp_path: Path
) -> None:
    sim, order = Sim(), list[str]()
    made = [(await sim.call("POST /v1/accounts", country="GB", type="custom", check=False))["id"] for _ in range(6)]
    *large, small = made
    for account in made:
        many = 5 if account == small else 100
        await sim.control("POST /_sim/load", {"account": account, "charges": charges(many)})
    # A large one takes longer than anything here is waited for.
    limits = dict.fromkeys(large, "global=8,endpoint=8,POST /v1/refunds=1") | {small: "global=100,endpoint=50"}
    async with seated(database, tmp_path, limits, order, sim) as (desk, settings), working(desk, settings) as worker:
        for account in large:
            await handed_in(desk, account, {f"o{at}": "1.00" for at in range(100)}, tmp_path)
        await until(lambda: all(order.count(account) for account in large))
        batch = await handed_in(desk, small, {f"o{at}": "1.00" for at in range(5)}, tmp_path)
        await until(lambda: totals(desk.database, batch).standings[Standing.PAID] == 5)
        assert len(worker._runs) <= len(made) * 2
    last = max(at for at, account in enumerate(order) if account == small)
    before = Counter(order[:last])
    assert before[small] == 4
    # None of the large ones was through when the small one was, and none of them stood still.
    assert all(0 < before[account] < 100 for account in large), before
    with database.reading() as unit:
        rates = unit.connection.execute(
            sa.select(budgets.c.account, budgets.c.rate_max).where(budgets.c.scope == REFUND)
        )
        assert {row.account: row.rate_max for row in rates} == {
            f"{account}|test": pytest.approx(0.9 if account in large else 45) for account in made
        }
    sim.simulator.close()


@on_one
async def test_what_is_on_its_way_is_bounded_over_all_accounts(
    database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refundry.worker.main.FLIGHT_TOTAL_MAX", 7)
    sim, order = Sim(), list[str]()
    made = [(await sim.call("POST /v1/accounts", country="GB", type="custom", check=False))["id"] for _ in range(3)]
    async with seated(database, tmp_path, dict.fromkeys(made, "none"), order, sim) as (desk, settings):
        worker = Worker(desk, bootstrap.lock_of(settings))
        stations = list(worker.stations.values())
        assert [station.executor.flight_max() for station in stations] == [6, 6, 6]
        waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in made]
        worker._runs = {
            (f"{account}|test", lane): task
            for (account, task), lane in zip(zip(made, waiting, strict=True), ["bulk"] * 3, strict=True)
        }  # type: ignore[assignment,misc]
        assert [station.executor.flight_max() for station in stations] == [2, 2, 2]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    sim.simulator.close()


@on_one
async def test_a_person_does_not_wait_for_an_answer_to_somebody_else(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = world.settings(database.url, tmp_path)
    account = f"{world.server.account}|test"
    async with bootstrap.desk(settings) as desk, working(desk, settings):
        answered = first_unanswered(desk, monkeypatch)

        first, second = two_charges(world)
        one = await asked(desk, account, first)
        await until(lambda: state(desk, one) is State.SUBMITTING)
        other = await asked(desk, account, second)
        await until(lambda: state(desk, other) is State.SETTLED)
        assert state(desk, one) is State.SUBMITTING
        answered.set()
        await until(lambda: state(desk, one) is State.SETTLED)


@on_one
async def test_who_waits_for_a_request_is_told_after_each_turn_of_work_on_it_and_of_no_other(
    world: World, database: HandDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = world.settings(database.url, tmp_path)
    account = f"{world.server.account}|test"
    async with bootstrap.desk(settings) as desk, working(desk, settings) as worker:
        answered = first_unanswered(desk, monkeypatch)
        first, second = two_charges(world)
        one = await asked(desk, account, first)
        mine = worker.turns_of(one)
        assert worker.turns_of(one) is mine
        await until(lambda: state(desk, one) is State.SUBMITTING)
        other = await asked(desk, account, second)
        await asyncio.wait_for(worker.turns_of(other).wait(), DEADLINE_SECONDS)
        assert state(desk, other) is State.SETTLED
        assert not mine.is_set()
        answered.set()
        await asyncio.wait_for(mine.wait(), DEADLINE_SECONDS)
        # What it waits for is kept by then: one look tells it.
        assert state(desk, one) is State.SETTLED
        del mine
        # Nobody waits any more, and nothing is kept for him: a worker runs for months.
        assert not worker._turns_over


@on_one
async def test_a_slot_that_a_person_needs_is_asked_for_before_the_claim_and_given_back_where_nothing_is_claimed(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    primary = StripeSettings(secret_key=PRIMARY, api_base=world.server.url, limits="live")  # type: ignore[arg-type]
    settings = world.settings(database.url, tmp_path, stripe=primary)
    account, order = f"{world.server.account}|test", list[str]()
    async with bootstrap.desk(settings) as desk, working(desk, settings) as worker:
        await asyncio.wait_for(worker.executing.wait(), DEADLINE_SECONDS)
        pacer: Any = desk.seats[0].pacer
        executor: Any = worker.stations[account].executor
        ask, unask, claim = pacer.ask, pacer.unask, executor._claim

        def asks(*given: Any, **more: Any) -> None:
            order.append("asked")
            ask(*given, **more)

        def unasks(*given: Any) -> None:
            order.append("given back")
            unask(*given)

        async def claims(*given: Any) -> Any:
            count, taken = await claim(*given)
            order.append(f"claimed {count}")
            return count, taken

        pacer.ask, pacer.unask, executor._claim = asks, unasks, claims
        worker.begin(account, Lane.DESK)
        await until(lambda: "given back" in order)
        assert order == ["asked", "claimed 0", "given back"]
        assert not any(pacer._asked.values())
        order.clear()
        one = await asked(desk, account, two_charges(world)[0])
        mine = worker.turns_of(one)
        worker.begin(account, Lane.DESK)
        await asyncio.wait_for(mine.wait(), DEADLINE_SECONDS)
        assert state(desk, one) is State.SETTLED
        assert order[:2] == ["asked", "claimed 1"]
        # Nothing was asked for on top of it.
        assert order.count("asked") == 1
        assert not any(pacer._asked.values())


async def test_a_file_that_cannot_be_looked_up_keeps_no_other_one_from_being_paid(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings, account = world.settings(database.url, tmp_path), f"{world.eu}|test"
    broken = {"kind": "error_before", "operation": "GET /v1/payment_intents/{intent}", "account": world.eu}
    world.server.control("POST /_sim/faults", {"rules": [broken]})
    file = tmp_path / "intents.csv"
    file.write_text("ticket_id,payment_intent,amount,currency\nT-1,pi_nobody,1.00,gbp\n")
    async with bootstrap.desk(settings) as desk:
        named = bootstrap.read_file(file, options=ReadOptions())
        other = await handed_in(desk, world.eu, AMOUNTS, tmp_path)
        stuck = (await desk.writer.put(lambda unit: batches.accept(unit, account, named, "", SYSTEM)))[0]
        async with working(desk, settings):
            await until(lambda: over(desk, other))
            assert totals(desk.database, other).standings[Standing.PAID] == ROWS
            assert totals(desk.database, stuck).standings[Standing.WAITING] == 1
            world.server.control("POST /_sim/faults", {"rules": []})
            await until(lambda: over(desk, stuck))
        assert totals(desk.database, stuck).standings[Standing.REFUSED] == 1


async def test_a_key_that_may_not_even_read_the_balance_holds_its_account_and_is_not_asked_again(
    world: World, database: HandDatabase, tmp_path: Path
) -> None:
    settings = world.settings(database.url, tmp_path)
    revoked = {"kind": "unauthorized", "operation": "GET /v1/balance", "account": world.eu}
    world.server.control("POST /_sim/faults", {"rules": [revoked]})
    async with bootstrap.desk(settings) as desk:
        batch = await handed_in(desk, world.eu, AMOUNTS, tmp_path)
        schedule = Schedule(keep_balance="1.00")
        await desk.writer.put(lambda unit: batches.set_schedule(unit, batch, schedule, SYSTEM))
        meter = next(seat.pacer.meter for seat in desk.seats if seat.account.id == world.eu)
        async with working(desk, settings):
            await until(lambda: held(desk.database).keys() == {world.eu})
            asked = meter.calls["GET /v1/balance"].count
            # A file of another account is found by a sweep, and so would be the next turn of this one.
            other = await handed_in(desk, world.server.account, AMOUNTS, tmp_path)
            await until(lambda: over(desk, other))
            assert meter.calls["GET /v1/balance"].count == asked == 1
        assert totals(desk.database, batch).standings[Standing.WAITING] == ROWS


async def test_an_account_that_is_not_connected_any_more_is_held_while_nothing_of_it_is_paid(
    database: HandDatabase, tmp_path: Path
) -> None:
    sim = Sim()
    mine = (await sim.call("POST /v1/accounts", country="GB", type="custom", check=False))["id"]
    limits = dict.fromkeys((mine, "acct_1left"), "none")
    async with seated(database, tmp_path, limits, [], sim) as (desk, settings):
        stop, worker = asyncio.Event(), Worker(desk, bootstrap.lock_of(settings), follows=True)
        task = asyncio.create_task(worker.run(until=stop))
        await until(lambda: bool(held(desk.database)))
        told = held(desk.database)
        stop.set()
        await task
    assert told.keys() == {"acct_1left"}
    assert "connect the account to the platform again" in told["acct_1left"]
    sim.simulator.close()
