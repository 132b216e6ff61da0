"""Fault runs: real processes pay a file while Stripe, or somebody at the merchant's, makes trouble; the simulator's books judge.

A case is data: runs of the file one after the other, each with the faults it meets. After every run two judges are asked.
*The books*: nothing was paid double, beyond its charge or without being asked for, and in the end everything that could be paid is.
*The report*: what it tells of each row is what the simulator has, every refund there is told by a row, and the counts are its rows'.
"""

from __future__ import annotations

import contextlib
import csv
import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import crash_run
from tests.support.command import inside
from tests.support.crash_run import HOUR, House, Shop
from tests.support.database import PostgresServer
from tests.support.forked import Process

SEND = "POST /v1/refunds"
DONE, PARTLY = 0, 3
# What a row's state means at Stripe. A refund that came back may have been canceled or have failed.
AT_STRIPE = {
    "settled": {"succeeded"},
    "pending": {"pending"},
    "requires_action": {"requires_action"},
    "failed": {"failed"},
    "canceled": {"canceled"},
}
OUTCOMES = {
    "settled": "paid",
    "pending": "paid",
    "requires_action": "waiting",
    "failed": "failed",
    "canceled": "failed",
}
# Where a fifth of all calls is turned away, whatever the pace, it settles at five to ten rows a second.
ROW_SECONDS = 0.25
# In these states nobody knows, and the report must not say that it does.
IN_DOUBT = {"submitting", "outcome_unknown"}
OVER = {"failed", "canceled"}
# A little of the waiting that a network adds, so that calls overtake each other.
LATENCY = {"kind": "latency", "operation": "*", "low": 2, "high": 30}
Rule = dict[str, Any]


@dataclass
class Scene:
    """A case under way.

    Args:
        shop: Stripe, and the file.
        server: Where further databases are made; `None` for SQLite.
        houses: The installations that pay; the last run's.
        owed: What has to be paid in the end, by ticket.
        barred: The tickets that must not be paid, with the codes that their rows may end with.
        by_hand: The refunds that others made.
        charges: Ids by order.
    """

    shop: Shop
    server: PostgresServer | None
    stack: contextlib.ExitStack
    settings: Mapping[str, str]
    houses: list[House] = field(default_factory=list)
    owed: dict[str, dict[str, Any]] = field(default_factory=dict)
    barred: dict[str, tuple[str, ...]] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)
    hand_obligations: list[dict[str, Any]] = field(default_factory=list)
    charges: dict[str, str] = field(default_factory=dict)
    moved: float = 0.0

    def open_house(self) -> House:
        """Open an installation with an empty database; the same is left of one whose database was deleted."""
        address = None if self.server is None else self.stack.enter_context(self.server.made())
        made = self.stack.enter_context(
            crash_run.house(self.shop, postgres=address, jumping=True, settings=dict(self.settings))
        )
        self.houses.append(made)
        self._tell_time(made)
        return made

    def _tell_time(self, house: House) -> None:
        assert house.clock_file is not None
        house.clock_file.write_text(f"{self.moved} {self.moved}")

    def later(self, seconds: float) -> None:
        """Let time pass for everybody: our machines, the database, and Stripe. Only while no process of ours runs."""
        self.moved += seconds
        self.shop.server.move(seconds)
        for house in self.houses:
            self._tell_time(house)

    def add(self, rows: list[tuple[str, str, int | str]], charges: list[dict[str, Any]]) -> None:
        """Load further charges, and write further rows: ticket, order, amount or `full`."""
        server = self.shop.server
        server.control("POST /_sim/load", {"charges": charges})
        asked = {charge["order_id"] for charge in charges}
        for charge in _charges(self.shop):
            if charge["metadata"].get("order_id") in asked:
                self.charges[charge["metadata"]["order_id"]] = charge["id"]
        with self.shop.file.open("a", newline="") as opened:
            csv.writer(opened).writerows([ticket, order, amount, "gbp"] for ticket, order, amount in rows)
        for ticket, order, amount in rows:
            if isinstance(amount, int):
                self.owe(ticket, order, amount)

    def owe(self, ticket: str, order: str, amount: int) -> None:
        """Note what a row has to be paid in the end."""
        self.owed[ticket] = {"charge": order, "amount": amount, "ticket": ticket, "name": ticket}

    def bar(self, ticket: str, *codes: str) -> None:
        """Note that a row must not be paid, and with which code it has to end; one of several, where it depends on how far it has come."""
        self.owed.pop(ticket, None)
        self.barred[ticket] = codes

    def refund_by_hand(self, order: str, amount: int, **metadata: str) -> None:
        """Refund in Stripe's Dashboard."""
        body = {"charge": self.charges[order], "amount": amount, **({"metadata": metadata} if metadata else {})}
        self.by_hand.add(self.shop.server.control("POST /_sim/refunds", body)["id"])
        about = {"ticket": metadata["ticket_id"]} if metadata else {}
        self.hand_obligations.append({"charge": order, "amount": amount, "name": f"{order} by hand", **about})


Step = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Run:
    """The file, run once, by one process or several at once.

    Args:
        rules: The faults it meets, as the simulator takes them; `times` and `skip` are shares of the rows.
        before: What happens before it.
        meanwhile: What others do after its first send was turned away; the faults are over then.
        code: The exit code that each process has to end with.
        copies: How many processes work on each installation's database at once.
        patience: `--patience`, in seconds: rows in doubt for longer are left for the next run.
        says: What stderr has to say, once and not for every row.
        flags: More of the command line, from the scene.
        check: What the counts and the rows have to be, besides true.
    """

    rules: tuple[Rule, ...] = ()
    before: tuple[Step, ...] = ()
    meanwhile: Step | None = None
    code: int = DONE
    copies: tuple[int, ...] = (1,)
    patience: float = 60.0
    says: str = ""
    flags: Callable[[Scene], list[str]] = lambda _: []
    check: Callable[[Scene, dict[str, Any], dict[str, dict[str, Any]]], None] = lambda *_: None


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of trouble.

    Args:
        name: Short.
        what: In words.
        runs: In order. After the last one everything is paid that can be.
        prepare: Adds rows and charges to the plain ones.
        houses: How many installations run the file at the same time.
        settings: Of all processes, besides the usual.
        both: Whether the small form is run on both databases, being the most dangerous.
    """

    name: str
    what: str
    runs: tuple[Run, ...]
    prepare: Callable[[Scene, int], None] = lambda *_: None
    houses: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    both: bool = False


def play(case: Case, folder: Path, rows: int, *, seed: int, server: PostgresServer | None) -> None:
    """Run a case, and have it judged after each run.

    Args:
        case: What is tried.
        folder: For the shop's files.
        rows: How many plain rows; a case adds some.
        seed: Of amounts and faults.
        server: A Postgres server; `None` for SQLite.

    Raises:
        AssertionError: A judge has found something.
    """
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(crash_run.shop(folder, rows, seed=seed, faults=[]))
        # Proof of absence in seconds: the default is minutes, and what is tried here is its order, not its length.
        quick = {"REFUNDRY_PAY__ABSENCE_WAIT": "0", "REFUNDRY_PAY__ABSENCE_GAP": "1"}
        scene = Scene(shop, server, stack, quick | dict(case.settings))
        scene.owed = {one["name"]: one for one in shop.obligations}
        case.prepare(scene, rows)
        for _ in range(case.houses):
            scene.open_house()
        for number, run in enumerate(case.runs):
            _run(scene, run, rows, seed + number, last=number == len(case.runs) - 1)


def _run(scene: Scene, run: Run, rows: int, seed: int, *, last: bool) -> None:
    for step in run.before:
        step(scene)
    rules = [LATENCY, *(sized(rule, rows) for rule in run.rules)]
    scene.shop.server.control("POST /_sim/faults", {"seed": seed, "rules": rules})
    flags = ["--patience", str(run.patience), *run.flags(scene)]
    running = [
        (house, [house.run(*flags) for _ in range(copies)])
        for house, copies in zip(scene.houses, run.copies, strict=True)
    ]
    if run.meanwhile is not None:
        started = [process for _, processes in running for process in processes]
        crash_run.wait_until("a send that is turned away", lambda: _turned_away(scene.shop) or _over(started))
        run.meanwhile(scene)
        scene.shop.server.control("DELETE /_sim/faults")
    patience = max(crash_run.DEADLINE_SECONDS, rows * ROW_SECONDS)
    told = [
        (house, [house.finish(process, run.code, patience) for process in processes]) for house, processes in running
    ]
    scene.shop.server.control("DELETE /_sim/faults")
    for house in scene.houses if run.says else []:
        said = max(house.folder.glob("*.log")).read_text().count(run.says)
        assert said == 1, f"{run.says} was said {said} times: {house.logs()}"
    audit = scene.shop.server.control(
        "POST /_sim/audit", {"obligations": [*scene.owed.values(), *scene.hand_obligations]}
    )
    for house, counts in told:
        report = report_of(house, counts[0]["batch_id"])
        for each in counts:
            judge_report(audit, report, each, scene.by_hand)
        by_ticket = {row["ticket"]: row for row in report}
        judge_rows(scene.owed, scene.barred if last else {}, by_ticket, audit, last=last)
        run.check(scene, counts[0], by_ticket)
    judge_books(audit, last=last)


def sized(rule: Rule, rows: int) -> Rule:
    """Turn shares of the rows into numbers of calls."""
    return rule | {name: max(int(rule[name] * rows), 1) for name in ("times", "skip") if name in rule}


def _turned_away(shop: Shop) -> bool:
    rules = shop.server.control("GET /_sim/faults")["rules"]
    return bool(sum(rule["hits"] for rule in rules if rule["kind"] != "latency"))


def _over(processes: list[Process]) -> bool:
    return all(process.poll() is not None for process in processes)


def report_of(house: House, batch: str) -> list[dict[str, Any]]:
    """Have the report of a batch written."""
    rows: list[dict[str, Any]] = asked(house, "batch", "report", batch)["rows"]
    return rows


def asked(house: House, *arguments: str, codes: tuple[int, ...] = (DONE,)) -> dict[str, Any]:
    """Ask for the `--json` of a command that only reads."""
    ended = inside(house.environment(), *arguments, "--json")
    assert ended.code in codes, ended.out + ended.err
    told: dict[str, Any] = json.loads(ended.out)
    return told


# The judges


def judge_books(audit: dict[str, Any], *, last: bool) -> None:
    """Hold Stripe's books against what was asked for.

    Args:
        audit: The simulator's, with all obligations.
        last: Whether everything has to be paid by now.

    Raises:
        AssertionError: Something was paid double, beyond its charge, or without being asked for; or, in the end, not at all.
    """
    blamed = ("problems", "paid_double", "never_asked", *(("not_paid",) if last else ()))
    told = {name: audit[name][:5] for name in blamed}
    assert not any(told.values()), json.dumps(told, indent=1)


def judge_rows(
    owed: Mapping[str, Any],
    barred: Mapping[str, tuple[str, ...]],
    rows: Mapping[str, dict[str, Any]],
    audit: dict[str, Any],
    *,
    last: bool,
) -> None:
    """Hold the report against what had to become of each row.

    Raises:
        AssertionError: A row is told as paid that Stripe has not paid, or, in the end, the other way round; or one that must not
            be paid is not told with its reason.
    """
    unpaid = {one["name"] for one in audit["not_paid"]}
    for ticket in owed:
        paid = rows[ticket]["outcome"] == "paid"
        assert not (paid and ticket in unpaid), f"told as paid, and Stripe has not paid it: {rows[ticket]}"
        assert paid or not last, f"could be paid, and is not: {rows[ticket]}"
    for ticket, codes in barred.items():
        row = rows[ticket]
        assert row["outcome"] != "paid", f"must not be paid: {row}"
        assert row["code"] in codes, f"should end as {codes}: {row}"


def judge_report(
    audit: dict[str, Any], report: list[dict[str, Any]], counts: dict[str, Any], by_hand: set[str]
) -> None:
    """Hold every row of a report against Stripe's refunds, every refund against the rows, and the counts against both.

    Args:
        audit: The simulator's.
        report: The rows of `batch report --json`.
        counts: The `--json` of the run.
        by_hand: Ids of the refunds that others made.

    Raises:
        AssertionError: A row, a refund or a count is not told as it is.
    """
    made = {
        refund["id"]: refund | {"charge": line["charge"]} for line in audit["charges"] for refund in line["refunds"]
    }
    ours = {id_: refund for id_, refund in made.items() if id_ not in by_hand}
    told: set[str] = set()
    for row in report:
        if row["state"] in AT_STRIPE:
            _judge_refund(row, ours.get(row["refund"]))
            assert row["refund"] not in told, f"two rows are told as paid by one refund: {row}"
            told.add(row["refund"])
        else:
            _judge_without(row)
    doubted = {row["request"] for row in report if row["state"] in IN_DOUBT}
    untold = [r for id_, r in ours.items() if id_ not in told and r["metadata"]["refundry_request_id"] not in doubted]
    untold = [refund for refund in untold if refund["status"] not in OVER]
    assert not untold, f"Stripe has refunds that no row tells of: {untold[:3]}"
    _judge_counts(report, counts)


def _judge_refund(row: dict[str, Any], refund: dict[str, Any] | None) -> None:
    """Hold a row that names a refund against that refund."""
    assert refund is not None, f"Stripe does not have the refund that is told: {row}"
    assert refund["status"] in AT_STRIPE[row["state"]], f"told as {row['state']}, at Stripe {refund['status']}: {row}"
    assert row["outcome"] == OUTCOMES[row["state"]], row
    same = (row["amount_minor"], row["charge"], row["ticket"], row["request"])
    metadata = refund["metadata"]
    assert same == (refund["amount"], refund["charge"], metadata.get("ticket_id"), metadata["refundry_request_id"]), (
        f"told otherwise than it is: {row} {refund}"
    )


def _judge_without(row: dict[str, Any]) -> None:
    """See that a row without a refund claims none, and says why."""
    assert row["refund"] is None, f"names a refund and is {row['state']}: {row}"
    assert row["outcome"] in {"refused", "waiting", "unknown"}, f"told as {row['outcome']} without a refund: {row}"
    assert row["code"], f"does not say why it is not paid: {row}"


def _judge_counts(report: list[dict[str, Any]], counts: dict[str, Any]) -> None:
    """Hold the counts of a run against the rows of its report."""
    outcomes = Counter(row["outcome"] for row in report)
    told = {name: counts[name] for name in ("paid", "refused", "failed", "unknown", "waiting")}
    assert told == {name: outcomes[name] for name in told}, f"counted as {told}, and the rows are {outcomes}"
    assert counts["rows"] == len(report) == sum(told.values())
    assert counts["pending"] == sum(row["state"] == "pending" for row in report)
    reasons = Counter(row["code"] for row in report if row["outcome"] != "paid")
    assert counts["reasons"] == reasons, f"counted as {counts['reasons']}, and the rows say {reasons}"
    paid = sum(row["amount_minor"] for row in report if row["outcome"] == "paid")
    asked = sum(row["amount_minor"] or 0 for row in report if row["state"] is not None)
    assert counts["amounts"] == {"gbp": {"requested": asked, "paid": paid}}


def _charges(shop: Shop) -> Iterator[dict[str, Any]]:
    """List the simulator's charges, the newest first."""
    after = ""
    while True:
        url = f"{shop.server.url}/v1/charges?limit=100{after}"
        asked = urllib.request.Request(url, headers={"Authorization": "Bearer sk_test_sim"})  # noqa: S310  # loopback
        with urllib.request.urlopen(asked) as answer:  # noqa: S310  # loopback
            page = json.load(answer)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = f"&starting_after={page['data'][-1]['id']}"


# The steps


def prune(scene: Scene) -> None:
    """Let Stripe forget every idempotency key."""
    assert scene.shop.server.control("POST /_sim/idempotency/prune", {})["pruned"] > 0


def a_day_later(scene: Scene) -> None:
    """Let 25 hours pass: nothing may be sent again under its key, which Stripe has forgotten."""
    scene.later(25 * HOUR)


def a_while_later(scene: Scene) -> None:
    """Let pass what a held row waits for: a sibling a minute, the balance a quarter of an hour."""
    scene.later(1000.0)


def lose_the_database(scene: Scene) -> None:
    """Begin with an empty database."""
    scene.houses.clear()
    scene.open_house()


def run_dry(scene: Scene, _: int) -> None:
    """Leave a balance that pays for half of the file; more is refused, since it may not be overdrawn."""
    scene.shop.server.control("POST /_sim/settings", {"overdraft": 0})
    half = sum(one["amount"] for one in scene.owed.values()) // 2
    scene.shop.server.control("POST /_sim/balance", {"currency": "gbp", "available": half})


def fill_the_balance(scene: Scene) -> None:
    """Put money on the balance."""
    scene.shop.server.control("POST /_sim/balance", {"currency": "gbp", "available": 10**12})


# Who else works at the merchant's

CAPTURED = 9000
KINDS = ("stays", "again", "ticket", "several", "all", "much", "less", "room", "dispute")


def _order(kind: str, at: int, **more: Any) -> dict[str, Any]:  # the simulator's columns
    created = 1_785_000_000 + at
    return {"order_id": f"{kind}{at}", "amount_minor": CAPTURED, "currency": "gbp", "created": created, **more}


def with_refunds_that_stay_pending(scene: Scene, rows: int) -> None:
    """Add rows whose refunds stay pending at Stripe until somebody ends that."""
    count = rows // 4
    scene.add(
        [(f"stays{at}", f"stays{at}", 2000 + at) for at in range(count)],
        [_order("stays", at, refund="stays") for at in range(count)],
    )


def are_pending(_: Scene, counts: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """See that they are told as pending, all of them and no other."""
    pending = {ticket for ticket, row in rows.items() if row["state"] == "pending"}
    assert pending == {ticket for ticket in rows if ticket.startswith("stays")}
    assert counts["pending"] == len(pending)


def _units(rows: int) -> range:
    """Tell how often each thing happens that people do: some twice in a small run, in a large one often."""
    return range(max(rows // 25, 2))


def with_people(scene: Scene, rows: int) -> None:
    """Add rows about whose charges others do something too, and do what comes before the first run."""
    asked: list[tuple[str, str, int | str]] = []
    charges = [_order(kind, at) for kind in KINDS[1:] for at in _units(rows)]
    for at in _units(rows):
        asked += [
            (f"again{at}", f"again{at}", 2000),
            (f"ticket{at}", f"ticket{at}", 1000),
            (f"several{at}a", f"several{at}", 3000),
            (f"several{at}b", f"several{at}", 2000),
            (f"several{at}c", f"several{at}", "full"),
            (f"several{at}d", f"several{at}", 3000),
            (f"all{at}", f"all{at}", 4000),
            (f"much{at}", f"much{at}", 6000),
            (f"less{at}", f"less{at}", "full"),
            (f"room{at}", f"room{at}", 3000),
            (f"dispute{at}", f"dispute{at}", 3000),
        ]
    scene.add(asked, charges)
    for at in _units(rows):
        # An earlier refund of the same amount may be the one that is asked for; one of the same ticket surely is.
        scene.refund_by_hand(f"again{at}", 2000)
        scene.refund_by_hand(f"ticket{at}", 2500, ticket_id=f"ticket{at}")
        scene.bar(f"ticket{at}", "possible_repeat")
        scene.owe(f"several{at}c", f"several{at}", CAPTURED - 3000 - 2000)
        scene.bar(f"several{at}d", "charge_already_refunded")
        if at:
            # Nobody says that it is no repeat.
            scene.bar(f"again{at}", "possible_repeat")


def between_look_and_pay(scene: Scene) -> None:
    """Refund by hand and open disputes, after our looks and before our sends."""
    for order, charge in list(scene.charges.items()):
        if order.startswith("all"):
            scene.refund_by_hand(order, CAPTURED)
            scene.bar(order, "charge_already_refunded")
        elif order.startswith("much"):
            scene.refund_by_hand(order, 5000)
            scene.bar(order, "amount_exceeds_refundable")
        elif order.startswith("less"):
            scene.refund_by_hand(order, 5000)
            scene.owe(order, order, CAPTURED - 5000)
        elif order.startswith("room"):
            scene.refund_by_hand(order, 1500)
        elif order.startswith("dispute"):
            scene.shop.server.control("POST /_sim/disputes", {"charge": charge, "reason": "fraudulent"})
            # Sent already, it is refused by Stripe; not decided yet, it waits until the dispute has ended.
            scene.bar(order, "charge_disputed", "dispute")


def allow_the_first(scene: Scene) -> list[str]:
    """Say of one row that it is no repeat."""
    with scene.shop.file.open(newline="") as opened:
        rows = [number for number, row in enumerate(csv.DictReader(opened), start=1) if row["ticket_id"] == "again0"]
    return ["--allow-repeat", str(rows[0])]


def are_held(_: Scene, __: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """See that what looks like a repeat waits for a person, and says so."""
    held = {
        ticket: (row["outcome"], row["code"]) for ticket, row in rows.items() if ticket.startswith(("again", "ticket"))
    }
    assert set(held.values()) == {("waiting", "possible_repeat")}, held


def are_dry(_: Scene, __: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """See that rows wait for the balance, and say so."""
    assert "low_balance" in {row["code"] for row in rows.values() if row["outcome"] == "waiting"}


def are_left(_: Scene, counts: dict[str, Any], __: dict[str, dict[str, Any]]) -> None:
    """See that the trouble came in the middle: something is paid, and something is not."""
    assert 0 < counts["paid"] < counts["rows"]
    assert counts["waiting"] == counts["rows"] - counts["paid"]


def lost(share: float, *, most: float = 0.7) -> tuple[Rule, ...]:
    """Lose answers before and after processing, each with a probability.

    Args:
        share: The probability.
        most: How many of each are lost at most, as a share of the rows: the last rows would wait out back-offs of minutes.
    """
    return (
        {"kind": "drop_before", "operation": SEND, "probability": share, "times": most},
        {"kind": "drop_after", "operation": SEND, "probability": share, "times": most},
    )


def limited(share: float) -> tuple[Rule, ...]:
    """Answer calls of all kinds with a 429, with a probability, by one limiter or the other."""
    return (
        {"kind": "rate_limit", "operation": "*", "probability": share / 2, "reason": "endpoint-rate"},
        {"kind": "rate_limit", "operation": "*", "probability": share / 2, "reason": "global-concurrency"},
    )


def always(kind: str, *, skip: float, operation: str = SEND) -> Rule:
    """Do it to every call after the first ones."""
    return {"kind": kind, "operation": operation, "skip": skip}


A_LITTLE = (
    *lost(0.10),
    {"kind": "reset_before", "operation": SEND, "probability": 0.05},
    {"kind": "reset_after", "operation": SEND, "probability": 0.05},
    {"kind": "truncate", "operation": SEND, "probability": 0.10},
    {"kind": "error_before", "operation": SEND, "probability": 0.02},
    {"kind": "conflict", "operation": SEND, "probability": 0.02},
    {"kind": "lock_timeout", "operation": SEND, "probability": 0.02},
    {"kind": "truncate", "operation": "GET *", "probability": 0.01},
    *limited(0.01),
)

CASES = (
    Case("lost_answers", "60 % of the answers lost before and after processing", (Run(lost(0.6)),), both=True),
    Case(
        "stored_errors",
        "stored 500s: without a refund, with one, and with one that appears later",
        (
            Run(
                (
                    {"kind": "error_stored", "operation": SEND, "probability": 0.25, "times": 0.25},
                    {"kind": "error_after", "operation": SEND, "probability": 0.25, "times": 0.25},
                    # After the first look that counts, and before the second.
                    {
                        "kind": "error_later",
                        "operation": SEND,
                        "probability": 0.35,
                        "times": 0.35,
                        "delay_seconds": 8.0,
                    },
                )
            ),
        ),
        settings={"REFUNDRY_PAY__ABSENCE_GAP": "6"},
        both=True,
    ),
    Case(
        "limited_and_pending",
        "20 % 429s, and refunds that stay pending over three runs",
        tuple(Run(limited(0.2), check=are_pending) for _ in range(3)),
        prepare=with_refunds_that_stay_pending,
        settings={"REFUNDRY_STRIPE__LIMITS": "global=2000,endpoint=1000"},
    ),
    Case(
        "copies",
        "two copies at once on one database and a third on another, while 10 % of the answers are lost, resets, truncated bodies, 1 % 429s",
        (Run(A_LITTLE, copies=(2, 1)),),
        houses=2,
    ),
    Case(
        "key_refused",
        "401 in the middle, 403 after lost answers, then the key is given back, and Stripe has forgotten what it was sent",
        (
            Run((always("unauthorized", skip=0.5), *lost(0.3)), code=PARTLY, says="[key_refused]", check=are_left),
            Run((always("forbidden", skip=0.3), *lost(0.6)), code=PARTLY, says="[key_refused]", check=are_left),
            Run(before=(prune,)),
        ),
    ),
    Case(
        "forgotten",
        "rows in doubt a day later, and then the database deleted and all idempotency keys pruned",
        (
            # In the end nothing gets through, so that however long the run, rows are left in doubt.
            Run((always("drop_before", skip=0.9), *lost(0.6)), code=PARTLY, patience=0, check=are_left),
            Run(
                (always("drop_before", skip=0.2), *lost(0.6)),
                before=(a_day_later,),
                code=PARTLY,
                patience=1.5,
                check=are_left,
            ),
            Run(before=(lose_the_database, prune)),
        ),
    ),
    Case(
        "people",
        "several tickets for one charge, refunds by hand before and between look and pay, a dispute opened while queued",
        (
            Run((always("rate_limit", skip=0),), meanwhile=between_look_and_pay, code=PARTLY, check=are_held),
            Run(before=(a_while_later,), code=PARTLY, flags=allow_the_first),
        ),
        prepare=with_people,
    ),
    Case(
        "low_balance",
        "a balance that runs dry while answers are lost, and is filled later",
        (
            # Patient enough for every row in doubt to learn that it was refused: Stripe keeps that answer, and gives it again later,
            # whatever is on the balance by then.
            Run(lost(0.1), code=PARTLY, check=are_dry),
            Run(lost(0.1), before=(fill_the_balance, a_while_later)),
        ),
        prepare=run_dry,
    ),
)
