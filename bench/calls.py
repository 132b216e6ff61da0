"""How many calls to Stripe a refund costs, all calls of the run counted by the simulator."""

from __future__ import annotations

from typing import Any

from bench import results
from bench.engine import Variant
from bench.product import product

ROWS = 1_000
# One look and one refund, and one call in twenty refunds for all else.
MOST = 2.05
# Where a fresh plan, or a list of a hundred charges a call, saves the look.
SAVED = 1.1


def counted(variant: Variant, *, planned: bool = False) -> dict[str, Any]:
    """Pay, with a plan before or without, and count the calls, those of the plan too."""
    with variant.opened() as (opened, file), product(opened.address) as house:
        if planned:
            plan = house.run("batch", "plan", str(file), "--look-max-age", "60", "--json").told["plan_id"]
            house.run("batch", "apply", plan, "--yes", "--json")
        else:
            house.run("batch", "run", str(file), "--yes", "--json")
        opened.audited(variant.rows)
        calls = {operation: len(times) for operation, times in opened.times().items()}
        return {"per_refund": round(sum(calls.values()) / variant.rows, 3), "calls": calls}


def main(*_: str) -> None:
    """Measure, print, and keep."""
    runs = {
        "a look before each": counted(Variant(ROWS, look=True)),
        "a fresh plan": counted(Variant(ROWS, look=True), planned=True),
        "charges listed": counted(Variant(ROWS, look=False)),
    }
    operations = sorted({operation for run in runs.values() for operation in run["calls"]})
    results.table(("", *runs), [(name, *(run["calls"].get(name, 0) for run in runs.values())) for name in operations])
    looks, fresh, lists = (run["per_refund"] for run in runs.values())
    aims = [
        results.Aim("calls per refund, rows that name charges, a look before each", looks, most=MOST),
        results.Aim("calls per refund, rows that name charges, a fresh plan", fresh, most=SAVED),
        results.Aim("calls per refund, rows that name orders, charges listed", lists, most=SAVED),
    ]
    results.write("calls", {**runs, "aims": results.show(aims)})
