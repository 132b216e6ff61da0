"""A command that pays a batch and goes on afterwards leaves its worker at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refundry.accounts import service as accounts
from refundry.batches import service as batches
from refundry.batches.model import BatchState
from refundry.bootstrap import read_file
from refundry.cli.batch_run import paid
from refundry.cli.work import Work, working
from refundry.connectors.base import ReadOptions
from refundry.infra import loop
from refundry.infra import settings as settings_of
from refundry.infra.db import Unit
from refundry.kernel.actor import SYSTEM
from tests.support import logs
from tests.support.server import Server

pytestmark = pytest.mark.integration
ROW = "order_id,amount,reason,ticket_id\no1,1.00,requested_by_customer,T1\n"


@pytest.fixture
def shut(stripe: Server) -> Iterator[Server]:
    stripe.forget()
    with stripe.turning_away(after=0):
        yield stripe
    logging.getLogger("dbos").handlers.clear()
    logs.set_back()


def test_a_row_that_arrives_between_two_looks_does_not_end_the_worker(
    shut: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "STRIPE_SECRET_KEY": "sk_test_sim",
        "REFUNDRY_STRIPE__API_BASE": shut.url,
        "REFUNDRY_STRIPE__LIMITS": "none",
        "REFUNDRY_STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "refunds.csv"
    path.write_text(ROW)
    read, late = Work.read, []

    def moving(unit: Unit) -> int:
        (batch,) = batches.every(unit, accounts.known(unit)[0].name, list(BatchState))
        return batches.totals(unit, batch).moving

    async def reads(work: Work, asked: Callable[[Unit], Any]) -> Any:
        if asked.__name__ == "soonest":
            # Between the look that found the row on its way, and the one that asks what is due, it arrives; and not before.
            late.append(asked)
            shut.control("DELETE /_sim/faults")
            while await read(work, moving):  # noqa: ASYNC110  # as every command looks
                await asyncio.sleep(0.01)
        return await read(work, asked)

    async def go() -> tuple[dict[str, int], bool, bool]:
        async with working(settings_of.read()) as work:
            file, account = read_file(path, options=ReadOptions()), work.desk.account.name
            batch, _ = await work.desk.writer.put(lambda unit: batches.accept(unit, account, file, "", SYSTEM))
            seen = await paid(work, batch, frozenset(), patience=60.0)
            return dict(seen.totals.paid), work.stop.is_set(), work.task.done()

    monkeypatch.setattr(Work, "read", reads)
    told = loop.run(go())
    assert late, "no look found the row on its way: nothing was tried"
    assert told == ({"gbp": 100}, False, False)
