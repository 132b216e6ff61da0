"""A canary that fails stops the whole file before it is sent, says so everywhere, and a person lets it go on."""

import json
import re
import urllib.request
from pathlib import Path

import pytest

from tests.support.command import Installation, Shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


# In the second stage, of ten rows.
CLOSED = {"o1", "o4", "o7"}


def charges_of(shop: Shop, orders: set[str]) -> list[str]:
    """Find the charges of orders, as Stripe's own list has them."""
    listed = f"{shop.server.url}/v1/charges?limit=100"
    request = urllib.request.Request(listed, headers={"Authorization": "Bearer sk_test_sim"})  # noqa: S310  # the simulator
    with urllib.request.urlopen(request) as answer:  # noqa: S310  # the same
        return [charge["id"] for charge in json.load(answer)["data"] if charge["metadata"]["order_id"] in orders]


def test_a_canary_that_fails_halts_the_file_until_a_person_lets_it_go_on(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    refunds = str(shop.file(tmp_path / "refunds.csv"))
    closed = charges_of(shop, CLOSED)
    for charge in closed:
        shop.server.control(f"POST /_sim/charges/{charge}/behaviour", {"refund": "charge_not_refundable"})
    flags = ("--yes", "--json", "--canary", "1,10", "--halt-at", "10%")
    halted = installed.run("batch", "run", refunds, *flags)
    assert halted.code == 3, halted.err
    told = halted.json
    assert told["state"] == "paused"
    assert re.match(r"[23] of the first 11 rows failed, and --halt-at allows 10%", told["schedule"]["halted"]), told
    assert told["paid"] + told["refused"] <= 11
    assert shop.refunds() == told["paid"]
    stopped = told["reasons"]["stopped"]
    assert stopped >= 49

    batch = told["batch_id"][:8]
    status = installed.ask("batch", "status", batch)
    assert f"halted: {told['schedule']['halted']}" in status.out
    assert "schedule: stages of 1, 10 rows, halted at 10% failures" in status.out

    resumed = installed.run("batch", "resume", batch, "--json")
    assert resumed.code == 3, resumed.err
    assert (resumed.json["paid"], resumed.json["refused"], resumed.json["state"]) == (57, 3, "done")
    assert shop.refunds() == 57
