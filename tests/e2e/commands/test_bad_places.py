"""A place that cannot be written, a disk that is full, a program of another version: one sentence, and nothing paid or lost."""

import ctypes
import resource
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Installation, Shop, ended, wait_for

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
