"""Rows and refunds are allowed, tried again, paused and taken back by their commands; each twice, and what was not named stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Run, Told
from tests.support.server import Server

pytestmark = pytest.mark.integration

RIGHTS = ["account_read", "charge_read", "payment_intent_read", "dispute_read", "refund_read", "balance_read"]
READS = "rk_test_reads"
BLIND = "rk_test_blind"


def written(folder: Path, *orders: str, amount: str = "5.00") -> str:
    path = folder / "refunds.csv"
    rows = "".join(f"T-{at},{order},{amount},gbp\n" for at, order in enumerate(orders, 1))
    path.write_text("ticket_id,order_id,amount,currency\n" + rows)
    return str(path)


@pytest.fixture
def by_hand(refundry: Run, stripe: Server) -> Callable[[str, int], str]:
    """Refund some of an order at Stripe, past the product; tells the refund's id."""
    dry = ("refund", "create", "--full", "--reason", "duplicate", "--dry-run", "--json")

    def refund(order: str, amount: int) -> str:
        charge = refundry(*dry, "--order", order).json["charge"]
        return str(stripe.control("POST /_sim/refunds", {"charge": charge, "amount": amount})["id"])

    return refund


@pytest.fixture
def unpaid(refundry: Run, stripe: Server) -> Callable[..., Told]:
    """Run a file with a key that may look and not pay, or with a blind one not even look: its rows wait."""

    def run(file: str, key: str = READS) -> Told:
        rights = RIGHTS if key == READS else ["refund_write"]
        stripe.control("POST /_sim/keys", {"secret": key, "permissions": rights})
        more: dict[str, Any] = {"STRIPE_SECRET_KEY": key, "REFUNDRY_STRIPE__ACCOUNT": stripe.account}
        return refundry("batch", "run", file, "--yes", "--json", **more)

    return run


# A key that is refused


def test_the_status_of_a_batch_whose_account_is_held_says_so_and_not_what_would_be_refused(
    refundry: Run, unpaid: Callable[..., Told], tmp_path: Path
) -> None:
    batch = unpaid(written(tmp_path, "o1", "o2")).json["batch_id"]
    told = " ".join(refundry("batch", "status", batch).out.split())
    assert "the account is held, and nothing is paid until its key works: Permission denied" in told
    assert "with a key that works, `refundry serve`, `refundry worker` or the command that began it goes on" in told
    assert "nobody executes" not in told
    assert refundry("batch", "run", str(tmp_path / "refunds.csv"), "--yes", "--json").json["paid"] == 2
    assert "is held" not in refundry("batch", "status", batch).out


# Repeats


def test_a_possible_repeat_is_paid_only_when_its_row_is_named(
    refundry: Run, refunds_of: Callable[[], int], by_hand: Callable[[str, int], str], tmp_path: Path
) -> None:
    by_hand("o3", 500)
    by_hand("o4", 500)
    run = ("batch", "run", written(tmp_path, "o3", "o4", "o5"), "--yes", "--json")
    held = refundry(*run)
    assert (held.code, held.json["paid"], held.json["reasons"]) == (3, 1, {"possible_repeat": 2}), held.err
    allowed = refundry(*run, "--allow-repeat", "2", "--allow-repeat", "3")
    assert (allowed.code, allowed.json["paid"], allowed.json["reasons"]) == (3, 2, {"possible_repeat": 1}), allowed.err
    report = refundry("batch", "report", held.json["batch_id"], "--json").json["rows"]
    assert [row["outcome"] for row in report] == ["waiting", "paid", "paid"]
    assert refunds_of() == 4
    beyond = refundry(*run, "--allow-repeat", "4")
    assert (beyond.code, beyond.error["code"], beyond.error["row"]) == (2, "usage", 4)


def test_a_row_is_let_go_also_by_who_does_not_wait_and_those_that_are_not_held_yet_are_named(
    refundry: Run, refunds_of: Callable[[], int], by_hand: Callable[[str, int], str], tmp_path: Path
) -> None:
    by_hand("o3", 500)
    run = ("batch", "run", written(tmp_path, "o3", "o4"), "--yes", "--json")
    left = ("--allow-repeat", "1", "--no-wait")
    begun = refundry(*run, *left)
    assert (begun.code, begun.json["waiting"]) == (3, 2), begun.err
    assert "what is held by now, and not row 1:" in begun.err
    held = refundry(*run)
    assert (held.code, held.json["reasons"]) == (3, {"possible_repeat": 1}), held.err
    allowed = refundry(*run, *left)
    assert "by your word: row 1;" in allowed.err
    assert "give it again" not in allowed.err
    assert (refundry(*run).code, refunds_of()) == (0, 3)


# Retry


def test_retry_pays_what_can_be_paid_now_and_nothing_twice(
    refundry: Run, refunds_of: Callable[[], int], by_hand: Callable[[str, int], str], stripe: Server, tmp_path: Path
) -> None:
    other = by_hand("o6", 9_800)
    first = refundry("batch", "run", written(tmp_path, "o5", "o6", "late"), "--yes", "--json")
    assert first.json["reasons"] == {"amount_exceeds_refundable": 1, "order_unknown": 1}, first.err
    batch = first.json["batch_id"][:8]
    same = refundry("batch", "retry", batch, "--json")
    assert (same.code, same.json["paid"], same.json["reasons"]) == (3, 1, first.json["reasons"]), same.err
    # The refund by others comes back, and the order is known at last.
    stripe.control(f"POST /_sim/refunds/{other}/fail", {"reason": "declined"})
    charge = {"order_id": "late", "amount_minor": 5000, "currency": "gbp", "created": 1_780_000_000}
    stripe.control("POST /_sim/load", {"charges": [charge]})
    now = refundry("batch", "retry", batch, "--json")
    assert (now.code, now.json["paid"], now.json["reasons"]) == (0, 3, {}), now.err
    assert "to be decided anew: 2 rows" in now.err
    again = refundry("batch", "retry", batch, "--json")
    assert (again.code, again.json["paid"]) == (0, 3)
    assert "to be decided anew: 0 rows" in again.err
    # Three of ours, and the one by hand.
    assert refunds_of() == 4


# Pause and withdraw


def test_why_a_batch_was_withdrawn_does_not_steer_the_terminal_of_who_reads_it(refundry: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("order_id,amount,reason\no2,1.00,duplicate\n")
    batch = refundry("batch", "run", str(file), "--yes", "--no-wait", "--json").json["batch_id"]
    refundry("batch", "withdraw", batch, "--why", "not wanted\x1b[2J")
    assert r"not wanted\x1b[2J" in refundry("batch", "status", batch).out


def test_a_withdrawn_batch_stays_withdrawn(
    refundry: Run, refunds_of: Callable[[], int], unpaid: Callable[..., Told], tmp_path: Path
) -> None:
    file = written(tmp_path, "o1", "o2")
    batch = unpaid(file).json["batch_id"]
    paused = refundry("batch", "pause", batch[:8], "--json")
    assert (paused.code, paused.json["reasons"]) == (0, {"stopped": 2})
    run = refundry("batch", "run", file, "--yes", "--json")
    assert (run.code, run.json["state"], run.json["paid"]) == (3, "paused", 0)
    assert "is here already, and paused" in run.err
    withdrawn = refundry("batch", "withdraw", batch[:8], "--why", "wrong file", "--json")
    assert (withdrawn.code, withdrawn.json["reasons"]) == (0, {"withdrawn": 2})
    assert "withdrawn: 2 rows" in withdrawn.err
    again = refundry("batch", "withdraw", batch[:8], "--json")
    assert (again.code, again.json) == (0, withdrawn.json)
    assert "withdrawn: 0 rows" in again.err
    for verb in ("resume", "pause", "retry"):
        refused = refundry("batch", verb, batch[:8], "--json")
        assert (refused.code, refused.error["code"]) == (1, "batch_withdrawn"), refused.err
    run = refundry("batch", "run", file, "--yes", "--json")
    assert (run.code, run.json["state"], run.json["refused"]) == (3, "withdrawn", 2)
    assert "was withdrawn, and nothing more of it is paid" in run.err
    assert [row["why"] for row in refundry("batch", "report", batch, "--json").json["rows"]] == ["wrong file"] * 2
    assert refunds_of() == 0


def test_a_batch_whose_rows_are_all_paid_is_done_whatever_is_said_of_it(refundry: Run, tmp_path: Path) -> None:
    batch = refundry("batch", "run", written(tmp_path, "o5"), "--yes", "--json").json["batch_id"][:8]
    for verb in (("pause",), ("withdraw", "--why", "a mistake")):
        told = refundry("batch", verb[0], batch, *verb[1:], "--json")
        assert (told.code, told.error["code"]) == (1, "batch_done"), told.err
    assert refundry("batch", "status", batch, "--json").json["state"] == "done"


def test_a_run_of_a_batch_that_was_paused_before_its_charges_were_looked_up_ends(
    refundry: Run, refunds_of: Callable[[], int], unpaid: Callable[..., Told], tmp_path: Path
) -> None:
    file = written(tmp_path, "o1", "o2")
    batch = unpaid(file, BLIND).json["batch_id"]
    assert "paused: 2 rows" in refundry("batch", "pause", batch).err
    run = refundry("batch", "run", file, "--yes", "--json")
    assert (run.code, run.json["state"], run.json["reasons"]) == (3, "paused", {"not_looked_up": 2})
    assert refunds_of() == 0
    resumed = refundry("batch", "resume", batch, "--json")
    assert (resumed.code, resumed.json["paid"], refunds_of()) == (0, 2, 2), resumed.err


@pytest.mark.parametrize("verb", ["status", "pause", "resume", "retry", "withdraw", "report"])
def test_a_batch_that_is_not_there_is_named(refundry: Run, verb: str) -> None:
    told = refundry("batch", verb, "beef", "--json")
    assert (told.code, told.error["code"], told.error["batch"]) == (2, "batch_unknown", "beef")


# Single ones


def test_a_refund_is_taken_back_with_its_reason_and_decided_anew_when_asked_for_again(
    refundry: Run, refunds_of: Callable[[], int], by_hand: Callable[[str, int], str]
) -> None:
    by_hand("o7", 500)
    create = (
        "refund",
        "create",
        "--order",
        "o7",
        "--amount",
        "5.00",
        "--reason",
        "duplicate",
        "--ticket",
        "T-1",
        "--json",
    )
    held = refundry(*create).json
    assert (held["outcome"], held["held"]) == ("waiting", "possible_repeat")
    request = held["request_id"]
    told = refundry("refund", "withdraw", request, "--why", "customer kept it", "--json")
    assert (told.code, told.json["state"], told.json["why"]) == (0, "withdrawn", "customer kept it")
    for verb in ("withdraw", "cancel"):
        refused = refundry("refund", verb, request, "--json")
        assert (refused.code, refused.error["code"], refused.error["request"]) == (1, "state_forbids", request)
    last = refundry("refund", "show", request, "--json").json["timeline"][-1]
    assert (last["event"], last["facts"]["why"]) == ("refund_request.withdrawn", "customer kept it")
    assert refundry("refund", "show", request).out.rstrip().endswith("customer kept it")
    assert refunds_of() == 1
    again = refundry(*create, "--allow-repeat")
    assert (again.code, again.json["request_id"], again.json["outcome"]) == (0, request, "paid"), again.err
    assert refunds_of() == 2


def test_what_was_allowed_and_could_not_be_paid_yet_is_held_by_a_refund_by_hand_that_came_since(
    refundry: Run, stripe: Server, refunds_of: Callable[[], int], by_hand: Callable[[str, int], str]
) -> None:
    before = by_hand("o7", 500)
    order = ("--order", "o7", "--amount", "5.00", "--reason", "duplicate", "--ticket", "T-1", "--json")
    stripe.control("POST /_sim/keys", {"secret": READS, "permissions": RIGHTS})
    reads_only: dict[str, Any] = {"STRIPE_SECRET_KEY": READS, "REFUNDRY_STRIPE__ACCOUNT": stripe.account}
    waits = refundry("refund", "create", *order, "--allow-repeat", **reads_only)
    assert (waits.json["outcome"], waits.json["held"]) == ("waiting", None), waits.err
    after = by_hand("o7", 500)
    held = refundry("refund", "create", *order)
    assert (held.code, held.json["held"], refunds_of()) == (3, "possible_repeat", 2), held.err
    assert (before in held.json["why"], after in held.json["why"]) == (False, True), held.json["why"]
    allowed = refundry("refund", "create", *order, "--allow-repeat")
    assert (allowed.code, allowed.json["outcome"], refunds_of()) == (0, "paid", 3), allowed.err


@pytest.mark.parametrize("verb", ["show", "withdraw", "cancel"])
def test_a_refund_that_is_not_there_is_named(refundry: Run, verb: str) -> None:
    told = refundry("refund", verb, "beef", "--json")
    assert (told.code, told.error["code"], told.error["request"]) == (2, "request_unknown", "beef")
    assert "`refundry refund list`" in told.error["message"]


def test_refunds_are_listed_page_by_page_and_by_state(
    refundry: Run, unpaid: Callable[..., Told], tmp_path: Path
) -> None:
    assert refundry("refund", "list", "--json").json == {"refunds": [], "next": None}
    unpaid(written(tmp_path, "o1", "o2", "o3"))
    first = refundry("refund", "list", "--limit", "2", "--json").json
    rest = refundry("refund", "list", "--limit", "2", "--after", str(first["next"]), "--json").json
    assert [one["ticket_id"] for one in (*first["refunds"], *rest["refunds"])] == ["T-3", "T-2", "T-1"]
    assert rest["next"] is None
    assert len(refundry("refund", "list", "--state", "approved", "--json").json["refunds"]) == 3
    assert refundry("refund", "list", "--state", "settled", "--json").json["refunds"] == []
    wrong = refundry("refund", "list", "--state", "paid", "--json")
    assert (wrong.code, wrong.error["code"]) == (2, "state_unknown")
