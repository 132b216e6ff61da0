"""What became of a request that nobody can say: told with what to type, and ended by a person who found its refund, or by two who found none."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refundry.cli import session
from refundry.kernel import ids
from tests.integration.cli.conftest import Run
from tests.support.server import Server
from tests.support.stripe_call import called

pytestmark = pytest.mark.integration
CREATE = (
    "refund", "create", "--reason", "requested_by_customer", "--order", "o1", "--amount", "12.34", "--key", "K-1",
)  # fmt: skip

# Users that every machine has.
ADA, BEN = pwd.getpwuid(0).pw_name, pwd.getpwuid(1).pw_name


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a user have logged in; a test cannot do that at the kernel, where it is kept."""
    kept = tmp_path / "loginuid"
    monkeypatch.setattr(session, "LOGIN", kept)

    def log_in(name: str) -> None:
        kept.write_text(str(pwd.getpwnam(name).pw_uid))

    return log_in


def unknown(refundry: Run, stripe: Server) -> tuple[str, str]:
    """Have a refund sent whose outcome nobody can say; tells the request and its task."""
    request = ids.request_id(stripe.account, "test", "key:K-1")
    # As from a program that makes its keys by the same rule.
    (other,) = called(stripe, "GET /v1/charges?limit=1")["data"]
    called(stripe, "POST /v1/refunds", key=ids.idempotency_key(request, 1), charge=other["id"], amount="1")
    told = refundry(*CREATE)
    assert told.code == 3
    assert told.out.startswith("unknown: 12.34 GBP of ch_")
    (task,) = refundry("task", "list", "--json").json["tasks"]
    assert f"`refundry task show {task['task_id']}` says what can be done" in told.err
    assert (task["kind"], task["request"], task["first_by"]) == ("outcome_unknown", request, None)
    return request, str(task["task_id"])


def aged(state: Path, hours: float) -> None:
    """Let what was sent be older, by every clock."""
    with sqlite3.connect(state / "refundry.db") as connection:
        for request, sends in connection.execute("SELECT request, sends FROM refund_attempts").fetchall():
            older: list[dict[str, Any]] = json.loads(sends)
            for send in older:
                for clock in ("at", "database_at", "stripe_at"):
                    send[clock] -= hours * 3600
            connection.execute(
                "UPDATE refund_attempts SET sends = ? WHERE request = ?", [json.dumps(older), request]
            )  # fmt: skip


def typed(told: str, how: str) -> list[str]:
    """Take a command to copy out of what was told."""
    (line,) = [line for line in told.splitlines() if how in line]
    program, *arguments = shlex.split(line.partition("refundry task")[1] + line.partition("refundry task")[2])
    assert program == "refundry"
    return arguments


def test_the_refund_that_was_found_is_named_by_what_the_task_says(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    charge = refundry("refund", "show", request, "--json").json["charge"]
    made = stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 1234})["id"]
    other = stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 1000})["id"]
    command = typed(refundry("task", "show", task).err, "paid_by")
    assert refundry(*command[:-2], "--json").error["code"] == "task_refund_missing"
    wrong = refundry(*command[:-1], other, "--json")
    assert (wrong.code, wrong.error["code"]) == (1, "refund_misfits")
    unheard_of = refundry(*command[:-1], "re_nothing", "--json")
    assert (unheard_of.code, unheard_of.error["code"]) == (1, "stripe_not_found")
    done = refundry(*command[:-1], made)
    assert done.code == 0
    assert f"paid: 12.34 GBP of {charge}; Stripe says succeeded ({made})" in " ".join(done.out.split())
    assert refundry("task", "list").out == "There are none.\n"
    assert refundry(*CREATE, "--json").json["refund"] == made


def test_two_people_say_that_it_was_not_paid_and_the_same_command_pays_it_then(
    refundry: Run, stripe: Server, tmp_path: Path, logged_in: Callable[[str], None]
) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    command = [*typed(refundry("task", "show", task).err, "not_paid")[:-1], "none in the dashboard", "--json"]
    logged_in(ADA)
    early = refundry(*command)
    assert (early.code, early.error["code"]) == (1, "too_early")
    aged(tmp_path / "state", 25)
    first = refundry(*command)
    assert (first.code, first.json["first_by"], first.json["resolved_at"]) == (3, f"person:{ADA}", None)
    shown = refundry("task", "show", task)
    assert f"by person:{ADA}" in shown.out
    assert "if you say too that there is none" in shown.err
    # Nobody is somebody else by saying so.
    for variable in ("LOGNAME", "USER", "SUDO_USER"):
        alone = refundry(*command, **{variable: BEN})
        assert (alone.code, alone.error["code"]) == (1, "second_person_needed")
    logged_in(BEN)
    second = refundry(*command)
    assert (second.code, second.json["how"], second.json["resolved_by"]) == (0, "not_paid", f"person:{BEN}")
    told = refundry("refund", "show", request)
    assert "refused by Stripe" not in told.out
    assert "not paid: 12.34 GBP of ch_" in told.out
    assert f"{ADA} and {BEN} say that it was not paid" in " ".join(told.out.split())
    paid = refundry(*CREATE, "--json")
    assert (paid.code, paid.json["state"], paid.json["attempts"]) == (0, "settled", 2)


def test_who_asks_again_after_its_refund_has_turned_up_hears_that_it_is_paid_and_may_be_so_twice(
    refundry: Run, stripe: Server, tmp_path: Path, logged_in: Callable[[str], None]
) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    aged(tmp_path / "state", 25)
    for name in (ADA, BEN):
        logged_in(name)
        refundry("task", "resolve", task, "--how", "not_paid", "--note", "none in the dashboard")
    charge = refundry("refund", "show", request, "--json").json["charge"]
    made = called(
        stripe, "POST /v1/refunds", charge=charge, amount="1234", **{"metadata[refundry_request_id]": request}
    )["id"]
    assert refundry("catch-up").code == 0
    (late,) = refundry("task", "list", "--json").json["tasks"]
    assert (late["kind"], late["request"], late["refund"]) == ("paid_after_all", request, made)
    before, asked, after = refundry("refund", "show", request), refundry(*CREATE), refundry("refund", "show", request)
    assert "not paid: 12.34 GBP" in before.out
    for told in (asked, after):
        assert f"Stripe says succeeded ({made})" in " ".join(told.out.split())
    for told in (before, asked, after):
        assert f"it may have been paid twice: `refundry task show {late['task_id']}`" in told.err
    assert len(called(stripe, f"GET /v1/refunds?charge={charge}")["data"]) == 1


def test_who_says_that_it_was_not_paid_hears_of_its_refund_that_is_there_after_all(
    refundry: Run, stripe: Server
) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    charge, mark = (
        refundry("refund", "show", request, "--json").json["charge"],
        {"metadata[refundry_request_id]": request},
    )
    made = called(stripe, "POST /v1/refunds", charge=charge, amount="1234", **mark)["id"]
    told = refundry("task", "resolve", task, "--how", "not_paid", "--note", "none in the dashboard")
    assert told.code == 0
    assert f"Stripe says succeeded ({made})" in " ".join(told.out.split())
    over = refundry("task", "show", task, "--json").json
    assert (over["how"], over["resolved_by"], over["first_by"]) == ("over", "system:refundry", None)


def test_what_waits_behind_it_says_so_and_keeps_nobody_waiting(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    charge = refundry("refund", "show", request, "--json").json["charge"]
    word = f"it waits for refund request {request} of the same charge, of which nobody knows whether it was paid"
    later = ("refund", "create", "--reason", "duplicate", "--charge", charge, "--amount", "2.00", "--key", "K-2")
    created = refundry(*later)
    assert created.code == 3
    assert created.out.startswith("waiting: 2.00 GBP of ch_")
    assert word in created.err
    behind = ids.request_id(stripe.account, "test", "key:K-2")
    assert word in refundry("refund", "show", behind).err
    file = tmp_path / "rows.csv"
    file.write_text(f"charge_id,amount,reason,request_key\n{charge},3.00,duplicate,K-3\n{charge},4.00,duplicate,K-4\n")
    run = refundry("batch", "run", str(file), "--yes")
    (batch,) = refundry("batch", "list", "--json").json["batches"]
    status = refundry("batch", "status", batch["batch_id"])
    for told in (run, status):
        said = " ".join(told.out.split())
        assert f"2 rows, as row 1, wait for refund request {request} of the same charge" in said
        assert "`refundry task list --kind outcome_unknown` says what can be done" in said
        assert "nobody executes" not in said
    made = stripe.control("POST /_sim/refunds", {"charge": charge, "amount": 1234})["id"]
    assert refundry("task", "resolve", task, "--how", "paid_by", "--refund", made).code == 0
    status = refundry("batch", "status", batch["batch_id"])
    assert "due now, and nobody executes" in " ".join(status.out.split())
    assert refundry("batch", "resume", batch["batch_id"]).code == 0
    assert refundry(*later, "--json").json["state"] == "settled"


def test_what_waits_behind_one_in_doubt_says_so(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "operation": "POST /v1/refunds"}]})
    first = refundry(*CREATE, "--patience", "0", "--json").json
    assert first["state"] == "submitting"
    later = refundry(
        "refund", "create", "--reason", "duplicate", "--charge", first["charge"], "--amount", "2.00", "--key", "K-2", "--patience", "0"
    )  # fmt: skip
    assert later.code == 3
    assert later.out.startswith("waiting: 2.00 GBP of ch_")
    word = f"it waits for refund request {first['request_id']} of the same charge, which was sent and has no answer yet that can be trusted"
    assert word in later.err


def test_what_is_in_doubt_is_told_of_its_own_batch_alone(refundry: Run, stripe: Server, tmp_path: Path) -> None:
    head = "order_id,amount,reason,ticket_id\n"
    doubtful, other = tmp_path / "doubtful.csv", tmp_path / "other.csv"
    doubtful.write_text(f"{head}o1,1.00,duplicate,T-1\n")
    other.write_text(f"{head}o2,1.00,duplicate,T-2\n")
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "operation": "POST /v1/refunds"}]})
    told = refundry("batch", "run", str(doubtful), "--yes", "--patience", "0")
    assert told.code == 3
    assert "1 row in doubt: sent, and no answer that can be trusted" in " ".join(told.err.split())
    stripe.control("DELETE /_sim/faults")
    batch = refundry("batch", "list", "--json").json["batches"][0]["batch_id"]
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        # The next look is due, and nobody executes who would make it.
        connection.execute("UPDATE refund_requests SET due_at = due_at - 3600 WHERE state = 'submitting'")
        connection.commit()
        assert refundry("batch", "watch", batch, "--once", "--json").json["in_doubt"] == 1
        # And now it comes when the other batch is over.
        connection.execute("UPDATE refund_requests SET due_at = due_at + 7200 WHERE state = 'submitting'")
    told = refundry("batch", "run", str(other), "--yes")
    assert (told.code, "in doubt" in told.err) == (0, False), told.err


def test_what_the_first_person_says_does_not_steer_the_terminal_of_the_second(
    refundry: Run, stripe: Server, tmp_path: Path, logged_in: Callable[[str], None]
) -> None:
    refundry("db", "upgrade")
    request, task = unknown(refundry, stripe)
    aged(tmp_path / "state", 25)
    resolve = ("task", "resolve", task, "--how", "not_paid", "--note")
    logged_in(ADA)
    first = refundry(*resolve, "none\x1b[2J\n  resolved     by the bank")
    logged_in(BEN)
    second = refundry(*resolve, "none either")
    for told in (first, refundry("task", "show", task), second, refundry("refund", "show", request)):
        assert "\x1b" not in told.out
        assert r"none\x1b[2J\n  resolved     by the bank" in told.out


@pytest.mark.parametrize("kept", [str(2**32 - 1), "", None])
def test_where_nobody_has_logged_in_the_user_of_the_process_acts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: str | None
) -> None:
    if kept is not None:
        (tmp_path / "loginuid").write_text(kept)
    monkeypatch.setattr(session, "LOGIN", tmp_path / "loginuid")
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setattr(os, "getuid", lambda: 1)
    assert str(session.person()) == f"person:{BEN}"
    # A container may run under any number.
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    assert str(session.person()) == f"person:uid {2**31 - 2}"
