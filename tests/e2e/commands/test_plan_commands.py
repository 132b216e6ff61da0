"""`batch plan` and `batch apply` as a person types them: exactly the plan is paid, by Stripe's own books."""

from __future__ import annotations

import csv
import json
import signal
import socket
from pathlib import Path

import pytest
import stripe

from tests.support.command import Installation, Shop, ended, wait_for
from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def stripe_of(shop: Shop) -> stripe.StripeClient:
    """Open Stripe as somebody else's program does."""
    return stripe.StripeClient("sk_test_sim", base_addresses={"api": shop.server.url})


def calls(shop: Shop, *operations: str) -> int:
    """Count the calls of some operations."""
    made = shop.server.control("GET /_sim/calls")["operations"]
    return sum(made.get(operation, {}).get("calls", 0) for operation in operations)


def test_exactly_the_plan_is_paid_and_a_charge_that_has_changed_is_not(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    refunds, written = shop.file(tmp_path / "refunds.csv", o9="777.00"), tmp_path / "plan.jsonl"
    planned = installed.run("batch", "plan", str(refunds), "-o", str(written), "--json")
    assert planned.code == 3, planned.err
    told = planned.json
    assert (told["rows"], told["payable"], told["reasons"]) == (60, 59, {"amount_exceeds_refundable": 1})
    assert told["amounts"]["gbp"]["payable"] == sum(1000 + at for at in range(60) if at != 9)
    assert told["fees_kept"]["gbp"] > 0
    assert shop.refunds() == 0

    shown = installed.ask("batch", "apply", str(written))
    assert (shown.code, shop.refunds()) == (2, 0)
    assert "59 payable, 1 refused" in shown.out

    # Somebody refunds a part of an order by hand, in Stripe's Dashboard.
    charge = json.loads(written.read_text().splitlines()[1 + 4])[5]
    stripe_of(shop).v1.refunds.create({"charge": charge, "amount": 123})
    # Stripe tells of it only by an event, which may be lost: the look before paying must not be the plan's.
    installed.more["REFUNDRY_PAY__LOOK_MAX_AGE"] = "0"
    paid = installed.run("batch", "apply", str(written), "--yes", "--json")
    assert paid.code == 3, paid.err
    assert (paid.json["paid"], paid.json["reasons"]) == (58, {"amount_exceeds_refundable": 1, "changed_since_plan": 1})
    report = installed.ask("batch", "report", paid.json["batch_id"])
    (row,) = [line for line in csv.DictReader(report.out.splitlines()) if line["refundry_code"] == "changed_since_plan"]
    assert row["order_id"] == "o4"
    assert "1.23 GBP" in row["refundry_why"]
    assert shop.refunds() == 58 + 1

    again = installed.run("batch", "apply", told["plan_id"], "--yes", "--json")
    assert again.json["paid"] == 58
    assert shop.refunds() == 58 + 1


def test_a_plan_altered_by_hand_or_of_another_database_is_refused(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    refunds, written = shop.file(tmp_path / "refunds.csv", [1, 2]), tmp_path / "plan.jsonl"
    plan = installed.run("batch", "plan", str(refunds), "-o", str(written), "--json").json
    altered = tmp_path / "altered.jsonl"
    altered.write_text(written.read_text().replace(",1001,", ",9001,"))
    assert altered.read_text() != written.read_text()
    refused = installed.ask("batch", "apply", str(altered), "--yes", "--json")
    assert (refused.code, refused.error["code"]) == (1, "plan_altered"), refused.out

    elsewhere = Installation(tmp_path / "elsewhere", shop.server.url)
    unknown = elsewhere.ask("batch", "apply", str(written), "--yes", "--json")
    assert (unknown.code, unknown.error["code"]) == (2, "plan_unknown"), unknown.out
    blank = tmp_path / "blank.jsonl"
    blank.write_text(written.read_text() + "\n[3]\n")
    refused = installed.ask("batch", "apply", str(blank), "--yes", "--json")
    assert (refused.code, refused.error["code"]) == (1, "plan_altered"), refused.out
    nobody = installed.ask("batch", "apply", "x" * 5000, "--yes", "--json")
    assert (nobody.code, nobody.error["code"]) == (2, "plan_unknown"), nobody.out
    no_plan = installed.ask("batch", "apply", str(refunds), "--yes", "--json")
    assert (no_plan.code, no_plan.error["code"]) == (2, "plan_unreadable"), no_plan.out
    assert shop.refunds() == 0
    assert installed.run("batch", "apply", plan["plan_id"][:8], "--yes").code == 0
    assert shop.refunds() == 2


def test_a_killed_apply_goes_on_and_pays_once(shop: Shop, installed: Installation, tmp_path: Path) -> None:
    refunds = shop.file(tmp_path / "refunds.csv")
    plan = installed.run("batch", "plan", str(refunds), "--json").json["plan_id"]
    shop.server.control(
        "POST /_sim/faults", {"seed": 1, "rules": [{"kind": "latency", "operation": "*", "low": 20, "high": 60}]}
    )
    process = installed.start("batch", "apply", plan, "--yes", "--json")
    wait_for("some refunds", lambda: calls(shop, "POST /v1/refunds") >= 7)
    process.kill()
    ended(process)
    assert installed.run("batch", "apply", plan, "--yes", "--json").json["paid"] == 60
    shop.judge()


def test_a_fresh_plan_saves_the_look_also_over_a_restart(tmp_path: Path) -> None:
    with Server(start=None) as server:
        shop = Shop.opened(server, 300)
        charges = [charge.id for charge in stripe_of(shop).v1.charges.list({"limit": 100}).auto_paging_iter()]
        refunds = tmp_path / "refunds.csv"
        rows = "".join(f"{charge},1.00,T-{at}\n" for at, charge in enumerate(charges))
        refunds.write_text("charge_id,amount,ticket_id\n" + rows)
        listed = calls(shop, "GET /v1/charges")
        installed = Installation(tmp_path / "state", server.url)
        plan = installed.run("batch", "plan", str(refunds), "--look-max-age", "60", "--json")
        assert plan.code == 0, plan.err
        # Some of the charges one by one, to learn of which time they are, and the others by the hundred.
        assert calls(shop, "GET /v1/charges", "GET /v1/charges/{charge}") <= listed + 20 + 4
        before = calls(shop, "GET /v1/charges", "GET /v1/charges/{charge}")
        paid = installed.run("batch", "apply", plan.json["plan_id"], "--yes", "--json")
        assert paid.json["paid"] == 300, paid.err
        assert calls(shop, "POST /v1/refunds") == 300
        assert calls(shop, "GET /v1/charges", "GET /v1/charges/{charge}") == before


def test_ctrl_c_is_answered_while_stripe_does_not_answer(shop: Shop, installed: Installation, tmp_path: Path) -> None:
    file = shop.file(tmp_path / "refunds.csv")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        installed.url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        planning = installed.start("batch", "plan", str(file))
        asked, _ = deaf.accept()
        with asked:
            planning.send_signal(signal.SIGINT)
            told = ended(planning)
    assert (told.code, told.out) == (130, "")
    assert "interrupted" in told.err
    assert "the same command goes on" in told.err


def test_a_plan_looks_itself_at_charges_that_a_command_before_it_has_looked_at(
    shop: Shop, installed: Installation, tmp_path: Path
) -> None:
    refunds, written = shop.file(tmp_path / "refunds.csv"), tmp_path / "plan.jsonl"
    assert installed.run("batch", "plan", str(refunds), "-o", str(written)).code == 0
    # Nobody reads events between two commands.
    charge = json.loads(written.read_text().splitlines()[1 + 4])[5]
    stripe_of(shop).v1.refunds.create({"charge": charge, "amount": 1004})
    again = installed.run("batch", "plan", str(refunds), "--json")
    assert again.code == 3, again.err
    assert (again.json["payable"], again.json["reasons"]) == (59, {"possible_repeat": 1})
    assert again.json["repeat_rows"] == [5]
