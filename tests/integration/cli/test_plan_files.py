"""A plan's file and other files that are written: only what was planned is applied, and nothing is overwritten that was not meant."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from refundry.cli.output import moment
from refundry.plans.model import hashed
from tests.integration.cli.conftest import Run, Told
from tests.support.server import Server
from tests.support.stripe_call import called

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


def test_a_plan_that_is_not_confirmed_is_told_as_one_json_object(refundry: Run, refunds: Path) -> None:
    plan = refundry("batch", "plan", str(refunds), "--json").json
    told = refundry("batch", "apply", plan["plan_id"], "--json")
    assert (told.code, told.error["code"], told.error["payable"]) == (2, "not_confirmed", 2)
    assert refundry("batch", "apply", plan["plan_id"]).out.startswith(f"Plan {plan['plan_id'][:8]} of ")


def test_a_plan_that_was_applied_is_not_told_to_be_unpaid(refundry: Run, refunds: Path) -> None:
    plan = refundry("batch", "plan", str(refunds), "--json").json
    assert refundry("batch", "apply", plan["plan_id"], "--yes").code == 0
    told = refundry("batch", "apply", plan["plan_id"], "--json")
    assert (told.code, told.error["code"], told.error["state"]) == (2, "not_confirmed", "applied")
    assert "was applied already" in told.error["message"]
    assert f"refundry batch status {plan['batch_id'][:8]}" in told.error["message"]
    assert "nothing was paid" not in told.error["message"]


def test_a_plan_names_a_row_and_its_column_for_each_reason(refundry: Run, refunds: Path) -> None:
    refunds.write_text("order_id,amount,ticket_id\no0,1e308,a\no1,2.00,b\no2,NaN,c\no3,-1.00,d\n")
    plan = refundry("batch", "plan", str(refunds), "--json").json
    assert plan["reasons"] == {"amount_not_positive": 1, "amount_unreadable": 2}
    assert {code: one["row"] for code, one in plan["examples"].items()} == {
        "amount_not_positive": 4,
        "amount_unreadable": 1,
    }
    assert plan["examples"]["amount_unreadable"]["text"].startswith("amount: '1e308' is not an amount")
    words = refundry("batch", "apply", plan["plan_id"]).out
    assert "row 1: amount: '1e308' is not an amount" in words
    assert "row 4: amount: the amount is -1.00" in words


def test_a_balance_that_stripe_did_not_tell_is_not_laid_at_the_keys_door(
    refundry: Run, stripe: Server, refunds: Path
) -> None:
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "operation": "GET /v1/balance"}]})
    told = refundry("batch", "plan", str(refunds))
    assert "pays 3.00 GBP; the balance could not be read" in told.out, told.out
    assert "key" not in told.out


def test_what_was_refunded_and_is_still_shown_as_available_is_taken_off_the_balance(
    refundry: Run, stripe: Server, refunds: Path
) -> None:
    paid = ("refund", "create", "--order", "o2", "--amount", "7.00", "--reason", "duplicate")
    assert refundry(*paid).code == 0
    (shown,) = (it["amount"] for it in called(stripe, "GET /v1/balance")["available"] if it["currency"] == "gbp")
    planned = refundry("batch", "plan", str(refunds), "--json").json["amounts"]["gbp"]
    assert planned["balance"] == shown - 700


def test_what_others_refunded_and_nobody_has_followed_is_taken_off_the_balance_too(
    refundry: Run, stripe: Server, tmp_path: Path
) -> None:
    # No orders: to find those all charges are listed, and the refunds by others come with them.
    ours, theirs = (charge["id"] for charge in called(stripe, "GET /v1/charges?limit=2")["data"])
    file = tmp_path / "one.csv"
    file.write_text(f"charge_id,amount,currency,ticket_id\n{ours},1.00,gbp,T-1\n")
    called(stripe, "POST /v1/refunds", charge=theirs, amount=100)
    (shown,) = (it["amount"] for it in called(stripe, "GET /v1/balance")["available"] if it["currency"] == "gbp")
    planned = refundry("batch", "plan", str(file), "--json").json["amounts"]["gbp"]
    assert planned["balance"] == shown - 100


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


def written_by(refundry: Run, refunds: Path, what: str) -> Callable[[Path], Told]:
    """Make the command that writes a plan, or a report, of a file."""
    if what == "plan":
        return lambda to: refundry("batch", "plan", str(refunds), "-o", str(to))
    batch = refundry("batch", "run", str(refunds), "--yes", "--json").json["batch_id"]
    return lambda to: refundry("batch", "report", batch, "-o", str(to))


@pytest.mark.parametrize("what", ["plan", "report"])
def test_where_a_link_leads_is_written_and_the_link_stays(
    refundry: Run, refunds: Path, tmp_path: Path, what: str
) -> None:
    write = written_by(refundry, refunds, what)
    real, link, dangling, loop = (tmp_path / name for name in ("real", "link", "dangling", "loop"))
    real.write_text("old")
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "new")
    loop.symlink_to(loop)
    for to, place in ((link, real), (dangling, tmp_path / "new")):
        told = write(to)
        assert (told.code, to.is_symlink(), len(place.read_text().splitlines())) == (0, True, 3), told.err
    told = write(loop)
    assert (told.code, loop.is_symlink()) == (2, True)
    assert "[output_unwritable]" in told.err


@pytest.mark.parametrize("what", ["plan", "report"])
def test_a_pipe_is_written_to_and_stays_one(refundry: Run, refunds: Path, tmp_path: Path, what: str) -> None:
    write = written_by(refundry, refunds, what)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        told = write(pipe)
        assert (told.code, pipe.is_fifo(), len(os.read(reading, 65_536).splitlines())) == (0, True, 3), told.err
    finally:
        os.close(reading)


@pytest.mark.parametrize("what", ["plan", "report"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_file_of_refunds_itself_is_never_written_over(
    refundry: Run, refunds: Path, tmp_path: Path, what: str, *, packed: bool
) -> None:
    if packed:
        refunds.write_bytes(gzip.compress(refunds.read_bytes()))
    before = refunds.read_bytes()
    write = written_by(refundry, refunds, what)
    link = tmp_path / "link"
    link.symlink_to(refunds)
    for to in (refunds, link):
        told = write(to)
        assert (told.code, refunds.read_bytes()) == (2, before)
        assert "[output_is_input]" in told.err
    assert link.is_symlink()
    if what == "plan":
        assert refundry("batch", "list", "--json").json["batches"] == []


def test_a_file_that_is_piped_in_is_not_written_over_either(
    refundry: Run, refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refunds.open() as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stream)
        told = refundry("batch", "plan", "-", "-o", str(refunds))
    assert (told.code, refunds.read_text()) == (2, TWO)
    assert "[output_is_input]" in told.err


@pytest.mark.parametrize(("name", "shown"), [(b"r\xe9.csv", "r\\xe9.csv"), (b"r\x1b[31m\n.csv", "r\\x1b[31m\\n.csv")])
def test_a_file_of_any_name_is_paid_and_its_name_shown_harmless(
    refundry: Run, refunds: Path, tmp_path: Path, name: bytes, shown: str
) -> None:
    odd = refunds.rename(tmp_path / os.fsdecode(name))
    missing = refundry("batch", "plan", str(tmp_path / "nowhere" / os.fsdecode(name)), "--json")
    assert (missing.code, missing.error["code"], missing.error["file"]) == (2, "file_missing", shown)
    for arguments in (("plan", str(odd)), ("run", str(odd), "--yes"), ("list",)):
        told = refundry("batch", *arguments)
        assert (told.code, shown in told.out + told.err) == (0, True), told.err
        assert "\x1b" not in told.out + told.err


def test_rows_that_only_a_ticket_tells_apart_are_not_advised_to_be_allowed(refundry: Run, refunds: Path) -> None:
    refunds.write_text("order_id,amount\no0,1.00\no0,1.00\n")
    told = refundry("batch", "plan", str(refunds))
    assert "possible repeats: rows 2; for those that are none give a ticket_id or a request_key" in told.out, told.out
    assert "--allow-repeat" not in told.out


def test_a_file_that_was_paid_before_it_is_planned_is_not_told_to_be_running(refundry: Run, refunds: Path) -> None:
    batch = refundry("batch", "run", str(refunds), "--yes", "--json").json["batch_id"]
    told = refundry("batch", "plan", str(refunds), "--json")
    assert (told.code, told.error["code"], told.error["batch"]) == (1, "batch_not_waiting", batch), told.err
    assert f"refundry batch status {batch[:8]}" in told.error["message"]
    assert "running" not in told.error["message"]


def test_a_file_that_was_withdrawn_is_told_to_be_so_when_it_is_planned_anew(refundry: Run, refunds: Path) -> None:
    planned = refundry("batch", "plan", str(refunds), "--json").json
    retried = refundry("batch", "retry", planned["batch_id"], "--json")
    assert (retried.code, retried.error["code"]) == (1, "plan_not_applied"), retried.err
    assert refundry("batch", "withdraw", planned["batch_id"]).code == 0
    applied = refundry("batch", "apply", planned["plan_id"], "--yes", "--json")
    assert (applied.code, applied.error["code"]) == (1, "batch_withdrawn"), applied.err
    anew = refundry("batch", "plan", str(refunds), "--json")
    assert (anew.code, anew.error["code"]) == (1, "batch_not_waiting"), anew.err
    assert "was withdrawn" in anew.error["message"]


def test_a_plan_tells_when_it_was_made_since_its_balance_is_of_then(refundry: Run, refunds: Path) -> None:
    plan = refundry("batch", "plan", str(refunds), "--json").json
    told = refundry("batch", "apply", plan["plan_id"]).out
    assert told.startswith(f"Plan {plan['plan_id'][:8]} of {plan['file']}, made {moment(plan['made_at'])}, acct_"), told
