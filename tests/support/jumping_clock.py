"""Gives a process that runs the real command line a wall clock that a test moves.

A file holds the seconds by which this process's wall clock is wrong; it is read at every look at the clock, so the clock
jumps while the process runs. The boot clock stays right, as on a machine whose time is set. A second number moves the clock of a
Postgres server too, as if the time had passed for everybody; SQLite goes by this machine's.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from refundry.infra.db import Database
from refundry.kernel.clock import SystemClock


def bend(path: Path) -> None:
    """Let this process's clock be wrong by what stands in the file."""
    true, true_database = SystemClock.now, Database._now

    def now(self: SystemClock) -> float:
        return true(self) + _wrong_by(path)[0]

    def database_now(self: Database, connection: sa.Connection, *, short: bool) -> float:
        return true_database(self, connection, short=short) + (_wrong_by(path)[1] if self.postgres else 0.0)

    SystemClock.now = now  # type: ignore[method-assign]  # the whole point
    Database._now = database_now  # type: ignore[method-assign]  # the same


def _wrong_by(path: Path) -> tuple[float, float]:
    told = [float(number) for number in path.read_text().split()] + [0.0, 0.0]
    return told[0], told[1]
