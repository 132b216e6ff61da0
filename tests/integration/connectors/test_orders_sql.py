"""The shop's own database: a statement is run once for each message, and checked before anything depends on it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from refundry.connectors.base import Delivered, NotDelivered
from refundry.connectors.orders_sql.client import SqlTarget, for_postgres, names_of, targets_of
from refundry.infra.db import sqlite_url
from refundry.infra.settings import OrderSettings, SettingsError
from refundry.kernel.errors import InvariantViolated
from refundry.outbox.model import Kind
from refundry.outbox.rules import outgoing, parameters_of
from tests.support.database import HandDatabase
from tests.support.messages import message

pytestmark = pytest.mark.integration
KNOWN = {Kind.ORDER_CHANGED.value: parameters_of(Kind.ORDER_CHANGED)}
APPLIED_BEFORE = "applied before, and not run again; for that delete its id from refundry_messages first"
STATEMENT = "UPDATE orders SET refunded = :refunded, minor = :refunded_minor, times = times + 1 WHERE id = :order_id"


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a shop's database with two orders."""
    if request.param == "sqlite":
        (tmp_path / "shop.db").touch()
        yield filled(sqlite_url(tmp_path / "shop.db"))
    else:
        with request.getfixturevalue("postgres").made() as address:
            yield filled(address)


def filled(url: str) -> str:
    run(url, "CREATE TABLE orders (id TEXT PRIMARY KEY, refunded TEXT, minor INTEGER, times INTEGER)")
    run(url, "INSERT INTO orders VALUES ('o1', 'none', 0, 0), ('o2', 'none', 0, 0)")
    return url


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


Make = Callable[..., SqlTarget]


@pytest.fixture
def make(shop: str) -> Iterator[Make]:
    made: list[SqlTarget] = []

    def target(statement: str = STATEMENT, url: str = "") -> SqlTarget:
        orders = OrderSettings(sql_url=SecretStr(url or shop), sql_statement=statement)
        made.extend(targets_of(orders, KNOWN))
        return made[-1]

    yield target
    for one in made:
        one._engine.dispose()


async def test_a_statement_is_run_once_for_each_message(make: Make, shop: str) -> None:
    target = make()
    await target.open()
    assert await target.deliver(outgoing(message(version=1))) == Delivered("1 rows changed")
    assert await target.deliver(outgoing(message(version=1))) == Delivered(APPLIED_BEFORE)
    assert await target.deliver(outgoing(message(version=2))) == Delivered("1 rows changed")
    assert run(shop, "SELECT * FROM orders ORDER BY id") == [("o1", "partial", 200, 2), ("o2", "none", 0, 0)]
    assert len(run(shop, "SELECT id FROM refundry_messages")) == 2


async def test_a_shop_that_keeps_its_table_locked_keeps_nothing_else_waiting(make: Make, shop: str) -> None:
    """What is paid is written by threads too: a shop's database that does not answer must not have taken them all."""
    target, engine = make(), sa.create_engine(shop, poolclass=sa.NullPool)
    await target.open()
    with engine.connect() as locking:
        sqlite = locking.dialect.name == "sqlite"
        locking.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "LOCK TABLE orders")
        # More than the threads that a loop has.
        some = [asyncio.create_task(target.deliver(outgoing(message(version=n)))) for n in range(40)]
        await asyncio.sleep(0)
        await asyncio.to_thread(int)
        assert not any(task.done() for task in some)
        locking.rollback()
    assert await asyncio.gather(*some) == [Delivered("1 rows changed")] * 40


async def test_what_changes_no_row_is_said(make: Make) -> None:
    assert await make().deliver(outgoing(message("o9"))) == Delivered("0 rows changed")


async def test_once_a_wrong_statement_is_mended_it_is_run_where_the_id_was_deleted(make: Make, shop: str) -> None:
    wrong = make("UPDATE orders SET minor = :refunded_minor WHERE id = 'nr ' || :order_id")
    assert await wrong.deliver(outgoing(message())) == Delivered("0 rows changed")
    mended = make()
    again = await mended.deliver(outgoing(message()))
    assert again == Delivered(APPLIED_BEFORE)
    run(shop, "DELETE FROM refundry_messages")
    assert await mended.deliver(outgoing(message())) == Delivered("1 rows changed")
    assert run(shop, "SELECT minor, times FROM orders WHERE id = 'o1'") == [(100, 1)]


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
async def test_a_file_that_was_put_in_place_of_the_shops_is_the_one_that_is_written(make: Make, shop: str) -> None:
    """As when a backup is restored."""
    target = make()
    await target.open()
    file = Path(shop.removeprefix("sqlite:///"))
    shutil.copyfile(file, file.with_suffix(".backup"))
    assert await target.deliver(outgoing(message(version=1))) == Delivered("1 rows changed")
    file.with_suffix(".backup").replace(file)
    assert await target.deliver(outgoing(message(version=2))) == Delivered("1 rows changed")
    assert run(shop, "SELECT minor FROM orders WHERE id = 'o1'") == [(200,)]


async def test_a_statement_that_gives_rows_back_is_committed_and_counted(make: Make, shop: str) -> None:
    target = make(f"{STATEMENT} RETURNING id, times")
    await target.open()
    assert await target.deliver(outgoing(message())) == Delivered("1 rows changed")
    assert await target.deliver(outgoing(message("o9"))) == Delivered("0 rows changed")
    # On SQLite it is locked for everybody while a transaction is open.
    run(shop, "UPDATE orders SET times = times + 1")
    assert run(shop, "SELECT minor, times FROM orders ORDER BY id") == [(100, 2), (0, 1)]


async def test_a_statement_that_fails_leaves_no_trace_and_works_once_it_can(make: Make, shop: str) -> None:
    target = make("INSERT INTO refunds (order_id, minor) VALUES (:order_id, :refunded_minor)")
    outcome = await target.deliver(outgoing(message()))
    assert isinstance(outcome, NotDelivered)
    assert "refunds" in outcome.told
    assert "INSERT INTO" not in outcome.told
    run(shop, "CREATE TABLE refunds (order_id TEXT, minor INTEGER)")
    assert await target.deliver(outgoing(message())) == Delivered("1 rows changed")
    assert run(shop, "SELECT * FROM refunds") == [("o1", 100)]


def test_two_workers_with_the_same_message_apply_it_once(make: Make, shop: str) -> None:
    targets = [make() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(told_of, targets))
    assert sorted(told) == ["1 rows changed", *[APPLIED_BEFORE] * 3]
    assert run(shop, "SELECT times FROM orders WHERE id = 'o1'") == [(1,)]


def told_of(target: SqlTarget) -> str:
    """Deliver as a worker does whose first try may be refused, since two make the guard's table at once."""
    for _ in range(20):
        try:
            return target._run(outgoing(message())).told
        except sa.exc.DBAPIError:
            target._guarded = False
    raise AssertionError("it never went through")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orderz SET refunded = :refunded WHERE id = :order_id", "UPDATE orders SET refundet = :refunded WHERE id = :order_id",
        "UPDATE orders SET refunded = WHERE id = :order_id",
        "UPDATE orders SET times = 9 WHERE id = :order_id; DELETE FROM orders",
    ],
)  # fmt: skip
async def test_a_statement_that_the_database_refuses_stops_the_start_and_changes_nothing(
    make: Make, shop: str, statement: str
) -> None:
    target = make(statement)
    with pytest.raises(SettingsError) as refused:
        await target.open()
    assert refused.value.code == "orders_sql_wrong"
    assert refused.value.ids["setting"] == "REFUNDRY_ORDERS__SQL_STATEMENT"
    assert run(shop, "SELECT count(*) FROM orders WHERE times = 0") == [(2,)]


async def test_to_check_a_statement_does_not_run_it(make: Make, shop: str) -> None:
    target = make("DELETE FROM orders WHERE id = :order_id OR :order_id IS NULL")
    await target.open()
    assert run(shop, "SELECT count(*) FROM orders") == [(2,)]


async def test_a_guard_that_was_made_by_hand_is_used(make: Make, shop: str) -> None:
    run(shop, "CREATE TABLE refundry_messages (id VARCHAR(36) PRIMARY KEY)")
    target = make()
    await target.open()
    assert await target.deliver(outgoing(message())) == Delivered("1 rows changed")


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("untyped", "typed"),
    [
        (":captured_minor - :refunded_minor", ":captured_minor::bigint - :refunded_minor::bigint"),
        ("length(concat(:refunded))", "length(concat(:refunded::text))"),
    ],
)
async def test_a_parameter_whose_type_postgres_cannot_tell_is_told_to_want_one(
    make: Make, untyped: str, typed: str
) -> None:
    statement = "UPDATE orders SET minor = {} WHERE id = :order_id"
    with pytest.raises(SettingsError) as refused:
        await make(statement.format(untyped)).open()
    assert "::bigint" in refused.value.message
    target = make(statement.format(typed))
    await target.open()
    assert await target.deliver(outgoing(message())) == Delivered("1 rows changed")


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
async def test_a_user_who_may_not_make_the_table_of_ids_is_told_to_have_it_made(make: Make, shop: str) -> None:
    """From Postgres 15 on nobody but its owner may make tables in a new database."""
    user = f"{sa.make_url(shop).database}_user"
    run(shop, f"CREATE ROLE {user} LOGIN PASSWORD '{user}'")
    try:
        run(shop, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        run(shop, f"GRANT SELECT (id), UPDATE (refunded) ON orders TO {user}")
        statement = "UPDATE orders SET refunded = :refunded WHERE id = :order_id"
        address = sa.make_url(shop).set(username=user, password=user).render_as_string(hide_password=False)
        with pytest.raises(SettingsError) as refused:
            await make(statement, address).open()
        assert refused.value.code == "orders_sql_wrong"
        assert "CREATE TABLE IF NOT EXISTS refundry_messages (id TEXT PRIMARY KEY)" in refused.value.message
        run(shop, "CREATE TABLE refundry_messages (id TEXT PRIMARY KEY)")
        run(shop, f"GRANT SELECT, INSERT ON refundry_messages TO {user}")
        target = make(statement, address)
        await target.open()
        assert await target.deliver(outgoing(message())) == Delivered("1 rows changed")
    finally:
        # Roles are the server's, and outlive the database.
        run(shop, f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_a_file_that_is_not_there_is_not_made(make: Make, tmp_path: Path) -> None:
    target = make(url=sqlite_url(tmp_path / "shpo.db"))
    with pytest.raises(SettingsError) as refused:
        await target.open()
    assert refused.value.code == "orders_sql_wrong"
    assert refused.value.ids["setting"] == "REFUNDRY_ORDERS__SQL_URL"
    assert not (tmp_path / "shpo.db").exists()


async def test_a_server_that_is_away_stops_no_start_and_messages_wait(make: Make) -> None:
    target = make(url="postgresql://u:hunter2@127.0.0.1:9/shop")
    await target.open()
    outcome = await target.deliver(outgoing(message()))
    assert isinstance(outcome, NotDelivered)
    assert "hunter2" not in outcome.told


async def test_nothing_is_run_inside_a_unit(make: Make, database: HandDatabase) -> None:
    with database.unit(), pytest.raises(InvariantViolated) as refused:
        await make().deliver(outgoing(message()))
    assert refused.value.code == "network_inside_transaction"


@pytest.mark.parametrize(
    ("url", "statement", "code"),
    [
        (None, STATEMENT, "orders_sql_incomplete"), ("sqlite:///x", None, "orders_sql_incomplete"), ("sqlite:///x", " ; ", "orders_sql_incomplete"),
        ("mysql://x", STATEMENT, "orders_sql_wrong"), ("sqlite:///x", "DROP TABLE orders", "orders_sql_wrong"),
        ("postgresql://u:hunter2@db:port/shop", STATEMENT, "orders_sql_wrong"), ("postgresql://u:hunt@er2@db/shop", STATEMENT, "orders_sql_wrong"),
        ("postgresql://u:hunter2@db/shop?colour=red", STATEMENT, "orders_sql_wrong"), ("sqlite:///", STATEMENT, "orders_sql_wrong"),
        ("sqlite:///:memory:", STATEMENT, "orders_sql_wrong"),
        ("sqlite:///x", "UPDATE orders SET refunded = 'full'", "orders_sql_wrong"),
        ("sqlite:///x", "UPDATE orders SET t = :ticket_id WHERE id = :order_id", "orders_sql_parameter_unknown"),
        ("sqlite:///x", "UPDATE orders SET t = :charges WHERE id = :order_id", "orders_sql_parameter_unknown"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_anything_starts(
    url: str | None, statement: str | None, code: str
) -> None:
    orders = OrderSettings(sql_url=None if url is None else SecretStr(url), sql_statement=statement)
    with pytest.raises(SettingsError) as refused:
        targets_of(orders, KNOWN)
    assert refused.value.code == code
    # Any part of an address that cannot be read may be one of its password.
    assert "hunt" not in refused.value.message
    assert "er2" not in refused.value.message


def test_a_parameter_that_one_of_the_kinds_lacks_is_told_with_that_kind() -> None:
    known = KNOWN | {Kind.SETTLED.value: parameters_of(Kind.SETTLED)}
    with pytest.raises(SettingsError) as refused:
        targets_of(OrderSettings(sql_url=SecretStr("sqlite:///x"), sql_statement=STATEMENT), known)
    assert ":refunded, which refund_request.settled does not have" in refused.value.message
    assert "REFUNDRY_ORDERS__SQL_KINDS" in refused.value.message


def test_without_either_setting_there_is_no_such_target() -> None:
    assert targets_of(OrderSettings(), KNOWN) == ()


def test_a_parameter_is_what_is_no_cast_text_or_comment() -> None:
    statement = """UPDATE o SET a = :refunded_minor::numeric % 100, b = ':no', "c:no" = $$:no$$ -- :no
                   WHERE id = /* :no */:order_id AND d LIKE '5%'"""
    assert names_of(statement) == {"refunded_minor", "order_id"}
    written = for_postgres(statement)
    assert "%(refunded_minor)s::numeric %% 100, b = ':no'" in written
    assert "*/%(order_id)s AND d LIKE '5%%'" in written


async def test_a_statement_may_hold_casts_texts_and_percent_signs(make: Make, shop: str) -> None:
    cast = ":refunded_minor::int" if shop.startswith("postgresql") else "CAST(:refunded_minor AS INT)"
    target = make(
        "UPDATE orders SET minor = CAST_ % 7, refunded = ':no 5%' WHERE id = :order_id".replace("CAST_", cast)
    )
    await target.open()
    await target.deliver(outgoing(message()))
    assert run(shop, "SELECT minor, refunded FROM orders WHERE id = 'o1'") == [(2, ":no 5%")]
