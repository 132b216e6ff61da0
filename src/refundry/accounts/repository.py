"""The statements on accounts."""

from __future__ import annotations

import sqlalchemy as sa

from refundry.accounts.model import Account
from refundry.accounts.tables import accounts
from refundry.infra.db import Unit

_EVERY = sa.select(accounts).order_by(accounts.c.created_at)


def every(unit: Unit) -> list[Account]:
    """Read all accounts."""
    found = unit.connection.execute(_EVERY)
    return [Account(row.stripe_id, row.mode, row.held_text) for row in found]


def take_turns(unit: Unit) -> None:
    """Let only one unit at a time stamp a database; on SQLite every unit that may write is alone anyway."""
    if unit.postgres:
        unit.connection.exec_driver_sql("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE")


def add(unit: Unit, account: Account) -> None:
    """Stamp the database with an account."""
    values = {"name": account.name, "stripe_id": account.id, "mode": account.mode, "created_at": unit.now}
    unit.connection.execute(sa.insert(accounts).values(**values))


def hold(unit: Unit, name: str, text: str) -> bool:
    """Stop or free an account; tells whether it was not so before, for whatever reason."""
    c = accounts.c
    was = c.held_text == "" if text else c.held_text != ""
    changed = unit.connection.execute(sa.update(accounts).where(c.name == name, was).values(held_text=text))
    if changed.rowcount == 0:
        unit.connection.execute(sa.update(accounts).where(c.name == name, c.held_text != text).values(held_text=text))
    return changed.rowcount > 0
