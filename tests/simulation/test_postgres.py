"""The same on Postgres, with fewer seeds: two workers on one database, kills, a lost database, a second installation."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from refundry import migrations
from refundry.infra.db import Database
from refundry.kernel.clock import SystemClock
from tests.simulation.__main__ import commit
from tests.simulation.scenario import drawn
from tests.simulation.world_run import played
from tests.support.database import PostgresServer

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize("seed", [2, 9, 24])
def test_money_stays_right_on_postgres(postgres: PostgresServer, tmp_path: Path, seed: int) -> None:
    with ExitStack() as stack:

        def made(_: str) -> str:
            address = stack.enter_context(postgres.made())
            database = Database(address, SystemClock())
            migrations.upgrade(database)
            database.close()
            return address

        result = played(drawn(seed), tmp_path, made)
    told = "\n".join(result.faults)
    assert not result.faults, f"\nmake sim SEED={seed}, on Postgres  # at {commit()}\n{told}"
