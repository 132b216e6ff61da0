"""The receiver of the docs, run as a reader would run it, while the process that tells it is killed in the middle."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from refundry.infra.db import Database, sqlite_url
from refundry.kernel.clock import SystemClock
from refundry.outbox import service as outbox
from tests.support import crash_run
from tests.support.page_receiver import SECRET, asked, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROWS = 20


def heard(folder: Path) -> set[object]:
    """Tell which messages the receiver has taken in."""
    return {row[0] for row in asked(folder, "SELECT id FROM seen")}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_message_is_applied_once_though_its_sender_is_killed(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    with contextlib.ExitStack() as opened:
        address = opened.enter_context(request.getfixturevalue("postgres").made()) if kind == "postgres" else None
        settings = {
            "REFUNDRY_ORDERS__URL": opened.enter_context(receiver(tmp_path)),
            "REFUNDRY_ORDERS__SECRETS": SECRET,
            # So long a dead process keeps others from what it held, on Postgres.
            "REFUNDRY_ORDERS__TIMEOUT_SECONDS": "5",
        }
        shop = opened.enter_context(crash_run.shop(tmp_path, ROWS, seed=21))
        house = opened.enter_context(crash_run.house(shop, postgres=address, settings=settings))
        first = house.run()
        crash_run.wait_until("the first messages", lambda: bool(heard(tmp_path)) or first.poll() is not None, 120)
        first.kill()
        first.wait()
        assert len(heard(tmp_path)) < 5 * ROWS, "it was killed too late for this to show anything"
        house.finish(house.run())
        house.start("worker")
        url = address or sqlite_url(house.folder / "refundry.db")
        database = Database(url.replace("postgresql://", "postgresql+psycopg://"), SystemClock())
        opened.callback(database.close)
        crash_run.wait_until("the end of the outbox", lambda: not waiting(database), 120)
        shop.judge()
        with database.reading() as unit:
            messages = {one.message.id for one in outbox.page(unit, None, [], most=10_000)}
        assert heard(tmp_path) == messages
        assert len(messages) >= 5 * ROWS
        told = {str(row[0]): row[1] for row in asked(tmp_path, "SELECT id, refunded_minor FROM orders")}
        paid: dict[str, int] = {}
        for one in shop.obligations:
            paid[one["charge"]] = paid.get(one["charge"], 0) + one["amount"]
        assert told == paid


def waiting(database: Database) -> dict[object, int]:
    with database.reading() as unit:
        return dict(outbox.counts(unit))
