"""An event keeps the version that it was made in; a webhook has its endpoint's, and as long as the settings say."""

import json

import pytest

from stripesim.webhooks import Pump
from tests.support.sim import Sim

pytestmark = pytest.mark.contract

DAHLIA, ENDIVE = "2026-08-26.dahlia", "2026-10-28.endive"
URL = "http://127.0.0.1:9/hook"


class Receiver:
    """Takes what the pump sends, and says 200."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.patience: set[float] = set()

    async def __call__(self, url: str, headers: dict[str, str], body: bytes, timeout: float) -> int:  # noqa: ASYNC109
        del url, headers
        self.bodies.append(body)
        self.patience.add(timeout)
        return 200


async def test_an_event_is_told_in_the_version_that_it_was_made_in(sim: Sim) -> None:
    await sim.charge()
    await sim.control("POST /_sim/settings", {"account_default_version": ENDIVE})
    await sim.charge()
    for version in (DAHLIA, ENDIVE):
        listed = await sim.call("GET /v1/events", version=version, type="charge.succeeded")
        assert [event["api_version"] for event in listed["data"]] == [ENDIVE, DAHLIA]


@pytest.mark.parametrize(("own", "sent"), [(ENDIVE, ENDIVE), (None, DAHLIA)])
async def test_a_webhook_has_the_version_of_its_endpoint(sim: Sim, own: str | None, sent: str) -> None:
    more = {"api_version": own} if own else {}
    # The file is of dahlia, and lists no version that came later.
    made = {"url": URL, "enabled_events": ["charge.succeeded"], **more}
    assert (await sim.call("POST /v1/webhook_endpoints", check=own is None, **made)).status == 200
    await sim.charge()
    await sim.control("POST /_sim/settings", {"account_default_version": ENDIVE})
    receiver = Receiver()
    assert await Pump(sim.world).deliver_due(receiver) == 1
    assert [json.loads(body)["api_version"] for body in receiver.bodies] == [sent]


async def test_a_webhook_is_given_the_time_of_the_setting(sim: Sim) -> None:
    await sim.call("POST /v1/webhook_endpoints", url=URL, enabled_events=["charge.succeeded"])
    await sim.charge()
    await sim.control("POST /_sim/settings", {"webhook_timeout": 20.0})
    receiver = Receiver()
    assert await Pump(sim.world).deliver_due(receiver) == 1
    assert receiver.patience == {20.0}
