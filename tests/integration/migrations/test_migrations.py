"""Models and migrations agree, an upgrade is done once, and a newer program's database is left alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from refundry import migrations
from refundry.infra.db import Database, DatabaseUnusable, metadata
from tests.support.clock import HandClock

pytestmark = pytest.mark.integration


def test_models_and_migrations_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        assert migrations.differences(connection) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX uq_refund_requests_in_flight")
    with database.engine.connect() as connection:
        told = repr(migrations.differences(connection))
    with database.engine.begin() as connection:
        index = next(i for i in metadata.tables["refund_requests"].indexes if i.name == "uq_refund_requests_in_flight")
        index.create(connection)
    assert "uq_refund_requests_in_flight" in told


def test_constraints_are_there_by_name(database: Database) -> None:
    inspector = sa.inspect(database.engine)
    checks = {found["name"] for found in inspector.get_check_constraints("refund_requests")}
    assert checks == {"ck_refund_requests_amounts", "ck_refund_requests_held"}
    unique = {index["name"] for index in inspector.get_indexes("refund_requests") if index["unique"]}
    assert "uq_refund_requests_in_flight" in unique


def test_an_empty_database_is_brought_to_this_version_once(empty_url: str) -> None:
    database = Database(empty_url, HandClock())
    try:
        assert migrations.version(database) is None
        assert migrations.upgrade(database)
        assert migrations.version(database) == migrations.newest()
        assert not migrations.upgrade(database)
    finally:
        database.close()


def test_processes_that_start_at_once_upgrade_one_after_the_other(empty_url: str) -> None:
    together = threading.Barrier(4)

    def start(_: int) -> bool:
        database = Database(empty_url, HandClock())
        try:
            together.wait(30)
            return migrations.upgrade(database)
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(start, range(4)))
    assert any(done)
    database = Database(empty_url, HandClock())
    try:
        assert migrations.version(database) == migrations.newest()
    finally:
        database.close()


def test_a_database_of_a_newer_program_is_refused_and_left_alone(empty_url: str) -> None:
    database = Database(empty_url, HandClock())
    try:
        migrations.upgrade(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(DatabaseUnusable) as refused:
            migrations.upgrade(database)
        assert refused.value.code == "database_newer"
        assert "9999" in refused.value.message
        assert migrations.version(database) == "9999"
    finally:
        database.close()


def stamped(database: Database, told: str) -> None:
    """Give a database another version, as another program would."""
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :told"), {"told": told})


def test_a_newer_program_that_upgrades_in_the_same_moment_is_told_as_newer(
    monkeypatch: pytest.MonkeyPatch, empty_url: str
) -> None:
    database, version = Database(empty_url, HandClock()), migrations.version
    try:
        migrations.upgrade(database)
        stamped(database, "0009")

        def then_the_newer_one(asked: Database) -> str | None:
            found = version(asked)
            stamped(database, "9999")
            return found

        monkeypatch.setattr(migrations, "version", then_the_newer_one)
        with pytest.raises(DatabaseUnusable) as refused:
            migrations.upgrade(database)
        assert (refused.value.code, version(database)) == ("database_newer", "9999")
    finally:
        database.close()


@pytest.mark.parametrize("older", ["0001", None])
def test_an_older_copy_that_was_put_in_the_place_of_the_database_is_told_as_older(
    empty_url: str, older: str | None
) -> None:
    database = Database(empty_url, HandClock())
    try:
        if older is not None:
            migrations.upgrade(database)
            stamped(database, older)
        with database.reading() as unit, pytest.raises(DatabaseUnusable) as refused:
            migrations.check(unit)
        assert refused.value.code == "database_older"
        assert "start" in refused.value.message
    finally:
        database.close()


ELSEWHERE = [
    ["CREATE TABLE accounts (id INTEGER)"],
    # What another program's alembic leaves, which counts in its own way or in ours.
    [
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('a1b2c3')",
    ],
    ["CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)", "INSERT INTO alembic_version VALUES ('0003')"],
]


@pytest.mark.parametrize("statements", ELSEWHERE, ids=["its own accounts", "its own versions", "versions like ours"])
def test_a_database_of_another_program_is_refused_and_left_alone(empty_url: str, statements: list[str]) -> None:
    database = Database(empty_url, HandClock())
    try:
        with database.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        tables = sa.inspect(database.engine).get_table_names()
        with pytest.raises(DatabaseUnusable) as refused:
            migrations.upgrade(database)
        assert refused.value.code == "database_of_other_program"
        assert tables[0] in refused.value.message
        assert sa.inspect(database.engine).get_table_names() == tables
    finally:
        database.close()


def test_other_tables_beside_ours_are_left_alone(empty_url: str) -> None:
    database = Database(empty_url, HandClock())
    try:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE customers (id INTEGER)")
        assert migrations.upgrade(database)
        assert "customers" in sa.inspect(database.engine).get_table_names()
    finally:
        database.close()


def test_an_upgrade_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch, empty_url: str) -> None:
    database = Database(empty_url, HandClock())

    def half(config: object, _: str) -> None:
        connection = config.attributes["connection"]  # type: ignore[attr-defined]
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        raise ValueError("the power went out")

    monkeypatch.setattr(migrations.command, "upgrade", half)
    try:
        with pytest.raises(ValueError, match="power"):
            migrations.upgrade(database)
        assert sa.inspect(database.engine).get_table_names() == []
    finally:
        database.close()
