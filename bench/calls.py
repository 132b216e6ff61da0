"""How many calls to Stripe a refund costs, all calls of the run counted by the simulator."""

from __future__ import annotations

from typing import Any

from bench import results
from bench.engine import Variant
from bench.product import product

ROWS = 1_000
# One look and one refund, and one call in twenty refunds for all else.
MOST = 2.05
# What a person would expect where charges come by the hundred; told beside, and aimed at where a plan has looked.
LISTED = 1.1


def counted(variant: Variant) -> dict[str, Any]:
    """Pay, and count the calls."""
    with variant.opened() as (opened, file), product(opened.address) as house:
        house.run("batch", "run", str(file), "--yes", "--json")
        opened.audited(variant.rows)
        calls = {operation: len(times) for operation, times in opened.times().items()}
        return {"per_refund": round(sum(calls.values()) / variant.rows, 3), "calls": calls}


def main(*_: str) -> None:
    """Measure, print, and keep."""
    looks, lists = counted(Variant(ROWS, look=True)), counted(Variant(ROWS, look=False))
    operations = sorted(looks["calls"].keys() | lists["calls"].keys())
    results.table(
        ("", "a look before each", "charges listed"),
        [(name, looks["calls"].get(name, 0), lists["calls"].get(name, 0)) for name in operations],
    )
    aims = [
        results.Aim("calls per refund, rows that name charges, a look before each", looks["per_refund"], most=MOST),
        results.Aim("calls per refund, rows that name orders, charges listed", lists["per_refund"], most=LISTED),
    ]
    results.write("calls", {"a look before each": looks, "charges listed": lists, "aims": results.show(aims)})
