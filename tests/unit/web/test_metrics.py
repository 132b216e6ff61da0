"""The numbers of a process in Prometheus's words: how long calls took, and what was turned away and why."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from refundry.follow.model import Backlog, Feed
from refundry.infra.readings import BOUNDS, Meter
from refundry.outbox.model import Queue
from refundry.tasks.model import Kind
from refundry.web.metrics import DeskCollector, Numbers, OutboxCollector
from tests.support.builders import dispute

pytestmark = pytest.mark.unit
# Labels that tell one sample from another.
TELLING = ("le", "reason", "kind", "state", "feed")
SEND = "POST /v1/refunds"


@pytest.fixture
def samples() -> dict[tuple[str, str], float]:
    """Tell what a scrape sees, by the name and by the label that tells one sample from another."""
    meter = Meter()
    for seconds in (0.24, 0.24, 1.9, 120.0):
        meter.took(SEND, seconds)
    meter.turned_away("endpoint-rate")
    backlog = Backlog(
        1000.0, {Kind.REFUND_FAILED: 2, Kind.PAID_TWICE: 1}, 1, 400.0, 3, (dispute(),), 7, 2, 990.0, 999.0,
        {Feed.EVENTS: 940.0, Feed.REFUNDS: 1500.0},
    )  # fmt: skip
    numbers = Numbers(
        account="acct_1", mode="test", executing=True, held=False, breaks=0, claimed=4, sent=4, looks=0, adopted=0,
        outcomes={"Accepted": 4}, stripe_calls=5, rate_limit=22.5, flight=16, meter=meter,
        backlog=backlog,
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(DeskCollector(lambda: [numbers]))
    text = generate_latest(registry).decode()
    return {
        (sample.name, next((sample.labels[name] for name in TELLING if name in sample.labels), "")): sample.value
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


def test_what_waits_is_told_by_kind_state_and_feed(samples: dict[tuple[str, str], float]) -> None:
    told = {name.removeprefix("refundry_"): value for (name, label), value in samples.items() if not label}
    assert (told["overdue_tasks"], told["oldest_task_age_seconds"]) == (1, 600)
    assert (told["open_disputes"], told["disputes_due_soon"]) == (3, 1)
    assert (told["oldest_event_age_seconds"], told["last_event_age_seconds"]) == (10, 1)
    tasks = {label: value for (name, label), value in samples.items() if name == "refundry_open_tasks"}
    assert tasks == {kind.value: {Kind.REFUND_FAILED: 2, Kind.PAID_TWICE: 1}.get(kind, 0) for kind in Kind}
    assert [samples["refundry_inbox_events", state] for state in ("waiting", "parked")] == [7, 2]
    # A mark that is yet to come is of a clock that was set back.
    assert [samples["refundry_follow_behind_seconds", feed] for feed in ("events", "refunds")] == [60, 0]
    assert ("refundry_follow_behind_seconds", "charges") not in samples


def test_messages_are_told_by_target_and_state() -> None:
    queues = {"http": Queue(3, 2, 880.0, "HTTP 500"), "file": Queue()}
    registry = CollectorRegistry()
    registry.register(OutboxCollector(lambda: (queues, 1000.0)))
    text = generate_latest(registry).decode()
    found = {
        (sample.name.removeprefix("refundry_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found == {
        ("outbox_messages", "http", "waiting"): 3, ("outbox_messages", "http", "parked"): 2,
        ("outbox_messages", "file", "waiting"): 0, ("outbox_messages", "file", "parked"): 0,
        ("oldest_message_age_seconds", "http"): 120, ("oldest_message_age_seconds", "file"): 0,
    }  # fmt: skip
