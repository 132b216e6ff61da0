"""A clerk who hands files in, and a worker with three charges in the mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from refundry.batches import service as batches
from refundry.batches.model import Batch, Totals
from refundry.batches.service import Line, Missing
from refundry.connectors.base import FileOpened, ReadOptions, Reference
from refundry.connectors.files import reader
from refundry.kernel.actor import SYSTEM
from refundry.refunds.model import RefundRequest
from tests.support.builders import ACCOUNT, accepted
from tests.support.clock import HandClock
from tests.support.database import HandDatabase
from tests.support.hand import ORDER_KEY, Hand


class Clerk(Hand):
    """Hands files in, plans and counts them."""

    folder: Path

    def file(self, text: str, name: str = "refunds.csv") -> FileOpened:
        path = self.folder / name
        path.write_text(text)
        return reader.read(path, options=ReadOptions())

    def accept(self, text: str, name: str = "refunds.csv") -> Batch:
        file = self.file(text, name)
        return self.unit(lambda unit: batches.accept(unit, ACCOUNT, file, "", SYSTEM))[0]

    def plan(self, batch: Batch, missing: dict[Reference, Missing] | None = None) -> int:
        return self.unit(lambda unit: batches.plan_slice(unit, batch, missing or {}, mode="test", actor=SYSTEM))

    def planned(self, text: str, name: str = "refunds.csv") -> Batch:
        """Accept a file and plan all of it."""
        batch = self.accept(text, name)
        while self.plan(batch):
            pass
        return self.batch(batch)

    def batch(self, batch: Batch) -> Batch:
        with self.database.reading() as unit:
            return batches.need(unit, batch.id)

    def lines(self, batch: Batch) -> list[Line]:
        with self.database.reading() as unit:
            return list(batches.lines(unit, batch))

    def told(self, batch: Batch) -> list[tuple[str, str]]:
        """Tell as what each row counts, and why."""
        return [(line.standing.value, line.code) for line in self.lines(batch)]

    def totals(self, batch: Batch) -> Totals:
        with self.database.reading() as unit:
            return batches.totals(unit, batch)

    def pay_what_is_due(self, **changes: object) -> list[RefundRequest]:
        """Pay everything that can be claimed, each in its turn."""
        paid = []
        while claimed := self.claim():
            for one in claimed:
                approved = self.judge(one)
                intent = self.submit(approved) if approved else None
                if intent:
                    refund_id = f"re_{intent.attempt.request[:8]}"
                    self.record(intent, accepted(intent.claimed.request, refund_id=refund_id, **changes))
                    self.looked(intent.attempt.body.charge, refunds=self.charge(intent.attempt.body.charge).refunds)
                    paid.append(self.find(intent))
        return paid


@pytest.fixture
def clerk(database: HandDatabase, clock: HandClock, tmp_path: Path) -> Clerk:
    made = Clerk(database, clock)
    made.folder = tmp_path
    for number in (1, 2, 3):
        made.looked(f"ch_{number}", metadata={ORDER_KEY: f"A{number}"}, payment_intent=f"pi_{number}")
    return made
