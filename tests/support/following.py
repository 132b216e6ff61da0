"""A shop at the simulator and the product that follows its money, in this process: webhooks are handed over, and time is moved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from refundry.bootstrap import read_webhook
from refundry.charges import service as charges
from refundry.charges.model import Charge
from refundry.disputes import service as disputes
from refundry.disputes.model import Dispute
from refundry.gateways.stripe.client import StripeGateway
from refundry.inbox import service as inbox
from refundry.inbox.model import HANDLED, Source
from refundry.inbox.model import State as EventState
from refundry.infra.pace import NAMED, Pacer
from refundry.infra.settings import FollowSettings, PaySettings
from refundry.infra.writer import InlineWriter
from refundry.kernel import ids
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.kernel.outcome import Accepted, Answer
from refundry.refunds import service as refunds
from refundry.refunds.model import Content, RefundRequest, State
from refundry.tasks import service as tasks
from refundry.tasks.model import Task
from refundry.worker.catch_up import CatchUp
from refundry.worker.executor import Executor
from refundry.worker.follower import Follower
from stripesim.webhooks import Pump
from tests.support.builders import ACCOUNT
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.sim import Sim
from tests.support.stripe_transport import InProcess

# Turns of following that end anything: what is left then goes round in a circle.
TURNS_MAX = 60


class Tokens:
    """Lease tokens by number."""

    def __init__(self) -> None:
        """Begin at one."""
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """Make the next."""
        return f"lease-{next(self._numbers)}"


@dataclass
class Scene:
    """The shop and the product.

    Args:
        database: The product's.
        clock: The product's and the database's time; the simulator's is moved with it.
        sim: Stripe.
    """

    database: HandDatabase
    clock: HandClock
    sim: Sim
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        """Put the parts together."""
        if not self.database.postgres:
            # Nothing here has to survive a power cut.
            sa.event.listen(self.database.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
        self.writer, self.transport = InlineWriter(self.database), InProcess(self.sim.simulator)
        pacer = Pacer(NAMED["none"], 0.0, self.writer, self.clock)
        self.gateway = StripeGateway(
            "sk_test_sim", api_base="http://127.0.0.1", account=None, clock=self.clock, slots=pacer,
            http_client=self.transport,
        )  # fmt: skip
        parts: dict[str, Any] = {
            "gateway": self.gateway, "database": self.database, "writer": self.writer, "clock": self.clock,
            "order_key": "order_id",
        }  # fmt: skip
        self.executor = Executor(ACCOUNT, pacer=pacer, ids=Tokens(), pay=PaySettings(), **parts)
        self.follower = Follower(ACCOUNT, "one", **parts)
        self.other = Follower(ACCOUNT, "two", **parts)
        self.catch_up = CatchUp(ACCOUNT, settings=FollowSettings(), **parts)
        self.pump = Pump(self.sim.world)
        self.received = 0

    async def close(self) -> None:
        """Let go of everything."""
        await self.transport.close_async()
        self.sim.simulator.close()

    async def listen(self, *rules: dict[str, Any], seed: int = 1) -> None:
        """Have webhooks sent, made worse by a plan."""
        await self.sim.call(
            "POST /v1/webhook_endpoints", url="http://127.0.0.1/hook", enabled_events=sorted(HANDLED), check=False
        )
        planned = await self.sim.control("POST /_sim/webhooks/plan", {"seed": seed, "rules": list(rules)})
        assert planned.status == 200, planned.json

    async def send(self, url: str, headers: dict[str, str], body: bytes, timeout: float) -> int:  # noqa: ARG002, ASYNC109  # the pump's
        """Take a webhook in."""
        self.received += 1
        seen = read_webhook(body)
        await self.writer.put(lambda unit: inbox.store(unit, ACCOUNT, [seen], Source.WEBHOOK))
        return 200

    async def move(self, seconds: float) -> None:
        """Let time pass for everybody."""
        await self.sim.move(seconds)
        self.clock.move(seconds)

    async def follow(self) -> None:
        """Deliver what is due, and apply what has come in."""
        while await self.pump.deliver_due(self.send):
            pass
        for _ in range(TURNS_MAX):
            # Time passes between any two steps, so that a read is never as old as what came before it.
            await self.move(0.01)
            if not await self.follower.turn():
                return
        raise AssertionError("it never came to an end")

    async def poll(self) -> None:
        """Ask Stripe, and apply what that has brought."""
        await self.move(0.01)
        await self.catch_up.turn()
        await self.follow()

    async def days(self, days: float, *, step: float = 6 * 3600.0, polls: bool = True) -> None:
        """Let days pass, with everything that goes on by itself."""
        for _ in range(max(int(days * 86_400 / step), 1)):
            await self.move(step)
            await (self.poll() if polls else self.follow())
            await self.pay_due()

    # What is asked for

    async def requested(self, charge: str, amount: int | None, **more: Any) -> RefundRequest:
        """Hand a request in; nothing is paid yet."""
        await self.move(0.01)
        key = more.pop("key", None) or f"key:{next(self.numbers)}"
        flags = {name: more.pop(name) for name in ("allow_inquiry", "allowed", "planned") if name in more}
        content = Content(charge, amount, "usd", "requested_by_customer", **more)
        wanted = RefundRequest(ids.request_id("acct_1", "test", key), ACCOUNT, key, content, lane=Lane.DESK, **flags)
        with self.database.unit() as unit:
            return refunds.receive(unit, [wanted], SYSTEM)[0].request

    async def looked(self, charge: str) -> None:
        """See a charge at Stripe, and mirror it."""
        await self.move(0.01)
        look = await self.gateway.look(charge, Lane.DESK)
        with self.database.unit() as unit:
            charges.mirror(unit, ACCOUNT, [look], "order_id")

    async def pay_due(self) -> None:
        """Pay what is due."""
        await self.move(0.01)
        await self.executor.drain(Lane.DESK, until=lambda: False)
        await self.move(0.01)

    async def paid(self, charge: str, amount: int | None, **more: Any) -> RefundRequest:
        """Hand a request in and pay it."""
        request = await self.requested(charge, amount, **more)
        await self.pay_due()
        return self.now(request)

    async def control(self, operation: str, body: Any = None) -> Any:
        """Steer the simulator."""
        reply = await self.sim.control(operation, body)
        assert reply.status == 200, reply.json
        return reply.json

    async def by_hand(self, charge: str, amount: int, **more: Any) -> str:
        """Make a refund in Stripe's Dashboard."""
        made = await self.control("POST /_sim/refunds", {"charge": charge, "amount": amount, **more})
        return str(made["id"])

    async def disputed(self, charge: str, **more: Any) -> str:
        """Open a dispute."""
        await self.move(2.0)
        return str((await self.control("POST /_sim/disputes", {"charge": charge, **more}))["id"])

    # What is there

    def now(self, request: RefundRequest) -> RefundRequest:
        """Read a request as it is now."""
        with self.database.reading() as unit:
            return refunds.need(unit, request.id)

    def held(self, request: RefundRequest) -> str:
        """Tell why a request is held; an empty text, if it is not."""
        hold = self.now(request).hold
        return hold.reason.value if hold else ""

    def state(self, request: RefundRequest) -> State:
        """Tell a request's state."""
        return self.now(request).state

    def charge(self, charge: str) -> Charge:
        """Read the mirror."""
        with self.database.reading() as unit:
            found = charges.find(unit, charge)
        assert found is not None
        return found

    def origin(self, refund: str) -> str:
        """Tell who made a refund, as far as is known here; an empty text, if it is not known here."""
        with self.database.reading() as unit:
            known = charges.refunds_known(unit, [refund]).get(refund)
        return known.origin.value if known else ""

    def tasks(self, *, resolved: bool = False) -> list[Task]:
        """Read the tasks."""
        with self.database.reading() as unit:
            return tasks.page(unit, ACCOUNT, [], 1000, resolved=resolved)

    def kinds(self) -> list[str]:
        """Tell the kinds of the open tasks."""
        return sorted(task.kind.value for task in self.tasks())

    def disputes(self, charge: str) -> list[Dispute]:
        """Read the disputes of a charge."""
        with self.database.reading() as unit:
            return disputes.of_charge(unit, charge)

    def events(self) -> dict[EventState, int]:
        """Count the events by what became of them."""
        with self.database.reading() as unit:
            return {state: count for state, count in inbox.counts(unit, ACCOUNT).items() if count}

    async def at_stripe(self, kind: str = "refunds") -> Sequence[dict[str, Any]]:
        """List what Stripe has."""
        return list((await self.sim.call(f"GET /v1/{kind}", limit=100, check=False))["data"])

    async def look_up(self, request: RefundRequest, refund: str) -> Accepted:
        """Answer a send with what the refund is by now."""
        seen = await self.gateway.refund(refund, request.lane)
        return Accepted(seen, Answer(status=200, request="req_1"))
