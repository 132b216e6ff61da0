"""What a plan tells before anything is paid, and that a change of it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refundry.charges.model import Expected
from refundry.plans.model import Forecast, Plan, PlanRow, PlanState, fee_share, hashed

pytestmark = pytest.mark.unit

EXPECTED = Expected("succeeded", 10_000, 0, (("du_1", "won"),))
PLAN = Plan("plan-1", "batch-1", "acct_1|test", "ab", PlanState.MAKING, 1_790_000_000.0)


def payable(number: int, amount: int, currency: str = "gbp", **changes: object) -> PlanRow:
    row = PlanRow(number, request=f"q{number}", charge=f"ch_{number}", amount_minor=amount, currency=currency)
    return replace(row, expected=EXPECTED, **changes)  # type: ignore[arg-type]


ROW = payable(1, 1000, fingerprint="f", text="10.00 GBP can be refunded")
ALTERED = {
    "number": replace(ROW, number=2),
    "code": replace(ROW, code="x"),
    "text": replace(ROW, text="x"),
    "request": replace(ROW, request="q2"),
    "fingerprint": replace(ROW, fingerprint="g"),
    "charge": replace(ROW, charge="ch_2"),
    "amount": replace(ROW, amount_minor=1001),
    "currency": replace(ROW, currency="eur"),
    "allowed": replace(ROW, allow_repeat=True),
    "what was allowed": replace(ROW, allowed=frozenset({"re_x"})),
    "status": replace(ROW, expected=replace(EXPECTED, status="failed")),
    "captured": replace(ROW, expected=replace(EXPECTED, captured_minor=1)),
    "given back": replace(ROW, expected=replace(EXPECTED, given_back_minor=1)),
    "disputes": replace(ROW, expected=replace(EXPECTED, disputes=())),
    "expected": replace(ROW, expected=None),
}


@pytest.mark.parametrize("what", ALTERED)
def test_whatever_is_altered_in_a_row_changes_the_hash(what: str) -> None:
    assert hashed(PLAN.header, [ALTERED[what].written]) != hashed(PLAN.header, [ROW.written])


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, account="acct_2|test"),
        replace(PLAN, sha256="cd"),
        replace(PLAN, batch="batch-2"),
        replace(PLAN, look_max_age=3600.0),
        replace(PLAN, id="plan-2"),
    ],
)
def test_whatever_is_altered_in_the_head_changes_the_hash(other: Plan) -> None:
    assert hashed(other.header, [ROW.written]) != hashed(PLAN.header, [ROW.written])


def test_rows_that_are_left_out_or_swapped_change_the_hash() -> None:
    rows = [payable(n, 100 * n).written for n in (1, 2, 3)]
    told = {hashed(PLAN.header, some) for some in (rows, rows[:2], rows[1:], rows[::-1], [rows[0], rows[2]])}
    assert len(told) == 5


def forecast(*rows: PlanRow, balance: dict[str, int] | None = None, rate: float = 0.0) -> dict[str, object]:
    made = Forecast(balance, rate)
    for row in rows:
        made.take(row)
    return made.told()


def test_the_balance_runs_dry_at_the_first_row_that_it_does_not_reach_for() -> None:
    rows = [payable(1, 600), PlanRow(2, "x"), payable(3, 500, "eur"), payable(4, 400), payable(5, 1), payable(6, 900)]
    told = forecast(*rows, balance={"gbp": 1000}, rate=2.0)
    assert told["amounts"] == {
        "eur": {"payable": 500, "balance": 0, "dry_at_row": 3, "dry_after_seconds": 1},
        "gbp": {"payable": 1901, "balance": 1000, "dry_at_row": 5, "dry_after_seconds": 2},
    }
    assert told["seconds"] == 3


def test_a_balance_that_reaches_exactly_does_not_run_dry() -> None:
    told = forecast(payable(1, 600), payable(2, 400), balance={"gbp": 1000}, rate=25.0)
    assert told["amounts"] == {"gbp": {"payable": 1000, "balance": 1000, "dry_at_row": None, "dry_after_seconds": None}}


def test_a_balance_that_nobody_may_see_never_runs_dry() -> None:
    told = forecast(payable(1, 600))
    assert told["amounts"] == {"gbp": {"payable": 600, "balance": None, "dry_at_row": None, "dry_after_seconds": None}}
    assert (told["seconds"], told["refunds_per_second"]) == (None, None)


def test_every_row_counts_as_payable_refused_or_possible_repeat() -> None:
    repeats = [PlanRow(n, "possible_repeat") for n in range(2, 102)]
    told = forecast(payable(1, 5), *repeats, PlanRow(102, "charge_disputed"), PlanRow(103, "charge_disputed"))
    assert (told["rows"], told["payable"], told["refused"], told["repeats"]) == (103, 1, 2, 100)
    assert told["reasons"] == {"charge_disputed": 2, "possible_repeat": 100}
    assert told["repeat_rows"] == list(range(2, 52))


def test_fees_that_are_known_are_summed_and_the_others_estimated_by_them() -> None:
    known = payable(1, 1000, fee_minor=40, fee_currency="gbp")
    told = forecast(known, payable(2, 500), payable(3, 1000, "eur"))
    assert (told["fees_kept"], told["fees_kept_estimated"]) == ({"gbp": 40}, {"gbp": 20, "eur": 29})


def test_a_fee_in_another_currency_estimates_nothing() -> None:
    told = forecast(payable(1, 1000, fee_minor=40, fee_currency="eur"), payable(2, 1000))
    assert (told["fees_kept"], told["fees_kept_estimated"]) == ({"eur": 40}, {"gbp": 29})


def test_a_charge_of_another_currency_that_settled_in_this_one_estimates_nothing_of_it() -> None:
    settled = payable(2, 1_000_000, "eur", fee_minor=29_000, fee_currency="gbp")
    told = forecast(payable(1, 10_000, fee_minor=290, fee_currency="gbp"), settled, payable(3, 10_000))
    assert (told["fees_kept"], told["fees_kept_estimated"]) == ({"gbp": 29_290}, {"gbp": 290})


@pytest.mark.parametrize(
    ("fee", "amount", "captured", "share"),
    [(100, 50, 100, 50), (33, 1, 2, 17), (33, 1, 3, 11), (1, 1, 3, 0), (5, 1, 0, 0)],
)
def test_the_share_of_a_fee_is_rounded_to_the_nearest(fee: int, amount: int, captured: int, share: int) -> None:
    assert fee_share(fee, amount, captured) == share
