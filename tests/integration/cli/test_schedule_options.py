"""Schedules at the command line: what cannot be kept takes nothing in, and what is waited for is said."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Run

pytestmark = pytest.mark.integration


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "refunds.csv"
    path.write_text("ticket_id,order_id,amount,currency\nT-1,o1,10.00,gbp\nT-2,o2,10.00,gbp\nT-3,o3,10.00,gbp\n")
    return str(path)


@pytest.mark.parametrize(
    ("flag", "value", "code"),
    [
        ("--between", "22:00-22:00 UTC", "window_impossible"),
        ("--between", "22:00-06:00 Europe/Nowhere", "time_zone_unknown"),
        ("--canary", "1,50", "canary_too_large"),
        ("--spread", "0h", "schedule_invalid"),
        ("--start-at", "2020-01-01 09:00 UTC", "start_in_the_past"),
        ("--start-at", "0001-01-01T00:00+23:59", "start_in_the_past"),
        ("--start-at", "9999-12-31T23:59:59-05:00", "start_too_far"),
    ],
)
def test_a_schedule_that_cannot_be_kept_takes_nothing_in(
    refundry: Run, file: str, flag: str, value: str, code: str
) -> None:
    told = refundry("batch", "run", file, "--yes", "--json", flag, value)
    assert (told.code, told.error["code"]) == (2, code), told.err
    assert told.error["option"] == flag
    assert refundry("batch", "list", "--json").json == {"batches": []}


def test_what_a_batch_waits_for_is_said_and_a_second_run_may_change_its_schedule(
    refundry: Run, refunds_of: Callable[[], int], file: str
) -> None:
    late = ("--start-at", "2099-11-28 09:00 Europe/Berlin")
    told = refundry("batch", "run", file, "--yes", "--no-wait", "--json", *late)
    assert told.code == 3, told.err
    assert told.json["waiting"] == 3
    schedule = told.json["schedule"]
    assert schedule["schedule"] == "from 2099-11-28 09:00 Europe/Berlin"
    assert (schedule["waits_for"], schedule["until"], schedule["halted"]) == ("start", 4_099_536_000.0, "")
    batch = told.json["batch_id"][:8]
    status = refundry("batch", "status", batch)
    assert "schedule: from 2099-11-28 09:00 Europe/Berlin" in status.out
    assert "begins at 2099-11-28 09:00 Europe/Berlin" in status.out
    paused = refundry("batch", "pause", batch, "--json")
    assert paused.json["schedule"]["waits_for"] == ""
    report = refundry("batch", "report", batch)
    assert [row["refundry_outcome"] for row in csv.DictReader(report.out.splitlines())] == ["waiting"] * 3
    assert refunds_of() == 0
    assert refundry("batch", "resume", batch, "--no-wait", "--json").json["schedule"]["waits_for"] == "start"

    done = refundry("batch", "run", file, "--yes", "--json", "--max-per-day", "30.00", "--keep-balance", "5")
    assert done.code == 0, done.err
    assert "its schedule was from 2099-11-28 09:00 Europe/Berlin, and is now at most 30.00 a day (UTC)" in done.err
    assert done.json["batch_id"][:8] == batch
    assert (done.json["paid"], done.json["state"]) == (3, "done")
    assert done.json["schedule"]["schedule"] == "at most 30.00 a day (UTC); keeping a balance of 5"
    assert refunds_of() == 3


def test_a_schedule_is_shown_with_the_totals_as_it_is_understood(refundry: Run, file: str) -> None:
    told = refundry("batch", "run", file, "--json", "--between", "22:00-6:00 Europe/Berlin", "--max-per-day", "50")
    assert (told.code, told.error["code"]) == (2, "not_confirmed")
    assert told.error["schedule"] == "22:00-06:00 Europe/Berlin; at most 50 a day (Europe/Berlin)"
    assert "to be sent: 22:00-06:00 Europe/Berlin" in told.err
    past = refundry("batch", "run", file, "--json", "--start-at", "2020-01-01 09:00 UTC")
    assert "that start is past" in past.error["schedule"]
    plan = refundry("batch", "plan", file, "--json").json["plan_id"]
    shown = refundry("batch", "apply", plan, "--between", "22:00-06:00 UTC")
    assert (shown.code, "to be sent: 22:00-06:00 UTC" in shown.err) == (2, True)
    large = refundry("batch", "apply", plan, "--canary", "1,50", "--json")
    assert (large.code, large.error["code"]) == (2, "canary_too_large")
