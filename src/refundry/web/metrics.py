"""The numbers of a process, in Prometheus's words. They are counted where things happen, and only read here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a process has counted of one account since its start, and how that stands.

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


GAUGES: tuple[tuple[str, str, Callable[[Numbers], float]], ...] = (
    ("executing", "Whether this process executes, or watches.", lambda of: of.executing),
    ("account_held", "Whether the account is held, as when Stripe refuses its key.", lambda of: of.held),
    ("open_breaks", "Where our books and Stripe's differ, over all accounts.", lambda of: of.breaks),
    ("pace_refunds_per_second", "What the pace allows; 0 means any number.", lambda of: of.rate_limit),
)
COUNTERS: tuple[tuple[str, str, Callable[[Numbers], int]], ...] = (
    ("requests_claimed", "Refund requests that were taken to be worked on.", lambda of: of.claimed),
    ("refunds_sent", "Sends of refund attempts.", lambda of: of.sent),
    ("charge_looks", "Looks at a charge.", lambda of: of.looks),
    ("refunds_adopted", "Refunds that were found at Stripe with our id.", lambda of: of.adopted),
    ("stripe_calls", "Calls to Stripe.", lambda of: of.stripe_calls),
    ("stripe_rate_limited", "Calls that Stripe turned away (429).", lambda of: of.rate_limited),
)


class DeskCollector(Collector):
    """Reads the numbers when they are asked for.

    Args:
        numbers: Counts.
    """

    def __init__(self, numbers: Callable[[], Sequence[Numbers]]) -> None:
        self._numbers = numbers

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: counting needs a database that may not be there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Count, account by account."""
        labels, now = ["account", "mode"], self._numbers()
        for name, text, value_of in GAUGES:
            gauge = GaugeMetricFamily(f"refundry_{name}", text, labels=labels)
            for of in now:
                gauge.add_metric([of.account, of.mode], float(value_of(of)))
            yield gauge
        for name, text, count_of in COUNTERS:
            counter = CounterMetricFamily(f"refundry_{name}", text, labels=labels)
            for of in now:
                counter.add_metric([of.account, of.mode], count_of(of))
            yield counter
        outcomes = CounterMetricFamily("refundry_send_outcomes", "How sends ended.", labels=[*labels, "outcome"])
        for of in now:
            for outcome, count in sorted(of.outcomes.items()):
                outcomes.add_metric([of.account, of.mode, outcome], count)
        yield outcomes
