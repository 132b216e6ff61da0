"""The doctor asks for a key's rights beside a batch at full pace, and of a Stripe that refuses everything, in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from refundry.cli.doctor_stripe import APART_SECONDS, SECONDS_MAX, OwnPace
from refundry.gateways.base import GatewayError, Right, Trouble
from refundry.gateways.stripe.client import StripeGateway
from refundry.kernel.lane import Lane
from stripesim.limits import NAMED
from tests.support import virtual_time
from tests.support.sim import KEY, Sim
from tests.support.stripe_transport import InProcess
from tests.support.virtual_time import MachineClock, VirtualLoop

pytestmark = pytest.mark.contract
# A sandbox's 25 calls a second less the head-room of a tenth.
BATCH_PER_SECOND = 22.5


@asynccontextmanager
async def doctor(loop: VirtualLoop) -> AsyncIterator[tuple[Sim, StripeGateway]]:
    """Give a sandbox whose limits go by the loop's time, and a gateway as the doctor has it."""
    sim, clock = Sim(limits=NAMED["sandbox"], monotonic=loop.time), MachineClock(loop)
    transport = InProcess(sim.simulator)
    try:
        yield (
            sim,
            StripeGateway(
                KEY,
                api_base="http://127.0.0.1",
                account=None,
                clock=clock,
                slots=OwnPace(clock, BATCH_PER_SECOND),
                http_client=transport,
            ),
        )
    finally:
        await transport.close_async()


@pytest.mark.parametrize(
    ("rate", "apart"), [(BATCH_PER_SECOND, 1 / BATCH_PER_SECOND), (90.0, 1 / 90), (0.5, APART_SECONDS), (0.0, 0.0)]
)
def test_its_first_calls_keep_to_the_accounts_rate(rate: float, apart: float) -> None:
    async def main(loop: VirtualLoop) -> None:
        pace, left = OwnPace(MachineClock(loop), rate), list[float]()

        async def call() -> None:
            await pace.take("GET /v1/charges", Lane.DESK)
            left.append(loop.time())

        await asyncio.gather(*(call() for _ in range(5)))
        assert left == pytest.approx([number * apart for number in range(5)], abs=1e-3)

    virtual_time.run(main)


async def missed(gateway: StripeGateway) -> dict[Right, Trouble]:
    """Ask for all rights as the doctor does; tells those that could not be asked for."""

    async def of(right: Right) -> Trouble | None:
        try:
            await gateway.ask(right)
        except GatewayError as error:
            return error.trouble
        return None

    told = await asyncio.gather(*(of(right) for right in Right))
    return {right: trouble for right, trouble in zip(Right, told, strict=True) if trouble is not None}


def test_all_rights_are_asked_for_beside_a_batch_at_full_pace() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with doctor(loop) as (sim, gateway):
            turned_away = 0

            async def batch() -> None:
                nonlocal turned_away
                while True:
                    turned_away += (await sim.call("GET /v1/charges/ch_none")).status == 429
                    await asyncio.sleep(1 / BATCH_PER_SECOND)

            paying = asyncio.create_task(batch())
            # By then the batch has taken its share of a whole second.
            await asyncio.sleep(2.0)
            assert turned_away == 0
            assert await missed(gateway) == {}
            assert loop.time() < 2.0 + SECONDS_MAX
            paying.cancel()

    virtual_time.run(main)


@pytest.mark.parametrize("reason", ["global-rate", "resource-specific"])
def test_of_a_stripe_that_refuses_everything_all_is_told_in_time(reason: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with doctor(loop) as (sim, gateway):
            await sim.control("POST /_sim/faults", {"rules": [{"kind": "rate_limit", "reason": reason}]})
            assert await missed(gateway) == dict.fromkeys(Right, Trouble.RATE_LIMITED)
            # The balance is asked for after the rights, and is no quicker.
            with pytest.raises(GatewayError):
                await gateway.balance()
            assert loop.time() < SECONDS_MAX

    virtual_time.run(main)
