"""A storm of events meets a server that is killed in it: what was acknowledged is applied, once. Large counts: `make soak ARGS=storm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ports, storm_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
# With what happens besides, and every tenth event twice, a storm of six hundred.
ROWS, SENDS = 126, 600
KILLS, RATE = 3, 200.0


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The database of the run: SQLite in the state directory, or the address of an empty Postgres database."""
    if request.param == "sqlite":
        yield None
    else:
        with request.getfixturevalue("postgres").made() as made:
            yield made


def test_every_acknowledged_event_is_applied_once_though_the_server_is_killed(
    tmp_path: Path, address: str | None
) -> None:
    with ports.kept() as port, storm_run.scene(tmp_path, ROWS, seed=31, postgres=address) as (shop, house):
        told = storm_run.kill_in_the_storm(shop, house, port, kills=KILLS, seed=31, rate=RATE)
    assert told["sends"] >= SENDS
    # Most events say what stands here already, and of the others many are answered by one list.
    assert told["reads"] < told["sends"] / 4, told
