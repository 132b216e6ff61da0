"""How many rows are looked up together."""

from __future__ import annotations

import pytest

from refundry.worker.planner import SLICE, SLICE_LEAST, slice_at

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("rate", "rows"),
    [(0.0, SLICE), (0.5, SLICE_LEAST), (22.5, 12), (90.0, 45), (91.0, 46), (1000.0, SLICE)],
)
def test_no_more_rows_are_looked_up_together_than_are_answered_in_half_a_second(rate: float, rows: int) -> None:
    assert slice_at(rate) == rows
