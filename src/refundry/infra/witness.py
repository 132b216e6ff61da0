"""Since when this machine's boot clock vouches for the database's clock: over a restart of the program, not of the machine.

A look at Stripe is dated by the database's clock, and good for minutes. Were that clock set back while nobody watched, a look of
yesterday would pass for one of a moment ago. The boot clock cannot be set: as long as it and the database's clock go together, no
clock was set back, whoever ran or did not run in between.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.infra.db import Unit, metadata
from refundry.kernel.clock import Clock

# A clock that is set back by less than this, in seconds, changes nothing that minutes are counted for.
SET_BACK = 1.0
# Clocks drift apart a little all the time; only what matters is written.
WRITTEN_FROM = 0.1

witnesses = sa.Table(
    "clock_witnesses",
    metadata,
    sa.Column("machine", sa.Text, primary_key=True),
    # The most by which the database's clock was ahead of the boot clock, in seconds.
    sa.Column("ahead", sa.Double, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
)
_w, _b = witnesses.c, sa.bindparam
_FIND = sa.select(witnesses).where(_w.machine == _b("the_machine"))
_RAISE = sa.update(witnesses).where(_w.machine == _b("the_machine"), _w.ahead < _b("new")).values(ahead=_b("new"))
_DISTRUST = sa.update(witnesses).where(_w.machine == _b("the_machine")).values(ahead=_b("new"), since=_b("the_now"))


def vouched_since(unit: Unit, clock: Clock) -> float | None:
    """Tell since when the database's clock was surely not set back, by that clock; a clock set back just now begins anew.

    Returns:
        Epoch seconds; `None` where the machine does not name its boots, so that nothing is known of the time before this process.
    """
    machine = clock.machine()
    if not machine:
        return None
    ahead = unit.now - clock.boot_seconds()
    row = unit.connection.execute(_FIND, {"the_machine": machine}).one_or_none()
    if row is None:
        make: Any = postgresql.insert(witnesses) if unit.postgres else sqlite.insert(witnesses)
        values = {"machine": machine, "ahead": ahead, "since": unit.now}
        unit.connection.execute(make.values(values).on_conflict_do_nothing())
        return unit.now
    if ahead < row.ahead - SET_BACK:
        unit.connection.execute(_DISTRUST, {"the_machine": machine, "new": ahead, "the_now": unit.now})
        return unit.now
    if ahead > row.ahead + WRITTEN_FROM:
        # Set ahead and back again later, it has been ahead all the same.
        unit.connection.execute(_RAISE, {"the_machine": machine, "new": ahead})
    return float(row.since)
