"""Stripe loses answers, fails, limits and truncates, over real sockets: nothing is paid twice, nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import FAULTS
from tests.support import crash_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROWS = 50


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
    else:
        with request.getfixturevalue("postgres").made() as made:
            yield made


def test_every_row_is_paid_once_while_stripe_misbehaves(tmp_path: Path, address: str | None) -> None:
    with (
        crash_run.shop(tmp_path, ROWS, seed=21, faults=FAULTS) as shop,
        crash_run.house(shop, postgres=address) as house,
    ):
        told = house.finish(house.run())
        shop.judge()
    assert told["paid"] == ROWS


def test_two_installations_run_one_file_at_once(tmp_path: Path) -> None:
    with (
        crash_run.shop(tmp_path, ROWS, seed=22) as shop,
        crash_run.house(shop) as house,
        crash_run.house(shop) as other,
    ):
        first, second = house.run(), other.run()
        told = house.finish(first), other.finish(second)
        shop.judge()
    assert [one["paid"] for one in told] == [ROWS, ROWS], "both know that every row is paid, whoever paid it"


def test_a_lost_database_is_found_again_at_stripe(tmp_path: Path) -> None:
    with crash_run.shop(tmp_path, ROWS, seed=23) as shop:
        with crash_run.house(shop) as house:
            house.finish(house.run())
        shop.server.control("POST /_sim/idempotency/prune", {})
        with crash_run.house(shop) as empty:
            told = empty.finish(empty.run())
        shop.judge()
    assert told["paid"] == ROWS
