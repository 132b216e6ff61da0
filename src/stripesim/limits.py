"""Stripe's limiters: calls per second and calls at once, for the account and for each operation.

A limiter here counts what it let through in the last second and lets no more than the limit through in any second, not
even in a burst after silence: a client that keeps this pace keeps Stripe's.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

WINDOW = 1.0
# Times of calls that are remembered for each operation: over an hour at 250 per second, in about 40 MB.
TIMES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls per second and calls in flight; zero means no limit.

    Args:
        total: Calls per second of one account.
        endpoint: Calls per second of one operation of one account.
        search: The same for search operations.
        total_flight: Calls in flight of one account.
        endpoint_flight: Calls in flight of one operation.
        operations: Calls per second of single operations, which win over `endpoint`.
    """

    total: float = 0
    endpoint: float = 0
    search: float = 0
    total_flight: int = 0
    endpoint_flight: int = 0
    operations: dict[str, float] = field(default_factory=dict)


# Rates: docs.stripe.com/rate-limits, 2026-04-30. Stripe publishes no number for calls in flight: these are ours.
NAMED = {
    "none": Limits(),
    "live": Limits(total=100, endpoint=25, search=20, total_flight=100, endpoint_flight=50),
    "sandbox": Limits(total=25, endpoint=25, search=20, total_flight=50, endpoint_flight=25),
}
WORDS = {
    "global": "total",
    "endpoint": "endpoint",
    "search": "search",
    "global_concurrency": "total_flight",
    "endpoint_concurrency": "endpoint_flight",
}


def parsed(text: str) -> Limits:
    """Read `live`, `sandbox`, `none`, or `global=100,endpoint=25,POST /v1/refunds=10`.

    Raises:
        ValueError: What is wrong, and which words there are.
    """
    if text in NAMED:
        return NAMED[text]
    limits = Limits()
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1
        if not 0 <= value <= 1e6:  # noqa: PLR2004  # more is a slip of the pen
            raise ValueError(
                f"limits: '{part}' should be a name, '=', and a number from 0 to 1000000; or one of {', '.join(NAMED)}"
            )
        if name in WORDS:
            # Calls at once are counted in whole numbers; a rate may have a fraction.
            change: dict[str, Any] = {WORDS[name]: int(value) if name.endswith("concurrency") else value}
            limits = replace(limits, **change)
        elif name.partition(" ")[0] in {"GET", "POST", "DELETE"}:
            limits = replace(limits, operations=limits.operations | {name: value})
        else:
            raise ValueError(
                f"limits: '{name}' is not known; there are {', '.join(WORDS)}, and operations as 'POST /v1/refunds'"
            )
    return limits


class Limiter:
    """Decides which calls pass.

    Args:
        limits: What is allowed; may be replaced while calls run.
        monotonic: A clock in seconds. The pace is real time: moving the world's clock does not refill it.
    """

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        """Begin with no calls counted."""
        self.limits = limits
        self._monotonic = monotonic
        self._passed: dict[tuple[int, str], deque[float]] = {}
        self._flight: dict[tuple[int, str], int] = {}

    def _rates(self, operation: str) -> tuple[float, float]:
        limits = self.limits
        own = limits.search if operation.endswith("/search") else limits.endpoint
        return limits.total, limits.operations.get(operation, own)

    def enter(self, scope: int, operation: str) -> str | None:
        """Count a call in, or tell why it may not pass, as the value of `Stripe-Rate-Limited-Reason`."""
        limits = self.limits
        if limits.total_flight and self._flight.get((scope, "*"), 0) >= limits.total_flight:
            return "global-concurrency"
        if limits.endpoint_flight and self._flight.get((scope, operation), 0) >= limits.endpoint_flight:
            return "endpoint-concurrency"
        total, endpoint = self._rates(operation)
        now = self._monotonic()
        if total and not self._room(scope, "*", total, now):
            return "global-rate"
        if endpoint and not self._room(scope, operation, endpoint, now):
            return "endpoint-rate"
        for name, rate in (("*", total), (operation, endpoint)):
            if rate:
                self._passed[scope, name].append(now)
        for name in ("*", operation):
            self._flight[scope, name] = self._flight.get((scope, name), 0) + 1
        return None

    def _room(self, scope: int, name: str, rate: float, now: float) -> bool:
        window = max(WINDOW, 1 / rate)
        passed = self._passed.setdefault((scope, name), deque())
        while passed and passed[0] <= now - window:
            passed.popleft()
        return len(passed) < max(1, rate)

    def leave(self, scope: int, operation: str) -> None:
        """Count a call out."""
        for name in ("*", operation):
            self._flight[scope, name] -= 1


class Log:
    """Counts calls, and remembers when those that passed the limiters did, for measurements of pace.

    Args:
        monotonic: A clock in seconds, the limiters' own.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with nothing."""
        self._monotonic = monotonic
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._since = self._monotonic()
        self._statuses: Counter[str] = Counter()
        self._limited: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}
        self._counts: Counter[str] = Counter()
        self._accounts: Counter[tuple[str, str, str]] = Counter()

    def passed(self, operation: str, account: str, caller: str) -> None:
        """A call passed the limiters.

        Args:
            operation: Method and path template.
            account: On whose objects.
            caller: Whose key it carries: a platform's for a connected account.
        """
        self._counts[operation] += 1
        self._accounts[account, caller, operation] += 1
        self._times.setdefault(operation, deque(maxlen=TIMES_MAX)).append(self._monotonic())

    def limited(self, reason: str) -> None:
        """A call was sent away with a 429."""
        self._limited[reason] += 1

    def status(self, status: int) -> None:
        """A call was answered; 0 stands for a connection that was cut."""
        self._statuses[str(status)] += 1

    def times(self) -> dict[str, list[float]]:
        """Tell by operation when calls passed, in order, by the machine's monotonic clock."""
        return {name: list(times) for name, times in self._times.items()}

    def told(self) -> dict[str, Any]:
        """Tell the counts, and the most calls in any second and in any tenth of one, per operation and in all."""
        operations: dict[str, Any] = {name: _peaks(self._counts[name], times) for name, times in self._times.items()}
        together = sorted(moment for times in self._times.values() for moment in times)
        return {
            "seconds": self.seconds(),
            "statuses": dict(self._statuses),
            "limited": dict(self._limited),
            "operations": operations,
            "all": _peaks(self._counts.total(), together),
        }

    def seconds(self) -> float:
        """Tell for how long calls have been counted, by the limiters' clock."""
        return self._monotonic() - self._since

    def by_account(self) -> dict[str, Any]:
        """Tell how many calls passed for each account, by the account whose key they carried, and by operation."""
        told: dict[str, Any] = {}
        for (account, caller, operation), count in self._accounts.items():
            told.setdefault(account, {}).setdefault(caller, {})[operation] = count
        return told


def _peaks(count: int, times: Iterable[float]) -> dict[str, int]:
    return {"calls": count, "peak_second": _peak(times, 1.0), "peak_tenth": _peak(times, 0.1)}


def _peak(times: Iterable[float], window: float) -> int:
    inside: deque[float] = deque()
    most = 0
    for moment in times:
        inside.append(moment)
        while inside[0] <= moment - window:
            inside.popleft()
        most = max(most, len(inside))
    return most


class Locks:
    """Objects that a running call holds."""

    def __init__(self) -> None:
        """Begin with nothing held."""
        self._held: dict[str, asyncio.Event] = {}

    async def take(self, names: tuple[str, ...], wait: float) -> bool:
        """Hold the objects; wait up to `wait` seconds for others to let go. False if they did not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while busy := [self._held[name] for name in names if name in self._held]:
            left = until - loop.time()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(busy[0].wait(), left)
        for name in names:
            self._held[name] = asyncio.Event()
        return True

    def free(self, names: tuple[str, ...]) -> None:
        """Let go."""
        for name in names:
            self._held.pop(name).set()
