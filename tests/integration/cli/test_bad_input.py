"""Whatever is wrong with a key, a place, a database or a file: a sentence that names it, the right exit code, and nothing paid."""

import gzip
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration

GOOD = "ticket_id,order_id,amount,currency\nT-1,o1,10.00,gbp\n"


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("settings", "code", "exit_code", "named"),
    [
        ({"STRIPE_SECRET_KEY": None}, "stripe_key_missing", 2, "STRIPE_SECRET_KEY"),
        ({"STRIPE_SECRET_KEY": "hello"}, "stripe_key_wrong", 2, "STRIPE_SECRET_KEY"),
        ({"STRIPE_SECRET_KEY": "pk_test_1"}, "stripe_key_wrong", 2, "publishable"),
        ({"STRIPE_SECRET_KEY": "sk_live_1"}, "stripe_key_of_other_mode", 2, "REFUNDRY_MODE"),
        (
            {"STRIPE_SECRET_KEY": "sk_live_1", "REFUNDRY_MODE": "live"},
            "live_key_to_other_base",
            2,
            "REFUNDRY_STRIPE__API_BASE",
        ),
        ({"STRIPE_SECRET_KEY": "sk_test_nobodys"}, "stripe_key_refused", 1, "key"),
        ({"REFUNDRY_STRIPE__API_BASE": "http://127.0.0.1:9"}, "stripe_unreachable", 1, "network"),
        ({"REFUNDRY_STRIPE__ACCOUNT": "acct_other"}, "account_disagrees", 2, "acct_other"),
        ({"REFUNDRY_STRIPE__HEADROOM": "2"}, "setting_wrong", 2, "REFUNDRY_STRIPE__HEADROOM"),
        ({"REFUNDRY_STRIPE__LIMITS": "much"}, "limits_wrong", 2, "much"),
        (
            {"REFUNDRY_STRIPE__LIMITS": "global=100,endpoint=25,POST /v1/refund=5"},
            "limits_wrong",
            2,
            "DELETE /v1/webhook_endpoints/{webhook_endpoint}, GET /v1/account",
        ),
        ({"REFUNDRY_DATABASE_URL": "mysql://x"}, "database_url_wrong", 2, "REFUNDRY_DATABASE_URL"),
        ({"REFUNDRY_STATE_DIR": "/proc/refundry"}, "state_dir_unusable", 1, "REFUNDRY_STATE_DIR"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_a_wrong_setting_is_named_and_nothing_is_paid(
    refundry: Run,
    refunds_of: Callable[[], int],
    tmp_path: Path,
    settings: dict[str, str | None],
    code: str,
    exit_code: int,
    named: str,
) -> None:
    file = written(tmp_path / "refunds.csv", GOOD)
    told = refundry("batch", "run", file, "--yes", "--json", **settings)
    assert (told.code, told.error["code"]) == (exit_code, code), told.err
    assert named in told.error["message"]
    assert f"error: {told.error['message']} [{code}]" in told.err
    assert refunds_of() == 0


@pytest.mark.parametrize(
    "of",
    [
        "refund show X",
        "batch withdraw X --why x",
        "inbox list --charge X",
        "outbox list --order X",
        "task resolve x --how noted --note X",
    ],
)
def test_an_argument_that_is_no_text_is_wrong_usage(refundry: Run, of: str) -> None:
    told = refundry(*of.replace("X", "\udcff").split(), "--json")
    assert (told.code, told.error["code"]) == (2, "argument_not_utf8"), told.err
    assert "\\xff" in told.error["message"]


def test_a_charge_that_is_mistyped_is_told_by_the_option_that_names_it(refundry: Run) -> None:
    for option in ("--charge", "--payment-intent", "--order"):
        told = refundry("refund", "create", option, " ", "--full", "--reason", "duplicate", "--json")
        assert (told.code, told.error["message"].split()[0]) == (2, option), told.err


def test_a_currency_that_is_given_and_empty_is_checked_all_the_same(
    refundry: Run, refunds_of: Callable[[], int]
) -> None:
    told = refundry("refund", "create", "--order", "o1", "--full", "--reason", "duplicate", "--currency", "", "--json")
    assert (told.code, told.error["code"]) == (2, "currency_unknown"), told.err
    assert refunds_of() == 0


def test_a_state_directory_under_a_file_is_refused(refundry: Run, tmp_path: Path) -> None:
    blocked = written(tmp_path / "file", "")
    told = refundry("batch", "list", "--json", REFUNDRY_STATE_DIR=f"{blocked}/state")
    assert (told.code, told.error["code"]) == (1, "state_dir_unusable")


def test_a_revoked_key_is_refused(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    stripe.control("POST /_sim/keys", {"secret": "sk_test_old"})
    stripe.control("POST /_sim/keys/sk_test_old/expire", {})
    told = refundry(
        "batch", "run", written(tmp_path / "f.csv", GOOD), "--yes", "--json", STRIPE_SECRET_KEY="sk_test_old"
    )
    assert (told.code, told.error["code"]) == (1, "stripe_key_refused"), told.err


def test_a_key_that_may_not_refund_ends_the_run_with_rows_waiting(
    refundry: Run, refunds_of: Callable[[], int], stripe: Server, tmp_path: Path
) -> None:
    rights = ["account_read", "charge_read", "payment_intent_read", "dispute_read", "refund_read", "balance_read"]
    stripe.control("POST /_sim/keys", {"secret": "rk_test_reads", "permissions": rights})
    file = written(tmp_path / "f.csv", GOOD)
    told = refundry(
        "batch",
        "run",
        file,
        "--yes",
        "--json",
        STRIPE_SECRET_KEY="rk_test_reads",
        REFUNDRY_STRIPE__ACCOUNT=stripe.account,
    )
    assert told.code == 3, told.err
    assert (told.json["rows"], told.json["waiting"], told.json["paid"]) == (1, 1, 0)
    assert "[key_refused]" in told.err
    assert refunds_of() == 0
    # With a key that may, the same command goes on.
    assert refundry("batch", "run", file, "--yes", "--json").json["paid"] == 1
    assert refunds_of() == 1


def test_a_key_that_may_not_even_list_charges_ends_the_run(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    stripe.control("POST /_sim/keys", {"secret": "rk_test_blind", "permissions": ["refund_write"]})
    file = written(tmp_path / "f.csv", GOOD)
    told = refundry(
        "batch",
        "run",
        file,
        "--yes",
        "--json",
        STRIPE_SECRET_KEY="rk_test_blind",
        REFUNDRY_STRIPE__ACCOUNT=stripe.account,
    )
    assert told.code == 3, told.err
    assert told.json["waiting"] == 1
    assert "[key_refused]" in told.err


def test_a_database_of_a_newer_version_is_left_alone(refundry: Run, tmp_path: Path) -> None:
    assert refundry("db", "upgrade").code == 0
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    told = refundry("batch", "list", "--json")
    assert (told.code, told.error["code"]) == (1, "database_newer")
    assert "9999" in told.error["message"]


def test_a_database_of_another_account_is_refused(refundry: Run, tmp_path: Path) -> None:
    file = written(tmp_path / "f.csv", GOOD)
    with Server("--seed", "99", start=None) as other:
        assert refundry("batch", "run", file, "--yes", REFUNDRY_STRIPE__API_BASE=other.url).code == 3
    told = refundry("batch", "run", file, "--yes", "--json")
    assert (told.code, told.error["code"]) == (2, "database_of_other_account"), told.err


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (b"", "file_empty", "refunds.csv"),
        (b"\x00\x01\x02\x00", "file_binary", "refunds.csv"),
        (b"PK\x03\x04\x00", "workbook_unreadable", "refunds.csv"),
        (gzip.compress(b"\0" * 10**7), "file_binary", "line 1"),
        (b"order_id,amount\no1," + b"1" * 10**6 + b"\n", "record_too_long", "line 2"),
        ("ticket_id,amount\nT-1,10.00\n", "no_reference_column", "refunds.csv"),
        ("order_id,ticket_id\no1,T-1\n", "no_amount_column", "refunds.csv"),
        ("order_id,Amount\no1,10.00\n", "column_misnamed", "Amount"),
        ("order_id,amount\no1,10,00\n", "cells_surplus", "line 2"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_a_broken_file_is_refused_as_a_whole(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path, content: str | bytes, code: str, named: str
) -> None:
    told = refundry("batch", "run", written(tmp_path / "refunds.csv", content), "--yes", "--json")
    assert (told.code, told.error["code"]) == (2, code), told.err
    assert named in told.error["message"]
    assert refunds_of() == 0


def test_the_same_file_by_standard_input_goes_on_with_the_same_batch(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"Ticket no;order_id;amount\nT-1;o1;10,50\n"
    said = ("--yes", "--json", "--decimal", ",", "--map", "Ticket no=ticket_id")
    first = refundry("batch", "run", written(tmp_path / "f.csv", content), *said)
    assert (first.code, first.json["amounts"]) == (0, {"gbp": {"requested": 1050, "paid": 1050}}), first.err
    assert "f.csv: cells are separated by semicolons" in first.err
    with (tmp_path / "f.csv.gz").open("w+b") as packed:
        packed.write(gzip.compress(content))
        packed.seek(0)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(packed))
        again = refundry("batch", "run", "-", *said)
    assert (again.code, again.json["batch_id"]) == (0, first.json["batch_id"]), again.err
    assert refunds_of() == 1


@pytest.mark.parametrize(
    "option",
    [
        ("--format", "ods"), ("--delimiter", "ab"), ("--delimiter", "0"), ("--delimiter", '"'), ("--encoding", "latin-9"), ("--decimal", ";"),
        ("--map", "order_id"), ("--map", "=order_id"), ("--blank-amount", "zero"),
    ],
)  # fmt: skip
def test_an_option_of_a_file_that_is_not_possible_is_named(
    refundry: Run, tmp_path: Path, option: tuple[str, str]
) -> None:
    told = refundry("batch", "run", written(tmp_path / "f.csv", GOOD), "--yes", "--json", *option)
    assert (told.code, told.error["code"], told.error["option"]) == (2, "usage", option[0])


def test_a_report_is_no_csv_under_the_name_of_a_workbook(refundry: Run, tmp_path: Path) -> None:
    batch = refundry("batch", "run", written(tmp_path / "f.csv", GOOD), "--yes", "--json").json["batch_id"]
    to = tmp_path / "r.XLSX"
    told = refundry("batch", "report", batch, "-o", str(to), "--json")
    assert (told.code, told.error["code"], to.exists()) == (2, "format_unknown", False)
    assert str(tmp_path / "r.csv") in told.error["message"]
    assert refundry("batch", "report", batch, "-o", str(to), "--format", "csv").code == 0
    assert to.read_text().startswith("ticket_id,")


def test_a_row_that_was_changed_in_the_database_is_found(refundry: Run, tmp_path: Path) -> None:
    assert refundry("batch", "run", written(tmp_path / "f.csv", GOOD), "--yes").code == 0
    assert refundry("db", "check").code == 0
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        connection.execute("UPDATE batch_rows SET raw = replace(raw, '10.00', '9.00')")
    connection.close()
    told = refundry("db", "check", "--json")
    assert (told.code, told.json["ok"]) == (1, False)
    assert "f.csv" in told.json["audit"]


def test_without_yes_the_totals_are_shown_and_nothing_is_taken_in(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path
) -> None:
    file = written(tmp_path / "f.csv", GOOD + "T-2,o2,full,\nT-3,o3,abc,gbp\nT-4,o4,5.00,\n")
    told = refundry("batch", "run", file, "--json")
    assert (told.code, told.error["code"]) == (2, "not_confirmed")
    assert "--yes" in told.error["message"]
    counts = {name: told.error[name] for name in ("rows", "amounts", "full", "unreadable", "without_currency")}
    assert counts == {"rows": 4, "amounts": {"gbp": 1000}, "full": 1, "unreadable": 1, "without_currency": 1}
    assert "1 row cannot be read, and will be refused\n    row 3: amount: 'abc' is not an amount" in told.err
    assert refundry("batch", "list", "--json").json == {"batches": []}
    assert refunds_of() == 0


def test_a_file_that_was_taken_in_before_is_not_told_to_be_unpaid(refundry: Run, tmp_path: Path) -> None:
    run = ("batch", "run", written(tmp_path / "f.csv", GOOD), "--json")
    assert "nothing was paid" in refundry(*run).error["message"]
    batch = refundry(*run, "--yes").json["batch_id"]
    told = refundry(*run)
    assert (told.code, told.error["code"], told.error["batch_id"]) == (2, "not_confirmed", batch), told.err
    assert "nothing was paid" not in told.error["message"]
    assert f"`refundry batch status {batch[:8]}` tells what was paid, and --yes goes on" in told.error["message"]


def test_a_file_that_was_withdrawn_is_not_told_to_go_on(refundry: Run, tmp_path: Path) -> None:
    run = ("batch", "run", written(tmp_path / "f.csv", GOOD.replace("o1", "nowhere")), "--json")
    assert refundry("batch", "withdraw", refundry(*run, "--yes").json["batch_id"]).code == 0
    message = refundry(*run).error["message"]
    assert ("was withdrawn" in message, "--yes" in message) == (True, False), message


def test_a_file_without_currencies_is_not_said_to_ask_for_nothing(refundry: Run, tmp_path: Path) -> None:
    told = refundry(
        "batch", "run", written(tmp_path / "f.csv", "ticket_id,order_id,amount\nT-1,o1,10.00\nT-2,o2,full\n")
    )
    assert told.code == 2
    assert "asks for 1 full refund, and for 1 amount in the currency of the charge" in told.err
    assert "nothing, " not in told.err
    unreadable = refundry("batch", "run", written(tmp_path / "g.csv", "ticket_id,order_id,amount\nT-1,o1,x\n"))
    assert "asks for nothing\n" in unreadable.err


def test_rows_that_repeat_disagree_or_lead_nowhere_are_refused_and_the_others_paid(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path
) -> None:
    rows = [
        "T-1,o1,10.00,gbp",
        "T-1,o1,10.00,gbp",  # repeated
        "T-1,o1,11.00,gbp",  # same key, other content
        ",o2,5.00,gbp",
        ",o2,5.00,gbp",  # a repeat that nothing tells apart
        "T-6,nowhere,5.00,gbp",
        "T-7,o3,500.00,gbp",  # beyond the charge
        "T-8,o3,5.00,eur",
    ]
    file = written(tmp_path / "f.csv", "ticket_id,order_id,amount,currency\n" + "\n".join(rows) + "\n")
    told = refundry("batch", "run", file, "--yes", "--json")
    assert told.code == 3, told.err
    assert (told.json["paid"], told.json["refused"]) == (2, 6)
    assert told.json["reasons"] == {
        "repeated_row": 1, "same_key_other_content": 1, "possible_repeat": 1, "order_unknown": 1,
        "amount_exceeds_refundable": 1, "currency_wrong": 1,
    }  # fmt: skip
    assert refunds_of() == 2
    report = refundry("batch", "report", told.json["batch_id"], "--json").json["rows"]
    assert [row["outcome"] for row in report] == ["paid", "refused", "refused", "paid", *["refused"] * 4]
    assert "row 1" in report[1]["why"]
    # The same file again continues the same work: the same counts, nothing more.
    again = refundry("batch", "run", file, "--yes", "--json")
    assert (again.json["paid"], again.json["refused"], refunds_of()) == (2, 6, 2)


def test_references_that_disagree_refuse_their_row(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path
) -> None:
    dry = ("refund", "create", "--full", "--reason", "duplicate", "--dry-run", "--json")
    charge = refundry(*dry, "--order", "o5").json["charge"]
    file = written(tmp_path / "f.csv", f"charge_id,order_id,amount,ticket_id\n{charge},o6,1.00,T-1\n")
    told = refundry("batch", "run", file, "--yes", "--json")
    assert told.json["reasons"] == {"references_disagree": 1}, told.err
    assert refunds_of() == 0


def test_a_report_that_is_handed_in_again_pays_no_ticket_twice(
    refundry: Run, refunds_of: Callable[[], int], tmp_path: Path
) -> None:
    file = written(tmp_path / "f.csv", "ticket_id,order_id,amount\nT-1,o1,10.00\n+44,o2,10.00\n@ada,o3,10.00\n")
    paid = refundry("batch", "run", file, "--yes", "--json")
    assert (paid.code, paid.json["paid"]) == (0, 3), paid.err
    report = tmp_path / "report.csv"
    assert refundry("batch", "report", paid.json["batch_id"], "-o", str(report)).code == 0
    # An apostrophe keeps spreadsheets from running a cell, and is part of it for whoever reads the file.
    assert "\n'+44," in report.read_text()
    told = refundry("batch", "run", str(report), "--yes", "--json")
    assert (told.code, told.json["reasons"]) == (3, {"repeated_row": 1, "text_quoted": 2}), told.err
    assert refunds_of() == 3


def test_a_report_that_cannot_be_written_leaves_the_old_one(refundry: Run, tmp_path: Path) -> None:
    batch = refundry("batch", "run", written(tmp_path / "f.csv", GOOD), "--yes", "--json").json["batch_id"]
    told = refundry("batch", "report", batch, "-o", str(tmp_path / "nowhere" / "report.csv"))
    assert told.code == 2
    assert "[output_unwritable]" in told.err
    target = tmp_path / "report.csv"
    assert refundry("batch", "report", batch, "-o", str(target)).code == 0
    assert [path.name for path in tmp_path.glob(".report*")] == []
    head, row = target.read_text().splitlines()
    assert head.startswith("ticket_id,order_id,amount,currency,refundry_row,refundry_outcome,")
    assert row.startswith("T-1,o1,10.00,gbp,1,paid,settled,")
    # What stdout gets says nothing about the file.
    as_csv = target.read_text()
    told = refundry("batch", "report", batch, "-o", str(target), "--json")
    assert told.json == {"batch_id": batch, "output": str(target), "format": "csv", "row_count": 1}
    assert target.read_text() == as_csv
    as_json = refundry("batch", "report", batch, "-o", str(tmp_path / "report.json"), "--json")
    assert as_json.json["format"] == "json"
    assert json.loads((tmp_path / "report.json").read_text()) == refundry("batch", "report", batch, "--json").json


@pytest.mark.parametrize(
    "arguments",
    [("refund", "show", "re\x1b[2J\x9b1m"), ("batch", "\x1b[2J\x9b1m"), ("refund", "list", "--\x1b[2J\x9b1m")],
)
def test_an_error_sends_no_terminal_what_it_would_obey(refundry: Run, arguments: tuple[str, ...]) -> None:
    told = refundry(*arguments)
    assert told.code == 2
    assert "\\x1b[2J\\x9b1m" in told.err
    assert told.err.rstrip("\n").isprintable()
