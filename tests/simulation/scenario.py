"""What a seed picks: a shop, files of refunds, faults, and what happens when. Pure data, drawn in one place.

Every seed switches only some kinds of trouble on (so that each kind also meets runs in which nothing else goes wrong), and
draws how much of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random  # noqa: TID251  # drawn from the seed that was handed in
from typing import Any

from refundry.batches.model import Schedule, Window
from refundry.worker.planner import SLICE
from tests.support.clock import START

HOUR = 3600.0
# What the product is told; the simulator's late refunds stay inside what these promise to wait for.
ABSENCE_WAIT, ABSENCE_GAP = 600.0, 60.0
STALE_MAX = 45.0
# A refund may appear after a stored 500 until just before the second look of a proof of absence.
LATE_MAX = ABSENCE_WAIT + ABSENCE_GAP
UNITS = {"gbp": 1, "usd": 1, "eur": 1, "jpy": 1, "kwd": 10, "isk": 100}
SEND = "POST /v1/refunds"


@dataclass(frozen=True, slots=True)
class ShopCharge:
    """A past charge of the shop; `refund` is how refunds of it go."""

    order: str
    amount: int
    currency: str
    captured: bool = True
    card: str = "visa"


@dataclass(frozen=True, slots=True)
class FileRow:
    """A line of a file.

    Args:
        charge: The number of its charge; `None` names one that is not there.
        by: The column that names it.
        amount: Minor units; `None` is the word `full`.
    """

    charge: int | None
    by: str
    amount: int | None
    ticket: str = ""
    key: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens at a time, in seconds after the start."""

    at: float
    what: str
    how: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Follow:
    """How the money is followed, and who is told.

    Args:
        webhooks: How webhooks go wrong, as rules of the simulator; `None`, if none are sent.
        poll_seconds: How often Stripe is asked, while something is on its way.
        kinds: Which messages the order system wants.
        moods: How often the order system fails in which way, until trouble ends.
        later: What happens when all has come to rest; `at` counts from then, and so for each from the one before.
    """

    webhooks: tuple[dict[str, Any], ...] | None = ()
    poll_seconds: float = 60.0
    kinds: str = "order.refunded_changed"
    moods: dict[str, float] = field(default_factory=dict)
    later: tuple[Happening, ...] = ()


@dataclass(slots=True)
class Scenario:
    """All that a seed picks."""

    seed: int
    charges: list[ShopCharge] = field(default_factory=list)
    files: list[list[FileRow]] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    limits: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    # Settings of paying that are not the simulation's usual ones.
    pay: dict[str, Any] = field(default_factory=dict)
    latency_ms: int = 0
    traits: set[str] = field(default_factory=set)
    calm_at: float = 0.0
    # How many rows are planned together; of a file, others are paid meanwhile.
    slice_rows: int = SLICE
    follow: Follow | None = None


TRAITS = (
    "before", "after", "stored", "late", "limited", "locks", "refused_key", "slow", "stale", "crashes", "stops", "side_by_side",
    "second_installation", "rerun", "deleted", "jumps", "by_hand", "disputes", "poor", "steered", "pends", "fails", "paced",
    "busy_charge", "desk",
)  # fmt: skip


def drawn(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    chance = Random(f"scenario/{seed}")  # noqa: S311  # no secret
    scenario = Scenario(seed)
    share = chance.choice((0.0, 0.15, 0.3, 0.5))
    scenario.traits = {trait for trait in TRAITS if chance.random() < share}
    _shop(chance, scenario)
    scenario.files.append(_file(chance, scenario))
    _world(chance, scenario)
    _work(chance, scenario)
    _troubles(chance, scenario)
    _processes(chance, scenario)
    _others(chance, scenario)
    _reruns(chance, scenario)
    _followed(scenario)
    _tight(scenario)
    _doubted(scenario)
    _sliced(scenario)
    _unknown(scenario)
    scenario.happenings.sort(key=lambda happening: happening.at)
    return scenario


def _shop(chance: Random, scenario: Scenario) -> None:
    for number in range(chance.randint(2, 6)):
        currency = chance.choice(list(UNITS)) if chance.random() < 0.4 else "gbp"
        amount = chance.randint(5, 200) * 100
        cards = ["visa"]
        if "pends" in scenario.traits:
            cards += ["pendingRefund", "sepa_debit", "konbini"]
        if "fails" in scenario.traits:
            cards += ["refundFail"]
        card = chance.choice(cards)
        scenario.charges.append(ShopCharge(f"order-{number}", amount, currency, chance.random() > 0.06, card))


def _file(chance: Random, scenario: Scenario) -> list[FileRow]:
    rows: list[FileRow] = []
    for number, charge in enumerate(scenario.charges):
        for part in range(chance.choice((1, 1, 1, 2, 3))):
            unit = UNITS[charge.currency]
            share = chance.choice((0.2, 0.4, 0.6, 1.0, 1.1))
            amount = None if chance.random() < 0.25 else max(int(charge.amount * share) // unit, 1) * unit
            by = chance.choice(("charge_id", "payment_intent", "order_id", "order_id"))
            named = chance.random()
            ticket = f"T-{number}-{part}" if named < 0.75 else ""
            key = f"K-{number}-{part}" if named > 0.92 else ""
            rows.append(FileRow(number, by, amount, ticket, key))
    extra = list(rows)
    for row in extra:
        lot = chance.random()
        if lot < 0.06:
            rows.append(row)
        elif lot < 0.10:
            rows.append(FileRow(row.charge, row.by, 100, row.ticket, row.key))
    if chance.random() < 0.3:
        rows.append(FileRow(None, chance.choice(("charge_id", "payment_intent", "order_id")), 500, "T-nobody"))
    chance.shuffle(rows)
    return rows


def _world(chance: Random, scenario: Scenario) -> None:
    traits = scenario.traits
    if "paced" in traits:
        scenario.limits = chance.choice(("sandbox", "live", "global=10,endpoint=5"))
    if "slow" in traits:
        scenario.latency_ms = chance.choice((300, 2_000, 20_000))
    scenario.settings = {"conflict_as_idempotency_error": False, "lock_wait": chance.choice((0.0, 2.0))}
    if "poor" in traits:
        scenario.settings["overdraft"] = chance.choice((0, 2_000))


def _work(chance: Random, scenario: Scenario) -> None:
    # Some refunds were made by hand before the file came.
    if "by_hand" in scenario.traits:
        for number in _some(chance, len(scenario.charges), 0.3):
            scenario.happenings.append(
                Happening(0.0, "hand", {"charge": number, "share": chance.choice((0.2, 0.4, 1.0))})
            )
    scenario.happenings.append(Happening(0.1, "start", {"installation": 0}))
    scenario.happenings.append(Happening(0.2, "accept", {"installation": 0, "file": 0}))
    if "desk" in scenario.traits:
        row = chance.choice(scenario.files[0])
        scenario.happenings.append(Happening(chance.uniform(0.1, 4.0), "desk", {"installation": 0, "row": row}))


def _some(chance: Random, count: int, share: float) -> list[int]:
    return [number for number in range(count) if chance.random() < share]


RULES: dict[str, list[dict[str, Any]]] = {
    "before": [{"kind": "drop_before"}, {"kind": "reset_before"}, {"kind": "error_before"}],
    "after": [{"kind": "drop_after"}, {"kind": "reset_after"}, {"kind": "truncate"}],
    "stored": [{"kind": "error_stored"}, {"kind": "error_after"}],
    "late": [{"kind": "error_later"}],
    "limited": [
        {"kind": "rate_limit", "reason": "endpoint-rate"},
        {"kind": "rate_limit", "reason": "global-concurrency"},
    ],
    "locks": [{"kind": "lock_timeout"}, {"kind": "conflict"}],
}


def _troubles(chance: Random, scenario: Scenario) -> None:
    rules: list[dict[str, Any]] = []
    for trait, kinds in RULES.items():
        if trait not in scenario.traits:
            continue
        for kind in chance.sample(kinds, chance.randint(1, len(kinds))):
            operation = SEND if trait in {"stored", "late"} or chance.random() < 0.6 else "*"
            rule = kind | {"operation": operation, "probability": chance.choice((0.05, 0.1, 0.3, 0.6))}
            if trait == "stored":
                rule["status"] = chance.choice((500, 502, 503))
            if trait == "late":
                stale = STALE_MAX if "stale" in scenario.traits else 0.0
                most = LATE_MAX - stale - 1
                rule["delay_seconds"] = chance.choice((2.0, chance.uniform(5, ABSENCE_WAIT - stale), most))
            rules.append(rule)
    if "stale" in scenario.traits:
        rules.append(
            {
                "kind": "stale_read",
                "probability": chance.choice((0.2, 0.7)),
                "bound_seconds": chance.choice((2, STALE_MAX)),
            }
        )
    if scenario.latency_ms:
        rules.append({"kind": "latency", "low": 0, "high": scenario.latency_ms})
    end = chance.choice((20.0, 120.0, 1_500.0))
    if rules:
        scenario.happenings.append(Happening(0.05, "faults", {"rules": rules}))
        scenario.happenings.append(Happening(end, "faults", {"rules": []}))
    if "refused_key" in scenario.traits:
        at = chance.choice((0.3, 1.0, 3.0, 10.0))
        refusal = chance.choice(("unauthorized", "forbidden"))
        operation = chance.choice(("*", SEND))
        scenario.happenings.append(
            Happening(at, "faults", {"rules": [*rules, {"kind": refusal, "operation": operation}]})
        )
        scenario.happenings.append(Happening(at + chance.choice((5.0, 100.0)), "faults", {"rules": rules}))
        scenario.happenings.append(Happening(end + 200, "faults", {"rules": []}))
        end += 200
    scenario.calm_at = max(scenario.calm_at, end)


def _processes(chance: Random, scenario: Scenario) -> None:
    traits, add = scenario.traits, scenario.happenings.append
    if "crashes" in traits:
        for _ in range(chance.randint(1, 4)):
            again = chance.choice((0.5, 5.0, 30.0))
            step = int(2 ** chance.uniform(0, 9))
            add(
                Happening(
                    chance.choice((0.15, 1.0, 3.0, 20.0)), "crash", {"installation": 0, "step": step, "again": again}
                )
            )
    if "stops" in traits:
        for _ in range(chance.randint(1, 2)):
            seconds = chance.choice((5.0, 15.0, 30.0, 70.0, 200.0))
            step = int(2 ** chance.uniform(0, 9))
            add(
                Happening(
                    chance.choice((0.15, 1.0, 3.0)), "stop", {"installation": 0, "step": step, "seconds": seconds}
                )
            )
    if "side_by_side" in traits:
        add(Happening(chance.choice((0.1, 0.5, 2.0)), "start", {"installation": 0}))
    if "jumps" in traits:
        for _ in range(chance.randint(1, 2)):
            at = chance.choice((chance.uniform(0.2, 5.0), chance.uniform(1, 800)))
            seconds = chance.choice((25 * HOUR, -25 * HOUR, HOUR, -HOUR, 400.0, -30.0))
            add(Happening(at, "jump", {"installation": 0, "seconds": seconds}))


def _others(chance: Random, scenario: Scenario) -> None:
    traits, add = scenario.traits, scenario.happenings.append
    charges = range(len(scenario.charges))
    if "by_hand" in traits:
        for number in _some(chance, len(charges), 0.4):
            add(
                Happening(
                    chance.uniform(0.2, 6.0), "hand", {"charge": number, "share": chance.choice((0.1, 0.3, 0.6, 1.0))}
                )
            )
    if "busy_charge" in traits:
        add(Happening(chance.choice((30.0, 700.0)), "busy", {"charge": chance.choice(charges), "count": 12}))
    if "disputes" in traits:
        for number in _some(chance, len(charges), 0.3):
            add(Happening(chance.uniform(0.0, 4.0), "dispute", {"charge": number, "inquiry": chance.random() < 0.3}))
    if "poor" in traits:
        for currency in sorted({charge.currency for charge in scenario.charges}):
            add(
                Happening(
                    chance.choice((0.05, 0.8)),
                    "balance",
                    {"currency": currency, "available": chance.choice((0, 3_000))},
                )
            )
            at = chance.choice((5.0, 300.0, 2_000.0))
            add(Happening(at, "balance", {"currency": currency, "available": 90_000_000}))
            scenario.calm_at = max(scenario.calm_at, at)
    if "steered" in traits:
        at = chance.uniform(0.3, 5.0)
        add(Happening(at, "pause", {"installation": 0, "file": 0}))
        add(Happening(at + chance.choice((0.2, 3.0, 100.0)), "resume", {"installation": 0, "file": 0}))
        if chance.random() < 0.25:
            add(Happening(chance.uniform(0.3, 8.0), "withdraw", {"installation": 0, "file": 0}))
    if "fails" in traits:
        for _ in range(chance.randint(1, 3)):
            add(Happening(chance.uniform(1.0, 900.0), "refund_fails", {"number": chance.randint(0, 5)}))
    if "pends" in traits:
        add(Happening(chance.uniform(1.0, 900.0), "refund_settles", {"number": chance.randint(0, 5)}))


def _edited(chance: Random, rows: list[FileRow]) -> list[FileRow]:
    rows = list(rows)
    chance.shuffle(rows)
    at = chance.randrange(len(rows))
    row = rows[at]
    rows[at] = FileRow(row.charge, row.by, row.amount, row.ticket, row.key, note="edited")
    return rows


def _reruns(chance: Random, scenario: Scenario) -> None:
    traits, add = scenario.traits, scenario.happenings.append
    if "second_installation" in traits:
        at = chance.choice((0.1, 1.0, 4.0, 60.0))
        add(Happening(at, "start", {"installation": 1}))
        scenario.files.append(_edited(chance, scenario.files[0]) if chance.random() < 0.6 else list(scenario.files[0]))
        add(Happening(at + 0.1, "accept", {"installation": 1, "file": len(scenario.files) - 1}))
        if "crashes" in traits:
            add(Happening(at, "crash", {"installation": 1, "step": int(2 ** chance.uniform(0, 8)), "again": 3.0}))
    if traits & {"rerun", "deleted"}:
        scenario.files.append(_edited(chance, scenario.files[0]))
        at = chance.choice((4.0, 60.0, scenario.calm_at + 2_000.0, scenario.calm_at + 26 * HOUR))
        if "deleted" in traits:
            add(Happening(at, "delete", {"installation": 0}))
            at += 1.0
        add(Happening(at, "accept", {"installation": 0, "file": len(scenario.files) - 1}))
        scenario.calm_at = max(scenario.calm_at, at)


# Following costs about as much as all the rest, so that only some seeds do it.
FOLLOWED = 0.15
MOODS = ("error", "busy", "silent", "late", "dies_before", "dies_after")
DAY = 24 * HOUR


def _followed(scenario: Scenario) -> None:
    """Draw how the money is followed, from chances of its own: what else a seed picks does not depend on it."""
    chance = Random(f"follow/{scenario.seed}")  # noqa: S311  # no secret
    if chance.random() >= FOLLOWED:
        return
    rules = None if chance.random() < 0.2 else _webhooks(chance)
    kinds = chance.choice(
        ("all", "refund_request.settled,refund_request.failed,order.refunded_changed", "order.refunded_changed")
    )
    share = chance.choice((0.0, 0.1, 0.4))
    moods = {mood: share * chance.random() for mood in MOODS if chance.random() < 0.5}
    later = tuple(_later(chance, scenario) for _ in range(chance.randint(0, 3)))
    scenario.follow = Follow(rules, chance.choice((60.0, 300.0, 3_600.0)), kinds, moods, later)
    scenario.traits.add("followed" if rules is not None else "polled")
    _meanwhile(chance, scenario)


def _webhooks(chance: Random) -> tuple[dict[str, Any], ...]:
    share = chance.choice((0.0, 0.4, 0.8))
    rules: list[dict[str, Any]] = [
        {"kind": "lost", "probability": 0.3},
        {"kind": "twice", "probability": chance.choice((0.1, 0.5))},
        {"kind": "twin", "probability": chance.choice((0.1, 0.5))},
        {"kind": "out_of_order", "probability": chance.choice((0.2, 0.5)), "delay_seconds": chance.choice((1, 20))},
        {"kind": "late", "probability": chance.choice((0.1, 0.5)), "low": 0, "high": chance.choice((3, 60, 4_000))},
    ]
    return tuple(rule for rule in rules if chance.random() < share)


def _meanwhile(chance: Random, scenario: Scenario) -> None:
    """Let others act while requests wait, and refunds fail or settle."""
    add, charges = scenario.happenings.append, range(len(scenario.charges))
    for number in _some(chance, len(charges), chance.choice((0.0, 0.2))):
        how = {"charge": number, "share": chance.choice((0.1, 0.3, 1.0))}
        scenario.traits.add("by_hand")
        add(Happening(chance.uniform(0.2, 20.0), "hand", how))
    for number in _some(chance, len(charges), chance.choice((0.0, 0.2))):
        at = chance.uniform(0.0, 4.0)
        scenario.traits.add("disputes")
        add(Happening(at, "dispute", {"charge": number, "inquiry": chance.random() < 0.4}))
        if chance.random() < 0.7:
            add(Happening(at + chance.uniform(1.0, 300.0), "dispute_ends", _verdict(chance)))
    for _ in range(chance.choice((0, 0, 1, 2))):
        scenario.traits.add("fails")
        add(Happening(chance.uniform(1.0, 300.0), "refund_fails", {"number": chance.randint(0, 5)}))


def _verdict(chance: Random) -> dict[str, Any]:
    return {"number": chance.randint(0, 5), "wins": chance.random() < 0.6}


def _later(chance: Random, scenario: Scenario) -> Happening:
    """Draw what happens days later: above all refunds that had succeeded fail."""
    at, charge = chance.uniform(0.0, 3 * DAY), chance.randrange(len(scenario.charges))
    what = chance.choice(("refund_fails", "refund_fails", "refund_settles", "hand", "dispute", "dispute_ends"))
    match what:
        case "hand":
            how: dict[str, Any] = {"charge": charge, "share": chance.choice((0.1, 1.0))}
        case "dispute":
            how = {"charge": charge, "inquiry": chance.random() < 0.4}
        case "dispute_ends":
            how = _verdict(chance)
        case _:
            how = {"number": chance.randint(0, 5)}
    return Happening(at, what, how)


# What waits for its turn costs a sweep for each second of it, so that only some seeds do it.
TIGHT = 0.2
# How often what happens in such a wait, and what it draws.
IN_A_WAIT = {
    "hand": 3, "same_by_hand": 3, "take_back": 3, "want_again": 1, "pause": 4, "withdraw": 0.4, "dispute": 1, "desk": 2, "crash": 2,
    "stop": 3, "start": 1, "end": 2, "schedule": 1.5,
}  # fmt: skip

# Nothing of these is more than a batch may ever send, in any currency.
SCHEDULES = (
    Schedule(spread_seconds=60.0), Schedule(canary=(1, 2), halt_hundredths=10_000), Schedule(max_per_day="30000.00"), Schedule(),
)  # fmt: skip


def _tight(scenario: Scenario) -> None:
    """Draw a pace so low that rows wait for it, and what happens meanwhile; from chances of its own, as what is followed is."""
    chance = Random(f"tight/{scenario.seed}")  # noqa: S311  # no secret
    if chance.random() >= TIGHT:
        return
    scenario.traits.add("tight")
    rate = chance.choice((0.05, 0.1, 0.2, 0.5, 1.0))
    scenario.limits = f"{SEND}={rate}"
    if chance.random() < 0.2:
        scenario.limits += ",GET /v1/charges/{charge}=0.5"
    # Looks that are soon too old are made again after each wait.
    scenario.pay["look_max_age"] = chance.choice((600.0, 600.0, 5.0, 30.0))
    span = min(len(scenario.files[0]) / rate, 300.0)
    waits = [(1.0, 1.0 + span)]
    if chance.random() < 0.5 and not any(happening.what == "faults" for happening in scenario.happenings):
        # Some attempts come to nothing, which nobody knows for long. Who is away meanwhile looks for all of them at once when it is back,
        # and a minute later once more: then the next attempts wait for their slots side by side.
        rule = {"kind": chance.choice(("error_stored", "error_stored", "drop_before")), "operation": SEND}
        scenario.happenings.append(Happening(0.05, "faults", {"rules": [rule | {"times": chance.randint(2, 8)}]}))
        away, back = 5.0 + 1.3 * span, 5.0 + 1.3 * span + ABSENCE_WAIT + 40.0
        scenario.happenings.append(Happening(away, "crash", {"installation": 0, "step": 1, "again": back - away}))
        proven = back + ABSENCE_GAP
        waits += [(proven, proven + 5.0 + span / 2)] * 2
    if scenario.follow is None and "stale" not in scenario.traits and chance.random() < 0.3:
        # What others do is heard of in the wait, not only looked for after it.
        scenario.follow = Follow(kinds="all")
        scenario.traits.add("followed")
    for _ in range(chance.randint(2, 9)):
        _in_a_wait(chance, scenario, chance.uniform(*chance.choice(waits)))
    scenario.calm_at = max(scenario.calm_at, waits[-1][1])


def _in_a_wait(chance: Random, scenario: Scenario, at: float) -> None:
    charge, number, step = chance.randrange(len(scenario.charges)), chance.randint(0, 20), chance.randint(1, 12)
    ours: dict[str, Any] = {"installation": 0}
    what = chance.choices(list(IN_A_WAIT), list(IN_A_WAIT.values()))[0]
    if what == "schedule" and scenario.traits & {"poor", "jumps"}:
        # Its turns would be taken for as long as money is short or clocks disagree, which is up to a day.
        what = "pause"
    how: dict[str, Any] = ours
    match what:
        case "hand":
            scenario.traits.add("by_hand")
            how = {"charge": charge, "share": chance.choice((0.1, 0.5, 1.0))}
        case "same_by_hand":
            scenario.traits.add("by_hand")
            how = ours | {"number": number}
        case "take_back" | "want_again":
            how = ours | {"number": number}
        case "pause":
            how = ours | {"file": 0}
            for _ in range(chance.choice((1, 1, 2))):
                scenario.happenings.append(Happening(at, what, how))
                at += chance.choice((0.0, 0.05, 1.0, 25.0))
                scenario.happenings.append(Happening(at, "resume", how))
                at += chance.choice((0.0, 0.05, 1.0))
            return
        case "withdraw":
            how = ours | {"file": 0}
        case "dispute":
            scenario.traits.add("disputes")
            how = {"charge": charge, "inquiry": chance.random() < 0.4}
            scenario.happenings.append(Happening(at + chance.uniform(1.0, 60.0), "dispute_ends", _verdict(chance)))
        case "desk":
            row = chance.choice(scenario.files[0])
            other = FileRow(charge, "charge_id", chance.choice((100, scenario.charges[charge].amount)), f"D-{number}")
            how = ours | {"row": chance.choice((row, other))}
        case "crash":
            how = ours | {"step": step, "again": chance.choice((0.5, 5.0, 30.0))}
        case "stop":
            how = ours | {"step": step, "seconds": chance.choice((5.0, 15.0, 25.0, 70.0))}
        case "end":
            how = ours | {"again": chance.choice((0.5, 5.0))}
        case "schedule":
            how = ours | {"file": 0, "schedule": chance.choice(SCHEDULES)}
    scenario.happenings.append(Happening(at, what, how))


# Each waits until it is proven that attempts came to nothing.
DOUBTED = 0.1


def _doubted(scenario: Scenario) -> None:
    """Draw attempts that come to nothing, and a pause, or the end of the hours, before that is proven; from chances of its own too."""
    chance = Random(f"doubt/{scenario.seed}")  # noqa: S311  # no secret
    faulty = any(happening.what == "faults" for happening in scenario.happenings)
    if chance.random() >= DOUBTED or faulty or scenario.traits & {"tight", "jumps"}:
        return
    scenario.traits.add("doubted")
    ours, proven, add = {"installation": 0, "file": 0}, ABSENCE_WAIT + ABSENCE_GAP, scenario.happenings.append
    rule = {"kind": "error_stored", "operation": SEND, "times": chance.randint(1, 4)}
    add(Happening(0.05, "faults", {"rules": [rule]}))
    if chance.random() < 0.5:
        at = chance.uniform(2.0, proven)
        add(Happening(at, "pause", ours))
        add(Happening(at + chance.choice((1.0, 200.0, 800.0)), chance.choice(("resume", "resume", "withdraw")), ours))
    else:
        # The hours of today, which are over soon; calm ends them.
        begins = int(START % DAY)
        hours = Window(begins - 600, begins + chance.randint(2, int(proven)), "UTC")
        most = chance.choice((None, "30000.00"))
        add(
            Happening(
                chance.choice((0.2, 1.5)), "schedule", ours | {"schedule": Schedule(window=hours, max_per_day=most)}
            )
        )
    scenario.calm_at = max(scenario.calm_at, proven + 1_000.0)


# By this name none of the seeds that are kept for a bug is sliced: they show it in the steps in which it was found.
SLICED, SLICES = 0.25, "slices 316"


def _sliced(scenario: Scenario) -> None:
    """Draw whether a file is planned in slices, while its first rows are paid; from chances of its own as well."""
    chance = Random(f"{SLICES}/{scenario.seed}")  # noqa: S311  # no secret
    if chance.random() < SLICED:
        scenario.traits.add("sliced")
        scenario.slice_rows = chance.choice((1, 3))


# What people say of unknown outcomes takes days. By this name none of the seeds that are kept for another bug has them, as with slices.
UNKNOWN, UNKNOWNS = 0.12, "unknown 1"
WORDS = {"says_not_paid": 5, "names_true": 2, "names_wrong": 3, "asks_again": 3, "retry": 1}
# Who says that it was not paid, one after the other or both in one moment.
WHO: tuple[tuple[str, ...], ...] = (("ada",), ("ben",), ("ada", "ada"), ("ada", "ben"), ("ada", "ben"))
# What was sent is out of doubt by then, and Stripe has forgotten its key; before it a refund of it may still turn up.
SAYABLE, TURNS_UP = 25 * HOUR, 20 * HOUR


def _unknown(scenario: Scenario) -> None:
    """Draw keys of ours that another program has used, so that nobody knows what became of what is sent under them, and people who say it."""
    chance = Random(f"{UNKNOWNS}/{scenario.seed}")  # noqa: S311  # no secret
    rows = [row for row in scenario.files[0] if row.charge is not None]
    # With these, each second of the days that follow would cost a turn.
    if chance.random() >= UNKNOWN or scenario.traits & {"tight", "doubted"} or not rows:
        return
    scenario.traits.add("unknown")
    add, ours = scenario.happenings.append, {"installation": 0}
    for row in chance.sample(rows, min(chance.randint(2, 6), len(rows))):
        add(Happening(0.05, "key_used", {"row": row, "attempt": 1}))
        if (marked := chance.choice((None, None, False, True))) is not None:
            at = chance.choice((60.0, chance.uniform(60.0, TURNS_UP)))
            add(Happening(at, "turns_up", ours | {"row": row, "marked": marked}))
    for _ in range(chance.randint(4, 10)):
        soon, early = chance.uniform(10.0, 900.0), chance.uniform(900.0, SAYABLE)
        late = SAYABLE + chance.uniform(600.0, 30 * HOUR)
        at, what = chance.choice((soon, early, late, late, late)), chance.choices(list(WORDS), list(WORDS.values()))[0]
        how: dict[str, Any] = ours | {"number": chance.randint(0, 20)}
        match what:
            case "says_not_paid":
                how |= {"who": chance.choice(WHO), "together": chance.random() < 0.3}
            case "names_wrong":
                how |= {"which": chance.randint(0, 20)}
            case "asks_again":
                how |= {"key_used": chance.random() < 0.2}
            case "retry":
                how = ours | {"file": 0}
        add(Happening(at, what, how))
        scenario.calm_at = max(scenario.calm_at, at)
