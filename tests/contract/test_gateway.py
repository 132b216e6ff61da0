"""The gateway against the simulator: as a process over a socket, and in this process, with the same outcomes."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import stripe
from aiohttp import web

from refundry.gateways.base import GatewayError, Look, PaymentGateway, RefundBody, Trouble
from refundry.gateways.stripe import client
from refundry.gateways.stripe.client import StripeGateway
from refundry.gateways.stripe.transport import Transport
from refundry.infra.http import unit_open
from refundry.kernel.errors import InvariantViolated
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Accepted, Declined, NotTaken, Unknown
from stripesim.app import Simulator
from stripesim.clock import Clock
from tests.support import ports
from tests.support.sim import START, Sim, flat
from tests.support.stripe_transport import FreeSlots, InProcess, StandingClock

pytestmark = pytest.mark.contract

KEY = "sk_test_sim"
Control = Callable[..., Any]


class Server:
    """A simulator as a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "stripesim", "--port", "0", "--seed", "1", "--start", str(START)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  # our own simulator
        assert self.process.stdout is not None
        self.address = str(json.loads(self.process.stdout.readline())["address"])

    def control(self, operation: str, body: Any = None) -> Any:
        method, path = operation.split(" ")
        raw = None if body is None else json.dumps(body).encode()
        request = Request(self.address + path, raw, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        return self._answered(request)

    def stripe(self, operation: str, key: str = KEY, **params: Any) -> Any:
        method, path = operation.split(" ")
        raw = urlencode(flat(params)).encode() if params else None
        headers = {"Authorization": f"Bearer {key}"}
        request = Request(self.address + path, raw, headers, method=method)  # noqa: S310
        return self._answered(request)

    def _answered(self, request: Request) -> Any:
        try:
            with urlopen(request, timeout=20) as answer:  # noqa: S310  # loopback
                return json.load(answer)
        except HTTPError as error:
            raise AssertionError(error.read()) from error

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    made = Server()
    made.control("POST /_sim/snapshots/empty", {})
    yield made
    made.close()


@pytest.fixture
def server(process: Server) -> Server:
    process.control("POST /_sim/snapshots/empty/restore", {})
    process.control("DELETE /_sim/faults")
    process.control("POST /_sim/limits", {"limits": "none"})
    process.control("DELETE /_sim/calls")
    return process


@pytest.fixture
def own() -> Iterator[Server]:
    """A server for calls that hang: what they hold would meet the next test."""
    made = Server()
    yield made
    made.close()


class Desk:
    """A gateway with what it was handed."""

    def __init__(self, base: str, transport: stripe.HTTPClient | None, key: str = KEY, **more: Any) -> None:
        self.slots = FreeSlots()
        self.clock = StandingClock(START)
        self.gateway = StripeGateway(
            key, api_base=base, account=more.pop("account", None), clock=self.clock, slots=self.slots,
            http_client=transport, **more,
        )  # fmt: skip
        self.port: PaymentGateway = self.gateway


@pytest.fixture
async def desk(server: Server) -> AsyncIterator[Desk]:
    made = Desk(server.address, None)
    yield made
    await made.gateway.close()


def paid(server: Server, amount: int = 5000, card: str = "pm_card_visa", **more: Any) -> dict[str, Any]:
    """Pay by card; tells the payment intent."""
    answer: dict[str, Any] = server.stripe(
        "POST /v1/payment_intents", amount=amount, currency="gbp", payment_method=card, confirm=True, **more
    )
    return answer


def charged(server: Server, amount: int = 5000, card: str = "pm_card_visa", **more: Any) -> str:
    return str(paid(server, amount, card, **more)["latest_charge"])


COUNT = itertools.count()
DAY = 86_400


def fresh() -> str:
    """Make a key that no other send has used."""
    return f"r{next(COUNT)}.1"


def body(charge: str, amount: int = 500, name: str = "r1") -> RefundBody:
    return RefundBody(charge, amount, "requested_by_customer", {"refundry_request_id": name})


def faults(server: Server, *rules: dict[str, Any]) -> None:
    server.control("POST /_sim/faults", {"seed": 1, "rules": list(rules)})


def operations(desk: Desk) -> list[str]:
    return [operation for operation, _ in desk.slots.taken]


# Sending


async def test_a_refund_is_paid_and_the_same_key_pays_it_once(server: Server, desk: Desk) -> None:
    charge = charged(server)
    key = fresh()
    first, again = [await desk.port.send(body(charge), key) for _ in range(2)]
    assert isinstance(first, Accepted)
    assert isinstance(again, Accepted)
    assert (first.refund, first.answer.replayed, again.answer.replayed) == (again.refund, False, True)
    assert first.refund.metadata == {"refundry_request_id": "r1"}
    assert (first.refund.charge, first.refund.amount_minor, first.refund.currency) == (charge, 500, "gbp")
    assert (first.answer.date, bool(first.answer.request)) == (START, True)
    assert desk.slots.taken == [], "a send has its slot from whoever sends"
    assert [operation for operation, _ in desk.slots.times] == ["POST /v1/refunds"] * 2, "how long it took is told"


async def test_every_call_names_the_version_that_was_recorded(server: Server) -> None:
    seen: list[dict[str, str]] = []

    class Watched(Transport):
        async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
            seen.append(dict(headers))
            return await super().request_async(method, url, headers, post_data)

    watched = Watched()
    other = Desk(server.address, watched)
    await other.gateway.balance()
    key = fresh()
    await other.gateway.send(body(charged(server)), key)
    await watched.close_async()
    assert [one["Stripe-Version"] for one in seen] == ["2026-08-26.dahlia"] * 2
    assert seen[1]["Idempotency-Key"] == key
    # Nothing about this machine goes out, and nothing is written into its user's home.
    assert "platform" not in seen[0]["X-Stripe-Client-User-Agent"]
    assert not [name for one in seen for name in one if "Telemetry" in name]


async def test_connect_flags_go_out_as_they_were_decided(server: Server, desk: Desk) -> None:
    sent = RefundBody(charged(server), 500, "duplicate", {}, refund_application_fee=False, reverse_transfer=False)
    assert isinstance(await desk.port.send(sent, fresh()), Accepted)


async def test_a_call_for_a_connected_account_is_made_on_it(server: Server) -> None:
    made = server.stripe("POST /v1/accounts", country="GB", type="custom")
    other = Desk(server.address, None, account=made["id"])
    assert (await other.port.account()).id == made["id"]
    await other.gateway.close()


@pytest.mark.parametrize(
    ("code", "amount", "prepare"),
    [
        ("amount_exceeds_refundable", 5001, None),
        ("charge_already_refunded", 1, lambda s, c: s.control("POST /_sim/refunds", {"charge": c})),
        ("charge_disputed", 500, lambda s, c: s.control("POST /_sim/disputes", {"charge": c})),
        ("charge_disputed", 500, lambda s, c: behave(s, c, "refund_disputed_payment")),
        ("charge_not_refundable", 500, lambda s, c: behave(s, c, "charge_not_refundable")),
        ("parameter_refused", 0, None),
    ],
)
async def test_a_no_of_stripe_is_declined_with_our_code(
    server: Server, desk: Desk, code: str, amount: int, prepare: Callable[[Server, str], Any] | None
) -> None:
    charge = charged(server)
    if prepare is not None:
        prepare(server, charge)
    told = await desk.port.send(body(charge, amount), fresh())
    assert isinstance(told, Declined), told
    assert told.code == code


def behave(server: Server, charge: str, way: str) -> None:
    server.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": way})


async def test_an_uncaptured_and_an_unknown_charge_are_declined(server: Server, desk: Desk) -> None:
    charge = charged(server, capture_method="manual")
    told = [await desk.port.send(body(one), f"{one}.1") for one in (charge, "ch_unknown")]
    assert [getattr(one, "code", one) for one in told] == ["charge_uncaptured", "charge_unknown"]


async def test_a_charge_of_the_other_mode_is_declined_as_that(server: Server) -> None:
    rows = [{"amount_minor": 900, "currency": "gbp", "created": START - 9}]
    server.control("POST /_sim/load", {"livemode": True, "charges": rows})
    charge = server.stripe("GET /v1/charges", key="sk_live_sim")["data"][0]["id"]
    other = Desk(server.address, None)
    told = await other.port.send(body(charge), fresh())
    await other.gateway.close()
    assert isinstance(told, Declined)
    assert told.code == "charge_of_other_mode"


async def test_a_low_balance_is_not_taken(server: Server, desk: Desk) -> None:
    charge = charged(server)
    server.control("POST /_sim/balance", {"currency": "gbp", "available": -100_000_000})
    told = await desk.port.send(body(charge), fresh())
    assert isinstance(told, NotTaken)
    assert (told.why, told.answer.code) == ("low_balance", "insufficient_balance_for_refund")


async def test_a_wrong_key_is_not_taken(server: Server) -> None:
    other = Desk(server.address, None, key="sk_test_51WrongWrongWrong")
    told = await other.port.send(body(charged(server)), fresh())
    await other.gateway.close()
    assert isinstance(told, NotTaken)
    assert told.why == "key_refused"
    assert "WrongWrong" not in str(told)


async def test_the_same_key_with_other_parameters_is_unknown(server: Server, desk: Desk) -> None:
    charge = charged(server)
    key = fresh()
    await desk.port.send(body(charge, 500), key)
    told = await desk.port.send(body(charge, 600), key)
    assert isinstance(told, Unknown)
    assert told.code == "idempotency_mismatch"


async def test_nobody_listening_is_unsent() -> None:
    with ports.kept() as port:
        other = Desk(f"http://127.0.0.1:{port}", None)
        told = await other.port.send(body("ch_1"), fresh())
        await other.gateway.close()
    assert isinstance(told, NotTaken)
    assert told.why == "unsent"


async def test_a_send_without_its_key_is_never_sent(server: Server, desk: Desk) -> None:
    with pytest.raises(InvariantViolated):
        await desk.port.send(body(charged(server)), "")
    assert "POST /v1/refunds" not in server.control("GET /_sim/calls")["operations"]


@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "https://api.stripe.com.example"])
def test_a_live_key_goes_to_stripe_only(host: str) -> None:
    with pytest.raises(InvariantViolated, match="live key") as caught:
        Desk(host, Transport(), key="sk_live_51Secret")
    assert "Secret" not in str(caught.value)
    Desk("https://api.stripe.com/", Transport(), key="sk_live_51Secret")


async def test_a_redirect_is_not_followed() -> None:
    """A key goes to Stripe and nowhere else, whoever asks for it."""
    calls: list[str] = []

    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        calls.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    runner = web.ServerRunner(web.Server(redirect))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    other = Desk(f"http://127.0.0.1:{runner.addresses[0][1]}", None)
    told = await other.port.send(body("ch_1"), fresh())
    await other.gateway.close()
    await runner.cleanup()
    assert isinstance(told, Unknown)
    assert (told.code, calls) == ("unreadable", ["/v1/refunds"])


# Every kind of fault, over a socket and without one

NEW, REPLAYED, STORED_500 = "accepted 200", "accepted 200 replayed", "unknown stripe_error 500 replayed"
# A fault, what the send under it comes to, and what the same send comes to afterwards.
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "drop_before"}, "unknown connection_lost 0", NEW),
    ({"kind": "reset_before"}, "unknown connection_lost 0", NEW),
    ({"kind": "error_before"}, "unknown stripe_error 500", NEW),
    ({"kind": "error_before", "status": 503}, "unknown stripe_error 503", NEW),
    ({"kind": "error_before", "status": 424}, "unknown stripe_error 424", NEW),
    ({"kind": "error_stored"}, "unknown stripe_error 500", STORED_500),
    ({"kind": "rate_limit", "reason": "endpoint-rate"}, "not_taken rate_limited 429 endpoint-rate", NEW),
    ({"kind": "rate_limit", "reason": "resource-specific"}, "not_taken rate_limited 429 resource-specific", NEW),
    ({"kind": "lock_timeout"}, "unknown lock_timeout 429", NEW),
    ({"kind": "conflict"}, "unknown conflict 409", NEW),
    ({"kind": "unauthorized"}, "not_taken key_refused 401", NEW),
    ({"kind": "forbidden"}, "not_taken key_refused 403", NEW),
    ({"kind": "drop_after"}, "unknown connection_lost 0", REPLAYED),
    ({"kind": "reset_after"}, "unknown connection_lost 0", REPLAYED),
    ({"kind": "truncate"}, "unknown connection_lost 0", REPLAYED),
    ({"kind": "error_after"}, "unknown stripe_error 500", STORED_500),
    ({"kind": "error_later"}, "unknown stripe_error 500", STORED_500),
    ({"kind": "latency", "milliseconds": 600_000}, "unknown timeout 0", "unknown conflict 409"),
]


# Long enough for the call to arrive, also on a busy machine.
HASTY_SECONDS = 1.0


def summary(told: Any) -> str:
    """Write an outcome so that two simulators with other ids compare."""
    match told:
        case Accepted(answer=answer):
            return f"accepted {answer.status}" + " replayed" * answer.replayed
        case Declined(code=code, answer=answer):
            return f"declined {code} {answer.status}" + " replayed" * answer.replayed
        case NotTaken(why=why, answer=answer, limiter=limiter):
            return f"not_taken {why} {answer.status} {limiter or ''}".strip()
        case Unknown(code=code, answer=answer):
            return f"unknown {code} {answer.status}" + " replayed" * answer.replayed
        case _:
            raise AssertionError(told)


async def all_faults(
    desk: Desk,
    impatient: Desk,
    charge: Callable[[], Awaitable[str]],
    put: Callable[[list[dict[str, Any]]], Awaitable[Any]],
) -> list[tuple[str, str, str]]:
    """Send one refund under each fault, and the same one once more without it; only one that is never answered is given up soon."""
    told = []
    for at, (rule, *_) in enumerate(FAULTS):
        sent, key = body(await charge(), name=f"r{at}"), fresh()
        await put([rule | {"operation": "POST /v1/refunds", "times": 1}])
        first = await (impatient if rule["kind"] == "latency" else desk).port.send(sent, key)
        await put([])
        told.append((rule["kind"], summary(first), summary(await desk.port.send(sent, key))))
    return told


async def test_every_fault_has_its_outcome_the_same_with_and_without_a_socket(own: Server) -> None:
    over, hasty = Transport(), Transport(send_seconds=HASTY_SECONDS)
    outside = Desk(own.address, over), Desk(own.address, hasty)

    async def charge_there() -> str:
        return await asyncio.to_thread(charged, own)

    async def faults_there(rules: list[dict[str, Any]]) -> None:
        await asyncio.to_thread(faults, own, *rules)

    real = await all_faults(*outside, charge_there, faults_there)
    for transport in (over, hasty):
        await transport.close_async()

    sim = Sim()
    direct, short = InProcess(sim.simulator), InProcess(sim.simulator, send_seconds=HASTY_SECONDS)
    inside = Desk("http://simulator", direct), Desk("http://simulator", short)
    near = await all_faults(
        *inside,
        lambda: sim.charge(currency="gbp"),
        lambda rules: sim.control("POST /_sim/faults", {"seed": 1, "rules": rules}),
    )
    for way in (direct, short):
        await way.close_async()
    sim.simulator.close()

    assert near == real
    assert real == [(rule["kind"], first, again) for rule, first, again in FAULTS]


async def test_a_simulator_that_dies_leaves_the_send_in_doubt(own: Server) -> None:
    charge = charged(own)
    faults(own, {"kind": "crash", "operation": "POST /v1/refunds"})
    other = Desk(own.address, None)
    told = await other.port.send(body(charge), fresh())
    await asyncio.to_thread(own.process.wait)
    gone = await other.port.send(body(charge), fresh())
    await other.gateway.close()
    assert (summary(told), summary(gone)) == ("unknown connection_lost 0", "not_taken unsent 0")


async def test_a_send_that_is_canceled_is_not_swallowed(own: Server) -> None:
    desk, charge = Desk(own.address, None), charged(own)
    faults(own, {"kind": "latency", "operation": "POST /v1/refunds", "milliseconds": 600_000})
    sending = asyncio.create_task(desk.port.send(body(charge), fresh()))
    while "POST /v1/refunds" not in (await asyncio.to_thread(own.control, "GET /_sim/calls"))["operations"]:
        pass
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await desk.gateway.close()


# Looking


@pytest.mark.parametrize(
    ("count", "calls"),
    [
        (0, ["GET /v1/charges/{charge}"]),
        (3, ["GET /v1/charges/{charge}"]),
        (10, ["GET /v1/charges/{charge}"]),
        (12, ["GET /v1/charges/{charge}", "GET /v1/refunds"]),
        (110, ["GET /v1/charges/{charge}", "GET /v1/refunds"]),
        (150, ["GET /v1/charges/{charge}", "GET /v1/refunds", "GET /v1/refunds"]),
    ],
)
async def test_a_look_sees_every_refund_in_as_few_calls_as_it_can(
    server: Server, desk: Desk, count: int, calls: list[str]
) -> None:
    charge = charged(server, 5000)
    made = {server.control("POST /_sim/refunds", {"charge": charge, "amount": 7})["id"] for _ in range(count)}
    look = await desk.port.look(charge, Lane.DESK)
    assert operations(desk) == calls
    assert {lane for _, lane in desk.slots.taken} == {Lane.DESK}
    assert len(look.refunds) == count
    assert {refund.id for refund in look.refunds} == made
    assert (look.charge.id, look.charge.refunded_minor, look.explained, look.began_at) == (
        charge,
        7 * count,
        True,
        START,
    )
    assert (look.charge.captured_minor, look.charge.livemode, look.disputes) == (5000, False, ())


async def test_a_look_began_when_its_answer_was_asked_for(server: Server, desk: Desk) -> None:
    charge = charged(server)
    faults(server, {"kind": "error_before", "operation": "GET *", "times": 2})
    look = await desk.port.look(charge, Lane.BULK)
    assert desk.clock.waits == list(client.READ_WAITS_SECONDS)
    assert look.began_at == START + sum(client.READ_WAITS_SECONDS)


async def test_a_look_sees_disputes(server: Server, desk: Desk) -> None:
    charge = charged(server)
    server.control("POST /_sim/disputes", {"charge": charge, "inquiry": True})
    inquiry = await desk.port.look(charge, Lane.DESK)
    assert [(one.status, one.refundable, one.inquiry) for one in inquiry.disputes] == [
        ("warning_needs_response", True, True)
    ]
    server.control(f"POST /_sim/disputes/{inquiry.disputes[0].id}/escalate", {})
    after = await desk.port.look(charge, Lane.DESK)
    assert [(one.refundable, one.inquiry, one.amount_minor) for one in after.disputes] == [(False, False, 5000)]
    assert operations(desk) == ["GET /v1/charges/{charge}", "GET /v1/disputes"] * 2


async def test_a_list_that_breaks_off_is_no_complete_look(server: Server) -> None:
    """A page that promises more and brings nothing must not pass for the end of the list."""
    charge = charged(server, 5000)
    made = [server.control("POST /_sim/refunds", {"charge": charge, "amount": 7}) for _ in range(12)]

    class Broken(Transport):
        async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
            content, status, answered = await super().request_async(method, url, headers, post_data)
            read = json.loads(content)
            if read["object"] == "list":
                read |= {"data": self.data, "has_more": True}
            return json.dumps(read).encode(), status, answered

        data: list[Any] = []  # noqa: RUF012  # a test's own

    for data in ([], made[:1]):
        broken = Broken()
        broken.data = data
        other = Desk(server.address, broken)
        with pytest.raises(GatewayError) as caught:
            await other.port.look(charge, Lane.BULK)
        await broken.close_async()
        assert (caught.value.trouble, caught.value.passing) == (Trouble.UNREACHABLE, True)
        assert len(other.slots.taken) == 2 + len(data)


@pytest.mark.parametrize(
    "change",
    [
        {"refunds": None},
        {"refunds": {"object": "list", "data": []}},
        {"id": "ch_other"},
        {"amount_refunded": None},
        {"refunds": {"object": "list", "data": [{"id": "re_1"}], "has_more": False}},
    ],
)
async def test_an_answer_that_cannot_be_read_is_never_half_a_look(server: Server, change: dict[str, Any]) -> None:
    class Odd(Transport):
        async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
            content, status, answered = await super().request_async(method, url, headers, post_data)
            return json.dumps(json.loads(content) | change).encode(), status, answered

    odd = Odd()
    other = Desk(server.address, odd)
    with pytest.raises(GatewayError) as caught:
        await other.port.look(charged(server), Lane.BULK)
    await odd.close_async()
    assert caught.value.trouble is Trouble.UNREACHABLE


async def test_charges_of_a_window_come_with_all_their_refunds_and_disputes(server: Server, desk: Desk) -> None:
    rows = [{"amount_minor": 900, "currency": "gbp", "created": START - at} for at in range(1, 131)]
    server.control("POST /_sim/load", {"charges": rows})
    many, disputed = charged(server), charged(server)
    for _ in range(12):
        server.control("POST /_sim/refunds", {"charge": many, "amount": 7})
    server.control("POST /_sim/disputes", {"charge": disputed})
    looks: list[Look] = [look async for page in desk.port.charges(START - 130, START) for look in page]
    assert len({look.charge.id for look in looks}) == len(looks) == 132
    by_id = {look.charge.id: look for look in looks}
    assert (len(by_id[many].refunds), by_id[many].explained) == (12, True)
    assert [one.refundable for one in by_id[disputed].disputes] == [False]
    assert sorted(operations(desk)) == ["GET /v1/charges"] * 2 + ["GET /v1/disputes", "GET /v1/refunds"]
    assert {look.began_at for look in looks} == {START}
    narrow = [look async for page in desk.port.charges(START - 9.5, START - 5.5) for look in page]
    assert sorted(look.charge.created_at for look in narrow) == [START - at for at in range(10, 4, -1)]


@pytest.mark.parametrize("order_id", ["536365", "o'1", 'a"b', "back\\slash", "\\'", "' OR amount>0", "ü+%20 &=[x]"])
async def test_an_order_is_found_whatever_its_id_looks_like(server: Server, desk: Desk, order_id: str) -> None:
    wanted = {charged(server, metadata={"order_id": order_id}) for _ in range(2)}
    charged(server, metadata={"order_id": "other"})
    charged(server)
    server.control("POST /_sim/clock", {"move_seconds": 120})
    found = await desk.port.charges_of_order(order_id, Lane.BULK)
    assert {charge.id for charge in found} == wanted
    assert desk.slots.taken == [("GET /v1/charges/search", Lane.BULK)]


async def test_an_order_that_differs_in_case_is_another_order(server: Server) -> None:
    """Should Stripe's search be looser than we are, money still goes by the exact id."""

    class Loose(Transport):
        async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> Any:
            content, status, answered = await super().request_async(method, url, headers, post_data)
            return content.replace(b'"order_id": "a7"', b'"order_id": "A7"'), status, answered

    loose = Loose()
    charged(server, metadata={"order_id": "a7"})
    server.control("POST /_sim/clock", {"move_seconds": 120})
    assert list(await Desk(server.address, loose).port.charges_of_order("a7", Lane.BULK)) == []
    await loose.close_async()


async def test_an_order_of_many_charges_is_found_on_every_page(server: Server, desk: Desk) -> None:
    rows = [{"amount_minor": 900, "currency": "gbp", "created": START - 500, "order_id": "big"} for _ in range(130)]
    server.control("POST /_sim/load", {"charges": rows})
    server.control("POST /_sim/clock", {"move_seconds": 120})
    assert len(await desk.port.charges_of_order("big", Lane.BULK)) == 130
    assert len(desk.slots.taken) == 2


async def test_another_order_key_is_searched_by(server: Server) -> None:
    charge = charged(server, metadata={"shop_order": "7"})
    server.control("POST /_sim/clock", {"move_seconds": 120})
    other = Desk(server.address, None, order_key="shop_order")
    assert [one.id for one in await other.port.charges_of_order("7", Lane.DESK)] == [charge]
    await other.gateway.close()


async def test_a_payment_intent_leads_to_its_charge(server: Server, desk: Desk) -> None:
    intent = paid(server)
    unpaid = server.stripe("POST /v1/payment_intents", amount=500, currency="gbp")
    assert await desk.port.charge_of(intent["id"], Lane.DESK) == intent["latest_charge"]
    assert await desk.port.charge_of(unpaid["id"], Lane.DESK) is None


async def test_account_balance_and_one_refund_are_read(server: Server, desk: Desk) -> None:
    account = await desk.port.account()
    assert re.fullmatch(r"acct_\w+", account.id)
    assert account.livemode is False
    assert "gbp" in await desk.port.balance() or "usd" in await desk.port.balance()
    made = server.control("POST /_sim/refunds", {"charge": charged(server), "amount": 7})
    assert (await desk.port.refund(made["id"], Lane.DESK)).amount_minor == 7


async def test_a_refund_leaves_the_available_balance_some_midnights_later(server: Server, desk: Desk) -> None:
    charge, midnight = charged(server), START - START % DAY
    for days, leaving in ((0, 0), (1, 0), (2, 0), (3, 3)):
        server.control("POST /_sim/clock", {"to": START + days * DAY})
        await desk.port.account()
        # The first was made before any midnight, and every later one is of that day's own.
        if days == 0:
            server.control("POST /_sim/refunds", {"charge": charge, "amount": 700})
        assert await desk.port.leaving_since() == midnight + leaving * DAY, f"{days} days later"
    assert set(operations(desk)) == {"GET /v1/account", "GET /v1/refunds"}


# Reads in trouble


@pytest.mark.parametrize("charge", ["ch_unknown", "", "..", "ch_1/refunds", "ch_1?expand[]=refunds"])
async def test_an_unknown_charge_is_not_found(desk: Desk, charge: str) -> None:
    with pytest.raises(GatewayError) as caught:
        await desk.port.look(charge, Lane.DESK)
    assert (caught.value.trouble, caught.value.code, caught.value.passing) == (
        Trouble.NOT_FOUND,
        "stripe_not_found",
        False,
    )
    assert len(desk.slots.taken) == (charge == "ch_unknown")


async def test_a_limited_read_takes_a_new_slot_each_time_until_it_passes(server: Server, desk: Desk) -> None:
    charge = charged(server)
    rules = {
        "kind": "rate_limit",
        "operation": "GET *",
        "reason": "endpoint-rate",
        "times": client.LIMITED_TRIES_MAX - 1,
    }
    faults(server, rules)
    await desk.port.look(charge, Lane.BULK)
    operation = "GET /v1/charges/{charge}"
    assert operations(desk) == [operation] * client.LIMITED_TRIES_MAX
    expected = [(operation, "endpoint-rate", float(at)) for at in range(1, client.LIMITED_TRIES_MAX)]
    assert desk.slots.limits == expected
    assert desk.clock.waits == []


@pytest.mark.parametrize(
    ("rule", "trouble", "tries"),
    [
        ({"kind": "rate_limit"}, Trouble.RATE_LIMITED, client.LIMITED_TRIES_MAX),
        ({"kind": "lock_timeout"}, Trouble.RATE_LIMITED, client.LIMITED_TRIES_MAX),
        ({"kind": "unauthorized"}, Trouble.KEY_REFUSED, 1),
        ({"kind": "forbidden"}, Trouble.FORBIDDEN, 1),
        ({"kind": "error_before"}, Trouble.UNREACHABLE, 3),
        ({"kind": "reset_after"}, Trouble.UNREACHABLE, 3),
        ({"kind": "drop_after"}, Trouble.UNREACHABLE, 3),
        ({"kind": "truncate"}, Trouble.UNREACHABLE, 3),
    ],
)
async def test_a_read_in_trouble_is_given_up_after_its_tries(
    server: Server, desk: Desk, rule: dict[str, Any], trouble: Trouble, tries: int
) -> None:
    charge = charged(server)
    faults(server, rule | {"operation": "GET *"})
    with pytest.raises(GatewayError) as caught:
        await desk.port.look(charge, Lane.BULK)
    assert caught.value.trouble is trouble
    assert charge in str(caught.value) or trouble is Trouble.KEY_REFUSED
    assert len(desk.slots.taken) == tries
    assert KEY not in str(caught.value)


async def test_a_busy_object_slows_the_read_and_not_the_pace(server: Server, desk: Desk) -> None:
    charge = charged(server)
    faults(server, {"kind": "lock_timeout", "operation": "GET *", "times": 2})
    await desk.port.look(charge, Lane.BULK)
    assert [reason for _, reason, _ in desk.slots.limits] == ["lock_timeout"] * 2
    assert desk.clock.waits == [client.LOCK_WAIT_SECONDS, 2 * client.LOCK_WAIT_SECONDS]


async def test_an_objects_own_limit_slows_the_read_too(server: Server, desk: Desk) -> None:
    charge = charged(server)
    faults(server, {"kind": "rate_limit", "reason": "resource-specific", "operation": "GET *", "times": 2})
    await desk.port.look(charge, Lane.BULK)
    assert desk.clock.waits == [client.LOCK_WAIT_SECONDS, 2 * client.LOCK_WAIT_SECONDS]


async def test_whose_key_it_is_waits_for_a_limit_since_it_has_no_budgets_yet(server: Server, desk: Desk) -> None:
    times = client.LIMITED_TRIES_MAX - 1
    faults(server, {"kind": "rate_limit", "reason": "global-rate", "operation": client.ACCOUNT, "times": times})
    assert (await desk.port.account()).id.startswith("acct_")
    assert desk.clock.waits == [client.LOCK_WAIT_SECONDS * at for at in range(1, times + 1)]
    # Longer than any limiter that counts by the second.
    assert sum(desk.clock.waits) > 5


async def test_a_slow_read_is_given_up_and_asked_again(server: Server) -> None:
    charge = charged(server)
    faults(server, {"kind": "latency", "operation": "GET *", "milliseconds": 600_000, "times": 1})
    slow = Transport(read_seconds=HASTY_SECONDS)
    other = Desk(server.address, slow)
    assert (await other.port.look(charge, Lane.DESK)).charge.id == charge
    assert len(other.slots.taken) == 2
    await slow.close_async()


@pytest.mark.parametrize(
    "call",
    [
        lambda port: port.send(body("ch_1"), fresh()),
        lambda port: port.look("ch_1", Lane.DESK),
        lambda port: port.charge_of("pi_1", Lane.DESK),
        lambda port: port.charges_of_order("1", Lane.DESK),
        lambda port: port.refund("re_1", Lane.DESK),
        lambda port: port.cancel_refund("re_1"),
        lambda port: port.cancel_payment_intent("pi_1", "k"),
        lambda port: port.account(),
        lambda port: port.balance(),
        lambda port: port.leaving_since(),
        lambda port: anext(port.charges(0, 1)),
    ],
)
async def test_nothing_is_called_inside_a_transaction(
    server: Server, desk: Desk, call: Callable[[PaymentGateway], Awaitable[Any]]
) -> None:
    token = unit_open.set(True)
    try:
        with pytest.raises(InvariantViolated) as caught:
            await call(desk.port)
    finally:
        unit_open.reset(token)
    assert caught.value.code == "network_inside_transaction"
    assert server.control("GET /_sim/calls")["operations"] == {}
    assert desk.slots.taken == []


# Canceling


async def test_a_refund_that_waits_for_its_customer_is_canceled_once(server: Server, desk: Desk) -> None:
    charge = charged(server)
    behave(server, charge, "action")
    sent = await desk.port.send(body(charge), fresh())
    assert isinstance(sent, Accepted)
    assert sent.refund.status == "requires_action"
    assert (await desk.port.cancel_refund(sent.refund.id)).status == "canceled"
    desk.clock.at += 60
    assert (await desk.port.cancel_refund(sent.refund.id)).status == "canceled"


async def test_a_lost_answer_to_a_cancel_is_asked_for_again(server: Server, desk: Desk) -> None:
    charge = charged(server)
    behave(server, charge, "action")
    sent = await desk.port.send(body(charge), fresh())
    assert isinstance(sent, Accepted)
    faults(server, {"kind": "drop_after", "operation": "POST /v1/refunds/{refund}/cancel", "times": 1})
    assert (await desk.port.cancel_refund(sent.refund.id)).status == "canceled"


async def test_a_refund_that_has_gone_out_is_not_canceled(server: Server, desk: Desk) -> None:
    made = server.control("POST /_sim/refunds", {"charge": charged(server), "amount": 7})
    with pytest.raises(GatewayError, match="unsupported") as caught:
        await desk.port.cancel_refund(made["id"])
    assert caught.value.trouble is Trouble.REFUSED


async def test_an_authorised_payment_is_released(server: Server, desk: Desk) -> None:
    intent = paid(server, capture_method="manual")
    for _ in range(2):
        await desk.port.cancel_payment_intent(intent["id"], "cancel.1")
    assert (await desk.port.look(intent["latest_charge"], Lane.DESK)).charge.captured is False
    with pytest.raises(InvariantViolated):
        await desk.port.cancel_payment_intent(intent["id"], "")


# The SDK's own client may carry the calls too


async def test_the_sdks_own_client_gives_the_same_outcomes(server: Server) -> None:
    theirs = stripe.AIOHTTPClient(timeout=5)
    other = Desk(server.address, theirs)
    charge = charged(server)
    assert isinstance(await other.port.send(body(charge), fresh()), Accepted)
    for kind, expected in (
        ("drop_after", "connection_lost"),
        ("truncate", "connection_lost"),
        ("reset_before", "connection_lost"),
    ):
        faults(server, {"kind": kind, "operation": "POST /v1/refunds", "times": 1})
        told = await other.port.send(body(charge, name=kind), f"{kind}.1")
        assert summary(told) == f"unknown {expected} 0"
    await theirs.close_async()
    theirs = stripe.AIOHTTPClient(timeout=5)
    with ports.kept() as port:
        told = await Desk(f"http://127.0.0.1:{port}", theirs).port.send(body(charge), "r2.1")
    assert summary(told) == "not_taken unsent 0"
    await theirs.close_async()


async def test_a_simulator_in_this_process_answers_reads_too() -> None:
    simulator = Simulator(clock=Clock(START))
    sim = Sim()
    charge = await sim.charge()
    near = Desk("http://simulator", InProcess(sim.simulator))
    await near.port.send(body(charge), fresh())
    look = await near.port.look(charge, Lane.DESK)
    assert [refund.metadata for refund in look.refunds] == [{"refundry_request_id": "r1"}]
    sim.simulator.close()
    simulator.close()
