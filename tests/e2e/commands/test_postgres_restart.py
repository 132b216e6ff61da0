"""A Postgres that restarts in the middle of a run is waited for: the run goes on by itself, and everything is paid once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from refundry.infra.db import PROCESS_CONNECTIONS_MAX
from tests.support.command import Installation, Shop, ended, wait_for
from tests.support.database import PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def address(postgres: PostgresServer) -> Iterator[str]:
    with postgres.made() as made:
        yield made


def test_a_run_outlives_a_restart_of_postgres(
    shop: Shop, installed: Installation, postgres: PostgresServer, address: str, tmp_path: Path
) -> None:
    installed.more |= {
        "REFUNDRY_DATABASE_URL": address, "REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=10", "REFUNDRY_STRIPE__HEADROOM": "0",
    }  # fmt: skip
    # It has not paid the rest by the time that the database is down.
    with shop.server.turning_away(after=10):
        run = installed.start("batch", "run", str(shop.file(tmp_path / "refunds.csv")), "--yes", "--json")
        wait_for("refund 5", lambda: shop.refunds() >= 5 or run.poll() is not None)
        assert run.stderr is not None
        assert postgres.connections(address) <= PROCESS_CONNECTIONS_MAX
        with postgres.down(address):
            # It notices, and says so.
            assert any("database.lost" in line for line in run.stderr), run.wait()
        assert shop.refunds() < 60
    done = ended(run)
    assert (done.code, done.json["paid"]) == (0, 60), done.err
    assert "Traceback" not in done.err
    shop.judge()
