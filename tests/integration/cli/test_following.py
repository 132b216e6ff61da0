"""An operator catches up, sees what waits for a person, and resolves it; every call and every age is told."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Run
from tests.support.server import Server

pytestmark = pytest.mark.integration
CREATE = ("refund", "create", "--reason", "requested_by_customer")


def test_a_refund_that_failed_is_found_told_and_replaced(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    paid = refundry(*CREATE, "--order", "o1", "--amount", "12.34", "--ticket", "T-1", "--json").json
    stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    told = refundry("catch-up", "--since", "1h", "--json")
    assert (told.code, told.json["complete"], told.json["waiting"]) == (0, True, 0)
    assert told.json["reads"] >= 2
    assert set(told.json["watermarks"]) == {"events", "refunds"}
    listed = refundry("task", "list", "--json").json
    (task,) = listed["tasks"]
    assert (task["kind"], task["request"], task["amount"], task["overdue"]) == (
        "refund_failed", paid["request_id"], 1234, False,
    )  # fmt: skip
    assert listed["open"] == {"refund_failed": 1}
    assert "declined it" in refundry("task", "show", task["task_id"]).out
    missing = refundry("task", "resolve", task["task_id"], "--how", "paid_otherwise", "--json")
    assert (missing.code, missing.error["code"]) == (2, "task_note_missing")
    wrong = refundry("task", "resolve", task["task_id"], "--how", "noted", "--note", "n", "--json")
    assert (wrong.code, wrong.error["code"]) == (2, "task_option_wrong")
    done = refundry("task", "resolve", task["task_id"], "--how", "replace", "--note", "again", "--json").json
    assert (done["how"], done["options"]) == ("replace", [])
    new = refundry("refund", "show", done["replacement"], "--json").json
    assert (new["replaces"], new["state"], new["asked"]) == (paid["request_id"], "received", 1234)
    assert refundry("task", "list").out == "There are none.\n"
    assert task["task_id"] in refundry("task", "list", "--all").out
    assert "replace: again" in refundry("refund", "show", paid["request_id"]).out


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            ("replace",),
            "it was replaced by refund request {new}: `refundry refund show {new}` says what became of that",
        ),
        (("paid_otherwise", "--note", "bank transfer"), "its task was resolved by paid_otherwise: bank transfer"),
        (("give_up",), "its task was resolved by give_up"),
        ((), "`refundry task show {task}` says what can be done"),
    ],
)
def test_who_asks_for_a_failed_refund_again_hears_what_was_done_about_it(
    refundry: Run, stripe: Server, how: tuple[str, ...], words: str
) -> None:
    refundry("db", "upgrade")
    wanted = (*CREATE, "--order", "o3", "--amount", "1.00", "--ticket", "T-3")
    paid = refundry(*wanted, "--json").json
    stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    refundry("catch-up", "--since", "1h")
    (task,) = refundry("task", "list", "--json").json["tasks"]
    done = refundry("task", "resolve", task["task_id"], "--how", *how, "--json").json if how else {}
    said = words.format(new=done.get("replacement"), task=task["task_id"])
    again, shown = refundry(*wanted), refundry("refund", "show", paid["request_id"])
    assert (again.code, shown.code) == (3, 0)
    assert f"failed: 1.00 GBP of {paid['charge']} failed at Stripe, and did not arrive" in again.out
    assert said in again.err.splitlines()
    assert said in shown.err.splitlines()


def test_what_to_type_about_a_task_can_be_pasted_and_resolves_nothing_by_itself(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    paid = refundry(*CREATE, "--order", "o1", "--amount", "1.00", "--ticket", "T-1", "--json").json
    stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    refundry("catch-up", "--since", "1h")
    listed = refundry("task", "list")
    assert "`refundry task show ID` says what to do" in listed.err
    task = listed.out.splitlines()[1].split()[0]
    advice = refundry("task", "show", task).err.strip()
    told, _, typed = advice.partition(": ")
    assert told == "to resolve it, with paid_otherwise, replace or give_up for HOW"
    program, *arguments = shlex.split(typed)
    assert program == "refundry"
    pasted = refundry(*arguments, "--json")
    assert (pasted.code, pasted.error["code"]) == (2, "task_option_wrong")


def test_disputes_and_fraud_warnings_are_shown(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    paid = refundry(*CREATE, "--order", "o2", "--amount", "1.00", "--ticket", "T-2", "--json").json
    stripe.control("POST /_sim/disputes", {"charge": paid["charge"]})
    stripe.control("POST /_sim/warnings", {"charge": paid["charge"]})
    refundry("catch-up", "--since", "1h")
    told = refundry("dispute", "list", "--json").json
    assert [(one["charge"], one["phase"], one["amount"]) for one in told["disputes"]] == [
        (paid["charge"], "chargeback", 10_000)
    ]
    assert [one["charge"] for one in told["fraud_warnings"]] == [paid["charge"]]
    assert paid["charge"] in refundry("dispute", "list").out
    assert [one["kind"] for one in refundry("task", "list", "--json").json["tasks"]] == ["double_loss"]
    assert refundry("dispute", "list", "--phase", "open", "--json").error["code"] == "dispute_phase_unknown"


def test_what_stripe_lists_a_little_late_is_found_by_the_command_too(
    refundry: Run, stripe: Server, tmp_path: Path
) -> None:
    refundry("catch-up", "--since", "1h")
    paid = refundry(*CREATE, "--order", "o1", "--amount", "12.34", "--ticket", "T-1", "--json").json
    stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        # The lists were read until now, and did not have that yet.
        connection.execute("UPDATE follow_marks SET mark = ?", [stripe.control("GET /_sim/clock")["now"] + 1])
    refundry("catch-up")
    assert [one["kind"] for one in refundry("task", "list", "--json").json["tasks"]] == ["refund_failed"]


@pytest.mark.parametrize("first", [(), ("--since", "1h")])
def test_a_clock_that_was_ahead_hides_nothing_from_the_command(
    refundry: Run, stripe: Server, tmp_path: Path, first: tuple[str, ...]
) -> None:
    refundry("catch-up", "--since", "1h")
    paid = refundry(*CREATE, "--order", "o1", "--amount", "12.34", "--ticket", "T-1", "--json").json
    stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    now = stripe.control("GET /_sim/clock")["now"]
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        connection.execute("UPDATE follow_marks SET mark = ?", [now + 86_400])
    marks = refundry("catch-up", *first, "--json").json["watermarks"]
    # Nor from the next time: a watermark that stays ahead would pass over what happens until then.
    assert all(mark < now + 3600 for mark in marks.values())
    assert [one["kind"] for one in refundry("task", "list", "--json").json["tasks"]] == ["refund_failed"]


@pytest.mark.parametrize("ahead", [0, 86_400])
def test_a_charge_that_was_listed_late_or_beside_a_clock_that_was_ahead_is_synced(
    refundry: Run, stripe: Server, tmp_path: Path, ahead: float
) -> None:
    refundry("charges", "sync", "--since", "1h")
    now = stripe.control("GET /_sim/clock")["now"]
    late = {"order_id": "late", "amount_minor": 1000, "currency": "eur", "created": int(now) - 30}
    stripe.control("POST /_sim/load", {"charges": [late]})
    with sqlite3.connect(tmp_path / "state" / "refundry.db") as connection:
        connection.execute("UPDATE follow_marks SET mark = ? WHERE feed = 'charges'", [now + ahead])
    told = refundry("charges", "sync", "--json").json
    assert told["charges"] >= 1
    assert told["watermarks"]["charges"] < now + 3600


def test_a_fault_of_stripes_says_which_request_it_was_and_keeps_the_watermark(refundry: Run, stripe: Server) -> None:
    before = refundry("catch-up", "--since", "1h", "--json").json["watermarks"]
    stripe.control("POST /_sim/faults", {"rules": [{"kind": "error_before", "operation": "GET /v1/refunds"}]})
    told = refundry("catch-up", "--json")
    assert (told.code, told.error["code"]) == (1, "stripe_unreachable")
    assert re.search(r"Stripe could not answer GET /v1/refunds for .* \(.+, req_\w+\)", told.error["message"])
    assert "network" not in told.error["message"]
    stripe.control("DELETE /_sim/faults")
    after = refundry("catch-up", "--json").json
    assert after["complete"]
    assert after["watermarks"]["refunds"] > before["refunds"]


def test_to_catch_up_on_an_hour_skips_nothing_of_before(refundry: Run, stripe: Server) -> None:
    refundry(*CREATE, "--order", "o1", "--amount", "12.34", "--ticket", "T-1")
    marks = refundry("catch-up", "--since", "1h", "--json").json["watermarks"]
    # Worked before it followed: what has become of its refunds in thirty days is still to be asked for.
    month_ago = stripe.control("GET /_sim/clock")["now"] - 30 * 86_400
    assert {feed: mark < month_ago + 3600 for feed, mark in marks.items()} == {"events": True, "refunds": True}
    assert refundry("catch-up", "--json").json["watermarks"]["events"] > month_ago + 86_400


def test_disputes_and_warnings_are_shown_page_by_page(refundry: Run, stripe: Server) -> None:
    refundry("db", "upgrade")
    for order in ("o1", "o2", "o3"):
        create = (*CREATE, "--order", order, "--amount", "1.00", "--ticket", f"T-{order}", "--json")
        charge = refundry(*create).json["charge"]
        stripe.control("POST /_sim/disputes", {"charge": charge})
        stripe.control("POST /_sim/warnings", {"charge": charge})
    refundry("catch-up", "--since", "1h")
    whole = refundry("dispute", "list", "--json").json
    assert whole["next"] == {"disputes": None, "fraud_warnings": None}
    first = refundry("dispute", "list", "--limit", "2", "--json").json
    for kind in ("disputes", "fraud_warnings"):
        behind = refundry("dispute", "list", "--limit", "2", "--after", first["next"][kind], "--json").json
        assert behind["next"] == {"disputes": None, "fraud_warnings": None}
        assert (len(first[kind]), len(whole[kind])) == (2, 3)
        assert first[kind] + behind[kind] == whole[kind]
        assert sum(len(behind[one]) for one in ("disputes", "fraud_warnings")) == 1
    cut = refundry("dispute", "list", "--limit", "2")
    places = first["next"]["disputes"], first["next"]["fraud_warnings"]
    assert cut.err == f"more disputes: --after {places[0]}\nmore fraud warnings: --after {places[1]}\n"
    assert len(refundry("dispute", "list", "--after", places[1]).out.splitlines()) == 2
    lost = refundry("dispute", "list", "--after", "nothing", "--json")
    assert (lost.code, lost.error["code"]) == (2, "place_unknown")


def test_charges_are_synced_from_the_watermark_within_a_budget(refundry: Run) -> None:
    missing = refundry("charges", "sync", "--json")
    assert (missing.code, missing.error["code"]) == (2, "since_missing")
    cut = refundry("charges", "sync", "--since", "2026-05-27", "--reads", "1", "--json")
    assert (cut.code, cut.json["complete"]) == (3, False)
    told = refundry("charges", "sync", "--json")
    assert (told.code, told.json["complete"]) == (0, True)
    assert refundry("charges", "sync").out.startswith("0 charges")


@pytest.mark.parametrize("command", [("catch-up",), ("charges", "sync")])
def test_where_a_stopped_command_goes_on_is_said_as_it_is(refundry: Run, command: tuple[str, ...]) -> None:
    first = refundry(*command, "--since", "20d", "--reads", "1")
    assert first.code == 3
    assert first.err.endswith("stopped at --reads: the same command without --since goes on from there\n")
    assert refundry(*command).code == 0
    # Without --since it would now begin at the watermark, and leave a gap.
    again = refundry(*command, "--since", "20d", "--reads", "1")
    assert again.code == 3
    assert again.err.endswith(
        "stopped at --reads before it had read all of that time: give the same command more --reads, or none; without --since it "
        "would begin where `read` says, and leave a gap\n"
    )
    assert refundry(*command, "--since", "20d").code == 0


@pytest.mark.parametrize("since", ["yesterday", "2999-01-01", "-3d", ""])
def test_a_time_that_is_none_is_refused(refundry: Run, since: str) -> None:
    told = refundry("catch-up", "--since", since, "--json")
    assert (told.code, told.error["code"]) == (2, "since_wrong")


@pytest.mark.parametrize("since", ["31d", "721h", "2020-01-01"])
def test_a_time_of_which_stripe_has_no_events_is_refused(refundry: Run, since: str) -> None:
    told = refundry("catch-up", "--since", since, "--json")
    assert (told.code, told.error["code"]) == (2, "since_wrong")
    assert "30 days" in told.error["message"]
    assert refundry("catch-up", "--since", "30d", "--json").json["complete"]


def test_tasks_are_shown_page_by_page(refundry: Run, stripe: Server) -> None:
    for at in range(5):
        paid = refundry(*CREATE, "--order", f"o{5 + at}", "--amount", "1.00", "--ticket", f"T-{at}", "--json").json
        stripe.control(f"POST /_sim/refunds/{paid['refund']}/fail", {"reason": "declined"})
    refundry("catch-up", "--since", "1h")
    for more in ((), ("--all",)):
        whole = [task["task_id"] for task in refundry("task", "list", "--json", *more).json["tasks"]]
        pages: list[str] = []
        place: tuple[str, ...] = ()
        while True:
            told = refundry("task", "list", "--limit", "2", "--json", *more, *place).json
            pages += [task["task_id"] for task in told["tasks"]]
            if told["next"] is None:
                break
            place = ("--after", told["next"])
        assert (len(whole), pages) == (5, whole)
    first = refundry("task", "list", "--limit", "2", "--json").json["next"]
    said = refundry("task", "list", "--limit", "2").err
    assert "5 open tasks" in said
    assert f"more: --after {first}\n" in said
    lost = refundry("task", "list", "--after", "nothing", "--json")
    assert (lost.code, lost.error["code"]) == (2, "place_unknown")


def test_what_is_no_task_is_refused(refundry: Run) -> None:
    refundry("db", "upgrade")
    assert refundry("task", "show", "nothing", "--json").error["code"] == "task_unknown"
    assert refundry("task", "resolve", "nothing", "--how", "over", "--json").error["code"] == "task_option_wrong"
    assert refundry("task", "list", "--kind", "none", "--json").error["code"] == "task_kind_unknown"
