"""For every time and every set of refunds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refundry.disputes.model import TAKEN, Dispute
from refundry.disputes.rules import PHASES, loss, phase_of
from refundry.follow import rules
from refundry.gateways.base import SeenDispute
from tests.support.builders import ACCOUNT, CHARGE, charge, seen_refund
from tests.support.clock import START

pytestmark = pytest.mark.property
MOMENTS = st.floats(0, 30 * 86_400.0)


@given(MOMENTS, MOMENTS, st.floats(1.0, 86_400.0))
def test_windows_leave_nothing_out_and_are_few(since: float, span: float, width: float) -> None:
    until = since + span
    cut = rules.windows(since, until, width)
    assert len(cut) <= rules.WINDOWS_MAX
    if not until > since:
        assert cut == []
        return
    assert (cut[0][0], cut[-1][1]) == (since, until)
    assert [end for _, end in cut[:-1]] == [begin for begin, _ in cut[1:]]
    assert all(begin < end for begin, end in cut)


@given(st.dictionaries(st.uuids().map(str), MOMENTS, max_size=40))
def test_runs_are_worth_their_list_and_no_refund_is_in_two(created: dict[str, float]) -> None:
    found = rules.runs(created)
    ids = [refund for run in found for refund in run.ids]
    assert len(ids) == len(set(ids))
    for run in found:
        assert len(run.ids) >= rules.LIST_FROM
        moments = sorted(created[refund] for refund in run.ids)
        assert (moments[0], moments[-1]) == (run.since, run.until)
        assert all(later - sooner <= rules.APART_SECONDS for sooner, later in pairwise(moments))


AMOUNTS = st.integers(1, 10_000)


@given(
    st.lists(st.tuples(AMOUNTS, st.sampled_from(["pending", "succeeded", "failed", "canceled"])), max_size=6),
    st.lists(st.tuples(AMOUNTS, st.sampled_from(sorted(PHASES))), max_size=3),
)
def test_what_is_lost_twice_is_never_more_than_was_refunded_or_went_beyond_the_charge(
    refunds: list[tuple[int, str]], disputes: list[tuple[int, str]]
) -> None:
    mirror = charge(
        refunds=tuple(seen_refund(f"re_{at}", amount_minor=a, status=s) for at, (a, s) in enumerate(refunds))
    )
    seen = [SeenDispute(f"du_{at}", status, amount, refundable=False) for at, (amount, status) in enumerate(disputes)]
    known = [
        Dispute(d.id, ACCOUNT, CHARGE, d.status, phase_of(d), d.amount_minor, "gbp", "fraudulent", START, None, START)
        for d in seen
    ]
    told = loss(mirror, known)
    taken = sum(one.amount_minor for one in known if one.phase in TAKEN)
    assert 0 <= told.amount_minor <= mirror.given_back_minor
    if mirror.given_back_minor + taken <= mirror.captured_minor or not taken:
        assert told.amount_minor == 0
    elif taken <= mirror.captured_minor:
        assert told.amount_minor == mirror.given_back_minor + taken - mirror.captured_minor
