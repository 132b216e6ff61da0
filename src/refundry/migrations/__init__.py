"""The database's versions: alembic inside the wheel. `upgrade` brings a database to this program's version."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

import refundry.accounts.tables
import refundry.audit.tables
import refundry.batches.tables
import refundry.charges.tables
import refundry.disputes.tables
import refundry.follow.tables
import refundry.inbox.tables
import refundry.infra.pace
import refundry.infra.readings
import refundry.infra.witness
import refundry.outbox.tables
import refundry.plans.tables
import refundry.refunds.tables
import refundry.tasks.tables  # noqa: F401  # the tables enlist themselves
from refundry.infra.db import Database, DatabaseUnusable, Unit, metadata

if TYPE_CHECKING:
    from alembic.config import Config

# Of "refundry" in ASCII: two processes that start at once on one Postgres upgrade it one after the other.
UPGRADE_LOCK = 0x72656675
# Every version has this table, and hardly another program.
OURS, VERSIONS = "audit_head", "alembic_version"
# What `check` says of a database that was changed under a running process; it does not pass by waiting.
CHANGED = {"database_newer", "database_older"}


def _config() -> Config:
    from alembic.config import Config  # as in `upgrade`

    config = Config()
    config.set_main_option("script_location", str(files("refundry.migrations")))
    return config


@cache
def known() -> frozenset[str]:
    """Tell all versions that this program knows: the numbers that their files begin with."""
    return frozenset(
        file.name[:4]
        for file in files("refundry.migrations.versions").iterdir()
        if file.name[0].isdigit() and file.name.endswith(".py")
    )


def newest() -> str:
    """Tell the version that this program needs."""
    return max(known())


def version(database: Database) -> str | None:
    """Tell a database's version; `None`, if it is empty."""
    with database.reading() as unit:
        return _found(unit)


def _found(unit: Unit) -> str | None:
    if not inspect(unit.connection).has_table(VERSIONS):
        return None
    found = unit.connection.execute(text(f"SELECT version_num FROM {VERSIONS}")).scalar_one_or_none()  # noqa: S608  # ours
    return None if found is None else str(found)


def upgrade(database: Database) -> bool:
    """Bring a database to this program's version, in one transaction; tells whether anything was to be done.

    Raises:
        DatabaseUnusable: `database_newer`: a newer program has used it; `database_of_other_program`: it has tables of one where
            ours would stand. Nothing was changed.
    """
    if version(database) == newest():
        return False
    with database.unit() as unit:
        if unit.postgres:
            unit.connection.execute(text(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})"))
        # Read while nobody else can upgrade: whoever was waited for may have been of a newer version.
        found = _found(unit)
        if others := others_tables(unit):
            raise DatabaseUnusable(
                f"the database {database.engine.url.render_as_string()} has tables of another program ({', '.join(others)}) where Refundry "
                "would make its own: set REFUNDRY_DATABASE_URL to one for Refundry alone; nothing was changed",
                code="database_of_other_program",
            )
        if found is not None and found not in known():
            raise _newer(found)
        from alembic import command  # it takes a fifth of most commands' time, and they find nothing to upgrade

        config = _config()
        config.attributes["connection"] = unit.connection
        command.upgrade(config, "head")
    return True


def check(unit: Unit) -> None:
    """See that the database still is of this program's version: a newer one may have been started beside it, or an older copy put back.

    Raises:
        DatabaseUnusable: One of `CHANGED`.
    """
    found = _found(unit)
    if found == newest():
        return
    if found is not None and found not in known():
        raise _newer(found)
    told = "is empty" if found is None else f"is of version {found}"
    raise DatabaseUnusable(
        f"the database {told}, and was of {newest()} when this process began, as when an older copy is put in its place: once "
        "that is done, start the same command again, which upgrades it",
        code="database_older",
    )


def others_tables(unit: Unit) -> list[str]:
    """Tell the tables of another program that have names of ours; none in a database that this program has made."""
    tables = set(inspect(unit.connection).get_table_names())
    return [] if OURS in tables else sorted(tables & {*metadata.tables, VERSIONS})


def _newer(found: str | None) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"the database is of version {found}, which this program does not know: a newer Refundry has used it; start that one",
        code="database_newer",
    )


def differences(connection: Connection) -> list[object]:
    """Tell where a database differs from the tables in the code; nothing, if they agree."""
    from alembic.autogenerate import compare_metadata  # as in `upgrade`
    from alembic.migration import MigrationContext

    def ours(thing: object, name: str | None, kind: str, reflected: bool, _: object) -> bool:  # noqa: FBT001  # alembic's own
        return not (kind == "table" and reflected and name not in metadata.tables) and thing is not None

    context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
    return list(compare_metadata(context, metadata))
