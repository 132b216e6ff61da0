"""A configured statement, run in the shop's Postgres or SQLite: in one transaction with a row that remembers the message."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa

from refundry.connectors.base import Delivered, DeliveryOutcome, NotDelivered, Outgoing
from refundry.infra.db import ALIVE
from refundry.infra.http import refuse_inside_unit
from refundry.infra.logs import logger, redacted
from refundry.infra.settings import OrderSettings, SettingsError, flaw_of_address

Result = TypeVar("Result")
URL, STATEMENT = "REFUNDRY_ORDERS__SQL_URL", "REFUNDRY_ORDERS__SQL_STATEMENT"
KINDS = "REFUNDRY_ORDERS__SQL_KINDS"
GUARD = "refundry_messages"
# Another process that starts may make it between our look and this.
MAKE_GUARD = f"CREATE TABLE IF NOT EXISTS {GUARD} (id TEXT PRIMARY KEY)"
# A person may have mended the statement since, and sent the message again to have it run.
APPLIED_BEFORE = f"applied before, and not run again; for that delete its id from {GUARD} first"
# What the database's EXPLAIN understands, so that a statement can be checked without being run.
BEGINNINGS = ("insert", "update", "delete", "merge", "with", "select")
# What is read as one: texts in quotes, quoted names, comments, texts in dollars, casts, and, the only one that counts, `:name`.
WORDS = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|(?:\$\w*\$).*?(?:\$\w*\$)|::|:([A-Za-z_]\w*)|%""", re.DOTALL
)
WAIT_SECONDS = 5
CONNECTIONS_KEPT, CONNECTIONS_MAX = 2, 12
TOLD_MAX = 200


class SqlTarget:
    """Runs a statement for each message, once: the guard's row is committed with what the statement does, or neither is.

    Args:
        url: The shop's database, its driver named.
        statement: With named parameters, `:order_id`.
    """

    name = "sql"
    # To connect, and for each of the statements of a delivery.
    patience_seconds = 4.0 * WAIT_SECONDS

    def __init__(self, url: str, statement: str) -> None:
        """Keep the parts; connections are opened when needed."""
        self._names = names_of(statement)
        self._postgres = url.startswith("postgresql")
        # SQLite's driver understands `:name` by itself.
        self._statement = for_postgres(statement) if self._postgres else statement
        self._log = logger()
        self._guarded = False
        # Of its own: a database that does not answer would take those away by which refunds are written down.
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="orders-sql")
        if self._postgres:
            options = f"-c statement_timeout={WAIT_SECONDS}s -c lock_timeout={WAIT_SECONDS}s"
            how: dict[str, Any] = ALIVE | {"connect_timeout": WAIT_SECONDS, "options": options}
            more = CONNECTIONS_MAX - CONNECTIONS_KEPT
            self._engine = sa.create_engine(
                url, pool_pre_ping=True, connect_args=how, pool_size=CONNECTIONS_KEPT, max_overflow=more
            )
        else:
            # Opened anew each time: one that is kept would stay with a file that a restored backup has replaced.
            file = url.removeprefix("sqlite:///")
            self._engine = sa.create_engine(url, creator=lambda: _opened(file), poolclass=sa.NullPool)
            sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    async def open(self) -> None:
        """Make the guard's table, and have the database look at the statement without running it.

        A database that is not there at the moment may come back: then messages wait.

        Raises:
            SettingsError: `orders_sql_wrong`: it refuses the statement.
        """
        try:
            await self._aside(self._check)
        except sa.exc.DBAPIError as error:
            # SQLite has one class of errors for all that can go wrong. The other: somebody else has just made the guard's table.
            away = isinstance(error, sa.exc.OperationalError) and (self._postgres or "locked" in str(error.orig))
            if not away and not isinstance(error, sa.exc.IntegrityError):
                raise _refused(error) from error
            self._log.warning("orders.sql_unreachable", why=_said(error))

    def _check(self) -> None:
        with self._engine.begin() as connection:
            self._guard(connection)
            connection.exec_driver_sql(f"EXPLAIN {self._statement}", dict.fromkeys(self._names))

    def _guard(self, connection: sa.Connection) -> None:
        # Looked for first: where it was made by hand, this user may have no right to make tables.
        if not self._guarded and not sa.inspect(connection).has_table(GUARD):
            connection.exec_driver_sql(MAKE_GUARD)
        self._guarded = True

    async def deliver(self, message: Outgoing) -> DeliveryOutcome:
        """Run the statement for a message, unless that was done before."""
        refuse_inside_unit("the shop's database")
        try:
            return await self._aside(lambda: self._run(message))
        except sa.exc.SQLAlchemyError as error:
            # Rolled back with the rest, should it have been made in this transaction.
            self._guarded = False
            return NotDelivered(_said(error))

    def _run(self, message: Outgoing) -> Delivered:
        values = parameters(message)
        with self._engine.begin() as connection:
            self._guard(connection)
            first = f"INSERT INTO {GUARD} (id) VALUES (:id) ON CONFLICT DO NOTHING"  # noqa: S608  # a fixed name
            if connection.execute(sa.text(first), {"id": message.id}).rowcount == 0:
                return Delivered(APPLIED_BEFORE)
            done = connection.exec_driver_sql(self._statement, {name: values[name] for name in self._names})
            # With rows of a RETURNING that nobody has read SQLite commits nothing, and the shop's database stays locked.
            count = len(done.all()) if done.returns_rows else done.rowcount
            # Nothing to change may be right (an order of another shop), and is said, since it may be a mistake in the statement.
            return Delivered(f"{count} rows changed" if count >= 0 else "applied")

    async def close(self) -> None:
        """Close all connections."""
        await self._aside(self._engine.dispose)
        self._threads.shutdown(wait=False)

    async def _aside(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _opened(file: str) -> sqlite3.Connection:
    """Open a file that is there: a name that is misspelled must not make an empty database."""
    address = f"file:{quote(file)}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)


def names_of(statement: str) -> frozenset[str]:
    """Tell the named parameters of a statement."""
    return frozenset(found[1] for found in WORDS.finditer(statement) if found[1])


def for_postgres(statement: str) -> str:
    """Write a statement as Postgres' driver wants it: `%(name)s` for `:name`, and every other `%` doubled."""

    def written(found: re.Match[str]) -> str:
        return f"%({found[1]})s" if found[1] else found[0].replace("%", "%%")

    return WORDS.sub(written, statement)


def parameters(message: Outgoing) -> dict[str, Any]:
    """Tell what a statement may name: the envelope's and the payload's fields, but for lists and objects."""
    envelope: Mapping[str, Any] = message.envelope
    both = {**envelope, **envelope["data"]}
    return {name: value for name, value in both.items() if not isinstance(value, dict | list)}


def targets_of(orders: OrderSettings, known: Mapping[str, frozenset[str]]) -> Sequence[SqlTarget]:
    """Make the target from the settings: none, if none is set.

    Args:
        orders: As read.
        known: The fields that a statement may name, by each kind of message that it is run for.

    Raises:
        SettingsError: `orders_sql_incomplete`, `orders_sql_wrong`, `orders_sql_parameter_unknown`.
    """
    url, statement = orders.sql_url, (orders.sql_statement or "").strip().rstrip(";")
    if url is None and not statement:
        return ()
    if url is None or not statement:
        missing = URL if url is None else STATEMENT
        raise SettingsError(
            f"{missing} is missing: {URL} and {STATEMENT} go together", code="orders_sql_incomplete", setting=missing
        )
    address = _driver(url.get_secret_value())
    _check_statement(statement, known)
    return (SqlTarget(address, statement),)


def _driver(url: str) -> str:
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            url = "postgresql+psycopg://" + url.removeprefix(prefix)
    if url.startswith("sqlite:///"):
        flaw = "names no file" if url.removeprefix("sqlite:///") in {"", ":memory:"} else ""
    else:
        flaw = flaw_of_address(url)
    if flaw:
        raise SettingsError(f"{URL} {flaw}", code="orders_sql_wrong", setting=URL)
    return url


def _check_statement(statement: str, known: Mapping[str, frozenset[str]]) -> None:
    if (re.match(r"\w*", statement) or [""])[0].lower() not in BEGINNINGS:
        raise SettingsError(
            f"{STATEMENT} should be one statement that begins with {', '.join(BEGINNINGS)}",
            code="orders_sql_wrong",
            setting=STATEMENT,
        )
    names = names_of(statement)
    if not names:
        raise SettingsError(
            f"{STATEMENT} names no parameter, so it would do the same for every message: write :order_id where the order goes",
            code="orders_sql_wrong",
            setting=STATEMENT,
        )
    for kind, fields in known.items():
        for name in sorted(names - fields):
            raise SettingsError(
                f"{STATEMENT} names :{name}, which {kind} does not have: it has {', '.join(sorted(fields))}. Or set {KINDS} to kinds "
                "that have it",
                code="orders_sql_parameter_unknown",
                setting=STATEMENT,
            )


def _refused(error: sa.exc.DBAPIError) -> SettingsError:
    if "unable to open" in str(error.orig):
        return SettingsError(
            f"{URL} names a file that cannot be opened: name a database that exists and is yours to write to",
            code="orders_sql_wrong",
            setting=URL,
        )
    if error.statement == MAKE_GUARD:
        return SettingsError(
            f"{URL} names a user who may not make the table {GUARD} ({_said(error)}): have it made, with {MAKE_GUARD}, and grant the user "
            "SELECT and INSERT on it",
            code="orders_sql_wrong",
            setting=URL,
        )
    # By the codes of Postgres (appendix A): ambiguous_function, indeterminate_datatype.
    untyped = getattr(error.orig, "sqlstate", None) in {"42725", "42P18"}
    do = (
        "give each parameter there a type, as in :refunded_minor::bigint"
        if untyped
        else "mend the statement, or what it names"
    )
    return SettingsError(
        f"{STATEMENT} is refused by the shop's database ({_said(error)}): {do}",
        code="orders_sql_wrong",
        setting=STATEMENT,
    )


def _said(error: sa.exc.SQLAlchemyError) -> str:
    """Take what the database said, without the statement and its values."""
    text = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
    # Postgres goes on with the statement in its further lines.
    return redacted((text.splitlines() or [type(error).__name__])[0])[:TOLD_MAX]
