"""A refund costs the same however many there are: no statement by which a file is paid reads a whole table that grows with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from refundry import bootstrap
from refundry.batches import service as batches
from refundry.batches.model import Standing
from refundry.connectors.base import ReadOptions
from refundry.infra.db import Database
from refundry.kernel.actor import SYSTEM
from tests.integration.worker.test_accounts import AMOUNTS, World, four, handed_in, over, totals, until, working, world
from tests.support.stripe_call import called

__all__ = ["four", "world"]
pytestmark = pytest.mark.integration

LARGE = {
    "charges",
    "stripe_refunds",
    "refund_requests",
    "refund_attempts",
    "batch_rows",
    "plan_rows",
    "audit_entries",
    "tasks",
    "disputes",
    "fraud_warnings",
    "inbox_events",
    "outbox_messages",
    "outbox_deliveries",
    "outbox_keys",
}
# Which of them have something to do, asked once a second: these indexes hold what is not over yet, and nothing else.
NOT_OVER = {
    "ix_refund_requests_due",
    "ix_stripe_refunds_open",
    "ix_inbox_events_due",
    "ix_outbox_deliveries_due",
    "ix_tasks_open",
}
# How Postgres reads tables whole.
WHOLE = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
# Before 3.36 SQLite says `SCAN TABLE`.
SCAN = re.compile(r"^SCAN (?:TABLE )?(\w+)(?: AS (\w+))?(?: USING (?:COVERING )?INDEX (\w+))?")


def walked_on_sqlite(connection: Any, sql: str, values: Any) -> Iterator[str]:
    for *_, step in connection.cursor().execute("EXPLAIN QUERY PLAN " + sql, values):
        found = SCAN.match(step)
        if found is None:
            continue
        # A table that is read twice in a statement is told by its other name.
        table = re.search(rf"(\w+) AS {found[1]}\b", sql)
        if (table[1] if table else found[1]) in LARGE and found[3] not in NOT_OVER:
            yield step


def walked_on_postgres(connection: Any, sql: str, values: Any) -> Iterator[str]:
    with connection.cursor() as cursor:
        # A small table is read whole, whatever index there is: what counts is whether it need be.
        for way in WHOLE:
            cursor.execute(f"SET LOCAL {way} = off")
        cursor.execute("EXPLAIN (FORMAT JSON) " + sql, values)
        (told,) = cursor.fetchone()
        for way in WHOLE:
            cursor.execute(f"SET LOCAL {way} = on")
    waiting = [node["Plan"] for node in (json.loads(told) if isinstance(told, str) else told)]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        whole = node["Node Type"] == "Seq Scan" or ("Index Name" in node and "Index Cond" not in node)
        index = node.get("Index Name", "")
        # A bitmap of an index names no table.
        table = node.get("Relation Name") or next((name for name in LARGE if f"_{name}_" in index), "")
        if whole and table in LARGE and index not in NOT_OVER:
            yield f"{node['Node Type']} of {table}"


@contextmanager
def statements(database: Database) -> Iterator[tuple[set[str], set[str]]]:
    """Collect what is asked of the database, and which of it reads a whole table."""
    seen, whole = set[str](), set[str]()
    steps = walked_on_postgres if database.postgres else walked_on_sqlite

    def asked(connection: sa.Connection, _: Any, sql: str, values: Any, __: Any, many: bool) -> None:  # noqa: FBT001  # SQLAlchemy's own
        if re.match("SELECT|UPDATE|DELETE|WITH", sql):
            seen.add(sql)
            raw = connection.connection.dbapi_connection
            whole.update(f"{step}: {sql}" for step in steps(raw, sql, values[0] if many else values))

    sa.event.listen(database.engine, "before_cursor_execute", asked)
    try:
        yield seen, whole
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", asked)


@pytest.mark.parametrize("by", ["order", "charge"])
async def test_no_statement_of_a_run_reads_a_whole_table(world: World, empty_url: str, tmp_path: Path, by: str) -> None:
    # A database of its own: how many pages others left in a table moves what Postgres takes for cheap.
    account, settings = world.server.account, world.settings(empty_url, tmp_path)
    async with bootstrap.desk(settings) as desk:
        with statements(desk.database) as (seen, whole):
            async with working(desk, settings):
                if by == "order":
                    batch = await handed_in(desk, account, AMOUNTS, tmp_path)
                else:
                    file = tmp_path / "charges.csv"
                    listed = called(world.server, "GET /v1/charges?limit=100", account)["data"]
                    file.write_text(
                        "\n".join(["charge_id,amount,currency", *(f"{c['id']},1.00,gbp" for c in listed), ""])
                    )
                    opened = bootstrap.read_file(file, options=ReadOptions())
                    batch, _ = await desk.writer.put(
                        lambda unit: batches.accept(unit, f"{account}|test", opened, "", SYSTEM)
                    )
                await until(lambda: over(desk, batch))
        assert totals(desk.database, batch).standings[Standing.PAID] == len(AMOUNTS)
    assert len(seen) > 20
    assert sorted(whole) == []
