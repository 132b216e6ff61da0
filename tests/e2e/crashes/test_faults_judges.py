"""The judges of the fault runs find each kind of lie: one true report, and all the ways in which it can be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import fault_run

pytestmark = pytest.mark.unit
BY_HAND = {"re_hand"}


def refund(id_: str, amount: int, status: str, ticket: str) -> dict[str, Any]:
    metadata = {"refundry_request_id": f"q-{ticket}", "ticket_id": ticket}
    return {"id": id_, "amount": amount, "status": status, "metadata": metadata}


def row(ticket: str, outcome: str, state: str | None, code: str, amount: int, refund: str | None) -> dict[str, Any]:
    return {
        "ticket": ticket, "outcome": outcome, "state": state, "code": code, "amount_minor": amount, "charge": "ch_1", "refund": refund,
        "request": f"q-{ticket}",
    }  # fmt: skip


class Told:
    """What Stripe has, and what is told of it."""

    def __init__(self) -> None:
        hand = {"id": "re_hand", "amount": 50, "status": "succeeded", "metadata": {}}
        made = [
            refund("re_1", 100, "succeeded", "t1"), refund("re_2", 200, "pending", "t2"), refund("re_3", 300, "failed", "t3"),
            refund("re_6", 600, "succeeded", "t6"), hand,
        ]  # fmt: skip
        self.audit: dict[str, Any] = {
            "charges": [{"charge": "ch_1", "refunds": made}],
            "problems": [], "paid_double": [], "never_asked": [], "not_paid": [{"name": "t4"}, {"name": "t6"}],
        }  # fmt: skip
        self.report = [
            row("t1", "paid", "settled", "", 100, "re_1"),
            row("t2", "paid", "pending", "", 200, "re_2"),
            row("t3", "failed", "failed", "declined", 300, "re_3"),
            row("t4", "waiting", "approved", "low_balance", 400, None),
            row("t5", "refused", "rejected", "charge_disputed", 500, None),
            row("t6", "waiting", "submitting", "connection_lost", 600, None),
        ]
        self.counts: dict[str, Any] = {
            "rows": 6, "paid": 2, "refused": 1, "failed": 1, "unknown": 0, "waiting": 2, "pending": 1,
            "amounts": {"gbp": {"requested": 2100, "paid": 300}},
            "reasons": {"declined": 1, "low_balance": 1, "charge_disputed": 1, "connection_lost": 1},
        }  # fmt: skip
        self.last = False

    @property
    def made(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.audit["charges"][0]["refunds"]
        return found

    def judge(self) -> None:
        rows = {one["ticket"]: one for one in self.report}
        owed = {"t1": {}, "t2": {}, "t4": {}, "t6": {}}
        fault_run.judge_report(self.audit, self.report, self.counts, BY_HAND)
        fault_run.judge_rows(owed, {"t5": "charge_disputed"}, rows, self.audit, last=self.last)
        fault_run.judge_books(self.audit, last=self.last)


def as_another(told: Told, at: int, **other: Any) -> None:
    told.report[at] |= other


def never_made(told: Told) -> None:
    told.made.pop(0)


def untold(told: Told) -> None:
    told.made.append(refund("re_4", 400, "succeeded", "t4"))


def by_one_refund(told: Told) -> None:
    told.report.append(copy.copy(told.report[0]))


def blamed(told: Told, name: str) -> None:
    told.audit[name].append({"name": "t1"})


def counted(told: Told, name: str) -> None:
    told.counts[name] = told.counts[name] + 1 if isinstance(told.counts[name], int) else {}


LIES: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "paid, and never made": (never_made, {}),
    "paid, and failed at Stripe": (lambda told: told.made[0].update(status="failed"), {}),
    "settled, and pending at Stripe": (lambda told: told.made[0].update(status="pending"), {}),
    "pending, and settled at Stripe": (lambda told: told.made[1].update(status="succeeded"), {}),
    "failed, and paid at Stripe": (lambda told: told.made[2].update(status="succeeded"), {}),
    "another amount": (lambda told: told.made[0].update(amount=101), {}),
    "another ticket": (lambda told: told.made[0]["metadata"].update(ticket_id="t2"), {}),
    "another request": (lambda told: told.made[0]["metadata"].update(refundry_request_id="q-t2"), {}),
    "another charge": (as_another, {"at": 0, "charge": "ch_2"}),
    "a refund by hand told as ours": (as_another, {"at": 0, "refund": "re_hand"}),
    "a refund that no row tells": (untold, {}),
    "one refund for two rows": (by_one_refund, {}),
    "paid without a refund": (as_another, {"at": 3, "outcome": "paid"}),
    "refused with a refund": (as_another, {"at": 4, "refund": "re_1"}),
    "waiting without a reason": (as_another, {"at": 3, "code": ""}),
    "another reason than it has to be": (as_another, {"at": 4, "code": "declined"}),
    "no longer in doubt, and made": (as_another, {"at": 5, "state": "approved"}),
    "told as paid, and not paid in the books": (lambda told: told.audit["not_paid"].append({"name": "t1"}), {}),
    "a problem in the books": (blamed, {"name": "problems"}),
    "paid double": (blamed, {"name": "paid_double"}),
    "never asked": (blamed, {"name": "never_asked"}),
    "left out in the end": (lambda told: setattr(told, "last", True), {}),
    **{
        f"{name} miscounted": (counted, {"name": name})
        for name in ("rows", "paid", "refused", "failed", "unknown", "waiting", "pending", "amounts", "reasons")
    },
}


def test_the_truth_is_believed() -> None:
    Told().judge()


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_found(lie: str) -> None:
    told, (tell, how) = Told(), LIES[lie]
    tell(told, **how)
    with pytest.raises(AssertionError):
        told.judge()


def test_a_row_that_could_be_paid_and_is_not_is_found_in_the_end() -> None:
    waits = {"t4": row("t4", "waiting", "approved", "low_balance", 400, None)}
    with pytest.raises(AssertionError, match="could be paid"):
        fault_run.judge_rows({"t4": {}}, {}, waits, {"not_paid": [{"name": "t4"}]}, last=True)
