"""A disk that fills up stops the work with a sentence; what was accepted is kept, and is paid once there is room."""

import resource
from pathlib import Path

import pytest

from tests.support.command import Installation, Shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_full_disk_ends_the_run_and_the_next_goes_on(shop: Shop, installed: Installation, tmp_path: Path) -> None:
    assert installed.run("db", "upgrade").code == 0
    refunds = str(shop.file(tmp_path / "refunds.csv"))
    used = max(path.stat().st_size for path in installed.folder.iterdir())

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (used + 300_000, used + 300_000))

    full = installed.run("batch", "run", refunds, "--yes", "--json", before=little_room)
    assert full.code == 1, (full.out, full.err)
    assert full.error["code"] in {"database_full", "disk_full"}
    assert "Traceback" not in full.err
    done = installed.run("batch", "run", refunds, "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json["paid"] == 60
    shop.judge()
