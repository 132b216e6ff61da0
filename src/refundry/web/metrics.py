"""The numbers of a process, in Prometheus's words. They are counted where things happen, and only read here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from refundry.infra.readings import BOUNDS, Meter


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a process has counted of one account since its start, and how that stands.

    Args:
        rate_limit: Refunds per second that the pace allows; zero means any number.
        flight: How many rows may be on their way at once.
        meter: How long calls took, and which were turned away.
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
    rate_limit: float
    flight: int
    meter: Meter


GAUGES: tuple[tuple[str, str, Callable[[Numbers], float]], ...] = (
    ("executing", "Whether this process executes, or watches.", lambda of: of.executing),
    ("account_held", "Whether the account is held, as when Stripe refuses its key.", lambda of: of.held),
    ("open_breaks", "Where our books and Stripe's differ, over all accounts.", lambda of: of.breaks),
    ("pace_refunds_per_second", "What the pace allows; 0 means any number.", lambda of: of.rate_limit),
    ("flight_rows", "Rows that may be on their way at once.", lambda of: of.flight),
)
COUNTERS: tuple[tuple[str, str, Callable[[Numbers], int]], ...] = (
    ("requests_claimed", "Refund requests that were taken to be worked on.", lambda of: of.claimed),
    ("refunds_sent", "Sends of refund attempts.", lambda of: of.sent),
    ("charge_looks", "Looks at a charge.", lambda of: of.looks),
    ("refunds_adopted", "Refunds that were found at Stripe with our id.", lambda of: of.adopted),
    ("stripe_calls", "Calls to Stripe.", lambda of: of.stripe_calls),
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
        yield _limited(now)
        yield _call_seconds(now)


def _limited(now: Sequence[Numbers]) -> Metric:
    text = "Calls that Stripe turned away (429), by the reason that it gave."
    limited = CounterMetricFamily("refundry_stripe_rate_limited", text, labels=["account", "mode", "reason"])
    for of in now:
        for reason, count in sorted(of.meter.limited.items()):
            limited.add_metric([of.account, of.mode, reason], count)
    return limited


def _call_seconds(now: Sequence[Numbers]) -> Metric:
    text = "How long calls to Stripe took, without the wait for their slots."
    labels = ["account", "mode", "operation"]
    seconds = HistogramMetricFamily("refundry_stripe_call_seconds", text, labels=labels)
    for of in now:
        for operation, times in sorted(of.meter.calls.items()):
            reached = list(accumulate(times.counts))
            buckets = [(str(bound), count) for bound, count in zip([*BOUNDS, "+Inf"], reached, strict=True)]
            seconds.add_metric([of.account, of.mode, operation], buckets, times.seconds)
    return seconds


class IntakeCollector(Collector):
    """Tells what came in by webhook.

    Args:
        stored: How many events, by the account's name in our tables; those that were there already count again.
        refused: How many calls, by the code of the refusal.
    """

    def __init__(self, stored: Mapping[str, int], refused: Mapping[str, int]) -> None:
        self._stored = stored
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """Tell the counts."""
        stored = CounterMetricFamily("refundry_webhooks_stored", "Events that were stored.", labels=["account", "mode"])
        for account, count in sorted(self._stored.items()):
            stored.add_metric(account.split("|"), count)
        yield stored
        refused = CounterMetricFamily("refundry_webhooks_refused", "Calls that were refused.", labels=["code"])
        for code, count in sorted(self._refused.items()):
            refused.add_metric([code], count)
        yield refused
