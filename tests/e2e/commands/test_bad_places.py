"""A place that cannot be written, a disk that is full, a program of another version: one sentence, and nothing paid or lost."""

import ctypes
import json
import os
import resource
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.command import Installation, Shop, ended, wait_for
from tests.support.database import PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CAPBSET_DROP = 24
# Root may write everywhere, unless it is started without these: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
POWERS = (1, 2)
CREATE = ("refund", "create", "--order", "o1", "--amount", "5.00", "--reason", "duplicate", "--ticket", "T-1", "--json")


def without_powers() -> None:
    """Let the program find closed what is closed, also where the tests run as root."""
    for power in POWERS:
        ctypes.CDLL(None).prctl(CAPBSET_DROP, power)


@pytest.fixture
def unprivileged() -> Callable[[], None]:
    """Tell what a program starts with, to be kept from writing."""
    if sys.platform != "linux":
        pytest.skip("a process of root is only kept from writing on Linux")
    return without_powers


def test_a_read_only_state_directory_is_named_and_nothing_is_paid(
    shop: Shop, installed: Installation, unprivileged: Callable[[], None]
) -> None:
    assert installed.run("db", "upgrade").code == 0
    for path in installed.folder.iterdir():
        path.chmod(0o400)
    installed.folder.chmod(0o500)
    try:
        refused = installed.run(*CREATE, before=unprivileged)
    finally:
        installed.folder.chmod(0o700)
    assert (refused.code, refused.error["code"]) == (1, "database_read_only"), (refused.out, refused.err)
    assert str(installed.folder) in refused.error["message"]
    assert "Traceback" not in refused.err
    assert shop.refunds() == 0


def test_a_full_disk_ends_a_single_refund_which_is_paid_once_there_is_room(shop: Shop, installed: Installation) -> None:
    assert installed.run("db", "upgrade").code == 0
    used = max(path.stat().st_size for path in installed.folder.iterdir())

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, used))

    full = installed.run(*CREATE, before=no_room)
    assert (full.code, full.error["code"]) in {(1, "database_full"), (1, "disk_full")}, (full.out, full.err)
    assert "free some space" in full.error["message"]
    assert "Traceback" not in full.err
    done = installed.run(*CREATE)
    assert (done.code, done.json["outcome"]) == (0, "paid"), done.err
    assert shop.refunds() == 1


def stamped(installed: Installation, version: str) -> str:
    """Give the database another version, as another program would; tells the one before."""
    with sqlite3.connect(installed.folder / "refundry.db", timeout=60) as connection:
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])
    connection.close()
    return str(before)


def test_of_two_versions_at_once_the_older_ends_and_leaves_the_database_to_the_newer(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    file = str(shop.file(tmp_path / "refunds.csv"))
    installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=5", "REFUNDRY_STRIPE__HEADROOM": "0"}
    with shop.server.turning_away(after=10):
        older = installed.start("batch", "run", file, "--yes", "--json")
        wait_for("refund 3", lambda: shop.refunds() >= 3 or older.poll() is not None)
        before = stamped(installed, "9999")
        ended_by_it = ended(older)
    assert (ended_by_it.code, ended_by_it.error["code"]) == (1, "database_newer"), ended_by_it.err
    assert "9999" in ended_by_it.error["message"]
    paid = shop.refunds()
    assert 3 <= paid < 60

    # What was accepted is there, and is paid by the program that the database belongs to.
    stamped(installed, before)
    installed.more["REFUNDRY_STRIPE__LIMITS"] = "none"
    done = installed.run("batch", "run", file, "--yes", "--json")
    assert (done.code, done.json["paid"]) == (0, 60), done.err
    shop.judge()


def test_a_process_whose_database_became_older_under_it_ends_and_the_next_upgrades_it(
    shop: Shop, postgres: PostgresServer, installed: Installation, tmp_path: Path
) -> None:
    file = str(shop.file(tmp_path / "refunds.csv"))
    installed.more |= {"REFUNDRY_STRIPE__LIMITS": "POST /v1/refunds=5", "REFUNDRY_STRIPE__HEADROOM": "0"}
    with postgres.made() as address:
        installed.more["REFUNDRY_DATABASE_URL"] = address
        with shop.server.turning_away(after=10):
            run = installed.start("batch", "run", file, "--yes", "--json")
            wait_for("refund 3", lambda: shop.refunds() >= 3 or run.poll() is not None)
            engine = sa.create_engine(address)
            # As version 0014 has left it.
            attempts = "ALTER TABLE refund_attempts"
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE INDEX ix_stripe_refunds_request ON stripe_refunds (request)")
                connection.exec_driver_sql(f"{attempts} DROP CONSTRAINT ck_refund_attempts_key")
                connection.exec_driver_sql(
                    f"{attempts} ADD CONSTRAINT uq_refund_attempts_idempotency_key UNIQUE (idempotency_key)"
                )
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0014'")
            engine.dispose()
            ended_by_it = ended(run)
        assert (ended_by_it.code, ended_by_it.error["code"]) == (1, "database_older"), ended_by_it.err

        installed.more["REFUNDRY_STRIPE__LIMITS"] = "none"
        done = installed.run("batch", "run", file, "--yes", "--json")
        assert (done.code, done.json["paid"]) == (0, 60), done.err
    shop.judge()


def test_what_standard_output_cannot_express_is_escaped_and_a_report_is_utf_8(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    file = shop.file(tmp_path / "€7.csv", order=[0, 1])
    file.write_text(file.read_text().replace("T-0", "Ł-0"), encoding="utf-8")
    installed.more["PYTHONIOENCODING"] = "latin-1"
    paid = installed.run("batch", "run", str(file), "--yes")
    assert paid.code == 0, (paid.out, paid.err)
    assert "\\u20ac7.csv" in paid.out
    listed = installed.run("batch", "list", "--json")
    (batch,) = listed.json["batches"]
    assert listed.out.isascii()
    assert batch["file"] == "€7.csv"
    report = installed.run("batch", "report", batch["batch_id"])
    assert report.out.splitlines()[1].startswith("Ł-0,o0,10.00,gbp,1,paid,")
    rows = json.loads(installed.run("batch", "report", batch["batch_id"], "--json").out)["rows"]
    assert rows[0]["input"]["ticket_id"] == "Ł-0"


def nowhere_with_room() -> None:
    """Lead standard output to a disk that is always full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed() -> None:
    """Start without a standard output."""
    os.close(1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [("--version",), ("refund", "list", "--json")])
def test_a_standard_output_that_cannot_be_written_is_one_sentence(
    installed: Installation, command: tuple[str, ...], unbuffered: str
) -> None:
    installed.more["PYTHONUNBUFFERED"] = unbuffered
    told = installed.run(*command, before=nowhere_with_room)
    assert told.code == 1
    assert "[output_unwritable]" in told.err
    assert told.err.count("\n") == 1, told.err
    # An error of the command's own comes first.
    told = installed.run("refund", "list", "--state", "none", "--json", before=nowhere_with_room)
    assert (told.code, told.err.count("\n"), "[state_unknown]" in told.err) == (2, 1, True), told.err


@pytest.mark.parametrize("command", [("--version",), ("refund", "list")])
def test_whoever_closes_standard_output_hears_nothing(installed: Installation, command: tuple[str, ...]) -> None:
    told = installed.run(*command, before=closed)
    assert (told.code, told.out, told.err) == (0, "", "")


def unheard() -> None:
    """Lead standard error to a disk that is always full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a disk that is always full")
def test_progress_and_logs_that_cannot_be_written_stop_no_refund(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    installed.more["REFUNDRY_LOG_LEVEL"] = "info"
    file = shop.file(tmp_path / "refunds.csv", order=[0, 1])
    paid = installed.run("batch", "run", str(file), "--yes", "--json", before=unheard)
    assert (paid.code, paid.json["paid"], paid.err) == (0, 2, "")
    # An error that cannot be told still has its exit code.
    assert installed.run("refund", "show", "none", before=unheard).code == 2
