"""The database: the only place that opens or commits a transaction, on SQLite and on Postgres alike.

A *unit* is one transaction. While it is open the HTTP clients refuse to send (`infra/http.py`): no network call may hold a
transaction, and no transaction may wait for Stripe.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from refundry.infra.http import unit_open
from refundry.kernel.clock import Clock
from refundry.kernel.errors import RefundryError

# Names are given to every constraint, so that a migration can find it on both databases.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# Long enough for a batch of another process to commit, short enough that a stuck one is noticed.
BUSY_SECONDS = 30
POOL_SIZE = 8
# A process that was stopped in the middle of a unit holds its locks. Postgres ends it after this long, well before others
# should have taken its work over (20 s of lease); a unit itself never waits for anything but the database.
IDLE_UNIT_SECONDS = 10
# The code of that (Postgres, appendix A).
IDLE_TOO_LONG = "25P03"
# More often than processes can be started in the moment that the first of them takes.
WAL_TRIES = 50
SQLITE_MIN = (3, 35)


class DatabaseUnusable(RefundryError):  # noqa: N818  # read in a sentence
    """The database cannot be opened or written: `database_unreachable`, `database_full`, `database_read_only`."""

    code = "database_unreachable"


@dataclass(slots=True)
class Unit:
    """One open transaction.

    Args:
        connection: Where statements go; only repositories use it.
        postgres: Which of the two databases it is.
        now: The database's time, in epoch seconds UTC, which no jump of a clock moves while this process runs: leases and due times are compared by it, so that workers whose
            clocks differ agree.
    """

    connection: sa.Connection
    postgres: bool
    now: float
    collected: dict[str, list[Any]] = field(default_factory=dict)

    def collect(self, name: str, entry: Any) -> None:  # noqa: ANN401  # what its flusher understands
        """Keep something that is written once for the whole unit, just before its commit."""
        self.collected.setdefault(name, []).append(entry)


Flusher = Callable[[Unit, list[Any]], None]


class Database:
    """One database.

    Args:
        url: `sqlite:////path/to/file` or `postgresql+psycopg://…`.
        clock: The machine's clock, which is also SQLite's; Postgres tells its own time.

    Raises:
        DatabaseUnusable: It cannot be opened.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        """Make the engine; connections are opened when needed."""
        self.url = url
        self.postgres = url.startswith("postgresql")
        self._clock = clock
        self._flushers: dict[str, Flusher] = {}
        # SQLite has no time of its own: it gets this machine's as of now, and goes on by the boot clock, so that leases and due
        # times do not jump when somebody sets the machine's clock.
        self._began = (clock.now(), clock.boot_seconds())
        # The database's time less ours, in seconds, as of the last unit.
        self.offset = 0.0
        self.engine = self._postgres() if self.postgres else self._sqlite()

    def _postgres(self) -> sa.Engine:
        return sa.create_engine(
            self.url,
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={"options": f"-c idle_in_transaction_session_timeout={IDLE_UNIT_SECONDS}s"},
        )

    def _sqlite(self) -> sa.Engine:
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            raise DatabaseUnusable(
                f"SQLite {sqlite3.sqlite_version} is too old: Refundry needs 3.35 or newer", code="database_version"
            )
        engine = sa.create_engine(
            self.url, connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS}, pool_size=POOL_SIZE
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def at_commit(self, name: str, flusher: Flusher) -> None:
        """Let a part of the program write what was collected under its name, just before each commit."""
        self._flushers[name] = flusher

    @contextmanager
    def unit(self) -> Iterator[Unit]:
        """Open a transaction that may write: all of it is kept, or nothing."""
        with self._opened({}) as unit:
            yield unit
            for name, entries in unit.collected.items():
                self._flushers[name](unit, entries)

    @contextmanager
    def reading(self) -> Iterator[Unit]:
        """Open a transaction that only reads: on SQLite it waits for no writer."""
        with self._opened({"refundry_reads": True}) as unit:
            yield unit

    @contextmanager
    def _opened(self, options: dict[str, Any]) -> Iterator[Unit]:
        token = unit_open.set(True)
        try:
            with self.engine.connect().execution_options(**options) as connection, connection.begin():
                now = self._now(connection)
                self.offset = now - self._clock.now()
                yield Unit(connection, self.postgres, now)
        except sa.exc.OperationalError as error:
            raise unusable(error, self.engine.url.render_as_string()) from error
        except sa.exc.DBAPIError as error:
            if self.postgres and _cut_off(error):
                raise unusable(error, self.engine.url.render_as_string()) from error
            if "not a database" not in str(error.orig) and "malformed" not in str(error.orig):
                raise
            raise DatabaseUnusable(
                f"{self.engine.url.render_as_string()} is no SQLite database, or is damaged ({error.orig}): restore it from a "
                "backup, or set REFUNDRY_STATE_DIR to another place",
                code="database_damaged",
            ) from error
        finally:
            unit_open.reset(token)

    def _now(self, connection: sa.Connection) -> float:
        if not self.postgres:
            wall, boot = self._began
            return wall + self._clock.boot_seconds() - boot
        moment: float = connection.exec_driver_sql(
            "SELECT extract(epoch FROM clock_timestamp())::double precision"
        ).scalar_one()
        return moment

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _cut_off(error: sa.exc.DBAPIError) -> bool:
    """Tell whether Postgres has ended the session, as it does to a process that was stopped in the middle of a unit.

    The driver says so by its class of internal errors, as it says that a unit goes on after a failed statement, which is a fault of ours.
    """
    return getattr(error.orig, "sqlstate", None) == IDLE_TOO_LONG or error.connection_invalidated


def _prepare_sqlite(connection: Any, _: Any) -> None:  # noqa: ANN401  # the driver's own
    # Transactions begin in `_begin_sqlite`, not by the driver's guess.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute("PRAGMA " + pragma)
    _write_ahead(connection)


def _write_ahead(connection: Any) -> None:  # noqa: ANN401  # the driver's own
    """Turn the write-ahead log on. Two processes may open the same new file at once, and this one step never waits for another."""
    for _ in range(WAL_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            # To begin a transaction does wait, until whoever holds the file is done.
            with suppress(sqlite3.OperationalError):
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute("ROLLBACK")
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    reads = connection.get_execution_options().get("refundry_reads", False)
    # IMMEDIATE takes the write lock before the first read, so that what a unit read cannot change before it writes.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def unusable(error: sa.exc.DBAPIError, url: str) -> DatabaseUnusable:
    """Say what is wrong with the database, and what to do."""
    text = str(error.orig)
    where = url.partition("?")[0]
    for sign, code, advice in (
        ("full", "database_full", "free some space; nothing of the last step was kept, and it will be done again"),
        (
            "I/O error",
            "database_full",
            "the disk is full or broken; nothing of the last step was kept, free some space and run the same command again",
        ),
        ("readonly", "database_read_only", "make the file and its folder writable for this user"),
        ("unable to open", "database_unreachable", "check that the folder exists and can be written"),
        ("deadlock", "database_busy", "two processes waited for each other; nothing of this step was kept, try again"),
        ("locked", "database_busy", "another process holds the database for longer than it should; try again"),
    ):
        if sign in text:
            return DatabaseUnusable(f"the database {where} cannot be used ({text}): {advice}", code=code)
    return DatabaseUnusable(f"the database {where} cannot be reached ({text.strip()}): check that it runs")


def sqlite_url(path: Path) -> str:
    """Write the address of an SQLite file."""
    return f"sqlite:///{path}"


def rows(unit: Unit, statement: sa.Executable, values: Any = None) -> Sequence[sa.Row[Any]]:  # noqa: ANN401
    """Run a statement and take all rows."""
    return unit.connection.execute(statement, values).all()
