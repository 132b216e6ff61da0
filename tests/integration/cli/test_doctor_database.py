"""The doctor tells what is wrong with the database, and what is stuck in it, on SQLite and on Postgres; it cannot write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from refundry import migrations
from refundry.accounts import service as accounts
from refundry.accounts.model import Account
from refundry.batches import repository as batches
from refundry.batches import service as batch_service
from refundry.batches.model import Batch, BatchState, Course, Schedule
from refundry.charges import service as charges
from refundry.cli import doctor_database
from refundry.cli.doctor_database import _postgres
from refundry.cli.doctor_findings import Area, Level
from refundry.cli.doctor_stripe import clock
from refundry.disputes import repository as disputes
from refundry.disputes.model import Loss
from refundry.follow import service as follow
from refundry.follow.model import Feed
from refundry.inbox import service as inbox
from refundry.inbox.model import Source
from refundry.infra import inspection
from refundry.infra.db import sqlite_url, unusable
from refundry.infra.inspection import Inspected, PostgresFacts, filesystem_of
from refundry.infra.lock import FileLock
from refundry.kernel.actor import SYSTEM
from refundry.kernel.clock import SystemClock
from refundry.outbox import service as outbox
from refundry.refunds import repository as refunds
from refundry.refunds.model import Break, State
from refundry.tasks import repository as tasks
from refundry.tasks.rules import double_loss
from tests.integration.cli.conftest import Run, Told
from tests.integration.cli.test_doctor import found, key, the
from tests.support.builders import dispute, look
from tests.support.database import HandDatabase, PostgresServer
from tests.support.events import seen
from tests.support.messages import message, write
from tests.support.server import Server
from tests.support.states import standing

pytestmark = pytest.mark.integration


@pytest.fixture
def ours(stripe: Server, database: HandDatabase) -> str:
    """Stamp the database with the account of the key; tells its name."""
    account = Account(stripe.account, "test")
    with database.unit() as unit:
        accounts.stamp(unit, account)
    return account.name


def request(unit: Any, name: str, state: State, number: int) -> str:
    made = replace(standing(state), account=name, id=f"request-{number}", request_key=f"key:{number}")
    made = replace(made, content=replace(made.content, charge=f"ch_{number}"))
    refunds.insert(unit, [made])
    return made.id


def batch(unit: Any, name: str, state: BatchState, at: float) -> None:
    batches.add(unit, Batch(f"batch-{state}", name, "may.csv", "0" * 64, state, ("a",), 1, at))


def run(refundry: Run, stripe: Server, database: HandDatabase) -> Told:
    return refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), REFUNDRY_DATABASE_URL=database.url)


def of_work(told: Told) -> list[str]:
    return [finding["code"] for finding in told.json["findings"] if finding["area"] == "work" and finding["code"]]


@pytest.mark.usefixtures("ours")
def test_a_database_without_work_has_nothing_to_tell(refundry: Run, stripe: Server, database: HandDatabase) -> None:
    told = run(refundry, stripe, database)
    assert of_work(told) == ["nobody_executes"]
    assert any(f["what"] == "account" and stripe.account in f["said"] for f in told.json["findings"])
    assert any(f["what"] == "version" and f["level"] == "ok" for f in told.json["findings"])


def test_what_is_stuck_is_told_with_what_to_type(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    now = SystemClock().now()
    with database.unit() as unit:
        accounts.hold(unit, ours, "Stripe refused the key")
        unknown = [request(unit, ours, State.OUTCOME_UNKNOWN, number) for number in range(5)]
        waits = request(unit, ours, State.APPROVED, 9)
        refunds.open_break(unit, waits, Break("paid_twice", "re_2", "two refunds for one request"))
        batch(unit, ours, BatchState.PAUSED, now)
        unit.connection.execute(sa.text("UPDATE refund_requests SET due_at = :at"), {"at": now - 3600})
    told = run(refundry, stripe, database)
    assert (told.code, the(told, "key_refused")["level"]) == (1, "wrong")
    assert "Stripe refused the key" in the(told, "key_refused")["said"]
    said = the(told, "outcome_unknown")
    assert "5 requests" in said["said"]
    assert said["said"].endswith("and 2 more")
    assert all(one in said["said"] for one in sorted(unknown)[-3:])
    assert said["do"] == "refundry task list --kind outcome_unknown"
    assert the(told, "batch_paused")["do"].startswith("refundry batch resume batch-paused")
    assert the(told, "batch_paused")["level"] == "note"
    assert "two refunds for one request [paid_twice]" in the(told, "break_open")["said"]
    assert the(told, "work_overdue")["do"].startswith("refundry worker")
    assert "6 requests, 1 waiting, 0 worked on now" in the(told, "work_overdue")["said"]


def test_a_batch_that_was_halted_is_told_with_what_has_halted_it(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    why = "3 of the first 11 rows failed, and --halt-at allows 5%"
    with database.unit() as unit:
        batch(unit, ours, BatchState.PAUSED, SystemClock().now())
        batches.set_schedule(unit, "batch-paused", Schedule(canary=(1, 10)))
        batches.set_course(unit, "batch-paused", Course(halted=why))
    said = the(run(refundry, stripe, database), "batch_paused")
    assert (said["level"], said["said"].endswith(f"(may.csv), halted: {why}")) == ("warning", True), said


def test_what_waits_for_somebody_is_told_with_what_to_type(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    now = SystemClock().now()
    name = {"account": ours}
    with database.unit() as unit:
        request(unit, ours, State.PENDING, 1)
        task = double_loss(ours, "ch_1", Loss(100, 100, 100), "gbp", [], now - 10 * 86_400)
        tasks.open_all(unit, [task])
        due = [dispute(f"du_{at}", due_at=now + at * 86_400, **name) for at in (1, 2)]
        disputes.save(unit, [*due, dispute("du_9", due_at=now + 9 * 86_400, **name)])
        for feed in (Feed.EVENTS, Feed.REFUNDS):
            follow.move(unit, ours, feed, now - 2 * 86_400)
        inbox.store(unit, ours, [seen("evt_1")], Source.POLL)
        unit.connection.execute(sa.text("UPDATE inbox_events SET received_at = :at"), {"at": now - 7300})
    wanted = {"REFUNDRY_ORDERS__FILE": "told.jsonl", "REFUNDRY_DATABASE_URL": database.url}
    write(database, [message("o1")], "file")
    with database.unit() as unit:
        (first,) = outbox.claim(unit, "file", "lease", seconds=60, most=9)
        assert outbox.failed(unit, first, "lease", "no room", tries_max=1)
    write(database, [message("o2", at=now - 7300)], "file", "sql")
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), **wanted)
    assert [f for f in told.json["findings"] if f["area"] == "work" and f["level"] == "wrong"] == []
    assert of_work(told) == [
        "nobody_executes", "tasks_overdue", "disputes_due_soon", "events_overdue", "follow_behind", "messages_parked",
        "messages_overdue", "messages_without_target",
    ]  # fmt: skip
    assert "1 open task of" in the(told, "tasks_overdue")["said"]
    assert "(1 double_loss), the oldest for 10 d; 1 overdue" in the(told, "tasks_overdue")["said"]
    said = the(told, "disputes_due_soon")
    assert "3 open disputes" in said["said"]
    assert "du_1 (in 23 h), du_2 (in 1 d)" in said["said"]
    assert "/test/disputes" in said["do"]
    assert "waits for 2 h" in the(told, "events_overdue")["said"]
    behind = the(told, "follow_behind")
    assert (behind["level"], "2 d ago" in behind["said"]) == ("warning", True)
    assert the(told, "messages_parked")["do"].endswith("refundry outbox resend --parked --target file")
    assert "the oldest for 2 h" in the(told, "messages_overdue")["said"]
    assert "1 message for target sql" in the(told, "messages_without_target")["said"]


def test_what_waits_as_it_should_is_no_trouble(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    now = SystemClock().now()
    with database.unit() as unit:
        tasks.open_all(unit, [double_loss(ours, "ch_1", Loss(100, 100, 100), "gbp", [], now)])
        disputes.save(unit, [dispute(account=ours, due_at=now + 9 * 86_400)])
        follow.move(unit, ours, Feed.EVENTS, now - 60)
        inbox.store(unit, ours, [seen("evt_1")], Source.POLL)
        unit.connection.execute(sa.text("UPDATE inbox_events SET received_at = :at"), {"at": now})
    write(database, [message("o1", at=now)], "file")
    wanted = {"REFUNDRY_ORDERS__FILE": "told.jsonl", "REFUNDRY_DATABASE_URL": database.url}
    told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), **wanted)
    assert of_work(told) == ["nobody_executes", "tasks_open", "disputes_open"]
    assert {the(told, code)["level"] for code in ("tasks_open", "disputes_open")} == {"note"}
    said = {finding["what"]: finding["said"] for finding in told.json["findings"]}
    assert said["messages"] == "1 message for target file waits"
    assert said["following"].endswith("was followed up to 1 min ago")
    assert said["orders"] == "told by file"


def test_what_is_leased_is_worked_on_and_not_overdue(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    now = SystemClock().now()
    with database.unit() as unit:
        request(unit, ours, State.APPROVED, 1)
        values = {"due": now - 3600, "until": now + 15}
        unit.connection.execute(
            sa.text("UPDATE refund_requests SET due_at = :due, lease = 'l', leased_until = :until"), values
        )
    told = run(refundry, stripe, database)
    assert of_work(told) == ["nobody_executes"]
    assert any("1 waiting, 1 worked on now" in finding["said"] for finding in told.json["findings"])


def test_a_file_that_nobody_looks_up_is_overdue(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str
) -> None:
    with database.unit() as unit:
        batch(unit, ours, BatchState.ACCEPTED, SystemClock().now() - 3600)
    assert of_work(run(refundry, stripe, database)) == ["nobody_executes", "work_overdue"]


def test_rows_whose_turn_has_come_by_a_schedule_are_overdue_when_nobody_executes(
    refundry: Run, stripe: Server, database: HandDatabase, ours: str, tmp_path: Path
) -> None:
    path = tmp_path / "refunds.csv"
    path.write_text("ticket_id,charge_id,amount\nT-1,ch_1,10.00\n")
    there = {"STRIPE_SECRET_KEY": key(stripe), "REFUNDRY_DATABASE_URL": database.url}
    late = ("--start-at", "2099-11-28 09:00 UTC")
    batch_id = refundry("batch", "run", str(path), "--yes", "--no-wait", "--json", *late, **there).json["batch_id"]
    now = SystemClock().now()
    with database.unit() as unit:
        charges.mirror(unit, ours, [look("ch_1")], "order_id")
        while batch_service.plan_slice(unit, batch_service.need(unit, batch_id), {}, mode="test", actor=SYSTEM):
            pass
        unit.connection.execute(sa.text("UPDATE batches SET created_at = :at"), {"at": now - 300})
    assert "work_overdue" not in of_work(run(refundry, stripe, database))
    waits = refundry("batch", "status", batch_id, **there).out
    assert ("nobody executes" in waits, "due now" in waits) == (True, False)
    for schedule in (Schedule(start_at=now - 120), Schedule(keep_balance="5"), Schedule(spread_seconds=3600.0)):
        with database.unit() as unit:
            batches.set_schedule(unit, batch_id, schedule)
        told = run(refundry, stripe, database)
        assert f"nobody sends what is due by its schedule: batch {batch_id[:8]}" in the(told, "work_overdue")["said"]
        assert "due now, and nobody executes" in refundry("batch", "status", batch_id, **there).out
    with executing(database):
        assert "work_overdue" not in of_work(run(refundry, stripe, database))
        assert "nobody executes" not in refundry("batch", "status", batch_id, **there).out


@pytest.mark.usefixtures("ours")
def test_who_executes_is_told(refundry: Run, stripe: Server, database: HandDatabase) -> None:
    with executing(database):
        told = run(refundry, stripe, database)
    assert of_work(told) == []
    said = next(finding["said"] for finding in told.json["findings"] if finding["what"] == "worker")
    assert said.startswith("1 process executing, connected from " if database.postgres else "process ")
    assert of_work(run(refundry, stripe, database)) == ["nobody_executes"]


@contextmanager
def executing(database: HandDatabase) -> Iterator[None]:
    """Hold what a process that executes holds."""
    if database.postgres:
        # As the engine does, outside any transaction.
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(4711)")
            yield
            connection.exec_driver_sql("SELECT pg_advisory_unlock(4711)")
    else:
        lock = FileLock(Path(database.url.removeprefix("sqlite:///") + ".lock"))
        assert lock.take()
        yield
        lock.free()


def test_a_database_of_another_account_is_wrong_usage(refundry: Run, stripe: Server, database: HandDatabase) -> None:
    with database.unit() as unit:
        accounts.stamp(unit, Account("acct_other", "test"))
    told = run(refundry, stripe, database)
    assert told.code == 2
    assert "acct_other (test)" in the(told, "database_of_other_account")["said"]


def test_versions_that_do_not_fit_are_told(
    refundry: Run, stripe: Server, database: HandDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        # A program of tomorrow knows this version, and needs the next.
        later.setattr(migrations, "newest", lambda: "tomorrow")
        assert the(run(refundry, stripe, database), "database_older")["level"] == "note"
    mine = migrations.newest()
    with database.unit() as unit:
        unit.connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        told = run(refundry, stripe, database)
    finally:
        with database.unit() as unit:
            unit.connection.execute(sa.text("UPDATE alembic_version SET version_num = :mine"), {"mine": mine})
    assert told.code == 1
    assert "9999" in the(told, "database_newer")["said"]


def test_an_empty_database_is_well(refundry: Run, empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).write_bytes(b"")
    told = refundry("doctor", "--json", REFUNDRY_DATABASE_URL=empty_url)
    assert [finding["said"] for finding in told.json["findings"] if finding["what"] == "version"] == [
        "none yet; the next command makes the tables"
    ]


def test_tables_of_another_program_are_told(refundry: Run, empty_url: str) -> None:
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE accounts (id INTEGER)")
    engine.dispose()
    told = refundry("doctor", "--json", REFUNDRY_DATABASE_URL=empty_url)
    assert told.code == 1
    assert "accounts" in the(told, "database_of_other_program")["said"]


def test_the_doctor_cannot_write(database: HandDatabase) -> None:
    def refused() -> None:
        inspected = Inspected(database.url, SystemClock())
        with pytest.raises(Exception, match="read"), inspected.unit() as unit:
            unit.connection.execute(sa.text("DELETE FROM accounts"))
        inspected.close()

    refused()
    with database.unit() as unit:
        accounts.stamp(unit, Account("acct_1", "test"))
    # Beside a process that works, whose write-ahead log is read too.
    refused()


# SQLite


@pytest.fixture
def file(tmp_path: Path, sqlite_file: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    return Path(shutil_copy(sqlite_file, state / "refundry.db"))


def shutil_copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


def test_a_file_beside_a_working_process_is_read_with_what_is_in_its_log(
    refundry: Run, stripe: Server, file: Path
) -> None:
    with sqlite3.connect(file) as connection:
        values = (f"{stripe.account}|test", stripe.account)
        connection.execute("INSERT INTO accounts (name, stripe_id, mode, created_at) VALUES (?, ?, 'test', 0)", values)
        connection.commit()
        told = refundry("doctor", "--json")
        assert any(f["what"] == "account" and stripe.account in f["said"] for f in told.json["findings"])
    connection.close()


def test_a_file_without_a_write_ahead_log_is_told_and_left_so(refundry: Run, file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    before = file.read_bytes()
    told = refundry("doctor", "--json")
    assert (told.code, the(told, "database_journal")["level"]) == (0, "note")
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_written_is_wrong(refundry: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may write everything.
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == file and mode & os.W_OK))
    told = refundry("doctor", "--json")
    finding = the(told, "database_read_only")
    assert (told.code, finding["level"], finding["do"].endswith(str(file))) == (1, "wrong", True)


def test_a_file_that_is_none_is_wrong(refundry: Run, file: Path) -> None:
    file.write_bytes(b"hello" * 1000)
    told = refundry("doctor", "--json")
    assert (told.code, the(told, "database_damaged")["level"]) == (1, "wrong")
    file.unlink()
    file.mkdir()
    told = refundry("doctor", "--json")
    assert (told.code, the(told, "database_unreachable")["level"]) == (1, "wrong")


def test_a_file_on_a_network_file_system_is_wrong(
    refundry: Run, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"22 27 0:21 / / rw - ext4 /dev/sda rw\n40 22 0:50 / {file.parent} rw,relatime shared:1 - nfs4 host:/share rw\n"
    )
    monkeypatch.setattr(inspection, "MOUNTS", mounts)
    told = refundry("doctor", "--json")
    finding = the(told, "database_on_network")
    assert (told.code, finding["level"]) == (1, "wrong")
    assert "(nfs4)" in finding["said"]


def test_the_file_system_is_that_of_the_innermost_and_latest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:9 / /mnt/my\\040share rw shared:2 master:1 - cifs //host/share rw\n"
        "3 1 0:8 / /mnt/two rw - xfs /dev/sdb rw\n"
        "4 1 0:7 / /mnt/two rw - fuse.sshfs host: rw\n"
        "broken line\n"
    )
    kinds = {at: filesystem_of(Path(at), mounts) for at in ("/home", "/mnt/my share/a", "/mnt/two", "/mnt/twofold")}
    assert kinds == {"/home": "ext4", "/mnt/my share/a": "cifs", "/mnt/two": "fuse.sshfs", "/mnt/twofold": "ext4"}
    assert filesystem_of(Path("/"), tmp_path / "nowhere") == ""
    assert [k for k in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs") if not inspection.NETWORK.fullmatch(k)] == []
    assert [
        k
        for k in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "apfs", "zfs", "fuse")
        if inspection.NETWORK.fullmatch(k)
    ] == []


# Postgres


def test_settings_that_lose_commits_are_wrong(
    refundry: Run, stripe: Server, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.made() as url:
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

        def named(setting: str) -> set[str]:
            with engine.connect() as connection:
                name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
                connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
            told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), REFUNDRY_DATABASE_URL=url)
            assert told.code == int(bool(found(told, "database_not_durable")))
            return {(finding["said"], finding["do"]) for finding in found(told, "database_not_durable")}

        without, having = named("on"), named("off")
        name = sa.make_url(url).database
        do = f"as its administrator: ALTER DATABASE {name} RESET synchronous_commit;"
        assert having - without == {("synchronous_commit is off", do)}
        monkeypatch.setattr(doctor_database, "PROCESS_CONNECTIONS_MAX", 10**6)
        told = refundry("doctor", "--json", REFUNDRY_DATABASE_URL=url)
        assert the(told, "database_connections")["level"] == "warning"
        assert any(
            "Postgres" in finding["said"] and "time zone" in finding["said"] for finding in told.json["findings"]
        )


@pytest.mark.parametrize(
    ("source", "do"),
    [
        ("configuration file", "as its administrator: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"),
        ("command line", "start the server without fsync on its command line"),
        ("global", "as its administrator: ALTER ROLE ALL RESET fsync;"),
        ("user", "as its administrator: ALTER ROLE me RESET fsync;"),
        ("database user", "as its administrator: ALTER ROLE me IN DATABASE r RESET fsync;"),
    ],
)
def test_a_setting_is_mended_where_it_is_set(source: str, do: str) -> None:
    facts = PostgresFacts(
        "16.2", 160_002, 97, 3, {"fsync": source}, standby=False, read_only="", timezone="UTC", database="r",
        role="me", workers=(),
    )  # fmt: skip
    assert [finding.do for finding in _postgres(facts) if finding.code] == [do]


def test_what_the_server_lacks_is_advised_about(refundry: Run, stripe: Server, postgres: PostgresServer) -> None:
    with postgres.made() as url:
        made = sa.make_url(url)
        for wrong, do in (
            (made.set(database="nowhere"), "make it on the server"),
            (made.set(username="nobody"), "make it on the server"),
        ):
            address = wrong.render_as_string(hide_password=False)
            told = refundry("doctor", "--json", STRIPE_SECRET_KEY=key(stripe), REFUNDRY_DATABASE_URL=address)
            finding = the(told, "database_unreachable")
            assert finding["do"].startswith(do), finding


@pytest.mark.parametrize(
    ("said", "do"),
    [
        ("server does not support SSL, but SSL was required", "turn SSL on at the server"),
        ('FATAL:  password authentication failed for user "me"', "check the user and the password"),
        ("connection refused", "check that it runs"),
    ],
)
def test_what_the_driver_says_is_advised_about(said: str, do: str) -> None:
    error = unusable(sa.exc.OperationalError("", None, Exception(said)), "postgresql://h/r")
    assert error.code == "database_unreachable"
    assert error.message.rpartition(": ")[2].startswith(do)


def test_a_database_that_takes_no_writes_is_wrong_and_told_so_to_who_writes(
    refundry: Run, stripe: Server, postgres: PostgresServer
) -> None:
    with postgres.made() as url:
        there = {"STRIPE_SECRET_KEY": key(stripe), "REFUNDRY_DATABASE_URL": url}
        assert refundry("refund", "list", **there).code == 0
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        told = refundry("doctor", "--json", **there)
        finding = the(told, "database_read_only")
        assert (told.code, finding["level"]) == (1, "wrong")
        assert finding["do"] == f"as its administrator: ALTER DATABASE {name} RESET default_transaction_read_only;"
        asked = ("refund", "create", "--order", "o1", "--amount", "1.00", "--reason", "duplicate", "--json")
        error = refundry(*asked, **there).error
        assert error["code"] == "database_read_only"
        assert "refundry doctor" in error["message"]


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({}, "", Level.OK),
        ({"standby": True}, "database_read_only", Level.WRONG),
        ({"read_only": "database"}, "database_read_only", Level.WRONG),
        ({"number": 120_009}, "database_version", Level.WARNING),
        ({"connections_used": 80}, "database_connections", Level.WARNING),
        ({"unsafe": {"fsync": "configuration file"}}, "database_not_durable", Level.WRONG),
    ],
)
def test_what_a_server_says_of_itself_is_judged(changes: dict[str, Any], code: str, level: Level) -> None:
    facts = PostgresFacts(
        "16.2", 160_002, 97, 3, {}, standby=False, read_only="", timezone="UTC", database="r", role="me", workers=()
    )
    told = [(finding.code, finding.level) for finding in _postgres(replace(facts, **changes)) if finding.code]
    assert told == ([(code, level)] if code else [])


@pytest.mark.parametrize(
    ("apart", "level"), [(0.4, Level.OK), (-5, Level.OK), (-60, Level.NOTE), (300, Level.NOTE), (301, Level.WRONG)]
)
def test_clocks_may_be_five_minutes_apart(apart: float, level: Level) -> None:
    finding = clock(Area.DATABASE, "the database's", apart, "Stripe's")
    assert finding.level is level
    assert ("behind" in finding.said) == (apart < -5)


def test_the_address_of_a_file_may_hold_any_letter(tmp_path: Path, sqlite_file: Path) -> None:
    odd = shutil_copy(sqlite_file, tmp_path / "a?b#c%20d.db")
    inspected = Inspected(sqlite_url(odd), SystemClock())
    with inspected.reading() as unit:
        assert accounts.known(unit) == []
    inspected.close()
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]
