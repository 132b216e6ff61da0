"""The numbers of a process, in Prometheus's words. They are counted where things happen, and only read here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a process has counted since its start, and how it stands.

    Args:
        rate_limit: Refunds per second that the pace allows; zero means any number.
        outcomes: How many sends ended in each way.
    """

    account: str
    mode: str
    executing: bool
    held: bool
    breaks: int
    claimed: int
    sent: int
    looks: int
    adopted: int
    outcomes: dict[str, int]
    stripe_calls: int
    rate_limited: int
    rate_limit: float


class DeskCollector(Collector):
    """Reads the numbers when they are asked for.

    Args:
        numbers: Counts.
    """

    def __init__(self, numbers: Callable[[], Numbers]) -> None:
        self._numbers = numbers

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: counting needs a database that may not be there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Count."""
        now = self._numbers()
        labels, values = ["account", "mode"], [now.account, now.mode]
        for name, text, value in (
            ("executing", "Whether this process executes, or watches.", float(now.executing)),
            ("account_held", "Whether the account is held, as when Stripe refuses its key.", float(now.held)),
            ("open_breaks", "Where our books and Stripe's differ.", float(now.breaks)),
            ("pace_refunds_per_second", "What the pace allows; 0 means any number.", now.rate_limit),
        ):
            gauge = GaugeMetricFamily(f"refundry_{name}", text, labels=labels)
            gauge.add_metric(values, value)
            yield gauge
        for name, text, count in (
            ("requests_claimed", "Refund requests that were taken to be worked on.", now.claimed),
            ("refunds_sent", "Sends of refund attempts.", now.sent),
            ("charge_looks", "Looks at a charge.", now.looks),
            ("refunds_adopted", "Refunds that were found at Stripe with our id.", now.adopted),
            ("stripe_calls", "Calls to Stripe.", now.stripe_calls),
            ("stripe_rate_limited", "Calls that Stripe turned away (429).", now.rate_limited),
        ):
            counter = CounterMetricFamily(f"refundry_{name}", text, labels=labels)
            counter.add_metric(values, count)
            yield counter
        outcomes = CounterMetricFamily("refundry_send_outcomes", "How sends ended.", labels=[*labels, "outcome"])
        for outcome, count in sorted(now.outcomes.items()):
            outcomes.add_metric([*values, outcome], count)
        yield outcomes
