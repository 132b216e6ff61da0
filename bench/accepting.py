"""Takes a file in as the product does, in a process of its own: `python -m bench.accepting FILE ROWS_TO_PLAN` tells how long it took.

The database is brought up and stamped as at the first start. After the file is taken in, its first rows are turned into refund
requests, from charges that stand in the mirror as if they had been listed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bench.memory import peak_megabytes
from refundry import bootstrap
from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.batches import service as batches
from refundry.batches.model import Batch
from refundry.charges import service as charges
from refundry.connectors.base import ReadOptions
from refundry.gateways.base import Look, SeenCharge
from refundry.infra import settings as settings_of
from refundry.infra.db import Database
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import SystemClock

ACCOUNT = Account("acct_1Bench", "test")
SLICE = 500


def planned(database: Database, batch: Batch, rows: int) -> None:
    """Turn the first rows into refund requests."""
    for first in range(0, rows, SLICE):
        with database.unit() as unit:
            looks = [_look(number, unit.now) for number in range(first, min(first + SLICE, rows))]
            charges.mirror(unit, ACCOUNT.name, looks, "order_id")
            batches.plan_slice(unit, batch, {}, mode="test", actor=SYSTEM)


def _look(number: int, now: float) -> Look:
    charge = SeenCharge(
        id=f"ch_{number}", currency="gbp", amount_minor=1000, captured_minor=1000, refunded_minor=0, status="succeeded",
        captured=True, disputed=False, created_at=now - 1000, payment_intent=None, metadata={"order_id": f"o{number}"},
        destination=None, application_fee=False, livemode=False,
    )  # fmt: skip
    return Look(charge, (), (), now)


def main(path: Path, rows_to_plan: int) -> None:
    """Take the file in, and tell how long that took and how much memory it needed."""
    database = bootstrap.database_of(settings_of.read(), SystemClock())
    with database.unit() as unit:
        accounts.stamp(unit, ACCOUNT)
    began = time.monotonic()
    file = bootstrap.read_file(path, options=ReadOptions(blank_amount_full=False, allow_fraudulent=False))
    with database.unit() as unit:
        batch, _ = batches.accept(unit, ACCOUNT.name, file, "", SYSTEM)
    seconds = time.monotonic() - began
    peak = peak_megabytes()
    planned(database, batch, rows_to_plan)
    database.close()
    print(json.dumps({"batch": batch.id, "rows": file.row_count, "seconds": round(seconds, 2), "peak_megabytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
