"""A plan's file and other files that are written: only what was planned is applied, and nothing is overwritten that was not meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from refundry.plans.model import hashed
from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration

TWO = "order_id,amount,ticket_id\no0,1.00,a\no1,2.00,b\n"


@pytest.fixture
def refunds(tmp_path: Path) -> Path:
    path = tmp_path / "refunds.csv"
    path.write_text(TWO)
    return path


def test_a_plan_whose_hash_was_computed_anew_is_altered_all_the_same(
    refundry: Run, refunds_of: Callable[[], int], refunds: Path, tmp_path: Path
) -> None:
    written = tmp_path / "plan.jsonl"
    plan = refundry("batch", "plan", str(refunds), "-o", str(written), "--json").json
    head, *rows = written.read_text().splitlines()
    rows[1] = json.dumps([cell if at != 6 else 100 for at, cell in enumerate(json.loads(rows[1]))])
    told = json.loads(head)
    head = json.dumps(told | {"hash": hashed(told["header"], rows)})
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join([head, *rows]) + "\n")
    for more in ((), ("--yes",)):
        refused = refundry("batch", "apply", str(altered), "--json", *more)
        assert (refused.code, refused.error["code"], refused.error["plan"]) == (1, "plan_altered", plan["plan_id"])
    assert refunds_of() == 0
    assert refundry("batch", "apply", str(written), "--yes", "--json").json["paid"] == 2


def test_a_charge_that_stripe_does_not_have_any_more_refuses_its_own_rows(
    refundry: Run, stripe: Server, refunds: Path
) -> None:
    lost = {"order_id": "lost", "amount_minor": 10_000, "currency": "gbp", "created": 1_780_000_100}
    stripe.control("POST /_sim/load", {"charges": [lost]})
    refunds.write_text(TWO + "lost,3.00,c\n")
    anew = {"REFUNDRY_PAY__LOOK_MAX_AGE": "0"}
    assert refundry("batch", "plan", str(refunds), "--json", **anew).json["payable"] == 3
    stripe.forget()
    told = refundry("batch", "plan", str(refunds), "--json", **anew)
    assert (told.code, told.json["payable"], told.json["reasons"]) == (3, 2, {"order_unknown": 1}), told.err
