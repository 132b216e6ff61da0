"""Models and migrations agree, an upgrade is done once, and a newer program's database is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from refundry import migrations
from refundry.audit import service as audit
from refundry.batches import repository
from refundry.batches import service as batches
from refundry.batches.model import BatchState, Course, Schedule, Turn
from refundry.bootstrap import attached
from refundry.charges import service as charges
from refundry.charges.model import Origin
from refundry.infra.db import Database, DatabaseUnusable, Unit, metadata
from refundry.kernel.actor import SYSTEM
from refundry.kernel.lane import Lane
from refundry.plans import service as plans
from refundry.refunds import service as refunds
from refundry.refunds.model import Concern, GaveUp, State, apply
from refundry.tasks import service as tasks
from refundry.tasks.model import How
from refundry.tasks.rules import opened_by
from tests.support.builders import look, seen_refund
from tests.support.clock import HandClock

pytestmark = pytest.mark.integration

ACCOUNT = "acct_1|test"


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
    assert {found["name"] for found in inspector.get_check_constraints("refund_attempts")} == {"ck_refund_attempts_key"}


@pytest.mark.parametrize(("number", "key"), [(1, "q1.1"), (1, "q1.2"), (2, "q1.1"), (2, "q2.2")])
def test_an_attempt_has_the_key_of_its_request_and_number_and_no_other_has_it(
    database: Database, number: int, key: str
) -> None:
    """With two attempts of one key, the second would be answered with what became of the first, or be refused for other parameters."""
    attempts = metadata.tables["refund_attempts"]
    rest = {"body": "{}", "sends": "[]", "absent": False, "looks": "[]"}
    with database.unit() as unit:
        unit.connection.execute(attempts.insert(), {"request": "q1", "number": 1, "idempotency_key": "q1.1", **rest})
    with pytest.raises(sa.exc.IntegrityError), database.unit() as unit:
        unit.connection.execute(attempts.insert(), {"request": "q1", "number": number, "idempotency_key": key, **rest})


def test_the_versions_are_those_that_alembic_knows() -> None:
    scripts = ScriptDirectory.from_config(migrations._config())
    assert {script.revision for script in scripts.walk_revisions()} == migrations.known()
    assert scripts.get_current_head() == migrations.newest()


def test_a_database_of_this_version_is_opened_without_loading_what_upgrades(sqlite_file: Path) -> None:
    code = """if True:
        import sys
        from refundry import migrations
        from refundry.infra.db import Database, sqlite_url
        from refundry.kernel.clock import SystemClock
        assert not migrations.upgrade(Database(sqlite_url(sys.argv[1]), SystemClock()))
        sys.exit("alembic" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code, str(sqlite_file)], check=False).returncode == 0  # noqa: S603  # our own program


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


# As version 0001 wrote them: one refund that was sent without an answer, and what Stripe had by then.
BODY = {"amount_minor": 1000, "charge": "ch_1", "metadata": {"refundry_request_id": "q1"}, "reason": "duplicate",
        "refund_application_fee": None, "reverse_transfer": None}  # fmt: skip
SENT = {"at": 5.0, "database_at": 5.0, "stripe_at": None, "outcome": None, "code": "", "answer": {
        "status": 0, "code": None, "message": "", "request": None, "replayed": False, "date": None}}  # fmt: skip
WANTED = {"references": [["order_id", "o1"]], "amounts": [["minor", "1000"]], "ticket_id": "T1", "request_key": None,
          "reason": "duplicate", "currency": "gbp", "metadata": {}, "refund_application_fee": None, "reverse_transfer": None}  # fmt: skip
OF_THE_FIRST: list[tuple[str, dict[str, object]]] = [
    ("batches", {
        "id": "b1", "account": ACCOUNT, "name": "a.csv", "sha256": "0", "state": "paused", "columns": '["ticket_id"]',
        "row_count": 1, "created_at": 1.0,
    }),
    ("batch_rows", {
        "batch": "b1", "number": 1, "line": 2, "raw": "{}", "wanted": json.dumps(WANTED), "planned": True, "code": "", "text": "",
        "request": "q1", "currency": "gbp", "asked_minor": 1000,
    }),
    ("refund_requests", {
        "id": "q1", "account": ACCOUNT, "request_key": "ticket:T1:o1", "charge": "ch_1", "asked_minor": 1000, "currency": "gbp",
        "reason": "duplicate", "metadata": "{}", "fingerprint": "f", "state": "submitting", "amount_minor": 1000,
        "reserved_minor": 1000, "reason_code": "", "reason_text": "", "attempt": 1, "version": 4, "lane": "bulk", "due_at": 9.0,
        "allow_repeat": False, "allow_inquiry": False, "lease": "dead", "leased_until": 8.0, "created_at": 1.0, "changed_at": 5.0,
    }),
    ("refund_attempts", {
        "request": "q1", "number": 1, "idempotency_key": "q1.1", "body": json.dumps(BODY), "sends": json.dumps([SENT]),
        "absent": False, "looks": "[]",
    }),
    *(("stripe_refunds", {
        "id": refund, "account": ACCOUNT, "charge": "ch_2", "request": request, "amount_minor": 5, "currency": "gbp",
        "status": "pending", "metadata": "{}", "created_at": 1.0, "seen_at": 2.0,
    }) for refund, request in (("re_ours", "q1"), ("re_lost", "q0"), ("re_hand", None))),
]  # fmt: skip


def written(unit: Unit, version: str, made: Iterable[tuple[str, Mapping[str, object]]]) -> None:
    """Make the tables as they were in a version, and write rows into them as its program did; no program of today does either."""
    config = migrations._config()
    config.attributes["connection"] = unit.connection
    command.upgrade(config, version)
    for table, row in made:
        names, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
        unit.connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)  # noqa: S608  # our own


def test_what_the_first_version_wrote_is_kept_and_read(empty_url: str) -> None:
    database = attached(Database(empty_url, HandClock()))
    try:
        with database.unit() as unit:
            written(unit, "0001", OF_THE_FIRST)
            audit.record(unit, SYSTEM, "refund_request.submitting", "q1", {"attempt": 1})
        assert migrations.upgrade(database)
        with database.reading() as unit:
            request = refunds.need(unit, "q1")
            attempt = refunds.last_attempt(unit, request)
            assert (request.state, request.reserved_minor, request.hold) == (State.SUBMITTING, 1000, None)
            assert attempt is not None
            assert (attempt.key, attempt.body.amount_minor) == ("q1.1", 1000)
            # Nobody knows what came of it, and still nobody does.
            assert [(send.at, send.outcome) for send in attempt.sends] == [(5.0, None)]
            (batch,) = batches.every(unit, ACCOUNT, [BatchState.PAUSED])
            assert (batch.schedule, batch.plan, batch.row_count) == (None, None, 1)
            (row,) = repository.rows(unit, batch.id)
            assert row.wanted is not None
            assert row.verdict is not None
            assert (row.wanted.ticket_id, row.verdict.request) == ("T1", "q1")
            origins = {one.refund.id: one.origin for one in charges.refunds_open(unit, ACCOUNT, 10.0, 9)}
            assert origins == {
                "re_ours": Origin.OURS, "re_lost": Origin.UNKNOWN_REFUNDRY, "re_hand": Origin.EXTERNAL,
            }  # fmt: skip
            assert (audit.first_fault(unit), batches.first_fault(unit)) == (None, None)
        with database.engine.connect() as connection:
            assert migrations.differences(connection) == []
    finally:
        database.close()


def test_what_was_allowed_before_is_named_and_asked_for_anew(empty_url: str) -> None:
    """A program before version 0013 kept that a person had allowed a repeat, and not which: nobody can tell what has come since."""
    database = attached(Database(empty_url, HandClock()))
    try:
        with database.unit() as unit:
            flagged = dict(OF_THE_FIRST[2][1]) | {
                "state": "received", "amount_minor": 0, "reserved_minor": 0, "attempt": 0, "allow_repeat": True,
            }  # fmt: skip
            plan_row = {
                "plan": "p1", "number": 1, "code": "", "text": "", "fingerprint": "", "amount_minor": 0, "allow_repeat": True,
            }  # fmt: skip
            written(unit, "0012", [("refund_requests", flagged), ("plan_rows", plan_row)])
        assert migrations.upgrade(database)
        with database.unit() as unit:
            seen = seen_refund("re_x", charge="ch_1", amount_minor=1000, created_at=unit.now)
            charges.mirror(unit, ACCOUNT, [look("ch_1", refunds=(seen,), began_at=unit.now)], "order_id")
            (claimed,) = refunds.claim(unit, ACCOUNT, Lane.BULK, "lease", seconds=9, most=9)
            assert refunds.judge(unit, claimed, known=True, age_max_days=0) is None
            kept = refunds.need(unit, "q1")
            assert (kept.reason_code, "re_x" in kept.reason_text) == ("possible_repeat", True)
            # Its plan's hash, which has the flag in it, is the one that it was made with.
            (row,) = plans.rows(unit, "p1")
            assert row.written == '[1,"","",null,"",null,0,null,null,true]'
            assert refunds.allow_repeat(unit, "q1", SYSTEM).allowed == {"re_x"}
        with database.engine.connect() as connection:
            assert migrations.differences(connection) == []
    finally:
        database.close()


def test_a_row_that_was_declined_before_the_upgrade_counts_once_when_it_is_tried_again(empty_url: str) -> None:
    """A program before version 0013 told those that are over and counted as failed from others by their requests."""
    database = attached(Database(empty_url, HandClock()))
    try:
        with database.unit() as unit:
            batch, row, request = (dict(of) for _, of in OF_THE_FIRST[:3])
            made = [("batches", batch | {"state": "running", "row_count": 2})]
            for number, state in ((1, "declined"), (2, "settled")):
                name = f"q{number}"
                made += [
                    ("batch_rows", row | {"number": number, "request": name, "released": int(Turn.OVER)}),
                    ("refund_requests", request | {"id": name, "request_key": name, "state": state}),
                ]
            written(unit, "0012", made)
            repository.set_schedule(unit, "b1", Schedule(canary=(2,)))
            repository.set_course(unit, "b1", Course(rows=2, next_row=3, released=2, over=2, failed=1))
        assert migrations.upgrade(database)
        with database.unit() as unit:
            assert repository.of_turn(unit, "b1", ["q1", "q2"], Turn.OVER) == [2], "what is paid is no failure"
            assert batches.retry(unit, batches.need(unit, "b1"), SYSTEM) == 1
            course = batches.need(unit, "b1").course
            assert (course.over, course.failed) == (1, 0)
    finally:
        database.close()


def test_what_nobody_could_end_before_is_a_task_that_two_people_end_now(empty_url: str) -> None:
    """A program before version 0014 told of requests of unknown outcome, and had nothing that a person could do about them."""
    database = attached(Database(empty_url, HandClock()))
    try:
        with database.unit() as unit:
            sent = dict(OF_THE_FIRST[2][1]) | {
                "state": "outcome_unknown", "amount_minor": 1000, "reserved_minor": 1000, "attempt": 1, "reason_text": "nobody knows",
                "changed_at": 7.0,
            }  # fmt: skip
            del sent["allow_repeat"]
            written(unit, "0013", [("refund_requests", sent)])
        assert migrations.upgrade(database)
        with database.unit() as unit:
            (task,) = tasks.page(unit, ACCOUNT, ["outcome_unknown"], 9)
            assert (task.request, task.charge, task.amount_minor, task.options) == (
                "q1", "ch_1", 1000, (How.PAID_BY, How.NOT_PAID),
            )  # fmt: skip
            assert "nobody knows" in task.text
            assert (task.opened_at, task.due_at) == (7.0, 7.0 + 2 * 86_400)
            # It is the one that would have been opened with it.
            repeated = replace(refunds.need(unit, "q1"), state=State.SUBMITTING)
            change = apply(repeated, GaveUp("nobody knows"))
            opened = opened_by(Concern(ACCOUNT, "ch_1", repeated, change), unit.now)
            assert opened is not None
            assert opened.id == task.id
        with database.engine.connect() as connection:
            assert migrations.differences(connection) == []
    finally:
        database.close()


def stamped(database: Database, told: str) -> None:
    """Give a database another version, as another program would."""
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :told"), {"told": told})


def test_an_index_that_nothing_used_and_somebody_has_dropped_stops_no_upgrade(empty_url: str) -> None:
    database = attached(Database(empty_url, HandClock()))
    try:
        with database.unit() as unit:
            written(unit, "0014", [])
            unit.connection.exec_driver_sql("DROP INDEX ix_stripe_refunds_request")
        assert migrations.upgrade(database)
        with database.engine.connect() as connection:
            assert migrations.differences(connection) == []
    finally:
        database.close()


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

    monkeypatch.setattr(command, "upgrade", half)
    try:
        with pytest.raises(ValueError, match="power"):
            migrations.upgrade(database)
        assert sa.inspect(database.engine).get_table_names() == []
    finally:
        database.close()
