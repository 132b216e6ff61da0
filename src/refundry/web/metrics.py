"""The numbers of a process, in Prometheus's words. They are counted where things happen, and only read here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from refundry.follow.model import Backlog
from refundry.inbox.model import State
from refundry.infra.readings import BOUNDS, Meter
from refundry.outbox.model import DeliveryState, Queue
from refundry.tasks.model import Kind


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a process has counted of one account since its start, and how that stands.

    Args:
        rate_limit: Refunds per second that the pace allows now; zero means any number.
        flight: How many rows may be on their way at once.
        meter: How long calls took, and which were turned away.
        outcomes: How many sends ended in each way.
        backlog: What waits for a person, for evidence, or to be followed.
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
    backlog: Backlog


def age(at: float | None, now: float) -> float:
    """Tell how long ago something was, in seconds; 0, if it never was, or is yet to come by a clock that was set back."""
    return 0.0 if at is None else max(now - at, 0.0)


GAUGES: tuple[tuple[str, str, Callable[[Numbers], float]], ...] = (
    ("executing", "Whether this process executes, or watches.", lambda of: of.executing),
    ("account_held", "Whether the account is held, as when Stripe refuses its key.", lambda of: of.held),
    ("open_breaks", "Where our books and Stripe's differ, over all accounts.", lambda of: of.breaks),
    (
        "pace_refunds_per_second",
        "What the pace allows now, less after 429s; 0 means any number.",
        lambda of: of.rate_limit,
    ),
    ("flight_rows", "Rows that may be on their way at once.", lambda of: of.flight),
    ("overdue_tasks", "Open tasks that are overdue.", lambda of: of.backlog.tasks_overdue),
    (
        "oldest_task_age_seconds",
        "How long the oldest open task waits; 0, if none is open.",
        lambda of: age(of.backlog.task_since, of.backlog.at),
    ),
    ("open_disputes", "Disputes that are open.", lambda of: of.backlog.disputes),
    (
        "disputes_due_soon",
        "Open disputes whose evidence is due within three days.",
        lambda of: len(of.backlog.disputes_due),
    ),
    (
        "oldest_event_age_seconds",
        "How long the oldest event waits to be applied; 0, if none does.",
        lambda of: age(of.backlog.event_since, of.backlog.at),
    ),
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
        yield from _waits(now)
        yield _limited(now)
        yield _call_seconds(now)


def _waits(now: Sequence[Numbers]) -> Iterator[Metric]:
    """Tell what waits by kind, state and feed."""
    labels = ["account", "mode"]
    tasks = GaugeMetricFamily("refundry_open_tasks", "Tasks that wait for a person.", labels=[*labels, "kind"])
    events = GaugeMetricFamily("refundry_inbox_events", "Events that wait, or are parked.", labels=[*labels, "state"])
    text = "How long ago an event came last; missing, if none ever did."
    last = GaugeMetricFamily("refundry_last_event_age_seconds", text, labels=labels)
    text = "How far behind now a feed was read; missing, if it never was."
    marks = GaugeMetricFamily("refundry_follow_behind_seconds", text, labels=[*labels, "feed"])
    for of in now:
        whose, waits = [of.account, of.mode], of.backlog
        for kind in Kind:
            tasks.add_metric([*whose, kind], waits.tasks.get(kind, 0))
        events.add_metric([*whose, State.WAITING], waits.events_waiting)
        events.add_metric([*whose, State.PARKED], waits.events_parked)
        if waits.event_at is not None:
            last.add_metric(whose, age(waits.event_at, waits.at))
        for feed, mark in sorted(waits.marks.items()):
            marks.add_metric([*whose, feed], age(mark, waits.at))
    yield from (tasks, events, last, marks)


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


class OutboxCollector(Collector):
    """Tells what order systems were not told yet: they are the installation's, and no account's.

    Args:
        queues: Reads it, by target, and the time by the database's clock.
    """

    def __init__(self, queues: Callable[[], tuple[Mapping[str, Queue], float]]) -> None:
        self._queues = queues

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand, as above."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read it."""
        text = "Messages that wait to be delivered, or are parked."
        messages = GaugeMetricFamily("refundry_outbox_messages", text, labels=["target", "state"])
        text = "How long the oldest message waits to be delivered; 0, if none does."
        oldest = GaugeMetricFamily("refundry_oldest_message_age_seconds", text, labels=["target"])
        queues, now = self._queues()
        for target, queue in sorted(queues.items()):
            messages.add_metric([target, DeliveryState.WAITING], queue.waiting)
            messages.add_metric([target, DeliveryState.PARKED], queue.parked)
            oldest.add_metric([target], age(queue.waits_since, now))
        yield messages
        yield oldest


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
