"""Trouble on purpose: which calls go wrong, and how. A plan is data, and the same seed chooses the same calls.

| kind | what happens |
|---|---|
| `latency` | the call takes longer: `milliseconds`, or `low` to `high`, or a log-normal `median` with `sigma` |
| `stale_read` | a read answers as of up to `bound_seconds` ago |
| `drop_before` | the connection closes, nothing was done |
| `reset_before` | the connection is reset (RST), nothing was done |
| `error_before` | 500, nothing was done and nothing is stored |
| `error_stored` | 500, nothing was done, and the 500 is what the idempotency key holds from now on |
| `rate_limit` | 429 with `reason` (`global-rate`, …), before the idempotency layer |
| `lock_timeout` | 429 `lock_timeout`, without a reason header |
| `conflict` | 409, as if the first call with this key were still running |
| `drop_after` | it was done and stored, the connection closes without an answer |
| `reset_after` | the same, with a reset |
| `truncate` | it was done and stored, half of the answer's body arrives |
| `error_after` | it was done, and the stored answer is a 500 |
| `error_later` | a stored 500; it is done `delay_seconds` later |
| `crash` | it was done and stored, then the simulator dies at once (kill -9), before the answer |
| `unauthorized`, `forbidden` | 401 or 403, as if the key had been revoked or restricted |

The four `error_…` kinds take a `status`: 500, or 424, 502, 503, 504, the others that Stripe documents for its own trouble.
"""

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

BEFORE = frozenset(
    [
        "drop_before",
        "reset_before",
        "error_before",
        "error_stored",
        "rate_limit",
        "lock_timeout",
        "conflict",
        "unauthorized",
        "forbidden",
    ]
)
AFTER = frozenset(["drop_after", "reset_after", "truncate", "error_after", "error_later", "crash"])
SHAPING = frozenset({"latency", "stale_read"})
# What can only happen to a call that changes something; `conflict` needs an idempotency key too.
WRITES = frozenset(["error_stored", "error_after", "error_later", "conflict"])
KINDS = BEFORE | AFTER | SHAPING
REASONS = frozenset(["global-rate", "global-concurrency", "endpoint-rate", "endpoint-concurrency", "resource-specific"])
STATUSES = (500, 424, 502, 503, 504)
NUMBERS = {
    "milliseconds": 600_000,
    "low": 600_000,
    "high": 600_000,
    "median": 600_000,
    "sigma": 5,
    "bound_seconds": 86_400,
    "delay_seconds": 86_400,
    "probability": 1,
}
COUNTS = ("every", "skip", "times")
# The fields that only some kinds take.
OWN = {
    "latency": {"milliseconds", "low", "high", "median", "sigma"},
    "stale_read": {"bound_seconds"},
    "rate_limit": {"reason"},
    "error_before": {"status"},
    "error_stored": {"status"},
    "error_after": {"status"},
    "error_later": {"status", "delay_seconds"},
}
CHOOSERS = ("probability", "every", "at")
LATENCY_MAX = 60.0


class BadRule(Exception):  # noqa: N818  # it names the field and the reason
    """A rule that cannot be taken; nothing was changed."""

    def __init__(self, field_name: str, why: str) -> None:
        """Name the field."""
        super().__init__(f"{field_name}: {why}")
        self.field = field_name
        self.why = why


@dataclass(frozen=True, slots=True)
class Rule:
    """When a fault happens, and what kind.

    Args:
        kind: One of the module's kinds.
        operation: A pattern over operations: `POST /v1/refunds`, `GET *`, `*`.
        account: Only this account.
        probability: The share of the matching calls that it hits.
        every: Hits each n-th matching call instead.
        at: Hits just the matching calls of these numbers, counted from 1, instead.
        skip: Leaves the first matching calls alone.
        times: Stops after so many hits; zero means never.
        more: The numbers and words of its kind.
    """

    kind: str
    operation: str = "*"
    account: str | None = None
    probability: float = 1.0
    every: int = 0
    at: tuple[int, ...] = ()
    skip: int = 0
    times: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def parsed(given: Any, path: str) -> Rule:  # noqa: ANN401  # JSON from outside
    """Read a rule.

    Raises:
        BadRule: The field and what is wrong with it.
    """
    if not isinstance(given, dict):
        raise BadRule(path, "should be an object")
    known = {"kind", "operation", "account", "at", "reason", "status", *NUMBERS, *COUNTS}
    if unknown := sorted(given.keys() - known):
        raise BadRule(f"{path}.{unknown[0]}", f"is not known; there are {', '.join(sorted(known))}")
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRule(f"{path}.kind", f"should be one of {', '.join(sorted(KINDS))}")
    if strange := sorted(given.keys() & set.union(*OWN.values()) - OWN.get(kind, set())):
        raise BadRule(f"{path}.{strange[0]}", f"means nothing to {kind}")
    for name in ("operation", "account"):
        if name in given and not isinstance(given[name], str):
            raise BadRule(f"{path}.{name}", "should be a string")
    for name, most in NUMBERS.items():
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise BadRule(f"{path}.{name}", f"should be a number from 0 to {most}")
    for name in COUNTS:
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadRule(f"{path}.{name}", "should be a whole number, 0 or more")
    at = given.get("at", [])
    if not isinstance(at, list) or not all(type(n) is int and n > 0 for n in at):
        raise BadRule(f"{path}.at", "should be a list of whole numbers from 1")
    if len(chosen := [name for name in CHOOSERS if name in given]) > 1:
        raise BadRule(f"{path}.{chosen[1]}", f"cannot stand beside {chosen[0]}: each chooses the calls in its own way")
    reason = given.get("reason", "global-rate")
    if not isinstance(reason, str) or reason not in REASONS:
        raise BadRule(f"{path}.reason", f"should be one of {', '.join(sorted(REASONS))}")
    if type(given.get("status", 500)) is not int or given.get("status", 500) not in STATUSES:
        raise BadRule(f"{path}.status", f"should be one of {', '.join(map(str, STATUSES))}")
    _check_own(given, kind, path)
    rest = {
        name: given[name]
        for name in given
        if name not in {"kind", "operation", "account", "probability", "at", *COUNTS}
    }
    return Rule(
        given["kind"],
        given.get("operation", "*"),
        given.get("account"),
        given.get("probability", 1.0),
        given.get("every", 0),
        tuple(at),
        given.get("skip", 0),
        given.get("times", 0),
        rest,
    )


def _check_own(given: dict[str, Any], kind: str, path: str) -> None:
    """Check the fields that belong to a kind, one against the other."""
    if kind == "stale_read" and not given.get("bound_seconds"):
        raise BadRule(f"{path}.bound_seconds", "a stale read needs a bound above 0")
    if kind != "latency":
        return
    if not given.keys() & {"milliseconds", "high", "median"}:
        raise BadRule(f"{path}.milliseconds", "a latency needs milliseconds, or low and high, or median and sigma")
    if "low" in given and given["low"] > given.get("high", -1):
        raise BadRule(f"{path}.low", "should be at most high")


@dataclass(slots=True)
class Plan:
    """What happens to one call; times in seconds."""

    latency: float = 0.0
    stale: float | None = None
    before: Rule | None = None
    after: Rule | None = None


NOTHING = Plan()


def _possible(kind: str, *, reads: bool, keyed: bool) -> bool:
    """Tell whether a kind can befall a call at all; a rule does not meet the others, so that its counts stay honest."""
    if kind == "stale_read":
        return reads
    return not (reads and kind in WRITES) and (keyed or kind != "conflict")


class Faults:
    """The rules in force, and how often each has met and hit a call.

    Args:
        rules: In order; of several that hit one call, the first of each stage counts, and latencies add up.
        seed: What chance is derived from.
    """

    def __init__(self, rules: list[Rule], seed: int) -> None:
        """Count from nothing."""
        self.rules = rules
        self.seed = seed
        self.met = [0] * len(rules)
        self.hits = [0] * len(rules)

    @property
    def stale_bound(self) -> float:
        """Tell how far back a stale read may look, in seconds."""
        return max((rule.more.get("bound_seconds", 0) for rule in self.rules if rule.kind == "stale_read"), default=0)

    def _chance(self, index: int, salt: str = "") -> float:
        digest = blake2b(f"{self.seed}/{index}/{self.met[index]}/{salt}".encode(), digest_size=7).digest()
        return int.from_bytes(digest) / 2**56

    def _hits(self, index: int, rule: Rule) -> bool:
        count = self.met[index] - rule.skip
        if count <= 0 or (rule.times and self.hits[index] >= rule.times):
            return False
        if rule.at:
            return count in rule.at
        if rule.every:
            return count % rule.every == 0
        return rule.probability >= 1 or self._chance(index) < rule.probability

    def counts(self) -> dict[str, list[int]]:
        """Tell what a restart needs to go on with the same plan at the same place."""
        return {"met": self.met, "hits": self.hits}

    def resume(self, counts: dict[str, list[int]]) -> None:
        """Go on with the counts of an earlier run of these rules."""
        if len(counts["met"]) == len(self.rules):
            self.met, self.hits = list(counts["met"]), list(counts["hits"])

    def plan(self, operation: str, account: str, *, keyed: bool = True) -> Plan:
        """Decide what happens to a call. Each call is asked for once: the counts move.

        Args:
            operation: Method and path template.
            account: Whose call it is.
            keyed: Whether it carries an idempotency key.
        """
        if not self.rules:
            return NOTHING
        plan = Plan()
        for index, rule in enumerate(self.rules):
            if not fnmatchcase(operation, rule.operation) or rule.account not in {None, account}:
                continue
            if not _possible(rule.kind, reads=operation.startswith("GET"), keyed=keyed):
                continue
            self.met[index] += 1
            if self._hits(index, rule):
                self.hits[index] += 1
                self._add(plan, index, rule)
        return plan

    def _add(self, plan: Plan, index: int, rule: Rule) -> None:
        if rule.kind == "latency":
            plan.latency = min(plan.latency + self._latency(index, rule.more), LATENCY_MAX)
        elif rule.kind == "stale_read":
            plan.stale = max(plan.stale or 0.0, rule.more.get("bound_seconds", 0) * self._chance(index, "stale"))
        elif rule.kind in BEFORE:
            plan.before = plan.before or rule
        else:
            plan.after = plan.after or rule

    def _latency(self, index: int, more: dict[str, Any]) -> float:
        drawn = min(max(self._chance(index, "latency"), 1e-9), 1 - 1e-9)
        if "median" in more:
            shape = math.exp(NormalDist().inv_cdf(drawn) * more.get("sigma", 0))
            return float(more["median"]) * shape / 1000
        if "high" in more:
            low = more.get("low", 0)
            return float(low + (more["high"] - low) * drawn) / 1000
        return float(more["milliseconds"]) / 1000
