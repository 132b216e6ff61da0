"""The numbers of a process in Prometheus's words: how long calls took, and what was turned away and why."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from refundry.infra.readings import BOUNDS, Meter
from refundry.web.metrics import DeskCollector, Numbers

pytestmark = pytest.mark.unit
SEND = "POST /v1/refunds"


@pytest.fixture
def samples() -> dict[tuple[str, str], float]:
    """Tell what a scrape sees, by the name and by the label that tells one sample from another."""
    meter = Meter()
    for seconds in (0.24, 0.24, 1.9, 120.0):
        meter.took(SEND, seconds)
    meter.turned_away("endpoint-rate")
    numbers = Numbers(
        account="acct_1", mode="test", executing=True, held=False, breaks=0, claimed=4, sent=4, looks=0, adopted=0,
        outcomes={"Accepted": 4}, stripe_calls=5, rate_limit=22.5, flight=16, meter=meter,
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(DeskCollector(lambda: [numbers]))
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.get("le") or sample.labels.get("reason") or ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["account"] == "acct_1"
    }


def test_the_times_of_calls_are_a_histogram(samples: dict[tuple[str, str], float]) -> None:
    name = "refundry_stripe_call_seconds"
    assert [samples[f"{name}_bucket", str(bound)] for bound in (0.2, 0.25, 1.5, 2.0, 60.0)] == [0, 2, 2, 3, 3]
    assert samples[f"{name}_bucket", "+Inf"] == samples[f"{name}_count", ""] == 4
    assert samples[f"{name}_sum", ""] == pytest.approx(122.38)
    assert len([key for key in samples if key[0] == f"{name}_bucket"]) == len(BOUNDS) + 1


def test_what_was_turned_away_counts_by_its_reason(samples: dict[tuple[str, str], float]) -> None:
    assert samples["refundry_stripe_rate_limited_total", "endpoint-rate"] == 1


def test_how_many_rows_may_be_on_their_way_is_told(samples: dict[tuple[str, str], float]) -> None:
    assert samples["refundry_flight_rows", ""] == 16
