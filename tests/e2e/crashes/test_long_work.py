"""What takes long keeps the promises too: plans, stages over days, several accounts, by processes that die. Large counts: `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import accounts_run, plan_run, stage_run
from tests.support.database import PostgresServer
from tests.support.disturbed import Trouble
from tests.support.fault_run import SEND, Rule
from tests.support.stage_run import Stages

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
# Few, so that no back-off is waited out again and again. Stored 500s take longer: the soak has them.
FAULTS: tuple[Rule, ...] = tuple(
    {"kind": kind, "operation": SEND, "at": [at]}
    for at, kind in ((4, "drop_before"), (7, "drop_after"), (9, "rate_limit"))
)


def test_exactly_the_plan_is_paid_though_planning_jumps_and_applying_is_killed(tmp_path: Path) -> None:
    plan_run.play(
        tmp_path, 40, seed=41, server=None, planning=Trouble(jumps=1), applying=Trouble(kills=1), rules=FAULTS
    )


def test_exactly_the_plan_is_paid_though_planning_is_killed_and_applying_jumps(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    # On Postgres what a killed worker had under way waits for its lease to end: that is the soak's.
    plan_run.play(tmp_path, 40, seed=42, server=postgres, planning=Trouble(kills=1), applying=Trouble(jumps=1))


def test_stages_a_halt_and_a_days_maximum_are_kept_over_kills(tmp_path: Path) -> None:
    stages = Stages(canary=(1, 10), days=2)
    stage_run.play(tmp_path, 40, seed=43, server=None, stages=stages, halting=Trouble(), daily=Trouble(), rules=FAULTS)


def test_each_account_is_paid_by_its_own_key_though_one_is_refused_and_the_worker_is_killed(tmp_path: Path) -> None:
    accounts_run.play(tmp_path, 20, seed=44, server=None, trouble=Trouble(kills=1))


def test_each_account_is_paid_by_its_own_key_though_one_is_refused_and_a_worker_of_two_is_stopped(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    accounts_run.play(tmp_path, 20, seed=45, server=postgres, trouble=Trouble(stops=1), rules=FAULTS)
