"""The statements on watermarks."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refundry.follow.model import Feed, Mark
from refundry.follow.rules import DAY
from refundry.follow.tables import follow_marks
from refundry.infra.db import Unit

m = follow_marks.c
# Nobody holds a feed for so long: a time further off is of a clock that was set back since.
HELD_MAX = 300.0


def _mine(account: str, feed: Feed) -> sa.ColumnElement[bool]:
    return sa.and_(m.account == account, m.feed == feed.value)


def make(unit: Unit, account: str, feed: Feed) -> None:
    """Have a feed's row, however often it is asked for."""
    insert: Any = postgresql.insert(follow_marks) if unit.postgres else sqlite.insert(follow_marks)
    values = {
        "account": account, "feed": feed.value, "mark": None, "tried_at": 0.0, "day": 0, "reads": 0, "holder": None,
        "held_until": 0.0,
    }  # fmt: skip
    unit.connection.execute(insert.values(values).on_conflict_do_nothing())


def begin(unit: Unit, account: str, feed: Feed, before: float) -> bool:
    """Begin to read a feed that was not begun since; false, if somebody else was faster."""
    # A time that is yet to come is of a clock that was set back since.
    due = sa.or_(m.tried_at <= before, m.tried_at > unit.now)
    statement = sa.update(follow_marks).where(_mine(account, feed), due).values(tried_at=unit.now)
    return unit.connection.execute(statement).rowcount == 1


def find(unit: Unit, account: str, feed: Feed) -> Mark:
    """Read how far a feed was read."""
    row = unit.connection.execute(sa.select(follow_marks).where(_mine(account, feed))).one_or_none()
    if row is None:
        return Mark(account, feed, None, 0.0, 0)
    return Mark(account, feed, row.mark, row.tried_at, row.reads if row.day == int(unit.now // DAY) else 0)


def move(unit: Unit, account: str, feed: Feed, mark: float) -> None:
    """Move a watermark forward."""
    further = sa.or_(m.mark.is_(None), m.mark < mark)
    unit.connection.execute(sa.update(follow_marks).where(_mine(account, feed), further).values(mark=mark))


def set_back(unit: Unit, account: str, feed: Feed, mark: float) -> None:
    """Move a watermark back."""
    statement = sa.update(follow_marks).where(_mine(account, feed), m.mark > mark)
    unit.connection.execute(statement.values(mark=mark))


def spend(unit: Unit, account: str, feed: Feed, reads: int) -> None:
    """Count calls on the day."""
    today = int(unit.now // DAY)
    counted = sa.case((m.day == today, m.reads + reads), else_=reads)
    unit.connection.execute(sa.update(follow_marks).where(_mine(account, feed)).values(day=today, reads=counted))


def hold(unit: Unit, account: str, feed: Feed, holder: str, seconds: float) -> bool:
    """Take a feed for a while, or hold on to it; false, while somebody else has it."""
    free = sa.or_(m.holder == holder, m.held_until <= unit.now, m.held_until > unit.now + HELD_MAX)
    statement = sa.update(follow_marks).where(_mine(account, feed), free)
    return unit.connection.execute(statement.values(holder=holder, held_until=unit.now + seconds)).rowcount == 1


def let_go(unit: Unit, account: str, feed: Feed, holder: str | None) -> None:
    """Let a feed be taken by others: one that a process has, or whoever has it."""
    whose = _mine(account, feed) if holder is None else sa.and_(_mine(account, feed), m.holder == holder)
    unit.connection.execute(sa.update(follow_marks).where(whose).values(held_until=0.0))
