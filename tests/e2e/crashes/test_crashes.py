"""Processes that die, sleep, or are wrong about the time pay nothing twice and leave nothing out. Large counts: `make soak`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from refundry.infra.db import IDLE_UNIT_SECONDS
from tests.support import crash_run
from tests.support.crash_run import HOUR, TAKE_OVER_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROWS = 150
KILLS = STOPS = JUMPS = 3


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The database of the run: SQLite in the state directory, or the address of an empty Postgres database."""
    if request.param == "sqlite":
        yield None
    else:
        with request.getfixturevalue("postgres").made() as made:
            yield made


def test_the_only_process_is_killed_again_and_again(tmp_path: Path, address: str | None) -> None:
    with crash_run.shop(tmp_path, ROWS, seed=11) as shop, crash_run.house(shop, postgres=address) as house:
        told = crash_run.kill_the_only_process(shop, house, KILLS, seed=11)
    assert told["paid"] == ROWS


def test_one_of_two_is_killed_and_the_other_goes_on_within_30_seconds(tmp_path: Path, address: str | None) -> None:
    with crash_run.shop(tmp_path, ROWS, seed=12) as shop, crash_run.house(shop, postgres=address) as house:
        assert crash_run.kill_one_of_two(shop, house, seed=12) < TAKE_OVER_SECONDS


def test_one_of_two_is_stopped_and_goes_on_later_as_if_nothing_had_been(tmp_path: Path, address: str | None) -> None:
    with crash_run.shop(tmp_path, ROWS, seed=13) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.kill_one_of_two(shop, house, seed=13, how=signal.SIGSTOP)


def test_the_only_process_is_stopped_again_and_again(tmp_path: Path, address: str | None) -> None:
    # Longer than Postgres lets a session be silent in the middle of a unit.
    seconds = IDLE_UNIT_SECONDS + 1.0
    with crash_run.shop(tmp_path, ROWS, seed=15) as shop, crash_run.house(shop, postgres=address) as house:
        crash_run.stop_the_only_process(shop, house, seed=15, seconds=seconds, times=STOPS)


def test_the_wall_clock_of_one_of_two_jumps(tmp_path: Path, address: str | None) -> None:
    with (
        crash_run.shop(tmp_path, ROWS, seed=16) as shop,
        crash_run.house(shop, postgres=address, jumping=True) as house,
    ):
        crash_run.jump_the_clock_of_one_of_two(shop, house, seed=16, seconds=25 * HOUR, times=JUMPS)


@pytest.mark.parametrize("hours", [25, -25])
def test_the_wall_clock_jumps(tmp_path: Path, hours: int, address: str | None) -> None:
    with (
        crash_run.shop(tmp_path, ROWS, seed=14) as shop,
        crash_run.house(shop, postgres=address, jumping=True) as house,
    ):
        crash_run.jump_the_clock(shop, house, seed=14, seconds=hours * HOUR, times=JUMPS)
