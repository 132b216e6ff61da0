"""A batch is watched by a process that neither pays it nor writes anything, and tells how it goes and when it is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from refundry.batches import service as batches
from refundry.infra.db import Database
from refundry.kernel.clock import SystemClock
from refundry.refunds import repository
from refundry.refunds.model import Content, RefundRequest, State
from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration
HEAD = "order_id,amount,reason,ticket_id\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "refunds.csv"
    rows = [f"o{at},1.00,requested_by_customer,T{at}\n" for at in range(3)] + [
        "nowhere,1.00,requested_by_customer,T9\n"
    ]
    path.write_text(HEAD + "".join(rows))
    return path


def test_a_batch_that_is_over_is_told_once_with_the_exit_code_of_its_status(refundry: Run, file: Path) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--json").json["batch_id"]
    status = refundry("batch", "status", batch, "--json")
    watched = refundry("batch", "watch", batch[:8])
    assert watched.code == status.code == 3
    assert len(watched.out.splitlines()) == 1
    assert (
        "4 of 4 rows; done; rows 3 paid, 1 refused, 0 failed, 0 unknown, 0 waiting; money paid 3.00 GBP of 3.00 GBP"
        in watched.out
    )
    assert "not paid 1 order_unknown" in watched.out
    assert "refundry batch report" in watched.err


@pytest.mark.parametrize("flags", [(), ("--follow",)])
def test_as_json_it_is_one_object_with_all_that_the_status_tells(
    refundry: Run, file: Path, flags: tuple[str, ...]
) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--json").json["batch_id"]
    watched = refundry("batch", "watch", batch, "--json", *flags)
    status = refundry("batch", "status", batch, "--json").json
    assert {name: watched.json[name] for name in status} == status
    assert (watched.json["over"], watched.json["executing"], watched.json["failures"]) == (
        True,
        False,
        {"order_unknown": 1},
    )
    assert watched.code == 3


def test_one_that_waits_is_told_once_and_says_that_nobody_works_on_it(refundry: Run, file: Path) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--no-wait", "--json").json["batch_id"]
    once = refundry("batch", "watch", batch, "--once")
    assert once.code == 3
    assert "0 of 4 rows; " in once.out
    refundry("batch", "pause", batch)
    paused = refundry("batch", "watch", batch, "--json").json
    assert (paused["state"], paused["over"], paused["waiting"]) == ("paused", False, 4)


def test_all_that_is_in_doubt_is_counted(refundry: Run, file: Path, tmp_path: Path) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--no-wait", "--json").json["batch_id"]
    database = Database(f"sqlite:///{tmp_path / 'state' / 'refundry.db'}", SystemClock())
    with database.unit() as unit:
        account, later = batches.need(unit, batch).account, unit.now + 1_000_000
        # As after an outage of Stripe's.
        repository.insert(
            unit,
            [
                replace(submitting(f"doubt_{number}"), account=account, due_at=later + number * 3600)
                for number in range(1200)
            ],
        )
    database.close()
    watched = refundry("batch", "watch", batch, "--once", "--json").json
    assert watched["in_doubt"] == 1200
    assert watched["next_look_seconds"] <= 1_000_000


def started(stripe: Server, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    usual = {
        "STRIPE_SECRET_KEY": "sk_test_sim", "REFUNDRY_STRIPE__API_BASE": stripe.url, "REFUNDRY_STATE_DIR": str(tmp_path / "state"),
    }  # fmt: skip
    command, pipe = [sys.executable, "-m", "refundry", *arguments], subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, **usual}, stdout=pipe, stderr=pipe, text=True)  # noqa: S603, TID251  # our own program


def submitting(name: str) -> RefundRequest:
    content = Content(charge=name, asked_minor=100, currency="gbp", reason="requested_by_customer")
    return RefundRequest(name, "", name, content, state=State.SUBMITTING, amount_minor=100)


def test_one_that_nobody_knows_is_refused(refundry: Run) -> None:
    assert "[batch_unknown]" in refundry("batch", "watch", "feed").err


def test_ctrl_c_ends_the_watching_and_says_that_the_batch_goes_on(
    refundry: Run, stripe: Server, file: Path, tmp_path: Path
) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--no-wait", "--json").json["batch_id"]
    refundry("batch", "pause", batch)
    with started(stripe, tmp_path, "batch", "watch", batch, "--json", "--follow") as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["state"] == "paused"
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"the batch itself goes on. To stop it: `refundry batch pause {batch[:8]}`" in errors
    assert refundry("batch", "status", batch, "--json").json["state"] == "paused"


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGINT])
def test_a_wish_to_end_that_is_said_again_and_again_ends_it_with_the_exit_code_of_one(
    refundry: Run, stripe: Server, file: Path, tmp_path: Path, wish: signal.Signals
) -> None:
    batch = refundry("batch", "run", str(file), "--yes", "--no-wait", "--json").json["batch_id"]
    refundry("batch", "pause", batch)
    with started(stripe, tmp_path, "batch", "watch", batch, "--json", "--follow") as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["state"] == "paused"
        # Wherever it is: while it looks, clears up, tells its end, or is in the interpreter's own end.
        while watching.poll() is None:
            watching.send_signal(wish)
        _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, "Traceback" in errors) == (130, False), errors


def test_who_watches_loads_nothing_that_pays() -> None:
    code = "import sys, refundry.cli.batch_watch; sys.exit('dbos' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  # our own program
