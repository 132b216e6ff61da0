"""A Postgres for measurements: as durable as it comes, unlike the one of the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.database import POSTGRES_URL, PostgresServer, postgres_server

# What the tests turn off, to be fast.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")


@contextmanager
def postgres() -> Iterator[PostgresServer | None]:
    """Find or start a server that flushes each commit to the disk; `None`, where there is none, after saying why."""
    try:
        context = postgres_server()
        server = context.__enter__()
    except pytest.skip.Exception as why:
        print(f"without Postgres: {why}")
        yield None
        return
    try:
        if POSTGRES_URL not in os.environ:
            with server.admin.connect() as connection:
                for setting in DURABLE:
                    connection.exec_driver_sql(f"ALTER SYSTEM RESET {setting}")
                connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield server
    finally:
        context.__exit__(None, None, None)


def size(server: PostgresServer, address: str) -> int:
    """Tell the size of a database, in bytes."""
    name = address.rpartition("/")[2].partition("?")[0]
    with server.admin.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT pg_database_size('{name}')").scalar_one())
