"""Plans made and applied by processes that are disturbed, while charges change in between; Stripe's books and the plan itself judge."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tests.support import crash_run, fault_run
from tests.support.database import PostgresServer
from tests.support.disturbed import Trouble, calls, disturb
from tests.support.fault_run import LATENCY, PARTLY, SEND, Rule, Scene
from tests.support.forked import Process

# Proof of absence in seconds: the default is minutes, and what is tried here is its order, not its length.
QUICK = {"REFUNDRY_PAY__ABSENCE_WAIT": "0", "REFUNDRY_PAY__ABSENCE_GAP": "1"}
CAPTURED, BY_HAND, ASKED = 9000, 123, 2000
# Each fifty rows one charge of each kind changes, and in a small run two.
ROWS_EACH, LEAST = 50, 2
CHANGED = "changed_since_plan"
PAGE = 100


def play(
    folder: Path,
    rows: int,
    *,
    seed: int,
    server: PostgresServer | None,
    planning: Trouble,
    applying: Trouble,
    rules: tuple[Rule, ...] = (),
) -> None:
    """Plan a file and apply the plan, both through trouble.

    Args:
        folder: For the shop's files.
        rows: How many plain rows there are; those of charges that change come on top.
        seed: Of everything that is drawn.
        server: A Postgres server; `None` for SQLite.
        planning: What is done to `batch plan`.
        applying: What is done to `batch apply`.
        rules: The faults that `batch apply` meets.

    Raises:
        AssertionError: Planning has paid something, or not exactly the plan was paid, or a row is not told as it is.
    """
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(crash_run.shop(folder, rows, seed=seed, faults=[LATENCY]))
        scene = Scene(shop, server, stack, QUICK)
        scene.owed = {one["name"]: one for one in shop.obligations}
        count = max(rows // ROWS_EACH, LEAST)
        freed = _with_charges_that_change(scene, count)
        house = scene.open_house()
        written = folder / "plan.jsonl"

        def plan() -> Process:
            return house.begin("batch", "plan", str(shop.file), "-o", str(written), "--json")

        shop.server.control("DELETE /_sim/calls")
        crew = [plan()]
        pages = len(shop.obligations) // PAGE
        disturb(
            house, crew, plan, planning, progress=lambda: calls(shop), within=(0, pages + 3), seed=seed, from_start=True
        )
        told = house.finish(crew[0], PARTLY)
        assert calls(shop, SEND) == 0, "planning has sent refunds"
        assert (told["payable"], told["refused"]) == (rows + 2 * count, count), told
        _change(scene, count, freed)

        # Stripe tells of a change only by an event, which may be lost: the look before paying must not be the plan's.
        house.settings["REFUNDRY_PAY__LOOK_MAX_AGE"] = "0"
        numbered = [LATENCY, *(fault_run.sized(rule, rows) for rule in rules)]
        shop.server.control("POST /_sim/faults", {"seed": seed, "rules": numbered})

        def apply() -> Process:
            return house.begin("batch", "apply", str(written), "--yes", "--json")

        crew = [apply()]
        disturb(house, crew, apply, applying, progress=lambda: calls(shop, SEND), within=(0, rows - 5), seed=seed + 1)
        counts = house.finish(crew[0], PARTLY)
        _judge(scene, house, counts, written)


def _with_charges_that_change(scene: Scene, count: int) -> list[str]:
    """Add rows whose charges change once they are planned; tells the refunds that leave no room for some of them now."""
    kinds = ("hand", "dispute", "room")
    scene.add(
        [(f"{kind}{at}", f"{kind}{at}", ASKED) for kind in kinds for at in range(count)],
        [
            {"order_id": f"{kind}{at}", "amount_minor": CAPTURED, "currency": "gbp", "created": 1_785_000_000 + at}
            for kind in kinds
            for at in range(count)
        ],
    )
    for at in range(count):
        scene.refund_by_hand(f"room{at}", CAPTURED - 1)
        # Not in the plan, though there will be room again when it is applied.
        scene.bar(f"room{at}", "amount_exceeds_refundable")
    # They fail before they are judged: nobody is owed them.
    scene.hand_obligations.clear()
    return list(scene.by_hand)


def _change(scene: Scene, count: int, freed: list[str]) -> None:
    for refund in freed:
        scene.shop.server.control(f"POST /_sim/refunds/{refund}/fail", {"reason": "lost_or_stolen_card"})
    for at in range(count):
        scene.refund_by_hand(f"hand{at}", BY_HAND)
        opened = scene.shop.server.control("POST /_sim/disputes", {"charge": scene.charges[f"dispute{at}"]})["created"]
        for kind in ("hand", "dispute"):
            scene.bar(f"{kind}{at}", CHANGED)
    # One that is received in the second of the dispute may have come before it, and waits for its end instead.
    crash_run.wait_until("the next second", lambda: scene.shop.server.control("GET /_sim/clock")["now"] >= opened + 1)


def _judge(scene: Scene, house: crash_run.House, counts: dict[str, Any], written: Path) -> None:
    owed = [*scene.owed.values(), *scene.hand_obligations]
    audit = scene.shop.server.control("POST /_sim/audit", {"obligations": owed})
    report = fault_run.report_of(house, counts["batch_id"])
    rows = {row["ticket"]: row for row in report}
    fault_run.judge_books(audit, last=True)
    fault_run.judge_report(audit, report, counts, scene.by_hand)
    fault_run.judge_rows(scene.owed, scene.barred, rows, audit, last=True)
    for ticket, row in rows.items():
        if row["code"] == CHANGED:
            change = "1.23 GBP" if ticket.startswith("hand") else "dispute"
            assert change in row["why"], f"does not say what has changed: {row}"
    _judge_plan(report, written)


def _judge_plan(report: list[dict[str, Any]], written: Path) -> None:
    """See that each row that was paid stands so in the plan, in the words of the file that others were given."""
    lines = [json.loads(line) for line in written.read_text().splitlines()[1:]]
    planned = {
        number: (request, charge, amount) for number, code, _, request, _, charge, amount, *_ in lines if not code
    }
    for row in report:
        if row["outcome"] == "paid":
            paid = (row["request"], row["charge"], row["amount_minor"])
            assert planned.get(row["row"]) == paid, f"not as it was planned, {planned.get(row['row'])}: {row}"
