"""The database: the only place that opens or commits a transaction, on SQLite and on Postgres alike.

A *unit* is one transaction. While it is open the HTTP clients refuse to send (`infra/http.py`): no network call may hold a
transaction, and no transaction may wait for Stripe.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

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
# When SQLite takes its write-ahead log over into the file: after so many pages, 16 MB. The rows of a large file are found by indexes in
# random order, so that each unit changes many pages a little: four times as late, each is copied fewer times.
CHECKPOINT_PAGES = 4000
# What SQLite keeps of the file in memory for the connection that writes, in KiB.
WRITING_CACHE_KIB = 16_000
# How many connections a process takes on Postgres. A small server has a hundred for everybody, and a process that finds none
# works on nothing. The engine alone would take twenty-five by itself, for wake-ups that are few and short.
POOL_SIZE, OVERFLOW_MAX = 8, 4
ENGINE_POOL_SIZE, ENGINE_CLIENT_POOL_SIZE = 5, 2
# Two for the engine's checks, and two that listen.
ENGINE_BESIDE = 4
PROCESS_CONNECTIONS_MAX = POOL_SIZE + OVERFLOW_MAX + ENGINE_POOL_SIZE + ENGINE_CLIENT_POOL_SIZE + ENGINE_BESIDE
# A process that was stopped in the middle of a unit holds its locks. Postgres ends it after this long, well before others
# should have taken its work over (20 s of lease); a unit itself never waits for anything but the database.
IDLE_UNIT_SECONDS = 10
# One that was stopped while it was handing over several statements is not idle for Postgres, and holds its locks all the same. From
# Postgres 17 on it ends that too, after this long: nearly all units take milliseconds.
UNIT_SECONDS_MAX = 10
TIMES_OUT_FROM = 170_000
# A server that has gone without a word, as in a failover, is noticed; by default a statement waits for it for two hours.
ALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SESSION = {
    "idle_in_transaction_session_timeout": f"{IDLE_UNIT_SECONDS}s",
    # A plan that was made once for all values may have been made while a table was empty, and reads it whole when it has a million rows.
    "plan_cache_mode": "force_custom_plan",
    # What is asked for is in memory, or on a disk that has no arm to move: by default Postgres takes an index for so slow that it reads ten
    # thousand rows to find fifty.
    "random_page_cost": "1.1",
}
# The codes of both (Postgres, appendix A).
CUT_OFF = {"25P03", "25P04"}
READ_ONLY = "25006"
# It starts, ends, or has no connection left.
NOT_NOW = {"57P03", "57P01", "53300"}
# More often than processes can be started in the moment that the first of them takes.
WAL_TRIES = 50
SQLITE_MIN = (3, 35)
# The one value of a statement that gets all its rows in one text.
ROWS = "the_rows"


class DatabaseUnusable(RefundryError):  # noqa: N818  # read in a sentence
    """The database cannot be opened or written: `database_unreachable`, `database_full`, `database_read_only`, `database_cut_off` and others."""

    code = "database_unreachable"
    # Whether asking again later may help without a person: a Postgres that restarts, or a network that is not up yet.
    passing = False


class Shelf(Protocol):
    """Rows that one repository has read and holds in a unit, and what it has changed of them and not written yet."""

    @property
    def changed(self) -> bool:
        """Tell whether something is not written yet."""
        ...

    def write(self, connection: sa.Connection) -> None:
        """Write what was changed, in a few statements for all of it."""
        ...


Kept = TypeVar("Kept", bound=Shelf)


@dataclass(slots=True)
class Unit:
    """One open transaction.

    Many small pieces of work share one (`infra/writer.py`), and a statement costs about the same for one row as for fifty. So the
    repositories of what is paid keep their rows on *shelves* while a unit is open: read for all pieces together, changed in memory,
    and written together. Whoever asks for `connection` finds everything written, and the shelves empty: a statement that knows
    nothing of shelves sees and changes the tables as if there were none.

    Args:
        direct: Where the statements of a repository go that knows what stands on its shelves.
        postgres: Which of the two databases it is.
        now: The database's time, in epoch seconds UTC, which no jump of a clock moves while this process runs: leases and due times are compared by it, so that workers whose
            clocks differ agree.
        boot: This machine's boot clock in that very moment: what is due at a time of the database is due here that much later or sooner.
        present: Tells the database's time at this very moment: `now` is that of the unit's begin, and while it waits for a row others commit.
        writes: Whether it may write; rows on its shelves are held then.
        flushed: Under which names something that is collected is written.
    """

    direct: sa.Connection
    postgres: bool
    now: float
    boot: float
    present: Callable[[], float]
    writes: bool = True
    collected: dict[str, list[Any]] = field(default_factory=dict)
    flushed: Collection[str] = ()
    shelves: dict[type[Any], Shelf] = field(default_factory=dict)

    @property
    def connection(self) -> sa.Connection:
        """Tell where statements go; only repositories use it."""
        self.settle()
        return self.direct

    def yet_to_come(self, at: float) -> bool:
        """Tell whether a time that stands in a row was written by a clock that was set back since; the unit holds the row."""
        return at > self.now and at > self.present()

    def shelf(self, kind: type[Kept]) -> Kept:
        """Tell a repository's shelf in this unit."""
        shelf = self.shelves.get(kind)
        if shelf is None:
            shelf = self.shelves[kind] = kind()
        return cast("Kept", shelf)

    def settle(self) -> None:
        """Write what stands on the shelves, and empty them."""
        while self.shelves:
            shelves, self.shelves = self.shelves, {}
            for shelf in shelves.values():
                shelf.write(self.direct)

    def collect(self, name: str, entry: Any) -> None:  # noqa: ANN401  # what its flusher understands
        """Keep something that is written once for the whole unit, just before its commit."""
        self.collected.setdefault(name, []).append(entry)


Flusher = Callable[[Unit, list[Any]], None]


class Needs(NamedTuple):
    """Whose rows a piece of work needs; empty texts, where it needs neither."""

    charge: str = ""
    request: str = ""


Fetcher = Callable[[Unit, Sequence[Needs]], None]


_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_NOW_SHORT = f"{_NOW}, set_config('transaction_timeout', '{UNIT_SECONDS_MAX}s', true)"


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
        self._fetchers: list[Fetcher] = []
        # SQLite has no time of its own: it gets this machine's as of now, and goes on by the boot clock, so that leases and due
        # times do not jump when somebody sets the machine's clock.
        self._began = (clock.now(), clock.boot_seconds())
        # The database's time less ours, in seconds, as of the last unit.
        self.offset = 0.0
        self.engine = self._postgres() if self.postgres else self._sqlite()
        self._writing: sa.Connection | None = None
        self._writing_turn = threading.Lock()

    def _postgres(self) -> sa.Engine:
        return sa.create_engine(
            self.url,
            pool_size=POOL_SIZE,
            max_overflow=OVERFLOW_MAX,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={"options": " ".join(f"-c {name}={value}" for name, value in SESSION.items())} | ALIVE,
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

    def before_work(self, fetcher: Fetcher) -> None:
        """Let a part of the program read and hold what several pieces of work need, for all of them together."""
        self._fetchers.append(fetcher)

    def fetch(self, unit: Unit, needs: Sequence[Needs]) -> None:
        """Read and hold what pieces of work need, before they run in this unit."""
        if needs:
            if any(shelf.changed for shelf in unit.shelves.values()):
                # Else the first to read would write it and empty the shelves of the others, and each piece would read its own rows again.
                unit.settle()
            for fetcher in self._fetchers:
                fetcher(unit, needs)

    @contextmanager
    def unit(self, *, short: bool = False) -> Iterator[Unit]:
        """Open a transaction that may write: all of it is kept, or nothing. A `short` one is ended by Postgres if it takes too long."""
        with self._opened({}, writes=True, short=short) as unit:
            yield unit
            # In the order in which the parts were attached, so that two units never wait for each other.
            for name in sorted(unit.collected, key=list(self._flushers).index):
                self._flushers[name](unit, unit.collected[name])
            unit.settle()

    @contextmanager
    def reading(self) -> Iterator[Unit]:
        """Open a transaction that only reads: on SQLite it waits for no writer."""
        with self._opened({"refundry_reads": True}, writes=False) as unit:
            yield unit

    @contextmanager
    def _opened(self, options: dict[str, Any], *, writes: bool, short: bool = False) -> Iterator[Unit]:
        token = unit_open.set(True)
        try:
            with self._connected(writes=writes) as taken, taken.execution_options(**options).begin():
                connection = taken
                asked = self._clock.boot_seconds()
                now = self._now(connection, short=short)
                # The database answered somewhere between.
                boot = (asked + self._clock.boot_seconds()) / 2
                self.offset = now - self._clock.now()

                def present() -> float:
                    return self._now(connection, short=False)

                yield Unit(connection, self.postgres, now, boot, present, writes, flushed=self._flushers.keys())
        except sa.exc.OperationalError as error:
            raise unusable(error, self.engine.url.render_as_string()) from error
        except sa.exc.DBAPIError as error:
            if self.postgres and (error.connection_invalidated or _cut_off(error) or _read_only(error)):
                raise unusable(error, self.engine.url.render_as_string()) from error
            if "not a database" not in str(error.orig) and "malformed" not in str(error.orig):
                raise
            raise DatabaseUnusable(
                f"{self.engine.url.render_as_string()} is no SQLite database, or is damaged ({error.orig}): restore it from a "
                "backup, or set REFUNDRY_STATE_DIR to another place",
                code="database_damaged",
            ) from error
        except sa.exc.TimeoutError as error:
            raise DatabaseUnusable(
                f"all connections of this process to {self.engine.url.render_as_string()} were taken for too long ({error}): "
                "nothing of this step was kept, try again",
                code="database_busy",
            ) from error
        finally:
            unit_open.reset(token)

    @contextmanager
    def _connected(self, *, writes: bool) -> Iterator[sa.Connection]:
        """Take a connection. On SQLite all that writes takes turns on one.

        SQLite forgets what a connection has read of the file as soon as another one has written, and one at a time writes anyway.
        """
        if self.postgres or not writes:
            with self.engine.connect() as connection:
                yield connection
            return
        if not self._writing_turn.acquire(timeout=BUSY_SECONDS):
            raise DatabaseUnusable(
                f"this process has written to {self.engine.url.render_as_string()} for longer than it should: nothing of this step was "
                "kept, try again",
                code="database_busy",
            )
        try:
            if self._writing is None:
                self._writing = self.engine.connect()
                driver: Any = self._writing.connection.driver_connection
                driver.execute(f"PRAGMA cache_size=-{WRITING_CACHE_KIB}")
            yield self._writing
        except BaseException:
            # Whatever it was, the next unit begins with a connection that nothing has happened to.
            writing, self._writing = self._writing, None
            if writing is not None:
                writing.invalidate()
                writing.close()
            raise
        finally:
            self._writing_turn.release()

    def _now(self, connection: sa.Connection, *, short: bool) -> float:
        if not self.postgres:
            wall, boot = self._began
            return wall + self._clock.boot_seconds() - boot
        timed = short and connection.connection.dbapi_connection.info.server_version >= TIMES_OUT_FROM  # type: ignore[union-attr]
        moment: float = connection.exec_driver_sql(_NOW_SHORT if timed else _NOW).scalar_one()
        return moment

    def close(self) -> None:
        """Close all connections, but for one on which a unit still writes: that one ends with the process."""
        if self._writing_turn.acquire(blocking=False):
            if self._writing is not None:
                self._writing.close()
                self._writing = None
            self._writing_turn.release()
        self.engine.dispose()


def _cut_off(error: sa.exc.DBAPIError) -> bool:
    """Tell whether Postgres has ended the session, as it does to a process that was stopped in the middle of a unit.

    The driver says so by its class of internal errors, as it says that a unit goes on after a failed statement, which is a fault of ours.
    """
    return getattr(error.orig, "sqlstate", None) in CUT_OFF


def _read_only(error: sa.exc.DBAPIError) -> bool:
    """Tell whether Postgres takes no writes: it is a standby, or somebody has set it so."""
    return getattr(error.orig, "sqlstate", None) == READ_ONLY


def _prepare_sqlite(connection: Any, _: Any) -> None:  # noqa: ANN401  # the driver's own
    # Transactions begin in `_begin_sqlite`, not by the driver's guess.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON", f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    ):  # fmt: skip
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
    # Postgres says some of it in several lines.
    text = " ".join(str(error.orig).split())
    where = url.partition("?")[0]
    if _cut_off(error):
        return DatabaseUnusable(
            f"the database {where} has ended a unit that stood still or took too long ({text}): this process was stopped in "
            "the middle of it, or the machine does too much; nothing of it was kept, and it will be done again",
            code="database_cut_off",
        )
    if _read_only(error):
        return DatabaseUnusable(
            f"the database {where} cannot be written ({text}): `refundry doctor` says why, and what to type",
            code="database_read_only",
        )
    for sign, code, advice in (
        (
            "does not exist",
            "database_unreachable",
            "make it on the server, or name another one in REFUNDRY_DATABASE_URL",
        ),
        (
            "does not support SSL",
            "database_unreachable",
            "turn SSL on at the server, or take sslmode out of REFUNDRY_DATABASE_URL",
        ),
        ("password", "database_unreachable", "check the user and the password in REFUNDRY_DATABASE_URL"),
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
    away = DatabaseUnusable(f"the database {where} cannot be reached ({text}): check that it runs")
    # What Postgres itself refuses has a number; but for these, that is no outage.
    away.passing = getattr(error.orig, "sqlstate", None) in {None, *NOT_NOW}
    return away


def sqlite_url(path: Path) -> str:
    """Write the address of an SQLite file."""
    return f"sqlite:///{path}"


class Hot:
    """A statement that is run for every group of payments, written once for each database and handed to the driver as it is.

    SQLAlchemy looks up how a statement is written, and turns its values, each time anew, which costs more than either database needs.

    Args:
        statement: It takes two values at least; every one is a text, bytes, a number, a truth or nothing, which both drivers take as they
            are.
    """

    def __init__(self, statement: sa.Executable) -> None:
        """Keep the statement; it is written at its first use."""
        self._statement = statement
        self._written: dict[str, tuple[str, list[str] | None, bool]] = {}

    def many(self, connection: sa.Connection, values: Sequence[dict[str, Any]]) -> int:
        """Run it for many values; tells how many rows it met."""
        text, order, as_text = self._for(connection)
        if as_text:
            return connection.exec_driver_sql(text, rows_as_text(values)).rowcount
        given = list(map(itemgetter(*order), values)) if order is not None else list(values)
        return connection.exec_driver_sql(text, given).rowcount

    def _for(self, connection: sa.Connection) -> tuple[str, list[str] | None, bool]:
        name = connection.dialect.name
        written = self._written.get(name)
        if written is None:
            compiled: Any = self._statement.compile(dialect=connection.dialect)  # type: ignore[attr-defined]  # every statement has it
            order = list(compiled.positiontup) if compiled.positional else None
            written = self._written[name] = (str(compiled), order, ROWS in compiled.params)
        return written


def insert_of_rows(table: sa.Table, names: Sequence[str], *, postgres: bool) -> Any:  # noqa: ANN401  # each dialect's own
    """Begin an insert of many rows into some columns of a table; run by a `Hot`, or with `rows_as_text` on Postgres.

    Postgres gets all rows in one text: to hand over their values one by one costs the driver ten times as much.
    """
    if not postgres:
        return sqlite.insert(table)
    kind: sa.ColumnElement[Any] = sa.literal_column(f"NULL::{table.name}")
    text = sa.cast(sa.bindparam(ROWS, type_=sa.Text), postgresql.JSON)
    rows = sa.func.json_populate_recordset(kind, text).table_valued(*names)
    return postgresql.insert(table).from_select(names, sa.select(*(rows.c[name] for name in names)))


def rows_given(columns: Mapping[str, sa.types.TypeEngine[Any]]) -> Any:  # noqa: ANN401  # SQLAlchemy's own
    """Tell the rows that a statement on Postgres gets in one text, as a table with these columns: an update joins it by its keys.

    One statement for many rows: Postgres runs it in a fraction of the time that as many statements take.
    """
    text = sa.cast(sa.bindparam(ROWS, type_=sa.Text), postgresql.JSON)
    given = sa.func.json_to_recordset(text).table_valued(*(sa.column(name, kind) for name, kind in columns.items()))
    return given.render_derived(name="given", with_types=True)


def rows_as_text(values: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write rows for `insert_of_rows` and `rows_given` on Postgres: numbers, texts, truths and nothing come out of it as they are."""
    return {ROWS: orjson.dumps(values).decode()}


class _AsOne(sa.types.TypeDecorator[Collection[str]]):
    """Many texts in one value."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Collection[str] | None, _: sa.Dialect) -> str:
        return orjson.dumps(list(value or ())).decode()


class _Among(FunctionElement[bool]):
    """See `among`.

    It has no type: a function of type Boolean is compared with 1 where a database knows no truths, and then SQLite reads the whole table.
    """

    inherit_cache = True


def among(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Compare a column of texts with many values, which are handed in under a name.

    With a list (`IN (…, …)`) a statement is another one for every number of values: Postgres, and the driver, understand it anew each
    time. They get the values in one text. SQLite reads a list sooner than such a text.
    """
    return _Among(column, sa.bindparam(name, type_=_AsOne))


@compiles(_Among, "sqlite")
def _among_sqlite(element: _Among, compiler: SQLCompiler, **more: Any) -> str:  # noqa: ANN401  # the compiler's own
    column, values = element.clauses
    return compiler.process(column.in_(sa.bindparam(values.key, expanding=True)), **more)


@compiles(_Among, "postgresql")
def _among_postgres(element: _Among, compiler: SQLCompiler, **more: Any) -> str:  # noqa: ANN401  # the compiler's own
    column, values = (compiler.process(one, **more) for one in element.clauses)
    return f"{column} = ANY (ARRAY (SELECT json_array_elements_text(CAST({values} AS json))))"


def rows(unit: Unit, statement: sa.Executable, values: Any = None) -> Sequence[sa.Row[Any]]:  # noqa: ANN401
    """Run a statement and take all rows."""
    return unit.connection.execute(statement, values).all()
