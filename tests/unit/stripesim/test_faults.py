"""The plan of faults as a pure function of rules, seed and count."""

import math
from statistics import median

import pytest

from stripesim.faults import LATENCY_MAX, NOTHING, Faults, Plan, parsed

pytestmark = pytest.mark.unit


def drawn(count: int, **rule: object) -> list[float]:
    faults = Faults([parsed({"kind": "latency", **rule}, "rule")], seed=1)
    return [faults.plan("GET /v1/balance", "acct_1").latency for _ in range(count)]


def test_without_rules_nothing_happens_and_nothing_is_counted() -> None:
    faults = Faults([], 1)
    assert faults.plan("POST /v1/refunds", "acct_1") is NOTHING
    assert faults.stale_bound == 0


def test_a_uniform_latency_lies_between_its_bounds() -> None:
    seen = drawn(2_000, low=100, high=300)
    assert 0.1 <= min(seen) < 0.105
    assert 0.295 < max(seen) <= 0.3
    assert median(seen) == pytest.approx(0.2, abs=0.01)


def test_a_log_normal_latency_has_its_median_and_its_tail() -> None:
    seen = sorted(drawn(4_000, median=50, sigma=0.5))
    assert median(seen) == pytest.approx(0.05, rel=0.05)
    # One deviation up is 84.1 % of the way.
    assert seen[int(4_000 * 0.841)] == pytest.approx(0.05 * math.exp(0.5), rel=0.08)


def test_a_latency_ends_somewhere() -> None:
    assert max(drawn(500, median=600_000, sigma=5)) == LATENCY_MAX


def test_latencies_add_up_and_of_others_the_first_of_each_stage_counts() -> None:
    kinds = ("drop_before", "error_before", "drop_after", "truncate")
    rules = [{"kind": "latency", "milliseconds": 10}] * 2 + [{"kind": kind} for kind in kinds]
    plan = Faults([parsed(rule, "rule") for rule in rules], 1).plan("POST /v1/refunds", "acct_1")
    assert plan.latency == pytest.approx(0.02)
    assert plan.before is not None
    assert plan.after is not None
    assert (plan.before.kind, plan.after.kind) == ("drop_before", "drop_after")


def test_counts_go_on_after_a_restart_only_for_the_same_number_of_rules() -> None:
    rules = [parsed({"kind": "drop_before", "at": [3]}, "rule")]
    first, second = Faults(rules, 1), Faults(rules, 1)
    for _ in range(2):
        assert first.plan("POST /v1/refunds", "acct_1") == Plan()
    second.resume(first.counts())
    assert second.plan("POST /v1/refunds", "acct_1").before == rules[0]
    second.resume({"met": [], "hits": []})
    assert second.counts() == {"met": [3], "hits": [1]}


def test_a_stale_read_is_within_its_bound_and_for_reads_alone() -> None:
    faults = Faults([parsed({"kind": "stale_read", "bound_seconds": 7}, "rule")], 1)
    stale = [faults.plan("GET /v1/charges", "acct_1").stale for _ in range(300)]
    assert all(value is not None and 0 <= value < 7 for value in stale)
    assert max(value or 0 for value in stale) > 6.5
    assert faults.plan("POST /v1/refunds", "acct_1").stale is None
    assert faults.met == [300]
